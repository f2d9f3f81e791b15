"""Random litmus tests of loads and later stores, with or without what orders them; deterministic by seed."""

from __future__ import annotations

import random

LOADS = ["READ_ONCE(*{c})"] * 5 + ["smp_load_acquire({c})", "xchg_relaxed({c}, {v})", "atomic_fetch_add(10, {c})"]
LOADS += ["cmpxchg_acquire({c}, 0, {v})", "cmpxchg({c}, 1, {v})", "atomic_fetch_add_release(10, {c})"]
BETWEEN = [""] * 9 + ["smp_mb();", "smp_rmb();", "smp_wmb();", "spin_lock(s);", "spin_unlock(s);", "s2"]
INNER = ["smp_mb();", "smp_wmb();", "smp_rmb();"]


def written(name: str, cells: list[str], threads: list[tuple[list[str], list[str]]]) -> str:
    """The text of a test of threads, each with its registers and its statements."""
    text, shown = f"C {name}\n\n{{}}\n\n", list[str]()
    params = ", ".join([*(f"int *{c}" for c in cells), "spinlock_t *s"])
    for t, (regs, lines) in enumerate(threads):
        body = [f"int {q};" for q in regs] + lines
        text += f"P{t}({params})\n{{\n" + "".join(f"\t{x}\n" for x in body) + "}\n\n"
        shown += [f"{t}:{q};" for q in regs]
    return text + f"locations [{' '.join([*shown, *(f'{c};' for c in cells)])}]\nexists (x=99)\n"


def late_stores(seed: int) -> str:
    """The text of a test of two or three threads, each of which loads, and stores."""
    r = random.Random(f"{seed} late")
    count = r.choice([2, 2, 2, 3])
    cells = ["x", "y", "z"][: r.choice([2, 3])]
    values = dict.fromkeys(cells, 0)
    threads = []
    for _ in range(count):
        lines: list[str] = []
        regs: list[str] = []
        held = False

        def value(c: str, regs: list[str] = regs) -> str:
            values[c] += 1
            if regs and r.random() < 0.25:
                q = r.choice(regs)
                return f"({q} ^ {q}) + {values[c]}"
            return str(values[c])

        for k in range(2 if count == 3 else r.choice([2, 2, 3])):
            c = r.choice(cells)
            if r.random() < (0.7 if k == 0 else 0.4):
                at = f"({c} + ({r.choice(regs)} & 128))" if regs and r.random() < 0.15 else c
                word = r.choice(LOADS).format(c=at, v=value(c))
                regs.append(f"r{len(regs)}")
                lines.append(f"{regs[-1]} = {word};")
            else:
                v = value(c)
                line = f"WRITE_ONCE(*{c}, {v});" if r.random() < 0.85 else f"smp_store_release({c}, {v});"
                p = r.random()
                if regs and p < 0.2:
                    line = f"if ({r.choice(regs)}) {{ {line} }}"
                elif regs and p < 0.3:
                    line = f"if ({r.choice(regs)}) {{ WRITE_ONCE(*{c}, {v}); }} else {{ WRITE_ONCE(*{c}, {v}); }}"
                elif len(regs) > 1 and p < 0.35:
                    line = f"if ({r.choice(regs)}) {{ {line} if ({r.choice(regs)}) {{ {r.choice(INNER)} }} }}"
                elif regs and p < 0.45:  # a flag that the arms set
                    q = r.choice(regs)
                    regs.append(f"r{len(regs)}")
                    line = f"if ({q}) {{ {regs[-1]} = 1; }} else {{ {regs[-1]} = 0; }} if ({regs[-1]}) {{ {line} }}"
                lines.append(line)
            b = r.choice(BETWEEN)
            if b.startswith("spin") or b == "s2":
                if b == "s2" and not held:
                    lines += ["spin_lock(s);", "smp_mb__after_spinlock();"]
                    held = True
                elif held:
                    lines.append("spin_unlock(s);")
                    held = False
                else:
                    lines.append("spin_lock(s);")
                    held = True
            elif b:
                lines.append(b)
        lines += ["spin_unlock(s);"] * held
        threads.append((regs, lines))
    return written(f"late-{seed}", cells, threads)
