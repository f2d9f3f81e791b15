"""The runner on the live kernel: it starts, catches signals, forks, sees what is there, and its death is told."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from seqfault.compile.elf import LinkError, link_executable, read_object
from seqfault.compile.ir import CompileError
from seqfault.compile.raw import VIOLATION_EXIT, compile_raw, load64, probe_read8, syscall6, text
from seqfault.live import abi
from seqfault.live.abi import CRASH
from seqfault.live.compare import TOTAL_WORDS
from seqfault.live.generate import Geometry
from seqfault.mm.opcodes import *
from seqfault.mm.opcodes import NAMES

here = sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64")
live = pytest.mark.skipif(not here, reason=f"the runner is for x86-64 Linux, not {platform.machine()} {sys.platform}")

W, P = WINDOW_BASE, 4096
RW, FIXED = 3, 0x32
SPANS = Geometry.spans
LAST = Geometry.nr_pages - 1
PAGES = sum(b - a for a, b in SPANS)


@pytest.fixture(scope="module")
def kernel():
    if not here:
        pytest.skip(f"the runner is for x86-64 Linux, not {platform.machine()} {sys.platform}")
    from seqfault.live.host import LiveKernel, Options

    with LiveKernel(Options(spans=SPANS, timeout=5)) as k:
        yield k


def rows(*given):
    out = np.zeros((len(given), 8), np.int64)
    for i, r in enumerate(given):
        out[i, : len(r)] = r
    return out


def at(page):
    return W + page * P


def mmap(page, n, prot=RW, flags=FIXED, fd=-1, offset=0, who=0):
    return OP_MMAP, who, at(page), n * P, prot, flags, fd, offset


class Block:
    """What was seen of one process."""

    def __init__(self, words):
        n = int(words[0])
        self.vmas = [tuple(int(x) for x in words[1 + 5 * i : 6 + 5 * i]) for i in range(n)]
        self.words = [int(x) for x in words[1 + 5 * n :]]
        self.size = 1 + 5 * n + PAGES

    def page(self, number):
        i = 0
        for a, b in SPANS:
            if a <= number < b:
                return self.words[i + number - a]
            i += b - a
        raise KeyError(number)


def records(kernel, *given):
    """(result, blocks of the living processes) of each row after the start."""
    r = rows((OP_START,), *given)
    stream, offsets, why = kernel.run(r)
    assert not why
    assert len(offsets) == len(r) + 1
    out = []
    for i in range(len(r)):
        w = stream[offsets[i] : offsets[i + 1]]
        blocks, j = [], 2
        for p in (0, 1):
            if w[1] >> p & 1:
                blocks.append(Block(w[j:]))
                j += blocks[-1].size
        out.append((int(w[0]), blocks, w[j:]))
    return out[1:]


# -- the raw dialect and the executable
def fine(sp: int):
    message = text("fine\n")
    if probe_read8(16) == -1000 - 11:
        syscall6(1, 1, message, 5, 0, 0, 0)


def overflows(sp: int):
    syscall6(9, CRASH, 4096, 3, 0x31, -1, 0)
    x = sp
    while x > 0:
        x += 1 << 62


def run_raw(entry, tmp_path):
    path = tmp_path / "raw"
    path.write_bytes(compile_raw(entry, CRASH).executable.image)
    path.chmod(0o755)
    return subprocess.run([str(path)], capture_output=True, timeout=20)


@live
def test_an_executable_without_a_library(tmp_path):
    # without a handler a fault ends it
    assert run_raw(fine, tmp_path).returncode == -signal.SIGSEGV
    assert run_raw(overflows, tmp_path).returncode == VIOLATION_EXIT


def test_undefined_symbols_are_refused():
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    triple = "x86_64-unknown-linux-gnu"
    machine = llvm.Target.from_triple(triple).create_target_machine(reloc="static", codemodel="small")
    m = llvm.parse_assembly(
        f'target triple = "{triple}"\ndeclare void @puts()\ndefine void @_start() {{ call void @puts() ret void }}'
    )
    obj = machine.emit_object(m)
    assert read_object(obj)
    with pytest.raises(LinkError, match="'puts' is not defined"):
        link_executable(obj)


def test_another_machine_is_refused():
    obj = bytearray(64)
    obj[:6] = b"\x7fELF\x02\x01"
    obj[16:20] = bytes([1, 0, 183, 0])  # aarch64
    with pytest.raises(LinkError, match="machine 183"):
        read_object(bytes(obj))


def test_aarch64_is_refused_by_name(monkeypatch):
    from seqfault.live.errors import KernelError
    from seqfault.live.runner import refuse_elsewhere

    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(KernelError, match="aarch64"):
        refuse_elsewhere()


def test_the_checker_knows_no_raw_word():
    from seqfault.compile.program import Process, Program, compile_program

    def entry():
        load64(16)

    with pytest.raises(CompileError, match="load64"):
        compile_program(Program("raw", [Process(entry, 0)]))


# -- what is seen
@live
def test_signals_come_back(kernel):
    got = records(
        kernel,
        (OP_READ, 0, at(520)),
        mmap(520, 2, 1),
        (OP_READ, 0, at(520)),
        (OP_WRITE, 0, at(521), 7),
        mmap(530, 4, RW, 1 | 0x10, 1, 2 * P),
        (OP_READ, 0, at(531)),
        (OP_READ, 0, at(533)),
        (OP_READ, 0, 0x7FFF_FFFF_FFFF_FFF0),
    )
    assert [r for r, _, _ in got] == [-1011, at(520), 0, -1011, at(530), 0, -1007, -1011]


@live
def test_content_frames_and_the_zero_page(kernel):
    got = records(kernel, mmap(520, 3), (OP_READ, 0, at(520)), (OP_WRITE, 0, at(521), 77))
    block = got[-1][1][0]
    assert block.vmas == [(520, 523, 3, 0, 0)]
    zero, written, untouched = (block.page(520 + i) for i in range(3))
    assert untouched == 0
    assert written & 0xFFFF == 1 | 2 | 32 | 77 << 8
    if kernel.frames:
        assert zero & 0xFFFF == 1 | 16 | 32
        assert zero >> 16 == int(kernel.words[abi.H_ZERO_PFN])


@live
def test_fork_copies_and_exit_ends(kernel):
    got = records(
        kernel,
        mmap(520, 1),
        (OP_WRITE, 0, at(520), 5),
        (OP_FORK, 0),
        (OP_WRITE, 1, at(520), 6),
        (OP_READ, 0, at(520)),
        (OP_READ, 1, at(520)),
        (OP_FORK, 0),
        (OP_MUNMAP, 1, at(520), P),
        (OP_EXIT, 1),
        (OP_READ, 1, at(520)),
        (OP_EXIT, 0),
    )
    assert [r for r, _, _ in got] == [at(520), 0, 0, 0, 5, 6, ABSENT, 0, 0, ABSENT, ABSENT]
    assert [len(b) for _, b, _ in got] == [1, 1, 2, 2, 2, 2, 2, 2, 1, 1, 1]
    shared, split = got[2][1], got[3][1]
    assert [b.page(520) & 3 for b in shared] == [1, 1]  # present, not exclusive
    assert [b.page(520) & 3 for b in split] == [3, 3]
    assert split[0].page(520) >> 8 & 0xFF == 5
    assert split[1].page(520) >> 8 & 0xFF == 6
    assert got[7][1][1].vmas == []


@live
def test_top_down_placement_finds_room_in_the_window_only(kernel):
    got = records(
        kernel,
        (OP_MMAP, 0, 0, P, RW, 0x22, -1, 0),
        (OP_MMAP, 0, 0, 2 * P, 1, 0x22, -1, 0),
        (OP_MMAP, 0, 0, (LAST - 3) * P, 1, 0x22, -1, 0),
    )
    assert [r for r, _, _ in got] == [at(LAST - 1), at(LAST - 3), -12]


@live
def test_a_vma_that_reaches_into_a_span_is_listed_whole(kernel):
    top = (LAST - 18, LAST - 15)
    got = records(kernel, mmap(top[0], 3), mmap(550, 60, 1), mmap(560, 2), (OP_MUNMAP, 0, at(top[0] - 105), 110 * P))
    assert [v[:2] for v in got[0][1][0].vmas] == [top]
    assert [v[:2] for v in got[1][1][0].vmas] == [(550, 610), top]
    assert [v[:2] for v in got[2][1][0].vmas] == [(550, 560), (562, 610), top]
    assert [v[:2] for v in got[3][1][0].vmas] == [(550, 560), (562, 610)]


@live
def test_the_heap_is_in_the_window(kernel):
    got = records(kernel, (OP_BRK, 0, 0), (OP_BRK, 0, at(603)), (OP_BRK, 0, at(601)), (OP_BRK, 0, at(599)))
    assert [r for r, _, _ in got] == [at(600), at(603), at(601), at(601)]
    assert got[1][1][0].vmas == [(600, 603, 3, 0, 0)]


@live
def test_files_are_put_back_for_each_program(kernel):
    program = [
        mmap(520, 1, RW, 0x11, 2),
        (OP_READ, 0, at(520)),
        (OP_WRITE, 0, at(520), 9),
        mmap(521, 1, 1, 0x11, 4, 0),
        (OP_READ, 0, at(521)),
        (OP_PWRITE, 0, 0, 3, 8),
        mmap(522, 1, RW, 0x11, 0, 3 * P),
        (OP_READ, 0, at(522)),
        (OP_FTRUNCATE, 0, 0, 0),
        (OP_READ, 0, at(522)),
        (OP_FTRUNCATE, 0, 4, 0),
        (OP_FTRUNCATE, 0, 17, 0),
        (OP_PWRITE, 0, 4, 0, 1),
    ]
    want = [at(520), 0x60, 0, at(521), 9, 1, at(522), 8, 0, -1007, -22, -9, -9]
    for _ in range(2):
        got = records(kernel, *program)
        assert [r for r, _, _ in got] == want
    # the disk file has one word, whichever descriptor; the memory file another
    assert got[6][1][0].vmas == [(520, 521, 11, 0, 3), (521, 522, 9, 0, 3), (522, 523, 11, 3, 1)]


@live
def test_mincore_and_limits(kernel):
    got = records(
        kernel,
        mmap(520, 4),
        (OP_WRITE, 0, at(521), 1),
        (OP_MINCORE, 0, at(520), 4 * P),
        (OP_MINCORE, 0, at(520), 5 * P),
        (OP_RLIMIT_AS, 0, 3),
        mmap(530, 4),
        mmap(530, 3),
        (OP_RLIMIT_AS, 0, -1),
        (OP_MAP_COUNT, 0, 1),
        mmap(540, 2, 1),
        (OP_MPROTECT, 0, at(541), P, 0),
    )
    results = [r for r, _, _ in got]
    assert results[:3] == [at(520), 0, 0]
    assert list(got[2][2]) == [4, 0, 1, 0, 0]
    assert results[3:8] == [-12, 0, -12, at(530), 0]
    assert results[8:] == [0, at(540), -12]


@live
def test_what_smaps_and_status_say():
    from seqfault.live.host import LiveKernel, Options
    from seqfault.mm.types import VM_ACCOUNT, VM_LOCKED, VM_MAYEXEC, VM_MAYREAD, VM_MAYWRITE

    with LiveKernel(Options(spans=SPANS, detail_every=1)) as k:
        got = records(k, mmap(520, 4), (OP_WRITE, 0, at(521), 1), (OP_MLOCK, 0, at(520), 2 * P))
        cached = [0, 0, 0b111111]
        assert [[int(x) for x in g[2][:TOTAL_WORDS]] for g in got] == [
            [4, 0, 4, 0, 0, 0, *cached],  # mapped, locked, data, stack, code; page tables
            [4, 0, 4, 0, 0, 1, *cached],
            [4, 2, 4, 0, 0, 1, *cached],
        ]
        n = sum(b - a for a, b in SPANS)
        marks = [int(x) for x in got[-1][2][TOTAL_WORDS:][:n]]
        assert marks == [3 if i in (8, 9) and k.frames else 0 for i in range(n)]  # unevictable and locked
        details = got[-1][2][TOTAL_WORDS + n :]
        may = VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC
        flags, rss, dirty, private, anonymous, lazyfree, locked = (int(x) for x in details[:7])
        assert flags == 3 | may | VM_ACCOUNT | VM_LOCKED
        assert (rss, dirty, private, anonymous, lazyfree, locked) == (2, 2, 2, 2, 0, 2)
        assert [int(x) for x in details[7:14]] == [3 | may | VM_ACCOUNT, 0, 0, 0, 0, 0, 0]


def proc_maps(pid):
    out = []
    with open(f"/proc/{pid}/maps") as f:
        for line in f:
            span, prot, offset, _, inode = line.split()[:5]
            a, b = (int(x, 16) for x in span.split("-"))
            if W <= a < at(LAST + 1):
                bits = sum(1 << i for i, c in enumerate("rwx") if prot[i] == c) | (8 if prot[3] == "s" else 0)
                file = int(inode) != 0
                out.append(((a - W) // P, (b - W) // P, bits, int(offset, 16) // P if file else 0, file))
    return out


def stopped_child(kernel, command, parent=0):
    """What `command` sees of process 0, the child of the runner's master (or of `parent`)."""
    for _ in range(200):
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                its = int(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
            if its == (parent or kernel._pid):
                return command(int(pid))
        time.sleep(0.01)
    return None


@live
@pytest.mark.parametrize("text", [False, True])
def test_a_layout_is_seen_as_the_process_has_it(text):
    """A process is stopped after its last operation; /proc/PID/maps, as Python reads it, is what the runner saw."""
    from seqfault.live.host import LiveKernel, Options

    whole = ((1, LAST),)
    layout = [
        (OP_START,),
        mmap(500, 40, RW),
        mmap(505, 3, 1),
        mmap(510, 4, 5),
        (OP_MPROTECT, 0, at(520), 2 * P, 0),
        mmap(530, 2, RW, 0x31),
        mmap(535, 2, 1, 0x12, 2, 3 * P),
        (OP_MREMAP, 0, at(500), P, 3 * P, 1, 0),
        (OP_BRK, 0, at(610)),
    ]
    last = [(OP_WRITE, 0, at(501), 1)]
    r = rows(*layout, *last * 2500)
    seen: list = []
    with LiveKernel(Options(spans=whole, maps_text=text, timeout=20, max_rows=1 << 15, stream_words=1 << 23)) as k:

        def look():
            def command(pid):
                while int(k.words[abi.H_ROW]) < len(layout) + 10:
                    time.sleep(0.001)
                os.kill(pid, signal.SIGSTOP)
                try:
                    seen.append(proc_maps(pid))
                finally:
                    os.kill(pid, signal.SIGCONT)

            stopped_child(k, command)

        t = threading.Thread(target=look)
        t.start()
        stream, offsets, why = k.run(r)
        t.join()
        assert not why
    i = len(layout) + 100
    w = stream[offsets[i] : offsets[i + 1]]
    n = int(w[2])
    mine = [tuple(int(x) for x in w[3 + 5 * j : 8 + 5 * j]) for j in range(n)]
    fence = lambda v: v[0] in (0, LAST)  # noqa: E731
    want = [v for v in seen[0] if not fence(v)]
    assert [(*v[:4], v[4] != 0) for v in mine] == want
    assert len(mine) > 8


# -- without root
@live
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become somebody else")
def test_without_root_frames_are_masked(tmp_path):
    from seqfault.live.compare import ZERO
    from seqfault.live.host import LiveKernel, Options

    LiveKernel(Options()).close()  # everything is imported and made before rights are given up
    tmp_path.chmod(0o777)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            with LiveKernel(Options(spans=SPANS)) as k:
                words = [b[0].page(520) for _, b, _ in records(k, mmap(520, 1), (OP_WRITE, 0, at(520), 9))]
                state = {c.name: c.state for c in k.controls}
                good = not k.frames and not k.mask.frames and not k.mask.page & ZERO
                good = good and words == [0, 1 | 2 | 32 | 9 << 8] and state["frames"] == "masked"
                status = 0 if good else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# -- which VMAs are looked at
@live
def test_looking_at_what_an_operation_touches_misses_nothing():
    """Random programs, observed in full after each operation and as usual: the same layouts."""
    from seqfault.live.generate import Plan, programs
    from seqfault.live.host import LiveKernel, Options

    r = programs(Plan(seed=11, program_ops=200, map_count_every=0), 0, 10, False)
    layouts = []
    for every in (1, 1 << 30):
        with LiveKernel(Options(spans=SPANS, all_vmas_every=every)) as k:
            stream, offsets, why = k.run(r)
        assert not why
        seen = []
        for a, b in zip(offsets[:-1], offsets[1:], strict=True):
            w, j = stream[a:b], 2
            for p in (0, 1):
                if w[1] >> p & 1:
                    block = Block(w[j:])
                    seen.append([(*v[:4], min(v[4], 100)) for v in block.vmas])
                    j += block.size
        layouts.append(seen)
    assert layouts[0] == layouts[1]


# -- deaths
def kill_child(kernel, delay):
    def command(pid):
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)

    t = threading.Thread(target=stopped_child, args=(kernel, command))
    t.start()
    return t


