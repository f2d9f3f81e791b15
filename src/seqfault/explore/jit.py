"""The engine's inner loops are compiled by this decorator."""

from __future__ import annotations

from pathlib import Path

from seqfault.compile.jit import make_jit

COMPILED = ("engine.py", "interp.py", "jit.py", "memory.py", "memory_pso.py", "memory_sc.py", "tables.py", "watch.py")

jit = make_jit("engine", [Path(__file__).parent / name for name in COMPILED])
