"""An exploration in a file, so that a long run survives.

The file is numpy's .npz, not compressed (fingerprints do not compress), whose members have checksums.  It is written
beside its place and moved there, so that a kill at any moment leaves the one before.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seqfault.explore import layout as k
from seqfault.explore.own import CHAIN
from seqfault.explore.room import more

if TYPE_CHECKING:
    from seqfault.explore.frontier import Search

Saved = tuple[dict[str, Any], dict[str, NDArray[Any]]]  # what `read` gives
FORMAT = 5
COST = 20  # seconds of exploration for each second of saving, at least
OWN = ("th", "E", "X", "counts", "N")  # of each thread, whole
SCALARS = ("traced", "peak", "seconds", "need_table")


class CheckpointError(Exception):
    """A checkpoint that cannot be used: names the file, what is wrong, the remedy."""


def key_of(s: Search) -> str:
    """What an exploration must have in common with its checkpoint."""
    h = hashlib.sha256(s.code.key().encode())
    h.update(s.init.tobytes() + np.ascontiguousarray(s.rom).tobytes())
    h.update(repr((s.mode, s.dead, s.exact, s.exclusive, s.threads, s.graph, s.moving, s.own is None)).encode())
    return h.hexdigest()


def save(s: Search, path: Path) -> None:
    """Write `s` to `path`.  Raises `OSError`; what was there stays then."""
    n = s.states
    first = s.workers[0].th
    now, then = int(first[k.T_FRONTIER]), int(s.G[k.G_TAIL] if s.threads > 1 else first[k.T_TAIL])
    arrays: dict[str, NDArray[Any]] = {
        "table": s.table,
        "store": s.store[: int(first[k.T_BASE]) + now + then] if s.exact else s.store,
        "G": s.G,
        "R": s.R,
        "W": s.W,
        "own": np.zeros(0, np.uint8) if s.own is None else s.own,
        "number": s.number,
        "edges": s.edges[: int(s.workers[0].th[k.T_EDGES])],
        "parent": s.parent[:n] if s.traced else s.parent,
        "action": s.action[:n] if s.traced else s.action,
    }
    if not s.exact:
        front, nxt = s.workers[0].front, s.workers[0].part
        swapped = bool(first[k.T_PARITY])
        arrays |= {"front": front[: then if swapped else now], "next": nxt[: now if swapped else then]}
    for i, w in enumerate(s.workers):
        th = w.th
        pending, found = int(th[k.T_PENDING]), int(th[k.T_DISTINCT])
        arrays |= {f"{x}{i}": getattr(w, x) for x in OWN}
        arrays |= {f"{x}{i}": getattr(w, x)[:pending] for x in ("buf", "rec", "hashes")}
        arrays |= {f"{x}{i}": getattr(w, x)[:found] for x in ("distinct", "dstate")}
        arrays |= {f"outcomes{i}": w.outcomes, f"ostate{i}": w.ostate}
    meta = {"format": FORMAT, "key": key_of(s)} | {x: getattr(s, x) for x in SCALARS}
    text = json.dumps(meta, default=lambda x: x.item())
    new = path.with_name(path.name + ".new")
    try:
        with new.open("wb") as f:
            np.savez(f, meta=np.frombuffer(text.encode(), np.uint8), **arrays)  # type: ignore[arg-type]
            f.flush()
            os.fsync(f.fileno())
        os.replace(new, path)
    except BaseException as e:
        new.unlink(missing_ok=True)  # gives a full disk its room back
        cause = e.__context__
        if isinstance(e, ValueError) and isinstance(cause, OSError):  # zipfile's own, on the way out of a failed write
            raise cause from None
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read(path: Path) -> Saved:
    """What is in a checkpoint.  Raises `CheckpointError`."""
    try:
        with np.load(path, allow_pickle=False) as f:
            meta = json.loads(f["meta"].tobytes().decode())
            if meta["format"] != FORMAT:
                what = f"has format {meta['format']}, and this seqfault reads {FORMAT}"
                raise CheckpointError(f"{path} {what}; go on with the one that wrote it, or delete it to begin again")
            return meta, {name: f[name] for name in f.files if name != "meta"}
    except MemoryError:
        raise CheckpointError(f"{path}: there is not enough memory for it; go on where there is more") from None
    except CheckpointError:
        raise
    except OSError as e:
        raise CheckpointError(f"{path}: {e.strerror or e}; delete it to begin again") from None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, TypeError, AttributeError):
        raise CheckpointError(f"{path} is damaged or no checkpoint; delete it to begin again") from None


def restore(s: Search, path: Path, meta: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
    """Put an exploration that has just begun where the checkpoint was.  Raises `CheckpointError` if it is another's."""
    if meta["key"] != key_of(s):
        raise CheckpointError(f"{path} is of another exploration; delete it to begin again")
    s.table, s.number = arrays["table"], arrays["number"]
    s.G[:], s.W = arrays["G"], arrays["W"]
    for x in SCALARS:
        setattr(s, x, meta[x])
    for name in ("parent", "action", "edges", "store"):
        setattr(s, name, with_room(arrays[name], getattr(s, name)))
    if not s.exact:
        w = s.workers[0]
        w.front, w.part = with_room(arrays["front"], w.front), with_room(arrays["next"], w.part)
    for i, w in enumerate(s.workers):
        for x in OWN:
            getattr(w, x)[:] = arrays[f"{x}{i}"]
        for x in ("buf", "rec", "hashes", "distinct", "dstate"):
            old = arrays[f"{x}{i}"]
            getattr(w, x)[: len(old)] = old
        w.outcomes, w.ostate = arrays[f"outcomes{i}"], arrays[f"ostate{i}"]
    if s.own is not None:
        s.own[:] = arrays["own"]
        s.allow(CHAIN)  # where the table is now
    s.resize()


