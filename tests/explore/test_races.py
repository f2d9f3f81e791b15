"""Data races: which pairs of accesses race, what counts as marked, and what `check --races` makes of them."""

from __future__ import annotations

import itertools
import json

import pytest
from programs import program, texts

from seqfault.cli import main
from seqfault.explore.check import Limits, check_scenario
from seqfault.explore.engine import Executor, explore
from seqfault.explore.model import small_scenario, start_of
from seqfault.explore.racewatch import Races
from seqfault.explore.replay import replay
from seqfault.explore.tables import ENDS, OK, T_LOAD, T_STORE, X_DIGITS, X_RADIX, X_USED
from seqfault.kernel import READ_ONCE, WRITE_ONCE, Protocol, atomic, cpu_relax, integer, kmem_cache_alloc, struct, the
from seqfault.kernel.seqlock import (
    raw_read_seqcount,
    raw_write_seqcount_begin,
    raw_write_seqcount_end,
    read_seqbegin,
    read_seqcount_retry,
    read_seqretry,
    seqcount_t,
    seqlock_t,
    write_seqcount_begin,
    write_seqcount_begin_nested,
    write_seqcount_end,
    write_seqlock,
    write_sequnlock,
)
from seqfault.kernel.spinlock import spin_lock, spin_unlock, spinlock_t
from seqfault.kernel.types import ptr
from seqfault.protocols import load
from seqfault.scenarios import find

value_t = integer(0, 3)


@struct(pool=1)
class box:
    x: value_t
    y: value_t
    seq: seqcount_t
    other: seqcount_t
    sl: seqlock_t
    lock: spinlock_t


@struct(pool=2)
class item:
    v: value_t


@struct(pool=1)
class shelf:
    first: ptr[item]


def store_plain():
    the(box).x = 1


def store_once():
    WRITE_ONCE(the(box).x, 1)


def load_plain():
    x: value_t = the(box).x
    WRITE_ONCE(the(box).y, x)


def load_once():
    x: value_t = READ_ONCE(the(box).x)
    WRITE_ONCE(the(box).y, x)


def store_locked():
    b = the(box)
    spin_lock(b.lock)
    b.x = 1
    spin_unlock(b.lock)


def load_locked():
    b = the(box)
    spin_lock(b.lock)
    x: value_t = b.x
    spin_unlock(b.lock)
    WRITE_ONCE(b.y, x)


def store_atomic():
    with atomic():
        the(box).x = 1


def spin_plain():
    b = the(box)
    while b.x == 0:
        cpu_relax()


def write_counted():
    b = the(box)
    raw_write_seqcount_begin(b.seq)
    b.x = 1
    raw_write_seqcount_end(b.seq)


def write_two_counts():
    """The inner section ends before the store, the outer one after it."""
    b = the(box)
    write_seqcount_begin(b.seq)
    write_seqcount_begin_nested(b.other, 1)
    write_seqcount_end(b.other)
    b.x = 1
    write_seqcount_end(b.seq)


def read_counted():
    b = the(box)
    seq = raw_read_seqcount(b.seq)
    x: value_t = b.x
    if not read_seqcount_retry(b.seq, seq):
        WRITE_ONCE(b.y, x)


def read_too_late():
    b = the(box)
    seq = raw_read_seqcount(b.seq)
    if not read_seqcount_retry(b.seq, seq):
        x: value_t = b.x
        WRITE_ONCE(b.y, x)


def read_maybe_counted():
    """On one way to the load the section is over."""
    b = the(box)
    seq = raw_read_seqcount(b.seq)
    if READ_ONCE(b.y) == 0 and read_seqcount_retry(b.seq, seq):
        return
    x: value_t = b.x
    WRITE_ONCE(b.y, x)


def look() -> value_t:
    """Called in and out of a section."""
    while READ_ONCE(the(box).y) == 3:
        x: value_t = 0
    x = the(box).x
    return x


def read_by_call():
    b = the(box)
    seq = raw_read_seqcount(b.seq)
    x: value_t = look()
    if not read_seqcount_retry(b.seq, seq):
        WRITE_ONCE(b.y, x)


def read_by_calls():
    b = the(box)
    seq = raw_read_seqcount(b.seq)
    x: value_t = look()
    if not read_seqcount_retry(b.seq, seq):
        x = look()
        WRITE_ONCE(b.y, x)


def write_seq_locked():
    b = the(box)
    write_seqlock(b.sl)
    b.x = 1
    write_sequnlock(b.sl)


def read_seq_locked():
    b = the(box)
    while True:
        seq = read_seqbegin(b.sl)
        x: value_t = b.x
        if not read_seqretry(b.sl, seq):
            WRITE_ONCE(b.y, x)
            return


def publish():
    i = kmem_cache_alloc(item)
    i.v = 1
    WRITE_ONCE(the(shelf).first, i)


def use():
    i = READ_ONCE(the(shelf).first)
    if i:
        v: value_t = i.v
        WRITE_ONCE(the(box).y, v)


def model(*processes) -> Protocol:
    return Protocol("races", "accesses that race, or not", processes=processes, sizes={"SEQ_MAX": 7})


