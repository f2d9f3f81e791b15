"""Where the values of sequence counts are: cells, and the registers that are live where a step begins.

A scenario that repeats an operation for ever needs counts that stay finite (explore/counts.py renames them), so
every value that is compared with a count has to be found again in a state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seqfault.compile.ir import Const, Function, Node, Reg
from seqfault.compile.ops import Op
from seqfault.compile.passes import begins_step

if TYPE_CHECKING:
    from seqfault.compile.link import Linker

COUNT_TYPE = "seq_t"
# the table: numbers, then cells, rows of the instructions (function, registers, how many), of the functions (slot of
# the return number, calls), of the calls (calling function, registers, how many), and slots of registers
CELLS, AT, FUNCTIONS = range(3)
HEAD = 3


def is_count(t: Any) -> bool:
    return getattr(t, "name", "") == COUNT_TYPE


def counting(f: Function) -> set[Reg]:
    """Registers of `f` that hold a count, or one plus one that is not stored yet."""
    out = {r for r in f.regs if is_count(r.type)}
    changed = True
    while changed:
        changed = False
        for n in f.nodes:
            d = n.dest()
            if not isinstance(d, Reg) or d in out:
                continue
            from_count = any(x in out for x in n.uses() if isinstance(x, Reg))
            plus = n.op in (Op.ADD, Op.SUB) and any(isinstance(x, Const) for x in n.args[1:3])
            if from_count and (n.op is Op.MOV or plus):
                out.add(d)
                changed = True
    return out


def count_table(linker: Linker, order: list[tuple[Function, Node]]) -> list[int]:
    """The table for explore/counts.py; [0] if no text has a sequence count.  Numbers of instructions are fixed by
    now."""
    cells = [c.addr for c in linker.layout.cells if is_count(c.type) and c.addr in linker.used]
    if not cells:
        return [0]
    frames = linker.frames
    holds = {f: counting(f) for f in linker.fns}
    number = {f: i for i, f in enumerate(linker.fns)}
    slots: list[int] = []

    def registers(f: Function, live: set[Reg]) -> tuple[int, int]:
        mine = sorted(
            linker.operand(r, f) for r in live & holds[f] & frames.state[f] if r in frames.at and r.lo != r.hi
        )
        slots.extend(mine)
        return len(slots) - len(mine), len(mine)

    at = [[-1, 0, 0] for _ in range(1 + len(order))]
    calls: dict[Function, list[tuple[int, int, int]]] = {f: [] for f in linker.fns}
    for f, n in order:
        if begins_step(n, linker.full):
            at[n.pc] = [number[f], *registers(f, frames.live[f][0][id(n)])]
        if n.op is Op.CALL and n.callee is not None:
            calls[n.callee].append((number[f], *registers(f, frames.across(f, n))))
    flat_at = HEAD + len(cells)
    functions_at = flat_at + 3 * len(at)
    calls_at = functions_at + 2 * len(linker.fns)
    slots_at = calls_at + 3 * sum(map(len, calls.values()))
    out = [len(cells), flat_at, functions_at, *cells]
    out += [x for f, first, n in at for x in (f, slots_at + first, n)]
    where = calls_at
    for f in linker.fns:
        out += [linker.operand(f.ret_slot, f) if f.ret_slot is not None else -1, where]
        where += 3 * len(calls[f])
    out += [x for f in linker.fns for caller, first, n in calls[f] for x in (caller, slots_at + first, n)]
    return out + slots


__all__ = ["AT", "CELLS", "FUNCTIONS", "HEAD", "count_table"]
