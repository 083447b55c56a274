"""conv2d and its input gradient by Winograd's F(2×2, 3×3) and F(4×4, 3×3): winograd.cu, products by gemm.cu."""

from collections.abc import Callable

from fastconv.kernels.cuda import linear
from fastconv.kernels.cuda.launch import MOST_YZ, blocks, launch, out
from fastconv.kernels.cuda.shapes import ACTIVATIONS
from fastconv.problem import ConvProblem
from fastconv.registry import kernel

BUILDS = {"winograd.cu": [{"M": 2}, {"M": 4}]}
# By the names of kernels: what they do of a problem, where that is not its flops.
FLOPS: dict[str, Callable[[ConvProblem], int]] = {}

_THREADS = 256


def _geometry(p, backwards):
    """(channels summed over, channels that come out, size of what is read, of what is written, (top, left))."""
    if backwards:
        return p.o, p.c, (p.oh, p.ow), (p.h, p.w), (2 - p.padding[0], 2 - p.padding[2])
    return p.c, p.o, (p.h, p.w), (p.oh, p.ow), (p.padding[0], p.padding[2])


def _tiles(p, backwards, m):
    """(tiles of all images, down and across one)."""
    _, _, _, (height, width), _ = _geometry(p, backwards)
    down, across = blocks(height, m), blocks(width, m)
    return p.n * down * across, down, across


def flops(p, backwards, m):
    """2 × the multiply-adds of transformed tiles; those of the transforms are left out."""
    return 2 * (m + 2) ** 2 * _tiles(p, backwards, m)[0] * p.c * p.o


def _weights(p, m):
    return (m + 2) ** 2 * p.o * p.c


def _work(p, backwards, m):
    """Elements of transformed tiles and of their products."""
    return (m + 2) ** 2 * _tiles(p, backwards, m)[0] * (p.c + p.o)


def _unsupported(p, backwards, m):
    if p.dtype != "float32":
        return f"{p.dtype}, needs float32"
    if (p.kh, p.kw, *p.stride, *p.dilation, p.groups) != (3, 3, 1, 1, 1, 1, 1):
        return "needs 3×3 windows, stride 1, no dilation, one group"
    read, written = (p.o, p.c) if backwards else (p.c, p.o)
    if read > MOST_YZ or written > 64 * MOST_YZ:
        return f"{read} channels to {written}, needs at most {MOST_YZ} to {64 * MOST_YZ}"
    largest = max((m + 2) ** 2 * _tiles(p, backwards, m)[0], p.h * p.w, p.oh * p.ow)
    return f"{largest} elements of tiles, needs fewer than 2³¹" if largest >= 2**31 else None


def _prepare(p, backwards, m, w, u):
    outputs = p.c if backwards else p.o
    grid = blocks(outputs, _THREADS), p.o if backwards else p.c
    args = (w, out(u[: _weights(p, m)]), p.o, p.c, int(backwards))
    launch("winograd.cu", "transform_weights", grid, (_THREADS,), args, M=m)


def _run(p, backwards, m, x, w, bias, z, y, scratch, u):
    channels, outputs, size, out_size, sides = _geometry(p, backwards)
    tiles, down, across = _tiles(p, backwards, m)
    elements = (m + 2) ** 2
    v, products = (
        scratch[: elements * channels * tiles],
        scratch[elements * channels * tiles :][: elements * outputs * tiles],
    )
    if u is None:
        u = scratch[_work(p, backwards, m) :]
        _prepare(p, backwards, m, w, u)
    grid = blocks(tiles, _THREADS), min(channels, MOST_YZ)
    args = (x, out(v), tiles, down, across, channels, *size, *sides)
    launch("winograd.cu", "transform_input", grid, (_THREADS,), args, M=m)
    weights = u[: _weights(p, m)]
    linear.product(weights, False, v, False, None, products, outputs, tiles, channels, batch=elements)
    grid = blocks(tiles, _THREADS), min(outputs, MOST_YZ)
    ends = (bias if bias.size else None, z if z.size else None, out(y))
    code = 0 if backwards else ACTIVATIONS[p.activation]
    args = (products, *ends, tiles, down, across, outputs, *out_size, code)
    launch("winograd.cu", "transform_output", grid, (_THREADS,), args, M=m)


def _register(op, backwards, m):
    FLOPS[f"{op}/winograd_f{m}/cuda"] = lambda p: flops(p, backwards, m)
    return kernel(
        f"{op}/winograd_f{m}/cuda",
        limit=1.0 if m == 2 else 3.0,
        spread=m - 1,
        cost=lambda p: p.flops * ((m + 2) / (3 * m)) ** 2 + 30.0 * _work(p, backwards, m),
        scratch=lambda p: _work(p, backwards, m) + _weights(p, m),
        unsupported=lambda p: _unsupported(p, backwards, m),
        prepare=lambda p, w, u: _prepare(p, backwards, m, w, u),
        prepared=lambda p: _weights(p, m),
        prepare_cost=lambda p: 10.0 * _weights(p, m),
    )


for _m in (2, 4):

    @_register("conv2d", False, _m)
    def forward(p, x, w, b, z, y, scratch, u=None, m=_m):
        _run(p, False, m, x, w, b, z, y, scratch, u)

    @_register("conv2d_grad_input", True, _m)
    def grad_input(p, gy, w, gx, scratch, u=None, m=_m):
        none = scratch[:0]
        _run(p, True, m, gy, w, none, none, gx, scratch, u)
