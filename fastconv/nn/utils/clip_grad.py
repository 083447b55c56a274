"""Gradients held to a norm or a range, in place, never recorded. Source: torch.nn.utils.clip_grad."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np

from fastconv.autograd import Array, Variable, array, is_array
from fastconv.device import is_cupy
from fastconv.problem import boolean
from fastconv.tensors import Tensor

# Elements that are taken to float64 at once.
_BLOCK = 2**16


def _number(name: str, value: Any, allowed: str, least: float = -math.inf) -> float:
    """`value` as a number of at least `least`, infinity among them; NaN is none."""
    if isinstance(value, bool) or not isinstance(value, (numbers.Real, str)):
        raise TypeError(f"{name}={value!r}: needs {allowed}, got {type(value).__name__}")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not number >= least:
        raise ValueError(f"{name}={value!r}: needs {allowed}")
    return number


def _tensors(name: str, given: Any, arrays: bool = False) -> list[Any]:
    """The Tensors, or if `arrays` arrays too, of one of them or an iterable of them."""
    one = isinstance(given, Variable) or (arrays and is_array(given))
    if not one and (not isinstance(given, Iterable) or isinstance(given, str) or is_array(given)):
        raise TypeError(f"{name}={given!r:.60}: needs a Tensor or an iterable of Tensors, got {type(given).__name__}")
    tensors = [given] if one else list(given)
    for tensor in tensors:
        if not (isinstance(tensor, Variable) or (arrays and is_array(tensor))):
            raise TypeError(f"{name}: needs Tensors{' or arrays' * arrays}, got {type(tensor).__name__}")
    return tensors


def _gradients(parameters: Any) -> list[Tensor]:
    return [p.grad for p in _tensors("parameters", parameters) if p.grad is not None]


def _norm(a: Array, norm_type: float) -> float:
    """The norm of all elements, in float64: of float32, squares neither overflow nor vanish."""
    flat = a.reshape(-1)
    if math.isinf(norm_type):
        sizes = np.abs(flat)
        if not len(flat):
            return 0.0 if norm_type > 0 else math.inf
        return float(sizes.max() if norm_type > 0 else sizes.min())
    total = 0.0
    # A device has room for all, and is waited for at every block.
    block = max(len(flat), 1) if is_cupy(flat) else _BLOCK
    for start in range(0, len(flat), block):
        sizes = np.abs(flat[start : start + block].astype(np.float64))
        total += float((sizes != 0).sum() if norm_type == 0 else (sizes**norm_type).sum())
    return total if norm_type == 0 else math.nan if math.isnan(total) else total ** (1 / norm_type)


def get_total_norm(tensors: Any, norm_type: float = 2.0, error_if_nonfinite: bool = False) -> Any:
    """The norm of all elements of Tensors or arrays together, as if they were one vector; 0 of none.

    norm_type: p of (Σ|x|^p)^(1/p), math.inf for the largest |x|, 0 for how many are not 0. A Tensor without dimensions
    of the tensors' dtype, or a NumPy number if the first is an array. RuntimeError if it is NaN or infinite and
    error_if_nonfinite. Source: torch.nn.utils.get_total_norm; sums are in float64.
    """
    given = _tensors("tensors", tensors, arrays=True)
    order = _number("norm_type", norm_type, "a number or 'inf'")
    strict = boolean("error_if_nonfinite", error_if_nonfinite)
    arrays = [array(tensor) for tensor in given]
    for a in arrays:
        if a.dtype.kind != "f":
            raise TypeError(f"tensors: dtype {a.dtype} is not supported, needs a float dtype")
    # An inf, or 0 to a negative power, is an answer; overflow is where the result's dtype ends.
    with np.errstate(all="ignore"):
        norms = np.array([_norm(a, order) for a in arrays])
        # Of norms, those that count elements are added; of one element each, the others are joined as elements are.
        total = norms.sum() if order == 0 else _norm(norms, order) if arrays else 0.0
        dtype = np.result_type(*arrays) if arrays else np.dtype(np.float32)
        value = np.asarray(total).astype(dtype)
    if strict and not np.isfinite(value):
        raise RuntimeError(
            f"the total norm of order {order:g} is {value}, so gradients cannot be clipped to it; "
            "error_if_nonfinite=False scales them by it anyway"
        )
    return value[()] if given and is_array(given[0]) else Tensor(value)


def _change(grad: Tensor, values: Array) -> None:
    grad._array[...] = values
    grad._state.bump()


def clip_grads_with_norm_(parameters: Any, max_norm: float, total_norm: Any) -> None:
    """Multiply every gradient by max_norm / (total_norm + 1e-6), in place, if that is less than 1.

    total_norm: what get_total_norm gives. Source: torch.nn.utils.clip_grads_with_norm_.
    """
    largest = _number("max_norm", max_norm, "a number >= 0", 0)
    factor = largest / (float(total_norm) + 1e-6)
    gradients = _gradients(parameters)
    # Not `factor < 1`: NaN must reach the gradients.
    if factor >= 1:
        return
    with np.errstate(invalid="ignore"):
        for grad in gradients:
            _change(grad, grad._array * grad.dtype.type(factor))


def clip_grad_norm_(
    parameters: Any, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Tensor:
    """Scale all gradients, in place, so that their norm together is at most max_norm; the norm that they had.

    parameters: a Tensor or an iterable of Tensors; those without gradient are left out. max_norm: a number >= 0,
    norm_type and RuntimeError: see get_total_norm. Source: Pascanu et al. 2013; torch.nn.utils.clip_grad_norm_.
    """
    given = _tensors("parameters", parameters)
    largest = _number("max_norm", max_norm, "a number >= 0", 0)
    total: Tensor = get_total_norm(_gradients(given), norm_type, error_if_nonfinite)
    clip_grads_with_norm_(given, largest, total)
    return total


def clip_grad_value_(parameters: Any, clip_value: float) -> None:
    """Bring every element of every gradient into [−clip_value, clip_value], in place; NaN stays.

    parameters: a Tensor or an iterable of Tensors. clip_value: a number >= 0.
    Source: torch.nn.utils.clip_grad_value_.
    """
    limit = _number("clip_value", clip_value, "a number >= 0", 0)
    for grad in _gradients(parameters):
        bound = grad.dtype.type(limit)
        _change(grad, np.clip(grad._array, -bound, bound))
