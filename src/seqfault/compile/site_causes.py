"""Which section made a fault give up: notes of the last one that moved each count, read where a recheck fails.

The notes are the checker's; they tell states apart that the text could not, so only what asks for them has them.
"""

from __future__ import annotations

import ast
from typing import Any

from seqfault.compile.builder import Loc, Val
from seqfault.compile.ir import Const, Operand
from seqfault.compile.ops import Op
from seqfault.compile.sites import Site, Sites
from seqfault.kernel.seqlock import seq_t, seqcount_t
from seqfault.kernel.sites import NR_CAUSES, NR_SITES
from seqfault.kernel.types import IntType, PtrType, Struct

GAVE_UP = "gave-up/"  # and the number of the section that moved the count, or DEAD
DEAD = "dead"


class Causes(Sites):
    """Lowering of sections and rechecks with notes of who moved a count."""

    def noted(self) -> bool:
        return self.unit.sites is not None and self.unit.sites.causes is not None

    def count_of(self, p: Operand, s: Struct) -> tuple[Operand, str, str] | None:
        """Pointer, struct and path of the sequence count of an object."""
        for name, m in self.layout.members(s).items():
            if m.type is seqcount_t:
                return p, s.name, name
        return None

    def cause(self, p: Operand, pool: str, path: str) -> Loc | None:
        """Where it is noted who moved a count last."""
        at = self.unit.sites.cause_at
        n = self.layout.pools[pool].n
        if (pool, path) not in at:
            first = sum(k for _, k in at.values())
            if first + n > NR_CAUSES:
                return None
            at[pool, path] = first, n
        first, _ = at[pool, path]
        base = self.layout.pools["site_causes"].base + first - 1
        return Loc(IntType(0, NR_SITES), base, ((p, 1),), "site_causes", "last[]", first, ((n, 1),))

    def begun(self, site: Site, args: list[Any], node: ast.AST) -> None:
        if not self.noted() or site.kind != "count" or not args or not isinstance(args[0], Loc):
            return
        loc = args[0]
        if len(loc.terms) == 1:
            to = self.cause(loc.terms[0][0], loc.pool, loc.path)
            if to is not None:
                self.store(to, Val(Const(site.number), to.type), node)

    def gave_up(self, test: Operand, args: list[Any], node: ast.AST, odd: bool) -> None:
        """Count who made it so, if `test` holds.  `args`: the object or its count, and the count as it was read; `odd`:
        it tells by being odd, else by another value now."""
        if not self.noted() or len(args) < 2 or not isinstance(args[-1], Val):
            return
        about = args[0]
        which = None
        if isinstance(about, Loc) and len(about.terms) == 1 and about.type is seqcount_t:
            which = about.terms[0][0], about.pool, about.path
        elif isinstance(about, Val) and isinstance(about.type, PtrType):
            which = self.count_of(about.op, about.type.target)
        to = self.cause(*which) if which is not None else None
        if which is None or to is None:
            return
        yes, done = self.branch(Op.BR, test)
        self.open = yes
        if odd:
            moved, dead = self.branch(Op.BR, self.compute(Op.AND, args[-1].type, args[-1].op, Const(1)).op)
        else:
            dead, moved = self.branch(Op.BREQ, self.now(which, node), args[-1].op)
        self.open = dead
        self.emit(Op.COUNT, self.unit.counter(GAVE_UP + DEAD))
        done += self.open
        self.open = moved
        last = self.load(to, node).op
        for n in self.unit.sites.causes:
            hit, miss = self.branch(Op.BREQ, last, Const(n))
            self.open = hit
            self.emit(Op.COUNT, self.unit.counter(f"{GAVE_UP}{n}"))
            done += self.open
            self.open = miss
        self.open += done

    def now(self, which: tuple[Operand, str, str], node: ast.AST) -> Operand:
        """The count as it is, read by the checker: no step."""
        p, pool, path = which
        struct = self.layout.pools[pool].struct
        loc = self.object_at(p, struct)
        for name in [*path.split("."), "sequence"]:
            loc = self.member(loc, name, node)
        n = self.emit(Op.LOAD, self.temp(seq_t), access=self._access(loc, "note"))
        return n.args[0]  # type: ignore[no-any-return]
