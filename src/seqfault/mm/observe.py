"""What a program can see of its address space: the stream that `AddressSpace` and `fuzz` compare.

The model's side of /proc/PID/maps, pagemap and smaps (fs/proc/task_mmu.c, 6.18).  A record is: result, mask, then
for each living process its VMAs that overlap the observed spans and a word for each page of the spans; for mincore
its vector; when asked for, what status says of the process and smaps of each VMA.
"""

from __future__ import annotations

from seqfault.kernel import NULL, Size, array, check, emit, index_of, integer, pool_object, ptr, struct, the
from seqfault.mm.frames import PageAnon
from seqfault.mm.lru import in_batch, lru_add_drain
from seqfault.mm.pgtable import pte_at, pte_dirty, pte_is_guard, pte_pfn, pte_present, vm_normal_page
from seqfault.mm.readahead import find_get_page
from seqfault.mm.types import (
    FILE_PAGES,
    LINUX,
    NR_FILES,
    NR_PAGES,
    NR_PMDS,
    NR_TEST_FILES,
    VM_ACCESS_FLAGS,
    VM_LOCKED,
    VM_LOCKONFAULT,
    VM_MAYSHARE,
    VM_READ,
    VM_SHARED,
    file,
    flags_t,
    mm_struct,
    page,
    pte_t,
    vm_area_struct,
    vpn_t,
)
from seqfault.mm.vma import find_vma

NR_SPANS = Size("NR_SPANS", 4)
PSS_PAGE, PSS_KB_SHIFT = 4096 << 12, 22

NR_TOTALS = 5
OBSERVED_FILES, OBSERVED_FILE_PAGES = 3, 60
FILE_WORD_ANON = 100  # a file that shared anonymous memory made: this plus its number

word_t = integer(-(1 << 62), 1 << 62, "word_t")


@struct(pool=1, private=True)
class uapi_observed:
    """Which pages are looked at.  Set by the host.

    `pages`: whether records have a word for each page; `detail_every`: which of them say what smaps says: those whose
    number in their program, `row`, is a multiple of it (0: none); `totals`: what was mapped when the program began, in
    the order of `emit_totals`.
    """

    nr_spans: integer(0, NR_SPANS)
    start: array[vpn_t, NR_SPANS]
    end: array[vpn_t, NR_SPANS]
    pages: bool
    detail_every: integer(0, 1 << 40)
    row: integer(0, 1 << 40)
    totals: array[word_t, NR_TOTALS]


def file_word(f: ptr[file]) -> word_t:
    """Which file a VMA maps: 0 none; 1 and 2 the memfds, 3 the file on disk by whichever descriptor, 4 the
    fence's."""
    if not f:
        return 0
    i: word_t = index_of(f)
    if i == 4 or i == 5:
        return 3
    if i < NR_TEST_FILES:
        return i + 1
    return FILE_WORD_ANON + i


def in_span(vma: ptr[vm_area_struct]) -> bool:
    seen = the(uapi_observed)
    inside = False
    for i in range(seen.nr_spans):
        if vma.vm_start < seen.end[i] and vma.vm_end > seen.start[i]:
            inside = True
    return inside


def next_observed(mm: ptr[mm_struct], vma: ptr[vm_area_struct]) -> ptr[vm_area_struct]:
    """The first VMA from `vma` on that overlaps a span; gaps between spans are skipped by a look-up."""
    seen = the(uapi_observed)
    while vma and not in_span(vma):
        at: vpn_t = NR_PAGES
        for i in range(seen.nr_spans):
            if seen.start[i] >= vma.vm_end and seen.start[i] < at:
                at = seen.start[i]
        if at == NR_PAGES:
            return NULL
        vma = find_vma(mm, at)
    return vma


def emit_page(vma: ptr[vm_area_struct], pte: pte_t):
    """pagemap's bits, and the page's content where the program may read it."""
    if pte_is_guard(pte):
        emit(8)
        return
    if not pte_present(pte):
        emit(0)
        return
    word: word_t = 1
    p = vm_normal_page(pte)
    if p:
        if p.mapcount == 1:
            word |= 2
        if not PageAnon(p):
            word |= 4
    else:
        word |= 16
    if vma.vm_flags & VM_READ:
        word |= 32
        word |= pool_object(page, pte_pfn(pte)).data << 8
    emit(word | pte_pfn(pte) << 16)


def emit_span(mm: ptr[mm_struct], start: vpn_t, end: vpn_t):
    vma = find_vma(mm, start)
    addr: vpn_t = start
    while addr < end:
        while vma and vma.vm_end <= addr:
            vma = vma.vm_next
        if vma and vma.vm_start <= addr:
            emit_page(vma, pte_at(mm, addr))
        else:
            emit(0)
        addr += 1


def emit_vma(vma: ptr[vm_area_struct]):
    emit(vma.vm_start)
    emit(vma.vm_end)
    bits: word_t = vma.vm_flags & VM_ACCESS_FLAGS
    if vma.vm_flags & (VM_SHARED | VM_MAYSHARE):  # the latter alone: of a file that is open for reading only
        bits |= VM_SHARED
    emit(bits)
    emit(vma.vm_pgoff if vma.vm_file else 0)
    emit(file_word(vma.vm_file))


