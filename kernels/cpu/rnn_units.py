"""lstm/units, gru/units, rnn/units: recurrent layers on few sequences, the hidden units divided among the threads.

With few sequences a step is bound by reading U, once for each step. So each thread has some of the unit tiles for all
steps: it reads the same part of U again and again, which its own cache holds as far as it can, forwards on even steps
and backwards on odd ones, so that what was read last is read first. Products with x need no step to be over: they are
made of many steps at once, 6 rows × 4 vectors, for the thread's own tiles alone. After each step threads wait for each
other, by one store and one load each: h(t) is all that they exchange.
"""

from __future__ import annotations

import numpy as np

from fastconv import threads
from fastconv.kernels.cpu.jit import inner, njit
from fastconv.kernels.cpu.rnn_cells import CELLS
from fastconv.kernels.cpu.rnn_forward import (
    FEWER,
    MOST,
    OWN,
    TABLE,
    make_finish,
    patience_of,
    pointwise_cost,
    register,
    rows_of,
    stepping_team,
)
from fastconv.kernels.cpu.rnn_pack import padded, tiles_of, width_of
from fastconv.kernels.cpu.simd import flush_denormals, lanes, quotient, restore_denormals
from fastconv.kernels.cpu.team import done_step, gather, wait_for_step
from fastconv.kernels.cpu.tiles import listed_rows, load_whole, outer_into, repeated, row_offsets, store_whole

# Sequences that these kernels are for: of more each thread has enough of its own.
_FEW = 6

# Rows of x that are multiplied at once.
_AHEAD = 48


def _make_inputs(rows, cell):
    of_x, vectors = cell.of_x, cell.vectors

    @inner
    def inputs(x, places, u, work, row, n, features, at, bias, to):
        """work.flat[to:] = bias + x·W of n rows, which begin in x where places.flat[row :] says."""
        tile = repeated(u, bias, rows, 4)
        starts = listed_rows(tile, places, row, n)
        step = vectors * lanes(u)
        for k in range(features):
            tile = outer_into(tile, x, k, starts, u, at + k * step, of_x)
        store_whole(tile, work, to, 4 * lanes(u), False)

    return inputs


def _make_recurrent(rows, cell):
    of_h, vectors = cell.of_h, cell.vectors

    @inner
    def recurrent(work, at_x, n, hi, pitch, depth, u, at, buffer):
        """work.flat[buffer:] = what stands at at_x + h(t−1)·U, of n sequences."""
        tile = load_whole(work, at_x, 4 * lanes(u), rows, 4)
        starts = row_offsets(tile, n, pitch)
        step = vectors * lanes(u)
        for k in range(depth):
            tile = outer_into(tile, work, hi + k, starts, u, at + k * step, of_h)
        store_whole(tile, work, buffer, 4 * lanes(u), False)

    return recurrent


