"""What must be true when everything is at rest, and what a program can tell.  The checker runs it, not a CPU.

A live frame is counted once by its file's page cache and once by each page-table entry that maps it; the zero
page by nobody.
"""

from __future__ import annotations

from seqfault.kernel import (
    NULL,
    check,
    emit,
    index_of,
    integer,
    is_live,
    pool_object,
    ptr,
    the,
)
from seqfault.kernel.task import NR_CPUS
from seqfault.mm.fork_parent import child_mm
from seqfault.mm.frames import linear_page_index
from seqfault.mm.pgtable import PTE_READ, PTE_WRITE, pte_pfn, pte_present
from seqfault.mm.tlb import tlb_entry_granted
from seqfault.mm.types import (
    FILE_PAGES,
    FORK,
    NR_ANON_VMAS,
    NR_AVCS,
    NR_FILES,
    NR_FRAMES,
    NR_OPS,
    NR_PAGES,
    NR_PTE_TABLES,
    NR_VMAS,
    PTRS_PER_PTE,
    VM_ACCESS_FLAGS,
    VM_SHARED,
    VM_WRITE,
    ZERO_PFN,
    anon_vma,
    anon_vma_chain,
    cpu_tlb,
    file,
    flags_t,
    mm_struct,
    page,
    pfn_t,
    pgoff_t,
    pte_t,
    pte_table,
    results,
    scenario_rom,
    vm_area_struct,
    vpn_t,
)

mask_t = integer(0, (1 << 62) - 1)
tally_t = integer(0, NR_PAGES + FORK * NR_PAGES + FILE_PAGES * NR_FILES)


def list_find(mm: ptr[mm_struct], addr: vpn_t) -> ptr[vm_area_struct]:
    """The VMA that `addr` lies in, by the list: the tree may be what is wrong.  Ends on a broken list too."""
    vma = mm.mmap
    for _i in range(NR_VMAS):
        if not vma or not is_live(vma):
            return NULL
        if vma.vm_start <= addr < vma.vm_end:
            return vma
        vma = vma.vm_next
    return NULL


