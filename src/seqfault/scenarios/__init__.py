"""Scenarios: small starting layouts and per-CPU operations, as data."""

from __future__ import annotations

import fnmatch
import tomllib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from seqfault.scenarios.families import generate
from seqfault.scenarios.model import Operation, Scenario, ScenarioError, from_dict

# families that are run only when named: mmap-sem itself violates the first, the second has no end, the third takes
# minutes, the fourth is for protocols that free VMAs at once
APART = ("linux-4.12/", "forever/", "large/", "reuse/")


def load(path: str) -> list[Scenario]:
    """The scenarios of a TOML file: ``[[scenario]]`` tables, or one scenario at the top.  Raises `ScenarioError`."""
    try:
        text = Path(path).read_text()
    except OSError as e:
        raise ScenarioError(f"{path}: {e.strerror}; name a scenario (seqfault list) or a TOML file") from None
    except UnicodeDecodeError:
        raise ScenarioError(f"{path} is not text; a scenario file is TOML") from None
    return parse(text, path)


def parse(text: str, source: str) -> list[Scenario]:
    try:
        d: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise ScenarioError(f"{source}: {e}; a scenario file is TOML, see docs/scenarios.md") from None
    tables = d.get("scenario", [d] if "cpus" in d else None)
    if not isinstance(tables, list) or not tables:
        raise ScenarioError(f"{source}: no scenario in it; begin one with [[scenario]]")
    out = [from_dict(t, source) for t in tables]
    seen: set[str] = set()
    for s in out:
        if s.name in seen:
            raise ScenarioError(f"{source}: two scenarios are named {s.name}; rename one")
        seen.add(s.name)
    return out


@lru_cache(maxsize=1)
def by_hand() -> tuple[Scenario, ...]:
    """The scenarios of seqfault that are written by hand; no name of them is a family's."""
    out: list[Scenario] = []
    folder = Path(__file__).parent
    for f in sorted(folder.glob("*.toml")):
        out += parse(f.read_text(), f"scenarios/{f.name}")
    return tuple(out)


@lru_cache(maxsize=1)
def everything() -> tuple[Scenario, ...]:
    """All scenarios that come with seqfault: those written by hand, then the generated families."""
    return (*by_hand(), *generate())


def builtin() -> list[Scenario]:
    """The default suite: everything but the families that are kept apart."""
    return [s for s in everything() if not s.name.startswith(APART)]


def find(patterns: list[str]) -> list[Scenario]:
    """Scenarios by name, glob pattern or family.  Raises `ScenarioError` when a pattern matches none."""
    out: dict[str, Scenario] = {}
    for p in patterns:
        if "~" in p:
            out[p] = without(p)
            continue
        hits = [s for s in by_hand() if s.name == p] or [
            s
            for s in everything()
            if s.name == p or s.name.startswith(p.rstrip("/") + "/") or fnmatch.fnmatchcase(s.name, p)
        ]
        if not hits:
            import difflib

            near = difflib.get_close_matches(p, [s.name for s in everything()], 1, 0.5)
            hint = f"; did you mean {near[0]}?" if near else "; `seqfault list` shows them"
            raise ScenarioError(f"no scenario is named or matches {p!r}{hint}")
        out |= {s.name: s for s in hits}
    return list(out.values())


def without(name: str) -> Scenario:
    """``case8/x~1.0,0.1``: a scenario with operations left out, in that order: the first of CPU 1, then the
    second of CPU 0."""
    base, _, dropped = name.partition("~")
    s = find([base])[0]
    for d in dropped.split(","):
        cpu, _, i = d.partition(".")
        if not (cpu.isdigit() and i.isdigit() and int(cpu) < len(s.cpus) and int(i) < len(s.cpus[int(cpu)])):
            raise ScenarioError(f"{name!r}: {base} has no operation {d!r} to leave out; write ~CPU.NUMBER, from 0")
        cpus = tuple(
            tuple(o for k, o in enumerate(ops) if (c, k) != (int(cpu), int(i))) for c, ops in enumerate(s.cpus)
        )
        s = replace(s, cpus=cpus)
    return replace(s, name=name)


__all__ = ["Operation", "Scenario", "ScenarioError", "builtin", "by_hand", "everything", "find", "load", "parse"]
