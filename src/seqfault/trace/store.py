"""A trace written and read by row groups, so that memory does not grow with it.

    with open_trace("trace.parquet") as trace:
        trace.meta.cpus
        for batch in trace.batches(["time_ns", "tid", "address"], kinds=[schema.FAULT]):
            ...
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from pathlib import Path
from types import TracebackType
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from seqfault.trace import schema
from seqfault.trace.schema import COLUMNS, KEY, SCHEMA, Meta

GROUP = 1 << 17  # rows of a row group
SAMPLES = Path(__file__).parent / "samples"
PLACE = {name: i for i, name in enumerate(COLUMNS)}
WAITING = 1 << 19  # rows that are held back for one that has not ended


class TraceError(Exception):
    """One line for the user: the file, what is wrong, what to do."""


def row(time_ns: int, pid: int, tid: int, kind: str, **values: Any) -> tuple[Any, ...]:
    """An event as `Writer.add` takes it; columns that are not named are null."""
    out: list[Any] = [None] * len(COLUMNS)
    out[0], out[2], out[3], out[5] = time_ns, pid, tid, kind
    for name, value in values.items():
        out[PLACE[name]] = value
    return tuple(out)


def to_batch(rows: Sequence[tuple[Any, ...]]) -> pa.RecordBatch:
    """Rows as a batch with the columns of the schema."""
    arrays = []
    for f, values in zip(SCHEMA, zip(*rows, strict=True), strict=True):
        if pa.types.is_dictionary(f.type):
            arrays.append(pa.array(values, pa.string()).dictionary_encode())
        else:
            arrays.append(pa.array(values, f.type))
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def replaceable(path: Path) -> None:
    """Refuse a trace's place that is a device, which would be replaced, or a directory.  Raises `TraceError`."""
    if path.exists() and not path.is_file():
        raise TraceError(f"{path}: no regular file; name a file that can be written (-o FILE)")


class Writer:
    """Writes a trace.  The file appears under its name when `close` is called; before that it is NAME.part.

    Rows come as tuples in any order that is not far from the order of their beginnings (`add`), or as whole batches in
    that order (`add_batch`).
    """

    def __init__(self, path: Path, meta: Meta, group: int = GROUP):
        self.path, self.meta, self.group = path, meta, group
        self.part = path.with_name(path.name + ".part")
        replaceable(path)
        try:
            self.out = pq.ParquetWriter(
                self.part, SCHEMA, compression="zstd", compression_level=9,
                use_dictionary=[c for c in COLUMNS if c != "time_ns"],
                column_encoding={"time_ns": "DELTA_BINARY_PACKED"},
            )  # fmt: skip
        except OSError as e:
            raise TraceError(f"{path}: {e.strerror or e}; name a file that can be written (-o FILE)") from None
        self.heap: list[tuple[int, int, tuple[Any, ...]]] = []
        self.rows: list[tuple[Any, ...]] = []
        self.number = 0
        self.latest = -(1 << 63)
        self.counts: Counter[str] = Counter()
        self.closed = False

    def add(self, event: tuple[Any, ...], settled: int) -> None:
        """`settled`: nothing that begins before this time will follow."""
        self.number += 1
        heappush(self.heap, (event[0], self.number, event))
        heap = self.heap
        while heap and (heap[0][0] <= settled or len(heap) > WAITING):
            self.put(heappop(heap)[2])

    def put(self, event: tuple[Any, ...]) -> None:
        if event[0] < self.latest:
            self.meta.unordered += 1
        else:
            self.latest = event[0]
        self.rows.append(event)
        if len(self.rows) >= self.group:
            self.flush()

    def flush(self) -> None:
        if self.rows:
            batch = to_batch(self.rows)
            self.rows = []
            self.write(batch)

    def add_batch(self, batch: pa.RecordBatch) -> None:
        self.flush()
        self.write(batch)

    def write(self, batch: pa.RecordBatch) -> None:
        for item in pc.value_counts(batch["kind"].dictionary_decode()).to_pylist():
            self.counts[item["values"]] += item["counts"]
        if batch.num_rows:
            lo, hi = pc.min_max(batch["time_ns"]).as_py().values()
            m = self.meta
            m.start_ns = min(m.start_ns, lo) if m.start_ns else lo
            m.end_ns = max(m.end_ns, hi)
        self.out.write_batch(batch, row_group_size=self.group)

    def finish_rows(self) -> None:
        """Write the rows that are held back."""
        while self.heap:
            self.put(heappop(self.heap)[2])
        self.flush()

    def close(self) -> Meta:
        """Write what is left and the metadata; the file has its name from now on."""
        self.finish_rows()
        self.meta.counts = dict(self.counts)
        self.meta.rows = sum(self.counts.values())
        self.out.add_key_value_metadata({KEY: self.meta.encode()})
        self.out.close()
        os.replace(self.part, self.path)
        self.closed = True
        return self.meta

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        """After an error the half-written file is removed."""
        if not self.closed:
            self.out.close()
            self.part.unlink(missing_ok=True)


