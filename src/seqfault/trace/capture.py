"""Run perf and strace on a program or a process, and make a trace of what they saw.

Nothing is left behind: perf is ended, its file removed, tracefs unmounted if it was mounted here; a process that was
only watched runs on.  That holds for SIGINT and SIGTERM too, which end a recording early.
"""

from __future__ import annotations

import ctypes
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import seqfault
from seqfault.trace import schema as s
from seqfault.trace.assemble import CALLS, OFTEN
from seqfault.trace.hold import Held, stopped
from seqfault.trace.importing import COSTS, PERF_REMEDY, fill, perf_text, text_lines
from seqfault.trace.layout import Area, Layout, parse_area, write_layout
from seqfault.trace.perf_script import Sample, Source, read_samples
from seqfault.trace.processes import GRACE, Stop, alive, children, follow_parent, send, tell_to_end, unread, wait_for
from seqfault.trace.record import clocks, machine, mounts, snapshot
from seqfault.trace.schema import Meta, Missing
from seqfault.trace.store import TraceError, Writer, replaceable, row
from seqfault.trace.strace_rows import TRACED

TRACEFS = Path("/sys/kernel/tracing")
FAULTS = ("exceptions:page_fault_user", "exceptions:page_fault_kernel")
LOCKS = ("mmap_lock:mmap_lock_start_locking", "mmap_lock:mmap_lock_acquire_returned", "mmap_lock:mmap_lock_released")
TASKS = {s.FORK: "task:task_newtask", s.EXEC: "sched:sched_process_exec", s.EXIT: "sched:sched_process_exit"}
ROOM = "4M"  # of perf's buffer, a CPU
# --sample: seconds that are recorded, seconds from one to the next, and to the first one
BURST, EVERY, FIRST = 0.010, 5.0, 0.2
PATIENCE = 60.0  # seconds in which perf has to obey; it opens all its events first, on a machine that may be busy
WARM = 0.15  # seconds that perf has to attach before a layout is read
UNDER_WAY = "calls of which one half is missing (is never resumed)"
EVENTS_REMEDY = "record as root"
PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")


@dataclass
class Plan:
    """What is to be run, what it will record, and what it cannot."""

    perf: list[str] = field(default_factory=list)
    strace: list[str] = field(default_factory=list)
    recorded: list[str] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    sample: bool = False

    @property
    def source(self) -> str:
        return "+".join(n for n, c in (("perf", self.perf), ("strace", self.strace)) if c)


@contextmanager
def tracefs(wanted: bool) -> Iterator[None]:
    """tracefs is mounted inside of this, and afterwards as it was before."""
    if not wanted or os.geteuid() != 0 or (TRACEFS / "events").is_dir():
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tracefs", str(TRACEFS).encode(), b"tracefs", 0, None):
        why = os.strerror(ctypes.get_errno())
        raise TraceError(f"tracefs cannot be mounted on {TRACEFS}: {why}; --with strace needs none")
    try:
        yield
    finally:
        for _ in range(20):  # perf may still be letting go of it
            if libc.umount2(str(TRACEFS).encode(), 0) == 0:
                break
            time.sleep(0.05)


def paranoid() -> int:
    try:
        return int(PARANOID.read_text())
    except (OSError, ValueError):
        return 2


