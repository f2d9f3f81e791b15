"""spf-v11: VMAs looked up under a rwlock, freed with their last reference."""

from __future__ import annotations

import pytest

from seqfault.explore.check import HOLDS, Limits, check_scenario
from seqfault.kernel import WouldBlock, the
from seqfault.kernel.layout import Layout
from seqfault.kernel.machine import Machine
from seqfault.kernel.rwlock import read_lock, read_unlock, rwlock_t, write_lock, write_unlock
from seqfault.kernel.task import preempt_disable
from seqfault.kernel.types import struct
from seqfault.protocols import load
from seqfault.scenarios import find

LIMITS = Limits(states=1_000_000)


def kinds(protocol: str, scenario: str) -> set[str]:
    return {v.kind for v in check_scenario(load(protocol), find([scenario])[0], LIMITS).violations}


# -- the kernel's words
@struct(pool=1)
class v11_test_lock:
    lock: rwlock_t


def test_a_reader_writer_spinlock() -> None:
    m = Machine(Layout(sizes={"NR_CPUS": 2, "NR_TASKS": 2}), strict=False)
    with m:
        lock = the(v11_test_lock).lock
        read_lock(lock)
        m.process = 1
        read_lock(lock)
        read_unlock(lock)
        with pytest.raises(WouldBlock):
            write_lock(lock)
        m.process = 0
        read_unlock(lock)
        write_lock(lock)
        m.process = 1
        with pytest.raises(WouldBlock):
            read_lock(lock)
        m.process = 0
        write_unlock(lock)
        assert not m.violations
        for unlock in (read_unlock, write_unlock):
            preempt_disable()
            unlock(lock)
        assert [k for k, _ in m.violations] == ["release-not-held"] * 2


# -- every interleaving: docs/findings.md, 12
@pytest.mark.parametrize("scenario,kind", [
    ("argued/index-torn", "wrong-reverse-map"),
    ("argued/madvise-madvise", "sequence-left-odd"),
    ("argued/clone-fails", "sequence-left-odd"),
])
def test_what_v11_has_in_common_with_v12(scenario: str, kind: str) -> None:
    assert kind in kinds("spf-v11", scenario)


@pytest.mark.parametrize("taken_out,scenario,kind", [
    ("find_get_vma/read_lock", "argued/munmap-lookup", "use-after-free"),
    ("vma_rb_erase/begin/write_lock", "argued/munmap-lookup", "use-after-free"),
])
def test_what_the_rwlock_is_for(taken_out: str, scenario: str, kind: str) -> None:
    assert check_scenario(load("spf-v11"), find([scenario])[0], LIMITS).verdict == HOLDS
    assert kind in kinds(f"spf-v11-without={taken_out}", scenario)
