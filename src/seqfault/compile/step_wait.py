"""Tier 1: whether a process that stands before a wait would wait, without making its step.

Most steps that are tried cannot be taken (interrupt handlers without an interrupt, grace periods without a callback):
to copy a state for them would take longer than to look.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from seqfault.compile.automaton import Automaton
from seqfault.compile.ops import Op
from seqfault.compile.step_body import FUSED, Body, Known, Range
from seqfault.compile.step_own import ASSIGNS, OwnAccess

if TYPE_CHECKING:
    from seqfault.compile.step_code import Graph, StepClass

CHOICES = 8  # alternatives of what comes before a wait, at most
BEFORE = ASSIGNS | {Op.NOP, Op.FENCE, Op.CHKIDX, Op.CHKPTR}
Way = list[tuple[int, Op, list[int]]]  # instructions, the last of which decides


def way_to_wait(a: Automaton, graph: Graph, stops: Any, pc: int) -> Way:
    """The instructions from where a step begins to where it is decided whether it waits, if there is only one way;
    else none."""
    out: Way = []
    alternatives = 1
    while True:
        row = [int(x) for x in a.code[pc]]
        op = Op(row[0])
        out.append((pc, op, row))
        if op is Op.WAIT:
            return out
        if op is Op.BR or op in FUSED:
            sides = [relaxes(a, graph, m) for m in (row[8], row[2 if op is Op.BR else 3])]
            return out if sides[0] != sides[1] else []
        if op is Op.CHOOSE:
            alternatives *= row[2]
        if op not in BEFORE or alternatives > CHOICES:
            return []
        pc = graph.next[pc][0]
        if pc == 0 or stops[pc]:
            return []


def relaxes(a: Automaton, graph: Graph, pc: int) -> bool:
    """Whether the step cannot be taken if it comes to `pc`."""
    while pc and a.code[pc, 0] == Op.NOP:
        pc = graph.next[pc][0]
    return bool(pc) and int(a.code[pc, 0]) == Op.RELAX


class Looking(Body):
    """Text that changes nothing: what is assigned is known in the text only."""

    def set_slot(self, s: int, v: str, rng: Range | None = None) -> None:
        self.values[s] = v, rng or self.k.bounds(s)

    def fail_if(self, cond: str, kind: str, pc: int, pool: int = -1, index: str = "0") -> None:
        """What is reported is reported by the step."""
        on = self.fresh()
        self.do(f"br i1 {cond}, label %steps, label %{on}")
        self.label(on)

    def report_if(self, cond: str, kind: int, pc: int, pool: int = -1, index: str = "0") -> tuple[str, str]:
        self.fail_if(cond, "", pc)
        return "", ""

    def defined(self, raw: str, cond: str, pc: int, cell: str) -> str:
        self.fail_if(cond, "", pc)
        return raw

    def waits(self, way: Way, chosen: Sequence[int], otherwise: str) -> None:
        """Go to `steps` if the step can be taken with these choices, else to label `otherwise`."""
        self.values, self.words = {}, {}
        left = list(chosen)
        for pc, op, row in way[:-1]:
            if op is Op.CHOOSE:
                n = left.pop(0)
                self.set_slot(row[1], str(n), (n, n))
            else:
                self.node(pc)
        pc, op, row = way[-1]
        if op is Op.WAIT or op is Op.BR:
            c = self.put(f"icmp ne i64 {self.get(row[1])}, 0")
        else:
            c = self.put(f"icmp {FUSED[op]} i64 {self.get(row[1])}, {self.get(row[2])}")
        yes, no = "steps", otherwise
        if op is not Op.WAIT and relaxes(self.a, self.g, row[8]):
            yes, no = no, yes
        self.do(f"br i1 {c}, label %{yes}, label %{no}")


def waits_text(
    a: Automaton,
    graph: Graph,
    c: StepClass,
    stops: Any,
    known: Known,
    own: Mapping[int, OwnAccess] | None,
) -> str:
    """``@waits<class>(state, region, ext, x, pc)``: 1 if the step cannot be taken, 0 if it may be."""
    ways = {pc: way_to_wait(a, graph, stops, pc) for pc in graph.reach(c.entry) if pc and stops[pc]}
    ways = {pc: way for pc, way in ways.items() if way}
    body = Looking(a, graph, c, "", [], [], stops, False, known, own=own)
    for pc, way in ways.items():
        turns = list(itertools.product(*(range(row[2]) for _, op, row in way if op is Op.CHOOSE)))
        labels = [f"w{pc}", *(body.fresh() for _ in turns[1:]), "waiting"]
        for chosen, (here, otherwise) in zip(turns, itertools.pairwise(labels), strict=True):
            body.label(here)
            body.waits(way, chosen, otherwise)
    cases = " ".join(f"i64 {pc}, label %w{pc}" for pc in ways)
    return (
        f"define internal i64 @waits{c.number}(ptr noalias %mem, ptr noalias %reg, ptr noalias %ext, ptr noalias %x, "
        "i64 %pc) {\nentry:\n" + "".join(f"  {p} = alloca i64\n" for p in body.locals.values())
        + f"  switch i64 %pc, label %steps [{cases}]\n" + "".join(body.lines)
        + "steps:\n  ret i64 0\nwaiting:\n  ret i64 1\n}\n"
    )  # fmt: skip
