"""conv2d/batch: direct convolution with images in the lanes, for small maps of many images.

    y[o, pixel, image…] = Σ_{c, tap} w[o, c, tap] · x[c, place(pixel, tap), image…]

A piece of work is as many images as a vector has lanes: turn their planes so that a vector is one element of all of
them, sum, and turn the outputs back. However narrow a map is, no lane is idle, and taps outside of the source are left
out a row at a time. Loses where maps fill vectors themselves, and is not for more channels than fit in the cache.

The weight gradient sums gy[o, pixel, image…] · x[c, place(pixel, tap), image…] over pixels, and lanes at the end, one
tile for a few output channels × a few (channel, tap)s.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from fastconv import threads
from fastconv.kernels.cpu import conv_taps
from fastconv.kernels.cpu.epilogue import code_of, finish
from fastconv.kernels.cpu.gemm import NO_BIAS
from fastconv.kernels.cpu.host import LANE_ROWS, LANE_VECS, TILE_ROWS, TILE_VECS, VECTOR_BYTES
from fastconv.kernels.cpu.jit import inner, njit
from fastconv.kernels.cpu.simd import flush_denormals, item, lanes, restore_denormals, splat, store
from fastconv.kernels.cpu.team import parallel, take
from fastconv.kernels.cpu.tiles import (
    add_rows,
    interleave,
    listed,
    load_rows,
    outer,
    outer_lanes,
    row_offsets,
    shares,
    shifted,
    spaced,
    store_rows,
    store_tile,
    store_whole,
    sum_tile_into,
    zeros,
    zeros_square,
)
from fastconv.problem import itemsize
from fastconv.registry import kernel

# Most elements of an image's planes of a group: turned, 512 KiB of 64-byte vectors, read for every TILE_ROWS outputs.
PLANES = 8192
# Most elements of an output plane, of which there are TILE_ROWS at a time.
PIXELS = 4096

# Output channels for which a lower tile is worth compiling, such as LeNet-5's six.
FEW_ROWS = TILE_ROWS * 3 // 4


@inner
def turn(x, first, image, images, height, width, left, line, out, at):
    """out.flat[at:] = [row][column][lane] of one plane of each image, with `left` zero columns before the first.

    Columns are written in whole squares: up to a vector's lanes beyond the last are zero.
    """
    size = lanes(x)
    zero = splat(x, 0.0)
    for i in range(height):
        row = at + i * line * size
        for j in range(left):
            store(out, row + j * size, zero)
        for j in range(0, width, size):
            square = load_rows(zeros_square(x), x, first + i * width + j, image, images, min(size, width - j))
            store_rows(interleave(square), out, row + (left + j) * size, size)
        for j in range(left + (width + size - 1) // size * size, line):
            store(out, row + j * size, zero)


def _make_compute(vecs, most):
    @inner
    def compute(n, x, at, step, plane, sources, taps, first, last, w, wi, bias, bias_at, out, to, row):
        """The sums over taps first … last − 1 for n ≤ most output channels and `vecs` pixels `step` elements apart."""
        tile = zeros(x, most, vecs)
        rows = row_offsets(tile, n, sources * taps.size)
        places = spaced(tile, at, step)
        for source in range(sources):
            for t in range(first, last):
                here = shifted(places, source * plane + item(taps, t))
                tile = outer(tile, w, wi + source * taps.size + t, rows, x, here)
        if bias_at >= 0:
            tile = add_rows(tile, bias, bias_at, n)
        store_whole(tile, out, to, row, False)

    return compute


_all, _few, _one = _make_compute(TILE_VECS, TILE_ROWS), _make_compute(TILE_VECS, FEW_ROWS), _make_compute(1, TILE_ROWS)


@inner
def _compute(whole, n, *args):
    """For n output channels and TILE_VECS pixels, if `whole`, or one."""
    if not whole:
        _one(n, *args)
    elif n <= FEW_ROWS:
        _few(n, *args)
    else:
        _all(n, *args)


@inner
def write(sums, at, row, n, images, pixels, y, target, channel, image):
    """y's planes of n output channels of each image from sums, [channel][pixel][lane]."""
    size = lanes(y)
    for r in range(n):
        for k in range(0, pixels, size):
            # Memory beyond the last pixel holds other sums, never written.
            square = interleave(load_rows(zeros_square(y), sums, at + r * row + k * size, size, size, size))
            place = spaced(square, target + r * channel + k, 0)
            store_tile(square, y, place, shares(square, pixels - k), image, images, False)


