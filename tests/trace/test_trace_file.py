"""Traces written and read: rows, batches, order, metadata, what is refused; memory does not grow with the events."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqfault.trace import schema as s
from seqfault.trace.schema import COLUMNS, SCHEMA, Meta, Missing
from seqfault.trace.store import TraceError, Writer, open_trace, row, sample_names, to_batch

HERE = Path(__file__).parent


def test_rows_come_back(tmp_path):
    meta = Meta(command=["a"], recorded=[s.FAULT], missing=[Missing("x", "y", "z")], stacks=[["f+0x1 (libc)"]])
    with Writer(tmp_path / "t.parquet", meta) as w:
        w.add(row(20, 1, 2, s.FAULT, name="user", address=(1 << 64) - 1, duration_ns=5, flags=6, stack=0), 0)
        w.add(row(10, 1, 1, s.CALL, name="munmap", address=4096, length=8192, result=-22), 0)
        w.close()
    with open_trace(tmp_path / "t.parquet") as t:
        rows = [r for b in t.batches() for r in b.to_pylist()]
        assert [r["time_ns"] for r in rows] == [10, 20]  # in the order of their beginnings
        assert rows[1]["address"] == (1 << 64) - 1 and rows[1]["duration_ns"] == 5 and rows[1]["stack"] == 0
        assert rows[0]["result"] == -22 and rows[0]["name"] == "munmap" and rows[0]["cpu"] is None
        assert t.meta.missing == [Missing("x", "y", "z")] and t.stacks == [["f+0x1 (libc)"]]
        assert t.meta.counts == {"call": 1, "fault": 1} and (t.meta.start_ns, t.meta.end_ns) == (10, 20)
        faults = [b for b in t.batches(["address"], kinds=[s.FAULT])]
        assert [b.schema.names for b in faults] == [["address"]] and sum(b.num_rows for b in faults) == 1
        assert t.frame().collect().height == 2


def test_rows_wait_for_what_has_not_ended(tmp_path):
    """Begun at 5, ended after a row that began at 9 did: it still comes first, if `settled` says so."""
    with Writer(tmp_path / "t.parquet", Meta()) as w:
        w.add(row(9, 1, 1, s.FAULT), 5)
        w.add(row(5, 1, 2, s.CALL), 9)
        w.add(row(3, 1, 2, s.CALL), 9)  # late all the same
        w.close()
    assert w.meta.unordered == 1
    with open_trace(tmp_path / "t.parquet") as t:
        assert [r["time_ns"] for b in t.batches() for r in b.to_pylist()] == [5, 9, 3]


def test_nothing_is_left_of_a_writer_that_fails(tmp_path):
    with pytest.raises(RuntimeError), Writer(tmp_path / "t.parquet", Meta()) as w:
        w.add(row(1, 1, 1, s.FAULT), 9)
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def write_bytes(path: Path, what: str) -> Path:
    if what == "empty":
        path.write_bytes(b"")
    elif what == "text":
        path.write_text("hello\n")
    elif what == "foreign":
        pq.write_table(pa.table({"a": [1]}), path)
    elif what == "later":
        with Writer(path, Meta(version=s.VERSION + 1)) as w:
            w.close()
    elif what == "columns":
        table = to_batch([row(1, 1, 1, s.FAULT)]).select(["time_ns"])
        pq.write_table(pa.Table.from_batches([table]).replace_schema_metadata({s.KEY: Meta().encode()}), path)
    elif what == "truncated":
        with Writer(path, Meta()) as w:
            for i in range(1000):
                w.add(row(i, 1, 1, s.FAULT), i)
            w.close()
        path.write_bytes(path.read_bytes()[:-100])
    return path


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("missing", "No such file"),
        ("empty", "empty"),
        ("text", "--import"),
        ("foreign", "no trace of seqfault"),
        ("later", "later seqfault"),
        ("columns", "columns are not there"),
        ("truncated", "cut off or damaged"),
    ],
)
def test_refused(tmp_path, what, said):
    with pytest.raises(TraceError) as e:
        open_trace(write_bytes(tmp_path / "t.parquet", what))
    assert said in str(e.value) and "t.parquet" in str(e.value) and "\n" not in str(e.value)


def test_no_such_sample():
    with pytest.raises(TraceError, match="ebizzy"):
        open_trace("sample:nothing")


@pytest.mark.parametrize("name", ["ebizzy", "java", "numpy", "stress-ng-malloc"])
def test_samples(name):
    """They are small, whole and in order, as docs/trace-format.md says, and name no file outside of /usr and /tmp."""
    assert name in sample_names()
    with open_trace(f"sample:{name}") as t:
        assert t.path.stat().st_size < 300_000
        times = np.concatenate([b["time_ns"].to_numpy() for b in t.batches(["time_ns"])])
        assert len(times) == t.rows == t.meta.rows and not t.meta.unordered and (np.diff(times) >= 0).all()
        assert not t.meta.lost and t.meta.counts[s.FAULT] > 5000 and t.meta.counts[s.CALL] > 20
        files = {f for b in t.batches(["file"]) for f in b["file"].to_pylist() if f}
        assert not [f for f in files if f.startswith(("/root", "/home", "/work"))]


def test_document_names_every_column():
    text = (HERE.parents[1] / "docs" / "trace-format.md").read_text()
    assert [c for c in COLUMNS if f"`{c}`" not in text] == []
    assert [k for k in s.KINDS if f"`{k}`" not in text] == []
    assert [f for f in Meta.__dataclass_fields__ if f"`{f}`" not in text] == []


GENERATE = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from generated import write
from seqfault.trace.store import open_trace
from seqfault.trace.summary import summarise
write(Path({path!r}), {events})
with open_trace({path!r}) as t:
    got = summarise(t)
    assert got.faults + sum(got.calls.values()) == t.rows == {events}
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(path: Path, events: int) -> int:
    """kB of a process that writes and summarises so many events."""
    code = GENERATE.format(here=str(HERE), path=str(path), events=events)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_memory_does_not_grow_with_the_events(tmp_path):
    """Ten times as many events: at most a quarter more memory.  bench/trace.py does the same with 10 million."""
    small, large = peak(tmp_path / "a", 200_000), peak(tmp_path / "b", 2_000_000)
    assert large < 1.25 * small + 40_000


def test_schema_is_the_files(tmp_path):
    with Writer(tmp_path / "t.parquet", Meta()) as w:
        w.add(row(1, 1, 1, s.FAULT), 1)
        w.close()
    assert pq.read_schema(tmp_path / "t.parquet").names == SCHEMA.names
