"""Breadth-first exploration of an automaton's states.

A state that was seen is remembered by a 64-bit fingerprint; of every state its parent and the step that
led to it are kept, so a shortest path to it can be run again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.explore.interp import (
    D_HASH,
    D_PC,
    D_TRACE,
    D_USED,
    D_VIOLATIONS,
    DISABLED,
    DYN,
    ENDS,
    K_DEADLOCK,
    M_HALT,
    M_NW,
    M_OBS_BASE,
    M_OBSERVERS,
    M_PC,
    MAX_CHOICES,
    META,
    OK,
    get,
    mix,
    step,
)

SLACK = 4096  # room for the successors of one state
MAX_VIOLATIONS = 512
BUFFER = 64
OUTCOME_SLOTS = 1 << 16
CHUNK_S = 0.15

# ctl: where a chunk of the exploration stands
C_HEAD, C_TAIL, C_TRANSITIONS, C_DISTINCT, C_FINALS, C_OUTCOMES, C_STORED, C_WHY = range(8)
WHY_DONE, WHY_PAUSE, WHY_FRONTIER, WHY_TABLE, WHY_OUTCOMES = range(5)
# columns of the distinct violations
V_KIND, V_PC, V_POOL, V_INDEX, V_STATE, V_PROCESS, V_CHOICE, V_COUNT = range(8)


@njit(cache=True)
def fingerprint(B, nw):  # type: ignore[no-untyped-def]
    h = np.uint64(0x9E3779B97F4A7C15)
    for w in range(nw):
        h = mix(h ^ np.uint64(B[w])) + np.uint64(w)
    return h | np.uint64(1)


@njit(cache=True, nogil=True, boundscheck=False, error_model="numpy")
def encode(digits, radix, used):  # type: ignore[no-untyped-def]
    c = np.int64(0)
    for k in range(used - 1, -1, -1):
        c = c * radix[k] + digits[k]
    return c


@njit(cache=True, nogil=True, boundscheck=False, error_model="numpy")
def note(viol, n, distinct, ctl, state, process, choice):  # type: ignore[no-untyped-def]
    """Enter violations into the table of distinct ones: first occurrence and count."""
    for i in range(n):
        found = False
        for k in range(ctl[C_DISTINCT]):
            if distinct[k, V_KIND] == viol[i, 0] and distinct[k, V_PC] == viol[i, 1] and distinct[k, V_POOL] == viol[i, 2]:
                distinct[k, V_COUNT] += 1
                found = True
                break
        if not found and ctl[C_DISTINCT] < distinct.shape[0]:
            k = ctl[C_DISTINCT]
            for j in range(4):
                distinct[k, j] = viol[i, j]
            distinct[k, V_STATE] = state
            distinct[k, V_PROCESS] = process
            distinct[k, V_CHOICE] = choice
            distinct[k, V_COUNT] = 1
            ctl[C_DISTINCT] = k + 1


@njit(cache=True, nogil=True, boundscheck=False, error_model="numpy")
def at_rest(B, S, nw, code, tab, nostop, masks, rettab, pools, start_raw, meta, obs, rules, kindbuf, digits, radix, viol, counts, edges, trace, dyn):  # type: ignore[no-untyped-def]
    """Oracles and outcome of the state in S[:nw]; B is scratch.  The outcome's hash is dyn[D_HASH]."""
    for w in range(nw):
        B[w] = S[w]
    dyn[D_VIOLATIONS] = 0
    for r in range(rules.shape[0]):
        st = rules[r, 2]
        if st >= 0 and get(B, tab, st, 0) != 1:
            continue
        v = get(B, tab, rules[r, 0], 0)
        if (rules[r, 1] == 0 and v != 0) or (rules[r, 1] == 1 and v & 1):
            n = dyn[D_VIOLATIONS]
            if n < viol.shape[0]:
                viol[n, 0] = rules[r, 3]
                viol[n, 1] = -1 - rules[r, 0]
                viol[n, 2] = rules[r, 4]
                viol[n, 3] = rules[r, 5]
                viol[n, 4] = -1
                dyn[D_VIOLATIONS] = n + 1
    dyn[D_HASH] = 1
    for o in range(meta[M_OBSERVERS]):
        for w in range(nw):
            B[w] = S[w]
        for w in range(obs[o, 1]):
            B[meta[M_OBS_BASE] + w] = 0
        step(B, code, tab, nostop, masks, True, rettab, pools, start_raw, meta, 0, meta[M_OBS_BASE], obs[o, 1], 0, obs[o, 0], digits, radix, 0, viol, counts, edges, trace, dyn)


