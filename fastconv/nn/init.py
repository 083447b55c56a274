"""Initialisation, in place, from the library's generator (fastconv.manual_seed). Source: torch.nn.init."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastconv.autograd import array_module
from fastconv.random import generator
from fastconv.tensors import Tensor


class _Mode(threading.local):
    drawing = True


_mode = _Mode()


@contextmanager
def skipped() -> Iterator[None]:
    """Inside, in this thread, uniform_ and normal_ do nothing: new layers hold whatever their memory held.

    For a network whose shapes alone matter, or that load_state_dict fills next. Source: torch.nn.utils.skip_init.
    """
    before = _mode.drawing
    _mode.drawing = False
    try:
        yield
    finally:
        _mode.drawing = before


def _set(tensor: Tensor, values: Any) -> Tensor:
    # Through .data, which records nothing.
    tensor.data.copy_(array_module(tensor._array).asarray(values))
    return tensor


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Uniform on [a, b)."""
    if not _mode.drawing:
        return tensor
    # Drawn in the tensor's own dtype: float64 would double the memory of a large layer.
    unit = generator().random(tensor.shape, dtype=tensor.dtype.type)
    return _set(tensor, unit * (b - a) + a)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Normal with this mean and standard deviation."""
    if not _mode.drawing:
        return tensor
    return _set(tensor, generator().standard_normal(tensor.shape, dtype=tensor.dtype.type) * std + mean)


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Every element `val`."""
    return _set(tensor, val)


def zeros_(tensor: Tensor) -> Tensor:
    """Every element 0."""
    return _set(tensor, 0)


def ones_(tensor: Tensor) -> Tensor:
    """Every element 1."""
    return _set(tensor, 1)


def fan_in_and_out(tensor: Tensor) -> tuple[int, int]:
    """How many inputs one output sums, and how many outputs one input feeds, of a weight (out, in, …)."""
    if tensor.ndim < 2:
        raise ValueError(f"tensor={tensor.shape}: needs at least 2 dimensions (out, in, ...), got {tensor.ndim}")
    window = math.prod(tensor.shape[2:])
    return tensor.shape[1] * window, tensor.shape[0] * window


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that keeps the standard deviation through this nonlinearity."""
    gains = {
        "linear": 1.0,
        "conv2d": 1.0,
        "sigmoid": 1.0,
        "tanh": 5.0 / 3.0,
        "relu": math.sqrt(2.0),
        "leaky_relu": math.sqrt(2.0 / (1.0 + (0.01 if param is None else param) ** 2)),
    }
    if nonlinearity not in gains:
        raise ValueError(f"nonlinearity={nonlinearity!r}: needs one of {', '.join(gains)}")
    return gains[nonlinearity]


def _kaiming(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode={mode!r}: needs 'fan_in' or 'fan_out'")
    fan = fan_in_and_out(tensor)[0 if mode == "fan_in" else 1]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def kaiming_uniform_(tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Tensor:
    """Uniform on ±gain·√(3/fan). Source: He et al. 2015."""
    bound = math.sqrt(3.0) * _kaiming(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Tensor:
    """Normal with standard deviation gain/√fan. Source: He et al. 2015."""
    return normal_(tensor, 0.0, _kaiming(tensor, a, mode, nonlinearity))


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Uniform on ±gain·√(6/(fan_in + fan_out)). Source: Glorot & Bengio 2010."""
    bound = gain * math.sqrt(6.0 / sum(fan_in_and_out(tensor)))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Normal with standard deviation gain·√(2/(fan_in + fan_out)). Source: Glorot & Bengio 2010."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(fan_in_and_out(tensor))))


def default_(weight: Tensor, bias: Tensor | None) -> None:
    """What torch's Conv2d and Linear begin with: weight and bias uniform on ±1/√fan_in."""
    kaiming_uniform_(weight, a=math.sqrt(5.0))
    if bias is not None:
        bound = 1.0 / math.sqrt(fan_in_and_out(weight)[0])
        uniform_(bias, -bound, bound)