class Trace:
    """A trace that is open: `meta`, `stacks`, and the events by batches or as a polars LazyFrame."""

    def __init__(self, path: Path, name: str, file: pq.ParquetFile, meta: Meta):
        self.path, self.name, self.file, self.meta = path, name, file, meta

    @property
    def rows(self) -> int:
        return int(self.file.metadata.num_rows)

    @property
    def stacks(self) -> list[list[str]]:
        return self.meta.stacks

    def batches(
        self, columns: Sequence[str] | None = None, kinds: Sequence[str] | None = None, size: int = GROUP
    ) -> Iterator[pa.RecordBatch]:
        """Events in the file's order, at most `size` in a batch; only those `kinds`, if any are named."""
        wanted = list(columns or COLUMNS)
        read = wanted if kinds is None or "kind" in wanted else [*wanted, "kind"]
        values = pa.array(kinds) if kinds is not None else None
        try:
            for batch in self.file.iter_batches(size, columns=read):
                if values is not None:
                    kind = batch["kind"]
                    # `kind` has few values: looked up in the dictionary, not in every row
                    chosen = pc.is_in(kind.dictionary, value_set=values)
                    batch = batch.filter(pc.take(chosen, kind.indices)).select(wanted)
                if batch.num_rows:
                    yield batch
        except (OSError, pa.ArrowException) as e:
            raise TraceError(f"{self.name}: damaged: {first_line(e)}; record it again") from None

    def frame(self) -> pl.LazyFrame:
        """The events as a polars LazyFrame."""
        return pl.scan_parquet(self.path)

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def first_line(e: BaseException) -> str:
    return str(e).splitlines()[0] if str(e) else type(e).__name__


def sample_names() -> list[str]:
    """Traces that the package has; `sample:NAME` opens one."""
    return sorted(p.stem for p in SAMPLES.glob("*.parquet"))


def open_trace(name: str | Path) -> Trace:
    """Open a trace by its path, or by `sample:NAME`.  Raises `TraceError`."""
    text = str(name)
    if text.startswith("sample:"):
        path = SAMPLES / f"{text.removeprefix('sample:')}.parquet"
        if path.stem not in sample_names():
            raise TraceError(f"{text}: no such sample; there are {', '.join(sample_names()) or 'none'}")
    else:
        path = Path(name)
    if path.is_dir():
        raise TraceError(f"{text}: a directory; name the file of a trace")
    try:
        size = path.stat().st_size
        with path.open("rb") as f:
            head = f.read(8)
    except OSError as e:
        raise TraceError(f"{text}: {e.strerror}; seqfault record makes traces") from None
    if not size:
        raise TraceError(f"{text}: empty; seqfault record makes traces")
    if head[:4] != b"PAR1":
        hint = f"; seqfault record --import {text} reads it" if looks_importable(head) else ""
        raise TraceError(f"{text}: no Parquet file{hint or '; seqfault record makes traces'}")
    try:
        file = pq.ParquetFile(path, memory_map=True)
    except (OSError, pa.ArrowException) as e:
        raise TraceError(f"{text}: cut off or damaged ({first_line(e)}); record it again") from None
    data = (file.metadata.metadata or {}).get(KEY)
    if data is None:
        raise TraceError(f"{text}: a Parquet file, but no trace of seqfault (docs/trace-format.md)")
    try:
        meta = Meta.decode(data)
    except (ValueError, TypeError) as e:
        raise TraceError(f"{text}: its metadata cannot be read: {first_line(e)}") from None
    if meta.version > schema.VERSION:
        raise TraceError(f"{text}: format {meta.version}, made by a later seqfault; this one reads {schema.VERSION}")
    have = set(file.schema_arrow.names)
    if lacking := [c for c in COLUMNS if c not in have]:
        raise TraceError(f"{text}: columns are not there: {', '.join(lacking)} (docs/trace-format.md)")
    return Trace(path, text, file, meta)


def looks_importable(head: bytes) -> bool:
    """perf.data, or text."""
    return head.startswith(b"PERFILE2") or all(32 <= c < 127 or c in b"\t\n\r" for c in head)
