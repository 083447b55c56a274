"""Convolution layers. Source: torch.nn.Conv1d and Conv2d; padding="same" also with stride, by TensorFlow's rule."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from fastconv.nn import functional as F
from fastconv.nn import init
from fastconv.nn.checks import float_dtype, image_shape, one_of, real
from fastconv.nn.module import Parameter
from fastconv.nn.ready import Keeping, ReadyWeighted
from fastconv.problem import (
    ConvProblem,
    IntPair,
    Padding,
    boolean,
    conv_padding,
    integer,
    known_activation,
    pair,
)

T = TypeVar("T")

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class _Conv(Keeping):
    """What convolutions of lines and of images share; sizes are tuples, an int for each dimension."""

    operations = ("conv2d", "conv2d_grad_input", "conv2d_grad_weight")

    weight: Parameter
    bias: Parameter | None
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...],
        stride: tuple[int, ...],
        padding: tuple[int, ...] | str,
        dilation: tuple[int, ...],
        groups: int,
        bias: bool,
        padding_mode: str,
        dtype: npt.DTypeLike | None,
        algorithm: str,
    ) -> None:
        super().__init__()
        self.in_channels = integer("in_channels", in_channels)
        self.out_channels = integer("out_channels", out_channels)
        self.kernel_size, self.stride, self.dilation = kernel_size, stride, dilation
        self.groups = integer("groups", groups)
        for name, channels in (("in_channels", self.in_channels), ("out_channels", self.out_channels)):
            if channels % self.groups:
                raise ValueError(f"groups={groups!r}: needs a divisor of {name}={channels}")
        self.padding = one_of("padding", padding, ("same", "valid")) if isinstance(padding, str) else padding
        self.padding_mode = one_of("padding_mode", padding_mode, PADDING_MODES)
        self.algorithm = algorithm
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        self.weight = Parameter(np.empty(shape, float_dtype(dtype)))
        self.bias = Parameter(np.empty(self.out_channels, float_dtype(dtype))) if boolean("bias", bias) else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew."""
        init.default_(self.weight, self.bias)

    def problem(self, x: Any) -> ConvProblem:
        """What the kernels are asked to do for `x`, an array, a Tensor or a shape."""
        raise NotImplementedError

    def _prepare_for(self, x: Any) -> None:
        """Be ready for arrays of the shape of `x`, one whose output has just been computed."""
        if type(x) is np.ndarray and x.ndim == self.weight.ndim and self.padding_mode == "zeros":
            self._prepare(ReadyWeighted(self, "conv2d", x))

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if isinstance(self.padding, str) or any(self.padding):
            text += f", padding={self.padding}"
        if max(self.dilation) > 1:
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode}"
        return text


