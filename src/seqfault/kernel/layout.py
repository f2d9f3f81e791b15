"""Where every field lives: the flat cells of a program's memory.

All three executors (plain Python, the interpreter, compiled code) address memory by the same cell
numbers, so their states can be compared cell by cell.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from seqfault.kernel.types import (
    INT_MAX,
    INT_MIN,
    STRUCTS,
    ArrayType,
    BoolType,
    IntType,
    KernelTypeError,
    PtrType,
    Size,
    Struct,
    as_type,
    resolve_size,
)

FREE, LIVE, FREED = 0, 1, 2
STATE_NAMES = {FREE: "never allocated", LIVE: "live", FREED: "freed"}
LISTED = 1 << 16  # layouts up to this many cells keep a list of them; larger ones make each when asked
FILLED = 1 << 26  # layouts up to this many cells keep a list of what they hold at first


@dataclass(frozen=True)
class Cell:
    """One scalar of memory.  `lo..hi` is its range; `start` what it holds at first."""

    addr: int
    pool: str
    index: int
    path: str
    lo: int
    hi: int
    start: int
    type: Any
    is_state: bool = False

    @property
    def name(self) -> str:
        return f"{self.pool}[{self.index}]" + (f".{self.path}" if self.path else "")


@dataclass(frozen=True)
class Member:
    """A member of a struct as laid out: cell `offset` from the struct's start, and its type."""

    name: str
    offset: int
    type: Any
    cells: int


@dataclass(frozen=True)
class Pool:
    """`n` objects of `struct`: object i starts at cell ``base + i * stride``; its state cell, if
    objects come and go, is the first (`state` is 0, else -1).  `typesafe`: freed objects may be looked at."""

    struct: Struct
    n: int
    base: int
    stride: int
    state: int
    number: int
    typesafe: bool = False


