"""The engine beside Spin and a checker in Python, on the same models, in one run, taking turns.

    python bench/engine.py [--rounds 3] [--sizes 0.4,4,12] [--mm] [--batch 20000] [--json FILE]

Sizes are millions of states: 0.4 and 4 (record), 12 and 73 (seq).  Spin's models are seqfault's own export of the same
text (`seqfault export promela`); reductions are off on both sides, so the counts must be equal, and Spin's default
reduction is shown beside.  Both are told how many states to expect (Spin's -w, seqfault's `expect`).  --mm: a three-CPU
scenario of a million states and more; --batch: so many generated two-CPU scenarios.  Each figure is a median, with the
least and the greatest of the rounds; ratios are taken round by round.  Needs Debian's spin and gcc for the peer,
minicheck (PyPI) for the other.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import spin

SIZES: dict[str, tuple[str, tuple[int, ...], int]] = {
    "0.4": ("record", (1, 2, 4, 4), 444_825),
    "4": ("record", (2, 2, 3, 3), 4_157_242),
    "12": ("seq", (1, 3, 2, 2), 12_265_012),
    "73": ("seq", (2, 2, 2, 1), 73_410_992),
}
MM = ("spf-v5", "two-faults/munmap-two-pages")


@dataclass
class Row:
    """Rounds of one executor on one model."""

    name: str
    states: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    bytes: list[float] = field(default_factory=list)

    def add(self, states: int, seconds: float, cpu_s: float, size: float) -> None:
        self.states.append(states)
        self.seconds.append(seconds)
        self.cpu_s.append(cpu_s)
        self.bytes.append(size / states)

    def text(self, peer: Row | None) -> str:
        n = self.states[0]
        out = f"  {self.name:28} {n:>11,} states  {spread([n / s / 1e6 for s in self.seconds])} M states/s"
        out += f", by CPU time {spread([n / s / 1e6 for s in self.cpu_s])}, {statistics.median(self.bytes):6.1f} bytes a state"
        if peer is not None and peer is not self and peer.seconds:
            wall = [b / a * n / peer.states[0] for a, b in zip(self.seconds, peer.seconds, strict=False)]
            cpu = [b / a * n / peer.states[0] for a, b in zip(self.cpu_s, peer.cpu_s, strict=False)]
            out += f"\n  {'':28} against Spin's states/s: {spread(wall)}, by CPU time {spread(cpu)}"
        return out


def spread(xs: Sequence[float]) -> str:
    return f"{statistics.median(xs):.2f} ({min(xs):.2f}-{max(xs):.2f})"


def timed(fn: Callable[[], Any]) -> tuple[Any, float, float]:
    c, t = time.process_time(), time.perf_counter()
    r = fn()
    return r, time.perf_counter() - t, time.process_time() - c


def small(name: str, size: tuple[int, ...], states: int, rounds: int, tier0: bool) -> list[Row]:
    """One model: Spin, tier 0, tier 1 with one and two threads and with whole states."""
    from seqfault.compile.program import compile_program
    from seqfault.explore.tiers import explore
    from seqfault.models import record, seq
    from seqfault.report.export import export_model

    module = {"record": record, "seq": seq}[name]
    program = module.program(*size)
    a = compile_program(program, "full")
    init, rom = a.pack(program.layout().start), a.rom(program.layout().start)
    ours = {
        "seqfault, 1 thread": {"threads": 1},
        "seqfault, 2 threads": {"threads": 2},
        "seqfault, whole states": {"threads": 1, "exact": True},
        "seqfault, nothing expected": {"threads": 1, "expect": 0},
    }
    if tier0:
        ours["seqfault, tier 0"] = {"tier": 0}
    rows = {n: Row(n) for n in ("Spin", "Spin, default reduction", *ours)}
    with tempfile.TemporaryDirectory() as d1, tempfile.TemporaryDirectory() as d2:
        pans: list[tuple[str, Path, str]] = []
        if spin.available():
            text = export_model(name, ",".join(map(str, size)), "full").text
            w = f"-w{min(28, max(20, math.ceil(math.log2(states))))}"
            pans.append(("Spin", spin.build_pan(Path(d1), text), w))
            pans.append(("Spin, default reduction", spin.build_pan(Path(d2), text, (), ("-DSAFETY",)), w))
        for options in ours.values():  # what is compiled is compiled before
            warm = compile_program(seq.program(1, 1, 1, 1), "full")
            cells = seq.program(1, 1, 1, 1).layout().start
            explore(warm, warm.pack(cells), warm.rom(cells), mode="full", dead=False, **{"expect": 0, **options})
        for _ in range(rounds):
            for n, pan, w in pans:
                r = spin.run_pan(pan, ("-m1000000", w, *spin.COUNT))
                rows[n].add(r.states, r.seconds, r.cpu_s, r.bytes)
            for n, options in ours.items():
                more = {} if options.get("tier") == 0 else {"traced": False}
                shape = {"expect": 0 if options.get("tier") == 0 else states, **options, **more}
                ex, t, c = timed(lambda s=shape: explore(a, init, rom, mode="full", dead=False, **s))
                rows[n].add(ex.states, t, c, ex.bytes)
    for n in ("Spin", *ours):
        for got in rows[n].states:
            if got != states:
                raise SystemExit(f"{n}: {got} states, {states} are right")
    return [r for r in rows.values() if r.states]


def python_peer(size: tuple[int, ...]) -> str:
    """minicheck on the record model, written as its own documentation shows."""
    try:
        from minicheck import Protocol, check_safety
    except ImportError:
        return "  minicheck is not installed: pip install minicheck"
    nw, nr, kw, kr = size

    def steps(s: tuple[Any, ...]) -> list[tuple[str, tuple[Any, ...]]]:
        seq, a, b, lk, ws, rs = s
        out: list[tuple[str, tuple[Any, ...]]] = []
        for i, (pc, r) in enumerate(ws):
            w = lambda v, i=i: (*ws[:i], v, *ws[i + 1 :])  # noqa: E731
            if pc == 0 and r < kw and not lk:
                out.append(("lock", (seq, a, b, 1, w((1, r)), rs)))
            elif pc == 1:
                out.append(("seq", (seq + 1, a, b, lk, w((2, r)), rs)))
            elif pc == 2:
                out.append(("a", (seq, a + 1, b, lk, w((3, r)), rs)))
            elif pc == 3:
                out.append(("b", (seq, a, b + 1, lk, w((4, r)), rs)))
            elif pc == 4:
                out.append(("seq", (seq + 1, a, b, lk, w((5, r)), rs)))
            elif pc == 5:
                out.append(("unlock", (seq, a, b, 0, w((0, r + 1)), rs)))
        for i, (pc, r, v, x, _y) in enumerate(rs):
            p = lambda q, i=i: (seq, a, b, lk, ws, (*rs[:i], q, *rs[i + 1:]))  # noqa: E731
            if pc == 0 and r < kr:
                out.append(("s", p((0, r + 1, 0, 0, 0)) if seq & 1 else p((1, r, seq, 0, 0))))
            elif pc == 1:
                out.append(("x", p((2, r, v, a, 0))))
            elif pc == 2:
                out.append(("y", p((3, r, v, x, b))))
            elif pc == 3:
                out.append(("end", p((0, r + 1, 0, 0, 0))))
        return out

    start = (0, 0, 0, 0, ((0, 0),) * nw, ((0, 0, 0, 0, 0),) * nr)
    m = Protocol(
        name="record", candidate=False, fields=("seq", "a", "b", "lk", "ws", "rs"), initial=start, transitions=steps,
        invariants={"same": lambda d: all(r[0] != 3 or r[2] != d["seq"] or r[3] == r[4] for r in d["rs"])},
    )  # fmt: skip
    r, t, c = timed(lambda: check_safety(m, max_states=1_000_000))
    n = r.get("states", r.get("state_count", 0)) or r.get("reachable_states", 0)
    return f"  {'minicheck':28} {n:>11,} states  {n / t / 1e6:.3f} M states/s, by CPU time {n / c / 1e6:.3f}"


def scenario(rounds: int) -> list[Row]:
    """A scenario of the mm text, exported; tier 1 keeps fingerprints and parents."""
    from seqfault.explore.model import automaton_for, program_for
    from seqfault.explore.tiers import explore
    from seqfault.protocols import load
    from seqfault.report.export import export_scenario
    from seqfault.scenarios import find
    from seqfault.scenarios.model import initial_cells

    protocol, s = load(MM[0]), find([MM[1]])[0]
    a = automaton_for(protocol, s)
    cells = initial_cells(program_for(protocol, s).layout(), protocol, s)
    running = [p.role != 0 or (p.cpu < len(s.cpus) and bool(s.cpus[p.cpu])) for p in a.processes]
    init, rom = a.pack(cells, running), a.rom(cells)
    ours: dict[str, dict[str, Any]] = {
        "seqfault, 1 thread": {"threads": 1, "traced": False},
        "seqfault, 2 threads": {"threads": 2, "traced": False},
        "seqfault, movers": {"threads": 1, "movers": True},
    }
    for options in ours.values():
        explore(a, init, rom, max_states=20_000, **options)
    rows = {n: Row(n) for n in ("Spin", *ours)}
    with tempfile.TemporaryDirectory() as d:
        pan = None
        if spin.available():
            cc = (*spin.FULL, "-DVECTORSZ=1024", "-DNOBOUNDCHECK")
            pan = spin.build_pan(Path(d), export_scenario(MM[0], s).text, spin.EXACT, cc)
        for _ in range(rounds):
            if pan is not None:
                r = spin.run_pan(pan, ("-m1000000", "-w23", *spin.COUNT))
                rows["Spin"].add(r.states, r.seconds, r.cpu_s, r.bytes)
            for n, options in ours.items():
                ex, t, c = timed(lambda o=options: explore(a, init, rom, **o))
                rows[n].add(ex.states, t, c, ex.bytes)
    return [r for r in rows.values() if r.states]


def small_scenario() -> list[float]:
    """Seconds from start to verdict of one small scenario, caches warm."""
    cmd = [sys.executable, "-m", "seqfault.cli", "check", "spf-seed", "-s", "argued/case8-alone", "--examples", "0"]
    out = []
    for _ in range(6):
        t = time.perf_counter()
        subprocess.run(cmd, capture_output=True, env=os.environ)
        out.append(time.perf_counter() - t)
    return out[1:]


def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--sizes", default="0.4,4,12")
    ap.add_argument("--mm", action="store_true")
    ap.add_argument("--batch", type=int, default=0)
    ap.add_argument("--json", type=Path)
    args = ap.parse_args()
    if not spin.available():
        print("spin or gcc is not installed: no peer (Debian packages spin, gcc)")
    all_rows: dict[str, list[Row]] = {}
    for size in args.sizes.split(",") if args.sizes else []:
        name, shape, states = SIZES[size]
        title = f"{name} {','.join(map(str, shape))}: {states:,} states, reductions off, {args.rounds} rounds in turn"
        print(title, flush=True)
        rows = all_rows[title] = small(name, shape, states, args.rounds, states < 20_000_000)
        for r in rows:
            print(r.text(rows[0] if rows[0].name == "Spin" else None), flush=True)
        if size == "0.4":
            print(python_peer(shape), flush=True)
    if args.mm:
        title = f"{MM[0]} {MM[1]}, {args.rounds} rounds in turn"
        print(title, flush=True)
        rows = all_rows[title] = scenario(args.rounds)
        for r in rows:
            print(r.text(rows[0] if rows[0].name == "Spin" else None), flush=True)
    if args.batch:
        import batches

        print(batches.report(args.batch), flush=True)
    print(f"start to verdict, one small scenario, caches warm: {spread(small_scenario())} s")
    if args.json:
        args.json.write_text(json.dumps({t: [vars(r) for r in rows] for t, rows in all_rows.items()}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
