"""Which threads of a recording depend on each other other than through what they map: by the break, and by locks of
the program's own.

A thread that slept for a lock waits in the replay until the thread that let it go on has come as far, not as long as it
was recorded to: with a recorder locks are held for longer.  Who that was no recording tells.  It is taken to be the
only thread that was on a CPU at that moment; where there were several, and where a thread slept for longer than
`LOCKED_MOST`, which a timer or a device may have ended, sleep stays sleep.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from seqfault.price import driver as d
from seqfault.price.clock import TICKS
from seqfault.price.converter import Converter, Row

LOCKED_MOST = 1_000_000  # ns
NR_MARKS = 1 << 18  # NR_MAPS of price/world.py; marks that are no mapping's are counted from the last one down


class Together:
    """Steps that are put into programs which are there already: before a step, or into one that takes time."""

    def __init__(self, c: Converter):
        self.c = c
        self.before: dict[int, list[tuple[int, int, Row]]] = {}  # thread -> step, order, row
        self.within: dict[int, dict[int, list[tuple[int, Row]]]] = {}  # thread -> step -> ticks from its beginning, row
        self.marks = NR_MARKS

    def put(self, tid: int, at: int, order: int, row: Row) -> None:
        self.before.setdefault(tid, []).append((at, order, row))

    def meet(self) -> None:
        """Threads that move one break are held together.

        Each brk waits for the one before it (price/converter.py).  A thread that is ahead would do nothing exactly
        while another one moves the break, which the recording had it fault beside; so it waits before, at what it did
        next when the other one was about to, and goes on as long after as it did.
        """
        c = self.c
        who = {tid for tid, *_ in c.marks}
        if len(who) < 2:
            return
        for tid, k, when, m in c.marks:
            self.put(tid, k, 0, (d.DO_MARK, 0, m, 0, 0))
            for other in who - {tid}:
                events = c.begun[other]
                i = bisect_right(events, (when, 1 << 62))
                if i < len(events):
                    time, at, pause, _ = events[i]
                    self.put(other, at, 1, (d.DO_MEET, 0, m, min(time - when, pause) * TICKS, 0))

    def wake(self, latency: int) -> None:
        """`latency`: from waking a thread until it runs, ns."""
        c = self.c
        ends = {tid: [b for _, b in away] for tid, away in c.away.items()}
        for tid, step, start, until in c.slept:
            if until - start > LOCKED_MOST:
                continue
            when = max(until - latency, start)
            running = [x for x in c.begun if x != tid and self.runs(x, when, ends)]
            if len(running) != 1 or self.marks - 1 <= len(c.size):
                continue
            self.marks -= 1
            row = (d.DO_MARK, 0, self.marks, 0, 0)
            if self.mark(running[0], when, row):
                c.programs[tid][step] = (d.DO_WOKEN, 0, self.marks, (until - when) * TICKS, 0)

    def hand(self) -> None:
        """Who takes a mapping that another thread has let go of does not do so before."""
        for tid, at, to, step in self.c.handed:
            if self.marks - 1 > len(self.c.size):
                self.marks -= 1
                self.put(tid, at, 0, (d.DO_MARK, 0, self.marks, 0, 0))
                self.put(to, step, 1, (d.DO_MEET, 0, self.marks, 0, 0))

    def runs(self, tid: int, when: int, ends: dict[int, list[int]]) -> bool:
        """Whether a thread was on a CPU."""
        events = self.c.begun[tid]
        if not events[0][0] <= when < events[-1][0]:
            return False
        away = self.c.away.get(tid, [])
        i = bisect_right(ends.get(tid, []), when)
        return i == len(away) or away[i][0] > when

    def mark(self, tid: int, when: int, row: Row) -> bool:
        """Where the thread was then; behind a call or a fault, if it was in one."""
        thought = self.c.thought.get(tid, [])
        i = bisect_right(thought, (when, 1 << 62, 0)) - 1
        if i >= 0 and when < thought[i][1]:
            start, end, step = thought[i]
            ticks = self.c.programs[tid][step][2]
            inside = self.within.setdefault(tid, {}).setdefault(step, [])
            inside.append((ticks * (when - start) // (end - start), row))
            return True
        events = self.c.begun[tid]
        j = bisect_left(events, (when, 0, 0, 0))
        if j == len(events):
            return False
        self.put(tid, events[j][3], 0, row)
        return True

    def done(self) -> None:
        """Put them there."""
        for tid in {*self.before, *self.within}:
            p = self.c.programs[tid]
            out: list[Row] = []
            at = 0
            rows = [(k, order, [row], 0) for k, order, row in self.before.get(tid, [])]
            rows += [(k, 2, parts(p[k][2], x), 1) for k, x in self.within.get(tid, {}).items()]
            for k, _, new, instead in sorted(rows):
                out += [*p[at:k], *new]
                at = k + instead
            self.c.programs[tid] = out + p[at:]


def parts(ticks: int, inside: list[tuple[int, Row]]) -> list[Row]:
    """Time to pass, with steps in it."""
    out: list[Row] = []
    at = 0
    for when, row in sorted(inside):
        out += [(d.DO_THINK, 0, when - at, 0, 0), row]
        at = when
    return [*out, (d.DO_THINK, 0, ticks - at, 0, 0)]
