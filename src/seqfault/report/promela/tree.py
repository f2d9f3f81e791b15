"""What a step is, as data; and memory: cells by the fields that they belong to."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from seqfault.compile.automaton import Automaton
from seqfault.report.promela.expr import Expr, Facts, Values, hull
from seqfault.report.promela.frames import MASK64, identifier

HELD = "held"
TEMPORARY, SHADOW = "T_", "N_"  # a step's own variables, which are no part of the state


@dataclass
class Assertion:
    """`cond` must hold; `kind`, `pool` (or -1), `pc`: what it reports if not."""

    cond: Expr
    kind: str
    pool: int
    pc: int


@dataclass
class Leaf:
    """`target`: where the process stands then; -1: the step cannot be taken, -2: no state follows.

    `cut`: `target` is no end of the step but a place where its code goes on.
    """

    target: int
    sets: dict[str, Expr] = field(default_factory=dict)
    stores: list[tuple[str, Expr, Expr]] = field(default_factory=list)
    asserts: list[Assertion] = field(default_factory=list)
    facts: Facts = field(default_factory=dict, repr=False)
    cut: bool = False


@dataclass
class Branch:
    cond: Expr
    yes: Tree
    no: Tree


@dataclass
class Choice:
    """`ways[i]`: what follows if `choose` gives i."""

    ways: list[Tree]


Tree = Leaf | Branch | Choice
OFF, ENDS = -1, -2


def leaves(tree: Tree) -> list[Leaf]:
    """All leaves of a tree."""
    if isinstance(tree, Leaf):
        return [tree]
    if isinstance(tree, Branch):
        return leaves(tree.yes) + leaves(tree.no)
    return [x for t in tree.ways for x in leaves(t)]


def hidden(v: str) -> str:
    """The variable that holds the new value of `v` until the step ends."""
    return SHADOW + v


@dataclass
class Group:
    """Cells of the same field in every object (and element).  `at`: cell -> position; `top`: the last one accessed."""

    name: str
    cells: list[int]
    at: dict[int, int]
    top: int = 0

    def reach(self, at: int) -> None:
        """Note that an access may reach this position."""
        self.top = max(self.top, min(at, len(self.cells) - 1))


class Memory:
    """Cells by groups, the values that they start with, and those they can have."""

    def __init__(self, a: Automaton, init: list[int], rom: list[int]):
        self.a = a
        self.group_of: dict[int, Group] = {}
        self.fixed: dict[int, int] = {}
        self.values: dict[int, Values] = {}
        self.groups: dict[str, Group] = {}
        tab = a.tab.tolist()
        made: dict[tuple[str, str], Group] = {}
        pools = {p.name: p for p in a.pools}
        self.fixed.update(zip(a.rom_cells, rom, strict=True))
        for addr, c in enumerate(a.cells):
            path = "alive" if c.is_state else re.sub(r"\[\d+\]", "", c.path)
            name = identifier(f"{c.pool}_{path}" if len(a.pools) > 1 or pools[c.pool].n > 1 else path)
            word, shift, mask = tab[addr][0], tab[addr][1], tab[addr][2] & MASK64
            g = made.get((c.pool, path))
            if g is None:
                while name in self.groups:
                    name += "_"
                g = made[c.pool, path] = self.groups[name] = Group(name, [], {})
            g.at[addr] = len(g.cells)
            g.cells.append(addr)
            self.group_of[addr] = g
            if addr in self.fixed:
                self.values[addr] = frozenset((self.fixed[addr],))
            else:
                raw = (init[word] >> shift) & mask if mask and word < a.nw else 0
                raw -= (raw >> 63) << 64
                self.values[addr] = frozenset((raw,))
        self.start = {addr: number_of(v) for addr, v in self.values.items()}

    def names(self) -> set[str]:
        """What globals may be called."""
        return {n for g in self.groups.values() for n in (g.name, *(f"{g.name}_{i}" for i in range(len(g.cells))))}

    def row(self, addr: int) -> tuple[int, int, int]:
        """Mask, least value and span of a cell."""
        r = self.a.tab[addr]
        return int(r[2]) & MASK64, int(r[3]), int(r[4])


def number_of(v: Values) -> int:
    return hull(v)[0]


@dataclass
class Step:
    """A step: the tree that it begins with, and those of the places where it was cut, with what is known there."""

    first: Tree
    cuts: dict[int, Tree] = field(default_factory=dict)
    facts: dict[int, dict[str, Values]] = field(default_factory=dict)

    def trees(self) -> list[Tree]:
        return [self.first, *self.cuts.values()]
