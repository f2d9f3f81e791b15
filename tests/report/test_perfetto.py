"""`seqfault export perfetto`: Chrome JSON trace events."""

from __future__ import annotations

import json

import pytest

from seqfault import cli
from seqfault.explore.check import check_scenario
from seqfault.protocols import load
from seqfault.report.counterexample import Counterexample, from_violation
from seqfault.report.perfetto import PID, trace_events
from seqfault.scenarios import find


def example(scenario: str, memory: str, kind: str) -> Counterexample:
    p, s = load("spf-seed"), find([scenario])[0]
    v = next(v for v in check_scenario(p, s, memory=memory).violations if v.kind == kind and v.schedule)
    return from_violation(p, s, v)


@pytest.fixture(scope="module", params=["sc", "tso"])
def cx(request) -> Counterexample:
    return example("argued/index-torn", request.param, "wrong-reverse-map")


def test_form(cx: Counterexample):
    """What the format asks of each kind of event."""
    trace = trace_events(cx)
    json.dumps(trace)
    events = trace["traceEvents"]
    named = {e["tid"] for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    for e in events:
        assert e["pid"] == PID and e["ph"] in "MXistf" and isinstance(e["name"], str)
        if e["ph"] != "M":
            assert e["tid"] in named and e["ts"] >= 0
        if e["ph"] == "X":
            assert e["dur"] > 0
        if e["ph"] == "i":
            assert e["s"] in ("t", "p")
        if e["ph"] in "tf":
            assert e["bp"] == "e"
    names = {e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert any(n.startswith("CPU 0: ") for n in names) and any(n.startswith("CPU 1: ") for n in names)


def test_every_event_is_an_instant(cx: Counterexample):
    assert sum(e["ph"] == "i" for e in trace_events(cx)["traceEvents"]) == len(cx.events)


def test_slices_nest(cx: Counterexample):
    """Two slices of a track are one inside of the other, or apart."""
    by_track: dict[int, list[tuple[float, float]]] = {}
    for e in trace_events(cx)["traceEvents"]:
        if e["ph"] == "X":
            by_track.setdefault(e["tid"], []).append((e["ts"], e["ts"] + e["dur"]))
    assert len(by_track) >= 2
    for spans in by_track.values():
        for i, (a, b) in enumerate(spans):
            for c, d in spans[i + 1 :]:
                assert b <= c or d <= a or (a <= c and d <= b) or (c <= a and b <= d)


def test_arrows_go_from_a_store_to_a_load_of_its_value(cx: Counterexample):
    events = trace_events(cx)["traceEvents"]
    instants = {(e["tid"], e["ts"]): e for e in events if e["ph"] == "i"}
    arrows: dict[int, dict[str, dict]] = {}
    for e in events:
        if e["ph"] in "stf":
            arrows.setdefault(e["id"], {})[e["ph"]] = instants[e["tid"], e["ts"]]
    assert arrows
    for a in arrows.values():
        assert a["s"]["cat"] == "store" and a["f"]["cat"] == "load" and a["s"]["tid"] != a["f"]["tid"]
        assert a["s"]["ts"] < a["f"]["ts"]
        if "t" in a:
            assert a["t"]["cat"] == "flush" and a["s"]["ts"] < a["t"]["ts"] < a["f"]["ts"]
    assert any("t" in a for a in arrows.values()) == (cx.memory == "tso")


def test_every_load_of_another_cpus_value_has_an_arrow():
    """Under sc, from the events alone: the last store of that cell, if another track made it."""
    cx = example("argued/munmap-table-goes", "sc", "use-after-free")
    last: dict[str, str] = {}
    want = 0
    for e in cx.events:
        if e.kind == "store":
            last[e.cell] = e.process
        want += e.kind == "load" and last.get(e.cell, e.process) != e.process
    assert want > 0
    assert sum(e["ph"] == "s" for e in trace_events(cx)["traceEvents"]) == want


def test_command(tmp_path, capsys):
    schedule = example("argued/case8-alone", "sc", "use-after-free").schedule_string
    out = tmp_path / "t.json"
    with pytest.raises(SystemExit) as e:
        cli.main(["export", "perfetto", schedule, "-o", str(out)])
    assert not e.value.code and "slices" in capsys.readouterr().out
    assert json.loads(out.read_text())["otherData"]["schedule"] == schedule
    with pytest.raises(SystemExit) as e:
        cli.main(["export", "perfetto", "nonsense"])
    assert e.value.code == 2
