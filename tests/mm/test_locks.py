"""The table of locks: complete, in the documents, kept by the text; and what breaks it is seen."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import seqfault.mm
from seqfault.explore.check import HOLDS, VIOLATED, Limits, run_one
from seqfault.explore.lockcheck import LockReport, check_locks, discipline_of
from seqfault.explore.model import automaton_for
from seqfault.explore.watch import Watch
from seqfault.kernel.rwsem import rw_semaphore
from seqfault.kernel.spinlock import spinlock_t
from seqfault.kernel.types import Struct
from seqfault.mm import types as mm_types
from seqfault.mm.locks import (
    LINUX_4_12,
    LOCKS,
    NOT_SHARED,
    ORDER,
    Judgement,
    kept,
    parse,
)
from seqfault.mm.locks_full import WHOLE_TEXT
from seqfault.protocols import builtin_names, load
from seqfault.scenarios import builtin, find
from seqfault.scenarios.model import from_toml

ROOT = Path(seqfault.__file__).parent


@pytest.fixture(scope="module")
def mmap_sem() -> LockReport:
    """Everything that `seqfault check mmap-sem` explores."""
    return check_locks("mmap-sem", builtin())


# -- the data
def shared_fields() -> set[str]:
    """Every field of mm/types.py that CPUs share and that is no lock."""
    out = set()
    for s in vars(mm_types).values():
        if isinstance(s, Struct) and s.pool is not None and s.namespace["__name__"] == mm_types.__name__:
            if s.private or s.rom or s.name in NOT_SHARED:
                continue
            out |= {f"{s.name}.{k}" for k, t in s.fields().items() if t not in (rw_semaphore, spinlock_t)}
    return out


def test_every_shared_field_has_a_row():
    assert {r.field for r in WHOLE_TEXT.rows} == shared_fields()
    assert len(WHOLE_TEXT.rows) == len(shared_fields())


def test_every_field_says_what_protects_it():
    """In mm/types.py, behind the field: its rule for writers."""
    said: dict[str, str] = {}
    struct = ""
    for line in Path(mm_types.__file__).read_text().splitlines():
        if m := re.match(r"class (\w+):", line):
            struct = m[1]
        elif m := re.match(r"    (\w+): [^#]*(?:# (.*))?$", line):
            said[f"{struct}.{m[1]}"] = m[2] or ""
    assert {r.field: said[r.field] for r in WHOLE_TEXT.rows} == {r.field: r.write for r in WHOLE_TEXT.rows}


def test_rules_are_made_of_known_words():
    for r in WHOLE_TEXT.rows:
        parse(r.read), parse(r.write)
        assert r.source or r.field == "mm_struct.pmd_group", r.field
    for d in (WHOLE_TEXT, *(discipline_of(load(n)) for n in builtin_names())):
        for e in d.exceptions:
            parse(e.needs)
            assert e.why and e.source and {*e.fields} <= {r.field for r in d.rows}, e.name
        assert len({e.name for e in d.exceptions}) == len(d.exceptions)
    with pytest.raises(ValueError, match="'mmap_lock' is no lock"):
        parse("mmap_sem:w | mmap_lock")


def test_exceptions_name_functions_of_the_text():
    text = "".join(p.read_text() for part in ("mm", "protocols") for p in (ROOT / part).glob("*.py"))
    for d in (WHOLE_TEXT, *(discipline_of(load(n)) for n in builtin_names())):
        for e in d.exceptions:
            for fn in e.functions:
                assert re.search(rf"^def {fn}\(", text, re.M), f"{e.name}: {fn}"


def test_kept():
    assert kept("mmap_sem:w | mmap_sem:r + ptl", {"mmap_sem:r", "ptl"}) == "mmap_sem:r + ptl"
    assert kept("mmap_sem:w | mmap_sem:r + ptl", {"mmap_sem:r"}) is None
    assert kept("none", set()) == "none" and kept("never", {x.name for x in LOCKS}) is None


def test_judge():
    j = LINUX_4_12.judge
    held = {"mmap_sem:r", "page_table_lock", "anon_vma.rwsem"}
    assert j("vm_area_struct.vm_start", True, held, ["expand_downwards"]).rule
    assert not j("vm_area_struct.vm_end", True, held, ["expand_downwards"]).right
    peek = j("pte_table.pte", False, {"mmap_sem:r"}, ["handle_pte_fault", "fault_pte"])
    assert peek == Judgement(exception="entry-peeked")
    assert not j("pte_table.pte", False, {"mmap_sem:r"}, ["zap_pte_range"]).right
    assert not j("pte_table.pte", True, {"mmap_sem:r"}, ["handle_pte_fault"]).right
    with pytest.raises(KeyError):
        j("vm_area_struct.vm_ops", False, set(), [])


def test_order():
    assert ORDER.allows("mm_struct.mmap_sem", "pte_table.ptl")
    assert not ORDER.allows("pte_table.ptl", "mm_struct.mmap_sem")
    assert not ORDER.allows("mm_struct.page_table_lock", "pte_table.ptl")  # side by side
    assert not ORDER.allows("mm_struct.mmap_sem", "mm_struct.mmap_sem")
    assert not ORDER.allows("mm_struct.mmap_sem", "mm_struct.mm_seq.lock")


def test_the_order_is_in_the_package_docstring():
    tree = "\n".join(f"    {x}" for x in ORDER.tree())
    assert tree in (seqfault.mm.__doc__ or "")


# -- the text keeps to it
def test_mmap_sem_keeps_the_table(mmap_sem: LockReport):
    assert mmap_sem.verdict == HOLDS and not mmap_sem.wrong and not mmap_sem.inversions
    assert mmap_sem.scenarios == len(builtin()) and len(mmap_sem.nesting) == 6
    assert {n for n, k in mmap_sem.used().items() if not k} == set()  # no exception without need
    assert mmap_sem.untouched() == ["vm_area_struct.vm_mm", "page.mapping_file"]


def test_every_alternative_is_needed(mmap_sem: LockReport):
    """But for what the scenarios have no use for at all."""
    r = mmap_sem
    unneeded = {
        f"{access} {row.field}: {' + '.join(part)}"
        for row in r.discipline.rows
        for access, rule in (("read", row.read), ("write", row.write))
        for part in parse(rule)
        if not r.count(row.field, access == "write", rule=" + ".join(part))
    }
    assert {x for x in unneeded if not x.endswith(": never")} == {
        "read vm_area_struct.vm_mm: none",
        "write vm_area_struct.vm_mm: unshared",
        "read anon_vma_chain.vma: mmap_sem:r",
        "read page.mapping_file: none",
        "read page.index: ptl",
    }


# -- what does not is seen
PROTOCOL = """
from seqfault.kernel import *
from seqfault.kernel.spinlock import spin_lock, spin_unlock
from seqfault.mm.pgtable import pte_offset_map_lock
from seqfault.mm.places import VM_FAULT_RETRY, anon_vma_notsup, do_page_fault_try, pte_map_lock, vma_adjust_begin
from seqfault.mm.types import current_mm, fault_t, mm_struct, vm_area_struct, vm_fault, vpn_t

