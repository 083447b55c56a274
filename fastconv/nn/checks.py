"""Argument checks that layers share; each error names the argument, its value and what is allowed."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv.autograd import Array, array
from fastconv.problem import DTYPES, same_dtype

_FLOATS = tuple(np.dtype(name) for name in DTYPES)


def real(name: str, x: Any, like: Array | None = None) -> Array:
    """The array of the argument `name`: float32 or float64, and of the dtype of `like`, the input, if given."""
    a = array(x, name)
    # By identity, which nearly always decides, because every call of every layer passes here.
    if like is None:
        if a.dtype is not _FLOATS[0] and a.dtype is not _FLOATS[1]:
            same_dtype(**{name: a})
    elif a.dtype is not like.dtype:
        same_dtype(**{"input": like, name: a})
    return a


def image_shape(x: Any) -> tuple[int, int, int, int]:
    """The (N, C, H, W) of an array, Tensor or shape that is (N, C, H, W) or (C, H, W); ValueError otherwise."""
    shape: tuple[Any, ...] = tuple(getattr(x, "shape", x))
    if len(shape) == 4:
        return shape
    if len(shape) == 3:
        return (1, *shape)
    raise ValueError(f"input={shape}: needs shape (N, C, H, W) or (C, H, W), got {len(shape)} dimensions")


def whole(name: str, value: Any) -> int:
    """`value` as an int, negative or not."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}={value!r}: needs an int, got {type(value).__name__}")
    return int(value)


def axis_of(dim: Any, ndim: int) -> int:
    """`dim` as a dimension of an input of `ndim` dimensions."""
    axis = whole("dim", dim)
    if not -max(ndim, 1) <= axis < max(ndim, 1):
        raise ValueError(f"dim={dim!r}: needs {-ndim} to {ndim - 1} for an input of {ndim} dimensions")
    return axis


def one_of(name: str, value: object, allowed: Sequence[str]) -> str:
    """`value` if it is among `allowed`."""
    if isinstance(value, str) and value in allowed:
        return value
    raise ValueError(f"{name}={value!r}: needs one of {', '.join(map(repr, allowed))}")


def fraction(name: str, value: Any) -> float:
    """`value` as a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}={value!r}: needs a number from 0 to 1, got {type(value).__name__}")
    number = float(value)
    if not 0 <= number <= 1:
        raise ValueError(f"{name}={value!r}: needs a number from 0 to 1")
    return number


def not_negative(name: str, value: Any) -> float:
    """`value` as a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}={value!r}: needs a number >= 0, got {type(value).__name__}")
    number = float(value)
    if not 0 <= number < float("inf"):
        raise ValueError(f"{name}={value!r}: needs a finite number >= 0")
    return number


def check_classes(name: str, a: Array, classes: int) -> None:
    """Nothing, if every element of the integer array `a` is a class from 0 to classes − 1."""
    wrong = a[(a < 0) | (a >= classes)]
    if wrong.size:
        raise ValueError(f"{name}: class {int(wrong[0])} is not allowed, needs 0 to {classes - 1}")


def float_dtype(dtype: npt.DTypeLike | None) -> np.dtype[Any]:
    """The dtype of a layer's parameters: `dtype`, or float32 for None; TypeError unless kernels support it."""
    name = "float32" if dtype is None else getattr(dtype, "__name__", str(dtype))
    if name not in DTYPES:
        raise TypeError(f"dtype={dtype!r}: needs one of {', '.join(DTYPES)}")
    return np.dtype(name)
