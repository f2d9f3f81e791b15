"""Compared operations a second on one core: the whole of `fuzz`, and its two sides alone; beside ctypes calls.

    taskset -c 0 python bench/fuzz.py [--ops 100000] [--rounds 5]

Rounds are interleaved; prints median (least, most) of each, CPU time of all processes included.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import resource
import statistics
import time

import numpy as np

from seqfault.live.campaign import Options, open_pair
from seqfault.live.fuzz import run_chunk
from seqfault.live.generate import programs
from seqfault.mm.fullsize import release_number


def cpu_s() -> float:
    return sum(
        r.ru_utime + r.ru_stime for r in (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def ctypes_calls(n: int) -> None:
    """The peer: mmap and munmap of a page by ctypes, uncompared."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    for _ in range(n // 2):
        p = libc.mmap(None, ctypes.c_size_t(4096), 3, 0x22, -1, ctypes.c_long(0))
        libc.munmap(ctypes.c_void_p(p), ctypes.c_size_t(4096))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ops", type=int, default=100_000)
    p.add_argument("--rounds", type=int, default=5)
    a = p.parse_args()
    o = Options(ops=a.ops, release=release_number(platform.release()), sample=0)
    pair = open_pair(o)
    count = a.ops // o.program_ops
    per = 40
    rates: dict[str, list[float]] = {"fuzz": [], "model alone": [], "kernel side alone": [], "ctypes, not compared": []}

    def timed(name: str, ops: int, fn) -> None:  # type: ignore[no-untyped-def]
        t = time.perf_counter()
        fn()
        rates[name].append(ops / (time.perf_counter() - t))

    def fuzz() -> None:
        for k in range(0, count, per):
            t = run_chunk(pair, o.plan, k, per, o.seal)
            assert not t.found, "a mismatch; run seqfault fuzz"

    rows = programs(o.plan, 0, per, o.seal)
    for _ in range(a.rounds):
        timed("fuzz", count * o.program_ops, fuzz)
        timed("model alone", len(rows), lambda: pair.model.run(rows))
        timed("kernel side alone", len(rows), lambda: pair.kernel.run(rows))
        timed("ctypes, not compared", 20_000, lambda: ctypes_calls(20_000))
    pair.close()
    print(f"{platform.release()}, CPUs {sorted(os.sched_getaffinity(0))}, {a.ops:,} operations a round, {a.rounds} rounds")
    for k, v in rates.items():
        print(f"{k:22} {statistics.median(v):10,.0f} /s  ({min(v):,.0f}-{max(v):,.0f})")
    print(f"CPU time of all: {cpu_s():.1f} s; numpy {np.__version__}")


if __name__ == "__main__":
    main()
