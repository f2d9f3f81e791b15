"""A hash of source files, by which what was made of them is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def files_digest(files: Iterable[Path], start: str = "") -> str:
    """SHA-256, in hexadecimal digits, of `start` and then the files' contents, in their order."""
    h = hashlib.sha256(start.encode())
    for f in files:
        h.update(f.read_bytes())
    return h.hexdigest()