def _make_worker(cell):
    finish, tile_units, vectors = make_finish(cell), cell.tile_units, cell.vectors
    most_inputs, fewer_inputs = _make_inputs(MOST, cell), _make_inputs(FEWER, cell)
    two, few, many = (_make_recurrent(rows, cell) for rows in (2, FEWER, MOST))

    @njit
    def units_worker(counter, thread, x, u, h0, c0, y, hn, cn, saved, plan, places, work):
        """Do this thread's unit tiles of all steps, one direction after the other."""
        rows, steps, features, h, directions = plan[0], plan[1], plan[2], plan[3], plan[4]
        stride, saves, option = plan[5], plan[6], plan[7]
        tiles, tile_size, biases, peepholes = plan[8], plan[9], plan[10], plan[11]
        patience, ahead = plan[OWN], plan[OWN + 1]
        team = gather(counter, thread, patience)
        if team == 0:
            return
        flushed = flush_denormals()
        width = lanes(u)
        units, gates = tile_units * width, 4 * width
        pitch = tiles * units
        begin, end = quotient(tiles * thread, team), quotient(tiles * (thread + 1), team)
        # Shared: h of two steps, c; then each thread's x·W of the steps ahead, [tile][step][row], and the gates of a
        # tile, with room for what whole register tiles compute in vain.
        cells = 2 * rows * pitch
        own = cells + rows * pitch + (begin * ahead * rows + 2 * thread * MOST) * gates
        buffer = own + ((end - begin) * ahead * rows + MOST) * gates
        passed = 0
        for direction in range(directions):
            starts = TABLE + 4 * direction * rows
            numbers, indices, lengths = starts + rows, starts + 2 * rows, starts + 3 * rows
            forth = -stride if direction else stride
            of_step = (direction, directions, direction * rows * steps, saves, h, option)
            of_peepholes = peepholes + direction * tiles * 3 * width if peepholes else -1
            for r in range(rows):
                given = (direction * rows + plan[indices + r]) * h
                for k in range(begin * units, end * units):
                    work[r * pitch + k] = h0[given + k] if h0.size and k < h else 0.0
                    work[cells + r * pitch + k] = c0[given + k] if c0.size and k < h else 0.0
            passed += 1
            done_step(counter, thread, team, passed)
            wait_for_step(counter, team, passed)
            running = rows
            for now in range(steps):
                while running and plan[lengths + running - 1] <= now:
                    running -= 1
                if running == 0:
                    break
                slot = now % ahead
                if slot == 0:
                    # The products with x of the steps ahead, of the sequences that still run now.
                    coming = min(ahead, steps - now)
                    for s in range(coming):
                        for r in range(running):
                            last = min(now + s, plan[lengths + r] - 1)
                            places[thread * ahead * rows + s * running + r] = plan[starts + r] + last * forth * features
                    chunk_rows = running
                    for tile in range(begin, end):
                        number = direction * tiles + tile
                        of_tile = (number * tile_size, biases + number * gates)
                        to = own + (tile - begin) * ahead * rows * gates
                        row = 0
                        while row < coming * running:
                            n = rows_of(coming * running - row)
                            left = min(n, coming * running - row)
                            place = thread * ahead * rows + row
                            if n > FEWER:
                                most_inputs(x, places, u, work, place, left, features, *of_tile, to + row * gates)
                            else:
                                fewer_inputs(x, places, u, work, place, left, features, *of_tile, to + row * gates)
                            row += n
                h_from = (now & 1) * rows * pitch
                h_to = (1 - (now & 1)) * rows * pitch
                of_states = (numbers, now * forth, h_from, h_to, cells, pitch, of_peepholes)
                depth = h if now or h0.size else 0
                for turn in range(begin, end):
                    tile = end - 1 + begin - turn if now & 1 else turn
                    at = (direction * tiles + tile) * tile_size + features * vectors * width
                    of_x = own + ((tile - begin) * ahead * rows + slot * chunk_rows) * gates
                    row = 0
                    while row < running:
                        wanted = rows_of(running - row)
                        n = min(wanted, running - row)
                        x_at, hi = of_x + row * gates, h_from + row * pitch
                        if n <= 2:
                            two(work, x_at, n, hi, pitch, depth, u, at, buffer)
                        elif wanted <= FEWER:
                            few(work, x_at, n, hi, pitch, depth, u, at, buffer)
                        else:
                            many(work, x_at, n, hi, pitch, depth, u, at, buffer)
                        finish(tile, row, n, buffer, work, u, y, saved, plan, of_states, of_step)
                        row += n
                passed += 1
                done_step(counter, thread, team, passed)
                wait_for_step(counter, team, passed)
            for r in range(rows):
                given = (direction * rows + plan[indices + r]) * h
                last = ((plan[lengths + r] & 1) * rows + r) * pitch
                for k in range(begin * units, min(end * units, h)):
                    hn[given + k] = work[last + k]
                    if cn.size:
                        cn[given + k] = work[cells + r * pitch + k]
        restore_denormals(flushed)

    return units_worker


def _ahead(p):
    """Steps whose products with x are made at once."""
    return max(1, min(p.t, _AHEAD // max(p.b, 1)))


def _memory(p):
    """Elements of scratch without packed weights, for any number of threads."""
    gates = 4 * width_of(p)
    return 3 * p.b * padded(p) + (tiles_of(p) * _ahead(p) * p.b + threads.available() * 2 * MOST) * gates


_WORKERS = {name: _make_worker(cell) for name, cell in CELLS.items()}


def _plan(p):
    return stepping_team(p), (patience_of(p), _ahead(p)), 1


def _extra(p, team):
    return (np.empty(team * _ahead(p) * p.b, np.int64),)


def _cost(p):
    # Reading U at each step takes about as long as ten flops for each element.
    weights = 10.0 * p.t * p.directions * p.gates * p.h * p.h
    inputs = 1.1 * 2.0 * p.t * p.b * p.directions * p.gates * p.h * p.i
    products = 2.0 * p.t * p.b * p.directions * p.gates * p.h * p.h
    return inputs + max(weights, 1.1 * products) + pointwise_cost(p) + 40_000


def _unsupported(p):
    return None if 1 < p.b <= _FEW else f"{p.b} sequences, needs 2 to {_FEW}"


register("units", lambda p: _WORKERS[p.cell], _plan, _memory, _cost, _unsupported, _extra)
