"""conv2d/winograd_row: convolution with Winograd's F(4, r) along rows, a plain sum over channels and a filter's rows.

    y[o, i, 4t…] = Aᵀ [ Σ_(c, a) (G w[o, c, a]) ⊙ (Bᵀ x[c, i·s + a, 4t…]) ]

A row of r taps takes r + 3 products for four outputs, not 4r. With outputs two apart, taps of either parity are a
filter of their own, of ⌈r/2⌉ and ⌊r/2⌋ taps: 7 taps take 13 products for 28. An input row is transformed once for all
rows of the filter that meet it, and the sum, over all places (c, a), is a matrix product for each of the P products of
a tile, so filters of few channels and many taps gain most, as in the first layers of networks.

A piece of work is a band of output rows of some images, with some of the output channels. Its transformed rows are
V[product][channel][remainder of the row][row // stride][image][tile]: however the filter's rows move, the tiles of all
rows and images follow each other, and no lane is lost to short rows. Then for each panel of TILE_ROWS output channels
and TILE_VECS vectors of tiles all P products are summed, transformed back and written.

The input gradient, of stride 1 along rows and columns, is the same with channels exchanged and taps reversed. Source:
S. Winograd, Arithmetic Complexity of Computations (1980); the matrices are winograd_matrices'.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import llvmlite.ir as ir
import numpy as np
from numba.core import types
from numba.extending import intrinsic

from fastconv import threads
from fastconv.kernels.cpu import emit
from fastconv.kernels.cpu.emit import I32, I64
from fastconv.kernels.cpu.epilogue import RELU, code_of, finish
from fastconv.kernels.cpu.gemm import NO_BIAS, by_vectors
from fastconv.kernels.cpu.host import LINE, TILE_ROWS, TILE_VECS, VECTOR_BYTES
from fastconv.kernels.cpu.jit import allocating, inner
from fastconv.kernels.cpu.simd import (
    add,
    at_least,
    flush_denormals,
    item,
    lanes,
    load,
    quotient,
    restore_denormals,
    splat,
    store,
    store_first,
    vec_of,
)
from fastconv.kernels.cpu.team import parallel, take
from fastconv.kernels.cpu.tiles import outer, row_offsets, spaced, store_whole, zeros
from fastconv.kernels.cpu.winograd_matrices import minimal, strided
from fastconv.kernels.cpu.winograd_transforms import (
    every,
    filters,
    floats,
    from_points,
    interleaved,
    to_points,
    turn_filters,
    u_plane,
)
from fastconv.problem import itemsize
from fastconv.registry import kernel

# Outputs of a tile.
TILE = 4

# Bytes of transformed rows that a piece of work has at most: with the weights they stay in a thread's L2.
_ROW_BYTES = 384 * 2**10

# Most bytes of scratch: of weights that nobody keeps, and of rows so long that one of a band takes more than that.
_MOST = 32 * 2**20

# Fewest pieces of work for each thread, so that they end together.
_PIECES = 4

# Filters' widths, by stride, and the fewest places (c, a) of a sum: beyond them the transforms round too much.
WIDTHS = {1: (2, 5), 2: (3, 9)}
FEWEST = 9


@lru_cache
def row_matrices(taps, step):
    return floats(minimal(TILE, taps) if step == 1 else strided(TILE, taps))


def products_of(taps, step):
    """P, the products of a tile."""
    return TILE + taps - 1 if step == 1 else 2 * TILE + taps - 2


@intrinsic
def _transform_row(typingctx, taps, step, x, at, low, high, v, to, plane):
    """v.flat[to + p·plane :] = product p's inputs of a vector of tiles; tile t's begin at x.flat[at + 4·t·step].

    Elements outside of low <= k < high, counted from x.flat[at], are zero and not read.
    """
    count, apart = len(taps), TILE * len(step)

    def codegen(context, b, sig, args):
        _, _, source, first, start, end, target, place, far = args
        vector = emit.vector(vec_of(sig.args[2]))
        width = vector.count
        # A tile's elements beyond its own are the next one's first.
        more = count - len(step)
        parts = []
        for k in range(apart + -(-more // width)):
            pointer = emit.pointer(context, b, sig.args[2], source, b.add(first, I64(k * width)))
            mask = emit.mask(b, width, b.sub(start, I64(k * width)), b.sub(end, I64(k * width)))
            parts.append(emit.masked_load(b, pointer, vector, mask))
        inputs = [every(b, parts[:apart], apart, j) for j in range(apart)]
        for j in range(more):
            following = b.extract_element(parts[apart + j // width], I32(j % width))
            inputs.append(_moved_up(b, inputs[j], following))
        _, _, data = row_matrices(count, len(step))
        for p, value in enumerate(to_points(b, data, inputs)):
            place_of_p = b.add(place, b.mul(far, I64(p)))
            emit.store(b, emit.pointer(context, b, sig.args[6], target, place_of_p), value)
        return context.get_dummy_value()

    intp = types.intp
    return types.void(taps, step, x, intp, intp, intp, v, intp, intp), codegen


def _moved_up(b, vector, last):
    """The vector without its first lane, and `last` as its last one."""
    count = vector.type.count
    lanes_up = ir.Constant(ir.VectorType(I32, count), [*range(1, count), 0])
    moved = b.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), lanes_up)
    return b.insert_element(moved, last, I32(count - 1))


@intrinsic
def _transform_back(typingctx, taps, step, products, at, plane, y, to):
    """y.flat[to + 4t + k] = output k of tile t of a vector, whose product p stands at products.flat[at + p·plane :]."""

    def codegen(context, b, sig, args):
        _, _, source, first, far, target, place = args
        vector = emit.vector(vec_of(sig.args[2]))
        output, _, _ = row_matrices(len(taps), len(step))
        values = []
        for p in range(len(output[0])):
            pointer = emit.pointer(context, b, sig.args[2], source, b.add(first, b.mul(far, I64(p))))
            values.append(emit.load(b, pointer, vector))
        for k, value in enumerate(interleaved(b, from_points(b, output, values))):
            pointer = emit.pointer(context, b, sig.args[5], target, b.add(place, I64(k * vector.count)))
            emit.store(b, pointer, value)
        return context.get_dummy_value()

    intp = types.intp
    return types.void(taps, step, products, intp, intp, y, intp), codegen


@intrinsic
def _transform_filters(typingctx, taps, step, w, at, tap_stride, u, to, plane):
    """u.flat[to + p·plane :] = product p's factors of one row of TILE_ROWS filters.

    Their taps t are at w.flat[at + t·tap_stride :], as `turn_filters` writes them.
    """

    def codegen(context, b, sig, args):
        _, _, source, first, tap_step, target, start, far = args
        _, weights, _ = row_matrices(len(taps), len(step))
        vectors = filters(context, b, sig.args[2], source, first, tap_step, len(taps))
        for p, value in enumerate(to_points(b, weights, vectors)):
            place = b.add(start, b.mul(far, I64(p)))
            emit.store(b, emit.pointer(context, b, sig.args[5], target, place), value)
        return context.get_dummy_value()

    intp = types.intp
    return types.void(taps, step, w, intp, intp, u, intp, intp), codegen


@inner
def _transform_rows(taps, step, x, at, in_h, in_w, top, left, rows, stride, across, images, image, tiles, v, to, plane):
    """V of one channel: `rows` input rows from row `top` on of each of `images` images, `image` elements apart."""
    width = lanes(x)
    apart = 4 * len(step)
    more = len(taps) - len(step)
    for remainder in range(stride):
        # In the order of memory: what a vector has beyond its row is written again by the next.
        place = to + remainder * across * images * tiles
        for row in range(remainder, rows, stride):
            y = top + row
            inside = y >= 0 and y < in_h
            for number in range(images):
                here = at + number * image + y * in_w + left
                for t in range(0, tiles, width):
                    # Elements of the row, counted from the vector's first.
                    low, high = -left - t * apart, in_w - left - t * apart
                    end = min(high, width * apart + more) if inside else low
                    _transform_row(taps, step, x, here + t * apart, low, end, v, place + t, plane)
                place += tiles


def _make_multiply(vecs):
    @inner
    def multiply(v, at, u, u_at, places, out, to, row):
        """out.flat[to + r·row :] = Σ_k u.flat[u_at + k·TILE_ROWS + r] · v.flat[at + places[k] :], `vecs` vectors."""
        tile = zeros(v, TILE_ROWS, vecs)
        rows = row_offsets(tile, TILE_ROWS, 1)
        for k in range(places.size):
            tile = outer(tile, u, u_at, rows, v, spaced(tile, at + item(places, k), lanes(v)))
            u_at += TILE_ROWS
        store_whole(tile, out, to, row, False)

    return multiply


_multiply = by_vectors(_make_multiply)


@inner
def _write(lines, at, line, first, count, tiles, images, rows, bias, bias_at, floor, z, code, y, to, sizes):
    """Write tiles first … first + count − 1 of `rows` output channels from `lines`, activated.

    to: where image 0 of the block begins in y, its row 0 of the band.
    """
    width = lanes(y)
    out_w, out_plane, out_image = sizes
    least = splat(y, floor)
    tile, end = first, first + count
    while tile < end:
        line_number = quotient(tile, tiles)
        i = quotient(line_number, images)
        t = tile - line_number * tiles
        length = min(tiles - t, end - tile)
        elements = min(4 * length, out_w - 4 * t)
        here = to + (line_number - i * images) * out_image + i * out_w + 4 * t
        source = at + 4 * (tile - first)
        for r in range(rows):
            shift = splat(y, bias[bias_at + r] if bias.size else y.dtype.type(0))
            for e in range(0, elements, width):
                value = at_least(add(load(lines, source + r * line + e), shift), least)
                if e + width <= elements:
                    store(y, here + r * out_plane + e, value)
                else:
                    store_first(y, here + r * out_plane + e, value, elements - e)
            if code or z.size:
                finish(y, here + r * out_plane, elements, z, code)
        tile += length


@allocating
def _convolve(counter, thread, taps, step, x, u, bias, floor, z, code, y, sizes, places, work):
    """One (group, block of images, band of rows, part of the output channels) after another until none is left."""
    state = flush_denormals()
    images, groups, sources, rows, in_h, in_w, out_h, out_w, top, left, height, stride, spacing = sizes[:13]
    tiles, several, blocks, band, bands, parts, panels, across, plane, size = sizes[13:23]
    width = lanes(x)
    products = (len(taps) + 3) if len(step) == 1 else (len(taps) + 6)
    depth, u_product = places.size, u_plane(places.size)
    row = TILE_VECS * width
    out_plane = TILE_ROWS * row + LINE
    # A thread's memory: V, one tile's products, and the lines they become.
    v_at = thread * size
    out_at = v_at + products * plane
    lines = out_at + products * out_plane
    image, out_size = groups * sources * in_h * in_w, groups * rows * out_h * out_w
    offsets = np.empty(depth, np.int64)
    held, here, count = -1, 0, 0
    while True:
        piece = take(counter, thread, groups * blocks * bands * parts)
        if piece < 0:
            break
        place = quotient(piece, parts)
        part = piece - place * parts
        rest = quotient(place, bands)
        group = quotient(rest, blocks)
        i, first = (place - rest * bands) * band, (rest - group * blocks) * several
        if place != held:
            here, count = min(several, images - first), min(band, out_h - i)
            need = (count - 1) * stride + (height - 1) * spacing + 1
            for k in range(depth):
                offsets[k] = places[k] * here * tiles
            for c in range(sources):
                at = first * image + (group * sources + c) * in_h * in_w
                to = v_at + c * stride * across * here * tiles
                _transform_rows(
                    taps, step, x, at, in_h, in_w, top + i * stride, left, need, stride, across, here, image, tiles,
                    work, to, plane,
                )  # fmt: skip
            held = place
        for panel in range(quotient(panels * part, parts), quotient(panels * (part + 1), parts)):
            r = panel * TILE_ROWS
            n = min(TILE_ROWS, rows - r)
            to = ((first * groups + group) * rows + r) * out_h * out_w + i * out_w
            u_at = (group * panels + panel) * products * u_product
            every_tile = count * here * tiles
            for tile in range(0, every_tile, row):
                left_over = every_tile - tile
                for p in range(products):
                    _multiply(
                        left_over, work, v_at + p * plane + tile, u, u_at + p * u_product, offsets, work,
                        out_at + p * out_plane, row,
                    )  # fmt: skip
                for o in range(n):
                    for k in range(0, min(row, left_over), width):
                        _transform_back(
                            taps, step, work, out_at + o * row + k, out_plane, work, lines + 4 * (o * row + k)
                        )
                _write(
                    work, lines, 4 * row, tile, min(row, left_over), tiles, here, n, bias, group * rows + r, floor,
                    z, code, y, to, (out_w, out_h * out_w, out_size),
                )  # fmt: skip
    restore_denormals(state)


@allocating
def transform_weights(counter, thread, taps, step, w, u, panels, layout):
    """u = [group][panel][product][channel][filter's row][TILE_ROWS], one panel after another until none is left."""
    state = flush_denormals()
    groups, rows, sources, height, row_stride, source_stride, backwards = layout
    products = (len(taps) + 3) if len(step) == 1 else (len(taps) + 6)
    plane, size = u_plane(sources * height), height * len(taps)
    turned = np.empty((size + lanes(w)) * TILE_ROWS, w.dtype)
    while True:
        piece = take(counter, thread, groups * panels)
        if piece < 0:
            break
        group = quotient(piece, panels)
        r = (piece - group * panels) * TILE_ROWS
        n = min(TILE_ROWS, rows - r)
        first = group * rows * sources * size + r * row_stride
        for c in range(sources):
            turn_filters(w, first + c * source_stride, row_stride, n, source_stride, 1, size, turned)
            for a in range(height):
                # Backwards the taps are read from the last one on.
                at, tap_stride = a * len(taps), TILE_ROWS
                if backwards:
                    at, tap_stride = size - 1 - at, -TILE_ROWS
                to = piece * products * plane + (c * height + a) * TILE_ROWS
                _transform_filters(taps, step, turned, at * TILE_ROWS, tap_stride, u, to, plane)
    restore_denormals(state)


@dataclass(frozen=True, eq=False)
class _Plan:
    """What of a problem is worked out once.

    tuples: taps and step, which say their number by their length; sizes and places: _convolve's; layout:
    transform_weights'. work: elements of scratch of all threads; weights: of U; panels: of a group; pieces: of work;
    vectors: of tiles multiplied for each panel, products and steps of a sum; rows: transformed, in vectors.
    """

    tuples: tuple
    sizes: np.ndarray
    places: np.ndarray
    layout: np.ndarray
    work: int
    weights: int
    panels: int
    pieces: int
    vectors: float
    rows: float


def geometry(p, backwards):
    """What a forward convolution, or its input gradient if `backwards`, is as a sum over places; and of its weights.

    (channels summed and written of a group, height and width read and written, place of the first tap's first element),
    and transform_weights' layout.
    """
    taps = p.kh * p.kw
    if backwards:
        top, left = p.padding[0] - (p.kh - 1) * p.dilation[0], p.padding[2] - (p.kw - 1)
        layout = (p.groups, p.cg, p.og, p.kh, taps, taps * p.cg, 1)
        return (p.og, p.cg, p.oh, p.ow, p.h, p.w, top, left), np.array(layout, np.int64)
    layout = (p.groups, p.og, p.cg, p.kh, taps * p.cg, taps, 0)
    return (p.cg, p.og, p.h, p.w, p.oh, p.ow, -p.padding[0], -p.padding[2]), np.array(layout, np.int64)


@lru_cache(maxsize=1024)
def _plan(p, backwards):
    """The plan of a forward convolution, or of its input gradient if `backwards`."""
    (sources, rows, in_h, in_w, out_h, out_w, top, left), layout = geometry(p, backwards)
    stride, step, spacing = *p.stride, p.dilation[0]
    width, products = VECTOR_BYTES // itemsize(p.dtype), products_of(p.kw, step)
    tiles, panels = max(1, -(-out_w // TILE)), -(-rows // TILE_ROWS)
    images = max(1, p.n)

    def across(band):
        """Rows of V of each remainder."""
        return -(-((band - 1) * stride + (p.kh - 1) * spacing + 1) // stride)

    def fits(band, several):
        elements = products * sources * stride * across(band) * several * tiles
        return elements * itemsize(p.dtype) <= _ROW_BYTES

    # Whole images as long as there are pieces for all threads, else bands of one.
    wanted = _PIECES * threads.available()
    band, several = max(1, out_h), 1
    while several < images and fits(band, several + 1) and p.groups * -(-images // (several + 1)) >= wanted:
        several += 1
    while band > 1 and (not fits(band, several) or (p.groups * images * -(-out_h // band) < wanted and band > p.kh)):
        band -= 1
    blocks, bands = -(-images // several), max(1, -(-out_h // band))
    band = max(1, -(-out_h // bands))
    parts = min(panels, max(1, -(-wanted // (p.groups * blocks * bands))))
    size_of_plane = sources * stride * across(band) * several * tiles
    # An odd number of cache lines apart, so that streams do not meet in one set of the cache.
    plane = -(-(size_of_plane + 2 * width) // (2 * LINE)) * 2 * LINE + LINE
    row = TILE_VECS * width
    size = products * (plane + TILE_ROWS * row + LINE) + TILE * TILE_ROWS * row
    sizes = (p.n, p.groups, sources, rows, in_h, in_w, out_h, out_w, top, left, p.kh, stride, spacing)
    cut = (tiles, several, blocks, band, bands, parts, panels, across(band), plane, size)
    taps = np.arange(p.kh) * spacing
    places = (np.arange(sources)[:, None] * stride + taps % stride) * across(band) + taps // stride
    return _Plan(
        tuples=((0,) * p.kw, (0,) * step),
        sizes=np.array(sizes + cut, np.int64),
        places=places.reshape(-1).astype(np.int64),
        layout=layout,
        work=threads.available() * size,
        weights=p.groups * panels * products * u_plane.py_func(sources * p.kh),
        panels=panels,
        pieces=p.groups * blocks * bands * parts,
        vectors=p.groups * images * bands * (-(-band * tiles // width)) * panels * products,
        rows=p.groups * images * bands * parts * across(band) * stride * sources * -(-tiles // width),
    )


def prepare(plan, w, u):
    """u = the transformed weights of the plan's kernel."""
    team = threads.team(100.0 * w.size, plan.panels)
    parallel(transform_weights, team, *plan.tuples, w.reshape(-1), u, plan.panels, plan.layout)


def _run(p, plan, x, w, b, z, y, scratch, u):
    code, floor = code_of(p), y.dtype.type(-np.inf)
    if code == RELU and not p.add:
        code, floor = 0, y.dtype.type(0)
    if u is None:
        u = scratch[plan.work :]
        prepare(plan, w, u)
    team = threads.team(p.flops, plan.pieces)
    args = (u, b, floor, z.reshape(-1), code, y.reshape(-1), plan.sizes, plan.places, scratch[: plan.work])
    parallel(_convolve, team, *plan.tuples, x.reshape(-1), *args)


def _unsupported(p, backwards):
    widths = WIDTHS.get(p.stride[1])
    if widths is None:
        return f"stride {p.stride}, needs 1 or 2 along rows"
    if backwards and p.stride != (1, 1):
        return f"stride {p.stride}, needs 1"
    if not widths[0] <= p.kw <= widths[1]:
        return f"kernel {p.kh}×{p.kw}, needs {widths[0]} to {widths[1]} columns with stride {p.stride[1]} along rows"
    if p.dilation[1] != 1:
        return f"dilation {p.dilation}, needs 1 along rows"
    channels = p.og if backwards else p.cg
    if channels * p.kh < FEWEST:
        return f"sums over {channels} channels × {p.kh} rows, needs {FEWEST}"
    size = (_plan(p, backwards).work + _plan(p, backwards).weights) * itemsize(p.dtype)
    return f"{size >> 20} MiB of scratch, needs at most {_MOST >> 20}" if size > _MOST else None


# Flops' worth of time, measured: transforming a vector of tiles for one product; storing a vector of one product's
# sums; transforming one back, and its outputs' way to memory; a weight.
_INPUT_COST = 340.0
_SUM_COST = 320.0
_OUTPUT_COST = 155.0
WEIGHT_COST = 35.0


def _cost(p, backwards):
    plan = _plan(p, backwards)
    width, products = VECTOR_BYTES // itemsize(p.dtype), products_of(p.kw, p.stride[1])
    multiply = (2.0 * width * plan.places.size + _SUM_COST) * plan.vectors * TILE_ROWS
    back = _OUTPUT_COST * plan.vectors / products * (p.cg if backwards else p.og) / plan.panels
    return multiply + back + _INPUT_COST * plan.rows * products + WEIGHT_COST * plan.weights + 60_000


def register(algorithm, plan_of, cost, unsupported, run):
    """The forward convolution and the input gradient as kernels of this name.

    plan_of(p, backwards) has tuples, layout, panels and weights for `prepare`, and work, the scratch of all threads;
    run(p, plan, x, w, b, z, y, scratch, u) does one of the two.
    """

    def of(op, backwards):
        return kernel(
            f"{op}/{algorithm}/cpu",
            limit=1.0,
            spread=TILE - 1,
            cost=lambda p: cost(p, backwards),
            scratch=lambda p: plan_of(p, backwards).work + plan_of(p, backwards).weights,
            unsupported=lambda p: unsupported(p, backwards),
            prepare=lambda p, w, u: prepare(plan_of(p, backwards), w, u),
            prepared=lambda p: plan_of(p, backwards).weights,
            prepare_cost=lambda p: WEIGHT_COST * plan_of(p, backwards).weights,
        )

    @of("conv2d", False)
    def forward(p, x, w, b, z, y, scratch, u=None):
        run(p, plan_of(p, False), x, w, b, z, y, scratch, u)

    @of("conv2d_grad_input", True)
    def grad_input(p, gy, w, gx, scratch, u=None):
        none = NO_BIAS[p.dtype]
        run(p, plan_of(p, True), gy, w, none, none, gx, scratch, u)


register("winograd_row", _plan, _cost, _unsupported, _run)
