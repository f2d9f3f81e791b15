"""What a litmus file says, as a tree.

The dialect is that of tools/memory-model (Linux 6.1): `linux-kernel.def` for the words, herd7's C for the rest. Words
are already resolved here: there is one node for a kind of event, whatever it was called.

An **address** is `Address(name, cell)`; an `int x` is its cell 0. A **value** is an `int` (64 bits, signed) or an
`Address`. Local variables and parameters are registers of their thread; a parameter holds the address of the shared
variable of its name unless the initial state says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from seqfault.litmus.models import V6_1, Model


class LitmusError(Exception):
    """One line for the user: file, line, what is wrong and what to write instead."""

    def __init__(self, file: str, line: int, message: str) -> None:
        super().__init__(f"{file}:{line}: {message}")
        self.file, self.line, self.message = file, line, message


class Address(NamedTuple):
    """A cell of a shared variable; `x` is `Address("x", 0)`."""

    name: str
    cell: int = 0

    def __str__(self) -> str:
        return self.name if not self.cell else f"{self.name}[{self.cell}]"


Value = int | Address


def shown(value: Value) -> str:
    """A value as herd7 prints it: `1`, `x` for an address."""
    return str(value)


# Expressions ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Const:
    """A number, or the address of a shared variable (`&x`)."""

    value: Value


@dataclass(frozen=True, slots=True)
class Reg:
    """A local variable or a parameter."""

    name: str


@dataclass(frozen=True, slots=True)
class Unary:
    """`op` is one of ``- ~ !``."""

    op: str
    of: Expr


@dataclass(frozen=True, slots=True)
class Binary:
    """`op` is one of C's binary operators. Both sides of `&&` and `||` are evaluated, as herd7 does."""

    op: str
    left: Expr
    right: Expr
    line: int = 0


@dataclass(frozen=True, slots=True)
class Choose:
    """``cond ? then : other``; all three are evaluated, so that there is one event for each access written."""

    cond: Expr
    then: Expr
    other: Expr


@dataclass(frozen=True, slots=True)
class Load:
    """`order`: ``plain``, ``once`` (READ_ONCE, rcu_dereference, atomic_read), ``acquire``."""

    order: str
    address: Expr
    line: int


@dataclass(frozen=True, slots=True)
class Rmw:
    """A read-modify-write of one location.

    `kind`: ``xchg``; ``cmpxchg`` (`expected` is compared, `operand` stored; one that fails is a relaxed read);
    ``op`` (`op` of the old value and `operand`); ``add_unless`` (adds `operand` unless the old value is `expected`).
    `order`: ``mb`` (a full barrier before and after), ``once``, ``acquire``, ``release``, ``noreturn``.
    `gives`: ``old``, ``new``, ``bool`` (whether it stored) or ``none``.
    `keeps`: the register that a ``cmpxchg`` which fails puts the old value into (`try_cmpxchg`).
    """

    kind: str
    address: Expr
    operand: Expr
    order: str
    gives: str
    line: int
    op: str = ""
    expected: Expr | None = None
    keeps: str = ""


@dataclass(frozen=True, slots=True)
class TryLock:
    """`spin_trylock`: 1 with the lock held, or 0."""

    address: Expr
    line: int


@dataclass(frozen=True, slots=True)
class IsLocked:
    """`spin_is_locked`."""

    address: Expr
    line: int


@dataclass(frozen=True, slots=True)
class SrcuLock:
    """`srcu_read_lock`: its value is an index of its own, to be handed to the unlock."""

    address: Expr
    line: int


Expr = Const | Reg | Unary | Binary | Choose | Load | Rmw | TryLock | IsLocked | SrcuLock

# Statements -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Assign:
    """A register gets a value."""

    name: str
    value: Expr
    line: int


@dataclass(frozen=True, slots=True)
class Store:
    """`order`: ``plain``, ``once``, ``release``."""

    order: str
    address: Expr
    value: Expr
    line: int


@dataclass(frozen=True, slots=True)
class Fence:
    """`kind`: as linux-kernel.bell names it (``mb``, ``rcu-lock``, ``after-spinlock`` ...)."""

    kind: str
    line: int


@dataclass(frozen=True, slots=True)
class Lock:
    """`spin_lock`."""

    address: Expr
    line: int


@dataclass(frozen=True, slots=True)
class Unlock:
    """`spin_unlock`."""

    address: Expr
    line: int


@dataclass(frozen=True, slots=True)
class SrcuUnlock:
    """`srcu_read_unlock(address, index)`."""

    address: Expr
    index: Expr
    line: int


@dataclass(frozen=True, slots=True)
class SrcuSync:
    """`synchronize_srcu`."""

    address: Expr
    line: int


@dataclass(frozen=True, slots=True)
class Eval:
    """An expression for its events: `atomic_inc(v);`, `xchg(x, 1);`."""

    value: Expr
    line: int


