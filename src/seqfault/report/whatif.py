"""`seqfault whatif`: a recording under other designs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import process_time
from typing import Any

from rich.progress import Progress
from rich.table import Table

import seqfault
from seqfault.cli import BadInput, dump
from seqfault.kernel.places import Protocol
from seqfault.price import machines, recorder
from seqfault.price.converter import ReplayError
from seqfault.price.curves import policy_of
from seqfault.price.machines import POLICIES, Machine
from seqfault.price.replay import Replay, convert, known_release, recorded_design
from seqfault.price.rewrites import GUARDS_SINCE, REWRITES
from seqfault.price.timed import UnsupportedMachine
from seqfault.price.world import Outcome, World, program
from seqfault.protocols import ProtocolError, load
from seqfault.report.consoles import console
from seqfault.report.price import DEFAULT, ended, merged, progress_bar, protocols_of, stopped, wrong
from seqfault.report.whatif_rewrites import rewritten
from seqfault.report.whatif_sites import invalidations, sites, told
from seqfault.trace.schema import CALL
from seqfault.trace.store import TraceError, open_trace

MOST = 50  # times the recorded time, after which a replay is given up


@dataclass(frozen=True)
class Job:
    """One design: its name, its text, the steps, on how many CPUs, the semaphore's policy; the rewrite of the program;
    what recording adds, in the job that is held against the recording."""

    name: str
    protocol: Protocol
    replay: Replay
    cpus: int
    policy: str
    rewrite: str = ""
    recorder: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """One design: an outcome a seed, and where faults were sent to mmap_lock."""

    name: str
    protocol: Protocol
    outcomes: tuple[Outcome, ...]
    blame: tuple[tuple[str, int], ...]
    met: Mapping[str, tuple[int, ...]]  # of all seeds, as `World.causes` has them
    calls: Mapping[str, tuple[int, int]]
    notes: Mapping[str, int]
    rewrite: str = ""

    @property
    def seconds(self) -> float:
        return sum(o.seconds for o in self.outcomes) / len(self.outcomes)

    @property
    def share(self) -> float:
        """Of faults that did not take mmap_lock."""
        n = sum(o.faults for o in self.outcomes)
        return 1 - sum(o.locked for o in self.outcomes) / n if n else 1.0


def replay(j: Job, mach: Machine, seeds: int, progress: Any = None) -> Result:
    """Replay once a seed; seeds differ in when threads start, by up to 0.1 ms."""
    r, p = j.replay, j.protocol
    costs = {**POLICIES[j.policy or policy_of(p)], **j.recorder}
    outcomes = []
    blame: Counter[str] = Counter()
    met: dict[str, tuple[int, ...]] = {}
    program(p, len(r.programs), r.owners is not None).address("vt_resume")  # compiled before time is taken
    for seed in range(1, seeds + 1):
        began = process_time()
        w = World(
            p, mach, r.programs, r.setup, seed, costs, stagger=100_000.0, cpus=j.cpus,
            placed=j.cpus == r.recorded.cpus, owners=r.owners,
        )  # fmt: skip
        most = 1e9 * max(r.recorded.seconds, 1e-3)

        def report(at: float, seed: int = seed, most: float = most) -> None:
            if progress is not None:
                progress((seed - 1 + min(at / most, 1)) / seeds)

        outcomes.append(w.finish(MOST * most, report))
        outcomes[-1].wall = process_time() - began
        for k, *row in w.causes():
            had = met.get(r.places[k], (0,) * len(row))
            met[r.places[k]] = tuple(a + b for a, b in zip(had, row, strict=True))
        at = w.layout.address("recorded", 0, "blame[0]")
        for i, place in enumerate(r.places):
            n = int(w.m.cells[at + i])
            if n:
                blame[place] += n
    return Result(j.name, p, tuple(outcomes), tuple(blame.most_common(5)), met, r.calls, r.notes, j.rewrite)


def machine_of(name: str, meta: Any) -> Machine:
    """What was asked for; else the one on which a trace was recorded, if its constants and what recording costs there
    are known; else this machine as it was calibrated; else a small one of as many CPUs."""
    cpus = meta.cpus or 1
    try:
        if name:
            return machines.read(name)
        here = [machines.read("here")] if machines.kept().exists() else []
        for m in (*here, *(machines.read(k) for k in machines.builtin())):
            if recorder.of(m.recorder, m.recorded, meta):
                return m
        if here:
            return here[0]
        m = machines.read("x86-small")
    except machines.MachineError as e:
        raise BadInput(str(e)) from None
    return replace(m, title=f"{cpus} CPUs like those of {m.name}, not calibrated", cores=max(cpus, 1))


@dataclass(frozen=True)
class Question:
    """A trace that was read, and the designs to replay it under.  The recorded one comes first; as it was recorded, if
    what recording costs is known (`recorder`), and then by itself."""

    trace: str
    meta: Any
    machine: Machine
    cpus: int
    jobs: tuple[Job, ...]
    recorder: Mapping[str, float] = field(default_factory=dict)

    @property
    def slowed(self) -> bool:
        return bool(self.recorder)


def ask(
    trace: str,
    protocol: Sequence[str] = (),
    cpus: int | None = None,
    machine: str = "",
    policy: str = "",
    rewrite: Sequence[str] = (),
    pid: int | None = None,
) -> Question:
    """Read a trace.  Raises `BadInput` for whatever the options name wrongly."""
    for x in rewrite:
        if x not in REWRITES:
            raise BadInput(f"--rewrite {x!r} is none of {', '.join(REWRITES)}")
    if policy and policy not in POLICIES:
        raise BadInput(f"--policy {policy!r} is none of {', '.join(POLICIES)}")
    try:
        with open_trace(trace) as t:
            meta = t.meta
            if "guard" in rewrite and known_release(meta.kernel) < GUARDS_SINCE:
                raise BadInput(
                    f"--rewrite guard: MADV_GUARD_INSTALL is of Linux 6.13, and {trace} was recorded on {meta.kernel}; "
                    "record the program on a later kernel"
                )
            if any(x != "processes" for x in rewrite) and not meta.has(CALL):
                raise BadInput(
                    f"--rewrite: {trace} has no calls that it could change; record as root, with perf, or add strace"
                )
            mach = machine_of(machine, meta)
            slow = recorder.of(mach.recorder, mach.recorded, meta)
            latency = mach.costs["latency"] + mach.costs["schedule"]
            r = convert(t, pid, recorder=slow, latency=latency)
            others = {x: convert(t, pid, x, slow, latency) for x in rewrite}
    except TraceError as e:
        raise BadInput(str(e)) from None
    except ReplayError as e:
        raise BadInput(f"{trace}: {e}") from None
    try:
        own = load(recorded_design(r.recorded.kernel))
    except ProtocolError as e:
        raise BadInput(str(e)) from None
    designs = [p for p in protocols_of(protocol or DEFAULT) if p is not own]
    n = cpus or r.recorded.cpus
    if n > 1024:
        raise BadInput(f"--cpus {n}; 1024 are the most")
    added = {k: slow[k] for k in recorder.TRACED if k in slow}
    jobs = [Job(f"{own.name}, recorded", own, r, r.recorded.cpus, "", "", added)] if added else []
    jobs.append(Job(own.name, own, r, r.recorded.cpus, ""))
    if n != r.recorded.cpus or policy:
        name = f"{own.name} on {n} CPUs" if n != r.recorded.cpus else f"{own.name}, {policy}"
        jobs.append(Job(name, own, r, n, policy))
    jobs += [Job(p.name, p, r, n, policy) for p in designs]
    jobs += [Job(f"{own.name}, {x}", own, q, n, policy, x) for x, q in others.items()]
    return Question(trace, meta, mach, n, tuple(jobs), slow if added else {})


def answer(q: Question, seeds: int, bar: Progress) -> dict[str, Any]:
    """Replay it: what --json prints.  Raises `BadInput`."""
    results: list[Result] = []
    task = bar.add_task("", total=len(q.jobs), what="")
    try:
        for k, j in enumerate(q.jobs):
            bar.update(task, description=j.name)
            results.append(
                replay(j, q.machine, seeds, lambda x, k=k: bar.update(task, completed=k + x))  # type: ignore[misc]
            )
    except UnsupportedMachine as e:
        raise BadInput(str(e)) from None
    except ValueError as e:
        raise BadInput(f"{q.trace}: {e}") from None
    return as_data(q, results)


def run_whatif(
    trace: str,
    protocol: Sequence[str],
    cpus: int | None,
    machine: str,
    policy: str,
    rewrite: Sequence[str],
    pid: int | None,
    seeds: int,
    json: bool,
) -> None:
    """The command."""
    q = ask(trace, protocol, cpus, machine, policy, rewrite, pid)
    with progress_bar() as bar:
        data = answer(q, seeds, bar)
    if json:
        dump(data)
    else:
        show(data)


def as_data(q: Question, results: Sequence[Result]) -> dict[str, Any]:
    """As JSON has it (docs/json.md)."""
    r = q.jobs[0].replay
    held, own = results[0], results[int(q.slowed)]
    designs = []
    for x in results[int(q.slowed) :]:
        fault = [o.stats["fault"] for o in x.outcomes]
        n = sum(s.n for s in fault)
        reasons: Counter[str] = Counter()
        for o in x.outcomes:
            reasons.update(o.reasons)
        designs.append({
            "name": x.name, "protocol": x.protocol.name, "seconds": x.seconds,
            "seconds_range": [min(o.seconds for o in x.outcomes), max(o.seconds for o in x.outcomes)],
            "speed": own.seconds / x.seconds if x.seconds else None,
            "faults": n // len(fault), "without_mmap_lock": x.share,
            "share_range": [min(1 - o.locked / max(o.faults, 1) for o in x.outcomes),
                            max(1 - o.locked / max(o.faults, 1) for o in x.outcomes)],
            "reasons": {k: v / len(fault) for k, v in reasons.most_common()},
            "operations": {
                k: {
                    "n": sum(o.stats[k].n for o in x.outcomes) // len(x.outcomes),
                    "mean_ns": sum(o.stats[k].ns for o in x.outcomes) / max(1, sum(o.stats[k].n for o in x.outcomes)),
                    "mean_wait_ns": sum(o.stats[k].waited for o in x.outcomes)
                    / max(1, sum(o.stats[k].n for o in x.outcomes)),
                    "p99_ns": max(o.stats[k].p99 for o in x.outcomes),
                }
                for k in x.outcomes[0].stats
            },
            "invalidations": invalidations(x.outcomes), "sites": sites(x.outcomes, x.met, x.calls),
            "after": [{"place": p, "faults": k / len(fault)} for p, k in x.blame],
            "failed": sum(o.failed for o in x.outcomes), "finished": all(o.finished for o in x.outcomes),
            "violations": merged(x.outcomes), "stopped": stopped(x.outcomes),
            "rewrite": {"name": x.rewrite, **x.notes} if x.rewrite else None,
            "replay_seconds": [o.wall for o in x.outcomes],
            "replay_times": max(o.wall for o in x.outcomes) / r.recorded.seconds if r.recorded.seconds else None,
        })  # fmt: skip
    rec = r.recorded
    return {
        "version": seqfault.__version__, "trace": q.trace, "pid": r.pid, "threads": len(r.programs), "events": r.events,
        "machine": q.machine.title, "cpus": q.cpus, "recorder_known": q.slowed,
        "recorded": {
            "seconds": rec.seconds, "cpus": rec.cpus, "kernel": rec.kernel, "faults": rec.faults,
            "without_mmap_lock": None if rec.fallback is None else 1 - rec.fallback, "mean_ns": rec.mean,
        },
        "error": errors(rec, held, q.recorder.get("gap_fault", 0.0)),
        "left_out": dict(r.left_out), "replaced": dict(r.replaced), "seeds": len(own.outcomes),
        "lost": q.meta.lost, "designs": designs,
    }  # fmt: skip


def errors(rec: Any, own: Result, outside: float) -> dict[str, float | None]:
    """The replay of the recorded design against the recording: of time and of a fault's duration relative, of the share
    in points.  `outside`: what a fault takes before and after what was recorded of it, if that is known."""
    o = own.outcomes
    n = max(1, sum(x.stats["fault"].n for x in o))
    fault = sum(x.stats["fault"].ns for x in o) / n
    return {
        "seconds": own.seconds / rec.seconds - 1 if rec.seconds else None,
        "fault_ns": fault / (rec.mean["fault"] + outside) - 1 if rec.mean.get("fault") else None,
        "without_mmap_lock": None if rec.fallback is None else own.share - (1 - rec.fallback),
    }


def percent(x: float | None, digits: int = 1) -> str:
    return "?" if x is None else f"{100 * x:+.{digits}f}%"


def width_of_share(x: dict[str, Any]) -> str:
    low, high = x["share_range"]
    return f" ±{50 * (high - low):.2f}" if high - low >= 0.0001 else ""


def confidence(d: dict[str, Any]) -> str:
    """From how many replays the figures are, and what a replay took of a CPU of this machine."""
    walls = [w for x in d["designs"] for w in x["replay_seconds"]]
    times = [x["replay_times"] for x in d["designs"] if x["replay_times"] is not None]
    n = d["seeds"]
    of = f"means of {n} replays, ±: half of their range" if n > 1 else "of one replay: no range (--seeds)"
    most = f", at most {max(times):.1f} times the recorded run" if times else ""
    return f"{of}; a replay took {min(walls):.2f} to {max(walls):.2f} s of a CPU{most}"


def about_recorder(d: dict[str, Any]) -> str:
    known = d["recorder_known"]
    return "with the recorder's cost added" if known else "the recorder's own cost is in what it recorded"


def show(d: dict[str, Any]) -> None:
    c = console()
    c.width = max(c.width, 120)
    rec, err = d["recorded"], d["error"]
    c.print(
        f"{d['trace']}: process {d['pid']}, {d['threads']} threads on {rec['cpus']} CPUs, {d['events']} events in "
        f"{rec['seconds']:.3f} s, Linux {rec['kernel'] or '?'}"
    )
    c.print(f"replayed on {d['machine']}, {d['cpus']} CPUs")
    own = d["designs"][0]
    points = "?" if err["without_mmap_lock"] is None else f"{100 * err['without_mmap_lock']:+.2f} points"
    c.print(
        f"the recording itself, under {own['protocol']}: time {percent(err['seconds'])}, mean fault "
        f"{percent(err['fault_ns'])} ({about_recorder(d)}), share without mmap_lock {points}"
    )
    t = Table(box=None, pad_edge=False)
    for head in ("design", "s", "speed", "no mmap_lock", "fault mean", "wait", "p99", "munmap mean", "wait", "error"):
        t.add_column(head, justify="left" if head == "design" else "right", no_wrap=True)
    for x in d["designs"]:
        f, u = x["operations"]["fault"], x["operations"]["munmap"]
        low, high = x["seconds_range"]
        width = f" ±{(high - low) / 2:.3f}" if high - low >= 0.001 else ""
        t.add_row(
            x["name"], f"{x['seconds']:.3f}{width}" + ("" if x["finished"] else " (given up)"),
            "" if x["speed"] is None else f"x{x['speed']:.2f}",
            f"{100 * x['without_mmap_lock']:.2f}%" + width_of_share(x),
            f"{f['mean_ns']:.0f} ns", f"{f['mean_wait_ns']:.0f}", f"{f['p99_ns']:.0f}",
            f"{u['mean_ns']:.0f} ns" if u["n"] else "", f"{u['mean_wait_ns']:.0f}" if u["n"] else "",
            percent(err["seconds"], 0),
        )  # fmt: skip
    c.print(t)
    c.print(confidence(d))
    for x in d["designs"]:
        n = max(x["faults"], 1)
        if x["reasons"]:
            why = ", ".join(f"{k} {v:,.1f} ({100 * v / n:.2f}%)" for k, v in list(x["reasons"].items())[:5])
            c.print(f"{x['name']}: back to mmap_lock because of {why}")
            if x["after"]:
                c.print("  after " + "; ".join(f"{a['place']}: {a['faults']:,.1f}" for a in x["after"][:3]))
    for x in d["designs"]:
        for k, said in enumerate(told(x)):
            c.print("  " * bool(k) + ("" if k else f"{x['name']}: ") + said, markup=False)
    for x in d["designs"]:
        if x["violations"]:
            c.print(f"{wrong(x['name'], x['violations'])}, and do not believe its figures", markup=False)
        for line in ended(d["seeds"], x["stopped"]):
            c.print(f"{x['name']}: {line}", markup=False)
    for x in d["designs"]:
        for said in rewritten(x["rewrite"]):
            c.print(f"{x['name']}: {said}", markup=False)
    for title in ("left_out", "replaced"):
        for k, v in d[title].items():
            c.print(f"{title.replace('_', ' ')}: {v} {k}", markup=False)
    failed = sum(x["failed"] for x in d["designs"])
    if failed:
        c.print(f"{failed} operations of the replays failed: they met the address space in another state than recorded")
    if d["lost"]:
        c.print(f"the recorder lost {d['lost']} records")
