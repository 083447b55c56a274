"""lstm/rows, gru/rows, rnn/rows: recurrent layers with the sequences divided among the threads.

    h(t), c(t) = step(b + x(t)·W + h(t−1)·U, h(t−1), c(t−1))

A thread takes some of the sequences through all steps, so that no thread ever waits for another. For each step and unit
tile it sums a register tile of 6 or 4 sequences × 4 vectors, first over x(t), then over h(t−1), and does the cell's
arithmetic on it; no buffer of gates exists, and each weight that is loaded meets all of its sequences. Sequences are
sorted by length, the longest first, and dealt to the threads in turn: at each step those that still run come first,
and no time is spent on padding. Weights: see rnn_pack.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fastconv import threads
from fastconv.kernels.cpu import rnn_pack
from fastconv.kernels.cpu.gemm import NO_BIAS as NOTHING
from fastconv.kernels.cpu.host import VECTOR_REGISTERS
from fastconv.kernels.cpu.jit import inner, njit
from fastconv.kernels.cpu.rnn_cells import CELLS, option_of
from fastconv.kernels.cpu.rnn_pack import padded, tiles_of, width_of
from fastconv.kernels.cpu.simd import flush_denormals, lanes, quotient, restore_denormals
from fastconv.kernels.cpu.team import parallel, take
from fastconv.kernels.cpu.tiles import listed_rows, outer_into, repeated, row_offsets, store_whole
from fastconv.problem import SAVED
from fastconv.registry import kernel

# Rows of a register tile, of which four vectors are summed: what leaves registers for the weights and a broadcast.
MOST, FEWER = (6, 4) if VECTOR_REGISTERS == 32 else (2, 1)

# Sequences that a thread takes through all steps at once; more of them would not meet their states in the cache again.
_TOGETHER = 48


@inner
def rows_of(left):
    """How many rows the next tile has for the `left` that remain, so that few are computed in vain."""
    return MOST if left > 2 * FEWER or FEWER < left <= MOST else FEWER


def _make_products(rows, cell):
    of_x, of_h, vectors = cell.of_x, cell.of_h, cell.vectors

    @inner
    def products(x, xi, table, row, n, features, u, at, bias, work, hi, pitch, depth, buffer):
        """work.flat[buffer:] = a tile of the n rows from `row` on: bias + x·W + h(t−1)·U.

        Row r of x begins at table.flat[row + r] + xi, of h at hi + r·pitch in work; depth: elements of h.
        """
        step = vectors * lanes(u)
        tile = repeated(u, bias, rows, 4)
        places = listed_rows(tile, table, row, n)
        for k in range(features):
            tile = outer_into(tile, x, xi + k, places, u, at + k * step, of_x)
        at += features * step
        places = row_offsets(tile, n, pitch)
        for k in range(depth):
            tile = outer_into(tile, work, hi + k, places, u, at + k * step, of_h)
        store_whole(tile, work, buffer, 4 * lanes(u), False)

    return products


def _make_worker(cell):
    step, tile_units = cell.step, cell.tile_units
    most, fewer = _make_products(MOST, cell), _make_products(FEWER, cell)

    @njit
    def rows_worker(counter, thread, x, u, h0, c0, y, hn, cn, saved, table, sizes, layout, work):
        """Take piece after piece: some sequences in one direction, through all steps."""
        flushed = flush_denormals()
        rows, steps, features, h, directions, stride, blocks, saves, option, share = sizes
        tiles, tile_size, biases, peepholes = layout
        width = lanes(u)
        units = tile_units * width
        pitch = tiles * units
        # A thread's memory: the gates of a tile, then h of two steps, then c.
        buffer = thread * share
        states = buffer + 4 * width * MOST
        while True:
            piece = take(counter, thread, directions * blocks)
            if piece < 0:
                break
            direction, block = quotient(piece, blocks), piece % blocks
            share_of_block = quotient(rows, blocks)
            larger = rows - share_of_block * blocks
            begin, count = block * share_of_block + min(block, larger), share_of_block + (1 if block < larger else 0)
            cells = states + 2 * count * pitch
            starts = 4 * direction * rows + begin
            numbers, indices, lengths = starts + rows, starts + 2 * rows, starts + 3 * rows
            forth = -stride if direction else stride
            for r in range(count):
                given = (direction * rows + table[indices + r]) * h
                for k in range(pitch):
                    work[states + r * pitch + k] = h0[given + k] if h0.size and k < h else 0.0
                    work[cells + r * pitch + k] = c0[given + k] if c0.size and k < h else 0.0
            running = count
            for now in range(steps):
                while running and table[lengths + running - 1] <= now:
                    running -= 1
                if running == 0:
                    break
                h_from = states + (now & 1) * count * pitch
                h_to = states + (1 - (now & 1)) * count * pitch
                # Nothing to multiply with at the first step, unless states were given.
                depth = h if now or h0.size else 0
                for tile in range(tiles):
                    number = direction * tiles + tile
                    at, bias = number * tile_size, biases + number * 4 * width
                    peep = peepholes + number * 3 * width if peepholes else -1
                    unit = tile * units
                    row = 0
                    while row < running:
                        n = rows_of(running - row)
                        of_x = (x, now * forth * features, table, starts + row, min(n, running - row), features)
                        of_h = (u, at, bias, work, h_from + row * pitch, pitch, depth, buffer)
                        if n > FEWER:
                            most(*of_x, *of_h)
                        else:
                            fewer(*of_x, *of_h)
                        n = min(n, running - row)
                        for r in range(n):
                            place = (row + r) * pitch + unit
                            line = table[numbers + row + r] + now * forth
                            gates, yi = buffer + r * 4 * width, (line * directions + direction) * h + unit
                            si = (direction * rows * steps + line) * saves * h + unit
                            of_states = (h_from + place, h_to + place, cells + place)
                            step(work, gates, u, peep, *of_states, y, yi, h - unit, saved, si, h, option)
                        row += n
            for r in range(count):
                given = (direction * rows + table[indices + r]) * h
                last = states + ((table[lengths + r] & 1) * count + r) * pitch
                for k in range(h):
                    hn[given + k] = work[last + k]
                if cn.size:
                    for k in range(h):
                        cn[given + k] = work[cells + r * pitch + k]
        restore_denormals(flushed)

    return rows_worker


def blocks_of(p, team):
    """Into how many parts the sequences of a direction are divided for `team` threads."""
    blocks = max(-(-team // p.directions), -(-p.b // _TOGETHER))
    while blocks < p.b and blocks * p.directions % team:
        blocks += 1
    return min(blocks, p.b)


def stride_of(p):
    """Rows of x from one step to the next."""
    return 1 if p.batch_first else p.b


def even(p):
    """The lengths of sequences that all have p.t steps."""
    return np.full(p.b, p.t)


def table_of(p, lengths, blocks):
    """`table` of rows of x, of the lengths where there are such."""
    return table(p, lengths, blocks, p.i) if p.ragged else _even_table(p, blocks)


@lru_cache(maxsize=256)
def _even_table(p, blocks):
    return table(p, even(p), blocks, p.i)


def table(p, lengths, blocks, width):
    """For each direction, in the order of the blocks: where the first step of a sequence begins in an array with rows
    as x has them, `width` apart; the number of that row; the sequence's number; its length."""
    # Dealt in turn, the longest first, so that all blocks have the same work and each has its longest first.
    longest_first = np.argsort(-lengths, kind="stable")
    order = np.concatenate([longest_first[block::blocks] for block in range(blocks)])
    own = lengths[order]
    places = np.empty((p.directions, 4, p.b), np.int64)
    for d in range(p.directions):
        first = order * (p.t if p.batch_first else 1) + d * (own - 1) * stride_of(p)
        places[d] = first * width, first, order, own
    return places.reshape(-1)


