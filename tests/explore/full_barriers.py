"""Random litmus tests full of full barriers, with loads that nothing orders; deterministic by seed."""

from __future__ import annotations

import random

from late_stores import written

LOADS = ["READ_ONCE(*{c})"] * 6 + ["smp_load_acquire({c})", "READ_ONCE(*({c} + ({q} & 128)))"]
FULL = ["xchg({c}, {v})", "atomic_fetch_add(10, {c})", "cmpxchg({c}, 0, {v})"]
BETWEEN = [""] * 8 + ["smp_mb();"] * 6 + ["smp_rmb();", "smp_wmb();", "spin", "unspin"]


def full_barriers(seed: int) -> str:
    """The text of a test of two or three threads."""
    r = random.Random(f"{seed} full")
    count = r.choice([2, 2, 3])
    cells = ["x", "y", "z"][: r.choice([2, 3])]
    values = dict.fromkeys(cells, 0)
    threads = []
    for _ in range(count):
        lines: list[str] = []
        regs: list[str] = []
        held = False
        for _ in range(2 if count == 3 else r.choice([2, 3, 3])):
            c, p = r.choice(cells), r.random()
            values[c] += 1
            q = r.choice(regs) if regs else ""
            v = f"({q} ^ {q}) + {values[c]}" if q and r.random() < 0.3 else str(values[c])
            if p < 0.5:
                word = r.choice(LOADS if q else LOADS[:7]).format(c=c, q=q)
            elif p < 0.6:
                word = r.choice(FULL).format(c=c, v=v)
            else:
                word = f"WRITE_ONCE(*{c}, {v})" if r.random() < 0.85 else f"smp_store_release({c}, {v})"
            if p < 0.6:
                regs.append(f"r{len(regs)}")
                word = f"{regs[-1]} = {word}"
            b = r.choice(BETWEEN)
            lines.append(f"{word};")
            if b == "spin" and not held:
                lines += ["spin_lock(s);"] + ["smp_mb__after_spinlock();"] * (r.random() < 0.5)
                held = True
            elif b == "unspin" and held:
                lines.append("spin_unlock(s);")
                held = False
            elif b.startswith("smp"):
                lines.append(b)
        lines += ["spin_unlock(s);"] * held
        threads.append((regs, lines))
    return written(f"full-{seed}", cells, threads)
