"""The matrix product: one register-tile loop that every matrix-product kernel of the library shares.

    c[i, j] = Σ_k a[i, k] · b[k, j] + bias[j]

The rows of a are broadcast straight from where they lie; the columns of b fill the lanes and are packed into panels of
P = TILE_VECS vectors, panel[k][P], by the thread that multiplies them. A piece of work is one column panel with some
of the rows. Several products that follow from one a are jobs of one list of pieces, so that threads wait for each other
once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, pairwise
from math import ceil
from operator import mul

import numpy as np

from fastconv import threads
from fastconv.kernels.cpu.host import TILE_ROWS, TILE_VECS, VECTOR_BYTES
from fastconv.kernels.cpu.jit import inner, njit
from fastconv.kernels.cpu.simd import (
    flush_denormals,
    lanes,
    load,
    load_first,
    one_of,
    prefetch,
    quotient,
    restore_denormals,
    store,
)
from fastconv.kernels.cpu.team import address_of, parallel_at, take
from fastconv.kernels.cpu.tiles import (
    add_columns,
    interleave,
    load_rows,
    outer,
    prefetch_tile,
    row_offsets,
    shares,
    spaced,
    store_rows,
    store_tile,
    zeros,
    zeros_square,
)

# Most reduction steps between two visits of an output tile: a column panel of this depth stays in L2.
_DEPTH = 1024
# Where a's rows are contiguous, each step reads a line far from the one before, which no processor foresees: so many
# steps ahead it is asked for.
_AHEAD = 16
# Fewest rows that a piece of work has when rows are split to give every thread enough pieces; and where it must pack
# its panel anew, because that is deeper than what stays packed.
_FEWEST_ROWS, _FEWEST_DEEP_ROWS = 32, 128


def make_tile_product(vecs, ahead=0):
    """The function Σ_k a.flat[ai + r·a_row + k·a_k] · b.flat[bi + k·P + v·lanes :] as a TILE_ROWS × vecs tile.

    Rows from `rows` on repeat the last one. What of a is read in `ahead` steps is asked for, if not 0.
    """

    @inner
    def tile_product(a, ai, a_row, a_k, rows, b, bi, depth):
        width = lanes(b)
        tile = zeros(b, TILE_ROWS, vecs)
        places = row_offsets(tile, rows, a_row)
        for k in range(depth):
            if ahead:
                prefetch(a, ai + (k + ahead) * a_k)
            tile = outer(tile, a, ai + k * a_k, places, b, spaced(tile, bi + k * TILE_VECS * width, width))
        return tile

    return tile_product


def by_vectors(make):
    """A function of (count, *args) that calls make(1), make(2) or make(3): as many vectors as `count` elements fill.

    The first of args is an array of the vectors' dtype.
    """
    one, two, three = make(1), make(2), make(3)

    @inner
    def call(count, *args):
        if TILE_VECS == 3 and count > 2 * lanes(args[0]):
            three(*args)
        elif count > lanes(args[0]):
            two(*args)
        else:
            one(*args)

    return call


def _make_multiply(vecs):
    tile_product, far_product = make_tile_product(vecs), make_tile_product(vecs, _AHEAD)

    @inner
    def multiply(a, ai, a_row, a_k, rows, b, bi, depth, c, ci, c_row, columns, bias, bias_at, accumulate):
        """c's tile at ci = (or +=) rows of a times a column panel, plus bias.flat[bias_at + column]."""
        start = zeros(b, TILE_ROWS, vecs)
        prefetch_tile(start, c, spaced(start, ci, lanes(b)), c_row, rows)
        # One of a's strides is 1. Written out for each, the compiler needs half the registers for addresses.
        if a_k == 1:
            tile = tile_product(a, ai, a_row, 1, rows, b, bi, depth)
        else:
            tile = far_product(a, ai, 1, a_k, rows, b, bi, depth)
        counts = shares(tile, columns)
        # No columns rather than an `if`, of which the compiler would make two copies of the loops around this.
        tile = add_columns(tile, bias, spaced(tile, bias_at, lanes(b)), shares(tile, columns if bias_at >= 0 else 0))
        store_tile(tile, c, spaced(tile, ci, lanes(b)), counts, c_row, rows, accumulate)

    return multiply


