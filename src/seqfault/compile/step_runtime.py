"""What generated steps share: tables of cells and pools, reports, allocation; in LLVM's textual form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqfault.compile.automaton import Automaton
from seqfault.compile.work import (
    MAX_ACCESSED,
    MAX_VIOLATIONS,
    X_ACCESSED,
    X_COUNTED,
    X_DEPTH,
    X_EDGES,
    X_FUEL,
    X_HASH,
    X_USED,
    X_VIOL,
    X_VIOLATIONS,
)

if TYPE_CHECKING:
    from seqfault.compile.step_body import Known

__all__ = ["X_DEPTH", "X_FUEL", "X_USED", "runtime"]


def runtime(a: Automaton, known: Known) -> str:
    """Tables and helpers for `a`.

    ``@tw``: word of each cell, or, from the state's size on, of the extra words; ``@ts``: its shift; ``@tm``, ``@tl``,
    ``@tp``: mask, least value, span; ``@tb``: what an object's cells begin with.
    """
    n = a.ncell

    def table(name: str, values: list[int]) -> str:
        return f"@{name} = internal constant [{n} x i64] [{', '.join(f'i64 {v}' for v in values)}]\n"

    tab = a.tab[:n]
    out = [
        table("tw", [int(x) for x in tab[:, 0]]),
        table("ts", [int(x) for x in tab[:, 1]]),
        table("tm", [int(x) for x in tab[:, 2]]),
        table("tl", [int(x) for x in tab[:, 3]]),
        table("tp", [int(x) for x in tab[:, 4]]),
        table("tb", [c.start - int(tab[i, 3]) for i, c in enumerate(a.cells)]),
    ]
    classes = len(a.lock_classes)
    out.append(f"""
declare {{i64, i1}} @llvm.sadd.with.overflow.i64(i64, i64)
declare {{i64, i1}} @llvm.ssub.with.overflow.i64(i64, i64)
declare {{i64, i1}} @llvm.smul.with.overflow.i64(i64, i64)
declare i64 @llvm.smin.i64(i64, i64)
declare i64 @llvm.smax.i64(i64, i64)
declare i64 @llvm.cttz.i64(i64, i1)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)

define internal void @violate(ptr %x, ptr %ext, i64 %kind, i64 %pc, i64 %pool, i64 %index) cold noinline {{
  %np = getelementptr i64, ptr %x, i64 {X_VIOLATIONS}
  %n = load i64, ptr %np
  %room = icmp slt i64 %n, {MAX_VIOLATIONS}
  br i1 %room, label %keep, label %done
keep:
  %i = mul i64 %n, 5
  %at = add i64 %i, {X_VIOL}
  %p0 = getelementptr i64, ptr %x, i64 %at
  store i64 %kind, ptr %p0
  %p1 = getelementptr i64, ptr %p0, i64 1
  store i64 %pc, ptr %p1
  %p2 = getelementptr i64, ptr %p0, i64 2
  store i64 %pool, ptr %p2
  %p3 = getelementptr i64, ptr %p0, i64 3
  store i64 %index, ptr %p3
  %w = getelementptr i64, ptr %ext, i64 {int(a.tab[a.process_slot][0]) - a.nw}
  %process = load i64, ptr %w
  %p4 = getelementptr i64, ptr %p0, i64 4
  store i64 %process, ptr %p4
  %n1 = add i64 %n, 1
  store i64 %n1, ptr %np
  br label %done
done:
  ret void
}}

define internal i64 @mix(i64 %h0) {{
  %a0 = lshr i64 %h0, 32
  %h1 = xor i64 %h0, %a0
  %h2 = mul i64 %h1, {0xD6E8FEB86659FD93 - (1 << 64)}
  %a1 = lshr i64 %h2, 32
  %h3 = xor i64 %h2, %a1
  %h4 = mul i64 %h3, {0xD6E8FEB86659FD93 - (1 << 64)}
  %a2 = lshr i64 %h4, 32
  %h5 = xor i64 %h4, %a2
  ret i64 %h5
}}

define internal void @emit(ptr %x, i64 %v) {{
  %hp = getelementptr i64, ptr %x, i64 {X_HASH}
  %h = load i64, ptr %hp
  %m = mul i64 %h, 31
  %y = xor i64 %m, %v
  %r = call i64 @mix(i64 %y)
  store i64 %r, ptr %hp
  ret void
}}

define internal void @count(ptr %x, i64 %what) {{
  %np = getelementptr i64, ptr %x, i64 {X_COUNTED}
  %n = load i64, ptr %np
  %room = icmp slt i64 %n, 64
  br i1 %room, label %keep, label %done
keep:
  %at = add i64 %n, {X_VIOL + 5 * MAX_VIOLATIONS}
  %p = getelementptr i64, ptr %x, i64 %at
  store i64 %what, ptr %p
  %n1 = add i64 %n, 1
  store i64 %n1, ptr %np
  br label %done
done:
  ret void
}}

