"""Linear and the layers around it. Source: torch.nn.Linear, torch.nn.Flatten, torch.nn.Identity."""

from __future__ import annotations

import math
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from fastconv.nn import functional as F
from fastconv.nn import init
from fastconv.nn.checks import float_dtype
from fastconv.nn.module import Module, Parameter
from fastconv.nn.ready import Keeping, ReadyWeighted
from fastconv.problem import LinearProblem, boolean, integer
from fastconv.views import flat_shape

T = TypeVar("T")


class Linear(Keeping):
    """y = x weightᵀ + bias: an array or a Tensor (…, in_features) -> the same kind, (…, out_features).

    weight (out_features, in_features) and bias (out_features) start uniform on ±1/√in_features.
    """

    operations = ("linear", "linear_grad_input", "linear_grad_weight")

    weight: Parameter
    bias: Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: npt.DTypeLike | None = None,
        algorithm: str = "auto",
    ) -> None:
        super().__init__()
        self.in_features = integer("in_features", in_features)
        self.out_features = integer("out_features", out_features)
        self.algorithm = algorithm
        self.weight = Parameter(np.empty((self.out_features, self.in_features), float_dtype(dtype)))
        self.bias = Parameter(np.empty(self.out_features, float_dtype(dtype))) if boolean("bias", bias) else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew."""
        init.default_(self.weight, self.bias)

    def forward(self, x: T) -> T:
        y = self._answer(x)
        if y is not None:
            return cast(T, y)
        out = F.linear(x, self.weight, self.bias, algorithm=self.algorithm, kept=self._keep())
        given: Any = x
        if type(given) is np.ndarray and given.ndim == 2:
            self._prepare(ReadyWeighted(self, "linear", given))
        return out

    def problem(self, x: Any) -> LinearProblem:
        """What the kernels are asked to do for `x`, an array, a Tensor or a shape."""
        *leading, features = getattr(x, "shape", x)
        return LinearProblem.make(
            (math.prod(leading), features),
            self.weight.shape,
            bias=self.bias is not None,
            dtype=str(self.weight.dtype),
        )

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Flatten(Module):
    """Dimensions start_dim to end_dim as one; any dtype."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        # A shape that has both dimensions, to check that they are ints in order.
        flat_shape((1,) * 64, start_dim, end_dim)
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, x: T) -> T:
        return F.flatten(x, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Identity(Module):
    """Its input, whatever it is made with."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, x: T) -> T:
        return x
