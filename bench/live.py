"""Recordings of this machine against replays of them: the section "The live kernel" of docs/validation.md.

    python bench/live.py [--takes 10] [--runs 5] [--keep DIR] [--json]
    python bench/live.py --again DIR

Three programs are recorded (`record --stacks`) and replayed under vm-refcnt by what `whatif` does.  Two questions:
does the share of faults that the replay sends to mmap_lock lie in the 5-95% range of ten takes, and does a replay of a
recording take as long as the program does when nobody records it, with one thread and with two?

As root, on Linux 6.15 or later, with perf, stress-ng and a python3 that has numpy (`--python`).  CPUs may share a core
without telling, so all are kept busy while anything is measured, by loops that give way to everybody.  Hosts change
their speed by a third, for seconds or minutes: so what is compared is measured in turns, several times, and means count.
A program may do one thing in one run and another in the next (numpy's threads, by whose arena they get: 190,000 or 349,000
faults), so a run is predicted by the recordings that made as many faults, within a tenth.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from seqfault.cli import BadInput
from seqfault.price import machines
from seqfault.price.calibrate import Calibrated, as_toml, calibrate
from seqfault.price.replay import busiest
from seqfault.report.whatif import ask
from seqfault.report.whatif import replay as replay_once
from seqfault.trace import schema
from seqfault.trace.capture import capture, follow_parent
from seqfault.trace.store import TraceError, open_trace

SAMPLES = Path(__file__).parent / "samples"
FALLBACK = "lock_mm_and_find_vma"  # in the stack of a fault that takes mmap_lock for want of the VMA's
TRIES = 3
ENOUGH = 1000  # fallbacks in all takes; with fewer there is no judging
BACKED = 2 << 30  # bytes: more than any of the programs has mapped
WITHIN = 0.15
AS_MANY = 0.1  # faults of a run and of a recording that did the same differ by less
RECORDING, RUNNING = "recording.toml", "running.toml"
AUTOGROUP = Path("/proc/self/autogroup")
OLDEST = (6, 15)  # vm_refcnt


class LiveError(Exception):
    """It cannot be measured here; one line that says why, and what to do."""


@dataclass(frozen=True)
class Program:
    """`command(work, threads)`: `work` is what all threads do together.  `take`, `threads`: of the ten takes;
    `run`: of the runs with one thread and with two.  `unit`: of work."""

    name: str
    unit: str
    command: Callable[[int, int], list[str]]
    take: int
    threads: int
    run: int


def programs(python: str) -> list[Program]:
    def ebizzy(work: int, threads: int) -> list[str]:
        return [python, str(SAMPLES / "ebizzy.py"), str(threads), "600", str(work // threads)]

    def malloc(work: int, threads: int) -> list[str]:
        # the process itself is one of the threads
        more = ["--malloc-pthreads", str(threads - 1)] if threads > 1 else []
        return ["stress-ng", "--malloc", "1", "--malloc-touch", *more, "--malloc-ops", str(work), "--no-rand-seed", "--quiet"]

    def arrays(work: int, threads: int) -> list[str]:
        return [python, str(SAMPLES / "arrays.py"), str(work // threads), str(threads)]

    return [
        Program("ebizzy", "chunks", ebizzy, 900, 3, 2400),
        Program("stress-ng malloc", "operations", malloc, 10_000, 3, 30_000),
        Program("numpy", "rounds", arrays, 300, 2, 5000),
    ]


# -- measuring
@contextmanager
def first_of_all() -> Iterator[Callable[[], None]]:
    """What is started inside of this has the CPUs before everything else, and all CPUs are busy all the time.

    Nice values count among the tasks of one session only (autogroup), so the session's is changed, too.  Gives a
    function that ends it early.
    """
    group = AUTOGROUP.read_text().split()[-1] if AUTOGROUP.exists() else ""
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    if group:
        AUTOGROUP.write_text("-19")
    os.setpriority(os.PRIO_PROCESS, 0, -19)
    loops = [
        subprocess.Popen(
            ["taskset", "-c", str(cpu), "chrt", "--idle", "0", "sh", "-c", "while :; do :; done"],
            preexec_fn=follow_parent,
        )
        for cpu in sorted(os.sched_getaffinity(0))
    ]
    over = False

    def end() -> None:
        nonlocal over
        if over:
            return
        over = True
        for p in loops:
            p.kill()
            p.wait()
        os.setpriority(os.PRIO_PROCESS, 0, nice)
        if group:
            AUTOGROUP.write_text(group)

    try:
        yield end
    finally:
        end()


def record(command: Sequence[str], out: Path, say: Callable[[str], None]) -> None:
    """One recording; where there is nothing of it, another try.  Raises `LiveError` where it is not whole."""
    for left in reversed(range(TRIES)):
        backed()
        with first_of_all() as end:
            try:
                done = capture(out, command, None, "perf", stacks=True, tell=lambda n, end=end: end())  # type: ignore[misc]
                break
            except TraceError as e:
                if not left:
                    raise LiveError(str(e)) from None
                say(f"again: {e}")
    if done.interrupted:
        raise LiveError("interrupted")
    if done.meta.exit_code:
        raise LiveError(f"{' '.join(command)}: exit code {done.meta.exit_code}")
    if done.meta.lost:
        raise LiveError(f"perf lost {done.meta.lost} records of {' '.join(command)}; try again when less else runs")
    if not done.meta.has(schema.LOCK_WAIT):
        raise LiveError("this kernel has no tracepoints of mmap_lock (CONFIG_TRACING); nothing to compare with")


def run_once(command: Sequence[str]) -> tuple[float, int]:
    """How long the process with the work lives, that of the command or stress-ng's stressor, and how many page faults
    there were.  Raises `LiveError`."""
    with tempfile.NamedTemporaryFile(suffix=".yaml") as f:
        stressor = command[0] == "stress-ng"
        began = time.perf_counter()
        quiet = subprocess.DEVNULL
        child = subprocess.Popen(
            [*command, *(("--metrics", "-Y", f.name) if stressor else ())], stdin=quiet, stdout=quiet, stderr=quiet
        )
        _, status, usage = os.wait4(child.pid, 0)
        took = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise LiveError(f"{' '.join(command)}: exit code {child.returncode}")
        return wall_clock(Path(f.name).read_text()) if stressor else took, usage.ru_minflt


def wall_clock(yaml: str) -> float:
    for line in yaml.splitlines():
        key, _, value = line.strip().partition(": ")
        if key == "wall-clock-time":
            return float(value)
    raise LiveError("this stress-ng tells no wall-clock-time with --metrics -Y; 0.15 does")


def backed() -> None:
    """Have the host back memory, which the next program gets.  Else the first that grows pays for those that follow."""
    with mmap.mmap(-1, BACKED, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as m:
        m.madvise(mmap.MADV_HUGEPAGE)
        np.frombuffer(m, np.int8)[::4096] = 1


def means(all_: Sequence[Calibrated], recorded: Sequence[Calibrated]) -> Calibrated:
    """The mean of each constant; those of recorders as they were while something was recorded."""

    def of(tables: Sequence[dict[str, float]]) -> dict[str, float]:
        return {k: statistics.fmean(t[k] for t in tables) for k in tables[0] if all(k in t for t in tables)}

    recorder = {k: of([c.recorder[k] for c in recorded]) for k in recorded[0].recorder}
    return replace(all_[-1], measured=of([c.measured for c in all_]), recorder=recorder)


def measure(chosen: Sequence[Program], takes: int, runs: int, folder: Path, say: Callable[[str], None]) -> None:
    """Write recordings, untraced runs (`runs.json`), and the machine to the folder: as it was while it recorded, and while
    it did not."""
    out: dict[str, Any] = {"date": time.strftime("%Y-%m-%d %H:%M"), "load": os.getloadavg()[0], "runs": {}, "faults": {}}
    recording, running = [], []

    def calibrated(recorders: bool) -> Calibrated:
        say("calibrating")
        with first_of_all():
            c = calibrate(recorders=recorders)
        if recorders and not c.recorder:
            raise LiveError("what recording costs could not be measured; does `seqfault record --stacks -- true` work?")
        return c

    for k in range(max(takes, runs)):
        say(f"round {k + 1} of {max(takes, runs)}")
        recording.append(calibrated(True))
        for p in chosen:
            if k < takes:
                record(p.command(p.take, p.threads), folder / f"{p.name}.take.{k}.parquet", say)
            for n in (1, 2) if k < runs else ():
                record(p.command(p.run, n), folder / f"{p.name}.threads.{n}.{k}.parquet", say)
        if k >= runs:
            continue
        running.append(calibrated(False))
        for p in chosen:
            for n in (1, 2):
                backed()
                with first_of_all():
                    took, faults = run_once(p.command(p.run, n))
                out["runs"].setdefault(p.name, {}).setdefault(str(n), []).append(took)
                out["faults"].setdefault(p.name, {}).setdefault(str(n), []).append(faults)
    (folder / RECORDING).write_text(as_toml(means(recording, recording)))
    (folder / RUNNING).write_text(as_toml(means(running, recording)))
    out |= {"load_after": os.getloadavg()[0], "kernel": os.uname().release}
    out["recording"] = [c.measured | c.recorder["stacks"] for c in recording]
    out["running"] = [c.measured for c in running]
    (folder / "runs.json").write_text(json.dumps(out))


# -- ground truth
@dataclass
class Truth:
    """Of a recording's busiest process: faults, and those that fell back, by kernel code that touched user memory or
    by the program itself."""

    faults: int = 0
    kernel: int = 0
    user: int = 0

    @property
    def share(self) -> float:
        return (self.kernel + self.user) / max(self.faults, 1)

    @property
    def user_share(self) -> float:
        """Of the faults that could have done without mmap_lock."""
        return self.user / max(self.faults - self.kernel, 1)


def truth(path: Path | str) -> Truth:
    """Faults during which mmap_lock was asked for in `lock_mm_and_find_vma`, by the stacks of the waits."""
    with open_trace(path) as t:
        pid = busiest(t)
        there = {i for i, s in enumerate(t.meta.stacks) if any(f.startswith(FALLBACK) for f in s)}
        columns = ["time_ns", "duration_ns", "pid", "tid", "kind", "name", "address", "stack"]
        parts = [pl.from_arrow(b) for b in t.batches(columns, kinds=[schema.FAULT, schema.LOCK_WAIT])]
    frames = [p.with_columns(pl.col("kind", "name").cast(pl.String)) for p in parts if isinstance(p, pl.DataFrame)]
    df = pl.concat(frames).filter(pl.col("pid") == pid)
    # a replay can do nothing with a fault whose address is not known
    faults = df.filter((pl.col("kind") == schema.FAULT) & pl.col("address").is_not_null()).sort("time_ns")
    waits = df.filter((pl.col("kind") == schema.LOCK_WAIT) & pl.col("stack").is_in(there))
    # the fault that a wait is in is the thread's last one that began before it
    met = waits.sort("time_ns").join_asof(
        faults.select("time_ns", "tid", "name", began="time_ns"), on="time_ns", by="tid", suffix="_of_fault",
        check_sortedness=False,
    )  # fmt: skip
    met = met.filter(pl.col("began").is_not_null()).unique(["tid", "began"])
    by = dict(met.group_by("name_of_fault").len().iter_rows())
    return Truth(len(faults), by.get("kernel", 0), by.get("user", 0))


# -- judging
@dataclass
class Share:
    """Of the takes: percentiles of what is measured, median of what is predicted; `fallbacks` in all of them."""

    median: float
    low: float
    high: float
    fallbacks: int
    predicted: float
    least: float
    most: float

    @property
    def verdict(self) -> str:
        if self.fallbacks < ENOUGH:
            return f"fewer than {ENOUGH} fallbacks"
        return "ok" if self.low <= self.predicted <= self.high else "**miss**"


def share_of(measured: Sequence[float], fallbacks: int, predicted: Sequence[float]) -> Share:
    low, high = np.percentile(measured, (5, 95))
    return Share(
        statistics.median(measured), float(low), float(high), fallbacks,
        statistics.median(predicted), min(predicted), max(predicted),
    )  # fmt: skip


@dataclass
class Speed:
    """Units of work a second, untraced and as a recording's replay has it.  `recorded`: while it was recorded;
    `recorded_predicted`: the replay of that; `left_out`: faults of the runs that did what no recording did."""

    threads: int
    measured: float
    least: float
    most: float
    recorded: float
    recorded_predicted: float
    predicted: float
    left_out: list[int] = field(default_factory=list)

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1

    @property
    def verdict(self) -> str:
        return "ok" if abs(self.error) <= WITHIN else "**miss**"


@dataclass
class Replayed:
    """A recording: its faults, and in seconds how long it took, how long its replay does with the recorder's cost, and
    without."""

    faults: int
    recorded: float
    slowed: float
    replayed: float


def speed_of(
    work: int, threads: int, runs: Sequence[float], faults: Sequence[int] | None, recordings: Sequence[Replayed]
) -> Speed:
    """`runs` in seconds for `work`, and their `faults` (None: not known, so each did what all recordings did): each is
    predicted by the recordings that made as many; of several, means.  Raises `LiveError` if none did."""
    measured, predicted, left_out = [], [], []
    for took, n in zip(runs, faults or [None] * len(runs), strict=True):
        same = [r.replayed for r in recordings if n is None or abs(r.faults - n) <= AS_MANY * n]
        if same:
            measured.append(took)
            predicted.append(statistics.fmean(same))
        elif n is not None:
            left_out.append(n)
    if not measured:
        made = ", ".join(f"{r.faults:,}" for r in recordings)
        raise LiveError(f"no run made as many faults as a recording ({made}): more --runs")
    mean = statistics.fmean
    recorded, slowed = mean(r.recorded for r in recordings), mean(r.slowed for r in recordings)
    times = mean(measured), max(measured), min(measured), recorded, slowed, mean(predicted)
    return Speed(threads, *(work / s for s in times), left_out)


@dataclass
class Judged:
    """`mean_ns`: of operations, recorded and replayed (`slowed`: with the recorder's cost), by threads."""

    program: str
    unit: str
    takes: list[Truth]
    replays: list[Truth]
    share: Share | None = None
    user_share: Share | None = None
    speeds: list[Speed] = field(default_factory=list)
    reasons: dict[str, float] = field(default_factory=dict)
    mean_ns: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)  # replays in which the text did what it must not, or failed


