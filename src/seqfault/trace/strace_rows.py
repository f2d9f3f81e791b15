"""What strace saw as rows of a trace: calls with arguments and durations, tasks that begin and end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from seqfault.mm import opcodes as op
from seqfault.trace import schema as s
from seqfault.trace.assemble import ADDRESSED, CALLS
from seqfault.trace.calls import CLONE, DecodeError, clone_flags, decode, result
from seqfault.trace.perf_script import Source
from seqfault.trace.store import row
from seqfault.trace.strace import Call, Ended, Strace, walk

# what a trace holds of it; an older strace does not know mseal, and may leave it out
TRACED = (*(f"?{c}" if c == "mseal" else c for c in CALLS), "clone", "clone3", "fork", "vfork", "execve", "execveat")
MOST_PROBLEMS = 1000


class StraceRows:
    """Rows from the text of strace.

    `offset`: to be added to its times, which are of CLOCK_REALTIME.  `pids`: the process of each thread, as far as it
    is known.  `tasks`: whether what begins and ends tasks is wanted, which perf sees too.  While it is iterated,
    `clock` is how far it is, and nothing that begins before `settled` follows.
    """

    def __init__(self, lines: Iterable[str], source: Source, offset: int, pids: dict[int, int], tasks: bool = True):
        self.source, self.offset, self.pids, self.tasks = source, offset, pids, tasks
        self.halves: dict[int, Call] = {}
        self.out = Strace(source.name)
        self.items = walk(self.counted(lines), self.out, self.halves)
        self.clock = -(1 << 63)
        self.end = -(1 << 63)  # of the last call

    def counted(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            self.source.lines += 1
            yield line

    @property
    def settled(self) -> int:
        return min([self.clock, *(c.start + self.offset for c in self.halves.values())])

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for item in self.items:
            start = item.start if isinstance(item, Call) else item.end
            self.clock = max(self.clock, start + self.offset)
            self.end = max(self.end, item.end + self.offset)
            self.source.samples += 1
            if isinstance(item, Ended):
                if self.tasks:
                    yield row(item.end + self.offset, self.pid(item.tid), item.tid, s.EXIT)
            else:
                yield from self.call(item)
            self.problems()
        self.problems()

    def problems(self) -> None:
        """Counted, not kept: a text may be all problems."""
        for p in self.out.problems:
            why = p.why
            for name in (" is never resumed", " was not begun", " was begun"):
                if why.endswith(name):
                    why = f"calls of which one half is missing ({name.strip()})"
            self.source.skipped[why] += 1
            if self.source.first_bad is None:
                self.source.first_bad = (p.line, p.text[:100])
        self.out.problems.clear()

    def pid(self, tid: int) -> int:
        return self.pids.setdefault(tid, tid)

    def call(self, c: Call) -> Iterator[tuple[Any, ...]]:
        start, pid = c.start + self.offset, self.pid(c.tid)
        duration = c.end - c.start if c.ret is not None or c.errno else None
        if c.name.startswith("exec") and not c.errno:
            if self.tasks:
                yield row(start, pid, c.tid, s.EXEC, name=c.args[0].strip('"') if c.args else None,
                          duration_ns=duration)  # fmt: skip
        elif c.name in ("clone", "clone3", "fork", "vfork"):
            if c.ret and not c.errno:
                flags = clone_flags(c)
                self.pids[c.ret] = pid if flags & CLONE["CLONE_THREAD"] else c.ret
                if self.tasks:
                    yield row(start, pid, c.tid, s.FORK, result=c.ret, a2=flags, a3=self.pids[c.ret])
        elif c.name in CALLS:
            try:
                values = self.arguments(c)
                value = result(c)
            except (DecodeError, IndexError) as e:
                self.source.skipped["arguments that could not be read"] += 1
                if self.source.first_bad is None:
                    self.source.first_bad = (c.line, str(e))
                return
            yield row(start, pid, c.tid, s.CALL, duration_ns=duration, result=value, **values)

    def arguments(self, c: Call) -> dict[str, Any]:
        out: dict[str, Any] = {"name": c.name}
        known = decode(c)
        if known is None:
            return out
        args = list(known.args)
        if args:
            out["address"] = args[0] % (1 << 64)
        if c.name in ADDRESSED:
            out["length"] = args[1] % (1 << 64)
            out |= dict(zip(("a2", "a3", "a4", "a5"), args[2:], strict=False))
        if known.op == op.OP_MMAP and known.fd is not None and known.fd.path:
            out["file"] = known.fd.path
        return out
