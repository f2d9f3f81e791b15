"""Random programs of Kernel Python, as source text.  Every program ends; what it does is the same for every executor."""

from __future__ import annotations

import random

HEAD = '''"""Generated."""
from seqfault.kernel import *
from seqfault.kernel.types import INT

@struct(pool=4)
class gcell:
    a: integer(-8, 7)
    b: bool
    c: integer(0, 255)
    nxt: ptr["gcell"]
    arr: array[integer(-100, 100), 3]

@struct
class inner:
    p: integer(-1000, 1000)
    q: integer(0, 3)

@struct(pool=1)
class gtop:
    x: integer(-1000, 1000)
    big: integer(-(1 << 63), (1 << 63) - 1)
    head: ptr[gcell]
    flag: bool
    arr: array[integer(-500, 500), 4]
    inn: inner

def bump(i: inner, by: integer(-9, 9)) -> integer(-1000, 1000):
    i.p = (i.p + by) % 1001
    return i.p

def pick(a: integer(-2000, 2000), b: integer(-2000, 2000)) -> integer(-2000, 2000):
    return a if a < b else b

def both(a: integer(-2000, 2000)) -> tuple[integer(-2000, 2000), bool]:
    if a > 10:
        return a - 7, True
    return -a % 11, False

def walk(n: integer(0, 9)) -> ptr[gcell]:
    t = the(gtop)
    p = t.head
    i: integer(0, 9) = 0
    while p and i < n:
        i += 1
        p = p.nxt
    return p

def total(n: integer(0, 8)) -> integer(-4000, 4000):
    t = the(gtop)
    s: integer(-4000, 4000) = 0
    for i in range(n):
        if i == 3:
            continue
        if i > 5:
            break
        s += t.arr[i % 4]
    for i in range(n, 0, -2):
        s -= t.arr[i % 4] // 2
    return s
'''


