"""How a state is kept while it waits to be expanded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Packing:
    """How a state's words are squeezed together: bits used of each word; words of the packed form."""

    widths: list[int]
    words: int

    @property
    def bits(self) -> int:
        return sum(self.widths)

    @property
    def whole(self) -> bool:
        """Whether nothing is squeezed."""
        return self.bits == 64 * len(self.widths)
