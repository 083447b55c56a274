"""Sums over all of an array but its channels, on vectors and threads: the gradient of a convolution's bias.

There is one way to do these, so they are no operations of the registry. A piece of work is some planes, each summed in
four vectors; the sums of an image's planes are added up at the end.
"""

from __future__ import annotations

import numpy as np

from fastconv import threads
from fastconv.kernels.cpu.jit import njit
from fastconv.kernels.cpu.simd import (
    add,
    flush_denormals,
    lanes,
    load,
    load_first,
    quotient,
    restore_denormals,
    splat,
    sum_lanes,
)
from fastconv.kernels.cpu.team import parallel, take

# Elements of a piece, and flops' worth of time of one.
_BLOCK = 8192
_COST = 8.0


@njit
def _sum_planes(counter, thread, x, plane, several, sums):
    """sums[k] = Σ of plane k of x, `several` planes after others until none is left."""
    state = flush_denormals()
    width = lanes(x)
    pieces = quotient(sums.size + several - 1, several)
    while True:
        piece = take(counter, thread, pieces)
        if piece < 0:
            break
        for k in range(piece * several, min(sums.size, (piece + 1) * several)):
            at, end = k * plane, (k + 1) * plane
            a = b = c = d = splat(x, 0.0)
            while at + 4 * width <= end:
                a, b = add(a, load(x, at)), add(b, load(x, at + width))
                c, d = add(c, load(x, at + 2 * width)), add(d, load(x, at + 3 * width))
                at += 4 * width
            while at < end:
                a = add(a, load_first(x, at, end - at))
                at += width
            sums[k] = sum_lanes(add(add(a, b), add(c, d)))
    restore_denormals(state)


def of_channels(x):
    """Σ over images and elements of a contiguous array x (images, channels, elements): (channels)."""
    images, channels, plane = x.shape
    sums = np.empty((images, channels), x.dtype)
    if x.size:
        several = max(1, _BLOCK // plane)
        team = threads.team(_COST * x.size, -(-sums.size // several))
        parallel(_sum_planes, team, x.reshape(-1), plane, several, sums.reshape(-1))
    return sums.sum(axis=0) if plane else np.zeros(channels, x.dtype)
