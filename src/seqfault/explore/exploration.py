"""What an exploration finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.explore.graph import Graph


@dataclass(frozen=True)
class Found:
    """A distinct violation: numbers of its kind, instruction (-1: none) and struct (-1), the object, where it was
    first met (state, then a step of `process`, or -1 for the state itself) and how often."""

    kind: int
    pc: int
    pool: int
    index: int
    state: int
    process: int
    choice: int
    count: int
    cell: int = -1


@dataclass
class Exploration:
    """What an exploration found.

    `states`, `transitions`, `finals` (states at rest), `depth` (steps of the longest shortest path);
    `violations`; `outcomes`:
    hash -> first state; `packed`: of those states their packed form and depth; `counters`: how often each counted event
    was on a transition; `edges`: (held lock class, taken class, instruction); `graph`: every edge, if it was asked for
    and there was room; `cyclic`: whether an execution can go on for ever (None: not looked at); `moved`: steps that
    were taken at once, as movers (movers.py) or accesses in nobody's way (own.py); `news`: what of it was contradicted;
    `complete`: every state was
    seen, else `reason` says why not.
    """

    automaton: Automaton
    states: int = 0
    transitions: int = 0
    finals: int = 0
    depth: int = 0
    violations: list[Found] = field(default_factory=list)
    outcomes: dict[int, int] = field(default_factory=dict)
    counters: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    edges: list[tuple[int, int, int]] = field(default_factory=list)
    graph: Graph | None = field(default=None, repr=False)
    cyclic: bool | None = None
    moved: int = 0
    news: int = 0
    complete: bool = True
    reason: str = ""
    seconds: float = 0.0
    bytes: int = 0
    parent: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)
    action: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)
    packed: dict[int, tuple[NDArray[np.int64], int]] = field(default_factory=dict, repr=False)
    # holds no exploration: such a ring would keep its arrays until Python looks for rings
    retrace: Callable[[Exploration, int], list[tuple[int, int]]] | None = field(default=None, repr=False)
    # steps from canonical states (compile/symmetry.py), behind a path, by who really takes them; None: who is said to
    real: Callable[[list[tuple[int, int]], list[tuple[int, int]]], list[tuple[int, int]]] | None = field(
        default=None, repr=False
    )

    def path_to(self, state: int) -> list[tuple[int, int]]:
        """A shortest path to a state: (process, choice code) of each step.

        Where parents were not kept (many states, several threads), the states up to that depth are explored again.
        """
        return steps_to(self.parent, self.action, state) if self.retrace is None else self.retrace(self, state)

    def path_of(self, v: Found) -> list[tuple[int, int]]:
        """A shortest path that ends with the violation."""
        path = self.path_to(v.state)
        if v.process >= 0:
            last = [(v.process, v.choice)]
            path += last if self.real is None else self.real(last, path)
        return path


def steps_to(parent: NDArray[np.int64], action: NDArray[np.int64], state: int) -> list[tuple[int, int]]:
    """The steps between states by which one was first reached."""
    return [(int(action[i]) & 255, int(action[i]) >> 8) for i in states_to(parent, state)]


def states_to(parent: NDArray[np.int64], state: int) -> list[int]:
    """The states by which one was first reached, behind the first one, with itself."""
    out = []
    while state > 0:
        out.append(state)
        state = int(parent[state])
    return out[::-1]
