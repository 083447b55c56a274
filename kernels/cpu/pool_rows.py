"""Pooling with small windows, and pooling's gradients, row by row in registers.

Forward, 2×2 windows without padding and 3×3 ones, stride 1 or 2: a vector of outputs comes straight from the rows of
its windows, whose even and odd columns are shuffled apart. Outside of the plane the neutral element is read.

    y[i, j] = max or mean over r, s of x[i·sh − top + r, j·sw − left + s]

With indices, any window without dilation and a stride of 1 or 2 along a row: beside each maximum goes, as a number of
x's dtype, where it stands in its window.

Gradients, any window without dilation and a stride of 1 or 2 along a row: for each row of gx from the rows of windows
that hold it, so that every element is written once and nothing is scattered.

    average:  gx[v, u] = Σ_j t[j] over the windows j that hold column u, t[j] = Σ_i gy[i, j] / size of (i, j)
    maximum:  gx[v, u] = Σ_ij gy[i, j] where the number r·kw + s of (i, j)'s maximum says (v, u)

2×2 windows that do not overlap (`…_tiles`) need no more than the registers.

A piece of work is a band of rows, of outputs or of gx, of one plane; of small ones a thread takes several at a time.
"""

from __future__ import annotations

import numpy as np

from fastconv.kernels.cpu.jit import inner, njit
from fastconv.kernels.cpu.simd import (
    add,
    even_lanes,
    flush_denormals,
    lanes,
    larger,
    load,
    load_first,
    load_range_or,
    mul,
    odd_lanes,
    restore_denormals,
    select_equal,
    select_greater,
    splat,
    store,
    store_first,
    store_places,
    zip_high,
    zip_low,
)
from fastconv.kernels.cpu.team import take_next


@inner
def _put(y, at, value, count):
    """y.flat[at : at + count] = value, no more than a vector."""
    if count >= lanes(y):
        store(y, at, value)
    elif count > 0:
        store_first(y, at, value, count)


def _make_pool(combine, averaging):
    """A worker that pools 2×2 windows without padding, stride 1 or 2, by `combine`."""

    @inner
    def read(x, at, count):
        return load(x, at) if count >= lanes(x) else load_first(x, at, count)

    @inner
    def window(x, row, width_in, j, count, sw):
        """The first `count` of a vector of windows, whose first row and column are `row` and j·sw."""
        width = lanes(x)
        at, under = row + j * sw, row + j * sw + width_in
        if sw == 1:
            left = combine(read(x, at, count), read(x, under, count))
            return combine(left, combine(read(x, at + 1, count), read(x, under + 1, count)))
        low = combine(read(x, at, 2 * count), read(x, under, 2 * count))
        more = 2 * count - width
        high = combine(read(x, at + width, more), read(x, under + width, more)) if more > 0 else low
        return combine(even_lanes(low, high), odd_lanes(low, high))

    @inner
    def pool(counter, thread, x, y, sizes, row_scale, column_scale, band, several):
        # A maximum is one of its elements, denormal or not; comparing them is not slow.
        if averaging:
            state = flush_denormals()
        planes, height, width_in, oh, ow, _, _, sh, sw, _, _, _, _, _ = sizes
        width = lanes(x)
        bands = (oh + band - 1) // band
        scale = splat(x, row_scale[0] * column_scale[0] if averaging else 1.0)
        piece = end_of_run = -1
        while True:
            piece, end_of_run = take_next(counter, thread, planes * bands, several, piece, end_of_run)
            if piece < 0:
                break
            plane, begin = piece // bands, piece % bands * band
            for i in range(begin, min(begin + band, oh)):
                row = (plane * height + i * sh) * width_in
                to = (plane * oh + i) * ow
                if ow < width:
                    value = window(x, row, width_in, 0, ow, sw)
                    store_first(y, to, mul(value, scale) if averaging else value, ow)
                else:
                    for k in range(0, ow, width):
                        # The last vector ends with the row, and does some windows again.
                        j = min(k, ow - width)
                        value = (
                            window(x, row, width_in, j, width, 2) if sw == 2 else window(x, row, width_in, j, width, 1)
                        )
                        store(y, to + j, mul(value, scale) if averaging else value)
        if averaging:
            restore_denormals(state)

    return pool


