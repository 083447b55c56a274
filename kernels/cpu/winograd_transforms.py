"""Winograd's transforms as straight-line vector code, emitted from the matrices of winograd_matrices, and its product.

The lanes of a vector are tiles: one intrinsic transforms as many tiles as a vector has lanes. It is emitted as a whole
because hundreds of Numba statements compile for seconds. How many outputs a tile has on an axis, and how far apart the
inputs of two tiles are, are the lengths of the tuples `tile` and `step`: both m for F(m×m, 3×3), one of them 2m where
outputs or inputs are two apart. α² is the number of a tile's products.
"""

from __future__ import annotations

from functools import lru_cache

import llvmlite.ir as ir
from numba.core import types
from numba.extending import intrinsic

from fastconv.kernels.cpu import emit
from fastconv.kernels.cpu.emit import I1, I32, I64
from fastconv.kernels.cpu.host import LINE, MASKS, TILE_ROWS, VECTOR_BYTES
from fastconv.kernels.cpu.jit import inner
from fastconv.kernels.cpu.simd import lanes, vec_of
from fastconv.kernels.cpu.tiles import interleave, load_rows, store_rows, zeros
from fastconv.kernels.cpu.winograd_matrices import TAPS, minimal, spread, strided


@lru_cache
def _matrices(tile, step):
    m = min(tile, step)
    return floats(minimal(m) if tile == step else strided(m) if tile < step else spread(m))


def floats(matrices):
    return [[list(map(float, row)) for row in matrix] for matrix in matrices]


def _scaled(b, coefficient, x):
    return b.fmul(ir.Constant(x.type, [coefficient] * x.type.count), x)


def _combination(b, row, xs):
    """Σ row[j] · xs[j], terms of coefficient 0 left out and those of ±1 not multiplied; None if all are 0."""
    terms = sorted(((c, x) for c, x in zip(row, xs, strict=True) if c), key=lambda term: abs(term[0]) != 1)
    total = None
    for c, x in terms:
        if total is None:
            total = x if c == 1 else _scaled(b, c, x)
        elif abs(c) == 1:
            total = b.fadd(total, x) if c == 1 else b.fsub(total, x)
        else:
            total = emit.fma(b, ir.Constant(x.type, [c] * x.type.count), x, total)
    return total


def _pairs(vectors):
    """Pairs (k, l) of vectors whose entries are equal at some places and opposite at the others: points p and −p."""
    pairs, free = [], set(range(len(vectors)))
    for k, x in enumerate(vectors):
        for n in range(k + 1, len(vectors)):
            nonzero = [(c, d) for c, d in zip(x, vectors[n], strict=True) if c or d]
            if (
                {k, n} <= free
                and {c == d for c, d in nonzero} == {True, False}
                and all(abs(c) == abs(d) for c, d in nonzero)
            ):
                pairs.append((k, n))
                free -= {k, n}
    return pairs


def to_points(b, matrix, xs):
    """matrix · xs, where of two rows that are a pair equal parts and opposite parts are summed once."""
    results = [None] * len(matrix)
    for k, n in _pairs(matrix):
        plus, minus = matrix[k], matrix[n]
        same = _combination(b, [c if c == d else 0.0 for c, d in zip(plus, minus, strict=True)], xs)
        odd = _combination(b, [c if c != d else 0.0 for c, d in zip(plus, minus, strict=True)], xs)
        results[k], results[n] = b.fadd(same, odd), b.fsub(same, odd)
    return [_combination(b, row, xs) if r is None else r for row, r in zip(matrix, results, strict=True)]


def from_points(b, matrix, xs):
    """matrix · xs, where of two columns that are a pair the sum and the difference are taken once."""
    pairs = [(k, n, b.fadd(xs[k], xs[n]), b.fsub(xs[k], xs[n])) for k, n in _pairs(list(zip(*matrix, strict=True)))]
    paired = {k for pair in pairs for k in pair[:2]}
    single = [k for k in range(len(xs)) if k not in paired]
    results = []
    for row in matrix:
        halves = [s if row[k] == row[n] else d for k, n, s, d in pairs]
        coefficients = [row[k] for k in single] + [row[k] for k, *_ in pairs]
        results.append(_combination(b, coefficients, [xs[k] for k in single] + halves))
    return results


