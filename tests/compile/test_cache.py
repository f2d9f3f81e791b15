"""What is kept of compiled text, and what goes again."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from seqfault.compile import cache

DAY = 86_400.0
NOW = float(int(time.time()))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SEQFAULT_CACHE", str(tmp_path))
    return tmp_path


def put(path, days: float, size: int = 10) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (NOW - days * DAY,) * 2)


def test_what_is_kept_is_read_again():
    cache.keep("a.steps", b"code")
    assert cache.kept("a.steps") == b"code" and cache.kept("b.steps") is None
    assert cache.kept_object("a.steps") is None  # no object
    assert (cache.cache_dir() / cache.STAMP).exists()


def test_reading_is_using(folder):
    put(folder / "a.native", 40)
    assert cache.kept("a.native")
    assert cache.prune(folder, NOW) == 0


def test_the_old_goes_and_what_is_not_ours_stays(folder):
    for name, days in [("a.automaton", 31), ("b.automaton", 20), ("c.best", 400), ("d.txt", 400), ("tmpq", 2), ("tmpr", 31)]:
        put(folder / name, days)
    put(folder / "engine-0123456789abcdef" / "x.nbi", 31)
    put(folder / "views-0123456789abcdef" / "x.nbi", 1)
    put(folder / "debian-6.1" / "vmlinuz", 400)
    assert cache.prune(folder, NOW) == 4
    assert {p.name for p in folder.iterdir()} == {
        "b.automaton", "d.txt", "tmpq", "views-0123456789abcdef", "debian-6.1", cache.STAMP
    }  # fmt: skip
    put(folder / "a.automaton", 31)
    assert cache.prune(folder, NOW + DAY / 2) == 0  # not twice a day
    assert cache.prune(folder, NOW + 1.1 * DAY) == 1


def test_of_too_much_the_oldest_goes(folder, monkeypatch):
    monkeypatch.setattr(cache, "MOST_BYTES", 250)
    for k in range(4):
        put(folder / f"{k}.steps", k, 100)
    assert cache.prune(folder, NOW) == 2
    assert sorted(p.name for p in folder.glob("*.steps")) == ["0.steps", "1.steps"]


def test_where_nothing_can_be_written_nothing_is_kept(folder, monkeypatch):
    (folder / "file").write_text("")
    monkeypatch.setenv("SEQFAULT_CACHE", str(folder / "file"))
    cache.keep("a.steps", b"code")
    assert cache.kept("a.steps") is None


def test_lines_are_read_again(folder):
    one, other = cache.Lines(folder / "a.setups"), cache.Lines(folder / "a.setups")
    one.put("x", [1, None, True])
    other.put("y", {"z": 2})
    with (folder / "a.setups").open("a") as f:
        f.write('["cut", [1,\n[3]\n')
    again = cache.Lines(folder / "a.setups")
    assert again.get("x") == [1, None, True] and again.get("y") == {"z": 2}
    assert again.get("cut") is None and one.get("y") is None


def test_lines_where_nothing_can_be_written():
    lines = cache.Lines(Path("/proc/none/a.setups"))
    lines.put("x", 1)
    assert lines.get("x") == 1
