"""Paths to states of an exploration on generated steps, as steps of single processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seqfault.explore import layout as k
from seqfault.explore import search
from seqfault.explore.engine import Executor, Exploration
from seqfault.explore.exploration import steps_to
from seqfault.explore.own import CHAIN, Table
from seqfault.explore.steps import Stepper
from seqfault.explore.strolls import passed
from seqfault.explore.tables import OK, X_TABLE, X_VIOLATIONS

if TYPE_CHECKING:
    from seqfault.explore.frontier import Search

Int64 = NDArray[np.int64]
Path = list[tuple[int, int]]


def steps(p: int, choice: int, before: int) -> Path:
    """A step of process `p`, with those before it that make no choice."""
    return [*([(p, 0)] * before), (p, choice)]


class Retrace:
    """Paths of an exploration that kept no parents (the depths up to a state's are explored again, with parents, by one
    thread), or took movers, or accesses in nobody's way, at once (they are put in again), or canonical states (who
    took the steps is found again)."""

    def __init__(self, s: Search, ex: Exploration):
        self.code, self.R, self.moving = s.code, s.R, s.moving
        self.again = (s.a, s.init, s.rom)
        self.options = {"mode": s.mode, "exclusive": s.exclusive, "dead": s.dead, "moves": s.R if s.moving else None}
        self.options["symmetric"] = s.symmetric
        self.own = None if s.own is None else s.own.copy()
        self.options["own"] = self.own
        self.number: dict[int, int] = {}
        self.parent, self.action = ex.parent, ex.action
        self.kept = len(ex.parent) > 0
        self.first = s.first
        self.stepper: Stepper | None = None

    def __call__(self, ex: Exploration, state: int) -> Path:
        if self.kept or state == 0:
            at = state
        else:
            if state not in self.number:
                self._explore(ex, {state, *(v.state for v in ex.violations)})
            at = self.number[state]
        path = steps_to(self.parent, self.action, at)
        if self.own is not None:
            return self._with_own(path, self.own)
        if self.options["symmetric"]:
            return self.real(path, [])
        return self._with_movers(path) if self.moving else path

    def real(self, steps: Path, behind: Path) -> Path:
        """Steps from canonical states (compile/symmetry.py) as steps of the processes that really take them, `behind` a
        path of such steps."""
        from seqfault.compile.symmetry import really  # what other paths have no need of

        a, init, rom = self.again
        t = Executor(a, rom, self.code.mode, self.code.dead)
        words = t.start(init)
        for p, choice in behind:
            t.run(words, p, choice)
        out = []
        for p, choice in steps:
            out.append((really(self.code.alike, words, p), choice))
            t.run(words, *out[-1])
        return out

    def _explore(self, ex: Exploration, states: set[int]) -> None:
        from seqfault.explore.frontier import Search

        a, init, rom = self.again
        s = Search(a, init, rom, **self.options)  # type: ignore[arg-type]
        s.keep = 1 << 60
        wanted: dict[int, list[int]] = {}
        for state in states:
            wanted.setdefault(ex.packed[state][1], []).append(state)
        deep = max(wanted)
        w = s.workers[0]
        th = w.th
        more = True
        while more:
            if th[k.T_HEAD] == 0 and th[k.T_LEVEL] in wanted:
                front = (w.part if th[k.T_PARITY] else w.front)[: th[k.T_FRONTIER]]
                for state in wanted.pop(int(th[k.T_LEVEL])):
                    same = np.flatnonzero((front == ex.packed[state][0]).all(axis=1))
                    self.number[state] = int(th[k.T_BASE] + same[0])
            if th[k.T_LEVEL] >= deep and th[k.T_HEAD] == 0:
                break
            level = int(th[k.T_LEVEL])
            while more and th[k.T_LEVEL] == level:
                more = s.round(max(1, s.width - int(s.G[k.G_NEXT])))  # to the end of this depth, and no further
                if s.need_table:
                    s.grow()
        self.parent, self.action = s.parent.copy(), s.action.copy()
        s.close()

    def _with_own(self, path: Path, own: Table) -> Path:
        """Each step as the steps that it passed over.  Choices are made at the end of one, where it ends."""
        given = np.array(path, np.int64).reshape(-1, 2)
        many = np.zeros(len(path), np.int64)
        t = self.stepper or Stepper(self.code, self.again[2])
        self.stepper = t
        t.X[X_TABLE] = own.ctypes.data
        passed(self.code.addresses, self.first, t.out, t.S, t.T, t.E, t.X, CHAIN, given, many)
        taken = zip(path, many.tolist(), strict=True)
        return [x for (p, choice), n in taken for x in steps(p & (k.UNPASSED - 1), choice, n)]

    def _with_movers(self, path: Path) -> Path:
        """Each step with the movers that follow it."""
        from seqfault.explore.frontier import Search

        a, init, rom = self.again
        s = Search(a, init, rom, **self.options)  # type: ignore[arg-type]
        w = s.workers[0]
        state = Executor(a, rom, s.mode, s.dead).start(init)
        stepper = Stepper(self.code, rom)
        out: Path = []
        G = np.zeros(16, np.int64)
        one = a.nw + 1

        def follow(p: int, says: int) -> None:
            n = search.follow(
                s.A, s.P, s.W, s.R, w.N, G, w.S[one:], w.S[2 * one :], w.T, w.E, w.X, w.buf, 0, s.words, p,
                a.processes[p].base, w.counts, says,
            )  # fmt: skip
            out.extend([(p, 0)] * int(n))

        w.buf[0] = self.code.pack(state)
        for p, info in enumerate(a.processes):
            if info.role <= 1:
                follow(p, 0)
        for p, choice in path:
            w.S[: a.nw] = state = self.code.unpack(w.buf[0])
            stepper.run(state, p, choice)
            w.X[:] = stepper.X
            w.buf[0] = self.code.pack(state)
            out.append((p, choice))
            if a.processes[p].role <= 1:
                says = search.first(
                    s.A, s.P, s.W, s.R, w.N, G, w.S, w.S[one:], w.T, w.E, w.X, w.buf.ctypes.data, OK, p,
                    a.processes[p].base,
                )  # fmt: skip
                w.X[X_VIOLATIONS] = 0
                follow(p, says)
        s.close()
        return out
