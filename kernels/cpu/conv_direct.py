"""conv2d/direct: convolution without col, on a padded copy of the source.

    y[o, i, j…] += w[o, c, tap] · copy[c, i, tap, j…]

Every tap of every output reads whole vectors of the copy (conv_copy), so that the inner loop is branch-free. A tile is
TILE_ROWS output channels × up to TILE_VECS vectors; a vector is a piece of one output row.

The weight gradient sums gy[o, i, j…] · copy[c, i, tap, j…] along the lanes, one tile for LANE_ROWS output channels ×
LANE_VECS (channel, tap)s over all images. Supports every problem; loses lanes where rows are short of whole vectors.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fastconv import threads
from fastconv.kernels.cpu import conv_copy, conv_taps
from fastconv.kernels.cpu.conv_taps import scatter
from fastconv.kernels.cpu.epilogue import code_of, finish
from fastconv.kernels.cpu.gemm import NO_BIAS, by_vectors
from fastconv.kernels.cpu.host import LANE_ROWS, LANE_VECS, TILE_ROWS, TILE_VECS, VECTOR_BYTES
from fastconv.kernels.cpu.jit import inner, njit
from fastconv.kernels.cpu.simd import flush_denormals, item, lanes, restore_denormals
from fastconv.kernels.cpu.team import parallel, take
from fastconv.kernels.cpu.tiles import (
    add_rows,
    listed,
    outer,
    outer_lanes,
    prefetch_tile,
    row_offsets,
    shifted,
    store_tile,
    sum_tile_into,
    zeros,
)
from fastconv.problem import itemsize
from fastconv.registry import kernel

# Vector tiles of one row panel that make a piece of work.
_TILES = 16


# Few, because an entry is as large as the vectors of an output plane are many.
@lru_cache(maxsize=64)
def _vectors(p, grid, copy):
    """Offsets of the grid's vectors in a channel of the copy, and in the output, and their lengths."""
    width = VECTOR_BYTES // itemsize(p.dtype)
    starts = np.arange(0, grid.columns, width)
    reads = (np.arange(grid.rows)[:, None] * grid.read_y * copy.row + starts).reshape(-1)
    writes = (np.arange(grid.rows)[:, None] * grid.columns + starts).reshape(-1)
    lengths = np.tile(np.minimum(grid.columns - starts, width), grid.rows)
    return tuple(np.asarray(values, np.int64) for values in (reads, writes, lengths))


def _make_compute(vecs):
    @inner
    def compute(a, ai, n, x, at, plane, sources, taps, reads, first, writes, lengths, y, yi, y_stride, bias, bias_at):
        """Write y's tile: n rows × `vecs` vectors of outputs from number `first` on, plus bias[bias_at + row]."""
        tile = zeros(x, TILE_ROWS, vecs)
        rows = row_offsets(tile, n, sources * taps.size)
        prefetch_tile(tile, y, shifted(listed(tile, writes, first), yi), y_stride, n)
        places = shifted(listed(tile, reads, first), at)
        for source in range(sources):
            for t in range(taps.size):
                tile = outer(tile, a, ai, rows, x, shifted(places, source * plane + item(taps, t)))
                ai += 1
        if bias_at >= 0:
            tile = add_rows(tile, bias, bias_at, n)
        store_tile(tile, y, shifted(listed(tile, writes, first), yi), listed(tile, lengths, first), y_stride, n, False)

    return compute


_compute = by_vectors(_make_compute)


