"""The kernel's words and what they are as nodes.

Source: tools/memory-model/linux-kernel.def, Linux 6.1; `atomic_add_unless` is herd7's own. Beyond that file, in the
same pattern: `atomic_and/or/xor/andnot` (its definition in Linux 6.10), `atomic_long_*` and `atomic64_*`,
`atomic_inc_not_zero`, `smp_mb__after_srcu_read_unlock` (linux-kernel.def of 6.4), and
`smp_acquire__after_ctrl_dep`, which include/asm-generic/barrier.h makes `smp_rmb()`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from seqfault.litmus.tree import (
    Binary,
    Const,
    Eval,
    Expr,
    Fence,
    IsLocked,
    Load,
    Lock,
    Rmw,
    SrcuLock,
    SrcuSync,
    SrcuUnlock,
    Stmt,
    Store,
    TryLock,
    Unlock,
)

FENCES = {
    "smp_mb": "mb",
    "smp_rmb": "rmb",
    "smp_wmb": "wmb",
    "smp_mb__before_atomic": "before-atomic",
    "smp_mb__after_atomic": "after-atomic",
    "smp_mb__after_spinlock": "after-spinlock",
    "smp_mb__after_unlock_lock": "after-unlock-lock",
    "smp_mb__after_srcu_read_unlock": "after-srcu-read-unlock",
    "smp_acquire__after_ctrl_dep": "rmb",
    "barrier": "barrier",
    "rcu_read_lock": "rcu-lock",
    "rcu_read_unlock": "rcu-unlock",
    "synchronize_rcu": "sync-rcu",
    "synchronize_rcu_expedited": "sync-rcu",
}
# the address of a word's first argument: `p` of `f(*p)`, or of `f(p)`
LVALUE, POINTER = "lvalue", "pointer"
LOADS = {
    "READ_ONCE": ("once", LVALUE),
    "rcu_dereference": ("once", LVALUE),
    "smp_load_acquire": ("acquire", POINTER),
    "atomic_read": ("once", POINTER),
    "atomic_read_acquire": ("acquire", POINTER),
}
STORES = {
    "WRITE_ONCE": ("once", LVALUE),
    "rcu_assign_pointer": ("release", LVALUE),
    "smp_store_mb": ("once", LVALUE),
    "smp_store_release": ("release", POINTER),
    "atomic_set": ("once", POINTER),
    "atomic_set_release": ("release", POINTER),
}
LOCKS: dict[str, Callable[[Expr, int], Stmt]] = {
    "spin_lock": Lock,
    "spin_unlock": Unlock,
    "synchronize_srcu": SrcuSync,
    "synchronize_srcu_expedited": SrcuSync,
}
LOCK_VALUES: dict[str, Callable[[Expr, int], Expr]] = {
    "spin_trylock": TryLock,
    "spin_is_locked": IsLocked,
    "srcu_read_lock": SrcuLock,
}
FAMILY = re.compile(r"atomic(?:64|_long)_")
ORDER = r"(?:_(relaxed|acquire|release))?"
ARITHMETIC = re.compile(rf"atomic_(fetch_)?(add|sub|inc|dec|and|or|xor|andnot)(_return)?{ORDER}")
EXCHANGE = re.compile(rf"(?:atomic_)?(xchg|cmpxchg){ORDER}")
TESTS = {
    "sub_and_test": ("-", "=="),
    "dec_and_test": ("-", "=="),
    "inc_and_test": ("+", "=="),
    "add_negative": ("+", "<"),
}
SYMBOL = {"add": "+", "inc": "+", "sub": "-", "dec": "-", "and": "&", "or": "|", "xor": "^", "andnot": "&~"}


class Unknown(Exception):
    """A word that the kernel's model does not have, with what to do about it."""


def plain_name(word: str) -> str:
    """`atomic_add` for `atomic_long_add`: one width is modelled."""
    return FAMILY.sub("atomic_", word)


def arguments(word: str) -> tuple[str, int]:
    """How a word takes its address (`LVALUE`, `POINTER` or none), and how many arguments it has.

    Raises:
        Unknown: it is not in the kernel's model.
    """
    w = plain_name(word)
    if w in FENCES:
        return "", 0
    if w in LOADS:
        return LOADS[w][1], 1
    if w in STORES:
        return STORES[w][1], 2
    if w in LOCKS or w in LOCK_VALUES:
        return POINTER, 1
    if w == "srcu_read_unlock":
        return POINTER, 2
    if m := EXCHANGE.fullmatch(w):
        return POINTER, 2 if m[1] == "xchg" else 3
    if w == "atomic_add_unless":
        return POINTER, 3
    if w in ("atomic_inc_not_zero", "atomic_dec_and_test", "atomic_inc_and_test"):
        return POINTER, 1
    if w in ("atomic_sub_and_test", "atomic_add_negative"):
        return "second", 2
    m = ARITHMETIC.fullmatch(w)
    if m and not (m[3] and (m[1] or m[2] in ("and", "or", "xor", "andnot"))) and (m[1] or m[3] or not m[4]):
        return (POINTER, 1) if m[2] in ("inc", "dec") else ("second", 2)
    raise Unknown(f"{word}() is not in the kernel's model (linux-kernel.def); docs/litmus.md lists what is")


def value_of(word: str, address: Expr, rest: list[Expr], line: int) -> Expr | None:
    """The expression that a call of `word` is, or None if it has no value."""
    w = plain_name(word)
    if w in LOADS:
        return Load(LOADS[w][0], address, line)
    if w in LOCK_VALUES:
        return LOCK_VALUES[w](address, line)
    if m := EXCHANGE.fullmatch(w):
        order = {None: "mb", "relaxed": "once"}.get(m[2], m[2])
        if m[1] == "xchg":
            return Rmw("xchg", address, rest[0], str(order), "old", line)
        return Rmw("cmpxchg", address, rest[1], str(order), "old", line, expected=rest[0])
    if w == "atomic_add_unless":
        return Rmw("add_unless", address, rest[0], "mb", "bool", line, "+", rest[1])
    if w == "atomic_inc_not_zero":
        return Rmw("add_unless", address, Const(1), "mb", "bool", line, "+", Const(0))
    if (test := w.removeprefix("atomic_")) in TESTS:
        op, compare = TESTS[test]
        rmw = Rmw("op", address, rest[0] if rest else Const(1), "mb", "new", line, op)
        return Binary(compare, rmw, Const(0), line)
    m = ARITHMETIC.fullmatch(w)
    if m and (m[1] or m[3]):
        order = {None: "mb", "relaxed": "once"}.get(m[4], m[4])
        operand = rest[0] if rest else Const(1)
        return Rmw("op", address, operand, str(order), "old" if m[1] else "new", line, SYMBOL[m[2]])
    return None


def statements_of(word: str, address: Expr | None, rest: list[Expr], line: int) -> list[Stmt]:
    """What a call of `word` is as a statement."""
    w = plain_name(word)
    if w in FENCES:
        return [Fence(FENCES[w], line)]
    assert address is not None
    if w in STORES:
        store = Store(STORES[w][0], address, rest[0], line)
        return [store, Fence("mb", line)] if w == "smp_store_mb" else [store]
    if w in LOCKS:
        return [LOCKS[w](address, line)]
    if w == "srcu_read_unlock":
        return [SrcuUnlock(address, rest[0], line)]
    value = value_of(word, address, rest, line)
    if value is None:
        m = ARITHMETIC.fullmatch(w)
        assert m
        value = Rmw("op", address, rest[0] if rest else Const(1), "noreturn", "none", line, SYMBOL[m[2]])
    return [Eval(value, line)]