def races(*processes, memory="sc"):
    p = model(*processes)
    r = check_scenario(p, small_scenario(p), Limits(), memory=memory, races="report")
    return [(x.field, *(f"{y.function} {y.how} {'store' if y.write else 'load'}" for y in x.points)) for x in r.races]


RACING = [
    ((load_plain, store_plain), "load_plain plain load", "store_plain plain store"),
    ((store_plain, store_plain), "store_plain plain store", "store_plain plain store"),
    ((load_plain, store_once), "load_plain plain load", "store_once marked store"),
    ((load_once, store_plain), "load_once marked load", "store_plain plain store"),
    ((load_locked, store_plain), "load_locked plain load", "store_plain plain store"),
    ((spin_plain, store_once), "spin_plain plain load", "store_once marked store"),
    ((load_plain, write_counted), "load_plain plain load", "write_counted section store"),
    ((read_counted, store_plain), "read_counted section load", "store_plain plain store"),
    ((read_too_late, write_counted), "read_too_late plain load", "write_counted section store"),
    ((read_maybe_counted, write_counted), "read_maybe_counted plain load", "write_counted section store"),
    ((read_by_calls, write_counted), "look plain load", "write_counted section store"),
]


@pytest.mark.parametrize(("processes", "one", "two"), RACING, ids=lambda x: "-" if isinstance(x, str) else None)
def test_race(processes, one, two):
    assert races(*processes) == [("box.x", one, two)]


@pytest.mark.parametrize(
    "processes",
    [
        (load_once, store_once),
        (load_plain, load_plain),
        (load_locked, store_locked),
        (store_locked, store_locked),
        (load_plain, store_atomic),
        (read_counted, write_counted),
        (read_by_call, write_counted),
        (read_counted, write_two_counts),
        (read_seq_locked, write_seq_locked),
        (write_seq_locked, write_seq_locked),
        (publish, use),
    ],
    ids=lambda x: "-".join(f.__name__ for f in x),
)
def test_no_race(processes):
    assert races(*processes) == []


def test_example_is_two_accesses_that_are_next():
    """The schedule comes to a state from which both steps can be taken, in this order."""
    p = model(load_locked, store_plain)
    s = small_scenario(p)
    (x,) = check_scenario(p, s, Limits(), races="report").races
    a, words, rom = start_of(p, s)
    steps = replay(a, words, rom, x.schedule)
    assert [i for i, _ in x.schedule[-2:]] == [0, 1] and x.cell == "box[0].x" and steps


def test_verdict(capsys, tmp_path):
    f = tmp_path / "racy.py"
    f.write_text(
        '"""Two CPUs and a cell."""\n'
        "from seqfault.kernel import Protocol, integer, struct, the\n\n"
        "@struct(pool=1)\nclass cell:\n    v: integer(0, 3)\n\n"
        "def reader():\n    x: integer(0, 3) = the(cell).v\n    assert x != 2\n\n"
        "def writer():\n    the(cell).v = 1\n\n"
        'PROTOCOL = Protocol("racy", "two CPUs and a cell", processes=(reader, writer))\n'
    )

    def run(*args):
        with pytest.raises(SystemExit) as e:
            main(["check", str(f), "-j", "1", *args])
        return e.value.code, capsys.readouterr()

    code, got = run()
    assert code == 0 and "race" not in got.out
    code, got = run("--races", "report")
    assert code == 0 and "1 data race of 1 field" in got.out and "plain load in reader" in got.out
    assert all(len(line) <= 80 or str(f) in line for line in got.out.splitlines())
    code, got = run("--races", "error")
    assert code == 1 and "violated" in got.out
    code, got = run("--races", "report", "--json")
    d = json.loads(got.out)
    assert code == 0 and d["verdict"] == "holds"
    (race,) = d["races"]
    assert race["field"] == "cell.v" and [x["access"] for x in race["accesses"]] == ["read", "write"]
    with pytest.raises(SystemExit) as e:
        main(["replay", race["schedule"]])
    assert e.value.code == 0 and "reader" in capsys.readouterr().out
    file = tmp_path / "results"
    for _ in range(2):  # the second time from the file
        code, got = run("--races", "error", "--json", "--resume", str(file))
        assert code == 1 and json.loads(got.out)["races"] == d["races"]
    assert len(file.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--races", "yes"), "off, report or error"),
        (("--races", "report", "--locks"), "--locks"),
    ],
)
def test_refused(args, says, capsys):
    with pytest.raises(SystemExit) as e:
        main(["check", "mmap-sem", "-s", "argued/case1-alone", *args])
    got = capsys.readouterr()
    assert e.value.code == 2 and not got.out and says in got.err.replace("\n", " ") and got.err.count("seqfault:") == 1