def make_plan(use: str | None, stacks: bool, sample: bool) -> Plan:
    """What can be recorded here.  `use`: perf, strace, or None for what there is.  tracefs must be mounted by now.

    Raises `TraceError` where nothing can, or what was asked for cannot.
    """
    have = {tool: shutil.which(tool) for tool in ("perf", "strace")}
    root = os.geteuid() == 0
    events = TRACEFS / "events"
    traceable = (root or paranoid() < 0) and os.access(events / "syscalls", os.X_OK)
    if use == "perf" and not have["perf"]:
        raise TraceError(f"--with perf: perf is not installed ({PERF_REMEDY}); --with strace records calls only")
    if use == "strace" and not have["strace"]:
        raise TraceError("--with strace: strace is not installed (apt-get install strace)")
    if not have["perf"] and not have["strace"]:
        raise TraceError(f"neither perf nor strace is installed ({PERF_REMEDY} strace)")
    software = have["perf"] and (root or paranoid() <= 2)
    if use == "perf" and not software:
        raise TraceError(
            f"--with perf: kernel.perf_event_paranoid is {paranoid()}, which keeps perf for root; record as root, or "
            "sysctl kernel.perf_event_paranoid=2"
        )
    if sample and (use == "strace" or not software):
        raise TraceError("--sample: strace stops the program at every call; sampling needs perf, as root for all of it")
    plan = Plan(sample=sample)
    if use != "strace" and software:
        (traced_plan if traceable else software_plan)(plan, stacks, events)
    elif use != "strace" and not have["perf"]:
        plan.missing.append(Missing(s.FAULT, "perf is not installed", COSTS[s.FAULT], PERF_REMEDY))
    elif use is None:
        why = f"kernel.perf_event_paranoid is {paranoid()}"
        plan.missing.append(Missing(s.FAULT, why, COSTS[s.FAULT], EVENTS_REMEDY))
    else:
        plan.missing.append(Missing(s.FAULT, "strace sees none", COSTS[s.FAULT], "--with perf"))
    if s.CALL not in plan.recorded and use != "perf" and have["strace"] and not sample:
        plan.strace = ["strace", "-f", "--seccomp-bpf", "-ttt", "-T", "-y", "-q", "-e", f"trace={','.join(TRACED)}"]
        plan.recorded += [s.CALL, s.FORK, s.EXEC, s.EXIT]
        plan.missing.append(
            Missing("call times", "strace stops the program at each call", "calls take 20 us or more longer than they "
                    "would; their durations and the overlap of faults with them are overstated", EVENTS_REMEDY)
        )  # fmt: skip
    plan.recorded = [k for k in s.KINDS if k in plan.recorded]
    told = {m.what for m in plan.missing}
    for kind in (s.FAULT, s.CALL, s.LOCK_WAIT, s.LOCK_HOLD):
        if kind not in plan.recorded and kind not in told:
            why = "strace sees none" if use == "strace" else "tracepoints are for root"
            plan.missing.append(Missing(kind, why, COSTS[kind], EVENTS_REMEDY))
    if stacks and not plan.perf:
        plan.missing.append(Missing("stacks", "strace records none here", "call sites are not known", "--with perf"))
    return plan


def traced_plan(plan: Plan, stacks: bool, events: Path) -> None:
    """perf with tracepoints."""

    def there(name: str) -> bool:
        return (events / name.replace(":", "/", 1)).is_dir()

    def lacking(kind: str, name: str, costs: str = "") -> None:
        plan.missing.append(Missing(kind, f"this kernel has no {name}", costs or COSTS[kind], "another kernel"))

    out: list[str] = []

    def event(name: str, callers: bool = stacks, only: str = "") -> None:
        out.extend(("-e", f"{name}/call-graph=fp/" if callers else name, *(("--filter", only) if only else ())))

    plan.perf = ["-c", "1", "-d", "--switch-events"]
    event("minor-faults", False)
    event("major-faults", False)
    plan.recorded += [s.FAULT, s.OFF, s.FORK, s.EXEC, s.EXIT, s.AREA]
    if all(there(f) for f in FAULTS):
        for f in FAULTS:
            event(f, only="address < 0x800000000000")
    else:
        lacking("fault kinds", FAULTS[0], "whether a fault read or wrote is not known, nor its duration")
        event("page-faults", False)
    calls = [c for c in (OFTEN if plan.sample else CALLS) if there(f"syscalls:sys_enter_{c}")]
    for c in calls:
        event(f"syscalls:sys_enter_{c}")
        event(f"syscalls:sys_exit_{c}", False)
    if calls:
        plan.recorded.append(s.CALL)
    else:
        lacking(s.CALL, "syscalls:sys_enter_mmap (CONFIG_FTRACE_SYSCALLS)")
    if all(there(n) for n in LOCKS):
        # the stack of a read tells a fallback from __vmf_anon_prepare; reads are few
        event(LOCKS[0], True, "write == 0")
        event(LOCKS[0], only="write == 1")
        event(LOCKS[1], False)
        event(LOCKS[2], False)
        plan.recorded += [s.LOCK_WAIT, s.LOCK_HOLD]
    else:
        lacking(s.LOCK_WAIT, LOCKS[0])
    for name in TASKS.values():
        if there(name):
            event(name, False)
    plan.perf += out if stacks else ["--kernel-callchains", *out]


