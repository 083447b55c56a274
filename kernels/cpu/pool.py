"""Pooling by planes: windows taken apart into rows and columns, so that both passes run on whole vectors.

A maximum (or sum) over a window is that over its columns of those over its rows. For each row of outputs the rows of
its windows are combined into one line of buffer that carries its padding; then the line is combined along itself.

Indices and gradients go window by window, in reading order within a plane, so that ties and overlapping windows come
out the same every time. A piece of work is always one plane (n, c).

What pool_rows.py can do it does instead: 2×2 and 3×3 windows, and gradients with a stride of 1 or 2 along a row.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fastconv import threads
from fastconv.kernels.cpu import pool_rows
from fastconv.kernels.cpu.host import VECTOR_BYTES
from fastconv.kernels.cpu.jit import inner, njit
from fastconv.kernels.cpu.simd import (
    add,
    even_lanes,
    flush_denormals,
    lanes,
    load,
    load_first,
    maximum,
    mul,
    restore_denormals,
    select_greater,
    splat,
    store,
    store_first,
    zip_high,
    zip_low,
)
from fastconv.kernels.cpu.team import address_of, parallel_at, take
from fastconv.problem import itemsize
from fastconv.registry import kernel


@inner
def _window(i, size, kernel, stride, before, step):
    """(first, count): the first element of window i that lies inside the axis, and how many do, `step` apart."""
    start = i * stride - before
    if step == 1:
        # Without dilation there is nothing to divide, and divisions would take longer than a small window.
        first = max(start, 0)
        return first, max(min(start + kernel, size) - first, 0)
    skipped = (max(-start, 0) + step - 1) // step
    last = min(kernel - 1, (size - 1 - start) // step)
    return start + skipped * step, max(last - skipped + 1, 0)


def _make_pool(combine, empty, averaging):
    """What a worker does to pool with `combine`, whose neutral element is `empty`; averaging scales by row and column.

    Not the worker itself: Numba's cache does not know a function again that closes over others.
    """

    @inner
    def combine_rows(x, start, width_in, step, count, line, at):
        """line[at + j] = the combination of x[start + r·step·width_in + j] over r < count."""
        width = lanes(x)
        for j in range(0, width_in, width):
            left = width_in - j
            if count == 0:
                store_first(line, at + j, splat(x, empty), left)
            elif left >= width:
                value = load(x, start + j)
                for r in range(1, count):
                    value = combine(value, load(x, start + r * step * width_in + j))
                store(line, at + j, value)
            else:
                value = load_first(x, start + j, left)
                for r in range(1, count):
                    value = combine(value, load_first(x, start + r * step * width_in + j, left))
                store_first(line, at + j, value, left)

    @inner
    def along(line, at, step, count):
        """The combination of the vectors at line[at + s·step], s < count."""
        value = load(line, at)
        for s in range(1, count):
            value = combine(value, load(line, at + s * step))
        return value

    @inner
    def pool(counter, thread, x, y, sizes, row_scale, column_scale, lines):
        """Pool one plane after another until none is left; each thread has two lines of buffer."""
        # A maximum is one of its elements, denormal or not; comparing them is not slow.
        if averaging:
            state = flush_denormals()
        planes, height, width_in, oh, ow, kh, kw, sh, sw, top, left, dh, dw, length = sizes
        width = lanes(x)
        line = thread * 2 * length
        picked = line + length
        for j in range(2 * length):
            lines[line + j] = empty
        while True:
            plane = take(counter, thread, planes)
            if plane < 0:
                break
            for i in range(oh):
                first, count = _window(i, height, kh, sh, top, dh)
                combine_rows(x, (plane * height + first) * width_in, width_in, dh, count, lines, line + left)
                if sw > 2:
                    # Combine at every place, then pick each sw-th.
                    for j in range(0, (ow - 1) * sw + 1, width):
                        store(lines, picked + j, along(lines, line + j, dw, kw))
                    for j in range(ow):
                        lines[picked + j] = lines[picked + j * sw]
                to = (plane * oh + i) * ow
                for j in range(0, ow, width):
                    if sw == 1:
                        value = along(lines, line + j, dw, kw)
                    elif sw == 2:
                        value = even_lanes(load(lines, line + 2 * j), load(lines, line + 2 * j + width))
                        for s in range(1, kw):
                            at = line + 2 * j + s * dw
                            value = combine(value, even_lanes(load(lines, at), load(lines, at + width)))
                    else:
                        value = load(lines, picked + j)
                    if averaging:
                        value = mul(value, mul(load(column_scale, j), splat(x, row_scale[i])))
                    store_first(y, to + j, value, ow - j)
        if averaging:
            restore_denormals(state)

    return pool


_maxima = _make_pool(maximum, -np.inf, False)
_means = _make_pool(add, 0.0, True)


@njit
def _pool_max(counter, thread, x, y, sizes, row_scale, column_scale, lines):
    _maxima(counter, thread, x, y, sizes, row_scale, column_scale, lines)


@njit
def _pool_mean(counter, thread, x, y, sizes, row_scale, column_scale, lines):
    _means(counter, thread, x, y, sizes, row_scale, column_scale, lines)


@inner
def _argmax(x, plane, i, j, window):
    """Where window (i, j)'s maximum stands in its plane: the first in reading order, the last NaN; −1 if empty."""
    height, width, kh, kw, sh, sw, top, left, dh, dw = window
    y0, rows = _window(i, height, kh, sh, top, dh)
    x0, columns = _window(j, width, kw, sw, left, dw)
    where = -1
    best = x.dtype.type(-np.inf)
    for r in range(rows):
        for s in range(columns):
            at = (y0 + r * dh) * width + x0 + s * dw
            value = x[plane + at]
            if value > best or value != value or where < 0:
                best, where = value, at
    return where


