"""An operational machine for the Linux kernel memory model, which runs litmus tests by steps.

It is held against the axioms (judge.py) on the kernel's own files and on generated ones.  Instead of axioms it has:

- Memory is, for each location, the list of its stores in coherence order.  A **view** says, for each location, up to
  which store (its number in the list) what was written is known.
- A store **carries** a view: what propagates before it to every CPU (LKMM's cumul-fence*, with itself).
- An event **knows** a view: what whoever comes after it by hb must not go behind.  A load takes any store that is not
  older than what it knows; a store is put anywhere behind what it knows.
- Events of a thread happen in any order that ppo and coherence allow, so stores may pass loads (load buffering).
- What is known at an smp_mb() or a grace period, everybody knows from then on (propagation, `pb`).  A grace period
  waits for the critical sections that have begun; it knows what those that have ended knew, and sections that begin
  later know what it knew at its beginning (the RCU axiom).

Refused, by name: plain accesses (races are for the axioms), `smp_mb__after_unlock_lock` and, where other accesses stand
between them, `smp_mb__before_atomic`, `smp_mb__after_atomic` and `smp_mb__after_spinlock` and what they strengthen.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

from seqfault.litmus.judge import places_shown
from seqfault.litmus.paths import SECTION, Op, Path, Refused, evaluate, paths, regs_of
from seqfault.litmus.threads import Limits
from seqfault.litmus.tree import Address, Const, Expr, Litmus, Place, RegisterOf, Thread, Value, holds
from seqfault.litmus.values import Undefined, truth

View = tuple[int, ...]
ORDERS = ("rmb", "wmb", "barrier")  # fences


class Msg(NamedTuple):
    """A store: what it wrote; what it carries; its thread and event; what its address and value knew, for its own
    thread; whether it is a read-modify-write's, which follows the one before at once; of an unlock, what its thread's
    own stores before it carry."""

    value: Value
    carried: View
    writer: tuple[int, int]
    dep: View
    atomic: bool
    own: View


class Done(NamedTuple):
    """An event that has happened: what it knows, what it carries, its location and number (-1: none), its value."""

    know: View
    carried: View
    place: int = -1
    number: int = -1
    value: Value = 0


class State(NamedTuple):
    """`events`: of each thread, of each event of its path, None before it has happened; `sc`: what strong fences have
    shown to everybody; `rcu`: of each domain what is known of grace periods that have begun, and of sections that have
    ended; `waits`: what grace periods that have begun wait for."""

    events: tuple[tuple[Done | None, ...], ...]
    memory: tuple[tuple[Msg, ...], ...]
    sc: View
    rcu: tuple[tuple[View, View], ...]
    waits: tuple[tuple[int, int, frozenset[tuple[int, int]]], ...]


def join(a: View, *bs: View) -> View:
    for b in bs:
        a = tuple(x if x >= y else y for x, y in zip(a, b, strict=True))
    return a


class Machine:
    """One path through each thread, over the locations of `init`.

    `sequences`: the store of a read-modify-write carries what the store that it reads from does (`rmw-sequence`).
    """

    sequences = False

    def __init__(self, init: dict[Address, Value], ways: tuple[Path, ...]):
        self.names, self.values = list(init), list(init.values())
        self.index = {a: i for i, a in enumerate(self.names)}
        self.zero: View = (0,) * len(self.names)
        self.ways = ways
        self.domains: dict[str, int] = {"": 0}
        self.domain: list[list[int]] = []
        for w in ways:
            row = []
            for o in w.ops:
                name = str(o.address.value) if isinstance(o.address, Const) and o.kind == "F" else ""
                row.append(self.domains.setdefault(name, len(self.domains)))
            self.domain.append(row)
        self.match = [self._matches(t) for t in range(len(ways))]

    def _matches(self, t: int) -> dict[int, int]:
        """Of each lock of a read-side critical section, outermost, its unlock."""
        out: dict[int, int] = {}
        stack: dict[int, list[int]] = {}
        for i, o in enumerate(self.ways[t].ops):
            if o.kind != "F" or o.order not in SECTION:
                continue
            mine = stack.setdefault(self.domain[t][i], [])
            if o.order.endswith("-lock"):
                mine.append(i)
            elif mine:
                start = mine.pop()
                if not mine:
                    out[start] = i
        return out

    def start(self) -> State:
        memory = tuple((Msg(v, self.zero, (-1, -1), self.zero, False, self.zero),) for v in self.values)
        order = Done(self.zero, self.zero)  # of a fence that is an order only
        events = tuple(tuple(order if o.order in ORDERS else None for o in w.ops) for w in self.ways)
        rcu = tuple((self.zero, self.zero) for _ in self.domains)
        return State(events, memory, self.zero, rcu, ())

    def run(self, limits: Limits) -> Iterator[State]:
        """The states in which everything has happened.  Raises `Incomplete`, `Refused`."""
        first = self._assumed(self.start())
        if first is None:
            return
        seen, work = {first}, [first]
        while work:
            s = work.pop()
            limits.count()
            if all(e is not None for row in s.events for e in row):
                yield s
                continue
            for n in self.steps(s):
                n2 = self._assumed(n)
                if n2 is not None and n2 not in seen:
                    seen.add(n2)
                    work.append(n2)

    def env(self, s: State, t: int) -> dict[str, Value]:
        return {o.reg: d.value for o, d in zip(self.ways[t].ops, s.events[t], strict=True) if o.reg and d is not None}

    def _assumed(self, s: State) -> State | None:
        """Assumptions that are true need no step.  None: one is false."""
        rows = []
        for t, row in enumerate(s.events):
            ops, out = self.ways[t].ops, list(row)
            env = self.env(s, t)
            for i, o in enumerate(ops):
                if out[i] is None and o.kind == "A" and all(r in env for r in regs_of(o.value)):
                    if truth(self._value(o.value, env)) != o.flag:
                        return None
                    out[i] = Done(self.zero, self.zero)
            rows.append(tuple(out))
        return s._replace(events=tuple(rows))

    @staticmethod
    def _value(e: Expr | None, env: dict[str, Value]) -> Value:
        assert e is not None
        try:
            return evaluate(e, env)
        except Undefined:
            return 0

    def _put(self, s: State, t: int, i: int, d: Done) -> State:
        row = s.events[t]
        return s._replace(events=(*s.events[:t], (*row[:i], d, *row[i + 1 :]), *s.events[t + 1 :]))

    def steps(self, s: State) -> Iterator[State]:
        """Every event that can happen now, in every way."""
        for t, row in enumerate(s.events):
            way = self.ways[t]
            done = sum(1 << i for i, e in enumerate(row) if e is not None)
            env = self.env(s, t)
            for i, o in enumerate(way.ops):
                if row[i] is not None or way.before[i] & ~done or o.kind == "A":
                    continue
                if o.kind == "F":
                    yield from self._fence(s, t, i, o)
                    continue
                needs = regs_of(o.address) | (regs_of(o.value) - {o.reg} if o.kind in "WU" else frozenset())
                if any(r not in env for r in needs):
                    continue
                at = self._value(o.address, env)
                if not isinstance(at, Address) or at not in self.index:
                    raise Refused("an address that is none")
                k = self._waits_for(way, row, i, at, env)
                if k < 0:
                    yield from self._access(s, t, i, o, self.index[at], env)
                elif o.kind == "R" and way.ops[k].kind == "W" and all(r in env for r in regs_of(way.ops[k].value)):
                    yield self._forward(s, t, i, k, env)

    def _waits_for(self, way: Path, row: tuple[Done | None, ...], i: int, at: Address, env: dict[str, Value]) -> int:
        """The last earlier access to the same location, if it is still to come, or -1."""
        for k in range(i - 1, -1, -1):
            a = way.ops[k]
            if a.kind in "RWU":
                assert a.address is not None
                if all(r in env for r in regs_of(a.address)) and self._value(a.address, env) == at:
                    if row[k] is None:
                        return k
                    if a.kind != "R":
                        break
        return -1

    def _forward(self, s: State, t: int, i: int, k: int, env: dict[str, Value]) -> State:
        """A load takes the value of its thread's own store, which is still to come (rfi is no order)."""
        way, row = self.ways[t], s.events[t]
        know = s.sc
        behind = way.ops[k].addr | way.ops[k].data  # dep ; [Marked] ; rfi
        for j, d in enumerate(row):
            if d is not None and (way.ppo[i] >> j & 1 or way.ops[j].reg in behind):
                know = join(know, d.know)
        return self._put(s, t, i, Done(know, self.zero, -1, -2 - k, self._value(way.ops[k].value, env)))

    def _known(self, s: State, t: int, i: int, x: int) -> tuple[View, int, int]:
        """What an event knows before it happens, and between which numbers its location's coherence puts it: after its
        own thread's earlier accesses, and before later ones, if its address was not known when they happened."""
        way, row = self.ways[t], s.events[t]
        know, last, end = s.sc, 0, len(s.memory[x])
        o = way.ops[i]
        for k, d in enumerate(row):
            if d is None:
                continue
            if d.place == x and k > i:
                end = min(end, d.number if way.ops[k].kind == "R" else -1)  # overwrite & int: the store came too soon
            elif d.place == x:
                last = max(last, d.number)
                if o.kind in "WU":  # overwrite & int
                    know = join(know, d.know)
            if way.ppo[i] >> k & 1:
                know = join(know, d.know)
        return know, last, end

    def _at(self, x: int, n: int) -> View:
        return (*self.zero[:x], n, *self.zero[x + 1 :])

    def _read(self, s: State, t: int, x: int, n: int, know: View) -> View:
        """What is known after a read of store number `n`."""
        m = s.memory[x][n]
        if m.writer[0] == t:
            return join(know, m.dep)
        told = join(m.carried, self._at(x, n))
        know = join(know, told)
        for d in s.events[t]:  # (prop \ id) & int
            if d is None or d.place < 0 or d.number >= told[d.place]:
                continue
            if s.memory[d.place][told[d.place]].writer[0] != t:
                know = join(know, d.know)
        return know

    def _access(self, s: State, t: int, i: int, o: Op, x: int, env: dict[str, Value]) -> Iterator[State]:
        before, last, end = self._known(s, t, i, x)
        floor = max(last, before[x])
        if o.kind == "W":
            first = len(s.memory[x]) if o.lock == "unlock" else floor + 1
            for n in range(first, end + 1):
                yield from self._store(s, t, i, o, x, self._value(o.value, env), before, n, False)
            return
        for n in range(floor, min(end + (o.kind == "R"), len(s.memory[x]))):
            know = self._read(s, t, x, n, before)
            if know[x] > n:
                continue
            value = s.memory[x][n].value
            if o.kind == "R":
                yield self._put(s, t, i, Done(know, self.zero, x, n, value))
                continue
            if o.lock == "lock" and (n != len(s.memory[x]) - 1 or truth(value)):
                continue
            if n + 1 < len(s.memory[x]) and s.memory[x][n + 1].atomic:
                continue
            new = self._value(o.value, {**env, o.reg: value})
            yield from self._store(s, t, i, o, x, new, know, n + 1, True, value)

    def _store(
        self, s: State, t: int, i: int, o: Op, x: int, v: Value, know: View, n: int, atomic: bool, old: Value = 0
    ) -> Iterator[State]:
        """A store becomes number `n` of its location."""
        if n < len(s.memory[x]) and s.memory[x][n].atomic:
            return
        way, row = self.ways[t], s.events[t]
        carried, own = self.zero, self.zero
        for k in range(i):
            d, a = row[k], way.ops[k]
            if d is None:
                continue
            if way.wmb[i] >> k & 1:
                carried = join(carried, d.carried)
            if a.kind == "F":
                carried = join(carried, d.know)
            if a.lock == "lock":
                carried = join(carried, s.memory[d.place][d.number].own)
            if o.order == "release" and d.place >= 0:
                carried = join(carried, d.carried, d.know)
            if o.lock == "unlock" and a.kind in "WU":
                own = join(own, d.carried)
        if o.order == "release" and atomic:  # its own read is before it, too
            carried = join(carried, know)
        if self.sequences and atomic:
            carried = join(carried, s.memory[x][n - 1].carried)
        dep = self.zero
        for k, d in enumerate(row):
            if d is not None and way.ops[k].reg in o.addr | o.data:
                dep = join(dep, d.know)
        if o.lock == "lock":
            own = s.memory[x][n - 1].own

        def shift(w: View) -> View:
            return self._shift(w, x, n)

        carries = join(shift(carried), self._at(x, n), self._told(row[:i], know, x, n))
        msg = Msg(v, carries, (t, i), shift(dep), atomic, shift(own))
        memory = [
            tuple(m._replace(carried=shift(m.carried), dep=shift(m.dep), own=shift(m.own)) for m in ms)
            for ms in s.memory
        ]
        memory[x] = (*memory[x][:n], msg, *memory[x][n:])
        events = tuple(
            tuple(
                d
                if d is None or (d.know is self.zero and d.carried is self.zero and d.place != x)
                else Done(
                    shift(d.know), shift(d.carried), d.place, d.number + (d.place == x and d.number >= n), d.value
                )
                for d in r
            )
            for r in s.events
        )
        rcu = tuple((shift(a), shift(b)) for a, b in s.rcu)
        after = State(events, tuple(memory), shift(s.sc), rcu, s.waits)
        after = self._put(after, t, i, Done(shift(know), carries, x, n, old))
        for j, d in enumerate(after.events[t]):
            if d is not None and d.number == -2 - i:  # it took this store's value before
                if d.know[x] > n:
                    return
                after = self._put(after, t, j, d._replace(place=x, number=n))
        yield after

    def _shift(self, w: View, x: int, n: int) -> View:
        """A view when a store becomes number `n` of its location."""
        return w if w[x] < n else (*w[:x], w[x] + 1, *w[x + 1 :])

    def _told(self, earlier: tuple[Done | None, ...], know: View, x: int, n: int) -> View:
        """What more a store carries that becomes number `n`, knows `know`, and comes after these events of its
        thread."""
        return self.zero

    def _fence(self, s: State, t: int, i: int, o: Op) -> Iterator[State]:
        if o.order == "mb":
            s, know = self._meet(s, t, i)
            yield self._put(s, t, i, Done(know, self.zero))
            return
        d = self.domain[t][i]
        begun, ended = s.rcu[d]
        if o.order.endswith("-lock"):
            # every later event comes after it, and knows what grace periods knew that had begun
            yield self._put(s, t, i, Done(begun, self.zero))
            return
        if o.order.endswith("-unlock"):
            if i in self.match[t].values():
                know = join(ended, self._before(s, t, i))
                rcu = (*s.rcu[:d], (begun, know), *s.rcu[d + 1 :])
                mine = {(t, a) for a, b in self.match[t].items() if b == i}
                waits = tuple((a, b, sections - mine) for a, b, sections in s.waits)
                s = s._replace(rcu=rcu, waits=waits)
            yield self._put(s, t, i, Done(self.zero, self.zero))
            return
        begun_here = [w for w in s.waits if w[:2] == (t, i)]
        if not begun_here:
            s, know = self._meet(s, t, i)
            sections = frozenset(
                (u, a)
                for u, pairs in enumerate(self.match)
                for a, b in pairs.items()
                if self.domain[u][a] == d and s.events[u][a] is not None and s.events[u][b] is None
            )
            rcu = (*s.rcu[:d], (join(begun, know), ended), *s.rcu[d + 1 :])
            yield s._replace(rcu=rcu, waits=tuple(sorted((*s.waits, (t, i, sections)), key=lambda w: w[:2])))
        elif not begun_here[0][2]:
            s = s._replace(waits=tuple(w for w in s.waits if w[:2] != (t, i)))
            s, know = self._meet(s, t, i, ended)
            yield self._put(s, t, i, Done(know, self.zero))

    def _meet(self, s: State, t: int, i: int, more: View | None = None) -> tuple[State, View]:
        """A strong fence: it knows what came before in its thread and what earlier strong fences knew."""
        know = join(s.sc, self._before(s, t, i), more or self.zero)
        return s._replace(sc=know), know

    def _before(self, s: State, t: int, i: int) -> View:
        """All that a thread's earlier events know, carry and are."""
        know = self.zero
        for d in s.events[t][:i]:
            if d is not None:
                know = join(know, d.know, d.carried)
                if d.place >= 0:
                    know = join(know, self._at(d.place, d.number))
        return know


def final_states(
    test: Litmus,
    limits: Limits | None = None,
    machine: type[Machine] = Machine,
    ways: Callable[[Litmus, Thread], Iterator[Path]] = paths,
) -> set[tuple[Value, ...]]:
    """The final states that the machine reaches, as the keys of `Verdict.states`; `ways`: of a thread, the paths
    through it.

    Raises:
        Refused: the machine does not have what the test uses.
        Incomplete: `limits` are passed.
    """
    limits = limits or Limits()
    places = places_shown(test)
    out = set()
    for chosen in itertools.product(*(list(ways(test, t)) for t in test.threads)):
        m = machine(test.init, chosen)
        m.sequences = test.model.sequences
        for s in m.run(limits):
            state: dict[Place, Value] = {a: s.memory[i][-1].value for i, a in enumerate(m.names)}
            for i, (t, way) in enumerate(zip(test.threads, chosen, strict=True)):
                env = m.env(s, i)
                for name, e in way.registers.items():
                    state[RegisterOf(t.number, name)] = m._value(e, env)
            if test.filter is None or holds(test.filter, state):
                out.add(tuple(state.get(p, 0) for p in places))
    return out
