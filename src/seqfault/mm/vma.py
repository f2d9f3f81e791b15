"""VMAs: the list and the tree of an address space, looking up, linking and unlinking.  mm/mmap.c, 4.12."""

from __future__ import annotations

from seqfault.kernel import BUG_ON, NULL, WRITE_ONCE, atomic, check, integer, place, ptr
from seqfault.mm.file import i_mmap_lock_write, i_mmap_unlock_write, vma_interval_tree_insert
from seqfault.mm.places import (
    vma_link_rb_begin,
    vma_link_rb_end,
    vma_link_rb_init,
    vma_link_rb_store,
    vma_rb_erase_begin,
    vma_rb_erase_end,
)
from seqfault.mm.rbtree import (
    rb_erase,
    rb_first,
    rb_insert_color,
    rb_is_black,
    rb_link_node,
    rb_next,
    vma_compute_subtree_gap,
    vma_gap_propagate,
)
from seqfault.mm.types import (
    ENOMEM,
    FULL,
    NR_VMAS,
    VM_ACCESS_FLAGS,
    VM_SHARED,
    VM_WRITE,
    errno_t,
    flags_t,
    mm_struct,
    pgprot_t,
    vm_area_struct,
    vpn_t,
)

vma_count_t = integer(0, NR_VMAS + 1, "vma_count_t")


def vm_get_page_prot(vm_flags: flags_t) -> pgprot_t:
    """What a user may do by the page-table entry (protection_map of x86): 1 read, 2 write.

    Any right lets a page be read.  A private page is mapped for writing only by the fault that makes it this
    process's own.
    """
    if not vm_flags & VM_ACCESS_FLAGS:
        return 0
    if vm_flags & VM_SHARED and vm_flags & VM_WRITE:
        return 3
    return 1


def vma_set_page_prot(vma: ptr[vm_area_struct]):
    """Files here need no notice of the first write (vma_wants_writenotify is false, as for tmpfs)."""
    WRITE_ONCE(vma.vm_page_prot, vm_get_page_prot(vma.vm_flags))


# -- looking up
def find_vma(mm: ptr[mm_struct], addr: vpn_t) -> ptr[vm_area_struct]:
    """The first VMA that ends behind `addr`, or NULL.  The per-thread VMA cache is not modelled."""
    vma: ptr[vm_area_struct] = NULL
    tmp = mm.mm_rb
    while tmp:
        if tmp.vm_end > addr:
            vma = tmp
            if tmp.vm_start <= addr:
                break
            tmp = tmp.vm_rb.rb_left
        else:
            tmp = tmp.vm_rb.rb_right
    return vma


def find_vma_prev(mm: ptr[mm_struct], addr: vpn_t) -> tuple[ptr[vm_area_struct], ptr[vm_area_struct]]:
    """find_vma, and the VMA before it."""
    vma = find_vma(mm, addr)
    if vma:
        return vma, vma.vm_prev
    prev: ptr[vm_area_struct] = NULL
    tmp = mm.mm_rb
    while tmp:
        prev = tmp
        tmp = tmp.vm_rb.rb_right
    return vma, prev


def find_vma_links(
    mm: ptr[mm_struct], addr: vpn_t, end: vpn_t
) -> tuple[errno_t, ptr[vm_area_struct], ptr[vm_area_struct], bool]:
    """Where a VMA [addr, end) would be linked: an error if something is there; prev, rb_parent, rb_link.

    Linux's rb_link points to the pointer to be changed; here: whether it is the left one of rb_parent.
    """
    prev: ptr[vm_area_struct] = NULL
    rb_parent: ptr[vm_area_struct] = NULL
    rb_left = False
    tmp = mm.mm_rb
    while tmp:
        rb_parent = tmp
        if tmp.vm_end > addr:
            if tmp.vm_start < end:
                return -ENOMEM, NULL, NULL, False
            rb_left = True
            tmp = tmp.vm_rb.rb_left
        else:
            prev = tmp
            rb_left = False
            tmp = tmp.vm_rb.rb_right
    return 0, prev, rb_parent, rb_left


# -- gaps, for get_unmapped_area
def vma_gap_update(vma: ptr[vm_area_struct]):
    """After `vma.vm_start`, or the end of the VMA before it, changed."""
    if FULL:
        vma_gap_propagate(vma)


def vma_gap_update_next(vma: ptr[vm_area_struct]):
    """After `vma.vm_end` changed."""
    if FULL:
        next = vma.vm_next
        if next:
            vma_gap_propagate(next)


# -- linking
def __vma_link_list(
    mm: ptr[mm_struct], vma: ptr[vm_area_struct], prev: ptr[vm_area_struct], rb_parent: ptr[vm_area_struct]
):
    vma.vm_prev = prev
    if prev:
        next = prev.vm_next
        prev.vm_next = vma
    else:
        mm.mmap = vma
        next = rb_parent  # the first VMA, if there is any
    vma.vm_next = next
    if next:
        next.vm_prev = vma


def __vma_link_rb(mm: ptr[mm_struct], vma: ptr[vm_area_struct], rb_parent: ptr[vm_area_struct], rb_left: bool):
    vma_link_rb_init(vma)
    vma_link_rb_begin(mm)
    rb_link_node(mm, vma, rb_parent, rb_left)
    vma_gap_update(vma)
    rb_insert_color(vma, mm)
    vma_link_rb_end(mm)
    vma_link_rb_store(mm, vma)


def __vma_link_file(vma: ptr[vm_area_struct]):
    """Put the VMA into its file's interval tree."""
    if vma.vm_file:
        vma_interval_tree_insert(vma.vm_file)


