"""conv2d/winograd_batch: Winograd's F(4, r) along rows with images in the lanes, for small maps of many images.

The sums are conv_winograd_row's, r + 3 products for four outputs of a filter's row of r taps; the lanes conv_batch's.
A piece of work is as many images as a vector has lanes: turn a plane so that a vector is one element of all of them,
and transform its rows, V[product][channel][row][tile][image], which takes no shuffles; for each panel of output
channels multiply and transform back; turn the outputs back. Rows of the filter outside of the source are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from fastconv import threads
from fastconv.kernels.cpu import emit
from fastconv.kernels.cpu.conv_batch import FEW_ROWS, PIXELS, PLANES, turn, write
from fastconv.kernels.cpu.conv_winograd_row import (
    FEWEST,
    TILE,
    WEIGHT_COST,
    WIDTHS,
    geometry,
    prepare,
    register,
    row_matrices,
)
from fastconv.kernels.cpu.emit import I64
from fastconv.kernels.cpu.epilogue import code_of, finish
from fastconv.kernels.cpu.host import TILE_ROWS, TILE_VECS, VECTOR_BYTES, VECTOR_REGISTERS
from fastconv.kernels.cpu.jit import inner, njit
from fastconv.kernels.cpu.simd import flush_denormals, lanes, restore_denormals, splat, vec_of
from fastconv.kernels.cpu.team import parallel, take
from fastconv.kernels.cpu.tiles import outer, row_offsets, spaced, store_whole, zeros
from fastconv.kernels.cpu.winograd_transforms import from_points, to_points, u_plane
from fastconv.problem import itemsize

# Vectors of a lower tile, for few output channels such as LeNet-5's six.
_FEW_VECS = TILE_VECS + 1 if VECTOR_REGISTERS == 32 else TILE_VECS


@intrinsic
def _transform(typingctx, taps, x, at, v, to, plane):
    """v.flat[to + p·plane :] = product p's inputs, of vectors at x.flat[at:] that follow each other."""

    def codegen(context, b, sig, args):
        _, source, first, target, place, far = args
        vector = emit.vector(vec_of(sig.args[1]))
        _, _, data = row_matrices(len(taps), 1)
        inputs = []
        for k in range(len(data)):
            pointer = emit.pointer(context, b, sig.args[1], source, b.add(first, I64(k * vector.count)))
            inputs.append(emit.load(b, pointer, vector))
        for p, value in enumerate(to_points(b, data, inputs)):
            place_of_p = b.add(place, b.mul(far, I64(p)))
            emit.store(b, emit.pointer(context, b, sig.args[3], target, place_of_p), value)
        return context.get_dummy_value()

    intp = types.intp
    return types.void(taps, x, intp, v, intp, intp), codegen


@intrinsic
def _transform_back(typingctx, taps, products, at, plane, shift, y, to):
    """y.flat[to:] = TILE vectors that follow each other: outputs of the products at products.flat[at + p·plane :]."""

    def codegen(context, b, sig, args):
        _, source, first, far, added, target, place = args
        vector = emit.vector(vec_of(sig.args[1]))
        output, _, _ = row_matrices(len(taps), 1)
        values = []
        for p in range(len(output[0])):
            pointer = emit.pointer(context, b, sig.args[1], source, b.add(first, b.mul(far, I64(p))))
            values.append(emit.load(b, pointer, vector))
        for k, value in enumerate(from_points(b, output, values)):
            pointer = emit.pointer(context, b, sig.args[5], target, b.add(place, I64(k * vector.count)))
            emit.store(b, pointer, b.fadd(value, added))
        return context.get_dummy_value()

    intp = types.intp
    return types.void(taps, products, intp, intp, shift, y, intp), codegen


def _make_multiply(most, vecs):
    @inner
    def multiply(v, at, row, plane, sources, first, last, u, u_at, height, out, to):
        """out.flat[to:] = [channel][vector] of the sums over channels and the filter's rows first … last − 1."""
        tile = zeros(v, most, vecs)
        rows = row_offsets(tile, most, 1)
        for c in range(sources):
            for a in range(first, last):
                places = spaced(tile, at + c * plane + a * row, lanes(v))
                tile = outer(tile, u, u_at + (c * height + a) * TILE_ROWS, rows, v, places)
        store_whole(tile, out, to, vecs * lanes(v), False)

    return multiply


