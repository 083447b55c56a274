"""LLVM IR that vectors and tiles are made of: addresses, loads, stores, masks. `b` is always the IR builder."""

from __future__ import annotations

import llvmlite.ir as ir
from numba.core import cgutils

from fastconv.kernels.cpu.host import FMA, VECTOR_BYTES

I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


def opaque(b, number):
    """The i64 itself, of which the optimiser no longer knows how it came about.

    For addresses in nested loops: the best way to step each of them would take it up to half a second to find.
    """
    return b.asm(ir.FunctionType(I64, [I64]), "", "=r,0", [number], side_effect=False)


def element(dtype):
    return {32: ir.FloatType(), 64: ir.DoubleType()}[dtype.bitwidth]


def vector(ty):
    return ir.VectorType(element(ty.dtype), ty.lanes)


def zeros(b, vector, count):
    """The address, an i64, of `count` vectors of zeros."""
    kind = ir.ArrayType(vector, count)
    name = f"fastconv.zeros.{count}.{suffix(vector)}"
    block = b.module.globals.get(name)
    if block is None:
        block = ir.GlobalVariable(b.module, kind, name)
        block.linkage, block.global_constant, block.initializer = "private", True, ir.Constant(kind, None)
    return b.ptrtoint(block, I64)


def call(b, name, result, args):
    function = cgutils.get_or_insert_function(b.module, ir.FunctionType(result, [a.type for a in args]), name)
    return b.call(function, args)


def suffix(vector):
    if isinstance(vector.element, ir.IntType):
        return f"v{vector.count}i{vector.element.width}"
    return f"v{vector.count}f{32 if isinstance(vector.element, ir.FloatType) else 64}"


def fma(b, x, y, z):
    return call(b, f"llvm.{'fma' if FMA else 'fmuladd'}.{suffix(x.type)}", x.type, [x, y, z])


def splat(b, value, lanes):
    vector = ir.VectorType(value.type, lanes)
    one = b.insert_element(ir.Constant(vector, ir.Undefined), value, I32(0))
    return b.shuffle_vector(one, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))


def pointer(context, b, array_type, array, index):
    """Address of element `index` of the array's data."""
    data = context.make_array(array_type)(context, b, array).data
    return b.gep(data, [index])


def as_vector_pointer(b, pointer, vector):
    return b.bitcast(pointer, vector.as_pointer())


def load(b, pointer, vector):
    return b.load(as_vector_pointer(b, pointer, vector), align=align(vector))


def store(b, pointer, value):
    return b.store(value, as_vector_pointer(b, pointer, value.type), align=align(value.type))


def store_past_the_cache(b, pointer, value):
    """A store to an aligned address that neither reads the line first nor keeps it; see simd.order_stores."""
    instruction = b.store(value, as_vector_pointer(b, pointer, value.type), align=VECTOR_BYTES)
    instruction.set_metadata("nontemporal", b.module.add_metadata([I32(1)]))


def align(vector):
    return 4 if isinstance(vector.element, ir.FloatType) else 8


def mask(b, lanes, low, high):
    """Lanes with low <= lane < high; low may be None for 0."""
    iota = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes)))

    def bound(number):
        # 32 bits a lane are half the compare; a bound beyond the lanes is as good as their end.
        for limit, outside in ((0, "<"), (lanes, ">")):
            number = b.select(b.icmp_signed(outside, number, I64(limit)), I64(limit), number)
        return splat(b, b.trunc(number, I32), lanes)

    mask = b.icmp_signed("<", iota, bound(high))
    return mask if low is None else b.and_(mask, b.icmp_signed(">=", iota, bound(low)))


def masked_load(b, pointer, vector, mask):
    # The masked intrinsics take the alignment as an argument; LLVM's own upgrade maps it to newer forms.
    address = as_vector_pointer(b, pointer, vector)
    zero = ir.Constant(vector, None)
    return call(b, f"llvm.masked.load.{suffix(vector)}.p0", vector, [address, I32(align(vector)), mask, zero])


def masked_store(b, pointer, value, mask):
    address = as_vector_pointer(b, pointer, value.type)
    name = f"llvm.masked.store.{suffix(value.type)}.p0"
    call(b, name, ir.VoidType(), [value, address, I32(align(value.type)), mask])


def at_least(b, x, y):
    """The larger lane by lane; where x is NaN, x."""
    # Ordered, so that NaN is not less: one instruction where llvm.maximum takes four.
    return b.select(b.fcmp_ordered("<", x, y), y, x)


def prefetch(b, pointer, writing):
    address = b.bitcast(pointer, ir.IntType(8).as_pointer())
    # Into every level of the cache (3), data (1).
    call(b, "llvm.prefetch.p0", ir.VoidType(), [address, I32(int(writing)), I32(3), I32(1)])


def sum_lanes(b, vector):
    """The sum of a vector's lanes: upper half onto lower half until one is left."""
    count = vector.type.count
    while count > 1:
        count //= 2
        picks = [list(range(start, start + count)) for start in (0, count)]
        low, high = (b.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(I32, count), p)) for p in picks)
        vector = b.fadd(low, high)
    return b.extract_element(vector, I32(0))
