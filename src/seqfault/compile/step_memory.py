"""Tier 1: loads, stores, checks and allocation of generated steps."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seqfault.compile.step_own import note_object
from seqfault.compile.work import LOOK, OBJECT, READ, WRITE

if TYPE_CHECKING:
    from seqfault.compile.step_body import Body

CANDIDATES = 4096  # more cells than this are found by the tables


@dataclass
class Cell:
    """A cell of memory in generated text: its number (`at`, a value or a literal); where its word is (`base`, `word`)
    and `shift`; and, where all cells that may be meant agree, `mask`, `lo` and `span`.

    `static`: the number is known.  Values that differ come from the tables.
    """

    at: str
    base: str
    word: str
    shift: str
    mask: str
    lo: str
    span: str
    static: bool
    same: bool


def constant(v: str) -> bool:
    return v.lstrip("-").isdigit()


def known_cell(body: Body, i: int) -> Cell:
    word, shift, mask, lo, span, _ = body.k.rows[i]
    base = "ext" if word >= body.a.nw else "mem"
    word -= body.a.nw if base == "ext" else 0
    return Cell(str(i), base, str(word), str(shift), str(mask), str(lo), str(span), True, True)


def cell(body: Body, base: int, terms: list[tuple[int, int]], found: list[int]) -> Cell:
    """The cell `base` + sum of slot * stride, which is one of `found` (none: it may be any)."""
    at = base
    dynamic: list[tuple[str, int]] = []
    for s, stride in terms:
        v, (lo, hi) = body.slot(s)
        if constant(v):
            at += int(v) * stride
        elif lo == hi:
            at += lo * stride
        else:
            dynamic.append((v, stride))
    if not dynamic:
        return known_cell(body, at)
    text = str(at)
    for v, stride in dynamic:
        m = v if stride == 1 else body.put(f"mul i64 {v}, {stride}")
        text = body.put(f"add i64 {m}, {text}") if text != "0" else m
    if not found:
        return table_cell(body, text)
    rows = [body.k.rows[i] for i in found]
    nw = body.a.nw
    outside = {r[0] >= nw for r in rows}
    if len({(r[2], r[3], r[4]) for r in rows}) != 1 or len(outside) != 1 or not rows[0][2]:
        return table_cell(body, text)
    base_name = "ext" if outside.pop() else "mem"
    mask, least, span = str(rows[0][2]), str(rows[0][3]), str(rows[0][4])
    back = nw if base_name == "ext" else 0
    if len({r[0] for r in rows}) == 1:
        word = str(rows[0][0] - back)
    else:
        word = affine(body, text, found, [r[0] - back for r in rows]) or look(body, "tw", text, back)
    if len({r[1] for r in rows}) == 1:
        shift = str(rows[0][1])
    else:
        shift = affine(body, text, found, [r[1] for r in rows]) or look(body, "ts", text)
    return Cell(text, base_name, word, shift, mask, least, span, False, True)


def affine(body: Body, at: str, cells: list[int], values: list[int]) -> str:
    """`values` as a multiple of the distance from the first cell, or ""."""
    step = {b - a for a, b in itertools.pairwise(cells)}
    rise = {b - a for a, b in itertools.pairwise(values)}
    if len(step) != 1 or len(rise) != 1:
        return ""
    d, r = step.pop(), rise.pop()
    if r % d:
        return ""
    k = r // d
    m = at if k == 1 else body.put(f"mul i64 {at}, {k}")
    c = values[0] - k * cells[0]
    return body.put(f"add i64 {m}, {c}") if c else m


def look(body: Body, table: str, at: str, back: int = 0) -> str:
    p = body.put(f"getelementptr i64, ptr @{table}, i64 {at}")
    v = body.put(f"load i64, ptr {p}")
    return body.put(f"sub i64 {v}, {back}") if back else v


def table_cell(body: Body, at: str) -> Cell:
    """Everything from the tables; only cells of the state come here."""
    return Cell(
        at, "mem", look(body, "tw", at), look(body, "ts", at), look(body, "tm", at), look(body, "tl", at),
        look(body, "tp", at), False, False,
    )  # fmt: skip


def raw_of(body: Body, c: Cell) -> str:
    """The raw value in a cell."""
    if c.mask == "0":
        return "0"
    if constant(c.word):
        w = body.word(c.base, int(c.word))
    else:
        p = body.put(f"getelementptr i64, ptr %{c.base}, i64 {c.word}")
        w = body.put(f"load i64, ptr {p}")
    v = w if c.shift == "0" else body.put(f"lshr i64 {w}, {c.shift}")
    return v if c.mask == "-1" else body.put(f"and i64 {v}, {c.mask}")


def write_raw(body: Body, c: Cell, u: str) -> None:
    """Store a raw value that fits."""
    if c.mask == "0":
        return
    body.values = {s: v for s, v in body.values.items() if body.k.rows[s][5] or body.k.rows[s][0] >= body.a.nw}
    if constant(c.word) and constant(c.shift) and constant(c.mask):
        body.insert_raw(c.base, int(c.word), int(c.shift), int(c.mask), u)
        return
    p = body.put(f"getelementptr i64, ptr %{c.base}, i64 {c.word}")
    old = body.put(f"load i64, ptr {p}")
    ms = body.put(f"shl i64 {c.mask}, {c.shift}")
    kept = body.put(f"and i64 {old}, {body.put(f'xor i64 {ms}, -1')}")
    m = body.put(f"and i64 {u}, {c.mask}")
    new = body.put(f"or i64 {kept}, {body.put(f'shl i64 {m}, {c.shift}')}")
    body.do(f"store i64 {new}, ptr {p}")
    body.forget(c.base)


def terms_of(row: list[int]) -> list[tuple[int, int]]:
    out = []
    if row[4]:
        out.append((row[3], row[4]))
        if row[6]:
            out.append((row[5], row[6]))
    return out


def load(body: Body, pc: int, row: list[int]) -> bool:
    c = cell(body, row[2], terms_of(row), body.a.touched(pc, CANDIDATES))
    if row[7]:
        body.touch(c.at, READ)
    raw = raw_of(body, c)
    rng = None
    if c.same:
        mask, lo, span = int(c.mask), int(c.lo), int(c.span)
        if mask and span >= 0 and (mask < 0 or mask > span):
            raw = body.defined(raw, body.put(f"icmp sgt i64 {raw}, {span}"), pc, c.at)
        if span >= 0:
            rng = lo, lo + span
    else:
        wide = body.put(f"icmp slt i64 {c.span}, 0")
        over = body.put(f"icmp sgt i64 {raw}, {c.span}")
        raw = body.defined(raw, body.put(f"select i1 {wide}, i1 false, i1 {over}"), pc, c.at)
    if constant(raw) and constant(c.lo):
        v = str(int(raw) + int(c.lo))
        rng = int(v), int(v)
    else:
        v = raw if c.lo == "0" else body.put(f"add i64 {raw}, {c.lo}")
    from seqfault.kernel.types import INT_MAX, INT_MIN

    body.assign(row[1], v, rng or (INT_MIN, INT_MAX), pc)
    return False


def store(body: Body, pc: int, row: list[int]) -> bool:
    v, (lo, hi) = body.slot(row[1])
    c = cell(body, row[2], terms_of(row), body.a.touched(pc, CANDIDATES))
    if constant(v) and constant(c.lo):
        u = str(int(v) - int(c.lo))
    else:
        u = v if c.lo == "0" else body.put(f"sub i64 {v}, {c.lo}")
    if c.same:
        mask, low, span = int(c.mask), int(c.lo), int(c.span)
        if mask and span >= 0 and (lo < low or hi > low + span):
            body.fail_if(body.put(f"icmp ugt i64 {u}, {span}"), "range-overflow", pc, -1, c.at)
    else:
        wide = body.put(f"icmp slt i64 {c.span}, 0")
        over = body.put(f"icmp ugt i64 {u}, {c.span}")
        some = body.put(f"icmp ne i64 {c.mask}, 0")
        bad = body.put(f"select i1 {wide}, i1 false, i1 {over}")
        body.fail_if(body.put(f"and i1 {bad}, {some}"), "range-overflow", pc, -1, c.at)
    if row[7]:
        body.touch(c.at, WRITE)
    write_raw(body, c, u)
    return False


def value_of(body: Body, c: Cell) -> str:
    raw = raw_of(body, c)
    if constant(raw) and constant(c.lo):
        return str(int(raw) + int(c.lo))
    return raw if c.lo == "0" else body.put(f"add i64 {raw}, {c.lo}")


def check_pointer(body: Body, pc: int, row: list[int]) -> bool:
    pool = body.a.pools[row[2]]
    x, (lo, _) = body.slot(row[1])
    if lo <= 0:
        body.fail_if(body.put(f"icmp eq i64 {x}, 0"), "null-dereference", pc, row[2])
    if pool.state >= 0:
        c = cell(body, pool.base - pool.stride, [(row[1], pool.stride)], pool.states)
        body.touch(c.at, LOOK)
        st = value_of(body, c)
        if constant(st):
            if st == "1":
                return False
            bad = "true"
        else:
            bad = body.put(f"icmp ne i64 {st}, 1")
            if pool.typesafe:
                bad = body.put(f"and i1 {bad}, {body.put(f'icmp ne i64 {st}, 2')}")
        index = body.put(f"sub i64 {x}, 1")
        body.report_if(bad, body.k.kind["use-after-free"], pc, row[2], index)
    return False


def allocate(body: Body, pc: int, row: list[int]) -> bool:
    pool = body.a.pools[row[2]]
    defined = row[3] != 0
    r = body.put(f"call i64 @take(ptr %mem, i64 {pool.base}, i64 {pool.stride}, i64 {pool.n})")
    for i2 in pool.states:  # where there is none, too: whoever frees one changes that
        body.touch(str(i2), READ)
    body.fail_if(body.put(f"icmp slt i64 {r}, 0"), "pool-exhausted", pc, row[2])
    i = body.put(f"and i64 {r}, {(1 << 32) - 1}")
    first = body.put(f"add i64 {body.put(f'mul i64 {i}, {pool.stride}')}, {pool.base}")
    body.touch(first, OBJECT)
    if body.own is not None:
        note_object(body, first, pool.stride)
    body.do(f"call void @put(ptr %mem, i64 {first}, i64 1)")
    begin = "true" if defined or pool.typesafe else "false"
    call = f"call void @fresh(ptr %mem, i64 {first}, i64 {pool.stride}, i1 {begin})"
    if pool.typesafe and not defined:
        reused = body.put(f"icmp ne i64 {body.put(f'lshr i64 {r}, 32')}, 0")
        new, on = body.fresh(), body.fresh()
        body.do(f"br i1 {reused}, label %{on}, label %{new}")
        body.label(new)
        body.do(call)
        body.do(f"br label %{on}")
        body.label(on)
    else:
        body.do(call)
    body.forget("mem")
    body.values = {s: v for s, v in body.values.items() if body.k.rows[s][5] or body.k.rows[s][0] >= body.a.nw}
    body.set_slot(row[1], body.put(f"add i64 {i}, 1"), (1, pool.n))
    return False


def free(body: Body, pc: int, row: list[int]) -> bool:
    pool = body.a.pools[row[2]]
    x, (lo, _) = body.slot(row[1])
    if lo <= 0:
        body.fail_if(body.put(f"icmp eq i64 {x}, 0"), "null-dereference", pc, row[2])
    c = cell(body, pool.base - pool.stride, [(row[1], pool.stride)], pool.states)
    bad = body.put(f"icmp ne i64 {value_of(body, c)}, 1")
    index = body.put(f"sub i64 {x}, 1")
    body.report_if(bad, body.k.kind["double-free"], pc, row[2], index)
    body.touch(c.at, WRITE)
    write_raw(body, c, "2")
    return False
