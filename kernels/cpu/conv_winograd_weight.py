"""conv2d_grad_weight/winograd_f2, _f4, _f6: the weight gradient of a 3×3 convolution, Winograd's algorithm transposed.

    gw = Gᵀ [ Σ_tiles (A gy Aᵀ) ⊙ (Bᵀ x B) ] G

for each pair of channels, with conv_winograd's tiles, matrices and strides. The sum over tiles is a matrix product for
each place of a transformed tile. Both its operands have channels in the lanes: V and D are [place][tile][channel], so
that transforms take no shuffles and the product packs nothing, broadcasting D along the output channels.

Three passes: rows of tiles of 16 channels are turned and transformed; places are multiplied, [place][output
channel][channel]; products are transformed back. Of large layers, some of the output channels and of the tiles at a
time, so that memory is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fastconv import threads
from fastconv.kernels.cpu.conv_batch import turn
from fastconv.kernels.cpu.conv_winograd import DEPTH, LIMITS, overlap_of, places_of, unsupported
from fastconv.kernels.cpu.host import LINE, TILE_ROWS, TILE_VECS, VECTOR_BYTES
from fastconv.kernels.cpu.jit import inner, njit
from fastconv.kernels.cpu.simd import flush_denormals, lanes, quotient, restore_denormals, splat, store
from fastconv.kernels.cpu.team import parallel, take
from fastconv.kernels.cpu.winograd_matrices import TAPS
from fastconv.kernels.cpu.winograd_transforms import gather_weights, multiply, transform_lanes
from fastconv.problem import itemsize
from fastconv.registry import kernel

# Bytes of transformed inputs, gradients and products, and most bytes of scratch, if one row of tiles takes more.
_BYTES = 31 * 2**20
_MOST = 32 * 2**20

# Bytes of transformed inputs and gradients at a time, if products have less than half: they stay in a cache.
_BAND = 8 * 2**20

# Parts of the output channels of a place's product, so that threads end together.
_PARTS = 4


@njit
def _transform(counter, thread, tile, step, overlap, x, sizes, work, at, row, plane):
    """V of some rows of tiles, or D if `overlap` is empty: one row of tiles of a vector of channels after another.

    work.flat[at:] is that of the first of them; work begins with every thread's buffer of turned lines.
    """
    state = flush_denormals()
    channels, first_channel, several, in_h, in_w, top, left, line, tiles_y, tiles_x, first, rows, size = sizes
    width = lanes(x)
    # Inputs of tiles are a step apart, gradients of outputs a tile.
    apart = len(step) if len(overlap) else len(tile)
    high = apart + len(overlap)
    vectors = quotient(several + width - 1, width)
    buffer = thread * size
    while True:
        piece = take(counter, thread, rows * vectors)
        if piece < 0:
            break
        number = quotient(piece, vectors)
        c = (piece - number * vectors) * width
        image = quotient(first + number, tiles_y)
        y = top + (first + number - image * tiles_y) * apart
        plane_0 = (image * channels + first_channel + c) * in_h * in_w
        for i in range(high):
            # In order: what is turned goes beyond its line.
            to = buffer + i * line * width
            if y + i >= 0 and y + i < in_h:
                here = plane_0 + (y + i) * in_w
                turn(x, here, in_h * in_w, min(width, several - c), 1, in_w, max(0, -left), line, work, to)
            else:
                for j in range(line):
                    store(work, to + j * width, splat(x, 0.0))
        for t in range(tiles_x):
            here = buffer + (max(0, left) + t * apart) * width
            to = at + (number * tiles_x + t) * row + c
            transform_lanes(tile, step, overlap, work, here, line * width, work, to, plane)
    restore_denormals(state)


@inner
def _multiply(vectors, d, v, depth, work, out, out_row, adding):
    """`vectors` vectors of channels of TILE_ROWS output channels. d, v: where they begin, and their rows' lengths."""
    for start in range(0, depth, DEPTH):
        steps, more = min(DEPTH, depth - start), adding or start > 0
        args = (work, d[0] + start * d[1], d[1], work, v[0] + start * v[1], v[1], steps, work, out, out_row, more)
        if TILE_VECS == 3 and vectors > 2:
            multiply((0, 0, 0), (), *args)
        elif vectors > 1:
            multiply((0, 0), (), *args)
        else:
            multiply((0,), (), *args)


