"""Tier 1's machine code: made of an automaton, kept in the cache, loaded."""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numpy as np

import seqfault
from seqfault.compile.automaton import Automaton, Int64
from seqfault.compile.native import optimise, target_machine
from seqfault.compile.program import cache_dir, compiler_hash
from seqfault.compile.step_code import Packing, StepText, step_text

ENTRIES = ("advance", "observe", "pack", "unpack", "successors")


@dataclass
class StepObject:
    """Object files with the entries, and how states are packed."""

    objects: list[bytes]
    packing: Packing
    seconds: dict[str, float] = field(default_factory=dict)


class StepCode:
    """Steps of an automaton as machine code.

    `mode`: where steps begin; `dead`: dead registers are zeroed; `track`: steps tell which cells they touch.
    `addresses`: int64, of the entries; `seconds`: what compiling took, by stage; `cached`: it came from the cache.
    """

    def __init__(self, a: Automaton, mode: str = "merged", dead: bool = True, track: bool = False):
        self.a, self.mode, self.dead, self.track = a, mode, dead, track
        self.cached = False
        obj = self._object()
        self.packing, self.seconds = obj.packing, obj.seconds
        t = time.perf_counter()
        engine: Any = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target_machine(1))
        for x in obj.objects:
            engine.add_object_file(llvm.ObjectFileRef.from_data(x))
        engine.finalize_object()
        self._engine = engine
        self.addresses: Int64 = np.array([engine.get_function_address(e) or 0 for e in ENTRIES], np.int64)
        self.seconds = {**self.seconds, "load": time.perf_counter() - t}

    def key(self) -> str:
        """A hash of everything that the code depends on."""
        a = self.a
        h = hashlib.sha256(f"{seqfault.__version__} {compiler_hash()} {llvmlite.__version__}".encode())
        h.update(f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}".encode())
        h.update(f"{self.mode} {self.dead} {self.track}".encode())
        for x in (a.code, a.tab, a.stop[self.mode], a.masks, a.rettab):
            h.update(np.ascontiguousarray(x).tobytes())
        h.update(repr((list(a.pools), list(a.const_words), a.nw, a.nx, list(a.rom_cells))).encode())
        h.update(repr((list(a.processes), list(a.kinds), list(a.lock_classes), list(a.observers))).encode())
        h.update(repr((a.observer_base, a.observer_words, [c.start for c in a.cells])).encode())
        return h.hexdigest()[:32]

    def _object(self) -> StepObject:
        path = cache_dir() / f"{self.key()}.steps"
        try:
            obj: StepObject = pickle.loads(path.read_bytes())
            self.cached = True
            return obj
        except Exception:  # no cache, an old one, a truncated one: all mean compiling
            pass
        obj = compile_steps(self.a, self.mode, self.dead, self.track)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as f:
                f.write(pickle.dumps(obj))
            os.replace(f.name, path)
        except OSError:
            pass  # a read-only home only costs the time to compile
        return obj

    def pack(self, state: Int64) -> Int64:
        """The packed form of a state."""
        out = np.zeros(self.packing.words, np.int64)
        words = np.ascontiguousarray(state, np.int64)
        _call2(int(self.addresses[2]))(words.ctypes.data, out.ctypes.data)
        return out

    def unpack(self, packed: Int64) -> Int64:
        """The state of a packed form."""
        out = np.zeros(self.a.nw, np.int64)
        words = np.ascontiguousarray(packed, np.int64)
        _call2(int(self.addresses[3]))(words.ctypes.data, out.ctypes.data)
        return out


def _call2(address: int) -> Callable[[int, int], None]:
    import ctypes

    return ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(address)


def compile_steps(a: Automaton, mode: str, dead: bool, track: bool = False) -> StepObject:
    """Compile without the cache."""
    seconds: dict[str, float] = {}
    t = time.perf_counter()
    text: StepText = step_text(a, mode, dead and mode != "full", track)
    seconds["text"] = time.perf_counter() - t
    t = time.perf_counter()
    mod = llvm.parse_assembly(text.text)
    seconds["parse"] = time.perf_counter() - t
    t = time.perf_counter()
    # LLVM's own -O1 for the emission of 6,000 instructions takes five times as long, and runs a sixth faster
    tm = target_machine(2 if text.small else 0)
    optimise(mod, tm, 2 if text.small else 1)
    seconds["optimise"] = time.perf_counter() - t
    t = time.perf_counter()
    objects = [tm.emit_object(mod)]
    if text.packing_text:  # small, and run once for each state and transition
        mod, tm = llvm.parse_assembly(text.packing_text), target_machine(2)
        optimise(mod, tm, 2)
        objects.append(tm.emit_object(mod))
    seconds["emit"] = time.perf_counter() - t
    return StepObject(objects, text.packing, seconds)