define internal void @touch(ptr %x, i64 %code) {{
  %np = getelementptr i64, ptr %x, i64 {X_ACCESSED}
  %n = load i64, ptr %np
  %n1 = add i64 %n, 1
  store i64 %n1, ptr %np
  %last = call i64 @llvm.smin.i64(i64 %n, i64 {MAX_ACCESSED - 1})
  %at = add i64 %last, {X_ACCESSED + 1}
  %p = getelementptr i64, ptr %x, i64 %at
  store i64 %code, ptr %p
  ret void
}}

; Orders of locks that were not seen yet: class `a` is taken while the classes `held` are held.
define internal void @order(ptr %x, i64 %held, i64 %a, i64 %pc1) {{
entry:
  %sa = add i64 %a, {X_EDGES + classes * classes}
  %sp = getelementptr i64, ptr %x, i64 %sa
  %seen = load i64, ptr %sp
  %inv = xor i64 %seen, -1
  %new = and i64 %held, %inv
  %none = icmp eq i64 %new, 0
  br i1 %none, label %done, label %some
some:
  %all = or i64 %seen, %held
  store i64 %all, ptr %sp
  br label %loop
loop:
  %rest = phi i64 [%new, %some], [%rest1, %loop]
  %h = call i64 @llvm.cttz.i64(i64 %rest, i1 true)
  %row = mul i64 %h, {classes}
  %e0 = add i64 %row, %a
  %e = add i64 %e0, {X_EDGES}
  %ep = getelementptr i64, ptr %x, i64 %e
  %old = load i64, ptr %ep
  %zero = icmp eq i64 %old, 0
  %v = select i1 %zero, i64 %pc1, i64 %old
  store i64 %v, ptr %ep
  %less = sub i64 %rest, 1
  %rest1 = and i64 %rest, %less
  %end = icmp eq i64 %rest1, 0
  br i1 %end, label %done, label %loop
done:
  ret void
}}

; Raw store to a cell that is part of the state.
define internal void @put(ptr %mem, i64 %cell, i64 %raw) {{
  %wp = getelementptr i64, ptr @tw, i64 %cell
  %w = load i64, ptr %wp
  %sp = getelementptr i64, ptr @ts, i64 %cell
  %s = load i64, ptr %sp
  %mp = getelementptr i64, ptr @tm, i64 %cell
  %m = load i64, ptr %mp
  %ms = shl i64 %m, %s
  %inv = xor i64 %ms, -1
  %p = getelementptr i64, ptr %mem, i64 %w
  %old = load i64, ptr %p
  %kept = and i64 %old, %inv
  %r = and i64 %raw, %m
  %rs = shl i64 %r, %s
  %v = or i64 %kept, %rs
  store i64 %v, ptr %p
  ret void
}}

define internal i64 @got(ptr %mem, i64 %cell) {{
  %wp = getelementptr i64, ptr @tw, i64 %cell
  %w = load i64, ptr %wp
  %sp = getelementptr i64, ptr @ts, i64 %cell
  %s = load i64, ptr %sp
  %mp = getelementptr i64, ptr @tm, i64 %cell
  %m = load i64, ptr %mp
  %lp = getelementptr i64, ptr @tl, i64 %cell
  %l = load i64, ptr %lp
  %p = getelementptr i64, ptr %mem, i64 %w
  %o = load i64, ptr %p
  %v = lshr i64 %o, %s
  %u = and i64 %v, %m
  %r = add i64 %u, %l
  ret i64 %r
}}

; The object to allocate: its index, plus 2^32 if it was freed before; or -1.
define internal i64 @take(ptr %mem, i64 %base, i64 %stride, i64 %n) {{
entry:
  br label %pass
pass:
  %want = phi i64 [0, %entry], [2, %miss]
  br label %look
look:
  %i = phi i64 [0, %pass], [%i1, %next]
  %off = mul i64 %i, %stride
  %cell = add i64 %base, %off
  %st = call i64 @got(ptr %mem, i64 %cell)
  %hit = icmp eq i64 %st, %want
  br i1 %hit, label %found, label %next
next:
  %i1 = add i64 %i, 1
  %more = icmp slt i64 %i1, %n
  br i1 %more, label %look, label %miss
miss:
  %again = icmp eq i64 %want, 0
  br i1 %again, label %pass, label %none
none:
  ret i64 -1
found:
  %flag = shl i64 %want, 31
  %r = or i64 %i, %flag
  ret i64 %r
}}

; Give the cells of an object their first values, or make them undefined.
define internal void @fresh(ptr %mem, i64 %first, i64 %stride, i1 %defined) {{
entry:
  br label %loop
loop:
  %k = phi i64 [1, %entry], [%k1, %on]
  %more = icmp slt i64 %k, %stride
  br i1 %more, label %cell, label %done
cell:
  %s = add i64 %first, %k
  %pp = getelementptr i64, ptr @tp, i64 %s
  %span = load i64, ptr %pp
  %wide = icmp slt i64 %span, 0
  %begin = or i1 %defined, %wide
  %bp = getelementptr i64, ptr @tb, i64 %s
  %b = load i64, ptr %bp
  %poison = add i64 %span, 1
  %v = select i1 %begin, i64 %b, i64 %poison
  call void @put(ptr %mem, i64 %s, i64 %v)
  br label %on
on:
  %k1 = add i64 %k, 1
  br label %loop
done:
  ret void
}}
""")
    return "".join(out)