class Conv1d(_Conv):
    """Cross-correlation of lines with learned kernels: y[n,o,i] = bias[o] + Σ_c,k weight[o,c,k]·x[n,c,stride·i + k].

    Input (N, C, L) or (C, L) of the parameters' dtype, an array or a Tensor; the same kind comes back. It is computed
    as images of one row, by Conv2d's kernels.
    weight (out_channels, in_channels/groups, K) and bias (out_channels) start uniform on ±1/√(in_channels/groups·K).
    padding: int, "same" or "valid". algorithm: see fastconv.functional.
    ValueError or TypeError names the argument at fault, its value and what is allowed.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair = 1,
        padding: Padding = 0,
        dilation: IntPair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        dtype: npt.DTypeLike | None = None,
        algorithm: str = "auto",
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            (F.single("kernel_size", kernel_size),),
            (F.single("stride", stride),),
            padding if isinstance(padding, str) else (F.single("padding", padding, 0),),
            (F.single("dilation", dilation),),
            groups,
            bias,
            padding_mode,
            dtype,
            algorithm,
        )

    def _around(self, length: int) -> tuple[int, int]:
        """What a padding_mode other than zeros puts before and after a line."""
        if not isinstance(self.padding, str):
            return self.padding[0], self.padding[0]
        k, step, gap = self.weight.shape[2], self.stride[0], self.dilation[0]
        return conv_padding(self.padding, (1, length), (1, k), (1, step), (1, gap))[2:]

    def forward(self, x: T) -> T:
        y = self._answer(x)
        if y is not None:
            return cast(T, y)
        given = x
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            real("input", x)
            x = F.pad(x, self._around(F.line_shape(x)[2]), self.padding_mode)
            padding = 0
        args = (self.stride, padding, self.dilation, self.groups)
        out = F.conv1d(x, self.weight, self.bias, *args, algorithm=self.algorithm, kept=self._keep())
        self._prepare_for(given)
        return out

    def problem(self, x: Any) -> ConvProblem:
        """What the kernels are asked to do for `x`, an array, a Tensor or a shape."""
        n, c, length = F.line_shape(x)
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            length, padding = length + sum(self._around(length)), 0
        shape = self.weight.shape
        size, window, stride, sides, dilation = F.of_lines(
            (n, c, length), shape, self.stride, padding, self.dilation, self.groups
        )
        return ConvProblem.make(
            size,
            window,
            stride=stride,
            padding=sides,
            dilation=dilation,
            groups=self.groups,
            bias=self.bias is not None,
            dtype=str(self.weight.dtype),
        )


class Conv2d(_Conv):
    """Cross-correlation of images with learned kernels: y[n,o] = bias[o] + Σ_c corr2d(x[n,c], weight[o,c]).

    Input (N, C, H, W) or (C, H, W) of the parameters' dtype, an array or a Tensor; the same kind comes back.
    weight (out_channels, in_channels/groups, KH, KW) and bias (out_channels) start uniform on ±1/√fan_in, where
    fan_in = in_channels/groups·KH·KW.
    padding: int, pair, "same" or "valid". activation: "", or "relu", "sigmoid" or "tanh", applied to the output while
    it is in the cache (nn.fuse sets it); the attribute may be changed. algorithm: see fastconv.functional.
    ValueError or TypeError names the argument at fault, its value and what is allowed.
    """

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] | str
    dilation: tuple[int, int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair = 1,
        padding: Padding = 0,
        dilation: IntPair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        dtype: npt.DTypeLike | None = None,
        algorithm: str = "auto",
        activation: str = "",
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            pair("kernel_size", kernel_size),
            pair("stride", stride),
            padding if isinstance(padding, str) else pair("padding", padding, 0),
            pair("dilation", dilation),
            groups,
            bias,
            padding_mode,
            dtype,
            algorithm,
        )
        self.activation = known_activation(activation)

    def _sides(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Padding as (top, bottom, left, right)."""
        kh, kw = self.weight.shape[2:]
        return conv_padding(self.padding, (height, width), (kh, kw), self.stride, self.dilation)

    def forward(self, x: T) -> T:
        y = self._answer(x)
        if y is not None:
            return cast(T, y)
        given = x
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            real("input", x)
            top, bottom, left, right = self._sides(*image_shape(x)[2:])
            x = F.pad(x, (left, right, top, bottom), self.padding_mode)
            padding = 0
        args = (self.stride, padding, self.dilation, self.groups)
        named: dict[str, Any] = {"activation": self.activation, "algorithm": self.algorithm, "kept": self._keep()}
        out = F.conv2d(x, self.weight, self.bias, *args, **named)
        self._prepare_for(given)
        return out

    def problem(self, x: Any) -> ConvProblem:
        """What the kernels are asked to do for `x`, an array, a Tensor or a shape."""
        n, c, h, w = image_shape(x)
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            top, bottom, left, right = self._sides(h, w)
            h, w, padding = h + top + bottom, w + left + right, 0
        return ConvProblem.make(
            (n, c, h, w),
            self.weight.shape,
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
            bias=self.bias is not None,
            dtype=str(self.weight.dtype),
            activation=self.activation,
        )

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", activation={self.activation}" if self.activation else "")
