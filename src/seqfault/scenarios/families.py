"""The families: small layouts, one or two operations, and faults beside them, in all the ways that differ.

The window has 8 pages, page tables hold 4 entries (pages 0-3, 4-7).  What decides whether speculation runs at
all, and whether neighbours merge, is what was touched before, and how the layout came about:

    split   one mapping, then cut by mprotect or munmap: the parts share one anon_vma
    apart   mapped one by one: each part gets an anon_vma of its own when it is first written

    cold    nothing touched: no page table, no anon_vma
    warm    another page of the faulting VMA was written: table and anon_vma are there, the page is not
    read    the page was read: the zero page is mapped, a write must copy
    written the page was written
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from seqfault.scenarios.model import Scenario, parse_line, parse_operation


def scenario(
    name: str,
    setup: Iterable[str],
    cpus: Sequence[Sequence[str]],
    prose: str = "",
    fail: int = 0,
    fills: Sequence[tuple[int, int]] = (),
) -> Scenario:
    return Scenario(
        name,
        tuple(parse_line(x) for x in setup),
        tuple(tuple(parse_operation(x) for x in ops) for ops in cpus),
        fail,
        tuple(fills),
        prose,
    )


# -- the eight cases of vma_merge: (layout when split, layout when apart, the operation that merges)
# Pages 0-1 are prev, 2 is what changes, 3-4 is next (in case 4 page 2 is prev's tail, in case 5 page 3 is
# next's head), 6 is the VMA after.
CASES: dict[int, tuple[list[str], list[str], str]] = {
    1: (["mmap 0-5 rw", "*", "munmap 2-3"], ["mmap 0-2 rw", "mmap 3-5 rw", "*"], "mmap 2-3 rw"),
    2: (["mmap 0-5 rw", "*", "mprotect 3-5 r", "munmap 2-3"], ["mmap 0-2 rw", "mmap 3-5 r", "*"], "mmap 2-3 rw"),
    3: (["mmap 0-5 rw", "*", "mprotect 0-2 r", "munmap 2-3"], ["mmap 0-2 r", "mmap 3-5 rw", "*"], "mmap 2-3 rw"),
    4: (["mmap 0-5 rw", "*", "mprotect 3-5 r"], ["mmap 0-3 rw", "mmap 3-5 r", "*"], "mprotect 2-3 r"),
    5: (["mmap 0-5 rw", "*", "mprotect 3-5 r"], ["mmap 0-3 rw", "mmap 3-5 r", "*"], "mprotect 3-4 rw"),
    6: (["mmap 0-5 rw", "*", "mprotect 2-3 r"], ["mmap 0-2 rw", "mmap 2-3 r", "mmap 3-5 rw", "*"], "mprotect 2-3 rw"),
    7: (
        ["mmap 0-5 rw", "*", "mprotect 2-3 r", "mprotect 3-5 none"],
        ["mmap 0-2 rw", "mmap 2-3 r", "mmap 3-5 none", "*"],
        "mprotect 2-3 rw",
    ),
    8: (
        ["mmap 0-5 rw", "*", "mprotect 0-2 none", "mprotect 2-3 r"],
        ["mmap 0-2 none", "mmap 2-3 r", "mmap 3-5 rw", "*"],
        "mprotect 2-3 rw",
    ),
}
SPOTS = {"prev": (1, 0), "area": (2, 1), "next": (4, 3), "after": (6, 7)}  # page that faults, another of its VMA
AFTER = "mmap 6-8 rw"


def touches(state: str, page: int, other: int) -> list[str]:
    """Setup lines that bring the page into `state`."""
    return {
        "cold": [],
        "warm": [f"write {other} 1"],
        "read": [f"read {page}", f"write {other} 1"],
        "written": [f"write {page} 2"],
    }[state]


def fill_in(layout: list[str], touch: list[str]) -> list[str]:
    return [y for x in layout for y in (touch if x == "*" else [x])]


def legal(layout: list[str], touch: list[str]) -> list[str]:
    """Leave out touches that the layout's rights would answer with a signal."""
    rights: dict[int, str] = {}
    out: list[str] = []
    for line in fill_in(layout, touch):
        w = line.split()
        if w[0] in ("mmap", "mprotect", "munmap"):
            a, b = (int(x) for x in w[1].split("-"))
            for p in range(a, b):
                rights[p] = "" if w[0] == "munmap" else w[2].replace("none", "")
        else:
            need = "r" if w[0] == "read" else "w"
            if need not in rights.get(int(w[1]), ""):
                continue
        out.append(line)
    return out


