"""The weights of recurrent layers as their kernels read them.

For each direction and unit tile (see rnn_cells) one run of memory that a kernel reads from end to end:

    u[direction][unit tile][element of x, then of h][vector][lane]

then the biases [direction][unit tile][4][lane], which are b_ih + b_hh, but kept apart for a GRU's n, and an LSTM's
peepholes [direction][unit tile][3][lane]. Lanes beyond the hidden size are zero, so that their h and c stay finite.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fastconv import threads
from fastconv.kernels.cpu.host import VECTOR_BYTES
from fastconv.kernels.cpu.jit import njit
from fastconv.kernels.cpu.rnn_cells import CELLS
from fastconv.kernels.cpu.simd import add, item, lanes, load_first, splat, store
from fastconv.kernels.cpu.team import address_of, parallel_at, take
from fastconv.kernels.cpu.tiles import interleave, load_rows, store_rows, zeros_square
from fastconv.problem import itemsize


def width_of(p):
    """Lanes of a vector."""
    return VECTOR_BYTES // itemsize(p.dtype)


def tiles_of(p):
    """Unit tiles of one direction."""
    return -(-p.h // (width_of(p) * CELLS[p.cell].tile_units))


def padded(p):
    """Units of all unit tiles: what a row of states takes."""
    return tiles_of(p) * CELLS[p.cell].tile_units * width_of(p)


def layout(p):
    """(elements of a unit tile's weights, where biases begin, where peepholes begin, elements in all)."""
    tiles, width = p.directions * tiles_of(p), width_of(p)
    tile = (p.i + p.h) * CELLS[p.cell].vectors * width
    biases = tiles * tile
    peepholes = biases + tiles * 4 * width
    return tile, biases, peepholes, peepholes + (tiles * 3 * width if p.peephole else 0)


def size(p):
    """Elements of the packed weights."""
    return layout(p)[3]


@njit
def _pack(counter, thread, w_ih, w_hh, b_ih, b_hh, peephole, u, features, h, tiles, vectors, gates, tile_size, pieces):
    """Transpose 16×16 elements after 16×16, so that rows of the weights become lanes; then biases and peepholes."""
    width = lanes(u)
    units = width if gates > 1 else 4 * width
    while True:
        piece = take(counter, thread, pieces)
        if piece < 0:
            break
        direction, tile = piece // tiles, piece % tiles
        for v in range(vectors):
            # Vector v is gate v of the tile's units, or where there is one gate its v-th vector of units.
            first = tile * units + (0 if gates > 1 else v * width)
            rows = min(width, h - first)
            row = (direction * gates + (v if gates > 1 else 0)) * h + first
            at = piece * tile_size + v * width
            step = vectors * width
            for part in range(2):
                depth = h if part else features
                source = w_hh if part else w_ih
                i = row * depth
                whole = depth - depth % width if rows > 0 else 0
                for k in range(0, whole, width):
                    block = load_rows(zeros_square(u), source, i + k, depth, rows, width)
                    store_rows(interleave(block), u, at + k * step, step)
                for k in range(whole, depth):
                    for lane in range(width):
                        u[at + k * step + lane] = item(source, i + lane * depth + k) if lane < rows else 0.0
                at += features * step
        biases = pieces * tile_size
        for v in range(4):
            unit = tile * units + (0 if gates > 1 else v * width)
            left = max(0, min(width, h - unit))
            # The gates whose biases are added up: both of one gate, but a GRU's n has them apart.
            of_x, of_h = (v, v) if gates == 4 else (0, 0)
            if gates == 3:
                of_x, of_h = (v if v < 3 else -1), (v if v < 2 else v - 1 if v == 3 else -1)
            place = direction * gates * h + unit
            total = splat(u, 0.0)
            if b_ih.size and left:
                if of_x >= 0:
                    total = load_first(b_ih, place + of_x * h, left)
                if of_h >= 0:
                    total = add(total, load_first(b_hh, place + of_h * h, left))
            store(u, biases + (piece * 4 + v) * width, total)
        if peephole.size:
            unit = tile * units
            left = max(0, min(width, h - unit))
            for v in range(3):
                value = load_first(peephole, (direction * 3 + v) * h + unit, left)
                store(u, biases + (pieces * 4 + piece * 3 + v) * width, value)


def prepare(p, w_ih, w_hh, b_ih, b_hh, peephole, u):
    """Write the packed weights u of size(p) elements."""
    cell, tiles, tile = CELLS[p.cell], tiles_of(p), layout(p)[0]
    pieces = p.directions * tiles
    team = threads.team(float(pieces * tile), pieces)
    given = [a.reshape(-1) for a in (w_ih, w_hh, b_ih, b_hh, peephole)]
    parallel_at(_compiled(p.dtype), team, (*given, u, p.i, p.h, tiles, cell.vectors, cell.gates, tile, pieces))


@lru_cache
def _compiled(dtype):
    values = np.empty(1, dtype)
    return address_of(_pack, *[values] * 6, *[1] * 7)


def spread(columns, values):
    """columns (D, tiles, n, lanes) = values (D, n, h), zeros after them."""
    directions, tiles, count, width = columns.shape
    padded_values = np.zeros((directions, count, tiles * width), columns.dtype)
    padded_values[..., : values.shape[-1]] = values
    columns[...] = padded_values.reshape(directions, count, tiles, width).transpose(0, 2, 1, 3)