def with_room(saved: NDArray[Any], fresh: NDArray[Any]) -> NDArray[Any]:
    """`saved`, with as much room behind it as there was or is needed next."""
    if len(fresh) <= 1 and len(saved) <= 1:
        return saved
    return more(saved, max(len(saved) + 2 * k.ROOM, len(fresh)), len(saved))


class Keeper:
    """Saves an exploration now and then: every `every` seconds, but no more than a twentieth of the time.

    `path`: where to, or None: nowhere; `second`: the file of the exploration of everything that follows one with
    movers; `file`: that of the two which is written now.
    """

    def __init__(self, path: Path | None, every: float):
        self.path, self.every = path, every
        self.second = None if path is None else path.with_name(f"{path.name}.whole")
        self.file = path or Path()
        self.begun = self.last = time.monotonic()
        self.took = 0.0
        self.failed = False

    def open(self, file: Path | None) -> Saved | None:
        """From now on `file` is the one; what is in it."""
        if file is None:
            return None
        self.file = file
        self.begun = self.last = time.monotonic()
        return read(file) if file.exists() else None

    def __call__(self, s: Search) -> None:
        if self.path is not None and time.monotonic() - self.last > max(self.every, COST * self.took):
            self.now(s)

    def now(self, s: Search) -> None:
        """Save; a disk that is full is told once, and does not stop the exploration."""
        if self.path is None:
            return
        t = time.monotonic()
        try:
            save(s, self.file)
        except OSError as e:
            if not self.failed:
                what = f"{self.file}: {e.strerror or e}; the checkpoint before it, if any, stays"
                print(f"seqfault: no checkpoint: {what}", file=sys.stderr, flush=True)
            self.failed = True
        self.last = time.monotonic()
        self.took = self.last - t

    def ended(self, s: Search) -> None:
        """Everything was seen: saved too if it took long, for what follows may be interrupted."""
        if self.path is not None and (self.file.exists() or time.monotonic() - self.begun > self.every):
            self.now(s)

    def done(self) -> None:
        """Remove the files."""
        if self.path is not None:
            remove(self.path)


def remove(path: Path) -> None:
    """Remove what a `Keeper` of that path may have written."""
    for end in ("", ".whole", ".new", ".whole.new"):
        path.with_name(path.name + end).unlink(missing_ok=True)