_multiply = by_vectors(_make_multiply)


@inner
def _pack_columns(x, i, column_stride, k_stride, columns, depth, panel, at):
    """panel.flat[at + k·P + j] = x.flat[i + j·column_stride + k·k_stride], zero for j >= columns."""
    width = lanes(x)
    size = TILE_VECS * width
    for v in range(TILE_VECS):
        left = columns - v * width
        if left <= 0:
            break
        first = i + v * width * column_stride
        if k_stride == 1:
            for k in range(0, depth, width):
                block = load_rows(zeros_square(x), x, first + k, column_stride, left, depth - k)
                store_rows(interleave(block), panel, at + k * size + v * width, size)
        elif left >= width:
            for k in range(depth):
                store(panel, at + k * size + v * width, load(x, first + k * k_stride))
        else:
            for k in range(depth):
                store(panel, at + k * size + v * width, load_first(x, first + k * k_stride, left))


# Numbers of a job in the list, and of a part of its sum.
_JOB, _PART = 12, 3


@njit
def _worker(counter, thread, a, b0, b1, b2, c0, c1, c2, bias, jobs, count, pieces, panels):
    """Pack a column panel and multiply it with some of the rows, one piece after another until none is left."""
    state = flush_denormals()
    width = lanes(a)
    # Packing writes whole blocks of `width` steps.
    panel = thread * TILE_VECS * width * (_DEPTH + width)
    held = held_by = -1
    while True:
        piece = take(counter, thread, pieces)
        if piece < 0:
            break
        job = 0
        while job + 1 < count and jobs[(job + 1) * _JOB] <= piece:
            job += 1
        at = job * _JOB
        piece -= jobs[at]
        which, row_parts, rows, columns = jobs[at + 1], jobs[at + 2], jobs[at + 3], jobs[at + 4]
        a_row, a_k, b_column, b_k = jobs[at + 5], jobs[at + 6], jobs[at + 7], jobs[at + 8]
        c_at, part, parts = jobs[at + 9], jobs[at + 10], jobs[at + 11]
        b, c = one_of(which, b0, b1, b2), one_of(which, c0, c1, c2)
        number = quotient(piece, row_parts)
        of_rows = piece - number * row_parts
        # Panels of nearly as many vectors each: four are two and two, for a tile of one would wait for its broadcasts.
        vectors = quotient(columns + width - 1, width)
        panels_of_c = quotient(vectors + TILE_VECS - 1, TILE_VECS)
        j = quotient(vectors * number, panels_of_c) * width
        left = min(columns, quotient(vectors * (number + 1), panels_of_c) * width) - j
        row_panels = quotient(rows + TILE_ROWS - 1, TILE_ROWS)
        begin, end = quotient(row_panels * of_rows, row_parts), quotient(row_panels * (of_rows + 1), row_parts)
        packed = parts == 1 and held == j and held_by == job
        held, held_by = j, job
        for done in range(parts):
            a_at, b_at, depth = jobs[part], jobs[part + 1], jobs[part + 2]
            # A depth of zero where an `if` would do: of that the compiler would make two copies of what follows.
            to_pack = 0 if packed else depth
            _pack_columns(b, b_at + j * b_column, b_column, b_k, left, to_pack, panels, panel)
            bias_at = j if bias.size and done == 0 else -1
            for number in range(begin, end):
                r = number * TILE_ROWS
                n = min(TILE_ROWS, rows - r)
                ai, ci = a_at + r * a_row, c_at + r * columns + j
                row = (a, ai, a_row, a_k, n)
                _multiply(left, *row, panels, panel, depth, c, ci, columns, left, bias, bias_at, done > 0)
            part += _PART
    restore_denormals(state)


