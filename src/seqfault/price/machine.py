"""Tasks on stacks of their own: memory of a `TimedProgram`, and running it."""

from __future__ import annotations

import mmap
import platform
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from seqfault.compile.native import MAP_NORESERVE, NativeMachine
from seqfault.kernel.machine import KernelBug
from seqfault.price.clock import KEY, NEVER, TICKS
from seqfault.price.timed import C_SWAP, C_THREAD, FIRST_FRAME, TimedProgram

STACK = (1 << 16) + 4096 + 320  # 64 KiB, one page and five lines apart: else all lie in the same sets of TLB and caches
SLICE = 20_000_000  # ns of virtual time between two looks at the clock and at Ctrl-C


class Stuck(Exception):
    """Every task waits for another one."""


class TimedMachine(NativeMachine):
    """`tasks` of them run; `costs`: fields of `vclock` and `lock_costs` (price/clock.py, price/locks.py) in
    nanoseconds; flags as they are.  `nodes`, `cores`: of each task's CPU; `cpus`: how many there
    are (0: one for each task)."""

    program: TimedProgram

    def __init__(
        self,
        program: TimedProgram,
        tasks: int,
        costs: Mapping[str, float],
        nodes: Any = None,
        cores: Any = None,
        cpus: int = 0,
        lookahead: float = 0,
    ):
        if not 1 <= tasks <= program.sizes["NR_TASKS"]:
            raise ValueError(f"{tasks} tasks; the program was compiled for up to {program.sizes['NR_TASKS']}")
        super().__init__(program, strict=False)
        self.tasks = tasks
        self.limit_loops(1 << 62)
        self._stacks = mmap.mmap(-1, STACK * (tasks + 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
        large_pages(self._stacks)  # else each switch from one stack to another misses a TLB
        self._at = self.ctx.ctypes.data, self._at[1]
        self.ctx[C_SWAP] = program.address("vt_swap")
        self.ctx[C_THREAD] = program.address("vt_thread")
        leaf = 1 << (tasks - 1).bit_length() if tasks > 1 else 1
        self.call("vt_init", tasks, leaf)
        self.put("vclock", "crowded", int(0 < cpus < tasks))
        self.put("vclock", "lookahead", round(lookahead * TICKS))
        for name, v in costs.items():
            self.cost(name, v)
        stride = program.layout.pools["vtask"].stride
        base = program.layout.pools["vtask"].base
        t = self.cells[base : base + stride * (tasks + 1)].reshape(tasks + 1, stride)
        at = {k: m.offset for k, m in program.layout.members(program.layout.pools["vtask"].struct).items()}
        t[:tasks, at["node"]] = 0 if nodes is None else nodes[:tasks]
        t[:tasks, at["core"]] = np.arange(tasks) if cores is None else cores[:tasks]
        t[:, at["cpu"]] = np.arange(tasks + 1) % (cpus or tasks + 1)
        self.task_cells, self.task_field = t, at
        self._first_frames()

    def use_large_pages(self) -> None:
        """For memory most of which is touched; that of an mm text mostly is not."""
        large_pages(self._mapping)

    def _first_frames(self) -> None:
        start = np.frombuffer(self._stacks, np.int64)
        sp = self.layout.pools["vstack"].base
        base = start.ctypes.data
        value = {
            "thread": int(self.ctx[C_THREAD]),
            "context": self.ctx.ctypes.data,
            "enter": self.program.address("vt_enter"),
        }
        frame = FIRST_FRAME[platform.machine()]
        for i in range(self.tasks):
            # the frame's last word but one is returned to; there the stack is to be as a call leaves it
            top = (i + 1) * STACK // 8 - 4 - len(frame)
            top -= 1 - top % 2  # odd: so that rsp is a multiple of 16 where vt_enter calls
            for k, name in enumerate(frame):
                start[top + k] = value.get(name, 0)
            self.cells[sp + i] = base + 8 * top

    # -- fields of the texts that keep time
    def address_of(self, struct: str, field: str) -> int:
        return self.layout.address(struct, 0, field)

    def put(self, struct: str, field: str, value: int) -> None:
        self.cells[self.address_of(struct, field)] = value

    def get(self, struct: str, field: str) -> int:
        return int(self.cells[self.address_of(struct, field)])

    def cost(self, name: str, value: float) -> None:
        """Set a constant by its name.  Raises `KeyError` for one that there is not."""
        for s in COSTED:
            if s in self.layout.pools and name in self.layout.members(self.layout.pools[s].struct):
                flag = self.layout.bounds(self.layout.members(self.layout.pools[s].struct)[name].type) == (0, 1)
                self.put(s, name, int(value) if flag or name.startswith("nr_") else round(value * TICKS))
                return
        raise KeyError(name)

    # -- running
    def start(self, at: Callable[[int], float] = lambda i: 0.0) -> None:
        """Every task begins; `at`: when, ns."""
        for i in range(self.tasks):
            self.call("vt_start", i, round(at(i) * TICKS))

    @property
    def now(self) -> float:
        """The smallest clock, ns."""
        key = int(self.cells[self.address_of("vtree", "node[1]")])
        return (key >> KEY) / TICKS

    def done(self) -> bool:
        return int(self.cells[self.address_of("vtree", "node[1]")]) >= NEVER

    def run(self, until: float, progress: Callable[[float], None] | None = None, slice_ns: float = SLICE) -> None:
        """Run until no clock is below `until` ns, or all are done.

        Raises `KernelBug` for what the text itself finds wrong, `Stuck` if all that are not done wait.
        """
        at = min(self.now, until)
        while at < until:
            at = min(at + slice_ns, until)
            told = len(self.violations)
            self.call("vt_resume", round(at * TICKS))
            if self.get("vclock", "failed"):
                if len(self.violations) == told:
                    raise RuntimeError("a task ended with an error that it does not tell")
                raise KernelBug(*self.violations[-1])
            if self.done():
                state = self.task_cells[: self.tasks, self.task_field["state"]]
                if (state != 3).any():
                    at_ns = self.get("vclock", "now") / TICKS
                    raise Stuck(f"all of {int((state != 3).sum())} tasks wait for each other at {at_ns:.0f} ns")
                return
            if progress is not None:
                progress(at)


def large_pages(memory: mmap.mmap) -> None:
    """Where the kernel has them."""
    with suppress(OSError, AttributeError):
        memory.madvise(mmap.MADV_HUGEPAGE)


COSTED = ("vclock", "lock_costs", "memory_costs", "mapping_costs", "driver_costs", "model")
