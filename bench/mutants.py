"""How many small changes of the mm text `fuzz` finds, and with how few operations.

    python bench/mutants.py --count 200 --seed 1 [--ops 100000] [--jobs 2] [--json FILE [--resume]]

Draws changes (operators, comparisons, dropped statements, exchanged arguments) in the text of the running kernel's release, answers
the same random programs with each, and compares with the live kernel: smaps too after each operation, and every 25th
program with VMAs made scarce (`fuzz` does both less often).

FILE gets a line for each outcome as it comes; with --resume those that are there are not tried again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from seqfault.live.campaign import Options
from seqfault.live.study import COUNTED, FOUND, LOST, SMALL, Row, digest, study
from seqfault.mm.fullsize import release_number


def known_rows(path: Path, of: str) -> list[Row]:
    """The outcomes of a run that was ended.  A last line that was not written whole is none."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    if lines and json.loads(lines[0]) != {"digest": of}:
        sys.exit(f"{path} is of another text, or of other options; name another file, or leave out --resume")
    return [Row(**json.loads(x)) for x in lines[1:]]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--count", type=int, default=200)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--ops", type=int, default=100_000)
    p.add_argument("--jobs", type=int, default=1)
    p.add_argument("--json", default="")
    p.add_argument("--resume", action="store_true")
    a = p.parse_args()
    if a.resume and not a.json:
        p.error("--resume goes on with the file of --json")
    o = Options(ops=a.ops, seed=a.seed, release=release_number(platform.release()), detail_every=1, map_count_every=25)
    of = digest(o, a.seed)
    known = known_rows(Path(a.json), of) if a.resume else []
    path = Path(a.json or os.devnull)
    if a.json:
        new = path.with_name(path.name + ".new")
        new.write_text("".join(json.dumps(x) + "\n" for x in [{"digest": of}, *map(asdict, known)]))
        new.replace(path)
    done = Counter(r.result for r in known)

    def note(r: Row) -> None:
        with path.open("a") as log:
            log.write(json.dumps(asdict(r)) + "\n")
        done[r.result] += 1
        if r.result in COUNTED:
            what = f"found by {r.by}, {r.shrunk} operations" if r.result == FOUND else f"{r.result.upper()} {r.by}"
            print(f"[{sum(done[k] for k in COUNTED):3}] {r.name}: {what} ({r.seconds} s)", flush=True)

    t = time.time()
    s = study(o, a.count, a.seed, a.jobs, note, known)
    found = [r for r in s.rows if r.result == FOUND]
    kinds = Counter(r.kind for r in s.rows)
    print(f"\n{len(s.rows)} mutants (seed {a.seed}), at most {a.ops:,} operations each, {time.time() - t:.0f} s")
    print(f"found {len(found)} ({100 * len(found) / max(1, len(s.rows)):.1f}%): " + ", ".join(
        f"{k} {sum(r.kind == k for r in found)}/{n}" for k, n in sorted(kinds.items())
    ))  # fmt: skip
    small = [r.shrunk for r in found]
    print(f"shrunk to at most {SMALL} operations: {sum(n <= SMALL for n in small)} of {len(small)}; most {max(small, default=0)}")
    print(f"did not compile, drawn again: {s.stillborn}; same machine code: {s.same}")
    print(f"lines that no program reached: {sum(map(len, s.unreached.values()))}")
    for file, lines in s.unreached.items():
        print(f"  {file}: {', '.join(map(str, lines))}")
    for r in s.rows:
        if r.result == FOUND and r.shrunk > SMALL:
            print(f"long: {r.name}: {r.shrunk} operations; {r.program}")
        elif r.result != FOUND:
            how = r.by if r.result == LOST else f"first seen in {r.trace}" if r.trace else "memory is the same throughout"
            print(f"{r.result}: {r.name}: {how}")


if __name__ == "__main__":
    main()
