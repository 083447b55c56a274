"""lstm, gru and rnn, in evaluation and in training, and their gradients, `persistent`: all steps in one kernel
(rnn_persistent.cu), for layers so small that a block's shared memory holds U; products of all steps as elsewhere."""

from fastconv.kernels.cuda.launch import assumed, blocks, device, launch, out
from fastconv.kernels.cuda.rnn_grad import gradients, scratch_of
from fastconv.kernels.cuda.rnn_steps import (
    CODES,
    LAUNCH,
    given,
    line_of,
    of_x,
    prepare,
    prepare_cost,
    prepared,
    product_of_x,
    strides_of,
    unsupported,
)
from fastconv.problem import GATES
from fastconv.registry import kernel

BUILDS = {"rnn_persistent.cu": [{"CELL": cell} for cell in CODES.values()]}

# Sequences of a thread, most threads of a block.
_SEQUENCES, _THREADS = 4, 256


def _threads(p, back):
    """Threads across U, whole warps: one for four columns of packed U, or for one of U as it is given."""
    return 32 * blocks(p.h if back else line_of(p), 32 if back else 4 * 32)


def _bytes(p, groups, back):
    """Shared memory of a block with so many groups of sequences: U, and what a step multiplies it by, of two steps."""
    floats, depth = (blocks(p.gates * p.h * p.h, 4) * 4, p.gates * p.h) if back else (p.h * line_of(p), p.h)
    return 4 * (floats + 2 * depth * _SEQUENCES * groups)


def block_of(p, back=False):
    """(threads across, groups of sequences) of a block: as many groups as give each multiprocessor a block, for each
    block reads U for itself, but no more than there is room for."""
    across = _threads(p, back)
    groups = blocks(p.b * p.directions, _SEQUENCES * device().processors)
    groups = min(groups, _THREADS // across)
    while _bytes(p, groups, back) > assumed().shared_bytes:
        groups -= 1
    return across, groups


def _persistent(kernel_name, p, arrays, back=False):
    across, groups = block_of(p, back)
    launch(
        "rnn_persistent.cu",
        kernel_name,
        (blocks(p.b, _SEQUENCES * groups), p.directions),
        (across, groups),
        (*arrays, p.t, p.b, p.h, *strides_of(p), int(p.linear or p.relu)),
        shared_mem=_bytes(p, groups, back),
        CELL=CODES[p.cell],
    )


def _unsupported(p, back=False):
    needed, there = _bytes(p, 1, back), assumed().shared_bytes
    if needed > there:
        return f"{p.h} units take {needed} bytes of shared memory, needs at most {there}"
    if _threads(p, back) > _THREADS:
        return f"{p.h} units, needs at most {_THREADS}"
    return unsupported(p)


def _train(p, x, w_ih, w_hh, b_ih, b_hh, peephole, h0, c0, lengths, y, hn, cn, saved, scratch, u=None):
    if u is None:
        u = scratch[: prepared(p)]
        prepare(p, w_ih, w_hh, b_ih, b_hh, peephole, u)
    zx = scratch[prepared(p) :][: of_x(p)]
    product_of_x(p, x, w_ih, b_ih, zx)
    arrays = (zx, u[: prepared(p)], *map(given, (b_hh, peephole, lengths, h0, c0)))
    outputs = (None if a is None or not a.size else out(a) for a in (y, hn, cn, saved))
    _persistent("persistent", p, (*arrays, *outputs))


def _forward(p, *arrays, u=None):
    *inputs, scratch = arrays
    _train(p, *inputs, None, scratch, u)


def _steps_back(p, w_hh, saved, gy, peephole, lengths, ghn, gcn, dz_x, dz_h, dp, gh0, gc0, scratch):
    outputs = (None if a is None else out(a) for a in (dz_x, dz_h, dp, gh0, gc0))
    _persistent("persistent_back", p, (w_hh, saved, gy, peephole, lengths, ghn, gcn, *outputs), back=True)


def _grad(p, *arrays):
    gradients(_steps_back, p, *arrays)


def _cost(p, products=1):
    """As of `steps` on `products` times the flops of forward, but for the product within a step: of that a block's
    multiprocessor does a hundredth of what a device does. Waiting for a step takes less than for a kernel."""
    of_h = p.flops * p.h / (p.i + p.h)
    share = min(100, blocks(p.b, _SEQUENCES) * p.directions) / 100
    return 1.3 * (products * p.flops - of_h) + 2.0 * of_h / share + LAUNCH / 3 * p.t


for _cell in GATES:
    _options = {
        "limit": 1.0,
        "cost": lambda p: _cost(p) + prepare_cost(p),
        "scratch": lambda p: prepared(p) + of_x(p),
        "unsupported": _unsupported,
        "prepare": prepare,
        "prepared": prepared,
        "prepare_cost": prepare_cost,
    }
    kernel(f"{_cell}/persistent/cuda", **_options)(_forward)
    kernel(f"{_cell}_train/persistent/cuda", **_options)(_train)
    kernel(
        f"{_cell}_grad/persistent/cuda",
        limit=1.0,
        cost=lambda p: _cost(p, products=2),
        scratch=scratch_of,
        unsupported=lambda p: _unsupported(p, back=True),
    )(_grad)
