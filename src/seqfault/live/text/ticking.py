"""Where the runner's time goes, when the host asks for it."""

from __future__ import annotations

from seqfault.compile.raw import ticks
from seqfault.kernel import ptr
from seqfault.live.text.calls import header, set_header
from seqfault.live.text.state import runner


def tick(s: ptr[runner]):
    """From now on time counts."""
    if s.count_ticks:
        s.ticked = ticks()


def tick_to(s: ptr[runner], word: int):
    """What passed since the last tick goes to a word of the header."""
    if s.count_ticks:
        now = ticks()
        set_header(word, header(word) + now - s.ticked)
        s.ticked = now
