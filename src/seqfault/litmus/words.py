"""The kernel's words and what they are as nodes.

Source: tools/memory-model/linux-kernel.def, Linux 6.1; `atomic_add_unless` is herd7's own. Beyond that file, with the
meaning that the kernel's own headers give them:

- `atomic_and/or/xor/andnot`, orders of `atomic_add_negative` (later linux-kernel.def); `atomic_long_*`, `atomic64_*`,
  `atomic_inc_not_zero`, `atomic_fetch_add_unless`, `try_cmpxchg` (include/linux/atomic/);
- `smp_mb__after_srcu_read_unlock` (linux-kernel.def of 6.4); `smp_acquire__after_ctrl_dep`, which
  include/asm-generic/barrier.h makes `smp_rmb()`; `mb`, `rmb`, `wmb`, which order no less than their smp_ forms;
  `cpu_relax`, a compiler barrier;
- the forms of `rcu_dereference` (include/linux/rcupdate.h): `_protected` is a plain read, the others READ_ONCE;
  `RCU_INIT_POINTER` is WRITE_ONCE; RCU's bh and sched flavours are RCU since 4.20;
- words of earlier files: `spin_unlock_wait` (lock, then unlock), `lockless_dereference`, `ACCESS_ONCE`,
  `smp_read_barrier_depends` (nothing: READ_ONCE has it since 4.15).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

from seqfault.litmus.models import Model
from seqfault.litmus.tree import (
    Binary,
    Const,
    Eval,
    Expr,
    Fence,
    IsLocked,
    Load,
    Lock,
    Reg,
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
    "mb": "mb",
    "rmb": "rmb",
    "wmb": "wmb",
    "smp_read_barrier_depends": "",
    "read_barrier_depends": "",
    "cpu_relax": "barrier",
    "smp_mb__before_atomic": "before-atomic",
    "smp_mb__after_atomic": "after-atomic",
    "smp_mb__after_spinlock": "after-spinlock",
    "smp_mb__after_unlock_lock": "after-unlock-lock",
    "smp_mb__after_srcu_read_unlock": "after-srcu-read-unlock",
    "smp_acquire__after_ctrl_dep": "rmb",
    "barrier": "barrier",
    **{f"rcu_read_lock{flavour}": "rcu-lock" for flavour in ("", "_bh", "_sched")},
    **{f"rcu_read_unlock{flavour}": "rcu-unlock" for flavour in ("", "_bh", "_sched")},
    "synchronize_rcu": "sync-rcu",
    "synchronize_rcu_expedited": "sync-rcu",
    "synchronize_rcu_bh": "sync-rcu",
    "synchronize_sched": "sync-rcu",
}
# the address of a word's first argument: `p` of `f(*p)`, or of `f(p)`
LVALUE, POINTER = "lvalue", "pointer"
LOADS = {
    "READ_ONCE": ("once", LVALUE),
    "ACCESS_ONCE": ("once", LVALUE),
    "rcu_dereference": ("once", LVALUE),
    "rcu_dereference_raw": ("once", LVALUE),
    "rcu_dereference_bh": ("once", LVALUE),
    "rcu_dereference_sched": ("once", LVALUE),
    "rcu_access_pointer": ("once", LVALUE),
    "lockless_dereference": ("once", LVALUE),
    "rcu_dereference_check": ("once", LVALUE),
    "srcu_dereference": ("once", LVALUE),
    "rcu_dereference_protected": ("plain", LVALUE),
    "smp_load_acquire": ("acquire", POINTER),
    "atomic_read": ("once", POINTER),
    "atomic_read_acquire": ("acquire", POINTER),
}
STORES = {
    "WRITE_ONCE": ("once", LVALUE),
    "rcu_assign_pointer": ("release", LVALUE),
    "RCU_INIT_POINTER": ("once", LVALUE),
    "smp_store_mb": ("once", LVALUE),
    "set_mb": ("once", LVALUE),
    "smp_store_release": ("release", POINTER),
    "atomic_set": ("once", POINTER),
    "atomic_set_release": ("release", POINTER),
}
# what they are told besides is for lockdep
CHECKED = ("rcu_dereference_check", "rcu_dereference_protected", "srcu_dereference")
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
EXCHANGE = re.compile(rf"(?:atomic_)?(xchg|cmpxchg|try_cmpxchg){ORDER}")
TESTS = {
    "sub_and_test": ("-", "=="),
    "dec_and_test": ("-", "=="),
    "inc_and_test": ("+", "=="),
    "add_negative": ("+", "<"),
}
TEST = re.compile(rf"atomic_({'|'.join(TESTS)}){ORDER}")
INDEXED = {"srcu_down_read": "srcu_read_lock", "srcu_up_read": "srcu_read_unlock"}  # of models that have `indexed`
SYMBOL = {"add": "+", "inc": "+", "sub": "-", "dec": "-", "and": "&", "or": "|", "xor": "^", "andnot": "&~"}


# Refused, with what to write instead.
REFUSED = {
    "call_rcu": "a thread of its own that waits with synchronize_rcu() and then does what the callback does",
    "call_srcu": "a thread of its own that waits with synchronize_srcu() and then does what the callback does",
    "rcu_barrier": "a flag that each callback's thread stores with smp_store_release()",
    "rcu_replace_pointer": "rcu_dereference_protected() and rcu_assign_pointer()",
    "smp_cond_load_acquire": "one smp_load_acquire(), and a filter clause with the value that it waits for",
    "smp_cond_load_relaxed": "one READ_ONCE(), and a filter clause with the value that it waits for",
    "atomic_cond_read_acquire": "one atomic_read_acquire(), and a filter clause with the value that it waits for",
    "atomic_cond_read_relaxed": "one atomic_read(), and a filter clause with the value that it waits for",
    **{
        f"{word}_{kind}": f"spin_{word.removeprefix('raw_')}(); interrupts are not modelled"
        for word in ("spin_lock", "spin_unlock", "raw_spin_lock", "raw_spin_unlock")
        for kind in ("irq", "irqsave", "irqrestore", "bh")
    },
    **{word: "spin_lock()" for word in ("mutex_lock", "down", "down_write", "write_lock", "read_lock", "down_read")},
    **{word: "spin_unlock()" for word in ("mutex_unlock", "up", "up_write", "write_unlock", "read_unlock", "up_read")},
    "mutex_trylock": "spin_trylock()",
    "atomic_inc_unless_negative": "atomic_cmpxchg()",
    "atomic_dec_unless_positive": "atomic_cmpxchg()",
    "atomic_dec_if_positive": "atomic_cmpxchg()",
    "preempt_disable": "rcu_read_lock()",
    "preempt_enable": "rcu_read_unlock()",
    "kmalloc": "a shared variable for the object",
    "kfree": "a store to the object that must not be seen",
    **{word: "its condition into the exists clause" for word in ("BUG_ON", "WARN_ON", "WARN_ON_ONCE", "assert")},
    "typeof": "the type",
    "set_bit": "atomic_or()",
    "clear_bit": "atomic_andnot()",
    "test_and_set_bit": "atomic_fetch_or()",
    "test_and_clear_bit": "atomic_fetch_andnot()",
    "test_bit": "READ_ONCE()",
}


class Unknown(Exception):
    """A word that the kernel's model does not have, with what to do about it."""