def judge(
    p: Program, folder: Path, runs: dict[str, list[float]], faults: dict[str, list[int]], seeds: int,
    say: Callable[[str], None],
) -> Judged:  # fmt: skip
    running = machines.read(str(folder / RUNNING))

    def ask_about(path: Path) -> Any:
        q = ask(str(path), ["vm-refcnt"], machine=str(folder / RECORDING))
        if not q.slowed:
            raise LiveError(f"{folder / RECORDING} does not know what this recorder costs; measure again")
        if q.jobs[1].protocol.name != "vm-refcnt":
            raise LiveError(f"{path}: recorded on Linux {q.meta.kernel}, whose design is {q.jobs[1].protocol.name}")
        return q

    out = Judged(p.name, p.unit, [], [])
    reasons: dict[str, int] = {}
    paths = sorted(folder.glob(f"{p.name}.take.*.parquet"))
    for k, path in enumerate(paths):
        say(f"{p.name}: replaying take {k + 1} of {len(paths)}")
        out.takes.append(truth(path))
        q = ask_about(path)
        r = replay_once(q.jobs[0], q.machine, seeds)
        tell_broken(out, path, r)
        got = Truth()
        for o in r.outcomes:
            by_kernel = o.reasons.get("not_user", 0)
            got.faults += o.faults
            got.kernel += by_kernel
            got.user += o.locked - by_kernel
            for why, n in o.reasons.items():
                reasons[why] = reasons.get(why, 0) + n
        out.replays.append(got)
    if paths:
        fell = sum(t.kernel + t.user for t in out.takes)
        out.share = share_of([t.share for t in out.takes], fell, [t.share for t in out.replays])
        of_user = sum(t.user for t in out.takes)
        out.user_share = share_of([t.user_share for t in out.takes], of_user, [t.user_share for t in out.replays])
        total = sum(t.faults for t in out.replays)
        out.reasons = {k: n / total for k, n in sorted(reasons.items(), key=lambda x: -x[1])}
    for n, times in sorted(runs.items()):
        say(f"{p.name}: replaying {n} thread(s)")
        seen: list[Replayed] = []
        for path in sorted(folder.glob(f"{p.name}.threads.{n}.*parquet")):
            q = ask_about(path)
            j = q.jobs[1]
            slow, r = replay_once(q.jobs[0], q.machine, seeds), replay_once(j, running, seeds)
            rec = j.replay.recorded
            tell_broken(out, path, slow)
            tell_broken(out, path, r)
            count = {k: s.n for k, s in r.outcomes[0].stats.items() if s.n}
            seen.append(Replayed(count.get("fault", 0), rec.seconds, slow.seconds, r.seconds))
            out.mean_ns.setdefault(n, []).append({
                "recorded": rec.mean, "replayed": {k: s.mean for k, s in r.outcomes[0].stats.items() if s.n},
                "slowed": {k: s.mean for k, s in slow.outcomes[0].stats.items() if s.n},
                "count": count, "left_out": dict(j.replay.left_out), "failed": r.outcomes[0].failed,
                "finished": r.outcomes[0].finished, "seconds": [rec.seconds, slow.seconds, r.seconds],
            })  # fmt: skip
        out.speeds.append(speed_of(p.run, int(n), times, faults.get(n), seen))
    return out


