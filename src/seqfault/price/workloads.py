"""Workloads, synthetic ones: texts of a few words, as steps of the driver."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

from seqfault.mm.opcodes import MADV_DONTNEED
from seqfault.price import driver as d
from seqfault.price.clock import TICKS

Row = tuple[int, int, int, int, int]
PRIVATE, SHARED, ANON = 2, 1, 0x20
WHAT = {"anon": (0, PRIVATE | ANON), "private": (1, PRIVATE), "shared": (1, SHARED), "disk": (3, SHARED)}
RIGHTS = {"none": 0, "r": 1, "w": 2, "rw": 3, "rx": 5, "rwx": 7}
COUNT = re.compile(r"(?:(\d+)\*)?cpus(?:([+-])(\d+))?|(\d+)")


class WorkloadError(Exception):
    """A workload cannot be read; one line that says why."""


@dataclass(frozen=True)
class Role:
    """Threads that do the same: `loop` over and over, `once` before."""

    loop: tuple[str, ...]
    once: tuple[str, ...] = ()
    count: int = 0  # 0: all the others


@dataclass(frozen=True)
class Workload:
    name: str
    title: str
    unit: str
    threads: str
    setup: tuple[str, ...]
    roles: tuple[Role, ...]
    source: str = ""
    ms: float = 20.0  # of virtual time that a measurement takes

    def thread_count(self, cpus: int) -> int:
        """How many threads there are on so many CPUs."""
        m = COUNT.fullmatch(self.threads.replace(" ", ""))
        assert m is not None
        if m[4]:
            return int(m[4])
        n = cpus * int(m[1] or 1)
        return n + int(m[3]) * (1 if m[2] == "+" else -1) if m[2] else n

    def programs(self, cpus: int, page: int = 4) -> list[list[Row]]:
        """The steps of each thread, where a page has `page` KiB."""
        n = max(self.thread_count(cpus), 1 + sum(r.count for r in self.roles[1:]))
        out: list[list[Row]] = []
        for role in self.roles[1:]:
            out += [in_pages(role_rows(role), page) for _ in range(role.count)]
        rest = n - len(out)
        return [in_pages(role_rows(self.roles[0]), page)] * rest + out

    def setup_rows(self, page: int = 4) -> list[Row]:
        return in_pages(rows_of(self.setup), page)


def role_rows(role: Role) -> list[Row]:
    """A loop whose first mappings are kept: `keep` maps once, however often it comes by."""
    return rows_of([*role.once, *role.loop])


def in_pages(rows: list[Row], page: int) -> list[Row]:
    """The same steps on pages of `page` KiB; texts count in pages of 4."""
    k = max(page // 4, 1)
    long = {d.DO_MMAP, d.DO_TOUCH, d.DO_MUNMAP, d.DO_PROTECT, d.DO_ADVISE, d.DO_RANDOM}  # b: how many pages
    out = []
    for op, a, b, c, e in rows:
        if op in long and b > 0:  # else a register
            b = -(-b // k)
        if op in long - {d.DO_MMAP} and c > 0:  # the first of them
            c //= k
        out.append((op, a, b, c, e))
    return out


def number(text: str, line: str, least: int = 0) -> int:
    """A number, or a register as the driver has it: minus its number."""
    m = re.fullmatch(r"r(\d+)", text)
    if m and 1 <= int(m[1]) < d.NR_REGS:
        return -int(m[1])
    if not text.isdigit() or not least <= int(text) < 1 << 40:
        raise WorkloadError(f"{line!r}: {text!r} is no number and no register r1 to r{d.NR_REGS - 1}")
    return int(text)


def register(text: str, line: str) -> int:
    n = -number(text, line)
    if n <= 0:
        raise WorkloadError(f"{line!r}: {text!r} is no register; write r1 to r{d.NR_REGS - 1}")
    return n


ARGUMENTS = {
    "map": 3, "keep": 3, "write": 3, "read": 3, "count": 3, "walk": 3, "unmap": 3, "advise": 3, "protect": 4,
    "think": 1, "sleep": 1, "random": 2, "unit": 1,
}  # fmt: skip


def row(line: str) -> list[Row]:
    """One line as steps.  Raises `WorkloadError`."""
    word, *a = line.split()
    if word not in ARGUMENTS:
        near = get_close_matches(word, ARGUMENTS, 1)
        hint = f"did you mean {near[0]}?" if near else ", ".join(ARGUMENTS)
        raise WorkloadError(f"{line!r}: no word {word!r}; {hint}")
    if len(a) != ARGUMENTS[word]:
        raise WorkloadError(f"{line!r}: {word} takes {ARGUMENTS[word]} arguments, {len(a)} given")
    if word in ("map", "keep"):
        if a[2] not in WHAT:
            raise WorkloadError(f"{line!r}: {a[2]!r} is none of {', '.join(WHAT)}")
        file, flags = WHAT[a[2]]
        once = 1 << 48 if word == "keep" else 0
        return [(d.DO_MMAP, register(a[0], line), number(a[1], line, 1), file, 3 | flags << 8 | once)]
    if word in ("write", "read", "count"):
        r, first = register(a[0], line), number(a[1], line)
        return [(d.DO_TOUCH, r, number(a[2], line, 1), first, {"read": 0, "write": 1, "count": 3}[word])]
    if word == "walk":
        r, n, by = register(a[0], line), number(a[1], line, 1), number(a[2], line, 1)
        return [(d.DO_TOUCH, r, 1, i, 0) for i in range(0, n, by)]
    if word in ("unmap", "advise"):
        op, advice = (d.DO_MUNMAP, 0) if word == "unmap" else (d.DO_ADVISE, MADV_DONTNEED)
        return [(op, register(a[0], line), number(a[2], line, 1), number(a[1], line), advice)]
    if word == "protect":
        if a[3] not in RIGHTS:
            raise WorkloadError(f"{line!r}: {a[3]!r} is none of {', '.join(RIGHTS)}")
        return [(d.DO_PROTECT, register(a[0], line), number(a[2], line, 1), number(a[1], line), RIGHTS[a[3]])]
    if word == "random":
        return [(d.DO_RANDOM, register(a[0], line), number(a[1], line, 1), 0, 0)]
    n = number(a[0], line)
    if n < 0:
        raise WorkloadError(f"{line!r}: {word} takes a number")
    op = {"think": d.DO_THINK, "sleep": d.DO_SLEEP, "unit": d.DO_UNIT}[word]
    return [(op, 0, n if word == "unit" else n * TICKS, 0, 0)]


def rows_of(lines: Sequence[str]) -> list[Row]:
    return [r for line in lines for r in row(line)]


def builtin() -> dict[str, Any]:
    return tomllib.loads(resources.files("seqfault.price").joinpath("workloads.toml").read_text())


def read(name: str) -> list[Workload]:
    """A built-in workload, or all of a TOML file.  Raises `WorkloadError`."""
    table = builtin()
    if name in table:
        return [make(name, table[name], name)]
    path = Path(name)
    if path.suffix == ".toml" or path.exists():
        try:
            own = tomllib.loads(path.read_text())
        except OSError as e:
            raise WorkloadError(f"--workload {name}: {e.strerror}; there are {', '.join(table)}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
            raise WorkloadError(f"--workload {name} is no TOML: {e}") from None
        if not own:
            raise WorkloadError(f"--workload {name}: no workload in it; write a table [name] with loop = [...]")
        return [make(k, v, f"{name}: [{k}]") for k, v in own.items()]
    near = get_close_matches(name, table, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(table)}; or give a .toml file"
    raise WorkloadError(f"no workload named {name!r}; {hint}")


def lines_of(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(x, str) and x.split() for x in value):
        raise WorkloadError(f"{where}: a list of lines is wanted, e.g. loop = [\"map r1 16 anon\", \"unit 1\"]")
    try:
        rows_of(value)
    except WorkloadError as e:
        raise WorkloadError(f"{where}: {e}") from None
    return tuple(value)


def make(name: str, t: Any, where: str) -> Workload:
    if not isinstance(t, Mapping) or "loop" not in t:
        raise WorkloadError(f"{where}: it has no loop; write loop = [\"map r1 16 anon\", \"unit 1\"]")
    unknown = set(t) - {"title", "unit", "threads", "setup", "loop", "role", "source", "ms"}
    if unknown:
        raise WorkloadError(f"{where}: {sorted(unknown)[0]!r} is no key of a workload")
    threads = str(t.get("threads", "cpus"))
    if not COUNT.fullmatch(threads.replace(" ", "")):
        raise WorkloadError(f"{where}: threads = {threads!r}; write cpus, 2*cpus, cpus+1 or a number")
    ms = t.get("ms", 20.0)
    if not isinstance(ms, int | float) or not 0.1 <= ms <= 100_000:
        raise WorkloadError(f"{where}: ms = {ms!r}; it is a time in ms")
    roles = [Role(lines_of(t["loop"], f"{where}: loop"))]
    for r in t.get("role", []):
        count = r.get("count", 1)
        if not isinstance(count, int) or not 1 <= count <= 1024:
            raise WorkloadError(f"{where}: count = {count!r} of a role; it is a number from 1 on")
        roles.append(Role(lines_of(r.get("loop"), f"{where}: role"), count=count))
    if not any(line.split()[0] in ("unit", "count") for line in t["loop"]):
        raise WorkloadError(f"{where}: its loop counts nothing; add \"unit 1\"")
    return Workload(
        name, str(t.get("title", name)), str(t.get("unit", "units")), threads,
        lines_of(t.get("setup", []), f"{where}: setup"), tuple(roles), str(t.get("source", "")), float(ms),
    )  # fmt: skip
