"""Another kernel, emulated: the runner as the first program of a guest whose memory is a file that we share with it.

The guest's RAM is a memfd, shared with qemu.  Its last part is kept from the guest's kernel by `memmap=`; the runner
(live/text/guest.py) maps it through /dev/mem, for CONFIG_STRICT_DEVMEM refuses only what the kernel itself uses.  So
operations and observations pass through plain memory, as they do on the host, and no driver is needed.  Emulated CPUs
order memory as x86 does.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from seqfault.live import abi
from seqfault.live.compare import Mask
from seqfault.live.control import ABSENT, CONTROLLED, MASKED, NOT_CONTROLLED, Control
from seqfault.live.errors import KernelError
from seqfault.live.generate import Geometry
from seqfault.live.host import LiveKernel, Options, header_words, shared_bytes
from seqfault.live.image import BadImage, NotInstalled, bootable, cache_folder, find_image, find_qemu, initramfs
from seqfault.live.runner import runner_image

MEBI = 1 << 20
PR_SET_PDEATHSIG = 1
# nokaslr, quiet, mitigations: boot time.  rootfstype: the file on disk lies on ramfs.
COMMAND_LINE = (
    "console=ttyS0 quiet panic=-1 oops=panic nokaslr mitigations=off transparent_hugepage=never rootfstype=ramfs "
    f"memmap={abi.GUEST_SHARED_BYTES // MEBI}M${abi.GUEST_SHARED_AT // MEBI}M"
)
STREAM_WORDS = (abi.GUEST_SHARED_BYTES - 8 * MEBI) // 8
BOOT_PATIENCE = 120.0
CONSOLE_LINES = 12


class GuestDied(Exception):
    """qemu ended, or the guest stopped answering; the text holds the last lines of its console."""


_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def die_with_parent() -> None:
    """In the child, before exec: it ends with the thread that started it."""
    if _prctl is not None:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Guest:
    """A running guest.  `shared`: the memory that it shares with us.

    Parameters: `image`, an ELF or bzImage; `init`, an executable; `qemu`, the program; `more`, for the kernel's
    command line.
    """

    def __init__(self, image: Path, init: bytes, qemu: str, more: str = "") -> None:
        self._last_words = ""
        self._console = os.memfd_create("seqfault-console")
        with contextlib.ExitStack() as files:
            ram = self._memfd(files, "seqfault-ram")
            os.ftruncate(ram, abi.GUEST_RAM)
            ramdisk = self._memfd(files, "seqfault-initramfs")
            os.write(ramdisk, initramfs(init))
            self.shared = mmap.mmap(ram, abi.GUEST_SHARED_BYTES, offset=abi.GUEST_SHARED_AT)
            backend = f"memory-backend-file,id=ram,mem-path=/proc/self/fd/{ram},size={abi.GUEST_RAM},share=on"
            self.process = subprocess.Popen(
                [
                    *(qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-accel", "tcg"),
                    *("-machine", "pc,memory-backend=ram", "-m", str(abi.GUEST_RAM // MEBI), "-object", backend),
                    *("-serial", "stdio", "-kernel", str(image), "-initrd", f"/proc/self/fd/{ramdisk}"),
                    *("-append", f"{COMMAND_LINE} {more}".strip()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=self._console,
                stderr=subprocess.STDOUT,
                pass_fds=(ram, ramdisk),
                preexec_fn=die_with_parent,
                start_new_session=True,  # Ctrl-C is ours
            )

    @staticmethod
    def _memfd(files: contextlib.ExitStack, name: str) -> int:
        fd = os.memfd_create(name)
        files.callback(os.close, fd)
        return fd

    def console(self, lines: int = CONSOLE_LINES) -> str:
        """The last lines that the guest printed."""
        if self._console >= 0:
            size = os.fstat(self._console).st_size
            text = os.pread(self._console, 1 << 16, max(0, size - (1 << 16))).decode(errors="replace")
            self._last_words = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1bc|\r", "", text)
        return "\n".join([line for line in self._last_words.splitlines() if line.strip()][-lines:])

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
                raise GuestDied(f"the guest did nothing for {patience:g} s; its console:\n{self.console()}")
            time.sleep(pause)
            pause = min(pause * 2, 2e-3)

    def close(self) -> None:
        """End it; what it printed stays."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self._console >= 0:
            self.console()
            os.close(self._console)
            self._console = -1


def boot(kernel: str, init: bytes, image: Path | None = None) -> Guest:
    """Boot `kernel` ("debian-6.1") with `init` as its first program."""
    if image is not None:
        find_image(kernel, image)  # what was said wrong comes before what is missing here
    missing = []
    for find in (find_qemu, lambda: find_image(kernel, image)):
        try:
            find()
        except NotInstalled as e:
            missing.append(str(e))
    if missing:
        raise NotInstalled("\n".join(missing))
    return Guest(bootable(find_image(kernel, image), cache_folder(kernel)), init, find_qemu())


