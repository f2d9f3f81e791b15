"""Machines: constants of virtual time, each with where it comes from, and the shape of sockets, cores and threads."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

# What each constant means; ns, or a count where it says so.  Every machine must have them all.
CONSTANTS = {
    "hit": "a load that hits, and the instructions around it",
    "store": "a store that hits",
    "atomic": "an atomic read-modify-write of a line that is at hand",
    "fence": "a full barrier",
    "memory": "a line that no cache has",
    "smt": "a line of the other thread of the core",
    "near": "a line that another core of the node has modified",
    "far": "a line that a core of another node has modified",
    "near_clean": "a line that another core of the node has clean; telling those that have it",
    "far_clean": "the same, of another node",
    "occupancy": "how long a clean line is busy with one reader",
    "relax": "one turn of a loop that waits",
    "schedule": "a context switch",
    "slice": "how long a thread keeps a CPU that others want",
    "wakeup": "waking a thread, for the waker",
    "latency": "from waking until the woken runs",
    "idle": "what that takes more on a CPU that has been idle for long",
    "idle_after": "how long that is",
    "ipi_send": "a shootdown, for the sender, whatever it reaches",
    "ipi_each": "for each CPU that it reaches",
    "ipi_handler": "for the CPU that is interrupted",
    "flush": "one page of a TLB",
    "grace": "a grace period of RCU",
    "fault": "exception, its entry and exit, and what the text does not show of a fault",
    "syscall": "a system call that does nothing",
    "zero": "clearing a page",
    "cold": "what a page costs more, all in all, that no cache has any more",
    "page_alloc": "a page from the CPU's own list",
    "page_free": "a page back to it",
    "zone_page": "a page between that list and the zone, with the zone's lock held",
    "lru_page": "a page onto or off an LRU list, with its lock held",
    "charge": "charging a page to a memory control group",
    "tree": "a change of the maple tree, and what else the text does not show of mapping (6.1 and later)",
    "handoff": "how long one waits for a semaphore until nobody may be faster; 0: for ever",
    "io": "reading a page of a file on disk",
}
COUNTS = {
    "nr_pcp": "pages moved at once between a CPU's list and the zone",
    "nr_pcp_high": "pages that a CPU keeps",
    "nr_lru": "pages put on an LRU list at once",
    "nr_release": "pages taken off at once",
    "nr_stock": "pages charged at once",
    "nr_warm": "pages that a CPU's caches hold",
    "nr_prefetch": "lines that a fault asks for before all else: mmap_sem's (1 on x86, 0 elsewhere)",
    "nr_rss": "pages counted by a thread before it tells the mm",
}
RECORDER = {"recorder": "", "recorder_stacks": "stacks"}
SHAPE = {"sockets": 1, "cores": 1, "threads": 1, "page": 4}  # page: KiB
POLICIES = {
    "fifo": {"steal": 0, "spin": 0, "all_readers": 0},
    "stealing": {"steal": 1, "spin": 1, "all_readers": 0},
    "handoff": {"steal": 1, "spin": 1, "spin_readers": 1, "all_readers": 1, "handoff": 4_000_000},
    "no-spin": {"steal": 1, "spin": 0, "all_readers": 0},
    "readers-first": {"steal": 1, "spin": 1, "all_readers": 1, "readers_first": 1},
    "writers-first": {"steal": 1, "spin": 1, "all_readers": 0, "writers_first": 1},
}


class MachineError(Exception):
    """A machine cannot be read; one line that says why."""


@dataclass(frozen=True)
class Machine:
    """`costs`: of `CONSTANTS` and `COUNTS`; `sources`: where each comes from.  CPUs are numbered as threads are bound:
    one thread of each core first, socket by socket, then the others.  `recorder`: what recording costs there
    (price/recorder.py), without stacks ("") and with ("stacks"); `recorded`: on which host and kernel."""

    name: str
    title: str
    costs: Mapping[str, float]
    sources: Mapping[str, str] = field(default_factory=dict)
    sockets: int = 1
    cores: int = 1
    threads: int = 1
    page: int = 4  # KiB
    lookahead: float = 20.0
    date: str = ""
    recorder: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    recorded: str = ""

    @property
    def cpus(self) -> int:
        return self.sockets * self.cores * self.threads

    def topology(self, tasks: int, cpus: int) -> tuple[Any, Any]:
        """Node and core of each task's CPU, of so many that are used."""
        i = np.arange(tasks) % cpus
        physical = self.sockets * self.cores
        core = i % physical
        return core // self.cores, core


