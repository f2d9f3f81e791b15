"""Compilation of the engine's inner loops by numba, and where the result is kept.

numba validates a cached function by its own file only, not by those of the functions it calls, so the
cache's directory bears a hash of all of them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import platformdirs

COMPILED = ("engine.py", "interp.py", "jit.py", "memory_sc.py", "tables.py")


def _directory() -> str:
    h = hashlib.sha256(numba.__version__.encode())
    for name in COMPILED:
        h.update((Path(__file__).parent / name).read_bytes())
    env = os.environ.get("SEQFAULT_CACHE") or os.environ.get("NUMBA_CACHE_DIR")
    base = env or platformdirs.user_cache_dir("seqfault")
    return str(Path(base) / f"engine-{h.hexdigest()[:16]}")


_DIRECTORY = _directory()
config: Any = numba.config


def jit(fn: Callable[..., Any]) -> Any:
    """`fn` compiled; kept on disk where a cache can be written, else compiled again in each run."""
    options: dict[str, Any] = {"nogil": True, "boundscheck": False, "error_model": "numpy"}
    before = config.CACHE_DIR
    config.CACHE_DIR = _DIRECTORY
    try:
        return numba.njit(cache=True, **options)(fn)
    except (RuntimeError, OSError):
        return numba.njit(**options)(fn)
    finally:
        config.CACHE_DIR = before
