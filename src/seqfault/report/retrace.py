"""`seqfault retrace`: a recorded program replayed in the model; what was equal and what was not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.progress import Progress

from seqfault.cli import BadInput, dump
from seqfault.mm.fullsize import release_number
from seqfault.report.bars import OF_HOW_MANY
from seqfault.report.consoles import console, stderr_console
from seqfault.trace.replay import Replay, Result
from seqfault.trace.spaces import Spaces, SpacesFull
from seqfault.trace.store import TraceError, open_trace
from seqfault.trace.timeline import Recording, RecordingError, read_recording
from seqfault.trace.whole import from_trace

EXIT = {"same": 0, "different": 1, "incomplete": 3}
SHOWN = 12
STEP = 500


@dataclass
class Retraced:
    recording: Recording
    result: Result
    release: int

    @property
    def gaps(self) -> list[str]:
        """Why the comparison is not whole."""
        out = list(self.recording.gaps)
        if n := len(self.recording.problems):
            out.append(f"{n} lines could not be read")
        if self.recording.events and self.recording.events.lost:
            out.append(f"perf lost {self.recording.events.lost} records")
        if n := sum(d.unordered for d in self.result.differences):
            out.append(f"{n} results differ of calls whose order among those of other threads is not known")
        if n := sum(self.result.orphans.values()):
            out.append(f"{n} calls of programs whose layout at the start is not there")
        if n := sum(c.merged for c in self.result.comparisons) if self.recording.threads else 0:
            out.append(f"{n} layouts are equal but for neighbours that only anon_vmas from before decide about")
        if not self.result.comparisons:
            out.append("no layout to compare: the recording has none behind its start")
        return out

    @property
    def verdict(self) -> str:
        r = self.result
        if r.undecoded or any(not d.unordered for d in r.differences) or not all(c.equal for c in r.comparisons):
            return "different"
        return "incomplete" if self.gaps else "same"


def is_trace(path: str) -> bool:
    """Whether it is what `seqfault record` writes: a Parquet file, or sample:NAME."""
    if path.startswith("sample:"):
        return True
    try:
        with open(path, "rb") as f:
            return f.read(4) == b"PAR1"
    except OSError:
        return False


def run_retrace(
    path: str, maps: Path | None, events: Path | None, release: str | None, json: bool, verbose: bool
) -> None:
    """Replay, print, and end with the exit code."""
    try:
        if is_trace(path):
            if maps or events:
                raise BadInput(f"{path}: a trace has its own layouts and events; leave out --maps and --events")
            with open_trace(path) as trace:
                recording = from_trace(trace)
        else:
            recording = read_recording(Path(path), maps, events)
    except (RecordingError, TraceError) as e:
        raise BadInput(str(e)) from None
    try:
        number = release_number(release or recording.layouts.machine.get("kernel", "6.18"))
    except ValueError as e:
        raise BadInput(f"--release: {e}") from None
    done = Retraced(recording, replayed(recording, number, quiet=json), number)
    if json:
        dump(as_json(done))
    else:
        show(done, verbose)
    raise typer.Exit(EXIT[done.verdict])


def replayed(recording: Recording, release: int, quiet: bool) -> Result:
    err = stderr_console()
    with Progress(*OF_HOW_MANY, console=err, transient=True, disable=quiet or not err.is_terminal) as progress:
        task = progress.add_task("compiling the model", total=None)
        replay = Replay(recording, Spaces(release))
        progress.update(task, description="replaying", total=len(recording.items))
        try:
            for i, item in enumerate(recording.items):
                replay.step(item)
                if i % STEP == 0:
                    progress.update(task, completed=i)
        except SpacesFull as e:
            raise BadInput(f"{recording.name}: {e}") from None
    return replay.result


def counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items(), key=lambda kv: (-kv[1], kv[0])))


def show(done: Retraced, verbose: bool) -> None:
    out = console()

    def say(text: str) -> None:
        out.print(text, markup=False)

    r, recording = done.result, done.recording
    n = sum(r.calls.values())
    say(f"{recording.name}: {done.verdict}; Linux {done.release // 100}.{done.release % 100}, {r.processes} programs")
    say(f"calls     {n} replayed, {n - len(r.differences)} with the recorded result ({counted(r.calls)})")
    if recording.events:
        say(f"faults    {r.faults} replayed, {r.faults_skipped} that no layout depends on")
    else:
        say("faults    not recorded; neighbours that may have merged are compared as one")
    equal = sum(c.equal for c in r.comparisons)
    say(f"layouts   {len(r.comparisons)} compared, {equal} equal, {sum(c.areas for c in r.comparisons)} VMAs")
    for title, counts in (
        ("replaced", r.substituted),
        ("left out", r.ignored),
        ("before", r.before if verbose else {}),
    ):
        if counts:
            say(f"{title:9} {counted(dict(counts))}")
    if r.moving:
        say(f"moving    {r.moving} layouts that another thread changed while they were read are not compared")
    if recording.unordered:
        say(f"order     {len(recording.unordered)} calls overlap one of another thread; taken by their ends")
    if r.killed:
        say(f"killed    {r.killed} processes, without a layout at their end")
    for gap in done.gaps:
        say(f"gap       {gap}")
    if recording.unseen and done.verdict == "different":
        say(f"unseen    {recording.unseen}")
    for p in recording.problems[: None if verbose else SHOWN]:
        say(f"  {p}")
    for text in r.undecoded[: None if verbose else SHOWN]:
        say(f"  not understood: {text}")
    if r.differences:
        say("results that differ:")
        for d in r.differences[: None if verbose else SHOWN]:
            say(f"  {d}")
        if len(r.differences) > SHOWN and not verbose:
            say(f"  and {len(r.differences) - SHOWN} more (--verbose)")
    for c in r.comparisons:
        if not c.equal:
            say(f"process {c.pid}, {c.when}: - recorded, + model")
            for line in c.diff if verbose else c.diff[: 3 * SHOWN]:
                say(f"  {line}")


def as_json(done: Retraced) -> dict[str, Any]:
    r, recording = done.result, done.recording
    return {
        "recording": recording.name,
        "verdict": done.verdict,
        "release": f"{done.release // 100}.{done.release % 100}",
        "processes": r.processes,
        "calls": dict(r.calls),
        "differences": [
            {
                "line": d.call.line,
                "call": str(d.call),
                "recorded": d.recorded,
                "model": d.model,
                "forced": d.forced,
                "unordered": d.unordered,
            }
            for d in r.differences
        ],
        "layouts": [
            {"pid": c.pid, "when": c.when, "vmas": c.areas, "equal": c.equal, "merged": c.merged, "diff": c.diff}
            for c in r.comparisons
        ],
        "faults": {"replayed": r.faults, "skipped": r.faults_skipped, "refused": r.faults_refused}
        if recording.events
        else None,
        "replaced": dict(r.substituted),
        "left_out": dict(r.ignored),
        "before": dict(r.before),
        "orphans": dict(r.orphans),
        "not_understood": r.undecoded,
        "problems": [str(p) for p in recording.problems],
        "moving": r.moving,
        "unordered": len(recording.unordered),
        "killed": r.killed,
        "gaps": done.gaps,
    }
