"""Arrays that grow.  Address space is taken ahead of need, so that growing copies little, and memory that was used
stays for the next exploration, which has no page faults for it."""

from __future__ import annotations

import contextlib
import math
import mmap
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEPT = 1 << 30  # bytes that are kept in all
AHEAD = 8  # so much more address space than is asked for
AHEAD_MOST = 1 << 28  # bytes
LARGE = 1 << 26  # bytes from which so much is taken ahead that nothing need be copied: `FAR` times as much
FAR = 64
WASTE = 16  # times as much as is asked for may a kept one have used


class Memory(np.ndarray[Any, np.dtype[np.uint8]]):
    """What arrays are made of; `used`: bytes that were ever in use; `clean`: the others are 0."""

    used = 0
    clean = False


_kept: list[Memory] = []


def take(rows: int, width: int, dtype: Any = np.int64) -> NDArray[Any]:
    """An array of `rows` (each of `width` elements; 0: a number each), not initialised."""
    shape = (rows, width) if width else (rows,)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return _array(_memory(size), shape, size, dtype)


def _memory(size: int) -> Memory:
    fitting = [i for i, x in enumerate(_kept) if x.nbytes >= size and x.used <= WASTE * max(size, 1 << 16)]
    if fitting:
        return _kept.pop(min(fitting, key=lambda i: abs(_kept[i].used - size)))
    if size >= LARGE:
        return _far(size)
    return Memory((max(size, min(AHEAD * size, AHEAD_MOST)),), np.uint8)  # pages cost nothing before they are used


def _far(size: int) -> Memory:
    """Address space for `FAR` times as much, or for as much as there may be."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    for ahead in (FAR, AHEAD):
        try:
            m = mmap.mmap(-1, ahead * size, flags)
        except OSError:  # a limit of address space
            continue
        with contextlib.suppress(OSError):  # a kernel without them
            m.madvise(mmap.MADV_HUGEPAGE)
        far = Memory((ahead * size,), np.uint8, m)
        far.clean = True
        return far
    return Memory((size,), np.uint8)


def zeros(rows: int, dtype: Any = np.int64, threads: int = 1) -> NDArray[Any]:
    """As `take`, of zeros.  Threads share the page faults of memory that is new."""
    size = rows * np.dtype(dtype).itemsize
    memory = _memory(size)
    if threads > 1 and size >= LARGE:
        cuts = [size * i // threads for i in range(threads + 1)]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda i: memory[cuts[i] : cuts[i + 1]].fill(0), range(threads)))
    else:
        memory[: min(size, memory.used) if memory.clean else size] = 0
    return _array(memory, (rows,), size, dtype)


def more(x: NDArray[Any], rows: int, used: int) -> NDArray[Any]:
    """`x` with `rows` rows, of which the first `used` are as they were.  `x` must not be used any more."""
    shape = (rows, *x.shape[1:])
    size = math.prod(shape) * x.itemsize
    if isinstance(x.base, Memory) and x.base.nbytes >= size:
        return _array(x.base, shape, size, x.dtype)
    out = take(rows, x.shape[1] if x.ndim == 2 else 0, x.dtype)
    out[:used] = x[:used]
    give(x)
    return out


def give(*arrays: NDArray[Any]) -> None:
    """Keep what arrays of `take` are made of; nobody uses them any more."""
    for x in arrays:
        m = x.base
        if isinstance(m, Memory) and not any(k is m for k in _kept) and m.used + sum(k.used for k in _kept) <= KEPT:
            _kept.append(m)


def _array(memory: Memory, shape: tuple[int, ...], size: int, dtype: Any) -> NDArray[Any]:
    memory.used = max(memory.used, size)
    return np.ndarray(shape, dtype, memory)