_maxima = _make_pool(larger, False)
_means = _make_pool(add, True)


@njit
def pool_max(counter, thread, x, y, sizes, row_scale, column_scale, band, several):
    """Maxima of 2×2 windows; the scales are not used."""
    _maxima(counter, thread, x, y, sizes, row_scale, column_scale, band, several)


@njit
def pool_mean(counter, thread, x, y, sizes, row_scale, column_scale, band, several):
    """Means of 2×2 windows, whose scales are all the same."""
    _means(counter, thread, x, y, sizes, row_scale, column_scale, band, several)


def _make_three(combine, empty, averaging, step):
    """A worker that pools 3×3 windows with stride `step` (1 or 2) along a row, by `combine` with neutral `empty`."""

    @inner
    def down(x, row, c, width_in, rows, inside):
        """The combination of `rows` rows from column c on; empty outside of the plane."""
        if inside:
            value = combine(load(x, row + c), load(x, row + c + width_in))
            return combine(value, load(x, row + c + 2 * width_in))
        none = splat(x, empty)
        value = none
        for r in range(rows):
            value = combine(value, load_range_or(x, row + r * width_in + c, -c, width_in - c, none))
        return value

    @inner
    def window(x, row, c, width_in, rows, inside):
        """A vector of windows whose first columns are c, c + step, …"""
        width = lanes(x)
        value, more = down(x, row, c, width_in, rows, inside), down(x, row, c + 1, width_in, rows, inside)
        if step == 1:
            return combine(combine(value, more), down(x, row, c + 2, width_in, rows, inside))
        upper = down(x, row, c + width, width_in, rows, inside)
        value = combine(even_lanes(value, upper), odd_lanes(value, upper))
        # The third columns are the odd ones after the second.
        return combine(value, odd_lanes(more, down(x, row, c + 1 + width, width_in, rows, inside)))

    @inner
    def pool(counter, thread, x, y, sizes, row_scale, column_scale, band, several):
        # A maximum is one of its elements, denormal or not; comparing them is not slow.
        if averaging:
            state = flush_denormals()
        planes, height, width_in, oh, ow, _, _, sh, _, top, left, _, _, _ = sizes
        width = lanes(x)
        bands = (oh + band - 1) // band
        reach = step * width + (2 if step == 1 else 1)
        piece = end_of_run = -1
        while True:
            piece, end_of_run = take_next(counter, thread, planes * bands, several, piece, end_of_run)
            if piece < 0:
                break
            plane, begin = piece // bands, piece % bands * band
            for i in range(begin, min(begin + band, oh)):
                first = max(i * sh - top, 0)
                rows = max(min(i * sh - top + 3, height) - first, 0)
                row = (plane * height + first) * width_in
                to = (plane * oh + i) * ow
                for k in range(0, ow, width):
                    # The last vector ends with the row, and does some windows again.
                    j = max(min(k, ow - width), 0)
                    c = j * step - left
                    if rows == 3 and c >= 0 and c + reach <= width_in:
                        value = window(x, row, c, width_in, rows, True)
                    else:
                        value = window(x, row, c, width_in, rows, False)
                    if averaging:
                        value = mul(value, mul(load(column_scale, j), splat(x, row_scale[i])))
                    _put(y, to + j, value, ow - j)
        if averaging:
            restore_denormals(state)

    return pool


_maxima_1, _maxima_2 = _make_three(larger, -np.inf, False, 1), _make_three(larger, -np.inf, False, 2)
_means_1, _means_2 = _make_three(add, 0.0, True, 1), _make_three(add, 0.0, True, 2)


@njit
def pool_max_three_1(counter, thread, x, y, sizes, row_scale, column_scale, band, several):
    """Maxima of 3×3 windows with a stride of 1 along a row; the scales are not used."""
    _maxima_1(counter, thread, x, y, sizes, row_scale, column_scale, band, several)


@njit
def pool_max_three_2(counter, thread, x, y, sizes, row_scale, column_scale, band, several):
    """Maxima of 3×3 windows with a stride of 2 along a row; the scales are not used."""
    _maxima_2(counter, thread, x, y, sizes, row_scale, column_scale, band, several)


