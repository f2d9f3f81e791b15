"""`AddressSpace`: the model's address space, called like the kernel."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.native import NativeMachine, NativeProgram
from seqfault.kernel.machine import KernelBug
from seqfault.mm.fullsize import full_sizes, release_number
from seqfault.mm.opcodes import (
    OP_BRK,
    OP_FTRUNCATE,
    OP_MADVISE,
    OP_MINCORE,
    OP_MLOCK,
    OP_MLOCK2,
    OP_MLOCKALL,
    OP_MMAP,
    OP_MPROTECT,
    OP_MREMAP,
    OP_MSEAL,
    OP_MSYNC,
    OP_MUNLOCK,
    OP_MUNLOCKALL,
    OP_MUNMAP,
    OP_PWRITE,
    OP_READ,
    OP_WRITE,
    PAGE_SIZE,
    WINDOW_BASE,
)
from seqfault.mm.vma import validate_mm
from seqfault.space import text
from seqfault.space.calls import Call, outcome
from seqfault.space.explain import explain_merge, split_by
from seqfault.space.listing import DISK_DEVICE, SHMEM_DEVICE, Page, Vma, page_of_word

Int64 = NDArray[np.int64]
WHOLE = (1 << 35) - 1  # pages of user space on x86-64 with four levels
MMAP_BASE, START_BRK = 0x7FFFF7FFF000, 0x555555559000  # as without address space layout randomisation
ENTRIES: dict[str, Any] = {
    "init": text.space_init,
    "call": text.space_call,
    "step": text.space_step,
    "maps": text.space_maps,
    "pages": text.space_pages,
    "watched": text.space_watched,
}
LISTED_AT_A_TIME = 8192
FIRST_INODE = 1024
MODES = {"r": 1, "w": 2, "rw": 3}


@cache
def native_program(sizes: tuple[tuple[str, int], ...], validate: bool) -> NativeProgram:
    return NativeProgram(ENTRIES, {} if validate else {validate_mm: text.no_validate_mm}, dict(sizes))


class World:
    """What the address spaces of one family of processes share: memory, files, the log of their calls."""

    def __init__(self, linux: int, sizes: dict[str, int], max_map_count: int, validate: bool):
        self.linux, self.sizes = linux, sizes
        self.program = native_program(tuple(sorted(full_sizes(linux, **sizes).items())), validate)
        self.base = sizes["UAPI_BASE"]
        self.names: list[tuple[str, str, int]] = []  # of each descriptor: name, device, inode
        self.alive = [True] + [False] * (sizes["NR_MMS"] - 1)
        self.count = 0
        self.rows: Int64 = np.zeros((1024, 8), np.int64)
        self.results: Int64 = np.zeros(1024, np.int64)
        self.machine = self.new_machine()
        self.dead: KernelBug | None = None
        base = MMAP_BASE // PAGE_SIZE if self.base == 0 else 0
        self.call(0, text.SPACE_LIMITS, max_map_count, 0, base)

    def new_machine(self) -> NativeMachine:
        m = self.program.machine(out_words=1 << 17)
        m.call("init")
        heap = self.sizes["HEAP_PAGE"] * PAGE_SIZE
        for field in ("start_brk", "brk"):
            m.cells[self.program.layout.address("mm_struct", 0, field)] = heap
        return m

    # -- calls
    def room(self, n: int) -> None:
        while self.count + n > len(self.rows):
            self.rows = np.concatenate([self.rows, np.zeros_like(self.rows)])
            self.results = np.concatenate([self.results, np.zeros_like(self.results)])

    def check_alive(self) -> None:
        if self.dead is not None:
            raise RuntimeError(f"the model stopped at an earlier call: {self.dead}")

    def call(self, who: int, op: int, *args: int) -> int:
        """Perform and log one call; its result.  Raises `KernelBug` where the text itself finds something wrong."""
        self.check_alive()
        row = [op, who, *args, *[0] * (6 - len(args))]
        self.room(1)
        try:
            self.rows[self.count] = row
        except OverflowError:  # addresses as unsigned numbers
            row = [(v + (1 << 63)) % (1 << 64) - (1 << 63) for v in row]
            self.rows[self.count] = row
        try:
            r = int(self.machine.call("call", *row))
        except KernelBug as e:
            self.dead = e
            raise
        self.results[self.count] = r
        self.count += 1
        return r

    def run(self, rows: Int64) -> Int64:
        """Perform and log many calls; their results."""
        self.check_alive()
        rows = np.ascontiguousarray(rows, np.int64)
        self.room(len(rows))
        out = np.zeros(len(rows) + 1, np.int64)
        b = self.machine.batch("step", rows, "uapi_request", out, margin=1)
        at = self.count
        self.rows[at : at + b.done] = rows[: b.done]
        self.results[at : at + b.done] = out[: b.done]
        self.count += b.done
        if b.bug is not None:
            self.dead = b.bug
            raise b.bug
        return out[: b.done]

    def logged(self, i: int) -> Call:
        row = [int(v) for v in self.rows[i]]
        return Call(i, row[1], row[0], tuple(row[2:]), int(self.results[i]))

    def watch(self, who: int, page: int, n: int) -> Int64:
        """The boundary before `page` of process `who` after each of the first `n` calls, by doing them again."""
        m = self.new_machine()
        layout = self.program.layout
        m.cells[layout.address("space_watch", 0, "who")] = who
        m.cells[layout.address("space_watch", 0, "page")] = page
        out = np.zeros(n + 1, np.int64)
        b = m.batch("watched", self.rows[:n], "uapi_request", out, margin=1)
        assert b.done == n, b.bug
        return out[:n]

    # -- what there is
    def page(self, address: int) -> int:
        page = (address - self.base) // PAGE_SIZE
        if not 0 <= page <= self.sizes["NR_PAGES"]:
            raise ValueError(f"{address:#x} is outside the address space that the model has")
        return page

    def address(self, page: int) -> int:
        return self.base + page * PAGE_SIZE

    def name_of(self, file: int) -> tuple[str, str, int]:
        if file < 0:
            return "", "00:00", 0
        if file < len(self.names):
            return self.names[file]
        return "/dev/zero (deleted)", SHMEM_DEVICE, FIRST_INODE + file

    def vmas(self, who: int, start: int = 0, most: int = 1 << 40) -> list[Vma]:
        """The VMAs of a process from page `start` on."""
        out: list[Vma] = []
        at = start
        while len(out) < most:
            n = min(LISTED_AT_A_TIME, most - len(out))
            self.machine.call("maps", who, at, n)
            words = self.machine.emitted.reshape(-1, 6).tolist()
            for first, last, flags, pgoff, file, anon in words:
                name, device, inode = self.name_of(file - 1)
                a, b = self.address(first), self.address(last)
                out.append(Vma(a, b, flags, pgoff * PAGE_SIZE, file - 1, anon, name, device, inode))
            if len(words) < n:
                break
            at = words[-1][1]
        return out


class AddressSpace:
    """The address space of a process, as Linux `release` keeps it.

    Methods are the system calls of the same name: addresses and lengths in bytes, Linux's own numbers for flags (those
    of Python's `mmap` module, for example), `OSError` with Linux's errno when one fails.  `read` and `write` are what
    the program does itself; a signal raises `MemoryFault`.

    Parameters: `release`: "6.18", "6.1" or "4.12".  `pages`: how many pages the address space has (None: the whole of
    x86-64's user space; else a window from 0x100000000000 on).  `vmas`, `frames`, `files`, `processes`: how many of
    them there may be at a time, in all address spaces together; when one runs out, `KernelBug` ("pool-exhausted")
    says which.  `file_pages`: how long a file may be.  `max_map_count`: the sysctl.  `validate`: whether list and tree
    are compared after each change, as with CONFIG_DEBUG_VM_RB (slow where there are many VMAs).

    Raises `ValueError` for a release that is none.
    """

    def __init__(
        self,
        release: str = "6.18",
        *,
        pages: int | None = None,
        vmas: int = 1 << 18,
        frames: int = 1 << 20,
        files: int = 64,
        processes: int = 8,
        file_pages: int = 1 << 18,
        max_map_count: int = 65530,
        validate: bool = False,
        _world: World | None = None,
        _who: int = 0,
        _parent: tuple[AddressSpace, int] | None = None,
    ):
        self.who, self._parent = _who, _parent
        if _world is not None:
            self._world = _world
            return
        whole = pages is None
        n = WHOLE if pages is None else pages
        sizes = {
            "UAPI_BASE": 0 if whole else WINDOW_BASE,
            "HEAP_PAGE": START_BRK // PAGE_SIZE if whole else n // 4,
            "FENCE": 0,
            "TEST_FILES": 0,
            "NR_PAGES": n,
            "NR_MMS": processes,
            "NR_VMAS": vmas,
            "NR_ANON_VMAS": vmas,
            "NR_AVCS": 2 * vmas,
            "NR_PTE_TABLES": max(16, min(n // 512 + 1, frames)),
            "NR_FRAMES": frames,
            "NR_TEST_FILES": files,
            "NR_FILES": 2 * files,
            "FILE_PAGES": file_pages,
        }
        self._world = World(release_number(release), sizes, max_map_count, validate)

    # -- system calls
    def _call(self, op: int, *args: int) -> int:
        w = self._world
        r = w.call(self.who, op, *args)
        return r if r >= 0 else outcome(w.logged(w.count - 1))

    def mmap(self, addr: int, length: int, prot: int, flags: int, fd: int = -1, offset: int = 0) -> int:
        """The address of the new mapping."""
        return self._call(OP_MMAP, addr, length, prot, flags, self._opened(fd), offset)

    def munmap(self, addr: int, length: int) -> None:
        self._call(OP_MUNMAP, addr, length)

    def mprotect(self, addr: int, length: int, prot: int) -> None:
        self._call(OP_MPROTECT, addr, length, prot)

    def mremap(self, old_address: int, old_size: int, new_size: int, flags: int = 0, new_address: int = 0) -> int:
        """Where the mapping is now."""
        return self._call(OP_MREMAP, old_address, old_size, new_size, flags, new_address)

    def madvise(self, addr: int, length: int, advice: int) -> None:
        self._call(OP_MADVISE, addr, length, advice)

    def mlock(self, addr: int, length: int) -> None:
        self._call(OP_MLOCK, addr, length)

    def mlock2(self, addr: int, length: int, flags: int) -> None:
        self._call(OP_MLOCK2, addr, length, flags)

    def munlock(self, addr: int, length: int) -> None:
        self._call(OP_MUNLOCK, addr, length)

    def mlockall(self, flags: int) -> None:
        self._call(OP_MLOCKALL, flags)

    def munlockall(self) -> None:
        self._call(OP_MUNLOCKALL)

    def mseal(self, addr: int, length: int, flags: int = 0) -> None:
        self._call(OP_MSEAL, addr, length, flags)

    def msync(self, addr: int, length: int, flags: int) -> None:
        self._call(OP_MSYNC, addr, length, flags)

    def mincore(self, addr: int, length: int) -> list[bool]:
        """Whether each page is in memory."""
        self._call(OP_MINCORE, addr, length)
        layout, m = self._world.program.layout, self._world.machine
        first = layout.address("mincore_vec", 0, "vec[0]")
        n = int(m.cells[layout.address("mincore_vec", 0, "nr")])
        return [bool(v) for v in m.cells[first : first + n]]

    def brk(self, addr: int = 0) -> int:
        """The break as it is then; where it cannot be moved it stays (as the system call, not as glibc's function)."""
        return self._call(OP_BRK, addr)

    def read(self, addr: int) -> int:
        """Load a byte.  Of a page's bytes the model keeps one, which stands for all."""
        return self._call(OP_READ, addr)

    def write(self, addr: int, value: int) -> None:
        """Store a byte (1 to 255)."""
        self._call(OP_WRITE, addr, value)

    # -- files
    def memfd_create(self, name: str, size: int = 0) -> int:
        """A file of shared memory, of `size` bytes: its descriptor."""
        return self._file(f"/memfd:{name} (deleted)", SHMEM_DEVICE, size, "rw", True)

    def open(self, path: str, size: int = 0, mode: str = "rw") -> int:
        """A file on disk that was never read: its descriptor.  `mode`: "r", "w" or "rw"."""
        return self._file(path, DISK_DEVICE, size, mode, False)

    def _file(self, name: str, device: str, size: int, mode: str, shmem: bool) -> int:
        w = self._world
        if mode not in MODES:
            raise ValueError(f"mode {mode!r}: it is r, w or rw")
        if len(w.names) == w.sizes["NR_TEST_FILES"] or -(-size // PAGE_SIZE) > w.sizes["FILE_PAGES"]:
            raise ValueError(f"{name}: more files, or a longer one, than the model was made for; see files, file_pages")
        fd = len(w.names)
        self._call(text.SPACE_FILE, fd, -(-size // PAGE_SIZE), MODES[mode], int(shmem), 0)
        w.names.append((name, device, FIRST_INODE + fd))
        return fd

    def _opened(self, fd: int) -> int:
        return fd if 0 <= fd < len(self._world.names) else -1

    def ftruncate(self, fd: int, length: int) -> None:
        self._call(OP_FTRUNCATE, self._opened(fd), length)

    def pwrite(self, fd: int, page: int, value: int) -> None:
        """Write a byte to a page of a file (by write(2), not through a mapping)."""
        self._call(OP_PWRITE, self._opened(fd), page, value)

    # -- processes
    def fork(self) -> AddressSpace:
        """The address space of the child."""
        w = self._world
        if all(w.alive):
            raise ValueError(f"more than {len(w.alive)} processes; see `processes`")
        child = w.alive.index(False)
        self._call(text.SPACE_FORK, child)
        w.alive[child] = True
        return AddressSpace(_world=w, _who=child, _parent=(self, w.count - 1))

    def exit(self) -> None:
        """The process ends."""
        self._call(text.SPACE_EXIT)
        self._world.alive[self.who] = False

    def setrlimit_as(self, limit: int | None) -> None:
        """RLIMIT_AS, in bytes; None: no limit."""
        w = self._world
        most = int(w.machine.cells[w.program.layout.address("mm_struct", self.who, "max_map_count")])
        self._call(text.SPACE_LIMITS, most, 0 if limit is None else limit // PAGE_SIZE + 1, 0)

    # -- many calls at once
    def run(self, rows: Int64) -> Int64:
        """Perform calls given as rows [op, who, six arguments] (mm/opcodes.py): their results, -errno where one fails,
        -1000 - signal where memory was not to be had."""
        return self._world.run(rows)

    # -- what there is
    def vmas(self) -> list[Vma]:
        """The VMAs, in order."""
        out = self._world.vmas(self.who)
        lo, hi = self._brk_range()
        if lo == hi == 0:
            return out
        return [self._heap(v, lo, hi) for v in out]

    def _brk_range(self) -> tuple[int, int]:
        w = self._world
        lo, hi = (
            int(w.machine.cells[w.program.layout.address("mm_struct", self.who, k)]) for k in ("start_brk", "brk")
        )
        return w.base + lo, w.base + hi

    def _heap(self, v: Vma, start_brk: int, brk: int) -> Vma:
        """vma_is_initial_heap; since 6.6 a mapping that only touches the heap is none."""
        if v.file >= 0:
            return v
        if self._world.linux >= 606:
            inside = v.start < brk and v.end > start_brk
        else:
            inside = v.start <= brk and v.end >= start_brk
        if not inside:
            return v
        return Vma(v.start, v.end, v.flags, v.offset, v.file, v.anon_vma, "[heap]")

    def maps(self) -> str:
        """As /proc/PID/maps."""
        return "".join(f"{v}\n" for v in self.vmas())

    def pagemap(self, addr: int, length: int) -> list[Page]:
        """What /proc/PID/pagemap says of the pages of [addr, addr + length)."""
        w = self._world
        at, end = w.page(addr), w.page(addr + length + PAGE_SIZE - 1)
        out: list[Page] = []
        while at < end:
            to = min(at + LISTED_AT_A_TIME, end)
            w.machine.call("pages", self.who, at, to)
            pairs = w.machine.emitted.reshape(-1, 2).tolist()
            out += [page_of_word(w.address(at + i), word, dirty) for i, (word, dirty) in enumerate(pairs)]
            at = to
        return out

    def plain_python_differs(self, rows: Int64) -> list[str]:
        """Perform calls given as for `run` twice, as machine code and, from the same memory, as plain Python; what
        differs then: results, and cells of memory, by name.  Not for the whole of user space, whose memory is too
        large to be copied: with `pages`."""
        w = self._world
        plain = w.machine.to_plain()
        request = w.program.layout.pools["uapi_request"].base
        out = []
        mine = w.run(rows)
        for row, result in zip(np.asarray(rows).tolist(), mine.tolist(), strict=True):
            plain.cells[request : request + len(row)] = row
            with plain:
                text.space_op()
            if plain.cells[request + len(row)] != result:
                out.append(f"{row}: {result} here, {plain.cells[request + len(row)]} in plain Python")
        return out + w.machine.differences(plain)

    @property
    def window_start(self) -> int:
        """The lowest address that the model has."""
        return self._world.base

    @property
    def call_count(self) -> int:
        return self._world.count

    @property
    def calls(self) -> Sequence[Call]:
        """Every call so far, of all processes of the family."""
        return [self._world.logged(i) for i in range(self._world.count)]

    @property
    def counters(self) -> dict[str, int]:
        """How often the text went where it counts: cases of merging, refusals."""
        return self._world.machine.counters

    # -- why
    def explain_merge(self, addr: int) -> str:
        """Why the mappings on both sides of `addr` are one, or two."""
        return explain_merge(self, addr)

    def split_by(self, addr: int) -> Call | None:
        """The call that split a VMA at `addr`; None if there is no boundary, or it came otherwise."""
        return split_by(self, addr)
