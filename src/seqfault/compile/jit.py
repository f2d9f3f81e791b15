"""Compilation of inner loops by numba, and where the result is kept.

numba validates a cached function by its own file only, not by those of the functions it calls, so the cache's
directory bears a hash of all the files that belong together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numba
import platformdirs

from seqfault.compile.digest import files_digest

config: Any = numba.config
OPTIONS: dict[str, Any] = {"boundscheck": False, "error_model": "numpy"}
# a function that makes none borrows its arrays, and need not count references: numba does so at each call
MAKE_ARRAYS = frozenset({"zeros", "empty", "full", "array"})


def cache_directory(name: str, files: Sequence[Path]) -> str:
    """Where the compiled form of `files` is kept: one directory for each content."""
    env = os.environ.get("SEQFAULT_CACHE") or os.environ.get("NUMBA_CACHE_DIR")
    base = env or platformdirs.user_cache_dir("seqfault")
    return str(Path(base) / f"{name}-{files_digest(files, numba.__version__)[:16]}")


def kept(directory: str, compile_it: Callable[[bool], Any]) -> Any:
    """What `compile_it(True)` gives, with `directory` for numba's cache; if none can be written there, what
    `compile_it(False)` does."""
    before = config.CACHE_DIR
    config.CACHE_DIR = directory
    try:
        return compile_it(True)
    except (RuntimeError, OSError):
        return compile_it(False)
    finally:
        config.CACHE_DIR = before


def make_jit(name: str, files: Sequence[Path]) -> Callable[[Callable[..., Any]], Any]:
    """A decorator that compiles functions of `files`; kept on disk where a cache can be written, else compiled
    again in each run."""
    directory = cache_directory(name, files)

    def jit(fn: Callable[..., Any]) -> Any:
        options = {"nogil": True, "_nrt": not MAKE_ARRAYS.isdisjoint(fn.__code__.co_names), **OPTIONS}
        return kept(directory, lambda keep: numba.njit(cache=keep, **options)(fn))

    return jit


def make_cfunc(name: str, files: Sequence[Path]) -> Callable[[Any], Callable[[Callable[..., Any]], Callable[[], Any]]]:
    """A decorator, given a signature, for functions that are called by address: called, the result compiles it."""
    directory = cache_directory(name, files)

    def cfunc(signature: Any) -> Callable[[Callable[..., Any]], Callable[[], Any]]:
        def decorate(fn: Callable[..., Any]) -> Callable[[], Any]:
            options = {"_nrt": False, **OPTIONS}
            return cache(lambda: kept(directory, lambda keep: numba.cfunc(signature, cache=keep, **options)(fn)))

        return decorate

    return cfunc
