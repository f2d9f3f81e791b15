"""Random programs on the whole text, against the table of locks."""

from __future__ import annotations

from collections import Counter

import pytest

from seqfault.live.locks import check_full, class_of
from seqfault.mm.locks import LINUX_4_12
from seqfault.mm.locks_full import WHOLE_TEXT


@pytest.mark.parametrize("release,seed", [(412, 1), (601, 2), (618, 3)])
def test_the_whole_text_keeps_the_table(release: int, seed: int):
    r = check_full(release, 200, seed)
    assert not r.wrong and not r.inversions
    fields = {k.field for k in r.seen}
    assert {"vm_area_struct.rb_subtree_gap", "mm_struct.total_vm", "pte_table.pte"} <= fields
    assert ("mm_struct.mmap_sem", "file.i_mmap_rwsem") in r.nesting


def test_what_is_in_no_exception_is_seen():
    """The table of what `check` explores does not excuse what only fuzz and AddressSpace do."""
    rows = LINUX_4_12.extended(type(WHOLE_TEXT)(WHOLE_TEXT.rows, (), WHOLE_TEXT.order))
    r = check_full(618, 100, 3, rows)
    wrong = Counter((k.field, k.write, k.function) for k in r.wrong)
    assert ("pte_table.pte", False, "pte_at") in wrong or ("mm_struct.pmd", False, "pmd_none") in wrong
    assert all(k.words is not None for k in r.wrong)


def test_names_of_classes():
    assert class_of("mm_struct[0].mmap_sem/1") == "mm_struct.mmap_sem/1"
    assert class_of("pte_table[3].ptl/0") == "pte_table.ptl"
