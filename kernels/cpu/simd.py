"""SIMD vectors and register tiles as Numba types.

`Vec` is one register of VECTOR_BYTES; `Tile` is rows × vecs of them, kept in registers by an ordinary @njit loop.
Kernels name elements by a flat index into a C-contiguous array: `load(x, i)` is x.flat[i : i+lanes(x)]. One kernel
source serves float32 and float64 and every width, because the array's dtype says the lanes.

Nothing here is bounds-checked. Masked forms (`_first`, `_range`) touch no memory outside their mask.
"""

from __future__ import annotations

import llvmlite.ir as ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

from fastconv.kernels.cpu.host import FMA, VECTOR_BYTES, X86

I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


class Vec(types.Type):
    """One SIMD register: `lanes` elements of `dtype`."""

    def __init__(self, dtype: types.Float, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"Vec({dtype}, {lanes})")


class Tile(types.Type):
    """rows × vecs registers, row-major: the accumulators of a matrix product."""

    def __init__(self, dtype: types.Float, lanes: int, rows: int, vecs: int) -> None:
        self.dtype, self.lanes, self.rows, self.vecs = dtype, lanes, rows, vecs
        super().__init__(name=f"Tile({dtype}, {lanes}, {rows}, {vecs})")


def _element(dtype):
    return {32: ir.FloatType(), 64: ir.DoubleType()}[dtype.bitwidth]


def _vector(ty):
    return ir.VectorType(_element(ty.dtype), ty.lanes)


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, manager, ty):
        super().__init__(manager, ty, _vector(ty))


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager, ty):
        super().__init__(manager, ty, ir.ArrayType(_vector(ty), ty.rows * ty.vecs))


def _vec_of(array):
    return Vec(array.dtype, VECTOR_BYTES * 8 // array.dtype.bitwidth)


# IR helpers. `b` is the IR builder.


def _call(b, name, result, args):
    function = cgutils.get_or_insert_function(b.module, ir.FunctionType(result, [a.type for a in args]), name)
    return b.call(function, args)


def _suffix(vector):
    return f"v{vector.count}f{32 if isinstance(vector.element, ir.FloatType) else 64}"


def _fma(b, x, y, z):
    return _call(b, f"llvm.{'fma' if FMA else 'fmuladd'}.{_suffix(x.type)}", x.type, [x, y, z])


def _splat(b, value, lanes):
    vector = ir.VectorType(value.type, lanes)
    one = b.insert_element(ir.Constant(vector, ir.Undefined), value, I32(0))
    return b.shuffle_vector(one, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))


def _pointer(context, b, array_type, array, index):
    """Address of element `index` of the array's data."""
    data = context.make_array(array_type)(context, b, array).data
    return b.gep(data, [index])


def _as_vector_pointer(b, pointer, vector):
    return b.bitcast(pointer, vector.as_pointer())


def _load(b, pointer, vector):
    return b.load(_as_vector_pointer(b, pointer, vector), align=_align(vector))


def _store(b, pointer, value):
    return b.store(value, _as_vector_pointer(b, pointer, value.type), align=_align(value.type))


def _align(vector):
    return 4 if isinstance(vector.element, ir.FloatType) else 8


def _mask(b, lanes, low, high):
    """Lanes with low <= lane < high; low may be None for 0."""
    iota = ir.Constant(ir.VectorType(I64, lanes), list(range(lanes)))
    mask = b.icmp_signed("<", iota, _splat(b, high, lanes))
    return mask if low is None else b.and_(mask, b.icmp_signed(">=", iota, _splat(b, low, lanes)))


def _masked_load(b, pointer, vector, mask):
    # The masked intrinsics take the alignment as an argument; LLVM's own upgrade maps it to newer forms.
    address = _as_vector_pointer(b, pointer, vector)
    zero = ir.Constant(vector, None)
    return _call(b, f"llvm.masked.load.{_suffix(vector)}.p0", vector, [address, I32(_align(vector)), mask, zero])


def _masked_store(b, pointer, value, mask):
    address = _as_vector_pointer(b, pointer, value.type)
    name = f"llvm.masked.store.{_suffix(value.type)}.p0"
    _call(b, name, ir.VoidType(), [value, address, I32(_align(value.type)), mask])


def _literal(value, what):
    if not isinstance(value, types.IntegerLiteral):
        raise TypeError(f"{what} must be a compile-time constant, got {value}")
    return value.literal_value


