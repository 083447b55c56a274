"""lstm_grad, gru_grad and rnn_grad, `steps`: back-propagation through time, a kernel a step for both directions
(rnn_grad.cu), then one product each for the weights and for x, and sums for biases and peepholes.

`persistent` in rnn_persistent.py does the steps otherwise, and the rest as here.
"""

from itertools import accumulate, pairwise, product

from fastconv.kernels.cuda import linear, sums
from fastconv.kernels.cuda.launch import blocks, launch, out, spread
from fastconv.kernels.cuda.rnn_steps import CODES, LAUNCH, given, of_x, rows_of, strides_of, unsupported
from fastconv.problem import GATES, SAVED
from fastconv.registry import kernel

BUILDS = {"rnn_grad.cu": [{"CELL": cell, "ROWS": rows} for cell, rows in product((0, 1, 2), (16, 64))]}

_THREADS, _COLUMNS = 256, 64


def _parts(p):
    """Elements of scratch: dz of all steps as x·W enters and, a GRU's, as h·U does; what peepholes are added; x without
    what is in its padding; what sums need."""
    rows = p.t * p.b
    of_sums = max(sums.scratch(rows, p.directions * width * p.h) for width in (p.gates, 3))
    of_p = 3 * p.directions * rows * p.h if p.peephole else 0
    return of_x(p), of_x(p) if p.cell == "gru" else 0, of_p, rows * p.i if p.ragged else 0, of_sums


def scratch_of(p):
    """Elements of scratch without what the steps need."""
    return sum(_parts(p))


def _unpadded(p, x, lengths, y):
    args = (x, lengths, out(y), p.t, p.b, p.i, strides_of(p)[0])
    grid = (spread(p.t * p.b * p.i, _THREADS),)
    launch("rnn_grad.cu", "unpadded", grid, (_THREADS,), args, CELL=CODES[p.cell], ROWS=rows_of(p))


def gradients(back, p, x, w_ih, w_hh, peephole, saved, gy, ghn, gcn, lengths, *rest):
    """All gradients; back(p, w_hh, saved, gy, peephole, lengths, ghn, gcn, dz_x, dz_h, dp, gh0, gc0, scratch) does the
    steps, and to it arrays that are absent or unwanted are None."""
    gx, gw_ih, gw_hh, gb_ih, gb_hh, gp, gh0, gc0, scratch = rest
    ends = [0, *accumulate(_parts(p)), len(scratch)]
    dz_x, dz_h, dp, of_rows, of_sums, own = (scratch[a:b] for a, b in pairwise(ends))
    arrays = (w_hh, saved, gy, peephole, lengths, ghn, gcn, dz_x, dz_h, dp, gh0, gc0)
    back(p, *map(given, arrays), own)

    rows, gates, width = p.t * p.b, p.gates * p.h, p.directions * p.gates * p.h
    dz_h = dz_h if dz_h.size else dz_x
    if p.ragged:
        _unpadded(p, x, lengths, of_rows)
    linear.product(dz_x, False, of_rows if p.ragged else x, False, None, gw_ih, width, p.i, rows)
    for d in range(p.directions):
        before = saved[d].reshape(-1)[(SAVED[p.cell] - 1) * p.h :]
        lines = width, SAVED[p.cell] * p.h
        linear.product(dz_h[d * gates :], False, before, False, None, gw_hh[d], gates, p.h, rows, lines=lines)
    if p.bias:
        sums.of_channels(dz_x.reshape(rows, width), gb_ih.reshape(-1), of_sums)
        sums.of_channels(dz_h.reshape(rows, width), gb_hh.reshape(-1), of_sums)
    if p.peephole:
        sums.of_channels(dp.reshape(rows, -1), gp.reshape(-1), of_sums)
    if gx.size:
        linear.product(dz_x, True, w_ih, False, None, of_rows if p.ragged else gx, rows, p.i, width)
        if p.ragged:
            _unpadded(p, of_rows, lengths, gx)


def _steps(p, w_hh, saved, gy, peephole, lengths, ghn, gcn, dz_x, dz_h, dp, gh0, gc0, scratch):
    states = p.directions * p.b * p.h
    own_dh, own_dc = scratch[: 2 * states].reshape(2, p.directions, p.b, p.h)
    dz = scratch[2 * states :][: 2 * p.gates * states].reshape(2, -1)
    dh, dc = own_dh if gh0 is None else gh0, own_dc if gc0 is None else gc0
    dh[...] = 0 if ghn is None else ghn
    dc[...] = 0 if gcn is None else gcn
    grid = blocks(p.h, _COLUMNS), blocks(p.b, rows_of(p)), p.directions
    sizes = (p.t, p.b, p.h, *strides_of(p), int(p.linear or p.relu))
    # The product with dz(0) is for h0's gradient alone.
    for now in range(p.t - 1, -1 if gh0 is None else -2, -1):
        of_step = (dz[(now + 1) % 2], None if now < 0 else out(dz[now % 2]), dh, dc)
        args = (w_hh, saved, gy, peephole, lengths, *of_step, dz_x, dz_h, dp, now, *sizes)
        launch("rnn_grad.cu", "back", grid, (_THREADS,), args, CELL=CODES[p.cell], ROWS=rows_of(p))


def _grad(p, *arrays):
    gradients(_steps, p, *arrays)


for _cell in GATES:
    kernel(
        f"{_cell}_grad/steps/cuda",
        limit=1.0,
        cost=lambda p: 2.6 * p.flops + LAUNCH * p.t,
        scratch=lambda p: scratch_of(p) + 2 * (p.gates + 1) * p.directions * p.b * p.h,
        unsupported=unsupported,
    )(_grad)
