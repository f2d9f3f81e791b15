"""Random programs, their text, their comparison and their shrinking, without any kernel."""

from __future__ import annotations

import numpy as np
import pytest

from seqfault.live.compare import (
    DETAILS,
    FRAMES,
    KEPT,
    LOW,
    MARKS,
    OUTSIDE,
    PAGE,
    RESULT,
    TOTALS,
    VMA,
    VMAS,
    Mask,
    compare,
)
from seqfault.live.generate import Geometry, Plan, programs
from seqfault.live.script import ScriptError, is_script, parse_row, parse_script, row_text, script_text
from seqfault.live.shrink import shrink
from seqfault.mm.opcodes import (
    NAMES,
    NR_ARGS,
    OP_FTRUNCATE,
    OP_MADVISE,
    OP_MLOCK,
    OP_MMAP,
    OP_MREMAP,
    OP_MUNMAP,
    OP_PWRITE,
    OP_START,
    OP_WRITE,
    PAGE_SIZE,
    TASK_SIZE_BYTES,
    UAPI_MAP_FIXED,
    WINDOW_BASE,
)

G = Geometry()


def test_programs_depend_on_seed_and_number_only():
    all_ = programs(Plan(seed=7), 0, 12)
    later = programs(Plan(seed=7), 9, 3)
    assert (all_[9 * 251 :] == later).all()
    assert (programs(Plan(seed=8), 0, 12) != all_).any()


def test_every_operation_is_generated():
    rows = programs(Plan(seed=1, map_count_every=50), 0, 400)
    assert set(np.unique(rows[:, 0]).tolist()) == set(NAMES)
    assert not (programs(Plan(seed=1), 0, 400, seal=False)[:, 0] == 16).any()


def test_text_of_programs_reads_back():
    for row in programs(Plan(seed=3), 0, 60):
        if row[0] == OP_START:
            continue
        want = [int(x) for x in row]
        want[2 + NR_ARGS[want[0]] :] = [0] * (6 - NR_ARGS[want[0]])
        assert parse_row(row_text(row)) == want


def test_script_round_trip_and_errors():
    rows = programs(Plan(seed=5), 0, 1)
    text = script_text(rows, "two\nlines")
    assert is_script(text) and text.startswith("# two\n# lines\n")
    assert script_text(parse_script(text)) == script_text(rows)
    assert not is_script("mmap 2-4 rw\n")
    for bad, says in (
        ("munmap(W+520p)", "takes 2 arguments, 1 given"),
        ("mumap(W, 1p)", "is no operation"),
        ("munmap(W+x, 1p)", "'x' is no number"),
        ("munmap(W, 0x1ffffffffffffffff)", "does not fit 64 bits"),
    ):
        with pytest.raises(ScriptError, match="s:2: ") as e:
            parse_script("munmap(W, 1p)\n" + bad, "s")
        assert says in str(e.value)


# -- comparison
def record(result=0, vmas=(), pages=None, mask=1):
    words = [result, mask, len(vmas)]
    for v in vmas:
        words += v
    return words + list(pages if pages is not None else [0] * G.observed)


def streams(*records):
    at = np.cumsum([0, *map(len, records)])
    return np.array([w for r in records for w in r], np.int64), at


def held(model, kernel, op=OP_MUNMAP, mask=None, args=()):
    rows = np.zeros((len(model), 8), np.int64)
    rows[:, 0] = op
    rows[:, 2 : 2 + len(args)] = args
    ms, mo = streams(*model)
    ks, ko = streams(*kernel)
    return compare(rows, ms, mo, ks, ko, G.observed, mask or Mask(), len(model), G.nr_pages)


def pages(*words):
    return [*words, *([0] * (G.observed - len(words)))]


A, B = (512, 514, 3, 0, 0), (514, 516, 1, 0, 0)


def test_equal_streams():
    r = record(-22, [A, B], pages(1 | 7 << 16))
    assert held([r], [r]) is None


@pytest.mark.parametrize(
    "model, kernel, why",
    [
        (record(0), record(-12), RESULT),
        (record(0, [A]), record(0, [A, B]), VMAS),
        (record(0, [A, B]), record(0, [(512, 516, 3, 0, 0)]), VMA),
        (record(0, [A]), record(0, [(512, 514, 1, 0, 0)]), VMA),
        (record(0, [A], pages(1)), record(0, [A], pages(0)), PAGE),
        (record(0, [A], pages(33 | 5 << 8)), record(0, [A], pages(33 | 6 << 8)), PAGE),
    ],
)
def test_each_difference_is_seen(model, kernel, why):
    got = held([record(), model], [record(), kernel])
    assert got is not None and (got.row, got.why) == (1, why)