def tell_broken(out: Judged, path: Path, r: Any) -> None:
    for o in r.outcomes:
        if o.violations or o.failed or not o.finished:
            why = [f"{n} {k}" for k, n in o.violations.items()]
            why += [f"{o.failed} operations failed"] if o.failed else []
            why += [] if o.finished else [f"given up at {o.seconds:.3f} s"]
            out.broken.append(f"{path.stem}, {r.name}: {', '.join(why)}")


def percent(x: float) -> str:
    return f"{100 * x:.3f}%"


def show(results: Sequence[Judged]) -> None:
    """The tables of docs/validation.md."""
    print("| program | faults, ten takes | fallbacks | share: median | 5-95% | predicted: median | all takes | |")
    print("|---|---|---|---|---|---|---|---|")
    for r in results:
        for what, s in (("", r.share), (", faults of the program's own code", r.user_share)):
            if s is None:
                continue
            n = sum(t.faults - (t.kernel if what else 0) for t in r.takes)
            print(
                f"| {r.program}{what} | {n:,} | {s.fallbacks:,} | {percent(s.median)} | {percent(s.low)}-{percent(s.high)} "
                f"| {percent(s.predicted)} | {percent(s.least)}-{percent(s.most)} | {s.verdict} |"
            )
    print("\n| program | threads | recorded | replayed | untraced: mean | least-most | predicted | error | |")
    print("|---|---|---|---|---|---|---|---|---|")
    for r in results:
        for v in r.speeds:
            print(
                f"| {r.program} | {v.threads} | {v.recorded:,.0f} | {v.recorded_predicted:,.0f} "
                f"| {v.measured:,.0f} {r.unit}/s | {v.least:,.0f}-{v.most:,.0f} "
                f"| {v.predicted:,.0f} | {100 * v.error:+.0f}% | {v.verdict} |"
            )


    for r in results:
        for v in r.speeds:
            if v.left_out:
                print(f"\n{r.program}, {v.threads} threads: left out, with as many faults as no recording: {v.left_out}")
        for text in r.broken:
            print(f"\n{text}")