@njit
def _product(counter, thread, places, rows, channels, depth, d, v, out, work, parts, adding):
    """out[place][row][channel] = (or += if adding) Σ_tiles D · V, one place and part of the rows after another.

    d, v, out: where each begins in `work`, and how long its rows and planes are.
    """
    state = flush_denormals()
    width = lanes(work)
    panels, vectors = quotient(rows + TILE_ROWS - 1, TILE_ROWS), quotient(channels + width - 1, width)
    while True:
        piece = take(counter, thread, places * parts)
        if piece < 0:
            break
        place = quotient(piece, parts)
        part = piece - place * parts
        for c in range(0, vectors, TILE_VECS):
            of_v = v[0] + place * v[2] + c * width, v[1]
            for panel in range(quotient(panels * part, parts), quotient(panels * (part + 1), parts)):
                of_d = d[0] + place * d[2] + panel * TILE_ROWS, d[1]
                to = out[0] + place * out[2] + panel * TILE_ROWS * out[1] + c * width
                _multiply(vectors - c, of_d, of_v, depth, work, to, out[1], adding)
    restore_denormals(state)


@njit
def _gather(counter, thread, tile, step, products, row, plane, rows, channels, gw, to):
    """gw of `rows` output channels, one after another until none is left."""
    state = flush_denormals()
    width = lanes(gw)
    while True:
        r = take(counter, thread, rows)
        if r < 0:
            break
        for c in range(0, channels, width):
            place = to + (r * channels + c) * 9
            gather_weights(tile, step, products, r * row + c, plane, gw, place, min(width, channels - c))
    restore_denormals(state)


@dataclass(frozen=True, eq=False)
class _Plan:
    """What of a problem is worked out once, so that its memory is bounded.

    rows: output channels of a group at a time; bands: rows of tiles of all images at a time; lines: lengths of turned
    lines of x and of gy; v_row, d_row, out_row: elements between tiles and between output channels.
    """

    tuples: tuple
    places: int
    tiles_y: int
    tiles_x: int
    rows: int
    bands: int
    lines: tuple
    buffer: int
    v_row: int
    d_row: int
    out_row: int

    @property
    def planes(self):
        """Elements of a place of V, D and the products."""
        tiles = self.bands * self.tiles_x
        products = _whole(self.rows, TILE_ROWS) * self.out_row
        return _odd(tiles * self.v_row), _odd(tiles * self.d_row), _odd(products)

    @property
    def starts(self):
        """Where V, D, the products and nothing more begin."""
        starts = [threads.available() * self.buffer]
        for plane in self.planes:
            starts.append(starts[-1] + self.places * plane)
        return starts


