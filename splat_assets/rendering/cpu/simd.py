"""Sixteen float32 lanes as a numba type, for kernels that must not hope for auto-vectorisation.

A `Lanes` value is one LLVM `<16 x float>`: one AVX-512 register, two AVX ones, four NEON ones;
LLVM splits it for the machine at hand. Numba has no arrays of vectors: pixels are read and written
through `load` and `store` at explicit offsets into flat C-contiguous arrays, unchecked. No
fast-math flag is used and every fused multiply-add is written out, so that a kernel and its
backward twin round alike.
"""

from __future__ import annotations

import operator
import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic as _intrinsic
from numba.extending import lower_builtin, models, register_model

from splat_assets.numba_start import load_numba

load_numba()

# typed, numba's decorator would show the signature of the code generator instead of the function's
intrinsic: Any = _intrinsic

WIDTH = 16  # kernels assume it: a 4×4 block of pixels is one value


class _LanesType(types.Type):
    def __init__(self) -> None:
        super().__init__(name="F32x16")


class _MaskType(types.Type):
    def __init__(self) -> None:
        super().__init__(name="Bool16")


Lanes = _LanesType()
Mask = _MaskType()

_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_VEC = ir.VectorType(_F32, WIDTH)
_VECI = ir.VectorType(_I32, WIDTH)
_BITS = ir.VectorType(ir.IntType(1), WIDTH)


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _VEC)


@register_model(_MaskType)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _BITS)


# ---------------------------------------------------------------- operators


def _operator(function: Any, build: str) -> None:
    class Template(ConcreteTemplate):
        cases = [signature(Lanes, Lanes, Lanes)]  # noqa: RUF012

    infer_global(function)(Template)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, build)(*args)

    lower_builtin(function, Lanes, Lanes)(lower)


_operator(operator.add, "fadd")
_operator(operator.sub, "fsub")
_operator(operator.mul, "fmul")
_operator(operator.truediv, "fdiv")


# ---------------------------------------------------------------- memory


def _element(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """Where `array[index]` lies; the array may also be the address (int64) of float32 numbers."""
    if isinstance(array_type, types.Integer):
        data = builder.inttoptr(array, _F32.as_pointer())
    else:
        data = context.make_array(array_type)(context, builder, value=array).data
    return builder.gep(data, [index])


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any, to: Any) -> Any:
    element = _element(context, builder, array_type, array, index)
    return builder.bitcast(element, to.as_pointer())


@intrinsic
def load(typingctx, array, index):  # type: ignore[no-untyped-def]
    """Sixteen consecutive float32 of a flat array (or at an address) from `index` on."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        value = builder.load(_pointer(context, builder, sig.args[0], args[0], args[1], _VEC))
        value.align = 4
        return value

    return Lanes(array, types.int64), codegen


@intrinsic
def store(typingctx, array, index, value):  # type: ignore[no-untyped-def]
    """Write sixteen consecutive float32 of a flat array (or at an address) from `index` on."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1], _VEC)
        builder.store(args[2], pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, types.int64, Lanes), codegen


@intrinsic
def read(typingctx, array, index):  # type: ignore[no-untyped-def]
    """`array[index]` without numba's test for negative indices; float32 at an address."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.load(_element(context, builder, sig.args[0], args[0], args[1]))

    dtype = types.float32 if isinstance(array, types.Integer) else array.dtype
    return dtype(array, types.int64), codegen


@intrinsic
def write(typingctx, array, index, value):  # type: ignore[no-untyped-def]
    """`array[index] = value` for float32, as `read`."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        builder.store(args[2], _element(context, builder, sig.args[0], args[0], args[1]))
        return context.get_dummy_value()

    return types.void(array, types.int64, types.float32), codegen


@intrinsic
def prefetch(typingctx, array, index):  # type: ignore[no-untyped-def]
    """Ask for the cache line of `array[index]`, which is needed soon."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        bytes_ = ir.IntType(8).as_pointer()
        place = builder.bitcast(_element(context, builder, sig.args[0], args[0], args[1]), bytes_)
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [bytes_, _I32, _I32, _I32]),
            "llvm.prefetch.p0",
        )  # fmt: skip
        builder.call(function, [place, *(ir.Constant(_I32, n) for n in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


@intrinsic
def fetch_add(typingctx, array, index, amount):  # type: ignore[no-untyped-def]
    """Atomically add to `array[index]` (int64) and return what was there: hands out tasks."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1], _I64)
        return builder.atomic_rmw("add", pointer, args[2], "monotonic")

    return types.int64(array, types.int64, types.int64), codegen


