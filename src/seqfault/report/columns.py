"""The picture of a counterexample: a column for each process that moves, a line for each event that matters."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seqfault.report.counterexample import Counterexample, Event


def conflicts(events: list[Event]) -> set[int]:
    """Events on cells that another process touches too, with a store among them; a store that nobody else looks at before
    it is overwritten, and a load of what nobody changed, tell nothing."""
    by_cell: dict[str, list[int]] = {}
    for i, e in enumerate(events):
        if e.kind in ("load", "store", "alloc", "free"):
            by_cell.setdefault(e.cell, []).append(i)
    out: set[int] = set()
    for idx in by_cell.values():
        for a, b in zip(idx, idx[1:], strict=False):
            x, y = events[a], events[b]
            if x.process != y.process and (x.kind != "load" or y.kind != "load"):
                out |= {a, b}
    return out


def object_of(cell: str) -> str:
    return cell.split(".")[0]


def choose(cx: Counterexample, room: int) -> list[int]:
    """Which events to show, in order: the violation first of all, then what happened to its object, then what other
    processes see, then the calls of the protocol."""
    events = cx.events
    bad = [i for i, e in enumerate(events) if e.kind == "violation"]
    want: list[list[int]] = [[], [], [], [], [], []]
    target = object_of(events[bad[-1]].cell) if bad and events[bad[-1]].cell else ""
    fights = conflicts(events)
    last_who = ""
    for i, e in enumerate(events):
        if e.kind == "violation":
            want[0].append(i)
            continue
        touches = target and object_of(e.cell) == target
        if touches and e.kind in ("free", "alloc"):
            want[0].append(i)
        elif e.kind == "free":
            want[2].append(i)
        elif touches and i in fights:
            want[1].append(i)
        elif i in fights and not is_lock(e):
            want[2].append(i)
        elif e.site and (e.kind == "store" or i in fights):
            want[3].append(i)
        elif i in fights:
            want[4].append(i)
        elif touches and e.kind == "store":
            want[4].append(i)
        if e.process != last_who:
            want[3].append(i)
            last_who = e.process
    chosen: set[int] = set(bad[-1:])
    for group in want:
        for i in reversed(group):  # what is near the violation matters more
            if len(chosen) >= room:
                break
            chosen.add(i)
    return sorted(chosen)


def is_lock(e: Event) -> bool:
    return e.cell.endswith((".owner", ".writer", ".readers", ".disabled"))


def short_cell(cell: str) -> str:
    for a, b in (
        ("vm_area_struct[", "vma["),
        ("mm_struct[0]", "mm"),
        ("vm_sequence.sequence", "vm_sequence"),
        ("seqcount.sequence", "sequence"),
        ("vm_rb.", ""),
    ):
        cell = cell.replace(a, b)
    return cell


def phrase(e: Event) -> str:
    """What happened, in a few words."""
    c, v = short_cell(e.cell), short_cell(e.value)
    return {
        "load": f"{c} is {v}",
        "store": f"{c} = {v}",
        "alloc": f"{c} is allocated",
        "free": f"{c} is FREED",
        "violation": f"{e.value}" + (f" of {c}" if c else ""),
    }[e.kind]


def title(name: str) -> str:
    if name.startswith("cpu") and name[3:].isdigit():
        return f"CPU {name[3:]}"
    if name.startswith("ipi"):
        return f"IPI on CPU {name[3:]}"
    if name.startswith("walker"):
        return f"walker of CPU {name[6:]}"
    return {"rcu": "grace period"}.get(name, name)


def draw(cx: Counterexample, width: int, max_lines: int) -> list[str]:
    """The picture's lines, at most `max_lines`."""
    s = cx.scenario
    head: list[str] = []
    v = cx.violations[0] if cx.violations else None
    if v is not None:
        where = f" in {v.function} ({v.file}:{v.line})" if v.function else ""
        obj = f" of {v.object}" if v.object else ""
        head.append(f"{v.kind}{obj}{where}"[: width * 2])
    head.append(f"{cx.protocol.name}, scenario {s.name}; {len(cx.schedule)} steps, {cx.switches} context switches")
    if s.setup:
        head += wrap("before: " + "; ".join(o.text() for _, o in s.setup), width, "        ")[:2]
    columns = list(dict.fromkeys(e.process for e in cx.events if e.process != "at rest"))
    columns.sort(key=lambda n: (not n.startswith("cpu"), n))
    tail = ["replay: seqfault replay '" + cx.schedule_string + "'"]
    if not columns:
        return [*head, *tail]
    n = len(columns)
    w = (width - 3 * (n - 1)) // n
    names = []
    for c in columns:
        ops = ""
        if c.startswith("cpu") and int(c[3:]) < len(s.cpus):
            ops = ": " + "; ".join(o.text() for o in s.cpus[int(c[3:])])
        names.append(clip(title(c) + ops, w))
    head.append(" | ".join(x.ljust(w) for x in names).rstrip())
    head.append("-+-".join("-" * w for _ in columns))
    room = max_lines - len(head) - len(tail)
    # a line for each event, and one for each change of function
    shown = choose(cx, room)
    while True:
        body = render(cx, shown, columns, w)
        if len(body) <= room or len(shown) <= 2:
            break
        shown = choose(cx, len(shown) - 1)
    return [*head, *body, *tail]


def render(cx: Counterexample, shown: list[int], columns: list[str], w: int) -> list[str]:
    out: list[str] = []
    last: dict[str, str] = {}
    for i in shown:
        e = cx.events[i]
        if e.process == "at rest":
            out.append(clip(f"at rest: {phrase(e)}", w * len(columns) + 3 * (len(columns) - 1)))
            continue
        fn = f"{e.function}()"
        if last.get(e.process) != e.function:
            last[e.process] = e.function
            out.append(line(columns, e.process, fn, w))
        mark = "**" if e.kind == "violation" else "  "
        text = f"{e.line:>4}{mark}{e.source}"
        said = phrase(e)
        if len(text) + len(said) + 4 <= w:
            out.append(line(columns, e.process, f"{text}  [{said}]", w))
        elif e.kind == "violation":
            out.append(line(columns, e.process, clip(text, w), w))
            out.append(line(columns, e.process, clip(f"     *** {said} ***", w), w))
        else:
            keep = max(12, w - len(said) - 4)
            out.append(line(columns, e.process, clip(f"{clip(text, keep)}  [{said}]", w), w))
    return out


def line(columns: list[str], who: str, text: str, w: int) -> str:
    return " | ".join((clip(text, w) if c == who else "").ljust(w) for c in columns).rstrip()


def clip(text: str, w: int) -> str:
    return text if len(text) <= w else text[: max(1, w - 1)] + "…"


def wrap(text: str, width: int, indent: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width, subsequent_indent=indent)
