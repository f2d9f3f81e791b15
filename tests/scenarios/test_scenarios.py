"""Families, files, and the verdicts that are argued by hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from seqfault.explore.check import HOLDS, Limits, check_scenario
from seqfault.explore.model import program_for, start_of
from seqfault.protocols import load as load_protocol
from seqfault.scenarios import ScenarioError, builtin, by_hand, everything, find, load, parse
from seqfault.scenarios.model import execute, from_toml, make_machine, parse_line, run_setup, to_toml

ARGUED = find(["argued"])
FAMILIES = {
    *(f"case{n}" for n in range(1, 9)), "split-head", "split-middle", "split-tail", "munmap", "mprotect", "madvise", "mmap-merge",
    "expand", "file", "pgtable-free", "same-page", "sequence", "alloc-fail", "walker", "two-faults", "two-writers", "argued", "fork",
}  # fmt: skip


def test_families():
    count = Counter(s.name.split("/")[0] for s in builtin())
    assert set(count) == FAMILIES
    assert sum(count.values()) >= 500
    assert len({s.name for s in everything()}) == len(everything())
    assert sum(1 for s in everything() if s.expect and s.prose) >= 40
    for s in by_hand():
        assert find([s.name]) == [s] == [t for t in everything() if (t.name + "/").startswith(s.name + "/")]


@pytest.mark.parametrize("s", ARGUED, ids=[s.name for s in ARGUED])
def test_argued_verdicts(s):
    for protocol, kinds in s.expect.items():
        r = check_scenario(load_protocol(protocol), s, Limits(states=5_000_000))
        if kinds:
            assert set(kinds) <= {v.kind for v in r.violations}, protocol
        else:
            assert r.verdict == HOLDS, (protocol, r.violations)


@pytest.mark.parametrize("n", range(1, 9))
def test_merge_cases_are_what_they_say(n):
    """Run sequentially, the operation of each caseN scenario takes case N of vma_merge."""
    mmap_sem = load_protocol("mmap-sem")
    for s in find([f"case{n}"]):
        m = make_machine(program_for(mmap_sem, s).layout(), mmap_sem)
        with m:
            run_setup(m, s)
            m.counters.clear()
            assert execute(m, 0, s.cpus[0][0]) >= 0
        taken = {k for k in m.counters if k.startswith("vma_merge/")}
        if "apart" in s.name and "cold" not in s.name:
            continue  # an anon_vma on one side may keep Linux from merging: that is what these are for
        assert taken == {f"vma_merge/case{n}"}, s.name


def test_every_setup_runs():
    mmap_sem = load_protocol("mmap-sem")
    for s in everything()[::7]:
        m = make_machine(program_for(mmap_sem, s).layout(), mmap_sem)
        with m:
            run_setup(m, s)


def test_round_trips():
    for s in everything():
        for _, op in s.setup:
            assert parse_line(op.text())[1] == op
        back = from_toml(to_toml(s))
        assert (back.setup, back.cpus, back.fail_allocations, back.fills) == (s.setup, s.cpus, s.fail_allocations, s.fills)


def test_leaving_operations_out():
    s = find(["case8/split-next-warm-write~1.1"])[0]
    assert len(s.cpus[1]) == 1
    with pytest.raises(ScenarioError, match="no operation"):
        find(["case8/split-next-warm-write~7.0"])


GOOD = '[[scenario]]\nname = "t/x"\nsetup = ["mmap 1-3 rw"]\ncpus = [["munmap 1-3"], ["read 1"]]\n'
BAD = [
    (GOOD.replace("munmap 1-3", "unmap 1-3"), "no operation"),
    (GOOD.replace("read 1", "read 9"), "outside the window"),
    (GOOD.replace("munmap 1-3", "munmap 3-3"), "empty"),
    (GOOD.replace("mmap 1-3 rw", "mmap 1-3 rq"), "no rights"),
    (GOOD.replace("mmap 1-3 rw", "mmap 1-3 rw shared"), "shared anonymous"),
    (GOOD.replace("setup", "setups"), "unknown key"),
    (GOOD + GOOD, "two scenarios"),
    (GOOD.replace('"t/x"', '"t x"'), "proper name"),
    (GOOD.replace("[[", "[", 1), "TOML"),
    (GOOD.replace('[["munmap 1-3"], ["read 1"]]', "[]"), "no CPU does anything"),
    (GOOD + "fail_allocations = 9\n", "from 0 to 3"),
    (GOOD.replace("read 1", "fork 1"), "too much"),
    (GOOD.replace("mmap 1-3 rw", "fork"), "no part of a setup"),
    (GOOD + 'fills = ["cpu7 1"]\n', "no fill"),
    ("", "no scenario"),
]


@pytest.mark.parametrize("text,message", BAD, ids=[m for _, m in BAD])
def test_bad_files(text, message, tmp_path: Path):
    f = tmp_path / "my.toml"
    f.write_text(text)
    with pytest.raises(ScenarioError, match=message) as e:
        load(str(f))
    assert "my.toml" in str(e.value) and "\n" not in str(e.value)


def test_setup_that_fails():
    s = parse(GOOD.replace('["mmap 1-3 rw"]', '["write 1 1"]'), "my.toml")[0]
    mmap_sem = load_protocol("mmap-sem")
    m = make_machine(program_for(mmap_sem, s).layout(), mmap_sem)
    with m, pytest.raises(ScenarioError, match=r"my.toml: t/x: setup 'write 1 1'"):
        run_setup(m, s)


def test_no_such_file_or_name():
    with pytest.raises(ScenarioError, match="no scenario is named"):
        find(["case9/*"])
    with pytest.raises(ScenarioError, match="No such file"):
        load("/nonexistent.toml")


def test_what_setups_lead_to_is_kept(monkeypatch, tmp_path):
    """A scenario begins alike whether its setup is run or read; what cannot be of this text is run again."""
    from seqfault.explore import model
    from seqfault.scenarios import model as scenarios

    monkeypatch.setenv("SEQFAULT_CACHE", str(tmp_path))
    protocol, some = load_protocol("spf-v5"), builtin()[:40]

    def starts():
        model._set_ups.cache_clear()
        model._started.clear()
        monkeypatch.setattr(scenarios, "_set_up", {})
        return [[x.tolist() for x in start_of(protocol, s)[1:]] for s in some]

    first = starts()
    [kept] = tmp_path.glob("*.setups")
    monkeypatch.setattr(scenarios, "run_setup", None)  # nothing is run
    assert starts() == first
    monkeypatch.undo()
    monkeypatch.setenv("SEQFAULT_CACHE", str(tmp_path))
    lines = kept.read_text().splitlines()
    kept.write_text("\n".join([lines[0], *(x[:40] for x in lines[1:])]))
    assert starts() == first
    model._set_ups.cache_clear()
