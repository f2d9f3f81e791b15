"""Random programs on the model and on a kernel, compared after every operation; differences are made small."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from seqfault.live.compare import (
    DETAIL_WORDS,
    DETAILS,
    KEPT,
    MARKS,
    OUTSIDE,
    PAGE,
    RESULT,
    TOTALS,
    Mask,
    Mismatch,
    compare,
)
from seqfault.live.export import Record, read_record
from seqfault.live.generate import Plan, programs
from seqfault.live.model import ModelSide
from seqfault.live.script import row_text
from seqfault.live.shrink import shrink
from seqfault.mm.opcodes import ABSENT, MADV_PAGEOUT, NAMES, OP_MADVISE, OP_START

Int64 = NDArray[np.int64]
CHUNK_ROWS = 10_000
AGAIN = 6  # how often a difference must show
AFRESH = 8  # how often a program that was disturbed is begun again
DISTURBED_SECONDS = 20.0  # and for how long, where others may cause it


class KernelSide(Protocol):
    """A kernel that runs programs: the live one (live/host.py), or one under qemu (live/qemu.py)."""

    mask: Mask
    sizes: dict[str, int]  # of the text, where they depend on the kernel's machine

    def run(self, rows: Int64) -> tuple[Int64, Int64, str]:
        """The stream, where each row's record begins (one more than there are records), and "" or why it stopped."""

    def details(self, every: int) -> None:
        """Read smaps every so many rows from now on."""

    def close(self) -> None: ...


@dataclass
class Found:
    """A difference.  `rows`: the shrunk program; `original`: how many operations it had; `model`: the model's records
    for `rows`; `mismatch`: at its last row; `message`: what an oracle of the text or the kernel's side said, if that
    is what differs; `program`: number of the program it came from."""

    rows: Int64
    original: int
    mismatch: Mismatch | None
    message: str
    program: int
    model: list[Record] = field(default_factory=list)
    kernel: list[Record] = field(default_factory=list)

    @property
    def process(self) -> int:
        return self.mismatch.process if self.mismatch else 0


@dataclass
class Tally:
    """What was done.  `results`: (operation, 0 or errno or -1000 - signal) -> how often; `counters`: the text's own
    counts (cases of merging, refusals); `unsaid`: results that the model cannot tell; `unstable`: differences that a
    second run did not show, in words; `disturbed`: those of them that other programs of the machine are known to cause,
    by cause."""

    ops: int = 0
    programs: int = 0
    results: Counter[tuple[int, int]] = field(default_factory=Counter)
    counters: Counter[str] = field(default_factory=Counter)
    unsaid: int = 0
    unstable: list[str] = field(default_factory=list)
    disturbed: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    model_seconds: float = 0.0
    kernel_seconds: float = 0.0
    found: list[Found] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.ops += other.ops
        self.programs += other.programs
        self.results.update(other.results)
        self.counters.update(other.counters)
        self.unsaid += other.unsaid
        self.unstable += other.unstable
        self.disturbed.update(other.disturbed)
        self.model_seconds += other.model_seconds
        self.kernel_seconds += other.kernel_seconds
        self.found += other.found


@dataclass
class Both:
    """What both sides did with a batch.  `compared`: how many rows were; `at`: the first that differs, or -1."""

    compared: int
    at: int
    mismatch: Mismatch | None
    message: str
    stream: Int64
    offsets: Int64
    kernel_stream: Int64
    kernel_offsets: Int64
    recorded: int = 0


