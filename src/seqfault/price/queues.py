"""Running the small models of price/models.py."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from seqfault.price import models
from seqfault.price.clock import TICKS
from seqfault.price.machine import TimedMachine
from seqfault.price.timed import TimedProgram

CLOSED, OPEN, READERS_WRITERS = 0, 1, 2
DRAWS = 1 << 20


@dataclass(frozen=True)
class Measured:
    """`visits`: how many, in `ns`; `wait`: their mean waiting time in ns; `events`: a visit begins, a visit ends."""

    visits: int
    wait: float
    ns: float

    @property
    def events(self) -> int:
        return 2 * self.visits

    @property
    def rate(self) -> float:
        """Visits a ns."""
        return self.visits / self.ns


@cache
def program(tasks: int) -> TimedProgram:
    """The models for up to so many tasks."""
    sizes = {"NR_TASKS": tasks, "NR_CPUS": tasks, "NR_DRAWS": DRAWS}
    return TimedProgram(models.model_main, sizes=sizes, level=2)


def machine(
    kind: int,
    tasks: int,
    think: float,
    hold: float,
    servers: int = 1,
    writers: float = 0,
    hold_write: float | None = None,
    seed: int = 1,
    **costs: float,
) -> TimedMachine:
    """A model ready to run.  Times in ns, all exponential; `writers`: the share of visits that write; `costs`: as of
    `TimedMachine` (all 0 unless given, so that only the queues count)."""
    m = TimedMachine(
        program(1 << max(1, (tasks - 1).bit_length())),
        tasks,
        {"think": think, "hold": hold, "hold_write": hold if hold_write is None else hold_write, **costs},
    )
    m.use_large_pages()
    m.put("model", "kind", kind)
    m.put("model", "servers", servers)
    m.put("model", "nr_writers", round(writers * 65536))
    r = np.random.default_rng(seed)
    for name, values in (
        ("draws", np.minimum(r.exponential(models.UNIT, DRAWS), 1 << 40)),
        ("coins", r.integers(0, 65536, DRAWS)),
    ):
        at = m.layout.address("model", 0, f"{name}[0]")
        m.cells[at : at + DRAWS] = values
    m.start()
    return m


def measure(m: TimedMachine, ns: float) -> Measured:
    """Run until `ns`."""
    m.run(ns)
    visits = m.get("model", "visits")
    return Measured(visits, m.get("model", "waited") / TICKS / max(visits, 1), ns)
