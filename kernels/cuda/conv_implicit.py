"""conv2d and its input gradient, of any stride, as an implicit matrix product: implicit.cu."""

from functools import lru_cache
from itertools import product as every

import numpy as np

from fastconv.kernels.cuda.launch import MOST_YZ, blocks, device, launch, out
from fastconv.kernels.cuda.shapes import ACTIVATIONS
from fastconv.registry import kernel

BUILDS = {"implicit.cu": [{"TILE_O": o, "TILE_P": pixels, "TILE_Q": 16} for o, pixels in ((128, 128), (64, 256))]}

_THREADS = 256
_TILE_Q = 16
# Fewest terms of a part of a sum, so that a block's loop is longer than its ends.
_FEWEST = 128


def _tiles(columns):
    """A block's output channels and pixels: 128 of both, or 64 and 256 where that wastes fewer channels."""
    narrow = -(-columns // 64) % 2
    return {"TILE_O": 64 if narrow else 128, "TILE_P": 256 if narrow else 128, "TILE_Q": _TILE_Q}


def _axis(size, taps, dilation, before, stride, backwards):
    """The grids of outputs on one axis: (first output, how many, [(tap, what of it is read)])."""
    if not backwards:
        return [(0, size, [(tap, tap * dilation - before) for tap in range(taps)])]
    found = []
    for first in range(min(stride, size)):
        # gx[v] = Σ gy[(v + before − tap·dilation) / stride] · w[tap], where that is whole.
        reach = [(tap, first + before - tap * dilation) for tap in range(taps)]
        met = [(tap, place // stride) for tap, place in reach if place % stride == 0]
        found.append((first, blocks(size - first, stride), met))
    return found


@lru_cache(maxsize=256)
def tables(p, backwards, parts):
    """(places, grids) as implicit.cu has them, int32 (q, 4) and (grids, 7), with sums cut into so many parts.

    Grids with the longest sums come first. Places do not depend on the parts.
    """
    channels, height, width = (p.o, p.oh, p.ow) if backwards else (p.c, p.h, p.w)
    out_h, out_w = (p.h, p.w) if backwards else (p.oh, p.ow)
    # Floats between a channel's weights and the next one's.
    apart = p.c * p.kh * p.kw if backwards else p.kh * p.kw
    down = _axis(out_h, p.kh, p.dilation[0], p.padding[0], p.stride[0], backwards)
    across = _axis(out_w, p.kw, p.dilation[1], p.padding[2], p.stride[1], backwards)
    places, grids, count = [], [], 0
    for (i, rows, above), (j, columns, beside) in sorted(every(down, across), key=_most_taps_first):
        taps = [(v * width + u, v, u, r * p.kw + s) for r, v in above for s, u in beside]
        of_channel = np.arange(channels)[:, None, None] * (height * width, 0, 0, apart)
        met = (of_channel + np.array(taps, np.int64).reshape(-1, 4)).reshape(-1, 4)
        beyond = np.tile((0, -(2**30), 0, -1), (-len(met) % _TILE_Q, 1))
        places += [met, beyond]
        depth = len(met) + len(beyond)
        # Of few terms the last parts have none.
        piece = blocks(depth, parts * _TILE_Q) * _TILE_Q
        for part in range(parts):
            first = min(part * piece, depth)
            grids.append((count + first, min(piece, depth - first), rows, columns, i, j, part))
        count += depth
    return np.concatenate(places).astype(np.int32), np.array(grids, np.int32)


def _parts(p, backwards):
    """Into how many parts sums are cut: as many as give every multiprocessor a block, of _FEWEST terms at least."""
    grids = tables(p, backwards, 1)[1]
    columns = p.c if backwards else p.o
    tiles = _tiles(columns)
    wanted = blocks(p.n * int(max(grids[:, 2] * grids[:, 3])), tiles["TILE_P"]) * blocks(columns, tiles["TILE_O"])
    return max(1, min(device().processors // (wanted * len(grids)), int(max(grids[:, 1])) // _FEWEST))


def _of_parts(p, backwards):
    """Elements of all parts; none where a sum is whole."""
    parts = _parts(p, backwards)
    return parts * (p.n * p.c * p.h * p.w if backwards else p.n * p.o * p.oh * p.ow) if parts > 1 else 0


def _most_taps_first(axes):
    (_, _, above), (_, _, beside) = axes
    return -len(above) * len(beside)


def _row(columns):
    """Floats of a row of packed weights."""
    return -(-columns // 4) * 4


def _packed(p, backwards):
    return len(tables(p, backwards, 1)[0]) * _row(p.c if backwards else p.o)


def _prepare(p, backwards, w, u):
    columns, taps = p.c if backwards else p.o, p.kh * p.kw
    places, row = tables(p, backwards, 1)[0], _row(columns)
    if not len(places):
        # No output meets a tap.
        return
    args = (w, places, out(u[: len(places) * row]), columns, taps if backwards else p.c * taps, row)
    launch("implicit.cu", "pack", (blocks(row, _THREADS), len(places)), (_THREADS,), args, **_tiles(columns))


def _unsupported(p, backwards):
    if p.dtype != "float32":
        return f"{p.dtype}, needs float32"
    if p.groups != 1:
        return f"groups {p.groups}, needs 1"
    height, width = p.h + sum(p.padding[:2]), p.w + sum(p.padding[2:])
    pixels = p.n * max(p.h * p.w, p.oh * p.ow)
    largest = max(pixels, p.c * height * width, p.o * p.oh * p.ow, p.o * p.c * p.kh * p.kw)
    if largest >= 2**30:
        return f"{largest} elements, needs fewer than 2³⁰"
    # The grid has a row for each q of the packed weights, and a plane for each grid of outputs.
    grids = min(p.stride[0], p.h) * min(p.stride[1], p.w) if backwards else 1
    depth = (p.o if backwards else p.c) * p.kh * p.kw + grids * _TILE_Q
    if depth > MOST_YZ:
        return f"sums of {depth} terms, needs at most {MOST_YZ}"
    written = max(p.n * p.c * p.h * p.w, p.n * p.o * p.oh * p.ow, depth * _row(p.c if backwards else p.o))
    return f"an array of {written} elements, needs fewer than 2³¹" if written >= 2**31 else None


def _run(p, backwards, x, w, bias, z, y, scratch, u):
    if u is None:
        u = scratch[: _packed(p, backwards)]
        _prepare(p, backwards, w, u)
    parts = _parts(p, backwards)
    places, grids = tables(p, backwards, parts)
    into = scratch[-_of_parts(p, backwards) :] if parts > 1 else y
    columns = p.c if backwards else p.o
    tiles, row = _tiles(columns), _row(columns)
    # Steps of reading and of writing; what is read and what is written.
    steps = ((1, 1), p.stride) if backwards else (p.stride, (1, 1))
    read, written = ((p.oh, p.ow), (p.h, p.w)) if backwards else ((p.h, p.w), (p.oh, p.ow))
    image = (p.o if backwards else p.c) * read[0] * read[1]
    activation = 0 if backwards else ACTIVATIONS[p.activation]
    of_output = (bias if bias.size else None, z if z.size else None)
    ends = (*(of_output if parts == 1 else (None, None)), out(into))
    sizes = (p.n, *steps[0], *read, image, *steps[1], *written, columns, row)
    pixels = p.n * int(max(grids[:, 2] * grids[:, 3]))
    grid = blocks(pixels, tiles["TILE_P"]), blocks(columns, tiles["TILE_O"]), len(grids)
    args = (x, u[: len(places) * row], places, grids, *ends, *sizes, activation if parts == 1 else 0)
    launch("implicit.cu", "implicit", grid, (_THREADS,), args, **tiles)
    if parts > 1:
        args = (into, *of_output, out(y), y.size, parts, written[0] * written[1], columns, activation)
        launch("implicit.cu", "sum_parts", (blocks(y.size, _THREADS),), (_THREADS,), args, **tiles)


def _cost(p):
    return 1.2 * p.flops


def _register(op, backwards):
    return kernel(
        f"{op}/implicit/cuda",
        limit=1.0,
        cost=_cost,
        scratch=lambda p: _packed(p, backwards) + _of_parts(p, backwards),
        unsupported=lambda p: _unsupported(p, backwards),
        prepare=lambda p, w, u: _prepare(p, backwards, w, u),
        prepared=lambda p: _packed(p, backwards),
        prepare_cost=lambda p: 10.0 * _packed(p, backwards),
    )


@_register("conv2d", False)
def forward(p, x, w, b, z, y, scratch, u=None):
    _run(p, False, x, w, b, z, y, scratch, u)


@_register("conv2d_grad_input", True)
def grad_input(p, gy, w, gx, scratch, u=None):
    none = np.empty(0, p.dtype)
    _run(p, True, gy, w, none, none, gx, scratch, u)
