"""Reading strace, layouts and events: what each line means, and what is said of bad ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqfault.mm import opcodes as op
from seqfault.trace.calls import DecodeError, Fd, clone_flags, decode, number, result
from seqfault.trace.layout import parse_area, parse_smaps
from seqfault.trace.strace import read_strace, split_args

# strace 6.1, Linux 6.18: one program that tries everything, shortened
LINES = """\
10  1.000001 execve("/bin/x", ["a, b", "(c"], 0x7ffc /* 35 vars */) = 0 (DELAYED) <0.000300>
10  2.000001 brk(NULL)       = 0x560236787000 <0.000061>
10  2.100000 mmap(NULL, 37295, PROT_READ, MAP_PRIVATE, 3</tmp/a,b(c)\\74x\\76>(deleted), 0x1000) = 0x7f29 <0.000076>
10  2.200000 mmap(NULL, 65536, PROT_READ|0x100, MAP_PRIVATE|MAP_ANONYMOUS|MAP_HUGETLB|21<<MAP_HUGE_SHIFT, -1, 0) = -1 ENOMEM (Cannot allocate memory) <0.000091>
10  2.300000 mprotect(0x7f29, 4096, 0x40 /* PROT_??? */) = -1 EINVAL (Invalid argument) <0.000031>
10  2.400000 clone3({flags=CLONE_VM|CLONE_THREAD, stack=0x7f0, stack_size=0x7fff80} => {parent_tid=[11]}, 88) = 11 <0.000111>
10  2.500000 munmap(0x94f41000, 8192 <unfinished ...>
11  2.500010 mremap(0x7f29, 4096, 8192, MREMAP_MAYMOVE|MREMAP_FIXED, 0x7f30 <unfinished ...>
10  2.500030 <... munmap resumed>) = 0 <0.000037>
11  2.500050 <... mremap resumed>) = 0x7f30 <0.000040>
10  2.600000 clone(child_stack=NULL, flags=CLONE_CHILD_SETTID|SIGCHLD <unfinished ...>
10  2.600030 <... clone resumed>, child_tidptr=0x7fe5) = 12 <0.000037>
12  2.610000 madvise(0xffffffff94dd3000, 4096, 0x66 /* MADV_??? */) = -1 ENOMEM (Cannot allocate memory) <0.000033>
12  2.620000 prlimit64(0, RLIMIT_AS, {rlim_cur=1048576*1024, rlim_max=RLIM64_INFINITY}, NULL) = 0 <0.000010>
12  2.630000 memfd_create("a,b", MFD_CLOEXEC) = 3</memfd:a,b>(deleted) <0.000022>
12  2.640000 mincore(0x7f29, 8192, [1, 0]) = 0 <0.000022>
11  2.650000 munmap(0x1000, 4096 <unfinished ...>
11  2.660000 +++ killed by SIGKILL +++
12  2.700000 --- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED} ---
12  2.800000 exit_group(0)   = ?
12  2.900000 +++ exited with 0 +++
""".splitlines()


def calls(lines=LINES):
    return read_strace(Path("x"), lines)


def test_everything_is_read():
    s = calls()
    assert not s.problems and s.signals == 1
    assert [e.how for e in s.ended] == ["killed by SIGKILL", "exited with 0"]
    assert [c.name for c in s.calls if c.tid == 11] == ["mremap", "munmap"]


def test_halves_are_joined_by_thread():
    got = {c.name: c for c in calls().calls if c.start // 1000 in (2_500_000, 2_500_010, 2_600_000)}
    assert got["munmap"].args == ("0x94f41000", "8192") and got["munmap"].end == 2_500_037_000
    assert got["mremap"].args[-1] == "0x7f30" and got["mremap"].ret == 0x7F30
    assert got["clone"].args[-1] == "child_tidptr=0x7fe5" and got["clone"].ret == 12


def test_operations():
    ops = {c.start // 1000: decode(c) for c in calls().calls}
    mmap = ops[2_100_000]
    assert mmap.op == op.OP_MMAP and mmap.args == (0, 37295, 1, 2, 3, 0x1000)
    assert mmap.fd == Fd(3, "/tmp/a,b(c)\\74x\\76(deleted)")
    assert ops[2_200_000].args[2:4] == (0x101, 2 | 0x20 | 0x40000 | 21 << 26)
    assert ops[2_300_000].args == (0x7F29, 4096, 0x40)
    assert ops[2_500_010].args == (0x7F29, 4096, 8192, 3, 0x7F30)
    assert ops[2_610_000].args == (0xFFFFFFFF94DD3000 - (1 << 64), 4096, 102)
    assert ops[2_640_000].args == (0x7F29, 8192)
    assert ops[1] if 1 in ops else ops[1_000_001] is None


def test_results():
    s = calls()
    got = {c.start // 1000: result(c) for c in s.calls}
    assert got[2_200_000] == -12 and got[2_300_000] == -22 and got[2_000_001] == 0x560236787000
    assert got[2_800_000] is None and got[2_630_000] == 3


def test_new_tasks():
    got = [clone_flags(c) for c in calls().calls if c.name.startswith("clone")]
    assert got == [0x10100, 0]


@pytest.mark.parametrize(
    ("text", "names", "value"),
    [
        ("NULL", None, 0),
        ("0x10 /* PROT_??? */", None, 16),
        ("8192*1024", None, 8 << 20),
        ("18446744073709551615", None, -1),
        ("0600", None, 0o600),
        ("A|0x8|B", {"A": 1, "B": 2}, 11),
        ("21<<MAP_HUGE_SHIFT", None, 21 << 26),
    ],
)
def test_numbers(text, names, value):
    assert number(text, names) == value


def test_an_unknown_name_is_told():
    with pytest.raises(DecodeError, match="MAP_NEW"):
        number("MAP_PRIVATE|MAP_NEW", {"MAP_PRIVATE": 2})


def test_commas_that_do_not_separate():
    args, end = split_args(r'"a, \" b", {x=[1, 2], y=(3, 4)}, 3</a,b>, 1<<2 /* c, d */) = 0')
    assert args == [r'"a, \" b"', "{x=[1, 2], y=(3, 4)}", "3</a,b>", "1<<2 /* c, d */"] and end > 0


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("10  2.0 <... munmap resumed>) = 0 <0.1>", "was not begun"),
        ("10  2.0 munmap(1, 2 <unfinished ...>", "never resumed"),
        ("10  2.0 munmap(1, 2) = banana", "no result"),
        ("munmap(1, 2) = 0", "no time stamp"),
        ("10  2.0 ??? what", "unknown line"),
        ("10  2.0 munmap(1, 2", "no end"),
    ],
)
def test_bad_lines_are_told_with_their_place(line, why):
    s = calls(["10  1.0 brk(NULL) = 0 <0.1>", line])
    assert [why in str(p) and str(p).startswith("x:2: ") for p in s.problems] == [True]
    assert s.calls[0].name == "brk"


def test_smaps():
    areas = parse_smaps(
        "7f00-8f00 rw-p 00001000 fe:00 17                         /tmp/a b (deleted)\nAnonymous:   8 kB\nVmFlags: rd wr \n"
    )
    (a,) = areas
    assert (a.start, a.end, a.offset, a.inode, a.path, a.anon) == (0x7F00, 0x8F00, 0x1000, 17, "/tmp/a b (deleted)", 8)
    assert parse_area(a.line()) == a
