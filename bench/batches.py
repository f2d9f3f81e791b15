"""A generated family of two-CPU scenarios, explored in one batch.

    python bench/batches.py [--count 20000] [--protocol spf-v5] [--threads 1]
"""

from __future__ import annotations

import argparse
import itertools
import random
import time


def family(count: int, seed: int) -> list[object]:
    """Two-CPU scenarios: layouts times pairs of operations, in an order given by the seed."""
    from seqfault.scenarios.model import from_dict

    layouts = [["mmap 0-3 rw", f"write {p} 1"] for p in range(3)] + [
        ["mmap 1-4 rw", *(f"write {p} 1" for p in range(1, n))] for n in range(2, 5)
    ]
    pages = [f"{i}-{j}" for i in range(4) for j in range(i + 1, 5)]
    writers = [f"{op} {r}{more}" for op, more in (("munmap", ""), ("mprotect", " r"), ("mprotect", " none")) for r in pages]
    writers += [f"madvise {r} dontneed" for r in pages] + [f"mmap {r} rw" for r in pages]
    others = [f"{op} {p}{v}" for op, v in (("read", ""), ("write", " 7")) for p in range(4)]
    all_ = [
        (layout, [[a], [x]]) for layout, a, x in itertools.product(layouts, writers, others)
    ] + [(layout, [[a], [x, y]]) for layout, a, x, y in itertools.product(layouts, writers, others, others)]
    random.Random(seed).shuffle(all_)
    return [from_dict({"name": f"batch/{i}", "setup": s, "cpus": c}, "batch") for i, (s, c) in enumerate(all_[:count])]


def report(count: int, protocol_name: str = "spf-v5", threads: int = 1) -> str:
    from seqfault.explore.many import explore_batch
    from seqfault.explore.model import automaton_for, program_for
    from seqfault.protocols import load
    from seqfault.scenarios.model import ScenarioError, initial_cells

    protocol = load(protocol_name)
    starts, bad = [], 0
    t = time.perf_counter()
    for s in family(2 * count, 1):
        a = automaton_for(protocol, s)  # type: ignore[arg-type]
        try:
            cells = initial_cells(program_for(protocol, s).layout(), protocol, s)  # type: ignore[arg-type]
        except ScenarioError:
            bad += 1
            continue
        starts.append((a.pack(cells), a.rom(cells)))
        if len(starts) == count:
            break
    prepared = time.perf_counter() - t
    explore_batch(a, starts[:2], threads=threads)
    c, t = time.process_time(), time.perf_counter()
    done = explore_batch(a, starts, threads=threads)
    t, c = time.perf_counter() - t, time.process_time() - c
    states, transitions = sum(e.states for e in done), sum(e.transitions for e in done)
    return (
        f"batch of {len(done):,} two-CPU scenarios of {protocol_name}, {threads} threads: {states:,} states (mean {states / len(done):,.0f}), "
        f"{transitions:,} transitions, {t:.1f} s ({c:.1f} s CPU): {transitions / t / 1e6:.2f} M transitions/s "
        f"({transitions / c / 1e6:.2f} by CPU time), {len(done) / t:,.0f} scenarios/s; to prepare them {prepared:.1f} s"
    )


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--count", type=int, default=20_000)
    ap.add_argument("--protocol", default="spf-v5")
    ap.add_argument("--threads", type=int, default=1)
    args = ap.parse_args()
    print(report(args.count, args.protocol, args.threads))
