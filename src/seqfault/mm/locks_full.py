"""The table of locks for what only sequential programs reach: the fields and functions that exist with FULL.

mm/locks.py has the rest.  live/locks.py runs random programs against both.
"""

from __future__ import annotations

from seqfault.mm.locks import LINUX_4_12, ORDER, Discipline, Exemption, Order, Row

ACCOUNT_WRITE = "mmap_sem:w | mmap_sem:r + page_table_lock"
BIT = "A bit of page->flags, set and cleared by an atomic step of its own."
RA = "Of file->f_ra: several tasks may spoil it for each other, which only costs reading."
FOLIO = "Set with the folio, before its pages are in the cache."
NOT_MODELLED = "The lock of the inode is not modelled."

ROWS = (
    Row(
        "vm_area_struct.rb_subtree_gap",
        "mmap_sem:r",
        ACCOUNT_WRITE,
        "mm/mmap.c: vma_gap_update",
        "A stack that grows updates it too. 6.1 and later have no such field.",
    ),
    Row("anon_vma.root", "none", "unshared", "mm/rmap.c: anon_vma_fork", "The same for as long as the anon_vma lives."),
    Row("anon_vma.parent", "none", "unshared", "mm/rmap.c: anon_vma_fork"),
    Row("anon_vma.degree", "anon_vma.rwsem", "anon_vma.rwsem", "include/linux/rmap.h", "The root's lock."),
    Row("anon_vma.num_children", "anon_vma.rwsem", "anon_vma.rwsem", "include/linux/rmap.h (from 6.0)"),
    Row("anon_vma.num_active_vmas", "anon_vma.rwsem", "anon_vma.rwsem", "include/linux/rmap.h (from 6.0)"),
    Row("file.i_tail", "none", "never", "include/linux/fs.h: i_size_read"),
    Row("file.f_mode", "none", "never", "include/linux/fs.h"),
    Row("file.f_mapping", "none", "never", "include/linux/fs.h"),
    Row("file.shmem", "none", "never", "include/linux/fs.h"),
    Row("file.nrpages", "none", "never", "include/linux/fs.h"),
    Row("file.blocks", "none", "never", "fs/ext4/inode.c: ext4_map_blocks", "Under the inode's own locks."),
    Row("file.ra_start", "none", "none", "mm/readahead.c", RA),
    Row("file.ra_size", "none", "none", "mm/readahead.c", RA),
    Row("file.ra_async", "none", "none", "mm/readahead.c", RA),
    Row("file.ra_order", "none", "none", "mm/readahead.c", RA),
    Row("page.dirty", "none", "none", "include/linux/page-flags.h: PG_dirty", BIT),
    Row("page.lazyfree", "none", "none", "include/linux/page-flags.h: PG_swapbacked", BIT),
    Row("page.exclusive", "none", "none", "include/linux/page-flags.h: PG_anon_exclusive", BIT),
    Row("page.readahead", "none", "none", "include/linux/page-flags.h: PG_readahead", BIT),
    Row("page.lru", "none", "none", "include/linux/page-flags.h: PG_lru", BIT),
    Row("page.not_uptodate", "none", "none", "include/linux/page-flags.h: PG_uptodate", BIT),
    Row("page.mlocked", "none", "none", "include/linux/page-flags.h: PG_mlocked", BIT),
    Row("page.unevictable", "none", "none", "include/linux/page-flags.h: PG_unevictable", BIT),
    Row("page.mlock_count", "none", "none", "include/linux/mm_types.h: mlock_count", "Of pages on the LRU lists."),
    Row("page.folio_start", "none", "none", "include/linux/mm_types.h: struct folio", FOLIO),
    Row("page.folio_pages", "none", "none", "include/linux/mm_types.h: struct folio", FOLIO),
    Row("mm_struct.pmd_group", "none", "none", "", "The model's own: how many tables a group of upper entries has."),
    Row("mm_struct.total_vm", "mmap_sem:r", ACCOUNT_WRITE, "mm/mmap.c: vm_stat_account, acct_stack_growth"),
    Row("mm_struct.data_vm", "mmap_sem:r", ACCOUNT_WRITE, "mm/mmap.c: vm_stat_account, acct_stack_growth"),
    Row("mm_struct.exec_vm", "mmap_sem:r", ACCOUNT_WRITE, "mm/mmap.c: vm_stat_account, acct_stack_growth"),
    Row("mm_struct.stack_vm", "mmap_sem:r", ACCOUNT_WRITE, "mm/mmap.c: vm_stat_account, acct_stack_growth"),
    Row("mm_struct.locked_vm", "mmap_sem:r", ACCOUNT_WRITE, "mm/mlock.c: mlock_fixup; mm/mmap.c: acct_stack_growth"),
    Row("mm_struct.def_flags", "mmap_sem:r", "mmap_sem:w", "mm/mlock.c: apply_mlockall_flags"),
    Row("mm_struct.start_brk", "mmap_sem:r", "mmap_sem:w", "mm/mmap.c: brk"),
    Row("mm_struct.brk", "mmap_sem:r", "mmap_sem:w", "mm/mmap.c: brk"),
    Row("mm_struct.mmap_base", "none", "never", "arch/x86/mm/mmap.c: arch_pick_mmap_layout"),
    Row("mm_struct.rlimit_as", "none", "none", "kernel/sys.c: do_prlimit", "Of the signal struct, under its own lock."),
    Row("mm_struct.max_map_count", "none", "none", "mm/util.c: sysctl_max_map_count", "A sysctl, of all processes."),
)

