"""Bugs for stochastic.cu."""

import numpy as np

from fastconv.kernels.cuda import stochastic
from fastconv.problem import PoolProblem

P = PoolProblem.make((2, 2, 9, 12), (3, 3), stride=2, padding=1)


def works():
    """Whether the kernels are right, of windows by the definition."""
    small, large = (P.n, P.c, P.oh, P.ow), (P.n, P.c, P.h, P.w)
    random = np.random.default_rng(5)
    x, gy = random.standard_normal(large).astype(np.float32), random.standard_normal(small).astype(np.float32)
    x[0, 0] -= 2
    draws = random.random(small, np.float32)
    # Where rounding could put the goal at the sum of all.
    draws[..., 0, :] = 1 - 2.0**-24
    y, places, mean, totals = (np.empty(small, dtype) for dtype in ("float32", "int32", "float32", "float32"))
    gx, wanted_gx = np.empty_like(x), np.zeros(large)
    stochastic.stochastic_pool(P, x, draws, y, places)
    stochastic.stochastic_mean(P, x, mean, totals)
    stochastic.stochastic_mean_grad(P, x, mean, totals, gy, gx)
    # Zeros around are never drawn.
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    for n, c, i, j in np.ndindex(*small):
        window = np.maximum(padded[n, c, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].reshape(-1), 0)
        sums, at = np.cumsum(window), -1
        if sums[-1] > 0:
            at = min(int(np.searchsorted(sums, draws[n, c, i, j] * sums[-1], "right")), int(np.argmax(sums)))
            r, s = 2 * i - 1 + at // 3, 2 * j - 1 + at % 3
            at = r * P.w + s
            wide = window.astype(np.float64)
            expected = (wide**2).sum() / wide.sum()
            share = gy[n, c, i, j] * (2 * wide - expected) / wide.sum()
            for k in np.flatnonzero(window):
                wanted_gx[n, c, 2 * i - 1 + k // 3, 2 * j - 1 + k % 3] += share[k]
        drawn = x[n, c].reshape(-1)[at] if at >= 0 else 0
        if at != places[n, c, i, j] or drawn != y[n, c, i, j]:
            return False
        if not np.isclose(mean[n, c, i, j], expected if at >= 0 else 0, rtol=1e-4):
            return False
    return np.allclose(gx, wanted_gx, rtol=1e-3, atol=1e-3)


BUGS = {
    "the element before": ("stochastic_pool", "v > 0 && sum <= goal", "v > 0 && sum + v <= goal"),
    "draws of the next window": ("stochastic_pool", "draws[to] * total", "draws[to + 1] * total"),
    "what is below 0 takes away": ("stochastic_pool", "total += v <= 0 ? (REAL)0 : v;", "total += v;"),
    "a place without its row": ("stochastic_pool", "at = place;", "at = columns.first + s;"),
    "elements and not their squares": ("stochastic_mean", "squares += v * v;", "squares += v;"),
    "nothing divided by nothing": ("stochastic_mean", "total == 0 ? (REAL)0 : squares / total", "squares / total"),
    "a row missing": (
        "stochastic_mean",
        "total += v;\n                    squares",
        "total += r ? v : 0;\n                    squares",
    ),
    "elements below 0 have a gradient": ("stochastic_mean_grad", " && !(value <= 0)", ""),
    "x once": ("stochastic_mean_grad", "(2 * value - y[window])", "(value - y[window])"),
}