def entry_at(mm: ptr[mm_struct], addr: vpn_t) -> pte_t:
    table = mm.pmd[addr // PTRS_PER_PTE]
    if table:
        return table.pte[addr % PTRS_PER_PTE]
    return 0


# -- page tables
def check_mapped_page(vma: ptr[vm_area_struct], addr: vpn_t, pte: pte_t):
    """Whether the frame that an entry names is what the VMA shows at `addr`, and says so itself."""
    p = pool_object(page, pte_pfn(pte))
    index: pgoff_t = linear_page_index(vma, addr)
    check(p.index == index, "wrong-reverse-map", p)
    if p.mapping:
        check(p.mapping == vma.anon_vma, "wrong-reverse-map", p)
        check(not vma.vm_flags & VM_SHARED, "entry-exceeds-vma", vma)
    else:
        f = vma.vm_file
        check(f != NULL and p.mapping_file == f, "wrong-reverse-map", p)
        if f and index < FILE_PAGES:
            check(f.pages[index] == pte_pfn(pte), "wrong-reverse-map", p)
        if not vma.vm_flags & VM_SHARED:
            check(not pte & PTE_WRITE, "entry-exceeds-vma", vma)


def check_entry(vma: ptr[vm_area_struct], addr: vpn_t, pte: pte_t):
    flags: flags_t = vma.vm_flags
    if pte & PTE_WRITE:
        check(flags & VM_WRITE, "entry-exceeds-vma", vma)
    if pte & PTE_READ:
        check(flags & VM_ACCESS_FLAGS, "entry-exceeds-vma", vma)
    if pte_pfn(pte) == ZERO_PFN:
        check(not pte & PTE_WRITE, "entry-exceeds-vma", vma)
        check(not vma.vm_file, "wrong-reverse-map", vma)
    else:
        p = pool_object(page, pte_pfn(pte))
        check(is_live(p), "entry-to-freed-frame", p)
        if is_live(p):
            check_mapped_page(vma, addr, pte)


def check_page_tables():
    """Every entry lies in a VMA, grants no more than it, and maps the right frame."""
    mm = the(mm_struct)
    for addr in range(NR_PAGES):
        pte: pte_t = entry_at(mm, addr)
        if pte_present(pte):
            vma = list_find(mm, addr)
            check(vma != NULL, "entry-outside-vma", mm)
            if vma:
                check_entry(vma, addr, pte)


def mapped_by(mm: ptr[mm_struct], pfn: pfn_t) -> tally_t:
    """How many entries map a frame."""
    n: tally_t = 0
    for addr in range(NR_PAGES):
        if pte_present(entry_at(mm, addr)) and pte_pfn(entry_at(mm, addr)) == pfn:
            n += 1
        if FORK and the(child_mm).pages[addr] == pfn:
            n += 1
    return n


def cached_by(pfn: pfn_t) -> tally_t:
    """How many page caches hold a frame."""
    n: tally_t = 0
    for i in range(NR_FILES):
        f = pool_object(file, i)
        for k in range(FILE_PAGES):
            if f.pages[k] == pfn:
                n += 1
    return n


def check_frames():
    """Counts are what maps and caches a frame; what nothing does is a leak."""
    mm = the(mm_struct)
    for pfn in range(1, NR_FRAMES):
        p = pool_object(page, pfn)
        if is_live(p):
            maps: tally_t = mapped_by(mm, pfn)
            cached: tally_t = cached_by(pfn)
            check(maps + cached != 0, "leak", p)
            if maps + cached != 0:
                check(p.mapcount == maps, "wrong-mapcount", p)
                check(p.refcount == maps + cached, "wrong-refcount", p)


# -- leaks of the rest
def check_leaks():
    """Every live object can be reached from the mm; every anon_vma knows how many chains it is in."""
    mm = the(mm_struct)
    vmas: mask_t = 0
    avcs: mask_t = 0
    vma = mm.mmap
    for _i in range(NR_VMAS):
        if not vma or not is_live(vma):
            break
        vmas |= 1 << index_of(vma)
        avc = vma.anon_vma_chain
        for _j in range(NR_AVCS):
            if not avc or not is_live(avc):
                break
            avcs |= 1 << index_of(avc)
            check(avc.vma == vma, "wrong-reverse-map", avc)
            avc = avc.next_same_vma
        check((vma.anon_vma != NULL) == (vma.anon_vma_chain != NULL), "wrong-reverse-map", vma)
        vma = vma.vm_next
    for i in range(NR_VMAS):
        vma = pool_object(vm_area_struct, i)
        check(vmas >> i & 1 or not is_live(vma), "leak", vma)
    for i in range(NR_AVCS):
        avc = pool_object(anon_vma_chain, i)
        check(avcs >> i & 1 or not is_live(avc), "leak", avc)
    for i in range(NR_ANON_VMAS):
        av = pool_object(anon_vma, i)
        if is_live(av):
            chains: integer(0, NR_AVCS) = 0
            for k in range(NR_AVCS):
                if avcs >> k & 1:
                    avc = pool_object(anon_vma_chain, k)
                    if avc.anon_vma == av:
                        chains += 1
            check(chains != 0, "leak", av)
            if chains != 0:
                check(av.rb_root == chains, "wrong-reverse-map", av)
                check(av.refcount == 1, "wrong-refcount", av)
    for i in range(NR_PTE_TABLES):
        table = pool_object(pte_table, i)
        if is_live(table):
            found = False
            for k in range(NR_PAGES // PTRS_PER_PTE):
                if mm.pmd[k] == table:
                    found = True
            check(found, "leak", table)


def check_file_counts():
    """A file's interval tree holds the VMAs that map it, and each holds a reference."""
    mm = the(mm_struct)
    for i in range(NR_FILES):
        f = pool_object(file, i)
        n: integer(0, NR_VMAS) = 0
        vma = mm.mmap
        for _i in range(NR_VMAS):
            if not vma or not is_live(vma):
                break
            if vma.vm_file == f:
                n += 1
            vma = vma.vm_next
        check(f.i_mmap_vmas == n, "wrong-reverse-map", f)
        check(f.f_count == n, "wrong-refcount", f)


def check_tlb():
    """No TLB entry grants what the page tables do not."""
    mm = the(mm_struct)
    for cpu in range(NR_CPUS):
        tlb = pool_object(cpu_tlb, cpu)
        for addr in range(NR_PAGES):
            e: pte_t = tlb.entry[addr].pte
            if e != 0:
                check(tlb_entry_granted(e, entry_at(mm, addr)), "stale-tlb", tlb)


# -- what a program can tell
def content(vma: ptr[vm_area_struct], addr: vpn_t, pte: pte_t):
    """Emit what a read at `addr` would give, whatever the rights are now; 31 behind the end of a file."""
    index: pgoff_t = linear_page_index(vma, addr)
    f = vma.vm_file
    if pte_present(pte):
        p = pool_object(page, pte_pfn(pte))
        emit(p.data)
    elif not f:
        emit(0)
    elif index < f.i_size:
        p = pool_object(page, f.pages[index])
        emit(p.data)
    else:
        emit(31)


def observe():
    """The outcome: results of the operations, the layout, the content of each page."""
    mm = the(mm_struct)
    rom = the(scenario_rom)
    out = the(results)
    for cpu in range(NR_CPUS):
        for i in range(rom.nr_ops[cpu]):
            emit(out.ret[cpu * NR_OPS + i])
    vma = mm.mmap
    for _i in range(NR_VMAS):
        if not vma or not is_live(vma):
            break
        emit(vma.vm_start)
        emit(vma.vm_end)
        emit(vma.vm_flags)
        emit(vma.vm_pgoff)
        emit(vma.vm_file)
        vma = vma.vm_next
    emit(-1)
    for addr in range(NR_PAGES):
        vma = list_find(mm, addr)
        if vma:
            content(vma, addr, entry_at(mm, addr))
        else:
            emit(-1)
        if FORK:
            p = pool_object(page, the(child_mm).pages[addr])
            emit(p.data)


OBSERVERS = (check_page_tables, check_frames, check_leaks, check_file_counts, check_tlb, observe)