# Vectors.


@intrinsic
def lanes(typingctx, x):
    """Elements of one vector of the dtype of array x: a compile-time constant."""
    count = _vec_of(x).lanes
    return types.intp(x), lambda context, b, sig, args: I64(count)


@intrinsic
def load(typingctx, x, i):
    """The vector x.flat[i : i + lanes(x)]."""

    def codegen(context, b, sig, args):
        return _load(b, _pointer(context, b, sig.args[0], args[0], args[1]), _vector(sig.return_type))

    return _vec_of(x)(x, types.intp), codegen


@intrinsic
def load_range(typingctx, x, i, low, high):
    """The vector at x.flat[i:], lanes outside low <= lane < high zero and their memory untouched."""

    def codegen(context, b, sig, args):
        pointer = _pointer(context, b, sig.args[0], args[0], args[1])
        vector = _vector(sig.return_type)
        return _masked_load(b, pointer, vector, _mask(b, vector.count, args[2], args[3]))

    return _vec_of(x)(x, types.intp, types.intp, types.intp), codegen


@intrinsic
def load_first(typingctx, x, i, count):
    """The vector at x.flat[i:], lanes from `count` on zero and their memory untouched."""

    def codegen(context, b, sig, args):
        pointer = _pointer(context, b, sig.args[0], args[0], args[1])
        vector = _vector(sig.return_type)
        return _masked_load(b, pointer, vector, _mask(b, vector.count, None, args[2]))

    return _vec_of(x)(x, types.intp, types.intp), codegen


@intrinsic
def store(typingctx, x, i, v):
    """x.flat[i : i + lanes(x)] = v."""

    def codegen(context, b, sig, args):
        _store(b, _pointer(context, b, sig.args[0], args[0], args[1]), args[2])
        return context.get_dummy_value()

    return types.void(x, types.intp, v), codegen


@intrinsic
def store_first(typingctx, x, i, v, count):
    """x.flat[i : i + count] = v's first lanes; the rest of the memory is untouched."""

    def codegen(context, b, sig, args):
        pointer = _pointer(context, b, sig.args[0], args[0], args[1])
        _masked_store(b, pointer, args[2], _mask(b, args[2].type.count, None, args[3]))
        return context.get_dummy_value()

    return types.void(x, types.intp, v, types.intp), codegen


@intrinsic
def splat(typingctx, x, value):
    """The scalar `value`, cast to x's dtype, in every lane of a vector of array x's width."""
    ty = _vec_of(x)

    def codegen(context, b, sig, args):
        scalar = context.cast(b, args[1], sig.args[1], ty.dtype)
        return _splat(b, scalar, ty.lanes)

    return ty(x, value), codegen


def _elementwise(doc, emit):
    def typing(typingctx, a, b):
        if not isinstance(a, Vec) or a != b:
            raise TypeError(f"needs two vectors of one type, got {a} and {b}")
        return a(a, b), lambda context, builder, sig, args: emit(builder, *args)

    typing.__doc__ = doc
    return intrinsic(typing)


def _maximum(b, x, y):
    return _call(b, f"llvm.maximum.{_suffix(x.type)}", x.type, [x, y])


def _minimum(b, x, y):
    return _call(b, f"llvm.minimum.{_suffix(x.type)}", x.type, [x, y])


def _shuffle(picked):
    """A two-source shuffle: `picked(lanes)` lists lanes of a (0..lanes-1) and b (lanes..2·lanes-1)."""

    def emit(b, x, y):
        count = x.type.count
        return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, count), picked(count)))

    return emit


add = _elementwise("a + b", lambda b, x, y: b.fadd(x, y))
sub = _elementwise("a − b", lambda b, x, y: b.fsub(x, y))
mul = _elementwise("a · b", lambda b, x, y: b.fmul(x, y))
maximum = _elementwise("max(a, b); NaN if either is NaN", _maximum)
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
    return a(a, b, c), lambda context, builder, sig, args: _fma(builder, *args)


@intrinsic
def select_greater(typingctx, value, best, new, old):
    """`new` in lanes where value > best or value is NaN, `old` elsewhere: a maximum that keeps the first of equals."""

    def codegen(context, b, sig, args):
        greater = b.fcmp_ordered(">", args[0], args[1])
        return b.select(b.or_(greater, b.fcmp_unordered("uno", args[0], args[0])), args[2], args[3])

    return value(value, best, new, old), codegen


