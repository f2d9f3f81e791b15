"""Livelock and starvation: texts in which they happen, and texts in which they do not; random graphs against the definition."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from seqfault.compile.program import Process, Program, compile_program
from seqfault.explore.engine import Exploration, explore
from seqfault.explore.graph import CHOICE_AT, COMPLETES, RESTARTS, Graph
from seqfault.explore.lasso import judge
from seqfault.explore.progress import find_lassos
from seqfault.explore.replay import ScheduleError
from seqfault.kernel import *
from seqfault.kernel.seqlock import (
    read_seqcount_begin,
    read_seqcount_retry,
    seq_t,
    seqcount_t,
    write_seqcount_begin,
    write_seqcount_end,
)
from seqfault.kernel.spinlock import spin_lock, spin_trylock, spin_unlock, spinlock_t


@struct(pool=1)
class world:
    seq: seqcount_t
    a: spinlock_t
    b: spinlock_t
    x: integer(0, 1)
    y: integer(0, 1)
    flag: bool


Found = set[tuple[str, str]]


def progress(*entries: Callable[..., None], lock_waits: bool = False) -> tuple[Found, Exploration]:
    """What goes on for ever, as (kind, function of the CPU); each lasso is run again and judged by other code."""
    p = Program("t", [Process(f, i) for i, f in enumerate(entries)])
    a = replace(compile_program(p), renames=True)
    cells = p.layout().start
    words, rom = a.pack(cells), a.rom(cells)
    ex = explore(a, words, rom, graph=True)
    assert ex.complete and ex.graph is not None
    assert not ex.violations
    out = set()
    for v in find_lassos(a, ex.graph, ex.path_to, lock_waits):
        path = [*v.stem, *v.loop]
        again = judge(a, words, rom, path, len(v.stem))
        assert (v.kind, v.process) in {(k, p) for k, p, _ in again}
        with pytest.raises(ScheduleError):
            judge(a, words, rom, [*path, v.loop[0]], len(v.stem))  # does not come back
        out.add((v.kind, a.processes[v.process].name))
    return out, ex


def writes_for_ever():
    w = the(world)
    while True:
        seq_point()
        write_seqcount_begin(w.seq)
        w.x = 1 - w.x
        write_seqcount_end(w.seq)


def writes_once():
    w = the(world)
    write_seqcount_begin(w.seq)
    w.x = 1 - w.x
    write_seqcount_end(w.seq)


def reads_until_it_can():
    w = the(world)
    while True:
        s = read_seqcount_begin(w.seq)
        x = w.x
        if not read_seqcount_retry(w.seq, s):
            w.y = x
            return


def reads_twice_then_locks():
    w = the(world)
    for _ in range(2):
        s = read_seqcount_begin(w.seq)
        x = w.x
        if not read_seqcount_retry(w.seq, s):
            w.y = x
            return
    spin_lock(w.a)
    spin_unlock(w.a)


def test_reader_starves_under_an_endless_writer():
    found, ex = progress(writes_for_ever, reads_until_it_can)
    assert found == {("starvation", "reads_until_it_can")}
    assert ex.states < 500  # the count is finite


def test_reader_that_gives_up_does_not():
    assert progress(writes_for_ever, reads_twice_then_locks)[0] == set()


def test_reader_of_a_writer_that_ends_does_not():
    assert progress(writes_once, reads_until_it_can)[0] == set()


def takes_ab():
    w = the(world)
    while True:
        spin_lock(w.a)
        if spin_trylock(w.b):
            break
        spin_unlock(w.a)
    spin_unlock(w.b)
    spin_unlock(w.a)


def takes_ba():
    w = the(world)
    while True:
        spin_lock(w.b)
        if spin_trylock(w.a):
            break
        spin_unlock(w.b)
    spin_unlock(w.a)
    spin_unlock(w.b)


def test_back_off_livelock():
    """Each takes its first lock, fails at the other's, gives its own back, at the same pace."""
    assert progress(takes_ab, takes_ba)[0] == {("livelock", "takes_ab")}
    assert progress(takes_ab, takes_ab)[0] == set()


def tries_ab_then_waits():
    w = the(world)
    spin_lock(w.b)
    if spin_trylock(w.a):
        spin_unlock(w.a)
    spin_unlock(w.b)


def test_one_attempt_is_no_livelock():
    assert progress(takes_ab, tries_ab_then_waits)[0] == set()


def polls():
    w = the(world)
    while not READ_ONCE(w.flag):
        w.y = 1 - w.y


def sets():
    the(world).flag = True


def sets_nothing():
    the(world).x = 1


