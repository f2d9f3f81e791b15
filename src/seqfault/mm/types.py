"""The structs of Linux's memory management, 4.12 (include/linux/mm_types.h), at page granularity.

Addresses are page numbers.  Behind a field that CPUs share stands what a writer must hold: its rule in mm/locks.py.
"""

from __future__ import annotations

from seqfault.kernel import Size, array, integer, pool_object, ptr, struct, the
from seqfault.kernel.rcu import srcu_struct as srcu_struct
from seqfault.kernel.rwsem import rw_semaphore
from seqfault.kernel.spinlock import spinlock_t
from seqfault.kernel.task import NR_CPUS, NR_TASKS

NR_PAGES = Size("NR_PAGES", 8)
PTRS_PER_PTE = Size("PTRS_PER_PTE", 4)
NR_PTE_TABLES = Size("NR_PTE_TABLES", 4)
NR_VMAS = Size("NR_VMAS", 8)
NR_FRAMES = Size("NR_FRAMES", 10)
NR_ANON_VMAS = Size("NR_ANON_VMAS", 4)
NR_AVCS = Size("NR_AVCS", 8)
NR_FILES = Size("NR_FILES", 1)
FILE_PAGES = Size("FILE_PAGES", 4)
PGOFF_MAX = Size("PGOFF_MAX", 15)
NR_OPS = Size("NR_OPS", 6)
NR_FILLS = Size("NR_FILLS", 2)
NR_VALUES = Size("NR_VALUES", 15)
NR_MMS = Size("NR_MMS", 1)
ERRNO_MAX = Size("ERRNO_MAX", 64)
VM_FLAGS_MAX = Size("VM_FLAGS_MAX", 63)
# Which Linux the text is, major * 100 + minor: 412 is 4.12, 618 is 6.18.  Branches on it are folded when the text
# is compiled.
LINUX = Size("LINUX", 412)
# 1: all that a program can see of Linux (limits, accounting, VM_MAY flags, dirty bits, fork, ...), for `AddressSpace`
# and `fuzz`.  0: what the scenarios of `check` need; the rest is folded away and costs them no state.
FULL = Size("FULL", 0)
# 1: a fault keeps vm_flags and vm_page_prot of its VMA, vmf->vma_flags and vmf->vma_page_prot, and looks at the VMA's
# own no more (PATCH v12 13/31 of the speculative page faults); a protocol adds the fields.
VMF_CACHES_VMA = Size("VMF_CACHES_VMA", 0)
# 1: a scenario forks (mm/fork_parent.py); 0: nothing of it is there.
FORK = Size("FORK", 0)
# How many files a program has open; shared anonymous memory takes those that follow.
NR_TEST_FILES = Size("NR_TEST_FILES", 6)
# read_ahead_kb of the disk, in pages; 0: it has none (ramfs).
RA_PAGES = Size("RA_PAGES", 32)

vpn_t = integer(0, NR_PAGES, "vpn_t")
pgoff_t = integer(0, PGOFF_MAX, "pgoff_t")
pte_t = integer(0, NR_FRAMES * 4 + 3 + FULL * (NR_FRAMES * 60 + 60), "pte_t")
NR_PMDS = (NR_PAGES + PTRS_PER_PTE - 1) // PTRS_PER_PTE
NR_PMD_GROUPS = (NR_PMDS + 511) // 512
pmd_t = integer(0, NR_PMDS, "pmd_t")
pfn_t = integer(0, NR_FRAMES, "pfn_t")
prot_t = integer(0, 7, "prot_t")
pgprot_t = integer(0, 3, "pgprot_t")
flags_t = integer(0, VM_FLAGS_MAX, "flags_t")
data_t = integer(0, NR_VALUES, "data_t")
errno_t = integer(0 - ERRNO_MAX, 63, "errno_t")
addr_or_errno_t = integer(0 - ERRNO_MAX, NR_PAGES, "addr_or_errno_t")
fault_t = integer(0, 63, "fault_t")
fault_flags_t = integer(0, 3, "fault_flags_t")
signal_t = integer(0, 15, "signal_t")
result_t = integer(-128, 127 + FULL * 128, "result_t")
full_count_t = integer(0, FULL * (1 << 40), "full_count_t")
count_t = integer(0, 15 + FULL * (1 << 40), "count_t")
# Arguments as a program gives them.
s64 = integer(-(1 << 63), (1 << 63) - 1, "s64")
mmap_flags_t = integer(0 - FULL * (1 << 63), 63 + FULL * ((1 << 63) - 64), "mmap_flags_t")
prot_arg_t = integer(0 - FULL * (1 << 63), 7 + FULL * ((1 << 63) - 8), "prot_arg_t")
# Nothing is kept in these unless FULL.
vm_count_t = integer(0, FULL * (1 << 40), "vm_count_t")
vm_delta_t = integer(-(1 << 40), 1 << 40, "vm_delta_t")
brk_t = integer(0, FULL * NR_PAGES * 4096, "brk_t")