def _whole(count, step):
    return -(-count // step) * step


def _odd(elements):
    """At least so many elements, an odd number of cache lines: what is so far apart shares no set of the cache."""
    return _whole(elements + LINE, 2 * LINE) - LINE


@lru_cache(maxsize=1024)
def _plan(m, p):
    width, places, stride = VECTOR_BYTES // itemsize(p.dtype), places_of(m, p), p.stride[0]
    tiles_y, tiles_x = max(1, -(-p.oh // m)), max(1, -(-p.ow // m))
    overlap, step = overlap_of(p), m * stride

    # All output channels if their products leave half of the memory, so that inputs are transformed once.
    most, rows, out_row = _BYTES // itemsize(p.dtype) // places, p.og, _whole(p.cg, width)
    while rows > TILE_ROWS and _whole(rows, TILE_ROWS) * out_row > most // 2:
        rows = -(-rows // 2)
    v_row, d_row = (_odd(_whole(channels, max(width, TILE_ROWS))) for channels in (p.cg, rows))
    products = _whole(rows, TILE_ROWS) * out_row
    room = min(most - products, max(2 * products, _BAND // itemsize(p.dtype) // places)) // (v_row + d_row) // tiles_x
    every = max(1, p.n * tiles_y)
    parts = -(-every // max(1, room))
    left = -p.padding[2]
    lines = max(max(0, -left) + p.w, max(0, left) + tiles_x * step + overlap), max(p.ow, tiles_x * m)
    buffer = max((step + overlap) * lines[0], m * lines[1]) * width + width * width
    tuples = (0,) * m, (0,) * step, (0,) * overlap
    return _Plan(tuples, places, tiles_y, tiles_x, rows, -(-every // parts), lines, buffer, v_row, d_row, out_row)


def _unsupported(m, p):
    reason = unsupported(p, (1, 2) if m < 6 else (1,))
    if reason is None and (p.oh < m or p.ow < m):
        # A sum over less than a tile is little but rounding errors of the transforms.
        reason = f"output {p.oh}×{p.ow}, needs {m}×{m}"
    if reason is None and _plan(m, p).starts[-1] * itemsize(p.dtype) > _MOST:
        reason = (
            f"a row of tiles takes {_plan(m, p).starts[-1] * itemsize(p.dtype) >> 20} MiB, needs at most {_MOST >> 20}"
        )
    return reason


# Flops' worth of time, measured: an element of V or D on its way through the caches, turning a vector, a pass, and an
# element of the products, each time that it is read and written.
_ELEMENT_COST = 7.0
_TURN_COST = 560.0
_PASS_COST = 2_900_000.0
_PRODUCT_COST = 30.0


def _cost(m, p):
    plan, width = _plan(m, p), VECTOR_BYTES // itemsize(p.dtype)
    rows = p.n * plan.tiles_y
    tiles, again, parts = rows * plan.tiles_x, -(-p.og // plan.rows), -(-rows // plan.bands)
    multiply = 2.0 * tiles * again * _whole(plan.rows, TILE_ROWS) * plan.out_row * plan.places
    elements = plan.places * tiles * (plan.v_row * again + plan.d_row)
    high = len(plan.tuples[1]) + len(plan.tuples[2])
    turned = again * -(-p.cg // width) * high * max(_whole(p.w, width), plan.lines[0])
    turned += -(-p.og // width) * m * max(_whole(p.ow, width), plan.lines[1])
    products = again * parts * plan.places * plan.rows * plan.out_row
    total = multiply + _ELEMENT_COST * elements + _TURN_COST * rows * turned + _PRODUCT_COST * products
    return p.groups * (total + _PASS_COST * again * (3 * parts + 1)) + 60_000


def _register(m, limit):
    @kernel(
        f"conv2d_grad_weight/winograd_f{m}/cpu",
        limit=limit,
        spread=TAPS - 1,
        cost=lambda p: _cost(m, p),
        scratch=lambda p: _plan(m, p).starts[-1],
        unsupported=lambda p: _unsupported(m, p),
    )
    def grad_weight(p, x, gy, gw, scratch):
        plan = _plan(m, p)
        tile, step, overlap = plan.tuples
        x, gy, flat = x.reshape(-1), gy.reshape(-1), gw.reshape(-1)
        (v_at, d_at, out_at, _), (v_plane, d_plane, out_plane) = plan.starts, plan.planes
        every = p.n * plan.tiles_y
        width = VECTOR_BYTES // itemsize(p.dtype)
        if not every * p.oh * p.ow:
            gw[:] = 0
            return
        of_x, of_gy = (p.h, p.w, -p.padding[0], -p.padding[2], plan.lines[0]), (p.oh, p.ow, 0, 0, plan.lines[1])
        for group in range(p.groups):
            for r in range(0, p.og, plan.rows):
                rows = min(plan.rows, p.og - r)
                for first in range(0, every, plan.bands):
                    bands = min(plan.bands, every - first)
                    for over, array, channels, source, sources, plane, place in (
                        (overlap, x, p.c, group * p.cg, p.cg, of_x, (v_at, plan.v_row, v_plane)),
                        ((), gy, p.o, group * p.og + r, rows, of_gy, (d_at, plan.d_row, d_plane)),
                    ):
                        tiles = (plan.tiles_y, plan.tiles_x, first, bands, plan.buffer)
                        sizes = np.array((channels, source, sources, *plane, *tiles), np.int64)
                        team = threads.team(p.flops, bands * -(-sources // width))
                        parallel(_transform, team, tile, step, over, array, sizes, scratch, *place)
                    parts = min(_PARTS, -(-rows // TILE_ROWS))
                    places = (d_at, plan.d_row, d_plane), (v_at, plan.v_row, v_plane), (out_at, plan.out_row, out_plane)
                    args = (plan.places, rows, p.cg, bands * plan.tiles_x, *places, scratch, parts, first > 0)
                    parallel(_product, threads.team(p.flops, plan.places * parts), *args)
                args = (scratch[out_at:], plan.out_row, out_plane, rows, p.cg, flat, (group * p.og + r) * p.cg * 9)
                parallel(_gather, threads.team(p.flops, rows), tile, step, *args)


for _m, _limit in LIMITS.items():
    _register(_m, _limit)
