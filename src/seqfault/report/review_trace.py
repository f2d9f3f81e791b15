"""A counterexample as data for a page: what happened at each step, where each CPU stands, and the state after it."""

from __future__ import annotations

import json
from typing import Any

from seqfault.explore.model import program_for
from seqfault.kernel.places import Protocol
from seqfault.report.columns import choose, phrase, title
from seqfault.report.counterexample import Counterexample, Event, is_hidden, start
from seqfault.report.picture import PARTS, Pictures
from seqfault.report.review_causes import stacks_of
from seqfault.report.text import all_functions, function_text

KEY_EVENTS = 40  # as many as `replay` draws on a tall screen
BELOW = ("cpu_main", "do_op")  # what runs the operations, which every stack begins with


class Texts:
    """The functions of a protocol's text that a page shows, each once."""

    def __init__(self, p: Protocol):
        self.p, self.fns = p, all_functions(p)
        self.number: dict[str, int] = {}
        self.rows: list[dict[str, Any]] = []

    def of(self, function: str, file: str) -> int:
        """The number of a function's text; -1 if there is none."""
        if function not in self.fns:
            return -1
        if function not in self.number:
            lines = [[n, t, site] for n, t, site in function_text(self.fns[function], self.p)]
            self.number[function] = len(self.rows)
            self.rows.append({"name": function, "file": file, "lines": lines})
        return self.number[function]

    def row(self, text: int, line: int, source: str) -> int:
        """Which row of a text is a line of the file: at a place there may be several, and `source` decides."""
        if text < 0:
            return -1
        at = [i for i, (n, _, _) in enumerate(self.rows[text]["lines"]) if n == line]
        for i in at:
            if self.rows[text]["lines"][i][1].split("#")[0].strip() == source:
                return i
        same = [i for i, (_, t, _) in enumerate(self.rows[text]["lines"]) if source and t.split("#")[0].strip() == source]
        return (at or same or [-1])[0]


class Unique:
    """Things that repeat, each kept once."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.at: dict[str, int] = {}

    def add(self, x: Any) -> int:
        key = json.dumps(x, separators=(",", ":"))
        if key not in self.at:
            self.at[key] = len(self.items)
            self.items.append(x)
        return self.at[key]


def stack_texts(cx: Counterexample) -> list[str]:
    """For each event of a counterexample the functions around it, the outermost first."""
    a = cx.automaton
    stacks = stacks_of(a)
    _, first, _ = start(cx.protocol, cx.scenario, cx.memory)
    words = first.view("int64")
    out: list[str] = []

    def say(calls: list[int], pc: int) -> str:
        names = [f for f, _, _ in stacks.stack(calls, pc)]
        while names and names[0] in BELOW:
            names.pop(0)
        return " > ".join(n for i, n in enumerate(names) if i == 0 or n != names[i - 1])

    for st in cx.steps:
        calls: list[int] = []
        at = st.pc
        if st.process >= 0:
            calls = stacks.callers(words, st.process)
        for acc in st.accesses:
            if a.where[acc.pc].file:
                calls, at = stacks.within(calls, at, acc.pc), acc.pc
            if not (a.access[acc.pc] is not None and is_hidden(a, acc.cell)):
                out.append(say(calls, acc.pc) if a.where[acc.pc].file else "")
        for _, pc, _, _ in st.violations:
            out.append(say(stacks.within(calls, at, pc), pc) if pc >= 0 and st.process >= 0 else "")
        words = st.words
    return out


def trace_data(cx: Counterexample, texts: Texts) -> dict[str, Any]:
    """`columns`: who moves; `steps`: per step its events: column (-1: at rest), kind, words, text, row, stack, whether it
    is one of those that matter; `states`: for each moment, the first before any step, the number of each part in
    `parts`."""
    columns = list(dict.fromkeys(e.process for e in cx.events if e.process != "at rest"))
    columns.sort(key=lambda n: (not n.startswith("cpu"), n))
    number = {c: i for i, c in enumerate(columns)}
    key = set(choose(cx, KEY_EVENTS))
    stacks = Unique()
    steps: list[list[Any]] = [[] for _ in cx.steps]
    at = {st.number: i for i, st in enumerate(cx.steps)}
    last: Event | None = None
    for i, (e, stack) in enumerate(zip(cx.events, stack_texts(cx), strict=True)):
        text = texts.of(e.function, e.file)
        same = last is not None and (last.step, last.kind, last.cell, last.value, last.line) == (
            e.step, e.kind, e.cell, e.value, e.line
        )  # fmt: skip
        last = e
        if same and i not in key:
            continue
        row = [
            number.get(e.process, -1), e.kind, phrase(e), text, texts.row(text, e.line, e.source), stacks.add(stack),
            int(i in key), e.site, "" if text >= 0 else e.function, e.line, e.source,
        ]  # fmt: skip
        steps[at[e.step]].append(row if text < 0 else row[:8])
    _, first, _ = start(cx.protocol, cx.scenario, cx.memory)
    pictures = Pictures(cx.automaton, program_for(cx.protocol, cx.scenario).layout())
    parts = {name: Unique() for name in PARTS}
    states = []
    for words in [first.view("int64"), *(st.words for st in cx.steps)]:
        drawn = pictures.snapshot(words)
        states.append([parts[name].add(drawn[name]) for name in PARTS])
    s = cx.scenario
    return {
        "scenario": s.name,
        "memory": cx.memory,
        "setup": [o.text() for _, o in s.setup],
        "operations": [[o.text() for o in ops] for ops in s.cpus],
        "prose": " ".join(s.prose.split()),
        "schedule": cx.schedule_string,
        "switches": cx.switches,
        "loop_from": cx.loop_from,
        "columns": [[c, title(c), int(c[3:]) if c.startswith("cpu") else -1] for c in columns],
        "steps": steps,
        "stacks": stacks.items,
        "parts": {name: u.items for name, u in parts.items()},
        "states": states,
        "pages": pictures.pages,
        "per_table": pictures.per,
    }
