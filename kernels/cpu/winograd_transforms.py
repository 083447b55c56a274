"""Winograd's transforms as straight-line vector code, emitted from the matrices of winograd_matrices, and its product.

The lanes of a vector are tiles: one intrinsic transforms as many tiles as a vector has lanes. It is emitted as a whole
because hundreds of Numba statements compile for seconds. The size m of F(m×m, 3×3) is the length of the tuple `edge`.
"""

from __future__ import annotations

from functools import lru_cache

import llvmlite.ir as ir
from numba.core import types
from numba.extending import intrinsic

from fastconv.kernels.cpu import emit
from fastconv.kernels.cpu.emit import I1, I32, I64
from fastconv.kernels.cpu.host import MASKS, TILE_ROWS
from fastconv.kernels.cpu.simd import vec_of
from fastconv.kernels.cpu.winograd_matrices import POINTS, TAPS, matrices


@lru_cache
def _matrices(m):
    return [[list(map(float, row)) for row in matrix] for matrix in matrices(m, POINTS[m])]


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


def _to_points(b, matrix, xs):
    """matrix · xs where rows 1, 2 and 3, 4 … belong to points p and −p: even parts are equal, odd parts opposite."""
    results = [_combination(b, matrix[0], xs)]
    for k in range(1, len(matrix) - 1, 2):
        plus, minus = matrix[k], matrix[k + 1]
        same = _combination(b, [c if c == d else 0.0 for c, d in zip(plus, minus, strict=True)], xs)
        odd = _combination(b, [c if c != d else 0.0 for c, d in zip(plus, minus, strict=True)], xs)
        results += [b.fadd(same, odd), b.fsub(same, odd)]
    return [*results, _combination(b, matrix[-1], xs)]


def _from_points(b, matrix, xs):
    """matrix · xs where columns 1, 2 and 3, 4 … belong to points p and −p."""
    pairs = range(1, len(xs) - 1, 2)
    sums = [b.fadd(xs[k], xs[k + 1]) for k in pairs]
    differences = [b.fsub(xs[k], xs[k + 1]) for k in pairs]
    results = []
    for row in matrix:
        halves = [s if row[k] == row[k + 1] else d for k, s, d in zip(pairs, sums, differences, strict=True)]
        results.append(_combination(b, [row[0], *(row[k] for k in pairs), row[-1]], [xs[0], *halves, xs[-1]]))
    return results


def _shuffle(b, x, y, lanes):
    return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, x.type.count), lanes))


