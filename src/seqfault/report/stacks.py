"""Call stacks: in which functions a process stands, read out of a state, and out of the graph within a step."""

from __future__ import annotations

from collections import deque
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.compile.ops import BRANCHES, Op
from seqfault.explore.model import start_of
from seqfault.report.counterexample import Counterexample, is_hidden

Frame = tuple[str, str, int]  # function, file, line at which it stands
BELOW = ("cpu_main", "do_op")  # what runs the operations, which every stack begins with


class Stacks:
    """The call stacks of an automaton's processes.

    Functions that were compiled in line stand in the chain of an instruction's `Where`; the others are found by the
    number of the call, which a process keeps in its region of the state.
    """

    def __init__(self, a: Automaton):
        self.a = a
        self.op = [Op(int(x)) for x in a.code[:, 0]]
        self.returns: dict[int, int] = {}  # instruction -> a RET that it reaches; 0: it is an entry's
        self.calls: dict[tuple[int, int], int] = {}  # (return row, number) -> the CALL
        for pc, op in enumerate(self.op):
            if op is Op.CALL:
                ret = self.return_of(int(a.code[pc, 3]))
                self.calls[int(a.code[ret, 2]) if ret else -1, int(a.code[pc, 2])] = pc

    def _next(self, pc: int) -> list[int]:
        row, op = self.a.code[pc], self.op[pc]
        if op in (Op.RET, Op.HALT):
            return []
        out = [int(row[8])]
        if op in BRANCHES:
            out.append(int(row[2 if op is Op.BR else 3]))
        return out

    def return_of(self, pc: int) -> int:
        """A RET of the function that holds an instruction (0: it is a process's own, and never returns)."""
        if pc in self.returns:
            return self.returns[pc]
        seen, todo, found = {pc}, deque([pc]), 0
        while todo and not found:
            at = todo.popleft()
            if self.op[at] is Op.RET:
                found = at
                break
            for n in self._next(at):
                if n not in seen:
                    seen.add(n)
                    todo.append(n)
        self.returns.update(dict.fromkeys(seen if found == 0 else [pc], found))
        return found

    def here(self, pc: int) -> list[Frame]:
        """The function of an instruction, and those that it was compiled into, the outermost first; without the
        language's own library."""
        w = self.a.where[pc]
        chain = [*w.chain, (w.function, w.file, w.line)]
        return [f for f in chain if not f[1].startswith("kernel/")] or chain[:1]

    def callers(self, words: NDArray[np.int64], process: int) -> list[int]:
        """The CALLs that a process is inside of in a state, the outermost first."""
        a = self.a
        pc = a.pc_of(words.view(np.uint64), process)
        out: list[int] = []
        base = a.processes[process].base
        while pc != a.halt_pc and len(out) < 64:
            ret = self.return_of(pc)
            if not ret:
                break
            word, shift, mask, lo, _, rel = (int(x) for x in a.tab[int(a.code[ret, 1])])
            at = word + (base if rel else 0)
            nth = ((int(words[at]) & (1 << 64) - 1) >> shift & mask & (1 << 64) - 1) + lo if at < a.nw else 0
            call = self.calls.get((int(a.code[ret, 2]), nth))
            if call is None:
                break
            out.append(call)
            pc = call
        return out[::-1]

    def stack(self, calls: list[int], pc: int) -> list[Frame]:
        """Frames of a process that is inside of `calls` and stands at `pc`, the outermost first."""
        return [f for c in [*calls, pc] for f in self.here(c)]

    def within(self, calls: list[int], start: int, pc: int) -> list[int]:
        """The CALLs around `pc`, which a step reaches that began at `start` inside of `calls`: it may have returned
        from some of them and made others."""
        goal = self.return_of(pc), self._own(pc)
        for depth in range(len(calls), -1, -1):
            frame = start if depth == len(calls) else calls[depth]
            down = self._down(self._key(frame), goal)
            if down is not None:
                return [*calls[:depth], *down]
        return calls

    def _own(self, pc: int) -> str:
        """What tells entry functions, which have no RET, apart: the outermost function that an instruction is of."""
        w = self.a.where[pc]
        return "" if self.return_of(pc) else (w.chain[0][0] if w.chain else w.function)

    def _key(self, pc: int) -> tuple[int, str]:
        ret = self.return_of(pc)
        return (int(self.a.code[ret, 2]) if ret else -1), self._own(pc)

    @lru_cache(maxsize=4096)  # noqa: B019  (an instance lives as long as one report)
    def _down(self, frm: tuple[int, str], goal: tuple[int, str]) -> list[int] | None:
        """The shortest chain of CALLs from one function to another."""
        want = (int(self.a.code[goal[0], 2]) if goal[0] else -1), goal[1]
        if frm == want:
            return []
        seen, todo = {frm}, deque([(frm, list[int]())])
        while todo:
            at, path = todo.popleft()
            for call in self._made_by().get(at, ()):
                to = self._key(int(self.a.code[call, 3]))
                if to == want:
                    return [*path, call]
                if to not in seen:
                    seen.add(to)
                    todo.append((to, [*path, call]))
        return None

    @lru_cache(maxsize=1)  # noqa: B019
    def _made_by(self) -> dict[tuple[int, str], list[int]]:
        out: dict[tuple[int, str], list[int]] = {}
        for pc, op in enumerate(self.op):
            if op is Op.CALL:
                out.setdefault(self._key(pc), []).append(pc)
        return out


_stacks: dict[int, Stacks] = {}  # a Stacks keeps its automaton, whose id nobody else has then


def stacks_of(a: Automaton) -> Stacks:
    """The call stacks of an automaton, made once."""
    if id(a) not in _stacks:
        _stacks[id(a)] = Stacks(a)
    return _stacks[id(a)]


def event_frames(cx: Counterexample) -> list[list[Frame]]:
    """For each event of a counterexample the functions around it, the outermost first, without what runs operations."""
    a = cx.automaton
    stacks = stacks_of(a)
    _, first, _ = start_of(cx.protocol, cx.scenario, cx.memory)
    words = first.view(np.int64)
    out: list[list[Frame]] = []

    def frames(calls: list[int], pc: int) -> list[Frame]:
        got = stacks.stack(calls, pc)
        n = next((i for i, f in enumerate(got) if f[0] not in BELOW), len(got))
        return got[n:]

    for st in cx.steps:
        calls: list[int] = stacks.callers(words, st.process) if st.process >= 0 else []
        at = st.pc
        for acc in st.accesses:
            text = bool(a.where[acc.pc].file)  # a store that leaves a buffer is no text's
            if text:
                calls, at = stacks.within(calls, at, acc.pc), acc.pc
            if a.access[acc.pc] is None or not is_hidden(a, acc.cell):
                out.append(frames(calls, acc.pc) if text else [])
        for _, pc, _, _ in st.violations:
            told = pc >= 0 and st.process >= 0 and bool(a.where[pc].file)
            out.append(frames(stacks.within(calls, at, pc), pc) if told else [])
        words = st.words
    return out
