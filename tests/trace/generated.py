"""Traces of any size, made by numpy: threads that fault in their own arenas, and map and unmap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from seqfault.trace import schema as s
from seqfault.trace.schema import SCHEMA, Meta
from seqfault.trace.store import Writer

BATCH = 100_000
THREADS = 8


def batch(first: int, n: int, rng: np.random.Generator) -> pa.RecordBatch:
    i = np.arange(first, first + n)
    call = i % 20 == 0
    names = np.where(call, np.where(i % 40 == 0, "mmap", "munmap"), "user")
    null = pa.nulls(n)
    columns = {
        "time_ns": i * 1000,
        "duration_ns": rng.integers(500, 20_000, n),
        "pid": np.full(n, 100),
        "tid": 100 + i % THREADS,
        "cpu": i % 2,
        "kind": pa.array(np.where(call, s.CALL, s.FAULT)).dictionary_encode(),
        "name": pa.array(names).dictionary_encode(),
        "address": ((i % THREADS) << 36) + (i % 1_000_000) * 4096,
        "length": np.full(n, 4096),
        "a2": pa.array(np.where(call, 3, 0)),
        "a3": pa.array(np.where(call, 0x22, 0)),
        "result": np.zeros(n, np.int64),
        "flags": np.full(n, 6),
    }
    return pa.RecordBatch.from_arrays(
        [pa.array(columns[f.name]).cast(f.type) if f.name in columns else null.cast(f.type) for f in SCHEMA],
        schema=SCHEMA,
    )


def write(path: Path, events: int) -> None:
    rng = np.random.default_rng(1)
    with Writer(path, Meta(recorded=[s.FAULT, s.CALL], cpus=2, kernel="6.18.0")) as w:
        for first in range(0, events, BATCH):
            w.add_batch(batch(first, min(BATCH, events - first), rng))
        w.close()
