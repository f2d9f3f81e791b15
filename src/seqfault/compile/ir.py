"""The intermediate form: a graph of small instructions, one node for each access to shared memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from seqfault.compile.ops import Op, Ordering
from seqfault.kernel.types import INT_MAX, INT_MIN


class CompileError(Exception):
    """Text outside Kernel Python: names file, line, what it is, and how to write it instead."""

    def __init__(self, file: str, line: int, what: str, remedy: str = ""):
        super().__init__(f"{file}:{line}: {what}" + (f"; {remedy}" if remedy else ""))
        self.file, self.line, self.what, self.remedy = file, line, what, remedy


@dataclass(eq=False)
class Reg:
    """A register of a function.  `lo..hi`: declared range, or None until it is inferred."""

    name: str
    lo: int | None = None
    hi: int | None = None
    named: bool = False
    type: Any = None
    slot: int = -1

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Const:
    value: int

    def __repr__(self) -> str:
        return str(self.value)


@dataclass(frozen=True)
class Special:
    """A value that the engine supplies: "cpu", "process", or result register "rv0".."rv3"."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


Operand = Reg | Const | Special


@dataclass(frozen=True)
class Where:
    """Source of an instruction: function, file, line, and through which inlined calls it came."""

    function: str
    file: str
    line: int
    chain: tuple[tuple[str, str, int], ...] = ()
    site: str = ""


RMW = {
    "rmw-relaxed": Ordering.RMW,
    "rmw-acquire": Ordering.RMW_ACQUIRE,
    "rmw-release": Ordering.RMW_RELEASE,
    "rmw-full": Ordering.RMW_FULL,
}


@dataclass(eq=False)
class Access:
    """What a LOAD or STORE touches.

    Address = `base` + sum of operand * stride over `terms`.  `pool`, `path`: the object's struct and the
    field, as written.  `order`: plain, once, acquire, release, rmw-… ; `atomic`: inside `with atomic():`.
    `offset`: where in an object it falls, from the first field; `spans`: (count, stride) of each index that is known
    only when it runs.
    """

    base: int
    terms: tuple[tuple[Operand, int], ...]
    pool: str
    path: str
    offset: int
    spans: tuple[tuple[int, int], ...]
    order: str = "plain"
    type: Any = None
    atomic: bool = False

    def ordering(self) -> Ordering:
        """What a memory model has to know of it."""
        if self.order.startswith("rmw"):
            return RMW[self.order]
        if self.order == "release":
            return Ordering.RELEASE
        if self.atomic:
            return Ordering.ATOMIC
        return Ordering.ACQUIRE if self.order == "acquire" else Ordering.PLAIN


@dataclass(eq=False)
class Node:
    """One instruction.  `uses`, `defs`: registers; `next`, `alt`: successors."""

    op: Op
    args: list[Any]
    where: Where
    next: Node | None = None
    alt: Node | None = None
    access: Access | None = None
    callee: Function | None = None
    moves: list[Node] = field(default_factory=list)  # of a CALL: the nodes that pass its arguments
    stop: bool = False  # a step of the merged program begins here
    full_stop: bool = False  # a step of the unreduced program begins here
    seq_stop: bool = False
    pc: int = -1

    def dest(self) -> Operand | None:
        return self.args[0] if self.op in WRITES_A else None

    def uses(self) -> list[Operand]:
        u = [x for x in self.args[1 if self.op in WRITES_A else 0 :] if isinstance(x, Reg | Const | Special)]
        if self.access is not None:
            u += [t for t, _ in self.access.terms]
        return u


WRITES_A = frozenset(
    {
        Op.MOV,
        Op.ADD,
        Op.SUB,
        Op.MUL,
        Op.DIV,
        Op.MOD,
        Op.AND,
        Op.OR,
        Op.XOR,
        Op.SHL,
        Op.SHR,
        Op.NOT,
        Op.INV,
        Op.NEG,
        Op.EQ,
        Op.NE,
        Op.LT,
        Op.LE,
        Op.MIN,
        Op.MAX,
        Op.WRAP,
        Op.LOAD,
        Op.CHOOSE,
        Op.ALLOC,
    }
)
ENDS = frozenset({Op.RET, Op.HALT, Op.RELAX, Op.STOPPATH})


@dataclass(eq=False)
class Function:
    """A compiled function that is called (not inlined)."""

    name: str
    entry: Node | None = None
    params: list[Reg] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    regs: list[Reg] = field(default_factory=list)
    calls: list[Node] = field(default_factory=list)
    ret_slot: Reg | None = None
    nresults: int = 0
    is_entry: bool = False
    offset: int = 0


def interval(op: Op, a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    """Range of the result of `op` on operands in ranges `a` and `b`, clipped to 64 bits."""
    full = (INT_MIN, INT_MAX)
    if op in (Op.EQ, Op.NE, Op.LT, Op.LE, Op.NOT):
        return 0, 1
    fns: dict[Op, Callable[[int, int], int]] = {
        Op.ADD: lambda x, y: x + y,
        Op.SUB: lambda x, y: x - y,
        Op.MUL: lambda x, y: x * y,
        Op.MIN: min,
        Op.MAX: max,
    }
    if op in fns:
        v = [fns[op](x, y) for x in a for y in b]
    elif op is Op.NEG:
        v = [-a[0], -a[1]]
    elif op is Op.INV:
        v = [~a[0], ~a[1]]
    elif op is Op.MOV:
        v = list(a)
    elif op is Op.AND and (a[0] >= 0 or b[0] >= 0):
        v = [0, min(x[1] for x in (a, b) if x[0] >= 0)]
    elif op in (Op.OR, Op.XOR) and a[0] >= 0 and b[0] >= 0:
        v = [0, (1 << max(a[1].bit_length(), b[1].bit_length())) - 1]
    elif op is Op.SHL and a[0] >= 0 and b[0] >= 0 and b[1] <= 62:
        v = [a[0] << b[0], a[1] << b[1]]
    elif op is Op.SHR and 0 <= b[0] <= b[1] <= 63:
        v = [a[0] >> b[0], a[0] >> b[1], a[1] >> b[0], a[1] >> b[1]]
    elif op is Op.DIV and b[0] > 0:
        v = [x // y for x in a for y in b]
    elif op is Op.MOD and b[0] > 0:
        v = [0, b[1] - 1]
    else:
        return full
    lo, hi = min(v), max(v)
    return (lo, hi) if lo >= INT_MIN and hi <= INT_MAX else full
