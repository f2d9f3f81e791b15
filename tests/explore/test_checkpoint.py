"""Long runs survive: killed at random moments, they go on with the counts of a run that was not."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from seqfault.compile.program import compile_program
from seqfault.explore import checkpoint, frontier, interrupt, tiers
from seqfault.explore.check import Limits, check_scenario, run_one
from seqfault.explore.checkpoint import CheckpointError
from seqfault.explore.forecast import Forecast
from seqfault.models import record, seq
from seqfault.protocols import load
from seqfault.scenarios import find

SIZE = (1, 2, 2, 2)
# a longer trial: SEQFAULT_TRIALS=50 explorations, each killed up to SEQFAULT_KILLS times, or one with SEQFAULT_KILL_SIZE=1,3,2,2
TRIALS = int(os.environ.get("SEQFAULT_TRIALS", "1"))
KILLS = int(os.environ.get("SEQFAULT_KILLS", "3"))
KILL_SIZE = tuple(map(int, os.environ.get("SEQFAULT_KILL_SIZE", "1,2,2,2").split(",")))
WHOLE = 1, 2, 4, 4  # of `record`, whose states are more than their fingerprints
CHILD = """
import sys
from pathlib import Path
from seqfault.compile.program import compile_program
from seqfault.explore import checkpoint, frontier, tiers
from seqfault.models import record, seq
checkpoint.COST = 0
frontier.CHUNK_S = 0.02
p = (record if sys.argv[4] == "1" else seq).program(*map(int, sys.argv[2].split(",")))
a = compile_program(p, "full")
print("begun", flush=True)
ex = tiers.explore(a, a.pack(p.layout().start), a.rom(p.layout().start), mode="full", dead=False, threads=int(sys.argv[3]),
                   exact=sys.argv[4] == "1", checkpoint=Path(sys.argv[1]), every=0.02)
