"""C's operators on values: numbers of 64 bits, and addresses as far as pointer arithmetic goes."""

from __future__ import annotations

from seqfault.litmus.tokens import wrap
from seqfault.litmus.tree import Address, Value


class Undefined(Exception):
    """C gives this no value; the argument is the flag that an execution with it gets."""


def truth(value: Value) -> bool:
    """Whether `if` takes the branch; an address is never NULL."""
    return isinstance(value, Address) or value != 0


def unary(op: str, value: Value) -> Value:
    """``-``, ``~``, ``!``.

    Raises:
        Undefined: the negative of an address.
    """
    if op == "!":
        return int(not truth(value))
    if isinstance(value, Address):
        raise Undefined("address-arithmetic")
    return wrap(-value if op == "-" else ~value)


def binary(op: str, a: Value, b: Value) -> Value:
    """A binary operator.

    Raises:
        Undefined: a division by zero, a shift out of range, an operation that addresses do not have.
    """
    if op == "&&":
        return int(truth(a) and truth(b))
    if op == "||":
        return int(truth(a) or truth(b))
    if op == "==":
        return int(a == b)
    if op == "!=":
        return int(a != b)
    if isinstance(a, Address) or isinstance(b, Address):
        return _on_addresses(op, a, b)
    match op:
        case "+":
            return wrap(a + b)
        case "-":
            return wrap(a - b)
        case "*":
            return wrap(a * b)
        case "&":
            return a & b
        case "|":
            return a | b
        case "^":
            return a ^ b
        case "&~":
            return a & ~b
        case "<":
            return int(a < b)
        case ">":
            return int(a > b)
        case "<=":
            return int(a <= b)
        case ">=":
            return int(a >= b)
        case "<<" | ">>":
            if not 0 <= b < 64:
                raise Undefined("shift-out-of-range")
            return wrap(a << b) if op == "<<" else a >> b
    if b == 0:
        raise Undefined("division-by-zero")
    q = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)  # C rounds to zero
    return wrap(q if op == "/" else a - b * q)


def _on_addresses(op: str, a: Value, b: Value) -> Value:
    if op in "+-" and isinstance(a, Address) and isinstance(b, int):
        return Address(a.name, a.cell + (b if op == "+" else -b))
    if op == "+" and isinstance(a, int) and isinstance(b, Address):
        return Address(b.name, b.cell + a)
    if op in ("&", "*") and 0 in (a, b) and (isinstance(a, int) or isinstance(b, int)):
        return 0
    if isinstance(a, Address) and isinstance(b, Address) and a.name == b.name:
        if op == "-":
            return a.cell - b.cell
        if op in ("<", ">", "<=", ">="):
            return binary(op, a.cell, b.cell)
        if a == b and op in ("^", "&", "|"):
            return 0 if op == "^" else a
    raise Undefined("address-arithmetic")
