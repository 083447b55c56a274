"""Pooling layers. Source: torch.nn.MaxPool2d, AvgPool2d and the adaptive ones; padding may be "same" or "valid"."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import numpy as np

from fastconv.nn import functional as F
from fastconv.nn.checks import image_shape
from fastconv.nn.functional import OutputSize
from fastconv.nn.module import Module
from fastconv.nn.ready import Answering, Ready
from fastconv.problem import IntPair, Padding, PoolProblem, boolean

T = TypeVar("T")

# Larger than any window: what the arguments are checked against before an input is known.
_LARGE = (1, 1, 2**30, 2**30)


class MaxPool2d(Answering):
    """The largest element of every window; padding counts as −inf.

    Input (N, C, H, W) or (C, H, W), float32 or float64, an array or a Tensor; the same kind comes back, with
    return_indices as (values, indices), indices int64, h·W + w. stride is kernel_size if left out.
    """

    operations = ("max_pool2d", "max_pool2d_with_indices", "max_pool2d_grad")

    def __init__(
        self,
        kernel_size: IntPair,
        stride: IntPair | None = None,
        padding: Padding = 0,
        dilation: IntPair = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        *,
        algorithm: str = "auto",
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.return_indices = boolean("return_indices", return_indices)
        self.ceil_mode = ceil_mode
        self.algorithm = algorithm
        self.problem(_LARGE)

    def forward(self, x: Any) -> Any:
        y = self._answer(x)
        if y is not None:
            return y
        args = (self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices)
        out = F.max_pool2d(x, *args, algorithm=self.algorithm)
        if type(x) is np.ndarray and x.ndim == 4:
            self._prepare(Ready(self, "max_pool2d_with_indices" if self.return_indices else "max_pool2d", x))
        return out

    def problem(self, x: Any) -> PoolProblem:
        """What the kernels are asked to do for `x`, an array, a Tensor or a shape."""
        return PoolProblem.make(
            image_shape(x),
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            ceil_mode=self.ceil_mode,
            dtype=str(getattr(x, "dtype", "float32")),
        )

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class AvgPool2d(Answering):
    """The mean of every window, or its sum divided by divisor_override; count_include_pad says whether padding counts.

    Input (N, C, H, W) or (C, H, W), float32 or float64, an array or a Tensor; the same kind comes back.
    stride is kernel_size if left out.
    """

    operations = ("avg_pool2d", "avg_pool2d_grad")

    def __init__(
        self,
        kernel_size: IntPair,
        stride: IntPair | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        *,
        algorithm: str = "auto",
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override
        self.algorithm = algorithm
        self.problem(_LARGE)

    def forward(self, x: T) -> T:
        y = self._answer(x)
        if y is not None:
            return cast(T, y)
        args = (self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)
        out = F.avg_pool2d(x, *args, self.divisor_override, algorithm=self.algorithm)
        given: Any = x
        if type(given) is np.ndarray and given.ndim == 4:
            self._prepare(Ready(self, "avg_pool2d", given))
        return out

    def problem(self, x: Any) -> PoolProblem:
        """What the kernels are asked to do for `x`, an array, a Tensor or a shape."""
        return PoolProblem.make(
            image_shape(x),
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            ceil_mode=self.ceil_mode,
            count_include_pad=self.count_include_pad,
            divisor_override=self.divisor_override,
            dtype=str(getattr(x, "dtype", "float32")),
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class _AdaptivePool2d(Module):
    """The output size that both adaptive poolings have."""

    def __init__(self, output_size: OutputSize) -> None:
        super().__init__()
        F.output_size(output_size)
        self.output_size = output_size

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool2d(_AdaptivePool2d):
    """The means of as many windows as output_size says; 1 is global average pooling.

    Input (N, C, H, W) or (C, H, W), float32 or float64, an array or a Tensor; the same kind comes back.
    output_size: an int or (height, width), None where it is the input's own. Window i of an axis goes from
    ⌊i·size/out⌋ to ⌈(i + 1)·size/out⌉.
    """

    def forward(self, x: T) -> T:
        return F.adaptive_avg_pool2d(x, self.output_size)


class AdaptiveMaxPool2d(_AdaptivePool2d):
    """The largest of each of as many windows as output_size says; AdaptiveAvgPool2d's windows and input.

    With return_indices (values, indices), indices int64, h·W + w.
    """

    def __init__(self, output_size: OutputSize, return_indices: bool = False) -> None:
        super().__init__(output_size)
        self.return_indices = boolean("return_indices", return_indices)

    def forward(self, x: Any) -> Any:
        return F.adaptive_max_pool2d(x, self.output_size, self.return_indices)
