"""Plain Python as an executor: the memory that Kernel Python text reads and writes when called.

`Machine` holds the cells of one `Layout`.  While a machine is current (``with machine:``), pointers,
fields and words of the language act on it.  One CPU runs at a time; the text of other agents (interrupt
handlers, grace periods) runs when the CPU waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from seqfault.kernel.layout import FREE, FREED, LIVE, Layout, Member, Pool
from seqfault.kernel.types import (
    ArrayType,
    KernelTypeError,
    PtrType,
    Size,
    Struct,
    resolve_size,
)


class KernelBug(Exception):
    """What the checker would report, met while running sequentially: `kind` and where."""

    def __init__(self, kind: str, message: str):
        super().__init__(f"{kind}: {message}")
        self.kind, self.message = kind, message


class WouldBlock(Exception):
    """The text waits for something that nobody can do any more."""


class PathEnd(Exception):
    """The CPU stops here for good (after a fatal error of the modelled kernel)."""


AGENT_CHOICES = 8  # how many alternatives of an agent's `choose` a sequential run tries

_stack: list[Machine] = []


def current() -> Machine:
    """The machine that text runs on.  Raises `RuntimeError` outside ``with machine:``."""
    if not _stack:
        raise RuntimeError("no machine is current; call Kernel Python inside `with machine:`")
    return _stack[-1]


def running() -> bool:
    return bool(_stack)


class Loaded(int):
    """An integer that remembers the cell it was loaded from, so that `WRITE_ONCE(p.f, v)` can be a call."""

    k_lv: tuple[Machine, int, Any]


class Ptr:
    """A pointer value: object `v` - 1 of struct `s`; 0 is NULL."""

    __slots__ = ("k_lv", "k_m", "k_s", "k_v")

    def __init__(self, m: Machine | None, s: Struct | None, v: int, lv: Any = None):
        object.__setattr__(self, "k_m", m)
        object.__setattr__(self, "k_s", s)
        object.__setattr__(self, "k_v", v)
        object.__setattr__(self, "k_lv", lv)

    def __bool__(self) -> bool:
        return self.k_v != 0

    def __eq__(self, o: object) -> bool:
        if isinstance(o, Ptr):
            return self.k_v == o.k_v
        return NotImplemented

    def __hash__(self) -> int:
        return hash((self.k_v, self.k_s.name if self.k_v and self.k_s else ""))

    def __repr__(self) -> str:
        return f"{self.k_s.name}[{self.k_v - 1}]" if self.k_v and self.k_s else "NULL"

    def _view(self) -> View:
        if self.k_v == 0:
            raise KernelBug("null-dereference", f"NULL {self.k_s.name if self.k_s else ''} pointer".strip())
        m: Machine = self.k_m  # type: ignore[assignment]
        pool = m.layout.pools[self.k_s.name]  # type: ignore[union-attr]
        start = pool.base + (self.k_v - 1) * pool.stride
        if pool.state == 0:
            st = m.cells[start]
            if st != LIVE and not (st == FREED and pool.typesafe):
                m.violate("use-after-free", f"{self!r} is {'freed' if st == FREED else 'not allocated'}")
            start += 1
        return View(m, self.k_s, start, self)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._view(), name, value)


NULL = Ptr(None, None, 0)


class View:
    """A struct in memory: one embedded in another, or an object seen through a pointer."""

    __slots__ = ("k_addr", "k_m", "k_owner", "k_s")

    def __init__(self, m: Machine, s: Struct, addr: int, owner: Any):
        object.__setattr__(self, "k_m", m)
        object.__setattr__(self, "k_s", s)
        object.__setattr__(self, "k_addr", addr)
        object.__setattr__(self, "k_owner", owner)

    def _member(self, name: str) -> Member:
        mem = self.k_m.layout.members(self.k_s).get(name)
        if mem is None:
            raise AttributeError(f"struct {self.k_s.name} has no field {name!r} in this program")
        return mem

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        mem = self._member(name)
        return self.k_m.load_typed(self.k_addr + mem.offset, mem.type, self.k_owner)

    def __setattr__(self, name: str, value: Any) -> None:
        mem = self._member(name)
        self.k_m.store(self.k_addr + mem.offset, value, mem.type)

    def __repr__(self) -> str:
        return f"{self.k_m.layout.cells[self.k_addr].name.rsplit('.', 1)[0]}"


class ArrayView:
    __slots__ = ("addr", "m", "n", "owner", "step", "t")

    def __init__(self, m: Machine, t: ArrayType, addr: int, owner: Any):
        self.m, self.t, self.addr, self.owner = m, t.elem, addr, owner
        self.n = resolve_size(t.length, m.layout.sizes)
        self.step = m.layout.type_cells(t.elem)

    def _at(self, i: int) -> int:
        i = int(i)
        if not 0 <= i < self.n:
            raise KernelBug("index-out-of-range", f"index {i} of an array of {self.n}")
        return self.addr + i * self.step

    def __getitem__(self, i: int) -> Any:
        return self.m.load_typed(self._at(i), self.t, self.owner)

    def __setitem__(self, i: int, v: Any) -> None:
        self.m.store(self._at(i), v, self.t)

    def __len__(self) -> int:
        return self.n


class Machine:
    """Memory and sequential execution.

    Parameters: `layout`; `binds`, place -> function of the protocol; `choices`, the results of
    `choose` in order (then 0); `strict`, whether a violation raises `KernelBug` (else it is kept in
    `violations`).  `agents`: functions of no arguments that other processors would run; they are
    tried whenever the CPU waits, and by `settle`.
    """

    def __init__(
        self,
        layout: Layout,
        binds: dict[Any, Callable[..., Any]] | None = None,
        choices: Sequence[int] = (),
        strict: bool = True,
    ):
        self.layout = layout
        self.binds = dict(binds or {})
        self.cells: list[int | None] = list(layout.start)
        self.strict = strict
        self.choices = list(choices)
        self.violations: list[tuple[str, str]] = []
        self.emitted: list[int] = []
        self.counters: Counter[str] = Counter()
        self.agents: list[tuple[int, int, Callable[[], Any]]] = []
        self.cpu = 0
        self.process = 0
        self.in_agent = False
        self.agent_choice = 0
        self.held: list[str] = []

    def __enter__(self) -> Machine:
        _stack.append(self)
        return self

    def __exit__(self, *exc: object) -> None:
        _stack.pop()

    # -- memory
    def load_typed(self, addr: int, t: Any, owner: Any = None) -> Any:
        if isinstance(t, Struct):
            return View(self, t, addr, owner)
        if isinstance(t, ArrayType):
            return ArrayView(self, t, addr, owner)
        v = self.cells[addr]
        if v is None:
            self.violate("uninitialised-read", self.layout.cells[addr].name)
            v = self.layout.cells[addr].lo
        if isinstance(t, PtrType):
            return Ptr(self, t.target, v, (self, addr, t))
        out = Loaded(v)
        out.k_lv = (self, addr, t)
        return out

    def store(self, addr: int, value: Any, t: Any) -> None:
        if isinstance(t, Struct | ArrayType):
            raise KernelTypeError("a whole struct or array cannot be assigned; assign its fields")
        v = value.k_v if isinstance(value, Ptr) else int(value)
        c = self.layout.cells[addr]
        if not c.lo <= v <= c.hi:
            raise KernelBug("range-overflow", f"{c.name} = {v}, outside {c.lo}..{c.hi}")
        self.cells[addr] = v

    def object(self, s: Struct, i: int) -> Ptr:
        return Ptr(self, s, int(i) + 1)

    def pool(self, s: Struct) -> Pool:
        return self.layout.pools[s.name]

    def state_of(self, p: Ptr) -> int:
        pool = self.pool(p.k_s)  # type: ignore[arg-type]
        return LIVE if pool.state < 0 else int(self.cells[pool.base + (p.k_v - 1) * pool.stride] or 0)

    def alloc(self, s: Struct, zero: bool) -> Ptr:
        pool = self.pool(s)
        for want in (FREE, FREED):
            for i in range(pool.n):
                a = pool.base + i * pool.stride
                if self.cells[a] == want:
                    self.cells[a] = LIVE
                    if not (pool.typesafe and want == FREED and not zero):
                        for k in range(1, pool.stride):
                            self.cells[a + k] = self.layout.start[a + k] if zero or pool.typesafe else None
                    return Ptr(self, s, i + 1)
        raise KernelBug("pool-exhausted", f"all {pool.n} objects of {s.name} are in use; enlarge its pool")

    def free(self, p: Ptr) -> None:
        if not p:
            raise KernelBug("null-dereference", "kmem_cache_free(NULL)")
        pool = self.pool(p.k_s)  # type: ignore[arg-type]
        a = pool.base + (p.k_v - 1) * pool.stride
        if self.cells[a] != LIVE:
            self.violate("double-free", repr(p))
        self.cells[a] = FREED

    # -- execution
    def choose(self, n: int) -> int:
        if self.in_agent:
            if self.agent_choice >= n:
                raise WouldBlock("no such choice")
            return self.agent_choice
        if not self.choices:
            return 0
        k = self.choices.pop(0)
        if not 0 <= k < n:
            raise KernelBug("index-out-of-range", f"choice {k} of {n}")
        return k

    def violate(self, kind: str, message: str) -> None:
        self.violations.append((kind, message))
        if self.strict:
            raise KernelBug(kind, message)

    def run_as(self, process: int, cpu: int, fn: Callable[[], Any]) -> None:
        """Run an agent's text until it waits."""
        saved = self.process, self.cpu, self.in_agent, self.held
        self.process, self.cpu, self.in_agent, self.held = process, cpu, True, []
        try:
            fn()
        except WouldBlock:
            pass
        finally:
            self.process, self.cpu, self.in_agent, self.held = saved

    def settle(self) -> bool:
        """Let every agent run until all of them wait.  True if memory changed."""
        changed = False
        for _ in range(1000):
            before = list(self.cells)
            for process, cpu, fn in self.agents:
                for self.agent_choice in range(AGENT_CHOICES):
                    self.run_as(process, cpu, fn)
            if self.cells == before:
                return changed
            changed = True
        raise KernelBug("no-progress", "the agents never come to rest")

    def relax(self) -> None:
        if self.in_agent or not self.settle():
            raise WouldBlock("waits for something that nobody will do: a self-deadlock in sequential execution")


__all__ = [
    "NULL",
    "ArrayView",
    "KernelBug",
    "Loaded",
    "Machine",
    "Ptr",
    "Size",
    "View",
    "WouldBlock",
    "current",
    "running",
]
