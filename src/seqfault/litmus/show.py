"""A verdict in herd7's words, and the cycle that forbids a state."""

from __future__ import annotations

from typing import Any

from seqfault.litmus.judge import Candidate, Verdict, holds_for
from seqfault.litmus.lkmm import INIT, Broken
from seqfault.litmus.tree import Litmus, place_text, prop_text, shown

KIND = {"exists": "Allowed", "forall": "Required", "~exists": "Forbidden"}
AXIOM = {
    "coherence": "acyclic po-loc | com",
    "atomic": "empty rmw & (fre ; coe)",
    "happens-before": "acyclic hb",
    "propagation": "acyclic pb",
    "rcu": "irreflexive rb",
    "thin-air": "acyclic rf | value, which is no axiom: no values solve it",
    "plain-coherence": "empty (wr-incoh | rw-incoh | ww-incoh)",
}
ROLE = {
    "addr": "ppo", "data": "ppo", "ctrl": "ppo", "addr;wmb": "ppo", "rfi": "ppo", "fri": "ppo", "coi": "ppo",
    "rmb": "fence", "acq-po": "fence", "wmb": "cumul-fence", "po-rel": "cumul-fence",
    "po-unlock-lock-po": "cumul-fence", "mb": "strong-fence", "gp": "strong-fence",
}  # fmt: skip


def state_text(verdict: Verdict, state: tuple[Any, ...]) -> str:
    """``0:r0=0; [x]=1;``."""
    return " ".join(f"{place_text(p)}={shown(v)};" for p, v in zip(verdict.places, state, strict=True))


def states(verdict: Verdict) -> list[str]:
    """The final states, in order."""
    return sorted(state_text(verdict, s) for s in verdict.states)


def condition_text(test: Litmus) -> str:
    """The condition with its quantifier."""
    if test.condition is None:
        return "forall (true)"
    return f"{test.condition.kind} ({prop_text(test.condition.prop)})"


def report(test: Litmus, verdict: Verdict, seconds: float) -> list[str]:
    """The lines that herd7 prints (herd/top_herd.ml); Positive and Negative change places for ``~exists`` there."""
    kind = test.condition.kind if test.condition else "forall"
    pos, neg = verdict.positive, verdict.negative
    witnesses = (neg, pos) if kind == "~exists" else (pos, neg)
    return [
        f"Test {test.name} {KIND[kind]}",
        f"States {len(verdict.states)}",
        *states(verdict),
        "Ok" if holds_for(test, verdict) else "No",
        "Witnesses",
        f"Positive: {witnesses[0]} Negative: {witnesses[1]}",
        *(f"Flag {f}" for f in sorted(verdict.flags)),
        f"Condition {condition_text(test)}",
        f"Observation {test.name} {verdict.observation} {pos} {neg}",
        f"Time {test.name} {seconds:.2f}",
    ]


def races(test: Litmus, verdict: Verdict) -> list[str]:
    """The pairs of accesses that race."""
    out = []
    for a, b, kind in sorted(verdict.races):
        out.append(f"Race ({kind}) of line {a}: {source(test, a)}")
        out.append(f"     with line {b}: {source(test, b)}")
    return out


def source(test: Litmus, line: int) -> str:
    """A line of the file, without blanks around it."""
    return test.source[line - 1].strip() if 0 < line <= len(test.source) else ""


def why(test: Litmus, found: tuple[Candidate, Broken]) -> list[str]:
    """The cycle, an event or an edge a line."""
    candidate, broken = found
    out = [f"Forbidden by {broken.axiom}: {AXIOM[broken.axiom]}"]
    for a, b, name in broken.edges:
        out.append(f"  {event_text(test, candidate, a)}")
        role = ROLE.get(name)
        out.append(f"      {f'{role} ({name})' if role else name}{_through(test, candidate, a, b, name)} ->")
    if broken.edges:
        out.append(f"  {event_text(test, candidate, broken.edges[-1][1])}")
    return out


def event_text(test: Litmus, candidate: Candidate, i: int) -> str:
    """``P0 R x=1 (line 12: r0 = READ_ONCE(*x);)``."""
    s = candidate.skeleton
    e = s.events[i]
    what = f"{e.kind} {e.address}={shown(e.value)}" if e.address else f"{e.kind}[{e.tag}]"
    if s.thread[i] == INIT:
        return f"init {what}"
    return f"P{s.thread[i]} {what} (line {e.line}: {source(test, e.line)})"


def _through(test: Litmus, candidate: Candidate, a: int, b: int, name: str) -> str:
    """The fence of an edge, if the edge is one."""
    s = candidate.skeleton
    tags = {"mb": ("mb", "before-atomic", "after-atomic", "after-spinlock", "after-unlock-lock",
                   "after-srcu-read-unlock"), "rmb": ("rmb",), "wmb": ("wmb",),
            "gp": ("sync-rcu", "sync-srcu"), "rcu-fence": ("sync-rcu", "sync-srcu")}.get(name, ())  # fmt: skip
    lines = [
        s.events[i].line
        for i in range(s.n)
        if s.events[i].tag in tags
        and (name == "rcu-fence" or (a < i <= b and s.thread[i] in (s.thread[a], s.thread[b])))
    ]
    return f", line {', '.join(map(str, sorted(set(lines))))}" if lines else ""


def as_json(test: Litmus, verdict: Verdict, seconds: float, found: tuple[Candidate, Broken] | None) -> dict[str, Any]:
    """The same as a JSON object (docs/litmus.md)."""
    kind = test.condition.kind if test.condition else "forall"
    out: dict[str, Any] = {
        "file": test.file,
        "name": test.name,
        "kind": KIND[kind],
        "condition": condition_text(test),
        "observation": verdict.observation,
        "expected": test.result,
        "ok": holds_for(test, verdict),
        "positive": verdict.positive,
        "negative": verdict.negative,
        "states": [
            {**{place_text(p): shown(v) for p, v in zip(verdict.places, s, strict=True)}, "executions": n}
            for s, n in sorted(verdict.states.items(), key=lambda sn: state_text(verdict, sn[0]))
        ],
        "flags": sorted(verdict.flags),
        "races": [{"kind": k, "lines": [a, b]} for a, b, k in sorted(verdict.races)],
        "candidates": verdict.candidates,
        "seconds": round(seconds, 3),
        "forbidden_by": None,
    }
    if found:
        candidate, broken = found
        out["forbidden_by"] = {
            "axiom": broken.axiom,
            "cycle": [
                {"from": event_text(test, candidate, a), "relation": n, "to": event_text(test, candidate, b)}
                for a, b, n in broken.edges
            ],
        }
    return out
