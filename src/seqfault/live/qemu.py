"""Another kernel, emulated: the runner as init of a guest, whose memory is a file that host and guest share.

The guest's RAM is a memfd, shared with qemu.  Its last `SHARED` bytes are kept from the guest's kernel by `memmap=`;
the runner maps them through /dev/mem (Debian's CONFIG_STRICT_DEVMEM refuses only what the kernel itself uses).
So operations and observations pass through plain memory, as they do on the host, and no driver is needed.
Emulated CPUs order memory as x86 does; qemu keeps that for aligned words.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from seqfault.live.image import bootable, cache_folder, find_image, find_qemu, initramfs

RAM = 512 << 20
SHARED = 64 << 20
SHARED_AT = RAM - SHARED  # guest-physical; live/guest.py opens it
MEBI = 1 << 20
PR_SET_PDEATHSIG = 1
# console: the guest's last words.  nokaslr, quiet, mitigations: boot time.  fault-around is switched off by the guest.
COMMAND_LINE = (
    "console=ttyS0 quiet panic=-1 oops=panic nokaslr mitigations=off transparent_hugepage=never "
    f"rootfstype=ramfs memmap={SHARED // MEBI}M${SHARED_AT // MEBI}M"
)


class GuestDied(Exception):
    """qemu ended, or the guest stopped answering; the text holds the last lines of its console."""


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Guest:
    """A running guest.  `shared` is the memory that it shares with us."""

    def __init__(self, image: Path, init: bytes, *, qemu: str | None = None, boot_arguments: str = "") -> None:
        with contextlib.ExitStack() as files:
            ram = self._memfd(files, "seqfault-ram")
            os.ftruncate(ram, RAM)
            ramdisk = self._memfd(files, "seqfault-initramfs")
            os.write(ramdisk, initramfs(init))
            self.shared = mmap.mmap(ram, SHARED, offset=SHARED_AT)
            self._console = os.memfd_create("seqfault-console")
            self._last_words = ""
            backend = f"memory-backend-file,id=ram,mem-path=/proc/self/fd/{ram},size={RAM},share=on"
            self.process = subprocess.Popen(
                [
                    *(qemu or find_qemu(), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
                    *("-machine", "pc,memory-backend=ram", "-accel", "tcg", "-m", str(RAM // MEBI)),
                    *("-object", backend, "-serial", "stdio", "-kernel", str(image)),
                    *("-initrd", f"/proc/self/fd/{ramdisk}", "-append", f"{COMMAND_LINE} {boot_arguments}".strip()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=self._console,
                stderr=subprocess.STDOUT,
                pass_fds=(ram, ramdisk),
                preexec_fn=die_with_parent,
            )

    @staticmethod
    def _memfd(files: contextlib.ExitStack, name: str) -> int:
        fd = os.memfd_create(name)
        files.callback(os.close, fd)
        return fd

    def console(self, lines: int = 12) -> str:
        """The last lines that the guest printed."""
        if self._console < 0:
            return "\n".join(self._last_words.splitlines()[-lines:])
        size = os.fstat(self._console).st_size
        text = os.pread(self._console, 1 << 16, max(0, size - (1 << 16))).decode(errors="replace")
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1bc|\r", "", text)
        return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])

    def wait(self, done: Callable[[], bool], progress: Callable[[], int], patience: float) -> None:
        """Until `done()`; GuestDied if qemu ends, or if `progress()` stands still for `patience` seconds."""
        last, since, pause = progress(), time.monotonic(), 20e-6
        while not done():
            if self.process.poll() is not None and not done():
                raise GuestDied(f"qemu ended with {self.process.returncode}; the guest's console:\n{self.console()}")
            now = progress()
            if now != last:
                last, since = now, time.monotonic()
            elif time.monotonic() - since > patience:
                self.close()
                raise GuestDied(f"the guest did nothing for {patience:.0f} s; its console:\n{self.console()}")
            time.sleep(pause)
            pause = min(pause * 2, 2e-3)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self._console >= 0:
            self._last_words = self.console(1 << 10)
            os.close(self._console)
            self._console = -1


def boot(kernel: str, init: bytes, image: Path | None = None) -> Guest:
    """Boot `kernel` ("debian-6.1") with `init` as its first program."""
    found = find_image(kernel, image)
    qemu = find_qemu()
    return Guest(bootable(found, cache_folder(kernel)), init, qemu=qemu)
