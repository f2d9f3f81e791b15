"""A program's operations, one at a time, and what it can see after each.

The entries that `AddressSpace`, `fuzz` and the replay of recordings are compiled from: `uapi_init` once, then for each
operation fill `uapi_request` (as in mm/opcodes.py) and call `uapi_step`, which emits one record (mm/observe.py).
"""

from __future__ import annotations

from seqfault.kernel import BUG_ON, NULL, Size, array, emit, pool_object, ptr, struct, the
from seqfault.mm.exit import exit_mmap
from seqfault.mm.file import i_mmap_lock_write, i_mmap_unlock_write
from seqfault.mm.filemap import mm_init
from seqfault.mm.fork import dup_mm
from seqfault.mm.ksys import (
    ENOSYS,
    FMODE_READ,
    FMODE_WRITE,
    ksys_brk,
    ksys_ftruncate,
    ksys_madvise,
    ksys_mincore,
    ksys_mlock,
    ksys_mlock2,
    ksys_mlockall,
    ksys_mmap,
    ksys_mprotect,
    ksys_mremap,
    ksys_mseal,
    ksys_msync,
    ksys_munlockall,
    ksys_munmap,
    ksys_pwrite,
    s64,
    user_byte,
    vm_mmap_pgoff,
)
from seqfault.mm.lru import lru_add_drain
from seqfault.mm.msync import mincore_vec
from seqfault.mm.observe import note_totals, observe_mm, uapi_observed, uapi_vmflags
from seqfault.mm.opcodes import (
    ABSENT,
    OP_BRK,
    OP_EXIT,
    OP_FORK,
    OP_FTRUNCATE,
    OP_MADVISE,
    OP_MAP_COUNT,
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
    OP_RLIMIT_AS,
    OP_START,
    OP_WRITE,
    PAGE_SIZE,
    UAPI_MAP_FIXED,
    UAPI_MAP_SHARED,
)
from seqfault.mm.truncate import file_write, vfs_truncate
from seqfault.mm.types import (
    NR_FILES,
    NR_MMS,
    NR_PAGES,
    NR_TEST_FILES,
    PROT_NONE,
    current_mm,
    file,
    mm_struct,
    pgoff_t,
    task_mm,
)

HEAP_PAGE = Size("HEAP_PAGE", 0)  # where the heap begins; 0: no brk
FENCE = Size("FENCE", 1)  # whether the first and the last page of the window are occupied
TEST_FILES = Size("TEST_FILES", 1)  # whether files 0 to 5 are those of mm/opcodes.py
DISK_FILE, FENCE_FILE, READ_ONLY_FILE, WRITE_ONLY_FILE = 2, 3, 4, 5
DISK_PAGES, DISK_DATA = 6, 0x60  # page i of the file on disk begins with byte DISK_DATA + i


@struct(pool=1, private=True)
class uapi_request:
    """One operation as in mm/opcodes.py, and its result."""

    op: s64
    who: s64
    a0: s64
    a1: s64
    a2: s64
    a3: s64
    a4: s64
    a5: s64
    result: s64


@struct(pool=1, private=True)
class uapi_world:
    """Which processes live; whether VMAs were made scarce (on a kernel by tens of thousands of them, of which smaps
    would tell at length: such programs have no details)."""

    alive: array[bool, NR_MMS]
    crowded: bool


# -- processes
def uapi_process(who: s64):
    """`who` runs from now on."""
    if NR_MMS > 1:
        the(task_mm).mm = pool_object(mm_struct, who)


def fence(addr: s64):
    ret: s64 = vm_mmap_pgoff(addr, 1, PROT_NONE, UAPI_MAP_SHARED | UAPI_MAP_FIXED, pool_object(file, FENCE_FILE), 0)
    assert ret >= 0


def test_file(number: s64, mode: s64, shmem: bool, mapping: ptr[file]):
    f = pool_object(file, number)
    f.f_count = 1  # held open
    f.f_mode = mode
    f.shmem = shmem
    f.f_mapping = mapping