def test_fairness():
    """Polling for ever before the other CPU, which can always go on, has set the flag is not fair; for a flag that nobody sets it is."""
    assert progress(polls, sets)[0] == set()
    assert progress(polls, sets_nothing)[0] == {("livelock", "polls")}
    assert progress(polls)[0] == {("livelock", "polls")}


def locks_for_ever():
    w = the(world)
    while True:
        seq_point()
        spin_lock(w.a)
        spin_unlock(w.a)


def locks_once():
    w = the(world)
    spin_lock(w.a)
    spin_unlock(w.a)


def test_waiting_for_a_lock_counts_only_when_asked():
    assert progress(locks_for_ever, locks_once)[0] == set()
    assert progress(locks_for_ever, locks_once, lock_waits=True)[0] == {("starvation", "locks_once")}
    assert progress(locks_once, locks_once, lock_waits=True)[0] == set()


def test_operations_that_follow_each_other():
    """Two CPUs that repeat operations which end are no livelock."""
    assert progress(locks_for_ever, locks_for_ever)[0] == set()
    assert progress(writes_for_ever)[0] == set()


# -- counts are renamed: the same verdicts and outcomes as with counts that grow
@struct(pool=1)
class record:
    seq: seqcount_t
    other: seqcount_t
    saved: seq_t
    a: integer(0, 3)
    b: integer(0, 3)
    out: integer(0, 7)


def end():
    r = the(record)
    emit(r.a)
    emit(r.b)
    emit(r.out)




def writer_2():
    r = the(record)
    for i in range(2):
        write_seqcount_begin(r.seq)
        r.a = i + 1
        r.b = i + 1
        write_seqcount_end(r.seq)


def writer_3():
    r = the(record)
    for i in range(3):
        write_seqcount_begin(r.seq)
        r.a = i + 1
        r.b = i + 1
        write_seqcount_end(r.seq)


def writer_2_late():
    r = the(record)
    for i in range(2):
        r.a = i + 1
        write_seqcount_begin(r.seq)
        r.b = i + 1
        write_seqcount_end(r.seq)


def writer_2_early():
    r = the(record)
    for i in range(2):
        write_seqcount_begin(r.seq)
        r.a = i + 1
        write_seqcount_end(r.seq)
        r.b = i + 1


def writer_of_other():
    r = the(record)
    for _ in range(2):
        write_seqcount_begin(r.other)
        write_seqcount_end(r.other)


def copy_of_count(x: seq_t) -> seq_t:
    """Not inlined: a copy in a frame that waits for another to return."""
    r = the(record)
    y = READ_ONCE(r.other.sequence)
    while y & 1:
        y = READ_ONCE(r.other.sequence)
    return x


def reader_in_registers():
    r = the(record)
    s = READ_ONCE(r.seq.sequence)
    if s & 1:
        return
    t = copy_of_count(s)
    a = r.a
    b = r.b
    if not read_seqcount_retry(r.seq, t) and s == t:
        check(a == b, "torn", r)
        r.out = a + 1


def reader_in_memory():
    r = the(record)
    r.saved = READ_ONCE(r.seq.sequence)
    if r.saved & 1:
        return
    a = r.a
    b = r.b
    s = r.saved
    if not read_seqcount_retry(r.seq, s):
        check(a == b, "torn", r)
        r.out = a + 1


@pytest.mark.parametrize("reader", [reader_in_registers, reader_in_memory])
@pytest.mark.parametrize("writer,torn", [(writer_2, False), (writer_3, False), (writer_2_late, True), (writer_2_early, True)])
@pytest.mark.parametrize("other", [False, True])
def test_renamed_counts_change_nothing(reader, writer, torn: bool, other: bool):
    procs = [Process(f, i) for i, f in enumerate([writer, reader, *([writer_of_other] if other else [])])]
    p = Program("t", procs, observers=[end])
    plain = compile_program(p)
    cells = p.layout().start
    got = []
    for a in (plain, replace(plain, renames=True)):
        ex = explore(a, a.pack(cells), a.rom(cells))
        got.append(({a.kinds[v.kind] for v in ex.violations}, set(ex.outcomes), ex.depth))
    assert got[0] == got[1]
    assert got[0][0] == ({"torn"} if torn else set())


def test_counts_that_are_renamed_do_not_overflow():
    p = Program("t", [Process(writes_for_ever, 0)], sizes={"SEQ_MAX": 7})
    a = compile_program(p)
    cells = p.layout().start
    ex = explore(a, a.pack(cells), a.rom(cells))
    assert {a.kinds[v.kind] for v in ex.violations} == {"range-overflow"}
    a = replace(a, renames=True)
    assert not explore(a, a.pack(cells), a.rom(cells)).violations


# -- random graphs against the definition: a set of states that an execution stays in for ever
class Fake:
    """Processes of an automaton that is none."""

    def __init__(self, roles: list[int]):
        self.processes = [type("P", (), {"role": r})() for r in roles]


