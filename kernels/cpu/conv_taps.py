"""Convolution and its input gradient as one thing: a sum over taps on a dense grid of outputs.

For output (i, j) of a grid, tap t reads source element (i·step + dy[t], j·step + dx[t]), zero outside the source.
Forward is one grid over y reading x. The input gradient reads gy; with a stride it falls into sh·sw grids, one for
each remainder of (iy, ix), because an input element meets only the taps of its own remainder. No tap is wasted, and
grids write disjoint elements.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from fastconv.kernels.cpu.gemm import pack_rows, panel_depth
from fastconv.kernels.cpu.host import TILE_ROWS
from fastconv.kernels.cpu.jit import inner, njit
from fastconv.kernels.cpu.simd import flush_denormals, restore_denormals, take


@dataclass(frozen=True, eq=False)
class Grid:
    """One dense grid of outputs: rows × columns elements of every output plane.

    Element (i, j) stands at (first_y + i·step_y, first_x + j·step_x) of a plane of out_h × out_w, and tap t reads the
    source plane (in_h × in_w) at (i·read_y + dy[t], j·read_x + dx[t]). `taps` are indices into kh·kw.
    """

    rows: int
    columns: int
    first_y: int
    first_x: int
    step_y: int
    step_x: int
    out_h: int
    out_w: int
    in_h: int
    in_w: int
    read_y: int
    read_x: int
    dy: np.ndarray
    dx: np.ndarray
    taps: np.ndarray

    @property
    def dense(self) -> bool:
        """Whether the grid is the whole output plane, so that its elements are contiguous."""
        return self.step_y == self.step_x == 1


@lru_cache(maxsize=1024)
def forward_grid(p):
    """The one grid of a forward convolution."""
    taps = np.arange(p.kh * p.kw)
    dy = taps // p.kw * p.dilation[0] - p.padding[0]
    dx = taps % p.kw * p.dilation[1] - p.padding[2]
    return Grid(p.oh, p.ow, 0, 0, 1, 1, p.oh, p.ow, p.h, p.w, *p.stride, dy, dx, taps)


@lru_cache(maxsize=1024)
def input_gradient_grids(p):
    """The grids of the input gradient, one for each remainder of (iy, ix) by the stride; some may have no taps."""
    (sh, sw), (dh, dw) = p.stride, p.dilation
    grids = []
    for y in range(min(sh, p.h)):
        for x in range(min(sw, p.w)):
            met = [
                (r * p.kw + s, (y + p.padding[0] - r * dh) // sh, (x + p.padding[2] - s * dw) // sw)
                for r in range(p.kh)
                for s in range(p.kw)
                if (y + p.padding[0] - r * dh) % sh == 0 and (x + p.padding[2] - s * dw) % sw == 0
            ]
            taps, dy, dx = np.array(met, np.int64).reshape(-1, 3).T.copy()
            size = -(-(p.h - y) // sh), -(-(p.w - x) // sw)
            grids.append(Grid(*size, y, x, sh, sw, p.h, p.w, p.oh, p.ow, 1, 1, dy, dx, taps))
    return tuple(grids)


@lru_cache(maxsize=1024)
def sizes(p, grid, rows, sources):
    """What a worker needs to know of a problem and one of its grids, as one int64 array.

    images, groups, channels summed over and computed in a group; source plane and read steps; output plane; the grid's
    extent, first element and steps.
    """
    values = (p.n, p.groups, sources, rows, grid.in_h, grid.in_w, grid.read_y, grid.read_x)
    place = (grid.out_h, grid.out_w, grid.rows, grid.columns, grid.first_y, grid.first_x, grid.step_y, grid.step_x)
    return np.array(values + place, np.int64)


def packed_weight_size(groups, rows, depth):
    """Elements of a packed weight: for each group, panels of TILE_ROWS rows."""
    return groups * -(-rows // TILE_ROWS) * TILE_ROWS * (-(-depth // 16) * 16)


@inner
def weight_panel(group, panel, rows, depth):
    """Where a panel of a packed weight starts."""
    panels = (rows + TILE_ROWS - 1) // TILE_ROWS
    return (group * panels + panel) * TILE_ROWS * panel_depth(depth)


@njit
def pack_weights(counter, thread, w, taps, groups, rows, sources, row_stride, source_stride, kernel, packed):
    """packed[group][panel][q][TILE_ROWS] with q = source·taps + tap, from w in torch's order (o, c/groups, kh·kw).

    Rows are what the product computes (o forward, c for the input gradient), sources what it sums over; a group's
    weights are contiguous in w, and row and source strides say where within them.
    """
    state = flush_denormals()
    depth = sources * taps.size
    panels = (rows + TILE_ROWS - 1) // TILE_ROWS
    whole = source_stride == kernel and taps.size == kernel
    while True:
        piece = take(counter)
        if piece >= groups * panels:
            break
        group, panel = piece // panels, piece % panels
        first = panel * TILE_ROWS
        base = group * rows * sources * kernel + first * row_stride
        at = weight_panel(group, panel, rows, depth)
        if whole:
            pack_rows(w, base, row_stride, 1, rows - first, depth, packed, at)
        else:
            for source in range(sources):
                for t in range(taps.size):
                    for r in range(TILE_ROWS):
                        value = w.dtype.type(0)
                        if first + r < rows:
                            value = w[base + r * row_stride + source * source_stride + taps[t]]
                        packed[at] = value
                        at += 1
    restore_denormals(state)


@inner
def scatter(tile_buffer, at, size, rows, pixels, y, plane, plane_stride, grid_w, first, place, accumulate):
    """Write a buffered tile to the places of a grid that is not dense: row r's pixel p to its strided element."""
    first_y, first_x, step_y, step_x, out_w = place
    for v in range(pixels):
        i, j = (first + v) // grid_w, (first + v) % grid_w
        target = plane + (first_y + i * step_y) * out_w + first_x + j * step_x
        for r in range(rows):
            value = tile_buffer[at + r * size + v]
            if accumulate:
                value += y[target + r * plane_stride]
            y[target + r * plane_stride] = value
