"""conv2d/winograd_f2, _f4, _f6: 3×3 convolution of stride 1 with (m + 2)² products for every m×m outputs.

    y = Aᵀ [ Σ_c (G w_c Gᵀ) ⊙ (Bᵀ x_c B) ] A      for each m×m tile of outputs, m = 2, 4, 6

With stride 2 it is (2m + 1)² products, for m = 2 and 4: see winograd_matrices. The sum over channels is a matrix
product for each place of a transformed tile: U (output channels × channels) times V (channels × tiles). Tiles,
numbered through images, rows and columns, fill the lanes; output channels are broadcast. A piece of work is a region
of at most 3 vectors + 1 tiles and some of the output channels: transform the region's inputs for all channels, then
for one panel of TILE_ROWS output channels after another multiply and transform back, so that what lies between x and y
stays in the thread's cache.

The one tile beyond whole vectors costs a 24th: maps of 28·2^k have 49·4^k tiles of 4×4.

The input gradient is the same with w's channels exchanged and its taps reversed; with stride 2 its tiles are 2m×2m
outputs, the first of which meets tap 1; the weight gradient is in conv_winograd_weight. Weights are transformed once
(`prepare`): [group][panel][place][channel][TILE_ROWS]. Source: A. Lavin and S. Gray, Fast Algorithms for Convolutional
Neural Networks (2015).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fastconv import threads
from fastconv.kernels.cpu.epilogue import RELU, code_of, finish
from fastconv.kernels.cpu.gemm import NO_BIAS
from fastconv.kernels.cpu.host import LINE, MASKS, TILE_ROWS, TILE_VECS, VECTOR_BYTES
from fastconv.kernels.cpu.jit import allocating, inner
from fastconv.kernels.cpu.simd import (
    flush_denormals,
    lanes,
    load,
    load_range,
    order_stores,
    prefetch,
    prefetch_to_write,
    quotient,
    restore_denormals,
    splat,
    store,
    store_first,
)
from fastconv.kernels.cpu.team import parallel, take
from fastconv.kernels.cpu.winograd_transforms import (
    address,
    multiply,
    transform_input,
    transform_output,
    transform_weights,
    turn_filters,
    u_plane,
)
from fastconv.problem import itemsize
from fastconv.registry import kernel

# What one transform does is two halves of a vector of tiles, each a run of tiles in one row of tiles. Known of a half:
# its first tile's number in the region; where its input begins in a first channel, which of its elements and lines are
# inside, and its first line; where its output begins in a first channel, how many elements and lines that has.
_TILE, _SOURCE, _LOW, _HIGH, _Y, _TARGET, _ELEMENTS, _LINES = range(8)
_HALF = 8

# Most bytes of transformed weights at a time when nobody keeps them.
_WEIGHT_BYTES = 16 * 2**20

# What F(m×m, 3×3) may be off by at most, in the units of fastconv.testing.error.
LIMITS = {2: 1.0, 4: 3.0, 6: 25.0}

# Channels of a panel's filters that are turned at a time.
_SOURCES = 16

# Bytes of an output that is written past the cache.
_PAST_THE_CACHE = 10 * 2**20

# Channels summed up before they are added to those before them: short sums of short sums round less than one long one.
DEPTH = 128

# As many elements as a tile has vectors, which is what the length of a tuple says.
_MOST = (0,) * TILE_VECS


@inner
def _list_halves(tile, step, overlap, halves, first, count, width, tiles_y, tiles_x, source, target):
    """Write the halves of tiles first … first + count − 1 into `halves`; returns how many.

    source: channels, height, width, and the first tile's line and column; target: channels, height, width.
    """
    channels, in_h, in_w, top, left = source
    rows, out_h, out_w = target
    m, apart = len(tile), len(step)
    number, next_tile, end = 0, first, first + count
    while next_tile < end:
        row = quotient(next_tile, tiles_x)
        image = quotient(row, tiles_y)
        tx, ty = next_tile - row * tiles_x, row - image * tiles_y
        length = min(end - next_tile, width >> 1, tiles_x - tx)
        y, x = top + ty * apart, left + tx * apart
        at = number * _HALF
        halves[at + _TILE] = next_tile - first
        halves[at + _SOURCE] = (image * channels * in_h + y) * in_w + x
        halves[at + _LOW], halves[at + _HIGH] = -x, min(in_w - x, length * apart + len(overlap))
        halves[at + _Y] = y
        halves[at + _TARGET] = (image * rows * out_h + ty * m) * out_w + tx * m
        halves[at + _ELEMENTS], halves[at + _LINES] = min(length * m, out_w - tx * m), min(m, out_h - ty * m)
        number += 1
        next_tile += length
    return number


@inner
def _copy_half(x, corner, low, high, y, in_w, in_h, lines, buffer, at, line):
    """buffer.flat[at + i·line + k] = element k of line i of a half at x.flat[corner], zero outside, for k < line."""
    width = lanes(x)
    for i in range(lines):
        inside = y + i >= 0 and y + i < in_h
        for k in range(0, line, width):
            last = high - k if inside else low - k
            store(buffer, at + i * line + k, load_range(x, corner + i * in_w + k, low - k, last))


@inner
def _transform_region(
    tile, step, overlap, x, at, sources, in_h, in_w, halves, count, v, v_at, v_row, v_plane, buffer, line
):
    """V of the tiles of `halves`: `sources` channels of x from x.flat[at] on."""
    lines, plane = len(step) + len(overlap), in_h * in_w
    for c in range(sources):
        here, to = at + c * plane, v_at + c * v_row
        for k in range(0, count, 2):
            # Where there is no second half, the first one takes its place.
            i, j = k * _HALF, min(k + 1, count - 1) * _HALF
            # The same lines of the next channel, too far away for the processor to foresee.
            for half in (i, j):
                for r in range(lines):
                    for u in range(0, halves[half + _HIGH], LINE):
                        prefetch(x, here + plane + halves[half + _SOURCE] + r * in_w + u)
            corner, low, high, y = here + halves[i + _SOURCE], halves[i + _LOW], halves[i + _HIGH], halves[i + _Y]
            corner_2, low_2, high_2 = here + halves[j + _SOURCE], halves[j + _LOW], halves[j + _HIGH]
            y_2, t, t_2 = halves[j + _Y], to + halves[i + _TILE], to + halves[j + _TILE]
            first, second, stride = address(x, corner), address(x, corner_2), in_w
            if not MASKS:
                _copy_half(x, corner, low, high, y, in_w, in_h, lines, v, buffer, line)
                _copy_half(x, corner_2, low_2, high_2, y_2, in_w, in_h, lines, v, buffer + lines * line, line)
                first, second, stride = address(v, buffer), address(v, buffer + lines * line), line
            transform_input(
                tile, step, overlap, first, low, high, y, second, low_2, high_2, y_2, stride, in_h, v, t, t_2, v_plane
            )


@inner
def _multiply(tiles, u, u_at, v, v_at, v_row, depth, out, to, row):
    """out.flat[to + r·row :] = Σ_c u.flat[u_at + c·TILE_ROWS + r] · v.flat[v_at + c·v_row :] for `tiles` tiles."""
    width, u_row = lanes(v), TILE_ROWS
    for start in range(0, depth, DEPTH):
        steps = min(DEPTH, depth - start)
        args = (u, u_at + start * u_row, u_row, v, v_at + start * v_row, v_row, steps, out, to, row)
        if tiles > TILE_VECS * width:
            multiply(_MOST, (0,), *args, start > 0)
        elif TILE_VECS == 3 and tiles > 2 * width:
            multiply((0, 0, 0), (), *args, start > 0)
        elif tiles > width:
            multiply((0, 0), (), *args, start > 0)
        else:
            multiply((0,), (), *args, start > 0)


@inner
def _copy_out(products, buffer, line, y, to, elements, lines, out_w):
    width = lanes(y)
    for i in range(lines):
        for u in range(0, elements, width):
            store_first(y, to + i * out_w + u, load(products, buffer + i * line + u), elements - u)


@inner
def _store_region(
    tile, step, products, at, row, plane, bias, bias_at, floor, z, code, y, target, halves, count, rows, out_h, out_w,
    past, buffer, line,
):  # fmt: skip
    """Transform `rows` output channels of a region back, add their bias, and z, and write them, activated.

    target: where the first of them begins in y.
    """
    m = len(tile)
    least = splat(y, floor)
    for r in range(rows):
        shift = splat(y, y.dtype.type(0))
        if bias.size:
            shift = splat(y, bias[bias_at + r])
        here, channel = at + r * row, target + r * out_h * out_w
        for k in range(0, count, 2):
            i, j = k * _HALF, min(k + 1, count - 1) * _HALF
            to, elements, lines = channel + halves[i + _TARGET], halves[i + _ELEMENTS], halves[i + _LINES]
            to_2, elements_2, lines_2 = channel + halves[j + _TARGET], halves[j + _ELEMENTS], halves[j + _LINES]
            first, second, stride = address(y, to), address(y, to_2), out_w
            if not MASKS:
                first, second, stride = address(products, buffer), address(products, buffer + m * line), line
            transform_output(
                tile, step, products, here + halves[i + _TILE], here + halves[j + _TILE], plane, shift, least,
                first, elements, lines, second, elements_2, lines_2, stride, past,
            )  # fmt: skip
            if not MASKS:
                _copy_out(products, buffer, line, y, to, elements, lines, out_w)
                _copy_out(products, buffer + m * line, line, y, to_2, elements_2, lines_2, out_w)
        if code or z.size:
            for k in range(0, count * _HALF, _HALF):
                for i in range(halves[k + _LINES]):
                    finish(y, channel + halves[k + _TARGET] + i * out_w, halves[k + _ELEMENTS], z, code)


@inner
def _expect(y, target, halves, count, first, end, out_h, out_w):
    """Ask for the memory that `_store_region` will write of output channels first … end − 1 after y.flat[target]."""
    for r in range(first, end):
        for half in range(0, count * _HALF, _HALF):
            to = target + r * out_h * out_w + halves[half + _TARGET]
            for i in range(halves[half + _LINES]):
                for u in range(0, halves[half + _ELEMENTS], LINE):
                    prefetch_to_write(y, to + i * out_w + u)


@allocating
def _convolve(counter, thread, tile, step, overlap, x, u, first_panel, panels, bias, floor, z, code, y, sizes, work):
    """One (group, region, part of the output channels) after another until none is left.

    Output channels are those of `panels` panels from first_panel on; u holds just their weights.
    """
    state = flush_denormals()
    images, groups, sources, rows, in_h, in_w, out_h, out_w, top, left = sizes[:10]
    tiles_y, tiles_x, tiles, regions, parts, v_plane, out_row, out_plane, size = sizes[10:19]
    past = sizes[19] > 0
    width, v_row = lanes(x), tiles
    side = max(len(tile), len(step)) + len(overlap)
    places, u_place = side * side, u_plane(sources)
    every = images * tiles_y * tiles_x
    # A thread's memory: V, one panel's products, and a buffer of lines.
    v_at = thread * size
    out_at = v_at + places * v_plane
    buffer, line = out_at + places * out_plane, _line(max(len(tile), len(step)), width)
    halves = np.empty(_HALF * tiles, np.int64)
    held, count = -1, 0
    while True:
        piece = take(counter, thread, groups * regions * parts)
        if piece < 0:
            break
        place = quotient(piece, parts)
        group = quotient(place, regions)
        part, region = piece - place * parts, place - group * regions
        here = min(tiles, every - region * tiles)
        if place != held:
            source, target = (groups * sources, in_h, in_w, top, left), (groups * rows, out_h, out_w)
            count = _list_halves(
                tile, step, overlap, halves, region * tiles, here, width, tiles_y, tiles_x, source, target
            )
            at = group * sources * in_h * in_w
            _transform_region(
                tile, step, overlap, x, at, sources, in_h, in_w, halves, count, work, v_at, v_row, v_plane, buffer, line
            )
            held = place
        for panel in range(quotient(panels * part, parts), quotient(panels * (part + 1), parts)):
            r = group * rows + (first_panel + panel) * TILE_ROWS
            n = min(TILE_ROWS, rows - (first_panel + panel) * TILE_ROWS)
            to = r * out_h * out_w
            asked = 0 if past else n
            u_at = (group * panels + panel) * places * u_place
            for k in range(places):
                _expect(
                    y, to, halves, count, quotient(asked * k, places), quotient(asked * (k + 1), places), out_h, out_w
                )
                product = out_at + k * out_plane
                _multiply(here, u, u_at, work, v_at + k * v_plane, v_row, sources, work, product, out_row)
                u_at += u_place
            _store_region(
                tile, step, work, out_at, out_row, out_plane, bias, r, floor, z, code, y, to, halves, count, n, out_h,
                out_w, past, buffer, line,
            )  # fmt: skip
    order_stores()
    restore_denormals(state)


@allocating
def _transform_weights(counter, thread, tile, step, overlap, w, u, first_panel, panels, layout):
    """u = U of `panels` panels of every group from first_panel on, one panel after another until none is left."""
    state = flush_denormals()
    groups, rows, sources, row_stride, source_stride, backwards = layout
    side = max(len(tile), len(step)) + len(overlap)
    places, plane = side * side, u_plane(sources)
    turned = np.empty((9 * _SOURCES + lanes(w)) * TILE_ROWS, w.dtype)
    # Backwards the nine taps are read from the last one on.
    first_tap, tap_stride = (8 * TILE_ROWS, -TILE_ROWS) if backwards else (0, TILE_ROWS)
    while True:
        piece = take(counter, thread, groups * panels)
        if piece < 0:
            break
        group = quotient(piece, panels)
        r = (first_panel + piece - group * panels) * TILE_ROWS
        n = min(TILE_ROWS, rows - r)
        first = group * rows * sources * 9 + r * row_stride
        for start in range(0, sources, _SOURCES):
            count = min(_SOURCES, sources - start)
            turn_filters(w, first + start * source_stride, row_stride, n, source_stride, count, 9, turned)
            for c in range(count):
                to, at = piece * places * plane + (start + c) * TILE_ROWS, 9 * c * TILE_ROWS + first_tap
                transform_weights(tile, step, turned, at, tap_stride, u, to, plane)
    restore_denormals(state)


@dataclass(frozen=True, eq=False)
class _Plan:
    """What of a problem is worked out once.

    tuples: tile, step and overlap, see winograd_transforms. sizes: _convolve's; layout: _transform_weights'. work:
    elements of scratch of all threads; panel: elements of U of one panel of all groups; panels: of a group; at_once:
    how many are transformed and used at a time when nobody keeps U; pieces: of work; vectors: of tiles multiplied for
    each panel.
    """

    tuples: tuple
    sizes: np.ndarray
    layout: np.ndarray
    work: int
    panel: int
    panels: int
    at_once: int
    pieces: int
    vectors: float


@inner
def _line(step, width):
    """Elements of a line of a half where it is copied: its tiles', `step` apart, and those beyond them."""
    return ((step >> 1) + 1) * width


