"""What there is to draw of a state: VMAs, page tables, frames, TLBs, locks, sequence counts, stores on their way.

Everything is read out of the state's words; nothing here says what an operation does.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.explore.engine import Executor
from seqfault.explore.memory import SC
from seqfault.kernel.layout import FREED, LIVE, Layout
from seqfault.report.columns import short_cell, title
from seqfault.report.view import Reader, VmaView, view

LISTED, DETACHED, FREED_VMA = "listed", "detached", "freed"
PARTS = ("vmas", "tables", "frames", "tlbs", "locks", "counts", "pending")
LOCK = re.compile(r"(.*)\.(owner|writer|readers)$")
SRCU = "in an SRCU read section"
RIGHTS = {0: "--", 1: "r-", 2: "-w", 3: "rw"}


class Pictures:
    """Draws states of one automaton, one after another: what a freed object held last is remembered.

    `knows`: under `lkmm`, an executor that has met what its processes load (explore/replay.py, `knowing`).
    """

    def __init__(self, a: Automaton, layout: Layout, knows: Executor | None = None):
        self.a, self.layout, self.knows = a, layout, knows
        self.last: dict[int, VmaView] = {}
        self.cached: set[int] = set()
        self.names = [p.name for p in a.processes]
        self.per = layout.sizes.get("PTRS_PER_PTE", 4)
        self.pages = layout.sizes.get("NR_PAGES", 8)
        self.cells = [c for c in layout.cells if not c.is_state]
        self.locks = [(c.addr, m[1], m[2], c.pool, c.index) for c in self.cells if (m := LOCK.match(c.name))]
        self.sequences = [c for c in self.cells if c.path.endswith(".sequence") and c.pool != "vm_area_struct"]
        self.buffers = buffers_of(a)

    def page_cache(self, r: Reader) -> set[int]:
        """The frames that files hold."""
        pool = self.layout.pools["file"]
        paths = [c.path for c in self.cells if c.pool == "file" and c.index == 0 and c.path.startswith("pages[")]
        return {pfn for i in range(pool.n) for path in paths if (pfn := r.num("file", i, path))}

    def snapshot(self, words: NDArray[np.int64]) -> dict[str, list[Any]]:
        """The parts of a picture, each a list of rows that begin with a name by which rows are compared.

        vmas: name, state, start, end, rights, what, pgoff, anon_vma, vm_sequence, whether in the tree.
        tables: name, table (or ""), rows of page, frame, rights.  frames: name, state, refcount, mapcount, mapping,
        index, data.  tlbs: name, entries of page, frame, rights, notes.  locks: name, who holds it.  counts: name,
        value.  pending: whose buffer, stores; under lkmm: who may still load what, of what was overwritten.
        """
        cells = self.a.unpack(words.view(np.uint64))
        r = Reader(self.layout, cells)
        self.cached = self.page_cache(r)
        return {
            "vmas": self._vmas(r, cells),
            "tables": self._tables(r, cells),
            "frames": self._frames(r, cells),
            "tlbs": self._tlbs(r),
            "locks": self._locks(cells),
            "counts": [[short_cell(c.name), cells[c.addr]] for c in self.sequences],
            "pending": [[title(name), stores] for name, stores in self._pending(words) if stores],
        }

    def _state(self, cells: list[int | None], pool: str, index: int) -> int | None:
        p = self.layout.pools[pool]
        return cells[p.base + index * p.stride] if p.state == 0 else LIVE

    def _vmas(self, r: Reader, cells: list[int | None]) -> list[Any]:
        listed = [v.index for v in view(self.layout, cells).vmas]
        tree = self._tree(r)
        fields = ("vm_start", "vm_end", "vm_flags", "vm_pgoff", "vm_file", "anon_vma")
        rows = []
        for i in range(self.layout.pools["vm_area_struct"].n):
            state = self._state(cells, "vm_area_struct", i)
            where = ""
            if state == LIVE:
                start, end, flags, pgoff, file, anon = (r.num("vm_area_struct", i, f) for f in fields)
                sequence = r.get("vm_area_struct", i, "vm_sequence.sequence")
                v = self.last[i] = VmaView(i, start, end, flags, pgoff, file, anon, sequence)
                how = LISTED if i in listed else DETACHED
                where = "in tree" if i in tree else "not in tree"
                if i not in tree and r.num("vm_area_struct", i, "vm_rb.rb_parent") == i + 1:
                    where = "node cleared"
            elif state == FREED and i in self.last:
                v, how = self.last[i], FREED_VMA
            else:
                continue
            anon_vma = v.anon_vma - 1 if v.anon_vma else None
            rows.append([f"vma[{i}]", how, v.start, v.end, v.rights, v.what, v.pgoff, anon_vma, v.sequence, where])
        order = {i: n for n, i in enumerate(listed)}
        return sorted(rows, key=lambda x: (x[1] != LISTED, order.get(int(x[0][4:-1]), 99), x[2], x[0]))

    def _tree(self, r: Reader) -> set[int]:
        """The VMAs that can be reached from the root."""
        seen: set[int] = set()
        todo = [r.num("mm_struct", 0, "mm_rb")]
        while todo:
            v = todo.pop()
            if v and v - 1 not in seen:
                seen.add(v - 1)
                todo += [r.num("vm_area_struct", v - 1, f"vm_rb.{side}") for side in ("rb_left", "rb_right")]
        return seen

    def _entries(self, r: Reader, table: int, first: int) -> list[list[Any]]:
        out = []
        for k in range(self.per):
            e = r.num("pte_table", table, f"pte[{k}]")
            if e:
                out.append([first + k, e // 4, RIGHTS[e % 4]])
        return out

    def _tables(self, r: Reader, cells: list[int | None]) -> list[Any]:
        rows: list[Any] = []
        linked = set()
        for i in range((self.pages + self.per - 1) // self.per):
            t = r.num("mm_struct", 0, f"pmd[{i}]")
            linked.add(t - 1)
            state = self._state(cells, "pte_table", t - 1) if t else None
            dead = "freed" if t and state != LIVE else ""
            rows.append(
                [f"pmd[{i}]", f"table {t - 1}" if t else "", dead, self._entries(r, t - 1, i * self.per) if t else []]
            )
        for t in range(self.layout.pools["pte_table"].n):
            if t in linked:
                continue
            state = self._state(cells, "pte_table", t)
            if state == LIVE:
                rows.append([f"table {t}", f"table {t}", "not linked", self._entries(r, t, 0)])
            elif state == FREED:
                rows.append([f"table {t}", f"table {t}", "freed", []])
        return rows

    def _frames(self, r: Reader, cells: list[int | None]) -> list[Any]:
        rows: list[Any] = []
        for i in range(1, self.layout.pools["page"].n):
            state = self._state(cells, "page", i)
            if state == LIVE and i in self.cached and not r.num("page", i, "mapcount"):
                continue  # in a file's page cache, and nobody maps it
            if state == FREED:
                rows.append([f"frame {i}", "freed", None, None, "", None, None])
            elif state == LIVE:
                m = r.num("page", i, "mapping")
                f = ["refcount", "mapcount", "index", "data"]
                ref, mapc, index, data = (r.get("page", i, x) for x in f)
                mapping = f"anon_vma[{m - 1}]" if m else "of a file" if i in self.cached else ""
                rows.append([f"frame {i}", "", ref, mapc, mapping, index, data])
        return rows

    def _tlbs(self, r: Reader) -> list[Any]:
        rows = []
        for c in range(self.layout.pools["cpu_tlb"].n):
            entries = []
            for p in range(self.pages):
                e = r.num("cpu_tlb", c, f"entry[{p}].pte")
                if e:
                    entries.append([p, e // 4, RIGHTS[e % 4]])
            notes = []
            if r.num("cpu_irq", c, "disabled"):
                notes.append("interrupts off")
            sender = r.num("cpu_tlb", c, "ipi.sender")
            if sender:
                ask = r.num("cpu_tlb", c, "ipi.start"), r.num("cpu_tlb", c, "ipi.end")
                notes.append(f"asked to flush {ask[0]}-{ask[1]} by {self._who(sender - 1)}")
            if r.num("cpu_tlb", c, "walking"):
                notes.append("walks the page tables")
            rows.append([f"CPU {c}", entries, notes])
        return rows

    def _who(self, process: int) -> str:
        return title(self.names[process]) if 0 <= process < len(self.names) else f"process {process}"

    def _locks(self, cells: list[int | None]) -> list[Any]:
        rows = []
        for addr, name, how, pool, index in self.locks:
            v = cells[addr]
            if not v or (pool in self.layout.pools and self._state(cells, pool, index) != LIVE):
                continue
            if how == "readers":
                who = ", ".join(self._who(p) for p in range(len(self.names)) if v >> p & 1)
                rows.append([SRCU if pool == "srcu_struct" else f"{short_cell(name)} (read)", who])
            else:
                rows.append([short_cell(name) + (" (write)" if how == "writer" else ""), self._who(v - 1)])
        for c in self.cells:
            if c.pool == "srcu_struct" and c.path.endswith(".arg") and cells[c.addr]:
                waiting = f"vma[{(cells[c.addr] or 1) - 1}]"
                rows.append([f"call_srcu, {c.path.removesuffix('.arg')}", f"{waiting} waits to be freed"])
        return rows

    def _pending(self, words: NDArray[np.int64]) -> list[tuple[str, list[str]]]:
        if self.knows is not None:
            return self._unseen(self.knows, words)
        if self.buffers is None:
            return []
        from seqfault.explore.memory_buffers import address, count, value

        P, owners = self.buffers
        out = []
        for name, m in owners:
            stores = []
            for i in range(int(count(words, m))):
                c = self.a.cells[int(address(words, P, m, i))]
                raw = int(value(words, P, m, i))
                shown = raw + int(self.a.tab[c.addr, 3])
                stores.append(f"{short_cell(c.name)} = {shown_value(c.type, shown)}")
            out.append((name, stores))
        return out

    def _unseen(self, ex: Executor, words: NDArray[np.int64]) -> list[tuple[str, list[str]]]:
        from seqfault.explore.unseen import unseen

        out: dict[str, dict[str, list[str]]] = {}
        for x in unseen(ex, words):
            c = self.a.cells[x.cell]
            _, _, _, lo, span, _ = (int(n) for n in self.a.tab[c.addr])
            shown = "undefined" if 0 <= span < x.raw else shown_value(c.type, x.raw + lo)
            out.setdefault(self.names[x.process], {}).setdefault(short_cell(c.name), []).append(shown)
        return [(who, [f"{c} may still be {' or '.join(v)}" for c, v in of.items()]) for who, of in out.items()]


def shown_value(t: str, v: int) -> str:
    from seqfault.report.counterexample import value_text

    return short_cell(value_text(t, v))


def buffers_of(a: Automaton) -> tuple[Any, list[tuple[str, int]]] | None:
    """The table of an automaton with store buffers, and where each buffer is; None for a memory model without."""
    if a.memory == SC or not a.memory.startswith(("tso", "pso")):
        return None
    from seqfault.explore.memory_buffers import buffer_of
    from seqfault.explore.tables import program_array

    P = program_array(a, "merged", True)
    at: dict[int, str] = {}
    for p, info in enumerate(a.processes):
        m = int(buffer_of(P, p))
        if m >= 0 and m not in at and not info.name.startswith("buffer of "):
            at[m] = info.name
    return P, [(name, m) for m, name in at.items()]
