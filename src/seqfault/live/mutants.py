"""How much `fuzz` sees: the mm text with one small change each, and how soon a difference from the kernel shows.

The kernel's answers to the programs of one seed are recorded once; each mutant answers the same programs.
"""

from __future__ import annotations

import ast
import copy
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.covered import CoveredProgram, reached_lines
from seqfault.compile.ir import CompileError
from seqfault.compile.source import Func, instead, source_of
from seqfault.kernel.layout import LIVE
from seqfault.kernel.machine import KernelBug
from seqfault.live.campaign import Options, open_kernel
from seqfault.live.compare import compare
from seqfault.live.fuzz import Found, Pair, examine
from seqfault.live.generate import Plan, programs
from seqfault.live.model import ENTRIES, ModelRun, ModelSide, live_lines, program_for, window_sizes
from seqfault.mm.opcodes import OP_START

Int64 = NDArray[np.int64]
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
    "flush_tlb_range", "flush_tlb_page", "tlb_flush_mmu_tlbonly",
}  # fmt: skip
# What they are told of a range matters to other CPUs' TLBs only.
TLB = {"tlb_gather_mmu", "tlb_finish_mmu", "tlb_start_vma", "tlb_end_vma", "tlb_remove_tlb_entry", "flush_tlb_range"}
SMALL = 8  # operations: what is found should show in so many
MUTANT_LEVEL = 0  # of optimisation: sooner made, and most run for a short while
FOLDED = {"LINUX", "FULL", "NR_MMS", "NR_CPUS"}
# Files whose text is the observer, the request and the machine, not Linux.
APART = (
    "mm/observe.py", "mm/opcodes.py", "mm/fullsize.py", "mm/oracles.py", "mm/tlb.py", "mm/slab.py", "mm/pagemap.py",
)  # fmt: skip
APART_FUNCTIONS = {"uapi_observe", "uapi_step", "uapi_init", "uapi_start", "uapi_restart"}


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


@dataclass
class Outcome:
    """What became of a mutant.  `operations`: how many had been compared when it showed, or all of them; `by`: what
    differed, or the oracle that spoke; `shrunk`: operations that show it."""

    mutant: Mutant
    found: bool
    operations: int
    by: str = ""
    shrunk: int = 0
    example: Found | None = None


@dataclass
class Study:
    """`stillborn`: changes that do not compile and were drawn again; `same`: likewise, of which the machine code is the
    unchanged text's; `unreached`: lines that no program came to."""

    outcomes: list[Outcome] = field(default_factory=list)
    stillborn: int = 0
    same: int = 0
    operations: int = 0
    unreached: dict[str, list[int]] = field(default_factory=dict)

    @property
    def survivors(self) -> list[Outcome]:
        return [o for o in self.outcomes if not o.found]


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


def make(fn: Func, kind: str, index: int, line: int, change: Callable[[Any], None]) -> Mutant:
    src = source_of(fn)
    tree = copy.deepcopy(src.node)
    node = next(n for k, n in enumerate(ast.walk(tree)) if k == index)
    if kind.startswith("dropped"):
        _, name, k = kind.split()
        before, after = ast.unparse(getattr(node, name)[int(k)]), "nothing"
        change(node)
    else:
        before = ast.unparse(node)
        change(node)
        after = ast.unparse(node)
    return Mutant(fn, tree, src.file, src.name, line, kind.split()[0], before, after)


def draws(o: Options, seed: int, covered: dict[str, set[int]] | None = None) -> dict[str, Iterator[Mutant]]:
    """Every mutant by its kind, in an order given by the seed.  `covered`: lines by file, outside of which nothing is
    changed."""
    by_kind: dict[str, list[tuple[Func, str, int, int, Any]]] = {}
    for fn, lines in sorted(compiled_lines(o, covered).items(), key=lambda x: (source_of(x[0]).file, min(x[1]))):
        for kind, i, line, change in sites(source_of(fn).node, lines):
            by_kind.setdefault(kind.split()[0], []).append((fn, kind, i, line, change))
    rng = random.Random(seed)
    for kind in sorted(by_kind):
        rng.shuffle(by_kind[kind])
    return {kind: (make(*x) for x in by_kind[kind]) for kind in sorted(by_kind)}


def draw(o: Options, seed: int) -> Iterator[Mutant]:
    """Every mutant, of the kinds in turn."""
    rest = list(draws(o, seed).values())
    while rest:
        for kind in list(rest):
            m = next(kind, None)
            if m is None:
                rest.remove(kind)
            else:
                yield m


class SameCode(Exception):
    """A change that the compiler makes the same machine code of: it is none."""


class MutantModel(ModelSide):
    """The model with one function changed."""

    def __init__(self, m: Mutant, o: Options, sizes: dict[str, int], unchanged: bytes = b""):
        """`unchanged`: the machine code of the text as it is; raises `SameCode` for the same."""
        with instead(m.fn, m.tree):
            self.geometry, self.release, self.detail_every = o.geometry, o.release, o.detail_every
            self.program = program_for(o.release, o.geometry, **sizes)
            self.program.level = MUTANT_LEVEL
            self.program._code = self.program.compile()
        if self.program._code.object == unchanged:
            raise SameCode
        self.machine: Any = self.program.machine()
        self.machine.limit_loops(1 << 18)
        self.at_start: dict[str, int] = {}
        self.out = np.zeros(1 << 20, np.int64)
        self.start()

    def run(self, rows: Int64) -> ModelRun:
        """As the model's own, but each program begins with memory as at the start: what a wrong text leaves behind
        must not show in the next one."""
        starts = [*np.flatnonzero(rows[:, 0] == OP_START).tolist(), len(rows)]
        streams, offsets, total, done = [], [np.zeros(1, np.int64)], 0, 0
        bug = None
        for a, b in pairwise(starts):
            self.machine.reset()
            self.start()
            r = super().run(rows[a:b])
            streams.append(r.stream[: r.offsets[r.done]].copy())
            offsets.append(r.offsets[1 : r.done + 1] + total)
            total += int(r.offsets[r.done])
            done += r.done
            bug = r.bug
            if bug is None and r.done == b - a:
                bug = self.leak()
                done -= bug is not None  # it is the last operation's, so that all of the program is looked at
            if bug is not None or r.done < b - a:
                break
        return ModelRun(np.concatenate(streams), np.concatenate(offsets), done, bug)

    def live(self) -> dict[str, int]:
        """How many objects of each kind there are when everybody has left."""
        rows = np.zeros((2, 8), np.int64)  # twice: what leaves may stay in a batch of pages until the next step
        rows[:, 0] = OP_START
        self.machine.batch("step", rows, "uapi_request", self.out)
        out = {}
        for name, p in self.program.layout.pools.items():
            if p.state == 0:
                states = self.machine.cells[p.base : p.base + p.n * p.stride : p.stride]
                out[name] = int((states == LIVE).sum())
        return out

    def leak(self) -> KernelBug | None:
        """What a program left behind."""
        now = self.live()
        if not self.at_start:
            self.machine.reset()
            self.start()
            self.at_start = self.live()
        for name, n in now.items():
            if n != self.at_start[name]:
                return KernelBug("leak", f"{name}: {n} objects after a program, {self.at_start[name]} before it")
        return None


class CoveredModel(ModelSide):
    """The model, noting which lines of its text it comes to."""

    def __init__(self, o: Options, sizes: dict[str, int]):
        self.geometry, self.release, self.detail_every = o.geometry, o.release, o.detail_every
        self.program = CoveredProgram(ENTRIES, sizes=window_sizes(o.release, o.geometry, **sizes))
        self.machine: Any = self.program.machine()
        self.out = np.zeros(1 << 20, np.int64)
        self.start()


def covered_lines(o: Options, known: Sequence[Recorded], sizes: dict[str, int]) -> dict[str, set[int]]:
    """The lines of mm/ that the programs reach, by file."""
    model = CoveredModel(o, sizes)
    for r in known:
        model.run(r.rows)
    return reached_lines(model.machine)


def unreached(o: Options, covered: dict[str, set[int]]) -> dict[str, list[int]]:
    """The lines of the release's text that may be changed and were not reached, by file."""
    out: dict[str, set[int]] = {}
    for f, lines in compiled_lines(o).items():
        file = source_of(f).file
        out.setdefault(file, set()).update(lines - covered.get(file, set()))
    return {file: sorted(lines) for file, lines in sorted(out.items()) if lines}


@dataclass
class Recorded:
    """Programs and the kernel's answers."""

    rows: Int64
    stream: Int64
    offsets: Int64


def record(kernel: Any, o: Options, tries: int = 8) -> list[Recorded]:
    """The kernel's answers to the first `o.ops` operations of the seed, taken again where something disturbed them.

    Raises `KernelBug` where the unchanged text does not agree with any of `tries`.
    """
    out = []
    done = 0
    pair = Pair(ModelSide(o.release, o.geometry, o.detail_every, **kernel.sizes), kernel)
    while done * o.program_ops < o.ops:
        rows = programs(o.plan, done, 40, o.seal)
        for _ in range(tries):
            both = pair.run(rows)
            if both.at < 0:
                break
        else:
            raise KernelBug("kernel-side", both.message or f"the unchanged text differs: {both.mismatch}")
        out.append(Recorded(rows, both.kernel_stream.copy(), both.kernel_offsets.copy()))
        done += 40
    pair.pool.shutdown()
    return out


