"""The graph of reachable states: who steps from which state to which, who can, and which steps complete an operation.

Exploration keeps fingerprints and one way to each state.  Questions about executions that never end need every edge:
`explore(graph=True)` records them as it goes, 8 bytes an edge, 16 a state and 4 a slot of the table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.compile.ops import Op

# in an edge's second number, above the process: the step completes an operation of a CPU; it only comes to a
# seq_point inside one, where a page fault was handled and the access is begun again; it read a store that is not
# the last one of its cell; from CHOICE_AT on, the step's choices
COMPLETES, RESTARTS, AGED, CHOICE_AT = 256, 512, 1024, 11
FIRST = 1 << 14


@dataclass
class Graph:
    """State i has the edges begin[i] … begin[i + 1] - 1; states are in order of depth, the start is 0.

    `edges` (m, 2): the state that an edge leads to; its process, COMPLETES or RESTARTS, and choice.  `able`: a bit
    for each process that can step in a state.
    """

    begin: NDArray[np.int64]
    edges: NDArray[np.int32]
    able: NDArray[np.int64]

    @property
    def states(self) -> int:
        return len(self.able)

    def step(self, edge: int) -> tuple[int, int]:
        """Process and choice of an edge."""
        x = int(self.edges[edge, 1])
        return x & 255, x >> CHOICE_AT

    def source(self, edge: int) -> int:
        """The state that an edge comes from."""
        return int(np.searchsorted(self.begin, edge, side="right")) - 1


    def seen_in_time(self) -> Graph:
        """Without the steps that read an old store: every store is seen by everybody at last, so that no fair execution
        takes them for ever."""
        keep = self.edges[:, 1] & AGED == 0
        before = np.concatenate([[0], np.cumsum(keep)])
        return Graph(before[self.begin], self.edges[keep], self.able)


class Recorder:
    """Room for a graph while it is explored; none if it is not wanted."""

    def __init__(self, a: Automaton, on: bool, slots: int):
        self.on = on
        n = FIRST if on else 1
        self.index = np.zeros(slots if on else 1, np.int32)
        self.begin = np.zeros(n, np.int64)
        self.able = np.zeros(n, np.int64)
        self.edges = np.zeros((n, 2), np.int32)
        self.boundary = boundaries(a) if on else np.zeros(1, np.bool_)

    @property
    def nbytes(self) -> int:
        return int(self.index.nbytes + self.begin.nbytes + self.able.nbytes + self.edges.nbytes) if self.on else 0

    def bigger_index(self, slots: int) -> NDArray[np.int32]:
        return np.zeros(slots if self.on else 1, np.int32)

    def grow(self, edges: int, states: int, slack: int) -> None:
        """Make room for the successors of one more state."""
        if edges + slack > len(self.edges):
            self.edges = np.concatenate([self.edges, np.zeros_like(self.edges)])
        if states + slack > len(self.begin):
            self.begin = np.concatenate([self.begin, np.zeros_like(self.begin)])
            self.able = np.concatenate([self.able, np.zeros_like(self.able)])

    def graph(self, states: int, edges: int) -> Graph | None:
        return Graph(self.begin[: states + 1], self.edges[:edges], self.able[:states]) if self.on else None


def boundaries(a: Automaton) -> NDArray[np.bool_]:
    """For each instruction, whether it is a `seq_point()` between operations: one in the text of a process itself.

    (One that it comes to in a function that it calls is inside an operation, such as an access that is begun again.)
    """
    mine = {a.where[p.entry].function for p in a.processes if p.role == 0}
    return np.array(
        [int(r[0]) == Op.SEQPOINT and w.function in mine and not w.chain for r, w in zip(a.code, a.where, strict=True)],
        np.bool_,
    )


__all__ = ["AGED", "CHOICE_AT", "COMPLETES", "RESTARTS", "Graph", "Recorder", "boundaries"]
