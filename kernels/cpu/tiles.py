"""Register tiles as Numba types: rows × vecs vectors that an ordinary @njit loop keeps in registers.

A tile is the accumulators of a matrix product. Like everything on vectors it is addressed by flat indices into
C-contiguous arrays and not bounds-checked; rows and lanes beyond the counts given are neither read nor written.
"""

from __future__ import annotations

import llvmlite.ir as ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

from fastconv.kernels.cpu import emit
from fastconv.kernels.cpu.emit import I1, I32, I64
from fastconv.kernels.cpu.simd import Vec, vec_of


class Tile(types.Type):
    """rows × vecs registers, row-major: the accumulators of a matrix product."""

    def __init__(self, dtype: types.Float, lanes: int, rows: int, vecs: int) -> None:
        self.dtype, self.lanes, self.rows, self.vecs = dtype, lanes, rows, vecs
        super().__init__(name=f"Tile({dtype}, {lanes}, {rows}, {vecs})")


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager, ty):
        super().__init__(manager, ty, ir.ArrayType(emit.vector(ty), ty.rows * ty.vecs))


def _literal(value, what):
    if not isinstance(value, types.IntegerLiteral):
        raise TypeError(f"{what} must be a compile-time constant, got {value}")
    return value.literal_value


@intrinsic(prefer_literal=True)
def zeros(typingctx, x, rows, vecs):
    """A tile of rows × vecs zero vectors of array x's dtype."""
    vec = vec_of(x)
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
        return _tuple(context, b, [b.load(emit.pointer(context, b, sig.args[1], args[1], place)) for place in places])

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
def listed_rows(typingctx, tile, table, i, rows):
    """(table[i], table[i + 1], …): one offset for each row of `tile`; rows from `rows` on repeat the last one."""

    def codegen(context, b, sig, args):
        last = b.sub(args[3], I64(1))
        numbers = [b.select(b.icmp_signed("<", I64(r), last), I64(r), last) for r in range(tile.rows)]
        pointers = [emit.pointer(context, b, sig.args[1], args[1], b.add(args[2], number)) for number in numbers]
        return _tuple(context, b, [b.load(pointer) for pointer in pointers])

    return types.UniTuple(types.intp, tile.rows)(tile, table, types.intp, types.intp), codegen


@intrinsic
def outer(typingctx, tile, a, i, rows, x, offsets):
    """tile[r][v] + a.flat[i + rows[r]] · x.flat[offsets[v] :]: the rank-1 update that carries every matrix product.

    `rows` holds an offset into a for each row, whose element is broadcast; `offsets` an index into x for each vector.
    """

    def codegen(context, b, sig, args):
        old, a_array, first, row_places, x_array, places = args
        vector = emit.vector(tile)
        columns = [
            emit.load(b, emit.pointer(context, b, sig.args[4], x_array, place), vector)
            for place in _offsets(b, places, tile.vecs)
        ]
        row_pointer = emit.pointer(context, b, sig.args[1], a_array, first)
        new = old
        for r, row in enumerate(_offsets(b, row_places, tile.rows)):
            value = emit.splat(b, b.load(b.gep(row_pointer, [row])), tile.lanes)
            for v, column in enumerate(columns):
                place = r * tile.vecs + v
                new = b.insert_value(new, emit.fma(b, value, column, b.extract_value(new, place)), place)
        return new

    return tile(tile, a, types.intp, rows, x, offsets), codegen


@intrinsic(prefer_literal=True)
def outer_into(typingctx, tile, a, i, rows, x, first, columns):
    """`outer` into some columns of a tile: those of the set bits of `columns`, in order, with x.flat[first :], whole
    vectors one after the other. `columns` is a compile-time constant."""
    chosen = [v for v in range(tile.vecs) if _literal(columns, "columns") >> v & 1]

    def codegen(context, b, sig, args):
        old, a_array, start, row_places, x_array, at, _ = args
        vector = emit.vector(tile)
        row_pointer = emit.pointer(context, b, sig.args[1], a_array, start)
        column_pointer = emit.pointer(context, b, sig.args[4], x_array, at)
        loaded = [emit.load(b, b.gep(column_pointer, [I64(n * tile.lanes)]), vector) for n in range(len(chosen))]
        new = old
        for r, row in enumerate(_offsets(b, row_places, tile.rows)):
            value = emit.splat(b, b.load(b.gep(row_pointer, [row])), tile.lanes)
            for v, column in zip(chosen, loaded, strict=True):
                place = r * tile.vecs + v
                new = b.insert_value(new, emit.fma(b, value, column, b.extract_value(new, place)), place)
        return new

    return tile(tile, a, types.intp, rows, x, types.intp, columns), codegen


