"""The matrix product: one register-tile loop that every matrix-product kernel of the library shares.

    c[i, j] = Σ_k a[i, k] · b[k, j] + bias[j]

The rows of a are broadcast straight from where they lie; the columns of b fill the lanes and are packed into panels of
P = TILE_VECS vectors, panel[k][P], by the thread that multiplies them. A piece of work is one column panel with some
of the rows.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil

import numpy as np

from fastconv import threads
from fastconv.kernels.cpu.host import TILE_ROWS, TILE_VECS, VECTOR_BYTES
from fastconv.kernels.cpu.jit import inner, njit
from fastconv.kernels.cpu.simd import (
    flush_denormals,
    lanes,
    load,
    load_first,
    prefetch,
    quotient,
    restore_denormals,
    store,
)
from fastconv.kernels.cpu.team import address_of, parallel_at, take
from fastconv.kernels.cpu.tiles import (
    add_columns,
    interleave,
    load_rows,
    outer,
    prefetch_tile,
    row_offsets,
    shares,
    spaced,
    store_rows,
    store_tile,
    zeros,
    zeros_square,
)

# Most reduction steps between two visits of an output tile: a column panel of this depth stays in L2.
_DEPTH = 1024
# Where a's rows are contiguous, each step reads a line far from the one before, which no processor foresees: so many
# steps ahead it is asked for.
_AHEAD = 16
# Fewest rows that a piece of work has when rows are split to give every thread enough pieces; and where it must pack
# its panel anew, because that is deeper than what stays packed.
_FEWEST_ROWS, _FEWEST_DEEP_ROWS = 32, 128


def make_tile_product(vecs, ahead=0):
    """The function Σ_k a.flat[ai + r·a_row + k·a_k] · b.flat[bi + k·P + v·lanes :] as a TILE_ROWS × vecs tile.

    Rows from `rows` on repeat the last one. What of a is read in `ahead` steps is asked for, if not 0.
    """

    @inner
    def tile_product(a, ai, a_row, a_k, rows, b, bi, depth):
        width = lanes(b)
        tile = zeros(b, TILE_ROWS, vecs)
        places = row_offsets(tile, rows, a_row)
        for k in range(depth):
            if ahead:
                prefetch(a, ai + (k + ahead) * a_k)
            tile = outer(tile, a, ai + k * a_k, places, b, spaced(tile, bi + k * TILE_VECS * width, width))
        return tile

    return tile_product


def by_vectors(make):
    """A function of (count, *args) that calls make(1), make(2) or make(3): as many vectors as `count` elements fill.

    The first of args is an array of the vectors' dtype.
    """
    one, two, three = make(1), make(2), make(3)

    @inner
    def call(count, *args):
        if TILE_VECS == 3 and count > 2 * lanes(args[0]):
            three(*args)
        elif count > lanes(args[0]):
            two(*args)
        else:
            one(*args)

    return call


def _make_multiply(vecs):
    tile_product, far_product = make_tile_product(vecs), make_tile_product(vecs, _AHEAD)

    @inner
    def multiply(a, ai, a_row, a_k, rows, b, bi, depth, c, ci, c_row, columns, bias, bias_at, accumulate):
        """c's tile at ci = (or +=) rows of a times a column panel, plus bias.flat[bias_at + column]."""
        start = zeros(b, TILE_ROWS, vecs)
        prefetch_tile(start, c, spaced(start, ci, lanes(b)), c_row, rows)
        # One of a's strides is 1. Written out for each, the compiler needs half the registers for addresses.
        if a_k == 1:
            tile = tile_product(a, ai, a_row, 1, rows, b, bi, depth)
        else:
            tile = far_product(a, ai, 1, a_k, rows, b, bi, depth)
        counts = shares(tile, columns)
        if bias_at >= 0:
            tile = add_columns(tile, bias, spaced(tile, bias_at, lanes(b)), counts)
        store_tile(tile, c, spaced(tile, ci, lanes(b)), counts, c_row, rows, accumulate)

    return multiply


_multiply = by_vectors(_make_multiply)


@inner
def _pack_columns(x, i, column_stride, k_stride, columns, depth, panel, at):
    """panel.flat[at + k·P + j] = x.flat[i + j·column_stride + k·k_stride], zero for j >= columns."""
    width = lanes(x)
    size = TILE_VECS * width
    for v in range(TILE_VECS):
        left = columns - v * width
        if left <= 0:
            break
        first = i + v * width * column_stride
        if k_stride == 1:
            for k in range(0, depth, width):
                block = load_rows(zeros_square(x), x, first + k, column_stride, left, depth - k)
                store_rows(interleave(block), panel, at + k * size + v * width, size)
        elif left >= width:
            for k in range(depth):
                store(panel, at + k * size + v * width, load(x, first + k * k_stride))
        else:
            for k in range(depth):
                store(panel, at + k * size + v * width, load_first(x, first + k * k_stride, left))