def test_frames_are_compared_by_classes():
    m = record(0, [A], pages(1 | 5 << 16, 1 | 6 << 16, 1 | 5 << 16))
    k = record(0, [A], pages(1 | 900 << 16, 1 | 901 << 16, 1 | 900 << 16))
    assert held([m], [k]) is None
    shared = record(0, [A], pages(1 | 900 << 16, 1 | 900 << 16, 1 | 900 << 16))
    got = held([m], [shared])
    assert got is not None and got.why == FRAMES
    assert held([m], [shared], mask=Mask(frames=False)) is None


def test_a_write_that_keeps_the_frame_differs_from_one_that_copies():
    before, kept, copied = (record(0, [A], pages(1 | f << 16)) for f in (5, 5, 6))
    k_before, k_copied = (record(0, [A], pages(1 | f << 16)) for f in (900, 901))
    assert held([before, copied], [k_before, k_copied], OP_WRITE) is None
    for op in (OP_WRITE, OP_MLOCK, OP_MADVISE):
        got = held([before, kept], [k_before, k_copied], op)
        assert got is not None and got.why == KEPT
    assert held([before, kept], [k_before, k_copied], OP_MMAP) is None  # another mapping, another frame


def test_totals_and_details_are_compared():
    totals, vma = [4, 2, 4, 0, 0, 1, 255, 15, 63], [3, 2, 2, 2, 2, 0, 2]
    same = [*record(0, [A], mask=5), *totals, *[0] * G.observed, *vma]
    assert held([same], [same]) is None
    for why, first, n in ((TOTALS, 0, 9), (MARKS, 9, G.observed), (DETAILS, 9 + G.observed, 7)):
        for i in range(n):
            other = list(same)
            other[len(record(0, [A])) + first + i] += 1
            got = held([same], [other])
            assert got is not None and (got.why, got.index) == (why, i)
            assert why != MARKS or held([same], [other], mask=Mask(frames=False)) is None


W, LAST = WINDOW_BASE, G.nr_pages - 1


@pytest.mark.parametrize(
    "op, args, owed",
    [
        (OP_MUNMAP, (W + 5 * PAGE_SIZE, PAGE_SIZE), True),
        (OP_MUNMAP, (W + LAST * PAGE_SIZE, 2 * PAGE_SIZE), False),
        (OP_MUNMAP, (W - PAGE_SIZE, PAGE_SIZE), False),
        (OP_MUNMAP, (-PAGE_SIZE, PAGE_SIZE), True),
        (OP_WRITE, (W, 1), True),
        (OP_WRITE, (W + (LAST + 1) * PAGE_SIZE, 1), False),
        (OP_MMAP, (5, PAGE_SIZE, 3, 0), True),
        (OP_MMAP, (5, PAGE_SIZE, 3, UAPI_MAP_FIXED), False),
        (OP_MREMAP, (W, PAGE_SIZE, PAGE_SIZE, 3, TASK_SIZE_BYTES), True),
        (OP_MREMAP, (W, PAGE_SIZE, PAGE_SIZE, 3, 1 << 40), False),
        (OP_FTRUNCATE, (0, 65 * PAGE_SIZE), False),
        (OP_PWRITE, (0, 63), True),
    ],
)
def test_no_answer_is_accepted_only_where_the_window_ends(op, args, owed):
    got = held([record(OUTSIDE)], [record(-22)], op, args=args)
    assert (got is not None and got.why == RESULT) if owed else got is None


def test_masked_bits_are_not_compared():
    m, k = record(0, [A], pages(1)), record(0, [A], pages(3))
    assert held([m], [k]) is not None
    assert held([m], [k], mask=Mask(page=LOW & ~2)) is None


# -- shrinking
def test_shrinking_keeps_what_matters():
    """The difference needs one munmap behind one write to page 520, whatever else is there."""
    rows = programs(Plan(seed=2), 3, 1)
    rows[40] = [OP_WRITE, 0, WINDOW_BASE + 520 * 4096, 9, 0, 0, 0, 0]
    rows[90] = [OP_MUNMAP, 0, WINDOW_BASE + 521 * 4096, 16 * 4096, 0, 0, 0, 0]

    def at(p):
        seen = False
        for i, r in enumerate(p):
            seen |= r[0] == OP_WRITE and r[2] == WINDOW_BASE + 520 * 4096
            if seen and r[0] == OP_MUNMAP and r[2] == WINDOW_BASE + 521 * 4096:
                return i
        return -1

    small = shrink(rows[: at(rows) + 1], lambda batch: [at(p) for p in batch])
    assert [row_text(r) for r in small[1:]] == ["write(W+520p, 9)", "munmap(W+521p, 1p)"]
