"""linear/dot and linear_grad_input/dot: a few rows of x, or gy, with w read as it lies, once.

    y[m, o] = Σ_k x[m, k] · w[o, k] + b[o]        gx[m, k] = Σ_o gy[m, o] · w[o, k]

Forward, rows of x times rows of w are dot products along the lanes. Both operands are read as they lie: w, nearly all
there is to read, is read once, and nothing is packed. A tile is TILE_ROWS rows of w by up to TILE_VECS rows of x; its
lanes are summed at the end, which is what loses to the packed product where x has many rows. A piece of work is some
tiles of w's rows in order; all rows of x meet each of them while it is in the cache.

Back, four rows of w at a time are added to gx, of which a strip of columns stays in the cache meanwhile. A piece of
work is a strip.
"""

from functools import lru_cache

import numpy as np

from fastconv import threads
from fastconv.kernels.cpu.host import TILE_ROWS, TILE_VECS
from fastconv.kernels.cpu.jit import inner, njit
from fastconv.kernels.cpu.simd import (
    add,
    flush_denormals,
    fma,
    item,
    lanes,
    load,
    load_first,
    mul,
    quotient,
    restore_denormals,
    splat,
    store,
    store_first,
)
from fastconv.kernels.cpu.team import address_of, parallel_at, take
from fastconv.kernels.cpu.tiles import outer_lanes, shifted, spaced, sum_tile_into, zeros
from fastconv.problem import itemsize
from fastconv.registry import kernel

# Multiply-adds of a piece of work forward, at least, and most columns of a strip.
_PIECE = 16 * 1024
_STRIP = 2048


def _make_tile(vecs):
    @inner
    def tile_of(x, at, w, first, left, depth, y, to, columns):
        """y.flat[to + r + v·columns] += Σ_k w.flat[first + r·depth + k] · x.flat[at + v·depth + k] for r < left."""
        width = lanes(w)
        tile = zeros(w, TILE_ROWS, vecs)
        places = spaced(tile, at, depth)
        for k in range(0, depth, width):
            tile = outer_lanes(tile, w, first + k, depth, left, x, shifted(places, k), depth - k)
        sum_tile_into(tile, y, to, 1, columns, left, vecs)

    return tile_of


_one, _two, _three = _make_tile(1), _make_tile(2), _make_tile(3)


@njit
def _multiply(counter, thread, x, w, b, y, rows, columns, depth, several):
    """Multiply `several` tiles' rows of w with all rows of x, one piece after another until none is left."""
    state = flush_denormals()
    tiles = quotient(columns + TILE_ROWS - 1, TILE_ROWS)
    groups = quotient(rows + TILE_VECS - 1, TILE_VECS)
    while True:
        piece = take(counter, thread, quotient(tiles + several - 1, several))
        if piece < 0:
            break
        for number in range(piece * several, min(tiles, (piece + 1) * several)):
            o = number * TILE_ROWS
            left = min(TILE_ROWS, columns - o)
            for r in range(rows):
                for k in range(o, o + left):
                    y[r * columns + k] = item(b, k) if b.size else 0
            for group in range(groups):
                # Groups of nearly as many rows each.
                m = quotient(rows * group, groups)
                count = quotient(rows * (group + 1), groups) - m
                args = (x, m * depth, w, o * depth, left, depth, y, m * columns + o, columns)
                if TILE_VECS == 3 and count == 3:
                    _three(*args)
                elif count == 2:
                    _two(*args)
                else:
                    _one(*args)
    restore_denormals(state)


@inner
def _add_row(gy, at, w, first, columns, gx, to):
    """gx.flat[to + k] += gy.flat[at] · w.flat[first + k] for k < columns."""
    width = lanes(w)
    g = splat(w, item(gy, at))
    for k in range(0, columns, width):
        if columns - k >= width:
            store(gx, to + k, fma(g, load(w, first + k), load(gx, to + k)))
        else:
            value = fma(g, load_first(w, first + k, columns - k), load_first(gx, to + k, columns - k))
            store_first(gx, to + k, value, columns - k)