def software_plan(plan: Plan, stacks: bool, events: Path) -> None:
    """perf without tracepoints: what any user may record of his own processes."""
    plan.perf = ["-c", "1", "-d", "--switch-events", *(["-g"] if stacks else [])]
    plan.perf += ["-e", "page-faults", "-e", "minor-faults", "-e", "major-faults"]
    plan.recorded += [s.FAULT, s.OFF, s.AREA, s.FORK, s.EXIT]
    why = "no tracefs" if os.geteuid() == 0 else "tracepoints are for root"
    plan.missing += [
        Missing("fault kinds", why, "whether a fault read or wrote is not known; faults that the kernel takes for the "
                "program are not seen", EVENTS_REMEDY),
        Missing(s.LOCK_WAIT, why, COSTS[s.LOCK_WAIT], EVENTS_REMEDY),
        Missing(s.LOCK_HOLD, why, COSTS[s.LOCK_HOLD], EVENTS_REMEDY),
    ]  # fmt: skip


# -- running
@dataclass
class Captured:
    """What came of a recording: its trace's metadata; `interrupted`: a signal ended it."""

    meta: Meta
    interrupted: bool


def add_area(writer: Writer, now: int, pid: int, a: Area) -> None:
    if a.end < 1 << 47:
        prot = sum(bit for bit, c in zip((1, 2, 4), a.perms, strict=False) if c != "-")
        share = 1 if a.perms[3] == "s" else 2
        writer.add(
            row(now, pid, pid, s.AREA, address=a.start, length=a.end - a.start, a2=prot, a3=share, a5=a.offset,
                file=a.path or None), -(1 << 63)
        )  # fmt: skip


def areas_of(pid: int, writer: Writer) -> None:
    """The layout of a process that runs already."""
    now = time.monotonic_ns()
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        a = parse_area(line)
        if a is not None:
            add_area(writer, now, pid, a)


def new_meta(plan: Plan, command: Sequence[str], stacks: bool) -> Meta:
    about = os.uname()
    meta = Meta(
        source=plan.source, command=list(command), host=about.nodename, kernel=about.release, machine=about.machine,
        cpus=os.cpu_count() or 0, page_size=os.sysconf("SC_PAGE_SIZE"),
        settings=machine() | {"clock": "CLOCK_MONOTONIC"},
        tools={"seqfault": seqfault.__version__}, recorded=list(plan.recorded), missing=list(plan.missing),
    )  # fmt: skip
    meta.settings["stacks"] = "yes" if stacks and plan.perf else "no"
    for tool in plan.source.split("+"):
        try:
            said = subprocess.run([tool, "--version" if tool == "perf" else "-V"], capture_output=True, text=True)
        except OSError:
            continue
        meta.tools[tool] = re.sub(r".*version ", "", (said.stdout.splitlines() or ["?"])[0])
    return meta


