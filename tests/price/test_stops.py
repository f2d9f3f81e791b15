"""Runs that an error of the text ends before their time."""

from __future__ import annotations

import json

import pytest

from command import run
from seqfault.price import machines, workloads
from seqfault.price.curves import measure
from seqfault.protocols import load

TEXT = '''
from seqfault.kernel import BUG_ON, Protocol, ptr
from seqfault.mm.places import unmap_page_range_begin
from seqfault.mm.types import vm_area_struct

PROTOCOL = Protocol("mine", "seven pages are not to be unmapped")


@PROTOCOL.at(unmap_page_range_begin)
def begin(vma: ptr[vm_area_struct]):
    BUG_ON(vma.vm_end - vma.vm_start == 7)
'''
LOOP = ["map r1 64 anon", "write r1 0 64", "unmap r1 0 64", "unit 1"]


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    path = tmp_path_factory.mktemp("stops") / "mine.py"
    path.write_text(TEXT)
    return path


def stopping_after(us):
    """A thread that works, and one that ends all after so many us."""
    role = [{"loop": [f"sleep {us * 1000}", "map r2 7 anon", "write r2 0 1", "unmap r2 0 7"]}]
    return workloads.make("w", {"loop": LOOP, "threads": "2", "role": role}, "w")


def test_a_run_counts_until_the_text_ended_it(mine):
    p = measure(stopping_after(1500), load(str(mine)), 2, machines.read("x86-small"), seeds=(1, 2), ms=4)
    for o in p.outcomes:
        assert o.stopped.startswith("kernel-bug in begin ") and o.violations == {"kernel-bug": 1} and not o.finished
        assert 0.0004 < o.seconds < 0.0007  # a millisecond is not counted
    full = measure(stopping_after(9000), load(str(mine)), 2, machines.read("x86-small"), seeds=(1,), ms=4)
    assert not full.outcomes[0].stopped and full.rate == pytest.approx(p.rate, rel=0.1)


def test_a_run_that_ends_before_it_is_measured_has_no_rate(mine):
    p = measure(stopping_after(500), load(str(mine)), 2, machines.read("x86-small"), ms=4)
    assert p.outcomes[0].seconds == 0 and p.outcomes[0].stopped and p.rate == 0 and p.spread == (0, 0)


def test_price_says_how_many_runs_ended_and_where(mine, tmp_path, capsys, monkeypatch):
    own = tmp_path / "w.toml"
    own.write_text(
        '[w]\ntitle = "t"\nthreads = "2"\nms = 4\nloop = ["map r1 64 anon", "unmap r1 0 64", "unit 1"]\n'
        '[[w.role]]\nloop = ["sleep 1500000", "map r2 7 anon", "write r2 0 1", "unmap r2 0 7"]\n'
    )
    args = ("price", "-w", str(own), "-p", str(mine), "--cpus", "2", "-m", "x86-small", "--seeds", "2")
    code, out, _ = run(capsys, monkeypatch, *args)
    assert code == 0 and "mine: 2 of 2 runs ended with kernel-bug in begin " in " ".join(out.split())
    points = json.loads(run(capsys, monkeypatch, *args, "--json")[1])["workloads"][0]["series"][0]["points"]
    assert points[0]["runs"] == 2 and sum(points[0]["stopped"].values()) == 2
