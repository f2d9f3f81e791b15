"""Record a program for `replay`: its memory calls by strace, its layouts at the start and the end, and (root, with
perf) its faults and the order in which its calls took mmap_lock.

    python -m seqfault.trace.record [--no-perf] DIRECTORY PROGRAM [ARGUMENT]...

strace holds each process for a moment when it returns from execve and when it enters exit_group (``delay_exit``,
``delay_enter``), and in that moment its /proc/PID/smaps is read.  The first program that strace starts cannot be
held, so that one is env(1), which then executes PROGRAM.  A process that is killed has no layout at its end.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import FrameType

from seqfault.trace.layout import Layout, parse_smaps, seconds, write_layout

CALLS = (
    "brk,mmap,munmap,mprotect,pkey_mprotect,mremap,madvise,process_madvise,remap_file_pages,mlock,mlock2,munlock,"
    "mlockall,munlockall,msync,mincore,mbind,shmget,shmat,shmdt,io_setup,io_destroy,clone,clone3,fork,vfork,execve,"
    "execveat,exit,exit_group,prctl,prlimit64,setrlimit,ftruncate,open,openat,openat2,creat,memfd_create"
)
# numbers of calls (x86-64) in which layouts are taken: execve, execveat; exit_group; mmap, mprotect, munmap, mremap,
# madvise
WHEN = {59: "start", 322: "start", 231: "end"} | dict.fromkeys((9, 10, 11, 25, 28), "mid")
POLL = 0.004
LOOKS = 500  # after so many without strace as its tracer, a process is somebody else's
EVENT = re.compile(
    r"\s*(\d+)/(\d+)\s+(?:\[\d+\]\s+)?(\d+)\.(\d+):\s+(?:(exceptions:page_fault_\w+): address=(\w+) .*error_code=(\w+)"
    r"|(mmap_lock:\w+):.*)"
)
LOST = re.compile(r"PERF_RECORD_LOST.*?lost (\d+)")


class RecordError(Exception):
    """One line for the user."""


def clocks() -> int:
    """CLOCK_REALTIME - CLOCK_MONOTONIC in nanoseconds, as exactly as one process can see it."""
    best, offset = 1 << 62, 0
    for _ in range(50):
        a = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        r = time.clock_gettime_ns(time.CLOCK_REALTIME)
        b = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        if b - a < best:
            best, offset = b - a, r - (a + b) // 2
    return offset


def read(path: str) -> str:
    return Path(path).read_text(errors="replace")


def machine() -> dict[str, str]:
    """What the kernel is set to that a layout depends on."""
    out = {"kernel": re.sub(r"[^\d.].*", "", os.uname().release)}
    for key, path in {
        "max_map_count": "/proc/sys/vm/max_map_count",
        "overcommit_memory": "/proc/sys/vm/overcommit_memory",
        "mmap_min_addr": "/proc/sys/vm/mmap_min_addr",
        "thp": "/sys/kernel/mm/transparent_hugepage/enabled",
    }.items():
        try:
            value = read(path).strip()
        except OSError:
            continue
        chosen = re.search(r"\[(\w+)\]", value)
        out[key] = chosen[1] if chosen else value
    return out


def mounts(paths: Iterable[str]) -> str:
    """The mounts on which these files lie, with their kinds: ``/:ext4,/dev:devtmpfs``."""
    kinds = {words[1]: words[2] for words in (line.split() for line in read("/proc/mounts").splitlines())}
    used = set()
    for path in paths:
        parts = [p for p in kinds if path.startswith(p.rstrip("/") + "/")]
        used.add(max(parts, key=len, default="/"))
    return ",".join(f"{at}:{kinds.get(at, '?')}" for at in sorted(used))


def limits(pid: int) -> dict[str, str]:
    out = {}
    for line in read(f"/proc/{pid}/limits").splitlines():
        m = re.match(r"Max (address space|data size|locked memory|stack size) +(\w+)", line)
        if m:
            name = {"address": "as", "data": "data", "locked": "memlock", "stack": "stack"}[m[1].split()[0]]
            out[f"rlimit_{name}"] = "-1" if m[2] == "unlimited" else m[2]
    return out


def snapshot(pid: int, when: str, now: Callable[[], int] = time.time_ns) -> Layout:
    """The layout of a process that is held.  `now`: the clock of the recording, in nanoseconds."""
    start = now()
    # pid (comm) state ...: fields 28 startstack, 47 start_brk of proc(5), counted behind the comm
    stat = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    about = {"start_brk": hex(int(stat[44])), "start_stack": hex(int(stat[25])), **limits(pid)}
    areas = parse_smaps(read(f"/proc/{pid}/smaps"))
    return Layout(pid, when, start, now(), about, areas)


class Watch:
    """Finds the held processes of one strace and takes their layouts.

    strace stops a task at each traced call for a moment.  One that is in the same stop at two looks is held; the
    count of its context switches tells stops apart, and that it did not run while its layout was read.
    """

    def __init__(self, tracer: int):
        self.tracer = tracer
        self.foreign: dict[int, int] = {}
        self.stop: dict[int, str] = {}  # the stop in which a process was seen last
        self.taken: dict[int, str] = {}
        self.layouts: list[Layout] = []
        self.missed = 0

    def traced(self) -> list[int]:
        out = []
        for name in os.listdir("/proc"):
            # what strace starts has later numbers than strace
            if not name.isdigit() or int(name) <= self.tracer or self.foreign.get(int(name), 0) > LOOKS:
                continue
            try:
                status = read(f"/proc/{name}/status")
            except OSError:
                continue
            if f"\nTracerPid:\t{self.tracer}\n" in status:
                out.append(int(name))
            else:
                self.foreign[int(name)] = self.foreign.get(int(name), 0) + 1
        return out

    def held(self, pid: int) -> tuple[str, str]:
        """Whether a thread of `pid` is stopped where layouts are taken: start, end, mid or "", and which stop it is.

        /proc/PID/syscall has the call's number, its arguments, sp and pc; an execve that succeeded has cleared
        the registers, so its first argument is 0.
        """
        try:
            for tid in os.listdir(f"/proc/{pid}/task"):
                text = read(f"/proc/{pid}/task/{tid}/syscall")
                words = text.split()
                number = int(words[0]) if words and words[0].isdigit() else -1
                if number not in WHEN or (WHEN[number] == "start" and int(words[1], 16) != 0):
                    continue
                status = read(f"/proc/{pid}/task/{tid}/status")
                switches = re.search(r"^voluntary_ctxt_switches:\s*(\d+)", status, re.M)
                if switches and "\nState:\tt" in status:
                    return WHEN[number], f"{tid} {switches[1]} {text}"
        except (OSError, ValueError):
            pass
        return "", ""

    def poll(self) -> None:
        for pid in self.traced():
            when, stop = self.held(pid)
            before = self.stop.get(pid)
            self.stop[pid] = stop
            if not when or stop != before or stop == self.taken.get(pid):
                continue
            try:
                layout = snapshot(pid, when)
            except OSError:
                self.missed += 1
                continue
            if self.held(pid)[1] != stop:  # it ran on while it was read
                self.missed += 1
                continue
            self.taken[pid] = stop
            if layout.areas:
                self.layouts.append(layout)


def tasks(trace: Path) -> set[str]:
    """The tids that strace names, and those of new tasks."""
    text = trace.read_text(errors="replace")
    return set(re.findall(r"^(\d+) ", text, re.M)) | set(re.findall(r"= (\d+)(?: <[\d.]+>)?$", text, re.M))


def events(data: Path, offset: int, tids: set[str], out: Path) -> tuple[int, int]:
    """Write perf's records of these tasks to `out`; how many there are, and how many it lost.

    Lines ``SECONDS TID KIND ADDRESS``: r, w, x a fault (R, W, X by the kernel), L mmap_lock taken for writing.
    """
    script = subprocess.Popen(
        ["perf", "script", "-f", "--ns", "--show-lost-events", "-i", str(data), "-F", "+pid,-comm"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
    )
    assert script.stdout
    n = lost = 0
    with out.open("w") as f:
        for line in script.stdout:
            m = EVENT.match(line)
            if not m:
                gone = LOST.search(line)
                lost += int(gone[1]) if gone else 0
                continue
            if m[2] not in tids:
                continue
            at = seconds(int(m[3]) * 1_000_000_000 + int(m[4]) + offset)
            n += 1
            if m[8]:
                f.write(f"{at} {m[2]} L\n")
                continue
            code = int(m[7], 16)
            kind = "x" if code & 16 else "w" if code & 2 else "r"
            f.write(f"{at} {m[2]} {kind.upper() if m[5].endswith('kernel') else kind} {m[6]}\n")
        if lost:
            f.write(f"# lost {lost}\n")
    script.wait()
    return n, lost


def end(process: subprocess.Popen[bytes]) -> None:
    """End what was started and still runs."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            continue