@live
def test_a_death_is_told_and_the_next_batch_works():
    from seqfault.live.host import LiveKernel, Options

    with LiveKernel(Options(spans=SPANS, timeout=5, stream_words=1 << 25)) as k:
        r = rows((OP_START,), mmap(520, 1), *[(OP_WRITE, 0, at(520), 3)] * 20000)
        t = kill_child(k, 0.05)
        stream, offsets, why = k.run(r)
        t.join()
        assert "process 0 died at write" in why
        assert "signal 9" in why
        assert 0 < len(offsets) - 1 < len(r)
        assert len(stream) == offsets[-1]
        assert records(k, mmap(520, 1))[0][0] == at(520)


@live
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_process_1_may_die_or_hang(how):
    from seqfault.live.host import LiveKernel, Options

    with LiveKernel(Options(spans=SPANS, timeout=2, stream_words=1 << 25)) as k:
        r = rows((OP_START,), mmap(520, 1), (OP_FORK,), *[(OP_WRITE, 1, at(520), 3)] * 10000)

        def command(pid):
            stopped_child(k, lambda child: os.kill(child, how), pid)

        t = threading.Thread(target=stopped_child, args=(k, command))
        t.start()
        _, offsets, why = k.run(r)
        t.join()
        assert why.startswith(("process 1 died at write", "process 1 died at fork"))
        assert why.endswith("killed by signal 9" if how == signal.SIGKILL else "process 1 did not answer")
        assert 1 < len(offsets) - 1 < len(r)
        assert records(k, mmap(520, 1), (OP_FORK,))[1][0] == 0