# Elements of a window that float32 can number.
_MOST_NUMBERS = 2**24


@inner
def _row_argmax(x, plane, i, ow, window, lines, line, found, best):
    """lines[found + j] = the number r·kw + s of the element that is window (i, j)'s maximum, negative if unknown.

    Numbers are kept as floats, in the lanes of the values they belong to. Needs a column stride of 1 or 2. Unknown
    are windows of nothing but −inf.
    """
    height, width_in, kh, kw, sh, sw, top, left, dh, dw = window
    width = lanes(x)
    for j in range(0, ow, width):
        store(lines, found + j, splat(x, -1.0))
        store(lines, best + j, splat(x, -np.inf))
    for r in range(kh):
        y = i * sh - top + r * dh
        if y < 0 or y >= height:
            continue
        row = plane + y * width_in
        for j in range(0, width_in, width):
            store_first(lines, line + left + j, load_first(x, row + j, width_in - j), width_in - j)
        for j in range(0, ow, width):
            number, most = load(lines, found + j), load(lines, best + j)
            for s in range(kw):
                at = line + j * sw + s * dw
                value = load(lines, at) if sw == 1 else even_lanes(load(lines, at), load(lines, at + width))
                number = select_greater(value, most, splat(x, float(r * kw + s)), number)
                most = select_greater(value, most, value, most)
            store(lines, found + j, number)
            store(lines, best + j, most)


@inner
def _prepare_lines(lines, thread, length):
    """This thread's three lines: one row of x in −inf, and numbers and maxima of a row of windows, unknown."""
    line = thread * 3 * length
    for j in range(length):
        lines[line + j] = -np.inf
        lines[line + length + j] = -1
    return line


