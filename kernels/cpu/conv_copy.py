"""A padded copy of a convolution's source, from which every tap of every output reads whole vectors.

It is [channel][row][remainder of the column][column // step], rows and columns counted from the first tap's: zero
padding is written out, and where outputs read with step s along a row, the s remainders of the column lie apart. A
source that needs neither is read as it lies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from fastconv.kernels.cpu.host import LINE, VECTOR_BYTES
from fastconv.kernels.cpu.jit import njit
from fastconv.kernels.cpu.simd import (
    even_lanes,
    flush_denormals,
    lanes,
    load_range,
    prefetch_to_write,
    quotient,
    restore_denormals,
    store,
)
from fastconv.kernels.cpu.team import parallel, take
from fastconv.problem import itemsize

# Rows ahead of which lines are asked for.
_AHEAD = 4

# Parts of the rows of an image where there is one; together, several images have about as many.
_PARTS = 8

# Bytes of copies made at a time: as many images as fit, at least one.
_COPY_BYTES = 4 * 2**20


@dataclass(frozen=True, eq=False)
class Copy:
    """The copy of one image: channels × height × step × line elements, and where taps stand in a channel of it.

    (top, left) is the source element of its first one; row: elements between rows; several: images copied at a time.
    """

    channels: int
    height: int
    line: int
    top: int
    left: int
    step: int
    several: int
    taps: np.ndarray
    needed: bool

    @property
    def row(self):
        return self.step * self.line

    @property
    def plane(self):
        return self.height * self.row

    @property
    def image(self):
        return self.channels * self.plane

    @property
    def elements(self):
        """Elements of scratch, in whole cache lines."""
        return -(-self.several * self.image // 16) * 16 if self.needed else 0


@lru_cache(maxsize=1024)
def flat(grid):
    """The grid as one row, if it is a 1×1 convolution of all of a plane."""
    whole = grid.dense and grid.rows == grid.in_h and grid.columns == grid.in_w
    if grid.taps.size > 1 or grid.dy[0] or grid.dx[0] or not whole or grid.read_y != 1 or grid.read_x != 1:
        return grid
    pixels = grid.rows * grid.columns
    return replace(grid, rows=1, columns=pixels, out_h=1, out_w=pixels, in_h=1, in_w=pixels)


@lru_cache(maxsize=1024)
def of(p, grid, channels, always=False, apart=True):
    """The Copy that outputs of `grid` read.

    always: also if the source could be read as it lies; apart: whether remainders of the column lie apart, for readers
    of whole vectors.
    """
    width = VECTOR_BYTES // itemsize(p.dtype)
    step = grid.read_x if apart else 1
    top, left = int(grid.dy.min()), int(grid.dx.min())
    height = (grid.rows - 1) * grid.read_y + int(grid.dy.max()) - top + 1
    span = (grid.columns - 1) * grid.read_x + int(grid.dx.max()) - left + 1
    needed = always or step > 1 or top < 0 or left < 0 or top + height > grid.in_h or left + span > grid.in_w
    if needed:
        # A vector that begins at a row's last output reads up to width − 1 columns more.
        line = -(-(-(-span // step) + (width if apart else 0)) // width) * width
    else:
        top, left, height, line = 0, 0, grid.in_h, grid.in_w
    dx = grid.dx - left
    taps = (grid.dy - top) * step * line + dx % step * line + dx // step
    size = channels * height * step * line * itemsize(p.dtype)
    several = max(1, min(p.n, _COPY_BYTES // size)) if needed else p.n
    return Copy(channels, height, line, top, left, step, several, np.asarray(taps, np.int64), needed)


def write(copy, team, x, image, images, grid, out):
    """Write the copies of `images` images from number `image` on into `out`."""
    shape = (copy.channels, copy.height, copy.line, copy.top, copy.left, copy.step)
    parallel(_write, team, x, shape, image, images, grid.in_h, grid.in_w, out)


@njit
def _write(counter, thread, x, shape, image0, images, in_h, in_w, copies):
    """A part of the rows of one channel after another until none is left.

    Rows come before channels, and images before rows, as in the readers' pieces: a thread is likely to read what it
    wrote.
    """
    state = flush_denormals()
    channels, height, line, top, left, step = shape
    width = lanes(x)
    zero = x.dtype.type(0)
    parts = min(height, max(1, quotient(_PARTS, max(images, 1))))
    while True:
        piece = take(counter, thread, images * parts * channels)
        if piece < 0:
            break
        rest = quotient(piece, channels)
        image = quotient(rest, parts)
        part, channel = rest - image * parts, image * channels + piece - rest * channels
        plane, first = (image0 * channels + channel) * in_h * in_w, channel * height
        for r in range(quotient(height * part, parts), quotient(height * (part + 1), parts)):
            y = top + r
            # Another thread has read these lines since they were written: fetching them back takes a while.
            for u in range(0, step * line, LINE):
                prefetch_to_write(copies, (first + r + _AHEAD) * step * line + u)
            for f in range(step):
                row = (first + r) * step * line + f * line
                # Copy column u is source column left + f + u·step; low <= u < high lie inside.
                low = max(0, (step - 1 - left - f) // step)
                high = (in_w - 1 - left - f) // step + 1
                if y < 0 or y >= in_h:
                    high = low
                source = plane + y * in_w + left + f
                if step == 1:
                    for u in range(0, line, width):
                        store(copies, row + u, load_range(x, source + u, low - u, high - u))
                elif step == 2:
                    for u in range(0, line, width):
                        start, end = 2 * (low - u), 2 * (high - u) - 1
                        one = load_range(x, source + 2 * u, start, end)
                        two = load_range(x, source + 2 * u + width, start - width, end - width)
                        store(copies, row + u, even_lanes(one, two))
                else:
                    for u in range(line):
                        copies[row + u] = x[source + u * step] if low <= u < high else zero
    restore_denormals(state)


# Flops' worth of time, measured: copying a row apart from its elements.
_ROW_COST = 1_500


def cost(p, copy):
    """Flops' worth of time that the copies of all images take."""
    elements = copy.line if copy.step <= 2 else 6 * copy.line
    return p.n * copy.channels * copy.height * copy.step * (_ROW_COST + 12 * elements) if copy.needed else 0.0