def check_here(python: str) -> None:
    """Raises `LiveError`."""
    if os.geteuid() != 0:
        raise LiveError("only root sees mmap_lock's tracepoints; run it as root")
    release = tuple(int(x) for x in os.uname().release.split(".")[:2])
    if release < OLDEST:
        raise LiveError(f"Linux {os.uname().release} has no vm_refcnt; 6.15 or later has")
    for tool, package in (("perf", "linux-perf"), ("stress-ng", "stress-ng"), ("chrt", "util-linux")):
        if shutil.which(tool) is None:
            raise LiveError(f"{tool} is not installed: apt-get install {package}")
    if len(os.sched_getaffinity(0)) < 2:
        raise LiveError("two threads need two CPUs")
    if subprocess.run([python, "-c", "import numpy"], capture_output=True).returncode:
        raise LiveError(f"{python} has no numpy: apt-get install python3-numpy, or name another one with --python")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--takes", type=int, default=10)
    parser.add_argument("--runs", type=int, default=5, help="recordings and untraced runs of each program and number of threads")
    parser.add_argument("--seeds", type=int, default=1, help="replays of each recording")
    parser.add_argument("--program", action="append", help="only this one; may be repeated")
    parser.add_argument("--python", default="/usr/bin/python3", help="what runs the programs in Python")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the recordings there")
    parser.add_argument("--again", type=Path, metavar="DIR", help="judge recordings that were kept")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that nothing is left behind

    def say(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    try:
        chosen = [p for p in programs(args.python) if not args.program or p.name in args.program]
        if not chosen:
            raise LiveError(f"--program: there are {', '.join(p.name for p in programs(args.python))}")
        if args.takes < 1 or args.runs < 1 or args.seeds < 1:
            raise LiveError("--takes, --runs, --seeds: numbers from 1 on")
        if args.again is not None:
            return judged(chosen, args.again, args.seeds, args.json, say)
        check_here(args.python)
        if args.keep is not None:
            args.keep.mkdir(parents=True, exist_ok=True)
            measure(chosen, args.takes, args.runs, args.keep, say)
            return judged(chosen, args.keep, args.seeds, args.json, say)
        with tempfile.TemporaryDirectory() as folder:
            measure(chosen, args.takes, args.runs, Path(folder), say)
            return judged(chosen, Path(folder), args.seeds, args.json, say)
    except (LiveError, BadInput) as e:
        print(f"live: {e}", file=sys.stderr)
        return 2


def judged(chosen: Sequence[Program], folder: Path, seeds: int, as_json: bool, say: Callable[[str], None]) -> int:
    try:
        about = json.loads((folder / "runs.json").read_text())
    except (OSError, ValueError) as e:
        raise LiveError(f"--again {folder}: no runs.json of --keep there ({e})") from None
    made = about.get("faults", {})
    results = [
        judge(p, folder, about["runs"][p.name], made.get(p.name, {}), seeds, say)
        for p in chosen
        if p.name in about["runs"]
    ]
    if as_json:
        data = [
            asdict(r) | {"verdicts": [s.verdict for s in (r.share, r.user_share, *r.speeds) if s is not None]}
            for r in results
        ]
        print(json.dumps({k: v for k, v in about.items() if k != "runs"} | {"programs": data}, indent=1))
    else:
        print(f"{about['date']}, Linux {about['kernel']}, load {about['load']:.1f} before and {about['load_after']:.1f} after")
        show(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
