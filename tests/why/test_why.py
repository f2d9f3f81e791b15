"""Sites: their names, that they are taken out in balance, and what follows."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqfault.explore.check import Limits, run_one
from seqfault.explore.model import sites_of, small_scenario, start_of
from seqfault.explore.tiers import explore
from seqfault.protocols import ProtocolError, load, with_sites
from seqfault.report.counterexample import encode_schedule, from_schedule
from seqfault.scenarios import find
from seqfault.why.classify import DEAD, NECESSARY, REDUNDANT, Finding, Study
from seqfault.why.invalid import causes_of
from seqfault.why.lab import Lab, seen_of
from seqfault.why.witness import witness
from seqfault.why.work import Budget, Crew, Results

ROOT = Path(__file__).parents[2]
SEQCOUNT = str(ROOT / "examples/seqcount/seqcount.py")
TWO_LOCKS = str(Path(__file__).parent / "two_locks.py")
UNBALANCED = {
    "release-not-held", "double-acquire", "unbalanced-irq", "unbalanced-preempt", "lock-left-held", "sequence-left-odd",
}  # fmt: skip


def study(protocol, scenarios, memories=("sc",), asked=None, together=(), tmp=None):
    sites = Lab(protocol).sites(scenarios[0])
    crew = Crew(protocol, scenarios, 1, Results(tmp, protocol), Budget(100_000))
    names = [s.name for s in sites] if asked is None else asked
    st = Study(protocol, scenarios, sites, names, memories, crew, 100_000, together=together)
    st.everything()
    return st


def test_names_of_the_issue():
    names = {s.name for s in sites_of(start_of(with_sites("spf-v5"), find(["argued/case1-alone"])[0])[0])}
    assert names >= {
        "unmap_page_range/begin",
        "__vma_adjust/vma.begin",
        "__vma_adjust/next.begin",
        "mprotect_fixup/begin",
        "read_seqcount_retry/smp_rmb@vm_sequence",
        "read_seqcount_retry/smp_rmb@mm_seq",
        "raw_write_seqcount_begin/smp_wmb@vm_sequence",
        "handle_speculative_fault/srcu_read_lock",
        "handle_pte_fault/recheck",
        "pte_map_lock/recheck",
        "pte_map_lock/spin_trylock",
        "free_vma/call_srcu",
    }
    assert len(names) == len(sites_of(start_of(with_sites("spf-v5"), find(["argued/case1-alone"])[0])[0]))


@pytest.mark.parametrize("name", ["argued/third-question", "munmap/all-one-page2-read-write"])
def test_with_everything_in_it_is_the_protocol(name):
    s = find([name])[0]
    _, ex, vs = run_one(load("spf-v5"), s, Limits(own=False))
    a, words, rom = start_of(with_sites("spf-v5"), s)
    whole = explore(a, words, rom)
    assert (whole.states, whole.transitions, set(whole.outcomes)) == (ex.states, ex.transitions, set(ex.outcomes))
    assert seen_of(a, whole).violations == {v.key() for v in vs}


def test_what_is_taken_out_leaves_balance():
    s = find(["munmap/all-one-page2-read-write"])[0]
    lab = Lab("spf-v5")
    sites = [x.name for x in lab.sites(s) if x.kind in ("count", "lock", "rcu", "irqs")]
    (base, *seen) = lab.look([(s, ()), *((s, (n,)) for n in sites)], [20_000] * (1 + len(sites)), 1_000_000, None)
    for n, x in zip(sites, seen, strict=True):
        new = {k for k, _, _ in x.violations - base.violations}
        assert not new & UNBALANCED, n


def test_seqcount_needs_its_barriers_where_memory_is_weak():
    st = study(SEQCOUNT, [small_scenario(load(SEQCOUNT))], ("sc", "tso", "pso", "lkmm"))
    writers = {"raw_write_seqcount_begin/smp_wmb@seq", "raw_write_seqcount_end/smp_wmb@seq"}
    readers = {"raw_read_seqcount/smp_rmb@seq", "read_seqcount_retry/smp_rmb@seq"}
    for m, need in (("sc", set()), ("tso", set()), ("pso", writers), ("lkmm", writers | readers)):
        barriers = {k[0]: f.verdict for k, f in st.findings[m].items() if "smp_" in k[0]}
        assert len(barriers) == 4
        assert {k for k, v in barriers.items() if v == NECESSARY} == need, m
    sc = st.findings["sc"]
    assert sc[("reader/recheck",)].verdict == NECESSARY
    assert sc[("writer/raw_write_seqcount_begin",)].verdict == NECESSARY


def test_counterexamples_replay_without_the_site():
    st = study(SEQCOUNT, [small_scenario(load(SEQCOUNT))], ("sc", "pso"))
    n = 0
    for t in st.findings.values():
        for f in t.values():
            if f.verdict == NECESSARY:
                s, v = witness(st, f)
                text = encode_schedule(with_sites(SEQCOUNT, f.sites), s, v.schedule, v.memory)
                again = from_schedule(text)
                assert v.kind in {x.kind for x in again.violations}
                assert again.schedule_string == text
                n += 1
    assert n == 4


def test_dead_is_told_from_redundant_and_pairs_mask():
    st = study(TWO_LOCKS, [small_scenario(load(TWO_LOCKS))])
    t = st.findings["sc"]
    verdicts = {k[0]: f.verdict for k, f in t.items()}
    assert verdicts["other/spin_lock"] == REDUNDANT  # idle
    assert verdicts["one/smp_wmb"] == DEAD
    st.run_pairs()
    masked = {f.sites for f in st.pairs if f.verdict == NECESSARY}
    assert ("one/spin_lock", "one/spin_lock.2") in masked
    st.run_minimal()
    assert st.minimal is not None and "other/spin_lock" in st.minimal
    assert not masked & {(a, b) for a in st.minimal for b in st.minimal}


def test_third_question_names_case_5():
    ss = find(["argued/third-question", "case2/split-next-warm-write", "case5/taken-read-write"])
    sets = [("__vma_adjust/next.begin", "__vma_adjust/next.again.begin")]
    st = study("spf-seed", ss, asked=[], together=sets)
    f = st.findings["sc"][sets[0]]
    assert f.needed() == ["mprotect, case 5"] and f.spared() == ["mmap, case 2"]
    assert f.retries["mmap, case 2"][0] > f.retries["mmap, case 2"][1]
    by_site = {c.site: c for c in causes_of(st)}
    assert by_site["__vma_adjust/next.begin"].vain and by_site["__vma_adjust/next.begin"].right


def test_results_are_kept(tmp_path):
    s = [small_scenario(load(SEQCOUNT))]
    first = study(SEQCOUNT, s, tmp=tmp_path / "r")
    first.crew.close()
    again = study(SEQCOUNT, s, tmp=tmp_path / "r")
    again.crew.close()
    assert first.crew.explorations and not again.crew.explorations
    assert {k: f.verdict for k, f in first.findings["sc"].items()} == {k: f.verdict for k, f in again.findings["sc"].items()}


def test_a_limit_is_no_pass(monkeypatch):
    s = find(["munmap/all-one-page2-read-write"])
    crew = Crew("spf-v5", s, 1, Results(None, "spf-v5"), Budget(20_000))
    st = Study("spf-v5", s, Lab("spf-v5").sites(s[0]), [], ("sc",), crew, 20_000)
    st.look_whole("sc", s, [20_000])
    monkeypatch.setattr("seqfault.why.work.LEAST", 10)
    monkeypatch.setattr("seqfault.why.work.MORE", {True: 0, False: 0})
    f = Finding(("unmap_page_range/begin",), "sc", exercised=1)
    st._each([f], "sc", s, {s[0].name: 200_000})
    st.settle(f)
    assert f.verdict == "undetermined" and "limit" in f.reason


def test_unknown_sites():
    s = find(["argued/case1-alone"])[0]
    with pytest.raises(ProtocolError, match="did you mean unmap_page_range/begin"):
        start_of(load("spf-v5-without=unmap_page/begin"), s)
    with pytest.raises(ProtocolError, match="only data races"):
        start_of(load("spf-v5-without=vma_has_changed/READ_ONCE"), s)


def test_every_kind_belongs_to_a_question():
    from seqfault.why.classify import question_of

    a, *_ = start_of(with_sites("spf-v5"), find(["argued/case1-alone"])[0])
    values = {k for k in a.kinds if question_of(k) == "values"}
    assert values == {
        "range-overflow", "arithmetic-overflow", "division-by-zero", "bad-shift", "pool-exhausted", "endless-step",
        "store-buffer-full", "too-many-choices",
    }  # fmt: skip
