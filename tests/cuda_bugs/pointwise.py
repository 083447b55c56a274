"""Bugs for pointwise.cu."""

import numpy as np

from fastconv.kernels.cuda import pointwise


def works():
    """Whether the kernels are right."""
    x, gy = (np.random.default_rng(k).standard_normal(1027).astype(np.float32) for k in (1, 2))
    y, gx = np.empty_like(x), np.empty_like(x)
    pointwise.activate("sigmoid", x, y)
    pointwise.gradient("sigmoid", y, gy, gx)
    s = 1 / (1 + np.exp(-x.astype(np.float64)))
    return np.allclose(y, s, rtol=1e-5) and np.allclose(gx, gy * s * (1 - s), rtol=1e-3, atol=1e-6)


BUGS = {
    "the tail twice": (
        "activate",
        "k = n / 4 * 4 + first; k < n; k += step) y[k]",
        "k = first; k < n; k += step) y[k]",
    ),
    "a vector too many": (
        "activate",
        "for (int k = first; k < n / 4; k += step) {\n        float4 v = reinterpret_cast<const float4*>(x)",
        "for (int k = first; k <= n / 4; k += step) {\n        float4 v = reinterpret_cast<const float4*>(x)",
    ),
    "a third lane for a fourth": ("activate", "value_of(v.w)", "value_of(v.z)"),
    "vectors from an odd place": ("gradient", "const float4*>(gy)[k]", "const float4*>(gy + 1)[k]"),
    "no tail": ("gradient", "k < n; k += step) gx[k]", "k < n / 4 * 4; k += step) gx[k]"),
}