@njit
def _maximum_indices(counter, thread, x, y, indices, sizes, offsets, lines):
    """y and indices of one plane after another until none is left."""
    planes, height, width, oh, ow, kh, kw, sh, sw, top, left, dh, dw, length = sizes
    # A tuple, because unpacking an array counts references, which for every window would take longer than the window.
    window = (height, width, kh, kw, sh, sw, top, left, dh, dw)
    line = _prepare_lines(lines, thread, length)
    numbered = sw <= 2 and kh * kw <= _MOST_NUMBERS
    found, best = line + length, line + 2 * length
    while True:
        plane = take(counter, thread, planes)
        if plane < 0:
            break
        start = plane * height * width
        for i in range(oh):
            if numbered:
                _row_argmax(x, start, i, ow, window, lines, line, found, best)
            for j in range(ow):
                number = lines[found + j]
                # Looking one window up is a call, which takes longer than all the rest.
                if number >= 0:
                    where = (i * sh - top) * width + j * sw - left + offsets[int(number)]
                else:
                    where = _argmax(x, start, i, j, window)
                at = (plane * oh + i) * ow + j
                indices[at] = where
                y[at] = x[start + where] if where >= 0 else -np.inf


@njit
def _maximum_gradient(counter, thread, x, gy, gx, sizes, offsets, lines):
    """gx of one plane after another until none is left: each gy added where its window's maximum stands."""
    planes, height, width, oh, ow, kh, kw, sh, sw, top, left, dh, dw, length = sizes
    # A tuple, because unpacking an array counts references, which for every window would take longer than the window.
    window = (height, width, kh, kw, sh, sw, top, left, dh, dw)
    line = _prepare_lines(lines, thread, length)
    numbered = sw <= 2 and kh * kw <= _MOST_NUMBERS
    found, best = line + length, line + 2 * length
    while True:
        plane = take(counter, thread, planes)
        if plane < 0:
            break
        start = plane * height * width
        for k in range(height * width):
            gx[start + k] = 0
        for i in range(oh):
            if numbered:
                _row_argmax(x, start, i, ow, window, lines, line, found, best)
            for j in range(ow):
                number = lines[found + j]
                # Looking one window up is a call, which takes longer than all the rest.
                if number >= 0:
                    where = (i * sh - top) * width + j * sw - left + offsets[int(number)]
                else:
                    where = _argmax(x, start, i, j, window)
                if where >= 0:
                    gx[start + where] += gy[(plane * oh + i) * ow + j]


@njit
def _average_gradient(counter, thread, gy, gx, sizes, row_scale, column_scale, lines):
    """gx of one plane after another until none is left: each gy over its window's size, added to the window.

    A row of gy is spread along a line once, then the line is added to every row of its windows.
    """
    state = flush_denormals()
    planes, height, width_in, oh, ow, kh, kw, sh, sw, top, left, _, _, length = sizes
    width = lanes(gy)
    line = thread * length
    while True:
        plane = take(counter, thread, planes)
        if plane < 0:
            break
        start = plane * height * width_in
        for k in range(height * width_in):
            gx[start + k] = 0
        for i in range(oh):
            for j in range(length):
                lines[line + j] = 0
            row = (plane * oh + i) * ow
            for j in range(0, ow, width):
                scale = mul(load(column_scale, j), splat(gy, row_scale[i]))
                share = mul(load_first(gy, row + j, ow - j), scale)
                for s in range(kw):
                    at = line + j * sw + s
                    if sw == 1:
                        store(lines, at, add(load(lines, at), share))
                    elif sw == 2:
                        none = splat(gy, 0.0)
                        store(lines, at, add(load(lines, at), zip_low(share, none)))
                        store(lines, at + width, add(load(lines, at + width), zip_high(share, none)))
                    else:
                        for lane in range(min(width, ow - j)):
                            one = gy[row + j + lane] * (column_scale[j + lane] * row_scale[i])
                            lines[at + lane * sw] += one
            y0, rows = _window(i, height, kh, sh, top, 1)
            for r in range(rows):
                to = start + (y0 + r) * width_in
                for j in range(0, width_in, width):
                    count = width_in - j
                    total = add(load_first(gx, to + j, count), load(lines, line + left + j))
                    store_first(gx, to + j, total, count)
    restore_denormals(state)


@lru_cache(maxsize=1024)
def _offsets(p):
    """Where element r·kw + s of a window stands in the plane, from the window's first."""
    rows, columns = np.divmod(np.arange(p.kh * p.kw), p.kw)
    return rows * p.dilation[0] * p.w + columns * p.dilation[1]


