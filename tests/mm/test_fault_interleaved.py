"""Every interleaving of faults with what takes their pages away, in Linux 4.12: no oracle speaks, and a program sees
nothing that some sequential order does not give.  The known exceptions are tests of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from maps import RW, R, mmap, mmap_file

from seqfault.compile.program import AGENT, CPU, ENVIRONMENT, Process, Program, build
from seqfault.explore.engine import Exploration, explore
from seqfault.kernel import Machine, the
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
from seqfault.mm.oracles import OBSERVERS
from seqfault.mm.tlb import ipi_agent, walker_agent
from seqfault.mm.types import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_GROWSDOWN,
    MAP_PRIVATE,
    NR_FILLS,
    NR_OPS,
    faults_left,
    mm_struct,
    results,
    scenario_rom,
)

Op = tuple[int, ...]
PROGRAM = Program(
    "faults",
    [
        *(Process(cpu_main, c, CPU) for c in (0, 1)),
        *(Process(ipi_agent, c, AGENT) for c in (0, 1)),
        *(Process(walker_agent, c, ENVIRONMENT) for c in (0, 1)),
    ],
    list(OBSERVERS),
    structs=(mm_struct, scenario_rom, results),
)


def start(setup: Callable[[Machine], None], cpus: Sequence[Sequence[Op]], fills: Sequence[int], failures: int) -> list:
    m = Machine(PROGRAM.layout())
    m.agents = [(2 + c, c, ipi_agent) for c in (0, 1)]
    with m:
        mm_init()
        setup(m)
        rom = the(scenario_rom)
        for c, ops in enumerate(cpus):
            rom.nr_ops[c] = len(ops)
            for i, (kind, addr, *rest) in enumerate(ops):
                op = rom.op[c * NR_OPS + i]
                op.kind, op.addr = kind, addr
                op.len = rest[0] if kind not in (OP_READ, OP_WRITE) else 0
                op.prot = rest[1] if kind in (OP_MPROTECT, OP_MMAP) else 0
                op.value = rest[0] if kind == OP_WRITE else 0
                op.flags = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS
        for c, page in enumerate(fills):
            rom.nr_fills[c] = 1
            rom.fill[c * NR_FILLS] = page
        the(faults_left).n = failures
    return m.cells


def run(
    setup: Callable[[Machine], None], *cpus: Sequence[Op], fills: Sequence[int] = (), failures: int = 0
) -> tuple[set[str], Exploration, Exploration]:
    """Kinds of violations; the exploration; the sequential orders."""
    a = build(PROGRAM)
    cells = start(setup, cpus, fills, failures)
    first, rom = a.pack(cells, [p.role != CPU or p.cpu < len(cpus) for p in a.processes]), a.rom(cells)
    ex = explore(a, first, rom, timeout=60)
    seq = explore(a, first, rom, mode="seq", exclusive=True, timeout=60)
    assert ex.complete and seq.complete and seq.outcomes
    return {a.kinds[v.kind] for v in ex.violations}, ex, seq


def on_cpu1(m: Machine, f: Callable[[int], object], *pages: int) -> None:
    m.cpu = m.process = 1
    for i in pages:
        f(i)
    m.cpu = m.process = 0


def untouched(m: Machine) -> None:
    mmap(2, 6)


def zero_pages(m: Machine) -> None:
    mmap(2, 6)
    for i in range(2, 6):
        touch_read(i)
    on_cpu1(m, touch_read, 2, 5)


def written(m: Machine) -> None:
    """CPU 1 has pages 2 and 5 in its TLB; 3 and 4 it must walk for."""
    mmap(2, 6)
    for i in range(2, 6):
        touch_write(i, i)
    on_cpu1(m, touch_read, 2, 5)


def private_file(m: Machine) -> None:
    file_init(0, 4)
    mmap_file(2, 6, RW, 0)
    touch_write(2, 1)
    on_cpu1(m, touch_read, 2, 3)


def shared_file(m: Machine) -> None:
    file_init(0, 4)
    mmap_file(2, 6, RW, 0, shared=True)
    touch_write(2, 1)
    on_cpu1(m, lambda i: touch_write(i, 2), 2, 3)


@pytest.mark.parametrize("setup", [untouched, zero_pages, written, private_file, shared_file])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param([(OP_WRITE, 2, 7)], [(OP_WRITE, 2, 9), (OP_READ, 2)], id="fault"),
        pytest.param([(OP_MUNMAP, 2, 4)], [(OP_WRITE, 4, 9), (OP_READ, 2)], id="munmap"),
        pytest.param([(OP_MUNMAP, 3, 2)], [(OP_READ, 3), (OP_WRITE, 2, 9)], id="munmap-middle"),
        pytest.param([(OP_MADVISE, 2, 4)], [(OP_WRITE, 4, 9), (OP_READ, 3), (OP_READ, 2)], id="madvise"),
        pytest.param([(OP_MPROTECT, 2, 3, R)], [(OP_WRITE, 2, 9), (OP_WRITE, 4, 9)], id="mprotect"),
        pytest.param([(OP_MMAP, 2, 2, RW)], [(OP_WRITE, 2, 9), (OP_READ, 2)], id="mmap-over"),
    ],
)
def test_faults_against(setup, one, other) -> None:
    kinds, ex, seq = run(setup, one, other)
    assert not kinds
    assert set(ex.outcomes) <= set(seq.outcomes)


@pytest.mark.parametrize("op", [(OP_MUNMAP, 2, 4), (OP_MPROTECT, 2, 2, R), (OP_MADVISE, 2, 2)])
def test_walks_ahead_of_use(op) -> None:
    """What the walkers do makes no outcome of its own, whatever it meets."""
    other = [(OP_READ, 3), (OP_WRITE, 2, 9)]
    kinds, ex, seq = run(written, [op], other, fills=(2, 3))
    assert not kinds
    assert set(ex.outcomes) <= set(seq.outcomes)


@pytest.mark.parametrize("setup", [untouched, zero_pages, private_file])
def test_allocations_fail(setup) -> None:
    kinds, ex, seq = run(setup, [(OP_MPROTECT, 3, 1, R)], [(OP_WRITE, 4, 9)], failures=2)
    assert not kinds
    assert set(ex.outcomes) <= set(seq.outcomes)


# -- what 4.12 itself does
def stack(m: Machine) -> None:
    mmap(5, 8, RW, MAP_GROWSDOWN)
    touch_write(6, 1)


def test_known_a_stack_grows_under_a_fault() -> None:
    """expand_downwards moves vm_start and vm_pgoff with mmap_sem held for reading: a fault of another thread that reads
    one before and the other after gives its page the wrong index.  (Stacks grow under the write lock since 6.5.)"""
    kinds, ex, seq = run(stack, [(OP_WRITE, 4, 1)], [(OP_WRITE, 3, 2), (OP_READ, 4)])
    assert kinds == {"wrong-reverse-map"}
    assert set(ex.outcomes) <= set(seq.outcomes)


def test_known_unsound_two_madvise_at_once() -> None:
    """The second finds the entries gone, though the first has not flushed yet: after its own DONTNEED a thread reads the old
    page through its TLB.  Fixed in 4.13 (tlb_flush_pending as a count).  The sequential orders have this outcome too,
    since a madvise is not one step there, so only this test tells."""
    kinds, ex, seq = run(written, [(OP_MADVISE, 2, 1)], [(OP_MADVISE, 2, 1), (OP_READ, 2)])
    assert not kinds
    assert len(ex.outcomes) == 2  # 0, and what was there before
    assert set(ex.outcomes) <= set(seq.outcomes)