def resize(number: s64, pages: pgoff_t):
    """Empty the file, so that nothing is in its page cache, and make it `pages` long."""
    f = pool_object(file, number)
    vfs_truncate(f, 0)
    vfs_truncate(f, pages * PAGE_SIZE)


def test_files():
    """The files as they are when a program starts: two with holes, and one that was written, all newly opened."""
    for i in range(min(NR_TEST_FILES, NR_FILES)):
        f = pool_object(file, i)
        f.ra_start = 0
        f.ra_size = 0
        f.ra_async = 0
        f.ra_order = 0
    resize(0, 8)
    resize(1, 4)
    resize(DISK_FILE, DISK_PAGES)
    resize(FENCE_FILE, 1)
    for i in range(DISK_PAGES):
        file_write(pool_object(file, DISK_FILE), i, DISK_DATA + i)


def uapi_start():
    """The window of a fresh process 0."""
    uapi_process(0)
    mm = current_mm()
    mm.start_brk = HEAP_PAGE * PAGE_SIZE
    mm.brk = HEAP_PAGE * PAGE_SIZE
    mm.def_flags = 0
    mm.rlimit_as = 0
    mm.max_map_count = 0
    mm.locked_vm = 0
    the(uapi_world).alive[0] = True
    if FENCE:
        fence(0)
        fence(NR_PAGES - 1)
    note_totals(mm)


def uapi_init():
    """Once, before everything: the zero page and the files."""
    seen = the(uapi_observed)
    mm_init()
    if TEST_FILES:
        both: s64 = FMODE_READ | FMODE_WRITE
        test_file(0, both, True, NULL)
        test_file(1, both, True, NULL)
        test_file(DISK_FILE, both, False, NULL)
        test_file(FENCE_FILE, both, True, NULL)
        test_file(READ_ONLY_FILE, FMODE_READ, False, pool_object(file, DISK_FILE))
        test_file(WRITE_ONLY_FILE, FMODE_WRITE, False, pool_object(file, DISK_FILE))
        test_files()
    seen.pages = True
    seen.nr_spans = 1
    seen.start[0] = 0
    seen.end[0] = NR_PAGES
    uapi_start()


def uapi_fork(who: s64) -> s64:
    world = the(uapi_world)
    if who != 0 or NR_MMS < 2 or world.alive[1]:
        return ABSENT
    ret: s64 = dup_mm(pool_object(mm_struct, 1), pool_object(mm_struct, 0))
    if ret == 0:
        world.alive[1] = True
    return ret


def uapi_exit(who: s64) -> s64:
    if who == 0:
        return ABSENT
    exit_mmap(pool_object(mm_struct, who))
    the(uapi_world).alive[who] = False
    uapi_process(0)
    return 0


def uapi_restart() -> s64:
    """A new program: everybody leaves, the files are as they were."""
    world = the(uapi_world)
    for i in range(NR_MMS):
        if world.alive[i]:
            uapi_process(i)
            exit_mmap(pool_object(mm_struct, i))
            world.alive[i] = False
    world.crowded = False
    the(uapi_observed).row = 0
    if TEST_FILES:
        for i in range(min(NR_TEST_FILES, NR_FILES)):
            f = pool_object(file, i)  # nobody maps it any more, and only who opened it has it
            i_mmap_lock_write(f)
            BUG_ON(f.i_mmap_vmas != 0)
            i_mmap_unlock_write(f)
            BUG_ON(f.f_count != 1)
        test_files()
    uapi_start()
    return 0


def uapi_rlimit_as(pages: s64) -> s64:
    """RLIMIT_AS: as many pages more than are mapped now; negative: no limit."""
    mm = current_mm()
    if pages < 0:
        mm.rlimit_as = 0
    else:
        mm.rlimit_as = mm.total_vm + pages + 1
    return 0


def uapi_map_count(more: s64) -> s64:
    mm = current_mm()
    mm.max_map_count = mm.map_count + more
    the(uapi_world).crowded = True
    return 0


