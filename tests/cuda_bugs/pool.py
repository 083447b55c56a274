"""Bugs for pool.cu."""

from unittest import mock

import numpy as np

import fastconv.nn.functional as F
from fastconv import tensor
from fastconv.kernels.cuda import adaptive, launch, pool

MODULES = ("pool",)


def works():
    """Whether adaptive pooling is right, in blocks that go down many rows too."""
    random = np.random.default_rng(4).standard_normal
    x, gy = random((1, 2, 70, 35)).astype(np.float32), random((1, 2, 41, 33)).astype(np.float32)
    small = launch.Device("small", 1, 256, 48 * 1024)
    for device in (launch.A100, small):
        y, gx, places = np.empty_like(gy), np.empty_like(x), np.empty(gy.shape, np.int32)
        given = tensor(x, requires_grad=True)
        with mock.patch.object(pool, "device", lambda device=device: device):
            adaptive.max_pool(x, y, None, places)
            adaptive.max_pool_grad(places, gy, gx)
        wanted = F.adaptive_max_pool2d(given, gy.shape[2:])
        wanted.backward(gy)
        if not (np.array_equal(y, wanted.detach().numpy()) and np.allclose(gx, given.grad.numpy(), atol=1e-5)):
            return False
        given = tensor(x, requires_grad=True)
        with mock.patch.object(pool, "device", lambda device=device: device):
            adaptive.avg_pool(x, y)
            adaptive.avg_pool_grad(gy, gx)
        wanted = F.adaptive_avg_pool2d(given, gy.shape[2:])
        wanted.backward(gy)
        if not (np.allclose(y, wanted.detach().numpy(), atol=1e-5) and np.allclose(gx, given.grad.numpy(), atol=1e-5)):
            return False
    return True


BUGS = {
    "a place further": ("max_pool", "y[to] = most;", "y[to + 1] = most;"),
    "the last of equal maxima": ("max_pool", "v > most || v != v", "v >= most || v != v"),
    "windows reach before the plane": (
        "max_pool",
        "return {start + begin * axis.step, max(end - begin, 0)}",
        "return {start, max(end - begin, 0)}",
        "windows.cuh",
    ),
    "places of another plane": ("max_pool", "if (places) places[to]", "if (places) places[(size_t)i * ow + j]"),
    "places of the first row missing": ("max_pool", "if (places) places[to]", "if (places && i) places[to]"),
    "the rows of all blocks below": (
        "max_pool",
        "min(rows, first + (int)blockDim.y * each)",
        "rows",
        "windows.cuh",
    ),
    "rows one after the other": (
        "max_pool",
        "i < own.end; i += blockDim.y) {\n            Span rows = span(vertical, i);\n            int at",
        "i < own.end; i++) {\n            Span rows = span(vertical, i);\n            int at",
    ),
    "windows reach behind the plane": (
        "avg_pool",
        "min(axis.kernel, (axis.size - start + axis.step - 1) / axis.step)",
        "axis.kernel",
        "windows.cuh",
    ),
    "an adaptive window ends too soon": (
        "avg_pool",
        "((i + 1) * axis.size + axis.count - 1) / axis.count - first",
        "(i + 1) * axis.size / axis.count - first",
        "windows.cuh",
    ),
    "rows counted as columns": ("avg_pool", "s < columns.count; s++) total", "s < rows.count; s++) total"),
    "a column's scale for a row": (
        "avg_pool",
        "total * (row_scale[i] * column_scale[j]);",
        "total * (row_scale[j] * column_scale[i]);",
    ),
    "a window too many": (
        "max_pool_grad",
        "min((u + axis.before) / axis.stride, axis.count - 1)",
        "(u + axis.before) / axis.stride",
        "windows.cuh",
    ),
    "gradients set, not added": ("max_pool_grad", "total += gy[window];", "total = gy[window];"),
    "the last adaptive window missing": (
        "max_pool_grad",
        "((u + 1) * axis.count + axis.size - 1) / axis.size - 1",
        "u * axis.count / axis.size",
        "windows.cuh",
    ),
    "gradients by the window's row alone": (
        "avg_pool_grad",
        "* (row_scale[i] * column_scale[j]);\n            gx",
        "* row_scale[i];\n            gx",
    ),
    "a gradient past the row": (
        "avg_pool_grad",
        "(low + axis.stride - 1) / axis.stride,",
        "low / axis.stride - 1,",
        "windows.cuh",
    ),
}