def cases() -> Iterator[Scenario]:
    """A fault beside each merge: in prev, in what changes, in next, and in the VMA after it."""
    for n, (split, apart, op) in CASES.items():
        for how, layout in (("split", split), ("apart", apart)):
            for spot, (page, other) in SPOTS.items():
                base = [*layout, AFTER] if spot != "after" else [AFTER, *touches("warm", 6, 7), *layout]
                for state in ("cold", "warm", "read", "written"):
                    if spot == "after" and state != "warm":
                        continue
                    touch = touches(state, page, other) if spot != "after" else ["write 1 1"]
                    setup = legal(base, touch)
                    for kind in ("read", "write"):
                        fault = f"read {page}" if kind == "read" else f"write {page} 7"
                        yield scenario(f"case{n}/{how}-{spot}-{state}-{kind}", setup, [[op], [fault, f"read {page}"]])


def given() -> Iterator[Scenario]:
    """Cases 4 and 5 with the rights the other way round: what is taken was writable."""
    for kind in ("read", "write"):
        for state in ("warm", "read", "written"):
            fault = [f"{kind} 3" + (" 7" if kind == "write" else ""), "read 3"]
            setup = ["mmap 0-5 rw", *touches(state, 3, 4), "mprotect 0-3 r"]
            yield scenario(f"case5/taken-{state}-{kind}", setup, [["mprotect 3-4 r"], fault])
            fault = [f"{kind} 2" + (" 7" if kind == "write" else ""), "read 2"]
            setup = ["mmap 0-5 rw", *touches(state, 2, 1), "mprotect 3-5 r"]
            yield scenario(f"case4/taken-{state}-{kind}", setup, [["mprotect 2-3 r"], fault])


SPLITS = {"head": "0-1", "middle": "1-2", "tail": "2-3"}


def splits() -> Iterator[Scenario]:
    """One VMA cut in two or three by mprotect or munmap, with a fault in each part."""
    for where, rng in SPLITS.items():
        for what in ("munmap", "mprotect"):
            op = f"munmap {rng}" if what == "munmap" else f"mprotect {rng} r"
            for page in (0, 1, 2):
                other = (page + 1) % 3
                for state in ("warm", "read", "written"):
                    for kind in ("read", "write"):
                        fault = f"read {page}" if kind == "read" else f"write {page} 7"
                        setup = ["mmap 0-3 rw", *touches(state, page, other), "mmap 6-8 rw"]
                        yield scenario(
                            f"split-{where}/{what}-page{page}-{state}-{kind}", setup, [[op], [fault, f"read {page}"]]
                        )


def whole(name: str, ops: dict[str, str], setups: dict[str, list[str]], pages: Sequence[int]) -> Iterator[Scenario]:
    """Operations on layouts, each with a fault on each page in each state."""
    for label, op in ops.items():
        for lay, layout in setups.items():
            for page in pages:
                for state in ("cold", "warm", "read", "written"):
                    setup = legal([*layout, "*"] if "*" not in layout else layout, touches(state, page, page ^ 1))
                    for kind in ("read", "write"):
                        fault = f"read {page}" if kind == "read" else f"write {page} 7"
                        yield scenario(
                            f"{name}/{label}-{lay}-page{page}-{state}-{kind}", setup, [[op], [fault, f"read {page}"]]
                        )


