"""Making Tensors: from data, filled, or drawn at random. Names and signatures are torch's; dtypes are NumPy's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fastconv.autograd import Array, array, array_module
from fastconv.random import generator
from fastconv.tensors import Tensor, adopt
from fastconv.views import sizes_of

Size: TypeAlias = "Sequence[int] | None"
Scalar: TypeAlias = "bool | int | float"


def tensor(data: Any, dtype: npt.DTypeLike | None = None, requires_grad: bool = False) -> Tensor:
    """A Tensor of a copy of `data`: a number, nested lists, an array or a Tensor."""
    return Tensor(adopt(data, dtype).copy(), requires_grad)


def from_numpy(data: Array) -> Tensor:
    """A Tensor over the memory of `data`."""
    return Tensor(array(data, "data"))


def zeros(*sizes: Any, size: Size = None, dtype: npt.DTypeLike = np.float32, requires_grad: bool = False) -> Tensor:
    """A Tensor of zeros."""
    return Tensor(np.zeros(sizes_of(sizes, size), dtype), requires_grad)


def ones(*sizes: Any, size: Size = None, dtype: npt.DTypeLike = np.float32, requires_grad: bool = False) -> Tensor:
    """A Tensor of ones."""
    return Tensor(np.ones(sizes_of(sizes, size), dtype), requires_grad)


def zeros_like(x: Any, requires_grad: bool = False) -> Tensor:
    """Zeros with the shape and dtype of `x`."""
    return Tensor(array_module(array(x)).zeros_like(array(x)), requires_grad)


def ones_like(x: Any, requires_grad: bool = False) -> Tensor:
    """Ones with the shape and dtype of `x`."""
    return Tensor(array_module(array(x)).ones_like(array(x)), requires_grad)


def arange(start: Scalar, end: Scalar | None = None, step: Scalar = 1, dtype: npt.DTypeLike | None = None) -> Tensor:
    """start, start + step, … before end (0, 1, … before start, if end is left out): int64 for ints, else float32."""
    first, last = (0, start) if end is None else (start, end)
    values = np.arange(first, last, step)
    if dtype is None:
        dtype = np.float32 if values.dtype.kind == "f" else np.int64
    return Tensor(values.astype(dtype))


def rand(*sizes: Any, size: Size = None, dtype: npt.DTypeLike = np.float32, requires_grad: bool = False) -> Tensor:
    """Uniform on [0, 1); dtype float32 or float64."""
    # Drawn in its own dtype: a float64 below 1 may round to 1.
    return Tensor(generator().random(sizes_of(sizes, size), dtype=np.dtype(dtype)), requires_grad)  # type: ignore[arg-type]


def randn(*sizes: Any, size: Size = None, dtype: npt.DTypeLike = np.float32, requires_grad: bool = False) -> Tensor:
    """Normal with mean 0 and standard deviation 1."""
    return Tensor(generator().standard_normal(sizes_of(sizes, size)).astype(dtype), requires_grad)


def normal(mean: Scalar, std: Scalar, size: Any, dtype: npt.DTypeLike = np.float32) -> Tensor:
    """Normal with this mean and standard deviation."""
    return Tensor(generator().normal(mean, std, sizes_of((size,))).astype(dtype))
