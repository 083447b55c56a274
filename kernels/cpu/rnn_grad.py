"""lstm_grad/bptt, gru_grad/bptt, rnn_grad/bptt: back-propagation through time.

From the last step to the first, with dz(t) the gradients of the gates before their functions:

    dh(t) = gy(t) + dz(t + 1)·U + what a cell hands on by itself,    dz(t) = back(dh(t), dc(t), saved(t))

and when all dz are there one product each: gw_ih = Σ_t dz(t)ᵀ·x(t), gw_hh = Σ_t dz(t)ᵀ·h(t−1), gx(t) = dz(t)·W.
The sequences are divided among the threads, as in rnn_rows, so that none waits for another. U is packed by columns of
four vectors of units, u[direction][column][gate element][4][lane].
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate, pairwise

import numpy as np

from fastconv import threads
from fastconv.kernels.cpu import gemm
from fastconv.kernels.cpu.host import LINE
from fastconv.kernels.cpu.jit import inner, njit
from fastconv.kernels.cpu.rnn_cells import CELLS, get, option_of, put
from fastconv.kernels.cpu.rnn_forward import FEWER, MOST, clear, even, rows_of, stride_of, table
from fastconv.kernels.cpu.rnn_pack import spread, width_of
from fastconv.kernels.cpu.rnn_products import OF_X, products
from fastconv.kernels.cpu.rnn_rows import blocks_of
from fastconv.kernels.cpu.simd import (
    add,
    flush_denormals,
    lanes,
    load_first,
    quotient,
    restore_denormals,
    splat,
    store,
)
from fastconv.kernels.cpu.team import address_of, parallel_at, take
from fastconv.kernels.cpu.tiles import listed_rows, outer_into, store_whole, zeros
from fastconv.problem import SAVED
from fastconv.registry import kernel

# Columns that are summed at once: the sums stay in the first cache.
_COLUMNS = 512


@njit
def _pack(counter, thread, w, u, rows, h, columns, pieces):
    """u[direction][column][row][4][lane] = w[direction][row][unit], zeros beyond the last unit."""
    width = lanes(u)
    while True:
        piece = take(counter, thread, pieces)
        if piece < 0:
            break
        direction, column = quotient(piece, columns), piece % columns
        for v in range(4):
            unit = (column * 4 + v) * width
            left = max(0, min(width, h - unit))
            for row in range(rows):
                value = load_first(w, (direction * rows + row) * h + unit if left else 0, left)
                store(u, ((piece * rows + row) * 4 + v) * width, value)


@njit
def _sum_rows(counter, thread, z, sums, rows, pitch, columns, parts, directions):
    """sums[direction][column] = Σ over rows of z[direction][row][column], some columns after the other."""
    width = lanes(z)
    while True:
        piece = take(counter, thread, directions * parts)
        if piece < 0:
            break
        direction, part = quotient(piece, parts), piece % parts
        begin = part * _COLUMNS
        end = min(columns, begin + _COLUMNS)
        first, to = direction * rows * pitch, direction * columns
        for column in range(begin, end, width):
            put(sums, to + column, splat(z, 0.0), end - column)
        for row in range(rows):
            at = first + row * pitch
            for column in range(begin, end, width):
                left = end - column
                put(sums, to + column, add(get(sums, to + column, left), get(z, at + column, left)), left)


def _make_product(rows):
    @inner
    def product(dz, zi, table, row, n, depth, u, at, work, buffer):
        """work.flat[buffer:] = dz·U of n sequences; sequence r begins at table.flat[row + r] + zi in dz."""
        tile = zeros(u, rows, 4)
        places = listed_rows(tile, table, row, n)
        step = 4 * lanes(u)
        for k in range(depth):
            tile = outer_into(tile, dz, zi + k, places, u, at + k * step, 0b1111)
        store_whole(tile, work, buffer, 4 * lanes(u), False)

    return product


_most, _fewer = _make_product(MOST), _make_product(FEWER)


def _make_worker(cell):
    back = cell.back

    @njit
    def bptt_worker(counter, thread, u, peepholes, saved, gy, ghn, gcn, dz, gh0, gc0, table, sizes, work):
        """Take piece after piece: some sequences in one direction, from their last step to their first."""
        flushed = flush_denormals()
        rows, steps, h, directions, stride, blocks, saves, option, share, depth, z_pitch, of_h, columns = sizes
        width = lanes(u)
        pitch = columns * 4 * width
        buffer = thread * share
        states = buffer + MOST * 4 * width
        while True:
            piece = take(counter, thread, directions * blocks)
            if piece < 0:
                break
            direction, block = quotient(piece, blocks), piece % blocks
            share_of_block = quotient(rows, blocks)
            larger = rows - share_of_block * blocks
            begin, count = block * share_of_block + min(block, larger), share_of_block + (1 if block < larger else 0)
            cells = states + count * pitch
            starts = 4 * direction * rows + begin
            numbers, indices, lengths = starts + rows, starts + 2 * rows, starts + 3 * rows
            forth = -stride if direction else stride
            of_direction = direction * rows * steps
            for r in range(count):
                given = (direction * rows + table[indices + r]) * h
                for k in range(pitch):
                    work[states + r * pitch + k] = ghn[given + k] if ghn.size and k < h else 0.0
                    work[cells + r * pitch + k] = gcn[given + k] if gcn.size and k < h else 0.0
            # Sequences that have this step, and those that have the one after it, from which gradients come.
            running = after = 0
            for ago in range(steps):
                now = steps - 1 - ago
                while running < count and table[lengths + running] > now:
                    running += 1
                for column in range(columns):
                    at = (direction * columns + column) * depth * 4 * width
                    row = 0
                    while row < running:
                        left = after - row
                        n = min(MOST, running - row)
                        if left > 0:
                            wanted = rows_of(left)
                            n = min(wanted, left)
                            zi = (now + 1) * forth * z_pitch + of_direction * z_pitch + of_h
                            args = (dz, zi, table, starts + row, n, depth, u, at, work, buffer)
                            if wanted > FEWER:
                                _most(*args)
                            else:
                                _fewer(*args)
                        else:
                            for k in range(MOST * 4):
                                store(work, buffer + k * width, splat(u, 0.0))
                        for r in range(n):
                            line = table[numbers + row + r] + now * forth
                            for v in range(4):
                                unit = (column * 4 + v) * width
                                if unit >= h:
                                    break
                                place = (row + r) * pitch + unit
                                peep = (direction * columns * 4 + column * 4 + v) * 3 * width if peepholes.size else -1
                                yi = (line * directions + direction) * h + unit
                                si = (of_direction + line) * saves * h + unit
                                zi = (of_direction + line) * z_pitch + unit
                                of_states = (buffer + (r * 4 + v) * width, states + place, cells + place)
                                of_step = (gy, yi, h - unit, saved, si, dz, zi, h, option)
                                back(work, *of_states, peepholes, peep, *of_step)
                        row += n
                after = running
            if gh0.size:
                for column in range(columns):
                    at = (direction * columns + column) * depth * 4 * width
                    row = 0
                    while row < after:
                        wanted = rows_of(after - row)
                        n = min(wanted, after - row)
                        args = (dz, of_direction * z_pitch + of_h, table, starts + row, n, depth, u, at, work, buffer)
                        if wanted > FEWER:
                            _most(*args)
                        else:
                            _fewer(*args)
                        for r in range(n):
                            for k in range(4 * width):
                                place = (row + r) * pitch + column * 4 * width + k
                                work[states + place] += work[buffer + r * 4 * width + k]
                        row += n
                for r in range(count):
                    given = (direction * rows + table[indices + r]) * h
                    for k in range(h):
                        gh0[given + k] = work[states + r * pitch + k]
                        if gc0.size:
                            gc0[given + k] = work[cells + r * pitch + k]
        restore_denormals(flushed)

    return bptt_worker


_WORKERS = {name: _make_worker(cell) for name, cell in CELLS.items()}


def _columns(p):
    """Columns of four vectors of units."""
    return -(-p.h // (4 * width_of(p)))


def _z_pitch(p):
    """Elements from one row of dz to the next: an odd number of cache lines, or rows would share one set of the
    cache when they are read down a column."""
    lines = -(-CELLS[p.cell].gradients * p.h // LINE)
    return (lines | 1) * LINE


def _share(p):
    return MOST * 4 * width_of(p) + 2 * p.b * _columns(p) * 4 * width_of(p)


def _parts(p):
    """Elements of scratch: packed U, dz, what threads have for themselves, what the products need."""
    packed = p.directions * _columns(p) * p.gates * p.h * 4 * width_of(p)
    z = p.directions * p.t * p.b * _z_pitch(p)
    return packed, z, threads.available() * _share(p), gemm.scratch(4 if p.dtype == "float32" else 8)


def _scratch(p):
    return sum(_parts(p))


@lru_cache(maxsize=256)
def _even_table(p, blocks):
    return table(p, even(p), blocks, _z_pitch(p))


def _cost(p):
    # The steps' products, then two products for the weights and one for x.
    return 2.3 * p.flops + 400.0 * p.t * p.b * p.directions * p.h + 200_000


@lru_cache(maxsize=256)
def _known(p):
    """What of a call depends on p alone: where the parts of scratch end, and numbers of the workers."""
    ends = [0, *accumulate(_parts(p))]
    return [slice(a, b) for a, b in pairwise(ends)], p.gates * p.h, _columns(p), _z_pitch(p), _share(p)


@lru_cache
def _compiled(worker, dtype, kinds):
    """Where a worker is, compiled for these kinds of arguments: v flat array, n one of int64, t numbers, i a number."""
    example = {"v": np.empty(1, dtype), "n": np.empty(1, np.int64), "t": (1,) * 13, "i": 1}
    return address_of(worker, *(example[kind] for kind in kinds))


def grad(p, x, w_ih, w_hh, peephole, saved, gy, ghn, gcn, lengths, *rest):
    gx, gw_ih, gw_hh, gb_ih, gb_hh, gp, gh0, gc0, scratch = rest
    cell, dtype, d = CELLS[p.cell], p.dtype, p.directions
    parts, depth, columns, z_pitch, share = _known(p)
    u, dz, work, of_gemm = (scratch[part] for part in parts)
    pieces = d * columns
    args = (w_hh.reshape(-1), u, depth, p.h, columns, pieces)
    parallel_at(_compiled(_pack, dtype, "vviiii"), threads.team(8.0 * u.size, pieces), args)
    if p.ragged:
        clear(p, lengths, dz, z_pitch, d)
    peepholes = gemm.NO_BIAS[dtype]
    if p.peephole:
        spaced = np.zeros((d, 4 * columns, 3, width_of(p)), dtype)
        spread(spaced, peephole.reshape(d, 3, p.h))
        peepholes = spaced.reshape(-1)
    team = threads.team(p.flops, p.b * d)
    blocks = blocks_of(p, team)
    places = table(p, lengths, blocks, z_pitch) if p.ragged else _even_table(p, blocks)
    saves, first = SAVED[p.cell], cell.first_of_h * p.h
    sizes = (p.b, p.t, p.h, d, stride_of(p), blocks, saves, option_of(p), share, depth, z_pitch, first, columns)
    arrays = [a if a.ndim == 1 else a.reshape(-1) for a in (saved, gy, ghn, gcn)]
    out = [a if a.ndim == 1 else a.reshape(-1) for a in (gh0, gc0)]
    args = (u, peepholes, *arrays, dz, *out, places, sizes, work)
    parallel_at(_compiled(_WORKERS[p.cell], dtype, "vvvvvvvvvntv"), team, args)

    z = dz.reshape(d, p.t * p.b, z_pitch)
    products(p, x, w_ih, saved, z, lengths, gx, gw_ih, gw_hh, of_gemm)
    if p.bias:
        width = cell.gradients * p.h
        sums = np.empty((d, width), dtype)
        shares = -(-width // _COLUMNS)
        args = (dz, sums.reshape(-1), p.t * p.b, z_pitch, width, shares, d)
        parallel_at(_compiled(_sum_rows, dtype, "vviiiii"), threads.team(4.0 * dz.size, d * shares), args)
        for column, row, count in OF_X[p.cell]:
            gb_ih[:, row * p.h : (row + count) * p.h] = sums[:, column * p.h : (column + count) * p.h]
        gb_hh[...] = sums[:, first:]
    if p.peephole:
        _peepholes(p, saved, z, gp)


@np.errstate(invalid="ignore", over="ignore")
def _peepholes(p, saved, z, gp):
    """gp = Σ of the gradients of the gates i, f and o times the c that each sees."""
    for n in range(p.directions):
        i, f, g, _, old = (saved[n][:, k] for k in range(5))
        gates = z[n][:, : 4 * p.h].reshape(-1, 4, p.h)
        new = f * old + i * g
        gp[n] = np.concatenate([np.einsum("rh,rh->h", gates[:, k], c) for k, c in ((0, old), (1, old), (3, new))])


for _name in CELLS:
    kernel(f"{_name}_grad/bptt/cpu", limit=1.0, cost=_cost, scratch=_scratch)(grad)