BOUNDS = ("vm_area_struct.vm_start", "vm_area_struct.vm_end", "vm_area_struct.vm_pgoff")
BEGINS = ("exec_mm", "mm_init", "uapi_start", "uapi_restart")
COUNTS = ("total_vm", "data_vm", "exec_vm", "stack_vm", "locked_vm", "def_flags", "start_brk", "brk", "mmap_base")

EXCEPTIONS = (
    Exemption(
        "family-counts",
        ("anon_vma.degree", "anon_vma.num_children", "anon_vma.num_active_vmas"),
        "read or write",
        ("anon_vma_used", "unlink_anon_vmas", "anon_vma_fork", "__anon_vma_prepare"),
        "mmap_sem:w | mmap_sem:r + unshared",
        "Linux counts with the root's lock held for the whole chain; here it is held for one entry at a time.",
        "mm/rmap.c: anon_vma_clone, unlink_anon_vmas",
    ),
    Exemption(
        "copied-vma",
        BOUNDS,
        "write",
        ("copy_vma", "vm_area_dup"),
        "mmap_sem:w + unshared",
        "As new-vma: a copy that nobody can find yet.",
        "kernel/fork.c: vm_area_dup",
    ),
    Exemption(
        "new-mm",
        tuple(f"mm_struct.{x}" for x in COUNTS),
        "write",
        BEGINS,
        "none",
        "Nobody runs in the address space yet.",
        "kernel/fork.c: mm_init; fs/exec.c",
    ),
    Exemption(
        "status",
        tuple(f"mm_struct.{x}" for x in COUNTS),
        "read",
        ("note_totals",),
        "none",
        "/proc/PID/status reads the totals of an address space without a lock: each is a number of its own moment.",
        "fs/proc/task_mmu.c: task_mem",
    ),
    Exemption(
        "parent-copied",
        tuple(f"mm_struct.{x}" for x in COUNTS),
        "read",
        ("mm_init",),
        "none",
        "The struct is copied whole before any lock is taken: accounts may be a moment old.",
        "kernel/fork.c: dup_mm",
    ),
    Exemption(
        "limits-of-the-model",
        ("mm_struct.start_brk", "mm_struct.total_vm"),
        "read",
        ("ksys_brk", "uapi_rlimit_as"),
        "none",
        "The question whether the window has a heap; a limit relative to what is mapped: neither is Linux's.",
        "mm/uapi.py",
    ),
    Exemption(
        "guard-flag",
        ("vm_area_struct.vm_flags",),
        "read or write",
        ("madvise_guard_install",),
        "mmap_sem:r",
        "Linux sets VM_MAYBE_GUARD by an atomic step.",
        "mm/madvise.c: madvise_guard_install (6.18's stable releases, 6.19)",
    ),
    Exemption(
        "mremap-look",
        ("mm_struct.mm_rb", "vm_area_struct.vm_rb", "vm_area_struct.vm_start", "vm_area_struct.vm_end"),
        "read",
        ("nothing_at",),
        "none",
        "From 5.16 to 6.15 Linux looks with mmap_sem held; the check stands before it here.",
        "mm/mremap.c: mremap",
    ),
    Exemption(
        "user-access",
        ("mm_struct.pmd", "pte_table.pte"),
        "read",
        ("user_access",),
        "none",
        "As hardware-walk.",
        "the hardware",
    ),
    Exemption(
        "dirty-bit",
        ("pte_table.pte",),
        "write",
        ("user_access",),
        "none",
        "The hardware sets the dirty bit of an entry, by an atomic step.",
        "the hardware",
    ),
    Exemption(
        "user-store-in-full",
        ("page.data",),
        "write",
        ("user_access",),
        "none",
        "As user-store.",
        "the program",
    ),
    Exemption(
        "child-entry",
        ("pte_table.pte",),
        "write",
        ("copy_one_pte",),
        "mmap_sem:w",
        "Linux holds the locks of both tables; here the parent's only, as nobody runs in the child yet.",
        "mm/memory.c: copy_pte_range",
    ),
    Exemption(
        "entry-moved",
        ("pte_table.pte",),
        "write",
        ("move_ptes",),
        "mmap_sem:w",
        "Linux holds the locks of both tables; here the old one's only.",
        "mm/mremap.c: move_ptes",
    ),
    Exemption(
        "mincore-look",
        ("pte_table.pte",),
        "read",
        ("pte_at",),
        "mmap_sem:r",
        "Linux takes the table's lock for all of its entries; one entry is read at once.",
        "mm/mincore.c: mincore_pte_range",
    ),
    Exemption(
        "i_mmap-walk",
        (
            *BOUNDS,
            "vm_area_struct.vm_file",
            "vm_area_struct.vm_flags",
            "vm_area_struct.vm_next",
            "mm_struct.mmap",
            "mm_struct.pmd",
        ),
        "read",
        ("unmap_mapping_range",),
        "none",
        "Linux finds the VMAs in the file's tree, whose lock keeps their bounds; here all are looked at.",
        "mm/memory.c: unmap_mapping_range",
    ),
    Exemption(
        "page-cache",
        ("file.i_size", "file.i_tail", "file.nrpages", "file.pages", "file.blocks", "page.data"),
        "write",
        (
            "do_ftruncate",
            "file_write",
            "page_cache_alloc",
            "truncate_inode_pages_range",
            "free_blocks",
            "vfs_fsync_range",
        ),
        "none",
        f"{NOT_MODELLED} Nor is the page cache's.",
        "mm/filemap.c, mm/truncate.c",
    ),
    Exemption(
        "page-cache-page",
        ("page.index", "page.mapping_file"),
        "write",
        ("page_cache_alloc",),
        "unshared",
        "Set before the page is in the cache.",
        "mm/filemap.c: add_to_page_cache_locked",
    ),
    Exemption(
        "file-comes-and-goes",
        ("file.i_size", "file.i_tail", "file.shmem", "file.f_count", "file.nrpages", "file.f_mode", "file.f_mapping"),
        "write",
        ("shmem_zero_setup", "__fput", "uapi_start", "test_files", "resize"),
        "none",
        "A file that nobody has opened yet, or nobody any more.",
        "mm/shmem.c: shmem_zero_setup; fs/file_table.c: __fput",
    ),
)

# lockdep's subclass 1: of two locks of a class that are held together, the second.
ORDER_OF_TWO = Order("mm_struct.mmap_sem", (Order("mm_struct.mmap_sem/1", ORDER.inner),))
WHOLE_TEXT = LINUX_4_12.extended(Discipline(ROWS, EXCEPTIONS, ORDER_OF_TWO))
