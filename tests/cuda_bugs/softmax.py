"""Bugs for softmax.cu."""

import numpy as np

import fastconv.nn.functional as F
from fastconv import tensor
from fastconv.kernels.cuda import softmax

# A warp to a row with lanes beyond it, a block to a row, a thread to a row.
SHAPES = ((9, 40), (2, 1100), (3, 5, 4))


def works():
    """Whether the kernels are right."""
    random = np.random.default_rng(3).standard_normal
    for shape in SHAPES:
        x, gy = (3 * random(shape).astype(np.float32) for _ in range(2))
        for logarithm, function in ((False, F.softmax), (True, F.log_softmax)):
            y, gx, given = np.empty_like(x), np.empty_like(x), tensor(x, requires_grad=True)
            softmax.softmax(x, y, 1, logarithm=logarithm)
            softmax.softmax_grad(y, gy, gx, 1, logarithm=logarithm)
            wanted = function(given, 1)
            wanted.backward(gy)
            if not (_near(y, wanted.detach().numpy()) and _near(gx, given.grad.numpy())):
                return False
        labels = np.arange(x.size // x.shape[1]).reshape(x.shape[:1] + x.shape[2:]) % 4
        weight = np.linspace(0.5, 2, x.shape[1], dtype=np.float32)
        losses, gradient, gx = np.empty(labels.shape, np.float32), np.empty_like(x), np.empty_like(x)
        y, divisor, options = np.empty(1, np.float32), np.empty(1, np.float32), {"ignore_index": 1}
        softmax.cross_entropy(x, labels, weight, losses, gradient, label_smoothing=0.2, **options)
        softmax.reduce_losses(losses, labels, weight, y, divisor, x.shape[1], mean=True, **options)
        softmax.cross_entropy_grad(gradient, np.full(1, 3, np.float32), divisor, gx)
        given = tensor(x, requires_grad=True)
        wanted = F.cross_entropy(given, labels, weight, label_smoothing=0.2, **options)
        wanted.backward(np.float32(3))
        if not (_near(y, wanted.detach().numpy()) and _near(gx, given.grad.numpy())):
            return False
        each = 1 + np.arange(labels.size, dtype=np.float32).reshape(labels.shape)
        softmax.cross_entropy_grad(gradient, each, None, gx)
        if not _near(gx, gradient * np.expand_dims(each, 1)):
            return False
    large = np.array([[1e4, 1e4, 0.0]], np.float32)
    y, losses = np.empty_like(large), np.empty(1, np.float32)
    softmax.softmax(large, y)
    softmax.cross_entropy(large, np.array([0]), None, losses)
    return _near(y, [[0.5, 0.5, 0]]) and _near(losses, [np.log(2)])


def _near(a, b):
    return np.allclose(a, b, rtol=1e-4, atol=1e-5)


BUGS = {
    "the largest not of all lanes": ("softmax", "most = over_team<Max>(most);", "most = over_warp<Max>(most);"),
    "no largest taken away": ("softmax", "most = over_team<Max>(most);", "most = 0;"),
    "sums of a warp for a row's": ("softmax", "    total = over_team<Sum>(total);\n    return {", "    return {"),
    "the next row's elements": (
        "softmax",
        "    y += start_of(row, columns, inner);",
        "    y += start_of(row + 1, columns, inner);",
    ),
    "rows that are not there": (
        "softmax",
        "    if (row >= rows) return;\n    x += start_of(row, columns, inner);\n    y +=",
        "    x += start_of(row, columns, inner);\n    y +=",
    ),
    "a sum of gy without y": ("softmax_grad", "logarithm ? gy[at] : gy[at] * y[at]", "gy[at]"),
    "each thread's sum": (
        "softmax_grad",
        "    total = over_team<Sum>(total);\n    for (int c = threadIdx.x; c < columns",
        "    for (int c = threadIdx.x; c < columns",
    ),
    "parts read too early": (
        "softmax_grad",
        "parts[thread / 32] = value;\n    __syncthreads();",
        "parts[thread / 32] = value;",
        "reduce.cuh",
    ),
    "parts written while they are read": (
        "cross_entropy",
        "while they are read.\n    __syncthreads();",
        "while they are read.",
        "reduce.cuh",
    ),
    "every thread's loss": ("cross_entropy", "if (threadIdx.x == 0) losses[row]", "losses[row]"),
    "no weight in the gradient": (
        "cross_entropy",
        "REAL q = ((c == label ? hit : (REAL)0) + rest) * (weight ? weight[c] : (REAL)1);\n        gradient",
        "REAL q = (c == label ? hit : (REAL)0) + rest;\n        gradient",
    ),
    "ignored labels counted": ("cross_entropy", "bool counted = label != ignored;", "bool counted = true;"),
    "the mean over ignored ones too": ("reduce_losses", "        if (label == ignored) continue;\n", ""),
    "losses beyond the last": ("reduce_losses", "row < rows; row += THREADS", "row <= rows; row += THREADS"),
    "the first row's gy": ("scale_rows", "gy[each ? row : 0]", "gy[0]"),
    "a divisor multiplied": ("scale_rows", "/ (divisor ?", "* (divisor ?"),
}
