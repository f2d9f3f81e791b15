"""What `record --sample` costs a program: its throughput with and without, in turns.

    python bench/sample.py [--rounds N] [--seconds S] -- PROGRAM...     PROGRAM prints a number: what it got done
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--rounds", type=int, default=10)
parser.add_argument("--full", action="store_true", help="all the time, without --sample")
parser.add_argument("program", nargs="+")
args = parser.parse_args()


def got(command: list[str]) -> float:
    return float(subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout)


with tempfile.TemporaryDirectory() as folder:
    code = "from seqfault.cli import main; main()"
    record = [sys.executable, "-c", code, "record", "-o", str(Path(folder) / "t.parquet")]
    record += [*([] if args.full else ["--sample"]), "--", *args.program]
    ratios = []
    for i in range(args.rounds):
        pair = [got(args.program), got(record)] if i % 2 else [got(record), got(args.program)][::-1]
        ratios.append(pair[1] / pair[0])
        print(f"{pair[0]:12.0f} {pair[1]:12.0f} {ratios[-1]:.3f}", flush=True)
print(f"median {statistics.median(ratios):.3f}, so it costs {100 * (1 - statistics.median(ratios)):.1f}%")
