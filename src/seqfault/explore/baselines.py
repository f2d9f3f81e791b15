"""What mmap-sem shows in a scenario, kept in the cache: every check of another protocol is held against it.

A file for each text of mmap-sem, release of the engine and memory model; a line for each scenario, whole explorations
only.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from seqfault.compile.cache import Lines, cache_dir
from seqfault.compile.digest import files_digest
from seqfault.scenarios.model import Scenario

Shown = tuple[set[int], set[tuple[str, str]]]  # outcomes; kinds and objects of violations


@cache
def _engine() -> str:
    return files_digest(sorted(Path(__file__).parent.glob("*.py")))[:16]


class Stored:
    """`text`: the key of mmap-sem's automaton (`Program.key`), with the memory model and what else decides."""

    def __init__(self, text: str):
        name = hashlib.sha256(f"{text} {_engine()}".encode()).hexdigest()[:32]
        self.lines = Lines(cache_dir() / f"{name}.baseline")

    def get(self, scenario: Scenario) -> Shown | None:
        """What is known of a scenario."""
        known = self.lines.get(_key(scenario))
        if known is None:
            return None
        try:
            outcomes, violations = known
            return set(outcomes), {(k, o) for k, o in violations}
        except (ValueError, TypeError):
            return None

    def put(self, scenario: Scenario, shown: Shown) -> None:
        """Keep what a whole exploration has shown."""
        self.lines.put(_key(scenario), [sorted(shown[0]), sorted(shown[1])])


def _key(scenario: Scenario) -> str:
    return hashlib.sha256(repr(scenario).encode()).hexdigest()[:32]


@cache
def stored(text: str) -> Stored:
    """The file of a text, read once."""
    return Stored(text)
