"""Calls as they are logged and shown, and what they raise."""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import dataclass

from seqfault.mm.opcodes import (
    ABSENT,
    ADVICE,
    NAMES,
    NR_ARGS,
    OP_FTRUNCATE,
    OP_MADVISE,
    OP_MINCORE,
    OP_MLOCK,
    OP_MLOCK2,
    OP_MMAP,
    OP_MPROTECT,
    OP_MREMAP,
    OP_MSEAL,
    OP_MSYNC,
    OP_MUNLOCK,
    OP_MUNMAP,
    OP_READ,
    OP_WRITE,
)
from seqfault.space.text import SPACE_EXIT, SPACE_FILE, SPACE_FORK, SPACE_LIMITS

OUTSIDE = -2001
SIGNALLED = -1000
PROT = {1: "PROT_READ", 2: "PROT_WRITE", 4: "PROT_EXEC", 1 << 24: "PROT_GROWSDOWN", 1 << 25: "PROT_GROWSUP"}
MAP = {
    1: "MAP_SHARED",
    2: "MAP_PRIVATE",
    0x10: "MAP_FIXED",
    0x20: "MAP_ANONYMOUS",
    0x100: "MAP_GROWSDOWN",
    0x2000: "MAP_LOCKED",
    0x4000: "MAP_NORESERVE",
    0x8000: "MAP_POPULATE",
    0x10000: "MAP_NONBLOCK",
    0x20000: "MAP_STACK",
    0x100000: "MAP_FIXED_NOREPLACE",
}
MREMAP = {1: "MREMAP_MAYMOVE", 2: "MREMAP_FIXED", 4: "MREMAP_DONTUNMAP"}
MADV = {v: f"MADV_{k.upper()}" for k, v in ADVICE.items()}
OTHER = {SPACE_FILE: "open", SPACE_FORK: "fork", SPACE_EXIT: "exit", SPACE_LIMITS: "setrlimit"}
ARGUMENTS = {**NR_ARGS, SPACE_FILE: 0, SPACE_FORK: 0, SPACE_EXIT: 0, SPACE_LIMITS: 0}
BITS = {(OP_MMAP, 2): PROT, (OP_MMAP, 3): MAP, (OP_MPROTECT, 2): PROT, (OP_MREMAP, 3): MREMAP}
LENGTHS = (OP_MMAP, OP_MUNMAP, OP_MPROTECT, OP_MREMAP, OP_MADVISE, OP_MLOCK, OP_MLOCK2, OP_MUNLOCK, OP_MSEAL, OP_MSYNC)
DECIMAL = {(op, 1) for op in (*LENGTHS, OP_WRITE, OP_FTRUNCATE, OP_MINCORE)} | {(OP_MREMAP, 2)}


class MemoryFault(Exception):
    """A load or store of the program got a signal: `signal`, at `address`."""

    def __init__(self, number: int, address: int):
        super().__init__(f"{signal.Signals(number).name} at {address:#x}")
        self.signal, self.address = number, address


class OutsideModel(Exception):
    """The call reaches what the model does not have."""


@dataclass(frozen=True)
class Call:
    """The `number`th call (from 0), by process `who`; `op` as in mm/opcodes.py."""

    number: int
    who: int
    op: int
    args: tuple[int, ...]
    result: int

    @property
    def name(self) -> str:
        return NAMES.get(self.op) or OTHER[self.op]

    def __str__(self) -> str:
        args = ", ".join(argument(self.op, i, v) for i, v in enumerate(self.args[: ARGUMENTS[self.op]]))
        return f"{self.name}({args}) = {result_text(self.op, self.result)}"


def argument(op: int, i: int, v: int) -> str:
    """An argument as a C programmer writes it."""
    if op == OP_MADVISE and i == 2:
        return MADV.get(v, str(v))
    names = BITS.get((op, i))
    if names is not None:
        words = [text for bit, text in names.items() if v & bit]
        rest = v & ~sum(names)
        return "|".join(words + ([hex(rest)] if rest else [])) or ("PROT_NONE" if names is PROT else "0")
    if (op, i) in DECIMAL or -4096 < v < 4096:
        return str(v)
    return hex(v)


def result_text(op: int, result: int) -> str:
    if result in (OUTSIDE, ABSENT):
        return "?"
    if result <= SIGNALLED and op in (OP_READ, OP_WRITE):
        return signal.Signals(SIGNALLED - result).name
    if result < 0:
        return f"-{errno.errorcode.get(-result, str(-result))}"
    return hex(result) if result >= 4096 else str(result)


def outcome(call: Call) -> int:
    """The result of a call that went well.  Raises `OSError`, `MemoryFault` or `OutsideModel`."""
    r = call.result
    if r >= 0:
        return r
    if r == OUTSIDE:
        raise OutsideModel(f"{call}: outside the part of the address space that the model has; see `pages`")
    if r == ABSENT:
        raise ProcessLookupError(errno.ESRCH, f"{os.strerror(errno.ESRCH)}: {call}: process {call.who} has exited")
    if r <= SIGNALLED:
        raise MemoryFault(SIGNALLED - r, call.args[0])
    raise OSError(-r, f"{os.strerror(-r)}: {call}")
