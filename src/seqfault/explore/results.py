"""Files of results that an interrupted run goes on from: one JSON object a line."""

from __future__ import annotations

import errno
import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

BEGINNINGS = (b'{"key": ', b'{"why": ')  # of what `check` and `why` keep


def ours(text: bytes) -> bool:
    """Whether that is a file of results; its only line may have been cut short by a kill."""
    return any(x.startswith(BEGINNINGS) for x in text.splitlines()) or any(x.startswith(text) for x in BEGINNINGS)


def open_results(path: Path, take: Callable[[Any], None], buffering: int = -1) -> BinaryIO:
    """Open a file for adding to it, and hand each object in it to `take`; a line that is none, or that `take` can make
    nothing of (`ValueError`, `TypeError`, `KeyError`), is passed over: what it was about is explored again.

    Raises `OSError` if the file cannot be written, another process has it, or it is no file of results.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "no regular file")
    file: BinaryIO = path.open("a+b", buffering=buffering)  # type: ignore[assignment]
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise OSError(errno.EBUSY, "another seqfault is at work with it") from None
    text = path.read_bytes()
    if text and not ours(text):
        file.close()
        raise OSError(errno.EINVAL, "there are no results in it, but something else")
    if text and not text.endswith(b"\n"):  # cut short by a kill
        file.write(b"\n")
    for line in text.splitlines():
        try:
            take(json.loads(line))
        except (ValueError, TypeError, KeyError):
            continue
    return file
