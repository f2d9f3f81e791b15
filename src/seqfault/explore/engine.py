"""Breadth-first exploration of an automaton's states.

A state that was seen is remembered by a 64-bit fingerprint; of every state its parent and the step that
led to it are kept, so a shortest path to it can be run again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.explore.exploration import Exploration, Found
from seqfault.explore.graph import AGED, CHOICE_AT, COMPLETES, RESTARTS, Recorder
from seqfault.explore.interp import get, judge, mix, step, violate
from seqfault.explore.jit import jit
from seqfault.explore.levels import (
    C_DISTINCT,
    C_EDGES,
    C_FINALS,
    C_HEAD,
    C_OUTCOMES,
    C_STORED,
    C_TAIL,
    C_TRANSITIONS,
    C_WHY,
    SLACK,
    V_CHOICE,
    V_COUNT,
    V_KIND,
    V_PC,
    V_POOL,
    V_PROCESS,
    V_STATE,
    WHY_DONE,
    WHY_EDGES,
    WHY_FRONTIER,
    WHY_OUTCOMES,
    WHY_PAUSE,
    WHY_TABLE,
    Levels,
)
from seqfault.explore.memory import LKMM
from seqfault.explore.races import RACES, compare
from seqfault.explore.racewatch import Races
from seqfault.explore.slots import last_open
from seqfault.explore.tables import (
    DISABLED,
    K_BUFFER,
    K_CHOICES,
    K_DEADLOCK,
    M_CLASSES,
    M_HALT,
    M_NW,
    M_OBS_BASE,
    M_OBSERVERS,
    M_PC,
    M_PROCESSES,
    O_MEMORY,
    O_NOSTOP,
    O_OBSERVERS,
    O_PROCS,
    O_SEQPC,
    O_STOP,
    OK,
    P_BASE,
    P_CPU,
    P_ROLE,
    P_WORDS,
    PROCESS_ROW,
    TRACE_ROW,
    X_AGED,
    X_COUNTED,
    X_COUNTS,
    X_DIGITS,
    X_EDGES,
    X_HASH,
    X_RADIX,
    X_SEQ,
    X_STAND,
    X_TRACE,
    X_USED,
    X_VIOL,
    X_VIOLATIONS,
    buffer,
    program_array,
    work_array,
)
from seqfault.explore.watch import NOTHING, OFF, W_ON, WATCHED_EVENTS, Watch, watch


@jit
def fingerprint(B, nw):  # type: ignore[no-untyped-def]
    h = np.uint64(0x9E3779B97F4A7C15)
    for w in range(nw):
        if B[w]:  # memory models have room for what is mostly not there
            h = mix(h ^ (np.uint64(B[w]) + np.uint64(w + 1) * np.uint64(0x9E3779B97F4A7C15)))
    return h | np.uint64(1)


@jit
def encode(X, used):  # type: ignore[no-untyped-def]
    """One number for the choices of a step."""
    c = np.int64(0)
    for k in range(used - 1, -1, -1):
        c = c * X[X_RADIX + k] + X[X_DIGITS + k]
    return c


@jit
def note(X, distinct, ctl, state, process, choice):  # type: ignore[no-untyped-def]
    """Enter a step's violations into the table of distinct ones: first occurrence and count."""
    for n in range(X[X_VIOLATIONS]):
        i = X_VIOL + 5 * n
        found = False
        for k in range(ctl[C_DISTINCT]):
            if distinct[k, V_KIND] == X[i] and distinct[k, V_PC] == X[i + 1] and distinct[k, V_POOL] == X[i + 2]:
                distinct[k, V_COUNT] += 1
                found = True
                break
        if not found and ctl[C_DISTINCT] < distinct.shape[0]:
            k = ctl[C_DISTINCT]
            for j in range(4):
                distinct[k, j] = X[i + j]
            distinct[k, V_STATE] = state
            distinct[k, V_PROCESS] = process
            distinct[k, V_CHOICE] = choice
            distinct[k, V_COUNT] = 1
            ctl[C_DISTINCT] = k + 1
    X[X_VIOLATIONS] = 0


