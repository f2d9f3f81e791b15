"""TLBs, their shootdown, and the batch of what is unmapped (mmu_gather).

mm/memory.c, asm-generic/tlb.h, arch/x86/mm/tlb.c, arch/x86/include/asm/tlb.h, 4.12.  x86 frees pages and page
tables only after every CPU has answered an interrupt, so a CPU that has interrupts off keeps both.  Every CPU
runs threads of the one mm (mm_cpumask is full, none is lazy).
"""

from __future__ import annotations

from seqfault.kernel import (
    NULL,
    READ_ONCE,
    Size,
    array,
    atomic,
    check,
    cpu_relax_ipi,
    integer,
    place,
    pool_object,
    process_id,
    ptr,
    seq_point,
    smp_processor_id,
    struct,
    the,
    wait_for,
)
from seqfault.kernel.task import NR_CPUS, cpu_irq, preempt_disable, preempt_enable, task_struct
from seqfault.mm.frames import put_page
from seqfault.mm.lru import lru_add_drain
from seqfault.mm.pgtable import PTE_READ, PTE_RIGHTS, pte_free
from seqfault.mm.types import (
    FULL,
    LINUX,
    NR_FILLS,
    NR_MMS,
    NR_PAGES,
    NR_PTE_TABLES,
    PTRS_PER_PTE,
    cpu_tlb,
    current_mm,
    flush_ipi,
    mm_struct,
    page,
    pte_t,
    pte_table,
    scenario_rom,
    vpn_t,
)

GATHER_BATCH = Size("GATHER_BATCH", 8)  # pages; Linux has 8 on the stack, then whole pages of pointers


@struct(pool=NR_CPUS, private=True)
class mmu_gather:
    """What a CPU has unmapped and not freed yet.  [start, end): what to flush; `end` 0: nothing.

    `mm`: whose page tables, where there are several.  Only with FULL, what Linux passes as zap_details: whether
    private copies of a file's pages go too, and the markers of guard regions; whether the VMA is locked.
    """

    mm: ptr[mm_struct]
    even_cows: bool
    drop_markers: bool
    locked: bool
    start: vpn_t
    end: vpn_t
    nr: integer(0, GATHER_BATCH)
    pages: array[ptr[page], GATHER_BATCH]
    nr_tables: integer(0, NR_PTE_TABLES)
    tables: array[ptr[pte_table], NR_PTE_TABLES]


# -- arch/x86/mm/tlb.c
def local_flush_tlb(start: vpn_t, end: vpn_t):
    """INVLPG of each page.  One step: what the CPU walked for ahead is thrown away with the entries."""
    tlb = pool_object(cpu_tlb, smp_processor_id())
    with atomic():
        for i in range(start, end):
            tlb.entry[i].pte = 0
        tlb.prefetching = False


def send_flush_ipi(ipi: flush_ipi, start: vpn_t, end: vpn_t) -> bool:
    """Ask a CPU to flush; False while it has another's question (Linux queues them: who waits is the same).

    One step: what the interrupt's handler sees is all there when the interrupt comes.
    """
    with atomic():
        if ipi.sender != 0:
            return False
        ipi.start = start
        ipi.end = end
        ipi.sender = process_id() + 1
        return True


def flushed(ipi: flush_ipi) -> bool:
    """Whether a CPU has answered this one's question.  An acquire, as csd_lock_wait() of kernel/smp.c is."""
    with atomic():
        return ipi.sender != process_id() + 1


def flush_tlb_others(start: vpn_t, end: vpn_t):
    """smp_call_function_many, never called with interrupts off: two CPUs would wait for each other."""
    task = pool_object(task_struct, process_id())
    check(not task.irqs_disabled, "ipi-wait-with-irqs-off", task)
    for cpu in range(NR_CPUS):
        if cpu != smp_processor_id():
            other = pool_object(cpu_tlb, cpu)
            while not send_flush_ipi(other.ipi, start, end):
                cpu_relax_ipi()
    for cpu in range(NR_CPUS):
        if cpu != smp_processor_id():
            other = pool_object(cpu_tlb, cpu)
            while not flushed(other.ipi):
                cpu_relax_ipi()


def flush_tlb_mm_range(start: vpn_t, end: vpn_t):
    """With FULL there is one CPU, whose TLB nobody can tell from the page tables."""
    if not FULL:
        preempt_disable()
        local_flush_tlb(start, end)
        flush_tlb_others(start, end)
        preempt_enable()


def flush_tlb_range(start: vpn_t, end: vpn_t):
    flush_tlb_mm_range(start, end)


def flush_tlb_page(address: vpn_t):
    flush_tlb_mm_range(address, address + 1)


def ipi_agent():
    """The interrupt handler of a CPU.

    It runs between two instructions, with interrupts on; as one step, since the interrupted code does not go
    on before it is over, and nobody else reads this CPU's TLB.
    """
    cpu = smp_processor_id()
    tlb = pool_object(cpu_tlb, cpu)
    irq = pool_object(cpu_irq, cpu)
    while True:
        seq_point()
        with atomic():
            wait_for(tlb.ipi.sender != 0)
            wait_for(not irq.disabled)
            wait_for(not tlb.walking)
            for i in range(tlb.ipi.start, tlb.ipi.end):
                tlb.entry[i].pte = 0
            tlb.prefetching = False
            tlb.ipi.start = 0
            tlb.ipi.end = 0
            tlb.ipi.sender = 0


def take_interrupt():
    """Interrupts are on: one that is pending is taken before the CPU goes on.

    For loops that switch interrupts on and off, of which a round without the interrupt changes nothing: to the checker,
    whose fairness is weak, an interrupt that is off again and again might never come.
    """
    tlb = pool_object(cpu_tlb, smp_processor_id())
    while READ_ONCE(tlb.ipi.sender) != 0:
        cpu_relax_ipi()


