"""conv2d and its input gradient as an implicit matrix product: implicit.cu."""

from functools import lru_cache

import numpy as np

from fastconv.kernels.cuda.launch import blocks, launch, out
from fastconv.kernels.cuda.shapes import ACTIVATIONS
from fastconv.registry import kernel

BUILDS = {"implicit.cu": [{"TILE_O": o, "TILE_P": pixels, "TILE_Q": 16} for o, pixels in ((128, 128), (64, 256))]}

_THREADS = 256
_TILE_Q = 16


def _tiles(columns):
    """A block's output channels and pixels: 128 of both, or 64 and 256 where that wastes fewer channels."""
    narrow = -(-columns // 64) % 2
    return {"TILE_O": 64 if narrow else 128, "TILE_P": 256 if narrow else 128, "TILE_Q": _TILE_Q}


@lru_cache(maxsize=256)
def table(p, backwards):
    """For each q: its offset in the array that is read, row and column, all relative to a pixel's."""
    channels, height, width = (p.o, p.oh, p.ow) if backwards else (p.c, p.h, p.w)
    sign = -1 if backwards else 1
    r, s = (axis.reshape(-1) for axis in np.mgrid[: p.kh, : p.kw])
    r, s = sign * r * p.dilation[0], sign * s * p.dilation[1]
    found = np.zeros((channels, p.kh * p.kw, 4), np.int32)
    found[..., 0] = np.arange(channels)[:, None] * height * width + r * width + s
    found[..., 1], found[..., 2] = r, s
    # Up to whole parts of the sum, what lies in no image.
    beyond = np.zeros((-found.size // 4 % _TILE_Q, 4), np.int32)
    beyond[:, 1] = -(2**30)
    return np.concatenate([found.reshape(-1, 4), beyond])


def _row(columns):
    """Floats of a row of packed weights."""
    return -(-columns // 4) * 4


def _packed(p, backwards):
    return (p.o if backwards else p.c) * p.kh * p.kw * _row(p.c if backwards else p.o)


def _prepare(p, backwards, w, u):
    taps, columns = p.kh * p.kw, p.c if backwards else p.o
    depth = (p.o if backwards else p.c) * taps
    row = _row(columns)
    args = (w, out(u[: depth * row]), p.o, p.c, taps, row, int(backwards))
    launch("implicit.cu", "pack", (blocks(row, _THREADS), depth), (_THREADS,), args, **_tiles(columns))


def _unsupported(p, backwards):
    if p.dtype != "float32":
        return f"{p.dtype}, needs float32"
    if p.groups != 1:
        return f"groups {p.groups}, needs 1"
    if backwards and p.stride != (1, 1):
        return f"stride {p.stride}, needs 1"
    # A row of the grid for each q of the packed weights.
    depth = (p.o if backwards else p.c) * p.kh * p.kw
    if depth > 65_535:
        return f"sums of {depth} terms, needs at most 65535"
    largest = max(p.n * p.h * p.w, p.n * p.oh * p.ow, p.c * p.h * p.w, p.o * p.oh * p.ow)
    return f"{largest} elements, needs fewer than 2³¹" if largest >= 2**31 else None


def _run(p, backwards, x, w, bias, z, y, scratch, u):
    if u is None:
        u = scratch
        _prepare(p, backwards, w, u)
    if backwards:
        # gx[v] = Σ gy[v + top − r·dilation] · w[r]
        columns, height, width, out_h, out_w = p.c, p.oh, p.ow, p.h, p.w
        top, left, stride, activation = -p.padding[0], -p.padding[2], (1, 1), ""
    else:
        columns, height, width, out_h, out_w = p.o, p.h, p.w, p.oh, p.ow
        top, left, stride, activation = p.padding[0], p.padding[2], p.stride, p.activation
    places, pixels = table(p, backwards), p.n * out_h * out_w
    tiles = _tiles(columns)
    sizes = (pixels, out_h * out_w, out_w, *stride, top, left, height, width, x.size // max(p.n, 1))
    args = (x, u, places, bias if bias.size else None, z if z.size else None, out(y), *sizes)
    grid = blocks(pixels, tiles["TILE_P"]), blocks(columns, tiles["TILE_O"])
    depth = (p.o if backwards else p.c) * p.kh * p.kw
    rest = (columns, _row(columns), depth, ACTIVATIONS[activation])
    launch("implicit.cu", "implicit", grid, (_THREADS,), (*args, *rest), **tiles)


def _cost(p):
    return 1.2 * p.flops


def _register(op, backwards):
    return kernel(
        f"{op}/implicit/cuda",
        limit=1.0,
        cost=_cost,
        scratch=lambda p: _packed(p, backwards),
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