@jit
def at_rest(B, S, P, X):  # type: ignore[no-untyped-def]
    """Oracles and outcome of the state S; B is scratch.  The outcome's hash is X[X_HASH]."""
    nw = P[M_NW]
    for w in range(nw):
        B[w] = S[w]
    judge(B, P, X)
    X[X_HASH] = 1
    base = P[M_OBS_BASE]
    for k in range(P[M_OBSERVERS]):
        o = P[O_OBSERVERS] + 2 * k
        for w in range(nw):
            B[w] = S[w]
        for w in range(P[o + 1]):
            B[base + w] = 0
        step(B, P, X, 0, base, P[o + 1], 0, P[o], P[O_NOSTOP], 0)


@jit
def rested(B, S, P, X, distinct, ctl, outcomes, state, finished):  # type: ignore[no-untyped-def]
    """State number `state`, S, where nothing can move: at rest if every CPU has `finished`, else a deadlock."""
    if finished:
        ctl[C_FINALS] += 1
        at_rest(B, S, P, X)
        note(X, distinct, ctl, state, -1, 0)
        h = X[X_HASH]
        mask = outcomes.shape[0] - 1
        s = h & mask
        while outcomes[s, 1] >= 0 and outcomes[s, 0] != h:
            s = (s + 1) & mask
        if outcomes[s, 1] < 0:
            outcomes[s, 0] = h
            outcomes[s, 1] = state
            ctl[C_OUTCOMES] += 1
    else:
        violate(X, P[K_DEADLOCK], -1, -1, 0, -1)
        note(X, distinct, ctl, state, -1, 0)


