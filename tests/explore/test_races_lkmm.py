"""Data races under the kernel's memory model, held against the axioms of tools/memory-model on random programs with plain
accesses; and under tso."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest
import test_memory_views as views
from from_litmus import Refused, automaton, read
from test_races import RACING, races

from seqfault.cli import main
from seqfault.explore.engine import explore
from seqfault.explore.racewatch import Races
from seqfault.litmus.judge import judge
from seqfault.litmus.threads import Limits as JudgeLimits

MESSAGE = """C message

{{}}

P0(int *x, int *y)
{{
	{before}
	{store}
	{order}
	{flag}
}}

P1(int *x, int *y)
{{
	int r0;
	int r1;
	r0 = {look};
	if (r0) {{
		{fence}
		r1 = {load};
	}}
}}

exists (1:r0=1 /\\ 1:r1=0)
"""
WORDS = {"before": "", "store": "*x = 1;", "order": "smp_wmb();", "flag": "WRITE_ONCE(*y, 1);", "look": "READ_ONCE(*y)",
         "fence": "smp_rmb();", "load": "*x"}  # fmt: skip


def both(text: str, folder: Path) -> tuple[bool, bool, Races]:
    """Whether the axioms have a data race; whether the checker has one, and what it found."""
    test = read(text)
    a, words, rom, *_ = automaton(test, folder)
    w = Races(a)
    ex = explore(a, words, rom, watcher=w)
    assert ex.complete and not w.full
    return "data-race" in judge(test, JudgeLimits(candidates=300_000)).flags, bool(w.pairs()), w


@pytest.mark.parametrize(
    ("change", "racy"),
    [
        ({}, False),
        ({"order": ""}, True),
        ({"fence": ""}, True),
        ({"fence": "", "look": "smp_load_acquire(y)"}, False),
        ({"order": "", "flag": "smp_store_release(y, 1);"}, False),
        ({"order": "", "store": "WRITE_ONCE(*x, 1);"}, True),
        ({"fence": "", "load": "READ_ONCE(*x)"}, True),
        ({"order": "", "store": "WRITE_ONCE(*x, 1);", "load": "READ_ONCE(*x)"}, False),
        ({"before": "*x = 2;"}, False),
        ({"order": "", "before": "*x = 2; smp_wmb();"}, True),
    ],
)
def test_a_message(change: dict[str, str], racy: bool, tmp_path: Path):
    """No moment shows a race here: who reads x has seen that it was stored."""
    axioms, mine, w = both(MESSAGE.format(**{**WORDS, **change}), tmp_path)
    assert axioms == mine == racy
    assert all(p.made and not p.sides[0].write and p.sides[1].write for p in w.pairs())


def test_stores_in_no_order(tmp_path: Path):
    text = """C stores

{}

P0(int *x, int *y) { *x = 1; WRITE_ONCE(*y, 1); }
P1(int *x, int *y) { int r0; r0 = READ_ONCE(*y); if (r0) { WRITE_ONCE(*x, 2); } }

exists (x=1)
"""
    axioms, mine, w = both(text, tmp_path)
    assert axioms and mine
    (p,) = w.pairs()
    assert p.made and p.sides[0].write and p.sides[1].write
    assert both(text.replace("WRITE_ONCE(*y, 1)", "smp_store_release(y, 1)"), tmp_path)[:2] == (False, False)


def plainer(text: str, seed: int) -> str:
    """Some marked accesses of a test become plain."""
    r = random.Random(seed)
    text = re.sub(r"READ_ONCE\(\*(\w+)\)", lambda m: f"*{m[1]}" if r.random() < 0.4 else m[0], text)
    return re.sub(r"WRITE_ONCE\(\*(\w+), (.*?)\);", lambda m: f"*{m[1]} = {m[2]};" if r.random() < 0.4 else m[0], text)


@pytest.mark.parametrize("mode", ["marked", "lock", "atomic"])
def test_random_programs(mode: str, tmp_path: Path):
    """What the checker reports are races by the axioms, too; few are missing."""
    seen: Counter[tuple[bool, bool]] = Counter()
    for seed in range(120):
        text = plainer(views.mixed(seed, mode), seed)
        try:
            axioms, mine, _ = both(text, tmp_path)
        except Refused:
            continue
        assert axioms or not mine, text
        seen[axioms, mine] += 1
    assert seen[True, True] >= 40 and seen[False, False] >= 25
    assert seen[True, False] <= 2


@pytest.mark.parametrize("memory", ["tso", "lkmm"])
def test_what_races_under_sc_does_so_under_others(memory: str):
    for processes, one, two in RACING:
        assert ("box.x", one, two) in races(*processes, memory=memory)


def test_report(capsys, tmp_path: Path):
    f = tmp_path / "message.py"
    f.write_text(
        '"""A message without a barrier."""\n'
        "from seqfault.kernel import READ_ONCE, WRITE_ONCE, Protocol, integer, struct, the\n\n"
        "@struct(pool=1)\nclass box:\n    x: integer(0, 3)\n    y: integer(0, 1)\n\n"
        "def sender():\n    the(box).x = 1\n    WRITE_ONCE(the(box).y, 1)\n\n"
        "def receiver():\n    if READ_ONCE(the(box).y):\n        v: integer(0, 3) = the(box).x\n        assert v != 2\n\n"
        'PROTOCOL = Protocol("message", "a message without a barrier", processes=(sender, receiver))\n'
    )

    def run(*args: str):
        with pytest.raises(SystemExit) as e:
            main(["check", str(f), "-j", "1", "--races", "error", *args])
        return e.value.code, capsys.readouterr().out

    code, out = run()
    assert code == 0 and "No data race.\n" in out
    code, out = run("--max-states", "2")
    assert code == 3 and "No data race in what was explored.\n" in out
    code, out = run("--memory", "lkmm")
    assert code == 1 and "1 data race of 1 field" in out and "the store was made before: nothing orders them" in out
    assert all(len(line) <= 80 or str(f) in line for line in out.splitlines())
    code, out = run("--memory", "all", "--json")
    d = json.loads(out)
    assert code == 1 and not d["sc"]["races"] and not d["tso"]["races"]
    (race,) = d["lkmm"]["races"]
    assert race["made_before"] and [x["access"] for x in race["accesses"]] == ["read", "write"]
    with pytest.raises(SystemExit) as e:
        main(["replay", race["schedule"]])
    out = capsys.readouterr().out
    assert e.value.code == 0 and "receiver" in out and "sender" in out
