"""Scenarios: a starting layout and what each CPU does, as data.

An operation is a line of text: ``mmap 2-4 rw``, ``munmap 2-4``, ``mprotect 2-4 r``, ``madvise 2-4 dontneed``,
``read 3``, ``write 3 5``.  Ranges are [start, end) of page numbers.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from seqfault.kernel.layout import Layout
from seqfault.kernel.machine import KernelBug, Machine, WouldBlock
from seqfault.kernel.places import Protocol
from seqfault.kernel.rcu import rcu_agent
from seqfault.kernel.words import NULL, pool_object, the
from seqfault.mm import types as mm_types
from seqfault.mm.cpu import OP_FORK, OP_MADVISE, OP_MMAP, OP_MPROTECT, OP_MUNMAP, OP_READ, OP_WRITE, do_op
from seqfault.mm.filemap import file_init, mm_init
from seqfault.mm.tlb import ipi_agent
from seqfault.mm.types import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_GROWSDOWN,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    faults_left,
    scenario_rom,
)

NAMES = {
    "mmap": OP_MMAP,
    "munmap": OP_MUNMAP,
    "mprotect": OP_MPROTECT,
    "madvise": OP_MADVISE,
    "read": OP_READ,
    "write": OP_WRITE,
    "fork": OP_FORK,
}
KINDS = {v: k for k, v in NAMES.items()}
EXAMPLE = (
    "write for example `mmap 2-4 rw`, `munmap 2-4`, `mprotect 2-4 r`, `madvise 2-4 dontneed`, `read 3` or `write 3 5`"
)


class ScenarioError(Exception):
    """A scenario that cannot be read or run; the message is one line that says where, what and how to mend it."""


def size(name: str, sizes: Mapping[str, int]) -> int:
    return getattr(mm_types, name).resolve(sizes)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Operation:
    """One operation.  `kind`: OP_... of mm/cpu.py; `addr`, `len`: pages; `prot`, `flags`: PROT_, MAP_ bits;
    `file`: 0, or
    number plus one; `pgoff`: pages; `value`: what is written."""

    kind: int
    addr: int
    len: int = 1
    prot: int = 0
    flags: int = 0
    file: int = 0
    pgoff: int = 0
    value: int = 0

    def text(self) -> str:
        """The line that it was read from."""
        name = KINDS[self.kind]
        if self.kind == OP_FORK:
            return name
        if self.kind == OP_READ:
            return f"read {self.addr}"
        if self.kind == OP_WRITE:
            return f"write {self.addr} {self.value}"
        out = f"{name} {self.addr}-{self.addr + self.len}"
        if self.kind == OP_MADVISE:
            return f"{out} dontneed"
        if self.kind in (OP_MMAP, OP_MPROTECT):
            bits = ((PROT_READ, "r"), (PROT_WRITE, "w"), (PROT_EXEC, "x"))
            out += " " + ("".join(c for b, c in bits if self.prot & b) or "none")
        if self.kind == OP_MMAP:
            if self.flags & MAP_SHARED:
                out += " shared"
            if self.flags & MAP_GROWSDOWN:
                out += " growsdown"
            if self.file:
                out += f" file{self.file}@{self.pgoff}"
        return out


def parse_operation(text: str, sizes: Mapping[str, int] | None = None) -> Operation:
    """Read one operation.  Raises `ScenarioError`."""
    return _of_sizes(text, sizes) if sizes else _usual(text)


@cache
def _usual(text: str) -> Operation:
    """As `parse_operation`; the suite says the same operations many times."""
    return _of_sizes(text, {})


def _of_sizes(text: str, sizes: Mapping[str, int]) -> Operation:
    pages = size("NR_PAGES", sizes)
    words = text.split()
    if not words or words[0] not in NAMES:
        raise ScenarioError(f"{text!r} is no operation; {EXAMPLE}")
    kind, rest = NAMES[words[0]], words[1:]

    def bad(why: str) -> ScenarioError:
        return ScenarioError(f"{text!r}: {why}; {EXAMPLE}")

    if kind == OP_FORK:
        if rest:
            raise bad(f"{rest[0]!r} is too much")
        return Operation(kind, 0, 0)
    if kind in (OP_READ, OP_WRITE):
        want = 1 if kind == OP_READ else 2
        if len(rest) != want or not all(x.isdigit() for x in rest):
            raise bad("expected a page" + (" and a value" if want == 2 else ""))
        addr = int(rest[0])
        if addr >= pages:
            raise bad(f"page {addr} is outside the window of {pages} pages (0 to {pages - 1})")
        value = int(rest[1]) if want == 2 else 0
        top = size("NR_VALUES", sizes)
        if value > top:
            raise bad(f"value {value} is more than {top}")
        return Operation(kind, addr, 1, value=value)
    m = re.fullmatch(r"(\d+)-(\d+)", rest[0]) if rest else None
    if not m:
        raise bad("expected a range START-END of pages")
    addr, end = int(m[1]), int(m[2])
    if end <= addr:
        raise bad(f"the range {addr}-{end} is empty")
    if end > pages:
        raise bad(f"the range ends outside the window of {pages} pages")
    rest = rest[1:]
    if kind == OP_MUNMAP:
        if rest:
            raise bad(f"{rest[0]!r} is too much")
        return Operation(kind, addr, end - addr)
    if kind == OP_MADVISE:
        if rest not in ([], ["dontneed"]):
            raise bad(f"advice {' '.join(rest)!r} is not modelled, only dontneed")
        return Operation(kind, addr, end - addr)
    if not rest:
        raise bad("expected rights such as rw, r or none")
    word, rest = rest[0], rest[1:]
    if word != "none" and (not word or set(word) - set("rwx")):
        raise bad(f"{word!r} are no rights")
    prot = sum(b for b, c in ((PROT_READ, "r"), (PROT_WRITE, "w"), (PROT_EXEC, "x")) if c in word and word != "none")
    if kind == OP_MPROTECT:
        if rest:
            raise bad(f"{rest[0]!r} is too much")
        return Operation(kind, addr, end - addr, prot)
    flags, file, pgoff = MAP_FIXED, 0, 0
    shared = False
    for x in rest:
        f = re.fullmatch(r"file(\d*)@(\d+)", x)
        if f:
            file, pgoff = int(f[1] or 1), int(f[2])
            if not 1 <= file <= size("NR_FILES", sizes):
                raise bad(f"there is no file {file}")
        elif x == "shared":
            shared = True
        elif x == "growsdown":
            flags |= MAP_GROWSDOWN
        elif x != "fixed":
            raise bad(f"{x!r} is unknown")
    if shared and not file:
        raise bad("shared anonymous memory is not modelled; map a file")
    flags |= MAP_SHARED if shared else MAP_PRIVATE
    if not file:
        flags |= MAP_ANONYMOUS
    return Operation(kind, addr, end - addr, prot, flags, file, pgoff)


def parse_line(text: str, sizes: Mapping[str, int] | None = None) -> tuple[int, Operation]:
    """An operation that may begin with ``cpu1:``: the CPU and the operation."""
    m = re.match(r"\s*cpu(\d+)\s*:\s*", text)
    return (int(m[1]), parse_operation(text[m.end() :], sizes)) if m else (0, parse_operation(text, sizes))


@dataclass(frozen=True)
class Scenario:
    """`setup`: (cpu, operation), one after the other, before anything else.  `cpus`: what each CPU then does.
    `fail_allocations`: how many allocations may fail.  `fills`: (cpu, page) that the page walker may load into
    the TLB at any
    time.  `forever`: CPUs that begin again with their first operation after their last.
    `expect`: protocol -> kinds of violation that must be found, () if it must hold."""

    name: str
    setup: tuple[tuple[int, Operation], ...]
    cpus: tuple[tuple[Operation, ...], ...]
    fail_allocations: int = 0
    fills: tuple[tuple[int, int], ...] = ()
    prose: str = ""
    expect: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    source: str = ""
    forever: tuple[int, ...] = ()


# -- TOML
KEYS = {"name", "prose", "setup", "cpus", "fail_allocations", "fills", "expect", "sizes", "forever"}


def from_dict(d: Mapping[str, Any], source: str) -> Scenario:
    """A scenario from a TOML table.  Raises `ScenarioError`."""
    name = d.get("name")
    if not isinstance(name, str) or not name or re.search(r"[\s:+]", name):
        raise ScenarioError(
            f'{source}: a scenario without a proper name; give it name = "family/what" without spaces or colons'
        )
    where = f"{source}: {name}"
    extra = set(d) - KEYS
    if extra:
        raise ScenarioError(f"{where}: unknown key {sorted(extra)[0]!r}; known are {', '.join(sorted(KEYS))}")
    sizes = d.get("sizes", {})
    try:
        setup = tuple(parse_line(x, sizes) for x in d.get("setup", []))
        cpus = tuple(tuple(parse_operation(x, sizes) for x in ops) for ops in d.get("cpus", []))
    except ScenarioError as e:
        raise ScenarioError(f"{where}: {e}") from None
    except (AttributeError, TypeError):
        raise ScenarioError(
            f'{where}: setup is a list of lines, cpus a list of lists: cpus = [["munmap 1-2"], ["read 1"]]'
        ) from None
    if not any(cpus):
        raise ScenarioError(f'{where}: no CPU does anything; write cpus = [["munmap 1-2"], ["read 1"]]')
    if len(cpus) > 4:
        raise ScenarioError(f"{where}: {len(cpus)} CPUs; at most 4 can be explored")
    most = size("NR_OPS", sizes)
    if max(map(len, cpus)) > most:
        raise ScenarioError(f"{where}: more than {most} operations on one CPU")
    fills = []
    for x in d.get("fills", []):
        m = re.fullmatch(r"cpu(\d+) (\d+)", str(x))
        if not m or int(m[1]) >= len(cpus) or int(m[2]) >= size("NR_PAGES", sizes):
            raise ScenarioError(f'{where}: {x!r} is no fill; write "cpu1 3" (CPU and page)')
        fills.append((int(m[1]), int(m[2])))
    fail = d.get("fail_allocations", 0)
    if not isinstance(fail, int) or not 0 <= fail <= 3:
        raise ScenarioError(f"{where}: fail_allocations = {fail!r}; from 0 to 3")
    if any(o.kind == OP_FORK for ops in cpus for o in ops):
        sizes = {**sizes, "FORK": 1}
    if any(o.kind == OP_FORK for _, o in setup):
        raise ScenarioError(f"{where}: fork is no part of a setup; let a CPU do it")
    expect = {k: tuple(v) for k, v in d.get("expect", {}).items()}
    forever = d.get("forever", [])
    if not isinstance(forever, list) or not all(type(c) is int and 0 <= c < len(cpus) and cpus[c] for c in forever):
        raise ScenarioError(
            f"{where}: forever = {forever!r}; list the numbers of CPUs that repeat their operations: forever = [0]"
        )
    repeats = tuple(sorted(set(forever)))
    return Scenario(name, setup, cpus, fail, tuple(fills), d.get("prose", ""), expect, sizes, source, repeats)


def from_toml(text: str, source: str = "text") -> Scenario:
    return from_dict(tomllib.loads(text), source)


def to_toml(s: Scenario) -> str:
    """The shortest TOML of a scenario: what is explored, without prose."""

    def q(xs: list[str]) -> str:
        return "[" + ",".join(f'"{x}"' for x in xs) + "]"

    out = [f'name = "{s.name}"']
    out.append("setup = " + q([(f"cpu{c}:" if c else "") + o.text() for c, o in s.setup]))
    out.append("cpus = [" + ",".join(q([o.text() for o in ops]) for ops in s.cpus) + "]")
    if s.fail_allocations:
        out.append(f"fail_allocations = {s.fail_allocations}")
    if s.fills:
        out.append("fills = " + q([f"cpu{c} {p}" for c, p in s.fills]))
    if s.forever:
        out.append(f"forever = {list(s.forever)}")
    if s.sizes:
        out.append("sizes = {" + ",".join(f"{k}={v}" for k, v in s.sizes.items()) + "}")
    return "\n".join(out)


# -- running
def write_op(k: int, op: Operation) -> None:
    """Put an operation into the scenario's data, as number `k`."""
    rom = the(scenario_rom)
    o = rom.op[k]
    o.kind, o.addr, o.len, o.prot, o.flags, o.pgoff, o.value = (
        op.kind, op.addr, op.len, op.prot, op.flags, op.pgoff, op.value,
    )  # fmt: skip
    o.file = mm_types_file(op.file)