@inner
def panel_product(a, of_a, b, of_b, c, of_c, where, depth, bias, adding, panels, panel, packed):
    """c = (or += if adding) a·b + bias for one column panel and some rows.

    of_a, of_b: where the matrix begins, and its strides, as `product` has them; of_c: where it begins, rows, columns;
    where: (j, begin, end), the panel's first column and the row panels. The columns of b are packed at
    panels.flat[panel:], where they are already if `packed`, which needs a depth of one part.
    """
    a_at, a_row, a_k = of_a
    b_at, b_column, b_k = of_b
    c_at, rows, columns = of_c
    j, begin, end = where
    left = columns - j
    depth_parts = quotient(depth + _DEPTH - 1, _DEPTH)
    for d in range(depth_parts):
        k, k_end = quotient(depth * d, depth_parts), quotient(depth * (d + 1), depth_parts)
        steps = k_end - k
        if not packed:
            _pack_columns(b, b_at + j * b_column + k * b_k, b_column, b_k, left, steps, panels, panel)
        bias_at = j if bias.size and d == 0 else -1
        more = adding or d > 0
        for number in range(begin, end):
            r = number * TILE_ROWS
            n = min(TILE_ROWS, rows - r)
            ai, ci = a_at + r * a_row + k * a_k, c_at + r * columns + j
            row = (a, ai, a_row, a_k, n)
            _multiply(left, *row, panels, panel, steps, c, ci, columns, left, bias, bias_at, more)


@njit
def _product(
    counter, thread, a, a_row, a_k, b, b_column, b_k, c, rows, columns, depth, bias, row_parts, adding, panels
):
    """Pack a column panel and multiply it with a part of the rows, one piece after another until none is left."""
    state = flush_denormals()
    size = TILE_VECS * lanes(b)
    panel = thread * panel_size(b)
    row_panels = quotient(rows + TILE_ROWS - 1, TILE_ROWS)
    pieces = row_parts * quotient(columns + size - 1, size)
    held = -1
    while True:
        piece = take(counter, thread, pieces)
        if piece < 0:
            break
        number = quotient(piece, row_parts)
        part, j = piece - number * row_parts, number * size
        begin, end = quotient(row_panels * part, row_parts), quotient(row_panels * (part + 1), row_parts)
        of_a, of_b, of_c = (0, a_row, a_k), (0, b_column, b_k), (0, rows, columns)
        packed = j == held and depth <= _DEPTH
        panel_product(a, of_a, b, of_b, c, of_c, (j, begin, end), depth, bias, adding, panels, panel, packed)
        held = j
    restore_denormals(state)


@inner
def panel_size(b):
    """Elements of a packed column panel, which is written in whole blocks of as many steps as a vector has lanes."""
    return TILE_VECS * lanes(b) * (_DEPTH + lanes(b))


def scratch(itemsize):
    """Elements of scratch that `product` needs: a column panel for each thread."""
    width = VECTOR_BYTES // itemsize
    return threads.available() * TILE_VECS * width * (_DEPTH + width)


def column_panels(columns, itemsize):
    """How many column panels so many columns are."""
    return -(-columns // (TILE_VECS * VECTOR_BYTES // itemsize))


def _most_parts(rows, depth):
    return max(1, rows // (_FEWEST_ROWS if depth <= _DEPTH else _FEWEST_DEEP_ROWS))


def most_pieces(rows, columns, depth, itemsize):
    """The most pieces of work that a product is worth dividing into."""
    return column_panels(columns, itemsize) * _most_parts(rows, depth)


def parts_of_rows(rows, columns, depth, itemsize, team, share=1.0):
    """Into how many parts the rows are divided for a team; share: this product's of all work that it does at once."""
    if team == 1:
        return 1
    # Enough pieces for threads to end together. A panel that stays packed from piece to piece allows for more of them.
    wanted = (32 if depth <= _DEPTH else 16) * team * share
    return min(_most_parts(rows, depth), ceil(wanted / column_panels(columns, itemsize)))


def product(a, a_strides, b, b_strides, c, depth, bias, workspace, accumulate=False):
    """c[i, j] = (or += if accumulate) Σ_k a[i, k] · b[k, j] + bias[j].

    a and b are flat arrays with strides in elements, a_strides of (i, k) and b_strides of (j, k), one of each pair 1;
    c (rows, columns) is C-contiguous, bias has `columns` elements or none, workspace `scratch(itemsize)` elements.
    """
    rows, columns = c.shape
    most = most_pieces(rows, columns, depth, c.itemsize)
    team = threads.team(2.0 * rows * columns * depth, most)
    row_parts = parts_of_rows(rows, columns, depth, c.itemsize, team)
    flat = c.reshape(-1)
    args = (flat, rows, columns, depth, bias, row_parts, accumulate, workspace)
    parallel_at(_compiled(c.dtype), team, (a, *a_strides, b, *b_strides, *args))


@lru_cache
def _compiled(dtype):
    """Where `_product` is, compiled for flat arrays of the dtype."""
    a = np.empty(1, dtype)
    return address_of(_product, a, 1, 1, a, 1, 1, a, 1, 1, 1, a, 1, False, a)


NO_BIAS = {dtype: np.empty(0, dtype) for dtype in ("float32", "float64")}