@njit
def pool_mean_three_1(counter, thread, x, y, sizes, row_scale, column_scale, band, several):
    """Means of 3×3 windows with a stride of 1 along a row."""
    _means_1(counter, thread, x, y, sizes, row_scale, column_scale, band, several)


@njit
def pool_mean_three_2(counter, thread, x, y, sizes, row_scale, column_scale, band, several):
    """Means of 3×3 windows with a stride of 2 along a row."""
    _means_2(counter, thread, x, y, sizes, row_scale, column_scale, band, several)


@inner
def _tiles_gradient(x, gy, gx, row, width_in, of_gy, j, count):
    """The gradient of `count` 2×2 windows side by side, from window j on of the two rows at `row`."""
    width = lanes(x)
    at, under, more = row + 2 * j, row + 2 * j + width_in, 2 * count - width
    none = splat(x, 0.0)
    if count == width:
        share = load(gy, of_gy + j)
        a, b, c, d = load(x, at), load(x, at + width), load(x, under), load(x, under + width)
    else:
        share = load_first(gy, of_gy + j, count)
        a, c = load_first(x, at, 2 * count), load_first(x, under, 2 * count)
        b, d = load_first(x, at + width, more), load_first(x, under + width, more)
    # In reading order: a later element takes over if it is larger, or NaN.
    most, number = even_lanes(a, b), none
    value, place = odd_lanes(a, b), splat(x, 1.0)
    number, most = select_greater(value, most, place, number), select_greater(value, most, value, most)
    value, place = even_lanes(c, d), splat(x, 2.0)
    number, most = select_greater(value, most, place, number), select_greater(value, most, value, most)
    number = select_greater(odd_lanes(c, d), most, splat(x, 3.0), number)
    g0 = select_equal(number, none, share, none)
    g1 = select_equal(number, splat(x, 1.0), share, none)
    g2 = select_equal(number, place, share, none)
    g3 = select_equal(number, splat(x, 3.0), share, none)
    if count == width:
        store(gx, at, zip_low(g0, g1))
        store(gx, at + width, zip_high(g0, g1))
        store(gx, under, zip_low(g2, g3))
        store(gx, under + width, zip_high(g2, g3))
    else:
        _put(gx, at, zip_low(g0, g1), 2 * count)
        _put(gx, at + width, zip_high(g0, g1), more)
        _put(gx, under, zip_low(g2, g3), 2 * count)
        _put(gx, under + width, zip_high(g2, g3), more)


@njit
def maximum_gradient_tiles(counter, thread, x, gy, gx, sizes, band, several):
    """2×2 windows that do not overlap and begin at the corner: a band of rows of windows after another."""
    planes, height, width_in, oh, ow, _, _, _, _, _, _, _, _, _ = sizes
    width = lanes(x)
    bands = (oh + band - 1) // band
    piece = end_of_run = -1
    while True:
        piece, end_of_run = take_next(counter, thread, planes * bands, several, piece, end_of_run)
        if piece < 0:
            break
        plane, begin = piece // bands, piece % bands * band
        end = min(begin + band, oh)
        for i in range(begin, end):
            row = (plane * height + 2 * i) * width_in
            of_gy = (plane * oh + i) * ow
            if ow < width:
                _tiles_gradient(x, gy, gx, row, width_in, of_gy, 0, ow)
            else:
                for k in range(0, ow, width):
                    # The last vector ends with the row, and does some windows again.
                    _tiles_gradient(x, gy, gx, row, width_in, of_gy, min(k, ow - width), width)
            # A column or row that is left over lies in no window.
            for u in range(2 * ow, width_in):
                gx[row + u] = 0
                gx[row + width_in + u] = 0
        if end == oh:
            for u in range((plane * height + 2 * oh) * width_in, (plane + 1) * height * width_in):
                gx[u] = 0