class Unchanged:
    """The unchanged model in the kernel's place: fast, and after no mismatch of the two as good for making small."""

    quiet = True  # nobody disturbs it

    def __init__(self, o: Options, kernel: Any):
        self.model = ModelSide(o.release, o.geometry, 1, **kernel.sizes)
        self.mask, self.sizes = kernel.mask, kernel.sizes
        program = program_for(o.release, o.geometry, **kernel.sizes)
        program.level = MUTANT_LEVEL
        self.code = program.compile().object

    def run(self, rows: Int64) -> tuple[Int64, Int64, str]:
        r = self.model.run(rows)
        n = int(r.offsets[r.done])
        return r.stream[:n].copy(), r.offsets[: r.done + 1].copy(), str(r.bug) if r.bug is not None else ""

    def details(self, every: int) -> None:
        pass

    def close(self) -> None:
        pass


def shorter(pair: Pair, found: Found, programs_tried: int = 12_000, ops: int = 12) -> Found:
    """The same difference may show sooner in a program of its own: some short ones are tried, with many VMAs and with
    few."""
    for every in (0, 1):
        plan = Plan(seed=1, program_ops=ops, geometry=pair.model.geometry, map_count_every=every)
        for first in range(0, programs_tried // 2, 400):
            batch = np.split(programs(plan, first, 400), 400)
            for part, at in zip(batch, pair.differing(batch), strict=True):
                got = examine(pair, part[: at + 1], first) if at >= 0 else None
                if got is not None and len(got.rows) < len(found.rows):
                    found = got
                if len(found.rows) - 1 <= SMALL:
                    return found
    return found


def make_small(model: ModelSide, kernel: Any, unchanged: Unchanged, rows: Int64, program: int) -> Found | None:
    """A short program in which the kernel differs from a changed model; None if `rows` differs not each time."""
    quick, real = Pair(model, unchanged), Pair(model, kernel)
    try:
        got = examine(quick, rows, program)
        if got is not None and len(got.rows) - 1 > SMALL:
            got = shorter(quick, got)
        if got is not None and real.differing([got.rows] * 3) == [len(got.rows) - 1] * 3:
            return got
        return examine(real, rows, program)
    finally:
        quick.pool.shutdown()
        real.pool.shutdown()


def try_mutant(
    m: Mutant, o: Options, known: Sequence[Recorded], kernel: Any, unchanged: Unchanged | None = None
) -> Outcome:
    """`unchanged`: if what is found is to be made small.  Raises `CompileError` if the change is no text of the
    language, and `SameCode` if it is none."""
    try:
        model = MutantModel(m, o, kernel.sizes, unchanged.code if unchanged is not None else b"")
    except KernelBug as e:  # it cannot even begin
        return Outcome(m, True, 0, f"before the first operation: {e}")
    done = 0
    for r in known:
        run = model.run(r.rows)
        n = min(run.done, len(r.rows))
        g = o.geometry
        got = compare(r.rows, run.stream, run.offsets, r.stream, r.offsets, g.observed, kernel.mask, n, g.nr_pages)
        at = got.row if got is not None else n if run.bug is not None else -1
        if at < 0:
            done += len(r.rows)
            continue
        by = got.what if got is not None else str(run.bug)
        out = Outcome(m, True, done + at, by)
        if unchanged is not None:
            start = int(np.flatnonzero(r.rows[: at + 1, 0] == 0)[-1])
            out.example = make_small(model, kernel, unchanged, r.rows[start : at + 1], start // (o.program_ops + 1))
            out.shrunk = len(out.example.rows) - 1 if out.example is not None else at - start
        return out
    return Outcome(m, False, done)


def study(
    o: Options,
    count: int,
    seed: int,
    note: Callable[[Study, str], None] | None = None,
    small: bool = True,
    share: tuple[int, int] = (0, 1),
) -> Study:
    """Try `count` mutants, as many of each kind; what does not compile is drawn again.  `share` (k, n): of each kind
    only every n-th, from the k-th."""
    s = Study()
    kernel = open_kernel(o)
    try:
        known = record(kernel, o)
        unchanged = Unchanged(o, kernel) if small else None
        s.operations = sum(len(r.rows) for r in known)
        covered = covered_lines(o, known, kernel.sizes)
        s.unreached = unreached(o, covered)
        kinds = [islice(k, share[0], None, share[1]) for k in draws(o, seed, covered).values()]
        for number in range(count):
            for m in kinds[number % len(kinds)]:
                t = time.perf_counter()
                try:
                    last = try_mutant(m, o, known, kernel, unchanged)
                except CompileError:
                    s.stillborn += 1
                    continue
                except SameCode:
                    s.same += 1
                    continue
                s.outcomes.append(last)
                if note is not None:
                    what = f"found by {last.by}, {last.shrunk} operations" if last.found else "SURVIVES"
                    note(s, f"{m.name}: {what} ({time.perf_counter() - t:.1f} s)")
                break
    finally:
        kernel.close()
    return s
