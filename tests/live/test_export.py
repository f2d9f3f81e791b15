"""Differences as programs of their own: they run on the live kernel and agree with the model, or say where not."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys

import pytest

from seqfault.live.export import export_c, export_python, read_record
from seqfault.live.generate import Geometry
from seqfault.live.model import ModelSide
from seqfault.live.script import parse_script

G = Geometry()
PROGRAMS = {
    "anonymous": """
mmap(W+520p, 3p, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS, -1, 0)
write(W+521p, 7)
mprotect(W+521p, 1p, PROT_READ)
write(W+521p, 9)
read(W+521p)
munmap(W+522p, 1p)
read(W+522p)
mmap(0, 2p, PROT_READ, MAP_SHARED, 0, 0)
""",
    "file and heap": """
mmap(W+520p, 3p, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_FIXED, 2, 0)
write(W+520p, 3)
brk(W+603p)
madvise(W+520p, 1p, MADV_DONTNEED)
read(W+520p)
""",
    "fork": """
mmap(W+520p, 2p, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS, -1, 0)
write(W+520p, 7)
fork()
child: read(W+520p)
child: write(W+520p, 8)
read(W+520p)
child: munmap(W+521p, 1p)
exit()
""".replace("exit()", "child: exit()"),
}

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.platform != "linux", reason="needs Linux on x86-64"
)


@pytest.fixture(scope="module")
def model():
    return ModelSide(618, G)


def exported(model, text):
    rows = parse_script(text)
    r = model.run(rows)
    assert r.bug is None
    return rows, [read_record(r.stream[r.offsets[i] : r.offsets[i + 1]], G.observed) for i in range(r.done)]


@pytest.fixture(params=["c", "py"])
def run(request, tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if request.param == "c" and not compiler:
        pytest.skip("no C compiler here")

    def go(rows, records, who=0):
        if request.param == "py":
            path = tmp_path / "repro.py"
            path.write_text(export_python(rows, records, who, G, "a test"))
            return subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60)
        path = tmp_path / "repro.c"
        path.write_text(export_c(rows, records, who, G, "a test"))
        subprocess.run([compiler, "-O1", "-o", tmp_path / "repro", path], check=True, timeout=60)
        return subprocess.run([tmp_path / "repro"], capture_output=True, text=True, timeout=60)

    return go


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_program_agrees_with_the_model(model, run, name):
    got = run(*exported(model, PROGRAMS[name]))
    assert got.returncode == 0, got.stdout + got.stderr
    assert "kernel and model agree here" in got.stdout


def test_a_wrong_result_is_said(model, run):
    rows, records = exported(model, PROGRAMS["anonymous"])
    object.__setattr__(records[6], "result", -22)
    got = run(rows, records)
    assert got.returncode == 1
    assert "<-- the model says -22" in got.stdout


def test_a_wrong_vma_and_a_wrong_page_are_said(model, run):
    rows, records = exported(model, PROGRAMS["anonymous"])
    last = records[-1]
    last.vmas[0][:] = [(a, b, 7 if a == 520 else bits, off, f) for a, b, bits, off, f in last.vmas[0]]
    last.pages[0][521 - 512] ^= 1
    got = run(rows, records)
    assert got.returncode == 1
    assert got.stdout.count("differs") >= 2
