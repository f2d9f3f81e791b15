"""`seqfault export`: the automaton in the words of other tools (docs/export.md)."""

from __future__ import annotations

import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from seqfault.cli import BadInput, dump, write
from seqfault.compile.program import Program, compile_program
from seqfault.explore.model import small_scenario, start_of
from seqfault.models import record, seq
from seqfault.protocols import load
from seqfault.report.counterexample import decode_schedule, source_line
from seqfault.report.litmus import ASKS, export_litmus, sequential
from seqfault.report.litmus import ExportError as LitmusExportError
from seqfault.report.promela import Export, ExportError, export_promela
from seqfault.scenarios.model import Scenario

# name of a small model -> what makes it, the names of its sizes, the sizes that are taken if none are given
MODELS = {
    "seq": (seq.program, "writers,rounds of a writer,readers,rounds of a reader", (1, 1, 1, 1)),
    "record": (record.program, "writers,readers,rounds of a writer,rounds of a reader", (1, 2, 2, 2)),
}
MODES = ("merged", "full")


def model_program(name: str, size: str | None) -> tuple[Program, str]:
    """A small model of the given sizes, and its title."""
    make, what, default = MODELS[name]
    parts = size.split(",") if size is not None else [str(x) for x in default]
    if len(parts) != 4 or not all(x.strip().isdigit() for x in parts):
        raise BadInput(f"--size {size!r} is no size of {name}; write four numbers: {what}, for example 1,2,2,2")
    numbers = [int(x) for x in parts]
    if max(numbers) > 99:
        raise BadInput(f"--size {size!r}: a number above 99; write for example 1,2,2,2")
    if numbers[0] + (numbers[2] if name == "seq" else numbers[1]) == 0:
        raise BadInput(f"--size {size!r}: a model without processes; write for example 1,2,2,2")
    return make(*numbers), f"{name}, {what}: {','.join(map(str, numbers))}"


def export_model(name: str, size: str | None = None, mode: str = "full") -> Export:
    """A small model in Promela; its number of states is that of `explore(..., mode=mode, dead=mode != "full")`.

    Raises `BadInput` for a size that is none, `ExportError`.
    """
    program, title = model_program(name, size)
    a = compile_program(program, mode)
    cells = program.layout().start
    return export_promela(a, a.pack(cells), a.rom(cells), mode=mode, dead=mode != "full", fold=False, title=title)


def export_scenario(protocol: str, scenario: Scenario) -> Export:
    """A scenario under a protocol in Promela; its number of states is what `check` says.  Raises `ExportError`."""
    p = load(protocol)
    a, words, rom = start_of(p, scenario)
    return export_promela(a, words, rom, title=f"{p.name}, scenario {scenario.name}")


def run_promela(
    what: str, scenario: str | None, size: str | None, mode: str | None, out: Path | None, json: bool
) -> None:
    """`seqfault export promela`."""
    if mode is not None and mode not in MODES:
        raise BadInput(f"--mode {mode!r} is no mode; there are {', '.join(MODES)}")
    if what in MODELS:
        whole_model(what, scenario)
        make = lambda: export_model(what, size, mode or "full")  # noqa: E731
    else:
        p = load(what)  # a name that is wrong is said before anything else
        no_size(size)
        if mode not in (None, "merged"):
            raise BadInput(f"--mode {mode!r}: scenarios are exported in mode merged")
        if p.processes:
            scenario = scenario or "all"
        scenario = named(what, scenario)
        chosen = small_scenario(p) if p.processes else one_scenario(scenario)
        make = lambda: export_scenario(what, chosen)  # noqa: E731
    try:
        x = make()
    except ExportError as e:
        raise BadInput(f"Promela cannot say this: {e}") from None
    facts = {
        "format": "promela",
        "model": what,
        "scenario": scenario or "",
        "mode": mode or ("full" if what in MODELS else "merged"),
        "file": "",
        "processes": x.processes,
        "locations": x.locations,
        "cells": x.cells,
        "violations": x.kinds,
    }
    deliver(x.text, out, json, facts)


