"""Operations that numba has no name for: atomic words, prefetch, the upper half of a product, generated code."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

I64 = ir.IntType(64)


def _element(ctx: Any, builder: Any, sig: Any, args: Any, array: int, index: int) -> Any:
    a = ctx.make_array(sig.args[array])(ctx, builder, args[array])
    return builder.gep(a.data, [args[index]])


@intrinsic
def compare_and_swap(typing_context, array, index, old, new):  # type: ignore[no-untyped-def]
    """Store `new` in array[index] if it holds `old`; what it held."""
    sig = array.dtype(array, types.int64, array.dtype, array.dtype)

    def codegen(ctx, builder, sig, args):  # type: ignore[no-untyped-def]
        p = _element(ctx, builder, sig, args, 0, 1)
        return builder.extract_value(builder.cmpxchg(p, args[2], args[3], "acq_rel", "acquire"), 0)

    return sig, codegen


@intrinsic
def fetch_add(typing_context, array, index, value):  # type: ignore[no-untyped-def]
    """Add to array[index]; what it held."""
    sig = array.dtype(array, types.int64, array.dtype)

    def codegen(ctx, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.atomic_rmw("add", _element(ctx, builder, sig, args, 0, 1), args[2], "monotonic")

    return sig, codegen


@intrinsic
def prefetch(typing_context, array, index):  # type: ignore[no-untyped-def]
    """Fetch the line of array[index] for writing."""
    sig = types.void(array, types.int64)

    def codegen(ctx, builder, sig, args):  # type: ignore[no-untyped-def]
        p = _element(ctx, builder, sig, args, 0, 1)
        i32, byte = ir.IntType(32), ir.IntType(8).as_pointer()
        t = ir.FunctionType(ir.VoidType(), [byte, i32, i32, i32])
        fn = cgutils.get_or_insert_function(builder.module, t, "llvm.prefetch.p0")
        builder.call(fn, [builder.bitcast(p, byte), i32(1), i32(1), i32(1)])
        return ctx.get_dummy_value()

    return sig, codegen


@intrinsic
def high(typing_context, a, b):  # type: ignore[no-untyped-def]
    """Upper 64 bits of the product of two uint64: `a` as a fraction of `b`."""
    sig = types.uint64(types.uint64, types.uint64)

    def codegen(ctx, builder, sig, args):  # type: ignore[no-untyped-def]
        wide = ir.IntType(128)
        p = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        return builder.trunc(builder.lshr(p, wide(64)), I64)

    return sig, codegen


@intrinsic
def numbers_at(typing_context, address):  # type: ignore[no-untyped-def]
    """The 64-bit numbers at an address, as many as are asked for."""
    sig = types.Array(types.int64, 1, "C")(types.int64)

    def codegen(ctx, builder, sig, args):  # type: ignore[no-untyped-def]
        out = make_array(sig.return_type)(ctx, builder)
        size = ctx.get_constant(types.intp, 8)
        populate_array(
            out,
            data=builder.inttoptr(args[0], I64.as_pointer()),
            shape=[ctx.get_constant(types.intp, 1 << 40)],
            strides=[size],
            itemsize=size,
            meminfo=None,
        )
        return out._getvalue()

    return sig, codegen


def _caller(n: int) -> Any:
    """An intrinsic that calls the function at an address with `n` 64-bit arguments."""
    names = [f"a{i}" for i in range(n)]

    def typer(typing_context: Any, address: Any, args: Any) -> Any:
        if len(args) != n:
            return None
        sig = types.int64(types.int64, types.UniTuple(types.int64, n))

        def codegen(ctx: Any, builder: Any, sig: Any, values: Any) -> Any:
            t = ir.FunctionType(I64, [I64] * n)
            fn = builder.inttoptr(values[0], t.as_pointer())
            return builder.call(fn, [builder.extract_value(values[1], i) for i in range(n)])

        return sig, codegen

    typer.__doc__ = f"Call generated code with {', '.join(names)}."
    return intrinsic(typer)


call2 = _caller(2)
call5 = _caller(5)
call7 = _caller(7)
call8 = _caller(8)