class Pair:
    """The model and a kernel, fed with the same rows."""

    def __init__(self, model: ModelSide, kernel: KernelSide):
        self.model, self.kernel = model, kernel
        self.pages = model.geometry.observed
        self.pool = ThreadPoolExecutor(1)
        self.model_seconds = self.kernel_seconds = 0.0

    def close(self) -> None:
        self.pool.shutdown()
        self.kernel.close()

    def details(self, every: int) -> int:
        """Compare what smaps says every so many rows from now on; how often it was until now."""
        before, self.model.detail_every = self.model.detail_every, every
        self.kernel.details(every)
        return before

    def _timed_kernel(self, rows: Int64) -> tuple[Int64, Int64, str]:
        t = time.perf_counter()
        r = self.kernel.run(rows)
        self.kernel_seconds += time.perf_counter() - t
        return r

    def run(self, rows: Int64) -> Both:
        """Run a batch on both sides and compare."""
        waiting = self.pool.submit(self._timed_kernel, rows)
        t = time.perf_counter()
        m = self.model.run(rows)
        self.model_seconds += time.perf_counter() - t
        ks, ko, died = waiting.result()
        kernel_done = len(ko) - 1
        n = min(m.done, kernel_done, len(rows))
        message = ""
        if n < len(rows):
            message = str(m.bug) if m.bug is not None and n == m.done else died or "the kernel's side ended early"
        return self.held(rows, 0, Both(n, -1, None, message, m.stream, m.offsets, ks, ko, n))

    def held(self, rows: Int64, start: int, b: Both) -> Both:
        """The records of `b` from row `start`, the first of a program, held against each other."""
        at = slice(start, b.recorded + 1)
        got = compare(
            rows[start:],
            b.stream,
            b.offsets[at],
            b.kernel_stream,
            b.kernel_offsets[at],
            self.pages,
            self.kernel.mask,
            b.recorded - start,
            self.model.geometry.nr_pages,
        )
        if got is not None:
            got = replace(got, row=got.row + start)
            return replace(b, compared=got.row, at=got.row, mismatch=got, message="")
        message = b.message if b.recorded < len(rows) else ""
        return replace(b, compared=b.recorded, at=b.recorded if message else -1, mismatch=None, message=message)

    def differing(self, batch: Sequence[Int64]) -> list[int]:
        """For each program the number of its first differing row, or -1.

        A program in which the model has no answer (an address outside the window) shows nothing.
        """
        out = [-1] * len(batch)
        start = 0
        while start < len(batch):
            rows = np.concatenate(batch[start:])
            both = self.run(rows)
            ended, first = both.message, 0  # rows of the programs before `start` in this run
            while both.at >= 0:
                while first + len(batch[start]) <= both.at:
                    first += len(batch[start])
                    start += 1
                # an answer that is owed is a difference in the result
                upto = both.at + (both.mismatch is not None and both.mismatch.why != RESULT)
                unsaid = (both.stream[both.offsets[first:upto]] == OUTSIDE).any()
                out[start] = -1 if unsaid else both.at - first
                first += len(batch[start])
                start += 1
                if both.mismatch is None or first >= both.recorded:
                    break  # nothing was recorded of the programs behind it
                both = self.held(rows, first, replace(both, message=ended))
            else:
                break
        return out

    def records(self, rows: Int64) -> tuple[list[Record], list[Record], Both]:
        """Both sides' records of a program, as far as they go."""
        both = self.run(rows)

        def read(stream: Int64, at: Int64) -> list[Record]:
            n = min(len(rows), len(at) - 1, both.compared + (both.mismatch is not None))
            return [read_record(stream[at[i] : at[i + 1]], self.pages) for i in range(n)]

        return read(both.stream, both.offsets), read(both.kernel_stream, both.kernel_offsets), both


def tally_results(t: Tally, rows: Int64, stream: Int64, offsets: Int64, n: int) -> None:
    """Count the results of the first n rows."""
    ret = stream[offsets[:n]]
    t.unsaid += int((ret == OUTSIDE).sum())
    code = np.where(ret < 0, ret, 0)
    keys, counts = np.unique(rows[:n, 0] * 10_000 - code, return_counts=True)
    for k, c in zip(keys.tolist(), counts.tolist(), strict=True):
        op, neg = divmod(k, 10_000)
        t.results[op, -neg] += c
    t.results.pop((OP_START, 0), None)


def disturbance(m: Mismatch | None, row: Int64) -> str:
    """What else on the machine may have caused a difference at `row` that did not show again, or ""."""
    if m is not None and m.why == KEPT:
        return "a write kept or copied its page otherwise: others on the processor empty its batches of LRU pages"
    if m is not None and m.why == DETAILS and m.index % DETAIL_WORDS in (2, 3):
        return "pages of the file on disk were clean: the kernel wrote them back"
    if m is not None and m.why == MARKS:
        return "a page was locked otherwise: it was in another processor's batch"
    if m is not None and m.why == PAGE and row[0] == OP_MADVISE and row[4] == MADV_PAGEOUT:
        return "MADV_PAGEOUT left a page: it was in a processor's batch, or being written"
    return ""


