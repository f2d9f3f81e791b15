"""What of the machine could make the kernel differ from the model by chance, and what can be done about it.

Documentation/filesystems/debugfs.rst, admin-guide/mm/{ksm,transhuge}.rst, admin-guide/sysctl/{vm,kernel}.rst.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from seqfault.live import abi

CONTROLLED, MASKED, NOT_CONTROLLED, ABSENT = "controlled", "masked", "not controlled", "absent"
FAULT_AROUND = "fault_around_bytes"


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


class FaultAround:
    """Faults of file pages map one page only, while this lives: debugfs, fault_around_bytes = 4096."""

    def __init__(self) -> None:
        self.before = ""
        self.file: Path | None = None
        self._mounted = ""
        self.state = NOT_CONTROLLED
        folder = self._debugfs()
        if folder is None:
            return
        file = Path(folder) / FAULT_AROUND
        try:
            before = file.read_text().strip()
            if before != "4096":
                file.write_text("4096")
                self.before, self.file = before, file
            self.state = CONTROLLED
        except FileNotFoundError:
            self.state = ABSENT
        except OSError:
            pass

    def _debugfs(self) -> str | None:
        for line in read("/proc/mounts").splitlines():
            parts = line.split()
            if len(parts) > 2 and parts[2] == "debugfs":
                return parts[1]
        folder = tempfile.mkdtemp(prefix="seqfault-debugfs-")
        try:
            subprocess.run(["mount", "-t", "debugfs", "debugfs", folder], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            Path(folder).rmdir()
            return None
        self._mounted = folder
        return folder

    def restore(self) -> None:
        """Put back what was found."""
        if self.file is not None:
            with contextlib.suppress(OSError):  # the mount may be gone
                self.file.write_text(self.before)
            self.file = None
        if self._mounted:
            subprocess.run(["umount", self._mounted], check=False, capture_output=True)
            with contextlib.suppress(OSError):
                Path(self._mounted).rmdir()
            self._mounted = ""


def controls(ready: int, fault_around: FaultAround) -> list[Control]:
    """The list for this machine.  `ready`: what the runner says of itself (abi.R_*)."""
    out = []

    def say(name: str, state: str, sentence: str) -> None:
        out.append(Control(name, state, sentence))

    say("huge pages", CONTROLLED, "off for the runner by PR_SET_THP_DISABLE")
    say("protection keys", CONTROLLED, "all taken, so that PROT_EXEC alone is readable")
    say(
        "fault-around",
        fault_around.state,
        {
            CONTROLLED: "one page a fault (debugfs fault_around_bytes = 4096), put back afterwards",
            ABSENT: "debugfs has no fault_around_bytes",
        }.get(
            fault_around.state, "faults of file pages map up to 15 neighbours: this needs root, debugfs, no lockdown"
        ),
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