# -- operations
def uapi_do(r: ptr[uapi_request]) -> s64:
    op: s64 = r.op
    if op == OP_READ:
        return user_byte(r.a0, False, 0)
    if op == OP_WRITE:
        return user_byte(r.a0, True, r.a1)
    if op == OP_MMAP:
        return ksys_mmap(r.a0, r.a1, r.a2, r.a3, r.a4, r.a5)
    if op == OP_MUNMAP:
        return ksys_munmap(r.a0, r.a1)
    if op == OP_MPROTECT:
        return ksys_mprotect(r.a0, r.a1, r.a2)
    if op == OP_MREMAP:
        return ksys_mremap(r.a0, r.a1, r.a2, r.a3, r.a4)
    if op == OP_MADVISE:
        return ksys_madvise(r.a0, r.a1, r.a2)
    if op == OP_MLOCK:
        return ksys_mlock(r.a0, r.a1, True, False)
    if op == OP_MLOCK2:
        return ksys_mlock2(r.a0, r.a1, r.a2)
    if op == OP_MUNLOCK:
        return ksys_mlock(r.a0, r.a1, False, False)
    if op == OP_BRK:
        return ksys_brk(r.a0)
    if op == OP_FORK:
        return uapi_fork(r.who)
    if op == OP_EXIT:
        return uapi_exit(r.who)
    return uapi_do_rare(r, op)


def uapi_do_rare(r: ptr[uapi_request], op: s64) -> s64:
    if op == OP_FTRUNCATE:
        return ksys_ftruncate(r.a0, r.a1)
    if op == OP_RLIMIT_AS:
        return uapi_rlimit_as(r.a0)
    if op == OP_MSEAL:
        return ksys_mseal(r.a0, r.a1, r.a2)
    if op == OP_MINCORE:
        return ksys_mincore(r.a0, r.a1)
    if op == OP_MSYNC:
        return ksys_msync(r.a0, r.a1, r.a2)
    if op == OP_MLOCKALL:
        return ksys_mlockall(r.a0)
    if op == OP_MUNLOCKALL:
        return ksys_munlockall()
    if op == OP_PWRITE:
        return ksys_pwrite(r.a0, r.a1, r.a2)
    if op == OP_MAP_COUNT:
        return uapi_map_count(r.a0)
    return -ENOSYS


def uapi_op():
    """Perform the request."""
    r = the(uapi_request)
    world = the(uapi_world)
    the(mincore_vec).nr = 0
    if r.op == OP_START:
        r.result = uapi_restart()
    elif r.who < 0 or r.who >= NR_MMS or not world.alive[r.who]:
        r.result = ABSENT
    else:
        uapi_process(r.who)
        r.result = uapi_do(r)


def uapi_observe():
    """The record of what the request did."""
    r = the(uapi_request)
    world = the(uapi_world)
    seen = the(uapi_observed)
    out = the(mincore_vec)
    detail = seen.detail_every != 0 and seen.row % max(seen.detail_every, 1) == 0 and not world.crowded
    seen.row += 1
    mask: s64 = 0
    for i in range(NR_MMS):
        if i < 2 and world.alive[i]:
            mask |= 1 << i
    if detail:
        mask |= 4
    vector = r.op == OP_MINCORE and r.result == 0
    if vector:
        mask |= 8
    emit(r.result)
    emit(mask)
    for i in range(NR_MMS):
        if world.alive[i]:
            observe_mm(pool_object(mm_struct, i))
    if vector:
        emit(out.nr)
        for i in range(out.nr):
            emit(out.vec[i])
    if detail:
        for i in range(NR_MMS):
            if world.alive[i]:
                uapi_vmflags(pool_object(mm_struct, i))


def uapi_step():
    """The entry of a batch: one operation and its record.

    The runner on the live kernel empties the processor's batches of pages before each operation, since other
    programs may do so at any time.
    """
    lru_add_drain()
    uapi_op()
    uapi_observe()
