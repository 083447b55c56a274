"""The matrix product: one register-tile loop, and the packing that brings every operand into its order.

An operand is packed into panels of P neighbouring rows (or columns): panel[k][P], k running over the reduction. The
row side has P = TILE_ROWS and is broadcast; the column side has P = TILE_VECS vectors and fills the lanes. Every
matrix-product kernel of the library is this tile loop with its own packing.
"""

from __future__ import annotations

from fastconv.kernels.cpu.host import TILE_ROWS, TILE_VECS, VECTOR_BYTES
from fastconv.kernels.cpu.jit import inner, njit, parallel
from fastconv.kernels.cpu.simd import (
    add_columns,
    flush_denormals,
    interleave,
    lanes,
    load,
    load_first,
    load_rows,
    outer,
    restore_denormals,
    shares,
    spaced,
    store,
    store_first,
    store_rows,
    store_tile,
    take,
    zeros,
    zeros_square,
)

from fastconv import threads

# Reduction steps between two visits of an output tile: a column panel of this depth stays in L2.
DEPTH = 512
# Most columns and rows packed at once: bounds scratch to about 9 MiB of float32.
COLUMNS = 4096
ROWS = 2048
# Row panels that one piece of work multiplies with one column panel.
_ROW_PANELS = 8


def make_tile_product(vecs):
    """The function Σ_k a.flat[ai + k·TILE_ROWS + r] · b.flat[bi + k·panel + v·lanes :] as a TILE_ROWS × vecs tile."""

    @inner
    def tile_product(a, ai, b, bi, depth):
        width = lanes(b)
        tile = zeros(b, TILE_ROWS, vecs)
        for k in range(depth):
            tile = outer(tile, a, ai + k * TILE_ROWS, b, spaced(tile, bi + k * TILE_VECS * width, width))
        return tile

    return tile_product


def _make_multiply(vecs):
    tile_product = make_tile_product(vecs)

    @inner
    def multiply(a, ai, b, bi, depth, c, ci, stride, rows, columns, bias, bias_at, accumulate):
        """c's tile at ci = (or +=) the product of a row and a column panel, plus bias.flat[bias_at + column]."""
        tile = tile_product(a, ai, b, bi, depth)
        counts = shares(tile, columns)
        if bias_at >= 0:
            tile = add_columns(tile, bias, spaced(tile, bias_at, lanes(b)), counts)
        store_tile(tile, c, spaced(tile, ci, lanes(b)), counts, stride, rows, accumulate)

    return multiply


_multiply1, _multiply2, _multiply3 = (_make_multiply(vecs) for vecs in (1, 2, 3))


@inner
def panel_depth(depth):
    """`depth` rounded up, so that packing whole blocks never leaves its panel. A multiple of every host's lanes."""
    return (depth + 15) // 16 * 16


@inner
def pack_rows(x, i, row_stride, k_stride, rows, depth, panel, at):
    """panel.flat[at + k·TILE_ROWS + r] = x.flat[i + r·row_stride + k·k_stride], zero for r >= rows."""
    width = lanes(x)
    if k_stride == 1:
        for k in range(0, depth, width):
            block = load_rows(zeros(x, TILE_ROWS, 1), x, i + k, row_stride, rows, depth - k)
            store_rows(interleave(block), panel, at + k * TILE_ROWS, width)
    elif row_stride == 1 and width >= TILE_ROWS:
        for k in range(depth):
            store_first(panel, at + k * TILE_ROWS, load_first(x, i + k * k_stride, min(rows, TILE_ROWS)), TILE_ROWS)
    else:
        for k in range(depth):
            for r in range(TILE_ROWS):
                value = x[i + r * row_stride + k * k_stride] if r < rows else x.dtype.type(0)
                panel[at + k * TILE_ROWS + r] = value


