"""Which lock protects which field, and in which order locks are taken: Linux 4.12's discipline, as data.

`TABLE` has a row for each field that CPUs share; `EXCEPTIONS` names what Linux does otherwise, and why that is right;
`ORDER` is the tree of locks.  explore/watch.py collects what the explored text does, `seqfault locks` holds
it against this, docs/locks.md is made of it.

A rule reads ``A | B + C``: A, or both B and C.  Its words are the names of `LOCKS`, and `WORDS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

WORDS = {
    "none": "no lock at all",
    "atomic": "an atomic read-modify-write",
    "unshared": "nobody else can reach the object: not linked in yet, or not any more",
    "never": "nobody does",
}


@dataclass(frozen=True)
class Lock:
    """A way to hold a lock, as rules name it.

    `struct`, `cell`: where it lives.  `mode`: spin; write, or read (which writing is too: `second` is the writer's
    cell) of a semaphore; bit of a mask of processes; flag of the process; odd, of a count.

    For a field of its own struct it is that object's lock.  `via`: struct of the field -> its pointer to the object
    that has the lock (NULL: there is no lock to hold).  Else it is any object's.
    """

    name: str
    struct: str
    cell: str
    mode: str
    what: str
    second: str = ""
    via: Mapping[str, str] = field(default_factory=dict)


LOCKS = (
    Lock(
        "mmap_sem:r",
        "mm_struct",
        "mmap_sem.readers",
        "read",
        "mm->mmap_sem, reading or writing",
        "mmap_sem.writer",
        via={"vm_area_struct": "vm_mm"},
    ),
    Lock(
        "mmap_sem:w",
        "mm_struct",
        "mmap_sem.writer",
        "write",
        "mm->mmap_sem, writing",
        via={"vm_area_struct": "vm_mm"},
    ),
    Lock(
        "i_mmap_rwsem",
        "file",
        "i_mmap_rwsem.writer",
        "write",
        "mapping->i_mmap_rwsem, writing; of a VMA: its file's, if it has one",
        via={"vm_area_struct": "vm_file"},
    ),
    Lock(
        "anon_vma.rwsem",
        "anon_vma",
        "rwsem.writer",
        "write",
        "anon_vma->rwsem, writing; of a VMA: its anon_vma's, if it has one",
        via={"vm_area_struct": "anon_vma", "anon_vma_chain": "anon_vma"},
    ),
    Lock(
        "page_table_lock",
        "mm_struct",
        "page_table_lock.owner",
        "spin",
        "mm->page_table_lock",
        via={"vm_area_struct": "vm_mm"},
    ),
    Lock("ptl", "pte_table", "ptl.owner", "spin", "the lock of the page table; of a page: of some page table"),
    Lock("mm_seq", "mm_struct", "mm_seq.lock.owner", "spin", "mm->mm_seq, writing (speculative page faults)"),
    Lock(
        "vm_sequence",
        "vm_area_struct",
        "vm_sequence.sequence",
        "odd",
        "the VMA's vm_sequence is odd: a writer is inside (speculative page faults)",
    ),
    Lock("srcu", "srcu_struct", "readers", "bit", "inside srcu_read_lock (speculative page faults)"),
    Lock("irqs-off", "task_struct", "irqs_disabled", "flag", "interrupts of this CPU are off"),
)


@dataclass(frozen=True)
class Row:
    """What must be held to read and to write `field`.  `source`: where Linux says or does so."""

    field: str
    read: str
    write: str
    source: str
    note: str = ""


LAYOUT_READ = "mmap_sem:r"
LAYOUT_WRITE = "mmap_sem:w + i_mmap_rwsem + anon_vma.rwsem"
CHAIN_WRITE = "mmap_sem:w | mmap_sem:r + page_table_lock"

TABLE = (
    Row(
        "vm_area_struct.vm_start",
        LAYOUT_READ,
        f"{LAYOUT_WRITE} | mmap_sem:r + page_table_lock + anon_vma.rwsem",
        "mm/mmap.c: __vma_adjust, expand_downwards",
        "A stack grows with mmap_sem for reading only. Walks of the reverse map read it under the lock of their tree.",
    ),
    Row("vm_area_struct.vm_end", LAYOUT_READ, LAYOUT_WRITE, "mm/mmap.c: __vma_adjust"),
    Row("vm_area_struct.vm_mm", "none", "unshared", "mm/mmap.c: mmap_region", "The same for as long as the VMA lives."),
    Row("vm_area_struct.vm_next", "mmap_sem:r", "mmap_sem:w", "mm/mmap.c: __vma_link_list"),
    Row("vm_area_struct.vm_prev", "mmap_sem:r", "mmap_sem:w", "mm/mmap.c: __vma_link_list"),
    Row("vm_area_struct.vm_rb", "mmap_sem:r", "mmap_sem:w", "mm/mmap.c: __vma_link_rb, vma_rb_erase"),
    Row("vm_area_struct.vm_flags", "mmap_sem:r", "mmap_sem:w", "mm/mprotect.c: mprotect_fixup"),
    Row("vm_area_struct.vm_page_prot", "mmap_sem:r", "mmap_sem:w", "mm/mmap.c: vma_set_page_prot"),
    Row(
        "vm_area_struct.vm_pgoff",
        LAYOUT_READ,
        f"{LAYOUT_WRITE} | mmap_sem:r + page_table_lock + anon_vma.rwsem",
        "mm/mmap.c: __vma_adjust, expand_downwards",
        "With vm_start: the reverse map needs both of one moment.",
    ),
    Row("vm_area_struct.vm_file", "mmap_sem:r", "mmap_sem:w", "mm/mmap.c: mmap_region"),
    Row(
        "vm_area_struct.anon_vma",
        "mmap_sem:r",
        CHAIN_WRITE,
        "include/linux/mm_types.h; mm/rmap.c: __anon_vma_prepare",
        "Set once by whichever fault comes first, so a neighbour's may be read while it is being set.",
    ),
    Row(
        "vm_area_struct.anon_vma_chain",
        "mmap_sem:r",
        CHAIN_WRITE,
        "include/linux/mm_types.h; mm/rmap.c: anon_vma_chain_link",
    ),
    Row("anon_vma.refcount", "none", "atomic", "mm/rmap.c: put_anon_vma"),
    Row("anon_vma.rb_root", "anon_vma.rwsem", "anon_vma.rwsem", "include/linux/rmap.h"),
    Row("anon_vma_chain.vma", "mmap_sem:r", "unshared", "mm/rmap.c: anon_vma_chain_link"),
    Row("anon_vma_chain.anon_vma", "mmap_sem:r", "unshared", "mm/rmap.c: anon_vma_chain_link"),
    Row("anon_vma_chain.next_same_vma", "mmap_sem:r", CHAIN_WRITE, "include/linux/rmap.h"),
    Row("file.f_count", "none", "atomic", "include/linux/fs.h: get_file"),
    Row("file.i_mmap_vmas", "i_mmap_rwsem", "i_mmap_rwsem", "include/linux/fs.h: i_mmap"),
    Row("file.i_size", "none", "never", "include/linux/fs.h: i_size_read", "No file changes its size in `check`."),
    Row(
        "file.pages",
        "none",
        "never",
        "mm/filemap.c: find_get_page",
        "Linux looks pages up under RCU, and changes the tree under its own lock; here no page comes or goes.",
    ),
    Row("page.refcount", "none", "atomic", "include/linux/page_ref.h"),
    Row("page.mapcount", "none", "atomic + ptl", "mm/rmap.c: page_add_file_rmap, page_remove_rmap"),
    Row("page.mapping", "ptl", "ptl", "mm/rmap.c: __page_set_anon_rmap, page_move_anon_rmap"),
    Row("page.mapping_file", "none", "never", "mm/filemap.c", "Set with the page cache, before a scenario begins."),
    Row("page.index", "ptl", "ptl", "mm/rmap.c: __page_set_anon_rmap"),
    Row(
        "page.data",
        "none",
        "unshared",
        "mm/memory.c: cow_user_page",
        "The kernel fills a page before anybody sees it; afterwards its content is the programs' own affair.",
    ),
    Row("pte_table.pte", "ptl", "ptl", "Documentation/vm/split_page_table_lock"),
    Row("mm_struct.mmap", "mmap_sem:r", "mmap_sem:w", "mm/mmap.c: __vma_link_list"),
    Row("mm_struct.mm_rb", "mmap_sem:r", "mmap_sem:w", "mm/mmap.c: __vma_link_rb"),
    Row("mm_struct.map_count", "mmap_sem:r", "mmap_sem:w", "mm/mmap.c: vma_link"),
    Row(
        "mm_struct.pmd",
        "mmap_sem:r",
        "mmap_sem:r + page_table_lock | mmap_sem:w",
        "mm/memory.c: __pte_alloc, free_pte_range",
        "A table appears under the lock, with mmap_sem for reading; it goes only with mmap_sem for writing.",
    ),
)

# Structs of mm/types.py that are no memory of the kernel.
NOT_SHARED = {
    "cpu_tlb": "hardware: a CPU's own, and its mailbox for interrupts",
    "faults_left": "how often an allocation may still fail: the checker's",
}


@dataclass(frozen=True)
class Exemption:
    """What is done without the lock of the table, on purpose.

    `fields`: which; `access`: read, write, or both ("read or write"); `functions`: by whom (any of the functions
    through which the access comes); `needs`: what is held instead.
    """

    name: str
    fields: tuple[str, ...]
    access: str
    functions: tuple[str, ...]
    needs: str
    why: str
    source: str


EXCEPTIONS = (
    Exemption(
        "new-vma",
        ("vm_area_struct.vm_start", "vm_area_struct.vm_end", "vm_area_struct.vm_pgoff"),
        "write",
        ("mmap_region", "__split_vma"),
        "mmap_sem:w + unshared",
        "Nobody can find the VMA: it is in neither list nor tree, nor in the reverse map.",
        "mm/mmap.c: mmap_region, __split_vma",
    ),
    Exemption(
        "new-anon_vma",
        ("anon_vma.refcount", "anon_vma.rb_root"),
        "write",
        ("anon_vma_alloc",),
        "unshared",
        "Just allocated: set with plain stores.",
        "mm/rmap.c: anon_vma_alloc",
    ),
    Exemption(
        "new-anon-page",
        ("page.mapcount",),
        "write",
        ("page_add_new_anon_rmap",),
        "ptl + unshared",
        "The first mapping of a page that nobody has seen: a plain store instead of an atomic step.",
        "mm/rmap.c: page_add_new_anon_rmap",
    ),
    Exemption(
        "entry-peeked",
        ("pte_table.pte",),
        "read",
        ("handle_pte_fault",),
        "mmap_sem:r",
        "Only sorts the fault; who acts on the entry takes the lock and looks whether it is still the same.",
        "mm/memory.c: handle_pte_fault",
    ),
    Exemption(
        "hardware-walk",
        ("mm_struct.pmd", "pte_table.pte"),
        "read",
        ("touch", "walker_agent"),
        "none",
        "A CPU's page walker knows no lock; the flush, which waits for every CPU, is what it is kept apart by.",
        "arch/x86/mm/tlb.c",
    ),
    Exemption(
        "user-store",
        ("page.data",),
        "write",
        ("touch",),
        "none",
        "A program writes to its memory.",
        "the program",
    ),
)


@dataclass(frozen=True)
class Order:
    """A class of locks, and those that may be taken while it is held.  `name`: as lockdep has it here."""

    name: str
    inner: tuple[Order, ...] = ()

    def __iter__(self) -> Iterator[Order]:
        yield self
        for x in self.inner:
            yield from x

    def tree(self, depth: int = 0) -> list[str]:
        """One line a class, indented by how deep it nests."""
        return ["  " * depth + self.name] + [line for x in self.inner for line in x.tree(depth + 1)]

    def allows(self, held: str, taken: str) -> bool:
        """Whether `taken` stands below `held`."""
        return any(x.name == held and any(y.name == taken for y in x if y is not x) for x in self)


# mm/filemap.c and mm/rmap.c have it in comments at their heads.
ORDER = Order(
    "mm_struct.mmap_sem",
    (
        Order(
            "file.i_mmap_rwsem",
            (Order("anon_vma.rwsem", (Order("mm_struct.page_table_lock"), Order("pte_table.ptl"))),),
        ),
    ),
)


@lru_cache(maxsize=256)
def parse(rule: str) -> tuple[tuple[str, ...], ...]:
    """The alternatives of a rule, each as the words that must all hold.  Raises `ValueError` for an unknown word."""
    out = tuple(tuple(w.strip() for w in part.split("+")) for part in rule.split("|"))
    known = {x.name for x in LOCKS} | set(WORDS)
    for w in (w for part in out for w in part):
        if w not in known:
            raise ValueError(f"{rule!r}: {w!r} is no lock and no word; there are {', '.join(sorted(known))}")
    return out


def kept(rule: str, words: Iterable[str]) -> str | None:
    """The first alternative of a rule that `words` fulfil, or None."""
    have = {*words, "none"}
    for part in parse(rule):
        if have.issuperset(part):
            return " + ".join(part)
    return None


@dataclass(frozen=True)
class Judgement:
    """Why an access is right: `rule`, an alternative of the table's rule, or `exception`; neither: it is not."""

    rule: str = ""
    exception: str = ""

    @property
    def right(self) -> bool:
        return bool(self.rule or self.exception)