def record(
    directory: Path,
    program: list[str],
    perf: bool = True,
    delay: float = 0.1,
    quiet: bool = False,
    without: Sequence[str] = (),
    every: int = 0,
) -> int:
    """Record `program` into `directory`, all calls but those in `without`; returns its exit code.

    `every` n: also take layouts in between, at every n-th mmap, munmap, mprotect, mremap, madvise of a task.
    """
    if not shutil.which("strace"):
        raise RecordError("strace is not installed")
    if perf and (os.geteuid() != 0 or not shutil.which("perf")):
        raise RecordError("faults are recorded with perf, by root; --no-perf records without them")
    directory.mkdir(parents=True, exist_ok=True)
    trace, data, pidfile = directory / "strace", directory / "perf.data", directory / "pid"
    micro = int(delay * 1e6)
    calls = ",".join(c for c in CALLS.split(",") if c not in without)
    between = []
    if every:
        between = ["-e", f"inject=mmap,munmap,mprotect,mremap,madvise:delay_enter={micro // 4}:when={every}+{every}"]
    tracer = [
        *("strace", "-f", "--seccomp-bpf", "-ttt", "-T", "-y", "-o", str(trace), "-e", f"trace={calls}"),
        *("-e", f"inject=execve,execveat:delay_exit={micro}", "-e", f"inject=exit_group:delay_enter={micro}"),
        *between,
        *("env", "--", *program),
    ]
    command = ["sh", "-c", 'echo $$ > "$0"; exec "$@"', str(pidfile), *tracer]
    if perf:
        command = [
            *("perf", "record", "-q", "-k", "CLOCK_MONOTONIC", "-m", "4M", "-c", "1", "-o", str(data)),
            *("-e", "exceptions:page_fault_user", "-e", "exceptions:page_fault_kernel"),
            *("--filter", "address < 0x800000000000"),
            *("-e", "mmap_lock:mmap_lock_acquire_returned", "--filter", "write == 1 && success == 1"),
            *("--", *command),
        ]
    pidfile.unlink(missing_ok=True)
    before = clocks()
    stdout = subprocess.DEVNULL if quiet else None
    process = subprocess.Popen(command, stdout=stdout, stderr=stdout, start_new_session=True)
    watch: Watch | None = None
    try:
        while process.poll() is None:
            if watch is None and pidfile.exists() and (text := pidfile.read_text().strip()):
                watch = Watch(int(text))
            if watch:
                watch.poll()
            time.sleep(POLL)
    finally:
        end(process)
    pidfile.unlink(missing_ok=True)
    if watch is None:
        raise RecordError("strace did not start")
    about = machine()
    about["mounts"] = mounts(set(re.findall(r"<(/[^>]*)>", read(str(trace)))))
    with (directory / "maps").open("w") as f:
        f.write("# " + " ".join(f"{k}={v}" for k, v in about.items()) + "\n")
        for layout in watch.layouts:
            f.write(write_layout(layout))
    if perf:
        after = clocks()
        n, lost = events(data, (before + after) // 2, tasks(trace), directory / "events")
        data.unlink()
        if not quiet:
            print(f"{n} events, {lost} lost; the clocks drifted by {abs(after - before)} ns", file=sys.stderr)
    if not quiet:
        print(f"{len(watch.layouts)} layouts, {watch.missed} missed", file=sys.stderr)
    return process.returncode


def stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    signal.signal(signal.SIGTERM, stop)
    parser = argparse.ArgumentParser(prog="python -m seqfault.trace.record", description="Record a program.")
    parser.add_argument("--no-perf", action="store_true", help="no faults; works without root")
    parser.add_argument("--delay", type=float, default=0.1, help="seconds that a process is held (0.1)")
    parser.add_argument("--quiet", action="store_true", help="what the program prints is thrown away")
    parser.add_argument("--without", action="append", default=[], metavar="CALL", help="leave this call out")
    parser.add_argument("--every", type=int, default=0, metavar="N", help="layouts at every N-th call, too")
    parser.add_argument("directory", type=Path)
    parser.add_argument("program", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if not args.program:
        parser.error("no program")
    try:
        return record(args.directory, args.program, not args.no_perf, args.delay, args.quiet, args.without, args.every)
    except RecordError as e:
        print(f"record: {e}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
