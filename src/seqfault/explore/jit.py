"""The engine's inner loops are compiled by this decorator."""

from __future__ import annotations

from pathlib import Path

from seqfault.compile.jit import make_jit

COMPILED = (
    "../compile/counts.py", "counts.py", "engine.py", "graph.py", "interp.py", "jit.py", "levels.py", "memory.py",
    "memory_buffers.py", "memory_sc.py", "orders.py", "races.py", "raw.py", "raw_numba.py", "slots.py", "tables.py",
    "watch.py",
)  # fmt: skip

HERE = Path(__file__).parent
FILES = [HERE.parent / "compile" / "work.py", *(HERE / name for name in COMPILED)]

jit = make_jit("engine", FILES)
jit_graph = make_jit("graph", [HERE / "graph.py", HERE / "progress.py"])
SEARCH = ("layout.py", "entering.py", "search.py", "locksets.py", "movers.py", "batch.py", "rehash.py", "strolls.py")
VIEWS = (
    "futures.py", "locksets.py", "movers.py", "memory_accesses.py", "memory_barriers.py", "memory_lkmm.py",
    "memory_races.py",
    "memory_settle.py", "memory_spared.py", "memory_views.py", "memory_words.py",
)  # fmt: skip
VIEWS_FILES = [*FILES, *(HERE / name for name in VIEWS)]
jit_views = make_jit("views", VIEWS_FILES)
jit_search = make_jit("search", [*FILES, *(HERE / name for name in SEARCH)])
MOVING = ("commute.py", "moving.py", "private.py", "relief.py", *SEARCH, *VIEWS)
jit_moving = make_jit("moving", [*FILES, *(HERE / name for name in MOVING)])