PROTOCOL = Protocol("mine", "takes liberties")
"""
UNLOCKED = """
@PROTOCOL.at(do_page_fault_try)
def unlocked(mm: ptr[mm_struct], address: vpn_t, write: bool) -> fault_t:
    vma = mm.mmap
    if vma:
        vma.vm_end = vma.vm_end
    return VM_FAULT_RETRY
"""
READING_ONLY = """
@PROTOCOL.at(anon_vma_notsup)
def reading_only(vmf: ptr[vm_fault]) -> bool:
    vma = vmf.vma
    vma.vm_flags = vma.vm_flags
    return False
"""
OTHER_TABLE = """
@PROTOCOL.at(pte_map_lock)
def other_table(vmf: ptr[vm_fault]) -> bool:
    mm = current_mm()
    vmf.pte = pte_offset_map_lock(mm, vmf.pmd)
    vmf.ptl = vmf.pte
    other = mm.pmd[1 - vmf.pmd]
    if other:
        other.pte[0] = other.pte[0]
    return True
"""
NO_I_MMAP = """
@PROTOCOL.at(vma_adjust_begin)
def no_i_mmap(vma: ptr[vm_area_struct], next: ptr[vm_area_struct]):
    vma.vm_start = vma.vm_start
"""
SIDEWAYS = """
@PROTOCOL.at(anon_vma_notsup)
def sideways(vmf: ptr[vm_fault]) -> bool:
    mm = current_mm()
    spin_lock(mm.page_table_lock)
    table = pte_offset_map_lock(mm, vmf.pmd)
    spin_unlock(table.ptl)
    spin_unlock(mm.page_table_lock)
    return False