@inner
def _tiles_indices(x, y, indices, row, width_in, to, where, j, count):
    """Maxima and places of `count` 2×2 windows side by side, from window j on of the two rows at `row`."""
    width = lanes(x)
    at, under, more = row + 2 * j, row + 2 * j + width_in, 2 * count - width
    none = splat(x, 0.0)
    if count == width:
        a, b, c, d = load(x, at), load(x, at + width), load(x, under), load(x, under + width)
    else:
        a, c = load_first(x, at, 2 * count), load_first(x, under, 2 * count)
        b = d = none
        if more > 0:
            b, d = load_first(x, at + width, more), load_first(x, under + width, more)
    most, number = even_lanes(a, b), none
    value, place = odd_lanes(a, b), splat(x, 1.0)
    number, most = select_greater(value, most, place, number), select_greater(value, most, value, most)
    value, place = even_lanes(c, d), splat(x, float(width_in))
    number, most = select_greater(value, most, place, number), select_greater(value, most, value, most)
    value, place = odd_lanes(c, d), splat(x, float(width_in + 1))
    number, most = select_greater(value, most, place, number), select_greater(value, most, value, most)
    _put(y, to + j, most, count)
    store_places(indices, to + j, number, where + 2 * j, 2, count)


@njit
def maximum_indices_tiles(counter, thread, x, y, indices, sizes, band, several):
    """2×2 windows that do not overlap and begin at the corner: maxima and places, a band of rows after another."""
    planes, height, width_in, oh, ow, _, _, _, _, _, _, _, _, _ = sizes
    width = lanes(x)
    bands = (oh + band - 1) // band
    piece = end_of_run = -1
    while True:
        piece, end_of_run = take_next(counter, thread, planes * bands, several, piece, end_of_run)
        if piece < 0:
            break
        plane, begin = piece // bands, piece % bands * band
        for i in range(begin, min(begin + band, oh)):
            row, to = (plane * height + 2 * i) * width_in, (plane * oh + i) * ow
            if ow < width:
                _tiles_indices(x, y, indices, row, width_in, to, 2 * i * width_in, 0, ow)
            else:
                for k in range(0, ow, width):
                    # The last vector ends with the row, and does some windows again.
                    _tiles_indices(x, y, indices, row, width_in, to, 2 * i * width_in, min(k, ow - width), width)


@njit
def average_gradient_tiles(counter, thread, gy, gx, sizes, row_scale, column_scale, band, several):
    """2×2 windows that do not overlap and begin at the corner: a band of rows of windows after another."""
    state = flush_denormals()
    planes, height, width_in, oh, ow, _, _, _, _, _, _, _, _, _ = sizes
    width = lanes(gy)
    bands = (oh + band - 1) // band
    scale = splat(gy, row_scale[0] * column_scale[0])
    piece = end_of_run = -1
    while True:
        piece, end_of_run = take_next(counter, thread, planes * bands, several, piece, end_of_run)
        if piece < 0:
            break
        plane, begin = piece // bands, piece % bands * band
        end = min(begin + band, oh)
        for i in range(begin, end):
            row, of_gy = (plane * height + 2 * i) * width_in, (plane * oh + i) * ow
            for k in range(0, ow, width):
                j = max(min(k, ow - width), 0)
                g = load(gy, of_gy + j) if ow >= width else load_first(gy, of_gy, ow)
                g = mul(g, scale)
                low, high, at, left = zip_low(g, g), zip_high(g, g), row + 2 * j, 2 * (ow - j)
                _put(gx, at, low, left)
                _put(gx, at + width_in, low, left)
                _put(gx, at + width, high, left - width)
                _put(gx, at + width + width_in, high, left - width)
            # A column or row that is left over lies in no window.
            for u in range(2 * ow, width_in):
                gx[row + u] = 0
                gx[row + width_in + u] = 0
        if end == oh:
            for u in range((plane * height + 2 * oh) * width_in, (plane + 1) * height * width_in):
                gx[u] = 0
    restore_denormals(state)