@intrinsic
def sum_lanes(typingctx, v):
    """The sum of all lanes, as a scalar."""

    def codegen(context, b, sig, args):
        vector = args[0]
        count = vector.type.count
        while count > 1:
            count //= 2
            picks = [list(range(start, start + count)) for start in (0, count)]
            low, high = (b.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(I32, count), p)) for p in picks)
            vector = b.fadd(low, high)
        return b.extract_element(vector, I32(0))

    return v.dtype(v), codegen


# Tiles.


@intrinsic(prefer_literal=True)
def zeros(typingctx, x, rows, vecs):
    """A tile of rows × vecs zero vectors of array x's dtype."""
    vec = _vec_of(x)
    tile = Tile(vec.dtype, vec.lanes, _literal(rows, "rows"), _literal(vecs, "vecs"))

    def codegen(context, b, sig, args):
        return ir.Constant(context.get_value_type(tile), None)

    return tile(x, rows, vecs), codegen


def _offsets(b, tuple_value, count):
    return [b.extract_value(tuple_value, v) for v in range(count)]


def _tuple(context, b, values):
    return cgutils.pack_array(b, values)


@intrinsic
def spaced(typingctx, tile, first, step):
    """(first, first + step, …): one index for each vector of a row of `tile`."""

    def codegen(context, b, sig, args):
        return _tuple(context, b, [b.add(args[1], b.mul(args[2], I64(v))) for v in range(tile.vecs)])

    return types.UniTuple(types.intp, tile.vecs)(tile, types.intp, types.intp), codegen


@intrinsic
def shifted(typingctx, offsets, by):
    """Every index of the tuple `offsets` plus `by`."""

    def codegen(context, b, sig, args):
        return _tuple(context, b, [b.add(place, args[1]) for place in _offsets(b, args[0], offsets.count)])

    return offsets(offsets, types.intp), codegen


@intrinsic
def listed(typingctx, tile, table, i):
    """(table[i], table[i + 1], …): one index for each vector of a row of `tile`, from an int64 array."""

    def codegen(context, b, sig, args):
        places = [b.add(args[2], I64(v)) for v in range(tile.vecs)]
        return _tuple(context, b, [b.load(_pointer(context, b, sig.args[1], args[1], place)) for place in places])

    return types.UniTuple(types.intp, tile.vecs)(tile, table, types.intp), codegen


@intrinsic
def shares(typingctx, tile, count):
    """How many of the next `count` elements fall to each vector of a row of `tile`, 0 to its lanes."""

    def codegen(context, b, sig, args):
        values = []
        for v in range(tile.vecs):
            left = b.sub(args[1], I64(v * tile.lanes))
            left = b.select(b.icmp_signed("<", left, I64(0)), I64(0), left)
            values.append(b.select(b.icmp_signed(">", left, I64(tile.lanes)), I64(tile.lanes), left))
        return _tuple(context, b, values)

    return types.UniTuple(types.intp, tile.vecs)(tile, types.intp), codegen


@intrinsic
def row_offsets(typingctx, tile, rows, stride):
    """(0, stride, 2·stride, …): one offset for each row of `tile`; rows from `rows` on repeat the last one."""

    def codegen(context, b, sig, args):
        last = b.sub(args[1], I64(1))
        numbers = [b.select(b.icmp_signed("<", I64(r), last), I64(r), last) for r in range(tile.rows)]
        return _tuple(context, b, [b.mul(args[2], number) for number in numbers])

    return types.UniTuple(types.intp, tile.rows)(tile, types.intp, types.intp), codegen


@intrinsic
def outer(typingctx, tile, a, i, rows, x, offsets):
    """tile[r][v] + a.flat[i + rows[r]] · x.flat[offsets[v] :]: the rank-1 update that carries every matrix product.

    `rows` holds an offset into a for each row, whose element is broadcast; `offsets` an index into x for each vector.
    """

    def codegen(context, b, sig, args):
        old, a_array, first, row_places, x_array, places = args
        vector = _vector(tile)
        columns = [
            _load(b, _pointer(context, b, sig.args[4], x_array, place), vector)
            for place in _offsets(b, places, tile.vecs)
        ]
        row_pointer = _pointer(context, b, sig.args[1], a_array, first)
        new = old
        for r, row in enumerate(_offsets(b, row_places, tile.rows)):
            value = _splat(b, b.load(b.gep(row_pointer, [row])), tile.lanes)
            for v, column in enumerate(columns):
                place = r * tile.vecs + v
                new = b.insert_value(new, _fma(b, value, column, b.extract_value(new, place)), place)
        return new

    return tile(tile, a, types.intp, rows, x, offsets), codegen


