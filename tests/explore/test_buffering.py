"""Where lkmm passes over load buffering: every program whose axiomatic outcomes exceed the machine's has a pair named;
the textbook shapes; what orders a pair and what does not; locks and processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import from_litmus as fl
import pytest
from full_barriers import full_barriers
from late_stores import late_stores

from modules import load
from seqfault.compile.automaton import Automaton
from seqfault.compile.program import Process, Program, compile_program
from seqfault.explore import tiers
from seqfault.explore.buffering import Buffering, Pair, touched_by, touched_in
from seqfault.explore.memory import with_memory
from seqfault.litmus.generate import from_cycle, generate
from seqfault.litmus.judge import judge
from seqfault.litmus.threads import Incomplete, Limits

SHAPES = Path(__file__).parents[1] / "litmus" / "shapes"


RARE = (90, 114, 150, 207, 228, 289, 332, 402, 404, 408, 425, 430, 513, 790, 1138)  # of 1,200 some where the axioms allow more


def automaton(test: fl.Litmus, folder: Path) -> Automaton:
    m, _, _ = fl.module(test, folder)
    return compile_program(Program("t", [Process(getattr(m, f"P{t.number}"), t.number) for t in test.threads]))


def pairs(a: Automaton) -> list[Pair]:
    """From the text alone."""
    b = Buffering(a)
    ran = [b.runs(p, None) for p in range(len(a.processes))]
    return b.pairs(ran, touched_by(b, ran))


def judged(text: str, folder: Path) -> tuple[str, list[Pair]]:
    """ "more" if the axioms allow what the machine does not reach, or "same", or why it cannot be told; the pairs."""
    test = fl.read(text)
    try:
        ps = pairs(automaton(test, folder))
        got = fl.in_order(test)
        want = set(judge(test, Limits(candidates=100_000)).states)
    except (fl.Refused, Incomplete) as e:
        return type(e).__name__, []
    return "more" if want - got else "same", ps


def test_whoever_has_more_outcomes_is_named(tmp_path: Path):
    """Random programs; and there are some of each kind, so that this says something.  Nobody has fewer."""
    seen: Counter[str] = Counter()
    for text in [*(late_stores(seed) for seed in [*range(60), *RARE]), *(full_barriers(seed) for seed in range(60))]:
        test = fl.read(text)
        ps = pairs(automaton(test, tmp_path))
        got, want = fl.in_order(test), set(judge(test, Limits(candidates=100_000)).states)
        assert want <= got or ps, text
        assert got <= want, text
        seen["more"] += not want <= got
        seen["named"] += bool(ps)
    assert seen["more"] >= 10 and seen["named"] < 60


def test_cycles_that_have_more_outcomes_are_named(tmp_path: Path):
    for seed in range(60):
        how, ps = judged(text := generate(seed, 4), tmp_path)
        assert how != "more" or ps, text


def test_textbook_shapes(tmp_path: Path):
    """Those that can be said in Kernel Python."""
    ran = Counter[str]()
    for file in sorted(SHAPES.glob("*.litmus")):
        how, ps = judged(file.read_text(), tmp_path)
        assert how != "more" or ps, file
        ran[how] += 1
    assert ran["more"] >= 5 and ran["same"] >= 40


LB = ("PodRW", "MbdRW", "AcqPodRW", "PodRelRW", "DpDatadW")


@pytest.mark.parametrize("edge", LB)
def test_load_buffering_by_what_orders_both_sides(edge: str, tmp_path: Path):
    """diy's LB: without order on both sides allowed, and named; ordered by ppo on both, forbidden, and nothing named;
    on one, named for the other side."""
    both = from_cycle("LB", ["Rfe", edge, "Rfe", edge])
    how, ps = judged(both, tmp_path)
    assert (how == "more") == (len(ps) == 2) == (edge == "PodRW") and len(ps) in (0, 2)
    how, ps = judged(from_cycle("LB1", ["Rfe", edge, "Rfe", "PodRW"]), tmp_path)
    assert how == "more" and len(ps) == (2 if edge == "PodRW" else 1)


HEAD = """
from seqfault.kernel import *
from seqfault.kernel.spinlock import spin_lock, spin_unlock, spinlock_t

