"""Compilation of inner loops by numba, and where the result is kept.

What Python calls is an `Entry`: machine code with all that it calls linked in, kept as an object file.  Where the cache
has it, numba is not even imported; entry.py makes it where not.  What an entry cannot be given or give back (a slice
with steps, an array as a result) goes through numba's own dispatcher.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import fcntl
import hashlib
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from seqfault.compile.cache import cache_dir, put
from seqfault.compile.digest import files_digest
from seqfault.compile.target import host, linked_objects

Key = tuple[Any, ...]
# a function that makes none borrows its arrays, and need not count references: numba does so at each call
MAKE_ARRAYS = frozenset({"zeros", "empty", "full", "array"})
SCALARS = {bool: "boolean", np.bool_: "boolean", int: "int64", float: "float64"} | {
    t: t.__name__ for t in (np.int32, np.int64, np.uint8, np.uint32, np.uint64, np.float64)
}
FLOATS = (float, np.float64)
ELEMENTS = "biuf"  # numpy's kinds of numbers of up to 64 bits
SUFFIX = ".entry"
lock = threading.RLock()


@cache
def numba_version() -> Path:
    """The file that says which numba it is, which need not be imported for that."""
    spec = find_spec("numba")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).with_name("_version.py")


def cache_directory(name: str, files: Sequence[Path]) -> Path:
    """Where the compiled form of `files` is kept: one directory for each content."""
    numbas = os.environ.get("NUMBA_CACHE_DIR")
    base = Path(numbas) if numbas and not os.environ.get("SEQFAULT_CACHE") else cache_dir()
    mine = [Path(__file__), Path(__file__).with_name("entry.py"), numba_version()]
    return base / f"{name}-{files_digest([*files, *mine])[:16]}"


# where an array's object has the address of its numbers and that of its shape (numpy's PyArrayObject): asked for, the
# first takes as long as all else of a call
DATA_AT, SHAPE_AT = object.__basicsize__, object.__basicsize__ + 16


@cache
def known_layout() -> bool:
    """Whether they are there."""
    a = np.zeros((5, 7), np.int64)
    data, shape = (ctypes.c_int64.from_address(id(a) + at).value for at in (DATA_AT, SHAPE_AT))
    return data == a.ctypes.data and (ctypes.c_int64 * 2).from_address(shape)[:] == [5, 7]


class Entry:
    """Machine code for one list of types of arguments: a function of the address of a table of 64-bit words, one for
    each argument (of an array the address of its object) and then one for each result.

    `results`: the types of what it gives back, None for nothing, a list of one for what is no tuple.
    """

    def __init__(self, results: tuple[str, ...] | None, tuple_: bool, words: int, address: int, engine: Any):
        self.results, self.tuple, self.words, self.engine = results, tuple_, words, engine
        self.function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(address)
        self.table = ctypes.c_int64 * (words + len(results or ()))

    def __call__(self, words: list[int]) -> Any:
        table = self.table(*words)
        if self.function(ctypes.addressof(table)):
            raise RuntimeError("compiled code failed")
        if self.results is None:
            return None
        out = [value(t, w) for t, w in zip(self.results, table[self.words :], strict=True)]
        return tuple(out) if self.tuple else out[0]


def value(type_: str, word: int) -> Any:
    """The Python value of a word."""
    if type_ == "boolean":
        return word != 0
    if type_ == "float64":
        return struct.unpack("d", struct.pack("q", word))[0]
    return word & (1 << 64) - 1 if type_[0] == "u" else word


def load(code: bytes, needs: str) -> tuple[int, Any]:
    """The address of an object file's function, and what keeps it in memory."""
    if needs == "numba":
        from seqfault.compile.entry import provide

        provide()
    engine = linked_objects(code)
    return int(engine.get_function_address("entry")), engine