def run_litmus(
    what: str,
    scenario: str | None,
    size: str | None,
    ask: str | None,
    plain: bool,
    cells: list[str],
    out: Path | None,
    json: bool,
) -> None:
    """`seqfault export litmus`."""
    if ask is not None and ask not in ASKS:
        raise BadInput(f"--ask {ask!r}: there are {' and '.join(ASKS)}")
    scheduled = ":" in what
    if scheduled:
        if scenario is not None or size is not None:
            raise BadInput("a schedule names its protocol and its scenario; leave -s and --size out")
        p, s, schedule, memory, loop_from, _ = decode_schedule(what)
        if loop_from >= 0:
            raise BadInput("this schedule goes on for ever; a litmus test has no loops")
        a, init, rom = start_of(p, s, memory)
        name, note = f"{p.name}+{s.name}", [f"{p.name}, scenario {s.name}, schedule {what.strip()}"]
    elif what in MODELS:
        whole_model(what, scenario)
        program, title = model_program(what, size)
        a = compile_program(program, "merged")
        start_cells = program.layout().start
        init, rom = a.pack(start_cells), a.rom(start_cells)
        name, note = what, [f"{title}, run one after the other"]
    else:
        p = load(what)
        no_size(size)
        s = one_scenario(named(what, scenario))
        a, init, rom = start_of(p, s)
        name, note = f"{p.name}+{s.name}", [f"{p.name}, scenario {s.name}, its CPUs run one after the other"]
    only = lambda cell: not cells or any(fnmatch(cell, c) or fnmatch(cell, f"*{c}*") for c in cells)  # noqa: E731
    try:
        steps = schedule if scheduled else sequential(a, init, rom)
        x = export_litmus(
            a, init, rom, steps, name=name, note=note, ask=ask, plain=plain, only=only, source=source_line
        )
    except LitmusExportError as e:
        raise BadInput(str(e)) from None
    facts = {
        "format": "litmus",
        "model": what,
        "scenario": scenario or "",
        "file": "",
        "name": x.name,
        "threads": x.threads,
        "cells": x.cells,
        "statements": x.statements,
        "ask": x.ask,
    }
    deliver(x.text, out, json, facts)


def deliver(text: str, out: Path | None, json: bool, facts: dict[str, Any]) -> None:
    """The text into a file, or to standard output; with `json`, the facts instead, and the text among them unless it is
    in a file."""
    if out is not None:
        write(text, out)
    if json:
        facts = {**facts, "file": str(out) if out is not None else ""}
        dump(facts if out is not None else {**facts, "text": text})
    elif out is None:
        sys.stdout.write(text)


def whole_model(what: str, scenario: str | None) -> None:
    """Refuse a scenario of a small model of our own."""
    if scenario is not None:
        raise BadInput(f"-s {scenario!r}: {what} is a model of its own and has no scenarios; leave -s out")


def no_size(size: str | None) -> None:
    """Refuse a size of what has its sizes from its protocol."""
    if size is not None:
        raise BadInput(f"--size {size!r} is for {' and '.join(MODELS)}; a scenario has the sizes of its protocol")


def named(what: str, scenario: str | None) -> str:
    """The scenario, which must be said."""
    if scenario is None:
        raise BadInput(f"no scenario to export under {what}; name one with -s, for example -s argued/case1-alone")
    return scenario


def one_scenario(name: str) -> Scenario:
    """The scenario that a name, a pattern or a file stands for, if it is one."""
    from seqfault.report.commands import select

    found = select([name])
    if len(found) != 1:
        some = ", ".join(s.name for s in found[:3])
        raise BadInput(f"-s {name!r} stands for {len(found)} scenarios ({some}, ...); name one of them")
    return found[0]
