"""Tier 1: accesses that are in nobody's way do not begin a step.

A table has a byte for each process and cell: whether the process ever loads and stores it, as far as is known, and
whether it does so on its own, that is while no other process stores (or, for a store, touches) the cell.  Where a step
would begin with an access that a process makes on its own, it goes on instead; every access looks whether the table
has it.  explore/own.py makes the table; docs/engine.md says why nothing is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seqfault.compile.automaton import Automaton
from seqfault.compile.ops import Op
from seqfault.compile.work import LOOK, OBJECT, READ, X_MET, X_NEWS, X_OWN, X_OWN_ROOM, X_ROW, X_TABLE, X_USED

if TYPE_CHECKING:
    from seqfault.compile.step_body import Body
    from seqfault.compile.step_code import Graph

LOADS, STORES = 1, 2  # in the table: it is known to load, to store the cell
OWN = 2  # bits by which what it does on its own stands above those
MOST = 6  # cells and objects
NEVER = frozenset({Op.ALLOC, Op.FREE})  # what they touch is not known before
ASSIGNS = frozenset({Op.LOAD, Op.CHOOSE, *(Op(n) for n in range(Op.MOV, Op.LE + 1)), Op.MIN, Op.MAX, Op.WRAP})


@dataclass(frozen=True)
class OwnAccess:
    """What a step may touch: cells, (base, slots and strides, whether it stores) each, and objects that it looks at,
    (slot of the pointer, number of the pool) each."""

    cells: tuple[tuple[int, tuple[tuple[int, int], ...], bool], ...]
    looks: tuple[tuple[int, int], ...]


def width(a: Automaton) -> int:
    """Bytes of the table for each process: one a cell, and one that is always 0."""
    return a.ncell + 1


def own_accesses(a: Automaton, graph: Graph, stops: Any) -> dict[int, OwnAccess]:
    """Of the places where a step begins those at which it can be told, by what is known there, all that it may touch:
    a few cells, and which objects it looks at."""
    found = {pc: _access(a, graph, stops, pc) for pc in range(1, len(a.code)) if stops[pc]}
    return {pc: x for pc, x in found.items() if x is not None}


def _access(a: Automaton, graph: Graph, stops: Any, pc: int) -> OwnAccess | None:
    cells: dict[tuple[int, tuple[tuple[int, int], ...]], bool] = {}
    looks: set[tuple[int, int]] = set()
    changed: dict[int, set[int]] = {pc: set()}  # slots that may have changed before an instruction
    work = [pc]
    while work:
        at = work.pop()
        row = [int(x) for x in a.code[at]]
        op = Op(row[0])
        by: set[int] = set()
        if op in NEVER:
            return None
        if op is Op.CHKPTR and a.pools[row[2]].state >= 0:
            looks.add((row[1], row[2]))
            by = {row[1]}
        if op in (Op.LOAD, Op.STORE) and row[7]:
            terms = tuple((row[i], row[i + 1]) for i in (3, 5) if row[i + 1])
            cell = row[2], terms
            cells[cell] = cells.get(cell, False) or op is Op.STORE
            by = {s for s, _ in terms}
        if len(cells) + len(looks) > MOST or any(overlap(a, s, c) for s in by for c in changed[at]):
            return None
        after = changed[at] | ({row[1]} if op in ASSIGNS else set())
        for m in () if op in (Op.CALL, Op.RET, Op.HALT) else graph.next[at]:
            if m != 0 and not stops[m] and (m not in changed or not after <= changed[m]):
                changed[m] = changed.get(m, set()) | after
                work.append(m)
    return OwnAccess(tuple((*c, store) for c, store in cells.items()), tuple(sorted(looks))) if cells else None


def overlap(a: Automaton, s: int, c: int) -> bool:
    """Whether two slots share bits."""
    x, y = ([int(v) for v in a.tab[i]] for i in (s, c))
    bits = [(v[2] & ((1 << 64) - 1)) << v[1] for v in (x, y)]
    return s == c or (x[0] == y[0] and x[5] == y[5] and bits[0] & bits[1] != 0)


def own_text(a: Automaton) -> str:
    """``@met``: a process makes an access that the table may lack; ``@met_object``: it stores an object's cells."""
    n = width(a)
    process_word = int(a.tab[a.process_slot][0]) - a.nw
    return f"""
declare i64 @llvm.umin.i64(i64, i64)

define internal void @met(ptr %x, ptr %ext, i64 %cell, i64 %how) cold noinline {{
entry:
  %tp = getelementptr i64, ptr %x, i64 {X_TABLE}
  %ta = load i64, ptr %tp
  %table = inttoptr i64 %ta to ptr
  %wp = getelementptr i64, ptr %ext, i64 {process_word}
  %me = load i64, ptr %wp
  %mo = mul i64 %me, {n}
  %ma = add i64 %mo, %cell
  %mp = getelementptr i8, ptr %table, i64 %ma
  %bit = trunc i64 %how to i8
  %was = atomicrmw or ptr %mp, i8 %bit seq_cst
  %ownbit = shl i8 %bit, {OWN}
  %minebits = and i8 %was, %ownbit
  %mine = icmp ne i8 %minebits, 0
  %isload = icmp eq i8 %bit, {LOADS}
  %tmp = getelementptr i64, ptr %x, i64 {X_MET}
  %tm0 = load i64, ptr %tmp
  %tm1 = add i64 %tm0, 1
  store i64 %tm1, ptr %tmp
  %against = select i1 %isload, i8 {STORES}, i8 {LOADS | STORES}
  br label %loop
loop:
  %q = phi i64 [0, %entry], [%q1, %next]
  %more = icmp slt i64 %q, {len(a.processes)}
  br i1 %more, label %other, label %done
other:
  %self = icmp eq i64 %q, %me
  br i1 %self, label %next, label %look
look:
  %qo = mul i64 %q, {n}
  %qa = add i64 %qo, %cell
  %qp = getelementptr i8, ptr %table, i64 %qa
  %b = load atomic i8, ptr %qp seq_cst, align 1
  %hit = and i8 %b, %against
  %some = icmp ne i8 %hit, 0
  br i1 %some, label %conflict, label %next
conflict:
  %hitown = shl i8 %hit, {OWN}
  %theirs = and i8 %b, %hitown
  %his = icmp ne i8 %theirs, 0
  %wrong = or i1 %his, %mine
  br i1 %wrong, label %tell, label %next
tell:
  %np = getelementptr i64, ptr %x, i64 {X_NEWS}
  %nv = load i64, ptr %np
  %nv1 = add i64 %nv, 1
  store i64 %nv1, ptr %np
  br label %done
next:
  %q1 = add i64 %q, 1
  br label %loop
done:
  ret void
}}

define internal void @met_object(ptr %x, ptr %ext, i64 %first, i64 %n) cold noinline {{
entry:
  %rp = getelementptr i64, ptr %x, i64 {X_ROW}
  %ra = load i64, ptr %rp
  %row = inttoptr i64 %ra to ptr
  br label %loop
loop:
  %k = phi i64 [0, %entry], [%k1, %next]
  %more = icmp slt i64 %k, %n
  br i1 %more, label %cell, label %done
cell:
  %c = add i64 %first, %k
  %p = getelementptr i8, ptr %row, i64 %c
  %b = load i8, ptr %p
  %known = and i8 %b, {STORES}
  %new = icmp eq i8 %known, 0
  br i1 %new, label %tell, label %next
tell:
  call void @met(ptr %x, ptr %ext, i64 %c, i64 {STORES})
  br label %next
next:
  %k1 = add i64 %k, 1
  br label %loop
done:
  ret void
}}
"""