@live
def test_an_operation_on_the_runner_itself_is_told():
    from seqfault.live.host import LiveKernel, Options

    with LiveKernel(Options(spans=SPANS, timeout=5)) as k:
        r = rows((OP_START,), (OP_MUNMAP, 0, abi.COMM_BASE, abi.COMM_SIZE))
        _, offsets, why = k.run(r)
        assert len(offsets) - 1 == 1
        assert why.startswith("process 0 died at munmap(")
        assert records(k, mmap(520, 1))[0][0] == at(520)


@live
def test_the_master_may_die():
    from seqfault.live.host import LiveKernel, Options

    with LiveKernel(Options(spans=SPANS, timeout=5, stream_words=1 << 25)) as k:
        r = rows((OP_START,), mmap(520, 1), *[(OP_WRITE, 0, at(520), 3)] * 20000)
        threading.Timer(0.05, os.kill, (k._pid, signal.SIGKILL)).start()
        _, offsets, why = k.run(r)
        assert "master ended (killed by signal 9)" in why
        assert records(k, mmap(520, 1))[0][0] == at(520)


@live
def test_a_stopped_runner_does_not_hang_the_host():
    from seqfault.live.host import LiveKernel, Options

    with LiveKernel(Options(spans=SPANS, timeout=1)) as k:
        os.kill(k._pid, signal.SIGSTOP)
        _, offsets, why = k.run(rows((OP_START,), mmap(520, 1)))
        assert "no answer for 1 s" in why
        assert records(k, mmap(520, 1))[0][0] == at(520)