class Compiled:
    """A function that is compiled when it is first called, or when another that calls it is."""

    def __init__(self, fn: Callable[..., Any], directory: Path):
        self.fn, self.directory = fn, directory
        self.options = {"nogil": True, "_nrt": not MAKE_ARRAYS.isdisjoint(fn.__code__.co_names)}
        self.entries: dict[Key, Entry | None] = {}
        self.addresses: dict[tuple[int, tuple[int, ...]], tuple[int, Any]] = {}
        self.__doc__, self.__name__ = fn.__doc__, fn.__name__

    def __call__(self, *args: Any) -> Any:
        words: list[int] = []
        key: list[Any] = []
        for a in args:
            t = type(a)
            if t is np.ndarray:
                key += a.dtype, a.ndim
                f = a.flags
                if not f.carray:
                    key += f.c_contiguous, f.writeable, f.aligned
                words.append(id(a))
            else:
                key.append(t)
                if t in FLOATS:
                    words += struct.unpack("q", struct.pack("d", a))
                elif t in SCALARS:
                    words.append(int(a))
                    if t is int and not -(1 << 63) <= a < 1 << 63:
                        key[-1] = None
        entry = self.entries.get(tuple(key), self)
        if entry is self:
            entry = self.entry(tuple(key), args)
        return entry(words) if entry is not None else self.plain()(*args)

    @property
    def _numba_type_(self) -> Any:
        """How numba sees it in a function that calls it."""
        from seqfault.compile.entry import type_of

        return type_of(self)

    def plain(self) -> Any:
        """Numba's own dispatcher, for arguments of any type."""
        from seqfault.compile.entry import dispatcher

        return dispatcher(self.fn, self.directory, **self.options)

    def sparing(self, calls: int) -> Callable[..., Any]:
        """The function, but where no machine code of it is kept Python runs the first `calls` calls: what is called a
        few times is done by then long before it is compiled."""
        left = calls

        def call(*args: Any) -> Any:
            nonlocal left
            if left <= 0 or self.known(args):
                left = 0
                return self(*args)
            left -= 1
            with np.errstate(all="ignore"):  # numbers of 64 bits wrap
                return in_python(self)(*args)

        return call

    def known(self, args: tuple[Any, ...]) -> bool:
        """Whether its code for such arguments is in the cache, or need not be made by itself."""
        types = signature(args)
        return types is None or self._path(" ".join(types)).exists()

    def lacks(self, types: list[str]) -> bool:
        """Whether the cache has no code for arguments of these types, and could keep it."""
        with contextlib.suppress(OSError):
            self.directory.mkdir(parents=True, exist_ok=True)
        return not self._path(" ".join(types)).exists() and os.access(self.directory, os.W_OK)

    def make(self, types: list[str]) -> tuple[str, bytes]:
        """What is known of the code for arguments of these types, and the code, of the cache or new."""
        return self._kept(" ".join(types), lambda: made_entry(self, types))

    def entry(self, key: Key, args: tuple[Any, ...]) -> Entry | None:
        """The code for arguments of these types; None: they are none for an entry."""
        types = signature(args)
        with lock:
            if key not in self.entries:
                self.entries[key] = None if types is None else self._entry(types)
            return self.entries[key]

    def _entry(self, types: list[str]) -> Entry | None:
        head, code = self.make(types)
        results, _, needs = head.partition(":")
        if results == "other" or not known_layout():
            return None
        address, engine = load(code, needs)
        names = tuple(results.rstrip(",").split(","))
        return Entry(None if results == "none" else names, results.endswith(","), len(types), address, engine)

    def address(self, words: int, unsigned: tuple[int, ...] = ()) -> int:
        """Where the function is for code that calls it with so many 64-bit arguments (numbers of those that are
        `unsigned`), for one as the result."""
        key = words, unsigned
        with lock:
            if key not in self.addresses:
                needs, code = self._kept(f"address {key}", lambda: made_address(self, *key))
                self.addresses[key] = load(code, needs)
            return self.addresses[key][0]

    def _path(self, types: str) -> Path:
        what = f"{self.fn.__module__} {self.fn.__qualname__} {types} {host()} {llvm.llvm_version_info}"
        return self.directory / f"{self.fn.__name__}-{hashlib.sha256(what.encode()).hexdigest()[:24]}{SUFFIX}"

    def _kept(self, types: str, make: Callable[[], tuple[str, bytes]]) -> tuple[str, bytes]:
        """What is known of the code, and the code, of the cache or new."""
        if self.fn.__closure__:  # what is in it is in no file
            return make()
        path = self._path(types)
        found = read(path)
        if found is None:
            with only_one(path):
                found = read(path)  # of who made it meanwhile
                if found is None:
                    found = make()
                    data = found[0].encode() + b"\n" + found[1]
                    put(path, hashlib.sha256(data).digest() + data)
        return found


def read(path: Path) -> tuple[str, bytes] | None:
    """What `Compiled` kept; None: nothing that is whole."""
    with contextlib.suppress(OSError):
        data = path.read_bytes()
        if hashlib.sha256(data[32:]).digest() == data[:32]:
            head, _, code = data[32:].partition(b"\n")
            return head.decode(), code
    return None


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[None]:
    """While this is entered no other process makes that file; where nothing can be written, each makes its own."""
    lock = path.with_name(path.name + ".lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        yield
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()
        fcntl.flock(fd, fcntl.LOCK_UN)  # closing is not enough: who was forked meanwhile has it open, too
        os.close(fd)


@cache
def in_python(fn: Compiled) -> Callable[..., Any]:
    """A function as Python runs it, with all that it calls; an operation of raw.py ends it."""
    code, scope = fn.fn.__code__, fn.fn.__globals__
    names = set(code.co_names)

    def seen(what: Any) -> Any:
        if isinstance(what, Compiled):
            return in_python(what)
        if isinstance(what, ModuleType) and what is not np:
            return SimpleNamespace(**{n: seen(getattr(what, n)) for n in names if hasattr(what, n)})
        return what

    mine = {n: seen(scope[n]) for n in names & scope.keys()}
    return FunctionType(code, {"__builtins__": builtins, **mine}, fn.__name__, fn.fn.__defaults__)


def made_entry(fn: Compiled, types: list[str]) -> tuple[str, bytes]:
    from seqfault.compile.entry import entry_code

    return entry_code(fn, types)


def made_address(fn: Compiled, words: int, unsigned: tuple[int, ...]) -> tuple[str, bytes]:
    from seqfault.compile.entry import address_code

    return address_code(fn, words, unsigned)


def signature(args: Sequence[Any]) -> list[str] | None:
    """The types of arguments: of a number its name, of an array that and the number of its dimensions, and whether it
    can only be read.  None: something else is among them."""
    out = []
    for a in args:
        if type(a) is np.ndarray:
            d, f = a.dtype, a.flags
            if not (d.kind in ELEMENTS and d.itemsize <= 8 and d.isnative and f.c_contiguous and f.aligned):
                return None
            out.append(f"{d.name} {a.ndim}" if f.writeable else f"{d.name} {a.ndim} read")
        elif type(a) is int and not -(1 << 63) <= a < 1 << 63:
            return None
        elif type(a) in SCALARS:
            out.append(SCALARS[type(a)])
        else:
            return None
    return out


def make_jit(name: str, files: Sequence[Path]) -> Callable[[Callable[..., Any]], Any]:
    """A decorator that compiles functions of `files`; kept on disk where a cache can be written, else compiled
    again in each run."""
    directory = cache_directory(name, files)
    return lambda fn: Compiled(fn, directory)
