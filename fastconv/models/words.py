"""What models of sequences take: a batch of sequences, each word or symbol by its number."""

from __future__ import annotations

from typing import Any

from fastconv.autograd import Array, array
from fastconv.nn.checks import whole


def numbers(name: str, x: Any) -> Array:
    """The array of the argument `name`, integers (batch, T); TypeError or ValueError for anything else."""
    a = array(x, name)
    if a.dtype.kind not in "iu":
        raise TypeError(f"{name}: dtype {a.dtype} is not supported, needs an integer dtype")
    if a.ndim != 2:
        raise ValueError(f"{name}={a.shape}: needs shape (batch, T), got {a.ndim} dimensions")
    return a


def number(name: str, value: Any, size: int) -> int:
    """`value`, the number of one of `size` symbols."""
    symbol = whole(name, value)
    if not 0 <= symbol < size:
        raise ValueError(f"{name}={value!r}: needs the number of a symbol, 0 to {size - 1}")
    return symbol
