"""Replay a recorded program in the model, call by call, and compare results and layouts.

Where the kernel chooses an address the model chooses too; if they differ, that is reported, and the recorded address
is forced, so that the rest can be compared.  What the model has not is done by what comes nearest, and named.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from seqfault.mm import opcodes as op
from seqfault.trace.calls import MAP, PROT, SHM, DecodeError, Op, decode, get, number, result
from seqfault.trace.compare import Comparison, compare_layouts
from seqfault.trace.files import OPENS, Descriptors, OpenFile, is_aligned
from seqfault.trace.layout import Layout
from seqfault.trace.spaces import FILE_PAGES, Spaces, Vma
from seqfault.trace.strace import Call, Ended
from seqfault.trace.timeline import BIRTH, EXEC, Fault, Item, Recording, Seen, is_thread, shares_memory

PAGE = op.PAGE_SIZE
QUERIES = ("prctl", "exit", "exit_group", "shmget")
LIMIT = re.compile(r"rlim_cur=([^,}]+)")
HUGE = 1 << 21
ENOMEM, EFAULT = -12, -14
LOW = (1 << 30, (1 << 31) + (1 << 25))  # where MAP_32BIT begins to search is random (find_start_end)


@dataclass(slots=True)
class Difference:
    """A call whose result in the model is another; `forced`: the recorded address was taken after all."""

    call: Call
    recorded: int
    model: int
    forced: bool = False
    unordered: bool = False  # it overlaps a call of another thread, and nothing tells which was first

    def __str__(self) -> str:
        tail = "; the recorded address is forced" if self.forced else ""
        if self.unordered:
            tail += "; another thread's call was under way"
        return f"line {self.call.line}, {self.call}: the model returns {show(self.model)}{tail}"


@dataclass(eq=False, slots=True)
class Space:
    """An address space of the recording; `who` in the model, -1 while its layout is not known; `executed`: an
    execve made it."""

    who: int = -1
    users: int = 1
    executed: bool = False


@dataclass(eq=False, slots=True)
class Process:
    pid: int
    space: Space
    tids: set[int]
    fds: Descriptors


@dataclass
class Result:
    """What came of a replay."""

    calls: Counter[str] = field(default_factory=Counter)  # replayed, by name
    differences: list[Difference] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    substituted: Counter[str] = field(default_factory=Counter)  # not modelled, something near was done
    ignored: Counter[str] = field(default_factory=Counter)  # not modelled, nothing was done
    before: Counter[str] = field(default_factory=Counter)  # of what ran before the first execve
    orphans: Counter[str] = field(default_factory=Counter)  # of programs whose layout at the start is not there
    undecoded: list[str] = field(default_factory=list)
    faults: int = 0
    faults_skipped: int = 0
    faults_refused: int = 0
    processes: int = 0
    moving: int = 0  # layouts that other threads changed while they were read
    killed: int = 0  # ended without a layout to compare

    @property
    def equal(self) -> bool:
        return not self.differences and not self.undecoded and all(c.equal for c in self.comparisons)


def show(n: int) -> str:
    return hex(n) if n > 0xFFFFF else str(n)


class Replay:
    """Feeds a recording to the model, item by item."""

    def __init__(self, recording: Recording, spaces: Spaces):
        self.recording = recording
        self.spaces = spaces
        self.result = Result()
        self.by_tid: dict[int, Process] = {}
        self.by_path = {path: OpenFile(path, mode) for path, mode in recording.modes.items()}
        self.named: dict[int, str] = {}  # the model's file -> its path
        self.began = False  # the first execve is of env(1), which cannot be held
        self.shm: dict[int, tuple[OpenFile, int]] = {}
        self.max_map_count = int(recording.layouts.machine.get("max_map_count", "65530"))
        self.touched_known = recording.events is not None
        for tid, pid in recording.threads.items():  # of a process that ran before
            self.began = True
            process = self.by_tid.setdefault(pid, Process(pid, Space(), {pid}, Descriptors()))
            process.tids.add(tid)
            self.by_tid[tid] = process

    def run(self) -> Result:
        for item in self.recording.items:
            self.step(item)
        return self.result

    def step(self, item: Item) -> None:
        process = self.by_tid.get(item.tid)
        if process is None:
            if isinstance(item, Fault):
                self.result.faults_skipped += 1
                return
            process = self.by_tid[item.tid] = Process(item.tid, Space(), {item.tid}, Descriptors())
        if isinstance(item, Fault):
            self.fault(process, item)
        elif isinstance(item, Seen):
            if item.number in self.recording.moving:
                self.result.moving += 1
                return
            self.seen(process, item.layout)
        elif isinstance(item, Ended):
            self.ended(process, item)
        else:
            try:
                self.call(process, item)
            except DecodeError as e:
                self.result.undecoded.append(f"line {item.line}, {item.name}: {e}")

    # -- processes
    def drop(self, space: Space) -> None:
        space.users -= 1
        if space.users == 0 and space.who >= 0:
            self.spaces.exit(space.who)
            space.who = -1

    def birth(self, process: Process, call: Call) -> None:
        child = call.ret or 0
        if call.errno or not child:
            return
        if is_thread(call):
            process.tids.add(child)
            self.by_tid[child] = process
            return
        if shares_memory(call):
            process.space.users += 1
            space = process.space
        else:
            space = Space(executed=process.space.executed)
            if process.space.who >= 0:
                err, space.who = self.spaces.fork(process.space.who)
                self.result.calls[call.name] += 1
                if err:
                    space.who = -1
                    self.result.differences.append(Difference(call, child, err))
        self.by_tid[child] = Process(child, space, {child}, process.fds.copy())

    def executed(self, process: Process) -> None:
        for tid in process.tids - {process.pid}:
            self.by_tid.pop(tid, None)
        process.tids = {process.pid}
        self.by_tid[process.pid] = process
        self.drop(process.space)
        process.space = Space(executed=self.began)
        self.began = True

    def ended(self, process: Process, item: Ended) -> None:
        if item.how.startswith("superseded"):
            return
        process.tids.discard(item.tid)
        self.by_tid.pop(item.tid, None)
        if not process.tids:
            self.result.killed += item.how.startswith("killed") and process.space.who >= 0
            self.drop(process.space)

    # -- layouts
    def seen(self, process: Process, layout: Layout) -> None:
        if layout.when == "start":
            self.start(process, layout)
        elif process.space.who >= 0:
            maps = self.spaces.maps(process.space.who)
            got = compare_layouts(layout, maps, self.named, self.touched_known)
            if self.recording.threads and not got.equal:
                # which VMAs share an anon_vma was not to be seen when the recording began
                as_one = compare_layouts(layout, maps, self.named, False)
                got = as_one if as_one.equal else got
            self.result.comparisons.append(got)

    def start(self, process: Process, layout: Layout) -> None:
        if process.space.who >= 0:
            return
        self.result.processes += 1
        who = process.space.who = self.spaces.start(
            mmap_base(layout), layout.number("start_brk"), layout.number("rlimit_as", -1), self.max_map_count,
            layout.number("brk"),
        )  # fmt: skip
        files: dict[str, int] = {}
        for area in layout.areas:
            if area.end > op.TASK_SIZE_BYTES:  # [vsyscall] belongs to no process
                continue
            file = -1
            if area.inode or area.path.startswith("/"):
                if area.path not in files:
                    files[area.path] = self.new_file(OpenFile(area.path))
                file = files[area.path]
            offset = area.offset if file >= 0 else area.start
            self.spaces.place(who, area.start, area.end, area.flags, file, offset, area.anon > 0)

    # -- files
    def new_file(self, file: OpenFile, pages: int = FILE_PAGES) -> int:
        if file.number < 0:
            aligned = is_aligned(file.path, self.recording.layouts.machine.get("mounts", ""))
            file.number = self.spaces.new_file(pages, file.mode, not aligned)
            self.named[file.number] = file.path
        return file.number

    # -- faults
    def fault(self, process: Process, item: Fault) -> None:
        who = process.space.who
        if who < 0:
            self.result.faults_skipped += 1
            return
        write = item.kind == "w"
        at = self.spaces.maps(who, item.address, item.address + 1)
        if at and at[0].file >= 0 and at[0].start <= item.address:
            # only private copies matter, and those of pages that the model's files reach
            page = (item.address - at[0].start + at[0].offset) // PAGE
            if not write or "ms" in at[0].flags or page >= FILE_PAGES:
                self.result.faults_skipped += 1
                return
        args = (item.address, 1) if write else (item.address,)
        got = self.spaces.op(who, op.OP_WRITE if write else op.OP_READ, args)
        self.result.faults += 1
        self.result.faults_refused += got < 0

    # -- calls
    def call(self, process: Process, call: Call) -> None:
        name = call.name
        if name in BIRTH:
            self.birth(process, call)
            return
        if name in EXEC:
            if not call.errno:
                self.executed(process)
            return
        if name in OPENS:
            process.fds.opened(call)
            return
        who = process.space.who
        if who < 0:
            (self.result.orphans if process.space.executed else self.result.before)[name] += 1
            return
        want = result(call)
        if want is None:
            if name not in ("exit", "exit_group"):
                self.result.ignored[f"{name} that never returned"] += 1
            return
        todo = decode(call)
        if todo is None:
            self.other(process, call, want)
            return
        args = todo.args
        if name == "mincore" and want == EFAULT:
            self.result.ignored["mincore into a bad vector"] += 1
            return
        if todo.fd is not None:
            if args[3] & MAP["MAP_HUGETLB"]:
                self.huge(who, todo, want)
                return
            args = self.with_file(process, todo)
        got = self.spaces.op(who, todo.op, args)
        if todo.op == op.OP_MMAP and args[3] & MAP["MAP_32BIT"] and got == ENOMEM and want < 0 and want != ENOMEM:
            # Linux has a place before it looks at what else is wrong (do_mmap); the model looks for none below 2 GB
            got = self.spaces.op(who, todo.op, (*args[:3], args[3] & ~MAP["MAP_32BIT"], *args[4:]))
        self.result.calls[name] += 1
        if got != want:
            self.differs(who, call, todo.op, args, want, got)

    def huge(self, who: int, todo: Op, want: int) -> None:
        """Huge pages of hugetlbfs, a file of their own: placed where the recording has them, if it has."""
        if want < 0:
            self.result.ignored["mmap MAP_HUGETLB"] += 1
            return
        _, size, prot, flags, _, offset = todo.args
        flags = flags & (MAP["MAP_SHARED"] | MAP["MAP_PRIVATE"]) | MAP["MAP_FIXED"]
        file = self.new_file(OpenFile("/anon_hugepage"))
        size = -(-size // HUGE) * HUGE
        self.spaces.op(who, op.OP_MMAP, (want, size, prot, flags, file, offset))
        self.result.substituted["mmap MAP_HUGETLB"] += 1

    def with_file(self, process: Process, todo: Op) -> tuple[int, ...]:
        """mmap's arguments with the model's file in place of the descriptor."""
        assert todo.fd is not None
        if todo.args[3] & MAP["MAP_ANONYMOUS"]:
            return (*todo.args[:4], -1, todo.args[5])
        if not todo.fd.path:  # not open: in the model that is -1
            return (*todo.args[:4], -1, todo.args[5])
        file = process.fds.find(todo.fd, self.by_path)
        return (*todo.args[:4], self.new_file(file), todo.args[5])

    def differs(self, who: int, call: Call, what: int, args: tuple[int, ...], want: int, got: int) -> None:
        difference = Difference(call, want, got, unordered=call.line in self.recording.unordered)
        if what == op.OP_MMAP and args[3] & MAP["MAP_32BIT"] and LOW[0] <= want < LOW[1]:
            self.result.substituted["MAP_32BIT, placed at random"] += 1
        else:
            self.result.differences.append(difference)
        if what not in (op.OP_MMAP, op.OP_MREMAP):
            return
        if want < 0:
            if got >= 0 and what == op.OP_MMAP:
                self.spaces.op(who, op.OP_MUNMAP, (got, args[1]))
            return
        if what == op.OP_MMAP:
            if got >= 0:
                self.spaces.op(who, op.OP_MUNMAP, (got, args[1]))
            flags = args[3] & ~op.UAPI_MAP_FIXED_NOREPLACE | op.UAPI_MAP_FIXED
            again = self.spaces.op(who, what, (want, *args[1:3], flags, *args[4:]))
        elif got >= 0:
            size = args[2]
            again = self.spaces.op(who, what, (got, size, size, op.MREMAP_MAYMOVE | op.MREMAP_FIXED, want))
        else:
            flags = args[3] | op.MREMAP_MAYMOVE | op.MREMAP_FIXED
            again = self.spaces.op(who, what, (*args[:3], flags, want)) if want != args[0] else got
        difference.forced = again == want

    def other(self, process: Process, call: Call, want: int) -> None:
        """Calls that mm/opcodes.py has not."""
        name, who = call.name, process.space.who
        if name == "shmget" and want >= 0:
            self.shm[want] = OpenFile(f"/SYSV{want:08x}"), get(call, 1)
        elif name == "shmat" and want >= 0:
            file, size = self.shm.get(get(call, 0), (None, 0))
            if file is None:
                self.result.ignored[name] += 1
                return
            prot = PROT["PROT_READ"] | (0 if get(call, 2, SHM) & SHM["SHM_RDONLY"] else PROT["PROT_WRITE"])
            self.force(who, name, want, size, prot, self.new_file(file), 0)
        elif name == "shmdt" and want == 0:
            self.shmdt(who, get(call, 0))
        elif name == "remap_file_pages" and want == 0:
            start, size, pgoff = get(call, 0), get(call, 1), get(call, 3)
            at = self.spaces.maps(who, start, start + 1)
            if at:
                prot = sum(bit for n, bit in (("rd", 1), ("wr", 2), ("ex", 4)) if n in at[0].flags)
                self.force(who, name, start, size, prot, at[0].file, pgoff * PAGE)
        elif name in ("prlimit64", "setrlimit") and want == 0:
            self.limit(who, call)
        elif want >= 0 and name not in QUERIES:
            self.result.ignored[name] += 1

    def force(self, who: int, name: str, at: int, size: int, prot: int, file: int, offset: int) -> None:
        flags = MAP["MAP_SHARED"] | MAP["MAP_FIXED"]
        self.spaces.op(who, op.OP_MMAP, (at, size, prot, flags, file, offset))
        self.result.substituted[name] += 1

    def shmdt(self, who: int, at: int) -> None:
        """Unmap what is left of the segment that was attached at `at`."""
        first = next((v for v in self.spaces.maps(who) if v.file >= 0 and v.start - v.offset == at), None)
        if first is None:
            return
        for vma in self.segment(who, first, at):
            self.spaces.op(who, op.OP_MUNMAP, (vma.start, vma.end - vma.start))
        self.result.substituted["shmdt"] += 1

    def segment(self, who: int, first: Vma, at: int) -> list[Vma]:
        return [v for v in self.spaces.maps(who) if v.file == first.file and v.start - v.offset == at]

    def limit(self, who: int, call: Call) -> None:
        """RLIMIT_AS; of the other limits only the stack's and the data's would matter."""
        resource, new = (call.args[1], call.args[2]) if call.name == "prlimit64" else (call.args[0], call.args[1])
        m = LIMIT.search(new)
        if not m:
            return
        value = -1 if "INFINITY" in m[1] else number(m[1])
        if resource == "RLIMIT_AS" and (call.name == "setrlimit" or get(call, 0) == 0):
            self.spaces.limit_address_space(who, value)
            self.result.calls[call.name] += 1
        elif resource in ("RLIMIT_DATA", "RLIMIT_STACK"):
            self.result.ignored[f"{call.name} {resource}"] += 1


def mmap_base(layout: Layout) -> int:
    """Where top-down placement began: the end of the last mapping below the stack's random gap (ld.so, or what was
    placed there first)."""
    stack = next((a for a in layout.areas if a.path == "[stack]"), None)
    top = stack.start if stack else op.TASK_SIZE_BYTES
    below = [a.end for a in layout.areas if a.end <= top and not a.path.startswith("[heap")]
    return max((end for end in below if end > 0x7000_0000_0000), default=top)


def replay(recording: Recording, linux: int) -> Result:
    """Replay a recording in the model of that release."""
    return Replay(recording, Spaces(linux)).run()
