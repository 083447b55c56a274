"""torch.nn.functional's names and signatures over fastconv's kernels.

Every function takes a NumPy array, and gives an array and records nothing, or a Tensor, and gives a Tensor that is
recorded if the Tensor or a parameter requires a gradient. The first argument decides.

Images are (N, C, H, W) or (C, H, W), float32 or float64; all arrays of a call have one dtype. Wrong arguments raise
ValueError or TypeError that names the argument, its value and what is allowed (see fastconv.problem).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias, cast

import numpy as np

from fastconv import functional, ops, views
from fastconv.autograd import Array, T, Variable, array, array_module, is_recorded, record
from fastconv.device import check_together, is_cupy
from fastconv.memory import empty
from fastconv.nn.checks import axis_of, check_classes, fraction, image_shape, not_negative, one_of, real
from fastconv.nn.ctc import REDUCTIONS as REDUCTIONS
from fastconv.nn.ctc import ctc_greedy_decode as ctc_greedy_decode
from fastconv.nn.ctc import ctc_loss as ctc_loss
from fastconv.nn.embedding import embedding as embedding
from fastconv.nn.layernorm import layer_norm as layer_norm
from fastconv.problem import (
    IntPair,
    Padding,
    Problem,
    boolean,
    conv_padding,
    integer,
    known_activation,
    of_gradients,
    same_dtype,
)
from fastconv.random import generator

PAD_MODES = ("constant", "reflect", "replicate", "circular")
# An output size of adaptive pooling: one for both axes or (height, width), None for the input's own.
OutputSize: TypeAlias = "int | Sequence[int | None] | None"
# The starts and ends of an axis' windows.
Windows: TypeAlias = "list[tuple[int, int]]"

# Batch normalisation passes several times over this many bytes at once, so that they stay in a core's cache.
_BLOCK = 2**18


def _shaped(a: Array, shape: tuple[int, ...]) -> Array:
    """`a` in another shape; itself if it has that shape, because reshape takes longer than looking."""
    return a if a.shape == shape else a.reshape(shape)


def _bias_gradient(g: Array) -> Array:
    """Σ over all but the channels of g (N, C, H, W)."""
    planes = g.reshape(*g.shape[:2], g.shape[2] * g.shape[3])
    if ops.vectorised(planes):
        from fastconv.kernels.cpu import sums

        return cast(Array, sums.of_channels(planes))
    if (kernels := ops.on_device(planes)) is not None:
        return cast(Array, kernels.sums_of_channels(planes))
    return cast(Array, planes.sum(axis=(0, 2)))


def _feature_sums(g: Array) -> Array:
    """Σ over the rows of g (M, F)."""
    kernels = ops.on_device(g)
    return cast(Array, g.sum(axis=0) if kernels is None else kernels.sums_of_channels(g))


def _gradient(op: str, p: Problem, *inputs: Array) -> Array:
    """The result of a gradient operation, by the kernel that is chosen for it."""
    if any(a.dtype != p.dtype for a in inputs):
        raise TypeError(
            f"gradient: needs dtype {p.dtype}, as the forward pass had, got {[str(a.dtype) for a in inputs]}"
        )
    return functional.run(op, p, "auto", *inputs)[0]


def conv2d(
    input: T,
    weight: Any,
    bias: Any = None,
    stride: IntPair = 1,
    padding: Padding = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    *,
    activation: str = "",
    z: Any = None,
    algorithm: str = "auto",
    kept: functional.Kept | None = None,
) -> T:
    """Cross-correlation: input (N, C, H, W), weight (O, C/groups, KH, KW), bias (O) -> (N, O, OH, OW).

    With z, an array or Tensor of the output's shape, and activation "relu", "sigmoid" or "tanh", the result is
    activation(conv2d + z): in one pass where nothing is recorded, else as the operations that it is made of.
    padding may also be "same" (TensorFlow's rule, strided too) or "valid". `algorithm` names the kernel of the forward
    pass; each gradient chooses its own. kept: what a layer keeps of its weights between calls.
    Source: torch.nn.functional.conv2d.
    """
    a = real("input", input)
    w = real("weight", weight, a)
    b = None if bias is None else real("bias", bias, a)
    if b is not None and b.shape != w.shape[:1]:
        raise ValueError(f"bias={b.shape}: needs shape {w.shape[:1]}, one value an output channel of the weight")
    before, size = a.shape, image_shape(a)
    x = _shaped(a, size)
    args = (stride, padding, dilation, groups)
    addend: Array | None = None
    if activation != "" or z is not None:
        if is_recorded(input, weight, bias, z):
            known_activation(activation)
            out = conv2d(input, weight, bias, *args, algorithm=algorithm, kept=kept)
            if z is not None:
                expected = array(out).shape
                if real("z", z, a).shape != expected:
                    raise ValueError(f"z={array(z).shape}: needs the output's shape {expected}")
                out = ops.add(out, z)
            return _ACTIVATIONS[activation](out) if activation else out
        if z is not None:
            addend = real("z", z, a)
            if len(before) == 3 and addend.ndim == 3:
                addend = addend[None]
    p = functional.conv2d_problem(x, w, b, *args, activation, addend)
    y = functional.run("conv2d", p, algorithm, x, w, b, addend, kept=kept)[0]
    shape = y.shape

    def grad_input(g: Array) -> Array:
        return _shaped(_gradient("conv2d_grad_input", of_gradients(p), _shaped(g, shape), w), before)

    def grad_weight(g: Array) -> Array:
        return _gradient("conv2d_grad_weight", of_gradients(p), x, _shaped(g, shape))

    return record(
        input,
        _shaped(y, before[:-3] + shape[1:]),
        (input, grad_input, weight),
        (weight, grad_weight, input),
        (bias, lambda g: _bias_gradient(_shaped(g, shape))),
    )


def single(name: str, value: object, minimum: int = 1) -> int:
    """`value`, an int of at least `minimum` or a tuple of one, as an int."""
    if isinstance(value, (tuple, list)):
        if len(value) != 1:
            raise ValueError(f"{name}={value!r}: needs an int, got {len(value)} values")
        value = value[0]
    return integer(name, value, minimum)


def line_shape(x: Any) -> tuple[int, int, int]:
    """The (N, C, L) of an array, Tensor or shape that is (N, C, L) or (C, L); ValueError otherwise."""
    shape: tuple[Any, ...] = tuple(getattr(x, "shape", x))
    if len(shape) not in (2, 3):
        raise ValueError(f"input={shape}: needs shape (N, C, L) or (C, L), got {len(shape)} dimensions")
    return shape if len(shape) == 3 else (1, *shape)


def of_lines(
    size: tuple[int, int, int],
    weight: tuple[int, ...],
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, int], tuple[int, ...], tuple[int, int]]:
    """conv1d as conv2d, lines as images of one row: shapes of input and weight, stride, padding, dilation.

    size (N, C, L), weight (O, C/groups, K). What is wrong with lines is said here, in terms of lines.
    """
    n, channels, length = size
    if len(weight) != 3 or not weight[2]:
        raise ValueError(f"weight={weight}: needs shape (O, C/groups, K), K at least 1")
    o, per_group, k = weight
    step, gap, group = single("stride", stride), single("dilation", dilation), integer("groups", groups)
    if isinstance(padding, str):
        one_of("padding", padding, ("same", "valid"))
        left, right = conv_padding(padding, (1, length), (1, k), (1, step), (1, gap))[2:]
    else:
        left = right = single("padding", padding, 0)
    if channels != per_group * group or not channels:
        raise ValueError(
            f"input={size}: needs {per_group * group} channels for weight {weight} and groups={group}, got {channels}"
        )
    span = gap * (k - 1) + 1
    if not length or length + left + right < span:
        raise ValueError(
            f"input={size}: with padding {(left, right)} its length is {length + left + right}, "
            f"smaller than the kernel, which spans {span}"
        )
    return (n, channels, 1, length), (o, per_group, 1, k), (1, step), (0, 0, left, right), (1, gap)


def conv1d(
    input: T,
    weight: Any,
    bias: Any = None,
    stride: IntPair = 1,
    padding: Padding = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    *,
    algorithm: str = "auto",
    kept: functional.Kept | None = None,
) -> T:
    """Cross-correlation of lines: input (N, C, L), weight (O, C/groups, K), bias (O) -> (N, O, OL); or without N.

    stride, padding and dilation are ints; padding may also be "same" (TensorFlow's rule, strided too) or "valid".
    It is conv2d of images of one row, by the same kernels. algorithm, kept: see conv2d.
    Source: torch.nn.functional.conv1d.
    """
    a = real("input", input)
    w = real("weight", weight, a)
    size, window, step, sides, gap = of_lines(line_shape(a), w.shape, stride, padding, dilation, groups)
    # An array gives an array, whatever the weight is.
    kernel = views.reshape(weight if isinstance(input, Variable) else w, window)
    y = conv2d(views.reshape(input, size), kernel, bias, step, sides, gap, groups, algorithm=algorithm, kept=kept)
    n, o, _, length = array(y).shape
    return views.reshape(y, (n, o, length) if a.ndim == 3 else (o, length))


def max_pool2d(
    input: T,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: Padding = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    algorithm: str = "auto",
) -> Any:
    """The largest of each window: input (N, C, H, W) -> (N, C, OH, OW).

    With return_indices also where it stands, int64, h·W + w. padding may also be "same" or "valid".
    Source: torch.nn.functional.max_pool2d.
    """
    a = real("input", input)
    x = _shaped(a, image_shape(a))
    indexed = boolean("return_indices", return_indices)
    p = functional.max_pool2d_problem(x, kernel_size, stride, padding, dilation, ceil_mode)
    y, *rest = functional.run("max_pool2d_with_indices" if indexed else "max_pool2d", p, algorithm, x)
    indices = rest[0] if indexed else None
    shape = y.shape
    small = a.shape[:-3] + shape[1:]

    def gradient(g: Array) -> Array:
        return _shaped(_gradient("max_pool2d_grad", p, x, _shaped(g, shape)), a.shape)

    out = record(input, _shaped(y, small), (input, gradient, input))
    return out if indices is None else (out, record(input, indices.reshape(small)))


def avg_pool2d(
    input: T,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    algorithm: str = "auto",
) -> T:
    """The mean of each window: input (N, C, H, W) -> (N, C, OH, OW). padding may also be "same" or "valid".

    Source: torch.nn.functional.avg_pool2d.
    """
    a = real("input", input)
    before, size = a.shape, image_shape(a)
    args = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    p = functional.avg_pool2d_problem(size, str(a.dtype), *args)
    y = functional.run("avg_pool2d", p, algorithm, _shaped(a, size))[0]
    shape = y.shape

    def gradient(g: Array) -> Array:
        return _shaped(_gradient("avg_pool2d_grad", p, _shaped(g, shape)), before)

    return record(input, _shaped(y, before[:-3] + shape[1:]), (input, gradient))


def output_size(value: object) -> tuple[int | None, int | None]:
    """An adaptive pooling's `output_size` as (height, width), None where it is the input's own."""
    both = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(both) != 2:
        raise ValueError(f"output_size={value!r}: needs an int, None or a pair of them, got {len(both)} values")
    height, width = (None if one is None else integer("output_size", one) for one in both)
    return height, width


def _windows(size: int, count: int) -> Windows:
    """Adaptive pooling's windows on an axis: window i goes from ⌊i·size/count⌋ to ⌈(i + 1)·size/count⌉."""
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def _regular(windows: Windows) -> tuple[int, int] | None:
    """(kernel, stride) that give these windows; None if no plain pooling does."""
    kernel = windows[0][1]
    stride = windows[1][0] if len(windows) > 1 else kernel
    same = stride > 0 and all(window == (i * stride, i * stride + kernel) for i, window in enumerate(windows))
    return (kernel, stride) if same else None


def _adaptive(input: Any, size: OutputSize) -> tuple[Array, list[Windows], tuple[IntPair, IntPair] | None]:
    """The image, each axis' windows, and the (kernel_size, stride) of the plain pooling that does the same, if any."""
    a = real("input", input)
    sizes = image_shape(a)[2:]
    if not all(sizes):
        raise ValueError(f"input={a.shape}: needs a height and a width of at least 1")
    windows = [_windows(n, count or n) for n, count in zip(sizes, output_size(size), strict=True)]
    rows, columns = map(_regular, windows)
    if rows is None or columns is None:
        return a, windows, None
    return a, windows, ((rows[0], columns[0]), (rows[1], columns[1]))


def _within(height: int, width: int, rows: int, columns: int) -> bool:
    """Whether a device's kernels, which count in int, take an image and windows of these sizes."""
    return max(height * width, height * rows, width * columns) < 2**30


def _means(a: Array, windows: Windows, axis: int) -> Array:
    """The mean of every window along `axis`."""
    a = a.swapaxes(0, axis)
    means = array_module(a).stack([a[start:end].mean(axis=0) for start, end in windows])
    return cast(Array, means.swapaxes(0, axis))


def _means_grad(g: Array, windows: Windows, axis: int, size: int) -> Array:
    """The gradient of _means: each window's share goes to all of its elements."""
    g = g.swapaxes(0, axis)
    gx = array_module(g).zeros((size, *g.shape[1:]), g.dtype)
    for share, (start, end) in zip(g, windows, strict=True):
        gx[start:end] += share / (end - start)
    return cast(Array, gx.swapaxes(0, axis))


def adaptive_avg_pool2d(input: T, output_size: OutputSize) -> T:
    """The means of output_size windows that cover the image evenly: (N, C, H, W) -> (N, C, OH, OW).

    output_size: int or (height, width); None is the input's own. 1 is global average pooling. Windows of one size and
    distance are plain average pooling; others are averaged along one axis and then the other.
    Source: torch.nn.functional.adaptive_avg_pool2d.
    """
    a, (rows, columns), plain = _adaptive(input, output_size)
    if plain:
        return avg_pool2d(input, *plain)
    height, width = a.shape[-2:]
    if (kernels := ops.on_device(a)) is not None and _within(height, width, len(rows), len(columns)):
        size = image_shape(a)
        y = kernels.adaptive_means(_shaped(a, size), (len(rows), len(columns)))
        shape = y.shape

        def gradient(g: Array) -> Array:
            return _shaped(kernels.adaptive_means_grad(_shaped(g, shape), size), a.shape)

        return record(input, _shaped(y, (*a.shape[:-2], *shape[2:])), (input, gradient))
    y = _means(_means(a, rows, -2), columns, -1)
    return record(input, y, (input, lambda g: _means_grad(_means_grad(g, columns, -1, width), rows, -2, height)))


def adaptive_max_pool2d(input: T, output_size: OutputSize, return_indices: bool = False) -> Any:
    """The largest of output_size windows that cover the image evenly: (N, C, H, W) -> (N, C, OH, OW).

    output_size: int or (height, width); None is the input's own. With return_indices also where each maximum stands,
    int64, h·W + w. Source: torch.nn.functional.adaptive_max_pool2d.
    """
    a, (rows, columns), plain = _adaptive(input, output_size)
    if plain:
        return max_pool2d(input, *plain, return_indices=return_indices)
    boolean("return_indices", return_indices)
    x = _shaped(a, image_shape(a))
    n, c, height, width = x.shape
    if (kernels := ops.on_device(a)) is not None and _within(height, width, len(rows), len(columns)):
        y, indices, places = kernels.adaptive_maxima(x, (len(rows), len(columns)))
        large, small = y.shape, (*a.shape[:-2], *y.shape[2:])

        def on_device(g: Array) -> Array:
            return _shaped(kernels.adaptive_maxima_grad(_shaped(g, large), places, x.shape), a.shape)

        out = record(input, y.reshape(small), (input, on_device, places))
        return (out, record(input, indices.reshape(small))) if return_indices else out
    xp = array_module(x)
    y = xp.empty((n, c, len(rows), len(columns)), x.dtype)
    indices = xp.empty(y.shape, np.int64)
    for i, (top, bottom) in enumerate(rows):
        for j, (left, right) in enumerate(columns):
            # The kernel's own rule for ties and NaN, one window at a time.
            best, at = functional.max_pool2d_with_indices(x[..., top:bottom, left:right], (bottom - top, right - left))
            y[..., i, j] = best[..., 0, 0]
            r, s = at[..., 0, 0] // (right - left), at[..., 0, 0] % (right - left)
            indices[..., i, j] = (top + r) * width + left + s
    small = (*a.shape[:-3], *y.shape[1:])
    # A copy of the indices, because the gradient still needs them when the caller may have changed them.
    into = indices.reshape(n * c, len(rows) * len(columns)).copy()

    def gradient(g: Array) -> Array:
        gx = xp.zeros((n * c, height * width), g.dtype)
        # Windows overlap, so one element may be the maximum of several.
        xp.add.at(gx, (xp.arange(n * c)[:, None], into), g.reshape(into.shape))
        return cast(Array, gx.reshape(a.shape))

    out = record(input, y.reshape(small), (input, gradient, into))
    return (out, record(input, indices.reshape(small))) if return_indices else out


def _channel_blocks(x: Array) -> Iterator[slice]:
    """Slices of the channels of an (N, C, S) array: at most _BLOCK bytes each, or one channel; on a device all."""
    n, channels, s = x.shape
    step = max(_BLOCK // max(n * s * x.itemsize, 1), 1) if isinstance(x, np.ndarray) else max(channels, 1)
    return (slice(first, first + step) for first in range(0, channels, step))


def _channel_sums(x: Array, y: Array | None = None) -> Array:
    """Σ x, or Σ x·y, over all but the channels of (N, C, S) arrays, images added in float64."""
    planes = x.sum(axis=2) if y is None else array_module(x).einsum("ncs,ncs->nc", x, y)
    return cast(Array, planes.sum(axis=0, dtype=np.float64))


def batch_norm(
    input: T,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> T:
    """(x − mean) / √(var + eps) · weight + bias, a channel at a time: input (N, C, …) -> the same shape.

    In training mean and var are the batch's, and the running ones, if given, move by `momentum` towards them in place
    (var without bias); otherwise they are the running ones. All four arrays are (C), of the input's dtype.
    ValueError for one value a channel in training. Source: Ioffe & Szegedy 2015; torch.nn.functional.batch_norm.
    """
    a = real("input", input)
    if a.ndim < 2:
        raise ValueError(f"input={a.shape}: needs shape (N, C, ...), got {a.ndim} dimensions")
    n, channels = a.shape[:2]
    x = _shaped(a, (n, channels, math.prod(a.shape[2:])))
    count = n * x.shape[2]
    running = {"running_mean": running_mean, "running_var": running_var}
    for name, given in {**running, "weight": weight, "bias": bias}.items():
        if given is not None and real(name, given, a).shape != (channels,):
            raise ValueError(f"{name}={given.shape}: needs shape ({channels},), one value a channel of the input")
    batch, eps, momentum = boolean("training", training), not_negative("eps", eps), fraction("momentum", momentum)
    if batch and count == 1:
        raise ValueError(f"input={a.shape}: expected more than 1 value per channel when training, got 1")
    if not batch and (running_mean is None or running_var is None):
        missing = next(name for name, given in running.items() if given is None)
        raise ValueError(f"{missing}=None: needs an array ({channels},) when not training")

    xp = array_module(x)
    new = empty if xp is np else xp.empty
    # Per channel, in float64. In training x is first centred on a mean as its dtype sums it, then the rest is made up.
    mean = xp.zeros(channels) if batch else array(running_mean).astype(np.float64)
    var = xp.zeros(channels) if batch else array(running_var).astype(np.float64)
    gain = xp.ones(channels) if weight is None else array(weight).astype(np.float64)
    start = xp.zeros(channels) if bias is None else array(bias).astype(np.float64)
    blocks = list(_channel_blocks(x))

    def column(values: Array) -> Array:
        return values.astype(x.dtype)[:, None]

    y = new(x.shape, x.dtype)
    for part in blocks:
        block, out = x[:, part], y[:, part]
        centre: Any = 0.0
        if batch:
            centre = (_channel_sums(block) / max(count, 1)).astype(x.dtype)
            block = xp.subtract(block, centre[:, None], out=out)
            mean[part] = centre + _channel_sums(out) / max(count, 1)
            var[part] = _channel_sums(out, out) / max(count, 1) - (mean[part] - centre) ** 2
        slope = gain[part] / xp.sqrt(var[part] + eps)
        xp.multiply(block, column(slope), out=out)
        out += column(start[part] - (mean[part] - centre) * slope)
    if batch and count:
        for moving, now in ((running_mean, mean), (running_var, var * (count / max(count - 1, 1)))):
            if moving is not None:
                moving[...] = ((1 - momentum) * array(moving) + momentum * now).astype(x.dtype)
    spread = 1 / xp.sqrt(var + eps)

    def grad_input(g: Array) -> Array:
        g = g.reshape(x.shape)
        gx = new(x.shape, x.dtype)
        for part in blocks:
            out, slope = gx[:, part], gain[part] * spread[part]
            if batch:
                # slope · (g − mean(g) − x̂·mean(g·x̂))
                xp.subtract(x[:, part], column(mean[part]), out=out)
                along = _channel_sums(g[:, part], out) / max(count, 1) * spread[part] ** 2
                out *= column(-along * slope)
                out -= column(_channel_sums(g[:, part]) / max(count, 1) * slope)
                out += g[:, part] * column(slope)
            else:
                xp.multiply(g[:, part], column(slope), out=out)
        return gx.reshape(a.shape)

    def grad_weight(g: Array) -> Array:
        g = g.reshape(x.shape)
        sums = [_channel_sums(g[:, part], x[:, part] - column(mean[part])) for part in blocks]
        return cast(Array, (xp.concatenate(sums) * spread).astype(x.dtype))

    return record(
        input,
        _shaped(y, a.shape),
        (input, grad_input, input),
        (weight, grad_weight, input),
        (bias, lambda g: _channel_sums(g.reshape(x.shape)).astype(x.dtype)),
    )


def linear(
    input: T, weight: Any, bias: Any = None, *, algorithm: str = "auto", kept: functional.Kept | None = None
) -> T:
    """x wᵀ + b: input (…, in), weight (out, in), bias (out) -> (…, out).

    kept: what a layer keeps of its weights between calls. Source: torch.nn.functional.linear.
    """
    a = real("input", input)
    w = real("weight", weight, a)
    b = None if bias is None else real("bias", bias, a)
    if w.ndim != 2:
        raise ValueError(f"weight={w.shape}: needs shape (out_features, in_features), got {w.ndim} dimensions")
    if a.ndim == 0 or a.shape[-1] != w.shape[1]:
        raise ValueError(f"input={a.shape}: needs shape (..., {w.shape[1]}) for weight {w.shape}")
    if b is not None and b.shape != w.shape[:1]:
        raise ValueError(f"bias={b.shape}: needs shape {w.shape[:1]}, one value an output feature of the weight")
    before = a.shape
    x = _shaped(a, (math.prod(before[:-1]), before[-1]))
    p = functional.linear_problem(x, w, b)
    y = functional.run("linear", p, algorithm, x, w, b, kept=kept)[0]
    shape = y.shape

    def grad_input(g: Array) -> Array:
        return _shaped(_gradient("linear_grad_input", of_gradients(p), _shaped(g, shape), w), before)

    def grad_weight(g: Array) -> Array:
        return _gradient("linear_grad_weight", of_gradients(p), x, _shaped(g, shape))

    return record(
        input,
        _shaped(y, (*before[:-1], shape[1])),
        (input, grad_input, weight),
        (weight, grad_weight, input),
        (bias, lambda g: _feature_sums(_shaped(g, shape))),
    )


def _positions(mode: str, size: int, before: int, after: int) -> Array:
    """For each element of a padded axis, the element of the axis that it repeats."""
    i = np.arange(-before, size + after)
    if mode == "circular":
        return i % size
    if mode == "replicate":
        return i.clip(0, size - 1)
    i = np.abs(i)
    return np.minimum(i, 2 * (size - 1) - i)


def _fold(g: Array, axis: int, positions: Array, size: int, before: int) -> Array:
    """The gradient of take(positions, axis): every padding row is added to the row that it repeats."""
    g = g.swapaxes(0, axis)
    gx = g[before : before + size].copy()
    for row in (*range(before), *range(before + size, len(g))):
        gx[positions[row]] += g[row]
    return gx.swapaxes(0, axis)


def pad(input: T, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> T:
    """`input` with (left, right, top, bottom, …) elements more, the last dimension first, each >= 0.

    mode: "constant" fills with `value` (0); "reflect" mirrors at the edge element, "replicate" repeats it, "circular"
    goes on at the other side. These three pad the last 1, 2 or 3 dimensions of one image or a batch.
    Source: torch.nn.functional.pad.
    """
    a = array(input)
    one_of("mode", mode, PAD_MODES)
    if not isinstance(pad, (tuple, list)) or len(pad) % 2 or len(pad) > 2 * a.ndim:
        raise ValueError(f"pad={pad!r}: needs pairs (before, after), at most one for each of {a.ndim} dimensions")
    amounts = [integer("pad", n, 0) for n in pad]
    pairs = {a.ndim - 1 - i: (amounts[2 * i], amounts[2 * i + 1]) for i in range(len(amounts) // 2)}
    if mode == "constant":
        widths = [pairs.get(axis, (0, 0)) for axis in range(a.ndim)]
        inner = tuple(slice(before, before + n) for (before, _), n in zip(widths, a.shape, strict=True))
        y = array_module(a).pad(a, widths, constant_values=0 if value is None else value)
        return record(input, y, (input, lambda g: g[inner]))
    if value is not None:
        raise ValueError(f"value={value!r}: needs None for mode={mode!r}")
    if not 1 <= a.ndim - len(pairs) <= 2:
        raise ValueError(f"pad={pad!r}: needs {a.ndim - 2} or {a.ndim - 1} pairs for mode={mode!r} and {a.shape}")
    for axis, both in pairs.items():
        limit = {"reflect": a.shape[axis] - 1, "circular": a.shape[axis]}.get(mode, max(both))
        if max(both) > limit or not a.shape[axis]:
            raise ValueError(f"pad={pad!r}: mode={mode!r} needs at most {limit} beside an extent of {a.shape[axis]}")
    steps = [(axis, _positions(mode, a.shape[axis], *pairs[axis]), a.shape[axis], pairs[axis][0]) for axis in pairs]
    y = a
    for axis, positions, _, _ in steps:
        y = y.take(array_module(a).asarray(positions), axis)

    def gradient(g: Array) -> Array:
        for step in reversed(steps):
            g = _fold(g, *step)
        return g

    return record(input, y, (input, gradient))


def _elementwise(input: T, function: Any, inplace: bool) -> T:
    """function(input), put into the memory of `input` if `inplace`."""
    real("input", input)
    if not inplace:
        return cast(T, function(input))
    if isinstance(input, Variable):
        return cast(T, input._in_place(function))
    cast(Array, input)[...] = function(input)
    return input


def relu(input: T, inplace: bool = False) -> T:
    """max(x, 0), elementwise."""
    return _elementwise(input, ops.relu, inplace)


def sigmoid(input: T) -> T:
    """1 / (1 + e^−x), elementwise."""
    return _elementwise(input, ops.sigmoid, False)


def tanh(input: T) -> T:
    """The hyperbolic tangent, elementwise."""
    return _elementwise(input, ops.tanh, False)


_ACTIVATIONS: dict[str, Any] = {"relu": ops.relu, "sigmoid": ops.sigmoid, "tanh": ops.tanh}


def softmax(input: T, dim: int) -> T:
    """e^x / Σ e^x along `dim`."""
    return ops.softmax(input, axis_of(dim, real("input", input).ndim))


def log_softmax(input: T, dim: int) -> T:
    """x − log Σ e^x along `dim`."""
    return ops.log_softmax(input, axis_of(dim, real("input", input).ndim))


def dropout(input: T, p: float = 0.5, training: bool = True, inplace: bool = False) -> T:
    """In training each element 0 with probability `p`, else x / (1 − p); otherwise x itself.

    Random numbers come from the library's generator, see manual_seed. Source: Srivastava et al. 2014, in torch's form.
    """
    p = fraction("p", p)
    a = real("input", input)
    if not training or p == 0:
        return input
    keep = array_module(a).asarray(generator().random(a.shape, dtype=np.float32) >= p)
    # p = 1 keeps nothing, and 0 times anything will do.
    factor = keep * a.dtype.type(1 / (1 - p) if p < 1 else 0)

    def drop(x: T) -> T:
        return record(x, array(x) * factor, (x, lambda g: g * factor, factor))

    return _elementwise(input, drop, inplace)


def flatten(input: T, start_dim: int = 0, end_dim: int = -1) -> T:
    """Dimensions start_dim to end_dim as one. Source: torch.flatten."""
    return views.flatten(input, start_dim, end_dim)


def one_hot(tensor: T, num_classes: int = -1) -> T:
    """int64 of shape (…, num_classes), 1 at the class of each integer element; −1 means as many as there are."""
    a = array(tensor, "tensor")
    if a.dtype.kind not in "iu":
        raise TypeError(f"tensor: dtype {a.dtype} is not supported, needs an integer dtype")
    most = int(a.max()) if a.size else -1
    classes = most + 1 if num_classes == -1 else integer("num_classes", num_classes)
    check_classes("tensor", a, classes)
    xp = array_module(a)
    y = xp.zeros((*a.shape, classes), np.int64)
    xp.put_along_axis(y, a[..., None].astype(np.int64), 1, axis=-1)
    return record(tensor, y)


def mse_loss(input: T, target: Any, reduction: str = "mean") -> T:
    """(input − target)², its mean or sum. Shapes must be the same. Source: torch.nn.functional.mse_loss."""
    one_of("reduction", reduction, REDUCTIONS)
    a = real("input", input)
    b = real("target", target, a)
    if a.shape != b.shape:
        raise ValueError(f"target={b.shape}: needs the shape of input, {a.shape}")
    d = a - b
    y = d * d
    if reduction != "none":
        y = y.mean() if reduction == "mean" else y.sum()
    scale = 2 / max(d.size, 1) if reduction == "mean" else 2
    return record(
        input,
        y,
        (input, lambda g: g * scale * d, d),
        (target, lambda g: -g * scale * d, d),
    )


def cross_entropy(
    input: T,
    target: Any,
    weight: Any = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> T:
    """−Σ_c q_c log softmax(input)_c for each sample, their weighted mean (over all that are not ignored) or sum.

    input (N, C, …) or (C); target: class indices (N, …) or (), any integer dtype, or probabilities of the shape and
    dtype of input. q is the target's distribution, (1 − s)·q + s/C with label_smoothing s, times weight (C).
    ValueError for a class that there is none of; on a CUDA device, which is not waited for, its loss is NaN.
    Source: torch.nn.functional.cross_entropy.
    """
    one_of("reduction", reduction, REDUCTIONS)
    smoothing = fraction("label_smoothing", label_smoothing)
    a, t = real("input", input), array(target, "target")
    xp = array_module(a)
    if not a.size or not a.ndim:
        raise ValueError(f"input={a.shape}: needs shape (N, C, ...) or (C,), no extent 0")
    axis = min(a.ndim - 1, 1)
    classes = a.shape[axis]
    w = xp.ones(classes, a.dtype) if weight is None else real("weight", weight, a)
    if w.shape != (classes,):
        raise ValueError(f"weight={w.shape}: needs shape ({classes},), one value a class")
    w_all, some = w.reshape(classes, *(1,) * (a.ndim - 1 - axis)), False
    if t.dtype.kind == "f":
        same_dtype(input=a, target=t)
        if t.shape != a.shape:
            raise ValueError(f"target={t.shape}: probabilities need the shape of input, {a.shape}")
        q, total = t, a.size / classes
    elif t.dtype.kind in "iu":
        if t.shape != a.shape[:axis] + a.shape[axis + 1 :]:
            raise ValueError(f"target={t.shape}: needs input's shape {a.shape} without its dimension {axis}")
        if is_cupy(a) or is_cupy(t):
            check_together({"input": a, "target": t, "weight": w})
        if (kernels := ops.on_device(a, w)) is not None:
            given = None if weight is None else w
            loss = kernels.CrossEntropy(a, t, given, ignore_index, reduction, smoothing)
            return record(input, loss.y, (input, lambda g: loss.gradient(g.astype(a.dtype, copy=False)), a))
        counted = t != ignore_index
        some = not counted.all()
        check_classes("target", t[counted] if some else t, classes)
        hot = xp.expand_dims(t, axis) == xp.arange(classes).reshape(w_all.shape)
        if some:
            hot &= xp.expand_dims(counted, axis)
            w_all = w_all * xp.expand_dims(counted, axis)
        q = hot.astype(a.dtype)
        total = xp.count_nonzero(counted) if weight is None else (w_all * q).sum()
    else:
        raise TypeError(
            f"target: dtype {t.dtype} is not supported, needs integers (classes) or {a.dtype} (probabilities)"
        )
    if smoothing:
        q = q * (1 - smoothing) + smoothing / classes
    # Weights of 1 are left out: one pass less.
    if weight is not None or some:
        q = w_all * q
    logp = ops.log_softmax(a, axis)
    # A class of probability 0 adds nothing, even where its log is −inf.
    y = -(q * xp.where(q, logp, 0)).sum(axis=axis)
    if reduction != "none":
        y = y.sum()
    if reduction == "mean":
        # All ignored: 0/0 is NaN, as in torch, and the gradient below is 0.
        with np.errstate(invalid="ignore"):
            y = y / xp.asarray(total).astype(a.dtype)

    def spread(g: Array) -> Array:
        g = xp.expand_dims(g, axis) if reduction == "none" else g
        return g / xp.asarray(total or 1).astype(a.dtype) if reduction == "mean" else g

    return record(
        input,
        y,
        (input, lambda g: spread(g) * (xp.exp(logp) * q.sum(axis=axis, keepdims=True) - q), logp, q),
        (target, lambda g: spread(g) * (smoothing - 1) * w_all * logp, logp, weight),
    )