class QemuKernel(LiveKernel):
    """A runner in a guest: what LiveKernel is for the host.  Raises `KernelError` where it cannot be had.

    Parameters: `options`, as for LiveKernel (max_rows and stream_words bounded by the shared memory); `kernel`, a
    name of `image.KERNELS`; `image`, a bzImage, a vmlinux or a .deb instead of what is found.
    """

    def __init__(self, options: Options | None = None, kernel: str = "debian-6.1", image: Path | None = None):
        o = options or Options()
        fit = min(o.stream_words, STREAM_WORDS)
        o = Options(**{**o.__dict__, "cpu": -1, "maps_text": True, "stream_words": fit})
        if shared_bytes(o) > abi.GUEST_SHARED_BYTES:
            raise ValueError(f"{o.max_rows} rows do not fit the {abi.GUEST_SHARED_BYTES} bytes that a guest shares")
        self.options, self.kernel, self.image = o, kernel, image
        self.guest: Guest | None = None
        self.ready = 0
        self.ticks: dict[str, float] = {}
        self.boots = 0
        self._pid = 0
        self._start()

    def _start(self) -> None:
        try:
            self.guest = guest = boot(self.kernel, runner_image(), self.image)
        except (NotInstalled, BadImage) as e:
            raise KernelError(f"--kernel {self.kernel}: {e}") from None
        self._pid = guest.process.pid
        self.words = np.frombuffer(guest.shared, np.int64)
        for k, v in header_words(self.options, self.options.max_rows, self.options.stream_words).items():
            self.words[k] = v
        # the runner answers number 1 when it is ready, so that no batch can be taken for that
        self.words[abi.H_COMMAND] = 1
        why = self._wait(started=False)
        if why:
            self._stop()
            raise KernelError(f"--kernel {self.kernel}: the runner did not get ready: {why}")
        self.boots += 1
        self.ready = int(self.words[abi.H_READY])

    def _ring(self) -> None:
        """The batch's number is the bell: the runner looks at it."""

    def _wait(self, started: bool = True) -> str:
        guest, w = self.guest, self.words
        assert guest is not None
        try:
            guest.wait(
                lambda: bool(w[abi.H_REPLY] == w[abi.H_COMMAND]),
                lambda: int(w[abi.H_ROW]),
                self.options.timeout if started else BOOT_PATIENCE,
            )
        except GuestDied as e:
            return str(e)
        return ""

    def _stop(self) -> int:
        if self.guest is None:
            return 0
        self.guest.close()
        self._pid = 0
        return self.guest.process.returncode or 0

    @property
    def controls(self) -> list[Control]:
        """What could disturb the comparison, and what became of it."""
        return [
            Control("huge pages", CONTROLLED, "off in the guest (transparent_hugepage=never)"),
            Control("fault-around", CONTROLLED, "16 pages in the guest, as in the model"),
            Control("ksm", CONTROLLED, "ksmd does not run in the guest"),
            Control("swap", ABSENT, "the guest has none"),
            Control("numa balancing", ABSENT, "the guest has one node"),
            Control("overcommit", CONTROLLED, "vm.overcommit_memory is 0 in the guest, as in the model"),
            Control("max_map_count", CONTROLLED, "vm.max_map_count is 2000 in the guest; map_count knows it"),
            Control("processor", CONTROLLED, "the guest has one; no protection keys"),
            Control("file on disk", MASKED, "it lies on ramfs: write-back and its write notification are not compared"),
            *(
                [Control("frames", CONTROLLED, "frame numbers are seen")]
                if self.frames
                else [Control("frames", MASKED, "frame numbers are not compared: the guest does not show them")]
            ),
            Control("heap", *self._heap()),
        ]

    def _heap(self) -> tuple[str, str]:
        if self.ready & abi.R_HEAP:
            return CONTROLLED, "brk works in the window (PR_SET_MM_MAP)"
        return NOT_CONTROLLED, "PR_SET_MM_MAP failed: the kernel lacks CONFIG_CHECKPOINT_RESTORE"

    @property
    def mask(self) -> Mask:
        return Mask(frames=self.frames)

    @property
    def sizes(self) -> dict[str, int]:
        """The file on disk is one of ramfs, which reads nothing ahead."""
        return {"RA_PAGES": 0}

    def close(self) -> None:
        self._stop()


def open_qemu(geometry: Geometry, detail_every: int, image: str = "", kernel: str = "debian-6.1") -> QemuKernel:
    """The kernel's side of `fuzz --kernel debian-6.1`."""
    o = Options(
        nr_pages=geometry.nr_pages,
        spans=tuple(geometry.spans),
        heap_page=geometry.heap_page,
        detail_every=detail_every,
    )
    return QemuKernel(o, kernel, Path(image) if image else None)
