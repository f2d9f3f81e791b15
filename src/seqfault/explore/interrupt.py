"""Ctrl-C and SIGTERM: an exploration that can be saved ends between two rounds, anything else at once."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")
INTERRUPTED = "interrupted"
PR_SET_PDEATHSIG = 1
_asked = False
_later = False


def asked() -> bool:
    """Whether a signal came: what looks at this ends soon."""
    return _asked


def _handle(number: int, frame: FrameType | None) -> None:
    global _asked
    impatient = _asked and number == signal.SIGINT  # a second Ctrl-C waits for nothing
    _asked = True
    if impatient or not _later:
        raise KeyboardInterrupt


@contextmanager
def later(on: bool = True) -> Iterator[None]:
    """While this runs a signal is only noted (`asked`); with `on` false it interrupts."""
    global _later
    before, _later = _later, on
    try:
        yield
    finally:
        _later = before


@contextmanager
def handled() -> Iterator[None]:
    """SIGTERM is as Ctrl-C while this runs, and both are noted (main thread only)."""
    global _asked
    _asked = False
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = {n: signal.signal(n, _handle) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for n, h in old.items():
            signal.signal(n, h)
        _asked = False  # what is drawn afterwards explores again


def at_once(work: Callable[[T], U], task: T) -> U:
    """In a worker: what ends when its parent says so, but for what sees to it that it is saved (`later`)."""
    with later(False):
        if asked():
            raise KeyboardInterrupt
        return work(task)


def worker() -> None:
    """In a new worker process: only its parent decides what Ctrl-C means, and it does not outlive its parent."""
    global _asked, _later
    _asked, _later = False, True
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _handle)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