def mm_types_file(number: int) -> Any:
    return pool_object(mm_types.file, number - 1) if number else NULL


def make_machine(layout: Layout, protocol: Protocol) -> Machine:
    """A plain-Python machine with an empty address space, its files, and the agents that other CPUs would be."""
    m = Machine(layout, protocol.binds)
    n = layout.sizes["NR_CPUS"]
    m.agents = [(n, 0, rcu_agent)] + [(n + 1 + c, c, ipi_agent) for c in range(n)]
    with m:
        mm_init()
        for f in range(size("NR_FILES", layout.sizes)):
            file_init(f, size("FILE_PAGES", layout.sizes))
    return m


def execute(m: Machine, cpu: int, op: Operation) -> int:
    """Run one operation on CPU `cpu` of a machine, sequentially.  Returns its result."""
    m.cpu = m.process = cpu
    write_op(0, op)
    return int(do_op(0))


def run_setup(m: Machine, s: Scenario) -> None:
    """Run a scenario's setup.  Raises `ScenarioError` when an operation fails."""
    for cpu, op in s.setup:
        try:
            ret = execute(m, cpu, op)
            m.settle()
        except (KernelBug, WouldBlock) as e:
            raise ScenarioError(f"{s.source or 'scenario'}: {s.name}: setup {op.text()!r}: {e}") from None
        if ret < 0:
            raise ScenarioError(
                f"{s.source or 'scenario'}: {s.name}: setup {op.text()!r} returns {ret}; set up what it needs first"
            )
    m.cpu = m.process = 0


