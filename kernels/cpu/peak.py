"""What this machine can do at most: fused multiply-adds per second and bytes copied per second.

Not kernels of the registry; the yardstick every report divides by.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from fastconv.kernels.cpu.host import TILE_ROWS, TILE_VECS
from fastconv.kernels.cpu.jit import inner, region
from fastconv.kernels.cpu.simd import lanes, load, outer, row_offsets, shares, spaced, store, store_tile, zeros


@inner
def _fma_loop(x, y, base, steps):
    """`steps` rank-1 updates of one register tile on operands that never leave L1: nothing but the FMA units works."""
    width = lanes(x)
    tile = zeros(x, TILE_ROWS, TILE_VECS)
    rows = row_offsets(tile, TILE_ROWS, 1)
    for k in range(steps):
        at = (k & 15) * 64
        tile = outer(tile, x, at, rows, x, spaced(tile, 1024 + at, width))
    row = TILE_VECS * width
    store_tile(tile, y, spaced(tile, base, width), shares(tile, row), row, TILE_ROWS, False)


@region
def fma_loop(threads, x, y, steps):
    """Each of `threads` runs `steps` tile updates: 2 · steps · TILE_ROWS · TILE_VECS · lanes flops a thread.

    x has at least 4096 elements, y at least 1024 a thread.
    """
    for t in prange(threads):
        _fma_loop(x, y, t * 1024, steps)


@inner
def _copy(x, y, start, end):
    for i in range(start, end, lanes(x)):
        store(y, i, load(x, i))


@region
def copy(threads, x, y, part):
    """y = x in `threads` parts of `part` elements, a multiple of 16."""
    for t in prange(threads):
        _copy(x, y, t * part, (t + 1) * part)


@region
def start_threads(threads):
    """Open one parallel region and do nothing: starts Numba's threading layer."""
    done = np.zeros(threads, np.int64)
    for t in prange(threads):
        done[t] = 1
    return done.sum()
