"""conv2d/depthwise: a channel is convolved with kernels of its own only (groups = in_channels).

    y[q, i, j] = b[q] + Σ_rs w[q, r, s] · x[q // og, i·sh + r·dh − top, j·sw + s·dw − left]

Nothing is shared between planes, so a vector is a piece of one output row and the work goes down its column: a row of
the source is read once and given at once to all the outputs that it is a part of. Three ways, by shape:

- 3×3 with stride 1 or 2 (`_three`, `_three_by_two`) reads the source where it lies, with masks where a vector crosses
  the edge of a plane, and keeps nine weights in registers.
- 5×5 and 7×7 with stride 1 (`_five`, `_seven`) read a padded copy of a band of rows and keep a ring of as many
  accumulators as the kernel has rows.
- All others (`_gather`) go tap by tap over such a copy, in which the remainders of a strided read lie apart.

The input gradient is the same with x and y in each other's places and the kernel turned; with a stride it is one
`_gather` for each of conv_taps' grids, and 3×3 with stride 2 has `_three_over_two`. The weight gradient sums along the
lanes, one output plane a piece, over images in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fastconv import threads
from fastconv.kernels.cpu import conv_taps
from fastconv.kernels.cpu.epilogue import code_of, finish
from fastconv.kernels.cpu.gemm import NO_BIAS
from fastconv.kernels.cpu.host import VECTOR_BYTES
from fastconv.kernels.cpu.jit import inner, njit
from fastconv.kernels.cpu.simd import (
    add,
    even_lanes,
    flush_denormals,
    fma,
    lanes,
    load,
    load_first,
    load_range,
    mul,
    odd_lanes,
    restore_denormals,
    splat,
    store,
    store_first,
    sum_lanes,
    zip_high,
    zip_low,
)
from fastconv.kernels.cpu.team import parallel, take
from fastconv.kernels.cpu.tiles import (
    first_row,
    listed,
    outer,
    outer_lanes,
    plus,
    rolled,
    row_offsets,
    shifted,
    spaced,
    store_tile,
    sum_tile_into,
    zeros,
)
from fastconv.problem import itemsize
from fastconv.registry import kernel

# Bytes of a padded copy, which should stay in the first cache, and the fewest output rows it is made for.
_COPY_BYTES = 32 * 2**10
_FEWEST_ROWS = 8
# Outputs of small planes that make a piece of work together.
_PIECE = 8192
# Vectors of outputs, or taps of a weight gradient, that are summed at the same time.
_VECS = 8
_TAPS = 7
# Elements of scratch for a ring's kernel.
_RING_WEIGHTS = 64


@inner
def _put(y, at, value, count, more):
    """y.flat[at : at + count] = value, or += if `more`."""
    if count >= lanes(y):
        store(y, at, add(value, load(y, at)) if more else value)
    else:
        store_first(y, at, add(value, load_first(y, at, count)) if more else value, count)


def _make_three(step, masked):
    """3×3 down one vector of columns, stride `step` (rows' dilation only with 1), as two functions.

    `masked` says that vectors may cross the edge of a plane. A vector is summed as (p0 + p1) + p2 with one product p of
    three terms for each row of the kernel: sums of products do not wait for each other as one chain would.
    """

    @inner
    def read(x, row, c, width_in, most):
        """x's row from column c on; zero outside of the plane and from the `most`-th column on."""
        if masked:
            return load_range(x, row + c, -c, min(width_in - c, most))
        return load(x, row + c)

    @inner
    def taps(x, row, c, dw, width_in, most):
        """What the kernel's three columns meet in a row."""
        width = lanes(x)
        if step == 1:
            return (
                read(x, row, c, width_in, most),
                read(x, row, c + dw, width_in, most),
                read(x, row, c + 2 * dw, width_in, most),
            )
        low, high = read(x, row, c, width_in, most), read(x, row, c + width, width_in, most - width)
        third = even_lanes(read(x, row, c + 2, width_in, most), read(x, row, c + 2 + width, width_in, most - width))
        return even_lanes(low, high), odd_lanes(low, high), third

    @inner
    def convolve(x, plane, height, width_in, w, at, turn, bias, y, to, ow, first, last, j, top, left, dh, dw, more):
        """Rows first to last of y's plane at `to`, columns j to j + lanes; turn = −1 reads the kernel backwards."""
        w0, w1, w2 = splat(x, w[at]), splat(x, w[at + turn]), splat(x, w[at + 2 * turn])
        w3, w4, w5 = splat(x, w[at + 3 * turn]), splat(x, w[at + 4 * turn]), splat(x, w[at + 5 * turn])
        w6, w7, w8 = splat(x, w[at + 6 * turn]), splat(x, w[at + 7 * turn]), splat(x, w[at + 8 * turn])
        c = j * step - left
        most = width_in + 2 * lanes(x)
        # Not a plain product: the compiler would make one chain of a product's sum with what came before.
        none = splat(x, 0.0)
        begun = splat(x, bias)
        # Rows as far apart as the dilation belong together.
        for phase in range(min(dh, last - first)):
            # What is known of the sums of the next output row and of the one after it.
            next_sum, after_sum = begun, begun
            begin = first + phase
            if step == 1:
                r = begin - top
                # Two rows of input come before the first row of output is done.
                for i in range(begin - 2 * dh, last, dh):
                    done = next_sum
                    next_sum, after_sum = after_sum, begun
                    if 0 <= r < height:
                        v0, v1, v2 = taps(x, plane + r * width_in, c, dw, width_in, most)
                        done = add(done, fma(w8, v2, fma(w7, v1, fma(w6, v0, none))))
                        next_sum = add(next_sum, fma(w5, v2, fma(w4, v1, fma(w3, v0, none))))
                        after_sum = fma(w2, v2, fma(w1, v1, fma(w0, v0, after_sum)))
                    if i >= first:
                        _put(y, to + i * ow + j, done, ow - j, more)
                    r += dh
            else:
                r = 2 * begin - top
                if 0 <= r < height:
                    v0, v1, v2 = taps(x, plane + r * width_in, c, dw, width_in, most)
                    next_sum = fma(w2, v2, fma(w1, v1, fma(w0, v0, begun)))
                for i in range(begin, last):
                    done, next_sum = next_sum, begun
                    r += 1
                    if 0 <= r < height:
                        v0, v1, v2 = taps(x, plane + r * width_in, c, dw, width_in, most)
                        done = add(done, fma(w5, v2, fma(w4, v1, fma(w3, v0, none))))
                    r += 1
                    if 0 <= r < height:
                        v0, v1, v2 = taps(x, plane + r * width_in, c, dw, width_in, most)
                        done = add(done, fma(w8, v2, fma(w7, v1, fma(w6, v0, none))))
                        next_sum = fma(w2, v2, fma(w1, v1, fma(w0, v0, begun)))
                    _put(y, to + i * ow + j, done, ow - j, more)

    return convolve


def _make_three_worker(step, inside, edges):
    @inner
    def worker(counter, thread, x, w, bias, z, code, y, sizes):
        """One piece of work after another: `several` (plane, band of rows)s of y."""
        state = flush_denormals()
        images, groups, rows, sources, height, width_in, oh, ow, top, left, dh, dw, turn, band, several = sizes
        width = lanes(x)
        bands = (oh + band - 1) // band
        total = images * groups * rows * bands
        while True:
            piece = take(counter, thread, (total + several - 1) // several)
            if piece < 0:
                break
            for k in range(piece * several, min((piece + 1) * several, total)):
                plane, first = k // bands, k % bands * band
                q = plane % (groups * rows)
                for source in range(sources):
                    source_plane = (plane // rows * sources + source) * height * width_in
                    begun = bias[q] if bias.size and source == 0 else w.dtype.type(0)
                    kernel_of = (w, (q * sources + source) * 9 + (8 if turn < 0 else 0), turn, begun)
                    rows_of = (y, plane * oh * ow, ow, first, min(first + band, oh))
                    for j in range(0, ow, width):
                        c = j * step - left
                        place = (j, top, left, dh, dw, source > 0)
                        if c >= 0 and c + 2 * dw + step * width <= width_in:
                            inside(x, source_plane, height, width_in, *kernel_of, *rows_of, *place)
                        else:
                            edges(x, source_plane, height, width_in, *kernel_of, *rows_of, *place)
                if code or z.size:
                    finish(y, (plane * oh + first) * ow, min(band, oh - first) * ow, z, code)
        restore_denormals(state)

    return worker


_work_1 = _make_three_worker(1, _make_three(1, False), _make_three(1, True))
_work_2 = _make_three_worker(2, _make_three(2, False), _make_three(2, True))


@njit
def _three(counter, thread, x, w, bias, z, code, y, sizes):
    _work_1(counter, thread, x, w, bias, z, code, y, sizes)


@njit
def _three_by_two(counter, thread, x, w, bias, z, code, y, sizes):
    _work_2(counter, thread, x, w, bias, z, code, y, sizes)


@njit
def _three_over_two(counter, thread, gy, w, gx, sizes):
    """The input gradient of 3×3 with stride 2, one plane of gx after another.

    In padded coordinates gx[2k] takes the kernel's ends from gy[k] and gy[k − 1], gx[2k + 1] its middle from gy[k], on
    either axis. A vector of the former and one of the latter are stored zipped.
    """
    state = flush_denormals()
    images, groups, _, sources, oh, ow, height, width_in, top, left, _, _, _, _, several = sizes
    width = lanes(gy)
    total = images * groups
    # With odd padding a row of gx begins with an odd column: vectors then hold columns 2m + 1 and 2m + 2.
    odd = left % 2
    while True:
        piece = take(counter, thread, (total + several - 1) // several)
        if piece < 0:
            break
        for plane in range(piece * several, min((piece + 1) * several, total)):
            to = plane * height * width_in
            for source in range(sources):
                number = plane * sources + source
                at = number % (groups * sources) * 9
                w0, w1, w2 = splat(gy, w[at]), splat(gy, w[at + 1]), splat(gy, w[at + 2])
                w3, w4, w5 = splat(gy, w[at + 3]), splat(gy, w[at + 4]), splat(gy, w[at + 5])
                w6, w7, w8 = splat(gy, w[at + 6]), splat(gy, w[at + 7]), splat(gy, w[at + 8])
                none = splat(gy, 0.0)
                for j in range(0, width_in, 2 * width):
                    # The columns of gy that meet the kernel's first column and its last: m and m − 1 of the even one.
                    m = left // 2 + j // 2 + odd
                    before_0, before_1 = none, none
                    for k in range(top // 2 - 1, (top + height - 1) // 2 + 1):
                        here_0, here_1 = none, none
                        if 0 <= k < oh:
                            row = (number * oh + k) * ow
                            if m >= 1 and m + width <= ow:
                                here_0, here_1 = load(gy, row + m), load(gy, row + m - 1)
                            else:
                                here_0 = load_range(gy, row + m, -m, ow - m)
                                here_1 = load_range(gy, row + m - 1, 1 - m, ow - m + 1)
                        # The middle column of the kernel meets the odd column's m.
                        middle, middle_before = (here_1, before_1) if odd else (here_0, before_0)
                        y = 2 * k - top
                        if 0 <= y < height:
                            ends = fma(w8, before_1, fma(w6, before_0, fma(w2, here_1, mul(w0, here_0))))
                            center = fma(w7, middle_before, mul(w1, middle))
                            first, second = (center, ends) if odd else (ends, center)
                            _put(gx, to + y * width_in + j, zip_low(first, second), width_in - j, source > 0)
                            if width_in - j > width:
                                last = to + y * width_in + j + width
                                _put(gx, last, zip_high(first, second), width_in - j - width, source > 0)
                        y += 1
                        if 0 <= y < height:
                            ends = fma(w5, here_1, mul(w3, here_0))
                            center = mul(w4, middle)
                            first, second = (center, ends) if odd else (ends, center)
                            _put(gx, to + y * width_in + j, zip_low(first, second), width_in - j, source > 0)
                            if width_in - j > width:
                                last = to + y * width_in + j + width
                                _put(gx, last, zip_high(first, second), width_in - j - width, source > 0)
                        before_0, before_1 = here_0, here_1
    restore_denormals(state)


@inner
def _copy(x, plane, height, width_in, first, count, left, step, line, copies, at):
    """Write `count` rows of x's plane from row `first` on with their padding: [row][remainder][column // step].

    Column u of remainder f is the plane's column left + f + u·step, zero outside; `line` is whole vectors.
    """
    width = lanes(x)
    for r in range(count):
        y = first + r
        row = plane + y * width_in
        to = at + r * step * line
        if y < 0 or y >= height:
            for u in range(0, step * line, width):
                store(copies, to + u, splat(x, 0.0))
        elif step == 1:
            for u in range(0, line, width):
                c = left + u
                if c >= 0 and c + width <= width_in:
                    store(copies, to + u, load(x, row + c))
                else:
                    store(copies, to + u, load_range(x, row + c, -c, width_in - c))
        elif step == 2:
            for u in range(0, line, width):
                c = left + 2 * u
                if c >= 0 and c + 2 * width <= width_in:
                    low, high = load(x, row + c), load(x, row + c + width)
                else:
                    low = load_range(x, row + c, -c, width_in - c)
                    high = load_range(x, row + c + width, -c - width, width_in - c - width)
                store(copies, to + u, even_lanes(low, high))
                store(copies, to + line + u, odd_lanes(low, high))
        else:
            for f in range(step):
                for u in range(line):
                    c = left + f + u * step
                    copies[to + f * line + u] = x[row + c] if 0 <= c < width_in else 0


def _make_ring(k):
    """A stride-1 convolution of k×k on a padded copy; k accumulators go down a vector of columns."""
    taps = k * k

    @inner
    def worker(counter, thread, x, w, bias, z, code, y, sizes, line, work):
        """One piece of work after another: a band of rows of the outputs of one group."""
        state = flush_denormals()
        images, groups, rows, sources, height, width_in, oh, ow, top, left, dh, dw, turn, band, _ = sizes
        width = lanes(x)
        bands = (oh + band - 1) // band
        # A thread's scratch: a kernel in the order in which it is used, then the copy.
        weights = thread * (_RING_WEIGHTS + (band + (k - 1) * dh) * line)
        here = weights + _RING_WEIGHTS
        while True:
            piece = take(counter, thread, images * groups * bands)
            if piece < 0:
                break
            number, first = piece // bands, piece % bands * band
            count = min(band, oh - first)
            for source in range(sources):
                plane = (number * sources + source) * height * width_in
                extent = count + (k - 1) * dh
                _copy(x, plane, height, width_in, first - top, extent, -left, 1, line, work, here)
                for row in range(rows):
                    q = number % groups * rows + row
                    at = (q * sources + source) * taps
                    for t in range(taps):
                        work[weights + t] = w[at + (t if turn > 0 else taps - 1 - t)]
                    begun = splat(x, bias[q] if bias.size and source == 0 else w.dtype.type(0))
                    to = ((number * rows + row) * oh + first) * ow
                    for j in range(0, ow, width):
                        for phase in range(min(dh, count)):
                            ring = rolled(zeros(x, k, 1), begun)
                            # Accumulator r meets kernel row k − 1 − r: earlier rows of input gave it the rows before.
                            kernel_rows = row_offsets(ring, k, -k)
                            for i in range(phase - (k - 1) * dh, count, dh):
                                place = spaced(ring, here + (i + (k - 1) * dh) * line + j, 0)
                                for s in range(k):
                                    kernel_row = weights + taps - k + s
                                    ring = outer(ring, work, kernel_row, kernel_rows, work, shifted(place, s * dw))
                                if i >= 0:
                                    _put(y, to + i * ow + j, first_row(ring), ow - j, source > 0)
                                ring = rolled(ring, begun)
                    if code or z.size:
                        finish(y, to, count * ow, z, code)
        restore_denormals(state)

    return worker


_ring_5, _ring_7 = _make_ring(5), _make_ring(7)


@njit
def _five(counter, thread, x, w, bias, z, code, y, sizes, line, work):
    _ring_5(counter, thread, x, w, bias, z, code, y, sizes, line, work)


@njit
def _seven(counter, thread, x, w, bias, z, code, y, sizes, line, work):
    _ring_7(counter, thread, x, w, bias, z, code, y, sizes, line, work)


def _make_sum(vecs):
    @inner
    def sum_of_taps(x, number, reads, at, w, wi, taps, places):
        """Σ_t w[wi + taps[t]] · x[at + reads[number + v] + places[t] :] as `vecs` vectors."""
        tile = zeros(x, 1, vecs)
        one = row_offsets(tile, 1, 0)
        from_here = shifted(listed(tile, reads, number), at)
        for t in range(taps.size):
            tile = outer(tile, w, wi + taps[t], one, x, shifted(from_here, places[t]))
        return tile

    return sum_of_taps


_sum_several, _sum_one = _make_sum(_VECS), _make_sum(1)


@njit
def _gather(counter, thread, x, w, bias, z, code, y, sizes, corner, taps, places, reads, writes, lengths, work):
    """One grid of conv_taps, tap by tap: a band of its rows of one group's outputs after another.

    The band's vectors of outputs stand at `reads` in the copy and at `writes` among the band's outputs, one dense row
    after another; a grid that is not dense passes through a buffer.
    """
    state = flush_denormals()
    images, groups, rows, sources, height, width_in, grid_h, grid_w, top, left, read_y, step, kernel, band, line = sizes
    out_h, out_w, first_y, first_x, step_y, step_x, extent = corner
    bands = (grid_h + band - 1) // band
    in_row = (grid_w + lanes(x) - 1) // lanes(x)
    buffer_size = (band * grid_w // lanes(x) + 2) * lanes(x)
    here = thread * (extent * step * line + buffer_size)
    buffer = here + extent * step * line
    dense = step_y == 1 and step_x == 1
    while True:
        piece = take(counter, thread, images * groups * bands)
        if piece < 0:
            break
        number, first = piece // bands, piece % bands * band
        count = min(band, grid_h - first)
        vectors = count * in_row
        for source in range(sources):
            plane = (number * sources + source) * height * width_in
            needed = extent - (band - count) * read_y
            _copy(x, plane, height, width_in, first * read_y + top, needed, left, step, line, work, here)
            for row in range(rows):
                q = number % groups * rows + row
                at = (q * sources + source) * kernel
                out = (number * rows + row) * out_h * out_w
                begun = bias[q] if bias.size and source == 0 else w.dtype.type(0)
                target = out + first * grid_w
                v = 0
                while v < vectors:
                    if vectors - v >= _VECS:
                        tile = plus(_sum_several(work, v, reads, here, w, at, taps, places), splat(x, begun))
                        places_of = listed(tile, writes, v), listed(tile, lengths, v)
                        v += _VECS
                        if dense:
                            store_tile(tile, y, shifted(places_of[0], target), places_of[1], 0, 1, source > 0)
                        else:
                            store_tile(tile, work, shifted(places_of[0], buffer), places_of[1], 0, 1, False)
                    else:
                        tile = plus(_sum_one(work, v, reads, here, w, at, taps, places), splat(x, begun))
                        places_of = listed(tile, writes, v), listed(tile, lengths, v)
                        v += 1
                        if dense:
                            store_tile(tile, y, shifted(places_of[0], target), places_of[1], 0, 1, source > 0)
                        else:
                            store_tile(tile, work, shifted(places_of[0], buffer), places_of[1], 0, 1, False)
                if not dense:
                    for i in range(count):
                        to = out + (first_y + (first + i) * step_y) * out_w + first_x
                        for j in range(grid_w):
                            value = work[buffer + i * grid_w + j]
                            if source > 0:
                                value += y[to + j * step_x]
                            y[to + j * step_x] = value
                if code or z.size:
                    # Forward grids are dense, and have one source.
                    finish(y, target, count * grid_w, z, code)
    restore_denormals(state)


def _make_three_weight(step):
    """The weight gradient of 3×3 with stride `step`: nine sums along the lanes go down a column of vectors."""

    @inner
    def read(x, row, c, width_in, most):
        """x's row from column c on, zero outside of the plane and from the `most`-th element on."""
        if c >= 0 and c + lanes(x) <= width_in and most >= lanes(x):
            return load(x, row + c)
        return load_range(x, row + c, -c, min(width_in - c, most))

    @inner
    def worker(counter, thread, x, gy, gw, sizes):
        """gw of one output channel after another: its sums over the images in their order."""
        state = flush_denormals()
        images, groups, rows, _, height, width_in, oh, ow, top, left, dh, dw, _, _, _ = sizes
        width = lanes(x)
        none = splat(x, 0.0)
        while True:
            q = take(counter, thread, groups * rows)
            if q < 0:
                break
            g0, g1, g2, g3, g4, g5, g6, g7, g8 = none, none, none, none, none, none, none, none, none
            for image in range(images):
                plane = (image * groups + q // rows) * height * width_in
                gy_plane = (image * groups * rows + q) * oh * ow
                for j in range(0, ow, width):
                    c = j * step - left
                    # What lies beyond the outputs meets zeros of gy, and must be zero in case it is NaN.
                    most = step * (ow - j)
                    if step == 1:
                        for phase in range(min(dh, oh)):
                            here, before, earlier = none, none, none
                            for i in range(phase, oh + 2 * dh, dh):
                                earlier, before, here = before, here, none
                                if i < oh:
                                    here = load_first(gy, gy_plane + i * ow + j, ow - j)
                                r = i - top
                                if 0 <= r < height:
                                    row = plane + r * width_in
                                    v0 = read(x, row, c, width_in, most)
                                    v1 = read(x, row, c + dw, width_in, most)
                                    v2 = read(x, row, c + 2 * dw, width_in, most)
                                    # An output row that does not exist must not meet NaN, not even with zeros.
                                    if i < oh:
                                        g0, g1, g2 = fma(v0, here, g0), fma(v1, here, g1), fma(v2, here, g2)
                                    if dh <= i < oh + dh:
                                        g3, g4, g5 = fma(v0, before, g3), fma(v1, before, g4), fma(v2, before, g5)
                                    if i >= 2 * dh:
                                        g6, g7, g8 = fma(v0, earlier, g6), fma(v1, earlier, g7), fma(v2, earlier, g8)
                    else:
                        before = none
                        for i in range(oh + 1):
                            here = none
                            if i < oh:
                                here = load_first(gy, gy_plane + i * ow + j, ow - j)
                            r = 2 * i - top
                            if 0 <= r < height:
                                row = plane + r * width_in
                                a = read(x, row, c, width_in, most)
                                b = read(x, row, c + width, width_in, most - width)
                                v0, v1 = even_lanes(a, b), odd_lanes(a, b)
                                a = read(x, row, c + 2, width_in, most)
                                b = read(x, row, c + 2 + width, width_in, most - width)
                                v2 = even_lanes(a, b)
                                if i < oh:
                                    g0, g1, g2 = fma(v0, here, g0), fma(v1, here, g1), fma(v2, here, g2)
                                if i > 0:
                                    g6, g7, g8 = fma(v0, before, g6), fma(v1, before, g7), fma(v2, before, g8)
                            r += 1
                            if 0 <= r < height and i < oh:
                                row = plane + r * width_in
                                a = read(x, row, c, width_in, most)
                                b = read(x, row, c + width, width_in, most - width)
                                v0, v1 = even_lanes(a, b), odd_lanes(a, b)
                                a = read(x, row, c + 2, width_in, most)
                                b = read(x, row, c + 2 + width, width_in, most - width)
                                v2 = even_lanes(a, b)
                                g3, g4, g5 = fma(v0, here, g3), fma(v1, here, g4), fma(v2, here, g5)
                            before = here
            at = 9 * q
            gw[at], gw[at + 1], gw[at + 2] = sum_lanes(g0), sum_lanes(g1), sum_lanes(g2)
            gw[at + 3], gw[at + 4], gw[at + 5] = sum_lanes(g3), sum_lanes(g4), sum_lanes(g5)
            gw[at + 6], gw[at + 7], gw[at + 8] = sum_lanes(g6), sum_lanes(g7), sum_lanes(g8)
        restore_denormals(state)

    return worker


_weight_1, _weight_2 = _make_three_weight(1), _make_three_weight(2)


@njit
def _three_weight(counter, thread, x, gy, gw, sizes):
    _weight_1(counter, thread, x, gy, gw, sizes)


@njit
def _three_by_two_weight(counter, thread, x, gy, gw, sizes):
    _weight_2(counter, thread, x, gy, gw, sizes)


@njit
def _gather_weight(counter, thread, x, gy, gw, sizes, extent, places, copies):
    """gw of one output channel after another, on padded copies of bands, _TAPS sums along the lanes at a time.

    `places` is where each tap stands in the copy, padded to whole times _TAPS.
    """
    state = flush_denormals()
    images, groups, rows, _, height, width_in, oh, ow, top, left, read_y, step, taps, band, line = sizes
    width = lanes(x)
    here = thread * extent * step * line
    while True:
        q = take(counter, thread, groups * rows)
        if q < 0:
            break
        for t in range(taps):
            gw[q * taps + t] = 0
        for image in range(images):
            plane = (image * groups + q // rows) * height * width_in
            for first in range(0, oh, band):
                count = min(band, oh - first)
                needed = extent - (band - count) * read_y
                _copy(x, plane, height, width_in, first * read_y + top, needed, left, step, line, copies, here)
                of_gy = ((image * groups * rows + q) * oh + first) * ow
                for t in range(0, taps, _TAPS):
                    tile = zeros(x, 1, _TAPS)
                    offsets = shifted(listed(tile, places, t), here)
                    for i in range(count):
                        for j in range(0, ow, width):
                            at = shifted(offsets, i * read_y * step * line + j)
                            tile = outer_lanes(tile, gy, of_gy + i * ow + j, 0, 1, copies, at, ow - j)
                    sum_tile_into(tile, gw, q * taps + t, 0, 1, 1, taps - t)
    restore_denormals(state)


def _unsupported(p):
    return None if p.cg == 1 else f"groups {p.groups}, needs as many as the {p.c} input channels"


def _round_up(number, unit):
    return -(-number // unit) * unit


def _width(p):
    return VECTOR_BYTES // itemsize(p.dtype)


def _several(planes, outputs):
    """How many small planes make a piece of work: few enough for every thread to have some."""
    return max(1, min(_PIECE // outputs, planes // (4 * threads.available())))


def _dense_sizes(p, rows, sources, source, outputs, before, turn, band, several):
    """What the workers of dense outputs need to know, as one int64 array."""
    values = (p.n, p.groups, rows, sources, *source, *outputs, *before, *p.dilation, turn, band, several)
    return np.array(values, np.int64)


def _turned(p):
    """The padding with which the input gradient of stride 1 is a convolution of gy."""
    return p.dilation[0] * (p.kh - 1) - p.padding[0], p.dilation[1] * (p.kw - 1) - p.padding[2]


def _way(p, backwards=False):
    """Which worker does a problem: "three", "two" (3×3, stride 2), "ring" or "gather"."""
    # One output on an axis needs no stride.
    unit = all(stride == 1 for stride in p.stride) or (not backwards and p.oh == p.ow == 1)
    # Wide dilation would make the ring's padded rows many.
    if (p.kh, p.kw) == (3, 3) and unit:
        return "three"
    if (p.kh, p.kw) == (3, 3) and p.stride == (2, 2) and p.dilation == (1, 1):
        return "two"
    return "ring" if p.kh == p.kw and p.kh in (5, 7) and unit and p.dilation[0] <= 2 else "gather"


@lru_cache(maxsize=1024)
def _three_sizes(p, backwards):
    if backwards and p.stride == (1, 1):
        shape = 1, p.og, (p.oh, p.ow), (p.h, p.w), _turned(p), -1
    elif backwards:
        shape = 1, p.og, (p.oh, p.ow), (p.h, p.w), (p.padding[0], p.padding[2]), 1
    else:
        shape = p.og, 1, (p.h, p.w), (p.oh, p.ow), (p.padding[0], p.padding[2]), 1
    planes, (height, width) = p.n * p.groups * shape[0], shape[3]
    # Few planes are split into bands.
    bands = min(-(-height // 16), -(-8 * threads.available() // planes))
    band = -(-height // bands)
    return _dense_sizes(p, *shape, band, _several(planes * bands, band * width))


@lru_cache(maxsize=1024)
def _ring_sizes(p, backwards):
    """Sizes for a ring, the length of a copy's line, and the elements of a copy."""
    if backwards:
        shape = 1, p.og, (p.oh, p.ow), (p.h, p.w), _turned(p), -1
    else:
        shape = p.og, 1, (p.h, p.w), (p.oh, p.ow), (p.padding[0], p.padding[2]), 1
    height, width = shape[3]
    line = _round_up(_round_up(width, _width(p)) + (p.kw - 1) * p.dilation[1], _width(p))
    halo = (p.kh - 1) * p.dilation[0]
    band = min(height, max(_COPY_BYTES // (line * itemsize(p.dtype)) - halo, _FEWEST_ROWS))
    if p.n * p.groups < 4 * threads.available():
        band = min(band, max(-(-height // (4 * threads.available())), _FEWEST_ROWS))
    return _dense_sizes(p, *shape, band, 1), line, _RING_WEIGHTS + (band + halo) * line


@dataclass(frozen=True, eq=False)
class _Layout:
    """A grid of conv_taps on padded copies of bands: see `_gather`."""

    sizes: np.ndarray
    corner: np.ndarray
    places: np.ndarray
    reads: np.ndarray
    writes: np.ndarray
    lengths: np.ndarray
    copy: int
    buffer: int


@lru_cache(maxsize=256)
def _layout(p, grid, rows, sources):
    width, step = _width(p), grid.read_x
    top, left = int(grid.dy.min()), int(grid.dx.min())
    # A vector at column j reads remainder f from j + dx // step on.
    line = _round_up(_round_up(grid.columns, width) + (int(grid.dx.max()) - left) // step, width)
    halo = int(grid.dy.max()) - top + 1
    fitting = (_COPY_BYTES // (step * line * itemsize(p.dtype)) - halo) // grid.read_y + 1
    band = min(grid.rows, max(fitting, _FEWEST_ROWS))
    extent = (band - 1) * grid.read_y + halo
    row = step * line
    places = (grid.dy - top) * row + (grid.dx - left) % step * line + (grid.dx - left) // step
    starts = np.arange(0, grid.columns, width)
    reads = (np.arange(band)[:, None] * grid.read_y * row + starts).reshape(-1)
    writes = (np.arange(band)[:, None] * grid.columns + starts).reshape(-1)
    lengths = np.tile(np.minimum(grid.columns - starts, width), band)
    sizes = (p.n, p.groups, rows, sources, grid.in_h, grid.in_w, grid.rows, grid.columns, top, left)
    corner = (grid.out_h, grid.out_w, grid.first_y, grid.first_x, grid.step_y, grid.step_x, extent)
    arrays = ((*sizes, grid.read_y, step, p.kh * p.kw, band, line), corner, places, reads, writes, lengths)
    return _Layout(
        *(np.asarray(array, np.int64) for array in arrays), extent * row, (band * grid.columns // width + 2) * width
    )


def _run_gather(p, grid, rows, sources, x, w, b, z, y, scratch):
    at = _layout(p, grid, rows, sources)
    team = threads.team(4 * p.flops, p.n * p.groups * -(-grid.rows // int(at.sizes[13])))
    arrays = (x.reshape(-1), w.reshape(-1), b, z.reshape(-1), code_of(p), y.reshape(-1))
    parallel(
        _gather, team, *arrays, at.sizes, at.corner, grid.taps, at.places, at.reads, at.writes, at.lengths, scratch
    )


def _run_ring(p, backwards, x, w, b, z, y, scratch):
    sizes, line, _ = _ring_sizes(p, backwards)
    team = threads.team(2 * p.flops, p.n * p.groups * -(-int(sizes[6]) // int(sizes[13])))
    arrays = (x.reshape(-1), w.reshape(-1), b, z.reshape(-1), code_of(p), y.reshape(-1))
    parallel(_five if p.kh == 5 else _seven, team, *arrays, sizes, line, scratch)


# Flops' worth of time, measured, in cycles of one vector of multiply-adds: a vector of outputs by each way, or one and
# each of its taps, and storing one element of a grid that is not dense. A call takes about _CALL_COST.
_THREE, _TWO, _TWO_BACKWARDS, _RING_TAP, _GATHER, _GATHER_TAP, _WEIGHT_TAP, _SCATTER = 14, 27, 7, 1.4, 30, 4, 2.7, 2
_CALL_COST = 30_000


def _vector_cost(p, planes, rows, columns, cycles):
    width = _width(p)
    return 2.0 * width * planes * rows * -(-columns // width) * cycles + _CALL_COST


def _cost(p):
    way, taps = _way(p), p.kh * p.kw
    cycles = {"three": _THREE, "two": _TWO, "ring": _RING_TAP * taps, "gather": _GATHER + _GATHER_TAP * taps}[way]
    return _vector_cost(p, p.n * p.o, p.oh, p.ow, cycles)


def _grad_input_cost(p):
    way, taps = _way(p, True), p.kh * p.kw
    if way == "gather":
        return conv_taps.many_grids_cost(p) or sum(
            _vector_cost(p, p.n * p.o, grid.rows, grid.columns, _GATHER + _GATHER_TAP * grid.taps.size)
            + (0 if grid.dense else 2.0 * _width(p) * _SCATTER * p.n * p.o * grid.rows * grid.columns)
            for grid in conv_taps.input_gradient_grids(p)
        )
    cycles = {"three": _THREE, "two": _TWO_BACKWARDS, "ring": _RING_TAP * taps}[way]
    return _vector_cost(p, p.n * p.o, p.h, p.w, cycles)


def _grad_weight_cost(p):
    cycles = {"three": _THREE, "two": _TWO}.get(_way(p), _GATHER + _WEIGHT_TAP * p.kh * p.kw)
    return _vector_cost(p, p.n * p.o, p.oh, p.ow, cycles)


def _scratch(p, way, backwards):
    if way in ("three", "two"):
        return 0
    if way == "ring":
        return threads.available() * _ring_sizes(p, backwards)[2]
    grids = conv_taps.input_gradient_grids(p) if backwards else [conv_taps.forward_grid(p)]
    most = 0
    for grid in grids:
        at = _layout(p, grid, *((1, p.og) if backwards else (p.og, 1)))
        most = max(most, at.copy + at.buffer)
    return threads.available() * most


@kernel(
    "conv2d/depthwise/cpu",
    limit=1.0,
    cost=_cost,
    scratch=lambda p: _scratch(p, _way(p), False),
    unsupported=_unsupported,
)
def forward(p, x, w, b, z, y, scratch):
    way = _way(p)
    if way in ("three", "two"):
        worker = _three if way == "three" else _three_by_two
        arrays = (x.reshape(-1), w.reshape(-1), b, z.reshape(-1), code_of(p), y.reshape(-1))
        parallel(worker, threads.team(2 * p.flops, p.n * p.o), *arrays, _three_sizes(p, False))
    elif way == "ring":
        _run_ring(p, False, x, w, b, z, y, scratch)
    else:
        _run_gather(p, conv_taps.forward_grid(p), p.og, 1, x, w, b, z, y, scratch)


@kernel(
    "conv2d_grad_input/depthwise/cpu",
    limit=1.0,
    cost=_grad_input_cost,
    scratch=lambda p: _scratch(p, _way(p, True), True),
    unsupported=_unsupported,
)
def grad_input(p, gy, w, gx, scratch):
    way = _way(p, True)
    none = NO_BIAS[p.dtype]
    if way == "three":
        arrays = (gy.reshape(-1), w.reshape(-1), none, none, 0, gx.reshape(-1))
        parallel(_three, threads.team(2 * p.flops, p.n * p.c), *arrays, _three_sizes(p, True))
    elif way == "two":
        arrays = (gy.reshape(-1), w.reshape(-1), gx.reshape(-1))
        parallel(_three_over_two, threads.team(4 * p.flops, p.n * p.c), *arrays, _three_sizes(p, True))
    elif way == "ring":
        _run_ring(p, True, gy, w, none, none, gx, scratch)
    else:
        conv_taps.clear_untouched(p, gx)
        for grid in conv_taps.input_gradient_grids(p):
            _run_gather(p, grid, 1, p.og, gy, w, none, none, gx, scratch)


def _weight_scratch(p):
    if _way(p) in ("three", "two"):
        return 0
    return threads.available() * _layout(p, conv_taps.forward_grid(p), p.og, 1).copy


@lru_cache(maxsize=1024)
def _weight_places(p):
    """Where the taps stand in a copy, padded with the last to whole times _TAPS."""
    places = _layout(p, conv_taps.forward_grid(p), p.og, 1).places
    return np.append(places, np.repeat(places[-1:], -places.size % _TAPS))


@kernel(
    "conv2d_grad_weight/depthwise/cpu",
    limit=1.0,
    cost=_grad_weight_cost,
    scratch=_weight_scratch,
    unsupported=_unsupported,
)
def grad_weight(p, x, gy, gw, scratch):
    way = _way(p)
    arrays = (x.reshape(-1), gy.reshape(-1), gw.reshape(-1))
    team = threads.team(2 * p.flops, p.o)
    if way in ("three", "two"):
        parallel(_three_weight if way == "three" else _three_by_two_weight, team, *arrays, _three_sizes(p, False))
    else:
        at = _layout(p, conv_taps.forward_grid(p), p.og, 1)
        parallel(_gather_weight, team, *arrays, at.sizes, int(at.corner[6]), _weight_places(p), scratch)