@intrinsic
def peek(typingctx, array, index):  # type: ignore[no-untyped-def]
    """`array[index]` (int64) as it is now: for a loop that waits for another thread."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1], _I64)
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(array, types.int64), codegen


@intrinsic
def poke(typingctx, array, index, value):  # type: ignore[no-untyped-def]
    """`array[index] = value` (int64), seen by others after everything written before it."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1], _I64)
        builder.store_atomic(args[2], pointer, "release", 8)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), codegen


@intrinsic
def pause(typingctx):  # type: ignore[no-untyped-def]
    """A moment, on x86 and ARM without taking resources from the core's other thread."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        machine = platform.machine().lower()
        if machine in ("x86_64", "amd64"):
            _call(builder, "llvm.x86.sse2.pause", [], ir.VoidType())
        elif machine in ("aarch64", "arm64"):
            _call(builder, "llvm.aarch64.hint", [ir.Constant(_I32, 1)], ir.VoidType())  # YIELD
        return context.get_dummy_value()

    return types.void(), codegen


# ---------------------------------------------------------------- values


def _splat(builder: Any, scalar: Any, vector: Any = _VEC) -> Any:
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(_I32, 0))
    zeros = ir.Constant(ir.VectorType(_I32, WIDTH), [0] * WIDTH)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), zeros)


def _constant(value: float) -> Any:
    return ir.Constant(_VEC, [value] * WIDTH)


@intrinsic
def fill(typingctx, scalar):  # type: ignore[no-untyped-def]
    """All lanes equal to a float32."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return _splat(builder, args[0])

    return Lanes(types.float32), codegen


def _call(builder: Any, name: str, args: list[Any], result: Any = _VEC) -> Any:
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(result, [a.type for a in args]), name
    )
    return builder.call(function, args)


def _unary(name: str, doc: str) -> Any:
    @intrinsic
    def function(typingctx, x):  # type: ignore[no-untyped-def]
        def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
            return _call(builder, f"llvm.{name}.v16f32", list(args))

        return Lanes(Lanes), codegen

    function.__doc__ = doc
    return function


absolute = _unary("fabs", "|x| in every lane.")
square_root = _unary("sqrt", "The square root of every lane.")
round_down = _unary("floor", "The largest integer not above every lane.")


@intrinsic
def negative(typingctx, x):  # type: ignore[no-untyped-def]
    """-|x| in every lane: one operation on the sign bit."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.fneg(_call(builder, "llvm.fabs.v16f32", list(args)))

    return Lanes(Lanes), codegen


@intrinsic
def fma(typingctx, a, b, c):  # type: ignore[no-untyped-def]
    """a·b + c, in one rounding where the machine can."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return _call(builder, "llvm.fmuladd.v16f32", list(args))

    return Lanes(Lanes, Lanes, Lanes), codegen


