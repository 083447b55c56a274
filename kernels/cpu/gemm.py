"""The matrix product: one register-tile loop that every matrix-product kernel of the library shares.

    c[i, j] = Σ_k a[i, k] · b[k, j] + bias[j]

The rows of a are broadcast straight from where they lie; the columns of b fill the lanes and are packed into panels of
P = TILE_VECS vectors, panel[k][P], by the thread that multiplies them, or once for many calls (`pack`). A piece of work
is one column panel with some of the rows. Several products that follow from one a are jobs of one list of pieces, so
that threads wait for each other once.
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
from fastconv.kernels.cpu.team import address_of, parallel, parallel_at, take
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
# Bytes of packed panels up to which each thread reads all of them.
_SHARED_BYTES = 512 * 1024
# Flops' worth of time of packing an element.
_PACKING = 40.0


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


@inner
def _columns_of(number, columns, width):
    """(first column, columns) of column panel `number`.

    Panels have nearly as many vectors each: four are two and two, for a tile of one would wait for its broadcasts.
    """
    vectors = quotient(columns + width - 1, width)
    panels = quotient(vectors + TILE_VECS - 1, TILE_VECS)
    j = quotient(vectors * number, panels) * width
    return j, min(columns, quotient(vectors * (number + 1), panels) * width) - j


@njit
def _packer(counter, thread, b, b_column, b_k, columns, depth, u):
    """u = all column panels of b, one after another until none is left."""
    width = lanes(b)
    size = quotient(depth + width - 1, width) * width * TILE_VECS * width
    while True:
        number = take(counter, thread, quotient(u.size, size))
        if number < 0:
            break
        j, left = _columns_of(number, columns, width)
        _pack_columns(b, j * b_column, b_column, b_k, left, depth, u, number * size)


@njit
def _worker(counter, thread, a, b0, b1, b2, c0, c1, c2, bias, jobs, count, pieces, panels, packed):
    """Pack a column panel and multiply it with some of the rows, one piece after another until none is left.

    If packed is not 0, b0 is all panels, each of `b_column` elements; if it is 2, rows are shared out, not panels.
    """
    state = flush_denormals()
    width = lanes(a)
    # Packing writes whole blocks of `width` steps.
    own = thread * TILE_VECS * width * (_DEPTH + width)
    panel_of = one_of(packed, panels, b0, b0)
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
        if packed == 2:
            of_rows = quotient(piece, quotient(pieces, row_parts))
            number = piece - of_rows * quotient(pieces, row_parts)
        else:
            number = quotient(piece, row_parts)
            of_rows = piece - number * row_parts
        j, left = _columns_of(number, columns, width)
        row_panels = quotient(rows + TILE_ROWS - 1, TILE_ROWS)
        begin, end = quotient(row_panels * of_rows, row_parts), quotient(row_panels * (of_rows + 1), row_parts)
        at_hand = packed or (parts == 1 and held == j and held_by == job)
        held, held_by = j, job
        whole = number * b_column
        for done in range(parts):
            a_at, b_at, depth = jobs[part], jobs[part + 1], jobs[part + 2]
            # A depth of zero where an `if` would do: of that the compiler would make two copies of what follows.
            to_pack = 0 if at_hand else depth
            _pack_columns(b, b_at + j * b_column, b_column, b_k, left, to_pack, panels, own)
            panel = whole + b_at if packed else own
            bias_at = j if bias.size and done == 0 else -1
            for number in range(begin, end):
                r = number * TILE_ROWS
                n = min(TILE_ROWS, rows - r)
                ai, ci = a_at + r * a_row, c_at + r * columns + j
                row = (a, ai, a_row, a_k, n)
                _multiply(left, *row, panel_of, panel, depth, c, ci, columns, left, bias, bias_at, done > 0)
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


def plan(jobs, itemsize, by_rows=False):
    """What `run` needs to know of jobs, which it does all at once; for the number of threads now set.

    by_rows: for one job, whose rows are shared out between threads.
    """
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
        if by_rows and team > 1:
            row_parts = min(-(-job.rows // TILE_ROWS), 8 * team)
        numbers += [first, job.which, row_parts, job.rows, job.columns, *job.a_strides, *job.b_strides, job.c_at]
        numbers += [at, len(of_job)]
        rest += chain.from_iterable(of_job)
        first += row_parts * columns
        at += len(of_job) * _PART
    return np.array(numbers + rest, np.int64), len(jobs), first, team


def run(known, a, b, c, bias, workspace):
    """Do the jobs of a plan: a flat array a, three each of b and c; bias and workspace as in `product`."""
    numbers, count, pieces, team = known
    parallel_at(_compiled(a.dtype), team, (a, *b, *c, bias, numbers, count, pieces, workspace, 0))


def scratch(itemsize):
    """Elements of scratch that a product needs: a column panel for each thread."""
    width = VECTOR_BYTES // itemsize
    return threads.available() * TILE_VECS * width * (_DEPTH + width)


def product(a, a_strides, b, b_strides, c, depth, bias, workspace):
    """c[i, j] = Σ_k a[i, k] · b[k, j] + bias[j].

    a and b are flat arrays with strides in elements, a_strides of (i, k) and b_strides of (j, k), one of each pair 1;
    c (rows, columns) is C-contiguous, bias has `columns` elements or none, workspace `scratch(itemsize)` elements.
    """
    known = ready_product(*c.shape, depth, a_strides, b_strides, c.dtype)
    known(a, b, c.reshape(-1), bias, workspace)


def _panel(depth, itemsize):
    """Elements of a column panel of all depth, and of one step of it."""
    width = VECTOR_BYTES // itemsize
    return -(-depth // width) * width * TILE_VECS * width, TILE_VECS * width


def packed(columns, depth, itemsize):
    """Elements of b's columns once packed."""
    panel, step = _panel(depth, itemsize)
    return -(-columns // step) * panel


def pack(b, b_strides, columns, depth, u):
    """u, of `packed` elements, = the columns of b, as `ready_product` takes them for many calls."""
    team = threads.team(_PACKING * columns * depth, u.size // _panel(depth, b.itemsize)[0])
    parallel(_packer, team, b, *b_strides, columns, depth, u)


@lru_cache(maxsize=1024)
def ready_product(rows, columns, depth, a_strides, b_strides, dtype):
    """`product` with all worked out that depends on no array: call(a, b, c, bias, workspace, u=None), c flat.

    u: b's columns packed by `pack`; then b is not read, nor workspace used.
    """
    address, plans = _compiled(dtype), {}

    def call(a, b, c, bias, workspace, u=None):
        key = threads.setting(), u is None
        known = plans.get(key)
        if known is None:
            strides = b_strides if u is None else _panel(depth, dtype.itemsize)
            # Threads that share rows of c write to the same cache lines; panels that all can keep are no reason to.
            few = rows >= _FEWEST_ROWS and packed(columns, depth, dtype.itemsize) * dtype.itemsize <= _SHARED_BYTES
            jobs, by_rows = [Job(0, rows, columns, a_strides, strides, 0, [(0, 0, depth)])], u is not None and few
            known = plans[key] = (*plan(jobs, dtype.itemsize, by_rows), 0 if u is None else 1 + by_rows)
        *numbers, team, how = known
        if u is not None:
            b, workspace = u, u
        parallel_at(address, team, (a, b, b, b, c, c, c, bias, *numbers, workspace, how))

    return call


@lru_cache
def _compiled(dtype):
    """Where `_worker` is, compiled for flat arrays of the dtype."""
    values = np.empty(1, dtype)
    return address_of(_worker, *[values] * 8, np.empty(1, np.int64), 1, 1, values, 0)


NO_BIAS = {dtype: np.empty(0, dtype) for dtype in ("float32", "float64")}
