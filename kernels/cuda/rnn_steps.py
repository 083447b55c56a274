"""lstm, gru and rnn, in evaluation and in training, `steps`: one product for x of all steps and both directions
(gemm.cu), then a kernel a step (rnn.cu)."""

from itertools import product

from fastconv.kernels.cuda import linear
from fastconv.kernels.cuda.launch import MOST_YZ, blocks, launch, out
from fastconv.problem import GATES
from fastconv.registry import kernel

BUILDS = {"rnn.cu": [{"CELL": cell, "ROWS": rows} for cell, rows in product((0, 1, 2), (16, 64))]}

# As rnn_cell.cuh numbers them.
CODES = {"lstm": 0, "gru": 1, "rnn": 2}
# Flops of a whole device in the time that a kernel takes before and after its work. A guess: nothing was measured.
LAUNCH = 1e8
_THREADS, _COLUMNS = 256, 64


def line_of(p):
    """Floats of packed U for each k."""
    return -(-p.h // 4) * 4 if p.cell == "rnn" else 4 * p.h


def rows_of(p):
    """Sequences of a block of a kernel that does one step."""
    return 64 if p.b > 32 else 16


def strides_of(p):
    """Rows of x from step to step, from sequence to sequence."""
    return (1, p.t) if p.batch_first else (p.b, 1)


def given(array):
    """An array that may be absent, as kernels take it."""
    return array if array.size else None


def unsupported(p):
    """Why no kernel of these files can do the problem, or None."""
    if p.dtype != "float32":
        return f"{p.dtype}, needs float32"
    if p.t * p.b > 64 * MOST_YZ or p.h > MOST_YZ:
        return f"{p.t * p.b} rows and {p.h} units, needs at most {64 * MOST_YZ} and {MOST_YZ}"
    largest = p.directions * p.t * p.b * p.gates * p.h
    return f"x·W has {largest} elements, needs fewer than 2³¹" if largest >= 2**31 else None


def prepared(p):
    """Elements of packed U."""
    return p.directions * p.h * line_of(p)


def prepare(p, w_ih, w_hh, b_ih, b_hh, peephole, u):
    """Pack U, of both directions."""
    grid = blocks(line_of(p), _THREADS), p.h, p.directions
    # Of the file's builds any with this cell.
    defines = {"CELL": CODES[p.cell], "ROWS": rows_of(p)}
    launch("rnn.cu", "pack", grid, (_THREADS,), (w_hh, out(u[: prepared(p)]), p.h), **defines)


def prepare_cost(p):
    """What packing U costs."""
    return 10.0 * prepared(p)


def of_x(p):
    """Elements of x·W."""
    return p.t * p.b * p.directions * p.gates * p.h


def product_of_x(p, x, w_ih, b_ih, zx):
    """zx (rows of x, directions, gates·h) = x·W + b_ih."""
    linear.product(x, True, w_ih, True, given(b_ih), zx, p.t * p.b, p.directions * p.gates * p.h, p.i)


def _scratch(p):
    # Packed weights, x·W, two states h.
    return prepared(p) + of_x(p) + 2 * p.directions * p.b * p.h


def _train(p, x, w_ih, w_hh, b_ih, b_hh, peephole, h0, c0, lengths, y, hn, cn, saved, scratch, u=None):
    packed, zx, states = scratch[: prepared(p)], scratch[prepared(p) :][: of_x(p)], scratch[prepared(p) + of_x(p) :]
    if u is None:
        u = packed
        prepare(p, w_ih, w_hh, b_ih, b_hh, peephole, u)
    product_of_x(p, x, w_ih, b_ih, zx)
    states = states[: 2 * hn.size].reshape(2, *hn.shape)
    states[0] = h0 if h0.size else 0
    if p.cell == "lstm":
        cn[...] = c0 if c0.size else 0
    defines = {"CELL": CODES[p.cell], "ROWS": rows_of(p)}
    grid = blocks(line_of(p), _COLUMNS), blocks(p.b, rows_of(p)), p.directions
    of_layer = (zx, u[: prepared(p)], given(b_hh), given(peephole), given(lengths))
    for now in range(p.t):
        after = hn if now == p.t - 1 else states[(now + 1) % 2]
        arrays = (*of_layer, states[now % 2], out(after), given(cn), y, saved)
        launch(
            "rnn.cu",
            "step",
            grid,
            (_THREADS,),
            (*arrays, now, p.t, p.b, p.h, *strides_of(p), int(p.linear or p.relu)),
            **defines,
        )


def _forward(p, *arrays, u=None):
    *inputs, scratch = arrays
    _train(p, *inputs, None, scratch, u)


for _cell in GATES:
    _options = {
        "limit": 1.0,
        "cost": lambda p: 1.3 * p.flops + LAUNCH * p.t + prepare_cost(p),
        "scratch": _scratch,
        "unsupported": unsupported,
        "prepare": prepare,
        "prepared": prepared,
        "prepare_cost": prepare_cost,
    }
    kernel(f"{_cell}/steps/cuda", **_options)(_forward)
    kernel(f"{_cell}_train/steps/cuda", **_options)(_train)
