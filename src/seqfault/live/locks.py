"""The table of locks, held against the whole text: random programs, run one operation after the other.

`check` explores what its scenarios need.  The rest of the text (fork, mremap, mlock, truncation, limits, ...) runs
only sequentially; there too every access is compared with the locks that are held at that moment.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from seqfault.kernel.layout import Layout
from seqfault.kernel.machine import Machine
from seqfault.kernel.types import ArrayType, PtrType, Struct
from seqfault.live.generate import Geometry, Plan, programs
from seqfault.live.model import program_for
from seqfault.mm.frames import free_page_check
from seqfault.mm.locks import LOCKS, Discipline, Judgement, Lock, field_of
from seqfault.mm.locks_full import WHOLE_TEXT
from seqfault.mm.tlb import flush_check
from seqfault.mm.uapi import uapi_init, uapi_op
from seqfault.mm.vma import validate_mm

LOOKS = frozenset(p.__name__ for p in (validate_mm, free_page_check, flush_check))
RMW = frozenset({"_cmpxchg", "_xchg", "_fetch_add"})  # in kernel/words.py
SHARES = {"anon_vma": "root", "file": "f_mapping"}
PFN_SHIFT = 6  # pte_pfn with FULL
SMALL = Geometry(nr_pages=64, spans=((24, 44), (50, 56)), heap_page=48)


@lru_cache(maxsize=4096)
def text_of(file: str) -> tuple[str, str]:
    """Of a source file: ``mm`` for the mm text, ``kernel`` for the language, and its name inside the package."""
    head, found, inside = file.replace("\\", "/").rpartition("/seqfault/")
    return (inside.split("/")[0], inside) if found else ("", head)


@dataclass(frozen=True)
class Kind:
    """Accesses that were alike: see `Observed` of explore/lockcheck.py."""

    field: str
    write: bool
    words: tuple[str, ...]
    function: str
    file: str
    line: int
    judgement: Judgement


class Held(list[str]):
    """What lock_acquire keeps: the locks that are held, and under which classes each was taken."""

    def __init__(self, nesting: Counter[tuple[str, str]]):
        super().__init__()
        self.nesting = nesting

    def append(self, lock: str) -> None:
        self.nesting.update((class_of(x), class_of(lock)) for x in self)
        super().append(lock)


def class_of(lock: str) -> str:
    """``mm_struct[0].mmap_sem/1`` -> ``mm_struct.mmap_sem/1``; subclass 0 goes without saying."""
    return re.sub(r"\[\d+\]", "", lock).removesuffix("/0")


class WatchedMachine(Machine):
    """Plain Python that looks, at each access to a field of the table, which locks the process holds.

    `seen`: how often what; `nesting`: (held, taken) classes of locks -> how often.
    """

    def __init__(self, layout: Layout, discipline: Discipline, **options: Any):
        super().__init__(layout, **options)
        self.discipline = discipline
        self.fields = {r.field for r in discipline.rows}
        self.seen: Counter[Kind] = Counter()
        self.nesting: Counter[tuple[str, str]] = Counter()
        self.held = Held(self.nesting)
        self.at: dict[int, tuple[str, int, str]] = {}
        self.offsets: dict[tuple[str, str], tuple[int, int]] = {}
        self.reaching: dict[str, list[tuple[int, str]]] = {}
        self.watching = True

    # -- memory
    def load_typed(self, addr: int, t: Any, owner: Any = None) -> Any:
        if self.watching and not isinstance(t, Struct | ArrayType):
            self.note(addr, False)
        return super().load_typed(addr, t, owner)

    def store(self, addr: int, value: Any, t: Any) -> None:
        if self.watching:
            self.note(addr, True)
        super().store(addr, value, t)

    def note(self, addr: int, write: bool) -> None:
        pool, index, name = self.where(addr)
        if name not in self.fields:
            return
        functions, file, line, rmw = self.functions()
        if not LOOKS.isdisjoint(functions):
            return
        words = {x.name for x in LOCKS if self.holds(x, pool, index)}
        if rmw:
            words.add("atomic")
        j = self.discipline.judge(name, write, words, functions)
        if not j.right and not self.pointed_to(pool, index):
            words.add("unshared")
            j = self.discipline.judge(name, write, words, functions)
        self.seen[Kind(name, write, tuple(sorted(words)), functions[0] if functions else "", file, line, j)] += 1

    def where(self, addr: int) -> tuple[str, int, str]:
        """Struct, object and field of a cell."""
        if addr not in self.at:
            c = self.layout.cells[addr]
            self.at[addr] = c.pool, c.index, "" if c.is_state else field_of(c.pool, c.path)
        return self.at[addr]

    @staticmethod
    def functions() -> tuple[list[str], str, int, bool]:
        """The functions of the text that are being run, the innermost first; its file and line; whether an atomic word
        makes the access."""
        names: list[str] = []
        at = "", 0
        rmw = False
        f: Any = sys._getframe(3)
        while f is not None:
            kind, file = text_of(f.f_code.co_filename)
            if kind == "mm":
                at = at if names else (file, f.f_lineno)
                names.append(f.f_code.co_name)
            elif kind == "kernel" and not names:
                rmw = rmw or f.f_code.co_name in RMW
            f = f.f_back
        return names, *at, rmw

    # -- locks
    def cell(self, struct: str, index: int, path: str) -> int | None:
        """The value of a cell; None if there is none, or it is undefined."""
        key = struct, path
        if key not in self.offsets:
            p = self.layout.pools.get(struct)
            try:
                self.offsets[key] = (-1, 0) if p is None else (self.layout.address(struct, 0, path), p.stride)
            except (KeyError, StopIteration):
                self.offsets[key] = -1, 0
        base, stride = self.offsets[key]
        return None if base < 0 else self.cells[base + index * stride]

    def holds(self, lock: Lock, pool: str, index: int) -> bool:
        if self.cell(lock.struct, 0, lock.cell) is None:
            return False
        if lock.struct == pool:
            return self.holds_of(lock, index)
        if pool in lock.via and (lock.struct != "mm_struct" or self.layout.sizes.get("NR_MMS", 1) > 1):
            at = self.cell(pool, index, lock.via[pool])
            if at:
                return self.holds_of(lock, at - 1)
            if lock.struct != "mm_struct":
                return True  # no such object, no such lock to take
        return any(self.holds_of(lock, i) for i in range(self.layout.pools[lock.struct].n))

    def holds_of(self, lock: Lock, i: int) -> bool:
        # the lock of a family of anon_vmas is its root's, that of a file its mapping's
        other = self.cell(lock.struct, i, SHARES[lock.struct]) if lock.struct in SHARES else None
        i = other - 1 if other else i
        v = self.cell(lock.struct, i, lock.cell) or 0
        me = self.process
        if lock.mode == "read":
            return bool(v >> me & 1) or self.cell(lock.struct, i, lock.second) == me + 1
        if lock.mode == "bit":
            return bool(v >> me & 1)
        return bool(v) if lock.mode == "flag" else v == me + 1

    def pointed_to(self, pool: str, index: int) -> bool:
        """Whether anything else in memory points to an object."""
        p = self.layout.pools[pool]
        if p.state < 0:
            return True
        mine = range(p.base + index * p.stride, p.base + (index + 1) * p.stride)
        for addr, kind in self.pointers(pool):
            v = self.cells[addr]
            if v is None or addr in mine:
                continue
            if kind == "pte":
                v = (v >> PFN_SHIFT) + 1 if v else 0
            elif kind == "frame":
                v = v + 1 if v else 0
            if v == index + 1 and self.alive(addr):
                return True
        return False

    def alive(self, addr: int) -> bool:
        """Whether anybody follows the pointer in a cell: not in a freed object, nor to the anon_vma of a page that
        nothing maps (page_get_anon_vma asks; such a page waits in a batch)."""
        pool, index, name = self.where(addr)
        p = self.layout.pools[pool]
        if name == "page.mapping" and self.cell("page", index, "mapcount") == 0:
            return False
        return p.state < 0 or self.cells[p.base + index * p.stride] == 1

    def pointers(self, pool: str) -> list[tuple[int, str]]:
        """Cells that may lead to an object of a pool, and how they name it."""
        if pool not in self.reaching:
            out = []
            among = {f.split(".")[0] for f in self.fields}
            for c in self.layout.cells:
                if c.pool not in among or c.is_state:
                    continue
                if isinstance(c.type, PtrType) and c.type.target.name == pool:
                    out.append((c.addr, "pointer"))
                elif pool == "page" and c.pool == "pte_table" and c.path.startswith("pte["):
                    out.append((c.addr, "pte"))
                elif pool == "page" and c.pool == "file" and c.path.startswith("pages["):
                    out.append((c.addr, "frame"))
            self.reaching[pool] = out
        return self.reaching[pool]


@dataclass
class FullReport:
    """What random programs did: see `WatchedMachine`.  `operations`: how many were run."""

    release: int
    discipline: Discipline
    operations: int = 0
    seen: Counter[Kind] = field(default_factory=Counter)
    nesting: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def wrong(self) -> list[Kind]:
        return [k for k, _ in self.seen.most_common() if not k.judgement.right]

    @property
    def inversions(self) -> list[tuple[str, str]]:
        return sorted(e for e in self.nesting if not self.discipline.order.allows(*e))


def check_full(release: int, operations: int, seed: int = 0, discipline: Discipline = WHOLE_TEXT) -> FullReport:
    """Run random programs of about `operations` operations in all against the table.  `release`: 412, 601, 618, ..."""
    g = SMALL
    program = program_for(
        release, g, NR_VMAS=48, NR_FRAMES=96, NR_ANON_VMAS=48, NR_AVCS=128, NR_FILES=12, FILE_PAGES=16, NR_PTE_TABLES=8,
        PTRS_PER_PTE=16,
    )  # fmt: skip
    m = WatchedMachine(program.layout, discipline, binds=program.binds)
    m.watching = False
    report = FullReport(release, discipline, seen=m.seen, nesting=m.nesting)
    with m:
        uapi_init()
    m.watching = True
    per = min(100, operations)
    rows = programs(Plan(seed, per, g), 0, max(1, operations // per), seal=release >= 610)
    request = program.layout.pools["uapi_request"].base
    for row in rows:
        m.cells[request : request + len(row)] = [int(v) for v in row]
        with m:
            uapi_op()
        report.operations += 1
    return report