def write_rom(s: Scenario, layout: Layout) -> None:
    """Put the CPUs' operations into the scenario's data, where there are none yet."""
    rom = the(scenario_rom)
    per, fills = size("NR_OPS", layout.sizes), size("NR_FILLS", layout.sizes)
    for c, ops in enumerate(s.cpus):
        rom.nr_ops[c] = len(ops)
        rom.forever[c] = c in s.forever
        for i, op in enumerate(ops):
            write_op(c * per + i, op)
        mine = [p for x, p in s.fills if x == c]
        if len(mine) > fills:
            raise ScenarioError(f"{s.source or 'scenario'}: {s.name}: more than {fills} fills of one CPU")
        rom.nr_fills[c] = len(mine)
        for i, p in enumerate(mine):
            rom.fill[c * fills + i] = p
    the(faults_left).n = s.fail_allocations


class SetUps(typing.Protocol):
    """Memory behind setups, kept from one run to the next: of one text, in one layout."""

    def get(self, key: str, /) -> Any: ...

    def put(self, key: str, what: Any, /) -> None: ...


def initial_cells(
    layout: Layout, protocol: Protocol, s: Scenario, known: SetUps | None = None
) -> list[int | None]:
    """The memory that a scenario begins with: its setup run as plain Python under `protocol` (all of it: sites are
    taken out of what is explored), or as it is `known`."""
    if protocol.processes:  # a small model, which has no operations
        return [c.start for c in layout.cells]
    key = id(layout), id(protocol), s.setup
    if key not in _set_up:
        name = hashlib.sha256(repr(s.setup).encode()).hexdigest()[:32]
        cells = known.get(name) if known is not None else None
        if not isinstance(cells, list) or len(cells) != len(layout.cells):
            m = make_machine(layout, protocol)
            with m:
                run_setup(m, s)
                for k in range(size("NR_OPS", layout.sizes) * layout.sizes["NR_CPUS"]):
                    write_op(k, Operation(0, 0, 0))
            cells = m.cells
            if known is not None:
                known.put(name, cells)
        if len(_set_up) > 2000:
            _set_up.clear()
        _set_up[key] = layout, protocol, cells
    m = Machine(layout, protocol.binds)
    m.cells = list(_set_up[key][2])
    with m:
        write_rom(s, layout)
    return m.cells


# many scenarios begin alike; what the ids belong to is kept with them
_set_up: dict[tuple[int, int, tuple[Any, ...]], tuple[Layout, Protocol, list[int | None]]] = {}
