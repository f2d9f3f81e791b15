"""Durations counted by size, so that percentiles need no list of them: 32 bins an octave, 1.1% off at most."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

AN_OCTAVE = 32
BINS = AN_OCTAVE * 63 + 2


@dataclass
class Histogram:
    """Nanoseconds."""

    count: int = 0
    total: int = 0
    least: int = 1 << 62
    most: int = 0
    bins: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, values: NDArray[np.int64]) -> None:
        if not len(values):
            return
        self.count += len(values)
        self.total += int(values.sum())
        self.least = min(self.least, int(values.min()))
        self.most = max(self.most, int(values.max()))
        # 0 has a bin of its own
        at = np.where(values > 0, np.floor(np.log2(np.maximum(values, 1)) * AN_OCTAVE).astype(np.int64) + 1, 0)
        self.bins += np.bincount(at, minlength=BINS)

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    def quantile(self, q: float) -> float:
        """The value below which a share `q` of them lies: the middle of its bin."""
        if not self.count:
            return 0.0
        wanted = max(1, int(np.ceil(q * self.count)))
        i = int(np.searchsorted(np.cumsum(self.bins), wanted))
        if i == 0:
            return 0.0
        return float(min(self.most, max(self.least, 2 ** ((i - 0.5) / AN_OCTAVE))))