@struct(pool=1)
class shared:
    x: integer(0, 3)
    y: integer(0, 3)
    s: spinlock_t

def other():
    m = the(shared)
    r: integer(0, 3) = READ_ONCE(m.y)
    smp_mb()
    WRITE_ONCE(m.x, 1)

def flag(r: integer(0, 3)) -> bool:
    if r == 1:
        return True
    return False

def done(m: ptr[shared]) -> bool:
    return READ_ONCE(m.x) == 1

def us():
    m = the(shared)
"""


def text(body: str, folder: Path, other: str = "other") -> tuple[Automaton, list[Pair]]:
    """One process with these lines, and `other`."""
    body = "\n".join(f"    {line}" for line in body.strip().split("\n"))
    file = folder / f"t{abs(hash((body, other)))}.py"
    file.write_text(HEAD + body + "\n")
    m = load(file, file.stem)
    a = compile_program(Program("t", [Process(m.us, 0), Process(getattr(m, other), 1)]))
    return a, pairs(a)


NO, LETTER, YES = None, True, False  # no pair; one by LKMM's letter; one that nothing orders


@pytest.mark.parametrize(
    "body,named",
    [
        ("r: integer(0, 3) = READ_ONCE(m.x)\nWRITE_ONCE(m.y, 1)", YES),
        ("r: integer(0, 3) = m.x\nm.y = 1", YES),
        ("r: integer(0, 3) = READ_ONCE(m.x)\nsmp_rmb()\nsmp_wmb()\nWRITE_ONCE(m.y, 1)", YES),
        ("r: integer(0, 3) = READ_ONCE(m.x)\nsmp_mb()\nWRITE_ONCE(m.y, 1)", NO),
        ("r: integer(0, 3) = m.x\nsmp_mb()\nm.y = 1", NO),
        ("r: integer(0, 3) = READ_ONCE(m.x)\nWRITE_ONCE(m.y, r)", NO),
        ("r: integer(0, 3) = m.x\nWRITE_ONCE(m.y, r)", LETTER),  # a plain load heads no dependency
        ("r: integer(0, 3) = READ_ONCE(m.x)\nm.y = r", LETTER),
        ("if READ_ONCE(m.x) == 1:\n    WRITE_ONCE(m.y, 1)", NO),
        ("if READ_ONCE(m.x) != 1:\n    return\nWRITE_ONCE(m.y, 1)", NO),
        ("r: integer(0, 3) = READ_ONCE(m.x)\nif r == 1:\n    smp_rmb()\nWRITE_ONCE(m.y, 1)", LETTER),
        ("while READ_ONCE(m.x) == 0:\n    cpu_relax()\nWRITE_ONCE(m.y, 1)", LETTER),
        ("while smp_load_acquire(m.x) == 0:\n    cpu_relax()\nWRITE_ONCE(m.y, 1)", NO),
        ("if flag(READ_ONCE(m.x)):\n    WRITE_ONCE(m.y, 1)", LETTER),  # inside, the ways have met again
        ("if done(m):\n    WRITE_ONCE(m.y, 1)", NO),  # the value itself comes back
        ("r: integer(0, 3) = READ_ONCE(m.x)\nsmp_rmb()\nif READ_ONCE(m.s.owner) == 0:\n    WRITE_ONCE(m.y, 1)", NO),
        ("r: integer(0, 3) = READ_ONCE(m.x)\nif r == 2:\n    smp_mb()\nWRITE_ONCE(m.y, 1)", LETTER),
        ("r: integer(0, 3) = READ_ONCE(m.x)\nspin_lock(m.s)\nWRITE_ONCE(m.y, 1)\nspin_unlock(m.s)", YES),
        ("spin_lock(m.s)\nr: integer(0, 3) = READ_ONCE(m.x)\nspin_unlock(m.s)\nWRITE_ONCE(m.y, 1)", YES),
        ("spin_lock(m.s)\nr: integer(0, 3) = READ_ONCE(m.x)\nspin_unlock(m.s)\nspin_lock(m.s)\nWRITE_ONCE(m.y, 1)\n"
         "spin_unlock(m.s)", NO),
        ("r: integer(0, 3) = READ_ONCE(m.x)\nspin_lock(m.s)\nsmp_mb__after_spinlock()\nWRITE_ONCE(m.y, 1)\n"
         "spin_unlock(m.s)", NO),
        ("r: integer(0, 3) = xchg(m.x, 2)\nWRITE_ONCE(m.y, 1)", NO),
        ("r: integer(0, 3) = xchg_acquire(m.x, 2)\nWRITE_ONCE(m.y, 1)", NO),
        ("r: integer(0, 3) = xchg_release(m.x, 2)\nWRITE_ONCE(m.y, 1)", YES),
        ("r: integer(0, 3) = cmpxchg(m.x, 1, 2)\nWRITE_ONCE(m.y, 1)", YES),  # one that fails orders nothing
        ("r: integer(0, 3) = cmpxchg(m.x, 1, 2)\nif r == 1:\n    WRITE_ONCE(m.y, 1)", NO),
        # what failed is not ordered by what did not
        ("while cmpxchg_acquire(m.x, 1, 2) != 1:\n    smp_wmb()\nWRITE_ONCE(m.y, 1)", LETTER),
        ("r: integer(0, 3) = READ_ONCE(m.x)\nxchg_relaxed(m.s.owner, 0)\nWRITE_ONCE(m.y, 1)", YES),
        ("r: integer(0, 3) = READ_ONCE(m.x)\nWRITE_ONCE(m.y, r)\nsmp_wmb()\nWRITE_ONCE(m.y, 1)", NO),
        ("WRITE_ONCE(m.y, 1)\nr: integer(0, 3) = READ_ONCE(m.x)", NO),
        ("for i in range(2):\n    WRITE_ONCE(m.y, 1)\n    r: integer(0, 3) = READ_ONCE(m.x)", YES),
    ],
)  # fmt: skip
def test_what_orders(body: str, named: bool | None, tmp_path: Path):
    a, ps = text(body, tmp_path)
    mine = [x for x in ps if a.cells[next(iter(bits(Buffering(a).cells_of(x.load))))].path == "x"]
    assert (NO if not mine else all(x.weak for x in mine)) is named


def bits(n: int) -> Iterator[int]:
    return (i for i in range(n.bit_length()) if n >> i & 1)


def test_who_cannot_close_a_cycle(tmp_path: Path):
    """Nobody else stores x; nobody else touches y."""
    assert not text("r: integer(0, 3) = READ_ONCE(m.y)\nWRITE_ONCE(m.x, 1)", tmp_path)[1]
    lines = "r: integer(0, 3) = READ_ONCE(m.x)\nWRITE_ONCE(m.y, 1)"
    assert not text(lines, tmp_path, "us")[1][2:]  # both are `us`: nobody stores x
    assert not text(lines, tmp_path, "us")[1]


@pytest.mark.parametrize("locked", [True, False])
def test_cells_under_one_lock_have_no_pairs(locked: bool, tmp_path: Path):
    """What an exploration has learned: with a lock around both, no cell is racy."""
    body = "r: integer(0, 3) = READ_ONCE(m.x)\nWRITE_ONCE(m.y, 1)\nr = READ_ONCE(m.y)\nWRITE_ONCE(m.x, 1)"
    a, _ = text(f"spin_lock(m.s)\n{body}\nspin_unlock(m.s)" if locked else body, tmp_path, "us")
    a = with_memory(a, "lkmm")
    cells = [c.start for c in a.cells]
    ex = tiers.explore(a, a.pack(cells), a.rom(cells), movers=None)
    b = Buffering(a)
    touched = touched_in(ex)
    assert touched is not None
    ps = b.pairs([b.runs(p, None) for p in range(2)], touched)
    assert bool(ps) != locked
