"""Discrete Fourier transforms of a tile as intrinsics: straight-line code, lanes hold the columns or rows of the tile.

A tile of `height` rows × `width` columns of real numbers becomes height / 2 × width complex ones. Down the columns the
transform is negacyclic: at the roots of y^height = −1, which come in conjugate pairs, of which one half is enough and
none is real. With y^(height/2) = i that is a cyclic transform of (x[n] + i·x[n + height/2])·e^(iπn/height). Whether a
convolution is cyclic or negacyclic shows in the outputs that wrap around alone, and those are thrown away.

Along the rows it is the ordinary transform; a transpose in registers lies between. The width of a tile is the length
of the tuple `edge`; `height_of` says its height. Real and imaginary parts are vectors of their own, in turn.
"""

from __future__ import annotations

import math
from fractions import Fraction

import llvmlite.ir as ir
from numba.core import types
from numba.extending import intrinsic

from fastconv.kernels.cpu import emit
from fastconv.kernels.cpu.emit import I32, I64
from fastconv.kernels.cpu.simd import vec_of
from fastconv.kernels.cpu.tiles import Tile

# Tiles of at most this width are transposed before they are stored; for more the code would be too long.
_FUSED = 32


def height_of(width):
    """Rows of a tile of so many columns: half of them fill a vector of 16 lanes."""
    return max(32, width)


def _scaled(b, x, factor):
    return b.fmul(x, ir.Constant(x.type, [factor] * x.type.count))


def _turned(b, x, turns):
    """x·e^(−2πi·turns)."""
    re, im = x
    eighths = 8 * turns % 8
    if eighths == 0:
        return x
    if eighths in (2, 4, 6):
        minus = ir.Constant(re.type, [-0.0] * re.type.count)
        if eighths == 2:
            return im, b.fsub(minus, re)
        return (b.fsub(minus, re), b.fsub(minus, im)) if eighths == 4 else (b.fsub(minus, im), re)
    c, s = math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns)
    if eighths.denominator == 1:
        # |c| = |s|: two products instead of four.
        plus, less = b.fadd(re, im), b.fsub(im, re)
        if c * s > 0:
            return _scaled(b, plus, c), _scaled(b, less, c)
        return _scaled(b, less, s), _scaled(b, plus, c)
    sine = ir.Constant(re.type, [s] * re.type.count)
    minus = ir.Constant(re.type, [-s] * re.type.count)
    return emit.fma(b, im, sine, _scaled(b, re, c)), emit.fma(b, re, minus, _scaled(b, im, c))


def _plus(b, x, y):
    return b.fadd(x[0], y[0]), b.fadd(x[1], y[1])


def _minus(b, x, y):
    return b.fsub(x[0], y[0]), b.fsub(x[1], y[1])


def _transform(b, xs):
    """Σ_n xs[n]·e^(−2πi·nk/len(xs)) for every k; xs are (real, imaginary), 2^k of them."""
    size = len(xs)
    if size == 1:
        return xs
    if size == 2:
        return [_plus(b, *xs), _minus(b, *xs)]
    quarter = size // 4
    parts = [_transform(b, xs[j::4]) for j in range(4)]
    ys = [None] * size
    for k in range(quarter):
        one, two, three, four = (_turned(b, parts[j][k], Fraction(j * k, size)) for j in range(4))
        even, odd = _plus(b, one, three), _minus(b, one, three)
        total, (re, im) = _plus(b, two, four), _minus(b, two, four)
        ys[k], ys[k + 2 * quarter] = _plus(b, even, total), _minus(b, even, total)
        ys[k + quarter] = b.fadd(odd[0], im), b.fsub(odd[1], re)
        ys[k + 3 * quarter] = b.fsub(odd[0], im), b.fadd(odd[1], re)
    return ys


def _restored(b, xs):
    """The inverse of `_transform`, times len(xs): the same with real and imaginary parts exchanged."""
    return [(re, im) for im, re in _transform(b, [(im, re) for re, im in xs])]


