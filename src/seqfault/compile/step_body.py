"""Tier 1: the LLVM text of one function of an automaton.

State words are memory behind ``%mem`` and, a process's own, ``%reg``; words that are no part of the state (results of
calls, a scenario's data) behind ``%ext``; what a step leaves behind ``%x``.  The function returns where to go on, or
how the step ended: that plus (1 + OK, 1 + DISABLED, 1 + ENDS) times 2^32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from seqfault.compile.automaton import Automaton
from seqfault.compile.ir import interval
from seqfault.compile.ops import REPORTED, Op
from seqfault.compile.step_own import OwnAccess, note_access, pass_over
from seqfault.compile.work import MAX_CHOICES, X_DEPTH, X_DIGITS, X_FUEL, X_RADIX, X_SEQ, X_USED, X_WAITED
from seqfault.kernel.types import INT_MAX, INT_MIN

if TYPE_CHECKING:
    from seqfault.compile.step_code import Graph, StepClass

M64 = (1 << 64) - 1
Range = tuple[int, int]
STOP, BLOCKED, DEAD = 1 << 32, 2 << 32, 3 << 32
COMPARE = {Op.EQ: "eq", Op.NE: "ne", Op.LT: "slt", Op.LE: "sle"}
FUSED = {Op.BREQ: "eq", Op.BRNE: "ne", Op.BRLT: "slt", Op.BRLE: "sle"}
PLAIN = {Op.AND: "and", Op.OR: "or", Op.XOR: "xor"}
CHECKED = {Op.ADD: "sadd", Op.SUB: "ssub", Op.MUL: "smul"}
SILENT = frozenset({Op.NOP, Op.FENCE})


def signed_range(x: int) -> int:
    """A 64-bit pattern as LLVM's decimal."""
    x &= M64
    return x - (1 << 64) if x >> 63 else x


class Known:
    """Facts about slots and cells that all functions share."""

    def __init__(self, a: Automaton):
        self.a = a
        self.kind = {k: i for i, k in enumerate(a.kinds)}
        for k in REPORTED:
            assert k in self.kind
        self.constant = dict(a.const_words)
        self.rom = {int(a.tab[c, 0]) for c in a.rom_cells}
        # what outlives a function of the text: results, cpu, process, a scenario's data, an observer's frame
        self.lasting = set(self.rom)
        first = int(a.tab[a.cpu_slot, 0])
        self.lasting |= set(range(first, a.observer_base + a.observer_words))
        self.rows = [tuple(int(x) for x in r) for r in a.tab]
        self.chooses = bool((a.code[:, 0] == Op.CHOOSE).any())

    def bounds(self, s: int) -> Range:
        word, _shift, _mask, lo, span, rel = self.rows[s]
        if not rel and word in self.constant and word >= self.a.nw:
            v = signed_range(self.constant[word])
            return v, v
        if span < 0 or lo + span > INT_MAX:
            return INT_MIN, INT_MAX
        return lo, lo + span


