"""Processes held, so that their layouts can be read, by ptrace(2).

A program that is started: at the return from execve, and as it exits; of its first thread only, which otherwise runs
as it would: nothing stops it but signals, which are passed on (SIGSTOP does not stop it, as of any program that is
traced so).  A process that runs already: all its threads, for a moment.
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from seqfault.trace.layout import Layout

PTRACE_TRACEME, PTRACE_CONT, PTRACE_SETOPTIONS = 0, 7, 0x4200
PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207
EVENT_EXEC, EVENT_EXIT = 4, 6
OPTIONS = 1 << EVENT_EXEC | 1 << EVENT_EXIT
WALL = 0x40000000
PATIENCE = 30.0  # seconds until a program that is started must be held
STOPPED = 5.0  # seconds until all threads of one that runs must have stopped


def ptrace_of_libc() -> Any:
    """ptrace(2); -1 with errno for an error."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.restype = ctypes.c_long
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    return libc.ptrace


def threads_of(pid: int) -> list[int]:
    """Those of a process that are not over."""
    out = []
    for tid in os.listdir(f"/proc/{pid}/task"):
        with suppress(OSError):
            if "\nState:\tZ" not in Path(f"/proc/{pid}/task/{tid}/status").read_text():
                out.append(int(tid))
    return out


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """No thread of a process runs inside of this; none is in a call or a fault that changes its address space.

    As whenever a debugger attaches, calls that wait are begun again, but for the few of signal(7) that end with EINTR
    when a process is stopped.  Raises `OSError` where that is not allowed, or a thread does not stop.
    """
    ptrace = ptrace_of_libc()
    running: set[int] = set()
    held: dict[int, int] = {}  # threads that have stopped, and the signal that each is to get

    def look() -> None:
        for tid in list(running):
            try:
                got, status = os.waitpid(tid, WALL | os.WNOHANG)
            except ChildProcessError:
                running.discard(tid)
                continue
            if got:
                running.discard(tid)
                if os.WIFSTOPPED(status):
                    held[tid] = 0 if status >> 16 else os.WSTOPSIG(status)

    def wait() -> None:
        end = time.monotonic() + STOPPED
        while running and time.monotonic() < end:
            look()
            if running:
                time.sleep(0.0005)

    try:
        while more := [t for t in threads_of(pid) if t not in held]:
            for tid in more:
                if ptrace(PTRACE_SEIZE, tid, None, None):
                    error = ctypes.get_errno()
                    if error == errno.ESRCH:
                        continue  # it has ended
                    raise OSError(error, os.strerror(error))
                running.add(tid)
                ptrace(PTRACE_INTERRUPT, tid, None, None)
            wait()
            if running:
                raise OSError(errno.ETIME, f"thread {min(running)} did not stop within {STOPPED:g} s")
        if not held:
            raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
        yield
    finally:
        wait()  # what is traced can be let go only where it has stopped; else when the recorder ends
        for tid, number in held.items():
            ptrace(PTRACE_DETACH, tid, None, number)


class Held:
    """A program held at its first execve until `go`.

    `snapshot`: reads the layout of a process, "start" or "end".  `pid`: 0 where it could not be held or started, and
    `error` says why; `code`: what it ended with, negative for a signal; `layouts`: at each execve and at the end.
    """

    def __init__(self, command: Sequence[str], snapshot: Callable[[int, str], Layout], prepare: Callable[[], None]):
        self.command, self.snapshot, self.prepare = list(command), snapshot, prepare
        self.pid, self.code, self.error = 0, 0, ""
        self.layouts: list[Layout] = []
        self.held, self.gone = threading.Event(), threading.Event()
        # the thread that starts a traced program is the only one that may go on with it
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        if not self.held.wait(PATIENCE):
            self.error = self.error or "it was not held in time"

    def go(self) -> None:
        """Let it run."""
        self.gone.set()

    def ended(self, most: float) -> bool:
        """Whether it has ended, and its last layout is read; waits so many seconds for it."""
        self.thread.join(most)
        return not self.thread.is_alive()

    # -- in the thread
    def run(self) -> None:
        try:
            self.follow()
        except (OSError, subprocess.SubprocessError) as e:
            self.error = str(e)
        finally:
            self.held.set()

    def follow(self) -> None:
        ptrace = ptrace_of_libc()

        def trace_me() -> None:
            self.prepare()
            if ptrace(PTRACE_TRACEME, 0, None, None):
                raise OSError(ctypes.get_errno(), "ptrace")

        program = subprocess.Popen(self.command, preexec_fn=trace_me)
        pid = program.pid
        _, status = os.waitpid(pid, WALL)
        if not os.WIFSTOPPED(status) or ptrace(PTRACE_SETOPTIONS, pid, None, OPTIONS):
            program.kill()
            program.wait()
            raise OSError("it ended before it was held")
        self.look(pid, "start")
        if not self.layouts:
            program.kill()
            program.wait()
            raise OSError("its layout could not be read")
        self.pid = pid
        self.held.set()
        self.gone.wait()
        pass_on = 0
        while True:
            ptrace(PTRACE_CONT, pid, None, pass_on)
            _, status = os.waitpid(pid, WALL)
            if not os.WIFSTOPPED(status):
                break
            event = status >> 16
            pass_on = 0 if event else os.WSTOPSIG(status)
            if event == EVENT_EXEC:
                self.look(pid, "start")
            elif event == EVENT_EXIT:
                self.look(pid, "end")
        self.code = program.returncode = os.waitstatus_to_exitcode(status)

    def look(self, pid: int, when: str) -> None:
        try:
            layout = self.snapshot(pid, when)
        except OSError:
            return
        if layout.areas:
            self.layouts.append(layout)
