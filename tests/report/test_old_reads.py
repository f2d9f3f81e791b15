"""Counterexamples under weaker memory models say which loads took an old store, and which barrier was missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqfault.explore.check import Limits, check_scenario
from seqfault.explore.model import small_scenario
from seqfault.protocols import load
from seqfault.report.counterexample import Counterexample, build

SEQCOUNT = Path(__file__).parents[2] / "examples/seqcount/seqcount.py"

STORE_BUFFERING = '''
from seqfault.kernel import *


@struct(pool=1)
class shared:
    x: integer(0, 1)
    y: integer(0, 1)
    saw: array[integer(0, 2), 2]


def first():
    s = the(shared)
    WRITE_ONCE(s.x, 1)
    r: integer(0, 1) = READ_ONCE(s.y)
    with atomic():
        s.saw[0] = r + 1
        assert s.saw[0] != 1 or s.saw[1] != 1


def second():
    s = the(shared)
    WRITE_ONCE(s.y, 1)
    r: integer(0, 1) = READ_ONCE(s.x)
    with atomic():
        s.saw[1] = r + 1
        assert s.saw[0] != 1 or s.saw[1] != 1


PROTOCOL = Protocol("sb", processes=(first, second))
'''


def shown(name: str, memory: str) -> Counterexample:
    p = load(name)
    s = small_scenario(p)
    r = check_scenario(p, s, Limits(), memory=memory)
    v = next(v for v in r.violations if v.kind == "assertion")
    return build(p, s, v.schedule, [v], memory)


@pytest.mark.parametrize(
    ("site", "barrier"),
    [
        ("raw_read_seqcount/smp_rmb@seq", ("smp_rmb()", False)),
        ("read_seqcount_retry/smp_rmb@seq", ("smp_rmb()", False)),
        ("raw_write_seqcount_begin/smp_wmb@seq", ("smp_wmb()", True)),
        ("raw_write_seqcount_end/smp_wmb@seq", ("smp_wmb()", True)),
    ],
)
def test_the_missing_barrier_is_named(site: str, barrier: tuple[str, bool]):
    cx = shown(f"{SEQCOUNT}-without={site}", "lkmm")
    last = cx.old_reads[-1]
    assert not last.buffered and [(b, behind) for b, _, behind in last.barriers] == [barrier]
    text = " ".join(" ".join(cx.lines()).split())
    assert "(old)" in text and f"{barrier[0]} {'behind that store' if barrier[1] else 'before that read'} would prevent it" in text
    assert all(len(line) <= 80 for line in cx.lines() if not line.startswith("replay:"))


def test_a_store_that_waits_in_a_buffer(tmp_path: Path):
    (tmp_path / "sb.py").write_text(STORE_BUFFERING)
    cx = shown(str(tmp_path / "sb.py"), "tso")
    last = cx.old_reads[-1]
    assert last.buffered and [(b, behind) for b, _, behind in last.barriers] == [("smp_mb()", True)]
    assert "is in the store buffer of" in " ".join(" ".join(cx.lines()).split())


def test_none_under_sc():
    p = load(f"{SEQCOUNT}-without=reader/recheck")
    s = small_scenario(p)
    v = check_scenario(p, s).violations[0]
    assert build(p, s, v.schedule, [v]).old_reads == []
