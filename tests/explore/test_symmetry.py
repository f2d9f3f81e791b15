"""One of the states that differ in which of some equal processes stands where: random programs, and models of which the
whole exploration is known.

More programs: SEQFAULT_SYMMETRY=2000.
"""

from __future__ import annotations

import os
import random
from itertools import permutations, product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from test_movers import places, same

from modules import load
from seqfault.compile.automaton import Automaton
from seqfault.compile.program import Process, Program, compile_program
from seqfault.compile.symmetry import alike
from seqfault.explore import tiers
from seqfault.explore.engine import Executor, Exploration
from seqfault.explore.replay import ends, shows
from seqfault.explore.tables import OK, X_USED
from seqfault.kernel import *
from seqfault.kernel.rwlock import read_lock, read_unlock, rwlock_t
from seqfault.kernel.spinlock import spin_lock, spin_unlock, spinlock_t
from seqfault.models import seq

MOST_CHOICES = 64  # two to the sixth: a generated text has six lines
PROGRAMS = int(os.environ.get("SEQFAULT_SYMMETRY", "8"))
HEAD = '''"""Generated."""
from seqfault.kernel import *
from seqfault.kernel.rwsem import down_read, down_write, downgrade_write, rw_semaphore, up_read, up_write
from seqfault.kernel.spinlock import spin_lock, spin_trylock, spin_unlock, spinlock_t

@struct(pool=2)
class thing:
    n: integer(0, 3)

@struct(pool=1)
class world:
    x: integer(0, 3)
    y: integer(0, 3)
    lk: spinlock_t
    other: spinlock_t
    sem: rw_semaphore
    h: ptr[thing]

def outcome():
    w = the(world)
    emit(w.x)
    emit(w.y)
    emit(w.h != NULL)
'''
LINES = (
    "w.x = {n}", "w.y = {n}", "v = w.x", "v = w.y", "w.x = v", "w.y = v", "spin_lock(w.lk)", "spin_unlock(w.lk)",
    "spin_lock(w.other)", "down_write(w.sem)\n    w.x = u\n    up_write(w.sem)",
    "down_read(w.sem)", "up_read(w.sem)", "down_write(w.sem)\n    w.y = v\n    downgrade_write(w.sem)", "if spin_trylock(w.lk):\n        spin_unlock(w.lk)",
    "if v == {n}:\n        w.y = u", "u = v", "with atomic():\n        w.x = (w.x + 1) & 3", "wait_for(w.x != {n})",
    "assert w.x != v or w.y != {n}", "for i in range(2):\n        w.y = (w.y + v) & 3", "v = choose(2)",
    "p = w.h\n    if p:\n        p.n = {n}", "if w.h == NULL:\n        w.h = kmem_cache_zalloc(thing)",
    "p = w.h\n    w.h = NULL\n    if p:\n        kmem_cache_free(p)", "while w.x == {n}:\n        w.y = v", "count('seen')",
)  # fmt: skip


def text(rng: random.Random, name: str) -> str:
    lines = [rng.choice(LINES).format(n=rng.randrange(4)) for _ in range(rng.randrange(2, 7))]
    first = "w = the(world)\n    v: integer(0, 3) = 0\n    u: integer(0, 3) = 1\n    p: ptr[thing] = NULL"
    return f"\ndef {name}():\n    " + "\n    ".join([first, *lines]) + "\n"


def generated(path: Path, seed: int) -> tuple[ModuleType, str]:
    source = HEAD + text(random.Random(seed), "f") + text(random.Random(-seed - 1), "g")
    file = path / f"symmetric_{seed}.py"
    file.write_text(source)
    return load(file, file.stem), source


