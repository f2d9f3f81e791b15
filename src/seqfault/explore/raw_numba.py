"""Operations that numba has no name for: atomic words, prefetch, the upper half of a product, generated code, views of
two words (memory_words.py)."""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel.models import PrimitiveModel
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, register_model
from numba.np.arrayobj import make_array, populate_array

I64 = ir.IntType(64)
I128 = ir.IntType(128)


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
    """The 64-bit numbers at an address, as many as are asked for; at one that is a uint64, of a WIDE type."""
    sig = (WIDE if address == types.uint64 else types.Array(types.int64, 1, "C"))(address)

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


# -- views: a number where `P` is an ordinary array, two words as one where its type is WIDE
# told by its type, so that code is compiled for each; that its numbers need not be aligned is what the type says else
WIDE = types.Array(types.int64, 1, "C", aligned=False)


class TwoWords(types.Type):
    """A view of two words: |, &, ~, << and >> work as for a number."""

    def __init__(self) -> None:
        super().__init__("TwoWords")


TWO = TwoWords()


@register_model(TwoWords)
class TwoWordsModel(PrimitiveModel):
    def __init__(self, manager: Any, type_: Any):
        super().__init__(manager, type_, I128)


def _operator(*names: Any, more: tuple[Any, ...] = ()) -> Any:
    """A decorator: the operators `names`, of a view of two words and of `more`, are lowered as it says."""

    class Typed(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            fits = args[:1] == (TWO,) and len(args) == 1 + len(more)
            integer = fits and more == (types.int64,) and isinstance(args[1], types.Integer)
            return signature(TWO, TWO, *more) if fits and (integer or args[1:] == more) else None

    def of(code: Any) -> Any:
        for name in names:
            infer_global(name)(Typed)
            lower_builtin(name, TWO, *more)(lambda ctx, builder, sig, args: code(builder, *args))
        return code

    return of


_operator(operator.or_, operator.ior, more=(TWO,))(lambda builder, a, b: builder.or_(a, b))
_operator(operator.and_, operator.iand, more=(TWO,))(lambda builder, a, b: builder.and_(a, b))
_operator(operator.invert)(lambda builder, a: builder.not_(a))
_operator(operator.lshift, more=(types.int64,))(lambda builder, a, n: builder.shl(a, builder.zext(n, I128)))
_operator(operator.rshift, more=(types.int64,))(lambda builder, a, n: builder.lshr(a, builder.zext(n, I128)))


def _view(array: Any) -> Any:
    """The type of a view, where the numbers of an automaton are of type `array`."""
    return TWO if array == WIDE else types.int64


def _word(ctx: Any, type_: Any) -> Any:
    return ctx.get_value_type(type_)


@intrinsic
def nothing(typing_context, P):  # type: ignore[no-untyped-def]
    """The view without any bit."""
    sig = _view(P)(P)
    return sig, lambda ctx, builder, sig, args: _word(ctx, sig.return_type)(0)


@intrinsic
def mask(typing_context, P, first, end):  # type: ignore[no-untyped-def]
    """The view with bits first to end - 1."""
    sig = _view(P)(P, types.int64, types.int64)

    def codegen(ctx, builder, sig, args):  # type: ignore[no-untyped-def]
        t = _word(ctx, sig.return_type)
        a, b = (builder.shl(t(1), n if t == I64 else builder.zext(n, t)) for n in args[1:])
        return builder.sub(b, a)

    return sig, codegen


@intrinsic
def has(typing_context, view, i):  # type: ignore[no-untyped-def]
    """Whether bit `i` is in a view."""
    sig = types.boolean(view, types.int64)

    def codegen(ctx, builder, sig, args):  # type: ignore[no-untyped-def]
        v, n = args
        return builder.trunc(builder.lshr(v, n if v.type == I64 else builder.zext(n, v.type)), ir.IntType(1))

    return sig, codegen


@intrinsic
def some(typing_context, view):  # type: ignore[no-untyped-def]
    """Whether any bit is in a view."""
    sig = types.boolean(view)
    return sig, lambda ctx, builder, sig, args: builder.icmp_unsigned("!=", args[0], args[0].type(0))


@intrinsic
def view_in(typing_context, P, array, w, upper):  # type: ignore[no-untyped-def]
    """The view in array[w], and in array[w + upper] if it has two words."""
    sig = _view(P)(P, array, types.int64, types.int64)

    def codegen(ctx, builder, sig, args):  # type: ignore[no-untyped-def]
        low = builder.load(_element(ctx, builder, sig, args, 1, 2))
        if sig.return_type != TWO:
            return low
        at = [*args[:2], builder.add(args[2], args[3])]
        high = builder.zext(builder.load(_element(ctx, builder, sig, at, 1, 2)), I128)
        return builder.or_(builder.zext(low, I128), builder.shl(high, I128(64)))

    return sig, codegen


@intrinsic
def put_view_in(typing_context, array, w, upper, view):  # type: ignore[no-untyped-def]
    """Store a view, as `view_in` loads it."""
    sig = types.void(array, types.int64, types.int64, view)

    def codegen(ctx, builder, sig, args):  # type: ignore[no-untyped-def]
        v = args[3]
        builder.store(v if v.type == I64 else builder.trunc(v, I64), _element(ctx, builder, sig, args, 0, 1))
        if v.type != I64:
            at = [args[0], builder.add(args[1], args[2])]
            high = builder.trunc(builder.lshr(v, I128(64)), I64)
            builder.store(high, _element(ctx, builder, sig, at, 0, 1))
        return ctx.get_dummy_value()

    return sig, codegen


call2 = _caller(2)
call5 = _caller(5)
call7 = _caller(7)
call8 = _caller(8)