def _transposed(b, rows):
    """The columns of a square of vectors: each round is a perfect shuffle, which turns the bits of a place by one."""
    count = len(rows)
    low = [i // 2 + (i % 2) * count for i in range(count)]
    picks = [ir.Constant(ir.VectorType(I32, count), p) for p in (low, [count // 2 + lane for lane in low])]
    for _ in range(count.bit_length() - 1):
        rows = [b.shuffle_vector(rows[i], rows[i + count // 2], p) for i in range(count // 2) for p in picks]
    return rows


def _complex(b, start, part, step, count, vector):
    """Complex vectors `step` elements apart, their imaginary parts `part` elements after the real ones."""
    pointers = [b.gep(start, [b.mul(step, I64(k))]) for k in range(count)]
    return [(emit.load(b, p, vector), emit.load(b, b.gep(p, [part]), vector)) for p in pointers]


def _store_rows(b, start, step, rows):
    for r, row in enumerate(rows):
        emit.store(b, b.gep(start, [b.mul(step, I64(r))]), row)


def _store_complex(b, start, part, step, xs):
    for k, (re, im) in enumerate(xs):
        pointer = b.gep(start, [b.mul(step, I64(k))])
        emit.store(b, pointer, re)
        emit.store(b, b.gep(pointer, [part]), im)


def _down(b, xs):
    return _transform(b, [_turned(b, x, Fraction(-n, 4 * len(xs))) for n, x in enumerate(xs)])


def _up(b, xs):
    return [_turned(b, x, Fraction(n, 4 * len(xs))) for n, x in enumerate(_restored(b, xs))]


def _function(b, name, vector, arguments, body):
    """The function `name` of this module, its code emitted by body(builder, *arguments) the first time.

    One for all that call it: each is hundreds of instructions, which take long to compile.
    """
    full_name = f"fastconv_{name}_{emit.suffix(vector)}"
    function = b.module.globals.get(full_name)
    if function is None:
        function = ir.Function(b.module, ir.FunctionType(ir.VoidType(), arguments), full_name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        inside = ir.IRBuilder(function.append_basic_block())
        body(inside, *function.args)
        inside.ret_void()
    return function


def _moving(b, name, vector, count, made, square=False):
    """A function (from, part, step, to, part, step) that reads `count` complex vectors and writes made(b, those).

    square: transposed, in squares that stand side by side.
    """

    def body(b, start, part, step, end, to_part, to_step):
        ys = made(b, _complex(b, start, part, step, count, vector))
        if not square:
            _store_complex(b, end, to_part, to_step, ys)
            return
        for first in range(0, count, vector.count):
            for parts in zip(*ys[first : first + vector.count], strict=True):
                place = b.gep(end, [I64(2 * first)])
                _store_rows(b, place, to_step, _transposed(b, list(parts)))
                end = b.gep(end, [to_part])
            end = b.gep(end, [b.mul(to_part, I64(-2))])

    pointer = vector.element.as_pointer()
    return _function(b, f"{name}_{count}", vector, [pointer, I64, I64, pointer, I64, I64], body)


def _transpose(b, vector, start, end, rows, columns):
    """A matrix of rows × columns complex numbers, vectors of real and of imaginary parts in turn, transposed."""
    lanes, pointer = vector.count, vector.element.as_pointer()

    def body(b, start, step, end, to_step):
        places = [b.gep(start, [b.mul(step, I64(r))]) for r in range(lanes)]
        _store_rows(b, end, to_step, _transposed(b, [emit.load(b, p, vector) for p in places]))

    square = _function(b, "transpose", vector, [pointer, I64, pointer, I64], body)
    for r in range(0, rows, lanes):
        for c in range(0, columns, lanes):
            for part in (0, lanes):
                here = b.gep(start, [I64(2 * (r * columns + c) + part)])
                there = b.gep(end, [I64(2 * (c * rows + r) + part)])
                b.call(square, [here, I64(2 * columns), there, I64(2 * rows)])


@intrinsic
def transform(typingctx, edge, x, i, stride, work, j, v, to, plane):
    """The spectrum of the tile at x.flat[i:], rows `stride` apart: frequencies f·lanes … go to v.flat[to + f·plane :].

    work.flat[j:] is memory for two tiles.
    """
    width, half = edge.count, height_of(edge.count) // 2

    def codegen(context, b, sig, args):
        _, array, first, step, memory, place, target, goal, apart = args
        vector = emit.vector(vec_of(sig.args[1]))
        start = emit.pointer(context, b, sig.args[1], array, first)
        one = emit.pointer(context, b, sig.args[4], memory, place)
        two = b.gep(one, [I64(2 * half * width)])
        end = emit.pointer(context, b, sig.args[6], target, goal)
        lanes = I64(vector.count)
        # Row n and row n + height / 2 are the parts of a complex number.
        part = b.mul(step, I64(half))
        fused = width <= _FUSED
        down = _moving(b, "down", vector, half, _down, fused)
        for q in range(0, width, vector.count):
            columns, pitch = (b.gep(two, [I64(2 * half * q)]), half) if fused else (b.gep(one, [I64(2 * q)]), width)
            b.call(down, [b.gep(start, [I64(q)]), part, step, columns, lanes, I64(2 * pitch)])
        if not fused:
            _transpose(b, vector, one, two, half, width)
        across = _moving(b, "across", vector, width, _transform)
        blocks = half // vector.count
        for k in range(blocks):
            rows = b.gep(two, [I64(2 * k * vector.count)])
            frequencies = b.gep(end, [b.mul(apart, I64(k))])
            b.call(across, [rows, lanes, I64(2 * half), frequencies, lanes, b.mul(apart, I64(blocks))])
        return context.get_dummy_value()

    intp = types.intp
    return types.void(edge, x, intp, intp, work, intp, v, intp, intp), codegen


@intrinsic
def restore(typingctx, edge, products, i, work, j):
    """The tile whose spectrum is products.flat[i:], times its width and half of its height.

    work.flat[j:] is memory for two tiles; it is the second.
    """
    width, half = edge.count, height_of(edge.count) // 2

    def codegen(context, b, sig, args):
        _, array, first, memory, place = args
        vector = emit.vector(vec_of(sig.args[1]))
        start = emit.pointer(context, b, sig.args[1], array, first)
        one = emit.pointer(context, b, sig.args[3], memory, place)
        two = b.gep(one, [I64(2 * half * width)])
        lanes, minus = I64(vector.count), I64(-vector.count)
        if width <= _FUSED:
            back = _moving(b, "back", vector, width, _restored, True)
            for k in range(0, half, vector.count):
                here, there = b.gep(start, [I64(2 * k)]), b.gep(one, [I64(2 * k * width)])
                b.call(back, [here, lanes, I64(2 * half), there, lanes, I64(2 * width)])
        else:
            # With real and imaginary parts exchanged on both sides a transform is its own inverse.
            across = _moving(b, "across", vector, width, _transform)
            for k in range(0, 2 * half, 2 * vector.count):
                here, there = (b.gep(pointer, [I64(k + vector.count)]) for pointer in (start, two))
                b.call(across, [here, minus, I64(2 * half), there, minus, I64(2 * half)])
            _transpose(b, vector, two, one, width, half)
        up = _moving(b, "up", vector, half, _up)
        for q in range(0, width, vector.count):
            columns, rows = b.gep(one, [I64(2 * q)]), b.gep(two, [I64(q)])
            b.call(up, [columns, lanes, I64(2 * width), rows, I64(half * width), I64(width)])
        return context.get_dummy_value()

    return types.void(edge, products, types.intp, work, types.intp), codegen


@intrinsic
def no_sums(typingctx, x, panel, several):
    """A zero tile of len(panel) rows and len(several) complex vectors a row."""
    vec = vec_of(x)
    tile = Tile(vec.dtype, vec.lanes, len(panel), 2 * len(several))

    def codegen(context, b, sig, args):
        return ir.Constant(context.get_value_type(tile), None)

    return tile(x, panel, several), codegen


@intrinsic
def add_products(typingctx, tile, u, i, v, j):
    """tile[r][t] + v[t]·conjugate(u[r]), complex vectors that stand one after another at u.flat[i:] and v.flat[j:]."""

    def codegen(context, b, sig, args):
        sums, weights, first, data, second = args
        vector = emit.vector(tile)
        several = tile.vecs // 2

        def read(ty, array, start, count):
            pointer = emit.pointer(context, b, ty, array, start)
            return _complex(b, pointer, I64(tile.lanes), I64(2 * tile.lanes), count, vector)

        columns = read(sig.args[3], data, second, several)
        for r, (re, im) in enumerate(read(sig.args[1], weights, first, tile.rows)):
            minus = b.fsub(ir.Constant(vector, [-0.0] * tile.lanes), im)
            for t, (v_re, v_im) in enumerate(columns):
                place = (r * several + t) * 2
                total = emit.fma(b, re, v_re, b.extract_value(sums, place))
                sums = b.insert_value(sums, emit.fma(b, im, v_im, total), place)
                total = emit.fma(b, re, v_im, b.extract_value(sums, place + 1))
                sums = b.insert_value(sums, emit.fma(b, minus, v_re, total), place + 1)
        return sums

    return tile(tile, u, types.intp, v, types.intp), codegen


@intrinsic
def store_sums(typingctx, tile, out, to, row, column):
    """out.flat[to + r·row + t·column :] = complex vector t of the tile's row r."""

    def codegen(context, b, sig, args):
        sums, array, first, row_step, step = args
        start = emit.pointer(context, b, sig.args[1], array, first)
        for r in range(tile.rows):
            for t in range(tile.vecs):
                place = b.add(b.mul(row_step, I64(r)), b.mul(step, I64(t // 2)))
                pointer = b.gep(start, [b.add(place, I64(t % 2 * tile.lanes))])
                emit.store(b, pointer, b.extract_value(sums, r * tile.vecs + t))
        return context.get_dummy_value()

    return types.void(tile, out, types.intp, types.intp, types.intp), codegen
