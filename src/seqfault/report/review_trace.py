"""A counterexample as data for a page: what happened at each step, where each CPU stands, and the state after it."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from typing import Any

from seqfault.compile.source import body_of, source_of
from seqfault.explore.memory import LKMM
from seqfault.explore.model import program_for, start_of
from seqfault.explore.replay import knowing
from seqfault.kernel.places import Protocol
from seqfault.report.columns import choose, phrase, title
from seqfault.report.counterexample import Counterexample, Event
from seqfault.report.picture import PARTS, Pictures
from seqfault.report.stacks import Frame, event_frames
from seqfault.report.text import all_functions, function_text

KEY_EVENTS = 40  # as many as `replay` draws on a tall screen


class Texts:
    """The functions of a protocol's text that a page shows, each once."""

    def __init__(self, p: Protocol):
        self.p, self.fns = p, all_functions(p)
        self.bound = {place.name: f for place, f in p.binds.items()}
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

    def row(self, text: int, line: int, frames: list[Frame]) -> int:
        """Which row of a text is a line of the file; where the protocol's statements stand for a place, that of the
        statement which `frames` are in."""
        if text < 0:
            return -1
        lines = self.rows[text]["lines"]
        at = [i for i, (n, _, _) in enumerate(lines) if n == line]
        bound = self.bound.get(lines[at[0]][2]) if len(at) > 1 else None
        if bound is None:
            return at[0] if at else -1
        here = next((n for fn, _, n in frames if fn == bound.__name__), 0)
        return at[min(self.statement(bound, here), len(at) - 1)]

    def statement(self, fn: Callable[..., Any], line: int) -> int:
        """How many lines of a place's filling come before a line of the protocol's function."""
        before = 0
        for stmt in body_of(source_of(fn)):
            size = len(ast.unparse(stmt).splitlines())
            if stmt.lineno <= line <= (stmt.end_lineno or stmt.lineno):
                return before + min(line - stmt.lineno, size - 1)
            before += size
        return 0


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


def path_text(frames: list[Frame]) -> str:
    """``sys_munmap > do_munmap > unmap_region``"""
    names = [f for f, _, _ in frames]
    return " > ".join(n for i, n in enumerate(names) if i == 0 or n != names[i - 1])


def trace_data(cx: Counterexample, texts: Texts) -> dict[str, Any]:
    """`columns`: who moves; `steps`: per step its events: column (-1: at rest), kind, words, text, row, stack, whether
    it is one of those that matter, site, and where there is no text: function, line, source; `states`: for each moment,
    the first before any step, the number of each part in `parts`."""
    columns = list(dict.fromkeys(e.process for e in cx.events if e.process != "at rest"))
    columns.sort(key=lambda n: (not n.startswith("cpu"), n))
    number = {c: i for i, c in enumerate(columns)}
    key = set(choose(cx, KEY_EVENTS))
    stacks = Unique()
    steps: list[list[Any]] = [[] for _ in cx.steps]
    at = {st.number: i for i, st in enumerate(cx.steps)}
    last: Event | None = None
    for i, (e, frames) in enumerate(zip(cx.events, event_frames(cx), strict=True)):
        text = texts.of(e.function, e.file)
        same = last is not None and (last.step, last.kind, last.cell, last.value, last.line) == (
            e.step, e.kind, e.cell, e.value, e.line
        )  # fmt: skip
        last = e
        if same and i not in key:
            continue
        line, stack = texts.row(text, e.line, frames), stacks.add(path_text(frames))
        row = [number.get(e.process, -1), e.kind, phrase(e), text, line, stack, int(i in key), e.site]
        steps[at[e.step]].append(row if text >= 0 else [*row, e.function, e.line, e.source])
    _, first, rom = start_of(cx.protocol, cx.scenario, cx.memory)
    knows = knowing(cx.automaton, first, rom, cx.schedule) if cx.memory.startswith(LKMM) else None
    pictures = Pictures(cx.automaton, program_for(cx.protocol, cx.scenario).layout(), knows)
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