@inner
def _windows_of(y, kh, sh, top, oh):
    """(first, last) row of windows that holds row y of the plane; last < first if none does."""
    return max((y + top - kh + sh) // sh, 0), min((y + top) // sh, oh - 1)


@njit
def average_gradient(counter, thread, gy, gx, sizes, row_scale, column_scale, band, several, before, lines):
    """A band of rows of gx after another. Each thread has one line, t, with `before` zeros in front and as many after.

    Needs a column stride of 1 or 2.
    """
    state = flush_denormals()
    planes, height, width_in, oh, ow, kh, kw, sh, sw, top, left, _, _, length = sizes
    width = lanes(gy)
    bands = (height + band - 1) // band
    line = thread * length
    for u in range(length):
        lines[line + u] = 0
    line += before
    none = splat(gy, 0.0)
    piece = end_of_run = -1
    while True:
        piece, end_of_run = take_next(counter, thread, planes * bands, several, piece, end_of_run)
        if piece < 0:
            break
        plane, begin = piece // bands, piece % bands * band
        held = (-1, -1)
        for y in range(begin, min(begin + band, height)):
            first, last = _windows_of(y, kh, sh, top, oh)
            # Rows of the same windows have the same t.
            if y == begin or first != held[0] or last != held[1]:
                held = (first, last)
                for j in range(0, ow, width):
                    value = none
                    for i in range(first, last + 1):
                        row = (plane * oh + i) * ow + j
                        part = load(gy, row) if ow - j >= width else load_first(gy, row, ow - j)
                        value = add(value, mul(part, splat(gy, row_scale[i])))
                    _put(lines, line + j, mul(value, load(column_scale, j)), ow - j)
            to = (plane * height + y) * width_in
            if sw == 1:
                for u in range(0, width_in, width):
                    value = load(lines, line + u + left)
                    for s in range(1, kw):
                        value = add(value, load(lines, line + u + left - s))
                    _put(gx, to + u, value, width_in - u)
            else:
                for u in range(0, width_in, 2 * width):
                    # Column u is a window's element s of the parity e; the next column is of the other.
                    e, at = left % 2, line + (u + left) // 2
                    even = none
                    for s in range(e, kw, 2):
                        even = add(even, load(lines, at - s // 2))
                    at = line + (u + left + 1) // 2
                    odd = none
                    for s in range(1 - e, kw, 2):
                        odd = add(odd, load(lines, at - s // 2))
                    _put(gx, to + u, zip_low(even, odd), width_in - u)
                    _put(gx, to + u + width, zip_high(even, odd), width_in - u - width)
    restore_denormals(state)


def _make_number_row(fixed, step):
    """`number_row` for windows of `fixed` columns, any number if that is 0, and a stride of `step` along a row."""

    @inner
    def number_row(x, plane, height, width_in, i, j, kh, kw, pitch, sh, top, left, first_columns):
        """(numbers, maxima) of windows (i, j), (i, j + 1), …: r·pitch + s of the first of equals, of the last NaN.

        A window of nothing but −inf has its first element's, one without any element a negative number.
        """
        columns = fixed if fixed else kw
        width = lanes(x)
        low = splat(x, -np.inf)
        y0, c = i * sh - top, j * step - left
        r0 = max(-y0, 0)
        rows = min(kh, height - y0)
        reach = columns - 1 if step == 1 else max(columns - 2, 0)
        inside = c >= 0 and c + reach + step * width <= width_in
        number = add(load(first_columns, j), splat(x, float(r0 * pitch if r0 < rows else -(2.0**30))))
        most = low
        for r in range(r0, rows):
            row = plane + (y0 + r) * width_in
            for s in range(columns):
                at = c + s
                if step == 1:
                    value = load(x, row + at) if inside else load_range_or(x, row + at, -at, width_in - at, low)
                elif inside:
                    # Columns after the first are the odd ones from the column before them, which reads less far.
                    if s == 0:
                        value = even_lanes(load(x, row + at), load(x, row + at + width))
                    else:
                        value = odd_lanes(load(x, row + at - 1), load(x, row + at - 1 + width))
                else:
                    upper = at + width
                    value = even_lanes(
                        load_range_or(x, row + at, -at, width_in - at, low),
                        load_range_or(x, row + upper, -upper, width_in - upper, low),
                    )
                number = select_greater(value, most, splat(x, float(r * pitch + s)), number)
                most = select_greater(value, most, value, most)
        return number, most

    return number_row


def _make_maximum_indices(fixed, step):
    """The worker for maxima and where they stand; fixed and step as in `_make_number_row`."""
    number_row = _make_number_row(fixed, step)

    @inner
    def worker(counter, thread, x, y, indices, sizes, first_columns, band, several):
        # Denormals are not flushed: of two of them the larger is the maximum.
        planes, height, width_in, oh, ow, kh, kw, sh, _, top, left, _, _, _ = sizes
        width = lanes(x)
        bands = (oh + band - 1) // band
        piece = end_of_run = -1
        while True:
            piece, end_of_run = take_next(counter, thread, planes * bands, several, piece, end_of_run)
            if piece < 0:
                break
            plane, begin = piece // bands, piece % bands * band
            start = plane * height * width_in
            for i in range(begin, min(begin + band, oh)):
                for k in range(0, ow, width):
                    # The last vector ends with the row, and does some windows again.
                    j = max(min(k, ow - width), 0)
                    window = (i, j, kh, kw, width_in, sh, top, left)
                    number, most = number_row(x, start, height, width_in, *window, first_columns)
                    at = (plane * oh + i) * ow + j
                    _put(y, at, most, ow - j)
                    # What does not stand inside is never the maximum, so a place is that of an element.
                    store_places(indices, at, number, (i * sh - top) * width_in + j * step - left, step, ow - j)

    return worker


_indices_two, _indices_three_1 = _make_maximum_indices(2, 2), _make_maximum_indices(3, 1)
_indices_three_2 = _make_maximum_indices(3, 2)
_indices_any_1, _indices_any_2 = _make_maximum_indices(0, 1), _make_maximum_indices(0, 2)


@njit
def maximum_indices_two(counter, thread, x, y, indices, sizes, first_columns, band, several):
    """Maxima and their places, for windows of two columns and a stride of 2 along a row."""
    _indices_two(counter, thread, x, y, indices, sizes, first_columns, band, several)


@njit
def maximum_indices_three_1(counter, thread, x, y, indices, sizes, first_columns, band, several):
    """Maxima and their places, for windows of three columns and a stride of 1 along a row."""
    _indices_three_1(counter, thread, x, y, indices, sizes, first_columns, band, several)


@njit
def maximum_indices_three_2(counter, thread, x, y, indices, sizes, first_columns, band, several):
    """Maxima and their places, for windows of three columns and a stride of 2 along a row."""
    _indices_three_2(counter, thread, x, y, indices, sizes, first_columns, band, several)


@njit
def maximum_indices_any_1(counter, thread, x, y, indices, sizes, first_columns, band, several):
    """Maxima and their places, for windows of any number of columns and a stride of 1 along a row."""
    _indices_any_1(counter, thread, x, y, indices, sizes, first_columns, band, several)


@njit
def maximum_indices_any_2(counter, thread, x, y, indices, sizes, first_columns, band, several):
    """Maxima and their places, for windows of any number of columns and a stride of 2 along a row."""
    _indices_any_2(counter, thread, x, y, indices, sizes, first_columns, band, several)


def _make_maximum_gradient(fixed, step):
    """The worker for windows of `fixed` columns, or of any number if that is 0, and a stride of `step` along a row."""
    number_row = _make_number_row(fixed, step)

    @inner
    def gathered(lines, at, slot, slots, row, windows, stride, kw, length, e):
        """Σ over `windows` rows of windows and the columns of parity e of gy where it belongs to this element.

        The first row's numbers stand `slot` after `at`, the elements' row in those windows is number `row`.
        """
        columns = fixed if fixed else kw
        none = splat(lines, 0.0)
        total = none
        for _ in range(windows):
            for s in range(e, columns, step):
                here = at + slot - s // step
                wanted = splat(lines, float(row * columns + s))
                total = add(total, select_equal(load(lines, here), wanted, load(lines, here + length), none))
            row -= stride
            slot += 2 * length
            if slot == slots:
                slot = 0
        return total

    @inner
    def worker(counter, thread, x, gy, gx, sizes, first_columns, band, several, before, ring, lines):
        # Denormals are not flushed: of two of them the larger is the maximum.
        planes, height, width_in, oh, ow, kh, kw, sh, _, top, left, _, _, length = sizes
        width = lanes(x)
        bands = (height + band - 1) // band
        line = thread * 2 * ring * length
        for k in range(ring):
            for u in range(length):
                lines[line + 2 * k * length + u] = -1
                lines[line + (2 * k + 1) * length + u] = 0
        line += before
        piece = end_of_run = -1
        while True:
            piece, end_of_run = take_next(counter, thread, planes * bands, several, piece, end_of_run)
            if piece < 0:
                break
            plane, begin = piece // bands, piece % bands * band
            ready, _ = _windows_of(begin, kh, sh, top, oh)
            start = plane * height * width_in
            for y in range(begin, min(begin + band, height)):
                first, last = _windows_of(y, kh, sh, top, oh)
                for i in range(max(ready, first), last + 1):
                    at = line + i % ring * 2 * length
                    for k in range(0, ow, width):
                        # The last vector ends with the row, and does some windows again.
                        j = max(min(k, ow - width), 0)
                        window = (i, j, kh, kw, fixed if fixed else kw, sh, top, left)
                        number, _ = number_row(x, start, height, width_in, *window, first_columns)
                        _put(lines, at + j, number, ow - j)
                        row = (plane * oh + i) * ow + j
                        part = load(gy, row) if ow - j >= width else load_first(gy, row, ow - j)
                        _put(lines, at + length + j, part, ow - j)
                ready = max(ready, last + 1)
                to = start + y * width_in
                rows = (
                    first % ring * 2 * length,
                    2 * ring * length,
                    y + top - first * sh,
                    last + 1 - first,
                    sh,
                    kw,
                    length,
                )
                if step == 1:
                    for u in range(0, width_in, width):
                        _put(gx, to + u, gathered(lines, line + u + left, *rows, 0), width_in - u)
                else:
                    for u in range(0, width_in, 2 * width):
                        # Column u is a window's element s of the parity of the padding; the next one is of the other.
                        here, after = line + (u + left) // 2, line + (u + left + 1) // 2
                        if left % 2:
                            even, odd = gathered(lines, here, *rows, 1), gathered(lines, after, *rows, 0)
                        else:
                            even, odd = gathered(lines, here, *rows, 0), gathered(lines, after, *rows, 1)
                        _put(gx, to + u, zip_low(even, odd), width_in - u)
                        _put(gx, to + u + width, zip_high(even, odd), width_in - u - width)

    return worker


_two, _three_1, _three_2 = _make_maximum_gradient(2, 1), _make_maximum_gradient(3, 1), _make_maximum_gradient(3, 2)
_any_1, _any_2 = _make_maximum_gradient(0, 1), _make_maximum_gradient(0, 2)


@njit
def maximum_gradient_two(counter, thread, x, gy, gx, sizes, first_columns, band, several, before, ring, lines):
    """A band of rows of gx after another, for windows of two columns and a stride of 1 along a row."""
    _two(counter, thread, x, gy, gx, sizes, first_columns, band, several, before, ring, lines)


@njit
def maximum_gradient_three_1(counter, thread, x, gy, gx, sizes, first_columns, band, several, before, ring, lines):
    """A band of rows of gx after another, for windows of three columns and a stride of 1 along a row."""
    _three_1(counter, thread, x, gy, gx, sizes, first_columns, band, several, before, ring, lines)


@njit
def maximum_gradient_three_2(counter, thread, x, gy, gx, sizes, first_columns, band, several, before, ring, lines):
    """A band of rows of gx after another, for windows of three columns and a stride of 2 along a row."""
    _three_2(counter, thread, x, gy, gx, sizes, first_columns, band, several, before, ring, lines)


@njit
def maximum_gradient_any_1(counter, thread, x, gy, gx, sizes, first_columns, band, several, before, ring, lines):
    """A band of rows of gx after another, for windows of any number of columns and a stride of 1 along a row."""
    _any_1(counter, thread, x, gy, gx, sizes, first_columns, band, several, before, ring, lines)


@njit
def maximum_gradient_any_2(counter, thread, x, gy, gx, sizes, first_columns, band, several, before, ring, lines):
    """A band of rows of gx after another, for windows of any number of columns and a stride of 2 along a row."""
    _any_2(counter, thread, x, gy, gx, sizes, first_columns, band, several, before, ring, lines)
