"""conv2d/implicit: the matrix product of im2col without col. Output channels fill the lanes, pixels are broadcast.

    y[pixel, o] = Σ_q x[place(pixel) + offset(q)] · w[q, o],   q = (channel, tap)

A broadcast reads one element from anywhere, so nothing is gathered: strides, dilations and narrow rows cost nothing,
and only zero padding needs a copy (conv_copy). Weights are packed once (`prepare`): [group][panel][q][P], a panel's
output channels in rows of P = TILE_VECS or _WIDE_VECS vectors. A piece of work is one panel of one block of pixels of
an image; its sums, [pixel][P], are turned into y's order at the end. Loses where output channels are short of vectors
or sums are short.

The input gradient is the same sum on other grids (conv_taps). So is the weight gradient, with the two places exchanged:
its q's are what pixels are above, and gy is packed as weights are.

    gw[q, o] = Σ_pixel x[offset(q) + place(pixel)] · gy[pixel, o]
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from functools import lru_cache

import numpy as np

from fastconv import threads
from fastconv.kernels.cpu import conv_copy, conv_taps
from fastconv.kernels.cpu.epilogue import code_of, finish
from fastconv.kernels.cpu.gemm import NO_BIAS, by_vectors
from fastconv.kernels.cpu.host import LINE, TILE_ROWS, TILE_VECS, VECTOR_BYTES, VECTOR_REGISTERS
from fastconv.kernels.cpu.jit import inner, njit
from fastconv.kernels.cpu.simd import flush_denormals, item, lanes, prefetch_to_write, quotient, restore_denormals
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

# Most pixels of a block, in vectors, and reduction steps between two visits of their sums: a panel stays in L2.
_BLOCK = 6
_DEPTH = 1024

# Elements of all panels' weights up to which a block of pixels meets them all before the next block.
_WEIGHTS = 64 * 1024

# Sources of the input gradient's weights that a thread packs at a time, and bytes of output gradients that are.
_SOURCES = 16
_PACKED_BYTES = 8 * 2**20


# Where panels of four vectors come out even: a lower, wider tile reads pixels less often.
_WIDE_ROWS, _WIDE_VECS = (6, 4) if VECTOR_REGISTERS == 32 else (TILE_ROWS, TILE_VECS)


def _make_compute(vecs, most=TILE_ROWS, row=TILE_VECS):
    @inner
    def compute(out, to, x, first, places, i, rows, offsets, q, steps, w, at, accumulate):
        """The sums of `rows` ≤ most pixels × `vecs` vectors of output channels over q … q + steps − 1.

        `row` vectors are P: known to the compiler, which else needs a register that it lacks.
        """
        width = lanes(w)
        size = row * width
        tile = zeros(w, most, vecs)
        pixels = listed_rows(tile, places, i, rows)
        for k in range(steps):
            tile = outer(tile, x, first + item(offsets, q + k), pixels, w, spaced(tile, at + k * size, width))
        store_tile(tile, out, spaced(tile, to, width), shares(tile, vecs * width), size, rows, accumulate)

    return compute


_compute, _compute_wide = by_vectors(_make_compute), _make_compute(_WIDE_VECS, _WIDE_ROWS, _WIDE_VECS)


@inner
def _write(sums, at, row, pixels, channels, bias, bias_at, y, to, plane):
    """y.flat[to + o·plane + p] = sums.flat[at + p·row + o] + bias.flat[bias_at + o], square by square."""
    width = lanes(y)
    for o in range(0, channels, width):
        rows = min(width, channels - o)
        for p in range(0, pixels, width):
            # Memory beyond the block's pixels holds sums of others, never written.
            square = interleave(load_rows(zeros_square(y), sums, at + p * row + o, row, width, width))
            if bias_at >= 0:
                square = add_rows(square, bias, bias_at + o, rows)
            place = to + o * plane + p
            store_tile(square, y, spaced(square, place, 0), shares(square, pixels - p), plane, rows, False)


@njit
def _convolve(
    counter, thread, x, w, size, block, bias, z, code, y, sizes, plane, image0, several, offsets, places, work
):
    """One (image, group, panel, block) after another until none is left."""
    state = flush_denormals()
    groups, sources, rows = sizes[1:4]
    pixels = sizes[10] * sizes[11]
    width = lanes(w)
    wide = size > TILE_VECS * width
    row = _WIDE_VECS * width if wide else TILE_VECS * width
    high = _WIDE_ROWS if wide else TILE_ROWS
    panels, blocks = (rows + size - 1) // size, (pixels + block - 1) // block
    depth = offsets.size
    sums = thread * (_BLOCK * width * _WIDE_VECS * width + 64)
    # What is smaller stays in L2 from piece to piece: all weights, or those of a panel.
    together = panels * depth * row <= _WEIGHTS
    share = quotient(blocks + counter[0] - 1, counter[0])
    while True:
        piece = take(counter, thread, several * groups * panels * blocks)
        if piece < 0:
            break
        rest, place = piece // (blocks * panels), piece % (blocks * panels)
        group, image = rest % groups, rest // groups
        if together:
            panel, first = place % panels, place // panels * block
        else:
            # One panel after another for a thread's share of the pixels, whose copy it is likely to have made.
            before = quotient(place, share * panels) * share
            here = place - before * panels
            panel = quotient(here, min(share, blocks - before))
            first = (before + here - panel * min(share, blocks - before)) * block
        channels, count = min(size, rows - panel * size), min(block, pixels - first)
        o = group * rows + panel * size
        source = (image * groups + group) * sources * plane
        to = ((image0 + image) * groups * rows + o) * pixels + first
        for r in range(channels):
            # What `_write` will write, while there is time.
            for u in range(0, count, LINE):
                prefetch_to_write(y, to + r * pixels + u)
        for q in range(0, depth, _DEPTH):
            steps = min(_DEPTH, depth - q)
            at = ((group * panels + panel) * depth + q) * row
            for p in range(0, count, high):
                n = min(high, count - p)
                args = (work, sums + p * row, x, source, places, first + p, n, offsets, q, steps, w, at, q > 0)
                if wide:
                    _compute_wide(*args)
                else:
                    _compute(channels, *args)
        _write(work, sums, row, count, channels, bias, o if bias.size else -1, y, to, pixels)
        if code or z.size:
            for r in range(channels):
                finish(y, to + r * pixels, count, z, code)
    restore_denormals(state)


@njit
def _pack(counter, thread, w, start, row, u, size, images, groups, rows, depth):
    """u = `depth` columns of w.flat[start:], packed, one panel of an image after another until none is left.

    w is [image][group][row], rows `row` elements apart; u is [group][panel][image][column][P].
    """
    state = flush_denormals()
    width = lanes(w)
    panels, stride = (rows + size - 1) // size, max(size, TILE_VECS * lanes(w))
    zero = w.dtype.type(0)
    while True:
        piece = take(counter, thread, images * groups * panels)
        if piece < 0:
            break
        image, panel = piece // (groups * panels), piece % (groups * panels)
        group, o = panel // panels, panel % panels * size
        at, first = (panel * images + image) * depth * stride, start + ((image * groups + group) * rows + o) * row
        for k in range(0, depth, width):
            for t in range(0, width * stride, LINE):
                prefetch_to_write(u, at + (k + width) * stride + t)
            for v in range(0, size, width):
                left = rows - o - v
                if left > 0 and k + width <= depth:
                    block = load_rows(zeros_square(w), w, first + v * row + k, row, left, width)
                    store_rows(interleave(block), u, at + k * stride + v, stride)
                else:
                    for q in range(k, min(k + width, depth)):
                        for r in range(width):
                            u[at + q * stride + v + r] = w[first + (v + r) * row + q] if r < left else zero
    restore_denormals(state)


@njit
def _spread(counter, thread, parts, channels, rows, columns, first, step, gx, width, plane):
    """gx.flat[first :] takes a grid of every channel, its rows and columns `step` apart, until no channel is left."""
    while True:
        channel = take(counter, thread, channels)
        if channel < 0:
            break
        for i in range(rows):
            source, target = (channel * rows + i) * columns, first + channel * plane + i * step[0] * width
            for j in range(columns):
                gx[target + j * step[1]] = item(parts, source + j)


@lru_cache(maxsize=16)
def _layout(p, grid, copy, sources):
    """Offsets of every q in a group of the copy, and where each pixel of the grid stands in a channel of it."""
    offsets = np.arange(sources)[:, None] * copy.plane + copy.taps
    rows, columns = np.arange(grid.rows) * grid.read_y * copy.row, np.arange(grid.columns) * grid.read_x
    return tuple(np.ascontiguousarray(a.reshape(-1), np.int64) for a in (offsets, rows[:, None] + columns))


def _copy(p, grid, channels):
    return conv_copy.of(p, grid, channels, apart=False)


def _panel(p, rows):
    """Output channels of a panel, of `rows` in a group: at most TILE_VECS vectors, and panels as even as may be."""
    width = VECTOR_BYTES // itemsize(p.dtype)
    vectors = -(-rows // width)
    most = _WIDE_VECS if vectors % _WIDE_VECS == 0 else TILE_VECS
    return -(-vectors // -(-vectors // most)) * width


def _packed(p, rows, depth):
    """Elements of the packed weights of `rows` output channels a group and `depth` q's."""
    panel = _panel(p, rows)
    return p.groups * -(-rows // panel) * max(panel, TILE_VECS * VECTOR_BYTES // itemsize(p.dtype)) * depth


def _work_size(p):
    width = VECTOR_BYTES // itemsize(p.dtype)
    return _BLOCK * width * _WIDE_VECS * width + 64


def _prepare(p, w, u, rows, depth):
    panel = _panel(p, rows)
    team = threads.team(10.0 * w.size, p.groups * -(-rows // panel))
    parallel(_pack, team, w.reshape(-1), 0, depth, u, panel, 1, p.groups, rows, depth)


def _block(p, images, pixels, rows):
    """Pixels of a block: so many that threads end together, even if there are few."""
    width, panel = VECTOR_BYTES // itemsize(p.dtype), _panel(p, rows)
    high = _WIDE_ROWS if panel > TILE_VECS * width else TILE_ROWS
    others, count = max(1, images * p.groups * -(-rows // panel)), max(1, -(-pixels // (_BLOCK * width)))
    if others * count < 8 * threads.available():
        while others * count % threads.available():
            count += 1
    return -(-max(1, pixels) // (count * high)) * high


def _pieces(p, images, pixels, rows):
    """Pieces of work."""
    return images * p.groups * -(-pixels // _block(p, images, pixels, rows)) * -(-rows // _panel(p, rows))


# Flops' worth of time, measured: beginning and storing a tile, one output turned into its place, packing an element,
# and writing one at a stride.
_TILE_COST = 1_500
_OUTPUT_COST = 20
_PACK_COST = 40
_SPREAD_COST = 40

# The same for a weight gradient's call, and for packing an element of gy, all of which is there for a few products.
_GRADIENT_COST = 7_000_000
_GRADIENT_PACK_COST = 90


def _product_cost(p, images, pixels, rows, depth):
    """Flops' worth of time of the sums over `depth` for `pixels` × `rows` outputs of every group of every image."""
    width = VECTOR_BYTES // itemsize(p.dtype)
    tiles = images * p.groups * -(-pixels // TILE_ROWS)
    vectors = -(-rows // width)
    multiply = 2.06 * tiles * TILE_ROWS * vectors * width * depth
    rest = _TILE_COST * tiles * -(-vectors // TILE_VECS) * -(-depth // _DEPTH)
    return multiply + rest + _OUTPUT_COST * images * p.groups * rows * pixels + 60_000


def _prepare_cost(p):
    return _PACK_COST * p.o * p.cg * p.kh * p.kw


def _cost(p):
    copy = conv_copy.cost(p, _copy(p, conv_taps.forward_grid(p), p.c))
    return _product_cost(p, p.n, p.oh * p.ow, p.og, p.cg * p.kh * p.kw) + copy + _prepare_cost(p)


def _forward_packed(p):
    return _packed(p, p.og, p.cg * p.kh * p.kw)


def _forward_scratch(p):
    copy = _copy(p, conv_taps.forward_grid(p), p.c)
    return copy.elements + threads.available() * _work_size(p) + _forward_packed(p)


@kernel(
    "conv2d/implicit/cpu",
    limit=1.0,
    cost=_cost,
    scratch=_forward_scratch,
    prepare=lambda p, w, u: _prepare(p, w, u, p.og, p.cg * p.kh * p.kw),
    prepared=_forward_packed,
    prepare_cost=_prepare_cost,
)
def forward(p, x, w, b, z, y, scratch, u=None):
    grid = conv_taps.forward_grid(p)
    copy = _copy(p, grid, p.c)
    copies, work = scratch[: copy.elements], scratch[copy.elements :]
    if u is None:
        u, work = work[: _forward_packed(p)], work[_forward_packed(p) :]
        _prepare(p, w, u, p.og, p.cg * p.kh * p.kw)
    sizes = conv_taps.sizes(p, grid, p.og, p.cg)
    x, y = x.reshape(-1), y.reshape(-1)
    pixels = p.oh * p.ow
    team = threads.team(p.flops, _pieces(p, p.n, pixels, p.og))
    for image in range(0, p.n, copy.several):
        count = min(copy.several, p.n - image)
        if copy.needed:
            conv_copy.write(copy, team, x, image, count, grid, copies)
        args = (sizes, copy.plane, image, count, *_layout(p, grid, copy, p.cg), work)
        source = copies if copy.needed else x
        panel = _panel(p, p.og), _block(p, count, pixels, p.og)
        parallel(_convolve, team, source, u, *panel, b, z.reshape(-1), code_of(p), y, *args)


@njit
def _pack_reversed(counter, thread, w, taps, groups, rows, sources, kernel, u, size):
    """u = the packed weights of one grid of the input gradient, of which w has rows and sources exchanged."""
    panels, stride = (rows + size - 1) // size, max(size, TILE_VECS * lanes(w))
    parts = (sources + _SOURCES - 1) // _SOURCES
    zero = w.dtype.type(0)
    while True:
        piece = take(counter, thread, groups * panels * parts)
        if piece < 0:
            break
        panel, first = piece // parts, piece % parts * _SOURCES
        group, row = panel // panels, panel % panels * size
        count = min(size, rows - row)
        for source in range(first, min(sources, first + _SOURCES)):
            at = (panel * sources + source) * taps.size * stride
            for t in range(0, taps.size * stride, LINE):
                prefetch_to_write(u, at + taps.size * stride + t)
            for t in range(taps.size):
                here = ((group * sources + source) * rows + row) * kernel + taps[t]
                for r in range(count):
                    u[at + r] = item(w, here + r * kernel)
                for r in range(count, size):
                    u[at + r] = zero
                at += stride


@lru_cache(maxsize=1024)
def _gradient_copy(p):
    """The copy of gy that all grids of the input gradient read, and its taps, an array for each grid."""
    grids = conv_taps.input_gradient_grids(p)
    dy, dx, taps = (np.concatenate([getattr(grid, name) for grid in grids]) for name in ("dy", "dx", "taps"))
    rows, columns = max(grid.rows for grid in grids), max(grid.columns for grid in grids)
    copy = _copy(p, replace(grids[0], rows=rows, columns=columns, dy=dy, dx=dx, taps=taps), p.o)
    ends = np.cumsum([grid.taps.size for grid in grids])
    return copy, [replace(copy, taps=part) for part in np.split(copy.taps, ends[:-1])]


@dataclass(frozen=True)
class _Parts:
    """Elements of an input gradient's scratch, in order, but for the threads' work; images at a time."""

    packed: int
    copies: int
    spread: int
    several: int


@lru_cache(maxsize=1024)
def _parts(p):
    grids = conv_taps.input_gradient_grids(p)
    if not grids:
        return _Parts(0, 0, 0, 1)
    copy, _ = _gradient_copy(p)
    pixels = max(0 if grid.dense else grid.rows * grid.columns for grid in grids)
    several = copy.several if copy.needed or not pixels else 1
    return _Parts(
        _packed(p, p.cg, p.og * max(g.taps.size for g in grids)), copy.elements, several * p.c * pixels, several
    )


def _input_gradient_cost(p):
    many = conv_taps.many_grids_cost(p)
    if many:
        return many
    grids, total = conv_taps.input_gradient_grids(p), 0.0
    for grid in grids:
        pixels = grid.rows * grid.columns
        total += _product_cost(p, p.n, pixels, p.cg, p.og * grid.taps.size) + _PACK_COST * p.o * p.cg * grid.taps.size
        total += 0 if grid.dense else _SPREAD_COST * p.n * p.c * pixels
    return total + (conv_copy.cost(p, _gradient_copy(p)[0]) if grids else 0)


@kernel(
    "conv2d_grad_input/implicit/cpu",
    limit=1.0,
    cost=_input_gradient_cost,
    scratch=lambda p: sum(astuple(_parts(p))[:3]) + threads.available() * _work_size(p),
)
def grad_input(p, gy, w, gx, scratch):
    conv_taps.clear_untouched(p, gx)
    grids, sizes = conv_taps.input_gradient_grids(p), _parts(p)
    if not grids:
        return
    u, rest = scratch[: sizes.packed], scratch[sizes.packed :]
    copies, rest = rest[: sizes.copies], rest[sizes.copies :]
    spread, work = rest[: sizes.spread], rest[sizes.spread :]
    w, gy, gx, none = w.reshape(-1), gy.reshape(-1), gx.reshape(-1), NO_BIAS[p.dtype]
    copy, copies_of_grids = _gradient_copy(p)
    for image in range(0, p.n, sizes.several):
        count = min(sizes.several, p.n - image)
        source = copies if copy.needed else gy[image * copy.image :]
        team = threads.team(p.flops, _pieces(p, count, p.h * p.w, p.cg))
        if copy.needed:
            conv_copy.write(copy, team, gy, image, count, grids[0], copies)
        for grid, of_grid in zip(grids, copies_of_grids, strict=True):
            if image == 0 or len(grids) > 1:
                parallel(_pack_reversed, team, w, grid.taps, p.groups, p.cg, p.og, p.kh * p.kw, u, _panel(p, p.cg))
            target, first = (gx, image) if grid.dense else (spread, 0)
            args = (conv_taps.sizes(p, grid, p.cg, p.og), copy.plane, first, count)
            layout = _layout(p, grid, of_grid, p.og)
            panel = _panel(p, p.cg), _block(p, count, grid.rows * grid.columns, p.cg)
            parallel(_convolve, team, source, u, *panel, none, none, 0, target, *args, *layout, work)
            if not grid.dense:
                first = image * p.c * p.h * p.w + grid.first_y * p.w + grid.first_x
                args = (count * p.c, grid.rows, grid.columns, first, (grid.step_y, grid.step_x))
                parallel(_spread, team, spread, *args, gx, p.w, p.h * p.w)


def _pixels_at_once(p):
    return max(1, _PACKED_BYTES // itemsize(p.dtype) // _packed(p, p.og, 1))


def _images_at_once(p):
    """At most as many images as are packed at a time; 1 if even one's pixels are packed in parts."""
    copy = _copy(p, conv_taps.forward_grid(p), p.c)
    return max(1, min(p.n, copy.several, _pixels_at_once(p) // max(1, p.oh * p.ow)))


@lru_cache(maxsize=16)
def _gradient_layout(p, images):
    """_layout with q's and pixels exchanged, the pixels those of several images."""
    grid = conv_taps.forward_grid(p)
    copy = _copy(p, grid, p.c)
    qs, pixels = _layout(p, grid, copy, p.cg)
    return (np.arange(images)[:, None] * copy.image + pixels).reshape(-1), qs


def _gradient_scratch(p):
    pixels = min(_pixels_at_once(p), _images_at_once(p) * p.oh * p.ow)
    copies = _copy(p, conv_taps.forward_grid(p), p.c).elements
    return copies + _packed(p, p.og, pixels) + p.o * p.cg * p.kh * p.kw + threads.available() * _work_size(p)


def _gradient_cost(p):
    q, pixels = p.cg * p.kh * p.kw, p.n * p.oh * p.ow
    copy = conv_copy.cost(p, _copy(p, conv_taps.forward_grid(p), p.c))
    # With few pieces, threads wait for the last.
    pieces = _pieces(p, 1, q, p.og)
    idle = -(-pieces // threads.available()) * threads.available() / max(1, pieces)
    packing = _GRADIENT_PACK_COST * p.n * p.o * p.oh * p.ow
    return _product_cost(p, 1, q, p.og, pixels) * idle + copy + packing + _GRADIENT_COST


@kernel("conv2d_grad_weight/implicit/cpu", limit=1.0, cost=_gradient_cost, scratch=_gradient_scratch)
def grad_weight(p, x, gy, gw, scratch):
    grid = conv_taps.forward_grid(p)
    copy, several, pixels = _copy(p, grid, p.c), _images_at_once(p), p.oh * p.ow
    step = min(several * pixels, _pixels_at_once(p))
    copies, rest = scratch[: copy.elements], scratch[copy.elements :]
    u, rest = rest[: _packed(p, p.og, step)], rest[_packed(p, p.og, step) :]
    partial, work = rest[: gw.size], rest[gw.size :]
    q = p.cg * p.kh * p.kw
    sizes = np.array((1, p.groups, p.cg, p.og, 0, 0, 0, 0, 0, 0, q, 1), np.int64)
    places, qs = _gradient_layout(p, several)
    x, gy, none = x.reshape(-1), gy.reshape(-1), NO_BIAS[p.dtype]
    team = threads.team(p.flops, _pieces(p, 1, q, p.og))
    panel = _panel(p, p.og), _block(p, 1, q, p.og)
    target = gw.reshape(-1)
    for image in range(0, p.n, several):
        images = min(several, p.n - image)
        source = copies if copy.needed else x[image * copy.image :]
        if copy.needed:
            conv_copy.write(copy, team, x, image, images, grid, copies)
        for first in range(0, images * pixels, step):
            count = min(step, images * pixels - first)
            # Whole images, or a part of one.
            depth = pixels if count == images * pixels else count
            start = image * p.o * pixels + first
            parallel(_pack, team, gy, start, pixels, u, _panel(p, p.og), count // depth, p.groups, p.og, depth)
            args = (sizes, copy.plane, 0, 1, places[first : first + count], qs, work)
            parallel(_convolve, team, source, u, *panel, none, none, 0, target, *args)
            if target is partial:
                gw.reshape(-1)[:] += partial
            target = partial
    if not p.n * pixels:
        gw[:] = 0