@intrinsic
def outer_lanes(typingctx, tile, a, i, row_stride, rows, x, offsets, count):
    """tile[r][v] + a.flat[i + r·row_stride :] · x.flat[offsets[v] :], lane by lane, for the first `count` lanes.

    Rows from `rows` on repeat the last one, so that no memory outside of a is touched.

    Summed over a loop and then over lanes (`sum_tile_into`): a matrix product whose reduction runs along the lanes.
    """

    def codegen(context, b, sig, args):
        old, a_array, first, stride, row_count, x_array, places, number = args
        last = b.sub(row_count, I64(1))
        vector = _vector(tile)
        full = b.icmp_signed(">=", number, I64(tile.lanes))
        slot = cgutils.alloca_once(b, old.type)

        def updated(read):
            columns = [read(sig.args[5], x_array, place) for place in _offsets(b, places, tile.vecs)]
            new = old
            for r in range(tile.rows):
                row = b.select(b.icmp_signed("<", I64(r), last), I64(r), last)
                value = read(sig.args[1], a_array, b.add(first, b.mul(stride, row)))
                for v, column in enumerate(columns):
                    place = r * tile.vecs + v
                    new = b.insert_value(new, _fma(b, value, column, b.extract_value(new, place)), place)
            b.store(new, slot)

        with b.if_else(full, likely=True) as (then, otherwise):
            with then:
                updated(lambda ty, array, place: _load(b, _pointer(context, b, ty, array, place), vector))
            with otherwise:
                mask = _mask(b, tile.lanes, None, number)
                updated(lambda ty, array, place: _masked_load(b, _pointer(context, b, ty, array, place), vector, mask))
        return b.load(slot)

    intp = types.intp
    return tile(tile, a, intp, intp, intp, x, offsets, intp), codegen


@intrinsic
def add_rows(typingctx, tile, bias, i, rows):
    """tile[r][v] + bias.flat[i + r] for r < rows."""

    def codegen(context, b, sig, args):
        old, array, first, count = args
        new = old
        zero = ir.Constant(_element(tile.dtype), 0.0)
        for r in range(tile.rows):
            inside = b.icmp_signed("<", I64(r), count)
            slot = cgutils.alloca_once_value(b, zero)
            with b.if_then(inside):
                place = b.add(first, I64(r))
                b.store(b.load(_pointer(context, b, sig.args[1], array, place)), slot)
            value = _splat(b, b.load(slot), tile.lanes)
            for v in range(tile.vecs):
                place = r * tile.vecs + v
                new = b.insert_value(new, b.fadd(b.extract_value(new, place), value), place)
        return new

    return tile(tile, bias, types.intp, types.intp), codegen


@intrinsic
def add_columns(typingctx, tile, bias, offsets, counts):
    """tile[r][v] + bias.flat[offsets[v] :][: counts[v]], the same vector for every row."""

    def codegen(context, b, sig, args):
        old, array, places, numbers = args
        vector = _vector(tile)
        new = old
        for v, (place, count) in enumerate(
            zip(_offsets(b, places, tile.vecs), _offsets(b, numbers, tile.vecs), strict=True)
        ):
            pointer = _pointer(context, b, sig.args[1], array, place)
            value = _masked_load(b, pointer, vector, _mask(b, tile.lanes, None, count))
            for r in range(tile.rows):
                at = r * tile.vecs + v
                new = b.insert_value(new, b.fadd(b.extract_value(new, at), value), at)
        return new

    return tile(tile, bias, offsets, counts), codegen


