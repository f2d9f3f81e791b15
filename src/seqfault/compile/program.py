"""What is compiled: the processes of a program, the places' bindings, the sizes; and the cache of results."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import seqfault
from seqfault.compile.automaton import Automaton
from seqfault.compile.cache import keep_object, kept_object
from seqfault.compile.digest import files_digest
from seqfault.compile.source import Func, Source, reach, replaced
from seqfault.kernel.layout import Layout
from seqfault.kernel.places import Place
from seqfault.kernel.sites import site_causes, site_notes, site_switches
from seqfault.kernel.types import Struct

if TYPE_CHECKING:
    from seqfault.compile.sites import SiteTable

CPU, AGENT, ENVIRONMENT = 0, 1, 2


@dataclass(frozen=True)
class Process:
    """One process: the function it runs, its CPU, its role.

    `role`: CPU (must finish), AGENT (an interrupt handler or grace-period worker: it acts whenever it can, and
    nothing is at rest before it has), ENVIRONMENT (may act or not: a page walker).  `bound`: it runs on that CPU, whose
    store buffer it shares; an agent that runs on some other CPU is not bound.
    """

    entry: Func
    cpu: int
    role: int = CPU
    name: str = ""
    bound: bool = True


@dataclass
class Program:
    """A closed model.

    `processes`; `observers`: functions run atomically on states at rest (oracles with `check`, outcomes with `emit`);
    `binds`: place -> function; `sizes`: size name -> value; `fields`: struct name -> {field: type} that a protocol
    adds; `structs`: more structs whose memory belongs to the model although no text names them; `sites`: compiled with
    a switch at each site (compile/sites.py); `causes`: also with notes of who moved a count; `instead`: functions that
    are compiled from another text; `typesafe`: structs that a protocol makes so.
    """

    name: str
    processes: list[Process]
    observers: list[Func] = field(default_factory=list)
    binds: Mapping[Place, Func] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    fields: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    structs: tuple[Struct, ...] = ()
    sites: bool = False
    causes: bool = False
    instead: Mapping[Func, str] = field(default_factory=dict)
    typesafe: tuple[str, ...] = ()
    _layout: Layout | None = field(default=None, repr=False)
    _reach: tuple[list[Source], list[Struct]] | None = field(default=None, repr=False)
    _keys: dict[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.sizes.setdefault("NR_TASKS", len(self.processes))
        self.sizes.setdefault("NR_CPUS", 1 + max((p.cpu for p in self.processes), default=0))

    def entries(self) -> list[Func]:
        return [p.entry for p in self.processes] + list(self.observers)

    def layout(self) -> Layout:
        """The memory of this program; the same for plain Python and for the automaton."""
        if self._layout is None:
            _, structs = self.reach()
            switches = (site_switches, site_notes, site_causes) if self.sites else ()
            self._layout = Layout([*structs, *self.structs, *switches], self.sizes, self.fields, self.typesafe)
        return self._layout

    def reach(self) -> tuple[list[Source], list[Struct]]:
        """Every function and struct of the program."""
        if self._reach is None:
            with replaced(self.instead):
                self._reach = reach(self.entries(), self.binds)
        return self._reach

    def key(self, granularity: str) -> str:
        """A hash of everything that the automaton depends on."""
        if granularity not in self._keys:
            self._keys[granularity] = self._hash(granularity)
        return self._keys[granularity]

    def _hash(self, granularity: str) -> str:
        sources, _ = self.reach()
        lay = self.layout()
        h = hashlib.sha256(f"{seqfault.__version__} {compiler_hash()} {granularity}".encode())
        for s in sources:
            h.update(s.meaning().encode())
        for c in lay.cells:
            h.update(f"{c.name} {c.lo} {c.hi} {c.start}".encode())
        for p in lay.pools.values():
            h.update(f"{p.struct.name} {p.struct.private} {p.struct.rom} {p.typesafe}".encode())
        h.update(repr([(p.entry.__name__, p.cpu, p.role, p.name, p.bound) for p in self.processes]).encode())
        h.update(repr([f.__name__ for f in self.observers]).encode())
        h.update(repr(sorted((p.name, f.__name__) for p, f in self.binds.items())).encode())
        h.update(repr(sorted(self.sizes.items())).encode())
        h.update(f"{self.sites} {self.causes}".encode() if self.sites else b"")
        return h.hexdigest()[:32]


@cache
def compiler_hash() -> str:
    return files_digest(sorted(Path(__file__).parent.glob("*.py")))[:16]


def compile_program(program: Program, granularity: str = "merged") -> Automaton:
    """Compile without the cache.

    `granularity`: "merged" (a step is one shared access with the local work after it) or "full" (each
    statement is a step; every named local is part of the state).  Raises `CompileError` for text outside the language.
    """
    from seqfault.compile.builder import Unit  # the compiler is not needed where the cache has what it made
    from seqfault.compile.ir import Function
    from seqfault.compile.link import link
    from seqfault.compile.words import Words

    t0 = time.perf_counter()
    layout = program.layout()
    unit = Unit(layout, program.binds, sites=site_table(program, granularity) if program.sites else None)
    for fn in program.entries():
        if fn not in unit.functions:
            unit.functions[fn] = Function(fn.__name__, is_entry=True)
            unit.queue.append(fn)
    with replaced(program.instead):
        while unit.queue:
            fn = unit.queue.pop(0)
            Words(unit, unit.functions[fn]).compile(fn)
    a = link(program, unit, granularity)
    a.compile_s = time.perf_counter() - t0
    return a


def site_table(program: Program, granularity: str) -> SiteTable:
    """An empty one; with the sections' numbers, as a compilation without notes gives them, if there are to be notes."""
    from seqfault.compile.sites import SiteTable

    if not program.causes:
        return SiteTable()
    a = compile_program(replace(program, causes=False, _keys={}), granularity)
    sites: Any = a.extra["sites"]
    return SiteTable(causes=tuple(s.number for s in sites if s.kind == "count"))


_memory: dict[str, Automaton] = {}


def build(program: Program, granularity: str = "merged") -> Automaton:
    """The automaton of a program, from the cache where the same text was compiled before."""
    key = program.key(granularity)
    if key in _memory:
        return _memory[key]
    name = f"{key}.automaton"
    a: Automaton | None = kept_object(name)
    if a is not None:
        a.cached = True
    else:
        a = compile_program(program, granularity)
        keep_object(name, a)
    _memory[key] = a
    return a