@njit
def _convolve(counter, thread, x, w, bias, z, code, y, sizes, left, line, taps, firsts, lasts, work):
    """One (block of images, group) after another until none is left."""
    state = flush_denormals()
    images, groups, sources, rows, in_h, in_w, read_y, read_x, _, _, grid_h, grid_w = sizes[:12]
    size = lanes(x)
    plane, pixels = in_h * line * size, grid_h * grid_w
    row = (pixels + size) * size
    planes = thread * (sources * plane + size * size + TILE_ROWS * row)
    sums = planes + sources * plane + size * size
    step = TILE_VECS if grid_w >= TILE_VECS else 1
    while True:
        piece = take(counter, thread, (images + size - 1) // size * groups)
        if piece < 0:
            break
        image, group = piece // groups * size, piece % groups
        count = min(size, images - image)
        for c in range(sources):
            source = ((image * groups + group) * sources + c) * in_h * in_w
            turn(x, source, groups * sources * in_h * in_w, count, in_h, in_w, left, line, work, planes + c * plane)
        for r in range(0, rows, TILE_ROWS):
            n = min(TILE_ROWS, rows - r)
            wi = (group * rows + r) * sources * taps.size
            shift = group * rows + r if bias.size else -1
            for i in range(grid_h):
                for j in range(0, grid_w, step):
                    # A row's last tile ends with it, and computes again what of it is there already.
                    column = min(j, grid_w - step)
                    at = planes + (i * read_y * line + column * read_x) * size
                    where = (at, read_x * size, plane, sources, taps, firsts[i], lasts[i])
                    to = sums + (i * grid_w + column) * size
                    _compute(step > 1, n, work, *where, w, wi, bias, shift, work, to, row)
            target = ((image * groups + group) * rows + r) * pixels
            write(work, sums, row, n, count, pixels, y, target, pixels, groups * rows * pixels)
            if code or z.size:
                for k in range(count):
                    for o in range(n):
                        finish(y, target + (k * groups * rows + o) * pixels, pixels, z, code)
    restore_denormals(state)


@lru_cache(maxsize=1024)
def _in_rows(grid):
    """The grid with its taps in the order of the rows that they read."""
    order = np.lexsort((grid.dx, grid.dy))
    return replace(grid, dy=grid.dy[order], dx=grid.dx[order], taps=grid.taps[order])


def _line(grid):
    """Zero columns before a turned row, and its length."""
    left = max(0, -int(grid.dx.min()))
    right = max(0, (grid.columns - 1) * grid.read_x + int(grid.dx.max()) - grid.in_w + 1)
    return left, left + grid.in_w + right


@lru_cache(maxsize=1024)
def _layout(p, grid):
    """_line, taps' offsets, and the first tap and the end for each grid row."""
    size = VECTOR_BYTES // itemsize(p.dtype)
    left, line = _line(grid)
    # Taps that read rows inside of the source stand together.
    reads = np.arange(grid.rows)[:, None] * grid.read_y + grid.dy
    inside = (reads >= 0) & (reads < grid.in_h)
    firsts = np.where(inside.any(1), inside.argmax(1), 0)
    lasts = firsts + inside.sum(1)
    taps = (grid.dy * line + grid.dx + left) * size
    return left, line, *(np.ascontiguousarray(values, np.int64) for values in (taps, firsts, lasts))


def _work_size(p, grid, sources):
    """Elements of a thread's turned planes, and of its sums."""
    size = VECTOR_BYTES // itemsize(p.dtype)
    planes = sources * grid.in_h * _line(grid)[1] * size + size * size
    return planes, TILE_ROWS * (grid.rows * grid.columns + size) * size


def _unsupported(p, grids, sources):
    if len(grids) != 1 or not grids[0].dense:
        return f"stride {p.stride}, needs 1"
    (grid,) = grids
    size, pixels = sources * grid.in_h * _line(grid)[1], grid.rows * grid.columns
    if size > PLANES:
        return f"planes of {size} elements in a group of an image, needs at most {PLANES}"
    return f"output planes of {pixels} elements, needs at most {PIXELS}" if pixels > PIXELS else None


# Flops' worth of time, measured: turning a vector, beginning and storing a tile.
_TURN_COST = 450
_TILE_COST = 1_500


def _cost(p, grid, rows, sources):
    width = VECTOR_BYTES // itemsize(p.dtype)
    _, line, _, firsts, lasts = _layout(p, grid)
    blocks, panels = p.groups * -(-p.n // width), -(-rows // TILE_ROWS)
    padded = panels * TILE_ROWS - (TILE_ROWS - FEW_ROWS) * (0 < rows % TILE_ROWS <= FEW_ROWS)
    tiles = -(-grid.columns // TILE_VECS) * panels * blocks
    columns = -(-grid.columns // TILE_VECS) * TILE_VECS
    steps = 2.1 * padded * width * columns * blocks * sources * float((lasts - firsts).sum())
    turned = blocks * (sources * grid.in_h * line + rows * grid.rows * grid.columns)
    idle = -(-blocks // threads.available()) * threads.available() / max(1, blocks)
    return idle * (steps + _TILE_COST * tiles * grid.rows + _TURN_COST * turned) + 60_000


def _run(p, grid, x, w, b, z, y, rows, sources, work):
    left, line, taps, firsts, lasts = _layout(p, grid)
    team = threads.team(p.flops, p.groups * -(-p.n // (VECTOR_BYTES // itemsize(p.dtype))))
    sizes = conv_taps.sizes(p, grid, rows, sources)
    args = (z.reshape(-1), code_of(p), y.reshape(-1), sizes, left, line, taps, firsts, lasts, work)
    parallel(_convolve, team, x.reshape(-1), w, b, *args)


def _scratch(p, grid, sources):
    return threads.available() * sum(_work_size(p, grid, sources))


@kernel(
    "conv2d/batch/cpu",
    limit=1.0,
    cost=lambda p: _cost(p, conv_taps.forward_grid(p), p.og, p.cg),
    scratch=lambda p: _scratch(p, conv_taps.forward_grid(p), p.cg),
    unsupported=lambda p: _unsupported(p, [conv_taps.forward_grid(p)], p.cg),
)
def forward(p, x, w, b, z, y, scratch):
    _run(p, conv_taps.forward_grid(p), x, w.reshape(-1), b, z, y, p.og, p.cg, scratch)


def _gradient_grids(p):
    # Grids of strides are many, and none is dense.
    return [_in_rows(grid) for grid in conv_taps.input_gradient_grids(p)] if p.stride == (1, 1) else []


@kernel(
    "conv2d_grad_input/batch/cpu",
    limit=1.0,
    cost=lambda p: _cost(p, _gradient_grids(p)[0], p.cg, p.og),
    scratch=lambda p: _scratch(p, _gradient_grids(p)[0], p.og) + p.o * p.cg * p.kh * p.kw,
    unsupported=lambda p: _unsupported(p, _gradient_grids(p), p.og),
)
def grad_input(p, gy, w, gx, scratch):
    (grid,) = _gradient_grids(p)
    transposed, work = scratch[: w.size], scratch[w.size :]
    conv_taps.transpose(p, grid, w, transposed)
    none = NO_BIAS[p.dtype]
    _run(p, grid, gy, transposed, none, none, gx, p.cg, p.og, work)


# Heights and widths of a weight gradient's tiles: of each, the one that leaves fewer idle serves a problem.
_ROWS, _VECS = (LANE_ROWS, 3), (LANE_VECS, 5 if LANE_VECS == 6 else LANE_VECS)

# Sums of a weight gradient that each thread has room for, so that threads end together.
_SHARES = 4


def _make_gradient(most, vecs):
    @inner
    def gradient(n, x, at, step, row_step, places, q, left, gy, row, plane, grid_h, grid_w, sums, to, depth):
        """sums.flat[to + r·depth + v] += Σ_pixel gy[row r, pixel] · x[places[q + v], pixel], r < n ≤ most, v < left."""
        size = lanes(x)
        tile = zeros(x, most, vecs)
        offsets = shifted(listed(tile, places, q), at)
        for i in range(grid_h):
            here = shifted(offsets, i * row_step)
            for j in range(grid_w):
                tile = outer_lanes(tile, gy, row, plane, n, x, shifted(here, j * step), size)
                row += size
        sum_tile_into(tile, sums, to, depth, 1, n, left)

    return gradient


_gradients = [[_make_gradient(rows, vecs) for vecs in _VECS] for rows in _ROWS]
_high_wide, _high = _gradients[0]
_wide, _low = _gradients[1]


@inner
def _clear(out, at, count):
    for k in range(0, count, lanes(out)):
        store(out, at + k, splat(out, 0.0))


@njit
def _grad_weight(counter, thread, x, gy, sums, sizes, places, work):
    """One share of the images after another until none is left: its sum of gw, for all groups."""
    state = flush_denormals()
    images, groups, sources, rows, in_h, in_w, read_y, read_x, grid_h, grid_w = sizes[:10]
    top, left, height, line, shares, most, vecs, elements = sizes[10:]
    size = lanes(x)
    plane, pixels, depth = height * line * size, grid_h * grid_w, places.size - LANE_VECS
    blocks = (images + size - 1) // size
    planes = thread * elements
    turned = planes + sources * plane + size * size
    out_plane = pixels * size
    while True:
        share = take(counter, thread, shares)
        if share < 0:
            break
        to = share * groups * rows * depth
        for k in range(to, to + groups * rows * depth):
            sums[k] = 0
        for block in range(blocks * share // shares, blocks * (share + 1) // shares):
            image = block * size
            count = min(size, images - image)
            for group in range(groups):
                for c in range(sources):
                    source, at = ((image * groups + group) * sources + c) * in_h * in_w, planes + c * plane
                    _clear(work, at, top * line * size)
                    inner_rows = at + top * line * size
                    step = groups * sources * in_h * in_w
                    turn(x, source, step, count, in_h, in_w, left, line, work, inner_rows)
                    _clear(work, inner_rows + in_h * line * size, (height - top - in_h) * line * size)
                for o in range(rows):
                    source = ((image * groups + group) * rows + o) * pixels
                    # In order, because a plane's last square goes beyond it.
                    turn(gy, source, groups * rows * pixels, count, 1, pixels, 0, pixels, work, turned + o * out_plane)
                for r in range(0, rows, most):
                    n = min(most, rows - r)
                    for q in range(0, depth, vecs):
                        gradients = to + (group * rows + r) * depth + q
                        args = (
                            n, work, planes, read_x * size, read_y * line * size, places, q, depth - q, work,
                            turned + r * out_plane, out_plane, grid_h, grid_w, sums, gradients, depth,
                        )  # fmt: skip
                        if most == _ROWS[0] and vecs == _VECS[0]:
                            _high_wide(*args)
                        elif most == _ROWS[0]:
                            _high(*args)
                        elif vecs == _VECS[0]:
                            _wide(*args)
                        else:
                            _low(*args)
    restore_denormals(state)


@lru_cache(maxsize=1024)
def _gradient_layout(p):
    """_grad_weight's sizes and places, and the elements of its sums and of its threads' memory."""
    size = VECTOR_BYTES // itemsize(p.dtype)
    grid = conv_taps.forward_grid(p)
    left, line = _line(grid)
    top = max(0, -int(grid.dy.min()))
    bottom = max(0, (grid.rows - 1) * grid.read_y + int(grid.dy.max()) - grid.in_h + 1)
    height = top + grid.in_h + bottom
    taps = ((grid.dy + top) * line + grid.dx + left) * size
    places = (np.arange(p.cg)[:, None] * height * line * size + taps).reshape(-1)
    most = min(_ROWS, key=lambda rows: -(-p.og // rows) * rows)
    vecs = min(_VECS, key=lambda vecs: -(-places.size // vecs) * vecs)
    shares = max(1, min(-(-p.n // size), _SHARES * threads.available()))
    elements = (p.cg * height * line + p.og * p.oh * p.ow + 2 * size) * size
    sizes = (p.n, p.groups, p.cg, p.og, p.h, p.w, *p.stride, p.oh, p.ow)
    return (
        np.array((*sizes, top, left, height, line, shares, most, vecs, elements), np.int64),
        np.append(places, np.repeat(places[-1:], LANE_VECS)).astype(np.int64),
        shares * p.o * p.cg * p.kh * p.kw,
        threads.available() * elements,
    )


def _gradient_unsupported(p):
    size = VECTOR_BYTES // itemsize(p.dtype)
    planes = int(_gradient_layout(p)[0][-1]) // size
    return f"planes of {planes} elements in a group of an image, needs at most {PLANES}" if planes > PLANES else None


def _gradient_cost(p):
    size = VECTOR_BYTES // itemsize(p.dtype)
    sizes, _, sums, _ = _gradient_layout(p)
    height, line, shares, most, vecs = (int(value) for value in sizes[12:17])
    blocks = -(-p.n // size)
    tiles = -(-p.og // most) * -(-p.cg * p.kh * p.kw // vecs)
    steps = 2.1 * most * vecs * tiles * size * p.oh * p.ow * p.groups * blocks
    turned = blocks * p.groups * (p.cg * height * line + p.og * p.oh * p.ow)
    idle = -(-shares // threads.available()) * threads.available() / shares
    return idle * (steps + _TURN_COST * turned) + 30.0 * sums + 60_000


@kernel(
    "conv2d_grad_weight/batch/cpu",
    limit=1.0,
    cost=_gradient_cost,
    scratch=lambda p: sum(_gradient_layout(p)[2:]),
    unsupported=_gradient_unsupported,
)
def grad_weight(p, x, gy, gw, scratch):
    sizes, places, size, _ = _gradient_layout(p)
    shares = int(sizes[14])
    sums = scratch[:size]
    team = threads.team(p.flops, shares)
    parallel(_grad_weight, team, x.reshape(-1), gy.reshape(-1), sums, sizes, places, scratch[size:])
    np.sum(sums.reshape(shares, *gw.shape), axis=0, out=gw)
