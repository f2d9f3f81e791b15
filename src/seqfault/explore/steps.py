"""An automaton's generated steps, with the tables that the search reads."""

from __future__ import annotations

from seqfault.compile.automaton import Automaton
from seqfault.compile.step_native import StepCode
from seqfault.explore.tables import program_array


class Steps(StepCode):
    """`StepCode`, and `program`: the array of tables (explore/tables.py)."""

    def __init__(self, a: Automaton, mode: str = "merged", dead: bool = True):
        super().__init__(a, mode, dead)
        self.program = program_array(a, mode, dead and mode != "full")


_made: dict[tuple[int, str, bool], Steps] = {}


def steps_of(a: Automaton, mode: str = "merged", dead: bool = True) -> Steps:
    """The steps of `a`, made once in a process."""
    key = id(a), mode, dead and mode != "full"
    if key not in _made:
        _made[key] = Steps(a, mode, dead)
    return _made[key]
