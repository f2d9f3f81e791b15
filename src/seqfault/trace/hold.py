"""A program that is started held: at the return from execve, and as it exits, so that its layouts can be read then.

ptrace(2) of its first thread only, which otherwise runs as it would: nothing stops it but signals, which are passed on
(SIGSTOP does not stop it, as of any program that is traced so).
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Sequence

from seqfault.trace.layout import Layout

PTRACE_TRACEME, PTRACE_CONT, PTRACE_SETOPTIONS = 0, 7, 0x4200
EVENT_EXEC, EVENT_EXIT = 4, 6
OPTIONS = 1 << EVENT_EXEC | 1 << EVENT_EXIT
WALL = 0x40000000
PATIENCE = 30.0  # seconds until a program that is started must be held


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
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ptrace.restype = ctypes.c_long
        libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]

        def trace_me() -> None:
            self.prepare()
            if libc.ptrace(PTRACE_TRACEME, 0, None, None):
                raise OSError(ctypes.get_errno(), "ptrace")

        program = subprocess.Popen(self.command, preexec_fn=trace_me)
        pid = program.pid
        _, status = os.waitpid(pid, WALL)
        if not os.WIFSTOPPED(status) or libc.ptrace(PTRACE_SETOPTIONS, pid, None, OPTIONS):
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
            libc.ptrace(PTRACE_CONT, pid, None, pass_on)
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