def walker_agent():
    """The hardware's page walker, which may load a translation long before an instruction needs it, or never.

    Two steps, as there are two levels: it may be left with a table that is freed in between.  A flush on its
    CPU throws the walk away.
    """
    mm = current_mm()
    cpu = smp_processor_id()
    tlb = pool_object(cpu_tlb, cpu)
    rom = the(scenario_rom)
    for i in range(rom.nr_fills[cpu]):
        seq_point()
        addr: vpn_t = rom.fill[cpu * NR_FILLS + i]
        with atomic():
            table = mm.pmd[addr // PTRS_PER_PTE]
            tlb.prefetching = table != NULL
        if table:
            with atomic():
                if tlb.prefetching:
                    e: pte_t = table.pte[addr % PTRS_PER_PTE]
                    if e & PTE_READ:
                        tlb.entry[addr].pte = e
                tlb.prefetching = False


# -- asm-generic/tlb.h, mm/memory.c
def __tlb_reset_range(tlb: ptr[mmu_gather]):
    tlb.start = NR_PAGES
    tlb.end = 0


def __tlb_adjust_range(tlb: ptr[mmu_gather], address: vpn_t):
    tlb.start = min(tlb.start, address)
    tlb.end = max(tlb.end, address + 1)


def tlb_gather_mmu(mm: ptr[mm_struct], start: vpn_t, end: vpn_t) -> ptr[mmu_gather]:
    """The batch of this CPU, empty."""
    tlb = pool_object(mmu_gather, smp_processor_id())
    if NR_MMS > 1:
        tlb.mm = mm
    if FULL and LINUX < 615:
        lru_add_drain()  # which every caller does first, and none in 6.18
    if FULL:
        tlb.even_cows = True
        tlb.drop_markers = False
    __tlb_reset_range(tlb)
    return tlb


def tlb_mm(tlb: ptr[mmu_gather]) -> ptr[mm_struct]:
    """tlb->mm"""
    if NR_MMS > 1:
        return tlb.mm
    return pool_object(mm_struct, 0)


def tlb_start_vma(tlb: ptr[mmu_gather]):
    """Nothing on x86, whose caches have physical addresses."""


def tlb_end_vma(tlb: ptr[mmu_gather]):
    """Nothing on x86: the flush waits for tlb_flush_mmu."""


def tlb_remove_tlb_entry(tlb: ptr[mmu_gather], address: vpn_t):
    __tlb_adjust_range(tlb, address)


def __tlb_remove_page(tlb: ptr[mmu_gather], p: ptr[page]) -> bool:
    """Put a page into the batch.  True if it is full now, and the caller must flush."""
    tlb.pages[tlb.nr] = p
    tlb.nr += 1
    return tlb.nr == GATHER_BATCH


def pte_free_tlb(tlb: ptr[mmu_gather], table: ptr[pte_table], address: vpn_t):
    __tlb_adjust_range(tlb, address)
    tlb.tables[tlb.nr_tables] = table
    tlb.nr_tables += 1


def tlb_flush_mmu_tlbonly(tlb: ptr[mmu_gather]):
    if tlb.end == 0:
        return
    flush_tlb_mm_range(tlb.start, tlb.end)
    __tlb_reset_range(tlb)


def tlb_flush_mmu_free(tlb: ptr[mmu_gather]):
    if FULL and LINUX < 615 and tlb.nr != 0:
        lru_add_drain()  # free_pages_and_swap_cache
    for i in range(tlb.nr):
        p = tlb.pages[i]
        tlb.pages[i] = NULL
        put_page(p)
    tlb.nr = 0
    for i in range(tlb.nr_tables):
        table = tlb.tables[i]
        tlb.tables[i] = NULL
        pte_free(table)
    tlb.nr_tables = 0


def tlb_flush_mmu(tlb: ptr[mmu_gather]):
    tlb_flush_mmu_tlbonly(tlb)
    tlb_flush_mmu_free(tlb)


def tlb_finish_mmu(tlb: ptr[mmu_gather], start: vpn_t, end: vpn_t):
    tlb_flush_mmu_tlbonly(tlb)
    flush_check(start, end)
    tlb_flush_mmu_free(tlb)
    tlb.start = 0


def check_no_stale_tlb(mm: ptr[mm_struct], start: vpn_t, end: vpn_t):
    for cpu in range(NR_CPUS):
        tlb = pool_object(cpu_tlb, cpu)
        for i in range(start, end):
            e = tlb.entry[i].pte
            if e != 0:
                table = mm.pmd[i // PTRS_PER_PTE]
                check(table != NULL, "stale-tlb", tlb)
                if table and table.ptl.owner == 0:
                    check(tlb_entry_granted(e, table.pte[i % PTRS_PER_PTE]), "stale-tlb", tlb)


@place("tlb_flush/check")
def flush_check(start: vpn_t, end: vpn_t):
    """After the flush of an operation no TLB holds what the page tables do not grant.

    The checker looks, not a CPU: hence one step.  Where somebody else may be between his own change and his
    own flush nothing is said: with mmap_sem held for reading by others, or the table's lock held.
    """
    if not FULL:
        mm = current_mm()
        with atomic():
            if not mm.mmap_sem.readers & ~(1 << process_id()):
                check_no_stale_tlb(mm, start, end)


def tlb_entry_granted(e: pte_t, pte: pte_t) -> bool:
    """Whether a page-table entry gives all that a TLB entry does: the same frame, and the rights."""
    return e >> 2 == pte >> 2 and e & ~pte & PTE_RIGHTS == 0
