"""conv2d/im2col: convolution as a matrix product whose columns are gathered panel by panel, never as a whole.

    y[o, pixel] = Σ_q w[o, q] · col[q, pixel],   q = (channel, tap),   col[q, pixel] = the source element tap reads

A piece of work is a few column panels of one image and group: gather a block of col, multiply it with every row panel
of the packed weights. The input gradient is the same sum on other grids (conv_taps); the weight gradient is

    gw[o, q] = Σ_pixel gy[o, pixel] · col[q, pixel]

with the reduction along the lanes, so that gy is read as it lies. Supports every problem.
"""

from __future__ import annotations

import numpy as np

from fastconv import threads
from fastconv.kernels.cpu import conv_taps
from fastconv.kernels.cpu.conv_taps import scatter
from fastconv.kernels.cpu.gemm import NO_BIAS, by_vectors, make_tile_product
from fastconv.kernels.cpu.host import LANE_ROWS, LANE_VECS, TILE_ROWS, TILE_VECS, VECTOR_BYTES
from fastconv.kernels.cpu.jit import inner, njit
from fastconv.kernels.cpu.simd import even_lanes, flush_denormals, lanes, load_range, restore_denormals, store
from fastconv.kernels.cpu.team import parallel, take
from fastconv.kernels.cpu.tiles import add_rows, outer_lanes, shares, spaced, store_tile, sum_tile_into, zeros
from fastconv.problem import itemsize
from fastconv.registry import kernel

# Reduction steps gathered at a time, and column panels a piece of work: the block, about 300 KiB, stays in L2.
_DEPTH = 384
_PANELS = 4
# Fewest rows for which a thread gathers a block that another gathers too.
_FEWEST_ROWS = 64

# The weight gradient's blocks: q's gathered at a time, and pixels of them.
_QS = 8 * LANE_VECS
_PIXELS = 2048


