"""Which open file a descriptor is, for mappings.  Linux merges two mappings only if they have the same open file.

Opens are in the trace (openat, memfd_create, ...); descriptors that came another way (dup, a socket, before the
recording) are told apart by the path that strace -y prints.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from seqfault.trace.calls import Fd
from seqfault.trace.strace import Call

OPENS = ("open", "openat", "openat2", "creat", "memfd_create")
READ, WRITE = 1, 2


@dataclass(eq=False, slots=True)
class OpenFile:
    """An open file.  `number`: of the model's file; -1: never mapped yet."""

    path: str
    mode: int = READ | WRITE
    number: int = -1


@dataclass
class Descriptors:
    """The descriptors of a process, as far as the trace tells."""

    table: dict[int, OpenFile] = field(default_factory=dict)

    def copy(self) -> Descriptors:
        return Descriptors(dict(self.table))

    def opened(self, call: Call) -> None:
        """A call that opens; -y prints the path behind the new descriptor, which `text` has."""
        if call.errno or call.ret is None:
            return
        mode = READ | WRITE
        words = " ".join(call.args)
        if call.name in ("open", "openat", "openat2"):
            mode = WRITE if "O_WRONLY" in words else READ | WRITE if "O_RDWR" in words else READ
        elif call.name == "creat":
            mode = WRITE
        self.table[call.ret] = OpenFile(call.path, mode)

    def find(self, fd: Fd, by_path: dict[str, OpenFile]) -> OpenFile:
        """The open file behind a descriptor with the path that strace printed."""
        known = self.table.get(fd.number)
        if known and same_path(known.path, fd.path):
            return known
        return by_path.setdefault(fd.path, OpenFile(fd.path))


# whose files are mapped at multiples of 2 MB (f_op->get_unmapped_area is thp_get_unmapped_area)
ALIGNED = ("ext2", "ext4", "xfs", "btrfs")


def is_aligned(path: str, mounts: str) -> bool:
    """Whether a file lies on such a file system; `mounts` as the recording has them, ``/:ext4,/dev:devtmpfs,...``."""
    if not path.startswith("/") or path.startswith(("/memfd:", "/SYSV", "/dev/zero")):
        return False
    best, kind = "", "ext4"
    for word in mounts.split(","):
        at, _, type_ = word.rpartition(":")
        if (path == at or path.startswith(at.rstrip("/") + "/")) and len(at) > len(best):
            best, kind = at, type_
    return kind in ALIGNED


def same_path(a: str, b: str) -> bool:
    """The file may have been unlinked in between."""
    return re.sub(r"\(deleted\)$", "", a) == re.sub(r"\(deleted\)$", "", b)
