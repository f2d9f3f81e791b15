"""The live kernel: programs of operations go to a runner (live/text), what it observes comes back.

    with LiveKernel(Options()) as k:
        stream, offsets, why = k.run(rows)

The runner is a static executable without a library, in whose address space nothing but the window is free.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seqfault.live import abi
from seqfault.live.compare import LOW, ZERO, Mask
from seqfault.live.control import Control, controls
from seqfault.live.errors import KernelError
from seqfault.live.generate import Geometry
from seqfault.live.runner import crash_text, refuse_elsewhere, runner_image
from seqfault.mm.opcodes import NAMES, OP_START

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Options:
    """How the runner runs.  `spans`: observed [start, end)s in pages; `detail_every`: how often smaps is read (rows;
    0: never); `cpu`: the processor to stay on (-1: any; None: each program stays where it begins);
    `all_vmas_every`: after how many rows those VMAs are looked at, too, that no operation's range touched (1: always);
    `maps_text`: read /proc/PID/maps even where PROCMAP_QUERY is there; `ticks`: count where time goes; `timeout`:
    seconds that a batch may take without any row being finished."""

    nr_pages: int = Geometry.nr_pages
    spans: tuple[tuple[int, int], ...] = Geometry.spans
    heap_page: int = Geometry.heap_page
    detail_every: int = 0
    cpu: int | None = None
    all_vmas_every: int = 16
    maps_text: bool = False
    content: bool = True
    ticks: bool = False
    timeout: float = 20.0
    max_rows: int = 32768
    stream_words: int = 8 << 20


def header_words(o: Options, rows: int, stream_words: int) -> dict[int, int]:
    """The header of the shared memory that a runner starts with, for `rows` rows."""
    if not 0 < len(o.spans) <= abi.MAX_SPANS:
        raise ValueError(f"{len(o.spans)} observed spans; 1 to {abi.MAX_SPANS} are possible")
    ends = [0] + [b for _, b in o.spans]
    if any(not e <= a < b <= o.nr_pages for e, (a, b) in zip(ends[:-1], o.spans, strict=True)):
        raise ValueError(f"observed spans {o.spans} are not sorted, disjoint and within {o.nr_pages} pages")
    offsets = abi.HEADER_BYTES + 8 * abi.ROW_WORDS * rows
    stream = offsets + 8 * (rows + 1)
    flags = abi.F_MAPS_TEXT * o.maps_text | abi.F_NO_CONTENT * (not o.content) | abi.F_TICKS * o.ticks
    words = {
        abi.H_MAGIC: abi.MAGIC,
        abi.H_FLAGS: flags,
        abi.H_ROWS: abi.HEADER_BYTES,
        abi.H_OFFSETS: offsets,
        abi.H_STREAM: stream,
        abi.H_STREAM_WORDS: stream_words,
        abi.H_DETAIL_EVERY: o.detail_every,
        abi.H_CPU: -2 if o.cpu is None else o.cpu,
        abi.H_ALL_VMAS_EVERY: o.all_vmas_every,
        abi.H_NR_SPANS: len(o.spans),
        abi.H_NR_PAGES: o.nr_pages,
        abi.H_HEAP_PAGE: o.heap_page,
        abi.H_TIMEOUT_MS: int(500 * o.timeout),
    }
    for i, (a, b) in enumerate(o.spans):
        words[abi.H_SPANS + 2 * i] = a
        words[abi.H_SPANS + 2 * i + 1] = b - a
    return words


class Runner(Protocol):
    """What a batch is run by: shared memory as words, and a bell."""

    words: Int64

    def ring(self) -> None: ...
    def wait(self) -> str: ...


def shared_bytes(o: Options) -> int:
    size = abi.HEADER_BYTES + 8 * abi.ROW_WORDS * o.max_rows + 8 * (o.max_rows + 1) + 8 * o.stream_words
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def program_starts(rows: Int64) -> Int64:
    """Where programs begin: row 0, and each start."""
    at = np.flatnonzero(rows[:, 0] == OP_START)
    return at if at.size and at[0] == 0 else np.concatenate([[0], at])


def batches(rows: Int64, most: int) -> list[tuple[int, int]]:
    """Pieces of whole programs, of at most `most` rows."""
    starts = [int(x) for x in program_starts(rows)] + [len(rows)]
    out: list[tuple[int, int]] = []
    begin = 0
    for a, b in pairwise(starts):
        if b - a > most:
            raise ValueError(f"a program of {b - a} rows; at most {most} are possible (option max_rows)")
        if b - begin > most:
            out.append((begin, a))
            begin = a
    out.append((begin, len(rows)))
    return out


class LiveKernel:
    """A runner on the live kernel.  Raises `KernelError` where there can be none."""

    def __init__(self, options: Options | None = None):
        refuse_elsewhere()
        o = options or Options()
        if o.cpu is None:
            o = replace(o, cpu=-2)
        self.options = o
        self._pid = 0
        self._bell = self._ear = -1
        self.ready = 0
        self.ticks: dict[str, float] = {}
        self._disk = self._disk_file()
        size = shared_bytes(o)
        self._memfd = os.memfd_create("seqfault-shared")
        os.ftruncate(self._memfd, size)
        self._map = mmap.mmap(self._memfd, size)
        self.words: Int64 = np.frombuffer(self._map, np.int64)
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    # -- the process
    @staticmethod
    def _disk_file() -> tuple[int, int, int]:
        folder = os.environ.get("SEQFAULT_TMP") or tempfile.gettempdir()
        fd, path = tempfile.mkstemp(prefix="seqfault-", dir=folder)
        try:
            return fd, os.open(path, os.O_RDONLY), os.open(path, os.O_WRONLY)
        finally:
            os.unlink(path)

    def _start(self) -> None:
        o = self.options
        self.words[: abi.HEADER_BYTES // 8] = 0
        for k, v in header_words(o, o.max_rows, o.stream_words).items():
            self.words[k] = v
        image = os.memfd_create("seqfault-runner")
        os.write(image, runner_image())
        hear, self._bell = os.pipe()
        self._ear, speak = os.pipe()
        # descriptors go where the runner expects them; first out of each other's way
        want = {hear: 0, speak: 1, self._memfd: 3} | {fd: abi.FD_DISK + i for i, fd in enumerate(self._disk)}
        top = 100 + max(*want, image)
        high = {fd: top + 1 + i for i, fd in enumerate(want)}
        actions: list[Any] = [(os.POSIX_SPAWN_DUP2, fd, h) for fd, h in high.items()]
        actions += [(os.POSIX_SPAWN_DUP2, image, top)]
        actions += [(os.POSIX_SPAWN_DUP2, high[fd], to) for fd, to in want.items()]
        actions += [(os.POSIX_SPAWN_CLOSE, h) for h in high.values()]
        try:
            self._pid = os.posix_spawn(
                f"/proc/self/fd/{top}", ["seqfault-runner"], {}, file_actions=actions, setpgroup=0
            )
        except OSError as e:
            raise KernelError(f"the runner cannot be started: {e}; /proc must be mounted") from None
        finally:
            for fd in (image, hear, speak):
                os.close(fd)
        why = self._wait(started=False)
        if why:
            raise KernelError(f"the runner did not get ready: {why}")
        self.ready = int(self.words[abi.H_READY])

    def _ring(self) -> None:
        """Tell the runner that there is a batch."""
        os.write(self._bell, b"\1")

    def _stop(self) -> int:
        """End the runner and all its processes; its wait status."""
        status = 0
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)
            _, status = os.waitpid(self._pid, 0)
            self._pid = 0
        for fd in (self._bell, self._ear):
            if fd >= 0:
                os.close(fd)
        self._bell = self._ear = -1
        return status

    def _wait(self, started: bool = True) -> str:
        """Until the runner rings: "", or why it never will."""
        seen, since = -1, time.monotonic()
        while True:
            got, _, _ = select.select([self._ear], [], [], min(1.0, self.options.timeout))
            if got:
                if os.read(self._ear, 1):
                    return ""
                pid, status = os.waitpid(self._pid, os.WNOHANG)
                if pid == 0:
                    os.killpg(self._pid, signal.SIGKILL)
                    _, status = os.waitpid(self._pid, 0)
                self._pid = 0
                return f"the runner's master ended ({status_text(status)})"
            row = int(self.words[abi.H_ROW]) if started else -1
            if row != seen:
                seen, since = row, time.monotonic()
            elif time.monotonic() - since > self.options.timeout:
                return f"no answer for {self.options.timeout:g} s"

    def details(self, every: int) -> None:
        """Read smaps every `every` rows from now on (0: never)."""
        if every != self.options.detail_every:
            self._stop()  # the next batch starts it again
            self.options = replace(self.options, detail_every=every)

    # -- programs
    def run(self, rows: Int64, starts: Sequence[int] | None = None) -> tuple[Int64, Int64, str]:
        """Run programs: the stream, where each row's record begins (one more than there are records), and "" or why
        there are fewer records than rows.  `starts`: not needed, programs begin at rows with operation 0."""
        rows = np.ascontiguousarray(rows, np.int64)
        if rows.ndim != 2 or rows.shape[1] != abi.ROW_WORDS:
            raise ValueError(f"rows of shape {rows.shape}; {abi.ROW_WORDS} words each are needed")
        if len(rows) == 0:
            return np.empty(0, np.int64), np.zeros(1, np.int64), ""
        streams: list[Int64] = []
        offsets: list[Int64] = [np.zeros(1, np.int64)]
        base, why = 0, ""
        todo = batches(rows, self.options.max_rows)[::-1]
        while todo and not why:
            begin, end = todo.pop()
            stream, offs, done, why = self._batch(rows[begin:end])
            streams.append(stream)
            offsets.append(offs[1:] + base)
            base += len(stream)
            if not why and done < end - begin:
                if done == 0:
                    raise KernelError("a program's records do not fit the shared memory; raise option stream_words")
                todo.append((begin + done, end))
        return np.concatenate(streams), np.concatenate(offsets), why

    def _batch(self, rows: Int64) -> tuple[Int64, Int64, int, str]:
        """As `run`, and how many rows there was room for."""
        if not self._pid:
            self._start()
        w, n = self.words, len(rows)
        at = abi.HEADER_BYTES // 8
        w[at : at + n * abi.ROW_WORDS] = rows.reshape(-1)
        w[abi.H_NR_ROWS] = n
        w[abi.H_ROW] = 0
        w[abi.H_STREAM_USED] = 0
        w[abi.H_COMMAND] += 1
        self._ring()
        why = self._wait()
        offs_at = int(w[abi.H_OFFSETS]) // 8
        stream_at = int(w[abi.H_STREAM]) // 8
        if why:
            done = int(w[abi.H_ROW])
            self._stop()
            why = f"{self.row_text(rows[done])}, row {done} of the batch: {why}"
        elif w[abi.H_DEATHS]:
            done = int(w[abi.H_DEAD_ROW])
            crash = crash_text([int(x) for x in w[abi.H_CRASH : abi.H_CRASH + 4]])
            how = crash or status_text(int(w[abi.H_DEAD_STATUS]))
            why = (
                f"process {int(w[abi.H_DEAD_WHO])} died at {self.row_text(rows[done])}, row {done} of the batch: {how}"
            )
        else:
            done = int(w[abi.H_ROWS_DONE])
        offs = w[offs_at : offs_at + done + 1].copy()
        stream = w[stream_at : stream_at + int(offs[done])].copy()
        if self.options.ticks:
            for name, x in zip(TICKS, w[abi.H_TICKS : abi.H_TICKS + len(TICKS)], strict=True):
                self.ticks[name] = self.ticks.get(name, 0) + int(x)
        return stream, offs, done, why

    @staticmethod
    def row_text(row: Int64) -> str:
        return f"{NAMES.get(int(row[0]), f'operation {int(row[0])}')}({', '.join(map(str, row[2:]))})"

    # -- what is compared, and what is not
    @property
    def frames(self) -> bool:
        """Whether frames can be seen: without root, /proc/PID/pagemap hides them."""
        return bool(self.ready & abi.R_FRAMES)

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes of the text that depend on this machine."""
        return {"RA_PAGES": self.ra_pages}

    @property
    def ra_pages(self) -> int:
        """How many pages are read ahead of the file on disk: the model's RA_PAGES."""
        dev = os.fstat(self._disk[0]).st_dev
        try:
            with open(f"/sys/class/bdi/{os.major(dev)}:{os.minor(dev)}/read_ahead_kb") as f:
                return int(f.read()) * 1024 // mmap.PAGESIZE
        except (OSError, ValueError):
            return 32

    @property
    def mask(self) -> Mask:
        """What this kernel shows."""
        return Mask(LOW if self.frames else LOW & ~ZERO, self.frames)

    @property
    def query(self) -> bool:
        return bool(self.ready & abi.R_QUERY)

    @property
    def controls(self) -> list[Control]:
        """What of this machine could disturb the comparison, and what became of it."""
        return controls(self.ready, int(self.words[abi.H_FAULT_AROUND]))

    def close(self) -> None:
        self._stop()
        for fd in (*self._disk, self._memfd):
            if fd >= 0:
                os.close(fd)
        self._disk, self._memfd = (-1, -1, -1), -1

    def __enter__(self) -> LiveKernel:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_live(geometry: Geometry, detail_every: int) -> LiveKernel:
    """The kernel's side of `fuzz`."""
    return LiveKernel(
        Options(
            nr_pages=geometry.nr_pages,
            spans=tuple(geometry.spans),
            heap_page=geometry.heap_page,
            detail_every=detail_every,
        )
    )


TICKS = ("perform", "vmas", "pages", "process 1", "programs", "details", "files")


def status_text(status: int) -> str:
    """A wait status in words."""
    if os.WIFSIGNALED(status):
        return f"killed by signal {os.WTERMSIG(status)}"
    code = os.WEXITSTATUS(status)
    return {
        abi.EXIT_SETUP: "it could not prepare its address space",
        abi.EXIT_LOST: "process 1 did not answer",
    }.get(code, f"exit status {code}")
