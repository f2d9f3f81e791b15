"""Types of Kernel Python: sizes, integers with ranges, pointers, arrays and structs.

A type says how many bits a value takes in a packed state and what a store may put there.  Sizes
(pages, VMAs, CPUs) are symbolic, so that the same text serves eight pages and a million.
"""

from __future__ import annotations

import sys
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import CodeType
from typing import Any

INT_MIN = -(1 << 63)
INT_MAX = (1 << 63) - 1


class KernelTypeError(TypeError):
    """A declaration that Kernel Python does not have; the message names it and the remedy."""


class Size:
    """A named size of the model, e.g. ``NR_PAGES = Size("NR_PAGES", 8)``.

    In type declarations it is symbolic (and may be combined with ``+ - * //``); in a running function
    it is the value that the current machine was built with.  Parameters: `name`, unique among the
    sizes of one program; `default`, the value when a program does not set it.
    """

    __slots__ = ("args", "default", "name", "op")

    def __init__(self, name: str, default: int | None = None, op: str = "", args: tuple[Any, ...] = ()):
        self.name, self.default, self.op, self.args = name, default, op, args

    def resolve(self, sizes: Mapping[str, int]) -> int:
        """The value of this size under `sizes` (name -> value)."""
        if self.op:
            a, b = (resolve_size(x, sizes) for x in self.args)
            return {"+": a + b, "-": a - b, "*": a * b, "//": a // b if b else 0, "max": max(a, b)}[self.op]
        if self.name in sizes:
            return sizes[self.name]
        if self.default is None:
            raise KernelTypeError(f"size {self.name} has no value; pass sizes={{'{self.name}': n}}")
        return self.default

    def _now(self) -> int:
        from seqfault.kernel.machine import current

        return self.resolve(current().layout.sizes)

    def _bin(self, op: str, other: Any, swap: bool = False) -> Any:
        from seqfault.kernel.machine import running

        if not running():
            pair = (other, self) if swap else (self, other)
            return Size(f"({size_name(pair[0])}{op}{size_name(pair[1])})", op=op, args=pair)
        a, b = (int(other), self._now()) if swap else (self._now(), int(other))
        return {"+": a + b, "-": a - b, "*": a * b, "//": a // b if b else 0}[op]

    def __add__(self, o: Any) -> Any:
        return self._bin("+", o)

    def __radd__(self, o: Any) -> Any:
        return self._bin("+", o, True)

    def __neg__(self) -> Any:
        return self._bin("-", 0, True)

    def __sub__(self, o: Any) -> Any:
        return self._bin("-", o)

    def __rsub__(self, o: Any) -> Any:
        return self._bin("-", o, True)

    def __mul__(self, o: Any) -> Any:
        return self._bin("*", o)

    def __rmul__(self, o: Any) -> Any:
        return self._bin("*", o, True)

    def __floordiv__(self, o: Any) -> Any:
        return self._bin("//", o)

    def __rfloordiv__(self, o: Any) -> Any:
        return self._bin("//", o, True)

    def __mod__(self, o: Any) -> int:
        return self._now() % int(o)

    def __rmod__(self, o: Any) -> int:
        return int(o) % self._now()

    def __index__(self) -> int:
        return self._now()

    __int__ = __index__

    def __eq__(self, o: object) -> bool:
        from seqfault.kernel.machine import running

        if isinstance(o, Size) or not running():
            return self is o
        return self._now() == o

    def __lt__(self, o: Any) -> bool:
        return self._now() < int(o)

    def __le__(self, o: Any) -> bool:
        return self._now() <= int(o)

    def __gt__(self, o: Any) -> bool:
        return self._now() > int(o)

    def __ge__(self, o: Any) -> bool:
        return self._now() >= int(o)

    def __bool__(self) -> bool:
        return bool(self._now())

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return self.name


def size_name(x: Any) -> str:
    return x.name if isinstance(x, Size) else str(x)


def resolve_size(x: int | Size, sizes: Mapping[str, int]) -> int:
    return x.resolve(sizes) if isinstance(x, Size) else int(x)


class Type:
    """Any type that a field, a parameter or a local may have."""


@dataclass(frozen=True)
class IntType(Type):
    """An integer in ``lo..hi``, both included."""

    lo: int | Size
    hi: int | Size
    name: str = ""

    def __repr__(self) -> str:
        return self.name or f"integer({size_name(self.lo)}, {size_name(self.hi)})"


@dataclass(frozen=True)
class BoolType(Type):
    def __repr__(self) -> str:
        return "bool"


@dataclass(frozen=True)
class PtrType(Type):
    """A pointer to an object of a pool: 0 is NULL, i + 1 is object i.  `to`: the struct, or its name."""

    to: Struct | str

    @property
    def target(self) -> Struct:
        if isinstance(self.to, str):
            raise KernelTypeError(f"ptr[{self.to!r}] is not resolved")
        return self.to

    def resolved(self, scope: Mapping[str, Any]) -> PtrType:
        if not isinstance(self.to, str):
            return self
        t = scope.get(self.to, STRUCTS.get(self.to))
        if not isinstance(t, Struct):
            raise KernelTypeError(f"ptr[{self.to!r}]: no struct of that name is declared; declare it with @struct")
        return PtrType(t)

    def __repr__(self) -> str:
        return f"ptr[{self.to if isinstance(self.to, str) else self.to.name}]"


@dataclass(frozen=True)
class ArrayType(Type):
    elem: Any
    length: int | Size

    def __repr__(self) -> str:
        return f"array[{self.elem!r}, {size_name(self.length)}]"


BOOL = BoolType()
INT = IntType(INT_MIN, INT_MAX, "int")
u8 = IntType(0, 255, "u8")
u16 = IntType(0, 65535, "u16")
u32 = IntType(0, (1 << 32) - 1, "u32")


def integer(lo: int | Size, hi: int | Size, name: str = "") -> Any:
    """The type of integers from `lo` to `hi`, both included.  A store outside is a reported error."""
    return IntType(lo, hi, name)


class _PtrMaker:
    def __getitem__(self, target: Any) -> Any:
        return PtrType(target)


class _ArrayMaker:
    def __getitem__(self, item: tuple[Any, Any]) -> Any:
        return ArrayType(item[0], item[1])


ptr = _PtrMaker()
array = _ArrayMaker()


@dataclass(eq=False)
class Struct(Type):
    """A struct declared with ``@struct``.

    `pool`: how many objects there are (None: only embedded in other structs).  `static`: the objects
    always exist; others come from `kmem_cache_alloc`.  `rom`: read-only data of a scenario, no part
    of the state.  `private`: bookkeeping of the checker, an access to which is no step.  `typesafe`:
    memory keeps its type when freed (SLAB_TYPESAFE_BY_RCU), so access after free is no error.
    """

    name: str
    raw_fields: dict[str, Any]
    namespace: dict[str, Any]
    doc: str = ""
    pool: int | Size | None = None
    static: bool = False
    rom: bool = False
    private: bool = False
    typesafe: bool = False
    at_rest: str = ""
    initial: dict[str, int] = field(default_factory=dict)

    def fields(self) -> dict[str, Any]:
        """Field name -> type, resolved."""
        return {k: as_type(v, self.namespace, f"{self.name}.{k}") for k, v in self.raw_fields.items()}

    def __repr__(self) -> str:
        return f"struct {self.name}"

    def __hash__(self) -> int:
        return hash(self.name)


STRUCTS: dict[str, Struct] = {}


def struct(cls: type | None = None, **options: Any) -> Any:
    """Declare a struct of Kernel Python from a class with annotated fields.

    Options are those of `Struct`.  A default value of a field is what `kmem_cache_zalloc` and static
    objects start with (0 otherwise).  Raises `KernelTypeError` for a field without a type.
    """

    def make(c: type) -> Struct:
        unknown = set(options) - {"pool", "static", "rom", "private", "typesafe", "at_rest"}
        if unknown:
            raise KernelTypeError(f"@struct {c.__name__}: unknown option {sorted(unknown)[0]!r}")
        ann = dict(c.__dict__.get("__annotations__", {}))
        initial = {k: v for k, v in vars(c).items() if k in ann}
        if not ann:
            raise KernelTypeError(f"@struct {c.__name__} has no fields; write `name: type` in its body")
        s = Struct(c.__name__, ann, vars(sys.modules[c.__module__]), c.__doc__ or "", initial=initial, **options)
        if s.rom or s.private or s.pool == 1:
            s.static = True
        STRUCTS[s.name] = s
        return s

    return make(cls) if cls is not None else make


@cache
def _expression(text: str) -> CodeType:
    return compile(text, "<annotation>", "eval")


def as_type(t: Any, namespace: Mapping[str, Any], where: str) -> Any:
    """Turn an annotation (an object or its source text) into a type."""
    if isinstance(t, str):
        try:
            t = eval(_expression(t), {}, ChainMap(namespace, STRUCTS))  # type: ignore[arg-type]
        except Exception as e:
            raise KernelTypeError(f"{where}: cannot make a type of {t!r}: {e}") from None
    if t is bool:
        return BOOL
    if t is int:
        return INT
    if t is None:
        return None
    if isinstance(t, ArrayType):
        return ArrayType(as_type(t.elem, namespace, where), t.length)
    if isinstance(t, PtrType):
        return t.resolved(namespace)
    if isinstance(t, Type):
        return t
    origin = getattr(t, "__origin__", None)
    if origin is tuple:
        return tuple(as_type(x, namespace, where) for x in t.__args__)
    raise KernelTypeError(
        f"{where}: {t!r} is no type of Kernel Python; use integer(lo, hi), bool, ptr[T], array[T, n] or a struct"
    )
