"""Generated programs in three executors: plain Python, tier 0 (the interpreter), tier 1 (generated steps).

`python tests/compile/equal.py PROGRAMS [FIRST_SEED]` compares many.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from test_generated import generated, plain

from seqfault.compile.program import Process, Program, compile_program
from seqfault.compile.step_native import StepObject, compile_steps
from seqfault.explore.engine import Executor
from seqfault.explore.steps import Stepper, Steps
from seqfault.explore.tables import (
    ENDS,
    OK,
    X_COUNTED,
    X_COUNTS,
    X_DIGITS,
    X_EDGES,
    X_RADIX,
    X_STAND,
    X_USED,
    X_VIOL,
    X_VIOLATIONS,
)
from seqfault.kernel import Machine


class Uncached(Steps):
    """Steps that are compiled anew: generated programs would fill the cache."""

    def _object(self) -> StepObject:
        return compile_steps(self.a, self.mode, self.dead, self.track)


def left(x: np.ndarray, status: int, a: Any) -> tuple[Any, ...]:
    """What a step leaves in X, in a form to compare."""
    n, used, counted = int(x[X_VIOLATIONS]), int(x[X_USED]), int(x[X_COUNTED])
    rows = x[X_VIOL : X_VIOL + 5 * n].tolist() if status != 1 else []
    choices = x[X_DIGITS : X_DIGITS + used].tolist(), x[X_RADIX : X_RADIX + used].tolist()
    counts = x[X_COUNTS : X_COUNTS + counted].tolist() if status != 1 else []
    classes = len(a.lock_classes)
    orders = x[X_EDGES : X_EDGES + classes * classes].tolist()
    return status, rows, choices, counts, orders, int(x[X_STAND]) if status == OK else -1


def compare(path: Path, seed: int, programs: int, operations: int = 2, mode: str = "merged", dead: bool = True) -> set[str]:
    """Run generated programs in all three, each operation by a process of its own, and hold memory, the whole state and
    what is reported equal after each; returns the kinds that were reported."""
    mod = generated(path, seed, programs, operations)
    fns = [getattr(mod, f"op_{p}_{i}") for p in range(programs) for i in range(operations)]
    program = Program("generated", [Process(f, k) for k, f in enumerate(fns)], sizes={"NR_CPUS": 64, "NR_TASKS": 64})
    a = compile_program(program, "full" if mode == "full" else "merged")
    layout = program.layout()
    used = [i for i in range(a.ncell) if a.tab[i, 2] != 0]
    code = Uncached(a, mode, dead)
    reported: set[str] = set()
    m = Machine(layout, strict=False)
    ex = Executor(a, a.rom(m.cells), mode, dead)
    first = ex.start(a.pack(m.cells))
    one = Stepper(code, a.rom(m.cells))
    for p in range(programs):
        m = Machine(layout, strict=False)
        state, other = first.copy(), first.copy()
        for i in range(operations):
            k = p * operations + i
            want = plain(m, fns[k])
            got: list[str] = []
            status = 0
            while ex.pc(state, k) != a.halt_pc and status != ENDS:
                status = ex.run(state, k)
                status1 = one.run(other, k)
                assert left(ex.X, status, a) == left(one.X, status1, a), (fns[k].__name__, seed)
                assert (state == other).all(), (fns[k].__name__, seed)
                got += [a.kinds[v[0]] for v in ex.violations()]
            assert got == want, (fns[k].__name__, seed)
            reported.update(got)
            if status == ENDS:
                break
            cells = a.unpack(other.view("uint64"))
            assert [cells[c] for c in used] == [m.cells[c] for c in used], (fns[k].__name__, seed)
    del sys.modules[mod.__name__]
    return reported


def main() -> None:
    programs = int(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 100_000
    t, done = time.perf_counter(), 0
    with tempfile.TemporaryDirectory() as d:
        while done < programs:
            compare(Path(d), seed, 25, 2, "merged", seed % 4 != 3)
            seed, done = seed + 1, done + 25
            if done % 5000 == 0:
                print(f"{done:,} programs equal, {time.perf_counter() - t:.0f} s", flush=True)
    print(f"{done:,} programs equal in plain Python, tier 0 and tier 1, {time.perf_counter() - t:.0f} s")


if __name__ == "__main__":
    main()
