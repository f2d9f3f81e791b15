"""What keeps a kernel from being compared: one line that names the remedy."""

from __future__ import annotations


class KernelError(Exception):
    """A live or emulated kernel that cannot be used; the message is one line that says why and what to do."""
