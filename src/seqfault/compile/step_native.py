"""Tier 1's machine code: made of an automaton, kept in the cache, loaded."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import llvmlite
import llvmlite.binding as llvm
import numpy as np

import seqfault
from seqfault.compile.automaton import Automaton, Int64
from seqfault.compile.cache import cache_dir, keep_object, kept_object
from seqfault.compile.packing import Packing
from seqfault.compile.program import compiler_hash
from seqfault.compile.target import host, linked_objects, optimise, target_machine

if TYPE_CHECKING:
    from seqfault.compile.symmetry import Alike

ENTRIES = ("advance", "observe", "pack", "unpack", "successors")


@dataclass
class StepObject:
    """Object files with the entries, and how states are packed; `best`: compiled with all that LLVM can do."""

    objects: list[bytes]
    packing: Packing
    best: bool = False
    seconds: dict[str, float] = field(default_factory=dict)


QUICK, BEST = 1, 2
WORTH_S = 100.0  # seconds of exploring with one code, in all processes so far, that make it worth compiling well


class StepCode:
    """Steps of an automaton as machine code.

    `mode`: where steps begin; `dead`: dead registers are zeroed; `track`: steps tell which cells they touch; `own`:
    accesses that are in nobody's way begin none (step_own.py); `alike`: processes that are put in order in what they
    lead to (symmetry.py).
    `addresses`: int64, of the entries; `seconds`: what compiling took, by stage; `cached`: it came from the cache.

    Code is compiled quickly at first, and a second time, with all that LLVM can do (about ten seconds of CPU time for
    the mm text; a sixth to a quarter faster), once it was explored with for so long that this is worth it (`explored`).
    """

    def __init__(
        self, a: Automaton, mode: str = "merged", dead: bool = True, track: bool = False, own: bool = False,
        alike: Sequence[Alike] = (),
    ):  # fmt: skip
        self.a, self.mode, self.dead, self.track, self.own, self.alike = a, mode, dead, track, own, alike
        self.cached = False
        self._engines: list[Any] = []  # code that may still run
        self._key = self.key()
        self._spent = self._told = 0.0
        self._load(self._kept(BEST) or self._object())

    def _load(self, obj: StepObject) -> None:
        self.packing, self.seconds, self.best = obj.packing, obj.seconds, obj.best
        t = time.perf_counter()
        engine = linked_objects(*obj.objects)
        self._engines.append(engine)
        self.addresses: Int64 = np.array([engine.get_function_address(e) or 0 for e in ENTRIES], np.int64)
        self.seconds = {**self.seconds, "load": time.perf_counter() - t}

    def key(self) -> str:
        """A hash of everything that the code depends on."""
        a = self.a
        h = hashlib.sha256(f"{seqfault.__version__} {compiler_hash()} {llvmlite.__version__}".encode())
        h.update(host().encode())
        h.update(f"{self.mode} {self.dead} {self.track} {self.own} {self.alike or ''}".encode())
        for x in (a.code, a.tab, a.stop[self.mode], a.masks, a.rettab):
            h.update(np.ascontiguousarray(x).tobytes())
        h.update(repr((list(a.pools), list(a.const_words), a.nw, a.nx, list(a.rom_cells))).encode())
        h.update(repr((list(a.processes), list(a.kinds), list(a.lock_classes), list(a.observers))).encode())
        h.update(repr((a.observer_base, a.observer_words, [c.start for c in a.cells])).encode())
        return h.hexdigest()[:32]

    def _object(self) -> StepObject:
        return self._kept(QUICK) or self._compiled(QUICK)

    def _kept(self, level: int) -> StepObject | None:
        obj: StepObject | None = kept_object(self._name(level))
        self.cached = obj is not None
        return obj

    def _name(self, level: int) -> str:
        return self._key + (".steps" if level == QUICK else ".best")

    def _compiled(self, level: int) -> StepObject:
        obj = compile_steps(self.a, self.mode, self.dead, self.track, level, self.own, self.alike)
        keep_object(self._name(level), obj)
        return obj

    def explored(self, seconds: float) -> bool:
        """So much longer was explored with this code; whether it is better code from now on (`addresses` are others,
        those before go on to work)."""
        self._spent += seconds
        if self.best or self._spent - self._told < 1.0 or not (cache_dir() / self._name(QUICK)).exists():
            return False
        if not (cache_dir() / self._name(BEST)).exists() and self._tell() < WORTH_S:
            return False
        self._load(self._kept(BEST) or self._compiled(BEST))
        return True

    def _tell(self) -> float:
        """Add to what all processes explored with this code; how much it is.  Who finds it to be enough will compile,
        and the others begin anew."""
        more, self._told = self._spent - self._told, self._spent
        with contextlib.suppress(OSError), (cache_dir() / f"{self._key}.spent").open("a+") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            f.seek(0)
            said = f.read()
            total = more + (float(said) if said.replace(".", "", 1).isdigit() else 0)
            f.truncate(0)
            f.write(f"{0 if total >= WORTH_S else total:.1f}")
            return total
        return 0.0

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


def compile_steps(
    a: Automaton, mode: str, dead: bool, track: bool = False, level: int = QUICK, own: bool = False,
    alike: Sequence[Alike] = (),
) -> StepObject:  # fmt: skip
    """Compile without the cache."""
    from seqfault.compile.step_code import step_text  # not needed where the cache has it

    seconds: dict[str, float] = {}
    t = time.perf_counter()
    text = step_text(a, mode, dead and mode != "full", track, own, alike)
    seconds["text"] = time.perf_counter() - t
    t = time.perf_counter()
    mod = llvm.parse_assembly(text.text)
    seconds["parse"] = time.perf_counter() - t
    t = time.perf_counter()
    best = text.small or level == BEST
    tm = target_machine(2 if best else 0)
    optimise(mod, tm, 2 if best else 1)
    seconds["optimise"] = time.perf_counter() - t
    t = time.perf_counter()
    objects = [tm.emit_object(mod)]
    if text.packing_text:  # small, and run once for each state and transition
        mod, tm = llvm.parse_assembly(text.packing_text), target_machine(2)
        optimise(mod, tm, 2)
        objects.append(tm.emit_object(mod))
    seconds["emit"] = time.perf_counter() - t
    return StepObject(objects, text.packing, best, seconds)
