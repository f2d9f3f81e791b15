"""The columns and the metadata of a trace, as docs/trace-format.md has them for those who read one with other tools.

A trace is one Parquet file: a table of events in the order of their beginnings, and JSON under the key ``seqfault`` of
the file's metadata.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import pyarrow as pa

VERSION = 1
KEY = b"seqfault"

# what happened; the comment says which columns have a special meaning there
FAULT = "fault"  # name: user or kernel; flags: error code; result: MINOR or MAJOR; a2: LOCKED_*; a3: instruction
CALL = "call"  # name: the system call; address, length, a2 to a5: its arguments; result
LOCK_WAIT = "lock_wait"  # mmap_lock asked for; name: what the thread was in; flags: WRITE; result: 1 got, 0 not
LOCK_HOLD = "lock_hold"  # mmap_lock held; name, flags as for lock_wait
OFF = "off"  # the thread was off its CPU; flags: PREEMPTED, CONTINUED
FORK = "fork"  # a task was made; result: its tid; a2: flags of clone; a3: its pid
EXEC = "exec"  # name: the program
EXIT = "exit"  # a task ended
AREA = "area"  # mapped at the start, or by execve; a2: protection; a3: MAP_*; a5: offset; file
KINDS = (FAULT, CALL, LOCK_WAIT, LOCK_HOLD, OFF, FORK, EXEC, EXIT, AREA)

MINOR, MAJOR = 0, 1
WRITE = 1  # of lock_wait and lock_hold
PREEMPTED, CONTINUED = 1, 2  # of off; CONTINUED: it goes on in the thread's next one
# a fault's a2: did it take mmap_lock, and where
LOCKED_FALLBACK = 1  # lock_mm_and_find_vma: the per-VMA lock would not do
LOCKED_ANON_VMA = 2  # __vmf_anon_prepare: the first anonymous fault of a VMA
LOCKED_OTHER = 4  # elsewhere, or there is no stack to tell
# bits of an x86 page fault's error code
PRESENT, WRITING, USER, FETCH = 1, 2, 4, 16

NAMES = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        pa.field("time_ns", pa.int64(), nullable=False),  # CLOCK_MONOTONIC, of the beginning
        pa.field("duration_ns", pa.int64()),  # null: it has none, or it is not known
        pa.field("pid", pa.int32(), nullable=False),
        pa.field("tid", pa.int32(), nullable=False),
        pa.field("cpu", pa.int16()),
        pa.field("kind", NAMES, nullable=False),
        pa.field("name", NAMES),
        pa.field("address", pa.uint64()),
        pa.field("length", pa.uint64()),
        pa.field("a2", pa.int64()),
        pa.field("a3", pa.int64()),
        pa.field("a4", pa.int64()),
        pa.field("a5", pa.int64()),
        pa.field("result", pa.int64()),  # of a call: what it returned, -errno
        pa.field("flags", pa.int32()),
        pa.field("mm", pa.int32()),  # number of the address space, from 1 on
        pa.field("stack", pa.int32()),  # index into the metadata's stacks
        pa.field("site", NAMES),  # where: symbol+offset (object), as perf prints it
        pa.field("file", NAMES),  # of an area, or of a call that maps a file
    ]
)
COLUMNS = tuple(SCHEMA.names)


@dataclass
class Missing:
    """An event that could not be had.  `costs`: what the analysis cannot say without it; `remedy`: how to get it."""

    what: str
    why: str
    costs: str
    remedy: str = ""


@dataclass
class Meta:
    """The metadata of a trace.  Times in nanoseconds of CLOCK_MONOTONIC unless their name says `wall`."""

    version: int = VERSION
    source: str = ""  # perf, strace, perf+strace; where it was imported from
    command: list[str] = field(default_factory=list)
    host: str = ""
    kernel: str = ""
    machine: str = ""
    cpus: int = 0
    page_size: int = 4096
    start_ns: int = 0
    end_ns: int = 0
    start_wall_ns: int = 0  # CLOCK_REALTIME at start_ns
    settings: dict[str, str] = field(default_factory=dict)  # max_map_count, thp, overcommit_memory, ...
    tools: dict[str, str] = field(default_factory=dict)  # versions
    recorded: list[str] = field(default_factory=list)  # kinds that were asked for and could be had
    missing: list[Missing] = field(default_factory=list)
    windows: list[list[int]] = field(default_factory=list)  # with --sample: [begin, end] of each time of recording
    lost: int = 0  # records that perf lost
    skipped: dict[str, int] = field(default_factory=dict)  # lines of an import that were skipped, by reason
    unordered: int = 0  # events that stand behind a later one
    truncated: bool = False  # the recording was cut off
    exit_code: int | None = None  # of the command; negative: the signal
    rows: int = 0
    counts: dict[str, int] = field(default_factory=dict)  # rows by kind
    stacks: list[list[str]] = field(default_factory=list)  # innermost first: symbol (object)
    layouts: list[str] = field(default_factory=list)  # as trace/layout.py writes them; times as those of events

    def encode(self) -> bytes:
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> Meta:
        """Raises ValueError for what is no metadata of a trace.  Keys that are not known are left out."""
        raw: Any = json.loads(data)
        if not isinstance(raw, dict) or not isinstance(raw.get("version"), int):
            raise ValueError("no version in it")
        known = {f.name for f in fields(cls)}
        out = cls(**{k: v for k, v in raw.items() if k in known})
        out.missing = [Missing(**m) for m in raw.get("missing", [])]
        return out

    @property
    def seconds(self) -> float:
        """How long events were recorded: all the time, or in the windows of --sample."""
        if self.windows:
            return sum(b - a for a, b in self.windows) / 1e9
        return max(0, self.end_ns - self.start_ns) / 1e9

    def has(self, kind: str) -> bool:
        """Whether events of this kind were recorded (there may be none all the same)."""
        return kind in self.recorded
