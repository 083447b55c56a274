"""Softmax, its logarithm and cross-entropy along an axis of float32 or float64 arrays, with gradients: softmax.cu.

There is one way to do these, so they are no operations of the registry. Arrays are contiguous; the caller owns them.
"""

from functools import lru_cache
from math import prod

import numpy as np

from fastconv.kernels.cuda.launch import blocks, launch, out
from fastconv.kernels.cuda.shapes import REALS

BUILDS = {"softmax.cu": [{"REAL": "float"}, {"REAL": "double"}]}

_THREADS = 256
# Elements of a row that a warp does; longer rows have a block.
_SHORT = 1024


def _launch(name, x, axis, args, more=()):
    """Launch a kernel for the rows of x along an axis, each of which has a team of threads."""
    columns, inner = x.shape[axis], prod(x.shape[axis % x.ndim + 1 :])
    rows = x.size // max(columns, 1)
    team = 1 if inner > 1 else 32 if columns <= _SHORT else _THREADS
    several = _THREADS // team
    sizes = (rows, columns, inner, *more)
    launch("softmax.cu", name, (blocks(rows, several),), (team, several), (*args, *sizes), REAL=REALS[str(x.dtype)])


def softmax(x, y, axis=-1, *, logarithm=False):
    """y = softmax of x along an axis, or its logarithm."""
    _launch("softmax", x, axis, (x, out(y)), (logarithm,))


def softmax_grad(y, gy, gx, axis=-1, *, logarithm=False):
    """gx from gy and what softmax made, y."""
    _launch("softmax_grad", y, axis, (y, gy, out(gx)), (logarithm,))


@lru_cache(maxsize=256)
def _hit_rest(smoothing, classes, dtype):
    """What the label's class has of the target's distribution beyond others, and what every class has."""
    return np.array([1 - smoothing, smoothing / classes], dtype)


def cross_entropy(x, labels, weight, losses, gradient=None, *, ignore_index=-100, label_smoothing=0.0):
    """losses (N, …) of logits x (N, C, …) or (C) and labels (N, …), int64, one for each sample, 0 where ignored.

    weight: (C), or None for 1. gradient: None, or an array like x for the derivative of each loss by its logits.
    ignore_index is an int32.
    A label that is no class makes its loss NaN. Source: torch.nn.functional.cross_entropy.
    """
    axis = min(x.ndim - 1, 1)
    shares = _hit_rest(label_smoothing, x.shape[axis], str(x.dtype))
    written = None if gradient is None else out(gradient)
    _launch("cross_entropy", x, axis, (x, labels, weight, shares, out(losses), written), (ignore_index,))


def reduce_losses(losses, labels, weight, y, divisor, classes, *, mean, ignore_index=-100):
    """y (1) = the sum of cross_entropy's losses over divisor (1): of a mean the sum of the labels' weights, else 1.

    Ignored labels have none; if all are, y is NaN and divisor 1.
    """
    args = (losses, labels, weight, out(y), out(divisor), losses.size, classes, ignore_index, mean)
    launch("softmax.cu", "reduce_losses", (1,), (_THREADS,), args, REAL=REALS[str(losses.dtype)])


def cross_entropy_grad(gradient, gy, divisor, gx):
    """gx = gradient · gy / divisor, for the `gradient` (N, C, …) that cross_entropy wrote.

    gy, contiguous, has an element for each loss (divisor None is 1), or one where losses were reduced.
    """
    axis = min(gradient.ndim - 1, 1)
    _launch("scale_rows", gradient, axis, (gradient, gy, divisor, out(gx)), (gy.size > 1,))