# -- against plain Python
def accesses(ex, words, p):
    """(instruction, whether it stores, cell) of the next step of a process, whatever it chooses, and what follows."""
    out, then, digits = set(), [], []
    while True:
        after = words.copy()
        radix = ex.X[X_RADIX : X_RADIX + len(digits)].tolist()
        code = 0
        for d, r in zip(reversed(digits), reversed(radix), strict=True):
            code = code * r + d
        status = ex.run(after, p, code)
        out |= {(e[1], e[0] == T_STORE, e[2]) for e in ex.trace().tolist() if e[0] in (T_LOAD, T_STORE)}
        if status == OK:
            then.append(after)
        used = int(ex.X[X_USED])
        digits = ex.X[X_DIGITS : X_DIGITS + used].tolist()
        radix = ex.X[X_RADIX : X_RADIX + used].tolist()
        while digits and digits[-1] + 1 >= radix[len(digits) - 1]:
            digits.pop()
        if not digits:
            return out, then
        digits[-1] += 1


def races_by_hand(a, words, rom):
    ex = Executor(a, rom, trace_room=256)
    todo, seen, found = [ex.start(words)], set(), set()
    while todo:
        s = todo.pop()
        if s.tobytes() in seen:
            continue
        seen.add(s.tobytes())
        mine = []
        for p in range(len(a.processes)):
            if ex.pc(s, p) != a.halt_pc:
                acc, then = accesses(ex, s, p)
                mine.append(acc)
                todo += then
        for one, two in itertools.combinations(mine, 2):
            for x, y in itertools.product(one, two):
                both = [a.access[i[0]] for i in (x, y)]
                plain = any(b.order == "plain" and not a.where[i[0]].file.startswith("kernel/")
                            for b, i in zip(both, (x, y), strict=True))  # fmt: skip
                silent = any(b.atomic or b.pool in ("notes", "text_rom") for b in both)
                if x[2] == y[2] and (x[1] or y[1]) and plain and not silent:
                    found.add(tuple(sorted((x[:2], y[:2]))))
    return found, len(seen)


def test_random_programs():
    """The same pairs as plain Python finds that looks at every state by itself."""
    t = texts()
    watch = Races(t.automaton)
    number = {(id(t.automaton.where[pc]), id(x)): pc for pc, x in enumerate(t.automaton.access) if x is not None}
    compared = racing = 0
    for seed in range(60):
        words, rom = t.start(program(seed))
        watch.clear()
        ex = explore(t.automaton, words, rom, watcher=watch, max_states=1200)
        if not ex.complete:
            continue
        got = {tuple(sorted((number[id(x.where), id(x.access)], x.write) for x in pair.sides)) for pair in watch.pairs()}
        want, states = races_by_hand(t.automaton, words, rom)
        assert (got, ex.states) == (want, states), seed
        compared += 1
        racing += bool(want)
    assert compared > 20 and racing > 10


# -- sections, told from the text, against the way that was taken
@pytest.mark.parametrize("name", ["argued/munmap-then-mmap", "argued/index-torn", "case8/split-next-cold-read"])
def test_sections(name):
    """Each example can be run again, and ends with its two accesses, to one cell; who is said to be in a section is in
    one, and who is plain is in no writer's, by what was begun and ended on the way."""
    p, s = load("spf-v5"), find([name])[0]
    a, words, rom = start_of(p, s)
    w = Races(a)
    ex = explore(a, words, rom, watcher=w)
    assert ex.complete and w.pairs()
    for pair in w.pairs():
        run = Executor(a, rom, trace_room=2048)
        now = run.start(words)
        reads, writes = [False] * len(a.processes), [0] * len(a.processes)
        for q, choice in ex.path_to(pair.state):
            assert run.run(now, q, choice) == OK
            for kind, pc, *_ in run.trace().tolist():
                at = a.where[pc]
                if at.file == "kernel/seqlock.py":
                    reads[q] = at.function in ("raw_read_seqcount", "read_seqcount_begin") or (
                        reads[q] and at.function != "read_seqcount_retry"
                    )
                    if kind == T_STORE:
                        begin = {"raw_write_seqcount_begin": 1, "raw_write_seqcount_end": -1}
                        writes[q] += begin.get(at.function, 0)
        cells = []
        for side, (q, choice) in zip(pair.sides, pair.steps, strict=True):
            if side.how == "section":
                assert reads[q] or writes[q] > 0, (pair, reads, writes)
            elif side.how == "plain":  # a reader that gave up has not looked at the count again
                assert writes[q] == 0, (pair, writes)
            assert run.run(now, q, choice) in (OK, ENDS)
            cells += [e[2] for e in run.trace().tolist() if a.where[e[1]] is side.where and e[2] == pair.cell]
        assert cells == [pair.cell] * 2


def test_sections_with_switches():
    """A text with a switch at each site has the same sections, but for the one that is taken out."""
    s = find(["argued/index-torn", "argued/mprotect-without-06"])
    got = {}
    for name in ("spf-v5", "spf-v5-without=mprotect_fixup/begin"):
        got[name] = [{x.key() for x in check_scenario(load(name), y, Limits(), races="report").races} for y in s]
    torn, mprotect = zip(*got.values(), strict=True)
    assert torn[0] == torn[1] and mprotect[0] != mprotect[1]
    new = [str(k) for k in mprotect[1] - mprotect[0]]
    assert all("vm_flags_reset', 'plain', 'mprotect_fixup'" in k for k in new)
    assert any("vma_access_error', 'section'" in k for k in new)