def orbits(a: Automaton, init: np.ndarray, rom: np.ndarray, most: int) -> tuple[int, int]:
    """States, and canonical states, of the whole exploration, found by running every step of the interpreter."""
    t = Executor(a, rom)
    first = t.start(init)
    groups = [g.processes for g in alike(a)]
    exchanges = [dict(zip(sum(groups, ()), sum(new, ()), strict=True)) for new in product(*map(permutations, groups))]

    def exchanged(words: np.ndarray, to: dict[int, int]) -> bytes:
        """The state in which process to[p] is what `p` was, by what its cells are called."""
        cells = a.unpack(words.view(np.uint64))
        new = list(cells)
        for i, c in enumerate(a.cells):
            if c.pool == "task_struct":
                at = next(j for j, d in enumerate(a.cells) if (d.pool, d.index, d.path) == (c.pool, to.get(c.index, c.index), c.path))
                new[at] = cells[i]
            elif c.path.endswith((".owner", ".writer")) and cells[i]:
                new[i] = to.get(cells[i] - 1, cells[i] - 1) + 1
            elif c.path.endswith(".readers"):
                new[i] = sum(1 << to.get(p, p) for p in range(8) if cells[i] >> p & 1)
        out = a.pack(new).view(np.int64)
        for p, info in enumerate(a.processes):
            at = a.processes[to.get(p, p)].base
            out[at : at + info.words] = words[info.base : info.base + info.words]
        return out.tobytes()

    def canonical(w: bytes) -> bytes:
        words = np.frombuffer(w, np.int64).copy()
        return min(exchanged(words, to) for to in exchanges)

    seen = {first.tobytes()}
    work = [first]
    while work:
        s = work.pop()
        for p in range(len(a.processes)):
            if t.pc(s, p) == a.halt_pc:
                continue
            for choice in range(MOST_CHOICES):  # codes that say the same are tried again
                w = s.copy()
                if t.run(w, p, choice) == OK and w.tobytes() not in seen:
                    seen.add(w.tobytes())
                    work.append(w)
                if not t.X[X_USED]:
                    break
        if len(seen) > most:
            return 0, 0
    return len(seen), len({canonical(w) for w in seen})


def start(p: Program) -> tuple[Automaton, np.ndarray, np.ndarray]:
    a = compile_program(p)
    cells = p.layout().start
    return a, a.pack(cells), a.rom(cells)


def equal(a: Automaton, init: np.ndarray, rom: np.ndarray, x: Exploration, y: Exploration) -> None:
    """All that is promised of `y`, the symmetric one."""
    assert x.complete and y.complete
    same(x, y)
    assert places(x) == places(y)
    assert x.depth == y.depth and y.states <= x.states
    t = Executor(a, rom)
    for v in y.violations:
        path = y.path_of(v)
        assert shows(t, t.start(init), path, (v.kind, v.pc if v.cell < 0 else -2 - v.cell, v.pool))
        first = next(w for w in x.violations if (w.kind, w.pc, w.pool, w.cell) == (v.kind, v.pc, v.pool, v.cell))
        assert len(path) == len(x.path_of(first))
    for h, state in y.outcomes.items():
        assert ends(t, t.start(init), y.path_to(state), h)


@pytest.mark.parametrize("copies", [(2, 1), (3, 0), (2, 2)], ids=str)
def test_random_programs(copies: tuple[int, int], tmp_path: Path):
    compared = fewer = found = 0
    for seed in range(PROGRAMS):
        m, source = generated(tmp_path, seed)
        who = [m.f] * copies[0] + [m.g] * copies[1]
        a, init, rom = start(Program("generated", [Process(f, i) for i, f in enumerate(who)], [m.outcome]))
        assert [len(g.processes) for g in alike(a)] == [n for n in copies if n > 1]
        x = tiers.explore(a, init, rom, graph=True, max_states=20_000)
        if not x.complete:
            continue
        try:
            y = tiers.explore(a, init, rom, graph=True, symmetric=True)
            equal(a, init, rom, x, y)
            if x.states < 500:
                assert orbits(a, init, rom, 500) == (x.states, y.states)
        except AssertionError as e:
            raise AssertionError(f"program {seed}\n{source}") from e
        compared, found = compared + 1, found + bool(x.violations)
        fewer += y.states < x.states
    assert compared > PROGRAMS * 0.6 and fewer > compared * 0.7 and found


@pytest.mark.parametrize("options", [{}, {"threads": 2}, {"exact": True}, {"traced": False}], ids=str)
def test_readers_and_writers(options):
    """Two writers and three readers: up to 2! times 3! fewer."""
    a, init, rom = start(seq.program(2, 1, 3, 1))
    assert [g.processes for g in alike(a)] == [(0, 1), (2, 3, 4)]
    x = tiers.explore(a, init, rom, **options)
    y = tiers.explore(a, init, rom, symmetric=True, **options)
    assert places(x) == places(y) and x.depth == y.depth
    assert 8 < x.states / y.states <= 12


def test_counts_by_hand():
    """`n` processes, each with three places to stand: 3^n states, and as many canonical ones as there are ways to choose
    `n` of three with repetition."""
    for n in (2, 3, 4, 5):
        a, init, rom = start(Program("t", [Process(two_loads, i) for i in range(n)]))
        assert tiers.explore(a, init, rom).states == 3**n
        assert tiers.explore(a, init, rom, symmetric=True).states == (n + 1) * (n + 2) // 2


