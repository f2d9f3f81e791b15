"""Read the output of strace: ``strace -f -ttt -T -y -o FILE -e trace=memory,...``, as strace 6.1 prints it.

Lines that strace printed in two halves (``<unfinished ...>``, ``<... NAME resumed>``) are joined by thread.  What
cannot be read is kept as a `Problem` with its place; nothing is dropped without a word.
"""

from __future__ import annotations

import gzip
import lzma
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO


@dataclass(slots=True)
class Call:
    """A system call.  Times in nanoseconds; `end` is when strace saw it return.

    `ret` is what it returned (None: it never returned); `errno` the name of the error, else "".
    """

    line: int
    tid: int
    start: int
    end: int
    name: str
    args: tuple[str, ...]
    ret: int | None = None
    errno: str = ""
    effect: int = 0  # when it took effect, for ordering; `order` sets it
    path: str = ""  # what -y prints behind a descriptor that the call returned

    def __str__(self) -> str:
        if self.ret is None:
            out = "?"
        elif self.errno:
            out = f"-1 {self.errno}"
        else:
            out = hex(self.ret) if abs(self.ret) > 0xFFFFF else str(self.ret)
        return f"{self.name}({', '.join(self.args)}) = {out}"


@dataclass(slots=True)
class Ended:
    """``+++ exited with 0 +++``, ``+++ killed by SIGKILL +++``, ``+++ superseded by execve in pid 7 +++``."""

    line: int
    tid: int
    end: int
    how: str
    effect: int = 0

    def __str__(self) -> str:
        return self.how


@dataclass(slots=True)
class Problem:
    """A line that could not be read, or not joined."""

    path: str
    line: int
    why: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.why}: {self.text[:120]}"


@dataclass
class Strace:
    """What a file of strace says, in the order of the calls' returns."""

    path: str
    calls: list[Call] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    signals: int = 0


def open_text(path: Path) -> Iterator[str]:
    """The lines of a file, which may be compressed (.xz, .gz)."""
    opener: Callable[..., TextIO] = {".xz": lzma.open, ".gz": gzip.open}.get(path.suffix, open)  # type: ignore[assignment]
    with opener(path, "rt", errors="replace") as stream:
        for line in stream:
            yield line.rstrip("\n")


LINE = re.compile(r"(?:\[pid\s+(\d+)\]\s+|(\d+)\s+(?=\d+\.\d))?(\d+\.\d+)\s+(.*)")
CALL = re.compile(r"([A-Za-z_]\w*)\(")
RESUMED = re.compile(r"<\.\.\. (\S+) resumed>\s?(.*)")
UNFINISHED = re.compile(r"(.*?)\s*<unfinished \.\.\.>\s*$")
GONE = re.compile(r"(.*?),?\s*(?:<unfinished \.\.\.>)?\)?\s*= \?\s*$")
RETURN = re.compile(
    r"\s*= (?:(\?)|(-?\d+|0x[0-9a-f]+)(?:<([^>]*>(?:\(deleted\))?))?)(?: (E[A-Z0-9]+|ERESTART\w+))?"
    r"(?: \((?:[^()]|\([^()]*\))*\))*(?: <(\d+\.\d+)>)?\s*$"
)
MARKS = re.compile(r"\+\+\+ (.*) \+\+\+")
SIGNAL = re.compile(r"--- (.*) ---")
DESCRIPTOR = re.compile(r"(?:-?\d+|AT_FDCWD)<(?!<)")
CLOSERS = {"(": ")", "[": "]", "{": "}"}


def nanoseconds(text: str) -> int:
    whole, _, part = text.partition(".")
    return int(whole) * 1_000_000_000 + int((part + "000000000")[:9])


