"""Passes over a function's nodes: dead nodes, liveness, ranges, and registers to bits.

Steps: a step begins at a node marked `stop`.  Registers that are live where a step begins (or across
a call) are part of the state; all others are transient.
"""

from __future__ import annotations

from collections.abc import Iterable

from seqfault.compile.ir import CompileError, Const, Function, Node, Operand, Reg, Special, interval
from seqfault.compile.ops import Op
from seqfault.kernel.layout import Layout
from seqfault.kernel.types import INT_MAX, INT_MIN

WIDEN_AFTER = 4  # how often a range may grow before it is taken to be 64 bits


def begins_step(n: Node, full: bool) -> bool:
    return n.stop or n.seq_stop or (full and n.full_stop)


def tidy(fn: Function, full: bool) -> None:
    """Remove nodes that do nothing and nodes that cannot be reached; order the rest from the entry."""

    def skip(n: Node | None) -> Node | None:
        seen = set()
        while (
            n is not None and n.op is Op.NOP and not begins_step(n, full) and id(n) not in seen and n.next is not None
        ):
            seen.add(id(n))
            n = n.next
        return n

    fn.entry = skip(fn.entry)
    dead: set[int] = set()
    order: list[Node] = []
    seen: set[int] = set()
    work = [fn.entry]
    while work:
        n = work.pop()
        if n is None or id(n) in seen:
            continue
        seen.add(id(n))
        order.append(n)
        n.next, n.alt = skip(n.next), skip(n.alt)
        work += [n.alt, n.next]
    preds: dict[int, int] = {}
    for n in order:
        for m in (n.next, n.alt):
            if m is not None:
                preds[id(m)] = preds.get(id(m), 0) + 1
    for n in order:
        # a mark that begins a block moves to the block's first instruction
        m = n.next
        if n.op is Op.NOP and begins_step(n, full) and m is not None and preds[id(m)] == 1 and m is not n:
            if m.op is Op.NOP or m.op is Op.HALT:
                continue
            n.op, n.args, n.access, n.callee, n.moves = m.op, m.args, m.access, m.callee, m.moves
            n.where, n.next, n.alt = m.where, m.next, m.alt
            n.stop, n.full_stop, n.seq_stop = n.stop or m.stop, n.full_stop or m.full_stop, n.seq_stop or m.seq_stop
            dead.add(id(m))
    order = [n for n in order if id(n) not in dead]
    fn.nodes = order
    fn.calls = [n for n in order if n.op is Op.CALL]


Live = dict[int, set[Reg]]


def liveness(fn: Function) -> tuple[Live, Live]:
    """Registers of `fn` that are live into and out of each node (keyed by id)."""
    mine = set(fn.regs)
    use: dict[int, set[Reg]] = {}
    kill: dict[int, Reg | None] = {}
    for n in fn.nodes:
        use[id(n)] = {u for u in n.uses() if isinstance(u, Reg) and u in mine}
        d = n.dest()
        kill[id(n)] = d if isinstance(d, Reg) and d in mine else None
    if fn.ret_slot is not None:
        for n in fn.nodes:
            if n.op is Op.RET:
                use[id(n)].add(fn.ret_slot)
    inn: Live = {id(n): set() for n in fn.nodes}
    out: Live = {id(n): set() for n in fn.nodes}
    preds: dict[int, list[Node]] = {id(n): [] for n in fn.nodes}
    for n in fn.nodes:
        for s in (n.next, n.alt):
            if s is not None:
                preds[id(s)].append(n)
    work = list(fn.nodes)
    while work:
        n = work.pop()
        k = id(n)
        o: set[Reg] = set()
        for s in (n.next, n.alt):
            if s is not None:
                o |= inn[id(s)]
        out[k] = o
        d = kill[k]
        i = use[k] | (o - {d} if d is not None else o)
        if i != inn[k]:
            inn[k] = i
            work += preds[k]
    return inn, out


def check_assigned(fn: Function, live_in: set[Reg]) -> None:
    """Raise `CompileError` for a name that some path reads before it assigns it."""
    given = {*fn.params, fn.ret_slot}
    for r in sorted(live_in - given, key=lambda r: r.name):
        user = next((n for n in fn.nodes if r in n.uses()), fn.nodes[0])
        raise CompileError(
            user.where.file,
            user.where.line,
            f"{r.name!r} may be used before it is assigned",
            "assign it on every path first",
        )