VM_READ, VM_WRITE, VM_EXEC, VM_SHARED, VM_GROWSDOWN, VM_LOCKED = 1, 2, 4, 8, 16, 32
# From here on only with FULL.
VM_MAYREAD, VM_MAYWRITE, VM_MAYEXEC, VM_MAYSHARE = 1 << 6, 1 << 7, 1 << 8, 1 << 9
VM_LOCKONFAULT, VM_ACCOUNT, VM_NORESERVE = 1 << 10, 1 << 11, 1 << 12
VM_DONTCOPY, VM_DONTEXPAND, VM_DONTDUMP, VM_WIPEONFORK = 1 << 13, 1 << 14, 1 << 15, 1 << 16
VM_SEQ_READ, VM_RAND_READ, VM_HUGEPAGE, VM_NOHUGEPAGE = 1 << 17, 1 << 18, 1 << 19, 1 << 20
VM_MERGEABLE, VM_SEALED = 1 << 21, 1 << 22
VM_DROPPABLE, VM_MAYBE_GUARD = 1 << 23, 1 << 24
# What a VMA keeps when others merge into it, and what does not keep them from it (6.19, and 6.18's stable releases).
VM_STICKY = VM_MAYBE_GUARD
VM_SPECIAL = VM_DONTEXPAND  # never merges; VM_IO, VM_PFNMAP and VM_MIXEDMAP are not modelled
VM_ACCESS_FLAGS = 7
VM_SOFTDIRTY = 0  # not modelled: the store that sets it is, the bit is not
MAP_SHARED, MAP_PRIVATE, MAP_GROWSDOWN, MAP_FIXED, MAP_ANONYMOUS = 1, 2, 4, 16, 32
PROT_NONE, PROT_READ, PROT_WRITE, PROT_EXEC = 0, 1, 2, 4
EPERM, EBADF, EAGAIN, ENOMEM, EACCES, EFAULT, EEXIST, ENODEV, EINVAL = 1, 9, 11, 12, 13, 14, 17, 19, 22
EOVERFLOW, EOPNOTSUPP = 75, 95
SIGBUS, SIGSEGV = 7, 11
ZERO_PFN = 0


@struct
class rb_node:
    """A node of the red-black tree.  A cleared node (RB_CLEAR_NODE) is its own parent.

    Linux packs parent and colour into one word; no reader without the lock looks at either, except for
    whether the node is cleared.
    """

    rb_left: ptr[vm_area_struct]
    rb_right: ptr[vm_area_struct]
    rb_parent: ptr[vm_area_struct]
    rb_black: bool


@struct(pool=NR_VMAS)
class vm_area_struct:
    """[vm_start, vm_end) of an address space."""

    vm_start: vpn_t  # mmap_sem:w + i_mmap_rwsem + anon_vma.rwsem | mmap_sem:r + page_table_lock + anon_vma.rwsem
    vm_end: vpn_t  # mmap_sem:w + i_mmap_rwsem + anon_vma.rwsem
    vm_mm: ptr[mm_struct]  # unshared
    vm_next: ptr[vm_area_struct]  # mmap_sem:w
    vm_prev: ptr[vm_area_struct]  # mmap_sem:w
    vm_rb: rb_node  # mmap_sem:w
    vm_flags: flags_t  # mmap_sem:w
    vm_page_prot: pgprot_t  # mmap_sem:w
    vm_pgoff: pgoff_t  # mmap_sem:w + i_mmap_rwsem + anon_vma.rwsem | mmap_sem:r + page_table_lock + anon_vma.rwsem
    vm_file: ptr[file]  # mmap_sem:w
    anon_vma: ptr[anon_vma]  # mmap_sem:w | mmap_sem:r + page_table_lock
    anon_vma_chain: ptr[anon_vma_chain]  # mmap_sem:w | mmap_sem:r + page_table_lock
    rb_subtree_gap: integer(0, FULL * NR_PAGES)  # mmap_sem:w | mmap_sem:r + page_table_lock