@njit(cache=True, nogil=True, boundscheck=False, error_model="numpy")
def expand(cur, ncur, base, nxt, table, parent, action, ctl, limit, maxsteps, B, code, tab, stop, seqpc, masks, use_masks, exclusive, rettab, pools, start_raw, meta, procs, obs, rules, digits, radix, viol, counts, scratch_counts, edges, trace, dyn, distinct, outcomes, nostop):  # type: ignore[no-untyped-def]
    """Expand states of one depth from ctl[C_HEAD] on; why it stopped is ctl[C_WHY]."""
    nw = meta[M_NW]
    mask = np.uint64(table.shape[0] - 1)
    room = np.int64(table.shape[0] * 6 // 10)
    head = ctl[C_HEAD]
    tail = ctl[C_TAIL]
    stored = ctl[C_STORED]
    nproc = procs.shape[0]
    done = 0
    why = WHY_DONE
    while head < ncur:
        if tail + SLACK > nxt.shape[0] or stored + SLACK > parent.shape[0]:
            why = WHY_FRONTIER
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
        S = cur[head]
        busy = False  # a CPU or an agent can move
        finished = True  # every CPU has
        alone = -1  # in exclusive mode, the CPU that is inside an operation
        for p in range(nproc):
            if procs[p, 3] == 0:
                pc = get(S, tab, meta[M_PC], procs[p, 1])
                if pc != meta[M_HALT]:
                    finished = False
                    if exclusive and seqpc[pc] == 0:
                        alone = p
        for p in range(nproc):
            pb = procs[p, 1]
            pc = get(S, tab, meta[M_PC], pb)
            if pc == meta[M_HALT]:
                continue
            role = procs[p, 3]
            if alone >= 0 and role == 0 and alone != p:
                continue
            depth = 0
            while True:
                for w in range(nw):
                    B[w] = S[w]
                dyn[D_VIOLATIONS] = 0
                status = step(B, code, tab, stop, masks, use_masks, rettab, pools, start_raw, meta, p, pb, procs[p, 2], procs[p, 4], pc, digits, radix, depth, viol, scratch_counts, edges, trace, dyn)
                used = dyn[D_USED]
                if dyn[D_VIOLATIONS] or status == OK:
                    choice = encode(digits, radix, used)
                    if dyn[D_VIOLATIONS]:
                        note(viol, dyn[D_VIOLATIONS], distinct, ctl, base + head, p, choice)
                if status != DISABLED:
                    for k in range(counts.shape[0]):
                        counts[k] += scratch_counts[k]
                    ctl[C_TRANSITIONS] += 1
                    if role <= 1:
                        busy = True
                for k in range(counts.shape[0]):
                    scratch_counts[k] = 0
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
                            tail += 1
                            stored += 1
                            break
                        s = (s + np.uint64(1)) & mask
                # the next combination of choices
                k = used - 1
                while k >= 0 and digits[k] + 1 >= radix[k]:
                    k -= 1
                if k < 0:
                    break
                digits[k] += 1
                depth = k + 1
        if not busy:
            if finished:
                ctl[C_FINALS] += 1
                at_rest(B, S, nw, code, tab, nostop, masks, rettab, pools, start_raw, meta, obs, rules, 0, digits, radix, viol, scratch_counts, edges, trace, dyn)
                for k in range(counts.shape[0]):
                    scratch_counts[k] = 0
                if dyn[D_VIOLATIONS]:
                    note(viol, dyn[D_VIOLATIONS], distinct, ctl, base + head, -1, 0)
                oh = dyn[D_HASH]
                om = outcomes.shape[0] - 1
                s2 = np.int64(np.uint64(oh) & np.uint64(om))
                while outcomes[s2, 1] >= 0 and outcomes[s2, 0] != oh:
                    s2 = (s2 + 1) & om
                if outcomes[s2, 1] < 0:
                    outcomes[s2, 0] = oh
                    outcomes[s2, 1] = base + head
                    ctl[C_OUTCOMES] += 1
            elif not exclusive or alone < 0 or True:
                viol[0, 0] = meta[K_DEADLOCK]
                viol[0, 1] = -1
                viol[0, 2] = -1
                viol[0, 3] = 0
                note(viol, 1, distinct, ctl, base + head, -1, 0)
        head += 1
    ctl[C_HEAD] = head
    ctl[C_TAIL] = tail
    ctl[C_STORED] = stored
    ctl[C_WHY] = why


@njit(cache=True, nogil=True, boundscheck=False, error_model="numpy")
def rehash(old, new):  # type: ignore[no-untyped-def]
    mask = np.uint64(new.shape[0] - 1)
    for i in range(old.shape[0]):
        h = old[i]
        if h != 0:
            s = h & mask
            while new[s] != 0:
                s = (s + np.uint64(1)) & mask
            new[s] = h


@dataclass(frozen=True)
class Found:
    """A distinct violation: numbers of its kind, instruction (-1: none) and struct (-1), the object, where it was
    first met (state, then a step of `process`, or -1 for the state itself) and how often."""

    kind: int
    pc: int
    pool: int
    index: int
    state: int
    process: int
    choice: int
    count: int
    cell: int = -1


@dataclass
class Exploration:
    """What an exploration found.

    `states`, `transitions`, `finals` (states at rest), `depth` (steps of the longest shortest path); `violations`; `outcomes`:
    hash -> first state; `counters`: how often each counted event was on a transition; `edges`: (held lock class,
    taken class, instruction); `complete`: every state was seen, else `reason` says why not.
    """

    automaton: Automaton
    states: int = 0
    transitions: int = 0
    finals: int = 0
    depth: int = 0
    violations: list[Found] = field(default_factory=list)
    outcomes: dict[int, int] = field(default_factory=dict)
    counters: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    edges: list[tuple[int, int, int]] = field(default_factory=list)
    complete: bool = True
    reason: str = ""
    seconds: float = 0.0
    bytes: int = 0
    parent: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)
    action: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)

    def path_to(self, state: int) -> list[tuple[int, int]]:
        """A shortest path to a state: (process, choice code) of each step."""
        out = []
        while state > 0:
            a = int(self.action[state])
            out.append((a & 255, a >> 8))
            state = int(self.parent[state])
        return out[::-1]

    def path_of(self, v: Found) -> list[tuple[int, int]]:
        """A shortest path that ends with the violation."""
        path = self.path_to(v.state)
        if v.process >= 0:
            path.append((v.process, v.choice))
        return path


