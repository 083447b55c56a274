"""Convolution layers. Source: torch.nn.Conv1d and Conv2d; padding="same" also with stride, by TensorFlow's rule."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from fastconv.functional import Array, Kept, bound
from fastconv.nn import functional as F
from fastconv.nn import init
from fastconv.nn.checks import float_dtype, image_shape, one_of, real
from fastconv.nn.module import Module, Parameter
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
from fastconv.registry import choose, setting

T = TypeVar("T")

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class _Ready:
    """A layer's forward worked out for arrays of one shape, so that a small layer does not wait for Python."""

    __slots__ = ("bias", "bound", "dtype", "layer", "line", "of_bias", "of_weight", "parameters", "setting", "shape")

    def __init__(self, layer: _Conv, x: Array) -> None:
        problem = layer.problem(x)
        kernel = choose("conv2d", problem, layer.algorithm, kept=layer._keep() is not None)
        self.layer, self.parameters = layer, layer.__dict__["_parameters"]
        self.shape, self.dtype, self.setting = x.shape, x.dtype, setting()
        # Kernels take lines as images of one row.
        self.line = x.ndim == 3
        self.bound = bound(kernel, problem)
        self.bias = None if layer.bias is not None else np.empty(0, x.dtype)
        ready = all(p is None or p._array.flags.carray for p in self.parameters.values())
        self.of_weight = layer.weight._state.number if ready else -1
        self.of_bias = 0 if layer.bias is None else layer.bias._state.number

    def __call__(self, x: Array) -> Array | None:
        """y, or None if x, the parameters or the setting are not those that this was worked out for."""
        parameters, b = self.parameters, self.bias
        weight, bias = parameters["weight"], parameters.get("bias")
        if weight is None or (bias is None) is (b is None):
            # A parameter has come or gone by register_parameter.
            return None
        if b is None:
            b, version = bias._array, bias._state.number
        else:
            version = 0
        # An array that functional.prepared would copy is left to it.
        if (
            x.shape != self.shape
            or x.dtype is not self.dtype
            or weight._state.number != self.of_weight
            or version != self.of_bias
            or setting() != self.setting
            or not x.flags.carray
        ):
            return None
        bound = self.bound
        # Before anybody here holds the weight's array: it is kept only while nobody else does.
        kept = None if bound.weights is None else self.layer._keep()
        w = weight._array
        if self.line:
            x, w = x[:, :, None], w[:, :, None]
        y = bound.simple(x, w, b, bound.none) if bound.simple is not None else bound((x, w, b, bound.none), kept)[0]
        return y[:, :, 0] if self.line else y


class _Conv(Module):
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
        self._kept = Kept()
        self._ready: _Ready | None = None
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

    def _answer(self, x: Any) -> Array | None:
        """The output for `x`, if it is an array of the shape that the layer is ready for."""
        ready = self._ready
        return ready(x) if ready is not None and type(x) is np.ndarray else None

    def _prepare(self, x: Any) -> None:
        """Be ready for arrays of the shape of `x`, one whose output has just been computed."""
        if type(x) is np.ndarray and x.ndim == self.weight.ndim and self.padding_mode == "zeros":
            self.__dict__["_ready"] = _Ready(self, x)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        self.__dict__["_ready"] = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy works it out for itself.
        return {**self.__dict__, "_ready": None}

    def _keep(self) -> Kept | None:
        """Where prepared weights are kept: in evaluation, and only while no change of the weights can go unseen."""
        weight = self.weight
        if self.training or not weight._is_exclusive():
            self._kept.of(None)
            return None
        return self._kept.of((weight._version, id(weight._array)))

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
            return y  # type: ignore[return-value]
        given = x
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            real("input", x)
            x = F.pad(x, self._around(F.line_shape(x)[2]), self.padding_mode)
            padding = 0
        args = (self.stride, padding, self.dilation, self.groups)
        out = F.conv1d(x, self.weight, self.bias, *args, algorithm=self.algorithm, kept=self._keep())
        self._prepare(given)
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
            return y  # type: ignore[return-value]
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
        self._prepare(given)
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
