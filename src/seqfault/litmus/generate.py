"""Small litmus tests as diy makes them: a cycle of relations, each edge between two threads or within one.

Alglave, Maranget, Sarkar, Sewell, "Litmus: Running Tests Against Hardware", TACAS 2011, describes diy; the words of the
edges are diy's. A cycle fixes the events, their places and what the condition asks: the final state that needs every
edge of it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

# edge -> (kind of the event before, after, whether they are in different threads, whether they share the cell)
EDGES = {
    "Rfe": ("W", "R", True, True),
    "Fre": ("R", "W", True, True),
    "Coe": ("W", "W", True, True),
    **{f"Pod{a}{b}": (a, b, False, False) for a in "RW" for b in "RW"},
    **{f"Mbd{a}{b}": (a, b, False, False) for a in "RW" for b in "RW"},
    **{f"Syncd{a}{b}": (a, b, False, False) for a in "RW" for b in "RW"},
    "RmbdRR": ("R", "R", False, False),
    "WmbdWW": ("W", "W", False, False),
    "DpAddrdR": ("R", "R", False, False),
    "DpAddrdW": ("R", "W", False, False),
    "DpDatadW": ("R", "W", False, False),
    "DpCtrldR": ("R", "R", False, False),
    "DpCtrldW": ("R", "W", False, False),
    "AcqPodRR": ("R", "R", False, False),
    "AcqPodRW": ("R", "W", False, False),
    "PodRelRW": ("R", "W", False, False),
    "PodRelWW": ("W", "W", False, False),
    **{f"Rcud{a}{b}": (a, b, False, False) for a in "RW" for b in "RW"},
}
FENCE = {"Mb": "smp_mb();", "Rmb": "smp_rmb();", "Wmb": "smp_wmb();", "Sync": "synchronize_rcu();"}
CELLS = "xyzabcdefgh"


@dataclass(slots=True)
class _Event:
    kind: str
    thread: int
    cell: str
    value: int = 0
    register: str = ""
    before: str = ""  # the edge from the event before it in its thread
    after: str = ""


def generate(seed: int, edges: int | None = None) -> str:
    """The text of a litmus test, always the same for the same `seed`.

    Args:
        seed: what the cycle is drawn from.
        edges: length of the cycle, at least 4; by default drawn from 4 to 8.

    Raises:
        ValueError: `edges` is less than 4.
    """
    if edges is not None and edges < 4:
        raise ValueError("a cycle has at least 4 edges: two threads, two cells")
    r = random.Random(seed)
    while True:
        cycle = _cycle(r, edges or r.randint(4, 8))
        if cycle is not None:
            return _text(f"gen{seed}", cycle)


def generated(count: int, seed: int = 0) -> Iterator[str]:
    """`count` litmus tests, of the seeds from `seed` on."""
    return (generate(s) for s in range(seed, seed + count))


def from_cycle(name: str, cycle: list[str]) -> str:
    """The test of a given cycle: ``["Rfe", "RmbdRR", "Fre", "WmbdWW"]`` is MP with both barriers.

    Raises:
        ValueError: an edge that is not in `EDGES`, or edges that do not fit together.
    """
    for e in cycle:
        if e not in EDGES:
            raise ValueError(f"{e} is no edge; edges are {', '.join(EDGES)}")
    if not _fits(cycle):
        raise ValueError("the edges do not fit together into a cycle of at least two threads and two cells")
    return _text(name, cycle)


def _fits(cycle: list[str]) -> bool:
    n = len(cycle)
    chained = all(EDGES[cycle[i]][1] == EDGES[cycle[(i + 1) % n]][0] for i in range(n))
    outer = sum(EDGES[e][2] for e in cycle)
    return chained and outer >= 2 and n - outer >= 2 and n - outer <= len(CELLS)


def _cycle(r: random.Random, n: int) -> list[str] | None:
    names = list(EDGES)
    for _ in range(200):
        cycle: list[str] = []
        while len(cycle) < n:
            last = EDGES[cycle[-1]][1] if cycle else None
            outer = r.random() < 0.5
            can = [e for e in names if EDGES[e][2] == outer and last in (None, EDGES[e][0])]
            if can:
                cycle.append(r.choice(can))
        if _fits(cycle):
            return cycle
    return None


def _text(name: str, cycle: list[str]) -> str:
    n = len(cycle)
    # begin right after an edge between threads, so that a thread is a stretch of events
    start = next(i for i in range(n) if EDGES[cycle[i - 1]][2])
    edges = cycle[start:] + cycle[:start]
    events = [_Event(EDGES[edges[0]][0], 0, "")]
    for e in edges[:-1]:
        _, kind, outer, _ = EDGES[e]
        events[-1].after = e
        events.append(_Event(kind, events[-1].thread + outer, "", before=e))
    events[-1].after = edges[-1]
    _place(events, edges)
    asks = _values(events, edges)
    threads = [[e for e in events if e.thread == t] for t in range(events[-1].thread + 1)]
    comment = " ".join(edges)
    bodies = [_thread(number, of) for number, of in enumerate(threads)]
    asked = " /\\ ".join(asks)
    return f"C {name}\n(* {comment} *)\n{{}}\n\n" + "\n".join(bodies) + f"\nexists ({asked})\n"


def _place(events: list[_Event], edges: list[str]) -> None:
    """Cells: kept along an edge between threads, another one along an edge within; the last edge closes the circle."""
    changes = [i for i, e in enumerate(edges) if not EDGES[e][3]]
    at = 0
    for i, e in enumerate(events):
        e.cell = CELLS[at % len(changes)]
        if i in changes:
            at += 1


def _values(events: list[_Event], edges: list[str]) -> list[str]:
    """Values of writes in the coherence order that Coe asks for, and what the condition says."""
    asks: list[str] = []
    for cell in sorted({e.cell for e in events}):
        order = _order(events, edges, cell)
        for k, e in enumerate(order):
            e.value = k + 1
        if len(order) > 1:
            asks.append(f"{cell}={len(order)}")
    counts: dict[int, int] = {}
    for i, e in enumerate(events):
        if e.kind != "R":
            continue
        number = counts[e.thread] = counts.get(e.thread, -1) + 1
        e.register = f"r{number}"
        source = events[i - 1] if edges[i - 1] == "Rfe" else None
        if source:
            value = source.value
        elif edges[i] == "Fre":
            value = events[(i + 1) % len(events)].value - 1
        else:
            continue
        asks.insert(0, f"{e.thread}:{e.register}={value}")
    return asks or ["true"]


def _order(events: list[_Event], edges: list[str], cell: str) -> list[_Event]:
    """The writes of a cell, coherence-earlier ones first: Coe, and Rfe followed by Fre, put one before another."""
    n = len(events)
    writes = [i for i in range(n) if events[i].kind == "W" and events[i].cell == cell]
    later: dict[int, int] = {}
    for i in writes:
        if edges[i] == "Coe":
            later[i] = (i + 1) % n
        elif edges[i] == "Rfe" and edges[(i + 1) % n] == "Fre":
            later[i] = (i + 2) % n
    firsts = [i for i in writes if i not in later.values()] or writes[:1]
    out: list[int] = []
    for i in firsts:
        while i not in out:
            out.append(i)
            i = later.get(i, i)
    return [events[i] for i in out]


def _thread(number: int, of: list[_Event]) -> str:
    cells = sorted({e.cell for e in of})
    lines = [f"\tint {e.register};" for e in of if e.kind == "R"]
    reader = any(e.after.startswith("Rcu") and e is not of[-1] for e in of)
    depth = 0
    if reader:
        lines.append("\trcu_read_lock();")
    for k, e in enumerate(of):
        edge = e.before if k else ""
        tab = "\t" * (depth + 1)
        address, value = f"*{e.cell}", str(e.value)
        last = of[k - 1].register if k else ""
        for word, fence in FENCE.items():
            if edge.startswith(word + "d"):
                lines.append(f"{tab}{fence}")
        if edge.startswith("DpAddr"):
            address = f"*({e.cell} + ({last} & 0))"
        elif edge.startswith("DpData"):
            value = f"{e.value} + ({last} & 0)"
        elif edge.startswith("DpCtrl"):
            lines.append(f"{tab}if ({last} >= 0) {{")
            depth += 1
            tab += "\t"
        leads = e.after if k + 1 < len(of) else ""
        if e.kind == "R" and leads.startswith("AcqPo"):
            lines.append(f"{tab}{e.register} = smp_load_acquire({address.removeprefix('*')});")
        elif e.kind == "R":
            lines.append(f"{tab}{e.register} = READ_ONCE({address});")
        elif edge.startswith("PodRel"):
            lines.append(f"{tab}smp_store_release({address.removeprefix('*')}, {value});")
        else:
            lines.append(f"{tab}WRITE_ONCE({address}, {value});")
    while depth:
        lines.append("\t" * depth + "}")
        depth -= 1
    if reader:
        lines.append("\trcu_read_unlock();")
    params = ", ".join(f"int *{c}" for c in cells)
    return f"P{number}({params})\n{{\n" + "\n".join(lines) + "\n}\n"