def writers() -> Iterator[Scenario]:
    """munmap, mprotect and madvise of whole VMAs, and mappings put over others."""
    one, two = ["mmap 1-3 rw"], ["mmap 0-2 rw", "mmap 2-4 r"]
    yield from whole("munmap", {"all": "munmap 1-3"}, {"one": one}, (1, 2))
    yield from whole("munmap", {"both": "munmap 0-4", "across": "munmap 1-3"}, {"two": two}, (1, 2))
    yield from whole("mprotect", {"less": "mprotect 1-3 r", "none": "mprotect 1-3 none"}, {"one": one}, (1,))
    yield from whole("mprotect", {"across": "mprotect 1-3 none"}, {"two": two}, (1, 2))
    yield from whole(
        "mprotect", {"more": "mprotect 1-3 rw"}, {"readonly": ["mmap 1-3 rw", "*", "mprotect 1-3 r"]}, (1,)
    )
    yield from whole("mprotect", {"more": "mprotect 1-3 rw"}, {"none": ["mmap 1-3 rw", "*", "mprotect 1-3 none"]}, (1,))
    yield from whole("madvise", {"page": "madvise 1-2 dontneed", "both": "madvise 1-3 dontneed"}, {"one": one}, (1,))
    yield from whole("madvise", {"across": "madvise 1-3 dontneed"}, {"two": two}, (1, 2))
    yield from whole(
        "mmap-merge", {"over": "mmap 1-2 rw", "over-other": "mmap 1-2 r"}, {"one": ["mmap 0-4 rw"]}, (1, 2)
    )
    yield from whole("mmap-merge", {"apart": "mmap 6-7 r"}, {"one": ["mmap 0-4 rw"]}, (1,))


def expand() -> Iterator[Scenario]:
    """A stack that grows down, and what may happen to it meanwhile."""
    setup = ["mmap 4-6 rw growsdown", "write 5 1"]
    below = ["mmap 0-2 rw", *setup]
    for label, op in {
        "munmap": "munmap 4-6",
        "munmap-top": "munmap 5-6",
        "mprotect": "mprotect 4-6 r",
        "madvise": "madvise 4-6 dontneed",
        "mmap-below": "mmap 2-3 rw",
        "fault-above": "write 4 6",
        "grow-too": "write 2 6",
    }.items():
        # A stack grows with mmap_sem held for reading, and 4.12 does not keep other faults of the VMA out meanwhile:
        # mmap-sem itself is at fault there (docs/findings.md), so these are kept apart.
        for kind in ("read", "write"):
            apart = label == "fault-above" or (label, kind) == ("grow-too", "write")
            fault = "read 3" if kind == "read" else "write 3 7"
            family = "linux-4.12" if apart else "expand"
            yield scenario(f"{family}/{label}-{kind}", setup, [[op], [fault, "read 3"]])
        family = "linux-4.12" if label == "grow-too" else "expand"
        yield scenario(f"{family}/{label}-grown-before", [*below, "write 3 2"], [[op], ["write 4 7", "read 3"]])


def files() -> Iterator[Scenario]:
    """Mappings of a file: read, copied, shared."""
    for label, op in {
        "munmap": "munmap 1-3",
        "mprotect": "mprotect 1-3 r",
        "madvise": "madvise 1-3 dontneed",
        "over": "mmap 1-2 rw file@0",
        "split": "munmap 1-2",
    }.items():
        for how in ("", " shared"):
            for state in ("warm", "read", "written"):
                for fault in ("read 2", "write 2 7"):
                    setup = [f"mmap 1-3 rw{how} file@0", *touches(state, 2, 1)]
                    kind = "shared" if how else "private"
                    yield scenario(f"file/{label}-{kind}-{state}-{fault.split()[0]}", setup, [[op], [fault, "read 2"]])


def tables() -> Iterator[Scenario]:
    """Page tables that are freed while a fault walks them: the VMA is alone in its table."""
    for other in ("", "mmap 0-1 rw", "mmap 7-8 rw"):
        for state in ("warm", "read", "written"):
            for fault in ("read 4", "write 4 7"):
                setup = [x for x in (other,) if x] + ["mmap 4-6 rw", *touches(state, 4, 5)]
                near = {"": "alone", "mmap 0-1 rw": "below", "mmap 7-8 rw": "beside"}[other]
                yield scenario(
                    f"pgtable-free/{near}-{state}-{fault.split()[0]}", setup, [["munmap 4-6"], [fault, "read 4"]]
                )
    for state in ("warm", "written"):
        yield scenario(
            f"pgtable-free/again-{state}",
            ["mmap 4-6 rw", *touches(state, 4, 5)],
            [["munmap 4-6", "mmap 4-6 rw"], ["write 4 7", "read 4"]],
        )
    yield scenario(
        "pgtable-free/two-tables",
        ["mmap 2-6 rw", "write 3 1", "write 4 1"],
        [["munmap 2-6"], ["write 3 7", "write 4 7"]],
    )