@inner
def pack_columns(x, i, column_stride, k_stride, columns, depth, panel, at):
    """panel.flat[at + k·P + j] = x.flat[i + j·column_stride + k·k_stride], zero for j >= columns; P columns a panel."""
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
def _pack(counter, thread, a, ai, a_row, a_k, rows, b, bi, b_column, b_k, columns, depth, pa, pb):
    """Pack row panels and column panels of one block, one panel a piece, until none is left."""
    state = flush_denormals()
    size = TILE_VECS * lanes(b)
    stride = panel_depth(depth)
    row_panels = (rows + TILE_ROWS - 1) // TILE_ROWS
    pieces = row_panels + (columns + size - 1) // size
    while True:
        piece = take(counter)
        if piece >= pieces:
            break
        if piece < row_panels:
            r = piece * TILE_ROWS
            pack_rows(a, ai + r * a_row, a_row, a_k, rows - r, depth, pa, r * stride)
        else:
            j = (piece - row_panels) * size
            pack_columns(b, bi + j * b_column, b_column, b_k, columns - j, depth, pb, j * stride)
    restore_denormals(state)


@njit
def _compute(counter, thread, pa, pb, depth, c, ci, c_row, rows, columns, bias, bias_at, accumulate):
    """Multiply a few row panels with one column panel a piece, until none is left."""
    state = flush_denormals()
    width = lanes(pb)
    size = TILE_VECS * width
    stride = panel_depth(depth)
    row_panels = (rows + TILE_ROWS - 1) // TILE_ROWS
    row_pieces = (row_panels + _ROW_PANELS - 1) // _ROW_PANELS
    pieces = row_pieces * ((columns + size - 1) // size)
    while True:
        piece = take(counter)
        if piece >= pieces:
            break
        j = piece // row_pieces * size
        first = piece % row_pieces * _ROW_PANELS
        left = columns - j
        shift = bias_at + j if bias_at >= 0 else -1
        for panel in range(first, min(first + _ROW_PANELS, row_panels)):
            r = panel * TILE_ROWS
            at = ci + r * c_row + j
            n = rows - r
            if TILE_VECS == 3 and left > 2 * width:
                _multiply3(pa, r * stride, pb, j * stride, depth, c, at, c_row, n, left, bias, shift, accumulate)
            elif left > width:
                _multiply2(pa, r * stride, pb, j * stride, depth, c, at, c_row, n, left, bias, shift, accumulate)
            else:
                _multiply1(pa, r * stride, pb, j * stride, depth, c, at, c_row, n, left, bias, shift, accumulate)
    restore_denormals(state)


def _panel_sizes(rows, columns, depth, itemsize):
    size = TILE_VECS * VECTOR_BYTES // itemsize
    steps = -(-min(depth, DEPTH) // 16) * 16
    return -(-min(rows, ROWS) // TILE_ROWS) * TILE_ROWS * steps, -(-min(columns, COLUMNS) // size) * size * steps


def scratch(rows, columns, depth, itemsize):
    """Elements of scratch that `product` needs."""
    return sum(_panel_sizes(rows, columns, depth, itemsize))


def product(a, a_strides, b, b_strides, c, depth, bias, workspace):
    """c[i,j] = Σ_k a[i,k] · b[k,j] + bias[j].

    a and b are flat arrays with strides in elements, a_strides of (i, k) and b_strides of (j, k), one of each pair 1;
    c (rows, columns) is C-contiguous, bias has `columns` elements or none, workspace `scratch(...)` elements.
    """
    rows, columns = c.shape
    split = _panel_sizes(rows, columns, depth, c.itemsize)[0]
    pa, pb = workspace[:split], workspace[split:]
    team = threads.team(2.0 * rows * columns * depth, -(-rows // TILE_ROWS) * -(-columns // TILE_ROWS))
    (a_row, a_k), (b_column, b_k) = a_strides, b_strides
    for j in range(0, columns, COLUMNS):
        for k, k_end in _equal_parts(depth, DEPTH):
            for r in range(0, rows, ROWS):
                m, n = min(ROWS, rows - r), min(COLUMNS, columns - j)
                left, right = (r * a_row + k * a_k, a_row, a_k, m), (j * b_column + k * b_k, b_column, b_k, n)
                parallel(_pack, team, a, *left, b, *right, k_end - k, pa, pb)
                at, bias_at = r * columns + j, j if bias.size and k == 0 else -1
                parallel(_compute, team, pa, pb, k_end - k, c.reshape(-1), at, columns, m, n, bias, bias_at, k > 0)


def _equal_parts(depth, most):
    """(start, end) of blocks of at most `most` that share `depth` about equally."""
    count = max(1, -(-depth // most))
    ends = [depth * part // count for part in range(count + 1)]
    return zip(ends, ends[1:], strict=False)
