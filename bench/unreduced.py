"""What reductions spare where they are needed most: scenarios on three and four CPUs, reduced and as they stand.

    python bench/unreduced.py [--protocol spf-v5] [--most 400000000] [--names 'two-faults/*' ...]

Reduced: as `check` explores (own accesses, dead registers zeroed).  As they stand: a state for each shared access, all
registers kept, by threads that share a table.  What has more than `--most` states is estimated from the sizes of the
depths so far (explore/forecast.py), or `more than` where that says nothing.  Outcomes are compared where both are
whole.  A line for each scenario, then sums of each family.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import sys
import time
from collections import defaultdict

from seqfault.explore.forecast import Forecast
from seqfault.explore.frontier import Seen
from seqfault.explore.model import start_of
from seqfault.explore.tiers import explore
from seqfault.protocols import load
from seqfault.scenarios import everything


def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--protocol", default="spf-v5")
    ap.add_argument("--most", type=int, default=400_000_000)
    ap.add_argument("--names", nargs="*", default=["*"])
    args = ap.parse_args()
    protocol = load(args.protocol)
    threads = os.cpu_count() or 1
    sums: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0, 0, 0, 0])
    for s in everything():
        if sum(map(bool, s.cpus)) < 3 or s.forever or not any(fnmatch.fnmatch(s.name, n) for n in args.names):
            continue
        a, words, rom = start_of(protocol, s)
        begun = time.perf_counter()
        less = explore(a, words, rom, own=True, graph=True)
        seconds = [time.perf_counter() - begun]
        forecast = Forecast()
        told: list[int] = []

        def progress(ex: Seen, waiting: int, forecast: Forecast = forecast, told: list[int] = told) -> None:
            n = forecast.see(ex.depth, ex.width, ex.counted)
            told[:] = [n] if n is not None else told

        begun = time.perf_counter()
        whole = explore(
            a, words, rom, dead=False, threads=threads, traced=False, max_states=args.most, progress=progress
        )
        seconds.append(time.perf_counter() - begun)
        many, mark = float(whole.states), ""
        if whole.complete:
            if set(whole.outcomes) != set(less.outcomes):
                raise SystemExit(f"{s.name}: a reduction changed the outcomes")
        else:
            many, mark = (float(told[0]), "~") if told else (many, ">")
        print(
            f"{s.name}: {less.states:,} states in {seconds[0]:.1f} s; as it stands {mark}{many:,.0f} in "
            f"{seconds[1]:.1f} s, {mark}{many / less.states:.1f} times, {whole.bytes / (1 << 30):.2f} GiB",
            flush=True,
        )
        total = sums[s.name.split("/")[0]]
        for i, x in enumerate((1, less.states, seconds[0], many, seconds[1], not whole.complete)):
            total[i] += x
    for family, (n, less_n, t, many, u, cut) in sums.items():
        mark = f", {cut:.0f} of them by estimate or limit" if cut else ""
        print(
            f"{family}, {n:.0f} scenarios: {less_n:,.0f} states in {t:.0f} s; as they stand {many:,.0f} in {u:.0f} s, "
            f"{many / less_n:.1f} times{mark}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