def _every(b, xs, step, first):
    """The vector of elements first, first + step, … of `step` vectors in a row."""
    count = xs[0].type.count
    if step == 1:
        return xs[0]
    if step % 2 == 0:
        picks = list(range(first % 2, 2 * count, 2))
        halves = [_shuffle(b, xs[k], xs[k + 1], picks) for k in range(0, step, 2)]
        return _every(b, halves, step // 2, first // 2)
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


def _spread(b, xs):
    """The inverse of `_every`: len(xs) vectors in a row whose elements k, k + len(xs), … are xs[k]'s."""
    step, count = len(xs), xs[0].type.count
    if step == 1:
        return xs
    if step % 2 == 0:
        low = [i // 2 + (i % 2) * count for i in range(count)]
        high = [count // 2 + lane for lane in low]
        pairs = zip(_spread(b, xs[0::2]), _spread(b, xs[1::2]), strict=True)
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


@intrinsic
def transform_input(typingctx, edge, overlap, lines, shifted, stride, low, high, y, height, v, at, plane):
    """v.flat[at + (α·i + j)·plane :] = element (i, j) of Bᵀ d B for one vector of tiles d of α×α, α = m + 2.

    `lines` is the address of the tiles' first line; element t·m of a line is tile t's first; lines are `stride`
    elements apart. `shifted` is the same m elements further on: tiles overlap by two, the length of the tuple
    `overlap`. If that is empty, tiles are m×m and the matrix is A, the one for gradients of outputs.

    If MASKS, elements outside of low <= element < high and lines outside of 0 <= y + i < height are zero and their
    memory is not read; else all must be there.
    """
    m, more = edge.count, len(overlap)

    def codegen(context, b, sig, args):
        _, _, base, further, line, left, right, top, bottom, array, first, step = args
        vector = emit.vector(vec_of(sig.args[9]))
        count = vector.count
        output, _, data = _matrices(m)
        matrix = data if more else [list(column) for column in zip(*output, strict=True)]
        size = m + TAPS - 1
        starts = [(base, q * count, q * count) for q in range(m)]
        if more:
            starts += [(further, q * count, m + q * count) for q in range(m)]
        if MASKS:
            masks = [_bits(b, b.sub(left, I64(e)), b.sub(right, I64(e)), count) for _, _, e in starts]
        rows = []
        for i in range(m + more):
            shift = b.mul(line, I64(i))
            pointers = [_at(b, start, b.add(shift, I64(offset)), vector) for start, offset, _ in starts]
            if MASKS:
                y_here = b.add(top, I64(i))
                inside = b.and_(b.icmp_signed(">=", y_here, I64(0)), b.icmp_signed("<", y_here, bottom))
                nothing = ir.IntType(count)(0)
                kept = [b.bitcast(b.select(inside, bits, nothing), ir.VectorType(I1, count)) for bits in masks]
                parts = [emit.masked_load(b, p, vector, bits) for p, bits in zip(pointers, kept, strict=True)]
            else:
                parts = [emit.load(b, p, vector) for p in pointers]
            tile = [_every(b, parts[:m] if j < m else parts[m:], m, j % m) for j in range(m + more)]
            rows.append(_to_points(b, matrix, tile))
        for j in range(size):
            for i, value in enumerate(_to_points(b, matrix, [row[j] for row in rows])):
                place = b.add(first, b.mul(step, I64(i * size + j)))
                emit.store(b, emit.pointer(context, b, sig.args[9], array, place), value)
        return context.get_dummy_value()

    intp = types.intp
    places = (types.int64, types.int64, intp, intp, intp, intp, intp)
    return types.void(edge, overlap, *places, v, intp, intp), codegen


@intrinsic
def transform_output(typingctx, edge, products, at, plane, shift, least, lines, stride, count):
    """Line i of y = line i of max(Aᵀ [products] A + shift, least) of a vector of tiles.

    It stands i·stride elements after the address `lines`; element t·m + k of it is tile t's element k.
    products.flat[at + (α·i + j)·plane :] is element (i, j). If MASKS, only the first `count` elements of a line are
    written; else all m vectors.
    """
    m = edge.count

    def codegen(context, b, sig, args):
        _, source, first, step, added, floor, base, line, number = args
        vector = emit.vector(vec_of(sig.args[1]))
        output, _, _ = _matrices(m)
        size = m + TAPS - 1
        rows = []
        for i in range(size):
            places = [b.add(first, b.mul(step, I64(i * size + j))) for j in range(size)]
            row = [emit.load(b, emit.pointer(context, b, sig.args[1], source, place), vector) for place in places]
            rows.append(_from_points(b, output, row))
        columns = [_from_points(b, output, [row[k] for row in rows]) for k in range(m)]
        masks = [emit.mask(b, vector.count, None, b.sub(number, I64(q * vector.count))) for q in range(m)]
        for i in range(m):
            for q, value in enumerate(_spread(b, [column[i] for column in columns])):
                value = emit.at_least(b, b.fadd(value, added), floor)
                pointer = _at(b, base, b.add(b.mul(line, I64(i)), I64(q * vector.count)), vector)
                if MASKS:
                    emit.masked_store(b, pointer, value, masks[q])
                else:
                    emit.store(b, pointer, value)
        return context.get_dummy_value()

    intp = types.intp
    return types.void(edge, products, intp, intp, shift, least, types.int64, intp, intp), codegen


@intrinsic
def transform_weights(typingctx, edge, w, at, row_stride, rows, tap_stride, u, to, plane):
    """u.flat[to + (α·i + j)·plane :] = element (i, j) of G g Gᵀ for TILE_ROWS filters, those from `rows` on zero.

    Tap t of filter r stands at w.flat[at + r·row_stride + t·tap_stride].
    """
    m = edge.count

    def codegen(context, b, sig, args):
        _, source, first, row_step, count, tap_step, target, start, step = args
        element = emit.element(sig.args[1].dtype)
        vector = ir.VectorType(element, TILE_ROWS)
        _, weights, _ = _matrices(m)
        zero = ir.Constant(element, 0.0)
        inside = [b.icmp_signed("<", I64(r), count) for r in range(TILE_ROWS)]
        bases = [b.add(first, b.select(inside[r], b.mul(row_step, I64(r)), I64(0))) for r in range(TILE_ROWS)]
        taps = []
        for t in range(TAPS * TAPS):
            tap = ir.Constant(vector, ir.Undefined)
            for r in range(TILE_ROWS):
                place = b.add(bases[r], b.mul(tap_step, I64(t)))
                value = b.load(emit.pointer(context, b, sig.args[1], source, place))
                tap = b.insert_element(tap, b.select(inside[r], value, zero), I32(r))
            taps.append(tap)
        # Gᵀ from the right along the taps of a row, then G along the rows.
        rows = [_to_points(b, weights, taps[TAPS * i : TAPS * i + TAPS]) for i in range(TAPS)]
        for j in range(m + TAPS - 1):
            for i, value in enumerate(_to_points(b, weights, [row[j] for row in rows])):
                place = b.add(start, b.mul(step, I64(i * (m + TAPS - 1) + j)))
                emit.store(b, emit.pointer(context, b, sig.args[6], target, place), value)
        return context.get_dummy_value()

    intp = types.intp
    return types.void(edge, w, intp, intp, intp, intp, u, intp, intp), codegen


@intrinsic
def gather_weights(typingctx, edge, products, at, plane, gw, to, count):
    """gw.flat[to + 9·r + t] = tap t of Gᵀ [products] G for filters r < count of one vector.

    products.flat[at + (α·i + j)·plane :] is element (i, j) of all filters of the vector.
    """
    m = edge.count

    def codegen(context, b, sig, args):
        _, source, first, step, target, start, number = args
        vector = emit.vector(vec_of(sig.args[1]))
        _, weights, _ = _matrices(m)
        matrix = [list(column) for column in zip(*weights, strict=True)]
        size = m + TAPS - 1
        rows = []
        for i in range(size):
            places = [b.add(first, b.mul(step, I64(i * size + j))) for j in range(size)]
            row = [emit.load(b, emit.pointer(context, b, sig.args[1], source, place), vector) for place in places]
            rows.append(_from_points(b, matrix, row))
        columns = [_from_points(b, matrix, [row[k] for row in rows]) for k in range(TAPS)]
        values = _spread(b, [columns[k % TAPS][k // TAPS] for k in range(TAPS * TAPS)])
        for q, value in enumerate(values):
            left = b.sub(b.mul(number, I64(TAPS * TAPS)), I64(q * vector.count))
            pointer = emit.pointer(context, b, sig.args[4], target, b.add(start, I64(q * vector.count)))
            emit.masked_store(b, pointer, value, emit.mask(b, vector.count, None, left))
        return context.get_dummy_value()

    intp = types.intp
    return types.void(edge, products, intp, intp, gw, intp, intp), codegen


@intrinsic
def multiply(typingctx, vecs, more, u, i, v, j, v_row, steps, y, to, row, accumulate):
    """y.flat[to + r·row + k :] = (or += if accumulate) Σ_c u.flat[i + c·TILE_ROWS + r] · v.flat[j + c·v_row + k].

    For r < TILE_ROWS, c < steps, which is at least 1, and the k of as many vectors as `vecs` has elements, and of one
    element more if `more` has any. Emitted as a whole loop, because the statements of one take Numba several times as
    long to compile.
    """
    vec = vec_of(v)
    count, width = len(vecs), vec.lanes

    def codegen(context, b, sig, args):
        _, _, u_array, first_u, v_array, first_v, v_step, end, y_array, first_y, y_step, adding = args
        _, _, u_type, _, v_type, _, _, _, y_type, _, _, _ = sig.args
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
        rows, columns = b.gep(of_u, [b.mul(c, I64(TILE_ROWS))]), b.gep(of_v, [b.mul(c, v_step)])
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
    return types.void(vecs, more, u, intp, v, intp, intp, intp, y, intp, intp, types.boolean), codegen
