"""Random litmus tests of mixed words, not cycles: atomics, dependencies, branches, locks, RCU; deterministic by seed."""

from __future__ import annotations

import random

ORDERS = ("", "_relaxed", "_acquire", "_release")
MODES = ("marked", "atomic", "lock", "rcu")


class _Thread:
    def __init__(self, r: random.Random, cells: list[str], values: dict[str, int]):
        self.r, self.cells, self.values = r, cells, values
        self.lines: list[str] = []
        self.registers: list[str] = []

    def new(self) -> str:
        self.registers.append(f"r{len(self.registers)}")
        return self.registers[-1]

    def value(self, cell: str) -> str:
        v = self.values[cell] = self.values.get(cell, 0) + 1
        if self.registers and self.r.random() < 0.35:
            q = self.r.choice(self.registers)
            return f"({q} ^ {q}) + {v}"
        return str(v)

    def load(self, cell: str) -> None:
        word = self.r.choice(["READ_ONCE(*{})", "READ_ONCE(*{})", "smp_load_acquire({})", "rcu_dereference(*{})"])
        depends = self.registers and self.r.random() < 0.25
        at = f"({cell} + ({self.r.choice(self.registers)} & 128))" if depends else cell
        self.lines.append(f"{self.new()} = {word.format(at)};")

    def store(self, cell: str) -> None:
        v = self.value(cell)
        line = f"WRITE_ONCE(*{cell}, {v});" if self.r.random() < 0.75 else f"smp_store_release({cell}, {v});"
        if self.registers and self.r.random() < 0.2:
            line = f"if ({self.r.choice(self.registers)}) {{ {line} }}"
        self.lines.append(line)

    def atomic(self, cell: str) -> None:
        o = self.r.choice(ORDERS)
        word = self.r.choice(
            [
                f"xchg{o}({cell}, {self.value(cell)})",
                f"atomic_add_return{o}(10, {cell})",
                f"atomic_fetch_add{o}(10, {cell})",
                f"cmpxchg{o}({cell}, {self.r.choice([0, 1])}, {self.value(cell)})",
                f"atomic_dec_and_test({cell})",
                f"atomic_inc({cell})",
            ]
        )
        self.lines.append(f"{word};" if word.startswith("atomic_inc") else f"{self.new()} = {word};")

    def build(self, n: int, mode: str, reader: bool) -> None:
        held = False
        for k in range(n):
            cell, p = self.r.choice(self.cells), self.r.random()
            (self.load if p < 0.4 else self.store if p < 0.8 or mode == "marked" else self.atomic)(cell)
            q = self.r.random()
            if k < n - 1 and q < 0.35:
                more = ["synchronize_rcu();"] if mode == "rcu" and not reader else []
                self.lines.append(self.r.choice(["smp_mb();", "smp_rmb();", "smp_wmb();", *more]))
            if mode == "lock" and not held and q > 0.8:
                held = True
                self.lines += ["spin_lock(s);"] + ["smp_mb__after_spinlock();"] * (self.r.random() < 0.3)
            elif held and q > 0.6:
                held = False
                self.lines.append("spin_unlock(s);")
        self.lines += ["spin_unlock(s);"] * held
        if mode == "rcu" and reader:
            self.lines = ["rcu_read_lock();", *self.lines, "rcu_read_unlock();"]


def mixed(seed: int, mode: str) -> str:
    """The text of a test of two or three threads; `mode` is one of `MODES`."""
    r = random.Random(f"{seed} {mode}")
    cells, values = ["x", "y", "z"][: r.choice([2, 2, 3])], dict[str, int]()
    threads = []
    count = r.choice([2, 2, 3])
    for t in range(count):
        threads.append(_Thread(r, cells, values))
        threads[-1].build(r.randint(1, 2) if count == 3 else r.randint(2, 4), mode, t % 2 == 0)
    params = ", ".join([*(f"int *{c}" for c in cells), *(["spinlock_t *s"] if mode == "lock" else [])])
    text = f"C mixed-{mode}-{seed}\n\n{{}}\n\n"
    for t, th in enumerate(threads):
        lines = [f"int {q};" for q in th.registers] + th.lines
        text += f"P{t}({params})\n{{\n" + "".join(f"\t{x}\n" for x in lines) + "}\n\n"
    places = [f"{t}:{q};" for t, th in enumerate(threads) for q in th.registers] + [f"{c};" for c in cells]
    return text + f"locations [{' '.join(places)}]\nexists (x=99)\n"
