"""The picture of a counterexample: a column for each process that moves, a line for each event that matters."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from seqfault.explore.check import statement_of

if TYPE_CHECKING:
    from seqfault.report.counterexample import Counterexample, Event


def conflicts(events: list[Event]) -> set[int]:
    """Events on cells that another process touches too, with a store among them; a store that nobody else looks
    at before
    it is overwritten, and a load of what nobody changed, tell nothing."""
    by_cell: dict[str, list[int]] = {}
    for i, e in enumerate(events):
        if e.kind in ("load", "store", "flush", "alloc", "free"):
            by_cell.setdefault(e.cell, []).append(i)
    out: set[int] = set()
    for idx in by_cell.values():
        for a, b in itertools.pairwise(idx):
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
    who = events[bad[-1]].process if bad else ""
    got = -1
    for i, e in enumerate(events):
        if e.kind == "violation":
            want[0].append(i)
            continue
        if is_lock(e) and (e.kind != "store" or (i + 1 < len(events) and same_lock_again(e, events[i + 1]))):
            continue
        touches = target and object_of(e.cell) == target
        if target and e.kind == "load" and e.value == target and e.process == who:
            got = i  # where the pointer came from
        if not e.process.startswith("cpu"):
            want[5 if e.kind != "free" else 2].append(i)
            continue
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
        elif i in fights or (touches and e.kind == "store"):
            want[4].append(i)
    ranked: list[int] = bad[-1:] + ([got] if got >= 0 else [])
    for n, group in enumerate(want):
        ranked += reversed(group)  # what is near the violation matters more
        if n == 1:
            ranked += sorted(one_for_each_turn(events, set(ranked)))
    if cx.loop_from >= 0:  # what goes on for ever is what there is to see
        ranked.sort(key=lambda i: events[i].step < cx.loop_from)
    return sorted(list(dict.fromkeys(ranked))[:room])


def one_for_each_turn(events: list[Event], chosen: set[int]) -> set[int]:
    """Of every turn between two context switches at least one event: its last store, else its last one."""
    out: set[int] = set()
    turn: list[int] = []
    for i, e in enumerate([*events, None]):
        if turn and (e is None or e.process != events[turn[0]].process):
            if not chosen & set(turn) and events[turn[0]].process.startswith("cpu"):
                stores = [k for k in turn if events[k].kind == "store" and not is_lock(events[k])]
                out.add((stores or turn)[-1])
            turn = []
        if e is not None:
            turn.append(i)
    return out


def same_lock_again(a: Event, b: Event) -> bool:
    return a.process == b.process and a.cell == b.cell and b.kind == "store"


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
    if e.kind == "store" and is_lock(e):
        name = c.rsplit(".", 1)[0]
        return {
            "disabled": "interrupts off" if v == "1" else "interrupts on",
            "readers": f"readers of {name}: {int(v):b}",
        }.get(c.rsplit(".", 1)[1], f"takes {name}" if v != "0" else f"releases {name}")
    return {
        "load": f"{c} is {v}" + (" (old)" if e.old else ""),
        "store": f"{c} = {v}",
        "flush": f"{c} = {v} reaches memory",
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
    counted = f"{len(cx.schedule)} steps, {cx.switches} context switches"
    head += wrap(f"{cx.protocol.name}, scenario {s.name}; {counted}", width, "  ")
    if s.setup:
        head += wrap("before: " + "; ".join(o.text() for _, o in s.setup), width, "        ")[:2]
    columns = list(dict.fromkeys(e.process for e in cx.events if e.process != "at rest"))
    columns.sort(key=lambda n: (not n.startswith("cpu"), n))
    tail = [*told(cx, width, 4 if max_lines < 100 else 1000), "replay: seqfault replay '" + cx.schedule_string + "'"]
    if not columns:
        return [*head, *tail]
    n = len(columns)
    step = {1: 0, 2: 28, 3: 20}.get(n, max(8, (width - 36) // max(1, n - 1)))
    starts = {c: i * step for i, c in enumerate(columns)}
    for c in columns:
        ops = ""
        if c.startswith("cpu") and int(c[3:]) < len(s.cpus):
            ops = ": " + "; ".join(o.text() for o in s.cpus[int(c[3:])])
        head.append(clip(" " * starts[c] + title(c) + ops, width))
    head.append("-" * width)
    room = max_lines - len(head) - len(tail)
    # a line for each event, and one for each change of function
    shown = choose(cx, room)
    while True:
        shown = [i for k, i in enumerate(shown) if k == 0 or not same(cx.events[i], cx.events[shown[k - 1]])]
        body = render(cx, shown, starts, width)
        if len(body) <= room or len(shown) <= 2:
            break
        shown = choose(cx, len(shown) - 1)
    return [*head, *body, *tail]


def told(cx: Counterexample, width: int, most: int) -> list[str]:
    """Which loads took an old store, why they could, and which barriers would have prevented that."""
    from seqfault.report.counterexample import is_hidden, value_text

    out: list[str] = []
    for o in reversed(cx.old_reads):  # what is near the violation matters more
        a = cx.automaton
        cell = a.cells[o.access.cell]
        if is_hidden(a, o.access.cell):
            continue
        fn, _, line = statement_of(a.where[o.access.pc])
        w_fn, _, w_line = statement_of(a.where[o.newer[1].pc])
        name = short_cell(cell.name)
        got, new = (short_cell(value_text(cell.type, v)) for v in (o.access.value, o.newer[1].value))
        writer = title(a.processes[o.newer[0].process].name)
        where = f"in the store buffer of {writer}" if o.buffered else f"not seen yet, {writer}"
        text = f"old: {name} is {got} in {fn}:{line}; = {new} of {w_fn}:{w_line} is {where}"
        by = [f"{b} {'behind that store' if behind else 'before that read'}" for b, _, behind in o.barriers]
        lines = wrap(text + (f"; {' and '.join(by)} would prevent it" if by else ""), width, "     ")
        if lines[0] not in out:  # the same load of the same loop
            out += lines
    if len(out) > most:
        out = [*out[: most - 1], f"     and so on, {len(cx.old_reads)} loads of old stores (seqfault replay --full)"]
    return out


def same(a: Event, b: Event) -> bool:
    """Two events that would make the same line."""
    return (a.process, a.kind, a.cell, a.value, a.source) == (b.process, b.kind, b.cell, b.value, b.source)


def render(cx: Counterexample, shown: list[int], starts: dict[str, int], width: int) -> list[str]:
    """Each event at its process's column; the text may run on to the right, where nobody else moves in that line."""
    out: list[str] = []
    last: dict[str, str] = {}
    looping = False
    for i in shown:
        e = cx.events[i]
        if not looping and 0 <= cx.loop_from <= e.step:
            looping = True
            last.clear()
            out.append("goes on for ever:")
        if e.process == "at rest":
            out.append(clip(f"at rest: {phrase(e)}", width))
            continue
        at = " " * starts[e.process]
        w = width - len(at)
        if e.kind == "flush":
            out.append(clip(f"{at}      ({phrase(e)})", width))
            continue
        if last.get(e.process) != e.function:
            last[e.process] = e.function
            out.append(clip(f"{at}{e.function}()", width))
        said = phrase(e)
        if e.kind == "violation":
            said = f"*** {said} ***"
        text = f"{e.line:>4}  {e.source}"
        keep = max(14, w - len(said) - 2)
        if len(text) + len(said) + 2 > w and keep < 26 and e.kind == "violation":
            out.append(clip(f"{at}{text}", width))
            out.append(clip(f"{at}      {said}", width))
        else:
            out.append(clip(f"{at}{clip(text, keep)}  {said}", width))
    return out


def clip(text: str, w: int) -> str:
    return text if len(text) <= w else text[: max(1, w - 1)] + "…"


def wrap(text: str, width: int, indent: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width, subsequent_indent=indent)
