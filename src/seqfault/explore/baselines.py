"""What mmap-sem shows in a scenario, kept in the cache: every check of another protocol is held against it.

A file for each text of mmap-sem, release of the engine and memory model; a line for each scenario, whole explorations
only.  A line that cannot be read is as one that is not there.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from functools import cache
from pathlib import Path

from seqfault.compile.cache import cache_dir
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
        self.path = cache_dir() / f"{name}.baseline"
        self.known: dict[str, Shown] = {}
        try:
            lines = self.path.read_text().splitlines()
        except (OSError, UnicodeDecodeError):
            return
        for line in lines:
            try:
                key, outcomes, violations = json.loads(line)
                self.known[key] = set(outcomes), {(k, o) for k, o in violations}
            except (ValueError, TypeError):
                continue

    def get(self, scenario: Scenario) -> Shown | None:
        """What is known of a scenario."""
        return self.known.get(_key(scenario))

    def put(self, scenario: Scenario, shown: Shown) -> None:
        """Keep what a whole exploration has shown."""
        key = _key(scenario)
        self.known[key] = shown
        line = json.dumps([key, sorted(shown[0]), sorted(shown[1])]) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as f:
                fcntl.flock(f, fcntl.LOCK_EX)
                f.write(line)
        except OSError:
            pass  # a read-only home only costs the time to explore again


def _key(scenario: Scenario) -> str:
    return hashlib.sha256(repr(scenario).encode()).hexdigest()[:32]


@cache
def stored(text: str) -> Stored:
    """The file of a text, read once."""
    return Stored(text)
