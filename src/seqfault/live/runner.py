"""The executable that runs on the live kernel: made from its text, kept where a cache can be written."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import llvmlite

from seqfault.compile.cache import keep, kept
from seqfault.compile.digest import files_digest
from seqfault.compile.raw import CRASHED, VIOLATED, compile_raw
from seqfault.live.abi import CRASH
from seqfault.live.errors import KernelError

SOURCES = ("compile/*.py", "kernel/*.py", "live/abi.py", "live/text/*.py", "mm/opcodes.py", "mm/types.py")


def refuse_elsewhere() -> None:
    """Raise `KernelError` where the runner cannot run."""
    machine = platform.machine().lower()
    if sys.platform != "linux":
        raise KernelError(f"the live kernel is Linux's, and this is {sys.platform}; use --kernel debian-6.1 with qemu")
    if machine not in ("x86_64", "amd64"):
        name = {"arm64": "aarch64"}.get(machine, machine)
        raise KernelError(f"the runner is for x86-64, and this machine is {name}; use --kernel debian-6.1 with qemu")


def _key() -> str:
    root = Path(__file__).parents[1]
    files = [f for pattern in SOURCES for f in sorted(root.glob(pattern))]
    return files_digest(files, llvmlite.__version__)[:24]


_image: bytes | None = None


def runner_image() -> bytes:
    """The executable; the same for the host and for a guest."""
    global _image
    if _image is not None:
        return _image
    name = f"runner-{_key()}.elf"
    _image = kept(name)
    if _image is not None and _image[:4] == b"\x7fELF":
        return _image
    from seqfault.live.text.main import main

    _image = compile_raw(main, CRASH).executable.image
    keep(name, _image)
    return _image


def crash_text(words: list[int]) -> str:
    """What the crash record of a process says, in a sentence; "" if it left none."""
    kind, what, where, at = words
    if kind == CRASHED:
        return f"signal {what} at address {where & (1 << 64) - 1:#x}, instruction {at:#x} of the runner"
    if kind == VIOLATED:
        from seqfault.live.text.main import main

        site = compile_raw(main, CRASH).sites[what]
        return f"the runner's own text: {site.kind} at {site.where.file}:{site.where.line} ({where})"
    return ""