_all, _few = _make_multiply(TILE_ROWS, TILE_VECS), _make_multiply(FEW_ROWS, _FEW_VECS)
_one, _few_one = _make_multiply(TILE_ROWS, 1), _make_multiply(FEW_ROWS, 1)


@njit
def _convolve(counter, thread, taps, x, u, bias, z, code, y, sizes, firsts, lasts, work):
    """One (block of images, group) after another until none is left."""
    state = flush_denormals()
    images, groups, sources, rows, in_h, in_w, out_h, out_w, top, left, shift, line, height, spacing = sizes[:14]
    tiles, few, step, elements = sizes[14:]
    size = lanes(x)
    products, tile_outputs = len(taps) + 3, 4
    row = tiles * size
    plane, pixels = in_h * row, out_h * out_w
    panels, u_product = (rows + TILE_ROWS - 1) // TILE_ROWS, u_plane(sources * height)
    # A thread's memory: one turned plane, V, the products of a tile, and the sums of a panel.
    turned = thread * elements
    v_at = turned + (in_h * line + size) * size
    v_plane = sources * plane
    out_at = v_at + products * v_plane
    out_plane = TILE_ROWS * step * size
    sums = out_at + products * out_plane
    sum_row = (pixels + size + tile_outputs) * size
    while True:
        piece = take(counter, thread, (images + size - 1) // size * groups)
        if piece < 0:
            break
        image, group = piece // groups * size, piece % groups
        count = min(size, images - image)
        for c in range(sources):
            source = ((image * groups + group) * sources + c) * in_h * in_w
            turn(x, source, groups * sources * in_h * in_w, count, in_h, in_w, left, line, work, turned)
            for i in range(in_h):
                for t in range(tiles):
                    at = turned + (i * line + shift + t * tile_outputs) * size
                    _transform(taps, work, at, work, v_at + c * plane + i * row + t * size, v_plane)
        for panel in range(panels):
            r = panel * TILE_ROWS
            n = min(TILE_ROWS, rows - r)
            u_at = (group * panels + panel) * products * u_product
            for i in range(out_h):
                for t in range(0, tiles, step):
                    # A row's last tiles end with it, and are computed again where they are there already.
                    first = min(t, tiles - step)
                    for p in range(products):
                        args = (
                            work, v_at + p * v_plane + (i + top) * row + first * size, spacing * row, plane, sources,
                            firsts[i], lasts[i], u, u_at + p * u_product, height, work,
                            out_at + p * out_plane,
                        )  # fmt: skip
                        if few and step > 1:
                            _few(*args)
                        elif few:
                            _few_one(*args)
                        elif step > 1:
                            _all(*args)
                        else:
                            _one(*args)
                    for o in range(n):
                        value = splat(y, bias[group * rows + r + o] if bias.size else y.dtype.type(0))
                        for k in range(step):
                            # In order: what a row's last tile has beyond it is written again by the next row.
                            to = sums + o * sum_row + (i * out_w + (first + k) * tile_outputs) * size
                            _transform_back(taps, work, out_at + (o * step + k) * size, out_plane, value, work, to)
            target = ((image * groups + group) * rows + r) * pixels
            write(work, sums, sum_row, n, count, pixels, y, target, pixels, groups * rows * pixels)
            if code or z.size:
                for k in range(count):
                    for o in range(n):
                        finish(y, target + (k * groups * rows + o) * pixels, pixels, z, code)
    restore_denormals(state)


@dataclass(frozen=True, eq=False)
class _Plan:
    """What of a problem is worked out once.

    tuples: taps and step, as conv_winograd_row's; sizes, firsts and lasts: _convolve's; layout: transform_weights'.
    work: elements of scratch of all threads; weights: of U; panels: of a group; blocks: of images, of all groups.
    """

    tuples: tuple
    sizes: np.ndarray
    firsts: np.ndarray
    lasts: np.ndarray
    layout: np.ndarray
    work: int
    weights: int
    panels: int
    blocks: int


@lru_cache(maxsize=1024)
def _plan(p, backwards):
    """The plan of a forward convolution, or of its input gradient if `backwards`."""
    (sources, rows, in_h, in_w, out_h, out_w, top, before), layout = geometry(p, backwards)
    spacing = p.dilation[0]
    size = VECTOR_BYTES // itemsize(p.dtype)
    tiles, panels, products = max(1, -(-out_w // TILE)), -(-rows // TILE_ROWS), TILE + p.kw - 1
    left = max(0, -before)
    shift = before + left
    line = max(left + in_w, shift + tiles * TILE + p.kw - 1)
    few = rows <= FEW_ROWS
    vecs = _FEW_VECS if few else TILE_VECS
    step = vecs if tiles >= vecs else 1
    reads = np.arange(out_h)[:, None] + top + np.arange(p.kh) * spacing
    inside = (reads >= 0) & (reads < in_h)
    firsts = np.where(inside.any(1), inside.argmax(1), 0)
    elements = (in_h * line + size) * size + products * sources * in_h * tiles * size
    elements += products * TILE_ROWS * step * size + TILE_ROWS * (out_h * out_w + size + TILE) * size
    sizes = (p.n, p.groups, sources, rows, in_h, in_w, out_h, out_w, top, left, shift, line, p.kh, spacing)
    return _Plan(
        tuples=((0,) * p.kw, (0,)),
        sizes=np.array((*sizes, tiles, few, step, elements), np.int64),
        firsts=firsts.astype(np.int64),
        lasts=(firsts + inside.sum(1)).astype(np.int64),
        layout=layout,
        work=threads.available() * elements,
        weights=p.groups * panels * products * u_plane.py_func(sources * p.kh),
        panels=panels,
        blocks=-(-p.n // size) * p.groups,
    )


def _run(p, plan, x, w, b, z, y, scratch, u):
    if u is None:
        u = scratch[plan.work :]
        prepare(plan, w, u)
    team = threads.team(p.flops, plan.blocks)
    args = (z.reshape(-1), code_of(p), y.reshape(-1), plan.sizes, plan.firsts, plan.lasts, scratch[: plan.work])
    parallel(_convolve, team, plan.tuples[0], x.reshape(-1), u, b, *args)


def _unsupported(p, backwards):
    if p.stride != (1, 1):
        return f"stride {p.stride}, needs 1"
    if not WIDTHS[1][0] <= p.kw <= WIDTHS[1][1]:
        return f"kernel {p.kh}×{p.kw}, needs {WIDTHS[1][0]} to {WIDTHS[1][1]} columns"
    if p.dilation[1] != 1:
        return f"dilation {p.dilation}, needs 1 along rows"
    sources, in_h, pixels = (p.og, p.oh, p.h * p.w) if backwards else (p.cg, p.h, p.oh * p.ow)
    if sources * p.kh < FEWEST:
        return f"sums over {sources} channels × {p.kh} rows, needs {FEWEST}"
    tiles = -(-(p.w if backwards else p.ow) // TILE)
    values = (TILE + p.kw - 1) * sources * in_h * tiles
    if values > PLANES:
        return f"{values} transformed elements in a group of an image, needs at most {PLANES}"
    return f"output planes of {pixels} elements, needs at most {PIXELS}" if pixels > PIXELS else None


# Flops' worth of time, measured: turning a vector, transforming one for a product, a product's tile of sums, and a
# vector transformed back for a product.
_TURN_COST = 450
_INPUT_COST = 100
_TILE_COST = 1_500
_OUTPUT_COST = 100


def _cost(p, backwards):
    plan, products = _plan(p, backwards), TILE + p.kw - 1
    size = VECTOR_BYTES // itemsize(p.dtype)
    sources, rows, in_h, _, out_h, out_w, _, _, _, line = (int(value) for value in plan.sizes[2:12])
    tiles, few, step = (int(value) for value in plan.sizes[14:17])
    chunks, high = -(-tiles // step), FEW_ROWS if few else TILE_ROWS
    steps = chunks * float((plan.lasts - plan.firsts).sum()) * sources * products * plan.panels
    # Tiles of one vector wait for loads.
    one = steps * 2.1 * high * step * size * (1.0 if step > 1 else 1.5)
    one += chunks * out_h * products * plan.panels * _TILE_COST
    one += products * tiles * (_INPUT_COST * sources * in_h + _OUTPUT_COST * rows * out_h)
    one += _TURN_COST * (sources * in_h * line + rows * out_h * out_w)
    idle = -(-plan.blocks // threads.available()) * threads.available() / max(1, plan.blocks)
    return idle * plan.blocks * one + WEIGHT_COST * plan.weights + 60_000


register("winograd_batch", _plan, _cost, _unsupported, _run)
