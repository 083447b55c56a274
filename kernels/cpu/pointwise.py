"""ReLU, sigmoid and tanh of whole arrays, and their gradients, on vectors and threads.

    y = f(x)        gx = gy · f′, with f′ = [not y <= 0], y(1 − y), 1 − y² as a function of y

There is one way to do these, so they are no operations of the registry. Arrays are flat, contiguous and of one dtype;
a piece of work is a block of elements.
"""

from __future__ import annotations

from fastconv import threads
from fastconv.kernels.cpu.epilogue import CODES, RELU, SIGMOID, TANH
from fastconv.kernels.cpu.jit import njit
from fastconv.kernels.cpu.simd import (
    add,
    at_least,
    lanes,
    load,
    load_first,
    mul,
    splat,
    store,
    store_first,
    sub,
    where_positive,
)
from fastconv.kernels.cpu.team import parallel, take
from fastconv.kernels.cpu.vector_math import sigmoid, tanh
from fastconv.memory import empty

# Elements of a block, and flops' worth of time of one.
_BLOCK = 4096
_COST = 40.0


@njit
def _activate(counter, thread, x, y, code):
    """y = f(x), one block after another until none is left."""
    width = lanes(x)
    zero = splat(x, 0.0)
    while True:
        piece = take(counter, thread, (x.size + _BLOCK - 1) // _BLOCK)
        if piece < 0:
            break
        end = min(x.size, piece * _BLOCK + _BLOCK)
        for u in range(piece * _BLOCK, end, width):
            whole = u + width <= end
            value = load(x, u) if whole else load_first(x, u, end - u)
            if code == RELU:
                value = at_least(value, zero)
            elif code == TANH:
                value = tanh(value)
            else:
                value = sigmoid(value)
            if whole:
                store(y, u, value)
            else:
                store_first(y, u, value, end - u)


@njit
def _gradient(counter, thread, y, gy, gx, code):
    """gx = gy · f′(y), one block after another until none is left."""
    width = lanes(y)
    one = splat(y, 1.0)
    while True:
        piece = take(counter, thread, (y.size + _BLOCK - 1) // _BLOCK)
        if piece < 0:
            break
        end = min(y.size, piece * _BLOCK + _BLOCK)
        for u in range(piece * _BLOCK, end, width):
            whole = u + width <= end
            value = load(y, u) if whole else load_first(y, u, end - u)
            g = load(gy, u) if whole else load_first(gy, u, end - u)
            if code == RELU:
                g = where_positive(value, g)
            elif code == SIGMOID:
                g = mul(g, mul(value, sub(one, value)))
            else:
                # (1 − y)(1 + y) is exact to a rounding or two also where y is near ±1.
                g = mul(g, mul(sub(one, value), add(one, value)))
            if whole:
                store(gx, u, g)
            else:
                store_first(gx, u, g, end - u)


def _team(size):
    return threads.team(_COST * size, -(-size // _BLOCK))


def activate(name, x):
    """f(x) for a contiguous array x, `name` one of relu, sigmoid and tanh."""
    y = empty(x.shape, x.dtype)
    if x.size:
        parallel(_activate, _team(x.size), x.reshape(-1), y.reshape(-1), CODES[name])
    return y


def gradient(name, y, gy):
    """gy · f′ for contiguous arrays y = f(x) and gy of one shape and dtype."""
    gx = empty(y.shape, y.dtype)
    if y.size:
        parallel(_gradient, _team(y.size), y.reshape(-1), gy.reshape(-1), gx.reshape(-1), CODES[name])
    return gx
