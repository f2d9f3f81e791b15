"""The mm text with one small change each: which there are, and in which order a seed draws them (live/study.py tries
them)."""

from __future__ import annotations

import ast
import copy
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from seqfault.compile.source import Func, source_of
from seqfault.live.campaign import Options
from seqfault.live.model import live_lines, program_for

COMPARE: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.Mult: ast.FloorDiv,
}
# Calls that have no meaning when one CPU runs alone, or that only look: without them nothing is wrong.
ORACLES = {
    "count", "seq_point", "might_sleep", "check", "BUG_ON", "validate_mm", "smp_wmb", "smp_rmb", "smp_mb", "barrier",
    "free_page_check", "flush_check", "cpu_relax", "preempt_disable", "preempt_enable", "vm_fault_clear",
    "flush_tlb_range", "flush_tlb_page", "tlb_flush_mmu_tlbonly", "__SetPageUptodate",
}  # fmt: skip
# What they are told of a range matters to other CPUs' TLBs only.
TLB = {"tlb_gather_mmu", "tlb_finish_mmu", "tlb_start_vma", "tlb_end_vma", "tlb_remove_tlb_entry", "flush_tlb_range"}
FOLDED = {"LINUX", "FULL", "NR_MMS", "NR_CPUS"}
# Files whose text is the observer, the request and the machine, not Linux.
APART = (
    "mm/observe.py", "mm/opcodes.py", "mm/fullsize.py", "mm/oracles.py", "mm/tlb.py", "mm/slab.py", "mm/pagemap.py",
)  # fmt: skip
APART_FUNCTIONS = {
    "uapi_observe", "uapi_step", "uapi_init", "uapi_start", "uapi_restart",
    "test_file", "test_files", "resize", "fence",
    "validate_mm", "browse_rb", "check_chain", "check_colours", "blacks_above", "free_page_check",
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change.  `before`, `after`: the statement or expression as text."""

    fn: Func
    tree: ast.FunctionDef
    file: str
    function: str
    line: int
    kind: str
    before: str
    after: str

    @property
    def name(self) -> str:
        return f"{self.file}:{self.line} {self.function}: {self.before} -> {self.after}"


def compiled_lines(o: Options, covered: dict[str, set[int]] | None = None) -> dict[Func, set[int]]:
    """The functions of mm/ that may be changed, and their lines that this release has (of `covered` only, if given)."""
    out = {}
    for f, mine in live_lines(program_for(o.release, o.geometry)).items():
        src = source_of(f)
        if src.file in APART or src.name in APART_FUNCTIONS:
            continue
        lines = mine if covered is None else mine & covered.get(src.file, set())
        if lines:
            out[f] = lines
    return out


def _folded(node: ast.AST) -> bool:
    return any(isinstance(n, ast.Name) and n.id in FOLDED for n in ast.walk(node))


def _calls_oracle(s: ast.stmt) -> bool:
    return (
        isinstance(s, ast.Expr)
        and isinstance(s.value, ast.Call)
        and isinstance(s.value.func, ast.Name)
        and s.value.func.id in ORACLES
    )


def _only_looks(s: ast.stmt) -> bool:
    """A call that only looks, or a choice between such."""
    if isinstance(s, ast.If):
        return all(_only_looks(x) for x in [*s.body, *s.orelse])
    return _calls_oracle(s)


def _in_oracle(tree: ast.FunctionDef) -> set[int]:
    """ids of nodes inside asserts and calls that only look, and of what chooses between such calls."""
    out: set[int] = set()
    for n in ast.walk(tree):
        if isinstance(n, ast.If) and _only_looks(n):
            out.update(id(m) for m in ast.walk(n))
        look = isinstance(n, ast.Assert) or (isinstance(n, ast.stmt) and _calls_oracle(n))
        if look or isinstance(n, ast.AnnAssign):
            parts = [n.annotation] if isinstance(n, ast.AnnAssign) else [n]
            for p in parts:
                out.update(id(m) for m in ast.walk(p))
    for a in tree.args.args:
        out.update(id(m) for m in ast.walk(a))
    if tree.returns is not None:
        out.update(id(m) for m in ast.walk(tree.returns))
    return out


def sites(tree: ast.FunctionDef, lines: set[int]) -> Iterator[tuple[str, int, int, Callable[[Any], None]]]:
    """Every change that could be made: kind, number of the node in ast.walk's order, line, what to do to the node."""
    skip = _in_oracle(tree)
    for i, n in enumerate(ast.walk(tree)):
        line = getattr(n, "lineno", 0)
        if id(n) in skip or line not in lines:
            continue
        if isinstance(n, ast.Compare) and not _folded(n):
            for k, op in enumerate(n.ops):
                for new in COMPARE.get(type(op), ()):

                    def change(m: Any, k: int = k, new: Any = new) -> None:
                        m.ops[k] = new()

                    yield "comparison", i, line, change
        elif isinstance(n, ast.BinOp) and type(n.op) in ARITHMETIC and not _folded(n):

            def operator(m: Any) -> None:
                m.op = ARITHMETIC[type(m.op)]()

            yield "operator", i, line, operator
        elif isinstance(n, ast.AugAssign) and type(n.op) in ARITHMETIC:

            def assign(m: Any) -> None:
                m.op = ARITHMETIC[type(m.op)]()

            yield "operator", i, line, assign
        elif isinstance(n, ast.BoolOp) and not _folded(n):

            def either(m: Any) -> None:
                m.op = ast.Or() if isinstance(m.op, ast.And) else ast.And()

            yield "operator", i, line, either
        elif isinstance(n, ast.UnaryOp) and isinstance(n.op, ast.Not) and not _folded(n):

            def drop_not(m: Any) -> None:
                m.op = ast.Not()
                m.operand = ast.UnaryOp(ast.Not(), m.operand)

            yield "operator", i, line, drop_not
        elif isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id not in ORACLES | TLB:
            for k in range(len(n.args) - 1):
                if ast.dump(n.args[k]) != ast.dump(n.args[k + 1]) and n.func.id not in ("min", "max"):

                    def swap(m: Any, k: int = k) -> None:
                        m.args[k], m.args[k + 1] = m.args[k + 1], m.args[k]

                    yield "arguments", i, line, swap
        body = getattr(n, "body", None)
        if isinstance(body, list):
            for name in ("body", "orelse"):
                for k, s in enumerate(getattr(n, name, [])):
                    drop = isinstance(s, ast.AugAssign) or (
                        isinstance(s, ast.Assign) and isinstance(s.targets[0], ast.Attribute | ast.Subscript)
                    )
                    drop |= isinstance(s, ast.Expr) and isinstance(s.value, ast.Call) and not _calls_oracle(s)
                    if drop and s.lineno in lines:

                        def remove(m: Any, name: str = name, k: int = k) -> None:
                            getattr(m, name)[k] = ast.copy_location(ast.Pass(), getattr(m, name)[k])

                        yield f"dropped {name} {k}", i, s.lineno, remove


@dataclass(frozen=True)
class Site:
    """A change that could be made: see `sites`."""

    fn: Func
    kind: str
    index: int
    line: int
    change: Callable[[Any], None]

    def make(self) -> Mutant:
        src = source_of(self.fn)
        tree = copy.deepcopy(src.node)
        node = next(n for k, n in enumerate(ast.walk(tree)) if k == self.index)
        if self.kind.startswith("dropped"):
            _, name, k = self.kind.split()
            before, after = ast.unparse(getattr(node, name)[int(k)]), "nothing"
            self.change(node)
        else:
            before = ast.unparse(node)
            self.change(node)
            after = ast.unparse(node)
        return Mutant(self.fn, tree, src.file, src.name, self.line, self.kind.split()[0], before, after)


def draws(o: Options, seed: int, covered: dict[str, set[int]] | None = None) -> dict[str, list[Site]]:
    """Every change that could be made by its kind, in an order given by the seed.  `covered`: lines by file, outside of
    which nothing is changed.

    Where a change comes depends on itself and its function only, so that another text, or other programs, draw nearly
    the same ones.
    """
    by_kind: dict[str, list[tuple[bytes, Site]]] = {}
    for fn, lines in compiled_lines(o, covered).items():
        src = source_of(fn)
        variants: Counter[tuple[str, int]] = Counter()
        for kind, i, line, change in sites(src.node, lines):
            variants[kind, i] += 1
            text = f"{seed} {src.file} {src.name} {kind} {i} {variants[kind, i]}"
            digest = hashlib.sha256(text.encode()).digest()
            by_kind.setdefault(kind.split()[0], []).append((digest, Site(fn, kind, i, line, change)))
    return {kind: [s for _, s in sorted(by_kind[kind], key=lambda x: x[0])] for kind in sorted(by_kind)}


def draw(o: Options, seed: int) -> Iterator[Mutant]:
    """Every mutant, of the kinds in turn."""
    for row in zip_longest(*draws(o, seed).values()):
        yield from (s.make() for s in row if s is not None)