class Tables:
    """An automaton as the arrays that compiled code reads."""

    def __init__(self, a: Automaton, rom: NDArray[np.int64], mode: str):
        self.a = a
        self.code, self.rettab, self.seqpc = a.code, a.rettab, a.seqpc
        self.tab, self.masks = a.tab, a.masks
        self.stop = a.stop[mode]
        self.nostop = np.zeros_like(self.stop)
        self.pools = np.array([[p.base, p.stride, p.n, p.state, int(p.typesafe)] for p in a.pools] or [[0] * 5], np.int64)
        start = np.zeros(max(1, a.ncell), np.int64)
        for i, c in enumerate(a.cells):
            start[i] = c.start - a.tab[i, 3]
        self.start_raw = start
        kind = {k: i for i, k in enumerate(a.kinds)}
        meta = np.zeros(META, np.int64)
        meta[:6] = a.pc_slot, a.held_slot, a.cpu_slot, a.process_slot, a.nw, a.halt_pc
        for i, k in enumerate(
            (
                "range-overflow",
                "uninitialised-read",
                "arithmetic-overflow",
                "division-by-zero",
                "bad-shift",
                "null-dereference",
                "use-after-free",
                "index-out-of-range",
                "pool-exhausted",
                "double-free",
                "endless-step",
                "deadlock",
            )
        ):
            meta[6 + i] = kind[k]
        meta[18:21] = a.observer_base, len(a.observers), len(a.lock_classes)
        self.meta = meta
        self.procs = np.array([[p.entry, p.base, p.words, p.role, p.cpu] for p in a.processes], np.int64)
        self.obs = np.array([[pc, a.observer_words] for pc in a.observers] or [[0, 0]], np.int64)
        pool_of = {p.name: i for i, p in enumerate(a.pools)}
        self.rules = np.array(
            [[r.cell, r.rule, r.state, r.kind, pool_of[a.cells[r.cell].pool], a.cells[r.cell].index] for r in a.rest_rules],
            np.int64,
        ).reshape(-1, 6)
        self.B = np.zeros(a.nw + a.nx, np.int64)
        for w, v in a.const_words:
            self.B[w] = v
        if a.rom_cells:
            at = int(a.tab[a.rom_cells[0], 0])
            self.B[at : at + len(rom)] = rom
        self.digits = np.zeros(MAX_CHOICES, np.int64)
        self.radix = np.ones(MAX_CHOICES, np.int64)
        self.viol = np.zeros((BUFFER, 5), np.int64)
        self.counts = np.zeros(max(1, len(a.counters)), np.int64)
        self.scratch_counts = np.zeros_like(self.counts)
        n = max(1, len(a.lock_classes))
        self.edges = np.zeros((n, n), np.int64)
        self.no_trace = np.zeros((0, 4), np.int64)
        self.dyn = np.zeros(DYN, np.int64)

    def run(self, words: NDArray[np.int64], p: int, choice: int, use_masks: bool, trace: NDArray[np.int64] | None = None) -> int:
        """One step of process `p` with the choices that `choice` encodes; `words` is changed in place."""
        a = self.a
        nw = a.nw
        self.B[:nw] = words
        info = a.processes[p]
        pc = int(get_pc(self.B, self.tab, a.pc_slot, info.base))
        self.dyn[:] = 0
        digits, code, n = [], choice, 0
        # the radices are known only as the choices are met: decode them one by one
        while True:
            self.digits[: len(digits)] = digits
            self.B[:nw] = words
            self.dyn[:] = 0
            status = step(
                self.B, self.code, self.tab, self.stop, self.masks, use_masks, self.rettab, self.pools, self.start_raw,
                self.meta, p, info.base, info.words, info.cpu, pc, self.digits, self.radix, len(digits), self.viol,
                self.counts, self.edges, self.no_trace if trace is None else trace, self.dyn,
            )
            used = int(self.dyn[D_USED])
            if used <= n:
                break
            r = int(self.radix[n])
            digits.append(code % r)
            code //= r
            n += 1
        words[:] = self.B[:nw]
        return int(status)