def random_graph(rng: random.Random, roles: list[int]) -> Graph:
    n = rng.randint(2, 7)
    rows: list[list[tuple[int, int]]] = [[] for _ in range(n)]
    able = [0] * n
    for i in range(n):
        for p, role in enumerate(roles):
            for _ in range(rng.choice([0, 0, 1, 1, 2])):
                flag = rng.choice([0, 0, 0, COMPLETES, RESTARTS]) if role == 0 else 0
                rows[i].append((rng.randrange(n), p | flag))
                able[i] |= 1 << p
            if rng.random() < 0.1:
                able[i] |= 1 << p  # a step that ends its path
    # states in order of depth, as an exploration has them
    order, k = [0], 0
    while k < len(order):
        order += [d for d in dict.fromkeys(d for d, _ in rows[order[k]]) if d not in order]
        k += 1
    at = {s: i for i, s in enumerate(order)}
    begin, edges = [0], []
    for s in order:
        edges += [(at[d], w) for d, w in rows[s]]
        begin.append(len(edges))
    return Graph(
        np.array(begin, np.int64), np.array(edges, np.int32).reshape(-1, 2), np.array([able[s] for s in order], np.int64)
    )


def by_definition(g: Graph, roles: list[int], lock_waits: bool) -> set[tuple[str, int]]:
    """Every set of states that can be left and come back to by itself, whatever its edges: is there a fair way to stay?"""
    out: set[tuple[str, int]] = set()
    cpus = [p for p, r in enumerate(roles) if r == 0]
    every = [(int(np.searchsorted(g.begin, e, "right")) - 1, int(d), int(w)) for e, (d, w) in enumerate(g.edges)]
    livelock = False
    for size in range(1, g.states + 1):
        for inside in map(set, itertools.combinations(range(g.states), size)):
            mine = [x for x in every if x[0] in inside and x[1] in inside]
            for what, victim in [("livelock", -1), *((k, p) for k in ("steps", "waits") for p in cpus)]:
                if what == "livelock":
                    used = [x for x in mine if not (x[2] & COMPLETES)]
                elif what == "steps":
                    used = [x for x in mine if x[2] & 255 != victim or not x[2] & (COMPLETES | RESTARTS)]
                else:
                    used = [x for x in mine if x[2] & 255 != victim]
                if not used or not connected(inside, used):
                    continue
                steps = {w & 255 for _, _, w in used}
                if any(r <= 1 and p not in steps and all(int(g.able[s]) >> p & 1 for s in inside) for p, r in enumerate(roles)):
                    continue
                others = any(w & COMPLETES for _, _, w in used)
                if what == "livelock" and steps & set(cpus):
                    livelock = True
                elif what == "steps" and victim in steps and others:
                    out.add(("starvation", victim))
                elif what == "waits" and lock_waits and others and any(int(g.able[s]) >> victim & 1 for s in inside):
                    out.add(("starvation", victim))
    return out | ({("livelock", -1)} if livelock else set())


def connected(inside: set[int], edges: list[tuple[int, int, int]]) -> bool:
    def reach(forward: bool) -> set[int]:
        seen, work = set(), [min(inside)]
        while work:
            s = work.pop()
            if s not in seen:
                seen.add(s)
                work += [b if forward else a for a, b, _ in edges if (a if forward else b) == s]
        return seen

    return reach(True) >= inside and reach(False) >= inside


@pytest.mark.parametrize("roles", [[0, 0], [0, 0, 1], [0, 0, 2]])
def test_random_graphs(roles: list[int]):
    rng = random.Random(len(roles))
    seen: dict[str, int] = {}
    for _ in range(150):
        g = random_graph(rng, roles)
        for waits in (False, True):
            found = find_lassos(Fake(roles), g, lambda s: [(0, s)], waits)
            want = by_definition(g, roles, waits)
            assert {(v.kind, -1 if v.kind == "livelock" else v.process) for v in found} == want
            for v in found:
                seen[v.kind] = seen.get(v.kind, 0) + 1
                follow(g, v.stem[0][1], v.loop)
    assert seen["livelock"] > 10 and seen["starvation"] > 10


def follow(g: Graph, state: int, loop: list[tuple[int, int]]) -> None:
    """The loop comes back; (edges of one process from one state may lead to several)."""
    at = {state}
    for p, choice in loop:
        at = {
            int(g.edges[e, 0])
            for s in at
            for e in range(g.begin[s], g.begin[s + 1])
            if (int(g.edges[e, 1]) & 255, int(g.edges[e, 1]) >> CHOICE_AT) == (p, choice)
        }
    assert state in at and loop