@intrinsic
def fnma(typingctx, a, b, c):  # type: ignore[no-untyped-def]
    """c - a·b, in one rounding where the machine can."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return _call(builder, "llvm.fmuladd.v16f32", [builder.fneg(args[0]), args[1], args[2]])

    return Lanes(Lanes, Lanes, Lanes), codegen


def _minmax(predicate: str) -> Any:
    @intrinsic
    def function(typingctx, a, b):  # type: ignore[no-untyped-def]
        def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
            return builder.select(builder.fcmp_ordered(predicate, *args), *args)

        return Lanes(Lanes, Lanes), codegen

    return function


smaller = _minmax("<")
larger = _minmax(">")


@intrinsic
def exp2(typingctx, x):  # type: ignore[no-untyped-def]
    """2^x for x in [-126, 127], relative error below 1.5e-7; other x give nonsense.

    Adding 1.5·2^23 leaves round(x) in the low bits; a polynomial (fitted by us, Lawson's iteration)
    does the fraction; the integer is added to the exponent.
    """

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        x = args[0]
        magic = _constant(12582912.0)
        shifted = builder.fadd(x, magic)
        fraction = builder.fsub(x, builder.fsub(shifted, magic))
        power = _constant(0.0013276471520752395)
        for coefficient in (
            0.009675541330713314,
            0.05550713274957688,
            0.24022119723933222,
            0.6931469670638659,
            1.000000071654657,
        ):
            power = _call(builder, "llvm.fmuladd.v16f32", [power, fraction, _constant(coefficient)])
        exponent = builder.shl(builder.bitcast(shifted, _VECI), ir.Constant(_VECI, [23] * WIDTH))
        return builder.bitcast(builder.add(builder.bitcast(power, _VECI), exponent), _VEC)

    return Lanes(Lanes), codegen


@intrinsic
def lane_sum(typingctx, x):  # type: ignore[no-untyped-def]
    """The sum of all lanes (pairwise, the same tree on every machine)."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        value, width = args[0], WIDTH
        while width > 1:
            width //= 2
            undefined = ir.Constant(value.type, ir.Undefined)
            halves = [
                builder.shuffle_vector(
                    value,
                    undefined,
                    ir.Constant(ir.VectorType(_I32, width), list(range(start, start + width))),
                )
                for start in (0, width)
            ]
            value = builder.fadd(*halves)
        return builder.extract_element(value, ir.Constant(_I32, 0))

    return types.float32(Lanes), codegen


# ---------------------------------------------------------------- masks


def _compare(predicate: str) -> Any:
    @intrinsic
    def function(typingctx, a, b):  # type: ignore[no-untyped-def]
        def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
            return builder.fcmp_ordered(predicate, *args)

        return Mask(Lanes, Lanes), codegen

    return function


at_least = _compare(">=")
above = _compare(">")


@intrinsic
def both(typingctx, a, b):  # type: ignore[no-untyped-def]
    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.and_(*args)

    return Mask(Mask, Mask), codegen


@intrinsic
def choose(typingctx, mask, a, b):  # type: ignore[no-untyped-def]
    """a where the mask is set, b elsewhere."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.select(*args)

    return Lanes(Mask, Lanes, Lanes), codegen


@intrinsic
def any_lane(typingctx, mask):  # type: ignore[no-untyped-def]
    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        bits = builder.bitcast(args[0], ir.IntType(WIDTH))
        return builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(WIDTH), 0))

    return types.boolean(Mask), codegen


@intrinsic
def every_lane(typingctx, mask):  # type: ignore[no-untyped-def]
    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        bits = builder.bitcast(args[0], ir.IntType(WIDTH))
        return builder.icmp_unsigned("==", bits, ir.Constant(ir.IntType(WIDTH), -1))

    return types.boolean(Mask), codegen


# ---------------------------------------------------------------- 64-bit sets of blocks


@intrinsic
def spans_to_bits(typingctx, edges):  # type: ignore[no-untyped-def]
    """Lanes 0–7 hold the first, lanes 8–15 the last column of rows 0–7 (integers in -1..8, empty
    where last < first); the result has bit 8·row + column set for the columns in between."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        vec8 = ir.VectorType(_I32, 8)
        undefined = ir.Constant(_VECI, ir.Undefined)
        columns = builder.fptosi(args[0], _VECI)
        first, last = (
            builder.shuffle_vector(
                columns, undefined, ir.Constant(vec8, list(range(start, start + 8)))
            )
            for start in (0, 8)
        )
        ones = ir.Constant(vec8, [1] * 8)
        up_to_last = builder.sub(builder.shl(ones, builder.add(last, ones)), ones)
        below_first = builder.sub(builder.shl(ones, first), ones)
        bits = builder.and_(up_to_last, builder.not_(below_first))
        return builder.bitcast(builder.trunc(bits, ir.VectorType(ir.IntType(8), 8)), _I64)

    return types.uint64(Lanes), codegen


@intrinsic
def lowest_bit(typingctx, bits):  # type: ignore[no-untyped-def]
    """The index of the lowest set bit of a non-zero uint64."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), codegen
