"""What the arguments of a traced call mean: names and numbers of Linux (x86-64), as strace 6.1 writes them."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass

from seqfault.mm import opcodes as op
from seqfault.trace.strace import Call

PROT = {
    "PROT_NONE": 0,
    "PROT_READ": 1,
    "PROT_WRITE": 2,
    "PROT_EXEC": 4,
    "PROT_SEM": 8,
    "PROT_GROWSDOWN": 0x01000000,
    "PROT_GROWSUP": 0x02000000,
}
MAP = {
    "MAP_FILE": 0,
    "MAP_SHARED": 1,
    "MAP_PRIVATE": 2,
    "MAP_SHARED_VALIDATE": 3,
    "MAP_FIXED": 0x10,
    "MAP_ANONYMOUS": 0x20,
    "MAP_32BIT": 0x40,
    "MAP_GROWSDOWN": 0x100,
    "MAP_DENYWRITE": 0x800,
    "MAP_EXECUTABLE": 0x1000,
    "MAP_LOCKED": 0x2000,
    "MAP_NORESERVE": 0x4000,
    "MAP_POPULATE": 0x8000,
    "MAP_NONBLOCK": 0x10000,
    "MAP_STACK": 0x20000,
    "MAP_HUGETLB": 0x40000,
    "MAP_SYNC": 0x80000,
    "MAP_FIXED_NOREPLACE": 0x100000,
}
MREMAP = {"MREMAP_MAYMOVE": 1, "MREMAP_FIXED": 2, "MREMAP_DONTUNMAP": 4}
MS = {"MS_ASYNC": 1, "MS_INVALIDATE": 2, "MS_SYNC": 4}
MCL = {"MCL_CURRENT": 1, "MCL_FUTURE": 2, "MCL_ONFAULT": 4}
MLOCK = {"MLOCK_ONFAULT": 1}
MADV = {f"MADV_{name.upper()}": value for name, value in op.ADVICE.items()} | {
    "MADV_HWPOISON": 100,
    "MADV_SOFT_OFFLINE": 101,
}
SHM = {"SHM_RDONLY": 0o10000, "SHM_RND": 0o20000, "SHM_REMAP": 0o40000, "SHM_EXEC": 0o100000}
CLONE = {"CLONE_VM": 0x100, "CLONE_VFORK": 0x4000, "CLONE_THREAD": 0x10000}
COMMENT = re.compile(r"/\*.*?\*/")
SHIFT = re.compile(r"(\w+)<<(MAP_HUGE_SHIFT|26)$")
PRODUCT = re.compile(r"(\d+)\*(\d+)$")
FD = re.compile(r"(-?\d+)(?:<(.*)>(\(deleted\))?)?$")
# strace prints addresses as unsigned numbers
TOP = 1 << 64


class DecodeError(Exception):
    """An argument that is neither a number nor a name that is known here."""


@dataclass(slots=True, frozen=True)
class Fd:
    number: int
    path: str = ""


@dataclass(slots=True, frozen=True)
class Op:
    """An operation of mm/opcodes.py with its arguments as signed 64-bit numbers; `fd` stands for argument 4 of mmap."""

    op: int
    args: tuple[int, ...]
    fd: Fd | None = None


def signed(n: int) -> int:
    n %= TOP
    return n - TOP if n >> 63 else n


def number(text: str, names: dict[str, int] | None = None) -> int:
    """``A|B|0x8``, ``21<<MAP_HUGE_SHIFT``, ``8192*1024``, NULL, a number; with or without a comment."""
    out = 0
    for part in COMMENT.sub("", text).strip().split("|"):
        part = part.strip()
        if names and part in names:
            out |= names[part]
        elif part == "NULL":
            pass
        elif m := SHIFT.match(part):
            out |= int(m[1], 0) << 26
        elif m := PRODUCT.match(part):
            out |= int(m[1]) * int(m[2])
        else:
            try:
                out |= int(part, 8) if re.fullmatch(r"0[0-7]+", part) else int(part, 0)
            except ValueError:
                raise DecodeError(f"{part!r} is no number and no name that is known") from None
    return signed(out)


def descriptor(text: str) -> Fd:
    """``3</usr/lib/libc.so.6>``, ``4</tmp/x>(deleted)``, ``-1``."""
    m = FD.match(text)
    if not m:
        raise DecodeError(f"{text!r} is no file descriptor")
    return Fd(int(m[1]), (m[2] or "") + (m[3] or ""))


def braces(text: str) -> dict[str, str]:
    """``{a=1, b=2}`` -> {a: 1, b: 2}; nested braces are not looked into."""
    return dict(re.findall(r"(\w+)=([^,{}]*)", text))


def get(call: Call, i: int, names: dict[str, int] | None = None) -> int:
    if i >= len(call.args):
        raise DecodeError(f"{call.name} has no argument {i + 1}")
    return number(call.args[i], names)


def decode(call: Call) -> Op | None:
    """The operation that a call is; None if it is none of mm/opcodes.py."""
    name = call.name
    if name == "mmap":
        fd = descriptor(call.args[4]) if len(call.args) > 4 else Fd(-1)
        values = (get(call, 0), get(call, 1), get(call, 2, PROT), get(call, 3, MAP), fd.number, get(call, 5))
        return Op(op.OP_MMAP, values, fd)
    if name == "munmap":
        return Op(op.OP_MUNMAP, (get(call, 0), get(call, 1)))
    if name == "mprotect":
        return Op(op.OP_MPROTECT, (get(call, 0), get(call, 1), get(call, 2, PROT)))
    if name == "pkey_mprotect" and get(call, 3) == -1:
        return Op(op.OP_MPROTECT, (get(call, 0), get(call, 1), get(call, 2, PROT)))
    if name == "mremap":
        new = get(call, 4) if len(call.args) > 4 else 0
        return Op(op.OP_MREMAP, (get(call, 0), get(call, 1), get(call, 2), get(call, 3, MREMAP), new))
    if name == "madvise":
        return Op(op.OP_MADVISE, (get(call, 0), get(call, 1), get(call, 2, MADV)))
    if name in ("mlock", "munlock"):
        return Op(op.OP_MLOCK if name == "mlock" else op.OP_MUNLOCK, (get(call, 0), get(call, 1)))
    if name == "mlock2":
        return Op(op.OP_MLOCK2, (get(call, 0), get(call, 1), get(call, 2, MLOCK)))
    if name == "mlockall":
        return Op(op.OP_MLOCKALL, (get(call, 0, MCL),))
    if name == "munlockall":
        return Op(op.OP_MUNLOCKALL, ())
    if name == "brk":
        return Op(op.OP_BRK, (get(call, 0),))
    if name == "mincore":
        return Op(op.OP_MINCORE, (get(call, 0), get(call, 1)))
    if name == "msync":
        return Op(op.OP_MSYNC, (get(call, 0), get(call, 1), get(call, 2, MS)))
    if name in ("mseal", "syscall_0x1ce"):  # strace 6.1 does not know mseal by name
        return Op(op.OP_MSEAL, (get(call, 0), get(call, 1), get(call, 2)))
    return None


def result(call: Call) -> int | None:
    """What the call returned, as Linux does: -errno."""
    if call.ret is None:
        return None
    if call.errno:
        value = getattr(errno, call.errno, None)
        if value is None:
            raise DecodeError(f"{call.errno} is an errno that is not known")
        return -int(value)
    return call.ret


def clone_flags(call: Call) -> int:
    """The flags of a call that makes a task, as far as they are in `CLONE`."""
    if call.name == "vfork":
        return CLONE["CLONE_VM"] | CLONE["CLONE_VFORK"]
    if call.name == "fork":
        return 0
    return sum(value for name, value in CLONE.items() if any(re.search(rf"\b{name}\b", a) for a in call.args))
