"""An address space as it stands in a list of memory cells: maps, page tables, TLBs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from seqfault.kernel.layout import LIVE, Layout
from seqfault.mm.types import VM_EXEC, VM_GROWSDOWN, VM_READ, VM_SHARED, VM_WRITE


@dataclass(frozen=True)
class VmaView:
    index: int
    start: int
    end: int
    flags: int
    pgoff: int
    file: int
    anon_vma: int
    sequence: int | None

    def line(self) -> str:
        """As in /proc/PID/maps, with page numbers for addresses."""
        av = f" anon_vma {self.anon_vma - 1}" if self.anon_vma else ""
        seq = f" vm_sequence {self.sequence}" if self.sequence is not None else ""
        return f"{self.start:x}-{self.end:x} {self.rights} pgoff {self.pgoff} {self.what:<6} vma {self.index}{av}{seq}"

    @property
    def rights(self) -> str:
        """``rw-p``"""
        perm = "".join(c if self.flags & b else "-" for c, b in (("r", VM_READ), ("w", VM_WRITE), ("x", VM_EXEC)))
        return perm + ("s" if self.flags & VM_SHARED else "p")

    @property
    def what(self) -> str:
        return f"file{self.file}" if self.file else "[stack]" if self.flags & VM_GROWSDOWN else "anon"


@dataclass(frozen=True)
class PteView:
    page: int
    pfn: int
    rights: int
    data: int | None
    refcount: int | None
    mapcount: int | None

    def line(self) -> str:
        r = ("r" if self.rights & 1 else "-") + ("w" if self.rights & 2 else "-")
        zero = " zero page" if self.pfn == 0 else f" refcount {self.refcount} mapcount {self.mapcount}"
        return f"page {self.page:x}: {r} frame {self.pfn}{zero} data {self.data}"


@dataclass
class AddressSpaceView:
    """What the cells say.  `tables`: which pmd entries have a table; `tlb`: (cpu, page) -> pte."""

    vmas: list[VmaView] = field(default_factory=list)
    ptes: list[PteView] = field(default_factory=list)
    tables: dict[int, int] = field(default_factory=dict)
    tlb: dict[tuple[int, int], int] = field(default_factory=dict)

    def lines(self) -> list[str]:
        out = [v.line() for v in self.vmas] or ["(no mappings)"]
        out += [f"    {p.line()}" for p in self.ptes]
        return out


class Reader:
    """Fields by name from cells."""

    def __init__(self, layout: Layout, cells: Sequence[int | None]):
        self.layout, self.cells = layout, cells
        self.at: dict[tuple[str, int, str], int] = {}
        for c in layout.cells:
            if not c.is_state:
                self.at[c.pool, c.index, c.path] = c.addr

    def get(self, pool: str, index: int, path: str) -> int | None:
        a = self.at.get((pool, index, path))
        return None if a is None else self.cells[a]

    def num(self, pool: str, index: int, path: str) -> int:
        return self.get(pool, index, path) or 0


def view(layout: Layout, cells: Sequence[int | None]) -> AddressSpaceView:
    """Read the address space out of memory; a broken list is cut where it repeats or leaves live objects."""
    r = Reader(layout, cells)
    out = AddressSpaceView()
    pool = layout.pools["vm_area_struct"]
    v = r.num("mm_struct", 0, "mmap")
    seen: set[int] = set()
    while v and v not in seen and cells[pool.base + (v - 1) * pool.stride] == LIVE:
        seen.add(v)
        i = v - 1

        def f(path: str, i: int = i) -> int:
            return r.num("vm_area_struct", i, path)

        out.vmas.append(
            VmaView(
                i,
                f("vm_start"),
                f("vm_end"),
                f("vm_flags"),
                f("vm_pgoff"),
                f("vm_file"),
                f("anon_vma"),
                r.get("vm_area_struct", i, "vm_sequence.sequence"),
            )
        )
        v = f("vm_next")
    per = layout.sizes.get("PTRS_PER_PTE", 4)
    pages = layout.sizes.get("NR_PAGES", 8)
    for i in range(pages // per):
        t = r.num("mm_struct", 0, f"pmd[{i}]")
        if not t:
            continue
        out.tables[i] = t - 1
        for k in range(per):
            pte = r.num("pte_table", t - 1, f"pte[{k}]")
            if pte:
                pfn = pte // 4
                out.ptes.append(
                    PteView(
                        i * per + k,
                        pfn,
                        pte % 4,
                        r.get("page", pfn, "data"),
                        r.get("page", pfn, "refcount"),
                        r.get("page", pfn, "mapcount"),
                    )
                )
    for c in range(layout.sizes.get("NR_CPUS", 2)):
        for p in range(pages):
            e = r.num("cpu_tlb", c, f"entry[{p}].pte")
            if e:
                out.tlb[c, p] = e
    return out
