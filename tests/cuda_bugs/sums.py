"""Bugs for sums.cu."""

import numpy as np

from fastconv.kernels.cuda import sums

# Planes with threads beyond them, shares of images, shares of planes; single elements in shares and in rows of columns.
SHAPES = ((5, 3, 3, 5), (70, 2, 28, 28), (1, 2, 90, 300), (600, 35), (9, 40))


def works():
    """Whether the kernels are right."""
    for shape in SHAPES:
        x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        plane = int(np.prod(shape[2:]))
        y, scratch = np.empty(shape[1], np.float32), np.empty(sums.scratch(*shape[:2], plane), np.float32)
        sums.of_channels(x, y, scratch)
        if not np.allclose(y, x.sum(axis=(0, *range(2, x.ndim)), dtype=np.float64), atol=1e-3):
            return False
    return True


BUGS = {
    "each share has all images": ("sum_planes", "n += gridDim.y * blockDim.y", "n += blockDim.y"),
    "all shares in one place": ("sum_planes", "parts[(size_t)share * channels + blockIdx.x]", "parts[blockIdx.x]"),
    "images of the next channel": (
        "sum_planes",
        "((size_t)n * channels + blockIdx.x)",
        "((size_t)n * channels + blockIdx.x + 1)",
    ),
    "only the first row of threads": (
        "sum_planes",
        "total = over_block<Sum>(total);",
        "total = over_warp<Sum>(total);",
    ),
    "rows of threads read too early": ("sum_rows", "    __syncthreads();\n    if (threadIdx.y", "    if (threadIdx.y"),
    "a column too many": ("sum_rows", "if (threadIdx.y || column >= columns) return;", "if (threadIdx.y) return;"),
    "a row of threads missing": ("sum_rows", "k < 8; k++", "k < 7; k++"),
}