@njit
def _convolve(
    counter,
    thread,
    copies,
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
    reads,
    writes,
    lengths,
    work,
):
    """Compute one (image, group, row panel, run of tiles) after another until none is left."""
    state = flush_denormals()
    groups, sources, rows = sizes[1], sizes[2], sizes[3]
    out_h, out_w, _, grid_w, first_y, first_x, step_y, step_x = sizes[8:]
    image_size = groups * sources * plane
    width = lanes(copies)
    vectors = reads.size
    run = TILE_VECS * _TILES
    runs = (vectors + run - 1) // run
    panels = (rows + TILE_ROWS - 1) // TILE_ROWS
    depth = sources * taps.size
    out_plane = out_h * out_w
    dense = step_y == 1 and step_x == 1
    # A sparse grid's tiles pass through a buffer that holds them as a dense grid of one run.
    buffer_stride = run * width
    buffer = thread * (TILE_ROWS * buffer_stride + 64)
    while True:
        piece = take(counter, thread, several * groups * panels * runs)
        if piece < 0:
            break
        image, rest = piece // (groups * panels * runs), piece % (groups * panels * runs)
        group, panel, first = rest // (panels * runs), rest // runs % panels, rest % runs * run
        r = panel * TILE_ROWS
        n = min(TILE_ROWS, rows - r)
        a = (group * rows + r) * depth
        at = image * image_size + group * sources * plane
        shift = group * rows + r if bias.size else -1
        target = (((image0 + image) * groups + group) * rows + r) * out_plane
        end = min(first + run, vectors)
        v = first
        while v < end:
            if dense:
                out, to, step = y, target, out_plane
            else:
                out, to, step = work, buffer - writes[first], buffer_stride
            row = (weights, a, n)
            place = (reads, v, writes, lengths, out, to, step)
            _compute((end - v) * width, *row, copies, at, plane, sources, taps, *place, bias, shift)
            v += TILE_VECS
        if not dense:
            start = writes[first]
            pixels = writes[end - 1] + lengths[end - 1] - start
            corner = (first_y, first_x, step_y, step_x, out_w)
            scatter(work, buffer, buffer_stride, n, pixels, y, target, out_plane, grid_w, start, corner, False)
        if code or z.size:
            start = writes[first]
            pixels = writes[end - 1] + lengths[end - 1] - start
            for o in range(n):
                finish(y, target + o * out_plane + start, pixels, z, code)
    restore_denormals(state)