@lru_cache(maxsize=1024)
def _sizes(p):
    """What the workers need to know of a problem, as one int64 array; the last is the length of a buffer line."""
    width = VECTOR_BYTES // itemsize(p.dtype)
    # One window on an axis needs no stride, and a huge one would make the lines huge.
    sh, sw = (stride if outputs > 1 else 1 for stride, outputs in zip(p.stride, (p.oh, p.ow), strict=True))
    # A line is read up to the last window's end (of whole vectors of windows) and, from there, for two vectors more.
    starts = (p.ow + width) * sw if sw <= 2 else (p.ow - 1) * sw + width
    reach = starts + (p.kw - 1) * p.dilation[1] + 2 * width
    length = -(-max(reach, p.padding[2] + p.w + width) // 16) * 16
    window = (p.kh, p.kw, sh, sw, p.padding[0], p.padding[2], *p.dilation)
    return np.array([p.n * p.c, p.h, p.w, p.oh, p.ow, *window, length], np.int64)


def _counts(outputs, size, kernel, stride, before, after, include_pad):
    """How many elements of each window on one axis count: with padding but not beyond it, or without padding."""
    start = np.arange(outputs) * stride - before
    end = np.minimum(start + kernel, size + after)
    return end - start if include_pad else np.minimum(end, size) - np.maximum(start, 0)


@lru_cache(maxsize=1024)
def _scales(p):
    """1 / the size of window (i, j) as a factor for its row and one for its column, padded to whole vectors."""
    if p.divisor_override:
        rows, columns = np.full(p.oh, p.divisor_override), np.ones(p.ow)
    else:
        rows = _counts(p.oh, p.h, p.kh, p.stride[0], *p.padding[:2], p.count_include_pad)
        columns = _counts(p.ow, p.w, p.kw, p.stride[1], *p.padding[2:], p.count_include_pad)
    padded = np.ones(p.ow + VECTOR_BYTES // itemsize(p.dtype))
    padded[: p.ow] = columns
    return (1.0 / rows).astype(p.dtype), (1.0 / padded).astype(p.dtype)


_NO_SCALES = {dtype: np.empty(0, dtype) for dtype in ("float32", "float64")}

# Elements of what is taken at a time, where planes are small: taking takes as long as some hundred.
_RUN = 4096

# Rows that a band of a plane has at least, where planes are too few for the threads.
_FEWEST_ROWS = 8


def _team(p, pieces):
    # A window element takes about as long as eight flops at the peak.
    return threads.team(8 * p.flops, pieces)


def _scratch(lines):
    return lambda p: threads.available() * lines * int(_sizes(p)[-1])


def _bands(p, rows):
    """(rows of a band, bands that are taken at a time, how often they are taken); rows are a plane's.

    A plane is one band unless planes are few.
    """
    planes = p.n * p.c
    bands = min(-(-4 * threads.available() // max(planes, 1)), -(-rows // _FEWEST_ROWS))
    band = -(-rows // bands)
    pieces = planes * -(-rows // band)
    several = max(1, min(pieces // (16 * threads.available()), _RUN // max(p.h * p.w, 1)))
    return band, several, -(-pieces // several)


@lru_cache(maxsize=1024)
def _in_registers(p):
    """pool_rows' workers (of maxima, of means) for this problem, or None: 2×2 windows inside x, and 3×3 ones."""
    if _inside(p) and p.stride[1] <= 2:
        return pool_rows.pool_max, pool_rows.pool_mean
    if (p.kh, p.kw, *p.dilation) != (3, 3, 1, 1):
        return None
    of_stride = {
        1: (pool_rows.pool_max_three_1, pool_rows.pool_mean_three_1),
        2: (pool_rows.pool_max_three_2, pool_rows.pool_mean_three_2),
    }
    return of_stride.get(int(_sizes(p)[8]))


def _inside(p):
    """Whether windows are 2×2 and none touches padding."""
    whole = (p.oh - 1) * p.stride[0] + 2 <= p.h and (p.ow - 1) * p.stride[1] + 2 <= p.w
    return (p.kh, p.kw) == (2, 2) and p.dilation == (1, 1) and p.padding[0] == p.padding[2] == 0 and whole


@lru_cache(maxsize=1024)
def _tiles(p):
    """Whether pool_rows does this gradient in registers: 2×2 windows side by side."""
    return _inside(p) and p.stride == (2, 2)


@lru_cache(maxsize=1024)
def _by_rows(p):
    """Whether pool_rows does this gradient."""
    return p.dilation == (1, 1) and _sizes(p)[8] <= 2 and p.kh * p.kw <= _MOST_NUMBERS


@lru_cache(maxsize=1024)
def _row_sizes(p):
    """For pool_rows' gradients: _sizes with the length of their lines, the zeros before a line, rows of windows kept.

    A line of windows is read from kw before its first to two vectors after the last that holds an element of x.
    """
    width = VECTOR_BYTES // itemsize(p.dtype)
    sizes = _sizes(p).copy()
    sh, sw = int(sizes[7]), int(sizes[8])
    before = -(-p.kw // 16) * 16
    after = max(p.ow, (p.w + p.padding[2]) // sw) + 2 * width + 2
    sizes[-1] = -(-(before + after) // 16) * 16
    return sizes, before, min(-(-p.kh // sh), p.oh)


@lru_cache(maxsize=1024)
def _first_columns(p):
    """The first column of window (·, j) inside the plane, far below zero if there is none; padded to whole vectors."""
    starts = np.arange(p.ow) * p.stride[1] - p.padding[2]
    first = np.maximum(-starts, 0)
    columns = np.zeros(p.ow + VECTOR_BYTES // itemsize(p.dtype), p.dtype)
    columns[: p.ow] = np.where(first < np.minimum(p.kw, p.w - starts), first, -(2.0**30))
    return columns


@lru_cache(maxsize=1024)
def _places(p):
    """Whether pool_rows finds where maxima stand: every window holds an element, whose place float32 can number."""
    whole = p.n * p.c * p.oh * p.ow and _first_columns(p).min() >= 0 and p.padding[0] < p.kh
    return bool(_by_rows(p) and whole and (p.oh - 1) * p.stride[0] - p.padding[0] < p.h and p.kh * p.w <= _MOST_NUMBERS)


# By the columns of a window (0: any number) and the stride along a row.
_INDICES = {
    (2, 2): pool_rows.maximum_indices_two,
    (3, 1): pool_rows.maximum_indices_three_1,
    (3, 2): pool_rows.maximum_indices_three_2,
    (0, 1): pool_rows.maximum_indices_any_1,
    (0, 2): pool_rows.maximum_indices_any_2,
}
_GRADIENTS = {
    (2, 1): pool_rows.maximum_gradient_two,
    (3, 1): pool_rows.maximum_gradient_three_1,
    (3, 2): pool_rows.maximum_gradient_three_2,
    (0, 1): pool_rows.maximum_gradient_any_1,
    (0, 2): pool_rows.maximum_gradient_any_2,
}


def _indices_scratch(p):
    return 0 if _places(p) or (_tiles(p) and p.w < _MOST_NUMBERS) else _scratch(3)(p)


def _average_gradient_scratch(p):
    if _tiles(p):
        return 0
    return threads.available() * int(_row_sizes(p)[0][-1]) if _by_rows(p) else _scratch(1)(p)


def _maximum_gradient_scratch(p):
    if _tiles(p):
        return 0
    if not _by_rows(p):
        return _scratch(3)(p)
    sizes, _, ring = _row_sizes(p)
    return threads.available() * 2 * ring * int(sizes[-1])


# A plan says how an operation does p: the worker, its pieces of work, and what it is given after the arrays and before
# scratch, of which the workers that need none have none.


def _plan_maxima(p):
    none = _NO_SCALES[p.dtype]
    workers = _in_registers(p)
    if workers:
        band, several, pieces = _bands(p, p.oh)
        return workers[0], pieces, (_sizes(p), none, none, band, several)
    return _pool_max, p.n * p.c, (_sizes(p), none, none)


def _plan_means(p):
    workers = _in_registers(p)
    if workers:
        band, several, pieces = _bands(p, p.oh)
        return workers[1], pieces, (_sizes(p), *_scales(p), band, several)
    return _pool_mean, p.n * p.c, (_sizes(p), *_scales(p))


def _plan_indices(p):
    if _tiles(p) and p.w < _MOST_NUMBERS:
        band, several, pieces = _bands(p, p.oh)
        return pool_rows.maximum_indices_tiles, pieces, (_sizes(p), band, several)
    if _places(p):
        band, several, pieces = _bands(p, p.oh)
        worker = _INDICES.get((p.kw, int(_sizes(p)[8]))) or _INDICES[0, int(_sizes(p)[8])]
        return worker, pieces, (_sizes(p), _first_columns(p), band, several)
    return _maximum_indices, p.n * p.c, (_sizes(p), _offsets(p))


def _plan_maximum_gradient(p):
    if _tiles(p):
        band, several, pieces = _bands(p, p.oh)
        return pool_rows.maximum_gradient_tiles, pieces, (_sizes(p), band, several)
    if _by_rows(p):
        sizes, before, ring = _row_sizes(p)
        band, several, pieces = _bands(p, p.h)
        worker = _GRADIENTS.get((p.kw, int(sizes[8]))) or _GRADIENTS[0, int(sizes[8])]
        return worker, pieces, (sizes, _first_columns(p), band, several, before, ring)
    return _maximum_gradient, p.n * p.c, (_sizes(p), _offsets(p))


def _plan_mean_gradient(p):
    if _tiles(p):
        band, several, pieces = _bands(p, p.oh)
        return pool_rows.average_gradient_tiles, pieces, (_sizes(p), *_scales(p), band, several)
    if _by_rows(p):
        sizes, before, _ = _row_sizes(p)
        band, several, pieces = _bands(p, p.h)
        return pool_rows.average_gradient, pieces, (sizes, *_scales(p), band, several, before)
    return _average_gradient, p.n * p.c, (_sizes(p), *_scales(p))


def _cost(p):
    # Both passes go over whole rows, however far apart the windows are.
    return 16.0 * p.n * p.c * p.oh * (p.w * p.kh + p.ow * p.kw) + 20_000


def _window_cost(p):
    return 50.0 * p.flops + 20_000


def _register(op, limit, plan, scratch, cost):
    """Register this file's kernel of `op`; scratch(p): the elements of scratch that its worker needs."""

    @lru_cache(maxsize=1024)
    def ready(p):
        worker, pieces, own = plan(p)
        needs, addresses = scratch(p) > 0, []

        def run(*arrays):
            *given, memory = arrays
            args = (*[a.reshape(-1) for a in given], *own, *((memory,) if needs else ()))
            if not addresses:
                addresses.append(address_of(worker, *args))
            parallel_at(addresses[0], _team(p, pieces), args)

        return run

    register = kernel(f"{op}/planes/cpu", limit=limit, cost=cost, scratch=scratch, ready=ready)
    register(lambda p, *arrays: ready(p)(*arrays))


_register("max_pool2d", 0.0, _plan_maxima, lambda p: 0 if _in_registers(p) else _scratch(2)(p), _cost)
_register("avg_pool2d", 1.0, _plan_means, lambda p: 0 if _in_registers(p) else _scratch(2)(p), _cost)
_register("max_pool2d_with_indices", 0.0, _plan_indices, _indices_scratch, _window_cost)
_register("max_pool2d_grad", 1.0, _plan_maximum_gradient, _maximum_gradient_scratch, _window_cost)
_register("avg_pool2d_grad", 1.0, _plan_mean_gradient, _average_gradient_scratch, _window_cost)
