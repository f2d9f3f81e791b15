"""Long runs survive: killed at random moments, they go on with the counts of a run that was not."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from seqfault.compile.program import compile_program
from seqfault.explore import checkpoint, tiers
from seqfault.explore.checkpoint import CheckpointError
from seqfault.models import seq

SIZE = (1, 2, 2, 2)
# SEQFAULT_KILLS=50 SEQFAULT_KILL_SIZE=1,3,2,2 for a longer trial
KILLS = int(os.environ.get("SEQFAULT_KILLS", "4"))
KILL_SIZE = tuple(map(int, os.environ.get("SEQFAULT_KILL_SIZE", "1,2,2,2").split(",")))
CHILD = """
import sys
from pathlib import Path
from seqfault.compile.program import compile_program
from seqfault.explore import checkpoint, frontier, tiers
from seqfault.models import seq
checkpoint.COST = 0
frontier.CHUNK_S = 0.02
p = seq.program(*map(int, sys.argv[2].split(",")))
a = compile_program(p, "full")
ex = tiers.explore(a, a.pack(p.layout().start), a.rom(p.layout().start), mode="full", dead=False, threads=int(sys.argv[3]),
                   exact=sys.argv[4] == "1", checkpoint=Path(sys.argv[1]), every=0.05)
print(ex.complete, ex.states, ex.transitions, ex.finals, ex.depth, sorted(ex.outcomes))
"""


def model(size=SIZE):
    p = seq.program(*size)
    a = compile_program(p, "full")
    return a, a.pack(p.layout().start), a.rom(p.layout().start)


def child(path, size, threads, exact):
    args = [sys.executable, "-c", CHILD, str(path), ",".join(map(str, size)), str(threads), str(int(exact))]
    return subprocess.Popen(args, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("threads", "exact"), [(1, False), (2, False), (1, True)])
def test_killed_at_random_moments(tmp_path, threads: int, exact: bool):
    a, init, rom = model(KILL_SIZE)
    want = tiers.explore(a, init, rom, mode="full", dead=False)
    path = tmp_path / "run.checkpoint"
    kills = resumed = 0
    rng = random.Random(threads * 2 + exact)
    while True:
        c = child(path, KILL_SIZE, threads, exact)
        resumed += path.exists()
        try:
            out, _ = c.communicate(timeout=rng.uniform(0.9, 2.6) if kills < KILLS else 300)
            break
        except subprocess.TimeoutExpired:
            c.send_signal(signal.SIGKILL)
            c.communicate()
            kills += 1
    got = f"True {want.states} {want.transitions} {want.finals} {want.depth} {sorted(want.outcomes)}"
    assert out.strip() == got
    assert not path.exists()
    print(f"killed {kills} times, {resumed} starts found a checkpoint")


def stopped(path, **options):
    a, init, rom = model()
    ex = tiers.explore(a, init, rom, mode="full", dead=False, checkpoint=path, max_states=200_000, **options)
    assert not ex.complete and path.exists()
    return a, init, rom


@pytest.mark.parametrize("options", [{}, {"movers": True}, {"graph": True}, {"traced": False}], ids=str)
def test_a_limit_keeps_what_was_done(tmp_path, options):
    path = tmp_path / "x"
    a, init, rom = stopped(path, **options) if not options.get("movers") else (*model(),)
    want = tiers.explore(a, init, rom, mode="full", dead=False, **options)
    got = tiers.explore(a, init, rom, mode="full", dead=False, checkpoint=path, **options)
    assert (got.states, got.transitions, got.depth, got.outcomes) == (want.states, want.transitions, want.depth, want.outcomes)
    assert got.cyclic == want.cyclic
    assert not path.exists()


def test_what_cannot_be_used_is_named(tmp_path):
    path = tmp_path / "x"
    a, init, rom = stopped(path)
    whole = path.read_bytes()
    go = lambda: tiers.explore(a, init, rom, mode="full", dead=False, checkpoint=path)  # noqa: E731
    for damage in (whole[: len(whole) // 2], b"", b"something else", whole[:5000] + bytes(64) + whole[5064:]):
        path.write_bytes(damage)
        with pytest.raises(CheckpointError, match=r"damaged|delete"):
            go()
        assert path.read_bytes() == damage  # nothing is thrown away
    path.write_bytes(whole)
    b, other, data = model((1, 1, 1, 1))
    with pytest.raises(CheckpointError, match="another exploration"):
        tiers.explore(b, other, data, mode="full", dead=False, checkpoint=path)
    assert go().states == seq.STATES[SIZE]


def test_a_full_disk_is_told_and_survived(tmp_path, monkeypatch, capsys):
    path = tmp_path / "x"
    a, init, rom = stopped(path)
    before = path.read_bytes()

    def full(*_args, **_named):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    monkeypatch.setattr(checkpoint, "COST", 0)
    ex = tiers.explore(a, init, rom, mode="full", dead=False, checkpoint=path, every=0.0, max_states=900_000)
    assert not ex.complete
    assert capsys.readouterr().err.count("No space left on device") == 1
    assert path.read_bytes() == before


def test_sigterm_saves(tmp_path):
    """`check --resume` with one scenario: the signal saves, the next run goes on."""
    results = tmp_path / "r"
    cmd = [sys.executable, "-m", "seqfault.cli", "check", "spf-v5", "-s", "two-faults/munmap-two-pages", "--resume",
           str(results), "--examples", "0", "--checkpoint-every", "0.1"]  # fmt: skip
    c = subprocess.Popen(cmd, stdout=subprocess.PIPE, text=True)
    end = time.monotonic() + 100
    while not list(tmp_path.glob("r.*.checkpoint")) and c.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    c.send_signal(signal.SIGTERM)
    out, _ = c.communicate(timeout=120)
    if c.returncode == 0:
        pytest.skip("it had finished")
    assert c.returncode == 3 and "interrupted" in out
    assert list(tmp_path.glob("r.*.checkpoint"))