def observe_mm(mm: ptr[mm_struct]):
    seen = the(uapi_observed)
    n: word_t = 0
    first = next_observed(mm, mm.mmap)
    vma = first
    while vma:
        n += 1
        vma = next_observed(mm, vma.vm_next)
    emit(n)
    vma = first
    while vma:
        emit_vma(vma)
        vma = next_observed(mm, vma.vm_next)
    if not seen.pages:
        return
    for i in range(seen.nr_spans):
        emit_span(mm, seen.start[i], seen.end[i])


# -- smaps
def check_lru(p: ptr[page]):
    """A page is on a list, or in a batch on its way to one.  (The text keeps them since 5.18.)"""
    if LINUX >= 518:
        check(p.lru or in_batch(p), "not-on-lru", p)


def emit_smap(mm: ptr[mm_struct], vma: ptr[vm_area_struct]):
    """VmFlags, Rss, Dirty (shared and private), Private_Dirty, Anonymous, LazyFree, Locked; in pages.

    A page is private while it is mapped once.  Locked is the proportional share, rounded down as smaps does.
    """
    seen = the(uapi_observed)
    rss: word_t = 0
    dirty: word_t = 0
    private_dirty: word_t = 0
    anonymous: word_t = 0
    lazyfree: word_t = 0
    pss: word_t = 0
    addr: vpn_t = vma.vm_start
    end: vpn_t = vma.vm_end
    if not seen.pages:
        end = addr
    while addr < end:
        pte: pte_t = pte_at(mm, addr)
        if pte_present(pte):
            p = vm_normal_page(pte)
            if p:
                written = pte_dirty(pte) or p.dirty
                check_lru(p)
                rss += 1
                pss += PSS_PAGE // max(p.mapcount, 1)
                if PageAnon(p):
                    anonymous += 1
                    if p.lazyfree and not written:
                        lazyfree += 1
                if written:
                    dirty += 1
                    if p.mapcount < 2:
                        private_dirty += 1
        addr += 1
    flags: flags_t = vma.vm_flags
    if LINUX < 612:
        flags &= ~VM_LOCKONFAULT  # "lf" is shown by 6.12, not by 6.1
    emit(flags)
    emit(rss)
    emit(dirty)
    emit(private_dirty)
    emit(anonymous)
    emit(lazyfree)
    emit((pss >> PSS_KB_SHIFT) // 4 if vma.vm_flags & VM_LOCKED else 0)


# -- status
def note_totals(mm: ptr[mm_struct]):
    """What a program finds mapped when it begins counts as nothing."""
    seen = the(uapi_observed)
    seen.totals[0] = mm.total_vm
    seen.totals[1] = mm.locked_vm
    seen.totals[2] = mm.data_vm
    seen.totals[3] = mm.stack_vm
    seen.totals[4] = mm.exec_vm


def pgtables(mm: ptr[mm_struct]) -> word_t:
    """Page tables of the last level.  A fault that ends without one may have made some above it, which do not count."""
    n: word_t = 0
    for i in range(NR_PMDS):
        if mm.pmd[i]:
            n += 1
    return n


def cached_pages(f: ptr[file]) -> word_t:
    """A bit for each of a file's first pages: whether it is in the page cache, as mincore tells."""
    bits: word_t = 0
    for i in range(min(OBSERVED_FILE_PAGES, FILE_PAGES)):
        if find_get_page(f, i):
            bits |= 1 << i
    return bits


def emit_totals(mm: ptr[mm_struct]):
    """VmSize, VmLck, VmData, VmStk, VmExe and VmLib together, VmPTE: pages more than at the program's start; and what
    is cached of each file."""
    seen = the(uapi_observed)
    emit(mm.total_vm - seen.totals[0])
    emit(mm.locked_vm - seen.totals[1])
    emit(mm.data_vm - seen.totals[2])
    emit(mm.stack_vm - seen.totals[3])
    emit(mm.exec_vm - seen.totals[4])
    emit(pgtables(mm))
    for i in range(min(OBSERVED_FILES, NR_FILES)):
        emit(cached_pages(pool_object(file, i)))


def emit_marks(mm: ptr[mm_struct], addr: vpn_t):
    """What kpageflags says of a page: unevictable 1, locked 2."""
    pte: pte_t = pte_at(mm, addr)
    p = vm_normal_page(pte) if pte_present(pte) else NULL
    bits: word_t = 0
    if p:
        if p.unevictable:
            bits |= 1
        if p.mlocked:
            bits |= 2
    emit(bits)


def uapi_vmflags(mm: ptr[mm_struct]):
    """What status says of a process, kpageflags of each observed page, and smaps of each observed VMA.  The batches are
    emptied first, as they are before the next operation."""
    seen = the(uapi_observed)
    lru_add_drain()
    emit_totals(mm)
    if seen.pages:
        for i in range(seen.nr_spans):
            for addr in range(seen.start[i], seen.end[i]):
                emit_marks(mm, addr)
    vma = next_observed(mm, mm.mmap)
    while vma:
        emit_smap(mm, vma)
        vma = next_observed(mm, vma.vm_next)
