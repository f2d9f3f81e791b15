"""Operations of the automaton, shared by the compiler and the interpreter.

One instruction is a row of nine 64-bit integers: operation, a, b, c, d, e, f, g, next.
"""

from __future__ import annotations

from enum import IntEnum


class Op(IntEnum):
    """What an instruction does; `a <- b` means that slot a is assigned."""

    NOP = 0
    MOV = 1
    ADD = 2
    SUB = 3
    MUL = 4
    DIV = 5
    MOD = 6
    AND = 7
    OR = 8
    XOR = 9
    SHL = 10
    SHR = 11
    NOT = 12
    INV = 13
    NEG = 14
    EQ = 15
    NE = 16
    LT = 17
    LE = 18
    BR = 19
    BREQ = 20
    BRNE = 21
    BRLT = 22
    BRLE = 23
    MIN = 24
    MAX = 25
    WRAP = 26
    LOAD = 30
    STORE = 31
    CHKPTR = 32
    CHKIDX = 33
    CALL = 34
    RET = 35
    HALT = 36
    CHECK = 37
    WAIT = 38
    RELAX = 39
    CHOOSE = 40
    COUNT = 41
    EMIT = 42
    ALLOC = 43
    FREE = 44
    LOCKDEP_ACQUIRE = 45
    LOCKDEP_RELEASE = 46
    FENCE = 47
    SEQPOINT = 48
    STOPPATH = 49
    FLUSH = 50


class Ordering(IntEnum):
    """Column g of LOAD and STORE: what a memory model other than sc does with the access.

    DIRECT: no shared memory (the checker's notes, a scenario's data).  ATOMIC: in `with atomic():`, without an order of
    its own.  RMW: relaxed.
    """

    DIRECT = 0
    PLAIN = 1
    ACQUIRE = 2
    RELEASE = 3
    RMW = 4
    RMW_FULL = 5
    ATOMIC = 6
    RMW_ACQUIRE = 7
    RMW_RELEASE = 8


ROW = 9
BRANCHES = frozenset({Op.BR, Op.BREQ, Op.BRNE, Op.BRLT, Op.BRLE})
# kinds of violation that an executor reports by itself, in the order of the interpreter's header
REPORTED = (
    "range-overflow",
    "uninitialised-read",
    "arithmetic-overflow",
    "division-by-zero",
    "bad-shift",
    "null-dereference",
    "use-after-free",
    "index-out-of-range",
    "pool-exhausted",
    "double-free",
    "endless-step",
    "deadlock",
    "store-buffer-full",
    "too-many-choices",
)