def begin_own(a: Automaton) -> str:
    """Text of `advance`: no access was passed over yet; the process's part of the table."""
    return (
        f"  %op = getelementptr i64, ptr %x, i64 {X_OWN}\n  store i64 0, ptr %op\n"
        f"  %otp = getelementptr i64, ptr %x, i64 {X_TABLE}\n  %ot = load i64, ptr %otp\n"
        f"  %oo = mul i64 %process, {width(a)}\n  %ora = add i64 %ot, %oo\n"
        f"  %orp = getelementptr i64, ptr %x, i64 {X_ROW}\n  store i64 %ora, ptr %orp\n"
    )


def entry_at(body: Body, cell: str) -> str:
    """The table's byte for a cell, by the process that steps."""
    row = body.put(f"load i64, ptr {body.put(f'getelementptr i64, ptr %x, i64 {X_ROW}')}")
    p = body.put(f"getelementptr i8, ptr {body.put(f'inttoptr i64 {row} to ptr')}, i64 {cell}")
    return body.put(f"load i8, ptr {p}")


def note_access(body: Body, at: str, how: int) -> None:
    """Text: the table has to know of this access.  (Of an object's cells: `note_object`.)"""
    if how == OBJECT:
        return
    bit = LOADS if how in (READ, LOOK) else STORES
    known = body.put(f"and i8 {entry_at(body, at)}, {bit}")
    new, on = body.fresh(), body.fresh()
    body.do(f"br i1 {body.put(f'icmp eq i8 {known}, 0')}, label %{new}, label %{on}")
    body.label(new)
    body.do(f"call void @met(ptr %x, ptr %ext, i64 {at}, i64 {bit})")
    body.do(f"br label %{on}")
    body.label(on)


