"""What this machine can do at most: fused multiply-adds per second and bytes copied per second.

Not kernels of the registry; the yardstick every report divides by. Work is cut into pieces, several for each thread,
so that a thread that comes late costs little.
"""

from __future__ import annotations

from fastconv.kernels.cpu.host import TILE_ROWS, TILE_VECS
from fastconv.kernels.cpu.jit import njit
from fastconv.kernels.cpu.simd import lanes, load, store
from fastconv.kernels.cpu.team import take
from fastconv.kernels.cpu.tiles import outer, row_offsets, shares, spaced, store_tile, zeros


@njit
def fma_loop(counter, thread, x, y, pieces, steps):
    """Each piece is `steps` tile updates, 2 · steps · TILE_ROWS · TILE_VECS · lanes flops, on operands that stay in L1.

    x has at least 4096 elements, y 1024 for each thread.
    """
    width = lanes(x)
    row = TILE_VECS * width
    while take(counter, thread, pieces) >= 0:
        tile = zeros(x, TILE_ROWS, TILE_VECS)
        rows = row_offsets(tile, TILE_ROWS, 1)
        for k in range(steps):
            at = (k & 15) * 64
            tile = outer(tile, x, at, rows, x, spaced(tile, 1024 + at, width))
        store_tile(tile, y, spaced(tile, thread * 1024, width), shares(tile, row), row, TILE_ROWS, False)


@njit
def copy(counter, thread, x, y, pieces, part, times):
    """y = x in `pieces` parts of `part` elements, a multiple of 16, each `times` times over."""
    while True:
        piece = take(counter, thread, pieces)
        if piece < 0:
            break
        for _ in range(times):
            for i in range(piece * part, (piece + 1) * part, lanes(x)):
                store(y, i, load(x, i))
