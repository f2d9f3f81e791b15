"""Counterexamples: a schedule, what happened at each step, and its picture: one column for each CPU."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from seqfault.cli import BadInput
from seqfault.compile.automaton import Automaton
from seqfault.compile.ir import Where
from seqfault.explore.check import PATH_ONLY, Limits, Violation, place_of, run_one, statement_of, violations_of
from seqfault.explore.lasso import judge
from seqfault.explore.memory import SC, canonical
from seqfault.explore.model import program_for, small_scenario, start_of
from seqfault.explore.replay import ScheduleError, Step, fewest_switches, replay, switches
from seqfault.kernel.places import Protocol
from seqfault.protocols import WITHOUT, is_baseline, load
from seqfault.scenarios import find
from seqfault.scenarios.model import Scenario

if TYPE_CHECKING:
    from seqfault.explore.suppliers import OldRead

MAX_LINES = 25
HIDDEN = ("task_struct", "vm_fault", "scenario_rom", "mmu_gather", "results", "site_switches", "site_notes")
SHRINK_STATES = 400_000


@dataclass(frozen=True)
class Event:
    """One thing that happened.  `process`: who; `kind`: load, store, flush (the store reaches memory), alloc,
    free, violation; `cell`: as
    ``vm_area_struct[2].vm_sequence.sequence``; `value` after; `function`, `file`, `line`, `source`: where;
    `site`: the place."""

    step: int
    process: str
    kind: str
    cell: str
    value: str
    function: str
    file: str
    line: int
    source: str
    site: str = ""
    weight: int = 0
    old: bool = False  # a load that did not see the last store of its cell


@dataclass
class Counterexample:
    """A violation with the interleaving that shows it; its steps from `loop_from` on go on for ever (-1: it ends).
    `old_reads`: which loads did not see the last store of their cell, and what would have prevented that."""

    protocol: Protocol
    scenario: Scenario
    automaton: Automaton
    schedule: list[tuple[int, int]]
    violations: list[Violation]
    events: list[Event] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    memory: str = SC
    loop_from: int = -1
    old_reads: list[OldRead] = field(default_factory=list)

    @property
    def schedule_string(self) -> str:
        return encode_schedule(self.protocol, self.scenario, self.schedule, self.memory, self.loop_from)

    @property
    def switches(self) -> int:
        return switches(self.schedule)

    def lines(self, width: int = 80, full: bool = False) -> list[str]:
        """The picture, at most MAX_LINES lines of it unless `full`."""
        from seqfault.report.columns import draw

        return draw(self, width, 10_000 if full else MAX_LINES)


# -- schedules as text
def encode_schedule(
    p: Protocol, s: Scenario, schedule: Sequence[tuple[int, int]], memory: str = SC, loop_from: int = -1
) -> str:
    """A stable string: protocol (with ``@pso`` or ``@pso.8``: the memory model, if it is not sc), scenario,
    then runs of steps such as ``0x12.1x3c2`` (process 0 twelve steps,
    process 1 three
    with choice 2), those in parentheses for ever, then a check of the text that it was made from."""
    runs = encode_runs(schedule)
    if loop_from >= 0:
        runs = [*encode_runs(schedule[:loop_from]), "(" + ".".join(encode_runs(schedule[loop_from:])) + ")"]
    name = p.file if p.file and not (is_baseline(p) or (p.base or p.name) in _builtin()) else p.base or p.name
    if p.without:
        name += WITHOUT + ",".join(p.without)
    if memory != SC or p.without:  # sites have an @ in their names
        name += "@" + memory.replace(":", ".")
    extra = "" if p.processes or _is_builtin(s) else "+" + pack_scenario(s)
    return f"{name}:{s.name}{extra}:{'.'.join(runs)}:{text_hash(p, s)}"


def encode_runs(schedule: Sequence[tuple[int, int]]) -> list[str]:
    out = []
    for (proc, choice), steps in itertools.groupby(schedule):
        out.append(f"{proc}x{len(list(steps))}" + (f"c{choice}" if choice else ""))
    return out


def _builtin() -> list[str]:
    from seqfault.protocols import builtin_names

    return builtin_names()


def _is_builtin(s: Scenario) -> bool:
    try:
        return any(repr(x) == repr(s) for x in find([s.name]))
    except Exception:
        return False


def pack_scenario(s: Scenario) -> str:
    """A scenario that is not among the built-in ones, inside a schedule string."""
    from seqfault.scenarios.model import to_toml

    return base64.urlsafe_b64encode(zlib.compress(to_toml(s).encode(), 9)).decode().rstrip("=")


def unpack_scenario(text: str) -> Scenario:
    from seqfault.scenarios.model import from_toml

    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    return from_toml(zlib.decompress(raw).decode())


@lru_cache(maxsize=64)
def _text_hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:6]


def text_hash(p: Protocol, s: Scenario) -> str:
    return _text_hash(program_for(p, s).key("merged"))


def decode_schedule(text: str) -> tuple[Protocol, Scenario, list[tuple[int, int]], str, int, bool]:
    """The protocol, scenario, steps and memory model of a schedule string, from which step on it goes on for ever (-1:
    it ends), and whether the text is still the one it was made from."""
    parts = text.strip().split(":")
    if len(parts) != 4:
        raise BadInput(f"{text[:40]!r} is no schedule; copy the string that a counterexample prints")
    name, scen, runs, check = parts
    m = re.fullmatch(r"(.+)@([a-z]+(?:\.\d+)?)", name)
    try:
        name, memory = (m[1], canonical(m[2].replace(".", ":"))) if m else (name, SC)
    except ValueError as e:
        raise BadInput(f"the schedule: {e}") from None
    p = load(name)
    base, _, packed = scen.partition("+")
    if p.processes:
        s = small_scenario(p)
    elif packed:
        try:
            s = unpack_scenario(packed)
        except Exception:
            raise BadInput(f"the scenario inside the schedule {base!r} cannot be read; copy the whole string") from None
    else:
        s = find([base])[0]
    loop_from = -1
    if runs.endswith(")") and runs.count("(") == 1:
        before, _, loop = runs[:-1].partition("(")
        loop_from = len(decode_runs(before.rstrip(".")))
        runs = before + loop
    return p, s, decode_runs(runs), memory, loop_from, check == text_hash(p, s)


def decode_runs(runs: str) -> list[tuple[int, int]]:
    steps: list[tuple[int, int]] = []
    for r in runs.split(".") if runs else []:
        m = re.fullmatch(r"(\d{1,9})x(\d{1,7})(?:c(\d{1,9}))?", r)
        if not m:
            raise BadInput(f"{r!r} in the schedule is no run of steps; expected for example 0x12 or 1x3c2")
        steps += [(int(m[1]), int(m[3] or 0))] * int(m[2])
    return steps


# -- building
def from_violation(p: Protocol, s: Scenario, v: Violation, shrink: bool = False) -> Counterexample:
    """The counterexample of a violation; with `shrink`, of the smallest part of the scenario that shows it, with the
    fewest context switches."""
    if shrink and v.kind not in PATH_ONLY:
        s, v = shrink_operations(p, s, v)
    a, words, rom = start_of(p, s, v.memory)
    path = list(v.schedule)
    if shrink and v.kind not in PATH_ONLY:
        kind = list(a.kinds).index(v.kind)
        numbers = {x.name: i for i, x in enumerate(a.pools)}
        target = (kind, v.pc if v.pc >= 0 else v.raw_pc, numbers.get(v.object, -1))
        path = fewest_switches(a, words, rom, path, target)
    return build(p, s, path, [v], v.memory, v.loop_from)


def shrink_operations(p: Protocol, s: Scenario, v: Violation) -> tuple[Scenario, Violation]:
    """Leave out operations, one at a time, as long as the same violation is still found."""
    changed = True
    while changed:
        changed = False
        for c, ops in enumerate(s.cpus):
            for i in range(len(ops)):
                cpus = tuple(tuple(o for k, o in enumerate(x) if (n, k) != (c, i)) for n, x in enumerate(s.cpus))
                if not any(cpus):
                    continue
                t = replace(s, cpus=cpus)
                _, _, vs = run_one(p, t, Limits(states=SHRINK_STATES), memory=v.memory)
                hit = next((x for x in vs if x.key() == v.key()), None)
                if hit is not None:
                    left = left_out(s.name, c, i)
                    s, v, changed = replace(t, name=left), hit, True
                    break
            if changed:
                break
    return s, v


def left_out(name: str, cpu: int, i: int) -> str:
    """The name of a scenario without operation `i` of `cpu`: ``case8/x~1.0`` (find() understands it)."""
    return f"{name}{',' if '~' in name else '~'}{cpu}.{i}"


def from_schedule(text: str) -> Counterexample:
    """The counterexample of a schedule string.  Raises `BadInput` when it cannot be followed."""
    p, s, steps, memory, loop_from, same = decode_schedule(text)
    try:
        return build(p, s, steps, None, memory, loop_from)
    except ScheduleError as e:
        why = "" if same else "; the text has changed since the schedule was made, check the scenario again"
        raise BadInput(f"the schedule cannot be followed: {e}{why}") from None


def build(
    p: Protocol,
    s: Scenario,
    schedule: list[tuple[int, int]],
    violations: list[Violation] | None,
    memory: str = SC,
    loop_from: int = -1,
) -> Counterexample:
    a, words, rom = start_of(p, s, memory)
    steps = replay(a, words, rom, schedule)
    found: list[Violation] = []
    if loop_from >= 0:
        for name, victim, at in judge(a, words, rom, schedule, loop_from):
            place = place_of(a.where[at])
            found.append(Violation(name, a.processes[victim].name, *place, memory=memory, loop_from=loop_from))
    events: list[Event] = []
    old: list[OldRead] = []
    if a.memory != SC:
        from seqfault.explore.suppliers import old_reads  # what sc has no need of

        old = old_reads(a, words, rom, schedule, steps)
    for st in steps:
        who = a.processes[st.process].name if st.process >= 0 else "at rest"
        for acc in st.accesses:
            c = a.cells[acc.cell]
            info = a.access[acc.pc]
            private = info is not None and is_hidden(a, acc.cell)
            if private:
                continue
            fn, file, line = place_of(a.where[acc.pc])
            by = who.removeprefix("buffer of ")
            events.append(
                Event(
                    st.number, by, acc.kind, c.name, value_text(c.type, acc.value), fn, file, line,
                    source_line(a.where[acc.pc]), a.where[acc.pc].site, old=any(acc is o.access for o in old),
                )
            )  # fmt: skip
        for kind, pc, pool, index in st.violations:
            v = as_violation(a, kind, pc, pool, index)
            found.append(v)
            src = source_line(a.where[pc]) if pc >= 0 else ""
            obj = f"{v.object}[{index}]" if v.object else ""
            events.append(Event(st.number, who, "violation", obj, v.kind, v.function, v.file, v.line, src, v.site))
    return Counterexample(p, s, a, schedule, violations or found, events, steps, memory, loop_from, old)


def as_violation(a: Automaton, kind: int, pc: int, pool: int, index: int) -> Violation:
    fn, file, line = place_of(a.where[pc]) if pc >= 0 else ("", "", 0)
    obj = a.pools[pool].name if pool >= 0 else ""
    site = a.where[pc].site if pc >= 0 else ""
    detail = a.cells[-2 - pc].name if pc < -1 else ""
    return Violation(a.kinds[kind], obj, fn, file, line, pc=max(pc, -1), index=index, site=site, detail=detail)


def is_hidden(a: Automaton, cell: int) -> bool:
    """Bookkeeping of the checker, and a scenario's data."""
    return a.cells[cell].pool in HIDDEN


def value_text(t: str, v: int) -> str:
    if t.startswith("ptr "):
        return f"{t[4:]}[{v - 1}]" if v else "NULL"
    return str(v)


@lru_cache(maxsize=256)
def _lines(path: str) -> tuple[str, ...]:
    try:
        return tuple(Path(path).read_text().splitlines())
    except OSError:
        return ()


def source_line(w: Where) -> str:
    """The source text of an instruction, of the function that a reader should look at."""
    _, file, line = statement_of(w)
    import seqfault

    root = Path(seqfault.__file__).parent
    for path in (root / file, Path(file)):
        text = _lines(str(path))
        if text and 0 < line <= len(text):
            return text[line - 1].split("#")[0].strip()
    return ""


__all__ = ["Counterexample", "Event", "Step", "from_schedule", "from_violation", "np", "violations_of"]
