"""The runner as the first program of a guest: what a kernel's user space would have done before.

Process 1 stays out of it, for what happens to it is a panic: it starts the runner, and ends the guest when that ends.
"""

from __future__ import annotations

from seqfault.compile.raw import syscall6, text
from seqfault.live.abi import FD_OUT, FD_SHARED
from seqfault.live.text.calls import (
    NR_CLOSE,
    NR_FORK,
    NR_GETPID,
    NR_WRITE,
    O_RDWR,
    O_WRONLY,
    call1,
    call3,
    open_at,
    reap,
)

FD_SETTING = 40
NR_REBOOT, NR_MOUNT, NR_SETSID = 169, 165, 112
REBOOT_MAGIC1, REBOOT_MAGIC2, REBOOT_RESTART = 0xFEE1DEAD, 672274793, 0x01234567


def say(message: int, length: int):
    """To the console."""
    call3(NR_WRITE, FD_OUT, message, length)


def restart():
    """qemu ends here, for it is run with -no-reboot."""
    syscall6(NR_REBOOT, REBOOT_MAGIC1, REBOOT_MAGIC2, REBOOT_RESTART, 0, 0, 0)


def mount(what: int, where: int):
    syscall6(NR_MOUNT, what, where, what, 0, 0, 0)


def write_setting(path: int, value: int, length: int) -> int:
    """A word to a file of /proc/sys; minus an error number where that cannot be."""
    r = open_at(path, O_WRONLY, FD_SETTING)
    if r >= 0:
        r = call3(NR_WRITE, FD_SETTING, value, length)
        call1(NR_CLOSE, FD_SETTING)
    return r


def run_as_first_process(status: int) -> int:
    """In a guest's first process: make /proc and the shared memory's file, and return 1 in a child; the first process
    itself does not return.  Elsewhere: 0.  `status`: where wait4 may write."""
    if call1(NR_GETPID, 0) != 1:
        return 0
    mount(text("proc"), text("/proc"))
    # GUEST_MAX_MAP_COUNT: an emulated processor needs seconds for the mappings that use up 65530
    if write_setting(text("/proc/sys/vm/max_map_count"), text("2000"), 4) < 0:
        say(text("seqfault: max_map_count stays\n"), 30)
    if open_at(text("/dev/mem"), O_RDWR, FD_SHARED) < 0:
        say(text("seqfault: no /dev/mem\n"), 22)
        restart()
    pid = call1(NR_FORK, 0)
    if pid == 0:
        call1(NR_SETSID, 0)
        return 1
    while pid > 0 and reap(-1, status, 0) != pid:
        pass
    say(text("seqfault: the runner has ended\n"), 31)
    restart()
    return 1
