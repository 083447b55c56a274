"""The matrix product: one register-tile loop that every matrix-product kernel of the library shares.

    c[i, j] = Σ_k a[i, k] · b[k, j] + bias[j]

The rows of a are broadcast straight from where they lie; the columns of b fill the lanes and are packed into panels of
P = TILE_VECS vectors, panel[k][P], by the thread that multiplies them. A piece of work is one column panel with some
of the rows.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fastconv import threads
from fastconv.kernels.cpu.host import TILE_ROWS, TILE_VECS, VECTOR_BYTES
from fastconv.kernels.cpu.jit import inner, njit
from fastconv.kernels.cpu.simd import flush_denormals, lanes, load, load_first, prefetch, restore_denormals, store
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
_DEPTH = 512
# Where a's rows are contiguous, each step reads a line far from the one before, which no processor foresees: so many
# steps ahead it is asked for.
_AHEAD = 16
# Fewest rows that a piece of work has when rows are split to give every thread enough pieces.
_FEWEST_ROWS = 32


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


@njit
def _product(
    counter, thread, a, a_row, a_k, b, b_column, b_k, c, rows, columns, depth, bias, row_parts, adding, panels
):
    """Pack a column panel and multiply it with a part of the rows, one piece after another until none is left."""
    state = flush_denormals()
    width = lanes(b)
    size = TILE_VECS * width
    # Packing writes whole blocks of `width` steps.
    panel = thread * size * (_DEPTH + width)
    row_panels = (rows + TILE_ROWS - 1) // TILE_ROWS
    pieces = row_parts * ((columns + size - 1) // size)
    depth_parts = (depth + _DEPTH - 1) // _DEPTH
    held = -1
    while True:
        piece = take(counter, thread, pieces)
        if piece < 0:
            break
        j, part = piece // row_parts * size, piece % row_parts
        left = columns - j
        for d in range(depth_parts):
            k, end = depth * d // depth_parts, depth * (d + 1) // depth_parts
            steps = end - k
            if depth_parts > 1 or j != held:
                _pack_columns(b, j * b_column + k * b_k, b_column, b_k, left, steps, panels, panel)
                held = j
            bias_at = j if bias.size and d == 0 else -1
            more = adding or d > 0
            for number in range(row_panels * part // row_parts, row_panels * (part + 1) // row_parts):
                r = number * TILE_ROWS
                n = min(TILE_ROWS, rows - r)
                ai, ci = r * a_row + k * a_k, r * columns + j
                row = (a, ai, a_row, a_k, n)
                _multiply(left, *row, panels, panel, steps, c, ci, columns, left, bias, bias_at, more)
    restore_denormals(state)


def scratch(itemsize):
    """Elements of scratch that `product` needs: a column panel for each thread."""
    width = VECTOR_BYTES // itemsize
    return threads.available() * TILE_VECS * width * (_DEPTH + width)


def product(a, a_strides, b, b_strides, c, depth, bias, workspace, accumulate=False):
    """c[i, j] = (or += if accumulate) Σ_k a[i, k] · b[k, j] + bias[j].

    a and b are flat arrays with strides in elements, a_strides of (i, k) and b_strides of (j, k), one of each pair 1;
    c (rows, columns) is C-contiguous, bias has `columns` elements or none, workspace `scratch(itemsize)` elements.
    """
    rows, columns = c.shape
    column_panels = -(-columns // (TILE_VECS * VECTOR_BYTES // c.itemsize))
    most = max(1, rows // _FEWEST_ROWS)
    team = threads.team(2.0 * rows * columns * depth, column_panels * most)
    # Enough pieces for threads to end together. A panel that stays packed from piece to piece allows for more of them.
    wanted = 32 * team if depth <= _DEPTH else 8 * team
    row_parts = 1 if team == 1 else min(most, -(-wanted // column_panels))
    flat = c.reshape(-1)
    args = (flat, rows, columns, depth, bias, row_parts, accumulate, workspace)
    parallel_at(_compiled(c.dtype), team, (a, *a_strides, b, *b_strides, *args))


@lru_cache
def _compiled(dtype):
    """Where `_product` is, compiled for flat arrays of the dtype."""
    a = np.empty(1, dtype)
    return address_of(_product, a, 1, 1, a, 1, 1, a, 1, 1, 1, a, 1, False, a)


NO_BIAS = {dtype: np.empty(0, dtype) for dtype in ("float32", "float64")}