def same_page() -> Iterator[Scenario]:
    """The same page faulted twice, by two CPUs; with a writer as well in two-faults."""
    for state in ("cold", "warm", "read", "written"):
        for a, b in (("read 1", "read 1"), ("read 1", "write 1 7"), ("write 1 6", "write 1 7")):
            yield scenario(
                f"same-page/{state}-{a.split()[0]}-{b.split()[0]}",
                ["mmap 1-3 rw", *touches(state, 1, 2)],
                [[a, "read 1"], [b, "read 1"]],
            )
        for a, b in (("read 1", "write 1 7"), ("write 1 6", "write 1 7")):
            yield scenario(
                f"same-page/file-{state}-{a.split()[0]}-{b.split()[0]}",
                ["mmap 1-3 rw file@0", *touches(state, 1, 2)],
                [[a, "read 1"], [b, "read 1"]],
            )


def sequences() -> Iterator[Scenario]:
    """Two operations on one CPU: what the second does with what the first left."""
    pairs = {
        "munmap-mmap": ["munmap 1-2", "mmap 1-2 rw"],
        "munmap-mmap-other": ["munmap 1-2", "mmap 1-2 r"],
        "mprotect-back": ["mprotect 1-2 r", "mprotect 1-2 rw"],
        "mprotect-munmap": ["mprotect 1-2 r", "munmap 1-2"],
        "madvise-munmap": ["madvise 1-2 dontneed", "munmap 1-2"],
        "madvise-mprotect": ["madvise 1-2 dontneed", "mprotect 1-2 r"],
        "merge-munmap": ["mmap 3-4 rw", "munmap 0-4"],
        "merge-mprotect": ["mmap 3-4 rw", "mprotect 0-4 r"],
        "case8-mprotect": ["mprotect 0-1 none", "mprotect 0-1 rw"],
        "write-munmap": ["write 1 6", "munmap 1-2"],
    }
    for label, ops in pairs.items():
        for state in ("warm", "read", "written"):
            for fault in ("read 1", "write 1 7"):
                yield scenario(
                    f"sequence/{label}-{state}-{fault.split()[0]}",
                    ["mmap 0-3 rw", *touches(state, 1, 2)],
                    [ops, [fault, "read 1"]],
                )
        yield scenario(f"sequence/{label}-two-faults", ["mmap 0-3 rw", "write 2 1"], [ops, ["write 1 7", "write 0 7"]])


def failures() -> Iterator[Scenario]:
    """An allocation fails, at any moment."""
    for n, (split, _, op) in CASES.items():
        for spot in ("prev", "area", "next"):
            page, other = SPOTS[spot]
            yield scenario(
                f"alloc-fail/case{n}-{spot}",
                legal(split, touches("warm", page, other)),
                [[op], [f"write {page} 7", f"read {page}"]],
                fail=1,
            )
    # the clone of case 1: only next has an anon_vma
    yield scenario(
        "alloc-fail/clone-next-only",
        ["mmap 0-2 rw", "mmap 3-5 rw", "write 4 1"],
        [["mmap 2-3 rw"], ["write 3 7", "read 3"]],
        fail=1,
    )
    yield scenario(
        "alloc-fail/clone-then-fault",
        ["mmap 0-2 rw", "mmap 3-5 rw", "write 4 1"],
        [["mmap 2-3 rw", "write 3 6"], ["write 3 7"]],
        fail=1,
    )
    for where, rng in SPLITS.items():
        for what in (f"munmap {rng}", f"mprotect {rng} r"):
            yield scenario(
                f"alloc-fail/split-{where}-{what.split()[0]}",
                ["mmap 0-3 rw", "write 1 1"],
                [[what], ["write 0 7", "read 0"]],
                fail=1,
            )
    for state in ("cold", "warm", "read"):
        yield scenario(
            f"alloc-fail/two-faults-{state}",
            ["mmap 1-3 rw", *touches(state, 1, 2)],
            [["write 1 6"], ["write 1 7", "read 1"]],
            fail=1,
        )
        yield scenario(
            f"alloc-fail/munmap-{state}",
            ["mmap 1-3 rw", *touches(state, 1, 2)],
            [["munmap 1-3"], ["write 1 7"]],
            fail=1,
        )


