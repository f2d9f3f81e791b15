"""What one step of one process does: a tree of conditions on the state in which it begins, with effects at its leaves.

A step is run with expressions for values, as explore/interp.py runs it with numbers.
"""

from __future__ import annotations

from collections.abc import Callable

from seqfault.compile.automaton import Automaton
from seqfault.compile.ops import Op
from seqfault.report.promela.expr import (
    INT,
    ONE,
    ZERO,
    ExportError,
    Expr,
    Values,
    cell,
    const,
    hull,
    is_const,
    join,
    number,
    op,
    refine,
    truth,
    values,
    var,
)
from seqfault.report.promela.frames import ARITHMETIC, MASK64, Frames
from seqfault.report.promela.tree import (
    ENDS,
    HELD,
    OFF,
    SHADOW,
    TEMPORARY,
    Assertion,
    Branch,
    Choice,
    Group,
    Leaf,
    Memory,
    Step,
    Tree,
    hidden,
    leaves,
)

LEAVES = 80  # of one tree; beyond it, or with a loop that the values do not bound, the step is cut into several
WORK = 4000  # instructions in one tree
PIECE = 12  # leaves of one tree of a step that was cut: Spin's d_step has room for 2048 statements
INDICES = 1024  # of an array
CUTS = 80  # of one step


class State:
    """What is known on the way through a step."""

    __slots__ = ("asserts", "facts", "mem", "rv", "vars")

    def __init__(self, facts: dict[Expr, Values]):
        self.vars: dict[str, Expr] = {}
        self.rv: dict[int, Expr] = {}  # transient words
        self.mem: dict[str, list[tuple[Expr, Expr]]] = {}
        self.asserts: list[Assertion] = []
        self.facts = facts

    def copy(self) -> State:
        s = State(self.facts)
        s.vars, s.rv = dict(self.vars), dict(self.rv)
        s.mem = {g: list(xs) for g, xs in self.mem.items()}
        s.asserts = list(self.asserts)
        return s


class TooLarge(Exception):
    """A tree has too many leaves."""


