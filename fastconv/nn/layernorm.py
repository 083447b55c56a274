"""Layer normalisation: each sample, or each of its parts, for itself. Source: torch.nn.LayerNorm."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from fastconv.autograd import Array, array, array_module, record
from fastconv.memory import empty
from fastconv.nn import init
from fastconv.nn.checks import float_dtype, not_negative, real
from fastconv.nn.module import Module, Parameter
from fastconv.problem import boolean, integer

T = TypeVar("T")

# Passes several times over this many bytes at once, so that they stay in a core's cache.
_BLOCK = 2**18

# Longer rows are added pairwise: a dot product is several times as fast, but rounds with the root of their length.
_SHORT = 2**12


def normalized(shape: Any) -> tuple[int, ...]:
    """Layer normalisation's `normalized_shape`, an int or a sequence of them, as a tuple."""
    sizes = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    if not sizes:
        raise ValueError(f"normalized_shape={shape!r}: needs an int or at least one")
    return tuple(integer("normalized_shape", n, 0) for n in sizes)


def layer_norm(
    input: T, normalized_shape: int | Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> T:
    """(x − mean) / √(var + eps) · weight + bias over the last dimensions together: input (…, *normalized_shape).

    Mean and variance (without bias) are those of each such part of the input; weight and bias have normalized_shape
    and the input's dtype. Source: Ba, Kiros & Hinton 2016; torch.nn.functional.layer_norm.
    """
    a = real("input", input)
    sizes = normalized(normalized_shape)
    if a.shape[-len(sizes) :] != sizes or a.ndim < len(sizes):
        raise ValueError(f"input={a.shape}: needs shape (..., {', '.join(map(str, sizes))}), as normalized_shape says")
    for name, given in {"weight": weight, "bias": bias}.items():
        if given is not None and real(name, given, a).shape != sizes:
            raise ValueError(f"{name}={given.shape}: needs normalized_shape, {sizes}")
    eps = not_negative("eps", eps)
    count = math.prod(sizes)
    x = a.reshape(math.prod(a.shape[: a.ndim - len(sizes)]), count)
    gain = None if weight is None else array(weight).reshape(count)
    start = None if bias is None else array(bias).reshape(count)
    xp = array_module(x)
    new = empty if xp is np else xp.empty
    # On a device all rows at once.
    step = max(_BLOCK // max(count * x.itemsize, 1), 1) if xp is np else max(len(x), 1)
    parts = [slice(first, first + step) for first in range(0, len(x), step)]

    ones, divisor = xp.ones(count, x.dtype), x.dtype.type(max(count, 1))

    def mean(values: Array, others: Array = ones) -> Array:
        """The mean of every row of values · others."""
        short = count <= _SHORT and xp is np
        sums = np.vecdot(values, others) if short else (values if others is ones else values * others).sum(axis=1)
        return cast(Array, sums[:, None] / divisor)

    # For each row its mean, what that has lost to rounding, and 1 / √(var + eps).
    means, rests, spreads = (xp.empty((len(x), 1), x.dtype) for _ in range(3))

    def centred(part: slice, out: Array | None = None) -> Array:
        out = xp.subtract(x[part], means[part], out=out)
        out -= rests[part]
        return out

    y = new(x.shape, x.dtype)
    # NaN and inf travel, and a constant row with an eps of 0 is NaN.
    with np.errstate(all="ignore"):
        for part in parts:
            means[part] = mean(x[part])
            rests[part] = mean(x[part] - means[part])
            out = centred(part, y[part])
            spreads[part] = 1 / xp.sqrt(mean(out, out) + x.dtype.type(eps))
            out *= spreads[part]
            if gain is not None:
                out *= gain
            if start is not None:
                out += start

    def grad_input(g: Array) -> Array:
        g = g.reshape(x.shape)
        gx = new(x.shape, x.dtype)
        with np.errstate(all="ignore"):
            for part in parts:
                # spread · (h − mean(h) − x̂·mean(h·x̂)), where h = g · weight
                h = g[part] if gain is None else g[part] * gain
                out = centred(part, gx[part])
                out *= spreads[part]
                out *= -mean(h, out)
                out += h
                out -= mean(h)
                out *= spreads[part]
        return gx.reshape(a.shape)

    def over_rows(part_of: Callable[[slice], Array]) -> Array:
        total = xp.zeros(count)
        with np.errstate(all="ignore"):
            for part in parts:
                total += part_of(part).sum(axis=0)
        return cast(Array, total.astype(x.dtype).reshape(sizes))

    def grad_weight(g: Array) -> Array:
        g = g.reshape(x.shape)
        return over_rows(lambda part: g[part] * (centred(part) * spreads[part]))

    def grad_bias(g: Array) -> Array:
        g = g.reshape(x.shape)
        return over_rows(lambda part: g[part])

    edges = ((input, grad_input, input, weight), (weight, grad_weight, input), (bias, grad_bias))
    return record(input, y.reshape(a.shape), *edges)


class LayerNorm(Module):
    """(x − mean) / √(var + eps) · weight + bias over the last dimensions: (…, *normalized_shape), array or Tensor.

    normalized_shape: int or sequence of ints. Mean and var (without bias) are those of each part of that shape, in
    training and evaluation alike. weight and bias have that shape and begin with 1 and 0; elementwise_affine=False
    leaves out both, bias=False the bias. Input and parameters are of one dtype, float32 or float64.
    Source: Ba, Kiros & Hinton 2016.
    """

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: npt.DTypeLike | None = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = normalized(normalized_shape)
        self.eps = not_negative("eps", eps)
        self.elementwise_affine = boolean("elementwise_affine", elementwise_affine)
        kind = float_dtype(dtype)
        has = {"weight": self.elementwise_affine, "bias": self.elementwise_affine & boolean("bias", bias)}
        for name, wanted in has.items():
            self.register_parameter(name, Parameter(np.empty(self.normalized_shape, kind)) if wanted else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight 1 and bias 0."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, x: T) -> T:
        return layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )
