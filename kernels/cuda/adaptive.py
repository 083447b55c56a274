"""Adaptive average and max pooling of float32 and float64 images (N, C, H, W), with gradients: pool.cu.

Window i of OH goes from ⌊i·H/OH⌋ to ⌈(i + 1)·H/OH⌉, and so along W; H·OH and W·OW are below 2³¹. There is one way to do
these, so they are no operations of the registry. Arrays are contiguous.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fastconv.kernels.cuda.launch import out
from fastconv.kernels.cuda.pool import over_elements, over_windows


@dataclass(frozen=True, slots=True)
class _Windows:
    """What pool.cu is told of adaptive windows, as a PoolProblem says it: their stride is 0."""

    n: int
    c: int
    h: int
    w: int
    oh: int
    ow: int
    dtype: str
    kh = kw = 0
    stride, padding, dilation = (0, 0), (0, 0, 0, 0), (1, 1)


def _windows(large, small):
    return _Windows(*large.shape, *small.shape[2:], str(large.dtype))


@lru_cache(maxsize=256)
def _scales(size, count, dtype):
    """1 / the size of each window of an axis."""
    i = np.arange(count, dtype=np.int64)
    return (1.0 / (-(-(i + 1) * size // count) - i * size // count)).astype(dtype)


def _both(p):
    return _scales(p.h, p.oh, p.dtype), _scales(p.w, p.ow, p.dtype)


def avg_pool(x, y):
    """y (N, C, OH, OW) = the mean of each window of x."""
    p = _windows(x, y)
    over_windows("pool.cu", "avg_pool", p, (x, *_both(p), out(y)))


def avg_pool_grad(gy, gx):
    """gx (N, C, H, W) from gy (N, C, OH, OW)."""
    p = _windows(gx, gy)
    over_elements("pool.cu", "avg_pool_grad", p, (gy, *_both(p), out(gx)))


def max_pool(x, y, indices=None, places=None):
    """y (N, C, OH, OW) = the largest of each window of x, the first of equal ones, the last NaN.

    Where it stands, h·W + w, goes into indices (int64) and places (int32), like y, unless they are None.
    """
    given = (None if one is None else out(one) for one in (indices, places))
    p = _windows(x, y)
    over_windows("pool.cu", "max_pool", p, (x, out(y), *given), p.dilation)


def max_pool_grad(places, gy, gx):
    """gx (N, C, H, W) from gy and max_pool's places (N, C, OH, OW)."""
    p = _windows(gx, gy)
    over_elements("pool.cu", "max_pool_grad", p, (places, gy, out(gx)), p.dilation)