class Layout:
    """The memory of one program.

    `roots`: the structs with pools that the program uses; others that they point to or embed are
    found (None: every struct declared so far).  `sizes`: values of the model's sizes.  `extra`: fields that a
    protocol adds, struct name ->
    {field: type}.  `typesafe`: names of structs whose pools are so though the structs are not.
    Raises `KernelTypeError` when a size has no value or a type cannot be laid out.
    """

    def __init__(
        self,
        roots: Iterable[Struct] | None = None,
        sizes: Mapping[str, int] | None = None,
        extra: Mapping[str, Mapping[str, Any]] | None = None,
        typesafe: Iterable[str] = (),
    ):
        self.typesafe = frozenset(typesafe)
        self.sizes = dict(sizes or {})
        self.extra = {k: dict(v) for k, v in (extra or {}).items()}
        self._members: dict[str, dict[str, Member]] = {}
        self._size: dict[str, int] = {}
        self.size = 0
        self.pools: dict[str, Pool] = {}
        for s in self._closure(STRUCTS.values() if roots is None else roots):
            self._place(s)

    @cached_property
    def cells(self) -> Sequence[Cell]:
        """Every cell, in order."""
        if self.size > LISTED:
            return Cells(self)
        out: list[Cell] = []
        for pool in self.pools.values():
            s = pool.struct
            scal = [(path, t, *self._limits(t, init)) for path, t, init in self._scalars(s, "", 0)]
            for i in range(pool.n):
                if not s.static:
                    out.append(Cell(len(out), s.name, i, "", 0, 2, FREE, "state", True))
                out += [
                    Cell(len(out) + k, s.name, i, path, lo, hi, start, t)
                    for k, (path, t, lo, hi, start) in enumerate(scal)
                ]
        return out

    @cached_property
    def start(self) -> Sequence[int]:
        """What every cell holds at first."""
        if self.size > FILLED:
            return Starts(self)
        out = np.zeros(self.size, np.int64)
        for p in self.pools.values():
            first = p.base if p.state < 0 else p.base + 1
            for a, v in self.nonzero(p.struct) if p.n else ():
                out[first + a : p.base + p.n * p.stride : p.stride] = v
        return list(out.tolist())

    # -- which structs
    def struct_fields(self, s: Struct) -> dict[str, Any]:
        out = s.fields()
        for k, v in self.extra.get(s.name, {}).items():
            out[k] = as_type(v, {}, f"{s.name}.{k}")
        return out

    def _closure(self, roots: Iterable[Struct]) -> list[Struct]:
        seen: dict[str, Struct] = {}

        def visit(t: Any) -> None:
            if isinstance(t, PtrType):
                t = t.target
            if isinstance(t, ArrayType):
                visit(t.elem)
            elif isinstance(t, Struct) and t.name not in seen:
                seen[t.name] = t
                for f in self.struct_fields(t).values():
                    visit(f)

        for r in roots:
            visit(r)
        return sorted((s for s in seen.values() if s.pool is not None), key=lambda s: s.name)

    def pool_size(self, s: Struct) -> int:
        if s.pool is None:
            raise KernelTypeError(f"struct {s.name} has no pool; give it one with @struct(pool=n)")
        return resolve_size(s.pool, self.sizes)

    # -- members
    def members(self, s: Struct) -> dict[str, Member]:
        """The members of `s`, in order; offsets count from the first field (past the state cell)."""
        if s.name not in self._members:
            out: dict[str, Member] = {}
            off = 0
            self._members[s.name] = out
            for k, t in self.struct_fields(s).items():
                n = self.type_cells(t)
                out[k] = Member(k, off, t, n)
                off += n
            self._size[s.name] = off
        return self._members[s.name]

    def type_cells(self, t: Any) -> int:
        if isinstance(t, ArrayType):
            return resolve_size(t.length, self.sizes) * self.type_cells(t.elem)
        if isinstance(t, Struct):
            self.members(t)
            return self._size[t.name]
        return 1

    def bounds(self, t: Any) -> tuple[int, int]:
        """The least and greatest value of a scalar type."""
        if isinstance(t, BoolType):
            return 0, 1
        if isinstance(t, PtrType):
            return 0, self.pool_size(t.target)
        if isinstance(t, IntType):
            lo, hi = resolve_size(t.lo, self.sizes), resolve_size(t.hi, self.sizes)
            if not INT_MIN <= lo <= hi <= INT_MAX:
                raise KernelTypeError(f"{t!r}: bounds {lo}..{hi} are empty or outside 64 bits")
            return lo, hi
        raise KernelTypeError(f"{t!r} is not a scalar")

    def _scalars(self, t: Any, path: str, initial: int) -> Iterable[tuple[str, Any, int]]:
        if isinstance(t, ArrayType):
            for i in range(resolve_size(t.length, self.sizes)):
                yield from self._scalars(t.elem, f"{path}[{i}]", initial)
        elif isinstance(t, Struct):
            for k, m in self.members(t).items():
                yield from self._scalars(m.type, f"{path}.{k}" if path else k, t.initial.get(k, 0))
        else:
            yield path, t, int(initial)

    def _limits(self, t: Any, init: int) -> tuple[int, int, int]:
        """Least and greatest value of a scalar type, and what it starts with."""
        lo, hi = self.bounds(t)
        return lo, hi, init if lo <= init <= hi else lo

    def _place(self, s: Struct) -> None:
        n = self.pool_size(s)
        stride = self.type_cells(s) + (0 if s.static else 1)
        safe = s.typesafe or s.name in self.typesafe
        self.pools[s.name] = Pool(s, n, self.size, stride, -1 if s.static else 0, len(self.pools), safe)
        self.size += n * stride

    def scalar_at(self, t: Any, offset: int, path: str = "", initial: int = 0) -> tuple[str, Any, int]:
        """Path, type and initial value of the scalar at a cell of a value of type `t`."""
        while True:
            if isinstance(t, ArrayType):
                i, offset = divmod(offset, self.type_cells(t.elem))
                t, path = t.elem, f"{path}[{i}]"
            elif isinstance(t, Struct):
                m = next(m for m in self.members(t).values() if m.offset <= offset < m.offset + m.cells)
                initial = int(t.initial.get(m.name, 0))
                t, offset, path = m.type, offset - m.offset, f"{path}.{m.name}" if path else m.name
            else:
                return path, t, int(initial)

    def cell(self, addr: int) -> Cell:
        """The cell of that number."""
        if not 0 <= addr < self.size:
            raise IndexError(f"cell {addr} of {self.size}")
        pool = self._pool_list[bisect_right(self._bases, addr) - 1]
        i, off = divmod(addr - pool.base, pool.stride)
        name = pool.struct.name
        if pool.state == 0:
            if off == 0:
                return Cell(addr, name, i, "", 0, 2, FREE, "state", True)
            off -= 1
        path, t, init = self.scalar_at(pool.struct, off)
        return Cell(addr, name, i, path, *self._limits(t, init), t)

    @cached_property
    def _pool_list(self) -> list[Pool]:
        return [p for p in self.pools.values() if p.stride and p.n]

    @cached_property
    def _bases(self) -> list[int]:
        return [p.base for p in self._pool_list]

    def nonzero(self, t: Any, initial: int = 0) -> list[tuple[int, int]]:
        """(cell, value) of what is not 0 at first in a value of type `t`."""
        if isinstance(t, ArrayType):
            one = self.nonzero(t.elem, initial)
            step = self.type_cells(t.elem)
            n = resolve_size(t.length, self.sizes) if one else 0
            return [(i * step + a, v) for i in range(n) for a, v in one]
        if isinstance(t, Struct):
            return [
                (m.offset + a, v)
                for k, m in self.members(t).items()
                for a, v in self.nonzero(m.type, int(t.initial.get(k, 0)))
            ]
        v = self._limits(t, int(initial))[2]
        return [(0, v)] if v else []

    def static_starts(self) -> Iterator[tuple[int, int]]:
        """(cell, value) of what is not 0 at first in objects that always exist."""
        for p in self.pools.values():
            if p.state < 0:
                one = self.nonzero(p.struct)
                yield from ((p.base + i * p.stride + a, v) for i in range(p.n if one else 0) for a, v in one)

    def templates(self, s: Struct, undefined: int) -> tuple[Any, Any]:
        """The fields of a new object of `s` as `kmem_cache_zalloc` and as `kmem_cache_alloc` give it."""
        start = np.zeros(self.type_cells(s), np.int64)
        for a, v in self.nonzero(s):
            start[a] = v
        poison = np.full(len(start), undefined, np.int64)
        for i, (_, t, _) in enumerate(self._scalars(s, "", 0)):
            lo, hi = self.bounds(t)
            if hi - lo == INT_MAX - INT_MIN:  # no value is left to say undefined with
                poison[i] = start[i]
        return start, poison

    def describe(self, t: Any) -> str:
        """A type as laid out, in words: all that code compiled for it depends on."""
        if isinstance(t, ArrayType):
            return f"[{resolve_size(t.length, self.sizes)}]{self.describe(t.elem)}"
        if isinstance(t, Struct):
            fields = (f"{k}={t.initial.get(k, 0)}:{self.describe(m.type)}" for k, m in self.members(t).items())
            return f"{t.name}{{{','.join(fields)}}}"
        if isinstance(t, PtrType):
            return f"*{t.target.name}"
        return f"{self.bounds(t)}"

    def address(self, pool: str, index: int, path: str) -> int:
        """Cell number of a field by name, e.g. ``("vm_area_struct", 0, "vm_sequence.sequence")``."""
        p = self.pools[pool]
        t: Any = p.struct
        at = p.base + index * p.stride + (1 if p.state == 0 else 0)
        for name, element in re.findall(r"(\w+)|\[(\d+)\]", path):
            if element and isinstance(t, ArrayType):
                t = t.elem
                at += int(element) * self.type_cells(t)
            elif name and isinstance(t, Struct) and name in self.members(t):
                m = self.members(t)[name]
                t, at = m.type, at + m.offset
            else:
                raise KeyError(f"{pool}[{index}].{path}")
        if isinstance(t, ArrayType | Struct) or not 0 <= index < p.n:
            raise KeyError(f"{pool}[{index}].{path}")
        return at


class Cells(Sequence[Cell]):
    """The cells of a large layout, each made when it is asked for."""

    def __init__(self, layout: Layout):
        self.layout = layout
        self.made: dict[int, Cell] = {}

    def __len__(self) -> int:
        return self.layout.size

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        i = i + len(self) if i < 0 else i
        c = self.made.get(i)
        if c is None:
            c = self.layout.cell(i)
            if len(self.made) < LISTED:
                self.made[i] = c
        return c


class Starts(Sequence[int]):
    """What the cells of a large layout hold at first."""

    def __init__(self, layout: Layout):
        self.cells = Cells(layout)

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, i: Any) -> Any:
        c = self.cells[i]
        return [x.start for x in c] if isinstance(i, slice) else c.start


__all__ = ["FREE", "FREED", "LIVE", "STATE_NAMES", "STRUCTS", "Cell", "Layout", "Member", "Pool", "Size"]
