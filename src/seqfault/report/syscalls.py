"""`seqfault run` of a script of system calls: results, the VMAs and pages after each, and the live kernel's."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console

from seqfault.cli import BadInput, dump
from seqfault.live.campaign import Options, open_kernel
from seqfault.live.compare import WHAT, compare
from seqfault.live.errors import KernelError
from seqfault.live.export import Record, observed_pages, read_record
from seqfault.live.fuzz import page_text, result_name, vma_text
from seqfault.live.generate import Geometry
from seqfault.live.model import ModelSide
from seqfault.live.script import ScriptError, parse_script, row_text
from seqfault.mm.fullsize import release_number
from seqfault.mm.opcodes import OP_BRK, OP_MMAP, OP_MREMAP, PAGE_SIZE, WINDOW_BASE


def answer(op: int, code: int) -> str:
    """A result in words."""
    if code < 0:
        return f"-{result_name(op, code)}" if code > -1000 else result_name(op, code)
    if op in (OP_MMAP, OP_MREMAP, OP_BRK) and code >= WINDOW_BASE:
        page, rest = divmod(code - WINDOW_BASE, PAGE_SIZE)
        return f"W+{page}p" + (f"+{rest}" if rest else "")
    return str(code)


def lines_of(r: Record, g: Geometry) -> list[str]:
    """The VMAs (but for the window's fences) and the pages that are there."""
    out = []
    pages = observed_pages(g)
    for p, vmas in sorted(r.vmas.items()):
        who = "child: " if p else ""
        out += [f"{who}{vma_text(v)}" for v in vmas if v[0] > 0 and v[1] < g.nr_pages]
        out += [f"{who}page {n}: {page_text(w)}" for n, w in zip(pages, r.pages[p], strict=True) if w & 0xFFFF]
    return out


def run_syscalls(path: str, text: str, release: str | None, live: bool, json: bool, console: Console) -> bool:
    """Run a script; False if an oracle of the text spoke, or the live kernel differs."""
    import platform

    try:
        rows = parse_script(text, path)
        number = release_number(release or (platform.release() if live else "6.18"))
    except (ScriptError, ValueError) as e:
        raise BadInput(str(e)) from None
    if len(rows) < 2:
        raise BadInput(f"{path} has no operations; write for example munmap(W+520p, 3p) on a line")
    g = Geometry()
    k: Any = None
    if live:
        try:
            k = open_kernel(Options(release=number, detail_every=0))
        except KernelError as e:
            raise BadInput(str(e)) from None
    model = ModelSide(number, g, **(k.sizes if live else {}))
    m = model.run(rows)
    records = [read_record(m.stream[m.offsets[i] : m.offsets[i + 1]], g.observed) for i in range(m.done)]
    kernel: list[Record] = []
    difference = ""
    if live:
        try:
            stream, at, why = k.run(rows)
            mask = k.mask
        finally:
            k.close()
        n = len(at) - 1
        kernel = [read_record(stream[at[i] : at[i + 1]], g.observed) for i in range(n)]
        n = min(n, m.done)
        got = compare(rows, m.stream, m.offsets, np.asarray(stream), np.asarray(at), g.observed, mask, n, g.nr_pages)
        if got is not None:
            difference = f"line {got.row}: {WHAT[got.why]} differs from the live kernel's"
        elif why:
            difference = why
    steps: list[dict[str, Any]] = []
    for i in range(1, len(rows)):
        op = int(rows[i, 0])
        if i >= m.done:
            steps.append({"operation": row_text(rows[i]), "violation": str(m.bug), "result": None, "window": []})
            break
        step: dict[str, Any] = {
            "operation": row_text(rows[i]),
            "result": records[i].result,
            "answer": answer(op, records[i].result),
            "window": lines_of(records[i], g),
        }
        if live and i < len(kernel):
            step["live"] = {"answer": answer(op, kernel[i].result), "window": lines_of(kernel[i], g)}
        steps.append(step)
    if json:
        dump({"release": f"{number // 100}.{number % 100}", "steps": steps, "difference": difference})
    else:
        for s in steps:
            show(s, console)
        if live:
            console.print(difference or "the live kernel did the same", markup=False)
    return m.bug is None and not difference


def plain(lines: list[str]) -> list[str]:
    """Without frames' numbers, which mean nothing between two kernels."""
    return [x.split(" frame ")[0] for x in lines]


def show(s: dict[str, Any], console: Console) -> None:
    console.print(f"{s['operation']}  =>  {s.get('answer') or s['violation']}", markup=False)
    live = s.get("live")
    if live and (live["answer"] != s["answer"] or plain(live["window"]) != plain(s["window"])):
        console.print(f"  model {s['answer']}, live kernel {live['answer']}", markup=False)
        a, b = plain(s["window"]), plain(live["window"])
        for text in a:
            console.print(f"    {'  ' if text in b else 'm '}{text}", markup=False)
        for text in b:
            if text not in a:
                console.print(f"    k {text}", markup=False)
        return
    for text in s["window"]:
        console.print(f"    {text}", markup=False)
