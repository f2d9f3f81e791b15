"""`seqfault litmus`: files and directories to reports and an exit code."""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from seqfault.cli import BAD_INPUT, BadInput, dump, fail
from seqfault.litmus import show
from seqfault.litmus.judge import Candidate, Verdict, as_expected, forbidden, judge
from seqfault.litmus.lkmm import Broken
from seqfault.litmus.machine import final_states
from seqfault.litmus.models import MODELS, V6_1, Model
from seqfault.litmus.parse import parse
from seqfault.litmus.paths import Refused
from seqfault.litmus.threads import Incomplete, Limits
from seqfault.litmus.tree import Litmus, LitmusError

DIFFERENT, INCOMPLETE = 1, 3
EXPLAINED = 1_000_000  # candidates that are looked at for a cycle to show
# "expected" and "different" are of files that say what their result is
OUTCOMES = ("expected", "different", "unsaid", "incomplete", "bad")


@dataclass(slots=True)
class Tested:
    """What came of one file: `outcome` is one of `OUTCOMES`, `message` says why there is no verdict."""

    file: str
    outcome: str
    message: str = ""
    test: Litmus | None = None
    verdict: Verdict | None = None
    found: tuple[Candidate, Broken] | None = None
    machine: str = ""  # "equal", "different: ..." or why it did not run
    unexplained: str = ""  # why there is no cycle although the state is not reached
    seconds: float = 0.0


def run_litmus(
    paths: list[str], json: bool, verbose: bool, timeout: float | None, max_candidates: int, machine: bool = False,
    linux: str = V6_1.name,
) -> None:
    """Judge files and directories by the memory model of a release of `linux`; with `machine` run them on the
    operational machine too, and compare final states.

    Exit code 0: every file that says its result has it; 1: one has another, or the machine reaches other states; 2: one
    could not be read (the others were still judged); 3: a limit came first.

    Raises:
        BadInput: a path that is not there, a directory without litmus files, a release whose model is not known.
    """
    if linux not in MODELS:
        raise BadInput(f"--linux {linux}: the models that are known are those of {' and '.join(MODELS)}")
    model = MODELS[linux]
    files = [(f, Path(p).is_dir()) for p in paths for f in _files(Path(p))]
    many = any(listed for _, listed in files)
    counts: Counter[str] = Counter()
    ran: Counter[str] = Counter()
    objects: list[dict[str, Any]] = []
    for file, listed in files:
        one = examine(file, verbose or json, timeout, max_candidates, machine, model)
        counts[one.outcome] += 1
        if one.machine:
            ran[one.machine.partition(":")[0]] += 1
        if json:
            objects.append(_object(one))
        elif one.test is None or one.verdict is None:
            sys.stdout.flush()
            fail(one.message)
        elif listed and not verbose:
            print(_line(one))
        else:
            print("\n".join([*_report(one, verbose), ""]))
    if json:
        dump({"linux": linux, "tests": objects, "totals": {k: counts[k] for k in OUTCOMES}})
    elif many or len(files) > 1:
        words = {"expected": "as their Result: says", "different": "different", "unsaid": "without Result:",
                 "incomplete": "incomplete", "bad": "not read"}  # fmt: skip
        if machine:
            print("machine: " + ", ".join(f"{n} {what}" for what, n in sorted(ran.items())))
        print(f"{len(files)} files: " + ", ".join(f"{counts[k]} {w}" for k, w in words.items() if counts[k]))
    code = (
        BAD_INPUT if counts["bad"]
        else DIFFERENT if counts["different"] or ran["different"]
        else INCOMPLETE if counts["incomplete"]
        else 0
    )  # fmt: skip
    raise typer.Exit(code)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(path.rglob("*.litmus"))
        if not found:
            raise BadInput(f"{path}: no *.litmus file in it")
        return found
    if not path.exists():
        raise BadInput(f"{path}: no such file or directory")
    return [path]


def examine(
    file: Path, explain: bool, timeout: float | None, max_candidates: int, machine: bool = False, model: Model = V6_1
) -> Tested:
    """Read and judge one file by `model`; `explain` also looks for the cycle that forbids the state asked about;
    `machine`: also run it (machine.py)."""
    start = time.monotonic()
    out = Tested(str(file), "bad")
    limits = Limits(max_candidates, None if timeout is None else start + timeout)
    try:
        test = parse(file.read_text(), str(file), model)
        verdict = judge(test, limits)
        out.test, out.verdict, out.seconds = test, verdict, time.monotonic() - start
        reached = verdict.negative if test.condition and test.condition.kind == "forall" else verdict.positive
        if explain and not reached:
            out.found, out.unexplained = _why(test, Limits(min(max_candidates, EXPLAINED), limits.deadline))
        if machine:
            out.machine = _machine(test, verdict, Limits(max_candidates, limits.deadline))
    except LitmusError as e:
        out.message = str(e)
    except UnicodeDecodeError as e:
        out.message = f"{file}:1: byte {e.start} is no UTF-8; a litmus file is text"
    except OSError as e:
        out.message = f"{file}: {e.strerror}"
    except Incomplete as e:
        out.outcome, out.message = "incomplete", f"{file}: incomplete: {e} came first"
    else:
        out.outcome = {None: "unsaid", True: "expected", False: "different"}[as_expected(test, verdict)]
    return out


def _machine(test: Litmus, verdict: Verdict, limits: Limits) -> str:
    try:
        states = final_states(test, limits)
    except Refused as e:
        return f"refused: {e}"
    except Incomplete as e:
        return f"incomplete: {e} came first"
    allowed = set(verdict.states)
    if states == allowed:
        return "equal"
    more, less = (", ".join(map(str, sorted(x, key=str)[:3])) for x in (states - allowed, allowed - states))
    return f"different: more {more or 'none'}; less {less or 'none'}"


def _why(test: Litmus, limits: Limits) -> tuple[tuple[Candidate, Broken] | None, str]:
    try:
        found = forbidden(test, limits)
    except Incomplete as e:
        return None, f"the cycle was not found: {e} came first"
    return found, "" if found or test.condition is None else "no candidate execution ends so"


def _report(one: Tested, verbose: bool) -> list[str]:
    assert one.test is not None and one.verdict is not None
    lines = show.report(one.test, one.verdict, one.seconds)
    if one.outcome == "different":
        lines.append(f"Different from the file's Result: {one.test.result}")
    if one.machine:
        lines.append(f"Machine {one.test.name} {one.machine}")
    if verbose:
        lines += show.races(one.test, one.verdict)
        if one.found:
            lines += show.why(one.test, one.found)
        elif one.unexplained:
            lines.append(f"Forbidden: {one.unexplained}")
        lines.append(f"Candidates {one.test.name} {one.verdict.candidates}")
    return lines


def _line(one: Tested) -> str:
    assert one.test is not None and one.verdict is not None
    v = one.verdict
    said = {"expected": "", "unsaid": " (no Result:)", "different": f" DIFFERENT: Result: {one.test.result}"}
    flags = "".join(f" Flag {f}" for f in sorted(v.flags))
    machine = f" Machine {one.machine}" if one.machine else ""
    return f"{one.test.name} {v.observation} {v.positive} {v.negative}{flags}{said[one.outcome]}{machine}"


def _object(one: Tested) -> dict[str, Any]:
    if one.test is None or one.verdict is None or one.message:
        return {"file": one.file, "outcome": one.outcome, "message": one.message}
    more = {"machine": one.machine} if one.machine else {}
    return {"outcome": one.outcome, **more, **show.as_json(one.test, one.verdict, one.seconds, one.found)}
