"""A workload on more and more CPUs, under several protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from seqfault.kernel.places import Protocol
from seqfault.mm.fullsize import release_number
from seqfault.price.machines import POLICIES, Machine
from seqfault.price.workloads import Workload
from seqfault.price.world import Outcome, World

WARM_UP = 0.25  # of a measurement's time, before it
FAIR_SINCE = 502  # 4f23dbc1e657: who has waited for 4 ms is handed the semaphore


@dataclass(frozen=True)
class Point:
    """`outcomes`: one a seed."""

    protocol: str
    cpus: int
    threads: int
    outcomes: tuple[Outcome, ...]

    def mean(self, name: str) -> float:
        return sum(getattr(o, name) for o in self.outcomes) / len(self.outcomes)

    @property
    def rates(self) -> list[float]:
        """Of the seeds whose runs came so far as to be measured."""
        return [o.rate for o in self.outcomes if o.seconds]

    @property
    def rate(self) -> float:
        return sum(self.rates) / max(len(self.rates), 1)

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the greatest rate of the seeds."""
        return min(self.rates, default=0.0), max(self.rates, default=0.0)

    @property
    def share(self) -> float | None:
        tried = sum(o.tried for o in self.outcomes)
        return sum(o.speculative for o in self.outcomes) / tried if tried else None

    @property
    def reasons(self) -> dict[str, int]:
        out: dict[str, int] = {}
        for o in self.outcomes:
            for k, v in o.reasons.items():
                out[k] = out.get(k, 0) + v
        return dict(sorted(out.items(), key=lambda x: -x[1]))


def policy_of(protocol: Protocol) -> str:
    """The semaphore's policy in the protocol's release."""
    return "handoff" if release_number(protocol.release) >= FAIR_SINCE else "stealing"


def measure(
    workload: Workload,
    protocol: Protocol,
    cpus: int,
    machine: Machine,
    policy: str = "",
    seeds: Sequence[int] = (1,),
    ms: float | None = None,
    progress: Callable[[float], None] | None = None,
) -> Point:
    """One point.  `policy`: of `POLICIES`, "" for that of the protocol's release; `ms`: of virtual time."""
    programs = workload.programs(cpus, machine.page)
    ns = 1e6 * (workload.ms if ms is None else ms)
    outcomes = []
    for k, seed in enumerate(seeds):
        costs = POLICIES[policy or policy_of(protocol)]
        w = World(protocol, machine, programs, workload.setup_rows(machine.page), seed, costs, cpus=cpus)

        def report(at: float, k: int = k) -> None:
            if progress is not None:
                progress((k + at / (1 + WARM_UP) / ns) / len(seeds))

        outcomes.append(w.run(WARM_UP * ns, ns, report))
    return Point(protocol.name, cpus, len(programs), tuple(outcomes))


def grid(
    workloads: Sequence[Workload], protocols: Sequence[Protocol], cpus: Sequence[int]
) -> Iterator[tuple[Workload, Protocol, int]]:
    """Every point, those of one protocol together."""
    for w in workloads:
        for p in protocols:
            for n in cpus:
                yield w, p, n
