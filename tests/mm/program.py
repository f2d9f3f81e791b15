"""A program that calls the modelled kernel, one operation at a time, in plain Python.  Addresses are pages here."""

from __future__ import annotations

from seqfault.kernel import Machine, pool_object, the
from seqfault.kernel.layout import Layout
from seqfault.mm.fullsize import full_sizes
from seqfault.mm.opcodes import *
from seqfault.mm.types import file, mm_struct
from seqfault.mm.uapi import uapi_init, uapi_observe, uapi_op, uapi_request

PAGES, HEAP, PAGE = 64, 40, PAGE_SIZE
R, W, X, RW = 1, 2, 4, 3
ANON = UAPI_MAP_PRIVATE | UAPI_MAP_ANONYMOUS
SIZES = {
    "NR_PAGES": PAGES,
    "PTRS_PER_PTE": PAGES,
    "HEAP_PAGE": HEAP,
    "NR_VMAS": 150,
    "NR_FRAMES": 256,
    "NR_ANON_VMAS": 128,
    "NR_AVCS": 400,
    "NR_FILES": 12,
    "FILE_PAGES": 16,
}


def at(page: int) -> int:
    return WINDOW_BASE + page * PAGE


class Program:
    """`call`: any operation by number, with raw arguments; the others by name, in pages."""

    def __init__(self, release: int = 618, **sizes: int):
        self.machine = Machine(Layout(sizes=full_sizes(release, **(SIZES | sizes))))
        with self.machine:
            uapi_init()

    def call(self, op: int, *args: int, who: int = 0) -> int:
        with self.machine:
            r = the(uapi_request)
            r.op, r.who = op, who
            for name, v in zip(("a0", "a1", "a2", "a3", "a4", "a5"), (*args, 0, 0, 0, 0, 0, 0), strict=False):
                setattr(r, name, v)
            uapi_op()
            return int(r.result)

    def record(self) -> list[int]:
        """What the last operation's record says."""
        with self.machine:
            self.machine.emitted.clear()
            uapi_observe()
            return list(self.machine.emitted)

    def page(self, op: int, *args: int, who: int = 0) -> int:
        """An operation that returns an address: the page, or -errno."""
        r = self.call(op, *args, who=who)
        return r if r < 0 else (r - WINDOW_BASE) // PAGE

    def mmap(self, p: int, n: int, prot: int = RW, flags: int = ANON, fd: int = -1, pgoff: int = 0, who: int = 0) -> int:
        fixed = 0 if flags & UAPI_MAP_FIXED_NOREPLACE or p == 0 else UAPI_MAP_FIXED
        return self.page(OP_MMAP, at(p) if p else 0, n * PAGE, prot, flags | fixed, fd, pgoff * PAGE, who=who)

    def munmap(self, p: int, n: int) -> int:
        return self.call(OP_MUNMAP, at(p), n * PAGE)

    def mprotect(self, p: int, n: int, prot: int) -> int:
        return self.call(OP_MPROTECT, at(p), n * PAGE, prot)

    def mremap(self, p: int, old: int, new: int, flags: int = MREMAP_MAYMOVE, to: int = 0) -> int:
        return self.page(OP_MREMAP, at(p), old * PAGE, new * PAGE, flags, at(to) if to else 0)

    def madvise(self, p: int, n: int, advice: int, who: int = 0) -> int:
        return self.call(OP_MADVISE, at(p), n * PAGE, advice, who=who)

    def mlock(self, p: int, n: int) -> int:
        return self.call(OP_MLOCK, at(p), n * PAGE)

    def read(self, p: int, who: int = 0) -> int:
        return self.call(OP_READ, at(p), who=who)

    def write(self, p: int, value: int, who: int = 0) -> int:
        return self.call(OP_WRITE, at(p), value, who=who)

    def vmas(self, who: int = 0) -> list[tuple[int, int, int]]:
        """(start, end, flags) of each VMA between the fences."""
        with self.machine:
            out, vma = [], pool_object(mm_struct, who).mmap
            while vma:
                out.append((int(vma.vm_start), int(vma.vm_end), int(vma.vm_flags)))
                vma = vma.vm_next
        return out[1:-1]

    def ranges(self, who: int = 0) -> list[tuple[int, int]]:
        return [(a, b) for a, b, _ in self.vmas(who)]

    def anon_vmas(self) -> list[int]:
        """Which anon_vma each VMA has, by number; 0: none."""
        with self.machine:
            out, vma = [], pool_object(mm_struct, 0).mmap
            while vma:
                out.append(int(vma.anon_vma.k_v))
                vma = vma.vm_next
        return out[1:-1]

    def mm(self, field: str, who: int = 0) -> int:
        with self.machine:
            return int(getattr(pool_object(mm_struct, who), field))

    def file_users(self, i: int) -> int:
        with self.machine:
            return int(pool_object(file, i).f_count)
