"""A CPU that runs a program: operations on the address space, and instructions that touch its pages.

Instructions go through the TLB; what is not there is walked for in two steps, as there are two levels.  An
interrupt comes between two instructions only, so lookup and access are one step.  An entry is used as it was
loaded: that a first write looks at the page table again, to set the dirty bit, is not modelled.
"""

from __future__ import annotations

from seqfault.kernel import (
    NULL,
    atomic,
    integer,
    pool_object,
    ptr,
    seq_point,
    smp_processor_id,
    the,
)
from seqfault.mm.fork_parent import sys_fork
from seqfault.mm.frames import set_page_dirty
from seqfault.mm.madvise import sys_madvise
from seqfault.mm.pgtable import PTE_READ, PTE_WRITE, pmd_index, pte_at, pte_index, pte_mkdirty, pte_pfn
from seqfault.mm.syscalls import sys_mmap, sys_mprotect, sys_munmap
from seqfault.mm.types import (
    FORK,
    FULL,
    LINUX,
    NR_CPUS,
    NR_OPS,
    PTRS_PER_PTE,
    RA_PAGES,
    SIGSEGV,
    VM_EXEC,
    cpu_tlb,
    current_mm,
    data_t,
    mm_struct,
    page,
    pgprot_t,
    pte_t,
    result_t,
    results,
    scenario_rom,
    signal_t,
    vpn_t,
)
from seqfault.mm.vma import find_vma
from seqfault.mm.x86_fault import do_page_fault

OP_NONE, OP_MMAP, OP_MUNMAP, OP_MPROTECT, OP_MADVISE, OP_READ, OP_WRITE, OP_FORK = 0, 1, 2, 3, 4, 5, 6, 7

user_result_t = integer(-1100, 255, "user_result_t")
op_number_t = integer(0, NR_OPS * NR_CPUS)


def access(entry: pte_t, write: bool, value: data_t) -> data_t:
    """Load or store through a translation, to a frame that must be live still."""
    p = pool_object(page, pte_pfn(entry))
    if write:
        p.data = value
        return 0
    return p.data


# -- with FULL: one CPU, whose TLB would hold what the page tables do
def file_notices_write(p: ptr[page]):
    """A file on disk write-protects its clean pages, so that the first write tells it (vma_wants_writenotify,
    page_mkwrite); here entries are writable, and it is told of each."""
    mapping = p.mapping_file
    if mapping and not mapping.shmem and RA_PAGES != 0:
        set_page_dirty(p)


def user_access(mm: ptr[mm_struct], addr: vpn_t, write: bool, value: data_t) -> user_result_t:
    """One load or store of user code in `mm`, the running task's: the byte read, or 0; -1000 - signal."""
    need: pgprot_t = PTE_WRITE if write else PTE_READ
    while True:
        e: pte_t = pte_at(mm, addr)
        if e & need:
            if write:
                table = mm.pmd[pmd_index(addr)]
                table.pte[pte_index(addr)] = pte_mkdirty(e)
                file_notices_write(pool_object(page, pte_pfn(e)))
            return access(e, write, value)
        signal: signal_t = do_page_fault(mm, addr, write)
        if signal != 0:
            return -1000 - signal


def user_fetch(mm: ptr[mm_struct], addr: vpn_t) -> user_result_t:
    """An instruction fetch: 0, or -1000 - signal.

    Entries have no right of their own for it.  Where it is missing the fault still brings the page in: access_error
    refuses a fetch only of what is present.
    """
    ret: user_result_t = user_access(mm, addr, False, 0)
    if ret < 0:
        return ret
    vma = find_vma(mm, addr)
    if vma.vm_flags & VM_EXEC:
        return 0
    return -1000 - SIGSEGV


def touch_full(addr: vpn_t, write: bool, value: data_t) -> result_t:
    """`touch` without the TLB."""
    ret: user_result_t = user_access(current_mm(), addr, write, value)
    if ret < 0:
        return ret + 900
    return ret


def touch(addr: vpn_t, write: bool, value: data_t) -> result_t:
    """One load or store of user code: the value read, or 0; -100 - signal if it gets a signal."""
    if FULL:
        return touch_full(addr, write, value)
    mm = current_mm()
    tlb = pool_object(cpu_tlb, smp_processor_id())
    need: pgprot_t = PTE_WRITE if write else PTE_READ
    while True:
        with atomic():
            e: pte_t = tlb.entry[addr].pte
            if e & need:
                return access(e, write, value)
            # Not enough rights: a fault at once, which drops the entry (Intel's manual, 4.10.4.1).
            table = mm.pmd[addr // PTRS_PER_PTE]
            walk = e == 0 and table != NULL
            tlb.entry[addr].pte = 0
            tlb.walking = walk
        if walk:
            if LINUX >= 420:
                seq_point()
            with atomic():
                tlb.walking = False
                e = table.pte[addr % PTRS_PER_PTE]
                if e & need:
                    tlb.entry[addr].pte = e
                    return access(e, write, value)
        if LINUX >= 420:
            # munmap has mmap_sem for reading only while pages go: a fault may get its signal because of what the
            # walk saw long before, and the next walk find the page.
            seq_point()
        signal: signal_t = do_page_fault(mm, addr, write)
        if signal != 0:
            return -100 - signal
        seq_point()  # the fault may have grown a stack, and the instruction only begins again


def touch_read(addr: vpn_t) -> result_t:
    return touch(addr, False, 0)


def touch_write(addr: vpn_t, value: data_t) -> result_t:
    return touch(addr, True, value)


def do_op(k: op_number_t) -> result_t:
    """Run operation `k` of the scenario."""
    rom = the(scenario_rom)
    kind: integer(0, 15) = rom.op[k].kind
    addr: vpn_t = rom.op[k].addr
    len: vpn_t = rom.op[k].len
    if kind == OP_READ:
        return touch_read(addr)
    if kind == OP_WRITE:
        return touch_write(addr, rom.op[k].value)
    if kind == OP_MUNMAP:
        return sys_munmap(addr, len)
    if kind == OP_MPROTECT:
        return sys_mprotect(addr, len, rom.op[k].prot)
    if kind == OP_MADVISE:
        return sys_madvise(addr, len)
    if kind == OP_MMAP:
        return sys_mmap(addr, len, rom.op[k].prot, rom.op[k].flags, rom.op[k].file, rom.op[k].pgoff)
    if FORK and kind == OP_FORK:
        return sys_fork()
    return 0


def cpu_main():
    """The program of one CPU: its operations of the scenario, one after the other, once or for ever."""
    rom = the(scenario_rom)
    out = the(results)
    cpu = smp_processor_id()
    while True:
        for i in range(rom.nr_ops[cpu]):
            seq_point()
            out.ret[cpu * NR_OPS + i] = do_op(cpu * NR_OPS + i)
        if not rom.forever[cpu]:
            return
