"""What mmap-sem shows is kept, by text and scenario; what cannot be read is explored again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from seqfault.explore import baselines, check
from seqfault.explore.check import Limits, baseline_of
from seqfault.scenarios import find


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(baselines, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(check, "_baselines", {})
    baselines.stored.cache_clear()
    yield tmp_path
    baselines.stored.cache_clear()


def again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process."""
    monkeypatch.setattr(check, "_baselines", {})
    baselines.stored.cache_clear()


def test_kept_and_read(fresh: Path, monkeypatch: pytest.MonkeyPatch):
    s = find(["argued/third-question"])[0]
    first = baseline_of(s, Limits())
    [file] = fresh.iterdir()
    assert len(file.read_text().splitlines()) == 1
    again(monkeypatch)
    monkeypatch.setattr(check, "run_one", None)  # nothing is explored
    assert baseline_of(s, Limits()) == first and first[2] and first[0]


def test_damaged_lines_are_explored_again(fresh: Path, monkeypatch: pytest.MonkeyPatch):
    s = find(["argued/third-question"])[0]
    first = baseline_of(s, Limits())
    [file] = fresh.iterdir()
    file.write_text(file.read_text()[:-20] + "\n[3]\n")
    again(monkeypatch)
    assert baseline_of(s, Limits()) == first
    file.write_bytes(b"\xff\xfe")
    again(monkeypatch)
    assert baseline_of(s, Limits()) == first


def test_only_what_is_whole_is_kept(fresh: Path):
    s = find(["argued/third-question"])[0]
    assert not baseline_of(s, Limits(states=10))[2]
    assert not list(fresh.iterdir())


def test_no_cache(fresh: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(baselines, "cache_dir", lambda: Path("/proc/none"))
    assert baseline_of(find(["argued/third-question"])[0], Limits())[2]


def test_each_text_has_its_own_file(fresh: Path):
    a, b = baselines.stored("text"), baselines.stored("text of another release")
    assert a.lines.path != b.lines.path