@inner
def gather(x, plane, in_h, in_w, read_y, read_x, dy, dx, grid_w, i, j, count, out, at):
    """out.flat[at + v] = the source element that a tap reads for the v-th pixel from (i, j) on, v < count.

    Pixels run along the grid's rows. May write up to a vector more.
    """
    width = lanes(x)
    done = 0
    while done < count:
        run = min(grid_w - j, count - done)
        y = i * read_y + dy
        row = plane + y * in_w + dx
        # Pixels low <= j < high of this row read inside the source.
        low = max(0, (read_x - 1 - dx) // read_x)
        high = (in_w - 1 - dx) // read_x + 1
        if y < 0 or y >= in_h:
            high = low
        if read_x == 1:
            for u in range(0, run, width):
                first = j + u
                store(out, at + done + u, load_range(x, row + first, low - first, min(high - first, run - u)))
        elif read_x == 2:
            for u in range(0, run, width):
                first = j + u
                start, end = 2 * (low - first), 2 * min(high - first, run - u) - 1
                left = load_range(x, row + 2 * first, start, end)
                right = load_range(x, row + 2 * first + width, start - width, end - width)
                store(out, at + done + u, even_lanes(left, right))
        else:
            for u in range(run):
                value = x.dtype.type(0)
                if low <= j + u < high:
                    value = x[row + (j + u) * read_x]
                out[at + done + u] = value
        done += run
        i, j = i + 1, 0


def _make_multiply(vecs):
    tile_product = make_tile_product(vecs)

    @inner
    def multiply(a, ai, a_row, rows, b, bi, depth, y, yi, y_stride, pixels, bias, bias_at, accumulate):
        """A tile of y at yi = (or +=) rows of weights times a column panel, plus bias[bias_at + row]."""
        tile = tile_product(a, ai, a_row, 1, rows, b, bi, depth)
        if bias_at >= 0:
            tile = add_rows(tile, bias, bias_at, rows)
        store_tile(tile, y, spaced(tile, yi, lanes(b)), shares(tile, pixels), y_stride, rows, accumulate)

    return multiply


_multiply = by_vectors(_make_multiply)


@njit
def _convolve(counter, thread, x, weights, bias, y, sizes, dy, dx, row_parts, work):
    """Gather and multiply one piece after another until none is left; `work` is split among the threads."""
    state = flush_denormals()
    images, groups, sources, rows, in_h, in_w, read_y, read_x = sizes[:8]
    out_h, out_w, grid_h, grid_w, first_y, first_x, step_y, step_x = sizes[8:]
    width = lanes(x)
    size = TILE_VECS * width
    taps = dy.size
    depth = sources * taps
    pixels = grid_h * grid_w
    column_panels = (pixels + size - 1) // size
    blocks = (column_panels + _PANELS - 1) // _PANELS
    block = (column_panels + blocks - 1) // blocks * size
    panels = (rows + TILE_ROWS - 1) // TILE_ROWS
    out_plane = out_h * out_w
    dense = step_y == 1 and step_x == 1
    columns = thread * (_PANELS * _DEPTH * size + TILE_ROWS * size + 64)
    buffer = columns + _PANELS * _DEPTH * size + 32
    while True:
        piece = take(counter, thread, images * groups * blocks * row_parts)
        if piece < 0:
            break
        part, rest = piece % row_parts, piece // row_parts
        image, group, first = rest // blocks // groups, rest // blocks % groups, rest % blocks * block
        count = min(block, pixels - first)
        source = (image * groups + group) * sources * in_h * in_w
        target = (image * groups + group) * rows * out_plane
        for q0 in range(0, depth, _DEPTH):
            steps = min(_DEPTH, depth - q0)
            for p in range(0, count, size):
                i, j = (first + p) // grid_w, (first + p) % grid_w
                at = columns + p * _DEPTH
                for q in range(q0, q0 + steps):
                    channel, tap = q // taps, q % taps
                    plane = source + channel * in_h * in_w
                    gather(
                        x, plane, in_h, in_w, read_y, read_x, dy[tap], dx[tap], grid_w, i, j,
                        min(size, count - p), work, at + (q - q0) * size,
                    )  # fmt: skip
            for panel in range(panels * part // row_parts, panels * (part + 1) // row_parts):
                r = panel * TILE_ROWS
                n = min(TILE_ROWS, rows - r)
                a = (group * rows + r) * depth + q0
                shift = group * rows + r if bias.size and q0 == 0 else -1
                for p in range(0, count, size):
                    left = min(size, count - p)
                    at = columns + p * _DEPTH
                    if dense:
                        out, to, stride, adding = y, target + r * out_plane + first + p, out_plane, q0 > 0
                    else:
                        out, to, stride, adding = work, buffer, size, False
                    row = (weights, a, depth, n)
                    _multiply(left, *row, work, at, steps, out, to, stride, left, bias, shift, adding)
                    if not dense:
                        corner = (first_y, first_x, step_y, step_x, out_w)
                        plane = target + r * out_plane
                        scatter(work, buffer, size, n, left, y, plane, out_plane, grid_w, first + p, corner, q0 > 0)
    restore_denormals(state)


def _work_size(dtype):
    size = TILE_VECS * VECTOR_BYTES // itemsize(dtype)
    return _PANELS * _DEPTH * size + TILE_ROWS * size + 64


def _blocks(p, grid):
    """Blocks of at most _PANELS column panels that an image's pixels fall into."""
    size = TILE_VECS * VECTOR_BYTES // itemsize(p.dtype)
    panels = -(-grid.rows * grid.columns // size)
    return -(-panels // _PANELS)


def _run(p, grid, x, weights, b, y, rows, sources, work):
    """One grid of a convolution of x into y; weights are [group][row][source][tap]."""
    pieces = p.n * p.groups * _blocks(p, grid)
    # With few blocks of pixels, several threads gather the same block, each for some of the rows.
    most = max(1, rows // _FEWEST_ROWS)
    team = threads.team(p.flops, pieces * most)
    row_parts = 1 if team == 1 else min(most, -(-8 * team // pieces))
    sizes = conv_taps.sizes(p, grid, rows, sources)
    x, y = x.reshape(-1), y.reshape(-1)
    parallel(_convolve, team, x, weights, b, y, sizes, grid.dy, grid.dx, row_parts, work)


# Flops' worth of time, measured: gathering one piece of a row of at most a vector, in panels and in the weight
# gradient's longer rows; gathering one element without vectors; reading one weight again for another block.
_PIECE_COST = 1150
_LONG_PIECE_COST = 600
_ELEMENT_COST = 100
_WEIGHT_COST = 80


def _gather_cost(p, grid, depth, piece_cost):
    """Flops' worth of time that gathering col takes, for a sum of `depth` terms on one grid."""
    width = VECTOR_BYTES // itemsize(p.dtype)
    if grid.read_x > 2:
        return _ELEMENT_COST * p.n * p.groups * depth * grid.rows * grid.columns
    # A row is cut at vectors and where a column panel ends.
    cuts = -(-grid.columns // width) + grid.columns / (TILE_VECS * width)
    return piece_cost * p.n * p.groups * depth * grid.rows * cuts


def _cost(p, grids, rows, sources):
    filled = -(-rows // TILE_ROWS) * TILE_ROWS / rows
    total = 1.0 * filled * p.flops + 40_000 * len(grids)
    for grid in grids:
        depth = sources * grid.taps.size
        total += _gather_cost(p, grid, depth, _PIECE_COST)
        total += _WEIGHT_COST * p.n * p.groups * _blocks(p, grid) * rows * depth
    return total


def _scratch(p):
    return threads.available() * _work_size(p.dtype)


@kernel(
    "conv2d/im2col/cpu",
    limit=1.0,
    cost=lambda p: _cost(p, [conv_taps.forward_grid(p)], p.og, p.cg),
    scratch=_scratch,
)
def forward(p, x, w, b, y, scratch):
    _run(p, conv_taps.forward_grid(p), x, w.reshape(-1), b, y, p.og, p.cg, scratch)


@kernel(
    "conv2d_grad_input/im2col/cpu",
    limit=1.0,
    cost=lambda p: conv_taps.many_grids_cost(p) or _cost(p, conv_taps.input_gradient_grids(p), p.cg, p.og),
    scratch=lambda p: _scratch(p) + p.o * p.cg * p.kh * p.kw,
)
def grad_input(p, gy, w, gx, scratch):
    transposed, work = scratch[: w.size], scratch[w.size :]
    conv_taps.clear_untouched(p, gx)
    for grid in conv_taps.input_gradient_grids(p):
        conv_taps.transpose(p, grid, w, transposed)
        _run(p, grid, gy, transposed, NO_BIAS[p.dtype], gx, p.cg, p.og, work)


@njit
def _grad_weight(counter, thread, x, gy, partial, sizes, dy, dx, splits, work):
    """partial[split][o][q] for one (split, group, block of q) after another until none is left.

    A split is a fixed share of the images, so that the result does not depend on the number of threads.
    """
    state = flush_denormals()
    images, groups, channels, rows, in_h, in_w, read_y, read_x = sizes[:8]
    grid_h, grid_w = sizes[10], sizes[11]
    width = lanes(x)
    taps = dy.size
    depth = channels * taps
    pixels = grid_h * grid_w
    blocks = (depth + _QS - 1) // _QS
    # Short planes of several images are gathered side by side, each padded to whole vectors.
    chunk = min(_PIXELS, (pixels + width - 1) // width * width)
    together = max(1, _PIXELS // chunk)
    row = together * chunk + width
    columns = thread * (_QS * (_PIXELS + width) + 64)
    tile = zeros(x, LANE_ROWS, LANE_VECS)
    while True:
        piece = take(counter, thread, splits * groups * blocks)
        if piece < 0:
            break
        split, group, q0 = piece // blocks // groups, piece // blocks % groups, piece % blocks * _QS
        qs = min(_QS, depth - q0)
        start, end = split * images // splits, (split + 1) * images // splits
        out = (split * groups + group) * rows * depth + q0
        for o in range(rows):
            for q in range(qs):
                partial[out + o * depth + q] = 0
        for image0 in range(start, end, together):
            several = min(together, end - image0)
            for p0 in range(0, pixels, chunk):
                count = min(chunk, pixels - p0)
                for q in range(qs):
                    channel, tap = (q0 + q) // taps, (q0 + q) % taps
                    for m in range(several):
                        plane = (((image0 + m) * groups + group) * channels + channel) * in_h * in_w
                        gather(
                            x, plane, in_h, in_w, read_y, read_x, dy[tap], dx[tap], grid_w,
                            p0 // grid_w, p0 % grid_w, count, work, columns + q * row + m * chunk,
                        )  # fmt: skip
                for o in range(0, rows, LANE_ROWS):
                    # Rows beyond the last repeat it; their sums are not written.
                    n = min(LANE_ROWS, rows - o)
                    for q in range(0, qs, LANE_VECS):
                        tile = zeros(x, LANE_ROWS, LANE_VECS)
                        for m in range(several):
                            plane = (((image0 + m) * groups + group) * rows + o) * pixels + p0
                            at = columns + q * row + m * chunk
                            for u in range(0, count, width):
                                places = spaced(tile, at + u, row)
                                tile = outer_lanes(tile, gy, plane + u, pixels, n, work, places, count - u)
                        sum_tile_into(tile, partial, out + o * depth + q, depth, 1, n, qs - q)
    restore_denormals(state)


def _splits(p):
    """Shares of the images summed apart, so that threads have work when there are few q's; fixed by the problem."""
    pieces = p.groups * -(-p.cg * p.kh * p.kw // _QS)
    return max(1, min(p.n, 8 // pieces))


def _grad_weight_scratch(p):
    work = _QS * (_PIXELS + VECTOR_BYTES // itemsize(p.dtype)) + 64
    return _splits(p) * p.o * p.cg * p.kh * p.kw + threads.available() * work


def _grad_weight_cost(p):
    depth = p.cg * p.kh * p.kw
    tiles = -(-p.og // LANE_ROWS) * -(-depth // LANE_VECS) * LANE_ROWS * LANE_VECS
    grid = conv_taps.forward_grid(p)
    return 1.2 * p.flops * tiles / (p.og * depth) + _gather_cost(p, grid, depth, _LONG_PIECE_COST) + 60_000


@kernel("conv2d_grad_weight/im2col/cpu", limit=1.0, cost=_grad_weight_cost, scratch=_grad_weight_scratch)
def grad_weight(p, x, gy, gw, scratch):
    grid = conv_taps.forward_grid(p)
    splits = _splits(p)
    partial, work = scratch[: splits * gw.size], scratch[splits * gw.size :]
    sizes = conv_taps.sizes(p, grid, p.og, p.cg)
    pieces = splits * p.groups * -(-p.cg * p.kh * p.kw // _QS)
    team = threads.team(p.flops, pieces)
    parallel(_grad_weight, team, x.reshape(-1), gy.reshape(-1), partial, sizes, grid.dy, grid.dx, splits, work)
    np.sum(partial.reshape(splits, *gw.shape), axis=0, out=gw)