def _buffer_size(step, width):
    """Elements of the lines that are copied for two halves."""
    return 2 * (step + 2) * _line.py_func(step, width)


@lru_cache(maxsize=1024)
def _plan(m, p, backwards):
    """The plan of a forward convolution, or of its input gradient if `backwards`."""
    if backwards:
        sources, rows, in_h, in_w, out_h, out_w = p.og, p.cg, p.oh, p.ow, p.h, p.w
        top, left = p.padding[0] - 2, p.padding[2] - 2
        layout = (p.groups, rows, sources, 9, 9 * p.cg, 1)
    else:
        sources, rows, in_h, in_w, out_h, out_w = p.cg, p.og, p.h, p.w, p.oh, p.ow
        top, left = -p.padding[0], -p.padding[2]
        layout = (p.groups, rows, sources, 9 * p.cg, 9, 0)
    tile, step = m, m
    if p.stride[0] == 2 and backwards:
        tile, top, left = 2 * m, p.padding[0] // 2, p.padding[2] // 2
    elif p.stride[0] == 2:
        step = 2 * m
    overlap = overlap_of(p)
    width = VECTOR_BYTES // itemsize(p.dtype)
    tiles_y, tiles_x = -(-out_h // tile), -(-out_w // tile)
    every = max(1, p.n * tiles_y * tiles_x)

    def vectors(tiles):
        """What multiplying a panel by all tiles costs in regions of so many, in vectors."""
        regions, rest = divmod(every, tiles)
        one, last = (TILE_VECS + 0.1 if t > TILE_VECS * width else -(-t // width) for t in (tiles, rest))
        # Every region reads all weights again.
        return regions * one + last + 0.1 * -(-every // tiles)

    most = TILE_VECS * width
    # Outputs far larger than a cache go past it where every half is whole and begins a cache line, and nothing reads
    # them again here.
    past = (
        MASKS
        and p.n * p.groups * rows * out_h * out_w * itemsize(p.dtype) >= _PAST_THE_CACHE
        and out_w % (tile * width // 2) == out_h % tile == 0
        and not (p.add or code_of(p) not in (0, RELU))
    )
    tiles = min(range(most, 0, -width) if past else (most + 1, *range(most, 0, -width)), key=vectors)
    regions = -(-every // tiles)
    panels = -(-rows // TILE_ROWS)
    # Pieces enough for threads to end together; a thread transforms a region once for those it does in a row.
    parts = min(panels, max(1, -(-8 * threads.available() // (p.groups * regions))))
    # Planes are an odd number of cache lines apart, so that their streams do not meet in one set of the cache.
    v_plane = -(-(sources * tiles + width - LINE) // (2 * LINE)) * 2 * LINE + LINE
    out_row = -(-tiles // width) * width
    out_plane = TILE_ROWS * out_row + LINE
    places = places_of(m, p)
    size = places * (v_plane + out_plane) + _buffer_size(max(tile, step), width)
    sizes = (p.n, p.groups, sources, rows, in_h, in_w, out_h, out_w, top, left, tiles_y, tiles_x, tiles, regions, parts)
    panel = p.groups * u_plane.py_func(sources) * places
    return _Plan(
        tuples=((0,) * tile, (0,) * step, (0,) * overlap),
        sizes=np.array((*sizes, v_plane, out_row, out_plane, size, past), np.int64),
        layout=np.array(layout, np.int64),
        work=threads.available() * size,
        panel=panel,
        panels=panels,
        at_once=max(1, min(panels, _WEIGHT_BYTES // itemsize(p.dtype) // panel)),
        pieces=p.groups * regions * parts,
        vectors=p.groups * vectors(tiles),
    )


def overlap_of(p):
    """Elements of the input that tiles share on an axis."""
    return 2 if p.stride[0] == 1 else 1


def places_of(m, p):
    """Products of a tile, α²."""
    return (m * p.stride[0] + overlap_of(p)) ** 2


def _prepare(m, plan, w, u, first=0, panels=None):
    panels = panels or plan.panels
    team = threads.team(100.0 * w.size, panels)
    parallel(_transform_weights, team, *plan.tuples, w.reshape(-1), u, first, panels, plan.layout)


def _run(m, p, plan, x, w, b, z, y, scratch, u):
    # ReLU costs nothing where the transform ends, unless z comes between.
    code = code_of(p)
    floor = y.dtype.type(-np.inf)
    if code == RELU and not p.add:
        code, floor = 0, y.dtype.type(0)
    work, own = scratch[: plan.work], scratch[plan.work :]
    team = threads.team(p.flops, plan.pieces)
    step = plan.at_once if u is None else plan.panels
    for first in range(0, plan.panels, step):
        panels = min(step, plan.panels - first)
        weights = u
        if u is None:
            weights = own
            _prepare(m, plan, w, own, first, panels)
        args = (weights, first, panels, b, floor, z.reshape(-1), code, y.reshape(-1), plan.sizes, work)
        parallel(_convolve, team, *plan.tuples, x.reshape(-1), *args)


def unsupported(p, strides=(1,)):
    if (p.kh, p.kw) != (3, 3):
        return f"kernel {p.kh}×{p.kw}, needs 3×3"
    if p.stride[0] != p.stride[1] or p.stride[0] not in strides:
        return f"stride {p.stride}, needs {' or '.join(map(str, strides))}"
    if p.dilation != (1, 1):
        return f"dilation {p.dilation}, needs 1"
    return None


def _unsupported_backwards(p, strides):
    # A tile of the input gradient begins with an element that meets tap 1.
    top, left = p.padding[0], p.padding[2]
    if p.stride == (2, 2) and top % 2 * left % 2 == 0:
        return f"padding {p.padding} with stride 2, needs odd ones before the first row and column"
    return unsupported(p, strides)


# Flops' worth of time, measured, for each place: transforming one vector of tiles of an input channel, of an output
# channel, and one weight.
_INPUT_COST = 700.0
_OUTPUT_COST = 250.0
_WEIGHT_COST = 20.0


def _transformed(p, tiles_y, tiles_x):
    """Vectors of tiles that are transformed: pairs of halves, each in one row of tiles."""
    return p.n * tiles_y * -(-2 * tiles_x // (VECTOR_BYTES // itemsize(p.dtype))) / 2


def _cost(m, p, backwards):
    plan, places = _plan(m, p, backwards), places_of(m, p)
    sources, rows = (p.og, p.cg) if backwards else (p.cg, p.og)
    lanes_each = VECTOR_BYTES // itemsize(p.dtype)
    multiply = 2.0 * plan.vectors * plan.panels * TILE_ROWS * lanes_each * sources * places
    tiles_y, tiles_x = (int(count) for count in plan.sizes[10:12])
    vectors = max(plan.vectors, p.groups * _transformed(p, tiles_y, tiles_x))
    transforms = vectors * (_INPUT_COST * sources + _OUTPUT_COST * rows) + _WEIGHT_COST * p.groups * sources * rows
    return 1.05 * multiply + transforms * places + 60_000


def _weight_cost(m, p):
    return _WEIGHT_COST * places_of(m, p) * p.o * p.cg


def _register(m, limit):
    strides = (1, 2) if m < 6 else (1,)

    def register(op, backwards):
        return kernel(
            f"{op}/winograd_f{m}/cpu",
            limit=limit,
            spread=(2 if backwards and 2 in strides else 1) * m - 1,
            cost=lambda p: _cost(m, p, backwards),
            scratch=lambda p: _plan(m, p, backwards).work + _own(m, p, backwards),
            unsupported=lambda p: (_unsupported_backwards if backwards else unsupported)(p, strides),
            prepare=lambda p, w, u: _prepare(m, _plan(m, p, backwards), w, u),
            prepared=lambda p: _plan(m, p, backwards).panel * _plan(m, p, backwards).panels,
            prepare_cost=lambda p: _weight_cost(m, p),
        )

    @register("conv2d", False)
    def forward(p, x, w, b, z, y, scratch, u=None):
        _run(m, p, _plan(m, p, False), x, w, b, z, y, scratch, u)

    @register("conv2d_grad_input", True)
    def grad_input(p, gy, w, gx, scratch, u=None):
        none = NO_BIAS[p.dtype]
        _run(m, p, _plan(m, p, True), gy, w, none, none, gx, scratch, u)


def _own(m, p, backwards):
    """Elements of scratch for weights that nobody keeps."""
    plan = _plan(m, p, backwards)
    return plan.at_once * plan.panel


for _m, _limit in LIMITS.items():
    _register(_m, _limit)
