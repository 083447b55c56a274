"""conv2d/im2col: convolution as a matrix product whose columns are gathered panel by panel, never as a whole.

    y[o, pixel] = Σ_q w[o, q] · col[q, pixel],   q = (channel, tap),   col[q, pixel] = the source element tap reads

A piece of work is a few column panels of one image and group: gather a block of col, multiply it with every row panel
of the packed weights. The input gradient is the same sum on other grids (conv_taps); the weight gradient is

    gw[o, q] = Σ_pixel gy[o, pixel] · col[q, pixel]

with the reduction along the lanes, so that gy is read as it lies. Supports every problem.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fastconv import threads
from fastconv.kernels.cpu import conv_copy, conv_taps
from fastconv.kernels.cpu.conv_copy import flat
from fastconv.kernels.cpu.conv_taps import scatter
from fastconv.kernels.cpu.epilogue import code_of, finish
from fastconv.kernels.cpu.gemm import NO_BIAS, by_vectors, make_tile_product
from fastconv.kernels.cpu.host import LANE_ROWS, LANE_VECS, TILE_ROWS, TILE_VECS, VECTOR_BYTES
from fastconv.kernels.cpu.jit import inner, njit
from fastconv.kernels.cpu.simd import (
    even_lanes,
    flush_denormals,
    item,
    lanes,
    load,
    load_first,
    load_range,
    restore_denormals,
    store,
)
from fastconv.kernels.cpu.team import parallel, take
from fastconv.kernels.cpu.tiles import (
    add_rows,
    outer_lanes,
    prefetch_tile,
    shares,
    spaced,
    store_tile,
    sum_tile_into,
    zeros,
)
from fastconv.problem import itemsize
from fastconv.registry import kernel

# Reduction steps gathered at a time, and column panels a piece of work: the block, about 300 KiB, stays in L2.
_DEPTH = 384
_PANELS = 4
# Rows of a panel in memory: the last one's last piece may go beyond it.
_SPAN = _DEPTH + 1
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
        start = zeros(b, TILE_ROWS, vecs)
        prefetch_tile(start, y, spaced(start, yi, lanes(b)), y_stride, rows)
        tile = tile_product(a, ai, a_row, 1, rows, b, bi, depth)
        if bias_at >= 0:
            tile = add_rows(tile, bias, bias_at, rows)
        store_tile(tile, y, spaced(tile, yi, lanes(b)), shares(tile, pixels), y_stride, rows, accumulate)

    return multiply


_multiply = by_vectors(_make_multiply)


# Few, because an entry is as large as the vectors of an output plane are many.
@lru_cache(maxsize=64)
def _pieces(p, grid, copy):
    """How column panels are gathered: (first piece of each panel, offsets in a channel of the copy, and in the panels).

    A piece is at most a vector of one row of the grid. Pieces are in order, and each is copied as a whole vector: what
    is too much is written over by the next.
    """
    width = VECTOR_BYTES // itemsize(p.dtype)
    size, pixels = TILE_VECS * width, grid.rows * grid.columns
    cuts = np.union1d(np.arange(0, pixels, size), np.arange(0, pixels, grid.columns))
    lengths = np.diff(np.append(cuts, pixels))
    counts = -(-lengths // width)
    runs = np.repeat(np.arange(cuts.size), counts)
    starts = cuts[runs] + (np.arange(runs.size) - np.repeat(np.cumsum(counts) - counts, counts)) * width
    reads = starts // grid.columns * grid.read_y * copy.row + starts % grid.columns
    first = np.searchsorted(starts, np.arange(0, pixels + size, size))
    places = starts // size * (_SPAN * size) + starts % size
    return tuple(np.asarray(values, np.int64) for values in (first, reads, places))


@njit
def _convolve(
    counter,
    thread,
    x,
    weights,
    bias,
    z,
    code,
    y,
    sizes,
    plane,
    image0,
    several,
    taps,
    firsts,
    reads,
    places,
    row_parts,
    work,
):
    """Gather and multiply one piece after another until none is left; `work` is split among the threads."""
    state = flush_denormals()
    groups, sources, rows = sizes[1:4]
    out_h, out_w, grid_h, grid_w, first_y, first_x, step_y, step_x = sizes[8:]
    width = lanes(x)
    size = TILE_VECS * width
    depth = sources * taps.size
    pixels = grid_h * grid_w
    column_panels = (pixels + size - 1) // size
    blocks = (column_panels + _PANELS - 1) // _PANELS
    block = (column_panels + blocks - 1) // blocks * size
    panels = (rows + TILE_ROWS - 1) // TILE_ROWS
    out_plane = out_h * out_w
    dense = step_y == 1 and step_x == 1
    columns = thread * (_PANELS * _SPAN * size + TILE_ROWS * size + 64)
    buffer = columns + _PANELS * _SPAN * size + 32
    while True:
        piece = take(counter, thread, several * groups * blocks * row_parts)
        if piece < 0:
            break
        part, rest = piece % row_parts, piece // row_parts
        image, group, first = rest // blocks // groups, rest // blocks % groups, rest % blocks * block
        count = min(block, pixels - first)
        source = (image * groups + group) * sources * plane
        target = ((image0 + image) * groups + group) * rows * out_plane
        for q0 in range(0, depth, _DEPTH):
            steps = min(_DEPTH, depth - q0)
            # All panels of a block together, so that the source is read in long runs.
            start, end = firsts[first // size], firsts[(first + count + size - 1) // size]
            at = columns - first * _SPAN
            channel, tap = q0 // taps.size, q0 % taps.size
            # A source read as it lies may end with the last vector's first elements.
            last = source + (sources - 1) * plane + max(taps[0], taps[-1])
            whole = last + reads[end - 1] + width <= x.size
            for _ in range(steps):
                base = source + channel * plane + item(taps, tap)
                if whole:
                    for k in range(start, end):
                        store(work, at + item(places, k), load(x, base + item(reads, k)))
                else:
                    for k in range(start, end):
                        here = base + item(reads, k)
                        store(work, at + item(places, k), load_first(x, here, x.size - here))
                at += size
                tap += 1
                if tap == taps.size:
                    channel, tap = channel + 1, 0
            for panel in range(panels * part // row_parts, panels * (part + 1) // row_parts):
                r = panel * TILE_ROWS
                n = min(TILE_ROWS, rows - r)
                a = (group * rows + r) * depth + q0
                shift = group * rows + r if bias.size and q0 == 0 else -1
                for p in range(0, count, size):
                    left = min(size, count - p)
                    at = columns + p * _SPAN
                    if dense:
                        out, to, stride, adding = y, target + r * out_plane + first + p, out_plane, q0 > 0
                    else:
                        out, to, stride, adding = work, buffer, size, False
                    row = (weights, a, depth, n)
                    _multiply(left, *row, work, at, steps, out, to, stride, left, bias, shift, adding)
                    if not dense:
                        corner = (first_y, first_x, step_y, step_x, out_w)
                        of_y = target + r * out_plane
                        scatter(work, buffer, size, n, left, y, of_y, out_plane, grid_w, first + p, corner, q0 > 0)
                if q0 + steps == depth and (code or z.size):
                    for o in range(r, r + n):
                        finish(y, target + o * out_plane + first, count, z, code)
    restore_denormals(state)


def _work_size(dtype):
    size = TILE_VECS * VECTOR_BYTES // itemsize(dtype)
    return _PANELS * _SPAN * size + TILE_ROWS * size + 64


def _blocks(p, grid):
    """Blocks of at most _PANELS column panels that an image's pixels fall into."""
    size = TILE_VECS * VECTOR_BYTES // itemsize(p.dtype)
    panels = -(-grid.rows * grid.columns // size)
    return -(-panels // _PANELS)


def _run(p, grid, x, weights, b, z, y, rows, sources, scratch):
    """One grid of a convolution of x into y; weights are [group][row][source][tap]."""
    grid = flat(grid)
    copy = conv_copy.of(p, grid, p.groups * sources)
    copies, work = scratch[: copy.elements], scratch[copy.elements :]
    x, y = x.reshape(-1), y.reshape(-1)
    sizes = conv_taps.sizes(p, grid, rows, sources)
    for image in range(0, p.n, copy.several):
        count = min(copy.several, p.n - image)
        pieces = count * p.groups * _blocks(p, grid)
        # With few blocks of pixels, several threads gather the same block, each for some of the rows.
        most = max(1, rows // _FEWEST_ROWS)
        team = threads.team(p.flops, pieces * most)
        row_parts = 1 if team == 1 else min(most, -(-8 * team // pieces))
        if copy.needed:
            conv_copy.write(copy, team, x, image, count, grid, copies)
        args = (sizes, copy.plane, image, count, copy.taps, *_pieces(p, grid, copy), row_parts, work)
        parallel(_convolve, team, copies if copy.needed else x, weights, b, z.reshape(-1), code_of(p), y, *args)


# Flops' worth of time, measured: gathering one piece, one row of a column panel apart from its pieces, beginning and
# storing a tile, and reading one weight again for another block.
_PIECE_COST = 80
_ROW_COST = 150
_TILE_COST = 9_000
_WEIGHT_COST = 10


def _cost(p, grids, rows, sources):
    width = VECTOR_BYTES // itemsize(p.dtype)
    row_panels = -(-rows // TILE_ROWS)
    total = 0.0
    for grid in map(flat, grids):
        depth, pixels = sources * grid.taps.size, grid.rows * grid.columns
        panels = -(-pixels // (TILE_VECS * width))
        # A row is cut at vectors and where a column panel ends.
        pieces = grid.rows * (-(-grid.columns // width) + grid.columns / (TILE_VECS * width))
        vectors = -(-pixels // width)
        work = 2.0 * vectors * width * row_panels * TILE_ROWS * depth * 1.03
        work += depth * (_PIECE_COST * pieces + _ROW_COST * panels + _WEIGHT_COST * _blocks(p, grid) * rows)
        work += _TILE_COST * panels * row_panels * -(-depth // _DEPTH)
        total += p.n * p.groups * work + conv_copy.cost(p, conv_copy.of(p, grid, p.groups * sources)) + 60_000
        if not grid.dense:
            total += _SCATTER_COST * p.n * p.groups * rows * pixels
    return total


# Writing an element of a grid that is not dense.
_SCATTER_COST = 60


def _scratch(p, grids, channels):
    copies = max((conv_copy.of(p, flat(grid), channels).elements for grid in grids), default=0)
    return copies + threads.available() * _work_size(p.dtype)


@kernel(
    "conv2d/im2col/cpu",
    limit=1.0,
    cost=lambda p: _cost(p, [conv_taps.forward_grid(p)], p.og, p.cg),
    scratch=lambda p: _scratch(p, [conv_taps.forward_grid(p)], p.c),
)
def forward(p, x, w, b, z, y, scratch):
    _run(p, conv_taps.forward_grid(p), x, w.reshape(-1), b, z, y, p.og, p.cg, scratch)


@kernel(
    "conv2d_grad_input/im2col/cpu",
    limit=1.0,
    cost=lambda p: conv_taps.many_grids_cost(p) or _cost(p, conv_taps.input_gradient_grids(p), p.cg, p.og),
    scratch=lambda p: _scratch(p, conv_taps.input_gradient_grids(p), p.o) + p.o * p.cg * p.kh * p.kw,
)
def grad_input(p, gy, w, gx, scratch):
    transposed, work = scratch[: w.size], scratch[w.size :]
    conv_taps.clear_untouched(p, gx)
    none = NO_BIAS[p.dtype]
    for grid in conv_taps.input_gradient_grids(p):
        conv_taps.transpose(p, grid, w, transposed)
        _run(p, grid, gy, transposed, none, none, gx, p.cg, p.og, work)


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


# The same for the weight gradient's gathering: a piece of at most a vector, an element without vectors; and for summing
# the lanes of a tile.
_LONG_PIECE_COST = 600
_ELEMENT_COST = 100
_SUM_COST = 6_000


def _gather_cost(p, grid, depth):
    """Flops' worth of time that gathering col takes for the weight gradient."""
    width = VECTOR_BYTES // itemsize(p.dtype)
    if grid.read_x > 2:
        return _ELEMENT_COST * p.n * p.groups * depth * grid.rows * grid.columns
    return _LONG_PIECE_COST * p.n * p.groups * depth * grid.rows * (-(-grid.columns // width) + 1 / 3)


def _splits(p):
    """Shares of the images summed apart, so that threads have work when there are few q's; fixed by the problem."""
    pieces = p.groups * -(-p.cg * p.kh * p.kw // _QS)
    return max(1, min(p.n, 8 // pieces))


def _grad_weight_scratch(p):
    work = _QS * (_PIXELS + VECTOR_BYTES // itemsize(p.dtype)) + 64
    return _splits(p) * p.o * p.cg * p.kh * p.kw + threads.available() * work


def _grad_weight_cost(p):
    depth, pixels = p.cg * p.kh * p.kw, p.oh * p.ow
    width = VECTOR_BYTES // itemsize(p.dtype)
    tiles = p.groups * -(-p.og // LANE_ROWS) * -(-depth // LANE_VECS)
    padded = -(-pixels // width) * width
    together = max(1, _PIXELS // max(1, padded))
    multiply = 2.4 * tiles * LANE_ROWS * LANE_VECS * p.n * padded
    sums = _SUM_COST * tiles * -(-p.n // together) * -(-pixels // _PIXELS)
    return multiply + sums + _gather_cost(p, conv_taps.forward_grid(p), depth) + 60_000


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