def plain_name(word: str) -> str:
    """`atomic_add` for `atomic_long_add`: one width is modelled."""
    word = INDEXED.get(word, word)
    return FAMILY.sub("atomic_", word.removeprefix("raw_") if word.startswith("raw_spin_") else word)


def order_of(suffix: str | None) -> str:
    """The tag of a read-modify-write whose name ends so."""
    return {None: "mb", "relaxed": "once"}.get(suffix) or str(suffix)


def arguments(word: str, model: Model) -> tuple[str, int]:
    """How a word takes its address (`LVALUE`, `POINTER` or none), and how many arguments it has.

    Raises:
        Unknown: it is not in the kernel's model.
    """
    w = plain_name(word)
    if word in INDEXED and not model.indexed:
        raise Unknown(f"{word}() is not in the model of Linux {model.name}; write {w}(), or judge with --linux 6.12")
    if w in FENCES:
        return "", 0
    if w in LOADS:
        return LOADS[w][1], 1
    if w in STORES:
        return STORES[w][1], 2
    if w in LOCKS or w in LOCK_VALUES or w == "spin_unlock_wait":
        return POINTER, 1
    if w == "srcu_read_unlock":
        return POINTER, 2
    if m := EXCHANGE.fullmatch(w):
        return POINTER, 2 if m[1] == "xchg" else 3
    if w in ("atomic_add_unless", "atomic_fetch_add_unless"):
        return POINTER, 3
    if w == "atomic_inc_not_zero":
        return POINTER, 1
    if (m := TEST.fullmatch(w)) and (not m[2] or m[1] == "add_negative"):
        return (POINTER, 1) if m[1] in ("dec_and_test", "inc_and_test") else ("second", 2)
    m = ARITHMETIC.fullmatch(w)
    if m and not (m[3] and (m[1] or m[2] in ("and", "or", "xor", "andnot"))) and (m[1] or m[3] or not m[4]):
        return (POINTER, 1) if m[2] in ("inc", "dec") else ("second", 2)
    if instead := REFUSED.get(w, REFUSED.get(word)):
        raise Unknown(f"{word}() is not in the kernel's model; write {instead}")
    near = difflib.get_close_matches(word, known_words(), 1, 0.85)
    hint = f"did you mean {near[0]}()?" if near else "docs/litmus.md lists what is"
    raise Unknown(f"{word}() is not in the kernel's model (linux-kernel.def); {hint}")


