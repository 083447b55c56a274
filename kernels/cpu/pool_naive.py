"""Pooling as its definition says: one window after another, one thread. Letters as in fastconv.problem."""

import numpy as np

from fastconv.kernels.cpu.jit import njit
from fastconv.registry import kernel

_COST = 100.0


@njit
def _max(x, y, indices, kernel_size, stride, padding, dilation):
    """y = the maximum of each window, indices (if it has elements) where it stands in its plane; NaN wins."""
    height, width = x.shape[2:]
    for n in range(y.shape[0]):
        for c in range(y.shape[1]):
            for i in range(y.shape[2]):
                for j in range(y.shape[3]):
                    best, where = x.dtype.type(-np.inf), -1
                    for r in range(kernel_size[0]):
                        for s in range(kernel_size[1]):
                            iy = i * stride[0] + r * dilation[0] - padding[0]
                            ix = j * stride[1] + s * dilation[1] - padding[2]
                            if 0 <= iy < height and 0 <= ix < width:
                                value = x[n, c, iy, ix]
                                if value > best or value != value or where < 0:
                                    best, where = value, iy * width + ix
                    y[n, c, i, j] = best
                    if indices.size:
                        indices[n, c, i, j] = where


@njit
def _max_grad(x, gy, gx, kernel_size, stride, padding, dilation):
    """gx = each gy added where its window's maximum stands, all else zero."""
    height, width = x.shape[2:]
    gx[:] = 0
    for n in range(gy.shape[0]):
        for c in range(gy.shape[1]):
            for i in range(gy.shape[2]):
                for j in range(gy.shape[3]):
                    best, by, bx = x.dtype.type(-np.inf), -1, -1
                    for r in range(kernel_size[0]):
                        for s in range(kernel_size[1]):
                            iy = i * stride[0] + r * dilation[0] - padding[0]
                            ix = j * stride[1] + s * dilation[1] - padding[2]
                            if 0 <= iy < height and 0 <= ix < width:
                                value = x[n, c, iy, ix]
                                if value > best or value != value or by < 0:
                                    best, by, bx = value, iy, ix
                    if by >= 0:
                        gx[n, c, by, bx] += gy[n, c, i, j]


@njit
def _window(i, size, kernel, stride, before, after):
    """(first, end, counted): the window's range within the axis, and its length with padding but not beyond it."""
    start = i * stride - before
    end = min(start + kernel, size + after)
    return max(start, 0), min(end, size), end - start


@njit
def _average(x, y, kernel_size, stride, padding, include_pad, divisor):
    """y = the sum of each window over its size."""
    height, width = x.shape[2:]
    for n in range(y.shape[0]):
        for c in range(y.shape[1]):
            for i in range(y.shape[2]):
                top, bottom, rows = _window(i, height, kernel_size[0], stride[0], padding[0], padding[1])
                for j in range(y.shape[3]):
                    left, right, columns = _window(j, width, kernel_size[1], stride[1], padding[2], padding[3])
                    count = rows * columns if include_pad else (bottom - top) * (right - left)
                    total = x.dtype.type(0)
                    for iy in range(top, bottom):
                        for ix in range(left, right):
                            total += x[n, c, iy, ix]
                    y[n, c, i, j] = total / x.dtype.type(divisor if divisor else count)


@njit
def _average_grad(gy, gx, kernel_size, stride, padding, include_pad, divisor):
    """gx = each gy over its window's size, added to every element of the window."""
    height, width = gx.shape[2:]
    gx[:] = 0
    for n in range(gy.shape[0]):
        for c in range(gy.shape[1]):
            for i in range(gy.shape[2]):
                top, bottom, rows = _window(i, height, kernel_size[0], stride[0], padding[0], padding[1])
                for j in range(gy.shape[3]):
                    left, right, columns = _window(j, width, kernel_size[1], stride[1], padding[2], padding[3])
                    count = rows * columns if include_pad else (bottom - top) * (right - left)
                    share = gy[n, c, i, j] / gy.dtype.type(divisor if divisor else count)
                    for iy in range(top, bottom):
                        for ix in range(left, right):
                            gx[n, c, iy, ix] += share


def _cost(p):
    return _COST * p.flops


@kernel("max_pool2d/naive/cpu", limit=0.0, cost=_cost)
def maximum(p, x, y, scratch):
    _max(x, y, np.empty((0, 0, 0, 0), np.int64), (p.kh, p.kw), p.stride, p.padding, p.dilation)


@kernel("max_pool2d_with_indices/naive/cpu", limit=0.0, cost=_cost)
def maximum_with_indices(p, x, y, indices, scratch):
    _max(x, y, indices, (p.kh, p.kw), p.stride, p.padding, p.dilation)


@kernel("max_pool2d_grad/naive/cpu", limit=1.0, cost=_cost)
def maximum_grad(p, x, gy, gx, scratch):
    _max_grad(x, gy, gx, (p.kh, p.kw), p.stride, p.padding, p.dilation)


@kernel("avg_pool2d/naive/cpu", limit=1.0, cost=_cost)
def average(p, x, y, scratch):
    _average(x, y, (p.kh, p.kw), p.stride, p.padding, p.count_include_pad, p.divisor_override)


@kernel("avg_pool2d_grad/naive/cpu", limit=1.0, cost=_cost)
def average_grad(p, gy, gx, scratch):
    _average_grad(gy, gx, (p.kh, p.kw), p.stride, p.padding, p.count_include_pad, p.divisor_override)
