"""Read what `perf script` prints: one `Sample` for each event, with its call chain.

Read are the fields that ``perf script --ns -F +pid,-comm`` prints and perf's defaults (comm, tid, microseconds).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

FIELDS = "+pid,-comm,+ip,+sym,+symoff,+dso"  # for -F
SHOW = ("--ns", "--show-task-events", "--show-mmap-events", "--show-switch-events", "--show-lost-events")

OWN = re.compile(r" *(-?\d+)/(-?\d+) +\[(\d+)\] +(\d+)\.(\d{9}): +(?:(\d+) +)?([A-Za-z][\w.-]*(?::[\w-]+)?)(.*)")
ANY = re.compile(
    r"(?: *(?P<comm>\S.*?) +| *)(?:(?P<pid>-?\d+)/)?(?P<tid>-?\d+) +(?:\[(?P<cpu>\d+)\] +)?"
    r"(?P<sec>\d+)\.(?P<frac>\d+): +"
    r"(?:(?P<period>\d+) +)?(?P<event>[A-Za-z][\w.-]*(?::[\w-]+)?)(?P<rest>.*)"
)
FRAME = re.compile(r"\s+([0-9a-f]+) (.*)")


@dataclass(slots=True)
class Sample:
    """One event.  `pid` -1: not printed; `cpu` -1: not printed; `rest`: what follows the event's name and colon."""

    time: int
    pid: int
    tid: int
    cpu: int
    event: str
    rest: str
    stack: list[str] = field(default_factory=list)


@dataclass
class Source:
    """Where the text comes from, and what of it could not be read."""

    name: str
    lines: int = 0
    samples: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    first_bad: tuple[int, str] | None = None
    cut: bool = False  # the last line has no end

    def bad(self, why: str, line: str) -> None:
        self.skipped[why] += 1
        if self.first_bad is None:
            self.first_bad = (self.lines, line.strip()[:100])


def read_samples(lines: Iterable[str], source: Source) -> Iterator[Sample]:
    """Samples in the order of the text; `lines` end in newlines."""
    sample: Sample | None = None
    for line in lines:
        source.lines += 1
        if not line.endswith("\n"):
            source.cut = True
            if line:  # half a line may look like a whole one
                source.bad("cut off", line)
            continue
        m = OWN.match(line)
        if m:
            if sample is not None:
                source.samples += 1
                yield sample
            pid, tid, cpu, sec, frac, _, event, rest = m.groups()
            sample = Sample(int(sec) * 1_000_000_000 + int(frac), int(pid), int(tid), int(cpu), event, rest)
            continue
        if line == "\n":
            continue
        frame = FRAME.match(line)
        if frame and sample is not None:
            other = ANY.match(line)
            if other is None:
                sample.stack.append(frame[2].rstrip())
                continue
        if line.startswith("#"):
            continue
        m = ANY.match(line)
        if m is None:
            source.bad("not a line of perf script", line)
            continue
        if sample is not None:
            source.samples += 1
            yield sample
        frac = (m["frac"] + "000000000")[:9]
        sample = Sample(
            int(m["sec"]) * 1_000_000_000 + int(frac),
            int(m["pid"] or -1),
            int(m["tid"]),
            int(m["cpu"] or -1),
            m["event"],
            m["rest"],
        )
    if sample is not None:
        source.samples += 1
        yield sample
