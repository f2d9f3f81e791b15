"""What speculative page faults, RFC v5, add to the table of locks.

Writers must make counts odd; a fault may read some fields without mmap_sem.

What v5 does beyond this is left for `seqfault locks` to report: the faults that give a VMA an anon_vma, or the mm a
page table, without mmap_sem; stacks that grow, and advice, without the VMA's count.
"""

from __future__ import annotations

from seqfault.mm.locks import LAYOUT_WRITE, Discipline, Exemption, Order, Row

COUNTED = "PATCH 06/11: Protect VMA modifications using VMA sequence count"
FAULT = (
    "handle_pte_fault",
    "do_anonymous_page",
    "do_fault",
    "do_read_fault",
    "do_cow_fault",
    "do_shared_fault",
    "finish_fault",
    "alloc_set_pte",
    "do_wp_page",
    "wp_page_copy",
    "wp_page_reuse",
    "filemap_fault",
    "linear_page_index",
    "page_add_new_anon_rmap",
    "page_move_anon_rmap",
    "maybe_mkwrite",
)

ROWS = (
    Row(
        "vm_area_struct.vm_start",
        "mmap_sem:r",
        f"{LAYOUT_WRITE} + vm_sequence | mmap_sem:r + page_table_lock + anon_vma.rwsem + vm_sequence",
        COUNTED,
    ),
    Row("vm_area_struct.vm_end", "mmap_sem:r", f"{LAYOUT_WRITE} + vm_sequence", COUNTED),
    Row(
        "vm_area_struct.vm_pgoff",
        "mmap_sem:r",
        f"{LAYOUT_WRITE} + vm_sequence | mmap_sem:r + page_table_lock + anon_vma.rwsem + vm_sequence",
        COUNTED,
    ),
    Row("vm_area_struct.vm_flags", "mmap_sem:r", "mmap_sem:w + vm_sequence", COUNTED),
    Row("vm_area_struct.vm_page_prot", "mmap_sem:r", "mmap_sem:w + vm_sequence", COUNTED),
    Row("vm_area_struct.vm_rb", "mmap_sem:r", "mmap_sem:w + mm_seq", "PATCH 07/11: RCU free VMAs"),
    Row("mm_struct.mm_rb", "mmap_sem:r", "mmap_sem:w + mm_seq", "PATCH 07/11: RCU free VMAs"),
    Row("vm_area_struct.vm_sequence", "none", "mmap_sem:w", "PATCH 04/11: VMA sequence count"),
)

EXCEPTIONS = (
    Exemption(
        "new-vma-fields",
        ("vm_area_struct.vm_flags", "vm_area_struct.vm_page_prot", "vm_area_struct.vm_sequence"),
        "write",
        ("mmap_region", "__split_vma", "vma_link_rb_init_04"),
        "mmap_sem:w + unshared",
        "Nobody can find the VMA yet.",
        "mm/mmap.c",
    ),
    Exemption(
        "dead-mark",
        ("vm_area_struct.vm_rb",),
        "write",
        ("vma_rb_erase_end_07",),
        "mmap_sem:w",
        "A VMA is marked dead once the tree is whole without it, after the unlock of mm_seq.",
        "PATCH 07/11: RCU free VMAs",
    ),
    Exemption(
        "after-grace-period",
        ("vm_area_struct.vm_file",),
        "read",
        ("__free_vma",),
        "none",
        "Every reader has left.",
        "PATCH 07/11: RCU free VMAs",
    ),
    Exemption(
        "speculative-lookup",
        ("mm_struct.mm_rb", "vm_area_struct.vm_rb", "vm_area_struct.vm_start", "vm_area_struct.vm_end"),
        "read",
        ("find_vma",),
        "srcu",
        "The walk is done again if the tree changed meanwhile (mm_seq).",
        "PATCH 07/11: RCU free VMAs",
    ),
    Exemption(
        "speculative-look",
        (
            "vm_area_struct.vm_rb",
            "vm_area_struct.vm_start",
            "vm_area_struct.vm_end",
            "vm_area_struct.vm_flags",
            "vm_area_struct.vm_pgoff",
        ),
        "read",
        ("__handle_speculative_fault",),
        "srcu",
        "The VMA's count is compared before and after; what is read later is used only if it has not moved.",
        "PATCH 08/11: Provide speculative fault infrastructure",
    ),
    Exemption(
        "speculative-recheck",
        ("vm_area_struct.vm_rb",),
        "read",
        ("pte_map_lock_09", "pte_spinlock_09", "pte_map_lock_08", "pte_spinlock_08"),
        "srcu",
        "Whether the VMA is dead.",
        "PATCH 08/11: Provide speculative fault infrastructure",
    ),
    Exemption(
        "speculative-fault",
        (
            "vm_area_struct.vm_file",
            "vm_area_struct.vm_flags",
            "vm_area_struct.vm_page_prot",
            "vm_area_struct.vm_start",
            "vm_area_struct.vm_pgoff",
            "vm_area_struct.anon_vma",
        ),
        "read",
        FAULT,
        "srcu",
        "What comes of it is entered only under the table's lock, if the VMA's count has not moved by then.",
        "PATCH 08/11: Provide speculative fault infrastructure",
    ),
    Exemption(
        "speculative-walk",
        ("mm_struct.pmd", "pte_table.pte"),
        "read",
        (
            "__handle_speculative_fault",
            "handle_pte_fault",
            "pte_map_lock_09",
            "pte_spinlock_09",
            "pte_map_lock_08",
            "pte_spinlock_08",
        ),
        "srcu",
        "A table goes only after the VMA's count has moved, and after a flush that waits for CPUs with interrupts off.",
        "PATCH 08/11: Provide speculative fault infrastructure",
    ),
)

BELOW_ANON_VMA = (
    Order("mm_struct.mm_seq.lock", (Order("mm_struct.mm_seq.seqcount"),)),
    Order("mm_struct.page_table_lock"),
)


def order(counts_last: bool) -> Order:
    """The tree with a VMA's count (`/1`: the next one's) below i_mmap_rwsem, or above it."""
    anon_vma = Order("anon_vma.rwsem", BELOW_ANON_VMA)
    inner = anon_vma if counts_last else Order("file.i_mmap_rwsem", (anon_vma,))
    next_count = Order("vm_area_struct.vm_sequence/1", (inner,))
    counts = Order("vm_area_struct.vm_sequence", (next_count, Order("pte_table.ptl")))
    return Order("mm_struct.mmap_sem", (Order("file.i_mmap_rwsem", (counts,)) if counts_last else counts,))


# 04 as posted makes the counts odd at the entry of __vma_adjust, 05 only under i_mmap_rwsem.
SPF_04 = Discipline(ROWS, tuple(e for e in EXCEPTIONS if e.name != "after-grace-period"), order(counts_last=False))
SPF_V5 = Discipline(ROWS, EXCEPTIONS, order(counts_last=True))