def __vma_link(
    mm: ptr[mm_struct],
    vma: ptr[vm_area_struct],
    prev: ptr[vm_area_struct],
    rb_parent: ptr[vm_area_struct],
    rb_left: bool,
):
    __vma_link_list(mm, vma, prev, rb_parent)
    __vma_link_rb(mm, vma, rb_parent, rb_left)
    vma_gap_update_next(vma)


def vma_link(
    mm: ptr[mm_struct],
    vma: ptr[vm_area_struct],
    prev: ptr[vm_area_struct],
    rb_parent: ptr[vm_area_struct],
    rb_left: bool,
):
    mapping = vma.vm_file
    if mapping:
        i_mmap_lock_write(mapping)
    __vma_link(mm, vma, prev, rb_parent, rb_left)
    __vma_link_file(vma)
    if mapping:
        i_mmap_unlock_write(mapping)
    mm.map_count += 1
    validate_mm(mm)


def __insert_vm_struct(mm: ptr[mm_struct], vma: ptr[vm_area_struct]):
    """For __vma_adjust, which has put the VMA into the file's tree already and holds its locks."""
    err, prev, rb_parent, rb_left = find_vma_links(mm, vma.vm_start, vma.vm_end)
    BUG_ON(err != 0)
    __vma_link(mm, vma, prev, rb_parent, rb_left)
    mm.map_count += 1


def insert_vm_struct(mm: ptr[mm_struct], vma: ptr[vm_area_struct]) -> errno_t:
    err, prev, rb_parent, rb_left = find_vma_links(mm, vma.vm_start, vma.vm_end)
    if err != 0:
        return -ENOMEM
    if not vma.vm_file:
        BUG_ON(vma.anon_vma != NULL)
        vma.vm_pgoff = vma.vm_start
    vma_link(mm, vma, prev, rb_parent, rb_left)
    return 0


# -- unlinking
def vma_rb_erase(vma: ptr[vm_area_struct], mm: ptr[mm_struct]):
    vma_rb_erase_begin(mm)
    rb_erase(vma, mm)
    vma_rb_erase_end(mm, vma)


def __vma_unlink_common(mm: ptr[mm_struct], vma: ptr[vm_area_struct], prev: ptr[vm_area_struct], has_prev: bool):
    vma_rb_erase(vma, mm)
    next = vma.vm_next
    if has_prev:
        prev.vm_next = next
    else:
        prev = vma.vm_prev
        if prev:
            prev.vm_next = next
        else:
            mm.mmap = next
    if next:
        next.vm_prev = prev
        vma_gap_update(next)


def __vma_unlink_prev(mm: ptr[mm_struct], vma: ptr[vm_area_struct], prev: ptr[vm_area_struct]):
    __vma_unlink_common(mm, vma, prev, True)


# -- debugging
def blacks_above(vma: ptr[vm_area_struct]) -> vma_count_t:
    """How many black nodes there are from a node up to the root."""
    n: vma_count_t = 0
    while vma:
        if rb_is_black(vma):
            n += 1
        vma = vma.vm_rb.rb_parent
    return n


def check_colours(mm: ptr[mm_struct], vma: ptr[vm_area_struct], blacks: vma_count_t):
    """What lib/rbtree_test.c asks of a node: a red one has no red parent, a child knows its parent, and where the tree
    ends it has `blacks` black nodes."""
    parent = vma.vm_rb.rb_parent
    if parent:
        check(parent.vm_rb.rb_left == vma or parent.vm_rb.rb_right == vma, "validate-mm", vma)
        check(rb_is_black(vma) or rb_is_black(parent), "validate-mm", vma)
    else:
        check(mm.mm_rb == vma, "validate-mm", vma)
    if not vma.vm_rb.rb_left or not vma.vm_rb.rb_right:
        check(blacks_above(vma) == blacks, "validate-mm", vma)


def check_chain(vma: ptr[vm_area_struct]):
    """anon_vma_interval_tree_verify, as far as there are trees here."""
    avc = vma.anon_vma_chain
    while avc:
        check(avc.vma == vma, "validate-mm", vma)
        avc = avc.next_same_vma


def browse_rb(mm: ptr[mm_struct]) -> vma_count_t:
    """How many VMAs the tree has; they must be in order, not empty, and not overlap."""
    n: vma_count_t = 0
    blacks: vma_count_t = 0
    pend: vpn_t = 0
    vma = rb_first(mm)
    while vma and n <= NR_VMAS:
        check(vma.vm_start >= pend, "validate-mm", vma)
        check(vma.vm_start < vma.vm_end, "validate-mm", vma)
        if FULL:
            if n == 0:
                blacks = blacks_above(vma)
            check_colours(mm, vma, blacks)
            check_chain(vma)
            check(vma.rb_subtree_gap == vma_compute_subtree_gap(vma), "validate-mm", vma)
        pend = vma.vm_end
        n += 1
        vma = rb_next(vma)
    return n


@place("validate_mm/check")
def validate_mm(mm: ptr[mm_struct]):
    """List, tree and map_count tell the same (CONFIG_DEBUG_VM_RB).

    The checker looks, not a CPU: hence one step.  A place, so that what measures time can leave it out.
    """
    with atomic():
        i: vma_count_t = 0
        vma = mm.mmap
        while vma and i <= NR_VMAS:
            i += 1
            vma = vma.vm_next
        check(i == mm.map_count, "validate-mm", mm)
        check(i == browse_rb(mm), "validate-mm", mm)