@dataclass(frozen=True, slots=True)
class If:
    """Loops are unrolled by the parser, so this is the only branch of a `Thread`."""

    cond: Expr
    then: tuple[Stmt, ...]
    other: tuple[Stmt, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop, before `unroll`; `first`: the condition is looked at before the first turn, too."""

    cond: Expr
    body: tuple[Stmt, ...]
    step: tuple[Stmt, ...]
    first: bool
    line: int


@dataclass(frozen=True, slots=True)
class Jump:
    """``break``, ``continue``, ``return``, before `unroll`."""

    kind: str
    line: int


Stmt = Assign | Store | Fence | Lock | Unlock | SrcuUnlock | SrcuSync | Eval | If | Loop | Jump

# Conditions -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RegisterOf:
    """``0:r1`` in a condition."""

    thread: int
    name: str

    def __str__(self) -> str:
        return f"{self.thread}:{self.name}"


Place = RegisterOf | Address


def place_text(place: Place) -> str:
    """A place as herd7 prints it in a state: ``0:r1``, ``[x]``."""
    return str(place) if isinstance(place, RegisterOf) else f"[{place}]"


@dataclass(frozen=True, slots=True)
class Equal:
    """``0:r1=1``, ``[x]=&y``, ``0:r1=1:r1``; `same` is False for ``!=``."""

    place: Place
    value: Value | RegisterOf
    same: bool = True


@dataclass(frozen=True, slots=True)
class Not:
    """``~p``."""

    of: Prop


@dataclass(frozen=True, slots=True)
class And:
    """``p /\\ q``."""

    parts: tuple[Prop, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """``p \\/ q``."""

    parts: tuple[Prop, ...]


@dataclass(frozen=True, slots=True)
class Implies:
    """``p => q``."""

    left: Prop
    right: Prop


@dataclass(frozen=True, slots=True)
class Truth:
    """``true``, ``false``."""

    value: bool


Prop = Equal | Not | And | Or | Implies | Truth


def holds(prop: Prop, state: dict[Place, Value]) -> bool:
    """Whether a final state satisfies a condition; a place that is not in it counts as 0."""
    match prop:
        case Equal(place, value, same):
            other = state.get(value, 0) if isinstance(value, RegisterOf) else value
            return (state.get(place, 0) == other) is same
        case Not(of):
            return not holds(of, state)
        case And(parts):
            return all(holds(p, state) for p in parts)
        case Or(parts):
            return any(holds(p, state) for p in parts)
        case Implies(left, right):
            return not holds(left, state) or holds(right, state)
        case Truth(value):
            return value


def places_of(prop: Prop) -> set[Place]:
    """The places that a condition looks at."""
    match prop:
        case Equal(place, value, _):
            return {place, value} if isinstance(value, RegisterOf) else {place}
        case Not(of):
            return places_of(of)
        case And(parts) | Or(parts):
            return {x for p in parts for x in places_of(p)}
        case Implies(left, right):
            return places_of(left) | places_of(right)
        case Truth():
            return set()


def prop_text(prop: Prop, inner: bool = False) -> str:
    """A condition in herd7's words."""
    match prop:
        case Equal(place, value, same):
            other = str(value) if isinstance(value, RegisterOf) else shown(value)
            return f"{place_text(place)}{'=' if same else '!='}{other}"
        case Not(of):
            return f"not ({prop_text(of)})"
        case And(parts):
            text = " /\\ ".join(prop_text(p, True) for p in parts)
        case Or(parts):
            text = " \\/ ".join(prop_text(p, True) for p in parts)
        case Implies(left, right):
            text = f"{prop_text(left, True)} => {prop_text(right, True)}"
        case Truth(truth):
            return "true" if truth else "false"
    return f"({text})" if inner else text


@dataclass(frozen=True, slots=True)
class Condition:
    """`kind`: ``exists``, ``~exists`` or ``forall``."""

    kind: str
    prop: Prop


@dataclass(frozen=True, slots=True)
class Thread:
    """``P0(...) { ... }``."""

    number: int
    params: tuple[str, ...]
    body: tuple[Stmt, ...]
    line: int


@dataclass(slots=True)
class Litmus:
    """A litmus test.

    Attributes:
        file, name: where it was read from, and the name in its first line.
        init: the value of every shared cell; those that the file does not name are 0.
        registers: values of registers at the start (``{ 0:r0=5; }``).
        kinds: the type of a shared variable where the file gives one: ``spinlock_t``, ``struct srcu_struct``.
        threads: in order.
        condition: what is asked; None asks nothing.
        filter: executions that do not satisfy it are left out.
        locations: more places that the states show.
        result: the file's own ``Result:`` line in a comment, if it has one: Never, Sometimes, Always, DEADLOCK (no
            execution ends) or DATARACE.
        source: the lines of the file.
        model: by whose memory model it is judged.
    """

    file: str
    name: str
    init: dict[Address, Value]
    registers: dict[tuple[int, str], Value]
    kinds: dict[str, str]
    threads: tuple[Thread, ...]
    condition: Condition | None = None
    filter: Prop | None = None
    locations: tuple[Place, ...] = ()
    result: str | None = None
    source: list[str] = field(default_factory=list)
    model: Model = V6_1
