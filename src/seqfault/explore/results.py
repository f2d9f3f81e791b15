"""Files of results that an interrupted run goes on from: one JSON object a line."""

from __future__ import annotations

import errno
import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO


def open_results(path: Path, take: Callable[[Any], None], buffering: int = -1) -> BinaryIO:
    """Open a file for adding to it, and hand each object in it to `take`; a line that is none, or that `take` can make
    nothing of (`ValueError`, `TypeError`, `KeyError`), is passed over: what it was about is explored again.

    Raises `OSError` if the file cannot be written, or another process has it.
    """
    file: BinaryIO = path.open("a+b", buffering=buffering)  # type: ignore[assignment]
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise OSError(errno.EBUSY, "another seqfault is at work with it") from None
    text = path.read_bytes()
    if text and not text.endswith(b"\n"):  # cut short by a kill
        file.write(b"\n")
    for line in text.splitlines():
        try:
            take(json.loads(line))
        except (ValueError, TypeError, KeyError):
            continue
    return file
