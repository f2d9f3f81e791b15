"""What takes longest to compile is begun in another process, at the start of a command whose cache lacks it.

The first check after an install has to make the engine's loops by numba (compile/entry.py), and machine code of the
protocol's text; neither waits for the other.  Who needs what is being made waits for it (compile/jit.py).
"""

from __future__ import annotations

import atexit
import subprocess
import sys
from collections.abc import Iterable
from importlib import import_module

from seqfault.compile.jit import Compiled
from seqfault.explore import interrupt
from seqfault.explore.model import automaton_for
from seqfault.explore.steps import steps_of
from seqfault.kernel.places import Protocol
from seqfault.protocols import baseline_name, is_baseline, load
from seqfault.scenarios.model import Scenario

Function = tuple[str, str, str]  # module, name, types of its arguments

EXPAND = (
    "moving",
    "expand",
    "int64 2,int64,int64,int64 2,uint64 1,int64 1,int64 1,int64 1,int64,int64,int64 1,int64 1,int64 1,int64 1,int64 1,"
    "int64 1,int64 1,int64 2,int64 2,int64 1,int64 1,int64 1,int64 1,int64 1,int64 1,int64 1,int64 1,int64 1,int32 1,"
    "int32 2",
)
DRIVE = (
    "batch",
    "drive",
    "int64 1,int64 1,int64 1,int64 1,int64 2,int64 2,uint64 1,int64 2,int64 1,int64 1,int64 1,int64 1,int64 1,int64 1,"
    "int64 2,int64 2,uint64 1,int64 1,int64 2,int64 2,int64 2,int64 2,int64 1,int64 1,int64 1,int32 1,int32 2",
)
# of each memory model, the half of the work that is needed last
LONGEST: dict[str, Function] = {"sc": DRIVE, "tso": EXPAND, "lkmm": EXPAND}


def function(f: Function) -> Compiled:
    found: Compiled = getattr(import_module(f"seqfault.explore.{f[0]}"), f[1])
    return found


def begin(memory: Iterable[str]) -> bool:
    """Make what checks under these memory models want and the cache lacks, in another process, which ends with this
    one; whether there is such a process: where no cache can be written there is none."""
    models = [m.partition(":")[0] for m in memory]
    longest = dict.fromkeys(LONGEST[m] for m in models if m in LONGEST)
    wanted = [f for f in longest if function(f).lacks(f[2].split(","))]
    if not wanted:
        return False
    code = f"from seqfault.explore.ahead import make; make({wanted!r})"
    quiet = subprocess.DEVNULL
    child = subprocess.Popen([sys.executable, "-c", code], stdin=quiet, stdout=quiet, stderr=quiet)
    atexit.register(end, child)
    return True


def meanwhile(protocol: Protocol, scenario: Scenario) -> None:
    """Make the steps of a protocol that is checked under sc, and of what it is held against.  Raises what compiling
    their text does."""
    against = [] if protocol.processes or is_baseline(protocol) else [load(baseline_name(protocol.release))]
    for p in (protocol, *against):
        steps_of(automaton_for(p, scenario))


def end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()


def make(wanted: Iterable[Function]) -> None:
    """In the other process: make what is lacking."""
    interrupt.worker()
    for f in wanted:
        function(f).make(f[2].split(","))
