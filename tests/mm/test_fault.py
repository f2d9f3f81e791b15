"""Faults, page tables, TLBs and frames, sequentially; what each oracle says of a broken machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from maps import live, mmap, mmap_file, mprotect, munmap

from seqfault.kernel import (
    NULL,
    KernelBug,
    Machine,
    WouldBlock,
    kmem_cache_free,
    kmem_cache_zalloc,
    pool_object,
    the,
)
from seqfault.kernel.layout import Layout
from seqfault.kernel.machine import Ptr
from seqfault.kernel.spinlock import spin_lock
from seqfault.kernel.task import local_irq_disable, local_irq_enable
from seqfault.mm.cpu import (
    OP_MADVISE,
    OP_MMAP,
    OP_MPROTECT,
    OP_MUNMAP,
    OP_READ,
    OP_WRITE,
    cpu_main,
    touch_read,
    touch_write,
)
from seqfault.mm.filemap import file_init, mm_init
from seqfault.mm.madvise import sys_madvise
from seqfault.mm.oracles import OBSERVERS
from seqfault.mm.pgtable import pte_free
from seqfault.mm.tlb import flush_tlb_mm_range, ipi_agent, walker_agent
from seqfault.mm.types import (
    ENOMEM,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_GROWSDOWN,
    MAP_PRIVATE,
    NR_OPS,
    SIGBUS,
    SIGSEGV,
    anon_vma,
    anon_vma_chain,
    cpu_tlb,
    faults_left,
    file,
    mm_struct,
    page,
    pte_table,
    results,
    scenario_rom,
    vm_area_struct,
    vm_fault,
)
from seqfault.mm.vma import find_vma

NONE, R, W, RW = 0, 1, 2, 3
CPUS = 2
SEGV, BUS = -100 - SIGSEGV, -100 - SIGBUS
F0 = 8  # what the first page of the file holds


def machine(strict: bool = True, **sizes: int) -> Machine:
    m = Machine(Layout(sizes={"NR_CPUS": CPUS, "NR_TASKS": 7, **sizes}), strict=strict)
    m.agents = [(3 + c, c, ipi_agent) for c in range(CPUS)] + [(5 + c, c, walker_agent) for c in range(CPUS)]
    return m


@pytest.fixture
def m() -> Iterator[Machine]:
    with machine() as it:
        mm_init()
        yield it


def on(m: Machine, cpu: int) -> None:
    m.cpu = m.process = cpu


def pte(addr: int) -> int:
    table = the(mm_struct).pmd[addr // 4]
    return int(table.pte[addr % 4]) if table else 0


def frame(addr: int) -> Ptr:
    return pool_object(page, pte(addr) >> 2)


def madvise(start: int, end: int) -> int:
    return int(sys_madvise(start, end - start))


def rest(m: Machine) -> list[int]:
    """Nothing is wrong, nobody holds anything; the outcome."""
    m.settle()
    m.emitted.clear()
    for f in OBSERVERS:
        f()
    assert not m.held
    zero = [c for c in m.layout.cells if c.pool in ("vm_fault", "mmu_gather", "task_struct", "cpu_irq")]
    assert not [c.name for c in zero if m.cells[c.addr]]
    locks = [c for c in m.layout.cells if c.path.endswith(("ptl.owner", "ipi.sender"))]
    assert not [c.name for c in locks if m.cells[c.addr]]
    return list(m.emitted)


def frames(m: Machine) -> int:
    """Live frames without the zero page."""
    return live(m, page) - 1


# -- anonymous pages
def test_reads_see_the_zero_page(m) -> None:
    mmap(2, 4)
    assert touch_read(2) == 0 and touch_read(3) == 0
    assert pte(2) == pte(3) == 1 and frames(m) == 0
    assert not find_vma(the(mm_struct), 2).anon_vma
    rest(m)


def test_writes_get_a_page(m) -> None:
    mmap(2, 4)
    assert touch_write(2, 5) == 0
    assert touch_read(2) == 5 and touch_read(3) == 0
    p = frame(2)
    assert pte(2) & 3 == RW and p.refcount == p.mapcount == 1 and p.index == 2
    assert p.mapping == find_vma(the(mm_struct), 2).anon_vma
    assert rest(m) == [2, 4, RW, 2, 0, -1, -1, -1, 5, 0, -1, -1, -1, -1]


def test_write_after_read_copies_the_zero_page(m) -> None:
    mmap(2, 4)
    touch_read(2)
    on(m, 1)
    touch_read(2)  # the other CPU's translation must go
    on(m, 0)
    assert touch_write(2, 7) == 0
    assert frames(m) == 1 and pool_object(cpu_tlb, 1).entry[2].pte == 0
    on(m, 1)
    assert touch_read(2) == 7
    rest(m)


def test_sole_owner_reuses_its_page(m) -> None:
    mmap(2, 4)
    touch_write(2, 5)
    before = pte(2) >> 2
    mprotect(2, 4, R)
    assert pte(2) & 3 == R and touch_write(2, 6) == SEGV
    mprotect(2, 4, RW)
    assert pte(2) & 3 == R  # a fault has to make it writable
    assert touch_write(2, 6) == 0 and touch_read(2) == 6
    assert pte(2) == before << 2 | RW and frames(m) == 1
    rest(m)


def test_a_stale_translation_that_grants_too_little_only_costs_a_fault(m) -> None:
    mmap(2, 4)
    touch_write(2, 5)
    mprotect(2, 4, R)
    mprotect(2, 4, RW)
    on(m, 1)
    assert touch_read(2) == 5
    on(m, 0)
    touch_write(2, 6)  # reuse: nobody is asked to flush
    assert pool_object(cpu_tlb, 1).entry[2].pte & 3 == R
    on(m, 1)
    assert touch_write(2, 7) == 0 and touch_read(2) == 7
    rest(m)


def test_outside_of_every_vma(m) -> None:
    mmap(2, 4)
    assert touch_read(1) == SEGV and touch_write(4, 1) == SEGV and touch_read(7) == SEGV
    assert frames(m) == 0 and live(m, pte_table) == 0
    rest(m)


@pytest.mark.parametrize(("prot", "read", "write"), [(NONE, SEGV, SEGV), (R, 0, SEGV), (W, 0, 0), (RW, 0, 0)])
def test_rights(m, prot, read, write) -> None:
    mmap(2, 4, prot)
    assert touch_read(2) == read and touch_write(2, 3) == write
    rest(m)


def test_prot_none_keeps_the_page(m) -> None:
    mmap(2, 4)
    touch_write(2, 5)
    touch_read(3)
    mprotect(2, 4, NONE)
    assert pte(2) & 3 == 0 and pte(2) and pte(3) == 0  # of the zero page nothing is left
    assert touch_read(2) == SEGV and touch_read(3) == SEGV
    mprotect(2, 4, R)
    assert touch_read(2) == 5 and touch_read(3) == 0
    rest(m)


def test_a_stack_grows(m) -> None:
    mmap(6, 8, RW, MAP_GROWSDOWN)
    assert touch_write(4, 3) == 0
    assert find_vma(the(mm_struct), 4).vm_start == 4 and touch_read(4) == 3
    rest(m)


# -- unmapping
def test_munmap_frees_frames_tables_and_anon_vmas(m) -> None:
    mmap(0, 8)
    for i in range(8):
        touch_write(i, i)
    assert frames(m) == 8 and live(m, pte_table) == 2
    munmap(0, 8)
    assert frames(m) == 0
    for s in (pte_table, vm_area_struct, anon_vma, anon_vma_chain):
        assert live(m, s) == 0
    assert touch_read(2) == SEGV
    rest(m)


def test_a_table_goes_when_no_vma_needs_it(m) -> None:
    mmap(2, 6)
    for i in range(2, 6):
        touch_write(i, i)
    munmap(2, 3)
    assert live(m, pte_table) == 2
    munmap(3, 4)
    assert live(m, pte_table) == 1 and not the(mm_struct).pmd[0]
    assert touch_read(4) == 4
    rest(m)
    munmap(4, 6)
    assert live(m, pte_table) == 0
    rest(m)


def test_a_neighbour_in_the_same_table_keeps_it(m) -> None:
    mmap(0, 1)
    mmap(2, 8)
    for i in (0, 2, 3, 5):
        touch_write(i, 1)
    munmap(2, 8)
    assert the(mm_struct).pmd[0] and not the(mm_struct).pmd[1]
    assert touch_read(0) == 1
    rest(m)


def test_munmap_shoots_down_other_cpus(m) -> None:
    mmap(2, 4)
    touch_write(2, 5)
    on(m, 1)
    touch_read(2)
    assert pool_object(cpu_tlb, 1).entry[2].pte
    on(m, 0)
    munmap(2, 4)
    assert not pool_object(cpu_tlb, 1).entry[2].pte
    rest(m)


def test_mapping_over_pages_forgets_them(m) -> None:
    mmap(2, 6)
    for i in range(2, 6):
        touch_write(i, i)
    mmap(3, 5)
    assert [touch_read(i) for i in range(2, 6)] == [2, 0, 0, 5]
    rest(m)


def test_a_full_batch_is_flushed_on_the_way() -> None:
    with machine(GATHER_BATCH=2) as m:
        mm_init()
        mmap(0, 8)
        for i in range(8):
            touch_write(i, i)
        munmap(1, 8)
        assert frames(m) == 1 and touch_read(0) == 0
        rest(m)


def test_dontneed(m) -> None:
    mmap(1, 7)
    for i in range(1, 7):
        touch_write(i, i)
    assert madvise(2, 6) == 0
    assert [touch_read(i) for i in range(1, 7)] == [1, 0, 0, 0, 0, 6]
    assert frames(m) == 2 and live(m, pte_table) == 2
    rest(m)


def test_dontneed_over_vmas_and_a_hole(m) -> None:
    mmap(1, 3)
    mmap(3, 4, R)
    mmap(5, 7)
    for i in (1, 2, 5, 6):
        touch_write(i, i)
    assert madvise(2, 6) == -ENOMEM  # the hole at 4 is told of, all the rest is done
    assert [touch_read(i) for i in (1, 2, 5, 6)] == [1, 0, 0, 6]
    assert madvise(0, 2) == -ENOMEM and touch_read(1) == 0
    assert madvise(7, 8) == -ENOMEM and madvise(3, 3) == 0
    rest(m)


# -- files
def test_private_file_is_copied_on_write(m) -> None:
    file_init(0, 4)
    mmap_file(2, 6, RW, 0)
    assert touch_read(3) == F0 + 1 and pte(3) & 3 == R
    assert touch_write(3, 5) == 0 and touch_read(3) == 5  # after a read
    assert touch_write(4, 6) == 0 and touch_read(4) == 6  # at once
    assert madvise(3, 5) == 0
    assert touch_read(3) == F0 + 1 and touch_read(4) == F0 + 2
    rest(m)
    munmap(2, 6)
    assert frames(m) == 4
    rest(m)


def test_shared_file_is_written(m) -> None:
    file_init(0, 4)
    mmap_file(2, 4, RW, 1, shared=True)
    mmap_file(5, 6, R, 1)
    assert touch_write(2, 5) == 0
    assert touch_read(5) == 5 and pool_object(page, the(file).pages[1]).data == 5
    assert frame(2).mapcount == 2 and frame(2).refcount == 3
    assert touch_write(5, 1) == SEGV
    rest(m)
    munmap(2, 4)
    assert touch_read(5) == 5
    rest(m)


def test_read_then_write_of_a_shared_page_needs_no_second_fault(m) -> None:
    file_init(0, 2)
    mmap_file(2, 4, RW, 0, shared=True)
    assert touch_read(2) == F0 and pte(2) & 3 == RW
    mprotect(2, 4, R)
    assert touch_write(2, 1) == SEGV
    mprotect(2, 4, RW)
    assert touch_write(2, 1) == 0
    rest(m)


def test_behind_the_end_of_a_file(m) -> None:
    file_init(0, 2)
    mmap_file(2, 6, RW, 0)
    assert touch_read(4) == BUS and touch_write(5, 1) == BUS and touch_read(3) == F0 + 1
    assert frames(m) == 2  # the copy that had been made is given back
    rest(m)


# -- memory is short
@pytest.mark.parametrize("failures", [1, 2, 3])
@pytest.mark.parametrize("before", ["nothing", "read", "file"])
def test_a_fault_that_finds_no_memory_is_repeated(m, failures, before) -> None:
    """Whichever allocations fail: the write succeeds in the end, and nothing is lost."""
    if before == "file":
        file_init(0, 2)
        mmap_file(2, 4, RW, 0)
    else:
        mmap(2, 4)
    if before == "read":
        touch_read(2)
    the(faults_left).n = 1
    m.choices = [0] * (failures - 1) + [1]
    assert touch_write(2, 5) == 0 and touch_read(2) == 5
    the(faults_left).n = 0
    rest(m)


# -- hardware
def test_the_walker_fills_what_the_scenario_allows(m) -> None:
    mmap(2, 4)
    touch_write(2, 5)
    rom = the(scenario_rom)
    rom.nr_fills[1] = 2
    rom.fill[2] = 2
    rom.fill[3] = 3  # not present: nothing to fill
    m.settle()
    tlb = pool_object(cpu_tlb, 1)
    assert tlb.entry[2].pte == pte(2) and tlb.entry[3].pte == 0
    rest(m)


def test_waiting_for_an_ipi_with_interrupts_off(m) -> None:
    m.strict = False
    local_irq_disable()
    flush_tlb_mm_range(0, 2)
    local_irq_enable()
    assert ("ipi-wait-with-irqs-off") in [k for k, _ in m.violations]


def test_no_ipi_is_answered_with_interrupts_off(m) -> None:
    on(m, 1)
    local_irq_disable()
    on(m, 0)
    with pytest.raises(WouldBlock):
        flush_tlb_mm_range(0, 2)


def test_programs_run_from_the_scenario(m) -> None:
    rom = the(scenario_rom)
    fixed = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS
    ops = [
        (OP_MMAP, 2, 4, RW, fixed, 0),
        (OP_WRITE, 3, 0, 0, 0, 6),
        (OP_MADVISE, 2, 1, 0, 0, 0),
        (OP_READ, 3, 0, 0, 0, 0),
        (OP_MPROTECT, 2, 1, R, 0, 0),
        (OP_MUNMAP, 5, 1, 0, 0, 0),
    ]
    rom.nr_ops[0] = len(ops)
    for i, (kind, addr, n, prot, flags, value) in enumerate(ops):
        op = rom.op[i]
        op.kind, op.addr, op.len, op.prot, op.flags, op.value = kind, addr, n, prot, flags, value
    rom.nr_ops[1] = 1
    rom.op[int(NR_OPS)].kind = OP_READ
    rom.op[int(NR_OPS)].addr = 5
    cpu_main()
    on(m, 1)
    cpu_main()
    ret = the(results).ret
    assert [int(ret[i]) for i in range(len(ops))] == [2, 0, 0, 6, 0, 0]
    assert ret[int(NR_OPS)] == SEGV
    assert rest(m)[:7] == [2, 0, 0, 6, 0, 0, SEGV]


# -- each oracle speaks
def break_nothing() -> None:
    pass


def write_bit_in_a_read_only_vma() -> None:
    the(mm_struct).pmd[0].pte[3] = pte(3) | 2


def entry_outside() -> None:
    the(mm_struct).pmd[0].pte[0] = 1


def entry_to_freed_frame() -> None:
    kmem_cache_free(frame(2))


def zero_page_writable() -> None:
    the(mm_struct).pmd[1].pte[1] = 3


def two_entries_for_a_frame() -> None:
    the(mm_struct).pmd[1].pte[0] = pte(2)


def lost_entry() -> None:
    the(mm_struct).pmd[0].pte[2] = 0


def reference_too_many() -> None:
    frame(2).refcount = 2


def mapcount_wrong() -> None:
    frame(2).mapcount = 2


def index_wrong() -> None:
    frame(2).index = 3


def mapping_wrong() -> None:
    frame(2).mapping = NULL


def lost_table() -> None:
    kmem_cache_zalloc(pte_table)


def lost_vma() -> None:
    kmem_cache_zalloc(vm_area_struct)


def lost_chain() -> None:
    kmem_cache_zalloc(anon_vma_chain)


def lost_anon_vma() -> None:
    kmem_cache_zalloc(anon_vma)


def tree_of_anon_vma_wrong() -> None:
    find_vma(the(mm_struct), 2).anon_vma.rb_root = 2


def lost_file_reference() -> None:
    the(file).f_count = 0


def stale_translation() -> None:
    pool_object(cpu_tlb, 1).entry[3].pte = 3 << 2 | 1


def translation_grants_too_much() -> None:
    pool_object(cpu_tlb, 1).entry[3].pte = pte(3) | 2


CORRUPTIONS: list[tuple[Callable[[], None], set[str]]] = [
    (break_nothing, set()),
    (write_bit_in_a_read_only_vma, {"entry-exceeds-vma"}),
    (entry_outside, {"entry-outside-vma"}),
    (entry_to_freed_frame, {"entry-to-freed-frame"}),
    (zero_page_writable, {"entry-exceeds-vma"}),
    (two_entries_for_a_frame, {"wrong-reverse-map", "wrong-mapcount", "wrong-refcount"}),
    (lost_entry, {"leak"}),
    (reference_too_many, {"wrong-refcount"}),
    (mapcount_wrong, {"wrong-mapcount"}),
    (index_wrong, {"wrong-reverse-map"}),
    (mapping_wrong, {"wrong-reverse-map", "entry-exceeds-vma"}),
    (lost_table, {"leak"}),
    (lost_vma, {"leak"}),
    (lost_chain, {"leak"}),
    (lost_anon_vma, {"leak"}),
    (tree_of_anon_vma_wrong, {"wrong-reverse-map"}),
    (lost_file_reference, {"wrong-refcount"}),
    (stale_translation, {"stale-tlb"}),
    (translation_grants_too_much, {"stale-tlb"}),
]


@pytest.mark.parametrize(("corrupt", "kinds"), CORRUPTIONS, ids=lambda x: getattr(x, "__name__", ""))
def test_an_oracle_speaks(m, corrupt, kinds) -> None:
    file_init(0, 1)
    mmap(2, 3)
    mmap(3, 4, R)
    mmap(4, 6)
    mmap_file(7, 8, R, 0)
    touch_write(2, 5)
    touch_read(3)
    touch_read(5)
    touch_read(7)
    m.strict = False
    corrupt()
    m.cells[m.layout.address("cpu_tlb", 0, "entry[2].pte")] = 0  # CPU 0 has run something else since
    for f in OBSERVERS:
        f()
    assert {k for k, _ in m.violations} - {"use-after-free"} == kinds


def test_use_of_a_translation_after_its_frame_was_freed(m) -> None:
    mmap(2, 4)
    touch_write(2, 5)
    e = pte(2)
    munmap(2, 4)
    pool_object(cpu_tlb, 1).entry[2].pte = e
    on(m, 1)
    with pytest.raises(KernelBug, match="use-after-free"):
        touch_read(2)


def test_a_frame_is_not_freed_while_a_tlb_has_it(m) -> None:
    mmap(2, 4)
    touch_write(2, 5)
    m.agents = [(3, 0, ipi_agent), (4, 1, deaf_agent)]
    on(m, 1)
    touch_read(2)
    on(m, 0)
    m.strict = False
    munmap(2, 4)
    assert [k for k, _ in m.violations] == ["stale-tlb", "stale-tlb"]  # after the flush, and at the free


def deaf_agent() -> None:
    """Answers the interrupt, and does not flush."""
    pool_object(cpu_tlb, 1).ipi.sender = 0


def test_a_table_is_not_freed_while_its_lock_is_held(m) -> None:
    table = kmem_cache_zalloc(pte_table)
    spin_lock(table.ptl)
    m.strict = False
    pte_free(table)
    assert [k for k, _ in m.violations] == ["free-of-held-lock"]


def test_a_walk_into_a_freed_table(m) -> None:
    """The second half of the walker's walk, when the table went in between and no flush has come."""
    mmap(2, 4)
    touch_write(2, 5)
    rom = the(scenario_rom)
    rom.nr_fills[1] = 1
    rom.fill[2] = 2
    kmem_cache_free(the(mm_struct).pmd[0])
    with pytest.raises(KernelBug, match="use-after-free"):
        m.run_as(6, 1, walker_agent)


def test_faults_leave_nothing_behind(m) -> None:
    mmap(2, 4)
    touch_write(2, 5)
    vmf = pool_object(vm_fault, 0)
    assert not vmf.vma and not vmf.page and not vmf.pte and vmf.address == 0 and vmf.orig_pte == 0
