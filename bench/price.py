"""How fast virtual time is: priced accesses of the mm text a second, and queues' events against SimPy, in one run.

By time of the CPU, the best of several runs, in turns: hosts of virtual machines change their speed.

    python bench/price.py

SimPy is optional (`pip install simpy`).
"""

from __future__ import annotations

import time

from seqfault.price import machines, workloads
from seqfault.price.curves import policy_of
from seqfault.price.machines import POLICIES
from seqfault.price.queues import READERS_WRITERS, machine
from seqfault.price.world import World
from seqfault.protocols import load

BEST_OF = 3


def accesses() -> None:
    mach = machines.read("skylake-4s")
    for name in ("ebizzy", "page_fault1", "page_fault3"):
        (w,) = workloads.read(name)
        for protocol in ("mmap-sem", "spf-v5", "vm-refcnt"):
            p = load(protocol)
            best, o = 0.0, None
            for _ in range(BEST_OF):
                world = World(p, mach, w.programs(64, mach.page), w.setup_rows(mach.page), costs=POLICIES[policy_of(p)], cpus=64)
                t = time.process_time()
                o = world.run(2e6, 2e7)
                best = max(best, world.m.get("vclock", "accesses") / (time.process_time() - t))
            assert o is not None
            print(f"{name:12} {protocol:10} 64 CPUs: {best / 1e6:6.1f} M priced accesses/s")


def events() -> None:
    try:
        import simpy
    except ImportError:
        simpy = None
    for n in (4, 64, 1024):
        think, best, slow = 100.0 * n, 0.0, 0.0
        for _ in range(BEST_OF):
            m = machine(READERS_WRITERS, n, think, 200, writers=0.1, hold_write=100)
            t = time.process_time()
            m.run(5e8)
            best = max(best, 2 * m.get("model", "visits") / (time.process_time() - t))
            slow = max(slow, simpy_rate(simpy, n, think)) if simpy is not None else 0.0
        line = f"readers and writers, {n:4} CPUs: {best / 1e6:6.2f} M events/s"
        if slow:
            line += f", SimPy {slow / 1e6:.3f} M, {best / slow:.0f} times"
        print(line)


def simpy_rate(simpy, n: int, think: float) -> float:
    """The same model with a fair queue in SimPy."""
    from collections import deque
    from random import Random

    r, env, queue, state, seen = Random(1), simpy.Environment(), deque(), [0, 0], [0]

    def grant():
        while queue and not state[1] and not (queue[0][0] and state[0]):
            write, event = queue.popleft()
            state[int(write)] += 1
            event.succeed()

    def cpu():
        while True:
            yield env.timeout(r.expovariate(1 / think))
            write, event = r.random() < 0.1, env.event()
            queue.append((write, event))
            grant()
            yield event
            yield env.timeout(r.expovariate(1 / (100 if write else 200)))
            seen[0] += 1
            state[int(write)] -= 1
            grant()

    for _ in range(n):
        env.process(cpu())
    t = time.process_time()
    env.run(until=100_000 * think / n)
    return 2 * seen[0] / (time.process_time() - t)


if __name__ == "__main__":
    events()
    accesses()
