"""What compiled functions call: the context that they share, and allocation, reports, output, in LLVM's textual form.

The context is an array of 64-bit words: a header, then a descriptor for each pool.  Allocation takes the object
that `Machine.alloc` would: the lowest that never was allocated, then the lowest freed one, found by a tree of
bitmaps, each bit of a level telling whether the word below it has any.
"""

from __future__ import annotations

# the header
(
    C_MEM,
    C_COUNTERS,
    C_OUT,
    C_OUT_CAP,
    C_OUT_N,
    C_STRICT,
    C_VIOLATIONS_N,
    C_FUEL,
    C_VIOLATIONS,
    C_VIOLATIONS_CAP,
    C_CHOICES,
    C_CHOICES_N,
    C_CHOICES_AT,
    C_CPU,
    C_PROCESS,
    C_FUEL_START,
    C_POOLS,
) = range(17)
HEADER = 32
# a pool's descriptor
(
    POOL_BASE,
    POOL_STRIDE,
    POOL_N,
    POOL_HIGH,
    POOL_START,
    POOL_POISON,
    POOL_STATE,
    POOL_LEVELS,
    POOL_LEVEL,
) = range(9)
POOL_WORDS = 16
FREE_BIT = 1 << 62  # in what pool_take returns: the object was freed before
VIOLATION_ROW = 2
OK, STOPPED, FULL = 0, 1, 2  # how a batch ended


def pool_offset(number: int) -> int:
    return HEADER + number * POOL_WORDS


