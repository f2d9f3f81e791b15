"""An automaton's generated steps, with the tables that the search reads."""

from __future__ import annotations

from seqfault.compile.automaton import Automaton
from seqfault.compile.step_native import StepCode
from seqfault.explore.graph import boundaries
from seqfault.explore.movers import tables
from seqfault.explore.tables import program_array


class Steps(StepCode):
    """`StepCode`, and what the search reads: `program` (tables.py), `moving` (movers.py), `boundary` (graph.py)."""

    def __init__(self, a: Automaton, mode: str = "merged", dead: bool = True, track: bool = False):
        super().__init__(a, mode, dead, track)
        self.program = program_array(a, mode, dead and mode != "full")
        self.moving = tables(a, track)
        self.boundary = boundaries(a)


_made: dict[tuple[int, str, bool, bool], Steps] = {}


def steps_of(a: Automaton, mode: str = "merged", dead: bool = True, track: bool = False) -> Steps:
    """The steps of `a`, made once in a process."""
    key = id(a), mode, dead and mode != "full", track
    if key not in _made:
        _made[key] = Steps(a, mode, dead, track)
    return _made[key]
