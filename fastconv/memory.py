"""Memory for results: what an array had that nobody holds any more goes to the next one of its size.

The system takes large blocks back as soon as they are freed and clears them page by page before it gives them out
again, which costs small layers more than their kernels; and memory just used is still in the cache.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# Arrays start on a cache line, so that no vector lies across two, and threads can be kept off each other's lines.
CACHE_LINE = 64
# Smaller blocks the system keeps itself. Together, the blocks that wait have at most so many bytes.
SMALLEST, MOST_KEPT = 2**16, 2**26


# NumPy lets an array hold the array that its base is a view of, rather than its base, if both have one type. So that
# what has a lease holds the lease, and that the block, each is a type of its own.


class _Block(np.ndarray):
    """Bytes that arrays may lie in, one after another."""


class _Lease(np.ndarray):
    """A block while an array lies in it. It lives as long as the array and the views of it."""

    def __del__(self) -> None:
        block = self.base
        if isinstance(block, _Block):
            _give(block)


_waiting: dict[int, list[_Block]] = {}


def _give(block: _Block) -> None:
    """Keep a block for the next array. May be called at any point of the program, within `empty` too."""
    if block.nbytes > MOST_KEPT:
        return
    kept = sum(size * len(blocks) for size, blocks in list(_waiting.items()))
    if kept + block.nbytes > MOST_KEPT:
        # Sizes that were needed once would otherwise fill the place of those that are needed now.
        _waiting.clear()
    _waiting.setdefault(block.nbytes, []).append(block)


def block(nbytes: int) -> Array:
    """An uninitialised 1-D array of bytes that starts on a cache line."""
    raw = np.empty(nbytes + CACHE_LINE, np.uint8)
    start = -raw.ctypes.data % CACHE_LINE
    return raw[start : start + nbytes]


def empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """An uninitialised C-contiguous array, which lies in memory of its own as numpy.empty's does."""
    dtype = np.dtype(dtype)
    nbytes = prod(shape) * dtype.itemsize
    if nbytes < SMALLEST:
        return np.empty(shape, dtype)
    # Sizes in steps of an eighth, so that there are few.
    step = 1 << max(nbytes.bit_length() - 4, 0)
    size = -(-nbytes // step) * step
    try:
        found = _waiting[size].pop()
    except (KeyError, IndexError):
        found = block(size).view(_Block)
    return np.ndarray(shape, dtype, found.view(_Lease))


def split(array: Array) -> list[Array]:
    """array[0], array[1], … of an array from `empty`, each as much its own as that: a leaf may take over a gradient."""
    if type(array.base) is not _Lease:
        return list(array)
    step = array.nbytes // len(array)
    return [np.ndarray(array.shape[1:], array.dtype, array.base, k * step) for k in range(len(array))]


def is_own(array: Array) -> bool:
    """Whether an array's memory is its own, not that of another array."""
    return array.base is None or type(array.base) is _Lease
