"""Normalisation layers. Source: torch.nn.BatchNorm1d, torch.nn.BatchNorm2d."""

from __future__ import annotations

from typing import ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from fastconv.autograd import array
from fastconv.nn import functional as F
from fastconv.nn import init
from fastconv.nn.checks import float_dtype, fraction, not_negative
from fastconv.nn.module import Module, Parameter
from fastconv.problem import boolean, integer
from fastconv.tensors import Tensor

T = TypeVar("T")


class _BatchNorm(Module):
    """What the batch normalisations of all dimensions share."""

    # Numbers of dimensions that an input may have, and their names for errors.
    _shapes: ClassVar[dict[int, str]]

    weight: Parameter | None
    bias: Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        dtype: npt.DTypeLike | None = None,
    ) -> None:
        super().__init__()
        self.num_features = integer("num_features", num_features)
        self.eps = not_negative("eps", eps)
        self.momentum = None if momentum is None else fraction("momentum", momentum)
        self.affine = boolean("affine", affine)
        self.track_running_stats = boolean("track_running_stats", track_running_stats)
        kind = float_dtype(dtype)
        for name in ("weight", "bias"):
            self.register_parameter(name, Parameter(np.empty(self.num_features, kind)) if affine else None)
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, np.empty(self.num_features, kind) if track_running_stats else None)
        self.register_buffer("num_batches_tracked", np.array(0) if track_running_stats else None)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Running mean 0 and variance 1, of no batches."""
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            init.zeros_(self.running_mean)
            init.ones_(self.running_var)
            init.zeros_(self.num_batches_tracked)

    def reset_parameters(self) -> None:
        """Weight 1 and bias 0, and the running statistics anew."""
        self.reset_running_stats()
        if self.weight is not None and self.bias is not None:
            init.ones_(self.weight)
            init.zeros_(self.bias)

    def forward(self, x: T) -> T:
        shape = array(x).shape
        if len(shape) not in self._shapes or shape[1] != self.num_features:
            allowed = " or ".join(self._shapes.values())
            raise ValueError(f"input={shape}: needs shape {allowed} with C = {self.num_features}")
        tracked = self.num_batches_tracked if self.training else None
        momentum = self.momentum
        if momentum is None:
            # The mean of all batches so far, each as much as another.
            momentum = 0.0 if tracked is None else 1 / (tracked.item() + 1)
        batch = self.training or self.running_mean is None
        y = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, batch, momentum, self.eps)
        if tracked is not None:
            tracked += 1
        return y

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


class BatchNorm1d(_BatchNorm):
    """(x − mean) / √(var + eps) · weight + bias for each channel: (N, C) or (N, C, L), an array or a Tensor.

    Parameters, buffers and modes are BatchNorm2d's.
    """

    _shapes: ClassVar[dict[int, str]] = {2: "(N, C)", 3: "(N, C, L)"}


class BatchNorm2d(_BatchNorm):
    """(x − mean) / √(var + eps) · weight + bias for each channel: (N, C, H, W), an array or a Tensor.

    In training mean and var are the batch's, and running_mean and running_var (of no gradient, in state_dict with
    num_batches_tracked) move towards them by `momentum`, or become the mean over all batches if momentum is None; in
    evaluation they are the running ones. affine=False leaves out weight and bias (1 and 0 at the beginning);
    track_running_stats=False the running ones, and evaluation takes the batch's.
    Input and parameters are of one dtype, float32 or float64. ValueError in training for one value a channel.
    Source: Ioffe & Szegedy 2015.
    """

    _shapes: ClassVar[dict[int, str]] = {4: "(N, C, H, W)"}
