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
from fastconv.kernels.cpu.rnn_cells import CELLS

# Where in dz the gradients for x are that belong to which rows of w_ih, and how many: (in dz, in w_ih, count)·h.
OF_X = {"lstm": [(0, 0, 4)], "gru": [(1, 0, 2), (0, 2, 1)], "rnn": [(0, 0, 1)]}

# Which of the arrays that are read and written beside dz a job has: their order in `products`.
_GW_IH, _GW_HH, _GX = range(3)


@lru_cache(maxsize=256)
def _plan(p, count, z_pitch, states, wanted, setting):
    """The plan of the jobs for `count` rows; states: the pitch of h(t−1), of a direction, and where its first begins.

    wanted: whether gx is; setting: of the threads.
    """
    h, first_of_h, gates = p.h, CELLS[p.cell].first_of_h, p.gates * p.h
    pitch, of_direction, first_state = states
    jobs, of_gx = [], []
    for d in range(p.directions):
        z = d * count * z_pitch
        for column, row, some in OF_X[p.cell]:
            weights = (d * gates + row * h) * p.i
            sums = [(z + column * h, 0, count)]
            jobs.append(gemm.Job(_GW_IH, some * h, p.i, (1, z_pitch), (1, p.i), weights, sums))
            of_gx.append((z + column * h, weights, some * h))
        sums = [(z + first_of_h * h, d * of_direction + first_state, count)]
        jobs.append(gemm.Job(_GW_HH, gates, h, (1, z_pitch), (1, pitch), d * gates * h, sums))
    if wanted:
        # The deepest sums first: their pieces are larger, and threads end together where the last ones are small.
        jobs.insert(0, gemm.Job(_GX, count, p.i, (z_pitch, 1), (1, p.i), 0, of_gx))
    return gemm.plan(jobs, np.dtype(p.dtype).itemsize)


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
    known = _plan(p, count, dz.shape[2], states, wanted, threads.setting())
    z, rows, before, w_ih, gw_ih, gw_hh = [a.reshape(-1) for a in (dz, rows, before, w_ih, gw_ih, gw_hh)]
    gemm.run(known, z, (rows, before, w_ih), (gw_ih, gw_hh, to), gemm.NO_BIAS[p.dtype], workspace)
    if real is not None and wanted:
        gx.reshape(-1, p.i)[real] = to.reshape(-1, p.i)


def _rows_of_sequences(p, lengths):
    """The rows of x that belong to sequences, None if all do."""
    if not p.ragged or lengths.min(initial=p.t) == p.t:
        return None
    times = np.arange(p.t)
    inside = times < lengths[:, None] if p.batch_first else times[:, None] < lengths
    return np.flatnonzero(inside)