class Stepper:
    """Runs steps of one process.  `touched`: cells that the last step read; its tree depends on what they can be."""

    def __init__(self, a: Automaton, mode: str, process: int, frames: Frames, memory: Memory, zero: bool, fold: bool):
        self.a, self.frames, self.memory, self.zero, self.fold = a, frames, memory, zero, fold
        self.stop = a.stop[mode].tolist()
        self.code, self.tab = frames.code, frames.tab
        self.process = process
        self.constants = dict(a.const_words)
        self.constants[self.tab[a.cpu_slot][0]] = a.processes[process].cpu
        self.constants[self.tab[a.process_slot][0]] = process
        self.touched: set[int] = set()
        self.leaves = self.work = 0
        self.visits: dict[int, int] = {}
        self.cuts: dict[int, list[int]] = {}  # step -> where its code is cut
        self.shadow: dict[int, set[str]] = {}  # step -> variables that it changes before a cut: they change at its end
        self.classes: list[int] = []

    def fail(self, pc: int, what: str) -> ExportError:
        w = self.a.where[pc]
        return ExportError(f"{w.file}:{w.line}: {w.function}: {what}")

    # -- registers
    def get(self, s: State, slot: int) -> Expr:
        word, _, mask, lo, span, rel = self.tab[slot]
        if slot < self.a.ncell:
            raise ExportError(f"{self.a.name}: slot {slot} is memory")
        if rel:
            if not mask:
                return const(lo)
            v = self.frames.var_of[slot]
            raw = s.vars.get(v)
            if raw is None:
                self.narrow(s, var(v), mask & MASK64 if span < 0 else span)
                raw = self.known(s, var(v))
            return op("add", raw, const(lo)) if lo else raw
        if word in self.constants:
            return const(self.constants[word])
        if word not in s.rv:
            raise self.fail(self.start, f"transient {word} is read before it is assigned")
        return s.rv[word]

    @staticmethod
    def narrow(s: State, e: Expr, span: int) -> None:
        """A register is in its range, whatever other registers of its variable may be."""
        v = s.facts.get(e)
        if v is not None and hull(v)[1] > span:
            s.facts[e] = frozenset(x for x in v if x <= span) or v if isinstance(v, frozenset) else (v[0], span)

    def known(self, s: State, e: Expr) -> Expr:
        """A leaf, or the number that it must be.  A variable that nothing is known of is 0."""
        v = s.facts.get(e)
        if v is None:
            return ZERO if e.op == "var" else e
        return const(hull(v)[0]) if len(v) == 1 and self.fold else e

    def put(self, s: State, slot: int, v: Expr) -> None:
        word, _, mask, lo, _, rel = self.tab[slot]
        if rel:
            if mask:
                s.vars[self.frames.var_of[slot]] = op("sub", v, const(lo)) if lo else v
        else:
            s.rv[word] = v

    def fits(self, s: State, slot: int, v: Expr) -> Expr:
        """The condition that `v` is in the slot's range."""
        _, _, _, lo, span, _ = self.tab[slot]
        return ONE if span < 0 else self.inside(s, v, lo, lo + span)

    def inside(self, s: State, v: Expr, lo: int, hi: int) -> Expr:
        l1, h1 = hull(values(v, s.facts))
        out = ONE
        if l1 < lo:
            out = op("all", out, op("le", const(lo), v))
        if h1 > hi:
            out = op("all", out, op("le", v, const(hi)))
        return out

    # -- memory
    def address(
        self, s: State, pc: int, pool: str, base: int, terms: list[tuple[Expr, int]]
    ) -> tuple[Group, Expr, int]:
        """The group and the position that an access to an object of `pool` touches, and one cell that it may be."""
        spots: list[tuple[int, tuple[int, ...]]] = [(base, ())]
        dynamic = []
        for x, stride in terms:
            lo, hi = hull(values(x, s.facts))
            if lo == hi:
                spots = [(spots[0][0] + lo * stride, ())]
            elif hi - lo > INDICES:
                raise self.fail(pc, f"an index that may have more than {INDICES} values")
            else:
                dynamic.append((x, stride))
        for x, stride in dynamic:
            v = values(x, s.facts)
            indices = range(v[0], v[1] + 1) if isinstance(v, tuple) else sorted(v)
            spots = [(b + i * stride, (*xs, i)) for b, xs in spots for i in indices]
        spots = [(b, xs) for b, xs in spots if 0 <= b < self.a.ncell and self.a.cells[b].pool == pool]
        if not spots:
            raise self.fail(pc, f"an access outside {pool}")
        one, xs = spots[0]
        g = self.memory.group_of[one]
        self.touched.update(g.cells)
        pos, offset = ZERO, g.at[one]
        for (x, stride), i in zip(dynamic, xs, strict=True):
            pairs = [(b, b + stride) for b, _ in spots] + [(b - stride, b) for b, _ in spots]
            steps = {g.at[c] - g.at[b] for b, c in pairs if b in g.at and c in g.at}
            if len(steps) != 1:
                raise self.fail(pc, f"an access to {g.name} whose cells are no array")
            k = steps.pop()
            offset -= i * k
            pos = op("add", pos, op("mul", x, const(k)))
        return g, op("add", pos, const(offset)), one

    def load(self, s: State, g: Group, at: Expr) -> Expr:
        """Raw value of an element, after the stores of this step."""
        g.reach(hull(values(at, s.facts))[1])
        out = self.initial(s, g, at)
        for p, v in s.mem.get(g.name, ()):
            same = op("eq", p, at)
            known = values(same, s.facts)
            if len(known) == 1:
                if hull(known)[0]:
                    out = v
            else:
                out = op("if", same, v, out)
        return out

    def initial(self, s: State, g: Group, at: Expr) -> Expr:
        mem = self.memory
        if is_const(at):
            e = cell(g.name, at)
            if e not in s.facts:
                s.facts[e] = mem.values[g.cells[number(at)]]
            return self.known(s, e)
        e = cell(g.name, at)
        if e not in s.facts:
            v = values(at, s.facts)
            spots = sorted(x for x in v if 0 <= x < len(g.cells)) if isinstance(v, frozenset) else range(len(g.cells))
            sets = [mem.values[g.cells[i]] for i in spots]
            every: Values = frozenset()
            for x in sets:
                every = join(every, x) if every else x
            if all(len(x) == 1 for x in sets):  # constants: no memory is needed to tell them apart
                return self.table(at, [(i, hull(x)[0]) for i, x in zip(spots, sets, strict=True)])
            s.facts[e] = every
        return self.known(s, e)

    @staticmethod
    def table(at: Expr, rows: list[tuple[int, int]]) -> Expr:
        """A constant for each position."""
        usual = max({v for _, v in rows}, key=lambda v: sum(x == v for _, x in rows))
        out = const(usual)
        for i, v in rows:
            if v != usual:
                out = op("if", op("eq", at, const(i)), const(v), out)
        return out

    def store(self, s: State, g: Group, at: Expr, raw: Expr) -> None:
        g.reach(hull(values(at, s.facts))[1])
        xs = [(p, v) for p, v in s.mem.get(g.name, []) if p is not at]
        s.mem[g.name] = [*xs, (at, raw)]

    # -- the step
    def run(self, pc: int, facts: dict[Expr, Values]) -> Step:
        """The step from `pc`, where so much is known of the variables."""
        self.touched = set()
        self.start = pc
        cuts = self.cuts.setdefault(pc, [])
        while True:
            self.visits = {}
            try:
                return self.attempt(pc, facts)
            except TooLarge:
                if len(cuts) >= CUTS:
                    raise self.fail(pc, f"a step of more than {PIECE * CUTS} ways") from None
                # a loop's head, or where many ways join: the first of the places that were met most often
                busy = {x: n for x, n in self.visits.items() if x not in cuts and x not in (pc, self.a.halt_pc)}
                cuts.append(max(busy, key=lambda x: busy[x]))

    def attempt(self, pc: int, facts: dict[Expr, Values]) -> Step:
        self.leaves = self.work = 0
        shadow = self.shadow.setdefault(pc, set())
        step = Step(self.go(State(dict(facts)), pc, True))
        work = [step.first]
        while work:
            again = set()
            for leaf in leaves(work.pop()):
                if not leaf.cut:
                    continue
                new = {v.removeprefix(SHADOW) for v in leaf.sets if v.startswith(SHADOW)} - shadow
                if new:
                    shadow |= new
                    return self.attempt(pc, facts)
                at = {str(e.args[0]): v for e, v in leaf.facts.items() if e.op == "var"}
                at |= {v: values(e, leaf.facts) for v, e in leaf.sets.items()}
                old = step.facts.get(leaf.target)
                if old is not None:
                    at = {v: join(old[v], xs) for v, xs in at.items() if v in old}
                if at != old:
                    step.facts[leaf.target] = at
                    again.add(leaf.target)
            for c in sorted(again):
                self.leaves = self.work = 0
                known: dict[Expr, Values] = {var(v): xs for v, xs in step.facts[c].items()}
                s = State(known)
                s.vars = {v: self.known(s, var(hidden(v))) for v in shadow}
                s.rv = {
                    int(v.removeprefix(TEMPORARY)): self.known(s, var(v))
                    for v in step.facts[c]
                    if v.startswith(TEMPORARY)
                }
                step.cuts[c] = self.go(s, c, True)
                work.append(step.cuts[c])
        return step

    def split(self, s: State, cond: Expr, yes: Callable[[State], Tree], no: Callable[[State], Tree]) -> Tree:
        """Both ways from a condition, or the one that is possible."""
        cond = truth(cond)
        v = values(cond, s.facts)
        if len(v) == 1:
            return yes(s) if hull(v)[0] else no(s)
        other = s.copy()
        s.facts = refine(s.facts, cond, True)
        other.facts = refine(other.facts, cond, False)
        return Branch(cond, yes(s), no(other))

    def require(self, s: State, cond: Expr, kind: str, pool: int, pc: int) -> None:
        """A violation that does not end the path."""
        v = values(cond, s.facts)
        if len(v) == 1 and hull(v)[0]:
            return
        s.asserts.append(Assertion(truth(cond), kind, pool, pc))

    def ends(self, s: State, kind: str, pool: int, pc: int) -> Tree:
        self.require(s, ZERO, kind, pool, pc)
        return Leaf(ENDS, asserts=s.asserts, facts=s.facts)

    def off(self, s: State) -> Tree:
        """The step cannot be taken; what was seen on the way is reported all the same."""
        cond = ONE
        for x in s.asserts:
            cond = op("all", cond, x.cond)
        done = Leaf(OFF, facts=s.facts)
        if not s.asserts:
            return done
        return self.split(s, cond, lambda _: done, lambda t: Leaf(ENDS, asserts=t.asserts, facts=t.facts))

    def nonzero(self, s: State) -> set[str]:
        """Variables that may be other than 0."""
        names = {str(e.args[0]) for e in s.facts if e.op == "var"}
        return {*s.vars, *(n for n in names if not n.startswith((TEMPORARY, SHADOW)))}

    def arrive(self, s: State, pc: int, cut: bool = False) -> Tree:
        self.leaves += 1
        if self.leaves > (PIECE if self.cuts[self.start] else LEAVES):
            raise TooLarge
        sets = dict(s.vars)
        if cut:
            changed = self.shadow[self.start] | set(sets)
            sets = {hidden(v): sets.get(v, self.known(s, var(v))) for v in sorted(changed)}
            sets.update({f"{TEMPORARY}{w}": e for w, e in s.rv.items()})
        elif self.zero:
            kept = self.frames.kept(pc) | {HELD}
            for v in sorted(self.nonzero(s) - kept):
                sets[v] = ZERO
        if not cut:
            sets = {v: e for v, e in sets.items() if e is not self.known(s, var(v)) and e is not var(v)}
        stores = []
        for name, xs in s.mem.items():
            if len(xs) > 1 or xs[0][1] is not self.known(s, cell(name, xs[0][0])):
                stores += [(name, p, v) for p, v in xs]
        return Leaf(pc, sets, stores, s.asserts, s.facts, cut)

    def go(self, s: State, pc: int, first: bool) -> Tree:
        cuts = self.cuts[self.start]
        while True:
            if not first and self.stop[pc]:
                return self.arrive(s, pc)
            if not first and pc in cuts:
                return self.arrive(s, pc, True)
            row = self.code[pc]
            o = Op(row[0])
            if o is Op.HALT:
                return self.arrive(s, pc)
            first = False
            self.work += 1
            self.visits[pc] = self.visits.get(pc, 0) + 1
            if self.work > WORK:
                raise TooLarge
            if o in (Op.NOP, Op.COUNT, Op.EMIT, Op.FENCE, Op.SEQPOINT):
                pc = row[8]
            elif o is Op.CALL:
                self.put(s, row[1], const(row[2]))
                if self.zero:
                    kept = self.frames.kept_by_call(pc) | {HELD}
                    for v in sorted(self.nonzero(s) - kept):
                        s.vars[v] = ZERO
                pc = row[3]
            elif o is Op.LOCKDEP_ACQUIRE:
                self.hold(s, op("or", self.held(s), self.bit(row[1])))
                pc = row[8]
            elif o is Op.LOCKDEP_RELEASE:
                held = self.held(s)
                bit = ZERO
                for k in (4, 3, 2, 1):
                    if row[k] >= 0:
                        b = self.bit(row[k])
                        bit = op("if", truth(op("and", held, b)), b, bit)
                self.hold(s, op("sub", held, bit))
                pc = row[8]
            elif o is Op.MOV and self.fits(s, row[1], self.get(s, row[2])) is ONE:
                self.put(s, row[1], self.get(s, row[2]))
                pc = row[8]
            else:
                return self.instruction(s, pc, o, row)

    def held(self, s: State) -> Expr:
        return s.vars.get(HELD, self.known(s, var(HELD)))

    def hold(self, s: State, e: Expr) -> None:
        s.vars[HELD] = e

    def bit(self, c: int) -> Expr:
        if c not in self.classes:
            self.classes.append(c)
        return const(1 << self.classes.index(c))

    def instruction(self, s: State, pc: int, o: Op, row: list[int]) -> Tree:
        nx = row[8]

        def then(t: State) -> Tree:
            return self.go(t, nx, False)

        if o in ARITHMETIC:
            return self.arithmetic(s, pc, o, row)
        if o in (Op.BR, Op.BREQ, Op.BRNE, Op.BRLT, Op.BRLE):
            a = self.get(s, row[1])
            name = {Op.BREQ: "eq", Op.BRNE: "ne", Op.BRLT: "lt", Op.BRLE: "le"}.get(o)
            cond = op(name, a, self.get(s, row[2])) if name else truth(a)
            other = row[2 if o is Op.BR else 3]
            return self.split(s, cond, then, lambda t: self.go(t, other, False))
        if o in (Op.LOAD, Op.STORE):
            terms = [(self.get(s, row[c]), row[c + 1]) for c in (3, 5) if row[4] and row[c + 1]]
            acc = self.a.access[pc]
            assert acc is not None
            g, at, one = self.address(s, pc, acc.pool, row[2], terms)
            mask, lo, span = self.memory.row(one)
            if o is Op.STORE:
                v = self.get(s, row[1])
                cond = self.inside(s, v, lo, lo + span) if span >= 0 and mask else ONE

                def put(t: State) -> Tree:
                    if mask:
                        self.store(t, g, at, op("sub", v, const(lo)) if lo else v)
                    return self.go(t, nx, False)

                return self.split(s, cond, put, lambda t: self.ends(t, "range-overflow", -1, pc))
            raw = self.load(s, g, at)
            if span >= 0 and mask:
                good = self.inside(s, raw, 0, span)
                if good is not ONE:
                    self.require(s, good, "uninitialised-read", -1, pc)
                    raw = op("if", good, raw, ZERO)
            return self.assign(s, pc, row, op("add", raw, const(lo)) if lo else raw, then)
        if o is Op.CHKPTR:
            x = self.get(s, row[1])
            p = self.a.pools[row[2]]

            def alive(t: State) -> Tree:
                if p.state >= 0:
                    g, at, _ = self.address(t, pc, p.name, p.base - p.stride, [(x, p.stride)])
                    st = self.load(t, g, at)
                    cond = op("eq", st, ONE)
                    if p.typesafe:
                        cond = op("any", cond, op("eq", st, const(2)))
                    self.require(t, cond, "use-after-free", row[2], pc)
                return self.go(t, nx, False)

            return self.split(s, op("ne", x, ZERO), alive, lambda t: self.ends(t, "null-dereference", row[2], pc))
        if o is Op.CHKIDX:
            good = self.inside(s, self.get(s, row[1]), 0, row[2] - 1)
            return self.split(s, good, then, lambda t: self.ends(t, "index-out-of-range", -1, pc))
        if o is Op.RET:
            return self.ret(s, pc, row, self.get(s, row[1]))
        if o is Op.CHECK:
            cond = truth(self.get(s, row[1]))
            kind = self.a.kinds[row[2]]
            if row[5]:
                return self.split(s, cond, then, lambda t: self.ends(t, kind, row[4], pc))
            self.require(s, cond, kind, row[4], pc)
            return then(s)
        if o is Op.WAIT:
            return self.split(s, truth(self.get(s, row[1])), then, self.off)
        if o is Op.RELAX:
            return self.off(s)
        if o is Op.STOPPATH:
            return Leaf(ENDS, asserts=s.asserts, facts=s.facts)
        if o is Op.CHOOSE:
            ways = []
            for i in range(row[2]):
                t = s.copy()
                t.facts = dict(s.facts)
                self.put(t, row[1], const(i))
                ways.append(then(t))
            return Choice(ways)
        if o is Op.ALLOC:
            return self.alloc(s, pc, row)
        if o is Op.FREE:
            x = self.get(s, row[1])
            p = self.a.pools[row[2]]

            def free(t: State) -> Tree:
                g, at, _ = self.address(t, pc, p.name, p.base - p.stride, [(x, p.stride)])
                self.require(t, op("eq", self.load(t, g, at), ONE), "double-free", row[2], pc)
                self.store(t, g, at, const(2))
                return self.go(t, nx, False)

            return self.split(s, op("ne", x, ZERO), free, lambda t: self.ends(t, "null-dereference", row[2], pc))
        raise self.fail(pc, f"operation {o.name} is not known to this export")

    def assign(self, s: State, pc: int, row: list[int], v: Expr, then: Callable[[State], Tree]) -> Tree:
        """Put a value in the slot of column 1, if it fits."""

        def put(t: State) -> Tree:
            self.put(t, row[1], v)
            return then(t)

        return self.split(s, self.fits(s, row[1], v), put, lambda t: self.ends(t, "range-overflow", -1, pc))

    def ret(self, s: State, pc: int, row: list[int], number_: Expr) -> Tree:
        """Back to each caller that the return number may mean."""
        v = values(number_, s.facts)
        calls = {self.code[c][2] for _, c in self.frames.callers[self.frames.function_of[pc]]}
        sites = sorted(i for i in calls if hull(v)[0] <= i <= hull(v)[1] and (isinstance(v, tuple) or i in v))

        def site(t: State, rest: list[int]) -> Tree:
            i, *rest = rest
            pc = int(self.a.rettab[row[2] + i])
            if not rest:
                return self.go(t, pc, False)
            return self.split(t, op("eq", number_, const(i)), lambda u: self.go(u, pc, False), lambda u: site(u, rest))

        return site(s, sites)

    def alloc(self, s: State, pc: int, row: list[int]) -> Tree:
        """The first object that was never used, else the first that was freed."""
        p = self.a.pools[row[2]]
        mem = self.memory
        wants = [(want, i) for want in (0, 2) for i in range(p.n)]

        def take(t: State, i: int, reused: bool) -> Tree:
            first = p.base + i * p.stride
            self.write(t, first, 1)
            if not (p.typesafe and reused and row[3] == 0):
                for k in range(1, p.stride):
                    _, lo, span = mem.row(first + k)
                    fresh = bool(row[3]) or p.typesafe or span < 0
                    self.write(t, first + k, self.a.cells[first + k].start - lo if fresh else span + 1)
            self.put(t, row[1], const(i + 1))
            return self.go(t, row[8], False)

        def look(t: State, rest: list[tuple[int, int]]) -> Tree:
            if not rest:
                return self.ends(t, "pool-exhausted", row[2], pc)
            (want, i), *rest = rest
            g = mem.group_of[p.base + i * p.stride]
            self.touched.update(g.cells)
            st = self.load(t, g, const(g.at[p.base + i * p.stride]))
            return self.split(
                t, op("eq", st, const(want)), lambda u: take(u, i, want == 2), lambda u: look(u, rest)
            )

        return look(s, wants)

    def write(self, s: State, addr: int, raw: int) -> None:
        g = self.memory.group_of[addr]
        mask, _, _ = self.memory.row(addr)
        if mask:
            self.store(s, g, const(g.at[addr]), const(raw & mask))

    def arithmetic(self, s: State, pc: int, o: Op, row: list[int]) -> Tree:
        x = self.get(s, row[2])
        two = (Op.MOV < o <= Op.SHR) or Op.EQ <= o <= Op.LE or o in (Op.MIN, Op.MAX)
        y = self.get(s, row[3]) if two else ZERO

        def then(t: State) -> Tree:
            return self.go(t, row[8], False)

        def done(t: State, r: Expr) -> Tree:
            lo, hi = hull(values(r, t.facts))
            if lo < -INT or hi >= INT:
                raise self.fail(pc, "a value of more than 32 bits, which Promela's int cannot hold")
            return self.assign(t, pc, row, r, then)

        if o in (Op.DIV, Op.MOD):
            if hull(values(y, s.facts))[0] < 0:
                raise self.fail(pc, "a division by a negative number, which Promela rounds otherwise")
            name = "div" if o is Op.DIV else "mod"
            if hull(values(x, s.facts))[0] < 0:
                name = f"floor{name}"

            def divide(t: State) -> Tree:
                return done(t, op(name, x, y))

            return self.split(s, op("ne", y, ZERO), divide, lambda t: self.ends(t, "division-by-zero", -1, pc))
        if o in (Op.SHL, Op.SHR):
            lo, hi = hull(values(y, s.facts))
            if lo < 0 or hi > 31:
                raise self.fail(pc, "a shift by other than 0 to 31")
        if o is Op.WRAP:
            r = self.wrap(s, pc, row, x)
        elif o is Op.MOV:
            r = x
        elif o is Op.NOT:
            r = op("not", truth(x))
        elif o is Op.INV:
            r = op("sub", const(-1), x)
        elif o is Op.NEG:
            r = op("sub", ZERO, x)
        elif o in (Op.MIN, Op.MAX):
            small, large = (x, y) if o is Op.MIN else (y, x)
            return self.split(s, op("le", x, y), lambda t: done(t, small), lambda t: done(t, large))
        else:
            r = op(o.name.lower(), x, y)
        return done(s, r)

    def wrap(self, s: State, pc: int, row: list[int], x: Expr) -> Expr:
        bits, signed = row[3], row[4]
        lo, hi = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        l1, h1 = hull(values(x, s.facts))
        if bits >= 64 or (lo <= l1 and h1 <= hi):
            return x
        if signed or bits > 30:
            raise self.fail(pc, f"a value that wraps at {bits} bits")
        return op("and", x, const(hi))

