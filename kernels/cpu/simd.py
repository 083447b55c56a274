"""SIMD vectors as Numba types.

`Vec` is one register of VECTOR_BYTES. Kernels name elements by a flat index into a C-contiguous array: `load(x, i)` is
x.flat[i : i + lanes(x)]. One kernel source serves float32 and float64 and every width, because the array's dtype says
the lanes. Nothing here is bounds-checked; masked forms (`_first`, `_range`) touch no memory outside their mask.
"""

from __future__ import annotations

import llvmlite.ir as ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model
from numba.np.arrayobj import populate_array

from fastconv.kernels.cpu import emit
from fastconv.kernels.cpu.emit import I32, I64
from fastconv.kernels.cpu.host import VECTOR_BYTES, X86


class Vec(types.Type):
    """One SIMD register: `lanes` elements of `dtype`."""

    def __init__(self, dtype: types.Float, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"Vec({dtype}, {lanes})")


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, manager, ty):
        super().__init__(manager, ty, emit.vector(ty))


def vec_of(array):
    """The vector type that goes with an array's Numba type."""
    return Vec(array.dtype, VECTOR_BYTES * 8 // array.dtype.bitwidth)


@intrinsic
def lanes(typingctx, x):
    """Elements of one vector of the dtype of array x: a compile-time constant."""
    count = vec_of(x).lanes
    return types.intp(x), lambda context, b, sig, args: I64(count)


@intrinsic
def one_of(typingctx, k, first, second, third):
    """The array first, second or third for k = 0, 1 or 2, of which only the elements may be asked for.

    Only the address is chosen, without a branch: the compiler would follow each of them to its end.
    """

    def codegen(context, b, sig, args):
        array = context.make_array(sig.args[1])
        all_three = [array(context, b, value).data for value in args[1:]]
        chosen = array(context, b, args[1])
        for number in (1, 2):
            here = b.icmp_signed("==", args[0], ir.Constant(args[0].type, number))
            chosen.data = b.select(here, all_three[number], chosen.data)
        return chosen._getvalue()

    return first(k, first, second, third), codegen


def _row(context, b, ty, data, size):
    """The array of Numba type `ty`, one row of `size` elements from `data` on, which nobody counts references to."""
    array = context.make_array(ty)(context, b)
    step = context.get_constant(types.intp, ty.dtype.bitwidth // 8)
    shape, strides = cgutils.pack_array(b, [size]), cgutils.pack_array(b, [step])
    populate_array(array, data=data, shape=shape, strides=strides, itemsize=step, meminfo=None)
    return array._getvalue()


@intrinsic
def flat(typingctx, x):
    """The elements of a C-contiguous array in one row."""
    ty = types.Array(x.dtype, 1, "C")

    def codegen(context, b, sig, args):
        array = context.make_array(sig.args[0])(context, b, args[0])
        return _row(context, b, ty, array.data, array.nitems)

    return ty(x), codegen


@intrinsic
def array_at(typingctx, like, address, size):
    """The row of `size` elements of array like's dtype at an address."""
    ty = types.Array(like.dtype, 1, "C")

    def codegen(context, b, sig, args):
        data = b.inttoptr(args[1], context.get_data_type(ty.dtype).as_pointer())
        return _row(context, b, ty, data, args[2])

    return ty(like, types.intp, types.intp), codegen


@intrinsic
def item(typingctx, x, i):
    """x.flat[i] for i >= 0: Numba's own indexing spends instructions on negative ones."""

    def codegen(context, b, sig, args):
        return b.load(emit.pointer(context, b, sig.args[0], args[0], args[1]))

    return x.dtype(x, types.intp), codegen


@intrinsic
def load(typingctx, x, i):
    """The vector x.flat[i : i + lanes(x)]."""

    def codegen(context, b, sig, args):
        return emit.load(b, emit.pointer(context, b, sig.args[0], args[0], args[1]), emit.vector(sig.return_type))

    return vec_of(x)(x, types.intp), codegen


@intrinsic
def load_range(typingctx, x, i, low, high):
    """The vector at x.flat[i:], lanes outside low <= lane < high zero and their memory untouched."""

    def codegen(context, b, sig, args):
        pointer = emit.pointer(context, b, sig.args[0], args[0], args[1])
        vector = emit.vector(sig.return_type)
        return emit.masked_load(b, pointer, vector, emit.mask(b, vector.count, args[2], args[3]))

    return vec_of(x)(x, types.intp, types.intp, types.intp), codegen


@intrinsic
def load_first(typingctx, x, i, count):
    """The vector at x.flat[i:], lanes from `count` on zero and their memory untouched."""

    def codegen(context, b, sig, args):
        pointer = emit.pointer(context, b, sig.args[0], args[0], args[1])
        vector = emit.vector(sig.return_type)
        return emit.masked_load(b, pointer, vector, emit.mask(b, vector.count, None, args[2]))

    return vec_of(x)(x, types.intp, types.intp), codegen


@intrinsic
def load_range_or(typingctx, x, i, low, high, other):
    """The vector at x.flat[i:], lanes outside low <= lane < high the vector other's and their memory untouched."""

    def codegen(context, b, sig, args):
        pointer = emit.pointer(context, b, sig.args[0], args[0], args[1])
        vector = emit.vector(sig.return_type)
        mask = emit.mask(b, vector.count, args[2], args[3])
        return b.select(mask, emit.masked_load(b, pointer, vector, mask), args[4])

    return vec_of(x)(x, types.intp, types.intp, types.intp, other), codegen


@intrinsic
def store(typingctx, x, i, v):
    """x.flat[i : i + lanes(x)] = v."""

    def codegen(context, b, sig, args):
        emit.store(b, emit.pointer(context, b, sig.args[0], args[0], args[1]), args[2])
        return context.get_dummy_value()

    return types.void(x, types.intp, v), codegen


@intrinsic
def store_first(typingctx, x, i, v, count):
    """x.flat[i : i + count] = v's first lanes; the rest of the memory is untouched."""

    def codegen(context, b, sig, args):
        pointer = emit.pointer(context, b, sig.args[0], args[0], args[1])
        emit.masked_store(b, pointer, args[2], emit.mask(b, args[2].type.count, None, args[3]))
        return context.get_dummy_value()

    return types.void(x, types.intp, v, types.intp), codegen


@intrinsic
def store_places(typingctx, y, i, v, first, step, count):
    """y.flat[i + l] = first + l·step + lane l of v, a whole number below 2³¹, for l < count; y int64."""

    def codegen(context, b, sig, args):
        array, index, value, start, stride, number = args
        width = value.type.count
        integers = ir.VectorType(ir.IntType(64), width)
        steps = b.mul(emit.splat(b, stride, width), ir.Constant(integers, list(range(width))))
        # By way of 32 bits, which every processor has an instruction for.
        whole = b.sext(b.fptosi(value, ir.VectorType(ir.IntType(32), width)), integers)
        places = b.add(whole, b.add(emit.splat(b, start, width), steps))
        pointer = emit.pointer(context, b, sig.args[0], array, index)
        emit.masked_store(b, pointer, places, emit.mask(b, width, None, number))
        return context.get_dummy_value()

    return types.void(y, types.intp, v, types.intp, types.intp, types.intp), codegen


@intrinsic
def splat(typingctx, x, value):
    """The scalar `value`, cast to x's dtype, in every lane of a vector of array x's width."""
    ty = vec_of(x)

    def codegen(context, b, sig, args):
        scalar = context.cast(b, args[1], sig.args[1], ty.dtype)
        return emit.splat(b, scalar, ty.lanes)

    return ty(x, value), codegen


def _prefetch(writing, doc):
    def typing(typingctx, x, i):
        def codegen(context, b, sig, args):
            pointer = emit.pointer(context, b, sig.args[0], args[0], emit.opaque(b, args[1]))
            emit.prefetch(b, pointer, writing)
            return context.get_dummy_value()

        return types.void(x, types.intp), codegen

    typing.__doc__ = doc
    return intrinsic(typing)


prefetch = _prefetch(False, "Ask for the cache line of x.flat[i], which will be read; i need not lie in x.")
prefetch_to_write = _prefetch(True, "Ask for the cache line of x.flat[i], which will be written; i need not lie in x.")


def _elementwise(doc, emitted):
    def typing(typingctx, a, b):
        if not isinstance(a, Vec) or a != b:
            raise TypeError(f"needs two vectors of one type, got {a} and {b}")
        return a(a, b), lambda context, builder, sig, args: emitted(builder, *args)

    typing.__doc__ = doc
    return intrinsic(typing)


def _maximum(b, x, y):
    return emit.call(b, f"llvm.maximum.{emit.suffix(x.type)}", x.type, [x, y])


def _minimum(b, x, y):
    return emit.call(b, f"llvm.minimum.{emit.suffix(x.type)}", x.type, [x, y])


def _shuffle(picked):
    """A two-source shuffle: `picked(lanes)` lists lanes of a (0..lanes-1) and b (lanes..2·lanes-1)."""

    def emit(b, x, y):
        count = x.type.count
        return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, count), picked(count)))

    return emit


