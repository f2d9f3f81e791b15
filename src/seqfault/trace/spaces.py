"""The model's address spaces for replay: the whole 47-bit user space, many processes, many files.

The text is mm/uapi.py and mm/exec.py, compiled to machine code; memory is reserved, not filled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from seqfault.compile.native import NativeProgram
from seqfault.mm import exec as text
from seqfault.mm import types as vm
from seqfault.mm import uapi
from seqfault.mm.fullsize import full_sizes
from seqfault.mm.opcodes import PAGE_SIZE

NR_PAGES = (1 << 35) - 1  # TASK_SIZE of x86-64 with four levels
PROCESSES = 64
FILES, SHARED = 1000, 400  # that the recording names; that shared anonymous memory makes
FILE_PAGES = 1 << 18
CHUNK = 4096  # VMAs listed at a time
SIZES = {
    "UAPI_BASE": 0,
    "FENCE": 0,
    "NR_PAGES": NR_PAGES,
    "NR_MMS": PROCESSES,
    "NR_VMAS": 1 << 18,
    "NR_ANON_VMAS": 1 << 18,
    "NR_AVCS": 1 << 19,
    "NR_PTE_TABLES": 1 << 16,
    "NR_FRAMES": 1 << 20,
    "NR_TEST_FILES": FILES,
    "NR_FILES": FILES + SHARED,
    "FILE_PAGES": FILE_PAGES,
}
ENTRIES: dict[str, Callable[..., Any]] = {
    "init": uapi.uapi_init,
    "mm": text.exec_mm,
    "brk": text.exec_brk,
    "vma": text.exec_vma,
    "file": text.exec_file,
    "fork": text.exec_fork,
    "exit": text.exec_exit,
    "op": text.exec_op,
    "maps": text.exec_maps,
    "rlimit_as": text.exec_rlimit_as,
}
# VmFlags of smaps (fs/proc/task_mmu.c show_smap_vma_flags) that the model has
FLAGS = {
    "rd": vm.VM_READ,
    "wr": vm.VM_WRITE,
    "ex": vm.VM_EXEC,
    "sh": vm.VM_SHARED,
    "mr": vm.VM_MAYREAD,
    "mw": vm.VM_MAYWRITE,
    "me": vm.VM_MAYEXEC,
    "ms": vm.VM_MAYSHARE,
    "gd": vm.VM_GROWSDOWN,
    "lo": vm.VM_LOCKED,
    "lf": vm.VM_LOCKONFAULT,
    "ac": vm.VM_ACCOUNT,
    "nr": vm.VM_NORESERVE,
    "dc": vm.VM_DONTCOPY,
    "de": vm.VM_DONTEXPAND,
    "dd": vm.VM_DONTDUMP,
    "wf": vm.VM_WIPEONFORK,
    "sr": vm.VM_SEQ_READ,
    "rr": vm.VM_RAND_READ,
    "hg": vm.VM_HUGEPAGE,
    "nh": vm.VM_NOHUGEPAGE,
    "mg": vm.VM_MERGEABLE,
    "sl": vm.VM_SEALED,
}


class SpacesFull(Exception):
    """The recording needs more processes or files than the model has."""


@dataclass(slots=True)
class Vma:
    """One VMA of the model, in bytes; `file` -1: none; `anon` 0: no anon_vma, else which."""

    start: int
    end: int
    flags: frozenset[str]
    offset: int
    file: int
    anon: int

    @property
    def perms(self) -> str:
        bits = "".join(c if n in self.flags else "-" for c, n in (("r", "rd"), ("w", "wr"), ("x", "ex")))
        return bits + ("s" if "ms" in self.flags else "p")


@cache
def program(linux: int) -> NativeProgram:
    return NativeProgram(ENTRIES, sizes=full_sizes(linux, **SIZES))


def flag_bits(names: frozenset[str]) -> int:
    return sum(FLAGS[n] for n in names if n in FLAGS)


def flag_names(bits: int) -> frozenset[str]:
    return frozenset(n for n, b in FLAGS.items() if b & bits)


class Spaces:
    """Address spaces by number.  What has an argument `who` acts as that process."""

    def __init__(self, linux: int, compiled: Callable[[int], NativeProgram] = program):
        self.machine = compiled(linux).machine(strict=True)
        self.machine.call("init")
        self.machine.call("exit", 0)  # uapi_init begins process 0
        self.free = list(range(PROCESSES - 1, -1, -1))
        self.files = 6  # those before are the fuzzer's

    def _take(self) -> int:
        if not self.free:
            raise SpacesFull(f"more than {PROCESSES} address spaces at a time")
        return self.free.pop()

    def new_file(self, pages: int = FILE_PAGES, mode: int = 3, shmem: bool = False) -> int:
        """A file of its own, open with `mode` (1 reading, 2 writing); `shmem`: not on ext4 or its like."""
        if self.files == FILES:
            raise SpacesFull(f"more than {FILES} open files that are mapped")
        self.machine.call("file", self.files, min(pages, FILE_PAGES), mode, int(shmem))
        self.files += 1
        return self.files - 1

    def start(self, mmap_base: int, start_brk: int, rlimit_as: int, max_map_count: int, brk: int = 0) -> int:
        """A process with an empty address space; addresses in bytes, rlimit_as -1: none; brk 0: start_brk."""
        who = self._take()
        limit = 0 if rlimit_as < 0 else rlimit_as // PAGE_SIZE + 1
        self.machine.call("mm", who, mmap_base // PAGE_SIZE, start_brk, limit, max_map_count)
        if brk:
            self.machine.call("brk", who, brk)
        return who

    def place(
        self, who: int, start: int, end: int, flags: frozenset[str], file: int, offset: int, touched: bool
    ) -> int:
        return int(
            self.machine.call(
                "vma",
                *(who, start // PAGE_SIZE, end // PAGE_SIZE, flag_bits(flags), file + 1, offset // PAGE_SIZE),
                int(touched),
            )
        )

    def fork(self, parent: int) -> tuple[int, int]:
        """Result (0 or -errno) and the child's number."""
        child = self._take()
        err = int(self.machine.call("fork", parent, child))
        if err:
            self.free.append(child)
        return err, child

    def exit(self, who: int) -> None:
        self.machine.call("exit", who)
        self.free.append(who)

    def op(self, who: int, op: int, args: Sequence[int]) -> int:
        """An operation of mm/opcodes.py; its result."""
        return int(self.machine.call("op", op, who, *args, *[0] * (6 - len(args))))

    def limit_address_space(self, who: int, limit: int) -> None:
        self.machine.call("rlimit_as", who, 0 if limit < 0 else limit // PAGE_SIZE + 1)

    def maps(self, who: int, start: int = 0, end: int = NR_PAGES * PAGE_SIZE) -> list[Vma]:
        """The VMAs that overlap [start, end)."""
        out: list[Vma] = []
        at = start // PAGE_SIZE
        while True:
            self.machine.call("maps", who, at, CHUNK if end - start > PAGE_SIZE else 1)
            words = [int(w) for w in self.machine.emitted]
            for i in range(0, len(words), 6):
                first, last, flags, pgoff, file, anon = words[i : i + 6]
                if first * PAGE_SIZE >= end:
                    return out
                offset = pgoff * PAGE_SIZE if file else 0
                out.append(Vma(first * PAGE_SIZE, last * PAGE_SIZE, flag_names(flags), offset, file - 1, anon))
            if len(words) < 6 * CHUNK:
                return out
            at = out[-1].end // PAGE_SIZE