print(ex.complete, ex.states, ex.transitions, ex.finals, ex.depth, sorted(ex.outcomes))
"""


def model(size=SIZE, module=seq):
    p = module.program(*size)
    a = compile_program(p, "full")
    return a, a.pack(p.layout().start), a.rom(p.layout().start)


def child(path, size, threads, exact):
    args = [sys.executable, "-c", CHILD, str(path), ",".join(map(str, size)), str(threads), str(int(exact))]
    return subprocess.Popen(args, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("threads", "exact"), [(1, False), (2, False), (1, True), (2, True)])
def test_killed_at_random_moments(tmp_path, threads: int, exact: bool):
    size = WHOLE if exact else KILL_SIZE
    a, init, rom = model(size, record if exact else seq)
    want = tiers.explore(a, init, rom, mode="full", dead=False)
    rng = random.Random(threads * 2 + exact)
    kills = resumed = 0
    for _ in range(TRIALS):
        path = tmp_path / "run.checkpoint"
        mine = 0
        while True:
            c = child(path, size, threads, exact)
            resumed += path.exists()
            assert c.stdout is not None and c.stdout.readline() == "begun\n"
            before = path.stat().st_mtime_ns if path.exists() else 0
            while rng.random() < 0.999 and c.poll() is None and mine < KILLS:  # mostly not before it saved something
                if path.exists() and path.stat().st_mtime_ns != before:
                    break
                time.sleep(0.002)
            try:
                out, _ = c.communicate(timeout=rng.uniform(0.0, 0.4) if mine < KILLS else 300)
                break
            except subprocess.TimeoutExpired:
                c.send_signal(signal.SIGKILL)
                c.communicate()
                mine += 1
        kills += mine
        got = f"True {want.states} {want.transitions} {want.finals} {want.depth} {sorted(want.outcomes)}"
        assert out.strip() == got
        assert not path.exists()
    print(f"{TRIALS} explorations killed {kills} times, {resumed} starts found a checkpoint")


def stopped(path, size=SIZE, module=seq, **options):
    a, init, rom = model(size, module)
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


@pytest.mark.parametrize("threads", [1, 2])
def test_a_limit_keeps_whole_states(tmp_path, threads: int):
    path = tmp_path / "x"
    options = {"exact": True, "threads": threads}
    a, init, rom = stopped(path, WHOLE, record, **options)
    want = tiers.explore(a, init, rom, mode="full", dead=False)
    got = tiers.explore(a, init, rom, mode="full", dead=False, checkpoint=path, **options)
    assert got.states == want.states == record.STATES[WHOLE]
    assert (got.transitions, got.depth, set(got.outcomes)) == (want.transitions, want.depth, set(want.outcomes))
    v, first = got.violations, {(v.kind, v.pc): v for v in want.violations}
    assert [len(got.path_of(x)) for x in v] == [len(want.path_of(first[x.kind, x.pc])) for x in v]


def path_of(data: bytes, folder):
    f = folder / "copy"
    f.write_bytes(data)
    return f


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
    future = dict(np.load(path_of(whole, tmp_path)))
    now, later = checkpoint.FORMAT, checkpoint.FORMAT + 1
    meta = future["meta"].tobytes().replace(f'"format": {now}'.encode(), f'"format": {later}'.encode())
    future["meta"] = np.frombuffer(meta, np.uint8)
    with path.open("wb") as f:
        np.savez(f, **future)
    with pytest.raises(CheckpointError, match=f"{path} has format {later}, and this seqfault reads {now}; "):
        go()
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match=f"{path}: Is a directory; delete it"):
        go()
    path.rmdir()
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


def rounds(monkeypatch, n: int) -> None:
    """From now on an exploration is interrupted in its `n`th round."""
    count = iter(range(1 << 30))
    monkeypatch.setattr(interrupt, "asked", lambda: next(count) % n == n - 1)


def test_every_phase_goes_on(tmp_path, monkeypatch):
    """Few states, then own accesses, then movers (several attempts), then everything because of a violation; interrupted in each."""
    p, s = load("spf-seed"), find(["case6/apart-area-read-write"])[0]
    monkeypatch.setattr(tiers, "FEW", 200)
    monkeypatch.setattr(tiers, "MANY", 300)
    monkeypatch.setattr(frontier, "BUDGET", 100)
    monkeypatch.setattr(frontier, "CHUNK_S", 1e9)
    monkeypatch.setattr(checkpoint, "COST", 0)
    _, want, found = run_one(p, s, Limits(), lock_waits=False)
    assert want.complete and want.states > 1000 and found
    path = tmp_path / "x"
    calls, files = 0, set()
    while True:
        calls += 1
        assert calls < 1000
        rounds(monkeypatch, 3)
        _, got, again = run_one(p, s, Limits(checkpoint_every=0.0), lock_waits=False, checkpoint=path)
        files |= {f.name for f in tmp_path.iterdir()}
        if got.complete:
            break
        assert got.reason == interrupt.INTERRUPTED
    assert calls > 5 and files == {"x", "x.whole"}
    assert (got.states, got.transitions, got.depth, got.outcomes, got.cyclic) == (
        want.states, want.transitions, want.depth, want.outcomes, want.cyclic,
    )  # fmt: skip
    assert [(v.key(), v.count, v.schedule) for v in again] == [(v.key(), v.count, v.schedule) for v in found]


def test_a_time_limit_is_for_each_run(tmp_path, monkeypatch):
    a, init, rom = model()
    monkeypatch.setattr(frontier, "CHUNK_S", 0.02)
    for _ in range(200):
        ex = tiers.explore(a, init, rom, mode="full", dead=False, checkpoint=tmp_path / "x", timeout=0.1)
        if ex.complete:
            break
    assert ex.states == seq.STATES[SIZE]


CHECK = ("spf-v5", "-s", "two-faults/munmap-all-two-pages", "-s", "two-faults/munmap-all-same-page", "--json")
MAIN = "from seqfault.cli import main; main()"


def check(results, *args: str):
    cmd = [sys.executable, "-c", MAIN, "check", *CHECK, "--resume", str(results), "--checkpoint-every", "0.1", *args]
    return subprocess.Popen(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def recent(path, c) -> bool:
    """Whether a file was written after a process began."""
    try:
        return path.stat().st_mtime > os.stat(f"/proc/{c.pid}").st_mtime + 0.5
    except OSError:
        return False


def counts(out: str):
    keep = ("name", "verdict", "states", "transitions", "depth", "outcomes", "counters")
    return [{k: s[k] for k in keep} for s in json.loads(out)["scenarios"]]


def test_memory_limit_kill_and_signal_with_workers(tmp_path):
    """`check -j 2`: a memory limit, SIGKILL, SIGTERM, and at last the counts of a run that nobody disturbed."""
    f = tmp_path / "r"
    undisturbed = check(tmp_path / "undisturbed", "-j", "1")
    want, _ = undisturbed.communicate()
    c = check(f, "-j", "2", "--max-memory", "7M")
    out, _ = c.communicate()
    reasons = [s["reason"] for s in json.loads(out)["scenarios"]]
    assert c.returncode in (1, 3) and f"; go on with --resume {f} and a larger --max-memory" in reasons[0]
    assert list(tmp_path.glob("r.*.checkpoint"))
    for number in (signal.SIGKILL, signal.SIGTERM):
        c = check(f, "-j", "2")
        end = time.monotonic() + 2.5
        while c.poll() is None and time.monotonic() < end and not any(recent(x, c) for x in tmp_path.glob("r.*.checkpoint")):
            time.sleep(0.01)
        c.send_signal(number)
        out, _ = c.communicate(timeout=100)
        if number == signal.SIGTERM and "interrupted" in out:
            assert any(s["reason"] == f"interrupted; go on with --resume {f}" for s in json.loads(out)["scenarios"])
    c = check(f, "-j", "2")
    out, err = c.communicate()
    assert c.returncode == undisturbed.returncode, err
    assert counts(out) == counts(want)
    assert [x.name for x in tmp_path.glob("r*")] == ["r"]


def test_only_one_at_a_time_and_damage_is_told(tmp_path):
    f = tmp_path / "r"
    with f.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        c = check(f)
        _, err = c.communicate()
        assert c.returncode == 2 and err.count("\n") == 1 and "another seqfault is at work with it" in err
    c = check(f, "-j", "1", "--max-memory", "7M")
    c.communicate()
    for x in tmp_path.glob("r.*.checkpoint"):
        x.write_bytes(x.read_bytes()[:-100])
    for jobs in "12":
        c = check(f, "-j", jobs)
        _, err = c.communicate()
        assert c.returncode == 2 and err.count("\n") == 1 and "is damaged" in err and "delete it" in err, err


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_small_disk(tmp_path):
    """Checkpoints that do not fit, and results that do not."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("cannot mount")
    try:
        c = check(disk / "r", "-j", "1")
        _, err = c.communicate()
        assert c.returncode in (0, 1) and "no checkpoint" in err and "No space left on device" in err
        (disk / "r").unlink()
        with (disk / "filler").open("wb") as f, pytest.raises(OSError):
            f.write(bytes(1 << 21))
        out, err = check(disk / "r", "-j", "1").communicate()
        assert "r: No space left on device; the results from now on are not kept" in err
        assert all(s["verdict"] != "incomplete" for s in json.loads(out)["scenarios"])
        assert (disk / "r").read_bytes() == b""
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_forecast_after_the_widest_depth():
    """Of a bell of 201 depths the whole is told to a tenth, once half of it is past, and not before."""
    widths = [round(1e6 * math.exp(-(((d - 100) / 25) ** 2))) for d in range(201)]
    f, told = Forecast(), {}
    for d, w in enumerate(widths):
        n = f.see(d, w, sum(widths[: d + 1]))
        if n is not None:
            told[d] = n / sum(widths)
    assert min(told) > 100 and len(told) > 30 and all(0.9 < x < 1.1 for x in told.values())
    assert Forecast().see(3, 5, 20) is None


def test_threads_do_not_look_at_progress(capsys):
    r = check_scenario(load("mmap-sem"), find(["argued/case8-alone"])[0], Limits(threads=2))
    assert r.verdict == "incomplete" and "--threads" in r.reason
    assert r.states == check_scenario(load("mmap-sem"), find(["argued/case8-alone"])[0], Limits()).states