class Gen:
    def __init__(self, seed: int):
        self.r = random.Random(seed)
        self.lines: list[str] = []
        self.small: list[str] = []
        self.ptrs: list[str] = []
        self.loops = 0
        self.n = 0

    def emit(self, depth: int, text: str) -> None:
        self.lines.append("    " * depth + text)

    def atom(self) -> str:
        r = self.r
        opts = [str(r.randint(-12, 12)), "t.x", f"t.arr[{r.randint(0, 3)}]", "t.inn.p", "t.inn.q"]
        if self.small:
            opts += [r.choice(self.small)] * 3
        return r.choice(opts)

    def expr(self, depth: int = 2) -> str:
        """Small: stays far inside 64 bits."""
        r = self.r
        if depth == 0 or r.random() < 0.25:
            return self.atom()
        a, b = self.expr(depth - 1), self.expr(depth - 1)
        k = r.randint(0, 15)
        if k < 6:
            return f"({a} {r.choice('+-*&|^')} {b})"
        if k == 6:
            return f"({a} // {r.choice([f'({b} + t.inn.q)', '3', '-4', '7'])})"
        if k == 7:
            return f"({a} % {r.choice([f'({b} + t.inn.q)', '5', '-6', '9'])})"
        if k == 8:
            return f"({a} % 64 << ({b} & 7))"
        if k == 9:
            return f"({a} >> {r.choice([f'({b} & 7)', '1', f'({b} + t.inn.q)'])})"
        if k == 10:
            return f"({a} if {self.cond()} else {b})"
        if k == 11:
            return f"{r.choice(['min', 'max'])}({a}, {b})"
        if k == 12:
            return f"pick({a} % 1000, {b} % 1000)"
        if k == 13:
            return f"{r.choice(['-', '~'])}{self.atom()}"
        if k == 14:
            return f"total({a} % 9)"
        return f"{r.choice(['wrap_u8', 'wrap_u16'])}({a} * {b})"

    def comparison(self) -> str:
        return f"{self.atom()} {self.r.choice(['==', '!=', '<', '<=', '>', '>='])} {self.atom()}"

    def cond(self, depth: int = 1) -> str:
        r = self.r
        k = r.randint(0, 8)
        if k < 3 or depth == 0:
            return self.comparison()
        if k == 3:
            return f"{self.atom()} <= {self.atom()} < {self.atom()}"
        if k == 4:
            return f"({self.cond(depth - 1)} {r.choice(['and', 'or'])} {self.cond(depth - 1)})"
        if k == 5:
            return f"not {self.atom()}"
        if k == 6:
            return r.choice(["t.flag", "t.head", "not t.flag"])
        if k == 7 and self.ptrs:
            p = r.choice(self.ptrs)
            return r.choice([p, f"{p} == t.head", f"{p} != NULL", f"{p} and {p}.b"])
        return f"t.arr[{r.randint(0, 3)}] > {r.randint(-9, 9)} or t.flag"

    def block(self, depth: int, n: int) -> None:
        for _ in range(n):
            self.statement(depth)

    def statement(self, d: int) -> None:
        r = self.r
        k = r.randint(0, 21)
        known, pointers = list(self.small), list(self.ptrs)
        if k < 4:
            name = r.choice(self.small) if self.small and r.random() < 0.5 else f"v{self.n}"
            self.n += 1
            self.emit(d, f"{name} = {self.expr()} % 1000")
            if name not in self.small:
                self.small.append(name)
        elif k == 4:
            self.emit(d, f"t.x = {self.expr()} % {r.choice(['1001', '1001', '1500'])}")
        elif k == 5:
            self.emit(d, f"t.arr[{r.choice(['0', '3', self.atom() + ' % 4', self.atom() + ' + t.inn.q'])}] = {self.expr()} % 501")
        elif k == 6:
            self.emit(d, f"t.big = wrap_s64(t.big {r.choice('+-*')} {r.choice(['t.big', self.atom(), '9223372036854775807'])})")
        elif k == 7:
            self.emit(d, f"t.big = wrap_s64(t.big << ({self.atom()} & 63))")
        elif k == 8:
            self.emit(d, f"t.arr[{r.randint(0, 3)}] {r.choice(['+=', '-=', '^='])} {r.randint(0, 9)}")
        elif k == 9:
            self.emit(d, f"t.flag = {self.comparison()}" if r.random() < 0.5 else f"t.flag = {r.choice(['True', 'False', 'not t.flag'])}")
        elif k in (10, 11) and d < 4:
            self.emit(d, f"if {self.cond()}:")
            self.block(d + 1, r.randint(1, 3))
            if r.random() < 0.5:
                self.small, self.ptrs = list(known), list(pointers)
                self.emit(d, "else:")
                self.block(d + 1, r.randint(1, 2))
            self.small, self.ptrs = known, pointers
        elif k == 12 and d < 3:
            i = f"i{self.n}"
            self.n += 1
            self.emit(d, f"for {i} in range({r.choice(['3', 't.inn.q', self.atom() + ' & 3'])}):")
            self.small = [*known, i]
            self.block(d + 1, r.randint(1, 2))
            if r.random() < 0.4:
                self.emit(d + 1, f"if {self.cond(0)}:")
                self.emit(d + 2, r.choice(["break", "continue"]))
            self.small, self.ptrs = known, pointers
        elif k == 13 and d < 3:
            w = f"w{self.n}"
            self.n += 1
            self.emit(d, f"{w}: integer(0, 9) = {r.randint(0, 4)}")
            self.emit(d, f"while {w} > 0 and {self.cond(0)}:")
            self.emit(d + 1, f"{w} -= 1")
            self.block(d + 1, r.randint(1, 2))
            self.small, self.ptrs = known, pointers
        elif k in (14, 15):
            p = f"p{self.n}"
            self.n += 1
            self.emit(d, f"{p} = " + r.choice(["t.head", f"walk({self.atom()} & 3)", "kmem_cache_zalloc(gcell)", "kmem_cache_alloc(gcell)"]))
            self.ptrs.append(p)
        elif k == 16 and self.ptrs:
            self.emit(d, f"t.head = {r.choice([*self.ptrs, 'NULL'])}")
        elif k == 17 and self.ptrs:
            p = r.choice(self.ptrs)
            if r.random() < 0.8:
                self.emit(d, f"if {p}:")
                d += 1
            self.emit(d, r.choice([f"{p}.a = {self.expr(1)} % 8", f"{p}.nxt = t.head", f"{p}.c = wrap_u8({self.expr(1)})", f"{p}.arr[1] = {p}.a", f"{p}.b = {self.comparison()} or {self.comparison()}"]))
        elif k == 18 and self.ptrs:
            p = r.choice(self.ptrs)
            self.emit(d, f"if {p} and {p} != t.head:")
            self.emit(d + 1, f"kmem_cache_free({p})")
        elif k == 19:
            a, b = f"v{self.n}", f"f{self.n}"
            self.n += 1
            self.emit(d, f"{a}, {b} = both({self.expr(1)} % 1000)")
            self.emit(d, f"t.flag = {b}")
            self.small.append(a)
        elif k == 20:
            self.emit(d, f"t.x = bump(t.inn, {self.atom()} % 9)")
        else:
            self.emit(d, f'check({self.cond(0)}, "odd-kind")' if r.random() < 0.6 else f"assert {self.cond(0)} or t.x < 900")

    def function(self, name: str) -> str:
        self.lines = [f"def {name}():", "    t = the(gtop)"]
        self.small, self.ptrs = [], []
        self.block(1, self.r.randint(3, 9))
        return "\n".join(self.lines)


def module(seed: int, programs: int, operations: int) -> str:
    """Source of `programs` programs of `operations` functions each: ``op_P_I``."""
    g = Gen(seed)
    return HEAD + "\n\n" + "\n\n".join(g.function(f"op_{p}_{i}") for p in range(programs) for i in range(operations)) + "\n"