class Body:
    """One function of one class of processes."""

    def __init__(
        self,
        a: Automaton,
        graph: Graph,
        c: StepClass,
        name: str,
        pcs: Sequence[int],
        entries: Sequence[int],
        stops: Any,
        use_masks: bool,
        known: Known,
        track: bool = False,
        own: Mapping[int, OwnAccess] | None = None,
    ):
        self.track = track and not c.observer
        self.own = None if c.observer else own
        self.a, self.g, self.c, self.name, self.k = a, graph, c, name, known
        self.pcs, self.entries, self.stops, self.use_masks = pcs, entries, stops, use_masks
        self.lines: list[str] = []
        self.n = 0
        self.values: dict[int, tuple[str, Range]] = {}  # slot -> value known in this block
        self.words: dict[tuple[str, int], str] = {}
        self.locals: dict[int, str] = {}
        self.wanted: set[int] = set()

    # -- text
    def tmp(self) -> str:
        self.n += 1
        return f"%t{self.n}"

    def put(self, text: str) -> str:
        t = self.tmp()
        self.lines.append(f"  {t} = {text}\n")
        return t

    def do(self, text: str) -> None:
        self.lines.append(f"  {text}\n")

    def label(self, name: str) -> None:
        self.lines.append(f"{name}:\n")

    def fresh(self) -> str:
        self.n += 1
        return f"l{self.n}"

    def text(self) -> str:
        preds: dict[int, int] = dict.fromkeys(self.entries, 2)
        for pc in self.pcs:
            for m in self.g.next[pc]:
                preds[m] = preds.get(m, 0) + 1
        mine = self.mine = set(self.pcs)
        leads = [pc for pc in self.pcs if preds.get(pc, 0) != 1 or pc in self.g.back]
        leads += [m for pc in self.pcs if len(self.g.next[pc]) > 1 for m in self.g.next[pc] if m in mine]
        leads += [m for pc in self.pcs if self.stops[pc] for m in [pc]]
        self.leads = set(leads)
        for pc in sorted(self.leads):
            if preds.get(pc, 0):
                self.block(pc)
        for pc in sorted(self.wanted):
            self.label(f"s{pc}")
            self.values, self.words = {}, {}
            self.stop_at(pc)
        head = [
            f"define internal i64 @{self.name}(ptr noalias %mem, ptr noalias %reg, ptr noalias %ext, ptr noalias %x, "
            "i64 %start)" + (" alwaysinline" if self.c.base is not None else "") + " {\nentry:\n"
        ]
        head += [f"  {p} = alloca i64\n" for p in self.locals.values()]
        cases = " ".join(f"i64 {pc}, label %b{pc}" for pc in self.entries)
        head.append(f"  switch i64 %start, label %nowhere [{cases}]\nnowhere:\n  unreachable\n")
        return "".join([*head, *self.lines, "}\n"])

    # -- control
    def goto(self, pc: int) -> None:
        """End the block by going to `pc`, which may end the step."""
        if self.own is not None and pc in self.own:
            self.do(f"br label %{self.target(pc)}")
        elif pc == 0 or self.stops[pc]:
            self.stop_at(pc)
        else:
            self.do(f"br label %b{pc}")

    def target(self, pc: int) -> str:
        """A label to branch to."""
        if pc == 0 or self.stops[pc]:
            self.wanted.add(pc)
            return f"s{pc}"
        return f"b{pc}"

    def stop_at(self, pc: int) -> None:
        if self.own is not None and pc in self.own:
            pass_over(self, pc, self.own[pc])
        if not self.c.observer:
            self.set_slot(self.a.pc_slot, str(pc))
            if self.use_masks:
                self.mask(pc)
        self.do(f"ret i64 {STOP + pc}")

    def mask(self, pc: int) -> None:
        for w in range(self.c.words):
            m = int(self.a.masks[pc, w]) if w < self.a.masks.shape[1] else -1
            if m != -1:
                v = self.word("reg", w)
                self.store_word("reg", w, self.put(f"and i64 {v}, {m}"))

    def block(self, pc: int) -> None:
        self.label(f"b{pc}")
        self.values, self.words = {}, {}
        if pc in self.g.back and not self.stops[pc]:
            self.fuel(pc)
        while not self.node(pc):
            nxt = self.g.next[pc][0]
            if nxt == 0 or nxt in self.leads:
                self.goto(nxt)
                return
            pc = nxt

    def fuel(self, pc: int) -> None:
        p = self.put(f"getelementptr i64, ptr %x, i64 {X_FUEL}")
        v = self.put(f"sub i64 {self.put(f'load i64, ptr {p}')}, 1")
        self.do(f"store i64 {v}, ptr {p}")
        self.fail_if(self.put(f"icmp slt i64 {v}, 0"), "endless-step", pc)

    # -- reports
    def violate(self, kind: int, pc: int, pool: int = -1, index: str = "0") -> None:
        self.do(f"call void @violate(ptr %x, ptr %ext, i64 {kind}, i64 {pc}, i64 {pool}, i64 {index})")

    def fail_if(self, cond: str, kind: str, pc: int, pool: int = -1, index: str = "0") -> None:
        """Report and end without a successor if `cond` (an i1)."""
        bad, on = self.fresh(), self.fresh()
        self.do(f"br i1 {cond}, label %{bad}, label %{on}")
        self.label(bad)
        self.violate(self.k.kind[kind], pc, pool, index)
        self.do(f"ret i64 {DEAD}")
        self.label(on)

    def report_if(self, cond: str, kind: int, pc: int, pool: int = -1, index: str = "0") -> tuple[str, str]:
        """Report if `cond` and go on; returns the labels of the reporting and the joined block."""
        bad, on = self.fresh(), self.fresh()
        self.do(f"br i1 {cond}, label %{bad}, label %{on}")
        self.label(bad)
        self.violate(kind, pc, pool, index)
        self.do(f"br label %{on}")
        self.label(on)
        return bad, on

    def defined(self, raw: str, cond: str, pc: int, cell: str) -> str:
        """A raw value that was loaded; where `cond` says that it is none, that is reported, and 0 taken for it."""
        before = self.fresh()
        self.do(f"br label %{before}")
        self.label(before)
        cold, _ = self.report_if(cond, self.k.kind["uninitialised-read"], pc, -1, cell)
        return self.put(f"phi i64 [{raw}, %{before}], [0, %{cold}]")

    # -- words and slots
    def word(self, base: str, w: int) -> str:
        key = (base, w)
        if key not in self.words:
            p = self.put(f"getelementptr i64, ptr %{base}, i64 {w}")
            self.words[key] = self.put(f"load i64, ptr {p}")
        return self.words[key]

    def store_word(self, base: str, w: int, v: str) -> None:
        p = self.put(f"getelementptr i64, ptr %{base}, i64 {w}")
        self.do(f"store i64 {v}, ptr {p}")
        self.words[(base, w)] = v

    def forget(self, base: str) -> None:
        """Memory behind `base` may have changed."""
        self.words = {k: v for k, v in self.words.items() if k[0] != base}

    def local(self, w: int) -> str:
        if w not in self.locals:
            self.locals[w] = f"%local{w}"
        return self.locals[w]

    def slot(self, s: int) -> tuple[str, Range]:
        """Value of a slot and its range."""
        if s in self.values:
            return self.values[s]
        word, shift, mask, lo, _span, rel = self.k.rows[s]
        a = self.a
        rng = self.k.bounds(s)
        if rel or word < a.nw:
            v = self.bits(self.word("reg" if rel else "mem", word), shift, mask, lo)
        elif word in self.k.constant:
            return str(signed_range(self.k.constant[word] + lo)), (rng[0] + lo, rng[0] + lo)
        elif s == a.cpu_slot and self.c.cpu is not None:
            return str(self.c.cpu), (self.c.cpu, self.c.cpu)
        elif s == a.process_slot and self.c.process is not None:
            return str(self.c.process), (self.c.process, self.c.process)
        elif word in self.k.lasting:
            v = self.bits(self.word("ext", word - a.nw), shift, mask, lo)
        else:
            v = self.put(f"load i64, ptr {self.local(word)}")
        self.values[s] = v, rng
        return v, rng

    def bits(self, w: str, shift: int, mask: int, lo: int) -> str:
        v = self.put(f"lshr i64 {w}, {shift}") if shift else w
        if mask != -1:
            v = self.put(f"and i64 {v}, {mask}")
        return self.put(f"add i64 {v}, {lo}") if lo else v

    def get(self, s: int) -> str:
        return self.slot(s)[0]

    def set_slot(self, s: int, v: str, rng: Range | None = None) -> None:
        """Assign without a check of the range."""
        word, shift, mask, lo, _span, rel = self.k.rows[s]
        a = self.a
        if not rel and word >= a.nw and word not in self.k.lasting:
            self.do(f"store i64 {v}, ptr {self.local(word)}")
        elif not rel and word >= a.nw:
            u = self.put(f"sub i64 {v}, {lo}") if lo else v
            self.store_word("ext", word - a.nw, u)
            self.values = {k: x for k, x in self.values.items() if self.k.rows[k][0] != word or self.k.rows[k][5]}
        else:
            base = "reg" if rel else "mem"
            self.insert(base, word, shift, mask, v, lo)
            bits = (mask & M64) << shift
            self.values = {
                k: x
                for k, x in self.values.items()
                if not (
                    self.k.rows[k][5] == rel
                    and self.k.rows[k][0] == word
                    and (self.k.rows[k][2] & M64) << self.k.rows[k][1] & bits
                )
            }
        self.values[s] = v, rng or self.k.bounds(s)

    def insert(self, base: str, word: int, shift: int, mask: int, v: str, lo: int) -> None:
        if v.lstrip("-").isdigit():
            u: str = str(signed_range(int(v) - lo))
        else:
            u = self.put(f"sub i64 {v}, {lo}") if lo else v
        self.insert_raw(base, word, shift, mask, u)

    def insert_raw(self, base: str, word: int, shift: int, mask: int, u: str) -> None:
        if mask == -1 and shift == 0:
            return self.store_word(base, word, u)
        old = self.word(base, word)
        kept = self.put(f"and i64 {old}, {signed_range(~((mask & M64) << shift))}")
        if u.lstrip("-").isdigit():
            bits = signed_range((int(u) & mask & M64) << shift)
            new = self.put(f"or i64 {kept}, {bits}") if bits else kept
        else:
            m = self.put(f"and i64 {u}, {mask}")
            sh = self.put(f"shl i64 {m}, {shift}") if shift else m
            new = self.put(f"or i64 {kept}, {sh}")
        self.store_word(base, word, new)

    def assign(self, s: int, v: str, rng: Range, pc: int) -> None:
        """Assign a result, and end the step if it does not fit."""
        lo, hi = self.k.bounds(s)
        if rng[0] < lo or rng[1] > hi:
            d = self.put(f"sub i64 {v}, {lo}") if lo else v
            self.fail_if(self.put(f"icmp ugt i64 {d}, {hi - lo}"), "range-overflow", pc)
            rng = max(lo, rng[0]), min(hi, rng[1])
        self.set_slot(s, v, rng)

    # -- instructions
    def node(self, pc: int) -> bool:
        """The text of an instruction; True if it ended the block."""
        row = [int(x) for x in self.a.code[pc]]
        op = Op(row[0])
        if op in SILENT:
            return False
        method = getattr(self, "op_" + op.name.lower(), None)
        if method is not None:
            return bool(method(pc, row))
        if op in FUSED:
            x, y = self.get(row[1]), self.get(row[2])
            c = self.put(f"icmp {FUSED[op]} i64 {x}, {y}")
            self.do(f"br i1 {c}, label %{self.target(row[8])}, label %{self.target(row[3])}")
            return True
        self.arithmetic(op, pc, row)
        return False

    def arithmetic(self, op: Op, pc: int, row: list[int]) -> None:
        x, rx = self.slot(row[2])
        y, ry = "0", (0, 0)
        if (op <= Op.SHR or op in (Op.EQ, Op.NE, Op.LT, Op.LE, Op.MIN, Op.MAX)) and op is not Op.MOV:
            y, ry = self.slot(row[3])
        wrap = row[4] != 0
        rng = interval(op, rx, ry)
        if op is Op.MOV:
            v, rng = x, rx
        elif op in CHECKED:
            exact = {Op.ADD: (rx[0] + ry[0], rx[1] + ry[1]), Op.SUB: (rx[0] - ry[1], rx[1] - ry[0])}.get(op)
            if op is Op.MUL:
                ends = [p * q for p in rx for q in ry]
                exact = min(ends), max(ends)
            assert exact is not None
            if wrap or (exact[0] >= INT_MIN and exact[1] <= INT_MAX):
                v = self.put(f"{op.name.lower()} i64 {x}, {y}")
                rng = exact if exact[0] >= INT_MIN and exact[1] <= INT_MAX else (INT_MIN, INT_MAX)
            else:
                both = self.put(f"call {{i64, i1}} @llvm.{CHECKED[op]}.with.overflow.i64(i64 {x}, i64 {y})")
                v = self.put(f"extractvalue {{i64, i1}} {both}, 0")
                self.fail_if(self.put(f"extractvalue {{i64, i1}} {both}, 1"), "arithmetic-overflow", pc)
                rng = max(exact[0], INT_MIN), min(exact[1], INT_MAX)
        elif op in (Op.DIV, Op.MOD):
            v = self.divide(op, x, y, ry, pc)
            if not (ry[0] > 0):
                rng = INT_MIN, INT_MAX
        elif op in PLAIN:
            v = self.put(f"{PLAIN[op]} i64 {x}, {y}")
        elif op is Op.SHL:
            v = self.shift_left(x, y, ry, wrap, pc)
            if not (rx[0] >= 0 and ry[0] >= 0 and ry[1] <= 62 and rx[1] << ry[1] <= INT_MAX):
                rng = INT_MIN, INT_MAX
        elif op is Op.SHR:
            if ry[0] < 0:
                self.fail_if(self.put(f"icmp slt i64 {y}, 0"), "bad-shift", pc)
            n = y if ry[1] <= 63 else self.put(f"call i64 @llvm.smin.i64(i64 {y}, i64 63)")
            v = self.put(f"ashr i64 {x}, {n}")
            if not (ry[0] >= 0 and ry[1] <= 63):
                rng = min(rx[0], -1) if rx[0] < 0 else 0, max(rx[1], 0)
        elif op is Op.NOT:
            v = self.truth(f"icmp eq i64 {x}, 0")
        elif op is Op.INV:
            v = self.put(f"xor i64 {x}, -1")
        elif op is Op.NEG:
            if rx[0] == INT_MIN:
                self.fail_if(self.put(f"icmp eq i64 {x}, {INT_MIN}"), "arithmetic-overflow", pc)
                rng = -rx[1], INT_MAX
            v = self.put(f"sub i64 0, {x}")
        elif op in COMPARE:
            v = self.truth(f"icmp {COMPARE[op]} i64 {x}, {y}")
        elif op in (Op.MIN, Op.MAX):
            v = self.put(f"call i64 @llvm.s{op.name.lower()}.i64(i64 {x}, i64 {y})")
        elif op is Op.WRAP:
            bits, sign = row[3], row[4] != 0
            if bits >= 64:
                v, rng = x, rx
            elif sign:
                up = self.put(f"shl i64 {x}, {64 - bits}")
                v = self.put(f"ashr i64 {up}, {64 - bits}")
                rng = -(1 << bits - 1), (1 << bits - 1) - 1
            else:
                v = self.put(f"and i64 {x}, {(1 << bits) - 1}")
                rng = 0, (1 << bits) - 1
        else:
            raise NotImplementedError(op.name)
        self.assign(row[1], v, rng, pc)

    def truth(self, cond: str) -> str:
        return self.put(f"zext i1 {self.put(cond)} to i64")

    def divide(self, op: Op, x: str, y: str, ry: Range, pc: int) -> str:
        """Rounds down, as Python does."""
        if ry[0] <= 0 <= ry[1]:
            self.fail_if(self.put(f"icmp eq i64 {y}, 0"), "division-by-zero", pc)
        minus = ry[0] <= -1 <= ry[1]
        if minus:
            by = self.put(f"icmp eq i64 {y}, -1")
            if op is Op.DIV:
                low = self.put(f"icmp eq i64 {x}, {INT_MIN}")
                self.fail_if(self.put(f"and i1 {by}, {low}"), "arithmetic-overflow", pc)
            safe = self.put(f"select i1 {by}, i64 1, i64 {y}")
        else:
            safe = y
        q = self.put(f"sdiv i64 {x}, {safe}")
        r = self.put(f"sub i64 {x}, {self.put(f'mul i64 {q}, {safe}')}")
        nz = self.put(f"icmp ne i64 {r}, 0")
        opposite = self.put(f"icmp slt i64 {self.put(f'xor i64 {r}, {safe}')}, 0")
        fix = self.put(f"and i1 {nz}, {opposite}")
        if op is Op.DIV:
            v = self.put(f"sub i64 {q}, {self.put(f'zext i1 {fix} to i64')}")
            other = self.put(f"sub i64 0, {x}") if minus else ""
        else:
            v = self.put(f"add i64 {r}, {self.put(f'select i1 {fix}, i64 {safe}, i64 0')}")
            other = "0"
        return self.put(f"select i1 {by}, i64 {other}, i64 {v}") if minus else v

    def shift_left(self, x: str, y: str, ry: Range, wrap: bool, pc: int) -> str:
        if ry[0] < 0:
            self.fail_if(self.put(f"icmp slt i64 {y}, 0"), "bad-shift", pc)
        far = self.put(f"icmp sgt i64 {y}, 63") if ry[1] > 63 else ""
        n = self.put(f"and i64 {y}, 63") if far else y
        r = self.put(f"shl i64 {x}, {n}")
        if not wrap:
            back = self.put(f"ashr i64 {r}, {n}")
            bad = self.put(f"icmp ne i64 {back}, {x}")
            if far:
                some = self.put(f"icmp ne i64 {x}, 0")
                bad = self.put(f"select i1 {far}, i1 {some}, i1 {bad}")
            self.fail_if(bad, "arithmetic-overflow", pc)
        return self.put(f"select i1 {far}, i64 0, i64 {r}") if far else r

    def op_br(self, pc: int, row: list[int]) -> bool:
        c = self.put(f"icmp ne i64 {self.get(row[1])}, 0")
        self.do(f"br i1 {c}, label %{self.target(row[8])}, label %{self.target(row[2])}")
        return True

    def op_call(self, pc: int, row: list[int]) -> bool:
        self.set_slot(row[1], str(row[2]))
        if self.use_masks:
            self.mask(pc)
        entry = row[3]
        if self.stops[entry]:
            self.stop_at(entry)
        else:
            self.do(f"ret i64 {entry}")
        return True

    def op_ret(self, pc: int, row: list[int]) -> bool:
        points = self.g.return_points(pc)
        v = self.get(row[1])
        labels = [self.fresh() for _ in points]
        cases = " ".join(f"i64 {i}, label %{x}" for i, x in enumerate(labels))
        self.do(f"switch i64 {v}, label %nowhere [{cases}]")
        words, values = dict(self.words), dict(self.values)
        for point, x in zip(points, labels, strict=True):
            self.label(x)
            self.words, self.values = dict(words), dict(values)
            if point == 0 or self.stops[point]:
                self.stop_at(point)
            else:
                self.do(f"ret i64 {point}")
        return True

    def op_wait(self, pc: int, row: list[int]) -> bool:
        c = self.put(f"icmp eq i64 {self.get(row[1])}, 0")
        no, on = self.fresh(), self.fresh()
        self.do(f"br i1 {c}, label %{no}, label %{on}")
        self.label(no)
        self.do(f"ret i64 {BLOCKED}")
        self.label(on)
        if self.track:
            self.do(f"store i64 1, ptr {self.put(f'getelementptr i64, ptr %x, i64 {X_WAITED}')}")
        return False

    def op_relax(self, pc: int, row: list[int]) -> bool:
        self.do(f"ret i64 {BLOCKED}")
        return True

    def op_stoppath(self, pc: int, row: list[int]) -> bool:
        self.do(f"ret i64 {DEAD}")
        return True

    def op_check(self, pc: int, row: list[int]) -> bool:
        c = self.put(f"icmp eq i64 {self.get(row[1])}, 0")
        bad, on = self.fresh(), self.fresh()
        index = "0"
        if row[3] >= 0:
            index = self.put(f"sub i64 {self.get(row[3])}, 1")
        self.do(f"br i1 {c}, label %{bad}, label %{on}")
        self.label(bad)
        self.violate(row[2], pc, row[4], index)
        self.do(f"ret i64 {DEAD}" if row[5] else f"br label %{on}")
        self.label(on)
        return False

    def op_choose(self, pc: int, row: list[int]) -> bool:
        up = self.put(f"getelementptr i64, ptr %x, i64 {X_USED}")
        used = self.put(f"load i64, ptr {up}")
        self.fail_if(self.put(f"icmp sge i64 {used}, {MAX_CHOICES}"), "too-many-choices", pc)
        dp = self.put(f"getelementptr i64, ptr %x, i64 {X_DEPTH}")
        fresh = self.put(f"icmp sge i64 {used}, {self.put(f'load i64, ptr {dp}')}")
        at = self.put(f"add i64 {used}, {X_DIGITS}")
        digit = self.put(f"getelementptr i64, ptr %x, i64 {at}")
        old = self.put(f"load i64, ptr {digit}")
        v = self.put(f"select i1 {fresh}, i64 0, i64 {old}")
        self.do(f"store i64 {v}, ptr {digit}")
        radix = self.put(f"getelementptr i64, ptr %x, i64 {self.put(f'add i64 {used}, {X_RADIX}')}")
        self.do(f"store i64 {row[2]}, ptr {radix}")
        self.do(f"store i64 {self.put(f'add i64 {used}, 1')}, ptr {up}")
        self.set_slot(row[1], v, (0, row[2] - 1))
        return False

    def op_count(self, pc: int, row: list[int]) -> bool:
        self.do(f"call void @count(ptr %x, i64 {row[1]})")
        return False

    def op_seqpoint(self, pc: int, row: list[int]) -> bool:
        self.do(f"store i64 {pc}, ptr {self.put(f'getelementptr i64, ptr %x, i64 {X_SEQ}')}")
        return False

    def touch(self, at: str, how: int) -> None:
        """Tell that a cell is touched, if somebody wants to know."""
        if self.own is not None:
            note_access(self, at, how)
        if not self.track:
            return
        if at.lstrip("-").isdigit():
            code = str(4 * int(at) + how)
        else:
            code = self.put(f"add i64 {self.put(f'shl i64 {at}, 2')}, {how}")
        self.do(f"call void @touch(ptr %x, i64 {code})")

    def op_emit(self, pc: int, row: list[int]) -> bool:
        self.do(f"call void @emit(ptr %x, i64 {self.get(row[1])})")
        return False

    def op_lockdep_acquire(self, pc: int, row: list[int]) -> bool:
        held = self.get(self.a.held_slot)
        if row[2] == 0:
            self.do(f"call void @order(ptr %x, i64 {held}, i64 {row[1]}, i64 {pc + 1})")
        self.set_slot(self.a.held_slot, self.put(f"or i64 {held}, {signed_range(1 << row[1])}"))
        return False

    def op_lockdep_release(self, pc: int, row: list[int]) -> bool:
        held = self.get(self.a.held_slot)
        gone = "0"
        for x in [x for x in row[1:5] if x >= 0][::-1]:
            bit = self.put(f"and i64 {held}, {signed_range(1 << x)}")
            has = self.put(f"icmp ne i64 {bit}, 0")
            gone = self.put(f"select i1 {has}, i64 {bit}, i64 {gone}")
        if gone != "0":
            self.set_slot(self.a.held_slot, self.put(f"xor i64 {held}, {gone}"))
        return False

    # -- memory: in step_memory.py
    def op_load(self, pc: int, row: list[int]) -> bool:
        from seqfault.compile.step_memory import load

        return load(self, pc, row)

    def op_store(self, pc: int, row: list[int]) -> bool:
        from seqfault.compile.step_memory import store

        return store(self, pc, row)

    def op_chkptr(self, pc: int, row: list[int]) -> bool:
        from seqfault.compile.step_memory import check_pointer

        return check_pointer(self, pc, row)

    def op_chkidx(self, pc: int, row: list[int]) -> bool:
        v, rng = self.slot(row[1])
        if rng[0] < 0 or rng[1] >= row[2]:
            self.fail_if(self.put(f"icmp uge i64 {v}, {row[2]}"), "index-out-of-range", pc)
        return False

    def op_alloc(self, pc: int, row: list[int]) -> bool:
        from seqfault.compile.step_memory import allocate

        return allocate(self, pc, row)

    def op_free(self, pc: int, row: list[int]) -> bool:
        from seqfault.compile.step_memory import free

        return free(self, pc, row)