@intrinsic
def store_tile(typingctx, tile, y, offsets, counts, row_stride, rows, accumulate):
    """y.flat[offsets[v] + r·row_stride :][: counts[v]] = (or += if accumulate) tile[r][v], for r < rows."""

    def codegen(context, b, sig, args):
        value, array, places, numbers, stride, row_count, adding = args
        vector = _vector(tile)
        starts, lengths = _offsets(b, places, tile.vecs), _offsets(b, numbers, tile.vecs)

        def rows_of(read, write):
            for r in range(tile.rows):
                with b.if_then(b.icmp_signed("<", I64(r), row_count), likely=True):
                    shift = b.mul(stride, I64(r))
                    for v in range(tile.vecs):
                        pointer = _pointer(context, b, sig.args[1], array, b.add(starts[v], shift))
                        one = b.extract_value(value, r * tile.vecs + v)
                        with b.if_else(adding) as (then, otherwise):
                            with then:
                                write(pointer, b.fadd(one, read(pointer, v)), v)
                            with otherwise:
                                write(pointer, one, v)

        full = I1(1)
        for length in lengths:
            full = b.and_(full, b.icmp_signed(">=", length, I64(tile.lanes)))
        # Full vectors take plain stores: a masked store is a scalar loop on hosts without masks.
        with b.if_else(full, likely=True) as (then, otherwise):
            with then:
                rows_of(lambda p, v: _load(b, p, vector), lambda p, one, v: _store(b, p, one))
            with otherwise:
                masks = [_mask(b, tile.lanes, None, length) for length in lengths]
                rows_of(
                    lambda p, v: _masked_load(b, p, vector, masks[v]),
                    lambda p, one, v: _masked_store(b, p, one, masks[v]),
                )
        return context.get_dummy_value()

    intp = types.intp
    return types.void(tile, y, offsets, counts, intp, intp, types.boolean), codegen


@intrinsic
def prefetch_tile(typingctx, tile, y, offsets, row_stride, rows):
    """Ask for the cache lines that `store_tile` will write, so that they are there when the tile is done.

    Reads and writes nothing, so the addresses need not be in y.
    """

    def codegen(context, b, sig, args):
        _, array, places, stride, row_count = args
        last = b.sub(row_count, I64(1))
        for r in range(tile.rows):
            shift = b.mul(stride, b.select(b.icmp_signed("<", I64(r), last), I64(r), last))
            for place in _offsets(b, places, tile.vecs):
                pointer = _pointer(context, b, sig.args[1], array, b.add(place, shift))
                address = b.bitcast(pointer, ir.IntType(8).as_pointer())
                # To write (1), into every level of the cache (3), data (1).
                _call(b, "llvm.prefetch.p0", ir.VoidType(), [address, I32(1), I32(3), I32(1)])
        return context.get_dummy_value()

    intp = types.intp
    return types.void(tile, y, offsets, intp, intp), codegen


