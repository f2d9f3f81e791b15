"""How many faults ran while another thread of the process was in a call that changes mappings.

Events come by batches in the order of their beginnings; what may still meet a later event is kept.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
EMPTY = np.zeros((0, 5), np.int64)  # columns: start, end, pid, tid, number of the call's name
FAR = 1 << 22  # events kept, at most
START, END, PID, TID, NAME = range(5)


class Overlap:
    """`faults`: how many were looked at; `overlapped`: how many of them met a call; `by_name`: with which calls."""

    def __init__(self) -> None:
        self.faults = 0
        self.overlapped = 0
        self.by_name: Counter[int] = Counter()
        self.waiting, self.calls = EMPTY, EMPTY
        self.given_up = 0  # faults that were decided before all calls were there

    def feed(self, faults: Ints, calls: Ints, horizon: int) -> None:
        """`horizon`: what follows begins no earlier."""
        faults[:, END] = np.maximum(faults[:, END], faults[:, START] + 1)  # one whose duration is not known is a moment
        waiting = np.concatenate([self.waiting, faults])
        self.calls = np.concatenate([self.calls, calls])
        done = waiting[:, END] <= horizon
        if len(waiting) > FAR:
            self.given_up += int((~done).sum())
            done[:] = True
        self.decide(waiting[done])
        self.waiting = waiting[~done]
        oldest = min(horizon, int(self.waiting[:, START].min())) if len(self.waiting) else horizon
        self.calls = self.calls[self.calls[:, END] > oldest]

    def finish(self) -> None:
        self.decide(self.waiting)
        self.waiting = self.calls = EMPTY

    def decide(self, faults: Ints) -> None:
        self.faults += len(faults)
        if not len(faults) or not len(self.calls):
            return
        for pid in np.unique(faults[:, PID]).tolist():
            mine = faults[faults[:, PID] == pid]
            calls = self.calls[self.calls[:, PID] == pid]
            if len(np.unique(calls[:, TID])) == 0:
                continue
            met = np.zeros(len(mine), bool)
            for name in np.unique(calls[:, NAME]).tolist():
                here = self.others(mine, calls[calls[:, NAME] == name]) > 0
                self.by_name[name] += int(here.sum())
                met |= here
            self.overlapped += int(met.sum())

    @staticmethod
    def others(faults: Ints, calls: Ints) -> Ints:
        """For each fault, how many calls of other threads it overlaps: all, less its own thread's."""
        out = crossing(faults, calls)
        for tid in np.unique(calls[:, TID]).tolist():
            at = faults[:, TID] == tid
            if at.any():
                out[at] -= crossing(faults[at], calls[calls[:, TID] == tid])
        return out


def crossing(faults: Ints, calls: Ints) -> Ints:
    """How many calls begin before a fault ends, less those that end before it begins."""
    begun = np.searchsorted(np.sort(calls[:, START]), faults[:, END], "left")
    over = np.searchsorted(np.sort(calls[:, END]), faults[:, START], "right")
    return np.asarray(begun - over, np.int64)