RUNTIME = f"""
declare {{i64, i1}} @llvm.sadd.with.overflow.i64(i64, i64)
declare {{i64, i1}} @llvm.ssub.with.overflow.i64(i64, i64)
declare {{i64, i1}} @llvm.smul.with.overflow.i64(i64, i64)
declare i64 @llvm.smin.i64(i64, i64)
declare i64 @llvm.smax.i64(i64, i64)
declare i64 @llvm.umin.i64(i64, i64)
declare i64 @llvm.cttz.i64(i64, i1)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

; Keep a report; returns whether the run has to stop.
define internal i64 @violate(ptr %ctx, i64 %site, i64 %about) cold noinline {{
  %np = getelementptr i64, ptr %ctx, i64 {C_VIOLATIONS_N}
  %n = load i64, ptr %np
  %cp = getelementptr i64, ptr %ctx, i64 {C_VIOLATIONS_CAP}
  %cap = load i64, ptr %cp
  %room = icmp slt i64 %n, %cap
  br i1 %room, label %keep, label %done
keep:
  %vp = getelementptr i64, ptr %ctx, i64 {C_VIOLATIONS}
  %va = load i64, ptr %vp
  %v = inttoptr i64 %va to ptr
  %i = mul i64 %n, {VIOLATION_ROW}
  %s = getelementptr i64, ptr %v, i64 %i
  store i64 %site, ptr %s
  %a = getelementptr i64, ptr %s, i64 1
  store i64 %about, ptr %a
  br label %done
done:
  %n1 = add i64 %n, 1
  store i64 %n1, ptr %np
  %sp = getelementptr i64, ptr %ctx, i64 {C_STRICT}
  %strict = load i64, ptr %sp
  ret i64 %strict
}}

define internal i64 @emit(ptr %ctx, i64 %v) {{
  %np = getelementptr i64, ptr %ctx, i64 {C_OUT_N}
  %n = load i64, ptr %np
  %cp = getelementptr i64, ptr %ctx, i64 {C_OUT_CAP}
  %cap = load i64, ptr %cp
  %room = icmp slt i64 %n, %cap
  br i1 %room, label %keep, label %full
keep:
  %op = getelementptr i64, ptr %ctx, i64 {C_OUT}
  %oa = load i64, ptr %op
  %o = inttoptr i64 %oa to ptr
  %s = getelementptr i64, ptr %o, i64 %n
  store i64 %v, ptr %s
  %n1 = add i64 %n, 1
  store i64 %n1, ptr %np
  ret i64 0
full:
  ret i64 1
}}

define internal i64 @choose(ptr %ctx, i64 %n) {{
  %ap = getelementptr i64, ptr %ctx, i64 {C_CHOICES_AT}
  %at = load i64, ptr %ap
  %mp = getelementptr i64, ptr %ctx, i64 {C_CHOICES_N}
  %max = load i64, ptr %mp
  %some = icmp slt i64 %at, %max
  br i1 %some, label %take, label %none
take:
  %cp = getelementptr i64, ptr %ctx, i64 {C_CHOICES}
  %ca = load i64, ptr %cp
  %c = inttoptr i64 %ca to ptr
  %s = getelementptr i64, ptr %c, i64 %at
  %v = load i64, ptr %s
  %at1 = add i64 %at, 1
  store i64 %at1, ptr %ap
  %ok = icmp ult i64 %v, %n
  %r = select i1 %ok, i64 %v, i64 -1
  ret i64 %r
none:
  ret i64 0
}}

; Index of the object to allocate (with FREE_BIT if it was freed before), or -1.
define internal i64 @pool_take(ptr %ctx, ptr %mem, i64 %d) {{
entry:
  %pool = getelementptr i64, ptr %ctx, i64 %d
  %np = getelementptr i64, ptr %pool, i64 {POOL_N}
  %n = load i64, ptr %np
  %bp = getelementptr i64, ptr %pool, i64 {POOL_BASE}
  %base = load i64, ptr %bp
  %sp = getelementptr i64, ptr %pool, i64 {POOL_STRIDE}
  %stride = load i64, ptr %sp
  %hp = getelementptr i64, ptr %pool, i64 {POOL_HIGH}
  %high = load i64, ptr %hp
  br label %never
never:
  %h = phi i64 [%high, %entry], [%h1, %look]
  %more = icmp slt i64 %h, %n
  br i1 %more, label %look, label %freed
look:
  %o = mul i64 %h, %stride
  %a = add i64 %o, %base
  %p = getelementptr i64, ptr %mem, i64 %a
  %state = load i64, ptr %p
  %h1 = add i64 %h, 1
  %new = icmp eq i64 %state, 0
  br i1 %new, label %found, label %never
found:
  store i64 %h1, ptr %hp
  ret i64 %h
freed:
  store i64 %h, ptr %hp
  %lp = getelementptr i64, ptr %pool, i64 {POOL_LEVELS}
  %levels = load i64, ptr %lp
  %top = sub i64 %levels, 1
  %tp = getelementptr i64, ptr %pool, i64 {POOL_LEVEL}
  br label %down
down:
  %l = phi i64 [%top, %freed], [%l1, %on]
  %i = phi i64 [0, %freed], [%i1, %on]
  %qp = getelementptr i64, ptr %tp, i64 %l
  %qa = load i64, ptr %qp
  %q = inttoptr i64 %qa to ptr
  %wp = getelementptr i64, ptr %q, i64 %i
  %w = load i64, ptr %wp
  %none = icmp eq i64 %w, 0
  br i1 %none, label %exhausted, label %on
on:
  %b = call i64 @llvm.cttz.i64(i64 %w, i1 true)
  %i64 = mul i64 %i, 64
  %i1 = add i64 %i64, %b
  %l1 = sub i64 %l, 1
  %last = icmp eq i64 %l, 0
  br i1 %last, label %clear, label %down
exhausted:
  ret i64 -1
clear:
  %cl = phi i64 [0, %on], [%cl1, %zero]
  %ci = phi i64 [%i1, %on], [%cw, %zero]
  %cw = lshr i64 %ci, 6
  %cb = and i64 %ci, 63
  %cqp = getelementptr i64, ptr %tp, i64 %cl
  %cqa = load i64, ptr %cqp
  %cq = inttoptr i64 %cqa to ptr
  %cwp = getelementptr i64, ptr %cq, i64 %cw
  %cv = load i64, ptr %cwp
  %bit = shl i64 1, %cb
  %keep = xor i64 %bit, -1
  %cv1 = and i64 %cv, %keep
  store i64 %cv1, ptr %cwp
  %cl1 = add i64 %cl, 1
  %empty = icmp eq i64 %cv1, 0
  br i1 %empty, label %zero, label %done
zero:
  %up = icmp slt i64 %cl1, %levels
  br i1 %up, label %clear, label %done
done:
  %r = or i64 %i1, {FREE_BIT}
  ret i64 %r
}}

define internal void @pool_give(ptr %ctx, i64 %d, i64 %index) {{
entry:
  %pool = getelementptr i64, ptr %ctx, i64 %d
  %lp = getelementptr i64, ptr %pool, i64 {POOL_LEVELS}
  %levels = load i64, ptr %lp
  %tp = getelementptr i64, ptr %pool, i64 {POOL_LEVEL}
  br label %loop
loop:
  %l = phi i64 [0, %entry], [%l1, %next]
  %i = phi i64 [%index, %entry], [%w, %next]
  %w = lshr i64 %i, 6
  %b = and i64 %i, 63
  %qp = getelementptr i64, ptr %tp, i64 %l
  %qa = load i64, ptr %qp
  %q = inttoptr i64 %qa to ptr
  %wp = getelementptr i64, ptr %q, i64 %w
  %v = load i64, ptr %wp
  %bit = shl i64 1, %b
  %v1 = or i64 %v, %bit
  store i64 %v1, ptr %wp
  %had = icmp ne i64 %v, 0
  br i1 %had, label %done, label %next
next:
  %l1 = add i64 %l, 1
  %more = icmp slt i64 %l1, %levels
  br i1 %more, label %loop, label %done
done:
  ret void
}}

; Call an entry for each of n rows of k words, which go to the cells from `request` on.  Returns how many rows are
; done; `status` tells why it ended.
define i64 @batch(ptr %ctx, ptr %fn, ptr %rows, i64 %n, i64 %k, i64 %request, ptr %bounds, ptr %offsets,
                  i64 %margin, ptr %status) {{
entry:
  %memp = getelementptr i64, ptr %ctx, i64 {C_MEM}
  %mema = load i64, ptr %memp
  %mem = inttoptr i64 %mema to ptr
  %np = getelementptr i64, ptr %ctx, i64 {C_OUT_N}
  %cp = getelementptr i64, ptr %ctx, i64 {C_OUT_CAP}
  %cap = load i64, ptr %cp
  %limit = sub i64 %cap, %margin
  %fp = getelementptr i64, ptr %ctx, i64 {C_FUEL}
  %gp = getelementptr i64, ptr %ctx, i64 {C_FUEL_START}
  %fuel = load i64, ptr %gp
  %req = getelementptr i64, ptr %mem, i64 %request
  br label %row
row:
  %i = phi i64 [0, %entry], [%i1, %after]
  %more = icmp slt i64 %i, %n
  br i1 %more, label %begin, label %all
begin:
  %used = load i64, ptr %np
  %fits = icmp sle i64 %used, %limit
  br i1 %fits, label %copy, label %full
copy:
  store i64 %fuel, ptr %fp
  %ri = mul i64 %i, %k
  %rp = getelementptr i64, ptr %rows, i64 %ri
  br label %word
word:
  %j = phi i64 [0, %copy], [%j1, %put]
  %wmore = icmp slt i64 %j, %k
  br i1 %wmore, label %get, label %call
get:
  %sp = getelementptr i64, ptr %rp, i64 %j
  %v = load i64, ptr %sp
  %b2 = mul i64 %j, 2
  %lop = getelementptr i64, ptr %bounds, i64 %b2
  %lo = load i64, ptr %lop
  %hip = getelementptr i64, ptr %lop, i64 1
  %hi = load i64, ptr %hip
  %low = icmp slt i64 %v, %lo
  %high = icmp sgt i64 %v, %hi
  %bad = or i1 %low, %high
  br i1 %bad, label %outside, label %put
put:
  %dp = getelementptr i64, ptr %req, i64 %j
  store i64 %v, ptr %dp
  %j1 = add i64 %j, 1
  br label %word
outside:
  %ov = call i64 @violate(ptr %ctx, i64 -1, i64 %j)
  store i64 {STOPPED}, ptr %status
  br label %end
call:
  %r = call i64 %fn(ptr %ctx, ptr null)
  %now = load i64, ptr %np
  %i1 = add i64 %i, 1
  %op = getelementptr i64, ptr %offsets, i64 %i1
  store i64 %now, ptr %op
  %ok = icmp eq i64 %r, 0
  br i1 %ok, label %after, label %stopped
after:
  br label %row
stopped:
  store i64 {STOPPED}, ptr %status
  br label %end
full:
  store i64 {FULL}, ptr %status
  br label %end
all:
  store i64 {OK}, ptr %status
  br label %end
end:
  ret i64 %i
}}
"""


