"""conv2d/implicit: the matrix product of im2col without col. Output channels fill the lanes, pixels are broadcast.

    y[pixel, o] = Σ_q x[place(pixel) + offset(q)] · w[q, o],   q = (channel, tap)

A broadcast reads one element from anywhere, so nothing is gathered: strides, dilations and narrow rows cost nothing,
and only zero padding needs a copy (conv_copy). Weights are packed once (`prepare`): [group][panel][q][P], panels of
P = TILE_VECS vectors of output channels, zero beyond the last. A piece of work is one panel of one block of pixels of
an image; its sums, [pixel][P], are turned into y's order at the end. Loses where output channels are short of vectors
or sums are short.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fastconv import threads
from fastconv.kernels.cpu import conv_copy, conv_taps
from fastconv.kernels.cpu.epilogue import code_of, finish
from fastconv.kernels.cpu.gemm import by_vectors
from fastconv.kernels.cpu.host import TILE_ROWS, TILE_VECS, VECTOR_BYTES
from fastconv.kernels.cpu.jit import inner, njit
from fastconv.kernels.cpu.simd import flush_denormals, item, lanes, prefetch_to_write, restore_denormals
from fastconv.kernels.cpu.team import parallel, take
from fastconv.kernels.cpu.tiles import (
    add_rows,
    interleave,
    listed_rows,
    load_rows,
    outer,
    shares,
    spaced,
    store_rows,
    store_tile,
    zeros,
    zeros_square,
)
from fastconv.problem import itemsize
from fastconv.registry import kernel

# Pixels of a block, in vectors, and reduction steps between two visits of their sums: a panel's weights stay in L2.
_BLOCK = 6
_DEPTH = 1024


def _make_compute(vecs):
    @inner
    def compute(out, to, x, first, places, i, rows, offsets, q, steps, w, at, accumulate):
        """The sums of `rows` pixels × `vecs` vectors of output channels over q … q + steps − 1."""
        width = lanes(w)
        size = TILE_VECS * width
        tile = zeros(w, TILE_ROWS, vecs)
        pixels = listed_rows(tile, places, i, rows)
        for k in range(steps):
            tile = outer(tile, x, first + item(offsets, q + k), pixels, w, spaced(tile, at + k * size, width))
        store_tile(tile, out, spaced(tile, to, width), shares(tile, vecs * width), size, rows, accumulate)

    return compute


_compute = by_vectors(_make_compute)


@inner
def _write(sums, at, pixels, channels, bias, bias_at, y, to, plane):
    """y.flat[to + o·plane + p] = sums.flat[at + p·P + o] + bias.flat[bias_at + o], square by square."""
    width = lanes(y)
    size = TILE_VECS * width
    for o in range(0, channels, width):
        rows = min(width, channels - o)
        for p in range(0, pixels, width):
            # Memory beyond the block's pixels holds sums of others, never written.
            square = interleave(load_rows(zeros_square(y), sums, at + p * size + o, size, width, width))
            if bias_at >= 0:
                square = add_rows(square, bias, bias_at + o, rows)
            place = to + o * plane + p
            store_tile(square, y, spaced(square, place, 0), shares(square, pixels - p), plane, rows, False)


@njit
def _convolve(counter, thread, x, w, bias, z, code, y, sizes, plane, image0, several, offsets, places, work):
    """One (image, group, panel, block) after another until none is left."""
    state = flush_denormals()
    groups, sources, rows = sizes[1:4]
    pixels = sizes[10] * sizes[11]
    width = lanes(w)
    size, block = TILE_VECS * width, _BLOCK * width
    panels, blocks = (rows + size - 1) // size, (pixels + block - 1) // block
    depth = offsets.size
    sums = thread * (block * size + 64)
    while True:
        piece = take(counter, thread, several * groups * panels * blocks)
        if piece < 0:
            break
        # Neighbouring pieces share their weights.
        first, rest = piece % blocks * block, piece // blocks
        panel, rest = rest % panels, rest // panels
        group, image = rest % groups, rest // groups
        channels, count = min(size, rows - panel * size), min(block, pixels - first)
        o = group * rows + panel * size
        source = (image * groups + group) * sources * plane
        to = ((image0 + image) * groups * rows + o) * pixels + first
        for r in range(channels):
            # What `_write` will write, while there is time.
            for u in range(0, count, 16):
                prefetch_to_write(y, to + r * pixels + u)
        for q in range(0, depth, _DEPTH):
            steps = min(_DEPTH, depth - q)
            at = ((group * panels + panel) * depth + q) * size
            for p in range(0, count, TILE_ROWS):
                n = min(TILE_ROWS, count - p)
                where = (x, source, places, first + p, n, offsets, q, steps)
                _compute(channels, work, sums + p * size, *where, w, at, q > 0)
        _write(work, sums, count, channels, bias, o if bias.size else -1, y, to, pixels)
        if code or z.size:
            for r in range(channels):
                finish(y, to + r * pixels, count, z, code)
    restore_denormals(state)


@njit
def _pack(counter, thread, w, u, groups, rows, depth):
    """u = the packed weights, one panel after another until none is left."""
    width = lanes(w)
    size = TILE_VECS * width
    panels = (rows + size - 1) // size
    zero = w.dtype.type(0)
    while True:
        piece = take(counter, thread, groups * panels)
        if piece < 0:
            break
        group, o = piece // panels, piece % panels * size
        at, first = piece * depth * size, (group * rows + o) * depth
        for k in range(0, depth, width):
            for v in range(0, size, width):
                left = rows - o - v
                if left > 0 and k + width <= depth:
                    block = load_rows(zeros_square(w), w, first + v * depth + k, depth, left, width)
                    store_rows(interleave(block), u, at + k * size + v, size)
                else:
                    for q in range(k, min(k + width, depth)):
                        for r in range(width):
                            u[at + q * size + v + r] = w[first + (v + r) * depth + q] if r < left else zero


@lru_cache(maxsize=16)
def _layout(p, copy):
    """Offsets of every q in a group of the copy, and where each output pixel stands in a channel of it."""
    offsets = np.arange(p.cg)[:, None] * copy.plane + copy.taps
    rows, columns = np.arange(p.oh) * p.stride[0] * copy.row, np.arange(p.ow) * p.stride[1]
    return tuple(np.ascontiguousarray(a.reshape(-1), np.int64) for a in (offsets, rows[:, None] + columns))


def _copy(p):
    return conv_copy.of(p, conv_taps.forward_grid(p), p.c, apart=False)


def _panel(p):
    """Output channels of a panel."""
    return TILE_VECS * VECTOR_BYTES // itemsize(p.dtype)


def _packed(p):
    return p.groups * -(-p.og // _panel(p)) * _panel(p) * p.cg * p.kh * p.kw


def _work_size(p):
    return _BLOCK * VECTOR_BYTES // itemsize(p.dtype) * _panel(p) + 64


def _prepare(p, w, u):
    team = threads.team(10.0 * w.size, p.groups * -(-p.og // _panel(p)))
    parallel(_pack, team, w.reshape(-1), u, p.groups, p.og, p.cg * p.kh * p.kw)


# Flops' worth of time, measured: beginning and storing a tile, one output turned into its place, packing a weight.
_TILE_COST = 1_500
_OUTPUT_COST = 20
_PACK_COST = 40


def _prepare_cost(p):
    return _PACK_COST * p.o * p.cg * p.kh * p.kw


def _cost(p):
    width, depth = VECTOR_BYTES // itemsize(p.dtype), p.cg * p.kh * p.kw
    tiles = p.n * p.groups * -(-p.oh * p.ow // TILE_ROWS)
    vectors = -(-p.og // width)
    multiply = 2.06 * tiles * TILE_ROWS * vectors * width * depth
    rest = _TILE_COST * tiles * -(-vectors // TILE_VECS) * -(-depth // _DEPTH)
    rest += _OUTPUT_COST * p.n * p.o * p.oh * p.ow + conv_copy.cost(p, _copy(p)) + 60_000
    return multiply + rest + _prepare_cost(p)


@kernel(
    "conv2d/implicit/cpu",
    limit=1.0,
    cost=_cost,
    scratch=lambda p: _copy(p).elements + threads.available() * _work_size(p) + _packed(p),
    prepare=_prepare,
    prepared=_packed,
    prepare_cost=_prepare_cost,
)
def forward(p, x, w, b, z, y, scratch, u=None):
    copy, grid = _copy(p), conv_taps.forward_grid(p)
    copies, work = scratch[: copy.elements], scratch[copy.elements :]
    if u is None:
        u, work = work[: _packed(p)], work[_packed(p) :]
        _prepare(p, w, u)
    sizes = conv_taps.sizes(p, grid, p.og, p.cg)
    x, y = x.reshape(-1), y.reshape(-1)
    blocks = -(-p.oh * p.ow // (_BLOCK * VECTOR_BYTES // itemsize(p.dtype)))
    team = threads.team(p.flops, p.n * p.groups * blocks * -(-p.og // _panel(p)))
    for image in range(0, p.n, copy.several):
        count = min(copy.several, p.n - image)
        if copy.needed:
            conv_copy.write(copy, team, x, image, count, grid, copies)
        args = (sizes, copy.plane, image, count, *_layout(p, copy), work)
        parallel(_convolve, team, copies if copy.needed else x, u, b, z.reshape(-1), code_of(p), y, *args)
