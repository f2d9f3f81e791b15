"""`seqfault record`: run it, say what came of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from seqfault.cli import BadInput, dump
from seqfault.report.summary import gaps, harmless
from seqfault.trace.capture import capture
from seqfault.trace.importing import import_file
from seqfault.trace.schema import Meta
from seqfault.trace.store import TraceError


def run_record(
    command: list[str],
    out: Path,
    pid: int | None,
    use: str | None,
    stacks: bool,
    sample: bool,
    seconds: float | None,
    source: Path | None,
    json: bool,
) -> None:
    """Exit code 0; 3 where the trace is not whole (interrupted, lost records, skipped lines)."""
    given = {"COMMAND": bool(command), "--pid": pid is not None, "--import": source is not None}
    chosen = [name for name, is_given in given.items() if is_given]
    if len(chosen) != 1:
        what = f"{' and '.join(chosen)} exclude each other" if chosen else "nothing to record"
        raise BadInput(f"{what}: seqfault record -- COMMAND, or record --pid PID, or record --import FILE")
    if use not in (None, "perf", "strace"):
        raise BadInput(f"--with {use!r}: perf or strace")
    if source is not None and (use or stacks or sample or seconds):
        raise BadInput("--import reads what was recorded; --with, --stacks, --sample, --seconds are for recording")
    err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

    def say(text: str) -> None:
        err.print(f"record: {text}", markup=False)

    interrupted = False
    try:
        with counting(err, json) as tell:
            if source is not None:
                meta, _ = import_file(source, out, tell)
            else:
                done = capture(out, command, pid, use, stacks, sample, seconds, say, tell)
                meta, interrupted = done.meta, done.interrupted
    except TraceError as e:
        raise BadInput(str(e)) from None
    if json:
        dump({"trace": str(out), **{k: v for k, v in vars(meta).items() if k not in ("stacks", "missing")},
              "missing": [vars(m) for m in meta.missing]})  # fmt: skip
    else:
        tell_result(say, meta, out, interrupted, imported=source is not None)
    raise typer.Exit(3 if interrupted or gaps(meta) else 0)


@contextlib.contextmanager
def counting(err: Console, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Progress of reading; nothing is drawn before there is something to read, the program may use the terminal."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    progress = Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal)
    task = None

    def tell(n: int) -> None:
        nonlocal task
        if task is None:
            progress.start()
            task = progress.add_task("")
        progress.update(task, description=f"reading events: {n:,}")

    try:
        yield tell
    finally:
        progress.stop()


def tell_result(say: Callable[[str], None], meta: Meta, out: Path, interrupted: bool, imported: bool) -> None:
    counts = ", ".join(f"{n:,} {kind}" for kind, n in sorted(meta.counts.items(), key=lambda kv: -kv[1]))
    say(f"{out}: {meta.rows:,} events in {meta.seconds:.3f} s ({counts})")
    if imported:
        for m in meta.missing:
            say(f"not in it: {m.what} ({m.why}): {m.costs}")
        unused = {k.removeprefix("event "): n for k, n in meta.skipped.items() if k.startswith("event ")}
        if unused:
            say("not used: " + ", ".join(f"{n:,} {k}" for k, n in sorted(unused.items(), key=lambda kv: -kv[1])))
    for why, n in meta.skipped.items():
        if harmless(why) and not why.startswith("event "):
            say(f"begun before the recording: {n:,} {why}")
    if meta.exit_code:
        how = f"signal {-meta.exit_code}" if meta.exit_code < 0 else f"exit code {meta.exit_code}"
        say(f"the program ended with {how}")
    if interrupted:
        say("interrupted: the trace has what was recorded until then")
    for gap in gaps(meta):
        say(f"gap: {gap}")
    say(f"next: seqfault summary {out}")
