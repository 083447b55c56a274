"""max_pool2d, avg_pool2d and their gradients, `direct`: pool.cu."""

import numpy as np

from fastconv.kernels.cuda.launch import launch, out
from fastconv.kernels.cuda.shapes import REALS, rectangle
from fastconv.registry import kernel

BUILDS = {"pool.cu": [{"REAL": "float"}, {"REAL": "double"}]}


def _sizes(p):
    return (p.n * p.c, p.h, p.w, p.oh, p.ow, p.kh, p.kw, *p.stride, p.padding[0], p.padding[2])


def _unsupported(p):
    most = 2**31 - 1
    reach = max(p.h * p.w, p.oh * p.ow, (p.oh + 1) * p.stride[0] + p.kh * p.dilation[0])
    reach = max(reach, (p.ow + 1) * p.stride[1] + p.kw * p.dilation[1])
    return f"a plane of {p.h}×{p.w}, needs numbers below 2³¹" if reach > most else None


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


@_register("max_pool2d", 0.0)
def max_pool(p, x, y, scratch):
    args = (x, out(y), None, *_sizes(p), *p.dilation)
    launch("pool.cu", "max_pool", *rectangle(p.ow, p.oh, p.n * p.c), args, REAL=REALS[p.dtype])


@_register("max_pool2d_with_indices", 0.0)
def max_pool_with_indices(p, x, y, indices, scratch):
    args = (x, out(y), out(indices), *_sizes(p), *p.dilation)
    launch("pool.cu", "max_pool", *rectangle(p.ow, p.oh, p.n * p.c), args, REAL=REALS[p.dtype])


@_register("max_pool2d_grad", 1.0, scratch=lambda p: p.n * p.c * p.oh * p.ow)
def max_pool_grad(p, x, gy, gx, scratch):
    places = scratch.view(np.int32)[: p.n * p.c * p.oh * p.ow]
    sizes, real = (*_sizes(p), *p.dilation), REALS[p.dtype]
    launch("pool.cu", "max_pool_places", *rectangle(p.ow, p.oh, p.n * p.c), (x, out(places), *sizes), REAL=real)
    launch("pool.cu", "max_pool_grad", *rectangle(p.w, p.h, p.n * p.c), (places, gy, out(gx), *sizes), REAL=real)


@_register("avg_pool2d", 1.0)
def avg_pool(p, x, y, scratch):
    args = (x, *_scales(p), out(y), *_sizes(p))
    launch("pool.cu", "avg_pool", *rectangle(p.ow, p.oh, p.n * p.c), args, REAL=REALS[p.dtype])


@_register("avg_pool2d_grad", 1.0)
def avg_pool_grad(p, gy, gx, scratch):
    args = (gy, *_scales(p), out(gx), *_sizes(p))
    launch("pool.cu", "avg_pool_grad", *rectangle(p.w, p.h, p.n * p.c), args, REAL=REALS[p.dtype])
