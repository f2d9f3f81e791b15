"""An automaton's generated steps, with the tables that the search reads."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.compile.step_native import StepCode
from seqfault.explore.graph import boundaries
from seqfault.explore.movers import tables
from seqfault.explore.tables import (
    OK,
    X_COUNTED,
    X_DIGITS,
    X_RADIX,
    X_USED,
    X_VIOL,
    X_VIOLATIONS,
    buffer,
    program_array,
    work_array,
)

if TYPE_CHECKING:
    from seqfault.compile.symmetry import Alike


class Steps(StepCode):
    """`StepCode`, and what the search reads: `program` (tables.py), `moving` (movers.py), `boundary` (graph.py);
    `spare`: threads' arrays, for the next exploration (frontier.py)."""

    def __init__(
        self, a: Automaton, mode: str = "merged", dead: bool = True, track: bool = False, own: bool = False,
        symmetric: bool = False,
    ):  # fmt: skip
        exchanged: Sequence[Alike] = ()
        if symmetric:
            from seqfault.compile.symmetry import alike  # what others have no need of

            exchanged = alike(a, mode, dead and mode != "full")
        super().__init__(a, mode, dead, track, own, exchanged)
        self.program = program_array(a, mode, dead and mode != "full")
        self.moving = tables(a, track)
        self.boundary = boundaries(a)
        self.spare: list[Any] = []


class Stepper:
    """Single steps of generated code: what `engine.Executor` is for the interpreter.

    `rom`: a scenario's data.  `X`: what the last step left (compile/work.py).
    """

    def __init__(self, code: Steps, rom: NDArray[np.int64]):
        a = code.a
        self.code, self.a = code, a
        self.S, self.T = np.zeros(a.nw + 1, np.int64), np.zeros(a.nw + 1, np.int64)
        self.E = buffer(a, rom)[a.nw :].copy()
        self.X = np.concatenate([work_array(a), np.zeros(len(a.lock_classes) + 1, np.int64)])
        self.out = np.zeros(code.packing.words, np.int64)
        self._advance = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 7)(int(code.addresses[0]))

    def run(self, words: NDArray[np.int64], p: int, choice: int = 0) -> int:
        """One step of process `p` with the choices that `choice` encodes; `words` is changed in place if it is OK.
        Returns OK, DISABLED or ENDS."""
        x = self.X
        self.S[: self.a.nw] = words
        digits: list[int] = []
        code = choice
        while True:  # how many alternatives a choice has is known only when it is met
            x[X_DIGITS : X_DIGITS + len(digits)] = digits
            x[X_VIOLATIONS] = x[X_COUNTED] = 0
            status = self._advance(
                self.S.ctypes.data, self.T.ctypes.data, self.E.ctypes.data, x.ctypes.data, p, len(digits),
                self.out.ctypes.data,
            )  # fmt: skip
            if int(x[X_USED]) <= len(digits):
                break
            r = int(x[X_RADIX + len(digits)])
            digits.append(code % r)
            code //= r
        if status == OK:
            words[:] = self.code.unpack(self.out)
        return int(status)

    def violations(self) -> list[tuple[int, int, int, int]]:
        """(kind, instruction, struct, object) of each violation of the last step."""
        n = int(self.X[X_VIOLATIONS])
        rows = self.X[X_VIOL : X_VIOL + 5 * n].reshape(-1, 5)
        return [(int(r[0]), int(r[1]), int(r[2]), int(r[3])) for r in rows]


_made: dict[tuple[int, str, bool, bool, bool, bool], Steps] = {}


def steps_of(
    a: Automaton, mode: str = "merged", dead: bool = True, track: bool = False, own: bool = False,
    symmetric: bool = False,
) -> Steps:  # fmt: skip
    """The steps of `a`, made once in a process; `symmetric`: to canonical states (compile/symmetry.py)."""
    key = id(a), mode, dead and mode != "full", track, own, symmetric
    if key not in _made:
        _made[key] = Steps(a, mode, dead, track, own, symmetric)
    return _made[key]