def _shuffle(b, x, y, lanes):
    return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))


def every(b, xs, step, first):
    """The vector of elements first, first + step, … of `step` vectors in a row."""
    count = xs[0].type.count
    if step == 1:
        return xs[0]
    if step % 2 == 0:
        picks = list(range(first % 2, 2 * count, 2))
        halves = [_shuffle(b, xs[k], xs[k + 1], picks) for k in range(0, step, 2)]
        return every(b, halves, step // 2, first // 2)
    places = [first + step * lane for lane in range(count)]
    result = xs[0]
    for k in range(1, step):
        # Lanes filled so far stay; those that vector k holds come in.
        picks = [
            (place if k == 1 else lane) if place < k * count else min(count + place - k * count, 2 * count - 1)
            for lane, place in enumerate(places)
        ]
        result = _shuffle(b, result, xs[k], picks)
    return result


def interleaved(b, xs):
    """The inverse of `every`: len(xs) vectors in a row whose elements k, k + len(xs), … are xs[k]'s."""
    step, count = len(xs), xs[0].type.count
    if step == 1:
        return xs
    if step % 2 == 0:
        low = [i // 2 + (i % 2) * count for i in range(count)]
        high = [count // 2 + lane for lane in low]
        pairs = zip(interleaved(b, xs[0::2]), interleaved(b, xs[1::2]), strict=True)
        return [_shuffle(b, even, odd, lanes) for even, odd in pairs for lanes in (low, high)]
    results = []
    for k in range(step):
        places = [divmod(k * count + lane, step) for lane in range(count)]
        result = xs[0]
        for source in range(1, step):
            picks = [
                count + lane if which == source else (lane if source == 1 else position)
                for position, (lane, which) in enumerate(places)
            ]
            result = _shuffle(b, result, xs[source], picks)
        results.append(result)
    return results


@intrinsic
def address(typingctx, x, i):
    """The address of x.flat[i]."""

    def codegen(context, b, sig, args):
        return b.ptrtoint(emit.pointer(context, b, sig.args[0], args[0], args[1]), I64)

    return types.int64(x, types.intp), codegen


def _at(b, base, element, vector):
    """Pointer to the element (an i64) so many elements after the address `base`."""
    return b.inttoptr(b.add(base, b.mul(element, I64(emit.align(vector)))), vector.element.as_pointer())


def _bits(b, low, high, lanes):
    """An integer of `lanes` bits, those low <= k < high set."""

    def below(bound):
        for limit, outside in ((0, "<"), (lanes, ">")):
            bound = b.select(b.icmp_signed(outside, bound, I64(limit)), I64(limit), bound)
        return b.sub(b.shl(I64(1), bound), I64(1))

    return b.trunc(b.and_(below(high), b.not_(below(low))), ir.IntType(lanes))


def _halves(b, vector):
    """The lower and the upper half of a vector."""
    count = vector.type.count
    return [_shuffle(b, vector, vector, list(range(first, first + count // 2))) for first in (0, count // 2)]


def _joined(b, low, high):
    return _shuffle(b, low, high, list(range(2 * low.type.count)))


@intrinsic
def transform_input(
    typingctx, tile, step, overlap, lines, low, high, y, lines_2, low_2, high_2, y_2, stride, height, v, at, at_2, plane
):
    """v.flat[at + (α·i + j)·plane :] = element (i, j) of Bᵀ d B for half a vector of tiles d.

    And v.flat[at_2 + …], written after it, for another half vector of tiles. `lines` is the address of the tiles'
    first line: element t·step of a line is tile t's first; lines are `stride` elements apart. Tiles overlap by the
    length of the tuple `overlap`.

    If MASKS, elements outside of low <= element < high and lines outside of 0 <= y + i < height are zero and their
    memory is not read; else all must be there.
    """
    apart, more = step.count, len(overlap)

    def codegen(context, b, sig, args):
        _, _, _, *halves, line, bottom, array, first, second, far = args
        halves = halves[:4], halves[4:]
        vector = emit.vector(vec_of(sig.args[13]))
        count = vector.count
        half = ir.VectorType(vector.element, count // 2)
        _, _, matrix = _matrices(tile.count, apart)
        # A line's vectors of each half in turn, and the elements beyond them, both halves' in one vector.
        beyond = range(0, more, half.count)
        starts = [(h, q * count, vector) for h in (0, 1) for q in range(apart // 2)]
        starts += [(h, apart // 2 * count + e, half) for e in beyond for h in (0, 1)]
        nothing = emit.zeros(b, vector, apart // 2 + 1)
        masks = [_bits(b, b.sub(halves[h][1], I64(e)), b.sub(halves[h][2], I64(e)), v.count) for h, e, v in starts]
        masks = [b.bitcast(bits, ir.VectorType(I1, v.count)) for bits, (_, _, v) in zip(masks, starts, strict=True)]
        columns = [[] for _ in range(apart + len(beyond))]
        for i in range(apart + more):
            bases = []
            for base, _, _, top in halves:
                place, here = b.add(top, I64(i)), b.add(base, b.mul(line, I64(i * emit.align(vector))))
                if MASKS:
                    inside = b.and_(b.icmp_signed(">=", place, I64(0)), b.icmp_signed("<", place, bottom))
                    here = b.select(inside, here, nothing)
                bases.append(here)
            parts = []
            for (h, e, kind), bits in zip(starts, masks, strict=True):
                pointer = _at(b, bases[h], I64(e), vector)
                parts.append(emit.masked_load(b, pointer, kind, bits) if MASKS else emit.load(b, pointer, kind))
            parts[apart:] = [_joined(b, *parts[k : k + 2]) for k in range(apart, len(parts), 2)]
            for column, part in zip(columns, parts, strict=True):
                column.append(part)
        targets = [emit.pointer(context, b, sig.args[13], array, start) for start in (first, second)]
        # Along the columns while elements lie as in memory, then along the rows.
        columns = [to_points(b, matrix, column) for column in columns]
        for i in range(len(matrix)):
            parts = [column[i] for column in columns]
            inputs = [every(b, parts[:apart], apart, j) for j in range(apart)]
            for j in range(more):
                # What a tile shares with the next one: that one's beginning, and the elements beyond.
                picks = [k + 1 for k in range(count)]
                for h in (0, 1):
                    picks[(h + 1) * half.count - 1] = count + h * half.count + j % half.count
                inputs.append(_shuffle(b, inputs[j], parts[apart + j // half.count], picks))
            for j, value in enumerate(to_points(b, matrix, inputs)):
                offset = b.mul(far, I64(i * len(matrix) + j))
                for start, part in zip(targets, _halves(b, value), strict=True):
                    emit.store(b, b.gep(start, [offset]), part)
        return context.get_dummy_value()

    intp = types.intp
    one = (types.int64, intp, intp, intp)
    return types.void(tile, step, overlap, *one, *one, intp, intp, v, intp, intp, intp), codegen


@intrinsic
def transform_output(
    typingctx,
    tile,
    step,
    products,
    at,
    at_2,
    plane,
    shift,
    least,
    lines,
    elements,
    height,
    lines_2,
    elements_2,
    height_2,
    stride,
    past,
):
    """Line i of y = line i of max(Aᵀ [products] A + shift, least) of half a vector of tiles, and of another half.

    It stands i·stride elements after the address `lines`; element t·tile + k of it is tile t's element k.
    products.flat[at + (α·i + j)·plane :] is element (i, j). If MASKS, only the first `elements` elements of `height`
    lines are written; else half a tile's vectors of all lines. With `past`, whole vectors on whole cache lines go past
    the cache.
    """
    m = tile.count

    def codegen(context, b, sig, args):
        _, _, source, first, second, far, added, floor, *halves, line, past = args
        halves = halves[:3], halves[3:]
        vector = emit.vector(vec_of(sig.args[2]))
        count = vector.count
        half = ir.VectorType(vector.element, count // 2)
        output, _, _ = _matrices(m, step.count)
        size = len(output[0])
        sources = [emit.pointer(context, b, sig.args[2], source, start) for start in (first, second)]
        rows = []
        for i in range(size):
            row = []
            for j in range(size):
                places = [b.gep(start, [b.mul(far, I64(i * size + j))]) for start in sources]
                row.append(_joined(b, *(emit.load(b, place, half) for place in places)))
            rows.append(from_points(b, output, row))
        columns = [from_points(b, output, [row[k] for row in rows]) for k in range(m)]
        starts = [(base, q * count, number, lines) for base, number, lines in halves for q in range(m // 2)]
        masks = [_bits(b, I64(0), b.sub(number, I64(e)), count) for _, e, number, _ in starts]
        values = []
        for i in range(m):
            line_values = interleaved(b, [column[i] for column in columns])
            values.append([emit.at_least(b, b.fadd(value, added), floor) for value in line_values])

        def write(each):
            for i in range(m):
                for k, (base, e, _, lines) in enumerate(starts):
                    each(i, k, _at(b, base, b.add(b.mul(line, I64(i)), I64(e)), vector), lines)

        def write_all(i, k, pointer, lines):
            emit.store(b, pointer, values[i][k])

        def write_past_the_cache(i, k, pointer, lines):
            emit.store_past_the_cache(b, pointer, values[i][k])

        def write_inside(i, k, pointer, lines):
            kept = b.select(b.icmp_signed("<", I64(i), lines), masks[k], masks[k].type(0))
            emit.masked_store(b, pointer, values[i][k], b.bitcast(kept, ir.VectorType(I1, count)))

        if MASKS:
            whole = past
            for base, number, lines in halves:
                odd = b.and_(b.or_(base, b.mul(line, I64(emit.align(vector)))), I64(VECTOR_BYTES - 1))
                short = b.or_(b.icmp_signed("<", number, I64(m // 2 * count)), b.icmp_signed("<", lines, I64(m)))
                whole = b.and_(whole, b.not_(b.or_(short, b.icmp_signed("!=", odd, I64(0)))))
            with b.if_else(whole) as (then, otherwise):
                with then:
                    write(write_past_the_cache)
                with otherwise:
                    write(write_inside)
        else:
            write(write_all)
        return context.get_dummy_value()

    intp = types.intp
    one = (types.int64, intp, intp)
    return types.void(tile, step, products, intp, intp, intp, shift, least, *one, *one, intp, types.boolean), codegen


@inner
def u_plane(steps):
    """Elements of a panel's U of one product, a sum of so many steps: an odd number of cache lines.

    Else those of one step of all products, which are written together, share a set of the cache where steps are 2^k.
    """
    return (steps * TILE_ROWS + 2 * LINE - 1) // (2 * LINE) * (2 * LINE) + LINE


@inner
def turn_filters(w, first, row_stride, rows, source_stride, sources, taps, out):
    """out.flat[(c·taps + t)·TILE_ROWS + r] = tap t of channel c of filter r, for c < sources; 0 for r >= rows.

    It stands at w.flat[first + r·row_stride + c·source_stride + t]. Up to a square beyond is written.
    """
    width = lanes(w)
    # Where channels follow each other, their taps are one line.
    runs, length = (1, sources * taps) if source_stride == taps else (sources, taps)
    for c in range(runs):
        for k in range(0, length, width):
            at = first + c * source_stride + k
            block = load_rows(zeros(w, TILE_ROWS, 1), w, at, row_stride, rows, min(width, length - k))
            store_rows(interleave(block), out, (c * taps + k) * TILE_ROWS, width)


def filters(context, b, ty, array, first, step, taps):
    """A vector for each of `taps` taps, that of TILE_ROWS filters: array.flat[first + t·step :]."""
    vector = ir.VectorType(emit.element(ty.dtype), TILE_ROWS)
    places = [b.add(first, b.mul(step, I64(t))) for t in range(taps)]
    return [emit.load(b, emit.pointer(context, b, ty, array, place), vector) for place in places]


@intrinsic
def transform_weights(typingctx, tile, step, w, at, tap_stride, u, to, plane):
    """u.flat[to + (α·i + j)·plane :] = element (i, j) of G g Gᵀ for TILE_ROWS filters g.

    Their taps t are at w.flat[at + t·tap_stride :], as `turn_filters` writes them.
    """

    def codegen(context, b, sig, args):
        _, _, source, first, tap_step, target, start, far = args
        _, weights, _ = _matrices(tile.count, step.count)
        taps = filters(context, b, sig.args[2], source, first, tap_step, TAPS * TAPS)
        # Gᵀ from the right along the taps of a row, then G along the rows.
        rows = [to_points(b, weights, taps[TAPS * i : TAPS * i + TAPS]) for i in range(TAPS)]
        for j in range(len(weights)):
            for i, value in enumerate(to_points(b, weights, [row[j] for row in rows])):
                place = b.add(start, b.mul(far, I64(i * len(weights) + j)))
                emit.store(b, emit.pointer(context, b, sig.args[5], target, place), value)
        return context.get_dummy_value()

    intp = types.intp
    return types.void(tile, step, w, intp, intp, u, intp, intp), codegen


@intrinsic
def transform_lanes(typingctx, tile, step, overlap, x, at, row, v, to, plane):
    """v.flat[to + (α·i + j)·plane :] = element (i, j) of Bᵀ d B, for as many tiles as a vector has lanes.

    Element (k, l) of their inputs d is the vector at x.flat[at + k·row + l·lanes :]. With an empty tuple `overlap`, d
    is a tile of gradients of outputs and the matrix A.
    """

    def codegen(context, b, sig, args):
        _, _, _, source, first, far, target, start, apart = args
        vector = emit.vector(vec_of(sig.args[3]))
        output, _, data = _matrices(len(tile), len(step))
        matrix = data if len(overlap) else [list(column) for column in zip(*output, strict=True)]
        size = len(matrix[0])
        columns = []
        for j in range(size):
            places = [b.add(first, b.add(b.mul(far, I64(i)), I64(j * vector.count))) for i in range(size)]
            column = [emit.load(b, emit.pointer(context, b, sig.args[3], source, place), vector) for place in places]
            columns.append(to_points(b, matrix, column))
        for i in range(len(matrix)):
            for j, value in enumerate(to_points(b, matrix, [column[i] for column in columns])):
                place = b.add(start, b.mul(apart, I64(i * len(matrix) + j)))
                emit.store(b, emit.pointer(context, b, sig.args[6], target, place), value)
        return context.get_dummy_value()

    intp = types.intp
    return types.void(tile, step, overlap, x, intp, intp, v, intp, intp), codegen


@intrinsic
def gather_weights(typingctx, tile, step, products, at, plane, gw, to, count):
    """gw.flat[to + 9·r + t] = tap t of Gᵀ [products] G for filters r < count of one vector.

    products.flat[at + (α·i + j)·plane :] is element (i, j) of all filters of the vector.
    """

    def codegen(context, b, sig, args):
        _, _, source, first, far, target, start, number = args
        vector = emit.vector(vec_of(sig.args[2]))
        _, weights, _ = _matrices(len(tile), len(step))
        matrix = [list(column) for column in zip(*weights, strict=True)]
        size = len(weights)
        rows = []
        for i in range(size):
            places = [b.add(first, b.mul(far, I64(i * size + j))) for j in range(size)]
            row = [emit.load(b, emit.pointer(context, b, sig.args[2], source, place), vector) for place in places]
            rows.append(from_points(b, matrix, row))
        columns = [from_points(b, matrix, [row[k] for row in rows]) for k in range(TAPS)]
        values = interleaved(b, [columns[k % TAPS][k // TAPS] for k in range(TAPS * TAPS)])
        for q, value in enumerate(values):
            left = b.sub(b.mul(number, I64(TAPS * TAPS)), I64(q * vector.count))
            pointer = emit.pointer(context, b, sig.args[5], target, b.add(start, I64(q * vector.count)))
            emit.masked_store(b, pointer, value, emit.mask(b, vector.count, None, left))
        return context.get_dummy_value()

    intp = types.intp
    return types.void(tile, step, products, intp, intp, gw, intp, intp), codegen


@intrinsic
def multiply(typingctx, vecs, more, u, i, u_row, v, j, v_row, steps, y, to, row, accumulate):
    """y.flat[to + r·row + k :] = (or += if accumulate) Σ_c u.flat[i + c·u_row + r] · v.flat[j + c·v_row + k].

    For r < TILE_ROWS, c < steps, which is at least 1, and the k of as many vectors as `vecs` has elements, and of one
    element more if `more` has any. Emitted as a whole loop, because the statements of one take Numba several times as
    long to compile.
    """
    vec = vec_of(v)
    count, width = len(vecs), vec.lanes

    def codegen(context, b, sig, args):
        _, _, u_array, first_u, u_step, v_array, first_v, v_step, end, y_array, first_y, y_step, adding = args
        _, _, u_type, _, _, v_type, _, _, _, y_type, _, _, _ = sig.args
        vector, element = emit.vector(vec), emit.element(vec.dtype)
        column = ir.VectorType(element, TILE_ROWS)
        of_u = emit.pointer(context, b, u_type, u_array, first_u)
        of_v = emit.pointer(context, b, v_type, v_array, first_v)
        before, loop, after = b.basic_block, b.append_basic_block("step"), b.append_basic_block("summed")
        b.branch(loop)
        b.position_at_end(loop)
        c = b.phi(I64)
        c.add_incoming(I64(0), before)
        sums = [b.phi(vector) for _ in range(TILE_ROWS * count)] + [b.phi(column) for _ in range(len(more))]
        for total in sums:
            total.add_incoming(ir.Constant(total.type, None), before)
        rows, columns = b.gep(of_u, [b.mul(c, u_step)]), b.gep(of_v, [b.mul(c, v_step)])
        values = [emit.load(b, b.gep(columns, [I64(k * width)]), vector) for k in range(count)]
        new = []
        for r in range(TILE_ROWS):
            factor = emit.splat(b, b.load(b.gep(rows, [I64(r)])), width)
            new += [emit.fma(b, factor, value, sums[r * count + k]) for k, value in enumerate(values)]
        if len(more):
            single = emit.splat(b, b.load(b.gep(columns, [I64(count * width)])), TILE_ROWS)
            new.append(emit.fma(b, emit.load(b, rows, column), single, sums[-1]))
        following = b.add(c, I64(1))
        c.add_incoming(following, loop)
        for total, value in zip(sums, new, strict=True):
            total.add_incoming(value, loop)
        b.cbranch(b.icmp_signed("<", following, end), loop, after)
        b.position_at_end(after)
        places = [
            emit.pointer(context, b, y_type, y_array, b.add(b.add(first_y, I64(k * width)), b.mul(y_step, I64(r))))
            for r in range(TILE_ROWS)
            for k in range(count)
        ]
        with b.if_else(adding) as (then, otherwise):
            with then:
                for place, value in zip(places, new, strict=False):
                    emit.store(b, place, b.fadd(value, emit.load(b, place, vector)))
            with otherwise:
                for place, value in zip(places, new, strict=False):
                    emit.store(b, place, value)
        if len(more):
            for r in range(TILE_ROWS):
                place = b.add(b.add(first_y, I64(count * width)), b.mul(y_step, I64(r)))
                pointer = emit.pointer(context, b, y_type, y_array, place)
                # What is not added to may hold NaN.
                former = b.select(adding, b.load(pointer), ir.Constant(element, 0.0))
                b.store(b.fadd(b.extract_element(new[-1], I32(r)), former), pointer)
        return context.get_dummy_value()

    intp = types.intp
    return types.void(vecs, more, u, intp, intp, v, intp, intp, intp, y, intp, intp, types.boolean), codegen