def infer_ranges(fns: Iterable[Function], layout: Layout) -> None:
    """Give every undeclared register the range that its assignments prove; where none is proved, 64 bits."""
    for fn in fns:
        found: dict[Reg, tuple[int, int]] = {}
        grown: dict[Reg, int] = {}
        open_regs = {r for r in fn.regs if r.lo is None}

        def rng(x: Operand, found: dict[Reg, tuple[int, int]] = found) -> tuple[int, int] | None:
            if isinstance(x, Const):
                return x.value, x.value
            if isinstance(x, Special):
                if x.name == "cpu":
                    return 0, layout.sizes.get("NR_CPUS", 64) - 1
                if x.name == "process":
                    return 0, layout.sizes.get("NR_TASKS", 64) - 1
                return INT_MIN, INT_MAX
            if x.lo is not None and x.hi is not None:
                return x.lo, x.hi
            return found.get(x)

        changed = True
        while changed:
            changed = False
            for n in fn.nodes:
                d = n.dest()
                if not isinstance(d, Reg) or d not in open_regs:
                    continue
                got = result_range(n, rng, layout)
                if got is None:
                    continue
                old = found.get(d)
                new = got if old is None else (min(old[0], got[0]), max(old[1], got[1]))
                if new != old:
                    grown[d] = grown.get(d, 0) + 1
                    if grown[d] > WIDEN_AFTER and old is not None:
                        new = (INT_MIN if new[0] < old[0] else new[0], INT_MAX if new[1] > old[1] else new[1])
                    found[d] = new
                    changed = True
        for r in open_regs:
            r.lo, r.hi = found.get(r, (0, 0))


def result_range(n: Node, rng, layout: Layout) -> tuple[int, int] | None:  # type: ignore[no-untyped-def]
    if n.op is Op.LOAD and n.access is not None:
        return layout.bounds(n.access.type)
    if n.op is Op.CHOOSE:
        return 0, n.args[1] - 1
    if n.op is Op.ALLOC:
        return 1, layout.pools[n.args[1]].n
    if n.op is Op.WRAP:
        bits, signed = n.args[2], n.args[3]
        hi = (1 << bits - signed) - 1
        return (-(hi + 1) if signed else 0), hi
    if n.op in (Op.ADD, Op.SUB, Op.MUL, Op.SHL) and len(n.args) > 3 and n.args[3]:
        return INT_MIN, INT_MAX
    ops = [rng(x) for x in n.args[1:3] if isinstance(x, Reg | Const | Special)]
    if any(o is None for o in ops):
        return None
    return interval(n.op, ops[0], ops[1] if len(ops) > 1 else ops[0])


def bits_of(r: Reg) -> int:
    assert r.lo is not None and r.hi is not None
    return (r.hi - r.lo).bit_length()


def stateful(fn: Function, inn: Live, out: Live, full: bool) -> set[Reg]:
    """Registers that are part of the state."""
    keep: set[Reg] = set()
    for n in fn.nodes:
        if begins_step(n, full):
            keep |= inn[id(n)]
        if n.op is Op.CALL:
            keep |= out[id(n)]
    if full:
        keep |= {r for r in fn.regs if r.named}
    if fn.ret_slot is not None:
        keep.add(fn.ret_slot)
    return keep | set(fn.params)


def interference(fn: Function, regs: set[Reg], inn: Live, out: Live) -> dict[Reg, set[Reg]]:
    """Which of `regs` must not share bits."""
    g: dict[Reg, set[Reg]] = {r: set() for r in regs}

    def clash(a: Iterable[Reg]) -> None:
        a = [r for r in a if r in g]
        for i, x in enumerate(a):
            for y in a[i + 1 :]:
                g[x].add(y)
                g[y].add(x)

    for n in fn.nodes:
        d = n.dest()
        after = set(out[id(n)])
        if isinstance(d, Reg) and d in g:
            for y in after:
                if y in g and y is not d:
                    g[d].add(y)
                    g[y].add(d)
        clash(inn[id(n)])
    start = [*fn.params, *([fn.ret_slot] if fn.ret_slot else [])]
    clash(start)
    return g


def place_bits(regs: Iterable[Reg], clash: dict[Reg, set[Reg]], start: int) -> dict[Reg, int]:
    """Bit offset of each register, from `start` on, none across a 64-bit word, clashing ones apart."""
    at: dict[Reg, int] = {}
    for r in sorted(regs, key=lambda r: (-bits_of(r), r.name)):
        w = bits_of(r)
        taken = sorted((at[o], at[o] + bits_of(o)) for o in clash.get(r, ()) if o in at and bits_of(o))
        pos = start
        while w:
            if pos // 64 != (pos + w - 1) // 64:
                pos = (pos // 64 + 1) * 64
            hit = next((e for b, e in taken if b < pos + w and pos < e), None)
            if hit is None:
                break
            pos = hit
        at[r] = pos
    return at