@intrinsic
def interleave(typingctx, tile):
    """The rows of a tile (one vector each, a power of two of them) interleaved: read in order, the result's elements
    are row 0's, row 1's, … first elements, then their second elements, and so on. A square tile is transposed."""
    if tile.vecs != 1 or tile.rows & (tile.rows - 1):
        raise TypeError(f"needs 2^k rows of one vector, got {tile}")

    def codegen(context, b, sig, args):
        count, half = tile.lanes, tile.rows // 2
        rows = [b.extract_value(args[0], r) for r in range(tile.rows)]
        low = [i // 2 + (i % 2) * count for i in range(count)]
        high = [count // 2 + lane for lane in low]
        picks = [ir.Constant(ir.VectorType(I32, count), lane) for lane in (low, high)]
        # Each round is a perfect shuffle of all elements, which turns the bits of an element's place by one.
        for _ in range(tile.rows.bit_length() - 1):
            rows = [b.shuffle_vector(rows[i], rows[i + half], pick) for i in range(half) for pick in picks]
        new = args[0]
        for r, row in enumerate(rows):
            new = b.insert_value(new, row, r)
        return new

    return tile(tile), codegen


@intrinsic
def zeros_square(typingctx, x):
    """A zero tile of lanes(x) rows of one vector: a square block of array x's dtype."""
    vec = _vec_of(x)
    tile = Tile(vec.dtype, vec.lanes, vec.lanes, 1)
    return tile(x), lambda context, b, sig, args: ir.Constant(context.get_value_type(tile), None)


@intrinsic
def store_rows(typingctx, tile, y, i, stride):
    """y.flat[i + r·stride :] = row r of a tile of one vector a row."""

    def codegen(context, b, sig, args):
        value, array, first, step = args
        for r in range(tile.rows):
            pointer = _pointer(context, b, sig.args[1], array, b.add(first, b.mul(step, I64(r))))
            _store(b, pointer, b.extract_value(value, r))
        return context.get_dummy_value()

    return types.void(tile, y, types.intp, types.intp), codegen


@intrinsic
def load_rows(typingctx, tile, x, i, stride, rows, count):
    """A tile like `tile` (one vector a row): row r < rows is x.flat[i + r·stride :][: count], all else zero."""

    def codegen(context, b, sig, args):
        _, array, first, row_stride, row_count, length = args
        vector = _vector(tile)
        zero = ir.Constant(context.get_value_type(tile), None)
        whole = b.and_(b.icmp_signed(">=", row_count, I64(tile.rows)), b.icmp_signed(">=", length, I64(tile.lanes)))
        slot = cgutils.alloca_once(b, zero.type)

        def pointer(r):
            return _pointer(context, b, sig.args[1], array, b.add(first, b.mul(row_stride, I64(r))))

        with b.if_else(whole, likely=True) as (then, otherwise):
            with then:
                full = zero
                for r in range(tile.rows):
                    full = b.insert_value(full, _load(b, pointer(r), vector), r)
                b.store(full, slot)
            with otherwise:
                part = zero
                for r in range(tile.rows):
                    inside = b.icmp_signed("<", I64(r), row_count)
                    kept = b.select(inside, length, I64(0))
                    place = b.select(inside, b.add(first, b.mul(row_stride, I64(r))), first)
                    address = _pointer(context, b, sig.args[1], array, place)
                    part = b.insert_value(part, _masked_load(b, address, vector, _mask(b, tile.lanes, None, kept)), r)
                b.store(part, slot)
        return b.load(slot)

    intp = types.intp
    return tile(tile, x, intp, intp, intp, intp), codegen


@intrinsic
def sum_tile_into(typingctx, tile, y, i, row_stride, vec_stride, rows, vecs):
    """y.flat[i + r·row_stride + v·vec_stride] += Σ lanes of tile[r][v], for r < rows and v < vecs."""

    def codegen(context, b, sig, args):
        value, array, first, r_stride, v_stride, row_count, vec_count = args
        for r in range(tile.rows):
            for v in range(tile.vecs):
                inside = b.and_(b.icmp_signed("<", I64(r), row_count), b.icmp_signed("<", I64(v), vec_count))
                with b.if_then(inside, likely=True):
                    vector = b.extract_value(value, r * tile.vecs + v)
                    count = tile.lanes
                    while count > 1:
                        count //= 2
                        picks = [list(range(start, start + count)) for start in (0, count)]
                        low, high = (
                            b.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(I32, count), p)) for p in picks
                        )
                        vector = b.fadd(low, high)
                    total = b.extract_element(vector, I32(0))
                    place = b.add(first, b.add(b.mul(r_stride, I64(r)), b.mul(v_stride, I64(v))))
                    pointer = _pointer(context, b, sig.args[1], array, place)
                    b.store(b.fadd(b.load(pointer), total), pointer)
        return context.get_dummy_value()

    intp = types.intp
    return types.void(tile, y, intp, intp, intp, intp, intp), codegen


# The floating-point environment.


@intrinsic
def flush_denormals(typingctx):
    """Set the calling thread to flush denormals to zero; returns the former state for `restore_denormals`."""

    def codegen(context, b, sig, args):
        if not X86:
            return I32(0)
        slot = cgutils.alloca_once(b, I32)
        address = b.bitcast(slot, ir.IntType(8).as_pointer())
        _call(b, "llvm.x86.sse.stmxcsr", ir.VoidType(), [address])
        former = b.load(slot)
        # MXCSR bit 15 flushes results, bit 6 reads denormal operands as zero.
        b.store(b.or_(former, I32(0x8040)), slot)
        _call(b, "llvm.x86.sse.ldmxcsr", ir.VoidType(), [address])
        return former

    return types.uint32(), codegen


@intrinsic
def restore_denormals(typingctx, state):
    """Give the calling thread back the state that `flush_denormals` returned."""

    def codegen(context, b, sig, args):
        if X86:
            slot = cgutils.alloca_once(b, I32)
            b.store(args[0], slot)
            _call(b, "llvm.x86.sse.ldmxcsr", ir.VoidType(), [b.bitcast(slot, ir.IntType(8).as_pointer())])
        return context.get_dummy_value()

    return types.void(types.uint32), codegen


@intrinsic
def take(typingctx, counter):
    """counter[0]++, atomically; returns the value before: the next piece of work for whichever thread asks."""

    def codegen(context, b, sig, args):
        pointer = _pointer(context, b, sig.args[0], args[0], I64(0))
        return b.atomic_rmw("add", pointer, I64(1), "monotonic")

    return types.int64(counter), codegen
