"""The engine's inner loops are compiled by this decorator."""

from __future__ import annotations

from pathlib import Path

from seqfault.compile.jit import make_jit

COMPILED = (
    "../compile/counts.py", "counts.py", "engine.py", "graph.py", "interp.py", "jit.py", "locksets.py",
    "memory.py", "memory_buffers.py", "memory_sc.py", "memory_settle.py", "memory_views.py", "slots.py", "tables.py", "watch.py",
)  # fmt: skip

HERE = Path(__file__).parent
FILES = [HERE.parent / "compile" / "work.py", *(HERE / name for name in COMPILED)]

jit = make_jit("engine", FILES)
jit_graph = make_jit("graph", [HERE / "graph.py", HERE / "progress.py"])
SEARCH = ("raw.py", "search.py", "movers.py", "batch.py", "rehash.py")
jit_search = make_jit("search", [*FILES, *(HERE / name for name in SEARCH)])