def _buffer_size(p):
    return TILE_ROWS * TILE_VECS * _TILES * (VECTOR_BYTES // itemsize(p.dtype)) + 64


def _copies_size(p, grids, channels):
    return max((conv_copy.of(p, grid, channels, True).elements for grid in grids), default=0)


def _run(p, grid, x, weights, b, z, y, rows, sources, scratch):
    """One grid of a convolution of x into y; weights are [group][row][source][tap]."""
    copy = conv_copy.of(p, grid, p.groups * sources, True)
    copies, work = scratch[: copy.elements], scratch[copy.elements :]
    team = threads.team(p.flops, p.n * p.groups * -(-rows // TILE_ROWS) * -(-grid.rows * grid.columns // 64))
    x, y = x.reshape(-1), y.reshape(-1)
    sizes = conv_taps.sizes(p, grid, rows, sources)
    for image in range(0, p.n, copy.several):
        count = min(copy.several, p.n - image)
        conv_copy.write(copy, team, x, image, count, grid, copies)
        args = (sizes, copy.plane, image, count, copy.taps, *_vectors(p, grid, copy), work)
        parallel(_convolve, team, copies, weights, b, z.reshape(-1), code_of(p), y, *args)


# Flops' worth of time, measured: beginning and storing a tile, a tile's going on to the next source channel, and
# writing an element of a grid that is not dense.
_TILE_COST = 10_000
_CHANNEL_COST = 500
_SCATTER_COST = 60


def _cost(p, grids, channels, rows):
    width = VECTOR_BYTES // itemsize(p.dtype)
    panels = -(-rows // TILE_ROWS)
    total = 0.0
    for grid in grids:
        vectors = grid.rows * -(-grid.columns // width)
        tiles = p.n * p.groups * panels * -(-vectors // TILE_VECS)
        sources = channels // p.groups
        total += 2.08 * tiles * TILE_ROWS * TILE_VECS * width * sources * grid.taps.size
        total += tiles * (_TILE_COST + _CHANNEL_COST * sources)
        total += conv_copy.cost(p, conv_copy.of(p, grid, channels, True)) + 60_000
        if not grid.dense:
            total += _SCATTER_COST * p.n * p.groups * rows * grid.rows * grid.columns
    return total


def _forward_scratch(p):
    return _copies_size(p, [conv_taps.forward_grid(p)], p.c) + threads.available() * _buffer_size(p)


def _grad_input_scratch(p):
    weights = p.o * p.cg * p.kh * p.kw
    return weights + _copies_size(p, conv_taps.input_gradient_grids(p), p.o) + threads.available() * _buffer_size(p)


@kernel(
    "conv2d/direct/cpu",
    limit=1.0,
    cost=lambda p: _cost(p, [conv_taps.forward_grid(p)], p.c, p.og),
    scratch=_forward_scratch,
)
def forward(p, x, w, b, z, y, scratch):
    _run(p, conv_taps.forward_grid(p), x, w.reshape(-1), b, z, y, p.og, p.cg, scratch)


@kernel(
    "conv2d_grad_input/direct/cpu",
    limit=1.0,
    cost=lambda p: conv_taps.many_grids_cost(p) or _cost(p, conv_taps.input_gradient_grids(p), p.o, p.cg),
    scratch=_grad_input_scratch,
)
def grad_input(p, gy, w, gx, scratch):
    transposed, work = scratch[: w.size], scratch[w.size :]
    conv_taps.clear_untouched(p, gx)
    none = NO_BIAS[p.dtype]
    for grid in conv_taps.input_gradient_grids(p):
        conv_taps.transpose(p, grid, w, transposed)
        _run(p, grid, gy, transposed, none, none, gx, p.cg, p.og, work)


@njit
def _grad_weight(counter, thread, copies, gy, gw, sizes, plane, image0, several, places, reads, writes, lengths):
    """gw[o, q] += its sum over `several` images, for one (group, LANE_ROWS o's, LANE_VECS q's) after another."""
    state = flush_denormals()
    groups, sources, rows = sizes[1], sizes[2], sizes[3]
    image_size = groups * sources * plane
    pixels = sizes[10] * sizes[11]
    depth = gw.size // (groups * rows)
    row_blocks = (rows + LANE_ROWS - 1) // LANE_ROWS
    q_blocks = (depth + LANE_VECS - 1) // LANE_VECS
    while True:
        piece = take(counter, thread, groups * row_blocks * q_blocks)
        if piece < 0:
            break
        group, rest = piece // (row_blocks * q_blocks), piece % (row_blocks * q_blocks)
        # Neighbouring pieces share their rows of gy.
        o, q = rest // q_blocks * LANE_ROWS, rest % q_blocks * LANE_VECS
        n = min(LANE_ROWS, rows - o)
        tile = zeros(gy, LANE_ROWS, LANE_VECS)
        offsets = listed(tile, places, q)
        for image in range(several):
            at = image * image_size + group * sources * plane
            row = (((image0 + image) * groups + group) * rows + o) * pixels
            here = shifted(offsets, at)
            for v in range(reads.size):
                tile = outer_lanes(
                    tile, gy, row + item(writes, v), pixels, n, copies, shifted(here, item(reads, v)), item(lengths, v)
                )  # fmt: skip
        sum_tile_into(tile, gw, (group * rows + o) * depth + q, depth, 1, n, depth - q)
    restore_denormals(state)


@lru_cache(maxsize=1024)
def _places(p):
    """Where each q = (channel, tap) of a group stands in the copy, padded with the last to whole tiles."""
    copy = conv_copy.of(p, conv_taps.forward_grid(p), p.c, True)
    places = (np.arange(p.cg)[:, None] * copy.plane + copy.taps).reshape(-1)
    return np.append(places, np.repeat(places[-1:], LANE_VECS))


def _grad_weight_scratch(p):
    return conv_copy.of(p, conv_taps.forward_grid(p), p.c, True).elements


def _grad_weight_cost(p):
    width = VECTOR_BYTES // itemsize(p.dtype)
    tiles = p.groups * -(-p.og // LANE_ROWS) * -(-p.cg * p.kh * p.kw // LANE_VECS)
    whole, part = p.ow // width, p.ow % width > 0
    # A step on part of a vector costs half as much again, for its masks.
    steps = p.n * p.oh * (1.15 * whole + 1.75 * part)
    copy = conv_copy.of(p, conv_taps.forward_grid(p), p.c, True)
    return 2.0 * tiles * LANE_ROWS * LANE_VECS * width * steps + conv_copy.cost(p, copy) + 60_000


@kernel("conv2d_grad_weight/direct/cpu", limit=1.0, cost=_grad_weight_cost, scratch=_grad_weight_scratch)
def grad_weight(p, x, gy, gw, scratch):
    grid = conv_taps.forward_grid(p)
    copy = conv_copy.of(p, grid, p.c, True)
    pieces = p.groups * -(-p.og // LANE_ROWS) * -(-p.cg * p.kh * p.kw // LANE_VECS)
    team = threads.team(p.flops, pieces)
    sizes = conv_taps.sizes(p, grid, p.og, p.cg)
    gw[:] = 0
    x, gy, flat = x.reshape(-1), gy.reshape(-1), gw.reshape(-1)
    for image in range(0, p.n, copy.several):
        count = min(copy.several, p.n - image)
        conv_copy.write(copy, team, x, image, count, grid, scratch)
        args = (sizes, copy.plane, image, count, _places(p), *_vectors(p, grid, copy))
        parallel(_grad_weight, team, scratch, gy, flat, *args)