def note_object(body: Body, first: str, cells: int) -> None:
    """Text: all cells of an object are stored."""
    body.do(f"call void @met_object(ptr %x, ptr %ext, i64 {first}, i64 {cells})")


def bits(body: Body, cell: str, how: int) -> str:
    """Of the table's byte for a cell, the bit for an access that is the process's own."""
    return body.put(f"and i8 {entry_at(body, cell)}, {how << OWN}")


def number(body: Body, base: int, terms: Sequence[tuple[int, int]]) -> str:
    """The cell `base` + sum of slot * stride, or one that is nobody's where that is none."""
    text, known = str(base), True
    for s, stride in terms:
        v = body.get(s)
        if known and v.lstrip("-").isdigit():
            text = str(int(text) + int(v) * stride)
            continue
        m = v if stride == 1 else body.put(f"mul i64 {v}, {stride}")
        text, known = body.put(f"add i64 {m}, {text}"), False
    most = width(body.a) - 1
    if known:
        return text if 0 <= int(text) <= most else str(most)
    return body.put(f"call i64 @llvm.umin.i64(i64 {text}, i64 {most})")


def pass_over(body: Body, pc: int, access: OwnAccess) -> None:
    """Text: go on at `pc`, where a step begins, if nobody else is concerned, and the step has made no choice.  (A
    NULL pointer or a bad index leads to a cell of something else, or to none: who goes on there reports it.)"""
    yes = []
    for base, terms, store in access.cells:
        yes.append(body.put(f"icmp ne i8 {bits(body, number(body, base, terms), STORES if store else LOADS)}, 0"))
    for slot, p in access.looks:
        pool = body.a.pools[p]
        at = number(body, pool.base - pool.stride, ((slot, pool.stride),))
        yes.append(body.put(f"icmp ne i8 {bits(body, at, LOADS)}, 0"))
    many = body.put(f"getelementptr i64, ptr %x, i64 {X_OWN}")
    so_far = body.put(f"load i64, ptr {many}")
    room = body.put(f"load i64, ptr {body.put(f'getelementptr i64, ptr %x, i64 {X_OWN_ROOM}')}")
    yes.append(body.put(f"icmp slt i64 {so_far}, {room}"))
    if body.k.chooses:
        used = body.put(f"load i64, ptr {body.put(f'getelementptr i64, ptr %x, i64 {X_USED}')}")
        yes.append(body.put(f"icmp eq i64 {used}, 0"))
    on, stop = body.fresh(), body.fresh()
    cond = yes[0]
    for y in yes[1:]:
        cond = body.put(f"and i1 {cond}, {y}")
    body.do(f"br i1 {cond}, label %{on}, label %{stop}")
    body.label(on)
    body.do(f"store i64 {body.put(f'add i64 {so_far}, 1')}, ptr {many}")
    body.do(f"br label %b{pc}" if pc in body.mine else f"ret i64 {pc}")
    body.label(stop)


__all__ = ["OwnAccess", "begin_own", "note_access", "note_object", "own_accesses", "own_text", "pass_over"]
