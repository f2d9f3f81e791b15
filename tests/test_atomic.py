"""`with atomic():` in the mm text and in protocols: a short list, each for what hardware or one instruction does, or for the
checker's own eyes."""

from __future__ import annotations

import ast
from pathlib import Path

import seqfault

ROOT = Path(seqfault.__file__).parent
ALLOWED = {
    "mm/cpu.py:touch": 2,  # a load or store of user code, between two interrupts
    "mm/slab.py:mm_alloc_fails": 1,  # the scenario's own counter
    "mm/tlb.py:local_flush_tlb": 1,  # INVLPG
    "mm/tlb.py:send_flush_ipi": 1,  # sending an interrupt
    "mm/tlb.py:flushed": 1,  # waiting for its answer
    "mm/tlb.py:ipi_agent": 1,  # the handler, between two instructions
    "mm/tlb.py:walker_agent": 2,  # hardware
    "mm/tlb.py:flush_check": 1,  # the checker looks
    "protocols/vm_refcnt.py:flush_check": 1,  # the same
    "protocols/maple.py:vma_iter_store": 1,  # one store of a pointer to a node
    "protocols/maple.py:vma_iter_clear": 1,  # the same
    "mm/frames.py:free_page_check": 1,  # the checker looks
    "mm/vma.py:validate_mm": 1,  # the checker looks
}


def test_atomic_blocks():
    found: dict[str, int] = {}
    for path in sorted([*(ROOT / "mm").glob("*.py"), *(ROOT / "protocols").glob("*.py")]):
        for fn in ast.walk(ast.parse(path.read_text())):
            if isinstance(fn, ast.FunctionDef):
                n = sum(
                    isinstance(w, ast.With) and "atomic" in ast.unparse(w.items[0].context_expr) for w in ast.walk(fn)
                )
                if n:
                    found[f"{path.relative_to(ROOT)}:{fn.name}"] = n
    assert found == ALLOWED
