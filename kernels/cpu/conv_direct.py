"""conv2d/direct: convolution without col, on a padded copy of the source.

    y[o, i, j…] += w[o, c, tap] · copy[c, i, tap, j…]

The copy carries its zero padding and, where the source is read with step s along a row, keeps the s remainders of the
column apart: every tap of every output then reads whole vectors, and the inner loop is branch-free. A tile is
TILE_ROWS output channels × up to TILE_VECS vectors; a vector is a piece of one output row.

The weight gradient sums gy[o, i, j…] · copy[c, i, tap, j…] along the lanes, one tile for LANE_ROWS output channels ×
LANE_VECS (channel, tap)s over all images. Supports every problem; loses lanes where rows are short of whole vectors.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from fastconv.kernels.cpu import conv_taps
from fastconv.kernels.cpu.conv_taps import pack_weights, packed_weight_size, scatter, weight_panel
from fastconv.kernels.cpu.host import LANE_ROWS, LANE_VECS, TILE_ROWS, TILE_VECS, VECTOR_BYTES
from fastconv.kernels.cpu.jit import inner, njit, parallel
from fastconv.kernels.cpu.simd import (
    add_rows,
    flush_denormals,
    lanes,
    listed,
    load_first,
    outer,
    outer_lanes,
    restore_denormals,
    shifted,
    store_first,
    store_tile,
    sum_tile_into,
    take,
    zeros,
)

from fastconv import threads
from fastconv.problem import itemsize
from fastconv.registry import kernel

# Bytes of padded copies made at a time: as many images as fit, at least one.
_COPY_BYTES = 4 * 2**20
# Vector tiles of one row panel that make a piece of work.
_TILES = 16


@lru_cache(maxsize=1024)
def _layout(p, grid, channels):
    """Sizes of the padded copy of one image, and where taps and vectors of outputs stand in it.

    The copy is [channel][row][remainder of the column][column // step], rows and columns counted from the first tap's.
    Returns (int64 sizes, tap offsets, offsets of the grid's vectors in a channel, and in the output, their lengths).
    """
    width = VECTOR_BYTES // itemsize(p.dtype)
    step = grid.read_x
    top, left = int(grid.dy.min()), int(grid.dx.min())
    height = (grid.rows - 1) * grid.read_y + int(grid.dy.max()) - top + 1
    span = (grid.columns - 1) * step + int(grid.dx.max()) - left + 1
    # A vector that begins at a row's last output reads up to width − 1 columns more.
    line = -(-span // step) + width
    line = -(-line // width) * width
    row = step * line
    dx = grid.dx - left
    taps = (grid.dy - top) * row + dx % step * line + dx // step
    starts = np.arange(0, grid.columns, width)
    reads = (np.arange(grid.rows)[:, None] * grid.read_y * row + starts).reshape(-1)
    writes = (np.arange(grid.rows)[:, None] * grid.columns + starts).reshape(-1)
    lengths = np.tile(np.minimum(grid.columns - starts, width), grid.rows)
    shape = np.array([channels, height, line, top, left, step, channels * height * row], np.int64)
    return shape, taps.astype(np.int64), reads.astype(np.int64), writes.astype(np.int64), lengths.astype(np.int64)


@njit
def _copy(counter, thread, x, shape, image0, images, in_h, in_w, copies):
    """Write the padded copies of `images` images from image0 on, one channel a piece."""
    state = flush_denormals()
    channels, height, line, top, left, step, size = shape
    width = lanes(x)
    zero = x.dtype.type(0)
    while True:
        piece = take(counter)
        if piece >= images * channels:
            break
        image, channel = piece // channels, piece % channels
        plane = ((image0 + image) * channels + channel) * in_h * in_w
        at = image * size + channel * height * step * line
        for r in range(height):
            y = top + r
            for f in range(step):
                row = at + (r * step + f) * line
                # Copy column u is source column left + f + u·step; low <= u < high lie inside.
                low = min(line, max(0, (step - 1 - left - f) // step))
                high = max(low, min(line, (in_w - 1 - left - f) // step + 1))
                if y < 0 or y >= in_h:
                    low = high = line
                for u in range(low):
                    copies[row + u] = zero
                source = plane + y * in_w + left + f
                if step == 1:
                    for u in range(low, high, width):
                        store_first(copies, row + u, load_first(x, source + u, high - u), high - u)
                else:
                    for u in range(low, high):
                        copies[row + u] = x[source + u * step]
                for u in range(high, line):
                    copies[row + u] = zero
    restore_denormals(state)


def _make_tile(vecs):
    @inner
    def tile_of(a, ai, x, at, plane, sources, taps, reads, first):
        """The tile Σ_{source, tap} a.flat[ai …] · copy, for `vecs` vectors of outputs from number `first` on."""
        tile = zeros(x, TILE_ROWS, vecs)
        places = shifted(listed(tile, reads, first), at)
        for source in range(sources):
            for t in range(taps.size):
                tile = outer(tile, a, ai, x, shifted(places, source * plane + taps[t]))
                ai += TILE_ROWS
        return tile

    @inner
    def compute(
        a, ai, x, at, plane, sources, taps, reads, first, writes, lengths, y, yi, y_stride, rows, bias, bias_at
    ):
        """Write y's tile: rows × the vectors from number `first` on, plus bias[bias_at + row]."""
        tile = tile_of(a, ai, x, at, plane, sources, taps, reads, first)
        if bias_at >= 0:
            tile = add_rows(tile, bias, bias_at, rows)
        places = shifted(listed(tile, writes, first), yi)
        store_tile(tile, y, places, listed(tile, lengths, first), y_stride, rows, False)

    return compute


_compute1, _compute2, _compute3 = (_make_tile(vecs) for vecs in (1, 2, 3))


@njit
def _convolve(counter, thread, copies, packed, bias, y, sizes, shape, image0, several, taps, reads, writes, lengths, work):
    """Compute one (image, group, row panel, run of tiles) after another until none is left."""
    state = flush_denormals()
    groups, sources, rows = sizes[1], sizes[2], sizes[3]
    out_h, out_w, grid_h, grid_w, first_y, first_x, step_y, step_x = sizes[8:]
    image_size = shape[6]
    plane = image_size // shape[0]
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
        piece = take(counter)
        if piece >= several * groups * panels * runs:
            break
        image, rest = piece // (groups * panels * runs), piece % (groups * panels * runs)
        group, panel, first = rest // (panels * runs), rest // runs % panels, rest % runs * run
        r = panel * TILE_ROWS
        n = min(TILE_ROWS, rows - r)
        a = weight_panel(group, panel, rows, depth)
        at = image * image_size + group * sources * plane
        shift = group * rows + r if bias.size else -1
        target = (((image0 + image) * groups + group) * rows + r) * out_plane
        end = min(first + run, vectors)
        v = first
        while v < end:
            if dense:
                out, to, stride = y, target, out_plane
            else:
                out, to, stride = work, buffer - writes[first], buffer_stride
            if TILE_VECS == 3 and end - v > 2:
                _compute3(
                    packed, a, copies, at, plane, sources, taps, reads, v, writes, lengths, out, to, stride, n, bias, shift
                )
                v += 3
            elif end - v > 1:
                _compute2(
                    packed, a, copies, at, plane, sources, taps, reads, v, writes, lengths, out, to, stride, n, bias, shift
                )
                v += 2
            else:
                _compute1(
                    packed, a, copies, at, plane, sources, taps, reads, v, writes, lengths, out, to, stride, n, bias, shift
                )
                v += 1
        if not dense:
            start = writes[first]
            pixels = writes[end - 1] + lengths[end - 1] - start
            corner = (first_y, first_x, step_y, step_x, out_w)
            scatter(work, buffer, buffer_stride, n, pixels, y, target, out_plane, grid_w, start, corner, False)
    restore_denormals(state)


def _image_copies(p, grid, channels):
    """How many images' padded copies are made at a time, and the elements of one."""
    size = int(_layout(p, grid, channels)[0][6])
    return max(1, min(p.n, _COPY_BYTES // (size * itemsize(p.dtype)))), size


def _buffer_size(p):
    return TILE_ROWS * TILE_VECS * _TILES * (VECTOR_BYTES // itemsize(p.dtype)) + 64


def _scratch(p, grids, channels, rows, sources):
    copies = max((several * size for several, size in (_image_copies(p, g, channels) for g in grids)), default=0)
    packed = packed_weight_size(p.groups, rows, sources * p.kh * p.kw)
    return packed + -(-copies // 16) * 16 + threads.get_num_threads() * _buffer_size(p)


def _run(p, grid, x, w, b, y, rows, sources, strides, scratch):
    """One grid of a convolution of x with w into y; rows and sources are channels of a group."""
    channels = p.groups * sources
    several, size = _image_copies(p, grid, channels)
    ends = np.cumsum([packed_weight_size(p.groups, rows, sources * grid.taps.size), -(-several * size // 16) * 16])
    packed, copies, work = scratch[: ends[0]], scratch[ends[0] : ends[1]], scratch[ends[1] :]
    team = threads.team(p.flops, p.n * p.groups * -(-rows // TILE_ROWS) * -(-grid.rows * grid.columns // 64))
    x, w, y = x.reshape(-1), w.reshape(-1), y.reshape(-1)
    shape, taps, reads, writes, lengths = _layout(p, grid, channels)
    sizes = conv_taps.sizes(p, grid, rows, sources)
    parallel(pack_weights, team, w, grid.taps, p.groups, rows, sources, *strides, p.kh * p.kw, packed)
    for image in range(0, p.n, several):
        count = min(several, p.n - image)
        parallel(_copy, team, x, shape, image, count, grid.in_h, grid.in_w, copies)
        parallel(
            _convolve, team, copies, packed, b, y, sizes, shape, image, count, taps, reads, writes, lengths, work
        )  # fmt: skip


def _lane_share(columns, dtype):
    """How much of its vectors a row of outputs fills."""
    width = VECTOR_BYTES // itemsize(dtype)
    return columns / (-(-columns // width) * width)


def _forward_cost(p):
    rows = -(-p.og // TILE_ROWS) * TILE_ROWS
    return p.flops * (rows / p.og) / _lane_share(p.ow, p.dtype) * 1.05 + 12 * p.n * p.c * p.h * p.w + 40_000


def _grad_input_cost(p):
    rows = -(-p.cg // TILE_ROWS) * TILE_ROWS
    columns = -(-p.w // p.stride[1])
    scattered = 0 if p.stride == (1, 1) else 40 * p.n * p.c * p.h * p.w
    work = p.flops * (rows / p.cg) / _lane_share(columns, p.dtype) * 1.05
    return work + 12 * p.n * p.o * p.oh * p.ow + scattered + 40_000 * p.stride[0] * p.stride[1]


@kernel(
    "conv2d/direct/cpu",
    limit=2.0,
    cost=_forward_cost,
    scratch=lambda p: _scratch(p, [conv_taps.forward_grid(p)], p.c, p.og, p.cg),
)
def forward(p, x, w, b, y, scratch):
    taps = p.kh * p.kw
    _run(p, conv_taps.forward_grid(p), x, w, b, y, p.og, p.cg, (p.cg * taps, taps), scratch)


def _gradient_grids(p):
    return [grid for grid in conv_taps.input_gradient_grids(p) if grid.taps.size]


@kernel(
    "conv2d_grad_input/direct/cpu",
    limit=2.0,
    cost=_grad_input_cost,
    scratch=lambda p: _scratch(p, _gradient_grids(p), p.o, p.cg, p.og),
)
def grad_input(p, gy, w, gx, scratch):
    taps = p.kh * p.kw
    none = np.empty(0, gx.dtype)
    for grid in conv_taps.input_gradient_grids(p):
        if grid.taps.size:
            _run(p, grid, gy, w, none, gx, p.cg, p.og, (taps, p.cg * taps), scratch)
        else:
            gx[:, :, grid.first_y :: grid.step_y, grid.first_x :: grid.step_x] = 0


@njit
def _grad_weight(counter, thread, copies, gy, gw, sizes, shape, image0, several, places, reads, writes, lengths):
    """gw[o, q] += its sum over `several` images, for one (group, LANE_ROWS o's, LANE_VECS q's) after another."""
    state = flush_denormals()
    groups, sources, rows = sizes[1], sizes[2], sizes[3]
    image_size = shape[6]
    pixels = sizes[10] * sizes[11]
    depth = gw.size // (groups * rows)
    row_blocks = (rows + LANE_ROWS - 1) // LANE_ROWS
    q_blocks = (depth + LANE_VECS - 1) // LANE_VECS
    while True:
        piece = take(counter)
        if piece >= groups * row_blocks * q_blocks:
            break
        group, rest = piece // (row_blocks * q_blocks), piece % (row_blocks * q_blocks)
        # Neighbouring pieces share their rows of gy.
        o, q = rest // q_blocks * LANE_ROWS, rest % q_blocks * LANE_VECS
        n = min(LANE_ROWS, rows - o)
        tile = zeros(gy, LANE_ROWS, LANE_VECS)
        offsets = listed(tile, places, q)
        for image in range(several):
            at = image * image_size + group * sources * (image_size // shape[0])
            plane = (((image0 + image) * groups + group) * rows + o) * pixels
            here = shifted(offsets, at)
            for v in range(reads.size):
                tile = outer_lanes(tile, gy, plane + writes[v], pixels, n, copies, shifted(here, reads[v]), lengths[v])
        sum_tile_into(tile, gw, (group * rows + o) * depth + q, depth, 1, n, depth - q)
    restore_denormals(state)


@lru_cache(maxsize=1024)
def _places(p):
    """Where each q = (channel, tap) of a group stands in the copy, padded with the last to whole tiles."""
    shape, taps, *_ = _layout(p, conv_taps.forward_grid(p), p.c)
    plane = int(shape[6]) // p.c
    places = (np.arange(p.cg)[:, None] * plane + taps).reshape(-1)
    return np.append(places, np.repeat(places[-1:], LANE_VECS))


def _grad_weight_scratch(p):
    several, size = _image_copies(p, conv_taps.forward_grid(p), p.c)
    return several * size


def _grad_weight_cost(p):
    depth = p.cg * p.kh * p.kw
    tiles = -(-p.og // LANE_ROWS) * -(-depth // LANE_VECS) * LANE_ROWS * LANE_VECS
    work = p.flops * tiles / (p.og * depth) / _lane_share(p.ow, p.dtype)
    return work * 1.1 + 12 * p.n * p.c * p.h * p.w + 40_000


@kernel(
    "conv2d_grad_weight/direct/cpu", limit=2.0, cost=_grad_weight_cost, scratch=_grad_weight_scratch
)
def grad_weight(p, x, gy, gw, scratch):
    grid = conv_taps.forward_grid(p)
    several, _ = _image_copies(p, grid, p.c)
    shape, _, reads, writes, lengths = _layout(p, grid, p.c)
    pieces = p.groups * -(-p.og // LANE_ROWS) * -(-p.cg * p.kh * p.kw // LANE_VECS)
    team = threads.team(p.flops, pieces)
    sizes = conv_taps.sizes(p, grid, p.og, p.cg)
    gw[:] = 0
    x, gy, flat = x.reshape(-1), gy.reshape(-1), gw.reshape(-1)
    for image in range(0, p.n, several):
        count = min(several, p.n - image)
        parallel(_copy, team, x, shape, image, count, p.h, p.w, scratch)
        args = (sizes, shape, image, count, _places(p), reads, writes, lengths)
        parallel(_grad_weight, team, scratch, gy, flat, *args)
