"""How many small changes of the mm text `fuzz` finds, and with how few operations.

    python bench/mutants.py --count 200 --seed 1 [--ops 100000] [--jobs 2] [--json FILE]

Draws changes (operators, comparisons, dropped statements, exchanged arguments) in the text of the running kernel's release, answers
the same random programs with each, and compares with the live kernel: smaps too after each operation, and every 25th
program with VMAs made scarce (`fuzz` does both less often).
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from seqfault.live.campaign import Options
from seqfault.live.mutants import Outcome, Study, study
from seqfault.mm.fullsize import release_number


def part(o: Options, count: int, seed: int, jobs: int, job: int) -> Study:
    def note(s: Study, what: str) -> None:
        print(f"[{len(s.outcomes):3}] {what}", flush=True)

    return study(o, count, seed, note, share=(job, jobs))


def as_dict(o: Outcome) -> dict[str, object]:
    m = o.mutant
    return {
        "kind": m.kind, "file": m.file, "line": m.line, "function": m.function, "before": m.before, "after": m.after,
        "found": o.found, "operations": o.operations, "by": o.by, "shrunk": o.shrunk,
    }  # fmt: skip


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--count", type=int, default=200)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--ops", type=int, default=100_000)
    p.add_argument("--jobs", type=int, default=1)
    p.add_argument("--json", default="")
    a = p.parse_args()
    o = Options(ops=a.ops, seed=a.seed, release=release_number(platform.release()), detail_every=1, map_count_every=25)
    t = time.time()
    shares = [a.count // a.jobs + (k < a.count % a.jobs) for k in range(a.jobs)]
    if a.jobs == 1:
        parts = [part(o, a.count, a.seed, 1, 0)]
    else:
        with ProcessPoolExecutor(a.jobs, mp_context=get_context("spawn")) as pool:
            parts = [
                f.result()
                for f in [pool.submit(part, o, n, a.seed, a.jobs, k) for k, n in enumerate(shares)]
            ]
    rows = [as_dict(x) for s in parts for x in s.outcomes]
    found = [r for r in rows if r["found"]]
    small = [int(str(r["shrunk"])) for r in found]
    kinds = Counter(str(r["kind"]) for r in rows)
    print(f"\n{len(rows)} mutants (seed {a.seed}), at most {a.ops:,} operations each, {time.time() - t:.0f} s")
    print(f"found {len(found)} ({100 * len(found) / max(1, len(rows)):.1f}%): " + ", ".join(
        f"{k} {sum(r['kind'] == k for r in found)}/{n}" for k, n in sorted(kinds.items())
    ))  # fmt: skip
    print(f"shrunk to at most 8 operations: {sum(n <= 8 for n in small)} of {len(small)}; most {max(small, default=0)}")
    print(f"did not compile, drawn again: {sum(s.stillborn for s in parts)}; same machine code: {sum(s.same for s in parts)}")
    never = parts[0].unreached
    print(f"lines that no program reached: {sum(map(len, never.values()))}")
    for file, lines in never.items():
        print(f"  {file}: {', '.join(map(str, lines))}")
    for r in rows:
        if not r["found"]:
            print(f"survives: {r['file']}:{r['line']} {r['function']}: {r['before']} -> {r['after']}")
    if a.json:
        with open(a.json, "w") as f:
            json.dump(rows, f, indent=1)


if __name__ == "__main__":
    main()
