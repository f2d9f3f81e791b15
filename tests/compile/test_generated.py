"""Three thousand generated programs (or SEQFAULT_BATCHES times 125) run equal in plain Python, in the interpreter, and
(every eighth batch, or all with SEQFAULT_TIER1=all) in generated code: memory after each operation, and what is
reported."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import pytest
from generate import module

from modules import load
from seqfault.compile.program import Process, Program, compile_program
from seqfault.explore.engine import Executor
from seqfault.explore.steps import Stepper, Steps
from seqfault.explore.tables import ENDS
from seqfault.kernel import KernelBug, Machine

BATCH, OPERATIONS = 125, 2
BATCHES = int(os.environ.get("SEQFAULT_BATCHES", "24"))
TIER1 = 1 if os.environ.get("SEQFAULT_TIER1") == "all" else 8
FATAL = {ZeroDivisionError: "division-by-zero", ValueError: "bad-shift", AssertionError: "assertion"}


def generated(path: Path, seed: int, programs: int, operations: int) -> ModuleType:
    """A module of generated programs."""
    file = path / f"generated_{seed}.py"
    file.write_text(module(seed, programs, operations))
    return load(file, file.stem)


def plain(m: Machine, fn) -> list[str]:
    """Kinds that one operation reports; the last one may be fatal."""
    m.violations.clear()
    with m:
        try:
            fn()
        except KernelBug as e:
            return [k for k, _ in m.violations] + [e.kind]
        except tuple(FATAL) as e:
            return [k for k, _ in m.violations] + [FATAL[type(e)]]
    return [k for k, _ in m.violations]


@pytest.mark.parametrize("seed", range(BATCHES))
def test_programs_run_equal(seed: int, tmp_path: Path):
    mod = generated(tmp_path, seed, BATCH, OPERATIONS)
    fns = [getattr(mod, f"op_{p}_{i}") for p in range(BATCH) for i in range(OPERATIONS)]
    program = Program("generated", [Process(f, k) for k, f in enumerate(fns)], sizes={"NR_CPUS": 64, "NR_TASKS": 64})
    a = compile_program(program)
    layout = program.layout()
    used = [i for i in range(a.ncell) if a.tab[i, 2] != 0]
    reported = set()
    code = Steps(a) if seed % TIER1 == 0 else None
    for p in range(BATCH):
        m = Machine(layout, strict=False)
        words = a.pack(m.cells)
        ex = Executor(a, a.rom(m.cells))
        state = ex.start(words)
        fast, same = (Stepper(code, a.rom(m.cells)), state.copy()) if code is not None else (None, state)
        for i in range(OPERATIONS):
            k = p * OPERATIONS + i
            want = plain(m, fns[k])
            got: list[str] = []
            status = 0
            while ex.pc(state, k) != a.halt_pc and status != ENDS:
                status = ex.run(state, k)
                got += [a.kinds[v[0]] for v in ex.violations()]
                if fast is not None:
                    assert fast.run(same, k) == status, fns[k].__name__
                    assert (same == state).all() or status == ENDS, fns[k].__name__
                    mine, theirs = fast.violations(), ex.violations()
                    assert [v[:3] for v in mine] == [v[:3] for v in theirs], fns[k].__name__
            assert got == want, fns[k].__name__
            reported.update(got)
            if status == ENDS:
                break
            cells = a.unpack(state.view("uint64"))
            assert [cells[c] for c in used] == [m.cells[c] for c in used], fns[k].__name__
    assert reported  # the programs are not all tame
