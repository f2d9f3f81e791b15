"""Where commands print."""

from __future__ import annotations

from rich.console import Console


def console() -> Console:
    """Standard output; lines are as long as they are."""
    return Console(highlight=False, soft_wrap=True, emoji=False)


def stderr_console() -> Console:
    """Standard error: how it goes."""
    return Console(stderr=True, highlight=False, emoji=False)
