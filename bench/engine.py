"""The engine beside Spin, on the same models, in one run, taking turns.

    python bench/engine.py [--rounds 5] [--models DIR] [--size 2,2,3,3]

Needs Debian's `spin` and gcc for the peer; without them only seqfault is timed, and the output says so. DIR holds record.pml
(written for Spin by hand); without it the model below is written out. Prints states, states a second (wall and CPU), the
ratio round by round with its spread, bytes a state, and the time from start to verdict of one small scenario.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECORD_PML = """
byte seq, a, b; bit lk;
active [NW] proctype W() { byte r;
end: do
 :: atomic { r < KW && lk==0 -> lk=1 };
    seq++; a++; b++; seq++;
    atomic { lk=0; r++ }
 od }
active [NR] proctype R() { byte r, s, x, y;
end: do
 :: atomic { r < KR -> s=seq; if :: (s&1) -> s=0; r++; goto end :: else fi };
    x=a; y=b;
    atomic { assert(seq!=s || x==y); s=0; x=0; y=0; r++ }
 od }
"""


def cpu_children() -> float:
    r = resource.getrusage(resource.RUSAGE_CHILDREN)
    return r.ru_utime + r.ru_stime


def build_pan(folder: Path, model: str, size: tuple[int, ...]) -> Path | None:
    if not (shutil.which("spin") and shutil.which("gcc")):
        return None
    (folder / "m.pml").write_text(model)
    defs = [f"-D{k}={v}" for k, v in zip(("NW", "NR", "KW", "KR"), size, strict=True)]
    subprocess.run(["spin", "-a", *defs, "m.pml"], cwd=folder, check=True, capture_output=True)
    flags = ["-O2", "-DSAFETY", "-DNOREDUCE", "-o", "pan", "pan.c"]
    subprocess.run(["gcc", *flags], cwd=folder, check=True, capture_output=True)
    return folder / "pan"


def spin(pan: Path) -> tuple[int, float, float]:
    """States, wall seconds, CPU seconds."""
    c, t = cpu_children(), time.perf_counter()
    out = subprocess.run([str(pan), "-m10000000", "-w24"], cwd=pan.parent, capture_output=True, text=True).stdout
    t, c = time.perf_counter() - t, cpu_children() - c
    m = re.search(r"(\d+) states, stored", out)
    return int(m[1]) if m else -1, t, c


def ours(size: tuple[int, ...]) -> tuple[int, float, float, float]:
    """States, wall seconds, CPU seconds, bytes a state; compiled and warmed up before."""
    from seqfault.compile.program import compile_program
    from seqfault.explore.engine import explore
    from seqfault.models import record

    p = record.program(*size)  # type: ignore[arg-type]
    a = compile_program(p, "full")
    cells = p.layout().start
    c, t = time.process_time(), time.perf_counter()
    ex = explore(a, a.pack(cells), a.rom(cells), mode="full", dead=False)
    return ex.states, time.perf_counter() - t, time.process_time() - c, ex.bytes / ex.states


def spread(xs: list[float]) -> str:
    return f"{statistics.median(xs):.2f} ({min(xs):.2f}-{max(xs):.2f})"


def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--models", type=Path)
    ap.add_argument("--size", default="2,2,3,3")
    args = ap.parse_args()
    size = tuple(int(x) for x in args.size.split(","))
    model = (args.models / "record.pml").read_text() if args.models else RECORD_PML
    ours((1, 2, 2, 2))
    with tempfile.TemporaryDirectory() as d:
        pan = build_pan(Path(d), model, size)
        if pan is None:
            print("spin or gcc is not installed: no peer (Debian packages spin, gcc)")
        rows: dict[str, list[float]] = {"ours": [], "spin": [], "ours cpu": [], "spin cpu": [], "ratio": []}
        for _ in range(args.rounds):
            n, t, c, b = ours(size)
            rows["ours"].append(n / t / 1e6)
            rows["ours cpu"].append(n / c / 1e6)
            if pan is not None:
                m, ts, cs = spin(pan)
                if m != n:
                    print(f"the counts differ: {n} here, {m} in Spin")
                    return 1
                rows["spin"].append(m / ts / 1e6)
                rows["spin cpu"].append(m / cs / 1e6)
                rows["ratio"].append(ts / t)
        print(f"record {args.size}: {n:,} states, reductions off, {args.rounds} rounds in turn")
        print(
            f"  seqfault  {spread(rows['ours'])} M states/s, by CPU time {spread(rows['ours cpu'])}, {b:.1f} bytes a state"
        )
        if pan is not None:
            print(f"  Spin      {spread(rows['spin'])} M states/s, by CPU time {spread(rows['spin cpu'])}")
            print(f"  seqfault / Spin {spread(rows['ratio'])}")
    small = [sys.executable, "-m", "seqfault.cli", "check", "spf-seed", "-s", "argued/case8-alone", "--examples", "0"]
    times = []
    for _ in range(args.rounds + 1):
        t0 = time.perf_counter()
        subprocess.run(small, capture_output=True, env=os.environ)
        times.append(time.perf_counter() - t0)
    print(f"start to verdict, one small scenario, caches warm: {spread(times[1:])} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
