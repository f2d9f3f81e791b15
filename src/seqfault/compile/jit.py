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


def cache_directory(name: str, files: Sequence[Path]) -> str:
    """Where the compiled form of `files` is kept: one directory for each content."""
    env = os.environ.get("SEQFAULT_CACHE") or os.environ.get("NUMBA_CACHE_DIR")
    base = env or platformdirs.user_cache_dir("seqfault")
    return str(Path(base) / f"{name}-{files_digest(files, numba.__version__)[:16]}")


def make_jit(name: str, files: Sequence[Path]) -> Callable[[Callable[..., Any]], Any]:
    """A decorator that compiles functions of `files`; kept on disk where a cache can be written, else compiled
    again in each run."""
    directory = cache_directory(name, files)

    def jit(fn: Callable[..., Any]) -> Any:
        options: dict[str, Any] = {"nogil": True, "boundscheck": False, "error_model": "numpy"}
        before = config.CACHE_DIR
        config.CACHE_DIR = directory
        try:
            return numba.njit(cache=True, **options)(fn)
        except (RuntimeError, OSError):
            return numba.njit(**options)(fn)
        finally:
            config.CACHE_DIR = before

    return jit


def make_cfunc(name: str, files: Sequence[Path]) -> Callable[[Any], Callable[[Callable[..., Any]], Callable[[], Any]]]:
    """A decorator, given a signature, for functions that are called by address: called, the result compiles it."""
    directory = cache_directory(name, files)

    def cfunc(signature: Any) -> Callable[[Callable[..., Any]], Callable[[], Any]]:
        def decorate(fn: Callable[..., Any]) -> Callable[[], Any]:
            @cache
            def compiled() -> Any:
                options: dict[str, Any] = {"error_model": "numpy"}
                before = config.CACHE_DIR
                config.CACHE_DIR = directory
                try:
                    return numba.cfunc(signature, cache=True, **options)(fn)
                except (RuntimeError, OSError):
                    return numba.cfunc(signature, **options)(fn)
                finally:
                    config.CACHE_DIR = before

            return compiled

        return decorate

    return cfunc
