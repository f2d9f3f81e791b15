"""Constants of this machine, measured: small loops in machine code, and the kernel's own calls.

What is disturbed (another virtual machine, an interrupt) only ever takes longer, so of several passes the fastest
counts.  What cannot be measured here is taken from the preset that is begun with, and says so.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from seqfault.compile.native import target_machine
from seqfault.price.curves import measure
from seqfault.price.machines import CONSTANTS, COUNTS, Machine, builtin, make
from seqfault.price.workloads import make as make_workload
from seqfault.protocols import load

PASSES = 7
PAGES = 4096  # 16 MB
LEAST_FLUSH = 50  # ns; what is measured below that is the noise of two measurements
LIKE = "x86-small"
LOOPS = """
define i64 @chase(ptr %p, i64 %n) {
entry:
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%i1, %loop]
  %q = phi ptr [%p, %entry], [%r, %loop]
  %a = load volatile i64, ptr %q
  %r = inttoptr i64 %a to ptr
  %i1 = add i64 %i, 1
  %c = icmp ult i64 %i1, %n
  br i1 %c, label %loop, label %end
end:
  %x = ptrtoint ptr %r to i64
  ret i64 %x
}
define i64 @add(ptr %p, i64 %n) {
entry:
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%i1, %loop]
  %o = atomicrmw volatile add ptr %p, i64 1 seq_cst
  %i1 = add i64 %i, 1
  %c = icmp ult i64 %i1, %n
  br i1 %c, label %loop, label %end
end:
  ret i64 %o
}
define i64 @barrier(ptr %p, i64 %n) {
entry:
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%i1, %loop]
  fence seq_cst
  %i1 = add i64 %i, 1
  %c = icmp ult i64 %i1, %n
  br i1 %c, label %loop, label %end
end:
  ret i64 0
}
; wait until the word is odd (or even), then add one: n times
define i64 @pong(ptr %p, i64 %n, i64 %odd) {
entry:
  br label %wait
wait:
  %i = phi i64 [0, %entry], [%i, %wait], [%i1, %turn]
  %s = phi i64 [0, %entry], [%s1, %wait], [0, %turn]
  %v = load atomic volatile i64, ptr %p seq_cst, align 8
  %b = and i64 %v, 1
  %mine = icmp eq i64 %b, %odd
  %s1 = add i64 %s, 1
  %late = icmp ugt i64 %s1, 4000000000
  %go = or i1 %mine, %late
  br i1 %go, label %turn, label %wait
turn:
  %v1 = add i64 %v, 1
  store atomic volatile i64 %v1, ptr %p seq_cst, align 8
  %i1 = add i64 %i, 1
  %c = icmp ult i64 %i1, %n
  br i1 %c, label %wait, label %end
end:
  ret i64 %i1
}
; until the word is not zero
define i64 @spin(ptr %p) {
entry:
  br label %loop
loop:
  %v = load atomic volatile i64, ptr %p seq_cst, align 8
  %c = icmp eq i64 %v, 0
  br i1 %c, label %loop, label %end
end:
  ret i64 %v
}
define i64 @touch(ptr %p, i64 %n) {
entry:
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%i1, %loop]
  %o = shl i64 %i, 12
  %q = getelementptr i8, ptr %p, i64 %o
  store volatile i8 1, ptr %q
  %i1 = add i64 %i, 1
  %c = icmp ult i64 %i1, %n
  br i1 %c, label %loop, label %end
end:
  ret i64 0
}
define i64 @getppid(ptr %p, i64 %n) {
entry:
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%i1, %loop]
  %r = call i64 asm sideeffect "syscall", "={rax},{rax},~{rcx},~{r11},~{memory}"(i64 110)
  %i1 = add i64 %i, 1
  %c = icmp ult i64 %i1, %n
  br i1 %c, label %loop, label %end
end:
  ret i64 %r
}
; mprotect(p, 4096, READ), then READ | WRITE, and a store
define i64 @protect(ptr %p, i64 %n) {
entry:
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%i1, %loop]
  %r = call i64 asm sideeffect "syscall", "={rax},{rax},{rdi},{rsi},{rdx},~{rcx},~{r11},~{memory}"(i64 10, ptr %p, i64 4096, i64 1)
  %s = call i64 asm sideeffect "syscall", "={rax},{rax},{rdi},{rsi},{rdx},~{rcx},~{r11},~{memory}"(i64 10, ptr %p, i64 4096, i64 3)
  store volatile i8 1, ptr %p
  %i1 = add i64 %i, 1
  %c = icmp ult i64 %i1, %n
  br i1 %c, label %loop, label %end
