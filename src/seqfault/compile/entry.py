"""Making the entries of jit.py: numba's front end for each function, then everything that an entry needs in one module,
which LLVM optimises and makes machine code of once.

By itself numba makes machine code of each function, with all that it calls, for whoever may call it from Python: of a
function at depth ten of the calls, ten times.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.core.runtime import rtsys
from numba.core.typed_passes import NopythonRewrites
from numba.core.untyped_passes import InlineClosureLikes
from numba.np import arrayobj
from numba.np.arrayobj import make_array, populate_array
from numba.np.numpy_support import from_dtype

from seqfault.compile.jit import DATA_AT, SHAPE_AT, Compiled

OPTIONS: dict[str, Any] = {"boundscheck": False, "error_model": "numpy"}
I64 = ir.IntType(64)
RESULTS = ("boolean", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float64")
OF_NUMBA = ("NRT_", "numba_", "Py", "_Py")  # symbols that only a process with numba has


class Loops(CompilerBase):
    """Numba's pipeline without what loops over numbers have no use for, which takes a fifteenth of the time."""

    def define_pipelines(self) -> list[Any]:
        pm = DefaultPassBuilder.define_nopython_pipeline(self.state)
        pm.passes = [p for p in pm.passes if p[0] not in (InlineClosureLikes, NopythonRewrites)]
        pm.finalize()
        return [pm]


@cache
def dispatcher(fn: Callable[..., Any], directory: Path | None, **options: bool) -> Any:
    """Numba's own, which can be called from Python if its code is kept in a `directory`."""
    njit: Any = numba.njit
    options = {**options, **OPTIONS}
    if directory is None:
        closures = any(isinstance(c, CodeType) for c in fn.__code__.co_consts)
        pipeline = {} if closures else {"pipeline_class": Loops}
        return njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **pipeline, **options)(fn)
    config: Any = numba.config
    before = config.CACHE_DIR
    config.CACHE_DIR = str(directory)
    try:
        return njit(cache=True, **options)(fn)
    except (RuntimeError, OSError):  # nothing can be written there
        return njit(**options)(fn)
    finally:
        config.CACHE_DIR = before


def type_of(fn: Compiled) -> Any:
    return types.Dispatcher(dispatcher(fn.fn, None, **fn.options))


