"""Scenarios that repeat operations for ever: how they are written, and what they find in protocols of mm."""

from __future__ import annotations

import json
import re

import pytest

from command import run
from seqfault.explore.check import HOLDS, VIOLATED, Limits, check_scenario
from seqfault.explore.model import automaton_for
from seqfault.protocols import load
from seqfault.report.counterexample import from_schedule
from seqfault.scenarios import builtin, find
from seqfault.scenarios.model import ScenarioError, from_toml, to_toml

STUBBORN = '''"""Speculates again for as long as a writer holds mmap_sem, where it would have to wait."""

from seqfault.kernel import READ_ONCE, ptr
from seqfault.mm.places import FAULT_FLAG_WRITE, VM_FAULT_RETRY, do_page_fault_try
from seqfault.mm.types import fault_t, mm_struct, vpn_t
from seqfault.protocols.spf_common import handle_speculative_fault
from seqfault.protocols.spf_v5 import PROTOCOL as V5

PROTOCOL = V5.derive("stubborn", "speculates for ever", without=(do_page_fault_try,))
PROTOCOL.file = ""


@PROTOCOL.at(do_page_fault_try)
def stubborn(mm: ptr[mm_struct], address: vpn_t, write: bool) -> fault_t:
    while True:
        fault: fault_t = handle_speculative_fault(mm, address, FAULT_FLAG_WRITE if write else 0)
        if not fault & VM_FAULT_RETRY or READ_ONCE(mm.mmap_sem.writer) == 0:
            return fault
'''
TEXT = """name = "my/again"
setup = ["mmap 1-3 rw"]
cpus = [["mprotect 1-3 r", "mprotect 1-3 rw"], ["read 2"]]
"""


@pytest.fixture
def stubborn(tmp_path):
    f = tmp_path / "stubborn.py"
    f.write_text(STUBBORN)
    return str(f)


def test_written_and_read():
    s = from_toml(TEXT + "forever = [0]\n")
    assert s.forever == (0,)
    assert from_toml(to_toml(s)).forever == (0,)
    assert from_toml(TEXT).forever == ()
    for wrong in ("[2]", "[-1]", "true", '["cpu0"]', "[true]"):
        with pytest.raises(ScenarioError, match="forever"):
            from_toml(TEXT + f"forever = {wrong}\n")
    assert not any(s.forever for s in builtin())


@pytest.mark.parametrize("protocol", ["mmap-sem", "spf-seed", "spf-v5"])
@pytest.mark.parametrize("name", [s.name for s in find(["forever"])])
def test_faults_come_to_an_end(protocol: str, name: str):
    s = find([name])[0]
    r = check_scenario(load(protocol), s, Limits())
    assert (r.verdict, r.reason) == (HOLDS, ""), r.violations
    assert s.expect[protocol] == ()
    if protocol != "mmap-sem" and "mprotect-of-it" in name:
        assert r.counters["speculative_fallback/vma_changed"]  # it did meet the writer


def test_waiting_for_mmap_sem_is_told_when_asked():
    s = find(["forever/mprotect-of-it"])[0]
    r = check_scenario(load("mmap-sem"), s, Limits(), lock_waits=True)
    assert {(v.kind, v.object) for v in r.violations} == {("starvation", "cpu1")}
    r = check_scenario(load("spf-v5"), s, Limits(), lock_waits=True)
    assert all(v.baseline for v in r.violations) and r.violations


def test_lock_starvation_on_the_command_line(capsys, monkeypatch):
    args = ("check", "mmap-sem", "-s", "forever/mprotect-of-it", "-j", "1")
    code, out, _ = run(capsys, monkeypatch, *args)
    assert code == 0 and "mmap-sem under sc: holds" in out
    code, out, _ = run(capsys, monkeypatch, *args, "--lock-starvation")
    assert code == 1 and "starvation of cpu1" in out and "goes on for ever:" in out


def test_speculation_without_an_end_is_starved(stubborn: str, capsys, monkeypatch):
    """The fault meets a changed VMA each time; the picture says what goes on, and its schedule runs again."""
    name = "forever/mprotect-of-it"
    r = check_scenario(load(stubborn), find([name])[0], Limits())
    assert r.verdict == VIOLATED
    v = next(v for v in r.violations if v.kind == "starvation")
    assert v.object == "cpu1" and not v.baseline and 0 < v.loop_from < len(v.schedule)

    code, out, _ = run(capsys, monkeypatch, "check", stubborn, "-s", name, "-j", "1")
    assert code == 1 and "goes on for ever:" in out and "starvation of cpu1" in out
    schedule = re.search(r"replay '(.*)'", out)
    assert schedule and "(" in schedule[1]
    picture = out.split("\n\n")[0].splitlines()
    assert len(picture) <= 25 and all(len(x) <= 80 for x in picture[:-1])
    code, again, _ = run(capsys, monkeypatch, "replay", schedule[1])
    assert code == 1 and again.splitlines()[0] == picture[0]

    code, out, _ = run(capsys, monkeypatch, "check", stubborn, "-s", name, "-j", "1", "--json")
    d = next(x for x in json.loads(out)["scenarios"][0]["violations"] if x["kind"] == "starvation")
    assert d["loop_from"] == v.loop_from and d["steps"]
    cx = from_schedule(d["schedule"])
    assert cx.schedule_string == d["schedule"] and cx.loop_from == v.loop_from


def test_a_loop_that_does_not_come_back_is_refused(stubborn: str, capsys, monkeypatch):
    name = "forever/mprotect-of-it"
    r = check_scenario(load(stubborn), find([name])[0], Limits())
    v = next(v for v in r.violations if v.kind == "starvation")
    from seqfault.report.counterexample import encode_schedule

    text = encode_schedule(load(stubborn), find([name])[0], v.schedule[:-1], loop_from=v.loop_from)
    code, out, err = run(capsys, monkeypatch, "replay", text)
    assert code == 2 and not out and "does not come back" in err


def test_other_memory_models_are_refused(capsys, monkeypatch):
    code, _, err = run(capsys, monkeypatch, "check", "mmap-sem", "-s", "forever", "-j", "1", "--memory", "pso")
    assert code == 2 and "explored under sc only" in err
    with pytest.raises(ScenarioError):
        automaton_for(load("mmap-sem"), find(["forever/two-writers"])[0], "pso")


def test_no_room_for_the_graph_is_incomplete():
    s = find(["forever/mprotect-of-it"])[0]
    r = check_scenario(load("spf-v5"), s, Limits(memory=1 << 20))
    assert r.verdict == "incomplete" and ("progress" in r.reason or "memory limit" in r.reason)