@jit
def expand(  # type: ignore[no-untyped-def]
    cur, ncur, base, nxt, table, parent, action, ctl, limit, maxsteps, exclusive, B, S, P, X, counts, distinct,
    outcomes, W, seen, index, begin, edges, able, boundary,
):
    """Expand states of one depth from ctl[C_HEAD] on; why it stopped is ctl[C_WHY].  With more than one number in
    `index`, every edge is kept (graph.py)."""
    nw = P[M_NW]
    mask = np.uint64(table.shape[0] - 1)
    room = np.int64(table.shape[0] * 6 // 10)
    head = ctl[C_HEAD]
    tail = ctl[C_TAIL]
    stored = ctl[C_STORED]
    nproc = P[M_PROCESSES]
    most = SLACK // nproc
    stops = P[O_STOP]
    pcslot = P[M_PC]
    halt = P[M_HALT]
    done = 0
    keep = index.shape[0] > 1
    ne = ctl[C_EDGES]
    why = WHY_DONE
    while head < ncur:
        if tail + SLACK > nxt.shape[0] or stored + SLACK > parent.shape[0]:
            why = WHY_FRONTIER
            break
        if keep and (ne + SLACK > edges.shape[0] or stored + SLACK > begin.shape[0]):
            why = WHY_EDGES
            break
        if stored + SLACK > room:
            why = WHY_TABLE
            break
        if ctl[C_OUTCOMES] * 2 > outcomes.shape[0]:
            why = WHY_OUTCOMES
            break
        if done >= maxsteps or stored > limit:
            why = WHY_PAUSE
            break
        done += 1
        for w in range(nw):
            S[w] = cur[head, w]
        busy = False  # a CPU or an agent can move
        finished = True  # every CPU has
        crowded = False  # a step has no room, which is no deadlock
        steppers = np.int64(0)
        alone = np.int64(-1)  # in exclusive mode, the CPU that is inside an operation
        for p in range(nproc):
            i = P[O_PROCS] + p * PROCESS_ROW
            if P[i + P_ROLE] == 0:
                pc = get(S, P, pcslot, P[i + P_BASE])
                if pc != halt:
                    finished = False
                    if exclusive and P[P[O_SEQPC] + pc] == 0:
                        alone = p
        for p in range(nproc):
            i = P[O_PROCS] + p * PROCESS_ROW
            pb = P[i + P_BASE]
            pc = get(S, P, pcslot, pb)
            if pc == halt:
                continue
            role = P[i + P_ROLE]
            if alone >= 0 and role == 0 and alone != p:
                continue
            depth = np.int64(0)
            taken = np.int64(0)
            while True:
                for w in range(nw):
                    B[w] = S[w]
                X[X_COUNTED] = 0
                X[X_TRACE] = 0
                X[X_SEQ] = -1
                status = step(B, P, X, p, pb, P[i + P_WORDS], P[i + P_CPU], pc, stops, depth)
                used = X[X_USED]
                choice = np.int64(0)
                if used:
                    choice = encode(X, used)
                if X[X_VIOLATIONS]:
                    crowded = crowded or (status == DISABLED and X[X_VIOL] == P[K_BUFFER])
                    note(X, distinct, ctl, base + head, p, choice)
                if W[W_ON] == RACES:  # what waits has looked, too
                    compare(S, P, X, W, seen, p, choice if status != DISABLED else np.int64(-1), base + head)
                if status != DISABLED:
                    for k in range(X[X_COUNTED]):
                        counts[X[X_COUNTS + k]] += 1
                    ctl[C_TRANSITIONS] += 1
                    steppers |= np.int64(1) << p
                    if role <= 1:
                        busy = True
                    if W[W_ON] == 1:
                        watch(S, P, X, W, seen, pc, p, choice, base + head)
                if status == OK:
                    h = fingerprint(B, nw)
                    s = h & mask
                    while True:
                        e = table[s]
                        if e == h:
                            break
                        if e == 0:
                            table[s] = h
                            for w in range(nw):
                                nxt[tail, w] = B[w]
                            parent[stored] = base + head
                            action[stored] = p + 256 * choice
                            if keep:
                                index[s] = stored
                            tail += 1
                            stored += 1
                            break
                        s = (s + np.uint64(1)) & mask
                    if keep:
                        flag = np.int64(0)
                        if role == 0 and (X[X_STAND] == halt or (X[X_SEQ] >= 0 and boundary[X[X_SEQ]])):
                            flag = COMPLETES
                        elif role == 0 and X[X_SEQ] >= 0:
                            flag = RESTARTS
                        if X[X_AGED]:
                            flag |= AGED
                        edges[ne, 0] = index[s]
                        edges[ne, 1] = p | flag | choice << CHOICE_AT
                        ne += 1
                # the next combination of choices
                k = last_open(X, used)
                if k < 0:
                    break
                taken += 1
                if taken >= most:
                    X[X_VIOLATIONS] = 0
                    violate(X, P[K_CHOICES], pc, -1, 0, p)
                    note(X, distinct, ctl, base + head, p, choice)
                    break
                X[X_DIGITS + k] += 1
                depth = k + 1
        if not busy and (finished or not crowded):
            rested(B, S, P, X, distinct, ctl, outcomes, base + head, finished)
        if keep:
            able[base + head] = steppers
            begin[base + head + 1] = ne
        head += 1
    ctl[C_EDGES] = ne
    ctl[C_HEAD] = head
    ctl[C_TAIL] = tail
    ctl[C_STORED] = stored
    ctl[C_WHY] = why


# a path of a hundred steps takes Python a tenth of a second
step_alone = step.sparing(1000)
at_rest_alone = at_rest.sparing(50)


class Executor:
    """Runs single steps of an automaton under one scenario's data."""

    def __init__(
        self, a: Automaton, rom: NDArray[np.int64], mode: str = "merged", dead: bool = True, trace_room: int = 0
    ):
        self.a, self.mode = a, mode
        self.stop = a.stop[mode]
        self.P = program_array(a, mode, dead and mode != "full")
        self.X = work_array(a, trace_room)
        self.B = buffer(a, rom)
        self.views = a.memory.startswith(LKMM)
        if self.views:
            from seqfault.explore.memory_lkmm import connect  # what other models have no need of

            connect(self.P)
        # views are reached by addresses of code
        self.step, self.at_rest = (step, at_rest) if self.views else (step_alone, at_rest_alone)

    def pc(self, words: NDArray[np.int64], p: int) -> int:
        """Where process `p` stands."""
        slot = self.a.tab[self.a.pc_slot]
        return int(words[self.a.processes[p].base] & slot[2])

    def watched(self, W: NDArray[np.int64]) -> None:
        """Tell the memory model who looks for data races (races.py), if somebody does."""
        if self.views and W[W_ON] == RACES:
            from seqfault.explore.memory_views import U_WATCHED

            self.P[int(self.P[O_MEMORY]) + U_WATCHED] = W.ctypes.data

    def learns(self) -> bool:
        """Whether the memory model met what it did not know at the beginning, and so wants to begin again; it knows it
        then."""
        if not self.views:
            return False
        from seqfault.explore.memory_settle import learned

        return learned(self.P, self.a.ncell)

    def news(self) -> bool:
        """Whether there is something that it did not know."""
        if not self.views:
            return False
        from seqfault.explore.memory_settle import news

        return news(self.P)

    def run(self, words: NDArray[np.int64], p: int, choice: int = 0) -> int:
        """One step of process `p` with the choices that `choice` encodes; `words` is changed in place if it is OK.

        Returns OK, DISABLED or ENDS.  Violations and events are in `X`.
        """
        a, x = self.a, self.X
        nw = a.nw
        info = a.processes[p]
        pc = self.pc(words, p)
        digits: list[int] = []
        code = choice
        while True:  # how many alternatives a choice has is known only when it is met
            x[X_DIGITS : X_DIGITS + len(digits)] = digits
            self.B[:nw] = words
            x[X_VIOLATIONS] = x[X_COUNTED] = x[X_TRACE] = 0
            where = info.base, info.words, info.cpu, pc, int(self.P[O_STOP])
            status = self.step(self.B, self.P, x, p, *where, len(digits))
            if int(x[X_USED]) <= len(digits):
                break
            r = int(x[X_RADIX + len(digits)])
            digits.append(code % r)
            code //= r
        if status == OK:
            words[:] = self.B[:nw]
        return int(status)

    def rest(self, words: NDArray[np.int64]) -> int:
        """Apply the oracles of states at rest; returns the outcome's hash."""
        self.X[X_TRACE] = 0
        self.at_rest(self.B, words, self.P, self.X)
        return int(self.X[X_HASH])

    def violations(self) -> list[tuple[int, int, int, int]]:
        """(kind, instruction, struct, object) of each violation of the last step."""
        n = int(self.X[X_VIOLATIONS])
        rows = self.X[X_VIOL : X_VIOL + 5 * n].reshape(-1, 5)
        return [(int(r[0]), int(r[1]), int(r[2]), int(r[3])) for r in rows]

    def trace(self) -> NDArray[np.int64]:
        """Events of the last step: rows of kind, instruction, cell, value."""
        at = X_EDGES + int(self.P[M_CLASSES]) ** 2
        return self.X[at : at + TRACE_ROW * int(self.X[X_TRACE])].reshape(-1, TRACE_ROW).copy()

    def start(self, init: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The initial state, each process run through the local work before its first step, which nobody can see."""
        words = init.astype(np.uint64).view(np.int64).copy()
        self.counted: list[int] = []  # events of that work
        for p, info in enumerate(self.a.processes):
            pc = self.pc(words, p)
            if pc == info.entry and not self.stop[pc]:
                ahead = words.copy()
                # local work that makes a choice, or is itself at fault, belongs to the first step
                if self.run(ahead, p) == OK and not self.X[X_USED] and not self.X[X_VIOLATIONS]:
                    words = ahead
                    self.counted += self.X[X_COUNTS : X_COUNTS + self.X[X_COUNTED]].tolist()
        return words


def explore(
    automaton: Automaton,
    init: NDArray[np.uint64],
    rom: NDArray[np.int64],
    *,
    mode: str = "merged",
    exclusive: bool = False,
    dead: bool = True,
    max_states: int = 1 << 40,
    max_memory: int = 1 << 60,
    timeout: float | None = None,
    progress: Callable[[Exploration, int], None] | None = None,
    watcher: Watch | Races | None = None,
    graph: bool = False,
) -> Exploration:
    """Every state that `init` can reach.

    `mode`: where steps begin: "merged", "full" (each statement) or "seq" (each operation); `exclusive`: a CPU inside an
    operation runs alone; `dead`: dead registers are zeroed (a reduction).  Limits: states, bytes, seconds; reaching one
    makes the result incomplete.  `progress(exploration so far, frontier)` is called several times a second.
    `watcher` collects which locks are held at each access, or what races.  `graph`: keep every edge, in at most half of
    `max_memory`.
    """
    t = Executor(automaton, rom, mode, dead, WATCHED_EVENTS if watcher else 0)
    t0 = time.perf_counter()
    while True:
        if watcher is not None and t.views:
            watcher.clear()  # of an exploration before, whose states had other numbers
        ex = _explore(t, init, exclusive, max_states, max_memory, timeout, progress, watcher, graph, t0)
        if ex.reason not in ("", LEARNT) or not t.learns():
            return ex


LEARNT = "what is touched by whom was not known at the beginning"


def _explore(
    t: Executor,
    init: NDArray[np.uint64],
    exclusive: bool,
    max_states: int,
    max_memory: int,
    timeout: float | None,
    progress: Callable[[Exploration, int], None] | None,
    watcher: Watch | Races | None,
    graph: bool,
    t0: float,
) -> Exploration:
    automaton = t.a
    watched, seen = (watcher.W, watcher.seen) if watcher else (OFF, NOTHING)
    nw = automaton.nw
    first = t.start(init)
    counts = np.zeros(max(1, len(automaton.counters)), np.int64)
    np.add.at(counts, t.counted, 1)
    t.X[X_EDGES:] = 0
    t.X[X_VIOLATIONS] = 0
    t.watched(watched)
    scratch = np.zeros(nw + 1, np.int64)
    ex = Exploration(automaton, counters=counts)
    lv = Levels(automaton, first, fingerprint_of(first, nw), 20_000, 1000)
    ctl = lv.ctl
    recorder = Recorder(automaton, graph, len(lv.table))
    stop_reason = ""
    met = 0  # states when the memory model met something new: from there on only to twice as many, to meet more
    while True:
        ctl[C_WHY] = WHY_DONE
        c0 = time.perf_counter()
        before = int(ctl[C_HEAD])
        expand(
            lv.cur, lv.ncur, lv.base, lv.nxt, lv.table, lv.parent, lv.action, ctl, max_states, lv.budget, exclusive,
            t.B, scratch, t.P, t.X, counts, lv.distinct, lv.outcomes, watched, seen, recorder.index, recorder.begin,
            recorder.edges, recorder.able, recorder.boundary,
        )  # fmt: skip
        now = time.perf_counter()
        lv.paused(before, now - c0)
        if recorder.nbytes > max_memory // 2:
            recorder = Recorder(automaton, False, 0)  # what may be asked of the graph is not answered then
        if not met and t.news():
            met = lv.stored
        if met and lv.stored > 2 * met + 1000:
            stop_reason = LEARNT
        else:
            stop_reason = lv.limit(recorder.nbytes, max_states, max_memory, timeout, now - t0)
        lv.tell(ex, progress, now - t0)
        if stop_reason:
            break
        if lv.why == WHY_TABLE:
            places = recorder.bigger_index(2 * len(lv.table))
            lv.larger_table(recorder.index, places)
            recorder.index = places
        elif lv.why == WHY_EDGES:
            recorder.grow(int(ctl[C_EDGES]), lv.stored, SLACK)
        elif lv.why != WHY_DONE:
            lv.make_room()
        elif not lv.deeper():
            break
    ex.graph = None if stop_reason else recorder.graph(lv.stored, int(ctl[C_EDGES]))
    lv.fill(ex, t.X, stop_reason, time.perf_counter() - t0)
    return ex


@jit
def fingerprint_of(words, nw):  # type: ignore[no-untyped-def]
    return fingerprint(words, nw)


Path = Sequence[tuple[int, int]]
__all__ = ["Executor", "Exploration", "Found", "Path", "explore"]
