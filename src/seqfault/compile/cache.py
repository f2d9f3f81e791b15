"""The cache: what was compiled, by a hash of all that it depends on, and how little of it is kept.

Each change of a text makes other files, so what nobody asked for in `DAYS` days goes, and the oldest of what is more
than `MOST_BYTES`; it costs only the time to compile again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pickle
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KINDS = (".automaton", ".native", ".steps", ".best", ".spent", ".baseline", ".setups", ".outlines", ".elf")
LOOPS = re.compile(r"[a-z]+-[0-9a-f]{16}")  # folders of compile/jit.py
DAYS = 30
MOST_BYTES = 2 << 30
EVERY_S = 86_400.0  # between two looks at what is there
STAMP = "pruned"


def cache_dir() -> Path:
    """Where compiled automata are kept: $SEQFAULT_CACHE, or the user's cache directory."""
    env = os.environ.get("SEQFAULT_CACHE")
    if env:
        return Path(env)
    import platformdirs

    return Path(platformdirs.user_cache_dir("seqfault"))


def kept(name: str, folder: Path | None = None) -> bytes | None:
    """What was kept as `name`; None: nothing that can be read."""
    path = (folder or cache_dir()) / name
    try:
        data = path.read_bytes()
    except OSError:
        return None
    with contextlib.suppress(OSError):  # of another user: it may go earlier
        os.utime(path)
    return data


def kept_object(name: str) -> Any:
    """As `kept`, an object; None also if it is of another release or was cut off."""
    data = kept(name)
    if data is None:
        return None
    try:
        return pickle.loads(data)
    except Exception:
        return None


def keep_object(name: str, what: Any) -> None:
    """As `keep`, an object."""
    keep(name, pickle.dumps(what))


def keep(name: str, data: bytes) -> None:
    """Keep `data` as `name`, whole or not at all; where nothing can be written, nothing is kept."""
    folder = cache_dir()
    if put(folder / name, data):
        with contextlib.suppress(OSError):
            prune(folder)


def put(path: Path, data: bytes) -> bool:
    """Write a file, whole or not at all; whether it could be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=path.parent)
    except OSError:
        return False
    try:
        with open(fd, "wb") as f:
            f.write(data)
        os.replace(name, path)
        return True
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(name)
        return False


class Lines:
    """A file of results, each a line of JSON with its key before it, to which several processes add.

    A line that cannot be read is as one that is not there; where nothing can be written, results last as long as the
    process.
    """

    def __init__(self, path: Path):
        self.path = path
        self.known: dict[str, Any] = {}
        data = kept(path.name, path.parent)
        for line in (data or b"").splitlines():
            try:
                key, what = json.loads(line)
                self.known[key] = what
            except (ValueError, TypeError):
                continue

    def get(self, key: str) -> Any:
        """What is known; None: nothing."""
        return self.known.get(key)

    def put(self, key: str, what: Any) -> None:
        """Keep a result."""
        self.known[key] = what
        line = json.dumps([key, what], separators=(",", ":")) + "\n"
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as f:
                fcntl.flock(f, fcntl.LOCK_EX)
                f.write(line)


def prune(folder: Path, now: float | None = None) -> int:
    """Remove what is old or too much, unless that was done within `EVERY_S`; how many files and folders went."""
    now = time.time() if now is None else now
    stamp = folder / STAMP
    with contextlib.suppress(OSError):
        if now - stamp.stat().st_mtime < EVERY_S:
            return 0
    stamp.touch()
    os.utime(stamp, (now, now))
    left, gone = MOST_BYTES, 0
    for when, size, path in sorted(_mine(folder), reverse=True):
        left -= size
        if now - when > DAYS * 86_400 or left < 0:
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                gone += 1
    return gone


def _mine(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """When it was last used, bytes, path of each file, and of each folder of compiled loops."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if path.suffix in KINDS or path.name.startswith("tmp"):
                st = path.stat()
                yield st.st_mtime, st.st_size, path
            elif LOOPS.fullmatch(path.name) and path.is_dir():
                inside = [f.stat() for f in path.rglob("*") if f.is_file()]
                when = max((max(st.st_mtime, st.st_atime) for st in inside), default=0.0)
                yield when, sum(st.st_size for st in inside), path
