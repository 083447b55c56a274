"""What follows the steps of the way back: the products of all steps together, in one call of the team.

With dz (row, gate) the gradients of the gates of all steps and sequences, and each row's x and h(t−1):

    gw_ih = Σ dzᵀ·x,    gw_hh = Σ dzᵀ·h(t−1),    gx = dz·w_ih

for each direction; gx is the sum over directions. They are jobs in one list of pieces (see gemm), because each would
be too small for a team of its own, and of one list threads wait for each other once.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fastconv import threads
from fastconv.kernels.cpu import gemm
from fastconv.kernels.cpu.host import TILE_ROWS, TILE_VECS
from fastconv.kernels.cpu.jit import njit
from fastconv.kernels.cpu.rnn_cells import CELLS
from fastconv.kernels.cpu.simd import flush_denormals, lanes, one_of, quotient, restore_denormals
from fastconv.kernels.cpu.team import address_of, parallel_at, take

# Where in dz the gradients for x are that belong to which rows of w_ih, and how many: (in dz, in w_ih, count)·h.
OF_X = {"lstm": [(0, 0, 4)], "gru": [(1, 0, 2), (0, 2, 1)], "rnn": [(0, 0, 1)]}

# What a job gives, and of what beside dz it is made.
_GW_IH, _GW_HH, _GX = range(3)
# Numbers of a job in the list, and of a part of its sum: where a and b begin, and its depth.
_JOB, _PART = 12, 3


@njit
def _worker(counter, thread, dz, x, before, w_ih, gw_ih, gw_hh, gx, none, jobs, count, pieces, panels):
    """Take piece after piece of all jobs: a column panel with some of the rows."""
    flushed = flush_denormals()
    size, panel = TILE_VECS * lanes(dz), thread * gemm.panel_size(dz)
    held = held_by = -1
    while True:
        piece = take(counter, thread, pieces)
        if piece < 0:
            break
        job = 0
        while job + 1 < count and jobs[(job + 1) * _JOB] <= piece:
            job += 1
        at = job * _JOB
        first, kind, row_parts, rows, columns = jobs[at], jobs[at + 1], jobs[at + 2], jobs[at + 3], jobs[at + 4]
        a_row, a_k, b_column, b_k, c_at = jobs[at + 5], jobs[at + 6], jobs[at + 7], jobs[at + 8], jobs[at + 9]
        parts, many = jobs[at + 10], jobs[at + 11]
        number = quotient(piece - first, row_parts)
        of_rows, j = piece - first - number * row_parts, number * size
        row_panels = quotient(rows + TILE_ROWS - 1, TILE_ROWS)
        begin, end = quotient(row_panels * of_rows, row_parts), quotient(row_panels * (of_rows + 1), row_parts)
        b, c = one_of(kind, x, before, w_ih), one_of(kind, gw_ih, gw_hh, gx)
        packed = many == 1 and held == j and held_by == job
        for part in range(many):
            a_at, b_at, depth = jobs[parts], jobs[parts + 1], jobs[parts + 2]
            of_a, of_b, of_c = (a_at, a_row, a_k), (b_at, b_column, b_k), (c_at, rows, columns)
            where = (j, begin, end)
            gemm.panel_product(dz, of_a, b, of_b, c, of_c, where, depth, none, part > 0, panels, panel, packed)
            parts += _PART
        held, held_by = j, job
    restore_denormals(flushed)


@lru_cache(maxsize=256)
def _plan(p, count, z_pitch, states, wanted, threads_now):
    """(jobs, how many, pieces, team) for `count` rows; states: the pitch of h(t−1), of a direction, and its first.

    wanted: whether gx is. threads_now: what the team depends on beside the problem.
    """
    cell, h, itemsize = CELLS[p.cell], p.h, np.dtype(p.dtype).itemsize
    of_direction, gates = count * z_pitch, p.gates * p.h
    pitch, states_of_direction, first_state = states
    found = []
    for d in range(p.directions):
        z = d * of_direction
        for column, row, some in OF_X[p.cell]:
            sums = [(z + column * h, 0, count)]
            found.append((_GW_IH, some * h, p.i, (1, z_pitch), (1, p.i), (d * gates + row * h) * p.i, sums))
        sums = [(z + cell.first_of_h * h, d * states_of_direction + first_state, count)]
        found.append((_GW_HH, gates, h, (1, z_pitch), (1, pitch), d * gates * h, sums))
    if wanted:
        sums = [
            (d * of_direction + column * h, (d * gates + row * h) * p.i, some * h)
            for d in range(p.directions)
            for column, row, some in OF_X[p.cell]
        ]
        found.append((_GX, count, p.i, (z_pitch, 1), (1, p.i), 0, sums))
    # The deepest sum decides how often panels are packed.
    sizes = [(rows, columns, sum(s[2] for s in sums)) for _, rows, columns, *_, sums in found]
    flops = [2.0 * rows * columns * depth for rows, columns, depth in sizes]
    team = threads.team(sum(flops), sum(gemm.most_pieces(*size, itemsize) for size in sizes))
    first, parts, jobs, rest = 0, len(found) * _JOB, [], []
    for (kind, rows, columns, of_a, of_b, c_at, sums), size, work in zip(found, sizes, flops, strict=True):
        row_parts = gemm.parts_of_rows(*size, itemsize, team, work / sum(flops))
        jobs += [first, kind, row_parts, rows, columns, *of_a, *of_b, c_at, parts, len(sums)]
        rest += [number for one in sums for number in one]
        first += row_parts * gemm.column_panels(columns, itemsize)
        parts += len(sums) * _PART
    return np.array(jobs + rest, np.int64), len(found), first, team


@lru_cache
def _compiled(dtype):
    values = np.empty(1, dtype)
    return address_of(_worker, *[values] * 8, np.empty(1, np.int64), 1, 1, values)


def products(p, x, w_ih, saved, dz, lengths, gx, gw_ih, gw_hh, workspace):
    """Write gw_ih, gw_hh and, if it has elements, gx; dz (directions, rows, pitch), saved (directions, rows, n, h)."""
    rows, to, wanted = x.reshape(-1), gx.reshape(-1), gx.size > 0
    saves = saved.shape[2]
    count, before, states = p.t * p.b, saved, (saves * p.h, p.t * p.b * saves * p.h, (saves - 1) * p.h)
    real = _rows_of_sequences(p, lengths)
    if real is not None:
        # Nothing of the padding, whatever it holds.
        count = len(real)
        rows, dz, before = x.reshape(-1, p.i)[real].reshape(-1), dz[:, real], saved[:, real, saves - 1]
        states = p.h, count * p.h, 0
        gx.fill(0)
        if wanted:
            to = np.empty(count * p.i, gx.dtype)
    if count == 0:
        # All sequences are empty.
        gw_ih.fill(0)
        gw_hh.fill(0)
        return
    jobs, many, pieces, team = _plan(p, count, dz.shape[2], states, wanted, threads.setting())
    flat = [a.reshape(-1) for a in (dz, rows, before, w_ih, gw_ih, gw_hh)]
    parallel_at(_compiled(p.dtype), team, (*flat, to, gemm.NO_BIAS[p.dtype], jobs, many, pieces, workspace))
    if real is not None and wanted:
        gx.reshape(-1, p.i)[real] = to.reshape(-1, p.i)


def _rows_of_sequences(p, lengths):
    """The rows of x that belong to sequences, None if all do."""
    if not p.ragged or lengths.min(initial=p.t) == p.t:
        return None
    times = np.arange(p.t)
    inside = times < lengths[:, None] if p.batch_first else times[:, None] < lengths
    return np.flatnonzero(inside)
