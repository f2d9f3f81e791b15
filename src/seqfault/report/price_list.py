"""`seqfault price --list`."""

from __future__ import annotations

from seqfault.cli import dump
from seqfault.price import machines, workloads
from seqfault.price.machines import POLICIES
from seqfault.report.consoles import console


def run_list(json: bool) -> None:
    """The built-in workloads, machines and policies."""
    loads = [workloads.read(n)[0] for n in workloads.builtin()]
    machs = [machines.read(n) for n in machines.builtin()]
    if json:
        dump({
            "workloads": [{"name": w.name, "title": w.title, "unit": w.unit, "source": w.source} for w in loads],
            "machines": [{"name": m.name, "title": m.title, "cpus": m.cpus} for m in machs],
            "policies": POLICIES,
        })  # fmt: skip
        return
    c = console()
    c.print("workloads (--workload)")
    for w in loads:
        c.print(f"  {w.name:16} {w.title}")
    c.print("machines (--machine)")
    for m in machs:
        c.print(f"  {m.name:16} {m.title}")
    c.print("policies of semaphores (--policy)")
    for name, flags in POLICIES.items():
        c.print(f"  {name:16} {', '.join(f'{k}={v}' for k, v in flags.items())}")
