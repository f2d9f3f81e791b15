"""Spin as the peer: build a verifier from a model's text, run it, read what it says.

Needs Debian's `spin` and gcc.  `python bench/spin.py PROTOCOL SCENARIO` exports a scenario and prints Spin's figures without
reduction, with its default reduction, and with collapsed states, beside seqfault's own.
"""

from __future__ import annotations

import argparse
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

EXACT = ("-o1", "-o2", "-o3")  # no dataflow, no dead variables, no merging of statements: each step is a state
FULL = ("-DSAFETY", "-DNOREDUCE")
COUNT = ("-A", "-E")  # no assertions, no invalid end states


class SpinError(Exception):
    """spin, gcc or the verifier failed; what it said."""


@dataclass(frozen=True)
class Run:
    """One run of a verifier.

    `states` stored, `transitions`; `seconds` of wall clock and `cpu_s` of CPU time for the whole process; `bytes`: memory in
    all, with the hash table and the stack; `vector`: bytes of a state; `depth` reached; `errors`; `kinds`: the text of
    each assertion that failed; `complete`: neither memory nor the depth ran out.
    """

    states: int
    transitions: int
    seconds: float
    cpu_s: float
    bytes: int
    vector: int
    depth: int
    errors: int
    kinds: tuple[str, ...]
    complete: bool
    output: str


def available() -> bool:
    """Are spin and gcc installed?"""
    return bool(shutil.which("spin") and shutil.which("gcc"))


def call(args: Sequence[str], folder: Path) -> None:
    r = subprocess.run(list(args), cwd=folder, capture_output=True, text=True)
    if r.returncode:
        raise SpinError(f"{' '.join(args)}: {(r.stdout + r.stderr).strip()[:500]}")


def build_pan(
    folder: Path, model_text: str, spin_flags: Sequence[str] = EXACT, cc_flags: Sequence[str] = FULL
) -> Path:
    """Make `folder`/pan from a model.  `cc_flags` come after -O2 (a later -O wins).  Raises `SpinError`."""
    (folder / "model.pml").write_text(model_text)
    (folder / "pan.c").unlink(missing_ok=True)
    call(["spin", "-a", *spin_flags, "model.pml"], folder)
    call(["gcc", "-O2", "-w", *cc_flags, "-o", "pan", "pan.c"], folder)
    return folder / "pan"


def run_pan(pan: Path, args: Sequence[str] = ("-m1000000", "-w24", *COUNT)) -> Run:
    """Run a verifier and read its figures.  Raises `SpinError` if there are none."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    t = time.perf_counter()
    r = subprocess.run([str(pan), *args], cwd=pan.parent, capture_output=True, text=True)
    t = time.perf_counter() - t
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    out = r.stdout

    def figure(pattern: str) -> float:
        m = re.search(pattern, out)
        if m is None:
            raise SpinError(f"{pan}: no figures: {(out + r.stderr).strip()[:500]}")
        return float(m[1])

    kinds = tuple(dict.fromkeys(re.findall(r"assertion violated (.*) \(at depth", out)))
    return Run(
        states=int(figure(r"([\d.e+]+) states, stored")),
        transitions=int(figure(r"([\d.e+]+) transitions")),
        seconds=t,
        cpu_s=cpu,
        bytes=int(figure(r"([\d.]+)\s+total actual memory usage") * (1 << 20)),
        vector=int(figure(r"State-vector (\d+) byte")),
        depth=int(figure(r"depth reached (\d+)")),
        errors=int(figure(r"errors: (\d+)")),
        kinds=kinds,
        complete="max search depth too small" not in out and "Search not completed" not in out,
        output=out,
    )


def main() -> int:
    from seqfault.explore.check import Limits, run_one
    from seqfault.protocols import load
    from seqfault.report.export import export_scenario
    from seqfault.scenarios import find

    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("protocol")
    ap.add_argument("scenario")
    ap.add_argument("--cc", default="-O2", help="gcc's flags")
    ap.add_argument("-m", default="1000000", help="depth of Spin's stack")
    ap.add_argument("-w", default="24", help="log2 of Spin's hash table")
    args = ap.parse_args()
    if not available():
        print("spin or gcc is not installed (Debian packages spin, gcc)")
        return 2
    scenario = find([args.scenario])[0]
    run_one(load("mmap-sem"), find(["argued/case1-alone"])[0], Limits())  # what numba compiles is compiled before
    _, ex, _ = run_one(load(args.protocol), scenario, Limits())
    print(f"{args.protocol} {scenario.name}", flush=True)
    row = "{:34} {:>11,} states {:>12,} transitions {:8.1f} s {:8.1f} k states/s {:7.1f} bytes a state"
    print(row.format("seqfault", ex.states, ex.transitions, ex.seconds, ex.states / ex.seconds / 1e3, ex.bytes / ex.states))
    t = time.perf_counter()
    x = export_scenario(args.protocol, scenario)
    print(f"export {time.perf_counter() - t:.1f} s, {len(x.text) / 1e6:.2f} MB, {x.locations} locations", flush=True)
    variants = (("no reduction", EXACT, FULL), ("default reduction", (), ("-DSAFETY",)), ("no reduction, -DCOLLAPSE", EXACT, (*FULL, "-DCOLLAPSE")))
    with tempfile.TemporaryDirectory() as d:
        for name, spin_flags, cc in variants:
            t = time.perf_counter()
            pan = build_pan(Path(d), x.text, spin_flags, (*cc, "-DVECTORSZ=4096", *args.cc.split()))
            built = time.perf_counter() - t
            r = run_pan(pan, (f"-m{args.m}", f"-w{args.w}", *COUNT))
            print(row.format(f"Spin, {name}", r.states, r.transitions, r.seconds, r.states / r.seconds / 1e3, r.bytes / r.states))
            print(f"  {r.cpu_s:.1f} s CPU, vector {r.vector} bytes, depth {r.depth}, complete {r.complete}; built in {built:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
