"""Where every field lives: the flat cells of a program's memory.

All three executors (plain Python, the interpreter, compiled code) address memory by the same cell
numbers, so their states can be compared cell by cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from seqfault.kernel.types import (
    INT_MAX,
    INT_MIN,
    STRUCTS,
    ArrayType,
    BoolType,
    IntType,
    KernelTypeError,
    PtrType,
    Size,
    Struct,
    as_type,
    resolve_size,
)

FREE, LIVE, FREED = 0, 1, 2
STATE_NAMES = {FREE: "never allocated", LIVE: "live", FREED: "freed"}


@dataclass(frozen=True)
class Cell:
    """One scalar of memory.  `lo..hi` is its range; `start` what it holds at first."""

    addr: int
    pool: str
    index: int
    path: str
    lo: int
    hi: int
    start: int
    type: Any
    is_state: bool = False

    @property
    def name(self) -> str:
        return f"{self.pool}[{self.index}]" + (f".{self.path}" if self.path else "")


@dataclass(frozen=True)
class Member:
    """A member of a struct as laid out: cell `offset` from the struct's start, and its type."""

    name: str
    offset: int
    type: Any
    cells: int


@dataclass(frozen=True)
class Pool:
    """`n` objects of `struct`: object i starts at cell ``base + i * stride``; its state cell, if
    objects come and go, is the first (`state` is 0, else -1)."""

    struct: Struct
    n: int
    base: int
    stride: int
    state: int
    number: int


class Layout:
    """The memory of one program.

    `roots`: the structs with pools that the program uses; others that they point to or embed are
    found (None: every struct declared so far).  `sizes`: values of the model's sizes.  `extra`: fields that a
    protocol adds, struct name ->
    {field: type}.  Raises `KernelTypeError` when a size has no value or a type cannot be laid out.
    """

    def __init__(
        self,
        roots: Iterable[Struct] | None = None,
        sizes: Mapping[str, int] | None = None,
        extra: Mapping[str, Mapping[str, Any]] | None = None,
    ):
        self.sizes = dict(sizes or {})
        self.extra = {k: dict(v) for k, v in (extra or {}).items()}
        self._members: dict[str, dict[str, Member]] = {}
        self._size: dict[str, int] = {}
        self.cells: list[Cell] = []
        self.pools: dict[str, Pool] = {}
        for s in self._closure(STRUCTS.values() if roots is None else roots):
            self._place(s)
        self.start = [c.start for c in self.cells]

    # -- which structs
    def struct_fields(self, s: Struct) -> dict[str, Any]:
        out = s.fields()
        for k, v in self.extra.get(s.name, {}).items():
            out[k] = as_type(v, {}, f"{s.name}.{k}")
        return out

    def _closure(self, roots: Iterable[Struct]) -> list[Struct]:
        seen: dict[str, Struct] = {}

        def visit(t: Any) -> None:
            if isinstance(t, PtrType):
                t = t.target
            if isinstance(t, ArrayType):
                visit(t.elem)
            elif isinstance(t, Struct) and t.name not in seen:
                seen[t.name] = t
                for f in self.struct_fields(t).values():
                    visit(f)

        for r in roots:
            visit(r)
        return sorted((s for s in seen.values() if s.pool is not None), key=lambda s: s.name)

    def pool_size(self, s: Struct) -> int:
        if s.pool is None:
            raise KernelTypeError(f"struct {s.name} has no pool; give it one with @struct(pool=n)")
        return resolve_size(s.pool, self.sizes)

    # -- members
    def members(self, s: Struct) -> dict[str, Member]:
        """The members of `s`, in order; offsets count from the first field (past the state cell)."""
        if s.name not in self._members:
            out: dict[str, Member] = {}
            off = 0
            self._members[s.name] = out
            for k, t in self.struct_fields(s).items():
                n = self.type_cells(t)
                out[k] = Member(k, off, t, n)
                off += n
            self._size[s.name] = off
        return self._members[s.name]

    def type_cells(self, t: Any) -> int:
        if isinstance(t, ArrayType):
            return resolve_size(t.length, self.sizes) * self.type_cells(t.elem)
        if isinstance(t, Struct):
            self.members(t)
            return self._size[t.name]
        return 1

    def bounds(self, t: Any) -> tuple[int, int]:
        """The least and greatest value of a scalar type."""
        if isinstance(t, BoolType):
            return 0, 1
        if isinstance(t, PtrType):
            return 0, self.pool_size(t.target)
        if isinstance(t, IntType):
            lo, hi = resolve_size(t.lo, self.sizes), resolve_size(t.hi, self.sizes)
            if not INT_MIN <= lo <= hi <= INT_MAX:
                raise KernelTypeError(f"{t!r}: bounds {lo}..{hi} are empty or outside 64 bits")
            return lo, hi
        raise KernelTypeError(f"{t!r} is not a scalar")

    def _scalars(self, t: Any, path: str, initial: int) -> Iterable[tuple[str, Any, int]]:
        if isinstance(t, ArrayType):
            for i in range(resolve_size(t.length, self.sizes)):
                yield from self._scalars(t.elem, f"{path}[{i}]", initial)
        elif isinstance(t, Struct):
            for k, m in self.members(t).items():
                yield from self._scalars(m.type, f"{path}.{k}" if path else k, t.initial.get(k, 0))
        else:
            yield path, t, int(initial)

    def _place(self, s: Struct) -> None:
        n = self.pool_size(s)
        scal = list(self._scalars(s, "", 0))
        state = -1 if s.static else 0
        stride = len(scal) + (0 if s.static else 1)
        self.pools[s.name] = Pool(s, n, len(self.cells), stride, state, len(self.pools))
        for i in range(n):
            if not s.static:
                self.cells.append(Cell(len(self.cells), s.name, i, "", 0, 2, FREE, "state", True))
            for path, t, init in scal:
                lo, hi = self.bounds(t)
                start = init if lo <= init <= hi else lo
                self.cells.append(Cell(len(self.cells), s.name, i, path, lo, hi, start, t))

    def address(self, pool: str, index: int, path: str) -> int:
        """Cell number of a field by name, e.g. ``("vm_area_struct", 0, "vm_sequence.sequence")``."""
        p = self.pools[pool]
        for c in self.cells[p.base + index * p.stride : p.base + (index + 1) * p.stride]:
            if c.path == path and not c.is_state:
                return c.addr
        raise KeyError(f"{pool}[{index}].{path}")


__all__ = ["FREE", "FREED", "LIVE", "STATE_NAMES", "STRUCTS", "Cell", "Layout", "Member", "Pool", "Size"]
