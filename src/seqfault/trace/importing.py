"""Recordings of perf and strace turned into traces: perf.data, the text of `perf script`, the text of strace."""

from __future__ import annotations

import gzip
import lzma
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from seqfault.trace import schema as s
from seqfault.trace.assemble import Assembler
from seqfault.trace.perf_script import ANY, FIELDS, SHOW, Sample, Source, read_samples
from seqfault.trace.schema import Meta, Missing
from seqfault.trace.store import TraceError, Writer
from seqfault.trace.strace import LINE
from seqfault.trace.strace_rows import StraceRows

LOOKED_AT = 200  # lines by which a text is recognised
Progress = Callable[[int], None]
PERF_REMEDY = "apt-get install linux-perf"
# what of an imported text tells that a kind was recorded: events of perf
TELLS = {
    s.FAULT: ("exceptions:page_fault_user", "exceptions:page_fault_kernel", "page-faults", "faults", "minor-faults"),
    s.CALL: ("syscalls:sys_enter_mmap", "syscalls:sys_enter_munmap", "syscalls:sys_enter_madvise"),
    s.LOCK_WAIT: ("mmap_lock:mmap_lock_start_locking", "mmap_lock:mmap_lock_acquire_returned"),
    s.LOCK_HOLD: ("mmap_lock:mmap_lock_released",),
    s.OFF: ("PERF_RECORD_SWITCH",),
    s.FORK: ("task:task_newtask", "PERF_RECORD_FORK"),
    s.EXEC: ("sched:sched_process_exec",),
    s.EXIT: ("sched:sched_process_exit", "PERF_RECORD_EXIT"),
    s.AREA: ("PERF_RECORD_MMAP2", "PERF_RECORD_MMAP"),
}
COSTS = {
    s.FAULT: "nothing can be said of faults: their rate, durations, overlap",
    s.CALL: "nothing can be said of mmap, munmap, mprotect, ...: rates, overlap with faults, who splits VMAs",
    s.LOCK_WAIT: "waits for mmap_lock and faults that fell back to it are not known",
    s.LOCK_HOLD: "how long mmap_lock is held is not known",
}


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a text that may be compressed, with their ends.  Raises `TraceError`."""
    openers: dict[str, Callable[..., IO[str]]] = {".xz": lzma.open, ".gz": gzip.open}  # type: ignore[dict-item]
    try:
        with openers.get(path.suffix, open)(path, "rt", errors="replace") as f:
            yield from f
    except (OSError, EOFError, lzma.LZMAError) as e:
        why = getattr(e, "strerror", None) or str(e)
        raise TraceError(f"{path}: {why}") from None


def recognise(path: Path) -> str:
    """``perf.data``, ``perf script`` or ``strace``.  Raises `TraceError`."""
    if path.is_dir():
        raise TraceError(f"{path}: a directory; name a file")
    try:
        with path.open("rb") as f:
            head = f.read(8)
    except OSError as e:
        raise TraceError(f"{path}: {e.strerror}; name a perf.data, or the text of perf script or strace") from None
    if not head:
        raise TraceError(f"{path}: empty; name a perf.data, or the text of perf script or strace")
    if head.startswith((b"PERFILE2", b"2ELIFREP")):
        return "perf.data"
    if head.startswith(b"PAR1"):
        raise TraceError(f"{path}: a Parquet file already; seqfault summary reads it")
    perf = strace = n = 0
    for n, line in enumerate(text_lines(path), 1):
        if m := ANY.match(line):
            perf += 1 if ":" in m["event"] + m["rest"][:1] and not line.startswith("strace") else 0
        m2 = LINE.match(line.rstrip("\n"))
        strace += bool(m2 and re.match(r"[a-z]\w*\(|<\.\.\.|\+\+\+|---", m2[4]))
        if n >= LOOKED_AT:
            break
    if max(perf, strace) * 10 < n:
        raise TraceError(
            f"{path}: neither perf.data nor text of perf script or strace (strace -f -ttt -T); of its first {n} lines "
            f"{max(perf, strace)} look like it"
        )
    return "perf script" if perf >= strace else "strace"


def perf_text(data: Path) -> Iterator[str]:
    """What `perf script` prints of a perf.data.  Raises `TraceError` if perf fails."""
    perf = shutil.which("perf")
    if perf is None:
        raise TraceError(f"{data}: perf reads this file, and perf is not installed ({PERF_REMEDY})")
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(
            [perf, "script", "-f", "-i", str(data), *SHOW, "-F", FIELDS],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace",
        )  # fmt: skip
        n = 0
        try:
            assert process.stdout
            for line in process.stdout:
                n += 1
                yield line
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        errors.seek(0)
        said = [line.strip() for line in errors if line.strip()]
    if code or not n:
        why = next((w for w in reversed(said) if "rror" in w or "nvalid" in w or "incompatible" in w), "")
        why = why or (said[-1] if said else f"perf script ended with {code}")
        raise TraceError(f"{data}: perf script cannot read it: {why}")


def fill(
    writer: Writer,
    source: Source,
    perf: Iterable[Sample] | None,
    strace: tuple[Iterable[str], Source, int] | None = None,
    tell: Progress | None = None,
    only: set[int] | None = None,
    pids: dict[int, int] | None = None,
) -> Assembler:
    """Put what perf and strace saw into one trace, in order of time.

    `strace`: lines, source, offset to its times.  `only`: of perf's, the events of these processes and their children.
    `pids`: processes of threads that were there before.
    """
    a = Assembler(writer, source, only)
    pids = {} if pids is None else pids
    rows = StraceRows(*strace, pids, tasks=perf is None) if strace else None
    samples = iter(perf) if perf is not None else iter(())
    calls = iter(rows) if rows else iter(())
    sample, call = next(samples, None), next(calls, None)
    if rows is not None:
        a.also = lambda: rows.settled if call is not None else 1 << 62
    n = 0
    while sample is not None or call is not None:
        n += 1
        if tell is not None and n % 20_000 == 0:
            tell(n)
        if rows is not None and call is not None and (sample is None or rows.clock <= sample.time):
            known = a.threads.get(call[3])
            if known is not None and known.pid != call[2]:
                pids[call[3]] = known.pid
                call = (*call[:2], known.pid, *call[3:])
            writer.add(call, rows.settled if sample is None else min(a.settled, rows.settled))
            call = next(calls, None)
        else:
            assert sample is not None
            a.take(sample)
            sample = next(samples, None)
    a.finish()
    return a


def told(a: Assembler) -> list[str]:
    """The kinds that an import has, by the events in it."""
    return [kind for kind, names in TELLS.items() if any(a.events[n] > 0 for n in names)]


def import_file(path: Path, out: Path, tell: Progress | None = None) -> tuple[Meta, Source]:
    """Turn a recording of another tool into a trace.  Raises `TraceError` where there is nothing to import."""
    kind = recognise(path)
    source = Source(str(path))
    # which kinds there are is known at the end; locks are looked for as if they were there
    meta = Meta(source=f"import of {kind}: {path.name}", recorded=list(s.KINDS))
    with Writer(out, meta) as writer:
        if kind == "strace":
            a = fill(writer, Source(str(path)), None, (text_lines(path), source, 0), tell)
            meta.recorded = [s.CALL, s.FORK, s.EXEC, s.EXIT]
            meta.settings["clock"] = "CLOCK_REALTIME"
        else:
            lines = perf_text(path) if kind == "perf.data" else text_lines(path)
            a = fill(writer, source, read_samples(lines, source), None, tell)
            meta.recorded = told(a)
        if a.guessed and kind == "perf script":
            meta.missing.append(
                Missing("process ids", "the text has none", "threads that take no mmap_lock count as processes, so "
                        "overlap is understated", "perf script --ns -F +pid")
            )  # fmt: skip
        for k, cost in COSTS.items():
            if k not in meta.recorded:
                meta.missing.append(Missing(k, f"no such events in {path.name}", cost, "seqfault record"))
        meta.skipped = dict(source.skipped)
        meta.truncated = source.cut
        writer.finish_rows()
        if not any(n for k, n in writer.counts.items()):
            first = f"; the first line that could not be read is {source.first_bad[0]}: {source.first_bad[1]}" if (
                source.first_bad) else ""  # fmt: skip
            events = ", ".join(sorted(k.removeprefix("event ") for k in source.skipped if k.startswith("event"))[:6])
            raise TraceError(
                f"{path}: {source.lines} lines of {kind}, but no event that a trace has"
                + (f" (only {events})" if events else first)
                + "; seqfault record shows which events those are"
            )
        writer.close()
    return meta, source