@dataclass(frozen=True)
class Job:
    """One product: `which` of the arrays b and c it is of; c is (rows, columns), from c_at on; strides as in `product`.

    sums: (where a's begins, where b's begins, depth) of each of the products that c is the sum of.
    """

    which: int
    rows: int
    columns: int
    a_strides: tuple[int, int]
    b_strides: tuple[int, int]
    c_at: int
    sums: list[tuple[int, int, int]]

    def flops(self):
        return 2.0 * self.rows * self.columns * sum(depth for *_, depth in self.sums)

    def parts(self):
        """`sums` in parts no deeper than a packed panel."""
        for a_at, b_at, depth in self.sums:
            count = max(1, -(-depth // _DEPTH))
            for begin, end in pairwise(depth * k // count for k in range(count + 1)):
                yield a_at + begin * self.a_strides[1], b_at + begin * self.b_strides[1], end - begin


def plan(jobs, itemsize):
    """What `run` needs to know of jobs, which it does all at once; for the number of threads now set."""
    parts = [list(job.parts()) for job in jobs]
    panels = [-(-job.columns // (TILE_VECS * VECTOR_BYTES // itemsize)) for job in jobs]
    fewest = [_FEWEST_ROWS if len(of_job) == 1 else _FEWEST_DEEP_ROWS for of_job in parts]
    most = [max(1, job.rows // rows) for job, rows in zip(jobs, fewest, strict=True)]
    total = sum(job.flops() for job in jobs)
    team = threads.team(total, sum(map(mul, most, panels)))
    numbers, rest, first, at = [], [], 0, len(jobs) * _JOB
    for job, of_job, columns, rows in zip(jobs, parts, panels, most, strict=True):
        # Enough pieces for threads to end together. A panel that stays packed from piece to piece allows for more.
        wanted = (32 if len(of_job) == 1 else 16) * team * job.flops() / max(total, 1.0)
        row_parts = 1 if team == 1 else max(1, min(rows, ceil(wanted / columns)))
        numbers += [first, job.which, row_parts, job.rows, job.columns, *job.a_strides, *job.b_strides, job.c_at]
        numbers += [at, len(of_job)]
        rest += chain.from_iterable(of_job)
        first += row_parts * columns
        at += len(of_job) * _PART
    return np.array(numbers + rest, np.int64), len(jobs), first, team


def run(known, a, b, c, bias, workspace):
    """Do the jobs of a plan: a flat array a, three each of b and c; bias and workspace as in `product`."""
    numbers, count, pieces, team = known
    parallel_at(_compiled(a.dtype), team, (a, *b, *c, bias, numbers, count, pieces, workspace))


def scratch(itemsize):
    """Elements of scratch that a product needs: a column panel for each thread."""
    width = VECTOR_BYTES // itemsize
    return threads.available() * TILE_VECS * width * (_DEPTH + width)


def product(a, a_strides, b, b_strides, c, depth, bias, workspace):
    """c[i, j] = Σ_k a[i, k] · b[k, j] + bias[j].

    a and b are flat arrays with strides in elements, a_strides of (i, k) and b_strides of (j, k), one of each pair 1;
    c (rows, columns) is C-contiguous, bias has `columns` elements or none, workspace `scratch(itemsize)` elements.
    """
    known = _plan(*c.shape, depth, a_strides, b_strides, c.itemsize, threads.setting())
    run(known, a, [b] * 3, [c.reshape(-1)] * 3, bias, workspace)


@lru_cache(maxsize=1024)
def _plan(rows, columns, depth, a_strides, b_strides, itemsize, setting):
    return plan([Job(0, rows, columns, a_strides, b_strides, 0, [(0, 0, depth)])], itemsize)


@lru_cache
def _compiled(dtype):
    """Where `_worker` is, compiled for flat arrays of the dtype."""
    values = np.empty(1, dtype)
    return address_of(_worker, *[values] * 8, np.empty(1, np.int64), 1, 1, values)


NO_BIAS = {dtype: np.empty(0, dtype) for dtype in ("float32", "float64")}
