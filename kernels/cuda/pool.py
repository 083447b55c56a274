"""max_pool2d, avg_pool2d and their gradients, `direct`: pool.cu."""

from functools import lru_cache

import numpy as np

from fastconv.kernels.cuda.launch import MOST_YZ, blocks, device, launch, out
from fastconv.kernels.cuda.shapes import REALS
from fastconv.registry import kernel

BUILDS = {"pool.cu": [{"REAL": "float"}, {"REAL": "double"}]}

_THREADS = 256
# Of a block.
_MOST_ROWS = 64


def sizes(p):
    """A pooling's numbers as windows.cuh has them, up to the padding."""
    return (p.n * p.c, p.h, p.w, p.oh, p.ow, p.kh, p.kw, *p.stride, p.padding[0], p.padding[2])


def strips(columns, rows, planes):
    """(grid, block, each) for planes, of whose columns a thread has `each` rows, a block's height apart.

    What windows at the edges of blocks share is read twice, so blocks are wide, unless a fifth of their threads had no
    column, and as tall as leaves the device full.
    """
    wide = next((n for n in (128, 64, 32) if 4 * blocks(columns, n) * n <= 5 * columns), None)
    across = wide or next(n for n in (4, 8, 16, 32) if n >= min(columns, 32))
    down = _THREADS // across
    fill = device().processors * device().threads // _THREADS
    pieces = blocks(fill, blocks(columns, across) * max(planes, 1))
    pieces = max(blocks(rows, _MOST_ROWS), min(blocks(rows, down), pieces))
    each = blocks(blocks(rows, pieces), down)
    grid = (blocks(columns, across), blocks(rows, down * each), max(1, min(planes, MOST_YZ)))
    return grid, (across, down), each


def _unsupported(p):
    most = 2**31 - 1
    reach = max(p.h * p.w, p.oh * p.ow, (p.oh + 1) * p.stride[0] + p.kh * p.dilation[0])
    reach = max(reach, (p.ow + 1) * p.stride[1] + p.kw * p.dilation[1])
    # As few rows as the widest block has of them.
    if max(p.h, p.oh) > 2 * MOST_YZ:
        return f"{max(p.h, p.oh)} rows, needs at most {2 * MOST_YZ}"
    return f"a plane of {p.h}×{p.w}, needs numbers below 2³¹" if reach > most else None


@lru_cache(maxsize=256)
def _scales(p):
    """1 / the size of window (i, j) as a factor for its row and one for its column."""
    if p.divisor_override:
        rows, columns = np.full(p.oh, p.divisor_override), np.ones(p.ow)
    else:
        ends = ((p.oh, p.h, p.kh, p.stride[0], *p.padding[:2]), (p.ow, p.w, p.kw, p.stride[1], *p.padding[2:]))
        rows, columns = (_counts(*end, p.count_include_pad) for end in ends)
    return (1.0 / rows).astype(p.dtype), (1.0 / columns).astype(p.dtype)


def _counts(outputs, size, kernel_size, stride, before, after, include_pad):
    """How many elements of each window on one axis count: with padding but not beyond it, or without padding."""
    starts = np.arange(outputs) * stride - before
    if include_pad:
        return np.minimum(starts + kernel_size, size + after) - starts
    return np.minimum(starts + kernel_size, size) - np.maximum(starts, 0)


def _cost(p):
    return 8.0 * p.flops


def _register(op, limit, **options):
    return kernel(f"{op}/direct/cuda", limit=limit, cost=_cost, unsupported=_unsupported, **options)


def over_windows(file, kernel, p, args, more=()):
    """Launch a kernel for the outputs of a pooling."""
    grid, block, each = strips(p.ow, p.oh, p.n * p.c)
    launch(file, kernel, grid, block, (*args, *sizes(p), *more, each), REAL=REALS[p.dtype])


def over_elements(file, kernel, p, args, more=()):
    """Launch a kernel for the elements of a pooling's input gradient."""
    grid, block, each = strips(p.w, p.h, p.n * p.c)
    launch(file, kernel, grid, block, (*args, *sizes(p), *more, each), REAL=REALS[p.dtype])


@_register("max_pool2d", 0.0)
def max_pool(p, x, y, scratch):
    over_windows("pool.cu", "max_pool", p, (x, out(y), None, None), p.dilation)


@_register("max_pool2d_with_indices", 0.0)
def max_pool_with_indices(p, x, y, indices, scratch):
    over_windows("pool.cu", "max_pool", p, (x, out(y), out(indices), None), p.dilation)


@_register("max_pool2d_grad", 1.0, scratch=lambda p: p.n * p.c * p.oh * p.ow)
def max_pool_grad(p, x, gy, gx, scratch):
    places = scratch.view(np.int32)[: p.n * p.c * p.oh * p.ow]
    over_windows("pool.cu", "max_pool", p, (x, None, None, out(places)), p.dilation)
    over_elements("pool.cu", "max_pool_grad", p, (places, gy, out(gx)), p.dilation)


@_register("avg_pool2d", 1.0)
def avg_pool(p, x, y, scratch):
    over_windows("pool.cu", "avg_pool", p, (x, *_scales(p), out(y)))


@_register("avg_pool2d_grad", 1.0)
def avg_pool_grad(p, gy, gx, scratch):
    over_elements("pool.cu", "avg_pool_grad", p, (gy, *_scales(p), out(gx)))