def split_args(text: str) -> tuple[list[str], int]:
    """The arguments at the start of `text`, and where the closing parenthesis is (-1: it is not there).

    Commas inside brackets, strings, comments and the paths that -y adds to descriptors do not separate.
    """
    args: list[str] = []
    stack: list[str] = []
    begin = i = 0
    n = len(text)
    while i < n:
        c = text[i]
        if c == '"':
            i += 1
            while i < n and text[i] != '"':
                i += 2 if text[i] == "\\" else 1
        elif c == "/" and text.startswith("/*", i):
            close = text.find("*/", i)
            i = n if close < 0 else close + 1
        elif c in CLOSERS:
            stack.append(CLOSERS[c])
        elif stack and c == stack[-1]:
            stack.pop()
        elif c == ")" and not stack:
            last = text[begin:i].strip()
            return ([*args, last] if last or args else args), i
        elif c == "," and not stack:
            args.append(text[begin:i].strip())
            begin = i + 1
        elif (c.isdigit() or c in "-A") and (i == begin or text[i - 1] in " ,([{="):
            m = DESCRIPTOR.match(text, i)
            if m:
                close = text.find(">", m.end())
                i = n if close < 0 else close
        i += 1
    last = text[begin:].strip()
    return ([*args, last] if last or args else args), -1


def read_strace(path: Path, lines: Iterable[str] | None = None) -> Strace:
    """Read a file of strace."""
    out = Strace(str(path))
    for item in walk(lines if lines is not None else open_text(path), out, {}):
        if isinstance(item, Call):
            out.calls.append(item)
        else:
            out.ended.append(item)
    out.calls.sort(key=lambda c: (c.end, c.line))
    return out


def walk(lines: Iterable[str], out: Strace, halves: dict[int, Call]) -> Iterator[Call | Ended]:
    """Calls and ends as the lines complete them; problems and signals go to `out`.  `halves`: calls that are begun."""
    texts: dict[int, str] = {}

    def bad(line: int, why: str, text: str) -> None:
        out.problems.append(Problem(out.path, line, why, text))

    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        m = LINE.match(text)
        if not m:
            if not text.startswith("strace: "):  # what strace itself says between the lines
                bad(number, "no time stamp (strace -ttt)", text)
            continue
        tid = int(m[1] or m[2] or 0)
        now = nanoseconds(m[3])
        rest = m[4]
        if rest.startswith("+++"):
            mark = MARKS.match(rest)
            if not mark:
                bad(number, "unknown line", text)
                continue
            half = halves.pop(tid, None)
            if half:  # killed inside of the call
                yield half
            yield Ended(number, tid, now, mark[1])
            continue
        if rest.startswith("---"):
            out.signals += 1
            if not SIGNAL.match(rest):
                bad(number, "unknown line", text)
            continue
        resumed = RESUMED.match(rest)
        if resumed:
            half = halves.pop(tid, None)
            if half is None or half.name != resumed[1]:
                bad(number, f"{resumed[1]} was not begun" if half is None else f"{half.name} was begun", text)
                continue
            call, tail = half, texts.pop(tid) + resumed[2]
        else:
            m2 = CALL.match(rest)
            if not m2:
                bad(number, "unknown line", text)
                continue
            if tid in halves:
                bad(halves[tid].line, f"{halves[tid].name} is never resumed", texts[tid])
                del halves[tid]
            call, tail = Call(number, tid, now, now, m2[1], ()), rest[m2.end() :]
        cut = UNFINISHED.match(tail)
        if cut:
            call.args = tuple(split_args(cut[1])[0])
            halves[tid], texts[tid] = call, cut[1]
            continue
        args, close = split_args(tail)
        if close < 0:
            gone = GONE.match(tail)
            if not gone:
                bad(number, "the call has no end", text)
                continue
            call.args = tuple(split_args(gone[1])[0])
            yield call
            continue
        call.args = tuple(args)
        ret = RETURN.match(tail, close + 1)
        if not ret:
            bad(number, "no result that can be read", text)
            continue
        call.end = call.start + nanoseconds(ret[5]) if ret[5] else now
        if not ret[1]:
            call.ret = int(ret[2], 0)
        call.errno = ret[4] or ""
        call.path = (ret[3] or "").replace(">", "", 1)
        yield call
    for tid, half in halves.items():
        bad(half.line, f"{half.name} is never resumed", texts[tid])
        yield half
    halves.clear()
