"""Which steps a process can take at all, and which values its variables and memory can have, for one starting state.

A step is run again while the values that it depends on grow; what is left at the end is the code of the model.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from seqfault.compile.automaton import Automaton
from seqfault.report.promela.expr import Expr, Values, hull, join, values, var
from seqfault.report.promela.frames import Frames
from seqfault.report.promela.steps import Stepper
from seqfault.report.promela.tree import Leaf, Memory, Step, leaves


@dataclass
class ProcessFlow:
    """A process: `start`, where it stands at first, with `first`, the values of its variables that are not 0;
    `steps`: place -> what its step does; `values`: variable -> all that it can be."""

    number: int
    name: str
    role: int
    start: int
    stepper: Stepper
    first: dict[str, int] = field(default_factory=dict)
    facts: dict[int, dict[str, Values]] = field(default_factory=dict)
    steps: dict[int, Step] = field(default_factory=dict)
    values: dict[str, Values] = field(default_factory=dict)


class Flow:
    """The fixpoint over all processes."""

    def __init__(self, a: Automaton, init: list[int], rom: list[int], mode: str, dead: bool, fold: bool):
        self.a = a
        self.memory = Memory(a, init, rom)
        zero = dead and mode != "full"
        pc_mask = int(a.tab[a.pc_slot][2])
        self.processes: list[ProcessFlow] = []
        for i, p in enumerate(a.processes):
            pc = init[p.base] & pc_mask
            if pc == a.halt_pc:
                continue  # it takes no part
            frames = Frames(a, [p.entry], self.memory.names())
            if not zero:
                frames.check_full()
            f = ProcessFlow(i, p.name, p.role, pc, Stepper(a, mode, i, frames, self.memory, zero, fold))
            self.begin(f)
            if f.start != a.halt_pc:
                self.processes.append(f)
        self.readers: dict[int, set[tuple[int, int]]] = {}
        self.work: list[tuple[int, int, int]] = []
        self.queued: set[tuple[int, int]] = set()
        self.steps = 0
        for k, f in enumerate(self.processes):
            f.facts[f.start] = {v: frozenset((x,)) for v, x in f.first.items()}
            self.push(k, f.start)
        while self.work:
            _, k, pc = heapq.heappop(self.work)
            self.queued.discard((k, pc))
            self.visit(k, pc)

    def begin(self, f: ProcessFlow) -> None:
        """Run the local work before the first step, as explore/engine.py's `Executor.start` does."""
        if f.stepper.stop[f.start]:
            return
        step = f.stepper.run(f.start, {})
        if step.cuts or not isinstance(step.first, Leaf) or step.first.target < 0 or step.first.asserts:
            return
        leaf, mem = step.first, self.memory
        f.start = leaf.target
        f.first = {v: x for v, e in leaf.sets.items() if (x := hull(values(e, leaf.facts))[0])}
        for group, at, v in leaf.stores:
            c = mem.groups[group].cells[hull(values(at, leaf.facts))[0]]
            mem.start[c] = hull(values(v, leaf.facts))[0]
            mem.values[c] = frozenset((mem.start[c],))

    def push(self, k: int, pc: int) -> None:
        if (k, pc) not in self.queued:
            self.queued.add((k, pc))
            # a step in many pieces takes long to run: last, when more is known
            heapq.heappush(self.work, (len(self.processes[k].stepper.cuts.get(pc, ())), k, pc))

    def visit(self, k: int, pc: int) -> None:
        f = self.processes[k]
        if pc == self.a.halt_pc:
            return
        self.steps += 1
        facts: dict[Expr, Values] = {var(v): xs for v, xs in f.facts[pc].items()}
        step = f.steps[pc] = f.stepper.run(pc, facts)
        for c in f.stepper.touched:
            self.readers.setdefault(c, set()).add((k, pc))
        for tree in step.trees():
            for leaf in leaves(tree):
                if leaf.target >= 0:
                    self.arrive(k, f, pc, leaf)

    def arrive(self, k: int, f: ProcessFlow, pc: int, leaf: Leaf) -> None:
        facts = leaf.facts
        for group, at, x in leaf.stores:
            self.stored(group, values(at, facts), values(x, facts))
        if leaf.cut:
            return
        new: dict[str, Values] = {}
        for v in {*f.facts[pc], *leaf.sets}:
            e = leaf.sets.get(v)
            xs = values(e, facts) if e is not None else facts.get(var(v), frozenset((0,)))
            if xs != frozenset((0,)):
                new[v] = xs
        old = f.facts.get(leaf.target)
        if old is None:
            f.facts[leaf.target] = new
            self.push(k, leaf.target)
        else:
            grown = False
            for v in {*old, *new}:
                xs = self.grow(f, v, old.get(v, frozenset((0,))), new.get(v, frozenset((0,))))
                if xs != old.get(v):
                    old[v] = xs
                    grown = True
            if grown:
                self.push(k, leaf.target)

    def grow(self, f: ProcessFlow, v: str, a: Values, b: Values) -> Values:
        out = join(a, b)
        if isinstance(out, tuple):  # at once to all that fits: counting up to it would take long
            return 0, (1 << f.stepper.frames.widths.get(v, 31)) - 1
        return out

    def stored(self, group: str, at: Values, v: Values) -> None:
        g = self.memory.groups[group]
        spots = sorted(at) if isinstance(at, frozenset) else range(at[0], at[1] + 1)
        for i in spots:
            if not 0 <= i < len(g.cells):
                continue
            c = g.cells[i]
            old = self.memory.values[c]
            new = join(old, v)
            if isinstance(new, tuple):
                new = 0, self.memory.row(c)[0]
            if new != old:
                self.memory.values[c] = new
                for key in self.readers.get(c, ()):
                    self.push(*key)

    def finish(self) -> None:
        """Gather what each variable can be."""
        for f in self.processes:
            for facts in f.facts.values():
                for v, xs in sorted(facts.items()):
                    f.values[v] = join(f.values[v], xs) if v in f.values else join(frozenset((0,)), xs)

