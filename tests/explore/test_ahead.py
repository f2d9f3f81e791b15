"""What is compiled ahead is what checks call; what Python runs instead of machine code is the same."""

from __future__ import annotations

import random
import subprocess

import numpy as np
import pytest
from programs import fenced, program, texts

from seqfault.compile.jit import Compiled, in_python
from seqfault.explore import ahead
from seqfault.explore.check import Limits
from seqfault.explore.engine import Executor
from seqfault.explore.interp import step
from seqfault.explore.memory import with_memory
from seqfault.explore.pool import check_many
from seqfault.explore.tables import DISABLED, X_USED
from seqfault.report.commands import select


@pytest.mark.parametrize("memory", ["sc", "tso", "pso"])
def test_python_runs_a_step_as_machine_code_does(memory):
    plain, seen = in_python(step), {"steps": 0, "waits": 0, "choices": 0}

    def both(B, P, X, *args):
        mine = B.copy(), X.copy()
        with np.errstate(all="ignore"):
            status = plain(mine[0], P, mine[1], *args)
        assert status == step(B, P, X, *args)
        assert (mine[0] == B).all() and (mine[1] == X).all()
        seen["steps"] += 1
        seen["waits"] += status == DISABLED
        seen["choices"] += bool(X[X_USED])
        return status

    for seed in range(60):
        t = texts(seed % 3)
        a = with_memory(t.automaton, memory)
        p = fenced(seed) if seed % 2 else program(70_000 + seed)
        init, rom = t.start(p)
        e = Executor(a, rom, trace_room=64)
        e.step = both
        r = random.Random(seed)
        words = e.start(np.concatenate([init, np.zeros(a.nw - len(init), np.uint64)]))
        for _ in range(60):
            able = [q for q in range(len(a.processes)) if e.pc(words, q) != a.halt_pc]
            if not able:
                break
            q = r.choice(able)
            e.run(words, q, r.randrange(4))
    assert seen["steps"] > 1000 and all(seen.values())


@pytest.mark.parametrize("memory", sorted(ahead.LONGEST))
def test_what_is_made_ahead_is_what_checks_call(memory, monkeypatch):
    called = []

    def entry(self, types):
        called.append((self.fn.__module__.rpartition(".")[2], self.__name__, ",".join(types)))
        return made(self, types)

    made = Compiled._entry
    monkeypatch.setattr(Compiled, "_entry", entry)
    monkeypatch.setattr(ahead.function(ahead.LONGEST[memory]), "entries", {})
    check_many("spf-seed", select(["argued/case8-alone"]), Limits(), jobs=1, memory=memory)
    assert ahead.LONGEST[memory] in called


def test_a_process_is_begun_only_where_something_lacks(monkeypatch, tmp_path):
    begun = []
    monkeypatch.setattr(subprocess, "Popen", lambda args, **_: begun.append(args[-1]) or _Ended())
    f = ahead.function(ahead.DRIVE)
    monkeypatch.setattr(f, "directory", tmp_path / "cache")
    assert ahead.begin(["sc", "pso"])
    assert len(begun) == 1 and "'drive'" in begun[0]
    f._path(ahead.DRIVE[2].replace(",", " ")).write_bytes(b"")
    assert not ahead.begin(["sc"])
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(f, "directory", tmp_path / "file" / "cache")
    assert not ahead.begin(["sc"])
    assert len(begun) == 1


class _Ended:
    def kill(self):
        pass

    def wait(self):
        pass