@struct(pool=NR_ANON_VMAS)
class anon_vma:
    """The pages of a set of VMAs, for the reverse map.

    `refcount` changes by atomic steps.  `rb_root`: how many chains its interval tree holds, under `rwsem`
    (the tree itself serves reverse-map walks, which are not modelled; its emptiness decides when to free).
    """

    rwsem: rw_semaphore
    refcount: count_t  # atomic
    rb_root: integer(0, NR_AVCS)  # anon_vma.rwsem
    root: ptr[anon_vma]  # unshared
    parent: ptr[anon_vma]  # unshared
    degree: full_count_t  # anon_vma.rwsem
    num_children: full_count_t  # anon_vma.rwsem
    num_active_vmas: full_count_t  # anon_vma.rwsem


@struct(pool=NR_AVCS)
class anon_vma_chain:
    """Links a VMA to an anon_vma: an entry of the VMA's list `same_vma`, and of the anon_vma's tree."""

    vma: ptr[vm_area_struct]  # unshared
    anon_vma: ptr[anon_vma]  # unshared
    next_same_vma: ptr[anon_vma_chain]  # mmap_sem:w | mmap_sem:r + page_table_lock


@struct(pool=NR_FILES, static=True)
class file:
    """An open file and its address_space.  `pages`: its page cache, pfn of each page, or 0.

    i_mmap_rwsem protects the interval tree `i_mmap`; here only how many VMAs are in it.

    Only with FULL: `f_mapping`, whose page cache it shares (NULL: its own); `f_mode`, 1 reading, 2 writing; `i_size`
    counts the last, partial page, `i_tail` the bytes in it (0: whole); `shmem`: no readahead; `nrpages`: cached; the
    file_ra_state; `blocks`: what was written back of each page, plus one (0: it has no block).
    """

    f_count: count_t  # atomic
    i_mmap_rwsem: rw_semaphore
    i_mmap_vmas: count_t  # i_mmap_rwsem
    i_size: pgoff_t  # never
    i_tail: integer(0, FULL * 4095)  # never
    f_mode: integer(0, FULL * 3)  # never
    f_mapping: ptr[file]  # never
    shmem: bool  # never
    nrpages: integer(0, FULL * FILE_PAGES)  # never
    ra_start: full_count_t  # none
    ra_size: full_count_t  # none
    ra_async: full_count_t  # none
    ra_order: full_count_t  # none
    pages: array[pfn_t, FILE_PAGES]  # never
    blocks: array[integer(0, FULL * (NR_VALUES + 1)), FILE_PAGES]  # never


@struct(pool=NR_FRAMES)
class page:
    """A page frame.  Frame 0 is the zero page.

    `refcount` (_refcount) and `mapcount` (_mapcount + 1) change by atomic steps; `index` and `mapping`
    say where the reverse map finds it (an anon_vma, or NULL for a page of a file); `data` is its content.
    Only with FULL: PG_dirty, not PG_swapbacked, PG_anon_exclusive, PG_readahead, PG_lru, not PG_uptodate, PG_mlocked,
    PG_unevictable; in how many places it is locked, as far as that is known; which folio it is part of, where that has
    several pages.
    """

    refcount: count_t = 1  # atomic
    mapcount: count_t  # atomic + ptl
    mapping: ptr[anon_vma]  # ptl
    mapping_file: ptr[file]  # never
    index: pgoff_t  # ptl
    data: data_t  # unshared
    dirty: bool  # none
    lazyfree: bool  # none
    exclusive: bool  # none
    readahead: bool  # none
    lru: bool  # none
    not_uptodate: bool  # none
    mlocked: bool  # none
    unevictable: bool  # none
    mlock_count: full_count_t  # none
    folio_start: integer(0, FULL * PGOFF_MAX)  # none
    folio_pages: integer(0, FULL * 512)  # none


@struct(pool=NR_PTE_TABLES)
class pte_table:
    """A page of page-table entries; `ptl` protects its entries against other writers."""

    ptl: spinlock_t
    pte: array[pte_t, PTRS_PER_PTE]  # ptl


