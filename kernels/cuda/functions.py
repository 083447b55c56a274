"""What has one way to be done on CuPy arrays, as fastconv's operations, losses and optimisers call it: results are new.

The modules beside this one have the launches, on arrays that the caller owns.
"""

import numpy as np

from fastconv.device import array_module, check_together, is_cupy, prepared
from fastconv.kernels.cuda import adaptive, optim, pointwise, softmax, sums

# Elements, with room for a launch's threads beyond them.
_MOST = 2**30


def take(*arrays):
    """Whether the functions here take these: CuPy arrays, all of float32 or all of float64, with elements, which can be
    counted in an int."""
    first = arrays[0]
    fits = is_cupy(first) and first.dtype.char in "fd" and 0 < first.size < _MOST
    if not (fits and all(is_cupy(a) and a.dtype == first.dtype for a in arrays)):
        return False
    for a in arrays:
        check_together({"input": a})
    return True


def _like(a):
    return array_module(a).empty(a.shape, a.dtype)


def activate(name, x):
    """f(x) of float32 elements, `name` one of relu, sigmoid and tanh."""
    x = prepared(x)
    y = _like(x)
    pointwise.activate(name, x, y)
    return y


def gradient(name, y, gy):
    """gy · f′ of y = f(x)."""
    y, gy = prepared(y), prepared(gy)
    gx = _like(y)
    pointwise.gradient(name, y, gy, gx)
    return gx


def soft(x, axis, logarithm):
    """softmax of x along an axis, or its logarithm."""
    x = prepared(x)
    y = _like(x)
    softmax.softmax(x, y, axis % x.ndim, logarithm=logarithm)
    return y


def soft_grad(y, gy, axis, logarithm):
    """The gradient of `soft` from its result."""
    y, gy = prepared(y), prepared(gy)
    gx = _like(y)
    softmax.softmax_grad(y, gy, gx, axis % y.ndim, logarithm=logarithm)
    return gx


def sums_of_channels(x):
    """Σ over all but the channels of x (N, C, …)."""
    x = prepared(x)
    xp, (images, channels) = array_module(x), x.shape[:2]
    y = xp.empty(channels, x.dtype)
    scratch = xp.empty(sums.scratch(images, channels, x.size // (images * channels)), x.dtype)
    sums.of_channels(x, y, scratch)
    return y


def adaptive_means(x, sizes):
    """The means of windows that cover x (N, C, H, W) evenly, of sizes (OH, OW)."""
    x = prepared(x)
    y = array_module(x).empty((*x.shape[:2], *sizes), x.dtype)
    adaptive.avg_pool(x, y)
    return y


def adaptive_means_grad(gy, shape):
    """The gradient of x, which has this shape."""
    gy = prepared(gy)
    gx = array_module(gy).empty(shape, gy.dtype)
    adaptive.avg_pool_grad(gy, gx)
    return gx


def adaptive_maxima(x, sizes):
    """(y, indices, places) of the largest element of each such window: int64 h·W + w, and what the gradient reads."""
    x = prepared(x)
    xp, shape = array_module(x), (*x.shape[:2], *sizes)
    y, indices, places = xp.empty(shape, x.dtype), xp.empty(shape, np.int64), xp.empty(shape, np.int32)
    adaptive.max_pool(x, y, indices, places)
    return y, indices, places


def adaptive_maxima_grad(gy, places, shape):
    """The gradient of x, which has this shape."""
    gy = prepared(gy)
    gx = array_module(gy).empty(shape, gy.dtype)
    adaptive.max_pool_grad(places, gy, gx)
    return gx


class CrossEntropy:
    """The loss of logits x (N, C, …) or (C) and labels (N, …) and, with the same launch, its gradient.

    y: the loss of each sample, or for the reductions "mean" and "sum" one number of no dimensions.
    """

    def __init__(self, x, labels, weight, ignore_index, reduction, label_smoothing):
        x, labels = prepared(x), prepared(labels.astype(np.int64, copy=False))
        weight = None if weight is None else prepared(weight)
        xp = array_module(x)
        losses = xp.empty(labels.shape, x.dtype)
        self._slopes, self._divisor = _like(x), None
        options = {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
        softmax.cross_entropy(x, labels, weight, losses, self._slopes, **options)
        self.y = losses
        if reduction != "none":
            y, self._divisor = xp.empty(1, x.dtype), xp.empty(1, x.dtype)
            classes, mean = x.shape[min(x.ndim - 1, 1)], reduction == "mean"
            reduced = {"mean": mean, "ignore_index": ignore_index}
            softmax.reduce_losses(losses, labels, weight, y, self._divisor, classes, **reduced)
            self.y = y.reshape(())

    def gradient(self, gy):
        """The gradient of x."""
        gx = _like(self._slopes)
        softmax.cross_entropy_grad(self._slopes, prepared(gy), self._divisor, gx)
        return gx


sgd, adam = optim.sgd, optim.adam
