"""Registers to Promela variables.

In the automaton a register is bits of its process's region, and registers that are never alive together share
bits.  Here a variable holds registers that have a bit in common, so that no two of them are alive at once; where a step
ends, or a function is called, the variables of dead registers become 0, as the automaton's masks do with bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from seqfault.compile.automaton import Automaton
from seqfault.compile.ops import BRANCHES, Op
from seqfault.report.promela.expr import ExportError

MASK64 = (1 << 64) - 1
Row = list[int]
# columns that are slots which are read, by operation; column 1 is assigned where ASSIGNS says so
READS: dict[Op, tuple[int, ...]] = {
    Op.BR: (1,),
    Op.CHKPTR: (1,),
    Op.CHKIDX: (1,),
    Op.WAIT: (1,),
    Op.EMIT: (1,),
    Op.FREE: (1,),
    Op.RET: (1,),
    Op.MOV: (2,),
    Op.NOT: (2,),
    Op.INV: (2,),
    Op.NEG: (2,),
    Op.WRAP: (2,),
}
for _op in (Op.BREQ, Op.BRNE, Op.BRLT, Op.BRLE):
    READS[_op] = (1, 2)
ARITHMETIC = frozenset(op for op in Op if Op.MOV <= op <= Op.LE or op in (Op.MIN, Op.MAX, Op.WRAP))
ASSIGNS = ARITHMETIC | {Op.LOAD, Op.ALLOC, Op.CHOOSE}


def reads(row: Row) -> list[int]:
    """Slots that an instruction reads."""
    o = Op(row[0])
    if o in (Op.LOAD, Op.STORE):
        out = [row[1]] if o is Op.STORE else []
        if row[4]:
            out.append(row[3])
            if row[6]:
                out.append(row[5])
        return out
    if o is Op.CHECK:
        return [row[1], *([row[3]] if row[3] >= 0 else [])]
    if o in READS:
        return [row[c] for c in READS[o]]
    return [row[2], row[3]] if o in ARITHMETIC else []


def successors(row: Row) -> list[int]:
    """Where control goes inside the function (over a call, not into it)."""
    o = Op(row[0])
    if o in (Op.HALT, Op.RET, Op.RELAX, Op.STOPPATH):
        return []
    if o in BRANCHES:
        return [row[8], row[2 if o is Op.BR else 3]]
    return [row[8]]


class Frames:
    """Functions of an automaton, what is live in them, and which variable holds which register.

    `var_of`: slot -> variable, for registers that take bits; `functions`: entry -> its instructions.
    """

    def __init__(self, a: Automaton, entries: Iterable[int], taken: Iterable[str] = ()):
        self.a = a
        self.taken = {"held", "to", *taken}
        self.code: list[Row] = a.code.tolist()
        self.tab: list[Row] = a.tab.tolist()
        self.return_of: dict[int, int] = {}  # a function's entry -> slot of its return number
        self.functions: dict[int, list[int]] = {}
        self.function_of: dict[int, int] = {}
        self.callers: dict[int, list[tuple[int, int]]] = {}
        self.order: list[int] = []
        for e in entries:
            self.find(e)
        self.live: dict[int, set[int]] = {}
        self.across: dict[int, set[int]] = {}
        self.params: dict[int, set[int]] = {}
        for e in self.order:  # what is called comes before its callers
            self.liveness(e)
        self.var_of = self.share()

    def find(self, entry: int) -> None:
        if entry in self.functions:
            return
        body: list[int] = []
        work = [entry]
        seen = {entry}
        self.functions[entry] = body
        while work:
            pc = work.pop()
            body.append(pc)
            row = self.code[pc]
            self.function_of.setdefault(pc, entry)
            if row[0] == Op.CALL:
                self.return_of[row[3]] = row[1]
                self.find(row[3])
                self.callers.setdefault(row[3], []).append((entry, pc))
            for s in successors(row):
                if s not in seen:
                    seen.add(s)
                    work.append(s)
        self.order.append(entry)

    def width(self, slot: int) -> int:
        return (self.tab[slot][2] & MASK64).bit_length()

    def is_register(self, slot: int) -> bool:
        """A part of the state: relative to the process, and with bits."""
        return bool(self.tab[slot][5]) and self.width(slot) > 0

    def liveness(self, entry: int) -> None:
        """Registers live before each instruction of a function; a callee's parameters are used by the call."""
        body = self.functions[entry]
        use: dict[int, set[int]] = {}
        kill: dict[int, int] = {}
        before: dict[int, list[int]] = {pc: [] for pc in body}
        for pc in body:
            row = self.code[pc]
            u = {s for s in reads(row) if self.is_register(s)}
            if row[0] == Op.CALL:
                u |= self.params[row[3]]
            use[pc] = u
            if Op(row[0]) in ASSIGNS:
                kill[pc] = row[1]
            for s in successors(row):
                before[s].append(pc)
        inn: dict[int, set[int]] = {pc: set() for pc in body}
        work = list(body)
        while work:
            pc = work.pop()
            out: set[int] = set()
            for s in successors(self.code[pc]):
                out |= inn[s]
            if pc in kill:
                out.discard(kill[pc])
            new = use[pc] | out
            if new != inn[pc]:
                inn[pc] = new
                work += before[pc]
        self.live.update({pc: s for pc, s in inn.items() if self.function_of[pc] == entry})
        for pc in body:
            if self.code[pc][0] == Op.CALL:
                self.across[pc] = inn[self.code[pc][8]]
        self.params[entry] = inn[entry] - {self.return_of.get(entry, -1)}

    @cached_property
    def registers(self) -> list[int]:
        """Slots of all registers that some instruction of these functions names, but the place and the held locks."""
        out: set[int] = set(self.return_of.values())
        for body in self.functions.values():
            for pc in body:
                row = self.code[pc]
                out |= set(reads(row)) | ({row[1]} if Op(row[0]) in ASSIGNS else set())
        return sorted(s for s in out if s >= self.a.ncell and self.is_register(s))

    def bits(self, slot: int) -> tuple[int, int]:
        word, shift = self.tab[slot][0], self.tab[slot][1]
        return 64 * word + shift, 64 * word + shift + self.width(slot)

    def share(self) -> dict[int, str]:
        """Variables: the fewest bits such that every register contains one of them (by right ends, greedily)."""
        out: dict[int, str] = {}
        taken = set(self.taken)
        at, name = -1, ""
        for s in sorted(self.registers, key=lambda s: (self.bits(s)[1], self.bits(s)[0])):
            first, end = self.bits(s)
            if first > at:
                at = end - 1
                name = self.a_name(s, taken)
                taken.add(name)
            out[s] = name
        return out

    @cached_property
    def widths(self) -> dict[str, int]:
        """Bits of each variable."""
        out: dict[str, int] = {}
        for s, v in self.var_of.items():
            out[v] = max(out.get(v, 0), self.width(s))
        return out

    def a_name(self, slot: int, taken: set[str]) -> str:
        known = self.a.extra.get("registers", {})
        assert isinstance(known, dict)
        mine = {self.outermost(e) for e in self.functions}
        names = [n for (s, f), n in known.items() if s == slot and f in mine]
        base = identifier(min(names, key=len) if names else "r")
        n, out = 1, base
        while out in taken:
            n += 1
            out = f"{base}_{n}"
        return out

    def outermost(self, pc: int) -> str:
        w = self.a.where[pc]
        return w.chain[0][0] if w.chain else w.function

    @cached_property
    def above(self) -> dict[int, set[str]]:
        """Variables that callers of a function may need after it returns."""
        out: dict[int, set[str]] = {e: set() for e in self.functions}
        for e in reversed(self.order):  # callers first
            for caller, pc in self.callers.get(e, ()):
                out[e] |= out[caller] | {self.var_of[s] for s in self.across[pc] if s in self.var_of}
        return out

    def kept(self, pc: int) -> set[str]:
        """Variables that may be other than 0 where a process stands at `pc`."""
        if pc == self.a.halt_pc:
            return set()
        e = self.function_of[pc]
        return {self.var_of[s] for s in self.live[pc] if s in self.var_of} | self.above[e]

    def kept_by_call(self, pc: int) -> set[str]:
        """The same, after the call at `pc` has been made."""
        e = self.function_of[pc]
        callee = self.code[pc][3]
        mine = self.across[pc] | self.params[callee] | {self.code[pc][1]}
        return {self.var_of[s] for s in mine if s in self.var_of} | self.above[e]

    def check_full(self) -> None:
        """Raise `ExportError` unless each variable holds one register: nothing is zeroed in mode full."""
        owner: dict[str, int] = {}
        for s, v in self.var_of.items():
            if owner.setdefault(v, s) != s:
                raise ExportError(
                    f"{self.a.name}: in mode full, registers of functions that share their place cannot be told apart; "
                    "export it in mode merged"
                )


WORDS = """
active always assert atomic bit bool break byte c_code c_decl c_expr c_state c_track chan do d_step else empty
enabled end eval eventually fi for full get_priority goto hidden if implies in init inline int len local ltl
mtype nempty never next nfull notrace od of pc_value pid printf printm priority proctype provided release run
select set_priority short show skip strong timeout trace true false typedef unless unsigned until weak xr xs
STDIN np_ now this auto case char const continue default double enum extern float long register return signed
sizeof static struct switch union void volatile while state
"""
RESERVED = frozenset(WORDS.split())  # of Promela and of C


def identifier(text: str) -> str:
    """A name that Promela and C accept."""
    out = "".join(c if c.isalnum() and c.isascii() else "_" for c in text).strip("_") or "r"
    if out[0].isdigit():
        out = f"r{out}"
    return f"{out}_" if out in RESERVED or out.startswith("end") else out