@struct(pool=NR_MMS, static=True)
class mm_struct:
    """An address space.  `pmd[i]` points to the table of pages i * PTRS_PER_PTE onwards, or is NULL.

    Only with FULL: pages mapped, by kind; VM_LOCKED for mappings to come; the break, in bytes from page 0; where
    the top-down search begins (0: at the end); the signal struct's RLIMIT_AS in pages, plus one (0: no limit);
    sysctl_max_map_count (0: DEFAULT_MAX_MAP_COUNT).
    """

    mmap_sem: rw_semaphore
    page_table_lock: spinlock_t
    mmap: ptr[vm_area_struct]  # mmap_sem:w
    mm_rb: ptr[vm_area_struct]  # mmap_sem:w
    map_count: integer(0, NR_VMAS)  # mmap_sem:w
    pmd: array[ptr[pte_table], NR_PMDS]  # mmap_sem:r + page_table_lock | mmap_sem:w
    pmd_group: array[full_count_t, NR_PMD_GROUPS]  # none
    total_vm: vm_count_t  # mmap_sem:w | mmap_sem:r + page_table_lock
    data_vm: vm_count_t  # mmap_sem:w | mmap_sem:r + page_table_lock
    exec_vm: vm_count_t  # mmap_sem:w | mmap_sem:r + page_table_lock
    stack_vm: vm_count_t  # mmap_sem:w | mmap_sem:r + page_table_lock
    locked_vm: vm_count_t  # mmap_sem:w | mmap_sem:r + page_table_lock
    def_flags: integer(0, FULL * VM_FLAGS_MAX)  # mmap_sem:w
    start_brk: brk_t  # mmap_sem:w
    brk: brk_t  # mmap_sem:w
    mmap_base: integer(0, FULL * NR_PAGES)  # never
    rlimit_as: vm_count_t  # none
    max_map_count: vm_count_t  # none


@struct(pool=1, private=True)
class task_mm:
    """Whose address space the running task has (current->mm), where there are several."""

    mm: ptr[mm_struct]


def current_mm() -> ptr[mm_struct]:
    """current->mm"""
    if NR_MMS == 1:
        return pool_object(mm_struct, 0)
    return the(task_mm).mm


def IS_ERR_VALUE(ret: s64) -> bool:
    """Whether what returns an address returned an error number (include/linux/err.h)."""
    return ret < 0


def vma_mm(vma: ptr[vm_area_struct]) -> ptr[mm_struct]:
    """vma->vm_mm"""
    if NR_MMS > 1:
        return vma.vm_mm
    return pool_object(mm_struct, 0)


@struct
class tlb_entry:
    """A translation held by a CPU: the entry that it was filled from; 0: none."""

    pte: pte_t


@struct
class flush_ipi:
    """What one CPU asks another to flush: [start, end).  `sender`: that process plus one; 0: nothing."""

    sender: integer(0, NR_TASKS)
    start: vpn_t
    end: vpn_t


@struct(pool=NR_CPUS, static=True)
class cpu_tlb:
    """The TLB of a CPU and its mailbox for shootdowns.

    `walking`: an instruction of this CPU walks the page tables; interrupts wait until it is over.
    `prefetching`: the CPU walks them ahead of any instruction; a flush throws that walk away.
    """

    entry: array[tlb_entry, NR_PAGES - FULL * (NR_PAGES - 1)]
    ipi: flush_ipi
    walking: bool
    prefetching: bool


@struct(pool=NR_CPUS, private=True)
class vm_fault:
    """A page fault in progress (include/linux/mm.h), on the stack of the task that has it.

    `pmd`: which entry of the upper level; `pte`, `ptl`: the table that holds the entry of `address`, and the
    one whose lock is held (they differ if the upper level changed in between).
    """

    vma: ptr[vm_area_struct]
    flags: fault_flags_t
    pgoff: pgoff_t
    address: vpn_t
    pmd: pmd_t
    orig_pte: pte_t
    cow_page: ptr[page]
    page: ptr[page]
    pte: ptr[pte_table]
    ptl: ptr[pte_table]


@struct
class op_rom:
    """One operation: its kind (see mm/cpu.py) and arguments."""

    kind: integer(0, 15)
    addr: vpn_t
    len: vpn_t
    prot: prot_t
    flags: integer(0, 63)
    file: ptr[file]
    pgoff: pgoff_t
    value: data_t


@struct(pool=1, rom=True)
class scenario_rom:
    """What a scenario fixes: the operations of each CPU (those of CPU c from c * NR_OPS on), and which pages
    its walker may load into the TLB ahead of use, once each, in order, at any time (from c * NR_FILLS on).
    `forever`: the CPU begins again when it has done its last operation.
    """

    nr_ops: array[integer(0, NR_OPS), NR_CPUS]
    forever: array[bool, NR_CPUS]
    op: array[op_rom, NR_OPS * NR_CPUS]
    nr_fills: array[integer(0, NR_FILLS), NR_CPUS]
    fill: array[vpn_t, NR_FILLS * NR_CPUS]


@struct(pool=1, private=True)
class results:
    """What each operation of each CPU returned: 0 or more, or -errno, or -100 - signal; reads: the value.

    The checker's notes: no CPU reads them.
    """

    ret: array[result_t, NR_OPS * NR_CPUS]


@struct(pool=1, static=True)
class faults_left:
    """How many more allocations may fail (a scenario's choice)."""

    n: integer(0, 3)


__all__ = [n for n in dir() if not n.startswith("_") and n not in ("annotations",)]
