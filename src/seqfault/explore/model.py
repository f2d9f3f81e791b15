"""The mm model as a program: CPUs that run operations, interrupt handlers, grace periods, page walkers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from difflib import get_close_matches
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

import seqfault
from seqfault.compile.automaton import Automaton, Int64, Words
from seqfault.compile.cache import Lines, cache_dir
from seqfault.compile.digest import files_digest
from seqfault.compile.program import AGENT, CPU, ENVIRONMENT, Process, Program, build
from seqfault.explore.memory import SC, canonical, with_memory
from seqfault.kernel.places import Protocol
from seqfault.kernel.rcu import rcu_agent
from seqfault.kernel.types import Struct
from seqfault.mm import types as mm_types
from seqfault.mm.cpu import cpu_main
from seqfault.mm.oracles import OBSERVERS
from seqfault.mm.tlb import ipi_agent, walker_agent
from seqfault.protocols import ProtocolError
from seqfault.scenarios.model import Scenario, ScenarioError, initial_cells

if TYPE_CHECKING:
    from seqfault.compile.sites import Site


def mm_program(protocol: Protocol, ncpus: int, sizes: Iterable[tuple[str, int]] = ()) -> Program:
    """The closed model of `protocol` on `ncpus` CPUs.

    Processes, in order: a CPU each, the grace-period worker, each CPU's interrupt handler, each CPU's page
    walker.  Sizes are the defaults of mm/types.py, the protocol's over them,
    and over those `sizes`.
    """
    if protocol.processes:
        return small_program(protocol)
    cpus = [Process(cpu_main, c, CPU, f"cpu{c}") for c in range(ncpus)]
    rcu = [Process(rcu_agent, 0, AGENT, "rcu", bound=False)]
    ipis = [Process(ipi_agent, c, AGENT, f"ipi{c}") for c in range(ncpus)]
    walkers = [Process(walker_agent, c, ENVIRONMENT, f"walker{c}") for c in range(ncpus)]
    return Program(
        name=protocol.name,
        processes=[*cpus, *rcu, *ipis, *walkers],
        observers=list(OBSERVERS),
        binds=protocol.binds,
        sizes={"NR_CPUS": ncpus, "NR_TASKS": 3 * ncpus + 1, **protocol.sizes, **dict(sizes)},
        fields=protocol.fields,
        structs=cast(tuple[Struct, ...], (mm_types.mm_struct, mm_types.scenario_rom, mm_types.results)),
        sites=protocol.sites,
        causes=protocol.causes,
        instead=protocol.instead,
        typesafe=protocol.typesafe,
    )


def small_program(protocol: Protocol) -> Program:
    """The closed model of a protocol that has its own processes, a CPU each."""
    return Program(
        name=protocol.name,
        processes=[Process(f, c, CPU, f.__name__) for c, f in enumerate(protocol.processes)],
        binds=protocol.binds,
        sizes=dict(protocol.sizes),
        sites=protocol.sites,
        causes=protocol.causes,
        instead=protocol.instead,
    )


@lru_cache(maxsize=64)
def _program(key: int, ncpus: int, sizes: tuple[tuple[str, int], ...]) -> Program:
    return mm_program(_protocols[key], ncpus, sizes)


_protocols: dict[int, Protocol] = {}


def program_for(protocol: Protocol, scenario: Scenario) -> Program:
    """The program that runs `scenario`: one for each number of CPUs, and the sizes that scenarios set."""
    _protocols[id(protocol)] = protocol
    return _program(id(protocol), max(2, len(scenario.cpus)), tuple(sorted(scenario.sizes.items())))


def small_scenario(protocol: Protocol) -> Scenario:
    """The only scenario of a small model: all its processes, each from its start."""
    return Scenario("all", (), ((),) * len(protocol.processes), source=protocol.file)


def start_of(protocol: Protocol, scenario: Scenario, memory: str = SC) -> tuple[Automaton, Words, Int64]:
    """The automaton that runs `scenario`, the state that it begins in, and the scenario's data."""
    a = automaton_for(protocol, scenario, memory)
    key = id(a), id(protocol), id(scenario)
    if key in _started:
        words, rom = _started[key][2]
        return a, words.copy(), rom.copy()
    program = program_for(protocol, scenario)
    cells = initial_cells(program.layout(), protocol, scenario, _set_ups(program.key("merged")))
    running = None
    if not protocol.processes:
        running = [p.role != 0 or (p.cpu < len(scenario.cpus) and bool(scenario.cpus[p.cpu])) for p in a.processes]
    start = a.pack(cells, running), a.rom(cells)
    _started.clear()
    _started[key] = protocol, scenario, start
    return a, start[0].copy(), start[1].copy()


@cache
def _set_ups(text: str) -> Lines:
    """What setups lead to, by the key of the text; what runs them is hashed, too."""
    folders = [Path(seqfault.__file__).parent / x for x in ("kernel", "scenarios")]
    how = files_digest(sorted(f for x in folders for f in x.glob("*.py")), text)
    return Lines(cache_dir() / f"{how[:32]}.setups")


# the last one, which is explored more than once; what the ids belong to is kept with it
_started: dict[tuple[int, int, int], tuple[Protocol, Scenario, tuple[Words, Int64]]] = {}


_layered: dict[tuple[str, str, bool, tuple[str, ...]], Automaton] = {}


def sites_of(a: Automaton) -> list[Site]:
    """The sites of an automaton that was compiled with switches."""
    return cast("list[Site]", a.extra["sites"])


def numbers_of(a: Automaton, names: Iterable[str], protocol: str) -> list[int]:
    """The switches of sites.  Raises `ProtocolError` for one that there is not, or that has no switch."""
    known = {s.name: s.number for s in sites_of(a)}
    out = []
    for n in names:
        if not known.get(n):
            near = get_close_matches(n, [k for k, x in known.items() if x], 3, 0.3)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            more = "has no switch: only data races could tell" if n in known else "is no site"
            raise ProtocolError(f"{n!r} {more} of {protocol}{hint} (seqfault why {protocol} --sites lists them)")
        out.append(known[n])
    return out


def switches(a: Automaton, numbers: Iterable[int]) -> tuple[int, ...]:
    """The read-only cells that take sites out: those of the sites, and the one that says that any is."""
    base = next(p.base for p in a.pools if p.name == "site_switches")
    out = sorted({base + n for n in numbers})
    return tuple([base, *out]) if out else ()


def automaton_for(protocol: Protocol, scenario: Scenario, memory: str = SC) -> Automaton:
    """The automaton that runs `scenario` under a memory model, compiled once.  Raises `ValueError` for a model that
    there is not, `ScenarioError` for a scenario that it cannot run."""
    program = program_for(protocol, scenario)
    a = build(program)
    if memory == SC and not scenario.forever and not protocol.without:
        return a
    key = program.key("merged"), canonical(memory), bool(scenario.forever), protocol.without
    if key not in _layered:
        if protocol.without:
            a = replace(a, name=protocol.name, off=switches(a, numbers_of(a, protocol.without, protocol.base)))
        if scenario.forever and memory != SC:
            raise ScenarioError(f"{scenario.name} goes on for ever; such scenarios are explored under sc only")
        _layered[key] = with_memory(replace(a, renames=bool(scenario.forever)), memory)
    return _layered[key]
