"""Predicted against published: the table of docs/validation.md.

    python bench/validation.py [--ms 60] [--rows v9,v11]

One set of constants a machine (price/machines.toml), none a workload.  What was fitted was so on rows of v9 only.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from seqfault.kernel.places import Protocol
from seqfault.mm import places
from seqfault.mm.fullsize import release_number
from seqfault.price import machines, workloads
from seqfault.price.curves import Point, measure
from seqfault.protocols import baseline_name, load
from seqfault.protocols.spf_common import pte_map_lock_09, pte_spinlock_09


def v9() -> Protocol:
    """v11 as it was in v9: a trylock of a page table's lock that fails is not tried again."""
    p = load("spf-v11").derive("spf-v9", "v9", without=(places.pte_map_lock, places.pte_spinlock))
    p.at(places.pte_map_lock)(pte_map_lock_09)
    p.at(places.pte_spinlock)(pte_spinlock_09)
    p.release, p.sizes["LINUX"] = "4.16", 416
    return p


def on(protocol: str, release: str) -> Protocol:
    """A protocol on the text of another release."""
    if protocol == "spf-v9":
        return v9()
    p = load(protocol)
    if p.release == release:
        return p
    q = p.derive(f"{protocol} on {release}", p.title, p.doc)
    q.release, q.sizes = release, {**p.sizes, "LINUX": release_number(release)}
    return q


@dataclass(frozen=True)
class Row:
    version: str
    workload: str
    machine: str
    cpus: int
    protocol: str
    release: str
    base: float | None  # published
    spf: float | None
    share: float | None = None  # published, of faults that stayed speculative
    note: str = ""


ROWS = (
    Row("RFC v5", "multi-fault", "x86-small", 8, "spf-v5", "4.12", 23_014_776, 23_224_435),
    Row("RFC v5", "multi-fault", "power8-1024", 752, "spf-v5", "4.12", 28_087_752, 32_272_610),
    Row("v9", "ebizzy-random", "x86-vm", 16, "spf-v9", "4.16", 14_902.6, 95_905.16, 884_773 / 888_157),
    Row("v9", "ebizzy-random", "power8-80", 80, "spf-v9", "4.16", 37_240.24, 78_185.67, 728_663 / 762_134),
    Row("v9", "malloc1", "skylake-4s", 192, "spf-v9", "4.16", 90.33, 467.33),
    Row("v11", "ebizzy", "x86-vm", 16, "spf-v11", "4.17", 742.57, 1_490.24, 1_674_599 / 1_706_379),
    Row("v11", "ebizzy", "power8-80", 80, "spf-v11", "4.17", 13_105.4, 24_174.23, 1_461_153 / 1_874_773),
    Row("v11", "page_fault3", "skylake-4s", 192, "spf-v11", "4.17", 10_856, 8_344),
    Row("v11", "page_fault2", "skylake-4s", 192, "spf-v11", "4.17", 8_147, 6_613),
    Row("v11", "page_fault3", "power8-80", 80, "spf-v11", "4.17", 2_697.7, 2_683.5),
    Row("v11", "page_fault2", "power8-80", 80, "spf-v11", "4.17", 170_660.6, 169_574.1),
    Row("v12", "ebizzy", "x86-24", 24, "spf-v12", "5.1", 5_492.69, 9_383.07),
    Row("v12", "ebizzy", "x86-48", 48, "spf-v12", "5.1", None, None, 10_886_706 / 11_846_569),
    Row("v12", "ebizzy", "power8-1024", 1024, "spf-v12", "5.1", 8_476.74, 17_144.38, 1_284_910 / 1_359_789),
)
# vm_refcnt against the VMA's rwsem: faults of N CPUs (mmtests' pft: threads that fault parts of one mapping)
REFCNT = ((1, -0.0028), (12, 0.0126), (21, 0.1476), (30, 0.1305), (48, 0.1291), (56, 0.1189))


def point(r: Row, p: Protocol, ms: float) -> Point:
    mach = machines.read(r.machine)
    # long enough for each thread to map and unmap twice, which takes 170 ms on 192 CPUs
    return measure(workloads.read(r.workload)[0], p, r.cpus, mach, ms=max(ms, min(2.5 * r.cpus, 600)))


def rows(ms: float, only: str = "") -> None:
    print("| version | workload | machine | SPF/base: published | predicted | | share speculative: published | predicted | first reason |")
    print("|---|---|---|---|---|---|---|---|---|")
    for r in ROWS:
        if only and r.version.split()[-1] not in only.split(","):
            continue
        base = point(r, load(baseline_name(r.release)), ms)
        spf = point(r, on(r.protocol, r.release), ms)
        want = r.spf / r.base if r.spf and r.base else None
        got = spf.rate / base.rate
        # a change that was published must be there, and to the same side; none must be none
        side = want is not None and (abs(want - 1) < 0.05 or (abs(got - 1) > 0.02 and (got > 1) == (want > 1)))
        verdict = "-" if want is None else "ok" if side and abs(got / want - 1) <= 0.25 else "**miss**"
        first = next(iter(spf.reasons), "-")
        ratio = f"{want:.2f}" if want else "-"
        share = f"{100 * r.share:.1f}%" if r.share else "-"
        mine = f"{100 * (spf.share or 0):.1f}%"
        if r.share:
            mine += " ok" if abs((spf.share or 0) - r.share) <= 0.03 else " **miss**"
        print(
            f"| {r.version} | {r.workload} | {r.machine}, {r.cpus} CPUs | {ratio} | {got:.2f} | {verdict} | {share} | {mine} | {first} |",
            flush=True,
        )


def others(ms: float) -> None:
    mach = machines.read("broadwell-2s")
    w = workloads.read("multi-fault")[0]
    print("\n| vm-refcnt against per-vma-lock, multi-fault | published | predicted |\n|---|---|---|")
    for n, want in REFCNT:
        a, b = (measure(w, load(p), n, mach, ms=ms).rate for p in ("per-vma-lock", "vm-refcnt"))
        print(f"| {n} CPUs | {100 * want:+.2f}% | {100 * (b / a - 1):+.2f}% |", flush=True)
    w = workloads.read("fault-vs-mmap")[0]
    small = machines.read("x86-small")
    print("\n| mmap loop beside a fault that waits for a disk | published | predicted |\n|---|---|---|")
    for p, want in (("mmap-sem", "55 loops/s"), ("mmap-sem-5.1", "15,000 loops/s")):
        print(f"| {p} | {want} | {measure(w, load(p), 2, small).rate:,.0f} loops/s |", flush=True)
    w, mach = workloads.read("small-allocs")[0], machines.read("cascadelake-2s")
    print("\n| small-allocs, 192 threads, by policy of the semaphore | maps/s |\n|---|---|")
    for policy in ("stealing", "handoff", "fifo", "no-spin"):
        print(f"| {policy} | {measure(w, load('mmap-sem'), 192, mach, policy, ms=ms).rate:,.0f} |", flush=True)


if __name__ == "__main__":
    args = argparse.ArgumentParser()
    args.add_argument("--ms", type=float, default=60)
    args.add_argument("--rows", default="", help="versions, such as v9,v11; with it, no other table")
    args = args.parse_args()
    rows(args.ms, args.rows)
    if not args.rows:
        others(args.ms)
