"""Constants of this machine, measured: small loops in machine code, and the kernel's own calls.

What is disturbed (another virtual machine, an interrupt) only ever takes longer, so of several passes the fastest
counts.  What cannot be measured here is taken from the preset that is begun with, and says so.
"""

from __future__ import annotations

import mmap
import os
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from seqfault.price import recorder
from seqfault.price.curves import measure
from seqfault.price.loops import Loops
from seqfault.price.machines import CONSTANTS, COUNTS, Machine, builtin, make
from seqfault.price.replay import recorded_design
from seqfault.price.workloads import make as make_workload
from seqfault.protocols import load

PASSES = 7
CALLS = 20_000
WARM_PAGES, COLD_PAGES = 256, 1 << 15  # 1 MB, 128 MB
LEAST_FLUSH = 50  # ns; what is measured below that is the noise of two measurements
LIKE = "x86-small"
def fastest(run: Callable[[], Any], n: int, passes: int = PASSES, before: Callable[[], Any] | None = None) -> float:
    """ns for one of `n`, of the fastest pass."""
    best = float("inf")
    for _ in range(passes):
        if before is not None:
            before()
        t = time.perf_counter_ns()
        run()
        best = min(best, time.perf_counter_ns() - t)
    return best / n


def ring(words: int, stride: int, seed: int = 1) -> Any:
    """Memory whose words, `stride` apart, point to each other in a random circle."""
    mem = np.zeros(words, np.int64)
    at = np.random.default_rng(seed).permutation(words // stride) * stride
    mem[at] = mem.ctypes.data + 8 * np.roll(at, 1)
    return mem


def usual(run: Callable[[], Any], n: int, before: Callable[[], Any] | None = None) -> float:
    """ns for one of `n`, of the pass in the middle."""
    return statistics.median(fastest(run, n, 1, before) for _ in range(PASSES))


@dataclass(frozen=True)
class Calibrated:
    """`machine`; `measured`: which constants were; `recorder`: what recording costs (price/recorder.py); `seconds`;
    `fault`: an anonymous write fault here, ns, and as the model has it."""

    machine: Machine
    measured: dict[str, float]
    seconds: float
    fault: float
    modelled: float
    recorder: dict[str, dict[str, float]]


def siblings(a: int, b: int) -> bool:
    """Whether two CPUs are threads of one core, as far as the system tells."""
    where = "/sys/devices/system/cpu/cpu{}/topology/{}"
    try:
        return all(
            Path(where.format(a, f)).read_text() == Path(where.format(b, f)).read_text()
            for f in ("core_id", "physical_package_id")
        )
    except OSError:
        return False


def on_cpu(cpu: int, run: Callable[[], Any]) -> threading.Thread:
    """A thread that runs there (without the interpreter's lock, if it is a loop of `Loops`)."""

    def body() -> None:
        os.sched_setaffinity(0, {cpu})
        run()

    t = threading.Thread(target=body, daemon=True)
    t.start()
    return t


def transfer(loops: Loops, a: int, b: int, n: int = 20_000) -> float:
    """A line from one CPU to another."""
    word = np.zeros(16, np.int64)
    best = float("inf")
    mine = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {a})
        for _ in range(3):
            word[:] = 0
            t = on_cpu(b, lambda: loops.pong(word.ctypes.data, n, 1))
            began = time.perf_counter_ns()
            loops.pong(word.ctypes.data, n, 0)
            best = min(best, (time.perf_counter_ns() - began) / (2 * n))
            t.join()
    finally:
        os.sched_setaffinity(0, mine)
    return best


def shootdown(loops: Loops, a: int, b: int, n: int = 2000) -> float:
    """What another CPU that runs a thread of ours adds to a flush."""
    page = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    at = np.frombuffer(page, np.int8).ctypes.data
    stop = np.zeros(16, np.int64)
    mine = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {a})
        alone = fastest(lambda: loops.protect(at, n), n)
        t = on_cpu(b, lambda: loops.spin(stop.ctypes.data))
        both = fastest(lambda: loops.protect(at, n), n)
        stop[0] = 1
        t.join()
    finally:
        stop[0] = 1
        os.sched_setaffinity(0, mine)
    return max(both - alone, 0.0)