def known_words() -> list[str]:
    """Most words, for hints."""
    return [*FENCES, *LOADS, *STORES, *LOCKS, *LOCK_VALUES, "srcu_read_unlock", "xchg", "cmpxchg"]


def value_of(word: str, address: Expr, rest: list[Expr], line: int) -> Expr | None:
    """The expression that a call of `word` is, or None if it has no value."""
    w = plain_name(word)
    if w in LOADS:
        return Load(LOADS[w][0], address, line)
    if w in LOCK_VALUES:
        return LOCK_VALUES[w](address, line)
    if m := EXCHANGE.fullmatch(w):
        order = order_of(m[2])
        if m[1] == "xchg":
            return Rmw("xchg", address, rest[0], order, "old", line)
        if m[1] == "cmpxchg":
            return Rmw("cmpxchg", address, rest[1], order, "old", line, expected=rest[0])
        assert isinstance(rest[0], Reg)
        return Rmw("cmpxchg", address, rest[1], order, "bool", line, expected=rest[0], keeps=rest[0].name)
    if w in ("atomic_add_unless", "atomic_fetch_add_unless"):
        return Rmw("add_unless", address, rest[0], "mb", "old" if "fetch" in w else "bool", line, "+", rest[1])
    if w == "atomic_inc_not_zero":
        return Rmw("add_unless", address, Const(1), "mb", "bool", line, "+", Const(0))
    if m := TEST.fullmatch(w):
        op, compare = TESTS[m[1]]
        rmw = Rmw("op", address, rest[0] if rest else Const(1), order_of(m[2]), "new", line, op)
        return Binary(compare, rmw, Const(0), line)
    m = ARITHMETIC.fullmatch(w)
    if m and (m[1] or m[3]):
        operand = rest[0] if rest else Const(1)
        return Rmw("op", address, operand, order_of(m[4]), "old" if m[1] else "new", line, SYMBOL[m[2]])
    return None


def statements_of(word: str, address: Expr | None, rest: list[Expr], line: int) -> list[Stmt]:
    """What a call of `word` is as a statement."""
    w = plain_name(word)
    if w in FENCES:
        return [Fence(FENCES[w], line)] if FENCES[w] else []
    assert address is not None
    if w in STORES:
        store = Store(STORES[w][0], address, rest[0], line)
        return [store, Fence("mb", line)] if w in ("smp_store_mb", "set_mb") else [store]
    if w in LOCKS:
        return [LOCKS[w](address, line)]
    if w == "spin_unlock_wait":
        return [Lock(address, line), Unlock(address, line)]
    if w == "srcu_read_unlock":
        return [SrcuUnlock(address, rest[0], line)]
    value = value_of(word, address, rest, line)
    if value is None:
        m = ARITHMETIC.fullmatch(w)
        assert m
        value = Rmw("op", address, rest[0] if rest else Const(1), "noreturn", "none", line, SYMBOL[m[2]])
    return [Eval(value, line)]