@live
def test_more_than_fits_is_run_in_pieces():
    from seqfault.live.host import LiveKernel, Options

    program = [(OP_START,), mmap(520, 4), (OP_WRITE, 0, at(521), 9), (OP_MUNMAP, 0, at(520), 4 * P)]
    r = rows(*program * 300)
    with LiveKernel(Options(spans=SPANS, max_rows=64, stream_words=8000)) as k:
        stream, offsets, why = k.run(r)
        assert not why
        assert len(offsets) == len(r) + 1
        assert len(stream) == offsets[-1]
        assert [int(stream[i]) for i in offsets[:-1]] == [0, at(520), 0, 0] * 300


@live
def test_bad_options_are_named():
    from seqfault.live.host import LiveKernel, Options

    with pytest.raises(ValueError, match="not sorted"):
        LiveKernel(Options(spans=((600, 616), (512, 552))))
    with pytest.raises(ValueError, match="spans"):
        LiveKernel(Options(spans=((1, 3),) * 9))


@live
def test_what_is_not_controlled_is_said(kernel):
    names = [c.name for c in kernel.controls]
    assert {"fault-around", "ksm", "swap", "huge pages", "frames", "heap"} <= set(names)
    assert all(c.state in ("controlled", "masked", "not controlled", "absent") for c in kernel.controls)
    assert all(c.sentence for c in kernel.controls)
    assert OP_MMAP in NAMES


@live
def test_a_range_that_begins_outside_the_window(kernel):
    """Programs of more than 32 rows, where only what an operation's range touches is looked at."""
    filler = [(OP_READ, 0, at(515))] * 40
    got = records(
        kernel,
        mmap(516, 2),
        mmap(525, 4),
        *filler,
        (OP_MREMAP, 0, at(525), 2 * P, 2 * P, MREMAP_FIXED | 8, 0),
        (OP_MUNMAP, 0, W - 16 * P, 16 * P),
        (OP_MPROTECT, 0, at(527), 2 * P, 1),
        *filler,
    )
    layouts = [[v[:3] for v in b[0].vmas] for _, b, _ in got]
    assert layouts[42] == layouts[43] == [(516, 518, 3), (525, 529, 3)]
    assert layouts[44] == layouts[-2] == layouts[-1] == [(516, 518, 3), (525, 527, 3), (527, 529, 1)]