@inner
def _add_four_rows(gy, at, w, first, depth, columns, gx, to):
    """`_add_row` of four rows, `depth` apart, for whole vectors; returns the columns done."""
    width = lanes(w)
    second, third, fourth = first + depth, first + 2 * depth, first + 3 * depth
    a, b = splat(w, item(gy, at)), splat(w, item(gy, at + 1))
    c, d = splat(w, item(gy, at + 2)), splat(w, item(gy, at + 3))
    k = 0
    while k + width <= columns:
        low = fma(a, load(w, first + k), load(gx, to + k))
        high = mul(b, load(w, second + k))
        low, high = fma(c, load(w, third + k), low), fma(d, load(w, fourth + k), high)
        store(gx, to + k, add(low, high))
        k += width
    return k


@njit
def _spread(counter, thread, gy, w, gx, rows, columns, depth, strip):
    """gx's columns, a strip of `strip` after another until none is left; w is (columns, depth)."""
    state = flush_denormals()
    while True:
        piece = take(counter, thread, quotient(depth + strip - 1, strip))
        if piece < 0:
            break
        begin = piece * strip
        left = min(strip, depth - begin)
        for r in range(rows):
            for k in range(left):
                gx[r * depth + begin + k] = 0
        for o in range(0, columns, 4):
            for r in range(rows):
                at, first, to = r * columns + o, o * depth + begin, r * depth + begin
                done = 0
                if o + 4 <= columns:
                    done = _add_four_rows(gy, at, w, first, depth, left, gx, to)
                if done < left:
                    for k in range(min(4, columns - o)):
                        _add_row(gy, at + k, w, first + k * depth + done, left - done, gx, to + done)
    restore_denormals(state)


@lru_cache
def _compiled(worker, dtype, arrays):
    values = np.empty(1, dtype)
    return address_of(worker, *[values] * arrays, 1, 1, 1, 1)


@lru_cache(maxsize=1024)
def _ready(p):
    """The kernel for p, with all worked out but the number of threads."""
    address, sizes, flops = _compiled(_multiply, np.dtype(p.dtype), 4), (p.m, p.o, p.i), p.flops
    tiles = -(-p.o // TILE_ROWS)
    several = max(1, min(-(-tiles // 8), _PIECE // max(1, p.m * p.i * TILE_ROWS)))
    pieces = -(-tiles // several)

    def run(x, w, b, y, scratch):
        flat = [a.reshape(-1) for a in (x, w, b, y)]
        parallel_at(address, threads.team(flops, pieces), (*flat, *sizes, several))

    return run


@lru_cache(maxsize=1024)
def _ready_back(p):
    """The gradient for p, with all worked out but the number of threads."""
    address, sizes, flops = _compiled(_spread, np.dtype(p.dtype), 3), (p.m, p.o, p.i), p.flops
    lines = -(-p.i * itemsize(p.dtype) // 64)
    strip = min(_STRIP, -(-lines // (4 * threads.available())) * 64 // itemsize(p.dtype))
    pieces = -(-p.i // strip)

    def run(gy, w, gx, scratch):
        flat = [a.reshape(-1) for a in (gy, w, gx)]
        parallel_at(address, threads.team(flops, pieces), (*flat, *sizes, strip))

    return run


def _cost(p):
    # Measured: products, w, which is read once, and lanes summed up.
    return 1.6 * p.flops + 7.0 * p.i * p.o + 200.0 * p.m * p.o + 5_000


def _back_cost(p):
    return 4.0 * p.flops + 7.0 * p.i * p.o + 5_000


@kernel("linear/dot/cpu", limit=1.0, cost=_cost, ready=_ready)
def forward(p, x, w, b, y, scratch):
    _ready(p)(x, w, b, y, scratch)


@kernel("linear_grad_input/dot/cpu", limit=1.0, cost=_back_cost, ready=_ready_back)
def grad_input(p, gy, w, gx, scratch):
    _ready_back(p)(gy, w, gx, scratch)
