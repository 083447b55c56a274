"""lstm, gru and rnn in evaluation, `steps`: one product for x of all steps (gemm.cu), then a kernel a step (rnn.cu)."""

from itertools import product

from fastconv.kernels.cuda import linear
from fastconv.kernels.cuda.launch import MOST_YZ, blocks, launch, out
from fastconv.problem import GATES
from fastconv.registry import kernel

BUILDS = {"rnn.cu": [{"CELL": cell, "ROWS": rows} for cell, rows in product((0, 1, 2), (16, 64))]}

_THREADS, _COLUMNS = 256, 64
_CODES = {"lstm": 0, "gru": 1, "rnn": 2}


def _line(p):
    """Floats of packed weights for each k."""
    return -(-p.h // 4) * 4 if p.cell == "rnn" else 4 * p.h


def _prepared(p):
    return p.directions * p.h * _line(p)


def _defines(p):
    return {"CELL": _CODES[p.cell], "ROWS": 64 if p.b > 32 else 16}


def _prepare(p, w_ih, w_hh, b_ih, b_hh, peephole, u):
    packed = u[: _prepared(p)].reshape(p.directions, -1)
    for d in range(p.directions):
        launch(
            "rnn.cu",
            "pack",
            (blocks(_line(p), _THREADS), p.h),
            (_THREADS,),
            (w_hh[d], out(packed[d]), p.h),
            **_defines(p),
        )


def _scratch(p):
    # x·W, two states h, and packed weights.
    return p.t * p.b * p.gates * p.h + 2 * p.b * p.h + _prepared(p)


def _unsupported(p):
    if p.dtype != "float32":
        return f"{p.dtype}, needs float32"
    most = max(p.h, -(-p.b // 16))
    if most > MOST_YZ:
        return f"{p.h} units and {p.b} sequences, needs at most {MOST_YZ} and {16 * MOST_YZ}"
    largest = p.t * p.b * p.gates * p.h
    return f"x·W has {largest} elements, needs fewer than 2³¹" if largest >= 2**31 else None


def _run(p, x, w_ih, w_hh, b_ih, b_hh, peephole, h0, c0, lengths, y, hn, cn, scratch, u=None):
    rows, width = p.t * p.b, p.gates * p.h
    zx = scratch[: rows * width]
    states = scratch[rows * width :][: 2 * p.b * p.h].reshape(2, p.b, p.h)
    if u is None:
        u = scratch[rows * width + 2 * p.b * p.h :]
        _prepare(p, w_ih, w_hh, b_ih, b_hh, peephole, u)
    packed = u[: _prepared(p)].reshape(p.directions, -1)
    strides = (1, p.t) if p.batch_first else (p.b, 1)
    defines = _defines(p)
    grid = blocks(_line(p), _COLUMNS), blocks(p.b, defines["ROWS"])
    for d in range(p.directions):
        bias = b_ih[d] if b_ih.size else None
        linear.product(x, True, w_ih[d], True, bias, zx, rows, width, p.i)
        states[0] = h0[d] if h0.size else 0
        cells = None
        if p.cell == "lstm":
            cells = cn[d]
            cells[...] = c0[d] if c0.size else 0
        for now in range(p.t):
            after = hn[d] if now == p.t - 1 else states[(now + 1) % 2]
            arrays = (zx, packed[d], b_hh[d] if b_hh.size else None, peephole[d] if peephole.size else None)
            arrays += (lengths if lengths.size else None, states[now % 2], out(after), cells, y)
            sizes = (now, p.t, int(d), p.b, p.h, *strides, p.directions * p.h, d * p.h)
            launch("rnn.cu", "step", grid, (_THREADS,), (*arrays, *sizes, int(p.linear or p.relu)), **defines)


for _cell in GATES:
    kernel(
        f"{_cell}/steps/cuda",
        limit=1.0,
        cost=lambda p: 1.3 * p.flops + 50_000.0 * p.t,
        scratch=_scratch,
        unsupported=_unsupported,
        prepare=_prepare,
        prepared=_prepared,
        prepare_cost=lambda p: 10.0 * _prepared(p),
    )(_run)
