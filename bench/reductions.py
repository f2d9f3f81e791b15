"""What each reduction is worth: states of a sample of scenarios, and of the `seq` family beside Spin's default
reduction.

    python bench/reductions.py [--count 30] [--seed 1] [--protocols mmap-sem,spf-seed,spf-v5] [--most 3000000]

For scenarios the measure is one state for each shared access, without dead registers zeroed; scenarios that have more
than `--most` such states are left out, and named.  Verdicts (kinds of violations) and outcomes must be equal.  CPU
time is that of the second exploration of each kind, learning included.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import spin

SEQ = Path(__file__).parents[1] / "tests/data/promela/seq.pml"


def scenarios(protocol_name: str, count: int, seed: int, most: int) -> None:
    from seqfault.explore import tiers
    from seqfault.explore.model import start_of
    from seqfault.explore.tiers import explore
    from seqfault.protocols import load
    from seqfault.scenarios import builtin

    protocol = load(protocol_name)
    tiers.FEW = 1  # own accesses in small scenarios, too
    total: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0, 0, 0])
    cpu: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    least: dict[int, list[float]] = defaultdict(lambda: [1e9, 1e9])
    by_cpus = defaultdict(list)
    for s in builtin():
        by_cpus[len(s.cpus)].append(s)
    left_out = []
    for cpus, mine in sorted(by_cpus.items()):
        if cpus < 2:
            continue
        for s in random.Random(seed).sample(mine, min(count, len(mine))):
            a, init, rom = start_of(protocol, s)
            plain = explore(a, init, rom, dead=False, max_states=most)
            if not plain.complete:
                left_out.append(s.name)
                continue
            kinds_of: tuple[dict[str, bool], ...] = ({}, {"own": True}, {"movers": True})
            exs = []
            for i, k in enumerate(kinds_of):
                explore(a, init, rom, **k)
                begun = time.process_time()
                exs.append(explore(a, init, rom, **k))
                cpu[cpus][i] += time.process_time() - begun
            dead, own, moved = exs
            for ex in exs:
                kinds = [{(v.kind, v.pool) for v in e.violations} for e in (plain, ex)]
                if kinds[0] != kinds[1] or set(ex.outcomes) != set(plain.outcomes):
                    raise SystemExit(f"{protocol_name} {s.name}: a reduction changed the verdict")
            t = total[cpus]
            for i, n in enumerate((1, plain.states, dead.states, own.states, moved.states)):
                t[i] += n
            for i, ex in enumerate((own, moved)):
                least[cpus][i] = min(least[cpus][i], plain.states / ex.states)
    for cpus, (n, plain_n, dead_n, own_n, moved_n) in total.items():
        print(
            f"{protocol_name}, {cpus} CPUs, {n} scenarios: {plain_n:,} states, dead registers {plain_n / dead_n:.1f}x ({dead_n:,}), "
            f"own accesses {dead_n / own_n:.1f}x ({own_n:,}), both {plain_n / own_n:.1f}x (least {least[cpus][0]:.1f}x); "
            f"movers instead {dead_n / moved_n:.1f}x ({moved_n:,}), both {plain_n / moved_n:.1f}x (least {least[cpus][1]:.1f}x); "
            f"CPU seconds {cpu[cpus][0]:.1f}, {cpu[cpus][1]:.1f}, {cpu[cpus][2]:.1f}",
            flush=True,
        )
    if left_out:
        print(f"  more than {most:,} states, left out: {', '.join(left_out)}")


def seq_family() -> None:
    from seqfault.compile.program import compile_program
    from seqfault.explore.tiers import explore
    from seqfault.models import seq

    for size in ((1, 2, 2, 2), (1, 3, 2, 2), (2, 2, 2, 1)):
        p = seq.program(*size)
        a = compile_program(p, "merged")
        init, rom = a.pack(p.layout().start), a.rom(p.layout().start)
        counts = [
            explore(a, init, rom, dead=False).states,
            explore(a, init, rom).states,
            explore(a, init, rom, movers=True).states,
        ]
        raw = f"seq {','.join(map(str, size))}: {seq.STATES[size]:,} raw"
        line = f"{raw}; merged {counts[0]:,}; dead registers {counts[1]:,}; movers {counts[2]:,}"
        if spin.available():
            flags = [f"-D{k}={v}" for k, v in zip("WRNK", size, strict=True)]
            with tempfile.TemporaryDirectory() as d:
                pan = spin.build_pan(Path(d), SEQ.read_text(), flags, ("-DSAFETY",))
                n = spin.run_pan(pan).states
            line += f"; Spin's default on seq.pml {n:,}: {n / counts[2]:.0f}x ours"
        print(line, flush=True)


def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--count", type=int, default=30)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--protocols", default="mmap-sem,spf-seed,spf-v5")
    ap.add_argument("--most", type=int, default=3_000_000)
    args = ap.parse_args()
    seq_family()
    for name in args.protocols.split(","):
        scenarios(name, args.count, args.seed, args.most)
    return 0


if __name__ == "__main__":
    sys.exit(main())