end:
  ret i64 %s
}
"""  # noqa: E501


class Loops:
    """The loops as machine code."""

    def __init__(self) -> None:
        tm = target_machine(2)
        llvm.initialize_native_asmparser()
        mod = llvm.parse_assembly(LOOPS)
        self.engine = llvm.create_mcjit_compiler(mod, tm)
        self.engine.finalize_object()

    def __getattr__(self, name: str) -> Any:
        p, i = ctypes.c_void_p, ctypes.c_int64
        shapes: dict[str, list[Any]] = {"spin": [p], "pong": [p, i, i]}
        args = shapes.get(name, [p, i])
        f = ctypes.CFUNCTYPE(i, *args)(self.engine.get_function_address(name))
        setattr(self, name, f)
        return f


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


@dataclass(frozen=True)
class Calibrated:
    """`machine`; `measured`: which constants were; `seconds`; `fault`: an anonymous write fault here, ns, and as the
    model has it."""

    machine: Machine
    measured: dict[str, float]
    seconds: float
    fault: float
    modelled: float


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


def calibrate(say: Callable[[str], None] = lambda what: None) -> Calibrated:
    """Measure this machine, in less than a minute.  `say` is told what is measured."""
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
    say("page faults")
    fault = anonymous_fault(loops)
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
    say("the model's own fault")
    machine, modelled = fit(got, fault, len(cpus))
    return Calibrated(machine, got, time.perf_counter() - t0, fault, modelled)


def anonymous_fault(loops: Loops) -> float:
    """A write fault on anonymous memory that the host has backed already."""
    area = mmap.mmap(-1, PAGES * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        area.madvise(mmap.MADV_NOHUGEPAGE)
    at = np.frombuffer(area, np.int8).ctypes.data
    loops.touch(at, PAGES)
    return fastest(lambda: loops.touch(at, PAGES), PAGES, before=lambda: area.madvise(mmap.MADV_DONTNEED))


def fit(got: dict[str, float], fault: float, cpus: int) -> tuple[Machine, float]:
    """What is left of a fault once the model has had its part is the constant `fault`; the model's fault then."""
    machine = as_machine(got, cpus)
    zero = {**machine.costs, "fault": 0.0}
    loop = ["keep r1 2048 anon", "write r1 0 2048", "advise r1 0 2048", "unit 1"]
    w = make_workload("one", {"loop": loop}, "calibrate")
    rest = measure(w, load("mmap-sem"), 1, replace(machine, costs=zero), ms=20).outcomes[0].stats["fault"].mean
    got["fault"] = max(fault - rest, 0.0)
    machine = as_machine(got, cpus)
    return machine, measure(w, load("mmap-sem"), 1, machine, ms=20).outcomes[0].stats["fault"].mean


def as_machine(got: dict[str, float], cpus: int) -> Machine:
    return make("here", {**builtin(), "here": {"like": LIKE, **toml_values(got, cpus)}}, "calibrate")


def toml_values(got: dict[str, float], cpus: int) -> dict[str, Any]:
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
    return out


def as_toml(c: Calibrated) -> str:
    """The file that `--machine` reads."""
    lines = [
        f"# Measured by `seqfault calibrate` on {time.strftime('%Y-%m-%d %H:%M')}, in {c.seconds:.0f} s.",
        f"# What is not here was not measured: it is as in {LIKE}.",
        "[here]",
        f'like = "{LIKE}"',
    ]
    for k, v in toml_values(c.measured, c.machine.cpus).items():
        if isinstance(v, list):
            lines.append(f'{k} = [{v[0]}, "{v[1]}"]')
        elif isinstance(v, str):
            lines.append(f'{k} = "{v}"')
        else:
            lines.append(f"{k} = {v}")
    return "\n".join(lines) + "\n"


__all__ = ["CONSTANTS", "COUNTS", "Calibrated", "as_toml", "calibrate"]
