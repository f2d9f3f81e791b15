"""Processes that a recording starts, watches, tells to end."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import termios
import time
from array import array
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

GRACE = 5.0  # seconds that a program has to end after a signal
PR_SET_PDEATHSIG = 1


class Stop:
    """SIGINT and SIGTERM as a flag, while this is entered."""

    def __init__(self) -> None:
        self.number = 0

    def __enter__(self) -> Stop:
        self.before = {n: signal.signal(n, self.take) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def take(self, number: int, frame: FrameType | None) -> None:
        self.number = number

    def __exit__(self, *_: object) -> None:
        for n, handler in self.before.items():
            signal.signal(n, handler)


def follow_parent() -> None:
    """In the child: end when the recorder is killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def children(pid: int) -> list[int]:
    try:
        return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def wait_for(over: Callable[[], bool], step: float = 0.02, most: float = GRACE) -> None:
    end = time.monotonic() + most
    while time.monotonic() < end and not over():
        time.sleep(step)


def tell_to_end(processes: list[subprocess.Popen[bytes]], program: list[int], number: int) -> None:
    """End a recording early: first the program that was started, then the tools, which write what they have.

    strace is never ended before the program that it started: calls would fail there.
    """
    for pid in program:
        send(pid, number)
    if program:
        wait_for(lambda: not any(alive(pid) for pid in program))
        for pid in program:
            if alive(pid):
                send(pid, signal.SIGKILL)
    for n in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        for p in processes:
            if p.poll() is None:
                p.send_signal(n)
        wait_for(lambda: all(p.poll() is not None for p in processes))
        if all(p.poll() is not None for p in processes):
            break


def unread(pipe: int) -> int:
    """Bytes that wait in a pipe."""
    word = array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, word)
    return word[0]


