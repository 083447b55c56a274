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

from fastconv import threads
from fastconv.kernels.cpu.jit import inner, njit
from fastconv.kernels.cpu.team import parallel, take


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
    # One output on an axis needs no stride, and copies would be as large as a huge one.
    read = (stride if outputs > 1 else 1 for stride, outputs in zip(p.stride, (p.oh, p.ow), strict=True))
    return Grid(p.oh, p.ow, 0, 0, 1, 1, p.oh, p.ow, p.h, p.w, *read, dy, dx, taps)


def _met(kernel, dilation, before, remainder, stride):
    """(tap, source offset) of the taps on one axis that input elements of this remainder meet."""
    reach = ((tap, remainder + before - tap * dilation) for tap in range(kernel))
    return [(tap, place // stride) for tap, place in reach if place % stride == 0]


def _remainders(size, kernel, dilation, before, stride):
    """The remainders on one axis that meet any tap: at most as many as there are taps."""
    return [r for r in sorted({(tap * dilation - before) % stride for tap in range(kernel)}) if r < size]


def _axis(size, kernel, dilation, before, stride):
    """(remainder, taps met) for each of _remainders."""
    return [(r, _met(kernel, dilation, before, r, stride)) for r in _remainders(size, kernel, dilation, before, stride)]


def grid_count(p):
    """How many grids the input gradient has, without building them."""
    rows = _remainders(p.h, p.kh, p.dilation[0], p.padding[0], p.stride[0])
    return len(rows) * len(_remainders(p.w, p.kw, p.dilation[1], p.padding[2], p.stride[1]))


def many_grids_cost(p):
    """Flops' worth of time of an input gradient on so many grids that starting them is what counts, else None."""
    count = grid_count(p)
    return None if count <= 64 else p.flops + 10_000_000.0 * count


@lru_cache(maxsize=1024)
def input_gradient_grids(p):
    """The grids of the input gradient, one for each remainder of (iy, ix) by the stride that meets any tap."""
    grids = []
    for y, rows in _axis(p.h, p.kh, p.dilation[0], p.padding[0], p.stride[0]):
        for x, columns in _axis(p.w, p.kw, p.dilation[1], p.padding[2], p.stride[1]):
            met = [(r * p.kw + s, dy, dx) for r, dy in rows for s, dx in columns]
            taps, dy, dx = np.array(met, np.int64).T.copy()
            size = -(-(p.h - y) // p.stride[0]), -(-(p.w - x) // p.stride[1])
            grids.append(Grid(*size, y, x, *p.stride, p.h, p.w, p.oh, p.ow, 1, 1, dy, dx, taps))
    return tuple(grids)


def clear_untouched(p, gx):
    """Write zeros if there are input elements that no grid of the input gradient writes."""
    remainders = min(p.stride[0], p.h) * min(p.stride[1], p.w)
    if len(input_gradient_grids(p)) < remainders:
        gx[:] = 0


@lru_cache(maxsize=1024)
def sizes(p, grid, rows, sources):
    """What a worker needs to know of a problem and one of its grids, as one int64 array.

    images, groups, channels summed over and computed in a group; source plane and read steps; output plane; the grid's
    extent, first element and steps.
    """
    values = (p.n, p.groups, sources, rows, grid.in_h, grid.in_w, grid.read_y, grid.read_x)
    place = (grid.out_h, grid.out_w, grid.rows, grid.columns, grid.first_y, grid.first_x, grid.step_y, grid.step_x)
    return np.array(values + place, np.int64)


@njit
def transpose_weights(counter, thread, w, taps, groups, rows, sources, kernel, out):
    """out[group][row][source][tap], what the input gradient multiplies with, from w in torch's order.

    Rows are input channels and sources output channels of a group: w is [group][source][row][kh·kw].
    """
    while True:
        piece = take(counter, thread, groups * rows)
        if piece < 0:
            break
        group, row = piece // rows, piece % rows
        at = piece * sources * taps.size
        for source in range(sources):
            first = ((group * sources + source) * rows + row) * kernel
            for t in range(taps.size):
                out[at] = w[first + taps[t]]
                at += 1


def transpose(p, grid, w, out):
    """Write into `out` the weights that a grid of the input gradient needs."""
    team = threads.team(4 * w.size, p.c)
    parallel(transpose_weights, team, w.reshape(-1), grid.taps, p.groups, p.cg, p.og, p.kh * p.kw, out)


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