def clear_padding(p, lengths, *arrays):
    """What stands beyond the ends of sequences is zero."""
    if p.ragged and lengths.min(initial=p.t) < p.t:
        for array in arrays:
            array.fill(0)


def share_of(p):
    """Elements of scratch that a thread needs."""
    return 4 * width_of(p) * MOST + 3 * min(p.b, _TOGETHER) * padded(p)


def scratch(p):
    """Elements of scratch, for any number of threads, with room for packed weights."""
    return threads.available() * share_of(p) + rnn_pack.size(p)


_WORKERS = {name: _make_worker(cell) for name, cell in CELLS.items()}


def _run(p, x, weights, h0, c0, lengths, y, hn, cn, saved, scratch, u):
    if u is None:
        u = scratch[threads.available() * share_of(p) :][: rnn_pack.size(p)]
        rnn_pack.prepare(p, *weights, u)
    clear_padding(p, lengths, y, saved)
    team = threads.team(p.flops, p.b * p.directions)
    blocks = blocks_of(p, team)
    saves = SAVED[p.cell]
    sizes = (p.b, p.t, p.i, p.h, p.directions, stride_of(p), blocks, saves, option_of(p), share_of(p))
    tile, biases, peepholes, _ = rnn_pack.layout(p)
    layout = (tiles_of(p), tile, biases, peepholes if p.peephole else 0)
    arrays = [array.reshape(-1) for array in (h0, c0, y, hn, cn, saved)]
    table = table_of(p, lengths, blocks)
    parallel(_WORKERS[p.cell], team, x.reshape(-1), u, *arrays, table, sizes, layout, scratch)


def _forward(p, x, w_ih, w_hh, b_ih, b_hh, peephole, h0, c0, lengths, y, hn, cn, scratch, u=None):
    weights = (w_ih, w_hh, b_ih, b_hh, peephole)
    _run(p, x, weights, h0, c0, lengths, y, hn, cn, NOTHING[p.dtype], scratch, u)


def _train(p, x, w_ih, w_hh, b_ih, b_hh, peephole, h0, c0, lengths, y, hn, cn, saved, scratch, u=None):
    _run(p, x, (w_ih, w_hh, b_ih, b_hh, peephole), h0, c0, lengths, y, hn, cn, saved, scratch, u)


def _prepare_cost(p):
    # Packing moves each weight twice, about eight bytes a cycle of a multiply-add in all lanes.
    return 8.0 * rnn_pack.size(p)


def _cost(p):
    # Rows computed in vain, the cell's arithmetic, and a call.
    tiles = sum(1.0 for _ in range(p.b // MOST)) * MOST + (FEWER if p.b % MOST else 0)
    pointwise = 120.0 * p.t * p.b * p.directions * padded(p)
    return 1.05 * p.flops * max(tiles, 2 * FEWER) / max(p.b, 1) + pointwise + _prepare_cost(p) + 40_000


for _name in CELLS:
    _made = {"prepare": rnn_pack.prepare, "prepared": rnn_pack.size, "prepare_cost": _prepare_cost}
    _options = {"limit": 1.0, "cost": _cost, "scratch": scratch, **_made}
    kernel(f"{_name}/rows/cpu", **_options)(_forward)
    kernel(f"{_name}_train/rows/cpu", **_options)(_train)
