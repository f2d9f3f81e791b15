"""What of the machine could make the kernel differ from the model by chance, and what can be done about it.

Documentation/filesystems/debugfs.rst, admin-guide/mm/{ksm,transhuge}.rst, admin-guide/sysctl/{vm,kernel}.rst.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from seqfault.live import abi
from seqfault.mm.fault_around import FAULT_AROUND_PAGES

CONTROLLED, MASKED, NOT_CONTROLLED, ABSENT = "controlled", "masked", "not controlled", "absent"
MODEL_FAULT_AROUND = int(FAULT_AROUND_PAGES.default or 0)


class Control(NamedTuple):
    """`state`: controlled, masked (not compared), not controlled, or absent (this kernel does not have it)."""

    name: str
    state: str
    sentence: str


def read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def chosen(text: str) -> str:
    """The word in brackets of a file that lists choices."""
    return text.split("[", 1)[1].split("]", 1)[0] if "[" in text else text


def controls(ready: int, fault_around: int) -> list[Control]:
    """The list for this machine.  `ready`: what the runner says of itself (abi.R_*); `fault_around`: how many pages a
    read fault of a file maps, as it found."""
    out = []

    def say(name: str, state: str, sentence: str) -> None:
        out.append(Control(name, state, sentence))

    say("huge pages", CONTROLLED, "off for the runner by PR_SET_THP_DISABLE")
    shmem = chosen(read("/sys/kernel/mm/transparent_hugepage/shmem_enabled"))
    if shmem in ("", "never", "advise", "deny"):
        say("huge pages of memory files", CONTROLLED, "none unless asked for (transparent_hugepage/shmem_enabled)")
    else:
        say("huge pages of memory files", NOT_CONTROLLED, f"transparent_hugepage/shmem_enabled is {shmem}: write never")
    say("protection keys", CONTROLLED, "all taken, so that PROT_EXEC alone is readable")
    if fault_around == MODEL_FAULT_AROUND:
        say("fault-around", CONTROLLED, f"a read fault of a file maps {fault_around} pages, as in the model")
    else:
        say(
            "fault-around",
            NOT_CONTROLLED,
            f"a read fault of a file maps {fault_around} pages, in the model {MODEL_FAULT_AROUND}: "
            f"write {MODEL_FAULT_AROUND * 4096} to fault_around_bytes of debugfs",
        )
    ksm = read("/sys/kernel/mm/ksm/run")
    say("ksm", *_ksm(ksm))
    swap = len(read("/proc/swaps").splitlines()) > 1
    if swap:
        say("swap", NOT_CONTROLLED, "there is swap: pages may leave memory; swapoff, or fuzz with free memory")
    else:
        say("swap", ABSENT, "no swap: anonymous pages stay in memory")
    numa = read("/proc/sys/kernel/numa_balancing")
    if numa in ("", "0"):
        say("numa balancing", ABSENT, "off")
    else:
        say("numa balancing", NOT_CONTROLLED, "kernel.numa_balancing is on: pages may be unmapped for a while")
    over = read("/proc/sys/vm/overcommit_memory")
    if over == "0":
        say("overcommit", CONTROLLED, "vm.overcommit_memory is 0, as in the model")
    else:
        say("overcommit", NOT_CONTROLLED, f"vm.overcommit_memory is {over}; the model has 0")
    count = read("/proc/sys/vm/max_map_count")
    if count in ("65530", ""):
        say("max_map_count", CONTROLLED, "vm.max_map_count is 65530, as in the model")
    else:
        say("max_map_count", NOT_CONTROLLED, f"vm.max_map_count is {count}; operation map_count means 65530")
    if ready & abi.R_FRAMES:
        say("frames", CONTROLLED, "frame numbers are seen")
    else:
        say("frames", MASKED, "frame numbers are not compared: /proc/PID/pagemap shows them to root only")
    if ready & abi.R_HEAP:
        say("heap", CONTROLLED, "brk works in the window (PR_SET_MM_MAP)")
    else:
        say("heap", NOT_CONTROLLED, "PR_SET_MM_MAP failed: the kernel lacks CONFIG_CHECKPOINT_RESTORE")
    if ready & abi.R_PINNED:
        say("processor", CONTROLLED, "the runner stays on one")
    else:
        say("processor", NOT_CONTROLLED, "the runner may move")
    return out


def _ksm(run: str) -> tuple[str, str]:
    if run == "":
        return ABSENT, "the kernel has no KSM"
    if run == "1":
        return NOT_CONTROLLED, "ksmd runs: pages advised MADV_MERGEABLE may be merged (/sys/kernel/mm/ksm/run)"
    return CONTROLLED, "ksmd does not run"
