"""The model's text: declarations, a proctype for each process (or several that are the same), a label for each step."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from seqfault.compile.automaton import Automaton, Int64, Words
from seqfault.report.promela.expr import ONE, ZERO, ExportError, Expr, const, forget, hull, is_const, op, render, var
from seqfault.report.promela.flow import Flow, ProcessFlow
from seqfault.report.promela.frames import identifier
from seqfault.report.promela.tree import (
    ENDS,
    HELD,
    OFF,
    SHADOW,
    TEMPORARY,
    Assertion,
    Branch,
    Choice,
    Leaf,
    Step,
    Tree,
    leaves,
)

RECURSION = 60_000  # expressions and steps are walked recursively
TO = "to"  # which of several places with one label a process stands at
NOWHERE = Leaf(OFF)
Assign = tuple[str, Expr | None, Expr]  # variable or group, position, value
Names = dict[tuple[str, int] | str, str]

HEADER = """\
/* {title}

   Written by seqfault from its compiled automaton (docs/export.md); {steps}.
   Each label is where a step begins: function, file, line.  A violation that a step shows by itself is an assertion.
   Oracles and outcomes of states at rest are no part of this model.

     spin -a -o1 -o2 -o3 FILE; gcc -O2 -DSAFETY -DNOREDUCE -DVECTORSZ={vector} -o pan pan.c
     ./pan -m1000000 -w24 -A -E        counts states (no assertions, no invalid end states)
     ./pan -m1000000 -w24 -c0          goes on past errors; without -c0 the first one ends the run
*/
"""
GRANULARITY = {
    "merged": "a step is one access to shared memory with the local work that follows it",
    "full": "a step is one statement",
    "seq": "a step is one operation",
}


@dataclass
class Export:
    """A model.  `text`; `processes`, `locations` (places where steps begin), `cells` (memory that can change)."""

    text: str
    processes: int
    locations: int
    cells: int
    kinds: list[str] = field(default_factory=list)


def reads_of(e: Expr) -> set[tuple[str, int | None]]:
    """Variables and elements that an expression reads: (name, position or None)."""
    out: set[tuple[str, int | None]] = set()
    for x in e.leaves:
        if x.op == "var":
            out.add((str(x.args[0]), 0))
        else:
            g, at = x.args
            assert isinstance(g, str) and isinstance(at, Expr)
            out.add((g, int(at.args[0]) if is_const(at) else None))  # type: ignore[call-overload]
            out |= reads_of(at)
    return out


def touches(a: Assign, rs: Iterable[tuple[str, int | None]]) -> bool:
    """Does the assignment change something that is read?"""
    name, at, _ = a
    return any(n == name and (at is None or k is None or not is_const(at) or at.args[0] == k) for n, k in rs)


def in_order(todo: list[Assign]) -> tuple[list[tuple[int, Expr]], list[Assign]]:
    """Assignments whose values are of the state before all of them, one after another: temporaries, then these."""
    n = len(todo)
    rs = [reads_of(v) | (reads_of(at) if at is not None else set()) for _, at, v in todo]
    saved: list[tuple[int, Expr]] = []
    out: list[Assign] = []
    left = list(range(n))
    while left:
        free = [
            i
            for i in left
            if not any(j != i and touches(todo[i], rs[j]) for j in left)
            and not any(j < i and todo[j][0] == todo[i][0] for j in left)
        ]
        if free:
            out += [todo[free[0]]]
            left.remove(free[0])
            continue
        # a ring: keep the value of one that reads what the first in line changes
        first = next(i for i in left if not any(j < i and todo[j][0] == todo[i][0] for j in left))
        j = next(j for j in left if j != first and touches(todo[first], rs[j]))
        name, at, v = todo[j]
        for k, e in enumerate((at, v)):
            if e is not None and e.leaves and touches(todo[first], reads_of(e)):
                t = len(saved)
                saved.append((t, e))
                kept = temporary(t)
                at, v = (kept, v) if k == 0 else (at, kept)
        todo[j] = (name, at, v)
        rs[j] = reads_of(v) | (reads_of(at) if at is not None else set())
    return saved, out


def temporary(n: int) -> Expr:
    return var(f"{TEMPORARY}t{n}")


def reach(tree: Tree, target: int) -> Expr:
    """The condition under which a tree without choices ends there."""
    if isinstance(tree, Leaf):
        return ONE if tree.target == target and tree is not NOWHERE else ZERO
    assert isinstance(tree, Branch)
    yes, no = reach(tree.yes, target), reach(tree.no, target)
    c = tree.cond
    if yes is no:
        return yes
    if yes is ONE or no is ZERO:
        return op("any", c, no) if yes is ONE else op("all", c, yes)
    if no is ONE or yes is ZERO:
        return op("any", op("not", c), yes) if no is ONE else op("all", op("not", c), no)
    return op("if", c, yes, no)


def targets(tree: Tree) -> list[int]:
    return list(dict.fromkeys(x.target for x in leaves(tree) if x.target != OFF))


def variants(tree: Tree) -> list[Tree]:
    """Trees without choices: together they have every way through the tree, each once."""
    if isinstance(tree, Leaf):
        return [tree]
    if isinstance(tree, Choice):
        return [v for t in tree.ways for v in variants(t)]
    yes, no = variants(tree.yes), variants(tree.no)
    n = max(len(yes), len(no))
    return [
        Branch(tree.cond, yes[i] if i < len(yes) else NOWHERE, no[i] if i < len(no) else NOWHERE) for i in range(n)
    ]


def indented(lines: Sequence[str], by: str = "   ") -> list[str]:
    return [by + x for x in lines]


class Writer:
    """Writes the text of one flow."""

    def __init__(self, flow: Flow):
        self.flow, self.a = flow, flow.a
        self.kinds: dict[str, None] = {}
        self.hidden: dict[str, None] = {}
        self.names: Names = {}
        self.declare()

    # -- memory
    def declare(self) -> None:
        """Which groups are arrays, which of their elements variables of their own."""
        mem = self.flow.memory
        dynamic: set[str] = set()
        used: set[tuple[str, int]] = set()

        def see(g: str, at: Expr) -> None:
            if is_const(at):
                used.add((g, int(at.args[0])))  # type: ignore[call-overload]
            else:
                dynamic.add(g)

        def look(e: Expr) -> None:
            for x in e.leaves:
                if x.op == "cell":
                    g, at = x.args
                    assert isinstance(g, str) and isinstance(at, Expr)
                    see(g, at)
                    look(at)

        def walk(t: Tree) -> None:
            if isinstance(t, Branch):
                look(t.cond)
                walk(t.yes)
                walk(t.no)
            elif isinstance(t, Choice):
                for w in t.ways:
                    walk(w)
            else:
                for e in t.sets.values():
                    look(e)
                for x in t.asserts:
                    look(x.cond)
                for g, at, v in t.stores:
                    see(g, at)
                    look(at)
                    look(v)

        for f in self.flow.processes:
            for s in f.steps.values():
                for t in s.trees():
                    walk(t)
        self.globals: list[tuple[str, str]] = []
        self.cells = 0
        for name, g in mem.groups.items():
            changing = [i for i, c in enumerate(g.cells) if len(mem.values[c]) > 1]
            self.cells += len(changing)
            if name in dynamic:
                used_cells = g.cells[: g.top + 1]
                top = max(hull(mem.values[c])[1] for c in used_cells)
                start = [mem.start[c] for c in used_cells]
                first = f" = {start[0]}" if start[0] else ""
                if len(set(start)) > 1:
                    first = " = {" + ", ".join(map(str, start)) + "}"
                self.globals.append((f"{self.array_type(top)} {name}[{len(start)}]{first};", name))
                continue
            for i, c in enumerate(g.cells):
                if i in changing or (name, i) in used:
                    n = name if len(g.cells) == 1 else f"{name}_{i}"
                    self.names[name, i] = n
                    start_at = f" = {mem.start[c]}" if mem.start[c] else ""
                    self.globals.append((self.variable(n, hull(mem.values[c])[1], start_at), n))

    @staticmethod
    def array_type(top: int) -> str:
        return "bit" if top <= 1 else "byte" if top <= 255 else "short" if top < 1 << 15 else "int"

    @staticmethod
    def variable(name: str, top: int, start: str) -> str:
        bits = max(1, top.bit_length())
        if bits == 1:
            return f"bit {name}{start};"
        if bits == 8:
            return f"byte {name}{start};"
        if bits > 30:
            raise ExportError(f"{name}: a value of more than 30 bits, which Promela's int may not hold")
        return f"unsigned {name} : {bits}{start};"

    # -- statements
    def text(self, e: Expr) -> str:
        return render(e, self.names)

    def assertion(self, x: Assertion) -> str:
        w = self.a.where[x.pc]
        pool = f"_of_{self.a.pools[x.pool].name}" if x.pool >= 0 else ""
        name = identifier(f"{x.kind}{pool}_in_{w.function}")
        self.kinds[name] = None
        cond = "" if x.cond is ZERO else f"{self.text(x.cond)} || "
        return f"assert({cond}{name});"

    def effects(self, leaf: Leaf) -> list[str]:
        out = [self.assertion(x) for x in leaf.asserts]
        known = self.needed if leaf.cut else self.present
        todo: list[Assign] = [(v, None, e) for v, e in leaf.sets.items() if v in known and e is not var(v)]
        todo += [(g, at, v) for g, at, v in leaf.stores]
        saved, ordered = in_order(todo)
        for n, e in saved:
            t = temporary(n)
            self.hidden[str(t.args[0])] = None
            out.append(f"{self.text(t)} = {self.text(e)};")
        for name, at, v in ordered:
            if at is None:
                out.append(f"{name} = {self.text(v)};")
            elif is_const(at) and (name, at.args[0]) in self.names:
                out.append(f"{self.names[name, at.args[0]]} = {self.text(v)};")  # type: ignore[index]
            else:
                out.append(f"{name}[{self.text(at)}] = {self.text(v)};")
        return out

    def body(self, tree: Tree, target: int) -> list[str]:
        """What a tree does on the ways that end at `target`; that it does so is known."""
        ends = [x for x in leaves(tree) if x.target == target and x is not NOWHERE]
        common = {v: e for v, e in ends[0].sets.items() if is_const(e) and all(x.sets.get(v) is e for x in ends)}
        return [*self.ways(tree, target, common), *self.effects(Leaf(target, common))]

    def ways(self, tree: Tree, target: int, common: dict[str, Expr]) -> list[str]:
        if isinstance(tree, Leaf):
            rest = {v: e for v, e in tree.sets.items() if v not in common}
            return self.effects(Leaf(target, rest, tree.stores, tree.asserts))
        assert isinstance(tree, Branch)
        sides = [t for t in (tree.yes, tree.no) if reach(t, target) is not ZERO]
        if len(sides) == 1:
            return self.ways(sides[0], target, common)
        return self.either(tree.cond, self.ways(tree.yes, target, common), self.ways(tree.no, target, common))

    def either(self, cond: Expr, yes: list[str], no: list[str]) -> list[str]:
        if yes == no:
            return yes
        out = ["if"]
        for c, lines in ((self.text(cond), yes), ("else", no)):
            lines = lines or ["skip;"]
            out += [f":: {c} -> {lines[0]}", *indented(lines[1:])]
        return [*out, "fi;"]

    # -- steps
    def options(self, f: ProcessFlow, pc: int, label: dict[int, str]) -> list[tuple[str, list[str], str]]:
        """Guard, effects and the label behind them, of each way out of a place."""
        s = f.steps[pc]
        if s.cuts:
            return [self.pieces(f, pc, s, label)]
        out: list[tuple[str, list[str], str]] = []
        trees = variants(s.first)
        for tree in trees:
            for t in targets(tree):
                guard = reach(tree, t)
                lines = self.body(tree, t)
                to = pc if t == ENDS else t
                out.append((self.here(pc, guard), [*lines, *self.there(pc, to)], label[to]))
        if len(out) > 1 and len(trees) == 1 and pc not in self.shared and reach_off(s.first) is ZERO:
            plain = [o for o in out if not o[1]]
            if plain:  # the longest guard that does nothing is the rest
                last = max(plain, key=lambda o: len(o[0]))
                out.remove(last)
                out.append(("else", [], last[2]))
        return out

    def here(self, pc: int, guard: Expr) -> str:
        """A guard, with the condition that the process stands at `pc`, if its label is not enough to tell."""
        if pc in self.shared:
            guard = op("all", op("eq", var(TO), const(self.shared[pc])), guard)
        return "" if guard is ONE else self.text(guard)

    def there(self, pc: int, to: int) -> list[str]:
        """What is to be noted on the way from `pc` to `to`."""
        old, new = self.shared.get(pc, 0), self.shared.get(to, 0)
        return [f"{TO} = {new};"] if old != new else []

    def step(self, f: ProcessFlow, pcs: list[int], label: dict[int, str]) -> list[str]:
        """The text of a label."""
        out = []
        for pc in pcs:
            w = self.a.where[pc]
            out.append(f"/* {w.function}, {w.file}:{w.line} */")
        head = f"{label[pcs[0]]}: {out[0]}"
        every = [(self.options(f, pc, label), note) for pc, note in zip(pcs, out, strict=True)]
        if len(pcs) == 1:
            options = every[0][0]
            if not options:
                return [head, "   false;"]
            if len(options) == 1:
                g, lines, to = options[0]
                ls = self.guarded(g, lines)
                if ls[0].startswith("d_step"):  # Spin refuses a jump to a d_step itself
                    ls = ["if", f":: {ls[0]}", *indented(ls[1:]), "fi;"]
                return [head, *indented([*ls, f"goto {to};"])]
        text = ["if"]
        for options, note in every:
            if len(pcs) > 1:
                text.append(note)
            for g, lines, to in options:
                ls = self.guarded(g, lines)
                text += [f":: {ls[0]}", *indented(ls[1:]), f"   goto {to}"]
        return [head, *indented([*text, "fi;"])]

    @staticmethod
    def guarded(guard: str, lines: list[str]) -> list[str]:
        if not guard and len(lines) == 1 and not lines[0].startswith("assert"):
            return lines
        if not lines:
            return [f"{guard or 'skip'};"]
        if guard:
            if len(lines) == 1:
                return [f"d_step {{ {guard} -> {lines[0]} }};"]
            return [f"d_step {{ {guard} ->", *indented(lines), "};"]
        return ["d_step {", *indented(lines), "};"]

    def ends(self, pc: int, s: Step) -> list[int]:
        """Where a step can end."""
        every = [x for t in s.trees() for x in leaves(t)]
        return list(dict.fromkeys(pc if x.target == ENDS else x.target for x in every if not x.cut and x.target != OFF))

    def pieces(self, f: ProcessFlow, pc: int, s: Step, label: dict[int, str]) -> tuple[str, list[str], str]:
        """A step with loops inside: one d_step with jumps."""
        w = self.a.where[pc]
        every = [x for t in s.trees() for x in leaves(t)]
        later = [x for t in s.cuts.values() for x in leaves(t)]
        if any(x.target == OFF for x in later):
            raise ExportError(f"{w.file}:{w.line}: {w.function}: a step that may have to wait after a loop")
        if any(x.target == ENDS for x in later) and any(x.cut and x.stores for x in every):
            raise ExportError(f"{w.file}:{w.line}: {w.function}: a step that may end the path after a store in a loop")
        ends = self.ends(pc, s)
        here = f"P{pc}_"
        self.needed = needed(s.cuts.values())
        self.hidden.update(dict.fromkeys(self.needed))

        def emit(t: Tree) -> list[str]:
            if isinstance(t, Leaf):
                lines = self.effects(t)
                if t.cut:
                    return [*lines, f"goto {here}{t.target};"]
                return [*lines, *self.there(pc, pc if t.target == ENDS else t.target), f"goto {here}end;"]
            if isinstance(t, Choice):
                raise ExportError(f"{w.file}:{w.line}: {w.function}: a choice in a step with loops")
            for side, other in ((t.yes, t.no), (t.no, t.yes)):
                if isinstance(side, Leaf) and side.target == OFF:
                    return emit(other)
            return self.either(t.cond, emit(t.yes), emit(t.no))

        lines = emit(s.first)
        for c, t in s.cuts.items():
            rest = emit(t)
            lines += [f"{here}{c}: {rest[0]}", *rest[1:]]
        lines.append(f"{here}end: skip;")
        return self.here(pc, op("not", reach_off(s.first))), lines, label[ends[0]]

    def proctype(self, f: ProcessFlow) -> tuple[str, str]:
        """The name, and the text behind it."""
        halt = self.a.halt_pc
        prefix = "end_" if f.role else ""
        label = {pc: f"{prefix}L{pc}" for pc in f.steps}
        label[halt] = "end_halt"
        # behind a d_step is one label: places that one step can end at share theirs, and a variable tells them apart
        several = [e for pc, s in f.steps.items() if s.cuts and len(e := self.ends(pc, s)) > 1]
        self.shared = {pc: i for i, pc in enumerate(dict.fromkeys(x for e in several for x in e), 1)}
        if halt in self.shared:
            raise ExportError(f"{self.a.name}: {f.name}: a step with a loop may be the last")
        label.update(dict.fromkeys(self.shared, f"{prefix}Shared"))
        self.present = {v for v, xs in f.values.items() if hull(xs)[1] or not f.stepper.fold}
        blocks: list[str] = []
        together = sorted(self.shared)
        places = [[pc] for pc in sorted(f.steps) if pc not in self.shared]
        if together:
            places.append(together)
        places.sort(key=lambda pcs: f.start not in pcs)
        for pcs in places:
            if blocks and blocks[-1].strip() == f"goto {label[pcs[0]]};":
                blocks.pop()
            blocks += self.step(f, pcs, label)
        lines = ["{"]
        for v, xs in sorted(f.values.items()):
            top = (1 << len(f.stepper.classes)) - 1 if v == HELD else hull(xs)[1]
            if v in self.present:
                first = f.first.get(v, 0)
                lines.append("   " + self.variable(v, min(top, hull(xs)[1]), f" = {first}" if first else ""))
        if self.shared:
            lines.append("   " + self.variable(TO, len(self.shared), f" = {self.shared.get(f.start, 0)}"))
        lines += blocks
        lines += [f"{label[halt]}:", "   false", "}"]
        return identifier(f.name), "\n".join(lines)

    def model(self, title: str, mode: str) -> str:
        same: dict[str, list[str]] = {}
        for f in self.flow.processes:
            name, text = self.proctype(f)
            same.setdefault(text, []).append(name)
        procs = []
        taken: set[str] = set()
        for text, names in same.items():
            name = names[0]
            while name in taken:
                name += "_"
            taken.add(name)
            many = f"[{len(names)}] " if len(names) > 1 else ""
            procs.append(f"active {many}proctype {name}()\n{text}")
        vector = 1024 if len(self.globals) < 300 else 4096
        parts = [HEADER.format(title=title, steps=GRANULARITY.get(mode, mode), vector=vector)]
        parts.append("\n".join(t for t, _ in self.globals))
        hidden = [f"hidden int {n};" for n in self.hidden]
        hidden += [f"hidden byte {n};" for n in self.kinds]
        if hidden:
            parts.append("/* no part of the state: values inside a step; names of violations, never true */")
            parts.append("\n".join(hidden))
        return "\n".join([*parts, "", "\n\n".join(procs), ""])


def needed(trees: Iterable[Tree]) -> list[str]:
    """Variables of a step's own that some tree reads."""
    out: dict[str, None] = {}

    def look(*es: Expr) -> None:
        for e in es:
            out.update((n, None) for n, _ in sorted(reads_of(e), key=str) if n.startswith((SHADOW, TEMPORARY)))

    def walk(t: Tree) -> None:
        if isinstance(t, Branch):
            look(t.cond)
            walk(t.yes)
            walk(t.no)
        elif isinstance(t, Leaf):
            look(*(e for v, e in t.sets.items() if e is not var(v)), *(x.cond for x in t.asserts))
            for _, at, v in t.stores:
                look(at, v)

    for t in trees:
        walk(t)
    return list(out)