def command_of(pid: int | None) -> list[str]:
    """The command line of a process that runs."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return [f"--pid {pid}"]
    return [w for w in words if w] or [f"--pid {pid}"]


def check_target(pid: int | None, command: Sequence[str]) -> None:
    if pid is not None:
        if not Path(f"/proc/{pid}").is_dir():
            raise TraceError(f"--pid {pid}: no such process")
        if os.geteuid() != 0 and Path(f"/proc/{pid}").stat().st_uid != os.geteuid():
            raise TraceError(f"--pid {pid}: another user's process; record as root")
    elif shutil.which(command[0]) is None:
        raise TraceError(f"{command[0]}: no such program")


def capture(
    out: Path,
    command: Sequence[str],
    pid: int | None,
    use: str | None,
    stacks: bool = False,
    sample: bool = False,
    seconds: float | None = None,
    say: Callable[[str], None] = lambda text: None,
    tell: Callable[[int], None] | None = None,
) -> Captured:
    """Record `command`, or process `pid` until it ends or `seconds` are over, into the trace `out`.

    `say`: told what is being done; `tell`: told how many events have been read.  Raises `TraceError`.
    """
    check_target(pid, command)
    if not out.parent.is_dir():
        raise TraceError(f"-o {out}: no directory {out.parent}")
    replaceable(out)
    with Stop() as stop, tracefs(use != "strace"):
        plan = make_plan(use, stacks, sample)
        meta = new_meta(plan, command or command_of(pid), stacks)
        for m in plan.missing:
            say(f"not recorded: {m.what} ({m.why}): {m.costs}" + (f"; {m.remedy}" if m.remedy else ""))
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".seqfault-record-") as folder, Writer(out, meta) as w:
            run = Run(plan, Path(folder), command, pid, stop)
            (run.go_sampling if plan.sample else run.go)(w, seconds, say)
            stop.number = 0

            def told(n: int) -> None:
                if stop.number:
                    raise TraceError(f"interrupted while reading what was recorded; {out} was not written")
                if tell is not None:
                    tell(n)

            source = run.read(w, told)
            meta.skipped = dict(source.skipped)
            w.close()
        return Captured(meta, bool(run.early and pid is None))


class Run:
    """One recording: the tools started, waited for, ended, read."""

    def __init__(self, plan: Plan, folder: Path, command: Sequence[str], pid: int | None, stop: Stop):
        self.plan, self.folder, self.command, self.pid, self.stop = plan, folder, command, pid, stop
        self.data, self.text, self.errors = folder / "perf.data", folder / "strace", folder / "errors"
        self.parts: list[Path] = []  # what the perfs of --sample wrote
        self.room = ROOM if os.geteuid() == 0 else "256"
        self.windows: list[list[int]] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.early = False
        self.pids: dict[int, int] = {}  # of the threads that a process that runs has
        self.offset = 0
        self.controls = False  # whether perf waits for orders
        self.held: Held | None = None  # the program, where it is not perf or strace that starts it
        self.layouts: list[Layout] = []  # of a process that runs: at the attach and at the end

    @property
    def target(self) -> int | None:
        """The process that the tools are attached to."""
        return self.held.pid if self.held else self.pid

    @property
    def attaches(self) -> bool:
        """Whether it is to a process that runs, with all that `retrace` needs: then layouts are read, too."""
        return self.pid is not None and s.LOCK_HOLD in self.plan.recorded

    def commands(self) -> list[list[str]]:
        target = [] if self.target is not None else ["--", *self.command]
        at = ["-p", str(self.target)] if self.target is not None else []
        at += ["-D", "-1", "--control", f"fifo:{self.folder}/control,{self.folder}/answers"] if self.controls else []
        out = []
        strace = [*self.plan.strace, "-o", str(self.text), *at] if self.plan.strace else []
        perf = ["perf", "record", "-q", "-k", "CLOCK_MONOTONIC", "--sample-cpu", "-m", self.room, "-o", str(self.data),
                *self.plan.perf, *at]  # fmt: skip
        if self.plan.perf and strace and self.target is None:
            return [[*perf, "--", *strace, *target]]
        if self.plan.perf:
            out.append([*perf, *target])
        if strace:
            out.append([*strace, *target])
        return out

    def go(self, writer: Writer, seconds: float | None, say: Callable[[str], None]) -> None:
        meta = writer.meta
        if self.pid is None and not self.plan.strace:
            self.hold(writer)
        self.controls = self.held is not None or self.attaches
        if self.controls:
            for fifo in (self.folder / "control", self.folder / "answers"):
                os.mkfifo(fifo)
        before = clocks()
        with self.errors.open("wb") as errors:
            for command in self.commands():
                # the tools say little; what they say to stderr is kept where the program's own stderr is not theirs
                stderr = errors if self.target is not None else None
                p = subprocess.Popen(command, stderr=stderr, preexec_fn=follow_parent)
                self.processes.append(p)
        recording = False
        if self.controls:
            with self.controlled(self.processes[0]) as (tell, _):
                recording = tell("enable")
        if self.held is not None:
            if not recording:
                send(self.held.pid, signal.SIGKILL)
            self.held.go()
        meta.start_wall_ns = time.time_ns()
        start = time.monotonic()
        if self.pid is not None:
            if not self.controls:
                time.sleep(WARM)
            with suppress(OSError):
                self.pids = {int(tid): self.pid for tid in os.listdir(f"/proc/{self.pid}/task")}
            areas_of(self.pid, writer)
            if recording:
                self.read_layout("start", meta)
            say(f"recording process {self.pid}; ^C ends it" + (f", or {seconds:g} s" if seconds else ""))
        while any(p.poll() is None for p in self.processes):
            program = self.look()
            over = seconds is not None and time.monotonic() - start > seconds
            if self.stop.number or over:
                self.early = bool(self.stop.number)
                if self.layouts:
                    self.read_layout("end", meta)
                # a ^C at a terminal has reached the program, too
                tell_to_end(self.processes, program, self.stop.number or signal.SIGTERM)
                break
            if not alive(self.target or self.processes[0].pid):
                time.sleep(WARM)
                tell_to_end(self.processes, [], signal.SIGINT)
            time.sleep(0.02)
        self.offset = -(before + clocks()) // 2
        code = self.processes[0].returncode
        if self.held is not None:
            self.held.ended(GRACE)
            code = self.held.code
            self.layouts = self.held.layouts
        if self.layouts:
            meta.layouts = [write_layout(x) for x in self.layouts]
            meta.settings["mounts"] = mounts(a.path for x in self.layouts for a in x.areas if a.path[:1] == "/")
        # perf that is told to end dies of that signal itself
        meta.exit_code = None if self.pid is not None else -self.stop.number if self.early else code
        meta.truncated = self.early and self.pid is None
        if self.plan.perf and not self.data.exists():
            said = self.errors.read_text(errors="replace").strip().splitlines()
            raise TraceError(f"perf recorded nothing{': ' + said[-1] if said else self.why_nothing(recording)}")

    def why_nothing(self, recording: bool) -> str:
        """What there is to say of a perf that wrote nothing, neither data nor a message."""
        if not self.controls:
            return "; it says why above"
        code = self.processes[0].returncode
        ended = f"it ended with {f'signal {-code}' if code < 0 else f'code {code}'}"
        return f"; {ended} without a word" + ("" if recording else ", before it began; try again")

    def read_layout(self, when: str, meta: Meta) -> None:
        """The layout of the process that is recorded, which stands still meanwhile."""
        assert self.pid is not None
        try:
            with stopped(self.pid):
                layout = snapshot(self.pid, when, time.monotonic_ns)
        except OSError as e:
            meta.missing.append(
                Missing(f"layout at the {when}", f"the process could not be stopped: {e.strerror}",
                        "retrace cannot replay it" if when == "start" else "retrace has nothing to compare",
                        "end gdb or strace, if they are attached")
            )  # fmt: skip
            return
        layout.about["attached"] = "1"
        self.layouts.append(layout)

    def hold(self, writer: Writer) -> None:
        """Start the program held, and read its layout before it runs; where it cannot be held perf starts it."""
        held = Held(self.command, lambda pid, when: snapshot(pid, when, time.monotonic_ns), follow_parent)
        if not held.pid:
            return
        self.held = held
        first = held.layouts[0]
        for a in first.areas:
            add_area(writer, first.start - 1, held.pid, a)
        name = shutil.which(self.command[0]) or self.command[0]
        writer.add(row(first.start - 1, held.pid, held.pid, s.EXEC, name=name), -(1 << 63))

    @contextmanager
    def controlled(self, perf: subprocess.Popen[bytes]) -> Iterator[tuple[Callable[[str], bool], Callable[[], bool]]]:
        """Orders to a perf with --control: what gives one and says whether it was obeyed; whether there is a perf."""
        control, answers = self.folder / "control", self.folder / "answers"
        pipe, answer = -1, os.open(answers, os.O_RDONLY | os.O_NONBLOCK)

        def tell(order: str) -> bool:
            if pipe < 0:
                return False
            had = unread(answer)
            os.write(pipe, f"{order}\n".encode())
            wait_for(
                lambda: unread(answer) > had or perf.poll() is not None or bool(self.stop.number), 0.001, PATIENCE
            )
            return unread(answer) > had

        try:
            while pipe < 0 and perf.poll() is None and not self.stop.number:
                try:
                    pipe = os.open(control, os.O_WRONLY | os.O_NONBLOCK)
                except OSError:  # perf has not come so far
                    time.sleep(0.005)
            yield tell, lambda: pipe >= 0
        except BrokenPipeError:
            pass
        finally:
            os.close(answer)
            if pipe >= 0:
                os.close(pipe)

    def go_sampling(self, writer: Writer, seconds: float | None, say: Callable[[str], None]) -> None:
        """A perf of its own for each burst: events that are open and disabled still cost a tenth of a fault."""
        meta = writer.meta
        meta.start_wall_ns = time.time_ns()
        begun = time.monotonic()
        program = subprocess.Popen(self.command, preexec_fn=follow_parent) if self.pid is None else None
        pid = self.pid if program is None else program.pid
        assert pid is not None
        if self.pid is not None:
            areas_of(pid, writer)
            say(f"sampling process {pid}; ^C ends it" + (f", or {seconds:g} s" if seconds else ""))

        def over() -> bool:
            late = seconds is not None and time.monotonic() - begun > seconds
            return bool(self.stop.number) or late or not alive(pid)

        following = time.monotonic() + FIRST
        while not over():
            if time.monotonic() < following:
                time.sleep(0.02)
                continue
            following += EVERY * random.uniform(0.7, 1.3)  # so that it keeps no step with the program
            self.burst(pid)
        self.early = bool(self.stop.number)
        if program is not None:
            if alive(pid):
                send(pid, self.stop.number or signal.SIGTERM)
            wait_for(lambda: program.poll() is not None)
            if program.poll() is None:
                program.kill()
            meta.exit_code = program.wait()
        meta.truncated = self.early and self.pid is None
        meta.windows = self.windows
        if not self.parts:
            say("the program ended before the first burst" if self.pid is None else "no burst was recorded")

    def burst(self, pid: int) -> None:
        data = self.folder / f"perf.{len(self.parts)}"
        control, answers = self.folder / "control", self.folder / "answers"
        for fifo in (control, answers):
            fifo.unlink(missing_ok=True)
            os.mkfifo(fifo)
        command = [
            *("perf", "record", "-q", "-B", "-N", "-k", "CLOCK_MONOTONIC", "--sample-cpu", "-m", self.room),
            *("-o", str(data), *self.plan.perf),
            *("-D", "-1", "--control", f"fifo:{control},{answers}", "-p", str(pid)),
        ]
        with self.errors.open("wb") as errors:
            perf = subprocess.Popen(command, stderr=errors, preexec_fn=follow_parent)
        try:
            with self.controlled(perf) as (tell, there):
                if there():
                    enabled = tell("enable")
                    a = time.monotonic_ns()
                    time.sleep(BURST)
                    b = time.monotonic_ns()
                    if enabled:
                        self.windows.append([a, b])
                    tell("disable")
        finally:
            tell_to_end([perf], [], signal.SIGINT)
        if data.exists() and len(self.windows) > len(self.parts):
            self.parts.append(data)
        elif alive(pid):
            said = self.errors.read_text(errors="replace").strip().splitlines()
            raise TraceError("perf recorded nothing" + (f": {said[-1]}" if said else ""))

    def look(self) -> list[int]:
        """The program that was started: perf's child, or strace's; strace also has children to try things with."""
        if self.pid is not None:
            return []
        if self.held is not None:
            return [self.held.pid] if alive(self.held.pid) else []
        out = children(self.processes[0].pid)
        if self.plan.perf and self.plan.strace:
            out = [c for tracer in out for c in children(tracer)]
        return out

    def read(self, writer: Writer, tell: Callable[[int], None] | None) -> Source:
        source, calls = Source("perf"), Source("strace")
        strace = (text_lines(self.text), calls, self.offset) if self.plan.strace and self.text.exists() else None
        perf: Iterator[Sample] | None = None
        if self.plan.sample:
            # while events are being switched on and off, only some of them are
            perf = chain.from_iterable(
                (e for e in read_samples(perf_text(part), source) if a <= e.time <= b or e.event.startswith("PERF_"))
                for part, (a, b) in zip(self.parts, self.windows, strict=True)
            )
        elif self.plan.perf:
            perf = read_samples(perf_text(self.data), source)
        # perf sees strace and what it tries, too; the program is what strace names first
        only = None
        if perf is not None and strace is not None and self.pid is None:
            first = re.match(r"(\d+) ", next(text_lines(self.text), ""))
            only = {int(first[1])} if first else None
        fill(writer, source, perf, strace, tell, only, self.pids)
        calls.skipped.update(source.skipped)
        if self.early or self.pid is not None:  # what was under way when strace let go
            calls.skipped.pop(UNDER_WAY, None)
        return calls
