"""conv2d/fft_16, fft_32, fft_64: convolution of stride 1 as a product of spectra, for kernels of many taps.

    y = F⁻¹ [ Σ_c F(x_c) ⊙ conj F(w_c) ]      for each tile of inputs

Tiles of inputs overlap by the kernel's size less one (overlap-save): outputs whose windows wrap around the tile are
thrown away, so that a tile of 64×64 gives 34×34 outputs of a 31×31 kernel. Its spectrum is half as many complex
numbers (`fft_transforms.py`), and its product with a spectrum of weights costs the same for any number of taps.

Frequencies fill the lanes, so that a single tile or channel wastes none. A piece of work is a region of tiles and
some of the output channels: transform the region's inputs for all channels, [frequencies][pair of tiles][channel], then
for some panels of output channels at a time multiply and transform back. The input gradient is the same with w's
channels exchanged and its taps reversed. Weights are transformed once (`prepare`): [group][panel][frequencies][channel]
[output channel]. The kernel's name says the tile's width, so that what is kept of the weights fits any image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fastconv import threads
from fastconv.kernels.cpu.epilogue import RELU, code_of, finish
from fastconv.kernels.cpu.fft_transforms import add_products, height_of, no_sums, restore, store_sums, transform
from fastconv.kernels.cpu.gemm import NO_BIAS
from fastconv.kernels.cpu.host import VECTOR_BYTES
from fastconv.kernels.cpu.jit import allocating, inner, njit
from fastconv.kernels.cpu.simd import (
    add,
    at_least,
    flush_denormals,
    lanes,
    load,
    load_range,
    restore_denormals,
    splat,
    store,
    store_first,
)
from fastconv.kernels.cpu.team import parallel, take
from fastconv.problem import itemsize
from fastconv.registry import kernel

# Most bytes of a thread's transformed inputs, unless those of one tile are more, and of the products for a panel.
_INPUT_BYTES = 3 * 2**20
_PRODUCT_BYTES = 384 * 2**10

# Most bytes of one tile's transformed inputs.
_TILE_BYTES = 4 * 2**20

# Most bytes of transformed weights at a time when nobody keeps them.
_WEIGHT_BYTES = 16 * 2**20


# Rounding is that of sums over a tile; sums of fewer taps are expected to round less.
_LEAST_TAPS = 10

_height_of = inner(height_of)


@inner
def _copy_tile(x, plane, in_h, in_w, y, first, height, width, buffer, at):
    """buffer.flat[at:] = the tile of height × width elements of a plane of x from (y, first) on, zero outside."""
    vec = lanes(x)
    zero = splat(x, 0.0)
    for i in range(height):
        here = at + i * width
        if y + i < 0 or y + i >= in_h:
            for u in range(0, width, vec):
                store(buffer, here + u, zero)
        else:
            row = plane + (y + i) * in_w + first
            for u in range(0, width, vec):
                store(buffer, here + u, load_range(x, row + u, -first - u, in_w - first - u))


def _make_multiply(several):
    @inner
    def multiply(panel, u, i, v, j, channels, out, to, row, column):
        """The products of a panel and of len(several) tiles for one vector of frequencies, summed over channels."""
        step = 2 * lanes(v)
        sums = no_sums(v, panel, several)
        for c in range(channels):
            sums = add_products(sums, u, i + c * len(panel) * step, v, j + c * len(several) * step)
        store_sums(sums, out, to, row, column)

    return multiply


_one = _make_multiply((0,))
_two = _make_multiply((0, 0))


@njit
def _convolve(counter, thread, edge, panel, x, u, part_of, bias, floor, z, code, y, sizes, work):
    """Outputs of some panels of some groups, those that u holds, one piece after another until none is left.

    part_of: the first group and how many, the first panel and how many.
    """
    state = flush_denormals()
    first_group, some_groups, first_panel, panels = part_of
    n, groups, sources, rows = sizes[0], sizes[1], sizes[2], sizes[3]
    in_h, in_w, out_h, out_w, top, left = sizes[4], sizes[5], sizes[6], sizes[7], sizes[8], sizes[9]
    tiles_y, tiles_x, tile_h, tile_w = sizes[10], sizes[11], sizes[12], sizes[13]
    region_tiles, several, parts, own = sizes[14], sizes[15], sizes[16], sizes[17]
    width, vec = len(edge), lanes(x)
    height, high = _height_of(width), len(panel)
    frequencies = height // 2 * width // vec
    step = 2 * vec
    every = n * tiles_y * tiles_x
    regions = (every + region_tiles - 1) // region_tiles
    blocks = (panels + several - 1) // several
    parts = min(parts, blocks)
    # The thread's memory: transformed inputs, products, three tiles.
    v_at = thread * own
    # An odd number of steps, so that planes do not meet in one set of the cache.
    v_plane = (sources * region_tiles | 1) * step
    out_at = v_at + frequencies * v_plane
    out_tile = (frequencies + 1) * step
    buffer = out_at + several * high * region_tiles * out_tile
    result, copy = buffer + height * width, buffer + 2 * height * width
    least = splat(y, floor)
    before = -1
    while True:
        piece = take(counter, thread, some_groups * regions * parts)
        if piece < 0:
            break
        held, region = piece // parts // regions, piece // parts % regions
        group = first_group + held
        first = region * region_tiles
        count = min(region_tiles, every - first)
        if piece // parts != before:
            before = piece // parts
            for t in range(count):
                tile = first + t
                image, ty, tx = tile // (tiles_y * tiles_x), tile // tiles_x % tiles_y, tile % tiles_x
                top_y, left_x = top + ty * tile_h, left + tx * tile_w
                inside = top_y >= 0 and left_x >= 0 and top_y + height <= in_h and left_x + width <= in_w
                pair = t // 2 * 2
                wide = min(2, count - pair)
                for c in range(sources):
                    plane = ((image * groups + group) * sources + c) * in_h * in_w
                    to = v_at + (pair * sources + c * wide + t - pair) * step
                    if inside:
                        corner = plane + top_y * in_w + left_x
                        transform(edge, x, corner, in_w, work, buffer, work, to, v_plane)
                    else:
                        _copy_tile(x, plane, in_h, in_w, top_y, left_x, height, width, work, copy)
                        transform(edge, work, copy, width, work, buffer, work, to, v_plane)
        part = piece % parts
        for block in range(blocks * part // parts, blocks * (part + 1) // parts):
            p0 = block * several
            p1 = min(p0 + several, panels)
            for f in range(frequencies):
                for pair in range(0, count, 2):
                    v_place = v_at + f * v_plane + pair * sources * step
                    for p in range(p0, p1):
                        u_place = ((held * panels + p) * frequencies + f) * sources * high * step
                        to = out_at + ((p - p0) * high * region_tiles + pair) * out_tile + f * step
                        args = (panel, u, u_place, work, v_place, sources, work, to, region_tiles * out_tile, out_tile)
                        if pair + 1 < count:
                            _two(*args)
                        else:
                            _one(*args)
            r0 = (first_panel + p0) * high
            for r in range(min((p1 - p0) * high, rows - r0)):
                channel = group * rows + r0 + r
                shift = splat(y, y.dtype.type(0))
                if bias.size:
                    shift = splat(y, bias[channel])
                for t in range(count):
                    tile = first + t
                    image, ty, tx = tile // (tiles_y * tiles_x), tile // tiles_x % tiles_y, tile % tiles_x
                    restore(edge, work, out_at + (r * region_tiles + t) * out_tile, work, buffer)
                    i0, j0 = ty * tile_h, tx * tile_w
                    corner = ((image * groups * rows + channel) * out_h + i0) * out_w + j0
                    length = min(tile_w, out_w - j0)
                    for i in range(min(tile_h, out_h - i0)):
                        for q in range(0, length, vec):
                            value = at_least(add(load(work, result + i * width + q), shift), least)
                            store_first(y, corner + i * out_w + q, value, length - q)
                        if code or z.size:
                            finish(y, corner + i * out_w, length, z, code)
    restore_denormals(state)


@allocating
def _transform_weights(counter, thread, edge, panel, w, u, part_of, layout):
    """u = the spectra of some panels of some groups, see `_convolve`; one channel of a panel after another."""
    state = flush_denormals()
    first_group, some_groups, first_panel, panels = part_of
    rows, sources, row_stride, source_stride, kh, kw, backwards = layout
    width, vec, high = len(edge), lanes(w), len(panel)
    height = _height_of(width)
    frequencies = height // 2 * width // vec
    step = 2 * vec
    taps = kh * kw
    # Both inverse transforms together multiply by this.
    scale = u.dtype.type(1 / (height // 2 * width))
    work = np.zeros(3 * height * width, w.dtype)
    buffer = height * width
    while True:
        piece = take(counter, thread, some_groups * panels * sources)
        if piece < 0:
            break
        which, c = piece // sources, piece % sources
        group, r0 = first_group + which // panels, (first_panel + which % panels) * high
        for r in range(high):
            inside = r0 + r < rows
            first = group * rows * sources * taps + (r0 + r) * row_stride + c * source_stride
            for i in range(kh):
                for j in range(kw):
                    tap = i * kw + j
                    if backwards:
                        tap = taps - 1 - tap
                    work[i * width + j] = w[first + tap] * scale if inside else 0
            to = ((which * frequencies * sources + c) * high + r) * step
            transform(edge, work, 0, width, work, buffer, u, to, sources * high * step)
    restore_denormals(state)


@dataclass(frozen=True, eq=False)
class _Plan:
    """What of a problem is worked out once.

    sizes: _convolve's; layout: _transform_weights'. high: output channels of a panel; work: elements of scratch of all
    threads; panel: elements of one transformed panel; panels: of a group; at_once: groups and panels of each that are
    transformed and used at a time when nobody keeps them; pieces: of work; tiles: of all images; region: tiles of a
    region; repeats: how many times inputs are transformed.
    """

    sizes: np.ndarray
    layout: tuple[int, ...]
    high: int
    work: int
    panel: int
    panels: int
    at_once: tuple[int, int]
    pieces: int
    tiles: int
    region: int
    repeats: float


def _panel_rows(rows):
    """Output channels of a panel, of a group with so many."""
    return min(rows, 2) if rows < 3 else 4


@lru_cache(maxsize=1024)
def _plan(width, p, backwards):
    """The plan of a forward convolution, or of its input gradient if `backwards`."""
    taps = p.kh * p.kw
    if backwards:
        sources, rows, in_h, in_w, out_h, out_w = p.og, p.cg, p.oh, p.ow, p.h, p.w
        top, left = p.padding[0] - p.kh + 1, p.padding[2] - p.kw + 1
        strides = (taps, taps * p.cg)
    else:
        sources, rows, in_h, in_w, out_h, out_w = p.cg, p.og, p.h, p.w, p.oh, p.ow
        top, left = -p.padding[0], -p.padding[2]
        strides = (taps * p.cg, taps)
    size, height = itemsize(p.dtype), height_of(width)
    vec, plane = VECTOR_BYTES // size, width * height
    tile_h, tile_w = height - p.kh + 1, width - p.kw + 1
    tiles_y, tiles_x = -(-out_h // tile_h), -(-out_w // tile_w)
    every = max(1, p.n * tiles_y * tiles_x)
    high = _panel_rows(rows)
    panels = -(-rows // high)
    most = min(_INPUT_BYTES // (sources * plane * size), _PRODUCT_BYTES // (high * plane * size))
    # Enough regions for threads to end together, if these are not so small that each tile reads all weights.
    fair = max(4, -(-every * p.groups // (4 * threads.available())))
    tiles = min(every, max(1, min(most, fair) // 2 * 2))
    regions = -(-every // tiles)
    several = max(1, min(4, panels, _PRODUCT_BYTES // (high * tiles * plane * size)))
    parts = min(-(-panels // several), max(1, -(-4 * threads.available() // (p.groups * regions))))
    frequencies = plane // 2 // vec
    own = frequencies * ((sources * tiles | 1) + several * high * tiles) * 2 * vec
    own += several * high * tiles * 2 * vec + 3 * plane
    sizes = (p.n, p.groups, sources, rows, in_h, in_w, out_h, out_w, top, left, tiles_y, tiles_x, tile_h, tile_w)
    panel = sources * high * plane
    room = max(1, _WEIGHT_BYTES // size // panel)
    return _Plan(
        sizes=np.array((*sizes, tiles, several, parts, own), np.int64),
        layout=(rows, sources, *strides, p.kh, p.kw, int(backwards)),
        high=high,
        work=threads.available() * own,
        panel=panel,
        panels=panels,
        at_once=(max(1, min(p.groups, room // panels)), min(panels, room)),
        pieces=p.groups * regions * parts,
        tiles=every,
        region=tiles,
        repeats=min(parts, threads.available()),
    )


# Flops' worth of time, measured, for each element of a tile: transforming an input, an output, and a weight.
_INPUT_COST = {16: 45.0, 32: 55.0, 64: 65.0}
_OUTPUT_COST = {16: 56.0, 32: 62.0, 64: 85.0}
_WEIGHT_COST = {16: 66.0, 32: 74.0, 64: 95.0}

# The same for an element of an image, and of transformed weights that are too many to stay in the cache.
_IMAGE_COST = 50.0
_READ_COST = 20.0
_CACHED_BYTES = 12 * 2**20


def _prepare(width, plan, w, u, part_of):
    made = part_of[1] * part_of[3] * plan.panel
    team = threads.team(_WEIGHT_COST[width] * made, made)
    edge, panel = (0,) * width, (0,) * plan.high
    parallel(_transform_weights, team, edge, panel, w.reshape(-1), u, part_of, plan.layout)


def _prepare_all(width, p, backwards, w, u):
    plan = _plan(width, p, backwards)
    _prepare(width, plan, w, u, (0, p.groups, 0, plan.panels))


def _run(width, p, plan, x, w, b, z, y, scratch, u):
    # ReLU costs nothing where outputs are written, unless z comes between.
    code = code_of(p)
    floor = y.dtype.type(-np.inf)
    if code == RELU and not p.add:
        code, floor = 0, y.dtype.type(0)
    work, own = scratch[: plan.work], scratch[plan.work :]
    team = threads.team(p.flops, plan.pieces)
    edge, panel = (0,) * width, (0,) * plan.high
    groups, panels = (p.groups, plan.panels) if u is not None else plan.at_once
    for group in range(0, p.groups, groups):
        for first in range(0, plan.panels, panels):
            part_of = (group, min(groups, p.groups - group), first, min(panels, plan.panels - first))
            weights = u
            if u is None:
                weights = own
                _prepare(width, plan, w, own, part_of)
            args = (weights, part_of, b, floor, z.reshape(-1), code, y.reshape(-1), plan.sizes, work)
            parallel(_convolve, team, edge, panel, x.reshape(-1), *args)


def _unsupported(width, p, backwards):
    height = height_of(width)
    if p.kh * p.kw < _LEAST_TAPS:
        return f"kernel {p.kh}×{p.kw}, needs {_LEAST_TAPS} taps, for rounding"
    if p.kh > height or p.kw > width:
        return f"kernel {p.kh}×{p.kw}, needs at most {height}×{width}"
    if p.stride != (1, 1):
        return f"stride {p.stride}, needs 1"
    if p.dilation != (1, 1):
        return f"dilation {p.dilation}, needs 1"
    channels = p.og if backwards else p.cg
    most = _TILE_BYTES // (itemsize(p.dtype) * height * width)
    return f"{channels} channels, needs at most {most}, for scratch memory" if channels > most else None


def _cost(width, p, backwards):
    plan, plane = _plan(width, p, backwards), width * height_of(width)
    sources, rows = (p.og, p.cg) if backwards else (p.cg, p.og)
    regions = -(-plan.tiles // plan.region)
    weights = plan.panel * plan.panels * p.groups
    multiply = 4.0 * plan.tiles * plane * p.groups * sources * plan.panels * plan.high
    if weights * itemsize(p.dtype) > _CACHED_BYTES:
        # Every region reads all.
        multiply += _READ_COST * regions * weights
    inputs = _INPUT_COST[width] * plan.repeats * sources
    transforms = plan.tiles * plane * p.groups * (inputs + _OUTPUT_COST[width] * rows)
    images = _IMAGE_COST * p.n * (p.c * p.h * p.w + p.o * p.oh * p.ow)
    return multiply + transforms + images + _weight_cost(width, p, backwards) + 100_000


def _weight_cost(width, p, backwards):
    plan, sources = _plan(width, p, backwards), p.og if backwards else p.cg
    # Weights that nobody keeps come in parts, and inputs are transformed again for each.
    again = -(-plan.panels // plan.at_once[1]) - 1
    inputs = _INPUT_COST[width] * plan.tiles * width * height_of(width) * p.groups * sources
    return _WEIGHT_COST[width] * plan.panel * plan.panels * p.groups + again * inputs


def _register(width):
    def register(op, backwards):
        return kernel(
            f"{op}/fft_{width}/cpu",
            limit=1.0,
            spread=height_of(width) - 1,
            cost=lambda p: _cost(width, p, backwards),
            scratch=lambda p: _plan(width, p, backwards).work + _own(width, p, backwards),
            unsupported=lambda p: _unsupported(width, p, backwards),
            prepare=lambda p, w, u: _prepare_all(width, p, backwards, w, u),
            prepared=lambda p: _plan(width, p, backwards).panel * _plan(width, p, backwards).panels * p.groups,
            prepare_cost=lambda p: _weight_cost(width, p, backwards),
        )

    @register("conv2d", False)
    def forward(p, x, w, b, z, y, scratch, u=None):
        _run(width, p, _plan(width, p, False), x, w, b, z, y, scratch, u)

    @register("conv2d_grad_input", True)
    def grad_input(p, gy, w, gx, scratch, u=None):
        none = NO_BIAS[p.dtype]
        _run(width, p, _plan(width, p, True), gy, w, none, none, gx, scratch, u)


def _own(width, p, backwards):
    """Elements of scratch for weights that nobody keeps."""
    plan = _plan(width, p, backwards)
    return plan.at_once[0] * plan.at_once[1] * plan.panel


for _width in (16, 32, 64):
    _register(_width)