def wrapper(name: str, target: str, params: int, results: int) -> str:
    """``call_NAME(ctx, words)``: takes the arguments from `words`, leaves the results there; returns the status."""
    out = [f"define i64 @call_{name}(ptr %ctx, ptr %words) {{"]
    out.append(f"  %mp = getelementptr i64, ptr %ctx, i64 {C_MEM}")
    out.append("  %ma = load i64, ptr %mp")
    out.append("  %mem = inttoptr i64 %ma to ptr")
    for i in range(params):
        out.append(f"  %p{i} = getelementptr i64, ptr %words, i64 {i}")
        out.append(f"  %a{i} = load i64, ptr %p{i}")
    args = "".join(f", i64 %a{i}" for i in range(params))
    t = "i64" if results == 0 else "{" + ", ".join(["i64"] * (results + 1)) + "}"
    out.append(f"  %r = call {t} @{target}(ptr %ctx, ptr %mem{args})")
    if results == 0:
        out.append("  ret i64 %r")
    else:
        for i in range(results):
            out.append(f"  %v{i} = extractvalue {t} %r, {i + 1}")
            out.append(f"  %w{i} = getelementptr i64, ptr %words, i64 {i}")
            out.append(f"  store i64 %v{i}, ptr %w{i}")
        out.append(f"  %s = extractvalue {t} %r, 0")
        out.append("  ret i64 %s")
    out.append("}")
    return "\n".join(out) + "\n"