def _larger(b, x, y):
    # Two instructions less than llvm.maximum, which also puts 0 over −0.
    most = b.select(b.fcmp_ordered("<", x, y), y, x)
    return b.select(b.fcmp_unordered("uno", y, y), y, most)


add = _elementwise("a + b", lambda b, x, y: b.fadd(x, y))
sub = _elementwise("a − b", lambda b, x, y: b.fsub(x, y))
mul = _elementwise("a · b", lambda b, x, y: b.fmul(x, y))
maximum = _elementwise("max(a, b); NaN if either is NaN", _maximum)
at_least = _elementwise("the larger of a and b; where a is NaN, a", emit.at_least)
larger = _elementwise("max(a, b), a if they are equal; NaN if either is NaN", _larger)
minimum = _elementwise("min(a, b); NaN if either is NaN", _minimum)
even_lanes = _elementwise("a[0], a[2], … b[0], b[2], …", _shuffle(lambda n: list(range(0, 2 * n, 2))))
odd_lanes = _elementwise("a[1], a[3], … b[1], b[3], …", _shuffle(lambda n: list(range(1, 2 * n, 2))))
zip_low = _elementwise("a[0], b[0], a[1], b[1], …", _shuffle(lambda n: [i // 2 + (i % 2) * n for i in range(n)]))
zip_high = _elementwise(
    "the upper halves interleaved: a[n/2], b[n/2], …",
    _shuffle(lambda n: [n // 2 + i // 2 + (i % 2) * n for i in range(n)]),
)


@intrinsic
def fma(typingctx, a, b, c):
    """a·b + c, rounded once where the host has the instruction."""
    return a(a, b, c), lambda context, builder, sig, args: emit.fma(builder, *args)


@intrinsic
def select_greater(typingctx, value, best, new, old):
    """`new` in lanes where value > best or value is NaN, `old` elsewhere: a maximum that keeps the first of equals."""

    def codegen(context, b, sig, args):
        greater = b.fcmp_ordered(">", args[0], args[1])
        return b.select(b.or_(greater, b.fcmp_unordered("uno", args[0], args[0])), args[2], args[3])

    return value(value, best, new, old), codegen


@intrinsic
def select_equal(typingctx, a, b, new, old):
    """`new` in lanes where a == b, `old` elsewhere."""

    def codegen(context, builder, sig, args):
        return builder.select(builder.fcmp_ordered("==", args[0], args[1]), args[2], args[3])

    return new(a, b, new, old), codegen


@intrinsic
def where_positive(typingctx, value, kept):
    """`kept` in lanes where value is positive or NaN, 0 elsewhere."""

    def codegen(context, b, sig, args):
        zero = ir.Constant(args[0].type, None)
        return b.select(b.fcmp_unordered(">", args[0], zero), args[1], zero)

    return kept(value, kept), codegen


@intrinsic
def sum_lanes(typingctx, v):
    """The sum of all lanes, as a scalar."""
    return v.dtype(v), lambda context, b, sig, args: emit.sum_lanes(b, args[0])


@intrinsic
def quotient(typingctx, a, b):
    """a // b of integers that are not negative: one instruction, where Python's rule for signs takes a dozen."""

    def codegen(context, b, sig, args):
        return b.sdiv(*args)

    return types.intp(types.intp, types.intp), codegen


@intrinsic
def order_stores(typingctx):
    """What the calling thread stored past the cache is seen by others before what it stores from now on."""

    def codegen(context, b, sig, args):
        # Elsewhere such stores are ordered like any other.
        if X86:
            emit.call(b, "llvm.x86.sse.sfence", ir.VoidType(), [])
        return context.get_dummy_value()

    return types.void(), codegen


# The floating-point environment.


@intrinsic
def flush_denormals(typingctx):
    """Set the calling thread to flush denormals to zero; returns the former state for `restore_denormals`."""

    def codegen(context, b, sig, args):
        if not X86:
            return I32(0)
        slot = cgutils.alloca_once(b, I32)
        address = b.bitcast(slot, ir.IntType(8).as_pointer())
        emit.call(b, "llvm.x86.sse.stmxcsr", ir.VoidType(), [address])
        former = b.load(slot)
        # MXCSR bit 15 flushes results, bit 6 reads denormal operands as zero.
        b.store(b.or_(former, I32(0x8040)), slot)
        emit.call(b, "llvm.x86.sse.ldmxcsr", ir.VoidType(), [address])
        return former

    return types.uint32(), codegen


@intrinsic
def restore_denormals(typingctx, state):
    """Give the calling thread back the state that `flush_denormals` returned."""

    def codegen(context, b, sig, args):
        if X86:
            slot = cgutils.alloca_once(b, I32)
            b.store(args[0], slot)
            emit.call(b, "llvm.x86.sse.ldmxcsr", ir.VoidType(), [b.bitcast(slot, ir.IntType(8).as_pointer())])
        return context.get_dummy_value()

    return types.void(types.uint32), codegen
