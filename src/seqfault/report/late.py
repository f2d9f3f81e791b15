"""What a verdict under lkmm passes over (explore/buffering.py), for a reader: load buffering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from seqfault.compile.automaton import Automaton
from seqfault.explore.check import INCOMPLETE, Report, ScenarioResult, statement_of
from seqfault.explore.memory import LKMM
from seqfault.explore.model import automaton_for
from seqfault.kernel.places import Protocol
from seqfault.mm.locks import field_of
from seqfault.scenarios.model import Scenario

MARK = "*"
LEGEND = f"{MARK} load buffering is possible, and was not explored"
NONE = ("no load buffering possible: every load is ordered before each later store",
        "that could close a cycle")  # fmt: skip
EXPLORED = ", as far as was explored"
NOTHING, UNCOUNTED = "by nothing", "by dependencies that LKMM does not count"
ORDERS = ("what would order them: smp_load_acquire() for the load,",
          "smp_store_release() for the store, or smp_mb() between them")  # fmt: skip


@dataclass(frozen=True)
class Place:
    """An access: the field, and the statement that makes it."""

    field: str
    function: str
    file: str
    line: int

    def text(self) -> str:
        return f"{self.field} in {self.function} ({self.file}:{self.line})"


@dataclass
class Late:
    """A load and a later store of one CPU that nothing orders (`weak`: nothing that LKMM counts), in some scenarios."""

    load: Place
    store: Place
    weak: bool
    scenarios: list[str]


def place(a: Automaton, pc: int) -> Place:
    access = a.access[pc]
    name = field_of(access.pool, access.path) if access is not None else f"new {a.pools[int(a.code[pc, 2])].name}"
    return Place(name, *statement_of(a.where[pc]))


class PassedOver:
    """All that a report passes over, by the statements, those in most scenarios first."""

    def __init__(self, r: Report, p: Protocol, scenarios: Sequence[Scenario]):
        by_name = {s.name: s for s in scenarios}
        late: dict[tuple[Place, Place, bool], Late] = {}
        self.asked = [s for s in r.scenarios if s.late_stores is not None]
        self.all = len(self.asked) == len(r.scenarios) and not any(s.verdict == INCOMPLETE for s in r.scenarios)
        for s in self.asked:
            a = automaton_for(p, by_name[s.name], r.memory)
            pairs = {(place(a, load), place(a, store), weak) for load, store, weak in s.late_stores or ()}
            for load, store, weak in sorted(pairs, key=str):
                late.setdefault((load, store, weak), Late(load, store, weak, [])).scenarios.append(s.name)
        for load, store, weak in list(late):
            if weak and (load, store, False) in late:  # inlined twice, and once not even so
                del late[load, store, weak]
        self.late = sorted(late.values(), key=lambda x: (x.weak, -len(x.scenarios), x.load.file, x.load.line, str(x)))

    def data(self) -> dict[str, Any]:
        """For JSON (docs/json.md)."""
        return {
            "possible": bool(self.late),
            "whole": self.all,
            "scenarios": sum(bool(s.late_stores) for s in self.asked),
            "pairs": [
                {"load": asdict(x.load), "store": asdict(x.store), "ordered": UNCOUNTED if x.weak else NOTHING,
                 "scenarios": len(x.scenarios), "example": x.scenarios[0]}
                for x in self.late
            ],
        }  # fmt: skip

    def lines(self, every: bool = False) -> list[str]:
        """What stands under a verdict, in at most 80 columns, but for long names; `every`: each pair, by its load."""
        out: list[str] = []
        hard, weak = ([x for x in self.late if x.weak is w] for w in (False, True))
        if not self.asked:
            return ["  load buffering: not looked for"]
        if not self.late:
            out += [f"  {NONE[0]}", f"    {NONE[1]}{'' if self.all else EXPLORED}"]
        else:
            n = sum(bool(s.late_stores) for s in self.asked)
            out.append(f"  load buffering not explored: {counted(len(self.late), 'pair')} of places, in "
                       f"{counted(n, 'scenario')}")  # fmt: skip
            for what, xs in ((NOTHING, hard), (UNCOUNTED, weak)):
                if xs:
                    out.append(f"    {len(xs)} ordered {what}{':' if every else ', e.g.'}")
                for load in dict.fromkeys(x.load for x in xs if every or x is xs[0]):
                    out.append(f"      load of {load.text()}")
                    for x in (x for x in xs if x.load == load and (every or x is xs[0])):
                        out.append(f"      store to {x.store.text()}")
                        if every:
                            out.append(f"        {counted(len(x.scenarios), 'scenario')}, e.g. {x.scenarios[0]}")
            if every:
                out += [f"    {ORDERS[0]}", f"      {ORDERS[1]}"]
        return out


def counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def under(memory: str) -> bool:
    """Whether a memory model passes anything over."""
    return memory.startswith(LKMM)


def passes_over(s: ScenarioResult) -> bool:
    return bool(s.late_stores)


def but_for(scenarios: Sequence[ScenarioResult]) -> str:
    """What to say of a verdict on these scenarios: " but for load buffering", or nothing."""
    return " but for load buffering" if any(passes_over(s) for s in scenarios) else ""


def passed_over(r: Report, p: Protocol, scenarios: Sequence[Scenario]) -> PassedOver | None:
    """What a report passes over; None: its memory model passes nothing over."""
    return PassedOver(r, p, scenarios) if under(r.memory) else None