def reach_off(tree: Tree) -> Expr:
    """The condition under which a step without choices cannot be taken."""
    if isinstance(tree, Choice):
        return ONE
    if isinstance(tree, Leaf):
        return ONE if tree.target == OFF else ZERO
    yes, no = reach_off(tree.yes), reach_off(tree.no)
    if yes is no:
        return yes
    return op("if", tree.cond, yes, no) if ZERO not in (yes, no) else (
        op("all", tree.cond, yes) if no is ZERO else op("all", op("not", tree.cond), no)
    )


def export_promela(
    a: Automaton,
    init: Sequence[int] | Words,
    rom: Sequence[int] | Int64,
    *,
    mode: str = "merged",
    dead: bool = True,
    fold: bool = True,
    title: str = "",
) -> Export:
    """Write an automaton, from one starting state, as Promela.

    `init`, `rom`: the words of `Automaton.pack` and `Automaton.rom`.  `mode`, `dead`: as for `explore`, whose number
    of states the model has too.  `fold`: put in numbers where only one value is possible (else names, to be read).
    Raises `ExportError` for what Promela cannot say: values of more than 32 bits, frames that share bits in mode full.
    """
    old = sys.getrecursionlimit()
    sys.setrecursionlimit(max(old, RECURSION))
    try:
        words = [int(x) & (1 << 64) - 1 for x in init]
        flow = Flow(a, words, [int(x) for x in rom], mode, dead, fold)
        flow.finish()
        w = Writer(flow)
        text = w.model(title or a.name, mode)
        return Export(text, len(flow.processes), sum(len(f.steps) for f in flow.processes), w.cells, sorted(w.kinds))
    finally:
        sys.setrecursionlimit(old)
        forget()


def promela_of(
    a: Automaton, init: Sequence[int] | Words, rom: Sequence[int] | Int64, mode: str = "merged", *, dead: bool = True
) -> str:
    """The text of `export_promela`."""
    return export_promela(a, init, rom, mode=mode, dead=dead).text
