"""The mm model as a program: CPUs that run operations, interrupt handlers, grace periods, page walkers."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import cast

from seqfault.compile.automaton import Automaton
from seqfault.compile.program import AGENT, CPU, ENVIRONMENT, Process, Program, build
from seqfault.explore.memory import SC, canonical, with_memory
from seqfault.kernel.places import Protocol
from seqfault.kernel.rcu import rcu_agent
from seqfault.kernel.types import Struct
from seqfault.mm import types as mm_types
from seqfault.mm.cpu import cpu_main
from seqfault.mm.oracles import OBSERVERS
from seqfault.mm.tlb import ipi_agent, walker_agent
from seqfault.scenarios.model import Scenario, ScenarioError


def mm_program(protocol: Protocol, ncpus: int) -> Program:
    """The closed model of `protocol` on `ncpus` CPUs.

    Processes, in order: a CPU each, the grace-period worker, each CPU's interrupt handler, each CPU's page
    walker.  Sizes are the defaults of mm/types.py, the protocol's over them.
    """
    cpus = [Process(cpu_main, c, CPU, f"cpu{c}") for c in range(ncpus)]
    rcu = [Process(rcu_agent, 0, AGENT, "rcu", bound=False)]
    ipis = [Process(ipi_agent, c, AGENT, f"ipi{c}") for c in range(ncpus)]
    walkers = [Process(walker_agent, c, ENVIRONMENT, f"walker{c}") for c in range(ncpus)]
    return Program(
        name=protocol.name,
        processes=[*cpus, *rcu, *ipis, *walkers],
        observers=list(OBSERVERS),
        binds=protocol.binds,
        sizes={"NR_CPUS": ncpus, "NR_TASKS": 3 * ncpus + 1, **protocol.sizes},
        fields=protocol.fields,
        structs=cast(tuple[Struct, ...], (mm_types.mm_struct, mm_types.scenario_rom, mm_types.results)),
    )


@lru_cache(maxsize=32)
def _program(key: int, ncpus: int) -> Program:
    return mm_program(_protocols[key], ncpus)


_protocols: dict[int, Protocol] = {}


def program_for(protocol: Protocol, scenario: Scenario) -> Program:
    """The program that runs `scenario`: one for each number of CPUs."""
    _protocols[id(protocol)] = protocol
    return _program(id(protocol), max(2, len(scenario.cpus)))


_layered: dict[tuple[str, str, bool], Automaton] = {}


def automaton_for(protocol: Protocol, scenario: Scenario, memory: str = SC) -> Automaton:
    """The automaton that runs `scenario` under a memory model, compiled once.  Raises `ValueError` for a model that
    there is not, `ScenarioError` for a scenario that it cannot run."""
    program = program_for(protocol, scenario)
    a = build(program)
    if memory == SC and not scenario.forever:
        return a
    key = program.key("merged"), canonical(memory), bool(scenario.forever)
    if key not in _layered:
        if scenario.forever and memory != SC:
            raise ScenarioError(f"{scenario.name} goes on for ever; such scenarios are explored under sc only")
        _layered[key] = with_memory(replace(a, renames=bool(scenario.forever)), memory)
    return _layered[key]
