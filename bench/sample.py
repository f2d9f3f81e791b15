"""What `record --sample` costs a program that does little but fault: pages that it touches in a second of its own CPU
time, while it is sampled and while it is not, in turns.

    python bench/sample.py [ROUNDS] [SECONDS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS, SECONDS = int([*sys.argv, "6"][1]), float([*sys.argv, "", "10"][2])
PROGRAM = """
import ctypes, time
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
SIZE = 64 * 4096
while True:
    begun, n = time.thread_time(), 0
    while time.thread_time() - begun < 0.1:
        at = libc.mmap(None, SIZE, 3, 0x22, -1, 0)
        libc.memset(at, 1, SIZE)
        libc.munmap(at, SIZE)
        n += 64
    print(time.monotonic(), n / (time.thread_time() - begun), flush=True)
"""

with tempfile.TemporaryDirectory() as folder:
    counts = Path(folder) / "counts"
    program = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=counts.open("w"))
    code = "from seqfault.cli import main; main()"
    record = [sys.executable, "-c", code, "record", "-o", str(Path(folder) / "t.parquet"), "--sample"]
    record += ["--pid", str(program.pid), "--seconds", str(SECONDS)]
    spans: list[tuple[float, float, bool]] = []
    try:
        time.sleep(1)
        for _ in range(ROUNDS):
            begun = time.monotonic()
            time.sleep(SECONDS)
            spans.append((begun, time.monotonic(), False))
            begun = time.monotonic()
            subprocess.run(record, stderr=subprocess.DEVNULL)
            spans.append((begun, time.monotonic(), True))
    finally:
        program.kill()
        program.wait()
    rates = [tuple(map(float, line.split())) for line in counts.read_text().splitlines() if line.count(" ") == 1]

means = [(statistics.fmean(r for t, r in rates if a <= t <= b), sampled) for a, b, sampled in spans]
ratios = [with_[0] / without[0] for without, with_ in zip(means[::2], means[1::2], strict=True)]
print("pages/s of CPU time, sampled / not:", " ".join(f"{r:.3f}" for r in ratios))
print(f"median {statistics.median(ratios):.3f}: it costs {100 * (1 - statistics.median(ratios)):.1f}%")
