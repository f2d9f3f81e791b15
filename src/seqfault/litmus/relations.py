"""Relations over the events of one execution, and how a pair came into one.

A relation is a list of rows; bit `b` of row `a` says that the pair (a, b) is in it. A set of events is one number.
Each relation remembers what it was made from, so that a pair can be spelt out as the named edges of which it consists.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

Rows = list[int]
Edge = tuple[int, int, str]


def bits(row: int) -> Iterator[int]:
    """The numbers of the bits that are set."""
    while row:
        low = row & -row
        yield low.bit_length() - 1
        row ^= low


class Relation:
    """A relation with its origin.

    `name`: what a report calls its pairs; a relation without a name is spelt out as its parts.
    """

    __slots__ = ("how", "name", "parts", "rows")

    def __init__(self, rows: Rows, name: str = "", how: str = "", parts: tuple[Relation, ...] = ()) -> None:
        self.rows, self.name, self.how, self.parts = rows, name, how, parts

    def named(self, name: str) -> Relation:
        """The same pairs, reported under `name`."""
        return Relation(self.rows, name)

    def __or__(self, other: Relation) -> Relation:
        return Relation([a | b for a, b in zip(self.rows, other.rows, strict=True)], "", "or", (self, other))

    def __and__(self, other: Relation) -> Relation:
        """The pairs of both, reported as those of the first."""
        return self.only([a & b for a, b in zip(self.rows, other.rows, strict=True)])

    def __sub__(self, other: Relation) -> Relation:
        return self.only([a & ~b for a, b in zip(self.rows, other.rows, strict=True)])

    def only(self, rows: Rows) -> Relation:
        """Some of its pairs."""
        return Relation(rows, self.name, "or", (self,)) if not self.name else Relation(rows, self.name)

    def __matmul__(self, other: Relation) -> Relation:
        """``self ; other``."""
        return Relation(seq(self.rows, other.rows), "", "seq", (self, other))

    def within(self, first: int = -1, last: int = -1) -> Relation:
        """``[first] ; self ; [last]``, of sets of events."""
        return self.only([row & last if first >> a & 1 else 0 for a, row in enumerate(self.rows)])

    @property
    def opt(self) -> Relation:
        """``self?``."""
        return Relation([row | 1 << a for a, row in enumerate(self.rows)], "", "opt", (self,))

    @property
    def star(self) -> Relation:
        """``self*``."""
        return Relation([row | 1 << a for a, row in enumerate(closure(self.rows))], "", "star", (self,))

    @property
    def inverse(self) -> Relation:
        """``self^-1``."""
        return Relation(inverse(self.rows), self.name and f"{self.name}^-1")

    def __bool__(self) -> bool:
        return any(self.rows)

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Its pairs, in order."""
        return ((a, b) for a, row in enumerate(self.rows) for b in bits(row))

    def spell(self, a: int, b: int) -> list[Edge]:
        """The named edges of which the pair (a, b) consists; none for a pair of `opt` or `star` with a = b."""
        if self.name or not self.how:
            return [(a, b, self.name or "?")]
        if self.how == "or":
            part = next((p for p in self.parts if p.rows[a] >> b & 1), self.parts[0])
            return part.spell(a, b)
        if self.how == "seq":
            first, second = self.parts
            back = sum(1 << m for m, row in enumerate(second.rows) if row >> b & 1)
            middles = list(bits(first.rows[a] & back))
            if not middles:
                return []
            # the shortest way is the one that a reader wants
            return min((first.spell(a, m) + second.spell(m, b) for m in middles), key=len)
        if a == b:
            return []
        path = shortest(self.parts[0].rows, a, b)
        return [e for x, y in pairwise(path) for e in self.parts[0].spell(x, y)]


def seq(left: Rows, right: Rows) -> Rows:
    """``left ; right``."""
    out = []
    for row in left:
        to = 0
        while row:
            low = row & -row
            to |= right[low.bit_length() - 1]
            row ^= low
        out.append(to)
    return out


def closure(rows: Rows) -> Rows:
    """``rows+``."""
    out = list(rows)
    for k in range(len(out)):
        through = out[k]
        if through:
            bit = 1 << k
            for a, row in enumerate(out):
                if row & bit:
                    out[a] = row | through
    return out


def inverse(rows: Rows) -> Rows:
    """``rows^-1``."""
    out = [0] * len(rows)
    for a, row in enumerate(rows):
        for b in bits(row):
            out[b] |= 1 << a
    return out


def acyclic(rows: Rows) -> bool:
    """Whether there is no cycle: events without a way in are taken off until none is left."""
    left = (1 << len(rows)) - 1
    while left:
        reached = 0
        for a in bits(left):
            reached |= rows[a]
        if left & reached == left:
            return False
        left &= reached
    return True


def shortest(rows: Rows, start: int, end: int) -> list[int]:
    """The events on a shortest way of at least one step, `start` and `end` included; empty if there is none."""
    before: dict[int, int] = {}
    front = [start]
    while front:
        then = []
        for a in front:
            for b in bits(rows[a]):
                if b == end:
                    path = [end, a]
                    while path[-1] != start:
                        path.append(before[path[-1]])
                    return path[::-1]
                if b not in before and b != start:
                    before[b] = a
                    then.append(b)
        front = then
    return []


def cycle(rows: Rows) -> list[int]:
    """A shortest cycle, its first event again at the end; empty if there is none."""
    paths = [p for a in range(len(rows)) if rows[a] and (p := shortest(rows, a, a))]
    return min(paths, key=len, default=[])