def test_who_asks_which_cpu_it_is_cannot_be_exchanged():
    a, init, rom = start(Program("t", [Process(stores_its_number, i) for i in range(3)]))
    assert alike(a) == []
    x, y = tiers.explore(a, init, rom), tiers.explore(a, init, rom, symmetric=True)
    assert x.states == y.states
    a, _, _ = start(Program("t", [Process(two_loads, 0), Process(stores_its_number, 1), Process(two_loads, 2)]))
    assert [g.processes for g in alike(a)] == [(0, 2)]


def test_who_looks_at_what_locks_keep_cannot_be_exchanged():
    for entries in ([looks_at_owner] * 2, [takes_it, takes_it, looks_at_owner], [remembers] * 2, [reads_under_rwlock] * 2):
        a, _, _ = start(Program("t", [Process(f, i) for i, f in enumerate(entries)], [outcome]))
        assert alike(a) == []
    a, _, _ = start(Program("t", [Process(takes_it, i) for i in range(2)], [tells_owner]))
    assert alike(a) == []
    a, _, _ = start(Program("t", [Process(takes_it, i) for i in range(3)], [outcome]))
    assert [g.processes for g in alike(a)] == [(0, 1, 2)]
    a, init, rom = start(Program("t", [Process(passes_it_on, i) for i in range(3)], [outcome]))
    assert [g.processes for g in alike(a)] == [(0, 1, 2)]
    equal(a, init, rom, *(tiers.explore(a, init, rom, graph=True, symmetric=x) for x in (False, True)))


def test_wide_states():
    """Regions of several words."""
    a, init, rom = start(Program("t", [Process(with_large_numbers, i) for i in range(3)], [outcome]))
    assert [g.processes for g in alike(a)] == [(0, 1, 2)] and a.processes[0].words > 2
    x = tiers.explore(a, init, rom, graph=True)
    y = tiers.explore(a, init, rom, graph=True, symmetric=True)
    equal(a, init, rom, x, y)
    assert 4 < x.states / y.states <= 6 and x.violations


def test_saved_and_resumed(tmp_path: Path):
    a, init, rom = start(seq.program(2, 1, 3, 1))
    shape = {"symmetric": True}
    whole = tiers.explore(a, init, rom, **shape)
    file = tmp_path / "c"
    part = tiers.explore(a, init, rom, max_states=whole.states // 2, checkpoint=file, every=0, keep=True, **shape)
    assert not part.complete and file.exists()
    again = tiers.explore(a, init, rom, checkpoint=file, every=0, **shape)
    assert (again.states, again.transitions, again.depth) == (whole.states, whole.transitions, whole.depth)


@struct(pool=1)
class shared:
    x: integer(0, 7)
    big: integer(-(1 << 60), 1 << 60)
    lk: spinlock_t
    rw: rwlock_t


def outcome():
    w = the(shared)
    emit(w.x)
    emit(w.big)


def two_loads():
    w = the(shared)
    v: integer(0, 7) = w.x
    v = w.x  # noqa: F841


def stores_its_number():
    w = the(shared)
    w.x = smp_processor_id()


def takes_it():
    w = the(shared)
    spin_lock(w.lk)
    w.x = 1
    spin_unlock(w.lk)


def reads_under_rwlock():
    """It adds its bit: twice is a bug, and makes it another's."""
    w = the(shared)
    read_lock(w.rw)
    w.x = 1
    read_unlock(w.rw)


def looks_at_owner():
    w = the(shared)
    if w.lk.owner == 1:
        w.x = 2


def remembers():
    w = the(shared)
    me: integer(0, 7) = process_id()
    w.x = 1
    w.x = me


def passes_it_on():
    """Takes the lock, and leaves it taken for who comes second, which gives it back: a release that is a bug."""
    w = the(shared)
    if w.x == 0:
        spin_lock(w.lk)
        w.x = 1
    else:
        spin_unlock(w.lk)


def tells_owner():
    w = the(shared)
    emit(w.lk.owner)


def with_large_numbers():
    w = the(shared)
    spin_lock(w.lk)
    a: integer(-(1 << 60), 1 << 60) = w.big
    spin_unlock(w.lk)
    b: integer(-(1 << 60), 1 << 60) = w.big
    w.big = (a + b + 1) & 0xFFFFFFFFFFFF
    w.x = (w.x + 1) & 7
    assert w.x != 2 or a != b
    assert w.big == (a + b + 1) & 0xFFFFFFFFFFFF