def calibrate(say: Callable[[str], None] = lambda what: None, recorders: bool = True) -> Calibrated:
    """Measure this machine, in less than a minute.  `say` is told what is measured; `recorders`: what `record` costs,
    too."""
    t0 = time.perf_counter()
    loops = Loops()
    got: dict[str, float] = {}
    say("loads that hit")
    small = ring(512, 8)
    got["hit"] = fastest(lambda: loops.chase(small.ctypes.data, 1_000_000), 1_000_000)
    say("atomic operations and barriers")
    word = np.zeros(16, np.int64)
    got["atomic"] = fastest(lambda: loops.add(word.ctypes.data, 500_000), 500_000)
    got["fence"] = fastest(lambda: loops.barrier(word.ctypes.data, 500_000), 500_000)
    say("memory")
    large = ring(1 << 24, 8).ctypes
    got["memory"] = fastest(lambda: loops.chase(large.data, 200_000), 200_000, 3)
    say("system calls")
    got["syscall"] = fastest(lambda: loops.getppid(word.ctypes.data, 100_000), 100_000)
    say("page faults, mapping and unmapping")
    took = operations(loops)
    say("clearing pages")
    block = np.zeros(1 << 22, np.int8)
    got["zero"] = fastest(lambda: block.fill(0), 1 << 10)
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) > 1:
        say("a line from CPU to CPU")
        got["smt" if siblings(cpus[0], cpus[1]) else "near"] = transfer(loops, cpus[0], cpus[1])
        say("shootdowns")
        flush = shootdown(loops, cpus[0], cpus[1]) / 2
        if flush >= LEAST_FLUSH:
            got["ipi_send"] = flush
        say("waking")
        preset = builtin()[LIKE]
        hop = wakeup(cpus[0], cpus[1]) - preset["wakeup"][0] - preset["schedule"][0]
        got["latency"] = max(hop, 0.0)
    say("the model's own operations")
    got |= fit(got, took, len(cpus))
    traced = recorder.measure(took, say) if recorders else {}
    machine = as_machine(got, len(cpus), traced)
    modelled = operations_of_model(machine)["fault"]
    return Calibrated(machine, got, time.perf_counter() - t0, took["fault"], modelled, traced)


def operations(loops: Loops) -> dict[str, float]:
    """ns of a write fault on anonymous memory that the host has backed already and the caches have, of giving such a
    page back, of mmap and of munmap of untouched pages (the mean of both), of advice that does nothing; `cold`: of a
    fault and giving back, of pages that no cache has.  What a program meets is the usual, not the fastest."""
    small, large = WARM_PAGES, COLD_PAGES
    took: dict[int, tuple[float, float]] = {}
    for n in (small, large):
        area, at = recorder.area(n)

        def again(area: mmap.mmap = area) -> None:
            area.madvise(mmap.MADV_DONTNEED)

        def touch(n: int = n, at: int = at) -> None:
            loops.touch(at, n)

        took[n] = usual(touch, n, before=again), usual(again, n, before=touch)
        area.close()
    return {
        "fault": took[small][0], "free": took[small][1], "cold": sum(took[large]),
        "map": usual(lambda: loops.map(0, CALLS), 2 * CALLS), "advise": usual(lambda: loops.advise(0, CALLS), CALLS),
    }  # fmt: skip


def wakeup(a: int, b: int, n: int = 2000) -> float:
    """From one process on a CPU to one that sleeps on another, by a byte in a pipe."""
    there, back = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.sched_setaffinity(0, {b})
            for _ in range(n):
                os.write(back[1], os.read(there[0], 1))
        finally:
            os._exit(0)
    mine = os.sched_getaffinity(0)
    times = []
    try:
        os.sched_setaffinity(0, {a})
        for _ in range(n):
            began = time.perf_counter_ns()
            os.write(there[1], b"x")
            os.read(back[0], 1)
            times.append(time.perf_counter_ns() - began)
    finally:
        os.sched_setaffinity(0, mine)
        os.waitpid(child, 0)
        for f in (*there, *back):
            os.close(f)
    return statistics.median(times) / 2


