"""Address-space layouts as /proc shows them: read from maps or smaps, kept in a recording, compared.

A file of layouts is text: a line ``# KERNEL ...`` with what the machine was set to, then for each layout a line
``= FROM TO PID WHEN key=value...`` (seconds; WHEN: start, after an execve; end, before the exit; mid) and its lines of
/proc/PID/maps, each with ``<tab>anon=KB rss=KB flags=rd,wr,...`` from smaps.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from seqfault.trace.strace import Problem, nanoseconds, open_text

MAPS = re.compile(
    r"([0-9a-f]+)-([0-9a-f]+) ([r-][w-][x-][sp]) ([0-9a-f]+) ([0-9a-f]+:[0-9a-f]+) (\d+)(?: +([^\t]*))?(?:\t(.*))?$"
)


@dataclass(slots=True)
class Area:
    """One line of /proc/PID/maps; from smaps also the flags and how much is anonymous (kB, -1: not known)."""

    start: int
    end: int
    perms: str
    offset: int = 0
    dev: str = "00:00"
    inode: int = 0
    path: str = ""
    flags: frozenset[str] = frozenset()
    anon: int = -1
    rss: int = -1

    def line(self) -> str:
        """As in /proc/PID/maps, with the flags of smaps behind a tab where they are known."""
        text = (
            f"{self.start:08x}-{self.end:08x} {self.perms} {self.offset:08x} {self.dev} {self.inode} {self.path}"
        ).rstrip()
        if self.flags or self.anon >= 0:
            text += f"\tanon={self.anon} rss={self.rss} flags={','.join(sorted(self.flags))}"
        return text


@dataclass
class Layout:
    """The areas of process `pid`, read between `start` and `end` (nanoseconds)."""

    pid: int
    when: str
    start: int
    end: int
    about: dict[str, str] = field(default_factory=dict)
    areas: list[Area] = field(default_factory=list)

    def number(self, key: str, default: int = 0) -> int:
        return int(self.about[key], 0) if key in self.about else default


@dataclass
class Layouts:
    path: str
    machine: dict[str, str] = field(default_factory=dict)
    layouts: list[Layout] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def parse_area(text: str) -> Area | None:
    """A line of maps, or of a recording; None if it is not one."""
    m = MAPS.match(text)
    if not m:
        return None
    area = Area(int(m[1], 16), int(m[2], 16), m[3], int(m[4], 16), m[5], int(m[6]), m[7] or "")
    for word in (m[8] or "").split():
        key, _, value = word.partition("=")
        if key == "flags":
            area.flags = frozenset(value.split(",")) - {""}
        elif key == "anon":
            area.anon = int(value)
        elif key == "rss":
            area.rss = int(value)
    return area


def parse_smaps(text: str) -> list[Area]:
    """The areas of /proc/PID/smaps (or maps)."""
    areas: list[Area] = []
    for line in text.splitlines():
        area = parse_area(line)
        if area:
            areas.append(area)
            continue
        key, _, value = line.partition(":")
        if not areas:
            continue
        if key == "VmFlags":
            areas[-1].flags = frozenset(value.split())
        elif key == "Anonymous":
            areas[-1].anon = int(value.split()[0])
        elif key == "Rss":
            areas[-1].rss = int(value.split()[0])
    return areas


def pairs(words: Iterable[str]) -> dict[str, str]:
    return {k: v for k, _, v in (w.partition("=") for w in words)}


def read_layouts(path: Path) -> Layouts:
    """Read a file of layouts."""
    return layouts_of(str(path), open_text(path))


def layouts_of(path: str, lines: Iterable[str]) -> Layouts:
    """Layouts from their text; `path`: where it is from, for problems."""
    out = Layouts(path)
    for number, line in enumerate(lines, 1):
        if line.startswith("#"):
            out.machine = pairs(line[1:].split())
        elif line.startswith("="):
            words = line[1:].split()
            if len(words) < 4 or not words[2].isdigit():
                out.problems.append(Problem(path, number, "no header of a layout", line))
                continue
            out.layouts.append(
                Layout(int(words[2]), words[3], nanoseconds(words[0]), nanoseconds(words[1]), pairs(words[4:]))
            )
        elif line.strip():
            area = parse_area(line)
            if area is None or not out.layouts:
                out.problems.append(Problem(path, number, "no line of maps", line))
            else:
                out.layouts[-1].areas.append(area)
    return out


def seconds(ns: int) -> str:
    return f"{ns // 1_000_000_000}.{ns % 1_000_000_000:09d}"


def write_layout(layout: Layout) -> str:
    about = "".join(f" {k}={v}" for k, v in layout.about.items())
    head = f"= {seconds(layout.start)} {seconds(layout.end)} {layout.pid} {layout.when}{about}"
    return "\n".join([head, *(a.line() for a in layout.areas)]) + "\n"