def kept() -> Path:
    """Where `seqfault calibrate` keeps this machine, which ``--machine here`` reads."""
    return Path(platformdirs.user_data_dir("seqfault")) / "here.toml"


def builtin() -> dict[str, Any]:
    return tomllib.loads(resources.files("seqfault.price").joinpath("machines.toml").read_text())


def read(name: str) -> Machine:
    """A preset's name, or the file that `seqfault calibrate` wrote.  Raises `MachineError`."""
    table = builtin()
    if name in table:
        return make(name, table, name)
    if name == "here" and not kept().exists():
        raise MachineError("--machine here: this machine was not measured yet; run `seqfault calibrate`")
    path = kept() if name == "here" else Path(name)
    if path.suffix == ".toml" or path.exists():
        try:
            own = tomllib.loads(path.read_text())
        except OSError as e:
            raise MachineError(f"--machine {name}: {e.strerror}; there are {', '.join(table)}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
            raise MachineError(f"--machine {name} is no TOML: {e}") from None
        keys = [k for k, v in own.items() if isinstance(v, dict)]
        if len(keys) != 1:
            raise MachineError(f"--machine {name}: it must hold one table, [name]; it has {len(keys)}")
        return make(keys[0], {**table, **own}, name)
    from difflib import get_close_matches

    near = get_close_matches(name, table, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(table)}; or give a .toml file"
    raise MachineError(f"no machine named {name!r}; {hint}")


def make(name: str, table: Mapping[str, Any], where: str) -> Machine:
    """A machine has what its `like` has, but for what it says itself.  A constant is a number, or [number, source]."""
    seen: list[str] = []
    chain: list[Mapping[str, Any]] = []
    at = name
    while at:
        if at in seen or at not in table:
            raise MachineError(f"--machine {where}: like = {at!r} is no other machine")
        seen.append(at)
        chain.append(table[at])
        at = str(table[at].get("like", ""))
    costs: dict[str, float] = {}
    sources: dict[str, str] = {}
    rest: dict[str, Any] = {}
    for entry in reversed(chain):
        for k, v in entry.items():
            if k in CONSTANTS or k in COUNTS:
                value, source = (v if isinstance(v, list) and len(v) == 2 else (v, ""))
                if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e12:
                    raise MachineError(f"--machine {where}: {k} = {v!r} is no time in ns, or count; write {k} = 12.5")
                costs[k], sources[k] = float(value), str(source)
            elif k in ("like", "title", "date", "lookahead", "recorded", *RECORDER, *SHAPE):
                rest[k] = v
            else:
                raise MachineError(f"--machine {where}: {k!r} is no constant; see docs/price.md for those there are")
    missing = [k for k in [*CONSTANTS, *COUNTS] if k not in costs]
    if missing:
        raise MachineError(f"--machine {where}: {missing[0]} is missing; begin with like = \"x86-small\"")
    shape = {k: rest.get(k, v) for k, v in SHAPE.items()}
    for k, v in shape.items():
        if not isinstance(v, int) or not 1 <= v <= 1024:
            raise MachineError(f"--machine {where}: {k} = {v!r}; it is a number from 1 on")
    recorder = {v: rest[k] for k, v in RECORDER.items() if k in rest}
    for v in recorder.values():
        if not isinstance(v, Mapping) or not all(isinstance(x, int | float) and 0 <= x < 1e9 for x in v.values()):
            raise MachineError(f"--machine {where}: recorder = {v!r}; `seqfault calibrate` writes times in ns by name")
    parts = parts_of_fault(costs, recorder)
    costs |= parts
    if parts:
        sources["fault_inside"] = "fault, less what a recording shows between two faults"
    return Machine(
        name, str(rest.get("title", name)), costs, sources, **shape,
        lookahead=float(rest.get("lookahead", 20.0)), date=str(rest.get("date", "")),
        recorder=recorder, recorded=str(rest.get("recorded", "")),
    )  # fmt: skip


def parts_of_fault(costs: Mapping[str, float], recorder: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """What of `fault` is inside of handle_mm_fault, where the VMA or mmap_lock is held, if recordings tell.

    From a fault's accounting to the next one's first event (`gap_fault`) a recording shows the end of handle_mm_fault,
    the return, a store, the next exception, and what the first of these events costs.  The rest is inside.
    """
    plain = recorder.get("", {})
    if "gap_fault" not in plain or "traced_fault" not in plain:
        return {}
    outside = min(max(plain["gap_fault"] - plain["traced_fault"] / 2, 0.0), costs["fault"])
    return {"fault": outside, "fault_inside": costs["fault"] - outside}
