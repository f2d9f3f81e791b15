"""The test as text: threads, their parameters, what is asked."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.compile.ir import Where
from seqfault.explore.engine import Executor
from seqfault.explore.tables import DISABLED
from seqfault.report.litmus.path import WRITER, Event, ExportError, Run, Sym, Walk, false

ASKS = ("bad", "seen")
MOST_STEPS = 100_000
TYPES = {
    "lock": "spinlock_t", "unlock": "spinlock_t", "trylock": "spinlock_t", "srcu_lock": "struct srcu_struct",
    "srcu_unlock": "struct srcu_struct", "grace": "struct srcu_struct",
    **{f"{way}_{how}": "atomic_t" for way in ("down", "up") for how in ("read", "write")},
}  # fmt: skip
HARMLESS = str.maketrans({"{": "(", "}": ")", '"': "'"})  # herd7 finds the end of a thread by its braces
# a control dependency orders stores alone, and each branch doubles what a judge has to look at
ORDERED_BY_NO_BRANCH = ("load", "fence", "cond", "check")
AND, OR = " /\\ ", " \\/ "


@dataclass(frozen=True)
class LitmusExport:
    """A litmus test.

    `cells`: its shared variables, each with the cell that it stands for. `statements`: how many, without conditions and
    checks. `ask`: ``bad`` (a check of the text fails on this path) or ``seen`` (the loads return what they returned).
    """

    text: str
    name: str
    threads: list[str]
    cells: dict[str, str]
    statements: int
    ask: str


def sequential(a: Automaton, init: NDArray[np.uint64], rom: NDArray[np.int64]) -> list[tuple[int, int]]:
    """The schedule in which each CPU runs to its end, one after the other; agents act when no CPU can, and at the end.

    Raises:
        ExportError: the run does not end.
    """
    ex = Executor(a, rom, "merged")
    words = ex.start(init)
    out: list[tuple[int, int]] = []
    turns = sorted((p for p, x in enumerate(a.processes) if x.role != 2), key=lambda p: (a.processes[p].role, p))
    while len(out) < MOST_STEPS:
        for p in turns:
            if ex.pc(words, p) == a.halt_pc:
                continue
            choice = next((c for c in range(16) if ex.run(words.copy(), p, c) != DISABLED), -1)
            if choice >= 0:
                out.append((p, choice))
                if ex.run(words, p, choice) != 0:  # the path ends
                    return out
                break
        else:
            return out
    raise ExportError(f"the sequential run does not end within {MOST_STEPS} steps; give a schedule with --schedule")


def export_litmus(
    a: Automaton,
    init: NDArray[np.uint64],
    rom: NDArray[np.int64],
    schedule: Sequence[tuple[int, int]],
    *,
    name: str,
    note: Sequence[str] = (),
    ask: str | None = None,
    plain: bool = False,
    only: Callable[[str], bool] = lambda cell: True,
    source: Callable[[Where], str] = lambda w: "",
) -> LitmusExport:
    """The run of `schedule` as a litmus test.

    Args:
        a, init, rom, schedule: as for `replay`.
        name: of the test; characters that a name cannot have are replaced.
        note: lines of the comment at the top.
        ask: ``bad`` or ``seen``; by default ``bad`` if the run makes a check that depends on a load.
        plain: plain accesses stay plain; otherwise they are written as READ_ONCE and WRITE_ONCE.
        only: whether a cell, by its name, belongs into the test.
        source: the source line of an instruction, for comments.

    Raises:
        ExportError: the run cannot be followed, no two CPUs share a cell, there is no check to fail.
    """
    cells = a.unpack(Executor(a, rom, "merged").start(init).view(np.uint64))
    run = Walk(a, init, rom, schedule, only).run()
    start = {c.name: v or 0 for c, v in zip(a.cells, cells, strict=True)}
    return _Writer(run, start, plain, source).write(name, note, ask)


class _Writer:
    def __init__(self, run: Run, start: dict[str, int], plain: bool, source: Callable[[Where], str]) -> None:
        self.run, self.start, self.plain, self.source = run, start, plain, source
        self.threads = {t: tidy(es, run.grace) for t, es in sorted(run.threads.items())}
        self.threads = {t: es for t, es in self.threads.items() if any(e.var for e in es)}
        self.names = short_names({e.var for es in self.threads.values() for e in es if e.var})
        self.types = {e.var: TYPES.get(e.kind, "int") for es in self.threads.values() for e in es if e.var}

    def write(self, name: str, note: Sequence[str], ask: str | None) -> LitmusExport:
        if len(self.threads) < 2:
            raise ExportError("no two CPUs share a cell that one of them stores in this run; name another schedule")
        checks = [(i, e) for i, es in enumerate(self.threads.values()) for e in es if e.kind == "check"]
        conds = [(i, e) for i, es in enumerate(self.threads.values()) for e in es if e.kind == "cond"]
        if ask == "bad" and not checks:
            raise ExportError(
                "this run checks nothing that depends on a shared cell; ask for what was seen: --ask seen"
            )
        ask = ask or ("bad" if checks else "seen")
        name = re.sub(r"[^\w+.=,-]+", "-", name).strip("-")
        lines = [f"C {name}", "", "(*"]
        head = [*note, *([""] if note else []), *self.legend()]
        lines += [f" * {x}".replace("*)", "* )").rstrip() for x in head] + [" *)", "", "{"]
        for var in sorted(self.names, key=self.names.__getitem__):
            kind, value = self.types[var], self.start.get(var, 0)
            short = self.names[var]
            if kind == "atomic_t":
                lines.append(f"\tatomic_t {short} = ATOMIC_INIT(0);")
            elif kind == "int":
                lines.append(f"\tint {short} = {value};")
        lines.append("}")
        for i, (thread, events) in enumerate(self.threads.items()):
            used = dict.fromkeys(e.var for e in events if e.var)
            params = ", ".join(f"{self.types[v]} *{self.names[v]}" for v in used)
            locals_ = dict.fromkeys(e.reg for e in events if e.reg and e.kind != "srcu_unlock")
            declared = [f"\tint {r};" for r in locals_]
            lines += ["", f"// {thread}", f"P{i}({params})", "{", *declared, "", *self.body(events), "}"]
        lines += ["", *self.asks(ask, checks, conds)]
        statements = sum(e.kind not in ("cond", "check") for es in self.threads.values() for e in es)
        cells = {short: cell for cell, short in sorted(self.names.items(), key=lambda x: x[1])}
        return LitmusExport("\n".join(lines) + "\n", name, list(self.threads), cells, statements, ask)

    def legend(self) -> list[str]:
        return [f"{short}: {cell}" for cell, short in sorted(self.names.items(), key=lambda x: x[1]) if short != cell]

    def asks(self, ask: str, checks: list[tuple[int, Event]], conds: list[tuple[int, Event]]) -> list[str]:
        out = []
        if conds:
            out.append("// the way that the run took")
            out.append(f"filter ({AND.join(f'{i}:{e.reg}=1' for i, e in conds)})")
        if ask == "seen":
            at = {t: i for i, t in enumerate(self.threads)}
            kept = {e.reg for es in self.threads.values() for e in es}
            parts = [f"{at[t]}:{r}={v}" for r, (t, v) in self.run.loads.items() if r in kept]
            return [*out, "// and what its loads returned", f"exists ({AND.join(parts) or 'true'})"]
        out.append("// and a check fails")
        out.append(f"exists ({OR.join(f'{i}:{e.reg}=0' for i, e in checks)})")
        return out

    def body(self, events: list[Event]) -> list[str]:
        out: list[str] = []
        open_: list[str] = []
        before = ""
        for n, e in enumerate(events):
            wanted = list(e.under)
            if e.kind in ORDERED_BY_NO_BRANCH:
                wanted = [c for c in wanted if c in open_ and self.later(events, n, c)]
            while open_ and (len(open_) > len(wanted) or open_ != wanted[: len(open_)]):
                open_.pop()
                out.append("\t" * (len(open_) + 1) + "}")
            for c in wanted[len(open_) :]:
                out.append("\t" * (len(open_) + 1) + f"if ({c}) {{")
                open_.append(c)
            for k, line in enumerate(self.statement(e)):
                said = self.source(e.where).translate(HARMLESS)
                shown = said if said != before and not k else ""
                out.append("\t" * (len(open_) + 1) + line + (f" // {shown}" if shown else ""))
                before = said
        while open_:
            open_.pop()
            out.append("\t" * (len(open_) + 1) + "}")
        return out

    def later(self, events: list[Event], n: int, cond: str) -> bool:
        """Whether a store stands under a condition from here on."""
        return any(cond in e.under for e in events[n:] if e.kind not in ORDERED_BY_NO_BRANCH)

    def pointer(self, e: Event) -> str:
        return f"{self.names[e.var]} + {false(e.addr)}" if e.addr else self.names[e.var]

    def place(self, e: Event) -> str:
        return f"*({self.pointer(e)})" if e.addr else f"*{self.names[e.var]}"

    def statement(self, e: Event) -> list[str]:
        v = self.names.get(e.var, "")
        plain = self.plain and e.word == "plain"
        match e.kind:
            case "load":
                if e.word == "acquire":
                    return [f"{e.reg} = smp_load_acquire({self.pointer(e)});"]
                word = "rcu_dereference" if e.word == "dereference" else "READ_ONCE"
                return [f"{e.reg} = {self.place(e) if plain else f'{word}({self.place(e)})'};"]
            case "store":
                if e.word == "release":
                    return [f"smp_store_release({self.pointer(e)}, {bare(e.value)});"]
                value = bare(e.value)
                return [f"{self.place(e)} = {value};" if plain else f"WRITE_ONCE({self.place(e)}, {value});"]
            case "rmw":
                if e.word.startswith("fetch_add"):
                    return [f"{e.reg} = atomic_{e.word}({bare(e.value)}, {self.pointer(e)});"]
                old = f"{bare(e.old)}, " if e.old is not None else ""
                return [f"{e.reg} = {e.word}({self.pointer(e)}, {old}{bare(e.value)});"]
            case "fence":
                return [f"{e.word}();"]
            case "lock" | "unlock":
                return [f"spin_{e.kind}({v});"]
            case "trylock":
                return [f"{e.reg} = spin_trylock({v});"]
            case "down_read":
                return [f"{e.reg} = atomic_fetch_add_acquire(1, {v});"]
            case "up_read":
                return [f"{e.reg} = atomic_fetch_sub_release(1, {v});"]
            case "down_write":
                return [f"{e.reg} = atomic_cmpxchg_acquire({v}, 0, {WRITER});"]
            case "up_write":
                return [f"atomic_set_release({v}, 0);"]
            case "srcu_lock":
                return [f"{e.reg} = srcu_read_lock({v});"]
            case "srcu_unlock":
                return [f"srcu_read_unlock({v}, {e.reg});"]
            case "grace":
                return [f"synchronize_srcu({v});"]
            case "cond" | "check":
                return [f"{e.reg} = ({bare(e.value)});"]
        raise AssertionError(e.kind)


def tidy(events: list[Event], grace: bool) -> list[Event]:
    """Without fences that order nothing, and without critical sections of SRCU if no grace period ends in the run."""
    out: list[Event] = []
    fences: list[Event] = []  # since the last access
    last: Event | None = None
    for e in events:
        if not grace and (e.kind.startswith("srcu") or e.var.endswith(".called")):
            continue
        if e.kind == "fence":
            fences.append(e)
            continue
        if e.var:
            if last is not None:
                out += strongest(fences, last)
            last, fences = e, []
        out.append(e)
    return out


def strongest(fences: list[Event], last: Event) -> list[Event]:
    """Of fences between two accesses, those that are no part of another."""
    words = {f.word for f in fences}
    if last.kind != "lock":
        words -= {"smp_mb__after_spinlock"}
    if "smp_mb" in words:
        words = {"smp_mb"}
    return [next(f for f in fences if f.word == w) for w in dict.fromkeys(f.word for f in fences) if w in words]


def short_names(cells: set[str]) -> dict[str, str]:
    """A name for each cell: its field, with its object before it where that is not enough."""
    out: dict[str, str] = {}
    fields: dict[str, list[str]] = {}
    for c in cells:
        fields.setdefault(tidied(c.rpartition(".")[2]), []).append(c)
    for field, cs in fields.items():
        taken = re.fullmatch(r"[rps]\d+|ok\d+|P\d+|int|if|[a-z]*lock_t", field) or field in RESERVED
        for c in cs:
            first, _, rest = c.partition(".")
            out[c] = field if len(cs) == 1 and not taken else tidied(f"{first.replace('_struct', '')}_{rest or 'it'}")
    if len(set(out.values())) < len(out):
        return {c: tidied(c) for c in cells}
    return out


RESERVED = {"exists", "forall", "filter", "locations", "not", "true", "false", "void", "int", "if", "else", "for", "do"}


def tidied(text: str) -> str:
    """As an identifier of C."""
    name = re.sub(r"\W+", "_", text).strip("_")
    return name if name and not name[0].isdigit() else f"v{name}"


def bare(s: Sym | None) -> str:
    """An expression without brackets around all of it."""
    text = str(s)
    if text.startswith("(") and text.endswith(")"):
        depth = 0
        for i, c in enumerate(text):
            depth += {"(": 1, ")": -1}.get(c, 0)
            if not depth and i < len(text) - 1:
                return text
        return text[1:-1]
    return text
