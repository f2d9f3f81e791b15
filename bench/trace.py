"""A trace of 10 million events written, read and summarised: time and peak memory of each.

    python bench/trace.py [EVENTS] [FILE]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

EVENTS = int([*sys.argv, "10000000"][1])
PARTS = {
    "write": "from generated import write; write(path, events)",
    "read": "from seqfault.trace.store import open_trace\n"
    "with open_trace(path) as t: assert sum(b.num_rows for b in t.batches()) == events",
    "summarise": "from seqfault.trace.store import open_trace; from seqfault.trace.summary import summarise\n"
    "with open_trace(path) as t: summarise(t)",
    "VMAs": "from seqfault.trace.store import open_trace; from seqfault.trace.vmas import follow\n"
    "with open_trace(path) as t: print('', follow(t, 618).calls, 'calls done again', end=';')",
}
RUN = """
import resource, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
path, events = Path({path!r}), {events}
begun = time.perf_counter()
{part}
print(f" {{time.perf_counter() - begun:.1f}} s, {{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}} MB")
"""

with tempfile.TemporaryDirectory() as folder:
    path = sys.argv[2] if len(sys.argv) > 2 else str(Path(folder) / "t.parquet")
    tests = str(Path(__file__).parents[1] / "tests" / "trace")
    for name, part in PARTS.items():
        print(f"{name:10}", end="", flush=True)
        subprocess.run(
            [sys.executable, "-c", RUN.format(tests=tests, path=path, events=EVENTS, part=part)], check=True
        )
    print(f"file       {Path(path).stat().st_size / 1e6:.0f} MB")