"""
FAULT = 'setup = ["mmap 0-8 rw", "write 1 1", "write 5 1"]\ncpus = [["write 2 2"]]'
SPLIT = 'setup = ["mmap 1-3 rw {what}"]\ncpus = [["munmap 1-2"]]'


def liberties(tmp_path: Path, text: str, scenario: str) -> LockReport:
    p = tmp_path / "mine.py"
    p.write_text(PROTOCOL + text)
    return check_locks(str(p), [from_toml(f'name = "my/own"\n{scenario}')], jobs=1)


def wrong(r: LockReport) -> set[tuple[str, bool, tuple[str, ...]]]:
    return {(o.field, o.write, o.words) for o in r.wrong}


def test_an_access_without_a_lock(tmp_path: Path):
    r = liberties(tmp_path, UNLOCKED, FAULT)
    assert r.verdict == VIOLATED
    assert wrong(r) == {
        ("mm_struct.mmap", False, ()),
        ("vm_area_struct.vm_end", False, ()),
        ("vm_area_struct.vm_end", True, ()),
    }
    o = next(o for o in r.wrong if o.write)
    assert o.function == "unlocked" and o.scenario == "my/own" and o.count == 1
    assert o.schedule and {p for p, _ in o.schedule} == {0}


def test_a_write_with_the_lock_for_reading(tmp_path: Path):
    r = liberties(tmp_path, READING_ONLY, FAULT)
    assert wrong(r) == {("vm_area_struct.vm_flags", True, ("mmap_sem:r",))}


def test_the_lock_of_another_table(tmp_path: Path):
    r = liberties(tmp_path, OTHER_TABLE, FAULT)
    assert wrong(r) == {("pte_table.pte", False, ("mmap_sem:r",)), ("pte_table.pte", True, ("mmap_sem:r",))}


@pytest.mark.parametrize(
    "what,seen", [("shared file@0", {("vm_area_struct.vm_start", True, ("mmap_sem:w",))}), ("", set())]
)
def test_a_lock_that_only_some_objects_have(what: str, seen: set[object], tmp_path: Path):
    """A VMA of a file needs the file's lock too; one without a file has no such lock to take."""
    assert wrong(liberties(tmp_path, NO_I_MMAP, SPLIT.format(what=what))) == seen


def test_locks_in_the_wrong_order(tmp_path: Path):
    r = liberties(tmp_path, SIDEWAYS, FAULT)
    assert r.verdict == VIOLATED and not r.wrong
    assert [(n.held, n.taken) for n in r.inversions] == [("mm_struct.page_table_lock", "pte_table.ptl")]


def test_an_exception_that_nothing_needs_is_told(tmp_path: Path):
    r = check_locks("mmap-sem", find(["argued/case1-alone"]), jobs=1)
    assert r.verdict == HOLDS and r.used()["entry-peeked"] == 0


def test_watching_changes_nothing():
    """The same states, whether anybody looks or not."""
    s = find(["argued/case8-then-write"])[0]
    p = load("spf-v5")
    a = automaton_for(p, s)
    w = Watch(a)
    w.begin()
    _, plain, _ = run_one(p, s, Limits(own=False))
    _, watched, _ = run_one(p, s, Limits(), watcher=w)
    assert (plain.states, plain.transitions, plain.outcomes) == (watched.states, watched.transitions, watched.outcomes)
    assert not w.full and w.accesses()


# -- speculative page faults
def test_what_rfc_v5_does_without_mmap_sem():
    """A fault sets a VMA's anon_vma and the mm's page table; a stack grows and advice is taken with the count even."""
    r = check_locks(
        "spf-v5",
        find(["argued/anon-vma-late", "argued/file-private-read", "argued/stack-grows", "argued/madvise-madvise"]),
        jobs=1,
    )
    writes = {(o.field, o.function) for o in r.wrong if o.write}
    assert {
        ("vm_area_struct.anon_vma", "__anon_vma_prepare"),
        ("mm_struct.pmd", "__pte_alloc"),
        ("vm_area_struct.vm_start", "expand_downwards"),
        ("vm_area_struct.vm_sequence", "vm_sequence_begin"),
    } <= writes
    assert not r.inversions
