"""How many states an exploration will have: told from how the depths have grown, and only where that can be told.

The number of states at each depth rises and falls much like a bell, so its logarithm like a parabola, which is fitted
to the depths so far.  It is an estimate for the eye: nothing is told before the widest depth is past, while the fit is
bad, or while it changes from depth to depth.
"""

from __future__ import annotations

import math

import numpy as np

FEWEST = 16  # depths
PAST = 0.9  # of the widest depth
MISFIT = 0.12  # of the logarithms, at most
AGREE = 1.3  # the last estimates differ by such a factor at most
LAST = 4
MOST = 1 << 50


class Forecast:
    """Fed with each depth as it begins, it estimates all states."""

    def __init__(self) -> None:
        self.widths: dict[int, int] = {}
        self._last: list[float] = []

    def see(self, depth: int, width: int, counted: int) -> int | None:
        """The depth `depth` has `width` states, and all depths up to it have `counted`; the states that there will
        be, or None where that cannot be told."""
        if self.widths and depth < max(self.widths):  # another exploration
            self.__init__()  # type: ignore[misc]
        if depth not in self.widths and width > 0:
            self.widths[depth] = width
            more = self._more(depth)
            self._last = [*self._last[1 - LAST :], counted + more] if more is not None else []
        if len(self._last) < LAST or max(self._last) > AGREE * min(self._last):
            return None
        return int(self._last[-1])

    def _more(self, depth: int) -> float | None:
        """The states beyond `depth`."""
        known = sorted(self.widths)
        if len(known) < FEWEST or self.widths[depth] > PAST * max(self.widths.values()):
            return None
        known = known[-max(FEWEST, len(known) // 2) :]
        x = np.array(known, float) - depth
        y = np.log([self.widths[d] for d in known])
        fit = np.polyfit(x, y, 2)
        if fit[0] >= 0 or float(np.abs(np.polyval(fit, x) - y)[-8:].mean()) > MISFIT:
            return None
        shift = float(y[-1]) - float(fit[2])  # it goes through the last depth
        more = 0.0
        for i in range(1, 4 * depth):
            n = float(np.polyval(fit, i)) + shift
            if n < 0:
                break
            more += math.exp(min(n, 40.0))
            if more > MOST:
                return None
        else:
            return None
        return more