@njit(cache=True)
def get_pc(B, tab, slot, pb):  # type: ignore[no-untyped-def]
    return get(B, tab, slot, pb)


def settle_entries(t: Tables, words: NDArray[np.int64], use_masks: bool) -> None:
    """Run each process through the local work before its first step, which nobody can see."""
    for p, info in enumerate(t.a.processes):
        pc = int(get_pc(words, t.tab, t.a.pc_slot, info.base))
        if pc == info.entry and not t.stop[pc]:
            t.run(words, p, 0, use_masks)


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
) -> Exploration:
    """Every state that `init` can reach.

    `mode`: where steps begin: "merged", "full" (each statement) or "seq" (each operation); `exclusive`: a CPU inside an
    operation runs alone; `dead`: dead registers are zeroed (a reduction).  Limits: states, bytes, seconds; reaching one
    makes the result incomplete.  `progress(exploration so far, frontier)` is called several times a second.
    """
    t0 = time.perf_counter()
    use_masks = dead and mode != "full"
    t = Tables(automaton, rom, mode)
    nw = automaton.nw
    first = init.astype(np.uint64).view(np.int64).copy()
    if mode == "merged":
        settle_entries(t, first, use_masks)
    t.counts[:] = 0
    t.edges[:] = 0
    ctl = np.zeros(16, np.int64)
    table = np.zeros(1 << 14, np.uint64)
    cur = np.zeros((SLACK, nw), np.int64)
    nxt = np.zeros((2 * SLACK, nw), np.int64)
    cur[0] = first
    parent = np.zeros(2 * SLACK, np.int64)
    action = np.zeros(2 * SLACK, np.int64)
    table[int(fingerprint_of(first, nw)) & (len(table) - 1)] = fingerprint_of(first, nw)
    distinct = np.zeros((MAX_VIOLATIONS, 8), np.int64)
    outcomes = np.full((1 << 10, 2), -1, np.int64)
    ex = Exploration(automaton)
    ncur, base, depth = 1, 0, 0
    ctl[C_STORED] = 1
    budget = 20_000
    stop_reason = ""
    while True:
        ctl[C_WHY] = WHY_DONE
        c0 = time.perf_counter()
        before = int(ctl[C_HEAD])
        expand(
            cur, ncur, base, nxt, table, parent, action, ctl, max_states, budget, t.B, t.code, t.tab, t.stop, t.seqpc,
            t.masks, use_masks, exclusive, t.rettab, t.pools, t.start_raw, t.meta, t.procs, t.obs, t.rules, t.digits,
            t.radix, t.viol, t.counts, t.scratch_counts, t.edges, t.no_trace, t.dyn, distinct, outcomes, t.nostop,
        )
        now = time.perf_counter()
        why = int(ctl[C_WHY])
        if why == WHY_PAUSE:
            worked = max(1, int(ctl[C_HEAD]) - before)
            budget = int(min(5_000_000, max(1000, worked * CHUNK_S / max(1e-6, now - c0))))
        used = table.nbytes + cur.nbytes + nxt.nbytes + parent.nbytes + action.nbytes
        if ctl[C_STORED] > max_states:
            stop_reason = f"limit of {max_states:,} states"
        elif timeout is not None and now - t0 > timeout:
            stop_reason = f"time limit of {timeout:g} s"
        elif why == WHY_TABLE and used + table.nbytes > max_memory:
            stop_reason = f"memory limit of {max_memory / (1 << 20):,.0f} MiB"
        elif why == WHY_FRONTIER and used + nxt.nbytes + parent.nbytes > max_memory:
            stop_reason = f"memory limit of {max_memory / (1 << 20):,.0f} MiB"
        if progress is not None:
            ex.states, ex.transitions, ex.depth, ex.seconds = int(ctl[C_STORED]), int(ctl[C_TRANSITIONS]), depth, now - t0
            progress(ex, int(ctl[C_TAIL]) + ncur - int(ctl[C_HEAD]))
        if stop_reason:
            break
        if why == WHY_TABLE:
            bigger = np.zeros(len(table) * 2, np.uint64)
            rehash(table, bigger)
            table = bigger
        elif why == WHY_FRONTIER:
            if int(ctl[C_TAIL]) + SLACK > len(nxt):
                nxt = np.concatenate([nxt, np.zeros_like(nxt)])
            if int(ctl[C_STORED]) + SLACK > len(parent):
                parent = np.concatenate([parent, np.zeros_like(parent)])
                action = np.concatenate([action, np.zeros_like(action)])
        elif why == WHY_OUTCOMES:
            bigger2 = np.full((len(outcomes) * 2, 2), -1, np.int64)
            for h, s in outcomes[outcomes[:, 1] >= 0]:
                k = int(np.uint64(np.int64(h).view(np.uint64)) & np.uint64(len(bigger2) - 1))
                while bigger2[k, 1] >= 0:
                    k = (k + 1) & (len(bigger2) - 1)
                bigger2[k] = h, s
            outcomes = bigger2
        elif why == WHY_DONE:
            base += ncur
            ncur = int(ctl[C_TAIL])
            ctl[C_HEAD] = ctl[C_TAIL] = 0
            if ncur == 0:
                break
            depth += 1
            cur, nxt = nxt, cur
            if len(nxt) < 2 * SLACK:
                nxt = np.zeros((2 * SLACK, nw), np.int64)
    n = int(ctl[C_STORED])
    ex.states, ex.transitions, ex.finals, ex.depth = n, int(ctl[C_TRANSITIONS]), int(ctl[C_FINALS]), depth
    ex.parent, ex.action = parent[:n].copy(), action[:n].copy()
    ex.counters = t.counts.copy()
    ex.outcomes = {int(h): int(s) for h, s in outcomes if s >= 0}
    ex.complete, ex.reason = not stop_reason, stop_reason
    for row in distinct[: int(ctl[C_DISTINCT])]:
        k, pc, pool, index, state, process, choice, count = (int(x) for x in row)
        cell = -1
        if pc < -1 or (pc == -1 and automaton.kinds[k] in ("lock-left-held", "sequence-left-odd")):
            cell, pc = -1 - pc, -1
        ex.violations.append(Found(k, pc, pool, index, state, process, choice, count, cell))
    for i, j in zip(*np.nonzero(t.edges), strict=True):
        ex.edges.append((int(i), int(j), int(t.edges[i, j]) - 1))
    ex.bytes = table.nbytes + cur.nbytes + nxt.nbytes + parent.nbytes + action.nbytes
    ex.seconds = time.perf_counter() - t0
    return ex


@njit(cache=True)
def fingerprint_of(words, nw):  # type: ignore[no-untyped-def]
    return fingerprint(words, nw)


Path = Sequence[tuple[int, int]]
__all__ = ["D_PC", "D_TRACE", "ENDS", "Any", "Exploration", "Found", "Path", "Tables", "explore", "settle_entries"]
