"""VMAs and pages as /proc/PID/maps and pagemap show them.  fs/proc/task_mmu.c."""

from __future__ import annotations

from dataclasses import dataclass

from seqfault.mm import types as vm

PAGE_SIZE = 4096
NAME_COLUMN = 73  # where show_map_vma pads names to, on 64 bits
SHMEM_DEVICE, DISK_DEVICE = "00:01", "fe:00"
FLAGS = {name: bit for name, bit in vars(vm).items() if name.startswith("VM_") and isinstance(bit, int) and bit}
NOT_FLAGS = ("VM_FLAGS_MAX", "VM_ACCESS_FLAGS", "VM_SOFTDIRTY", "VM_STICKY")


@dataclass(frozen=True)
class Vma:
    """A VMA, in bytes.  `anon_vma`: 0 none, else which; `name`: as in maps; `file`: descriptor, -1 none."""

    start: int
    end: int
    flags: int
    offset: int
    file: int
    anon_vma: int
    name: str = ""
    device: str = "00:00"
    inode: int = 0

    @property
    def perms(self) -> str:
        bits = "".join(c if self.flags & b else "-" for c, b in (("r", 1), ("w", 2), ("x", 4)))
        return bits + ("s" if self.flags & (vm.VM_MAYSHARE | vm.VM_SHARED) else "p")

    def __str__(self) -> str:
        """The line of /proc/PID/maps."""
        offset = self.offset if self.file >= 0 else 0
        head = f"{self.start:08x}-{self.end:08x} {self.perms} {offset:08x} {self.device} {self.inode} "
        return head.ljust(NAME_COLUMN) + self.name if self.name else head


@dataclass(frozen=True)
class Page:
    """What pagemap says of a page.  `exclusive`: mapped once (PM_MMAP_EXCLUSIVE); `file`: of a file or of shared
    anonymous memory; `frame`: number of its frame, 0: none, or the zero page; `dirty`: written through this mapping
    (smaps counts them)."""

    address: int
    present: bool
    exclusive: bool
    file: bool
    guard: bool
    frame: int
    dirty: bool


def page_of_word(address: int, word: int, dirty: int) -> Page:
    present = bool(word & 1)
    return Page(
        address,
        present,
        present and bool(word & 2),
        present and bool(word & 4),
        bool(word & 8),
        word >> 16 if present else 0,
        bool(dirty),
    )


def flag_names(bits: int) -> list[str]:
    """VM_WRITE and so on."""
    return [n for n, b in FLAGS.items() if n not in NOT_FLAGS and b & (b - 1) == 0 and bits & b]
