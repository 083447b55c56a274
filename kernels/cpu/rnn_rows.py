"""lstm/rows, gru/rows, rnn/rows: recurrent layers with the sequences divided among the threads.

    h(t), c(t) = step(b + x(t)·W + h(t−1)·U, h(t−1), c(t−1))

A thread takes some of the sequences through all steps, so that no thread ever waits for another. For each step and unit
tile it sums a register tile of 6 or 4 sequences × 4 vectors, first over x(t), then over h(t−1); no buffer of gates
exists but that of one tile, and each weight that is loaded meets all of its sequences. Sequences are sorted by length,
the longest first, and dealt to the threads in turn: at each step those that still run come first, and no time is spent
on padding. Weights: see rnn_pack.
"""

from __future__ import annotations

from fastconv import threads
from fastconv.kernels.cpu.jit import inner, njit
from fastconv.kernels.cpu.rnn_cells import CELLS
from fastconv.kernels.cpu.rnn_forward import (
    FEWER,
    MOST,
    OWN,
    TABLE,
    make_finish,
    pointwise_cost,
    register,
    rows_of,
)
from fastconv.kernels.cpu.rnn_pack import padded, width_of
from fastconv.kernels.cpu.simd import flush_denormals, lanes, quotient, restore_denormals
from fastconv.kernels.cpu.team import take
from fastconv.kernels.cpu.tiles import listed_rows, outer_into, repeated, row_offsets, store_whole

# Sequences that a thread takes through all steps at once; more of them would not meet their states in the cache again.
_TOGETHER = 48


def _make_products(rows, cell):
    of_x, of_h, vectors = cell.of_x, cell.of_h, cell.vectors

    @inner
    def products(x, xi, table, start, n, features, u, at, bias, work, hi, pitch, depth, buffer):
        """work.flat[buffer:] = bias + x·W + h(t−1)·U of n rows, in a tile.

        Row r of x begins at table.flat[start + r] + xi, of h at hi + r·pitch in work; depth: elements of h.
        """
        step = vectors * lanes(u)
        tile = repeated(u, bias, rows, 4)
        places = listed_rows(tile, table, start, n)
        for k in range(features):
            tile = outer_into(tile, x, xi + k, places, u, at + k * step, of_x)
        at += features * step
        places = row_offsets(tile, n, pitch)
        for k in range(depth):
            tile = outer_into(tile, work, hi + k, places, u, at + k * step, of_h)
        store_whole(tile, work, buffer, 4 * lanes(u), False)

    return products


def _make_worker(cell):
    finish, tile_units = make_finish(cell), cell.tile_units
    most, fewer = _make_products(MOST, cell), _make_products(FEWER, cell)

    @njit
    def rows_worker(counter, thread, x, u, h0, c0, y, hn, cn, saved, plan, work):
        """Take piece after piece: some sequences in one direction, through all steps."""
        flushed = flush_denormals()
        rows, steps, features, h, directions = plan[0], plan[1], plan[2], plan[3], plan[4]
        stride, saves, option = plan[5], plan[6], plan[7]
        tiles, tile_size, biases, peepholes = plan[8], plan[9], plan[10], plan[11]
        blocks, share = plan[OWN], plan[OWN + 1]
        width = lanes(u)
        pitch, gates = tiles * tile_units * width, 4 * width
        # A thread's memory: the sums of a tile, then h of two steps, then c.
        buffer = thread * share
        states = buffer + gates * MOST
        while True:
            piece = take(counter, thread, directions * blocks)
            if piece < 0:
                break
            direction, block = quotient(piece, blocks), piece % blocks
            share_of_block = quotient(rows, blocks)
            larger = rows - share_of_block * blocks
            begin, count = block * share_of_block + min(block, larger), share_of_block + (1 if block < larger else 0)
            cells = states + 2 * count * pitch
            starts = TABLE + 4 * direction * rows + begin
            numbers, indices, lengths = starts + rows, starts + 2 * rows, starts + 3 * rows
            forth = -stride if direction else stride
            of_step = (direction, directions, direction * rows * steps, saves, h, option)
            of_peepholes = peepholes + direction * tiles * 3 * width if peepholes else -1
            for r in range(count):
                given = (direction * rows + plan[indices + r]) * h
                for k in range(pitch):
                    work[states + r * pitch + k] = h0[given + k] if h0.size and k < h else 0.0
                    work[cells + r * pitch + k] = c0[given + k] if c0.size and k < h else 0.0
            running = count
            for now in range(steps):
                while running and plan[lengths + running - 1] <= now:
                    running -= 1
                if running == 0:
                    break
                h_from = states + (now & 1) * count * pitch
                h_to = states + (1 - (now & 1)) * count * pitch
                places = (numbers, now * forth, h_from, h_to, cells, pitch, of_peepholes)
                # Nothing to multiply with at the first step, unless states were given.
                depth = h if now or h0.size else 0
                for tile in range(tiles):
                    number = direction * tiles + tile
                    at, bias = number * tile_size, biases + number * gates
                    row = 0
                    while row < running:
                        wanted = rows_of(running - row)
                        n = min(wanted, running - row)
                        xi, hi = now * forth * features, h_from + row * pitch
                        if wanted > FEWER:
                            most(x, xi, plan, starts + row, n, features, u, at, bias, work, hi, pitch, depth, buffer)
                        else:
                            fewer(x, xi, plan, starts + row, n, features, u, at, bias, work, hi, pitch, depth, buffer)
                        finish(tile, row, n, buffer, work, u, y, saved, plan, places, of_step)
                        row += n
            for r in range(count):
                given = (direction * rows + plan[indices + r]) * h
                last = states + ((plan[lengths + r] & 1) * count + r) * pitch
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


def _share(p):
    """Elements of scratch that a thread needs."""
    return 4 * width_of(p) * MOST + 3 * min(p.b, _TOGETHER) * padded(p)


_WORKERS = {name: _make_worker(cell) for name, cell in CELLS.items()}


def _plan(p):
    team = threads.team(p.flops, p.b * p.directions)
    blocks = blocks_of(p, team)
    return team, (blocks, _share(p)), blocks


def _cost(p):
    # A tile of few rows waits for weights.
    rows = max(p.b, 2 * FEWER) / max(p.b, 1)
    return 1.05 * p.flops * rows + pointwise_cost(p) + 40_000


register("rows", lambda p: _WORKERS[p.cell], _plan, lambda p: threads.available() * _share(p), _cost, takes=True)