@dataclass(frozen=True)
class Discipline:
    """A table with its exceptions and its order of locks."""

    rows: tuple[Row, ...] = TABLE
    exceptions: tuple[Exemption, ...] = EXCEPTIONS
    order: Order = ORDER

    def row(self, name: str) -> Row:
        """The row of a field.  Raises `KeyError`."""
        for r in self.rows:
            if r.field == name:
                return r
        raise KeyError(name)

    def extended(self, more: Discipline | None) -> Discipline:
        """With what a protocol adds: its rows in place of those of the same fields, its exceptions, its order."""
        if more is None:
            return self
        own = {r.field: r for r in more.rows}
        rows = tuple(own.pop(r.field, r) for r in self.rows)
        return Discipline((*rows, *own.values()), (*self.exceptions, *more.exceptions), more.order)

    def judge(self, name: str, write: bool, words: Iterable[str], functions: Iterable[str]) -> Judgement:
        """`words`: what held at the access, `functions`: those through which it came."""
        words, functions = set(words), set(functions)
        row = self.row(name)
        by = kept(row.write if write else row.read, words)
        if by is not None:
            return Judgement(rule=by)
        for e in self.exceptions:
            if (
                name in e.fields
                and ("write" if write else "read") in e.access
                and functions & set(e.functions)
                and kept(e.needs, words) is not None
            ):
                return Judgement(exception=e.name)
        return Judgement()


LINUX_4_12 = Discipline()


def field_of(struct: str, path: str) -> str:
    """The row that an access belongs to: ``vm_area_struct``, ``vm_rb.rb_left`` -> ``vm_area_struct.vm_rb``."""
    return f"{struct}.{path.split('.')[0].split('[')[0]}"