class Part(JITCodeLibrary):
    """The code of a function that is only linked into others': as numba lowered it, and no machine code is made."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def finalize(self) -> None:
        for f in self._final_module.functions:
            if not f.is_declaration and f.linkage == llvm.Linkage.external:
                f.linkage = "weak_odr"  # kept, and the same wherever else it is
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        return 0

    def all_of_it(self) -> Any:
        """A module with this and everything that it calls."""
        out = self._final_module.clone()
        parts: list[Any] = [self]
        others: list[Any] = []
        for part in parts:
            for library in part._linking_libraries:
                known = parts if isinstance(library, Part) else others
                if library not in known:
                    known.append(library)
        for part in parts[1:]:
            out.link_in(part._final_module, preserve=True)
        for library in others:  # of numba, in which what nobody has called yet is left out
            out.link_in(library._get_module_for_linking(), preserve=True)
        return out

    def _get_module_for_linking(self) -> Any:
        if self._shared_module is None:
            self._shared_module = self.all_of_it()
            for f in self._shared_module.functions:
                if not f.is_declaration and f.linkage == llvm.Linkage.weak_odr:
                    f.linkage = "linkonce_odr"
        return self._shared_module


def index_as_it_is(context: Any, builder: Any, type_: Any, index: Any, size: Any) -> Any:
    """An index of an array for LLVM.  Numba has what is less than zero count from the end, which takes three
    instructions at each access; no loop here does that (tests/compile/test_jit.py)."""
    return context.cast(builder, index, type_, types.intp if type_.signed else types.uintp)


@contextlib.contextmanager
def as_parts() -> Iterator[Any]:
    """What numba compiles meanwhile are parts."""
    codegen = cpu_target.target_context.codegen()
    with global_compiler_lock:
        codegen._library_class, codegen.set_env = Part, lambda name, env: None
        before, arrayobj.fix_integer_index = arrayobj.fix_integer_index, index_as_it_is
        collects = gc.isenabled()
        gc.disable()  # an eighth of the time, for what is thrown away all at once
        try:
            yield codegen
        finally:
            if collects:
                gc.enable()
            del codegen._library_class, codegen.set_env
            arrayobj.fix_integer_index = before


def linked(fn: Compiled, args: list[Any], body: Callable[[Any, Any, Any], None]) -> tuple[str, bytes]:
    """Machine code of a function `entry` that calls `fn`, after what must be in the process for it to run: "numba", or
    "alone".  `body(module, compiled, call)` writes the function."""
    context = cpu_target.target_context
    with as_parts() as codegen:
        inner = dispatcher(fn.fn, None, **fn.options)
        inner.compile(tuple(args))
        done = inner.overloads[tuple(args)]
        library = codegen.create_library("entry")
        module = library.create_ir_module("entry")
        callee = context.declare_function(module, done.fndesc)

        def call(builder: Any, values: list[Any]) -> Any:
            status, out = context.call_conv.call_function(builder, callee, done.signature.return_type, args, values)
            with builder.if_then(status.is_error, likely=False):
                builder.ret(I64(1))
            return out

        body(module, done, call)
        library.add_ir_module(module)
        library.add_linking_library(done.library)
        library.finalize()
        mod = library.all_of_it()
        for f in mod.functions:
            if not f.is_declaration:
                f.linkage = "external" if f.name == "entry" else "internal"
        passes, builder = codegen._module_pass_manager(loop_vectorize=False, slp_vectorize=False)
        passes.run(mod, builder)
        needs = "alone"
        for f in mod.functions:
            if f.is_declaration and not f.name.startswith("llvm."):
                if llvm.address_of_symbol(f.name) is None:
                    raise RuntimeError(f"{fn.__name__} calls {f.name}, which is nowhere")
                needs = "numba" if f.name.startswith(OF_NUMBA) else needs
        return needs, codegen._tm.emit_object(mod)


def numba_type(name: str) -> Any:
    """The type that a word of a signature stands for (`signature` of jit.py)."""
    words = name.split()
    if len(words) == 1:
        return getattr(types, name)
    return types.Array(from_dtype(np.dtype(words[0])), int(words[1]), "C", readonly=len(words) > 2)


def entry_code(fn: Compiled, signature: list[str]) -> tuple[str, bytes]:
    """What `Compiled` keeps of an entry: its results, whether it needs numba to run, and the code."""
    context = cpu_target.target_context
    args = [numba_type(t) for t in signature]
    results: list[str] = []

    def body(module: Any, done: Any, call: Any) -> None:
        builder = ir.IRBuilder(ir.Function(module, ir.FunctionType(I64, [I64]), "entry").append_basic_block())
        table = builder.inttoptr(builder.function.args[0], I64.as_pointer())
        at = iter(range(1 << 20))

        def word() -> Any:
            return builder.gep(table, [I64(next(at))])

        values = [taken(builder, context, t, builder.load(word())) for t in args]
        out = call(builder, values)
        result: Any = done.signature.return_type
        many = isinstance(result, types.BaseTuple)
        if many:
            each = [(t, builder.extract_value(out, i)) for i, t in enumerate(result.types)]
        else:
            each = [] if result == types.none else [(result, out)]
        for t, v in each:
            name = str(types.unliteral(t)).replace("bool", "boolean")
            if name not in RESULTS:
                raise Other
            results.append(name)
            builder.store(as_word(builder, name, v), word())
        if many:
            results.append("")
        builder.ret(I64(0))

    try:
        needs, code = linked(fn, args, body)
    except Other:
        return "other:", b""
    return f"{','.join(results) or 'none'}:{needs}", code


class Other(Exception):
    """A result that is neither a number nor a tuple of numbers."""


def loaded(builder: Any, address: Any, offset: int) -> Any:
    return builder.load(builder.inttoptr(builder.add(address, I64(offset)), I64.as_pointer()))


def taken(builder: Any, context: Any, type_: Any, w: Any) -> Any:
    """An argument, of its word in the table."""
    if isinstance(type_, types.Array):
        size = context.get_abi_sizeof(context.get_data_type(type_.dtype))
        data = builder.inttoptr(loaded(builder, w, DATA_AT), context.get_data_type(type_.dtype).as_pointer())
        first = loaded(builder, w, SHAPE_AT)
        shape = [loaded(builder, first, 8 * i) for i in range(type_.ndim)]
        strides = [I64(size)]
        for n in reversed(shape[1:]):
            strides.insert(0, builder.mul(strides[0], n))
        out = make_array(type_)(context, builder)
        populate_array(out, data=data, shape=shape, strides=strides, itemsize=I64(size), meminfo=None)
        return out._getvalue()
    if type_ == types.boolean:
        return builder.icmp_unsigned("!=", w, I64(0))
    if type_ == types.float64:
        return builder.bitcast(w, ir.DoubleType())
    t = context.get_value_type(type_)
    return w if t == I64 else builder.trunc(w, t)


def as_word(builder: Any, name: str, v: Any) -> Any:
    if name == "float64":
        return builder.bitcast(v, I64)
    if v.type == I64:
        return v
    return builder.zext(v, I64) if name[0] in "ub" else builder.sext(v, I64)


def address_code(fn: Compiled, words: int, unsigned: tuple[int, ...]) -> tuple[str, bytes]:
    """As `entry_code`, of a function with so many words as arguments and one as its result."""
    args = [types.uint64 if i in unsigned else types.int64 for i in range(words)]

    def body(module: Any, done: Any, call: Any) -> None:
        f = ir.Function(module, ir.FunctionType(I64, [I64] * words), "entry")
        builder = ir.IRBuilder(f.append_basic_block())
        out = call(builder, list(f.args))
        builder.ret(as_word(builder, str(types.unliteral(done.signature.return_type)), out))

    return linked(fn, args, body)


@cache
def provide() -> None:
    """Let code find what it calls of numba's runtime."""
    rtsys.initialize(cpu_target.target_context)
