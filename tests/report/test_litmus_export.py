"""`seqfault export litmus`: what is written is read back, and judged as its barriers say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from seqfault import cli
from seqfault.compile.program import Process, Program, compile_program
from seqfault.kernel import atomic, integer, kmem_cache_zalloc, ptr, struct, the
from seqfault.kernel.seqlock import (
    raw_write_seqcount_begin,
    raw_write_seqcount_end,
    read_seqcount_begin,
    read_seqcount_retry,
    seqcount_t,
)
from seqfault.kernel.spinlock import spin_lock, spin_trylock, spin_unlock, spinlock_t
from seqfault.kernel.words import (
    READ_ONCE,
    WRITE_ONCE,
    cmpxchg_acquire,
    fetch_add_relaxed,
    rcu_assign_pointer,
    rcu_dereference,
    smp_load_acquire,
    smp_mb,
    smp_store_release,
    xchg_release,
)
from seqfault.litmus.judge import judge
from seqfault.litmus.parse import parse
from seqfault.report.litmus import ExportError, LitmusExport, export_litmus, sequential


@struct(pool=2)
class node:
    v: integer(0, 7)


@struct(pool=1)
class both:
    s: seqcount_t
    x: integer(0, 7)
    y: integer(0, 7)
    lock: spinlock_t
    head: ptr[node]
    seen: integer(0, 7)


def exported(*functions: Callable[..., None], schedule=None, **options) -> LitmusExport:
    p = Program("t", [Process(f, i) for i, f in enumerate(functions)])
    a = compile_program(p, "merged")
    cells = p.layout().start
    init, rom = a.pack(cells), a.rom(cells)
    return export_litmus(a, init, rom, schedule or sequential(a, init, rom), name="t", **options)


def verdict(x: LitmusExport):
    as_herd7_reads_it(x.text)
    return judge(parse(x.text, "exported"))


# what the statements of herd7's grammar of C (lib/CParser.mly) are made of
EXPRESSION = r"[\w()+*&|^<>=! -]+"
FORMS = [
    r"int \w+;", r"if \(\w+\) \{", r"\}", r"\w+ = \*\(?[\w +^()]+\)?;", r"\*\(?[\w +^()]+\)? = " + EXPRESSION + ";",
    r"\w+ = \w+\(" + EXPRESSION + r"(, " + EXPRESSION + r")*\);", r"\w+\((" + EXPRESSION + "(, " + EXPRESSION + r")*)?\);",
    r"\w+ = \(" + EXPRESSION + r"\);",
]  # fmt: skip


def as_herd7_reads_it(text: str) -> None:
    """No unary minus, no `!x`, no `&&`, one declaration a statement; braces stand in no comment."""
    for thread in re.findall(r"\nP\d\(.*?\)\n\{\n(.*?)\n\}\n", text, re.S):
        for line in thread.split("\n"):
            code, _, comment = line.strip().partition(" // ")
            assert not set(comment) & set('{}"')
            assert not code or any(re.fullmatch(f, code) for f in FORMS), code
            assert not re.search(r"[(,=] ?-\d|!(?!=)|&&|\|\|", code), code


# -- a sequence count
def data():
    WRITE_ONCE(the(both).x, 1)
    WRITE_ONCE(the(both).y, 1)


def writer():
    raw_write_seqcount_begin(the(both).s)
    data()
    raw_write_seqcount_end(the(both).s)


def writer_without_first():
    the(both).s.sequence += 1
    data()
    raw_write_seqcount_end(the(both).s)


def writer_without_second():
    raw_write_seqcount_begin(the(both).s)
    data()
    the(both).s.sequence += 1


def reader():
    b = the(both)
    seq = read_seqcount_begin(b.s)
    x = READ_ONCE(b.x)
    y = READ_ONCE(b.y)
    if read_seqcount_retry(b.s, seq):
        return
    assert x == y


def reader_without_first():
    b = the(both)
    seq = READ_ONCE(b.s.sequence)
    if seq & 1:
        return
    x = READ_ONCE(b.x)
    y = READ_ONCE(b.y)
    if read_seqcount_retry(b.s, seq):
        return
    assert x == y


def reader_without_second():
    b = the(both)
    seq = read_seqcount_begin(b.s)
    x = READ_ONCE(b.x)
    y = READ_ONCE(b.y)
    if b.s.sequence != seq:
        return
    assert x == y


@pytest.mark.parametrize(
    ("w", "r", "observation"),
    [
        (writer, reader, "Never"),
        (writer_without_first, reader, "Sometimes"),
        (writer_without_second, reader, "Sometimes"),
        (writer, reader_without_first, "Sometimes"),
        (writer, reader_without_second, "Sometimes"),
    ],
)
def test_each_barrier_of_a_sequence_count(w, r, observation):
    """The path that the run took, with x and y not equal: forbidden by the four barriers together alone."""
    for order in ((w, r), (r, w)):
        x = exported(*order)
        assert x.ask == "bad" and x.statements >= 12
        assert verdict(x).observation == observation
        assert verdict(exported(*order, ask="seen")).positive  # what was seen under sc is allowed by LKMM too


def test_text():
    text = exported(writer, reader, source=lambda w: w.function).text
    assert "\tWRITE_ONCE(*sequence, r0 + 1); // " not in text  # the same line is said once
    assert "smp_wmb();" in text and "smp_rmb();" in text
    assert re.search(r"\tr2 = READ_ONCE\(\*sequence\); // read_seqcount_begin\n\tp0 = \(\(r2 & 1\) == 0\);", text)
    assert text.endswith("filter (1:p0=1 /\\ 1:p1=1)\n// and a check fails\nexists (1:ok2=0)\n")


def test_plain_accesses_race():
    assert "data-race" in verdict(exported(writer, reader, plain=True)).flags


# -- dependencies
def publishes():
    n = kmem_cache_zalloc(node)
    WRITE_ONCE(n.v, 3)
    rcu_assign_pointer(the(both).head, n)


def publishes_early():
    n = kmem_cache_zalloc(node)
    WRITE_ONCE(n.v, 3)
    WRITE_ONCE(the(both).head, n)


def follows():
    n = rcu_dereference(the(both).head)
    if n:
        assert READ_ONCE(n.v) == 3


def test_an_address_dependency():
    x = exported(publishes, follows)
    assert "r1 = READ_ONCE(*(v + (r0 ^ r0)));" in x.text and "rcu_dereference(*head)" in x.text
    assert verdict(x).observation == "Never"
    assert verdict(exported(publishes_early, follows)).observation == "Sometimes"


def copies_one():
    b = the(both)
    b.seen = 1
    WRITE_ONCE(b.y, READ_ONCE(b.x) + 1)


def if_then():
    b = the(both)
    y = READ_ONCE(b.y)
    if y == 1:
        WRITE_ONCE(b.x, 1)


def if_over():
    b = the(both)
    y = READ_ONCE(b.y)
    if y == 1:
        b.seen = 2
    WRITE_ONCE(b.x, 1)


def test_control_and_data_dependencies():
    """A control dependency reaches what stands in the branch, not what follows it."""
    def inside(text):
        return re.search(r"if \(p\d\) \{\n\t\tWRITE_ONCE\(\*x, 1\);\n\t\}", text) is not None

    x = exported(copies_one, if_then)
    assert "WRITE_ONCE(*y, r0 + 1);" in x.text and inside(x.text)
    assert not inside(exported(copies_one, if_over).text)
    bad = x.text.replace("exists (0:r0=0", "exists (0:r0=1")
    assert bad != x.text and judge(parse(bad, "t")).observation == "Never"


# -- atomics, locks, orders
def words():
    b = the(both)
    if cmpxchg_acquire(b.x, 0, 1) == 0:
        fetch_add_relaxed(b.y, 2)
    xchg_release(b.seen, 3)
    smp_store_release(b.y, 5)
    if spin_trylock(b.lock):
        spin_unlock(b.lock)


def more_words():
    b = the(both)
    spin_lock(b.lock)
    b.x = b.x + smp_load_acquire(b.y)
    smp_mb()
    b.seen = 1
    spin_unlock(b.lock)


def test_words():
    text = exported(words, more_words).text
    for line in (
        "r0 = cmpxchg_acquire(x, 0, 1);", "r1 = atomic_fetch_add_relaxed(2, y);", "r2 = xchg_release(seen, 3);",
        "smp_store_release(y, 5);", "spin_lock(lock);", "spin_unlock(lock);", "r4 = smp_load_acquire(y);", "smp_mb();",
        "WRITE_ONCE(*x, r3 + r4);", "spinlock_t *lock",
    ):  # fmt: skip
        assert line in text, line
    assert verdict(exported(words, more_words, ask="seen")).positive


def in_one_step():
    with atomic():
        the(both).x += 1


def test_a_step_of_several_accesses_is_a_full_barrier():
    """Of two CPUs that store, as a cmpxchg; of one, as a load and a store."""
    text = exported(in_one_step, in_one_step).text
    assert "r0 = cmpxchg(x, 0, 1);" in text and "r1 = cmpxchg(x, 1, 2);" in text
    assert "r0 = READ_ONCE(*x);" in exported(in_one_step, if_then_x).text


def if_then_x():
    assert READ_ONCE(the(both).x) < 3


def alone():
    the(both).seen = 1


def test_nothing_to_write():
    with pytest.raises(ExportError, match="no two CPUs share a cell"):
        exported(alone, if_then_x)
    with pytest.raises(ExportError, match="--ask seen"):
        exported(copies_one, if_then, ask="bad")
    with pytest.raises(ExportError, match="no two CPUs share"):
        exported(writer, reader, only=lambda cell: "zzz" in cell)


# -- the command
def run(capsys, *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as e:
        cli.main(["export", "litmus", *args])
    out = capsys.readouterr()
    return int(e.value.code or 0), out.out, out.err


SCHEDULE = "spf-seed:argued/index-torn:0x24.1x45.0x6.1x7.3x1.1x6.0x14.1x6:1ad0df"


def test_scenarios_and_models(capsys, tmp_path):
    f = tmp_path / "t.litmus"
    code, out, _ = run(capsys, "spf-v5", "-s", "two-faults/munmap-same-page", "-o", str(f), "--json")
    d = json.loads(out)
    assert code == 0 and d["threads"] == ["cpu0", "cpu1", "cpu2", "rcu"] and d["cells"]["mmap_sem"] == "mm_struct[0].mmap_sem"
    text = f.read_text()
    as_herd7_reads_it(text)
    assert len(parse(text, "t").threads) == 4
    for word in ("srcu_read_lock(", "synchronize_srcu(", "atomic_cmpxchg_acquire(mmap_sem, 0, 100)", "smp_wmb();"):
        assert word in text
    code, out, _ = run(capsys, "seq", "--size", "1,1,1,1")
    assert code == 0 and verdict_of(out) == "Sometimes"  # no barriers there
    code, out, _ = run(capsys, "record", "--size", "1,1,1,1")
    assert code == 0 and verdict_of(out) == "Never"  # each step is one, as with full barriers


def verdict_of(text: str) -> str:
    return judge(parse(text, "t")).observation


def test_a_schedule(capsys):
    """A counterexample of the seed: the count, vm_start and vm_pgoff alone; what was seen is allowed by LKMM."""
    from seqfault.protocols import load
    from seqfault.report.counterexample import text_hash
    from seqfault.scenarios import find

    now = text_hash(load("spf-seed"), find(["argued/index-torn"])[0])
    cells = ["--cells", "vm_sequence", "--cells", "vm_start", "--cells", "vm_pgoff"]
    code, out, err = run(capsys, SCHEDULE.rpartition(":")[0] + ":" + now, "--ask", "seen", *cells)
    assert code == 0, err
    as_herd7_reads_it(out)
    assert "READ_ONCE(*vm_pgoff); // return (address" in out or "READ_ONCE(*vm_pgoff)" in out
    assert verdict_of(out) == "Sometimes"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["spf-v5"], "name one with -s"), (["x:y"], "is no schedule"), (["record", "-s", "foo"], "has no scenarios"),
        (["record", "--ask", "what"], "bad and seen"), (["record", "--size", "1"], "four numbers"),
        (["spf-seed", "-s", "argued/case1-alone"], "no two CPUs share"), (["spf-v5", "-s", "two-faults/*"], "stands for"),
        ([SCHEDULE, "-s", "x"], "leave -s"), (["nothing"], "no protocol"),
    ],
)  # fmt: skip
def test_bad_input(capsys, args, says):
    code, out, err = run(capsys, *args)
    assert code == 2 and says in err and not out and err.count("\n") == 1