def walker() -> Iterator[Scenario]:
    """The page walker may load a TLB entry at any time, with nobody asking for it."""
    for label, op in {
        "munmap": "munmap 1-3",
        "mprotect": "mprotect 1-3 r",
        "madvise": "madvise 1-3 dontneed",
        "over": "mmap 1-2 rw",
        "munmap-table": "munmap 0-4",
    }.items():
        for state in ("read", "written"):
            for fault in ("read 1", "write 1 7"):
                yield scenario(
                    f"walker/{label}-{state}-{fault.split()[0]}",
                    ["mmap 1-3 rw", *touches(state, 1, 2)],
                    [[op], [fault, "read 1"]],
                    fills=[(1, 1)],
                )
    for fault in ("read 1", "write 1 7"):
        yield scenario(
            f"walker/cow-{fault.split()[0]}",
            ["mmap 1-3 rw", "read 1", "write 2 1"],
            [["write 1 6", "read 1"], [fault, "read 1"]],
            fills=[(1, 1)],
        )


def three_cpus() -> Iterator[Scenario]:
    """Two faults against one writer; two writers and a fault."""
    one = ["mmap 0-3 rw", "write 2 1"]
    ops = {
        "munmap": "munmap 1-2",
        "munmap-all": "munmap 0-3",
        "mprotect": "mprotect 1-2 r",
        "madvise": "madvise 1-2 dontneed",
        "merge": "mmap 3-4 rw",
    }
    for label, op in ops.items():
        yield scenario(f"two-faults/{label}-same-page", one, [[op], ["write 1 6"], ["write 1 7"]])
        yield scenario(f"two-faults/{label}-read-write", [*one, "read 1"], [[op], ["read 1"], ["write 1 7"]])
        yield scenario(f"two-faults/{label}-two-pages", one, [[op], ["write 0 6"], ["write 1 7"]])
    for n in (6, 8):
        split, _, op = CASES[n]
        yield scenario(f"two-faults/case{n}", legal(split, ["write 3 1"]), [[op], ["write 4 6"], ["write 4 7"]])
    pairs = {
        "munmap-munmap": ("munmap 0-1", "munmap 1-2"),
        "munmap-mprotect": ("munmap 0-1", "mprotect 1-2 r"),
        "mprotect-mprotect": ("mprotect 0-1 r", "mprotect 1-2 r"),
        "madvise-madvise": ("madvise 1-2 dontneed", "madvise 1-2 dontneed"),
        "madvise-munmap": ("madvise 1-2 dontneed", "munmap 1-2"),
        "merge-munmap": ("mmap 3-4 rw", "munmap 0-1"),
    }
    for label, (a, b) in pairs.items():
        yield scenario(f"two-writers/{label}", one, [[a], [b], ["write 1 7"]])
        yield scenario(f"two-writers/{label}-written", [*one, "write 1 2"], [[a], [b], ["read 1"]])
    yield scenario(
        "two-writers/madvise-madvise-next",
        one,
        [["madvise 1-2 dontneed"], ["madvise 1-2 dontneed", "write 1 6"], ["write 1 7"]],
    )


def generate() -> list[Scenario]:
    """Every generated scenario, in a fixed order."""
    out: list[Scenario] = []
    for f in (cases, given, splits, writers, expand, files, tables, same_page, sequences, failures, walker, three_cpus):
        out += f()
    return out