def run_chunk(
    pair: Pair, plan: Plan, first: int, count: int, seal: bool, note: Callable[[str], None] | None = None, most: int = 1
) -> Tally:
    """Programs `first` to `first + count` - 1.  Stops at `most` differences.

    A program that something disturbed is run again from its start, as often as `AFRESH`, and each of its operations is
    counted once; only what lies behind a disturbance that came each time is not compared.
    """
    t = Tally()
    rows = programs(plan, first, count, seal)
    size = plan.program_ops + 1
    at = counted = 0
    disturbed: Counter[int] = Counter()
    m0, k0 = pair.model_seconds, pair.kernel_seconds
    while at < len(rows):
        before = Counter(pair.model.machine.counters)
        both = pair.run(rows[at:])
        t.counters += Counter(pair.model.machine.counters) - before
        upto = at + both.compared
        if upto > counted:
            tally_results(t, rows[counted:], both.stream, both.offsets[counted - at :], upto - counted)
            starts = (upto + size - 1) // size - (counted + size - 1) // size
            t.ops += upto - counted - starts
            t.programs += starts
            counted = upto
        if both.at < 0:
            break
        program = upto // size
        part = rows[program * size : upto + 1]
        about = both.message or f"{both.mismatch}"
        found = examine(pair, part, first + program, note) if pair.differing([part])[0] >= 0 else None
        at = (program + 1) * size
        if found is not None:
            t.found.append(found)
            if len(t.found) >= most:
                break
        else:
            cause = disturbance(both.mismatch, part[-1])
            if cause:
                t.disturbed[cause] += 1
            else:
                where = f"program {first + program}, operation {len(part) - 1}, {row_text(part[-1])}"
                t.unstable.append(f"{where}: {about}")
            disturbed[program] += 1
            if disturbed[program] <= AFRESH:
                at = program * size
        counted = max(counted, at)
    t.model_seconds, t.kernel_seconds = pair.model_seconds - m0, pair.kernel_seconds - k0
    return t


def steady(pair: Pair, rows: Int64) -> bool:
    """Whether a program differs at its last row each time that it is run: at once, and, where others may have
    disturbed it, over some seconds too."""
    if not all(at == len(rows) - 1 for at in pair.differing([rows] * AGAIN)):
        return False
    for _ in range(AGAIN):
        both = pair.run(rows)
        if both.at != len(rows) - 1:
            return False
        if getattr(pair.kernel, "quiet", False) or not disturbance(both.mismatch, rows[-1]):
            break
        time.sleep(DISTURBED_SECONDS / AGAIN)
    return True


def examine(pair: Pair, part: Int64, program: int, note: Callable[[str], None] | None = None) -> Found | None:
    """Shrink a program that differs at its last row, and keep what both sides say of it; None if it does not differ
    each time.  Where only the shrunk form does not, it is kept as it was."""
    both = pair.run(part)
    if both.mismatch is None or both.mismatch.why not in (DETAILS, TOTALS, MARKS):
        return _examine(pair, part, program, note)
    every = pair.details(1)  # which rows have details depends on their number, which shrinking changes
    try:
        both = pair.run(part)
        return _examine(pair, part[: both.at + 1], program, note) if both.at >= 0 else None
    finally:
        pair.details(every)


def _examine(pair: Pair, part: Int64, program: int, note: Callable[[str], None] | None) -> Found | None:
    tell = None if note is None else (lambda n: note(f"shrinking: {n} operations"))
    both = pair.run(part)
    done = both.offsets[: both.compared]
    worked = np.ones(len(part), bool)  # what failed changed nothing, most of the time
    worked[: len(done)] = both.stream[done] >= 0
    small = shrink(part, pair.differing, note=tell, guesses=[part[worked]])
    if not steady(pair, small):
        if disturbance(both.mismatch, part[-1]):
            return None  # what the text does wrong would be wrong in a smaller program too
        small = part
        if not steady(pair, small):
            return None
    model, kernel, both = pair.records(small)
    if both.at < 0:
        return None
    return Found(small, len(part) - 1, both.mismatch, both.message, program, model, kernel)


