"""Which cache line a field lies in.

The model's structs have other fields than Linux's, so where Linux keeps things together or apart that matters is
said here: `SHARED` names fields that lie in one line, as pahole shows them; the others follow in order, eight cells of
eight bytes to a line.  `STRIDE`: of an array whose elements the model has more of than Linux (cells to a line).
"""

from __future__ import annotations

from dataclasses import dataclass

from seqfault.kernel.layout import Layout, Pool
from seqfault.kernel.types import ArrayType

CELLS = 8
# struct -> groups of fields, each of which is one line
SHARED: dict[str, tuple[tuple[str, ...], ...]] = {
    "mm_struct": (
        ("mmap", "mm_rb", "mmap_base", "mm_rb_lock", "mm_seq"),
        ("map_count", "page_table_lock", "mmap_sem"),  # 4.12: the list head next to them is the mmlist
        ("total_vm", "data_vm", "exec_vm", "stack_vm", "locked_vm", "def_flags", "start_brk", "brk"),
    ),
    "vm_area_struct": (
        ("vm_start", "vm_end", "vm_next", "vm_prev", "vm_rb", "rb_subtree_gap"),
        (
            "vm_mm", "vm_page_prot", "vm_flags", "anon_vma_chain", "anon_vma", "vm_pgoff", "vm_file", "vm_lock_seq",
            "detached",
        ),
        ("vm_lock",),  # 6.4: struct vma_lock, allocated by itself
        ("vm_refcnt",),  # 6.15: ____cacheline_aligned_in_smp
        ("vm_sequence", "vm_ref_count"),  # at the end of the struct
    ),
    "page": ((
        "refcount", "mapcount", "mapping", "mapping_file", "index", "dirty", "lazyfree", "exclusive", "readahead",
        "lru", "not_uptodate", "mlocked", "unevictable", "mlock_count", "folio_start", "folio_pages",
    ),),
    "pte_table": (("ptl",),),
    "anon_vma": (("rwsem", "refcount", "rb_root", "root", "parent", "degree", "num_children", "num_active_vmas"),),
    "anon_vma_chain": (("vma", "anon_vma", "next_same_vma"),),
    "file": (
        ("f_count", "f_mode", "f_mapping"),
        ("i_mmap_rwsem", "i_mmap_vmas"),
        ("i_size", "i_tail", "shmem", "nrpages"),
        ("ra_start", "ra_size", "ra_async", "ra_order"),
    ),
}  # fmt: skip
STRIDE = {("mm_struct", "mm_mt"): 1024}


@dataclass(frozen=True)
class Spot:
    """Of a member: its first cell in the object, its first line, cells to a line (0: all in one)."""

    offset: int
    cells: int
    line: int
    per_line: int


class Lines:
    """Lines of all pools of a layout that CPUs share; `total` of them."""

    def __init__(self, layout: Layout):
        self.layout = layout
        self.first: dict[str, int] = {}
        self.each: dict[str, int] = {}
        self.spots: dict[str, list[Spot]] = {}
        at = 0
        for p in layout.pools.values():
            if p.struct.private or p.struct.rom:
                continue
            self.spots[p.struct.name], n = self.shape(p)
            self.first[p.struct.name], self.each[p.struct.name] = at, n
            at += n * p.n
        self.total = max(at, 1)

    def shape(self, p: Pool) -> tuple[list[Spot], int]:
        members = self.layout.members(p.struct)
        line = 0
        spots: dict[str, Spot] = {}
        for group in SHARED.get(p.struct.name, ()):
            here = [members[k] for k in group if k in members]
            for m in here:
                spots[m.name] = Spot(m.offset, m.cells, line, 0)
            line += bool(here)
        used = 0
        for m in members.values():
            if m.name in spots:
                continue
            if isinstance(m.type, ArrayType) and m.cells > CELLS:
                per = STRIDE.get((p.struct.name, m.name), CELLS)
                if used:
                    line, used = line + 1, 0
                spots[m.name] = Spot(m.offset, m.cells, line, per)
                line += (m.cells + per - 1) // per
                continue
            if used + m.cells > CELLS and used:
                line, used = line + 1, 0
            spots[m.name] = Spot(m.offset, m.cells, line, 0)
            used += m.cells
        return sorted(spots.values(), key=lambda s: s.offset), line + bool(used) or 1

    def spot(self, pool: str, offset: int) -> Spot:
        """The member that cell `offset` of an object lies in."""
        return next(s for s in self.spots[pool] if s.offset <= offset < s.offset + max(s.cells, 1))