def operations_of_model(machine: Machine) -> dict[str, float]:
    """The same, under the design of the kernel that runs."""
    protocol = load(recorded_design(os.uname().release))
    out: dict[str, float] = {}
    for name, loop in (
        ("touch", [f"keep r1 {WARM_PAGES} anon", f"write r1 0 {WARM_PAGES}", f"advise r1 0 {WARM_PAGES}", "unit 1"]),
        ("map", ["map r1 3 anon", "unmap r1 0 3", "unit 1"]),
    ):
        w = make_workload(name, {"loop": loop}, "calibrate")
        s = measure(w, protocol, 1, machine, ms=20).outcomes[0].stats
        if name == "touch":
            out |= {"fault": s["fault"].mean, "free": s["madvise"].mean / WARM_PAGES}
        else:
            out["map"] = (s["mmap"].mean + s["munmap"].mean) / 2
    return out


def fit(got: dict[str, float], took: dict[str, float], cpus: int) -> dict[str, float]:
    """What is left of an operation once the model has had its part is the constant `fault`, `page_free`, `tree`."""
    machine = as_machine(got, cpus)
    names = {"fault": "fault", "free": "page_free", "map": "tree"}
    zero = {**machine.costs, **dict.fromkeys(names.values(), 0.0)}
    rest = operations_of_model(replace(machine, costs=zero))
    out = {constant: max(took[k] - rest[k], 0.0) for k, constant in names.items()}
    return out | {"cold": max(took["cold"] - took["fault"] - took["free"], 0.0)}


Recorder = dict[str, dict[str, float]]


def as_machine(got: dict[str, float], cpus: int, traced: Recorder | None = None) -> Machine:
    return make("here", {**builtin(), "here": {"like": LIKE, **toml_values(got, cpus, traced or {})}}, "calibrate")


def toml_values(got: dict[str, float], cpus: int, traced: Recorder) -> dict[str, Any]:
    """The table of a machine's file."""
    day = time.strftime("%Y-%m-%d")
    out: dict[str, Any] = {
        "title": f"this machine, {cpus} CPUs", "date": day, "sockets": 1,
        "cores": cpus // 2 if "smt" in got else cpus, "threads": 2 if "smt" in got else 1,
    }  # fmt: skip
    for k, v in got.items():
        out[k] = [round(v, 2), f"measured {day}"]
    if "near" in got:
        out["near_clean"] = [round(got["near"] * 0.45, 2), f"of near as in {LIKE}"]
    if traced:
        out["recorded"] = recorder.here()
    for name, values in traced.items():
        out[f"recorder_{name}" if name else "recorder"] = {k: round(v, 1) for k, v in values.items()}
    return out


def as_toml(c: Calibrated) -> str:
    """The file that `--machine` reads."""
    lines = [
        f"# Measured by `seqfault calibrate` on {time.strftime('%Y-%m-%d %H:%M')}, in {c.seconds:.0f} s.",
        f"# What is not here was not measured: it is as in {LIKE}.",
        "[here]",
        f'like = "{LIKE}"',
    ]
    for k, v in toml_values(c.measured, c.machine.cpus, c.recorder).items():
        if isinstance(v, list):
            lines.append(f'{k} = [{v[0]}, "{v[1]}"]')
        elif isinstance(v, str):
            lines.append(f'{k} = "{v}"')
        elif isinstance(v, dict):
            lines.append(f"{k} = {{ " + ", ".join(f"{x} = {y}" for x, y in v.items()) + " }")
        else:
            lines.append(f"{k} = {v}")
    return "\n".join(lines) + "\n"


__all__ = ["CONSTANTS", "COUNTS", "Calibrated", "as_toml", "calibrate"]
