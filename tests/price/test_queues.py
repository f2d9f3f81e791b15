"""Virtual time against queues whose answers are known, and against SimPy.

Of enough visits that the error of sampling is well below the 2% that is asked for.
"""

from __future__ import annotations

from math import factorial

import pytest

from seqfault.price.queues import CLOSED, OPEN, READERS_WRITERS, machine, measure


def repairmen(n: int, c: int, think: float, hold: float) -> tuple[float, float]:
    """M/M/c//N: throughput and mean wait."""
    p = [1.0]
    for k in range(1, n + 1):
        p.append(p[-1] * (n - k + 1) / min(k, c) * hold / think)
    total = sum(p)
    x = sum(min(k, c) * q for k, q in enumerate(p)) / total / hold
    waiting = sum(max(k - c, 0) * q for k, q in enumerate(p)) / total
    return x, waiting / x


def erlang_c(c: int, load: float) -> float:
    """The probability to wait in M/M/c with `load` Erlang."""
    last = load**c / factorial(c) * c / (c - load)
    return last / (sum(load**k / factorial(k) for k in range(c)) + last)


@pytest.mark.parametrize("n,c,think", [(4, 1, 1000), (64, 1, 15000), (256, 8, 8000)])
def test_machines_and_repairmen(n, c, think):
    x, w = repairmen(n, c, think, 200)
    got = measure(machine(CLOSED, n, think, 200, servers=c), 1_000_000 / x)
    assert got.rate == pytest.approx(x, rel=0.02)
    assert got.wait == pytest.approx(w, rel=0.02)


@pytest.mark.parametrize("c,load", [(1, 0.7), (4, 3.0)])
def test_open_stations(c, load):
    hold = 200.0
    wait = erlang_c(c, load) * hold / (c - load)
    # several streams, since waits of one busy stream depend on each other for long
    runs = [measure(machine(OPEN, 256, hold / load, hold, servers=c, seed=s), 4e8) for s in range(3)]
    visits = sum(r.visits for r in runs)
    assert sum(r.wait * r.visits for r in runs) / visits == pytest.approx(wait, rel=0.02)


def test_one_reader_or_writer_at_a_time_is_a_repairman():
    x, w = repairmen(16, 1, 4000, 200)
    got = measure(machine(READERS_WRITERS, 16, 4000, 200, writers=1), 500_000 / x)
    assert (got.rate, got.wait) == (pytest.approx(x, rel=0.02), pytest.approx(w, rel=0.02))


def test_readers_never_wait_for_readers():
    got = measure(machine(READERS_WRITERS, 16, 1000, 200, writers=0), 2e7)
    assert got.wait == 0
    assert got.rate == pytest.approx(16 / 1200, rel=0.02)


@pytest.mark.parametrize("n,writers", [(4, 0.2), (32, 0.1)])
def test_fair_readers_and_writers_as_simpy_has_them(n, writers):
    simpy = pytest.importorskip("simpy")
    think, hold = 400.0 * n, 200.0
    got = measure(machine(READERS_WRITERS, n, think, hold, writers=writers), 1e6 * think / n)
    rate, wait = simpy_readers_writers(simpy, n, think, hold, writers, 500_000 * think / n)
    assert got.rate == pytest.approx(rate, rel=0.02)
    assert got.wait == pytest.approx(wait, rel=0.02)


def simpy_readers_writers(simpy, n, think, hold, writers, until):
    from collections import deque
    from random import Random

    r, env, queue, state, seen = Random(1), simpy.Environment(), deque(), [0, 0], [0, 0.0]

    def grant():
        while queue:
            write, event = queue[0]
            if state[1] or (write and state[0]):
                return
            queue.popleft()
            state[int(write)] += 1
            event.succeed()

    def cpu():
        while True:
            yield env.timeout(r.expovariate(1 / think))
            write, came, event = r.random() < writers, env.now, env.event()
            queue.append((write, event))
            grant()
            yield event
            seen[1] += env.now - came
            yield env.timeout(r.expovariate(1 / hold))
            seen[0] += 1
            state[int(write)] -= 1
            grant()

    for _ in range(n):
        env.process(cpu())
    env.run(until=until)
    return seen[0] / until, seen[1] / seen[0]


def test_a_run_is_the_same_each_time_and_seeds_differ():
    a, b, c = (machine(READERS_WRITERS, 8, 1000, 200, writers=0.2, seed=s, hit=1, near=60) for s in (5, 5, 6))
    for m in (a, b, c):
        m.run(3e6)
    assert (a.cells == b.cells).sum() > len(a.cells) - 16  # but for where the stacks are
    assert a.get("model", "visits") == b.get("model", "visits") != c.get("model", "visits")


def test_stops_and_goes_on_where_it_was():
    a, b = (machine(READERS_WRITERS, 8, 1000, 200, writers=0.2) for _ in range(2))
    a.run(2e6)
    for k in range(1, 21):
        b.run(1e5 * k)
    assert a.get("model", "waited") == b.get("model", "waited")
    assert a.get("model", "visits") == b.get("model", "visits")


def test_a_contended_line_costs_its_transfers():
    """Two CPUs that take a lock which neither waits for: each time the other had the line."""
    alone = measure(machine(READERS_WRITERS, 1, 1000, 10, near=70, atomic=5), 1e7)
    both = measure(machine(READERS_WRITERS, 2, 1000, 10, near=70, atomic=5), 1e7)
    assert alone.rate == pytest.approx(1 / 1020, rel=0.02)
    assert both.rate / 2 == pytest.approx(1 / (1020 + 70), rel=0.04)