@intrinsic(prefer_literal=True)
def repeated(typingctx, x, i, rows, vecs):
    """A tile of rows × vecs vectors, every row x.flat[i : i + vecs·lanes]."""
    vec = vec_of(x)
    tile = Tile(vec.dtype, vec.lanes, _literal(rows, "rows"), _literal(vecs, "vecs"))

    def codegen(context, b, sig, args):
        new = ir.Constant(context.get_value_type(tile), ir.Undefined)
        first = emit.pointer(context, b, sig.args[0], args[0], args[1])
        for v in range(tile.vecs):
            value = emit.load(b, b.gep(first, [I64(v * tile.lanes)]), emit.vector(tile))
            for r in range(tile.rows):
                new = b.insert_value(new, value, r * tile.vecs + v)
        return new

    return tile(x, types.intp, rows, vecs), codegen


@intrinsic(prefer_literal=True)
def load_whole(typingctx, x, i, row_stride, rows, vecs):
    """The tile that `store_whole` stored: rows × vecs vectors, row r at x.flat[i + r·row_stride :]."""
    vec = vec_of(x)
    tile = Tile(vec.dtype, vec.lanes, _literal(rows, "rows"), _literal(vecs, "vecs"))

    def codegen(context, b, sig, args):
        new = ir.Constant(context.get_value_type(tile), ir.Undefined)
        for r in range(tile.rows):
            first = b.add(args[1], b.mul(args[2], I64(r)))
            for v in range(tile.vecs):
                place = emit.pointer(context, b, sig.args[0], args[0], b.add(first, I64(v * tile.lanes)))
                new = b.insert_value(new, emit.load(b, place, emit.vector(tile)), r * tile.vecs + v)
        return new

    return tile(x, types.intp, types.intp, rows, vecs), codegen


@intrinsic
def outer_lanes(typingctx, tile, a, i, row_stride, rows, x, offsets, count):
    """tile[r][v] + a.flat[i + r·row_stride :] · x.flat[offsets[v] :], lane by lane, for the first `count` lanes.

    Rows from `rows` on repeat the last one, so that no memory outside of a is touched.

    Summed over a loop and then over lanes (`sum_tile_into`): a matrix product whose reduction runs along the lanes.
    """

    def codegen(context, b, sig, args):
        old, a_array, first, stride, row_count, x_array, places, number = args
        last = b.sub(row_count, I64(1))
        vector = emit.vector(tile)
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
                    new = b.insert_value(new, emit.fma(b, value, column, b.extract_value(new, place)), place)
            b.store(new, slot)

        with b.if_else(full, likely=True) as (then, otherwise):
            with then:
                updated(lambda ty, array, place: emit.load(b, emit.pointer(context, b, ty, array, place), vector))
            with otherwise:
                mask = emit.mask(b, tile.lanes, None, number)
                updated(
                    lambda ty, array, place: emit.masked_load(
                        b, emit.pointer(context, b, ty, array, place), vector, mask
                    )
                )
        return b.load(slot)

    intp = types.intp
    return tile(tile, a, intp, intp, intp, x, offsets, intp), codegen


@intrinsic
def add_rows(typingctx, tile, bias, i, rows):
    """tile[r][v] + bias.flat[i + r] for r < rows."""

    def codegen(context, b, sig, args):
        old, array, first, count = args
        new = old
        zero = ir.Constant(emit.element(tile.dtype), 0.0)
        for r in range(tile.rows):
            inside = b.icmp_signed("<", I64(r), count)
            slot = cgutils.alloca_once_value(b, zero)
            with b.if_then(inside):
                place = b.add(first, I64(r))
                b.store(b.load(emit.pointer(context, b, sig.args[1], array, place)), slot)
            value = emit.splat(b, b.load(slot), tile.lanes)
            for v in range(tile.vecs):
                place = r * tile.vecs + v
                new = b.insert_value(new, b.fadd(b.extract_value(new, place), value), place)
        return new

    return tile(tile, bias, types.intp, types.intp), codegen


@intrinsic
def plus(typingctx, tile, v):
    """tile[r][v] + the vector v, for every register of the tile."""

    def codegen(context, b, sig, args):
        new = args[0]
        for place in range(tile.rows * tile.vecs):
            new = b.insert_value(new, b.fadd(b.extract_value(new, place), args[1]), place)
        return new

    return tile(tile, v), codegen


@intrinsic
def first_row(typingctx, tile):
    """The first register of a tile, as a vector."""
    return Vec(tile.dtype, tile.lanes)(tile), lambda context, b, sig, args: b.extract_value(args[0], 0)


@intrinsic
def rolled(typingctx, tile, v):
    """A tile of one vector a row without its first row, the others moved up and the vector v as its last."""

    def codegen(context, b, sig, args):
        new = args[0]
        for r in range(1, tile.rows):
            new = b.insert_value(new, b.extract_value(args[0], r), r - 1)
        return b.insert_value(new, args[1], tile.rows - 1)

    return tile(tile, v), codegen


