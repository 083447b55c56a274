"""What a convolution does to its outputs beyond the bias: y = activation(y + z), while they are still in the cache.

A worker calls `finish` on each run of outputs that it has written. It is one small loop with the activation's code as
an argument, so that a kernel has it once, whatever its tiles.
"""

from __future__ import annotations

from fastconv.kernels.cpu.jit import inner
from fastconv.kernels.cpu.simd import add, at_least, lanes, load, load_first, splat, store, store_first
from fastconv.kernels.cpu.vector_math import sigmoid, tanh

RELU, SIGMOID, TANH = 1, 2, 3
CODES = {"": 0, "relu": RELU, "sigmoid": SIGMOID, "tanh": TANH}


def code_of(p):
    """The code of the problem's activation, 0 for none."""
    return CODES[p.activation]


@inner
def finish(y, at, count, z, code):
    """y.flat[at : at + count] = activation(itself + z.flat[at : at + count]); a z of no elements adds nothing."""
    width = lanes(y)
    zero = splat(y, 0.0)
    for u in range(0, count, width):
        here, left = at + u, count - u
        whole = left >= width
        # Full vectors take plain loads and stores: a masked store is a scalar loop on hosts without masks.
        value = load(y, here) if whole else load_first(y, here, left)
        if z.size:
            value = add(value, load(z, here) if whole else load_first(z, here, left))
        if code == RELU:
            value = at_least(value, zero)
        elif code:
            value = tanh(value) if code == TANH else sigmoid(value)
        if whole:
            store(y, here, value)
        else:
            store_first(y, here, value, left)
