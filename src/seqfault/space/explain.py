"""Why two mappings are one VMA or two, and which call split one, from the log of calls.

The calls are done again on memory of their own, and after each the text is asked for the boundary: which VMAs it
has on its sides, and what the release's own predicates (mm/merge.py, mm/merge_6.py) say of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seqfault.mm.merge_6 import VM_IGNORE_MERGE
from seqfault.mm.opcodes import OP_MREMAP
from seqfault.space.calls import Call
from seqfault.space.listing import PAGE_SIZE, Vma, flag_names
from seqfault.space.text import (
    ALIVE,
    ANON_VMAS_DIFFER,
    FILES_DIFFER,
    FLAGS_DIFFER,
    FORK_CHILD,
    INSIDE,
    LEFT_ANON,
    LEFT_ENDS,
    MERGEABLE,
    REFUSAL_SHIFT,
    RIGHT_ANON,
    RIGHT_STARTS,
    SPACE_FORK,
)

if TYPE_CHECKING:
    from seqfault.space.address_space import AddressSpace

BOTH = LEFT_ENDS | RIGHT_STARTS


@dataclass(frozen=True)
class History:
    """The boundary at `addr` over the life of an address space: `words[i]` is how it was after call `first` + i."""

    space: AddressSpace
    addr: int
    first: int
    words: NDArray[np.int64]

    def last_change(self, bits: int, value: int) -> int | None:
        """Index of the call that last made ``word & bits == value`` true, if it still is."""
        if not len(self.words):
            return None
        is_so = (self.words & bits) == value
        if not is_so[-1]:
            return None
        before = np.flatnonzero(~is_so)
        return int(before[-1]) + 1 if len(before) else 0

    def call(self, i: int) -> Call:
        return self.space._world.logged(self.first + i)

    def say(self, i: int) -> str:
        return f"call {self.first + i}, {self.call(i)}"


def history(space: AddressSpace, addr: int, until: int | None = None) -> History:
    """`until`: up to which call (not included; None: to the last)."""
    w = space._world
    first = space._parent[1] if space._parent is not None else 0
    n = w.count if until is None else until
    return History(space, addr, first, w.watch(space.who, w.page(addr), n)[first:])


def is_boundary(word: int) -> bool:
    return word & INSIDE == 0 and word & BOTH != 0


# -- split_by
def split_by(space: AddressSpace, addr: int, until: int | None = None) -> Call | None:
    h = history(space, addr, until)
    if addr % PAGE_SIZE or not len(h.words) or not is_boundary(int(h.words[-1])):
        return None
    at = np.array([is_boundary(int(v)) for v in np.unique(h.words)])
    bounded = np.isin(h.words, np.unique(h.words)[at])
    gaps = np.flatnonzero(~bounded)
    i = int(gaps[-1]) + 1 if len(gaps) else 0
    if i == 0 and space._parent is not None:  # the boundary was there when it was forked
        parent, fork = space._parent
        return split_by(parent, addr, fork)
    if i > 0 and h.words[i - 1] & INSIDE:
        return h.call(i)
    return None


# -- explain_merge
def explain_merge(space: AddressSpace, addr: int) -> str:
    if addr % PAGE_SIZE:
        return f"{addr:#x} is inside a page: mappings meet between pages"
    h = history(space, addr)
    word = int(h.words[-1]) if len(h.words) else ALIVE
    if not word & ALIVE:
        return "the process has exited"
    if word & INSIDE:
        return explain_one(h, space, addr)
    if word & BOTH != BOTH:
        return not_adjacent(word, addr)
    left, right = sides(space, addr)
    why = (word >> REFUSAL_SHIFT) & 7
    return f"{span(left)} and {span(right)}: " + reason(h, why, left, right)


def sides(space: AddressSpace, addr: int) -> tuple[Vma, Vma]:
    w = space._world
    left = w.vmas(space.who, w.page(addr) - 1, 2)
    return left[0], left[1]


def span(v: Vma) -> str:
    return f"{v.start:x}-{v.end:x}"


def not_adjacent(word: int, addr: int) -> str:
    if word & LEFT_ENDS:
        return f"not adjacent: a mapping ends at {addr:#x}, and none begins there"
    if word & RIGHT_STARTS:
        return f"not adjacent: a mapping begins at {addr:#x}, and none ends there"
    return f"nothing is mapped on either side of {addr:#x}"


def explain_one(h: History, space: AddressSpace, addr: int) -> str:
    w = space._world
    (v,) = w.vmas(space.who, w.page(addr), 1)
    i = h.last_change(INSIDE, INSIDE)
    if i is None or (i == 0 and h.first):
        return f"one VMA, {span(v)}, since the fork"
    before = int(h.words[i - 1]) if i else ALIVE
    if before & BOTH == 0:
        return f"one VMA, {span(v)}: mapped as one by {h.say(i)}"
    if before & BOTH == BOTH:
        return f"one VMA, {span(v)}: two were merged by {h.say(i)}"
    side = "before" if before & LEFT_ENDS else "behind"
    return f"one VMA, {span(v)}: what {h.say(i)} mapped was merged with the VMA {side} it"


def reason(h: History, why: int, left: Vma, right: Vma) -> str:
    if why == FLAGS_DIFFER:
        ignored = VM_IGNORE_MERGE if h.space._world.linux >= 618 else 0
        only_left = " ".join(flag_names(left.flags & ~right.flags & ~ignored))
        only_right = " ".join(flag_names(right.flags & ~left.flags & ~ignored))
        words = [f"the left one has {only_left}"] if only_left else []
        words += [f"the right one has {only_right}"] if only_right else []
        return f"flags differ: {', '.join(words)}"
    if why == FILES_DIFFER:
        return f"different files: {backing(left)} and {backing(right)}"
    if why == FORK_CHILD:
        return fork_child(left)
    if why == ANON_VMAS_DIFFER:
        return "different anon_vma: " + anon_story(h)
    if why == MERGEABLE:
        return mergeable(h)
    return offsets(h, left, right)


def backing(v: Vma) -> str:
    return v.name if v.file >= 0 else "anonymous memory"


def fork_child(left: Vma) -> str:
    touched, other = ("left", "right") if left.anon_vma else ("right", "left")
    return (
        f"forked anon_vma: the {touched} one was written and its pages may be shared with a process that it was "
        f"forked from, or it is linked to several anon_vmas; the {other} one was never written, and takes over only an "
        f"anon_vma that is alone"
    )


def offsets(h: History, left: Vma, right: Vma) -> str:
    ends = left.offset + left.end - left.start
    if left.file >= 0:
        return (
            f"offset not contiguous: the left one ends at {ends:#x} of {left.name}, the right one begins at "
            f"{right.offset:#x}"
        )
    w = h.space._world
    moves = np.flatnonzero((w.rows[: w.count, 0] == OP_MREMAP) & (w.results[: w.count] >= 0))
    last = w.logged(int(moves[-1])) if len(moves) else None
    because = f"; the last mremap was call {last.number}, {last}" if last is not None else ""
    return (
        f"offset not contiguous: memory that was written and then moved keeps the offset that it had; the left one "
        f"ends at page {ends // PAGE_SIZE:#x}, the right one begins at page {right.offset // PAGE_SIZE:#x}{because}"
    )


def anon_story(h: History) -> str:
    """How each side came by an anon_vma of its own."""
    met = h.last_change(BOTH, BOTH)
    if met is None or met == 0:
        if h.space._parent is None:
            return "each has its own"
        parent, fork = h.space._parent
        before_fork = history(parent, h.addr, fork)
        return f"so they were when the process was forked (call {fork}): {anon_story(before_fork)}"
    before = int(h.words[met])
    if before & LEFT_ANON and before & RIGHT_ANON:
        return f"both were written before they became adjacent ({h.say(met)})"
    first, second = (LEFT_ANON, RIGHT_ANON) if before & LEFT_ANON else (RIGHT_ANON, LEFT_ANON)
    names = {LEFT_ANON: "left", RIGHT_ANON: "right"}
    i = h.last_change(second, second)
    j = h.last_change(first, first)
    if i is None or j is None:
        return "each has its own"
    if j > i:
        first, second, i, j = second, first, j, i
    then = (int(h.words[i - 1]) >> REFUSAL_SHIFT) & 7 if i else MERGEABLE
    because = {
        FLAGS_DIFFER: "their flags differed then",
        FILES_DIFFER: "they map different files",
        FORK_CHILD: "that one is linked to several anon_vmas, as after a fork",
    }.get(then, "its neighbour's could not be used")
    return (
        f"when the {names[second]} one was first written ({h.say(i)}), it did not take over the anon_vma of the "
        f"{names[first]} one: {because}"
    )


def mergeable(h: History) -> str:
    """Nothing is in the way now: merging is tried only by calls that map or change a range."""
    may = h.last_change(BOTH | (7 << REFUSAL_SHIFT), BOTH)
    since = "" if may is None or (may == 0 and h.first) else f" since {h.say(may)}"
    if may is not None and h.call(may).op == SPACE_FORK:
        since = " since the fork"
    return (
        f"nothing is in the way{since}, but no call has mapped or changed either of them since then: Linux tries to "
        f"merge only where a call maps or changes a range"
    )