@intrinsic
def add_columns(typingctx, tile, bias, offsets, counts):
    """tile[r][v] + bias.flat[offsets[v] :][: counts[v]], the same vector for every row."""

    def codegen(context, b, sig, args):
        old, array, places, numbers = args
        vector = emit.vector(tile)
        new = old
        for v, (place, count) in enumerate(
            zip(_offsets(b, places, tile.vecs), _offsets(b, numbers, tile.vecs), strict=True)
        ):
            pointer = emit.pointer(context, b, sig.args[1], array, place)
            value = emit.masked_load(b, pointer, vector, emit.mask(b, tile.lanes, None, count))
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
        vector = emit.vector(tile)
        starts, lengths = _offsets(b, places, tile.vecs), _offsets(b, numbers, tile.vecs)

        def rows_of(read, write):
            for r in range(tile.rows):
                with b.if_then(b.icmp_signed("<", I64(r), row_count), likely=True):
                    shift = b.mul(stride, I64(r))
                    for v in range(tile.vecs):
                        pointer = emit.pointer(context, b, sig.args[1], array, b.add(starts[v], shift))
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
                rows_of(lambda p, v: emit.load(b, p, vector), lambda p, one, v: emit.store(b, p, one))
            with otherwise:
                masks = [emit.mask(b, tile.lanes, None, length) for length in lengths]
                rows_of(
                    lambda p, v: emit.masked_load(b, p, vector, masks[v]),
                    lambda p, one, v: emit.masked_store(b, p, one, masks[v]),
                )
        return context.get_dummy_value()

    intp = types.intp
    return types.void(tile, y, offsets, counts, intp, intp, types.boolean), codegen


@intrinsic
def store_whole(typingctx, tile, y, i, row_stride, accumulate):
    """y.flat[i + r·row_stride + v·lanes :] = (or += if accumulate) tile[r][v], all of them."""

    def codegen(context, b, sig, args):
        value, array, first, stride, adding = args
        vector = emit.vector(tile)
        places = [
            emit.pointer(
                context, b, sig.args[1], array, b.add(first, b.add(b.mul(stride, I64(r)), I64(v * tile.lanes)))
            )
            for r in range(tile.rows)
            for v in range(tile.vecs)
        ]
        with b.if_else(adding) as (then, otherwise):
            with then:
                for k, place in enumerate(places):
                    emit.store(b, place, b.fadd(b.extract_value(value, k), emit.load(b, place, vector)))
            with otherwise:
                for k, place in enumerate(places):
                    emit.store(b, place, b.extract_value(value, k))
        return context.get_dummy_value()

    intp = types.intp
    return types.void(tile, y, intp, intp, types.boolean), codegen


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
                pointer = emit.pointer(context, b, sig.args[1], array, b.add(place, shift))
                emit.prefetch(b, pointer, True)
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
    vec = vec_of(x)
    tile = Tile(vec.dtype, vec.lanes, vec.lanes, 1)
    return tile(x), lambda context, b, sig, args: ir.Constant(context.get_value_type(tile), None)


@intrinsic
def store_rows(typingctx, tile, y, i, stride):
    """y.flat[i + r·stride :] = row r of a tile of one vector a row."""

    def codegen(context, b, sig, args):
        value, array, first, step = args
        for r in range(tile.rows):
            pointer = emit.pointer(context, b, sig.args[1], array, b.add(first, b.mul(step, I64(r))))
            emit.store(b, pointer, b.extract_value(value, r))
        return context.get_dummy_value()

    return types.void(tile, y, types.intp, types.intp), codegen


@intrinsic
def load_rows(typingctx, tile, x, i, stride, rows, count):
    """A tile like `tile` (one vector a row): row r < rows is x.flat[i + r·stride :][: count], all else zero."""

    def codegen(context, b, sig, args):
        _, array, first, row_stride, row_count, length = args
        vector = emit.vector(tile)
        zero = ir.Constant(context.get_value_type(tile), None)
        whole = b.and_(b.icmp_signed(">=", row_count, I64(tile.rows)), b.icmp_signed(">=", length, I64(tile.lanes)))
        slot = cgutils.alloca_once(b, zero.type)

        def pointer(r):
            return emit.pointer(context, b, sig.args[1], array, b.add(first, b.mul(row_stride, I64(r))))

        with b.if_else(whole, likely=True) as (then, otherwise):
            with then:
                full = zero
                for r in range(tile.rows):
                    full = b.insert_value(full, emit.load(b, pointer(r), vector), r)
                b.store(full, slot)
            with otherwise:
                part = zero
                for r in range(tile.rows):
                    inside = b.icmp_signed("<", I64(r), row_count)
                    kept = b.select(inside, length, I64(0))
                    place = b.select(inside, b.add(first, b.mul(row_stride, I64(r))), first)
                    address = emit.pointer(context, b, sig.args[1], array, place)
                    part = b.insert_value(
                        part, emit.masked_load(b, address, vector, emit.mask(b, tile.lanes, None, kept)), r
                    )
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
                    total = emit.sum_lanes(b, vector)
                    place = b.add(first, b.add(b.mul(r_stride, I64(r)), b.mul(v_stride, I64(v))))
                    pointer = emit.pointer(context, b, sig.args[1], array, place)
                    b.store(b.fadd(b.load(pointer), total), pointer)
        return context.get_dummy_value()

    intp = types.intp
    return types.void(tile, y, intp, intp, intp, intp, intp), codegen