def result_name(op: int, code: int) -> str:
    """0, an errno's name, or a signal's."""
    import errno
    import signal

    if code == 0:
        return "ok"
    if code in (ABSENT, OUTSIDE):
        return "absent" if code == ABSENT else "unsaid"
    if code <= -1000:
        return signal.Signals(-1000 - code).name
    return errno.errorcode.get(-code, str(code))


def by_operation(t: Tally) -> dict[str, dict[str, int]]:
    """Operation -> result -> how often."""
    out: dict[str, dict[str, int]] = {name: {} for name in NAMES.values() if name != "start"}
    for (op, code), n in sorted(t.results.items()):
        if op in NAMES and NAMES[op] != "start":
            out[NAMES[op]][result_name(op, code)] = n
    return out


def merge_counts(t: Tally) -> dict[str, int]:
    return {f"case{i}": t.counters.get(f"vma_merge/case{i}", 0) for i in range(1, 9)}


# Results that no program of the fuzzer can get, and why.
NOT_PROVOKED = {
    "EFBIG": "but for holes punched far behind what a file can be, which is rare: the model's files are small",
    "ENOSYS": "of system calls that the release does not have",
}


def errno_counts(t: Tally, known: Sequence[str]) -> dict[str, int]:
    """How often each errno was the result, whatever the operation; `known`: those that the text can give."""
    out = dict.fromkeys(known, 0)
    for (op, code), n in t.results.items():
        if -1000 < code < 0:
            name = result_name(op, code)
            out[name] = out.get(name, 0) + n
    return out


def refusal_counts(t: Tally, known: Sequence[str]) -> dict[str, int]:
    """Refusals to merge by reason; `known`: every counter that the text has."""
    names = sorted({k for k in (*known, *t.counters) if k.startswith("refuse/")})
    return {k.split("/")[1]: t.counters.get(k, 0) for k in names}


def explain(found: Found) -> list[str]:
    """The difference in words, one line each."""
    if found.mismatch is None:
        return [found.message]
    m = found.mismatch
    lines = [f"{m.what} differs" + (f" (process {m.process})" if m.process else "")]
    last_m = found.model[-1] if found.model else None
    last_k = found.kernel[-1] if found.kernel else None
    if last_m is None or last_k is None:
        return lines
    if last_m.result != last_k.result:
        lines.append(f"  result: model {last_m.result}, kernel {last_k.result}")
    for p in sorted({*last_m.vmas, *last_k.vmas}):
        a, b = last_m.vmas.get(p, []), last_k.vmas.get(p, [])
        lines += [f"  only in the model : {vma_text(v)}" for v in a if v not in b]
        lines += [f"  only in the kernel: {vma_text(v)}" for v in b if v not in a]
        u, w = last_m.pages.get(p, []), last_k.pages.get(p, [])
        for i, (x, y) in enumerate(zip(u, w, strict=False)):
            if (x ^ y) & 0xFFFF or (i == m.index and m.why in (6, 7, 8)):
                lines.append(f"  page {i} of the observed: model {page_text(x)}, kernel {page_text(y)}")
    return lines[:24]


def vma_text(v: tuple[int, ...]) -> str:
    a, b, bits, off, f = v
    perms = "".join(c if bits & x else "-" for x, c in ((1, "r"), (2, "w"), (4, "x"))) + ("s" if bits & 8 else "p")
    return f"{a}-{b} {perms}" + (f" file {f} at page {off}" if f else "")


def page_text(w: int) -> str:
    if not w & 0xFFFF:
        return "none"
    names = ((1, "present"), (2, "exclusive"), (4, "file"), (8, "guard"), (16, "zero"))
    out = " ".join(n for b, n in names if w & b)
    return out + (f" content {w >> 8 & 255}" if w & 32 else "") + (f" frame {w >> 16}" if w & 1 else "")
