"""The oracle: corr2d, which is the definition of convolution here, and naive float64 forms of every op and gradient.

It imports NumPy only and shares no code with the rest of the library, output sizes included, so that an error there
cannot hide here. Inputs of any real dtype are converted to float64 and results are float64; only corr2d and convolve2d
keep integers as integers.

Letters: n images, c input channels, h w input size, o output channels, kh kw kernel size, oh ow output size, groups.
Padding is (top, bottom, left, right); padded elements are zeros for convolution and average pooling, and are never
chosen by max pooling. Element (i, j) of an output looks at input row i·stride − top + r·dilation for r = 0 … kh−1.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Pair: TypeAlias = tuple[int, int]
Pads: TypeAlias = tuple[int, int, int, int]

NO_PADS = (0, 0, 0, 0)

# NaN and inf travel through the sums as IEEE 754 says; NumPy's warnings about them are noise here.
_ieee = np.errstate(invalid="ignore", over="ignore")


@_ieee
def corr2d(X: npt.ArrayLike, K: npt.ArrayLike) -> Array:
    """Cross-correlation: Y[i, j] = Σ_r Σ_s X[i+r, j+s]·K[r, s].

    X (h, w), K (kh, kw) -> Y (h−kh+1, w−kw+1): int64 if both are integers (or bool), else float64.
    ValueError if an array is not 2-D or K is empty or larger than X.
    """
    X, K = np.asarray(X), np.asarray(K)
    if X.ndim != 2 or K.ndim != 2:
        raise ValueError(f"X has shape {X.shape} and K {K.shape}: both need two dimensions (height, width)")
    h, w = K.shape
    if K.size == 0 or h > X.shape[0] or w > X.shape[1]:
        raise ValueError(f"K has shape {K.shape}: needs at least (1, 1) and at most X's shape {X.shape}")
    whole = X.dtype.kind in "biu" and K.dtype.kind in "biu"
    X, K = (a.astype(np.int64 if whole else np.float64) for a in (X, K))
    Y = np.zeros((X.shape[0] - h + 1, X.shape[1] - w + 1), dtype=X.dtype)
    for i in range(Y.shape[0]):
        for j in range(Y.shape[1]):
            Y[i, j] = (X[i : i + h, j : j + w] * K).sum()
    return Y


def convolve2d(X: npt.ArrayLike, K: npt.ArrayLike) -> Array:
    """True convolution: corr2d with the kernel flipped both ways. Shapes, dtypes and errors are corr2d's."""
    K = np.asarray(K)
    return corr2d(X, K[::-1, ::-1] if K.ndim == 2 else K)


@_ieee
def conv2d(
    x: npt.ArrayLike,
    w: npt.ArrayLike,
    b: npt.ArrayLike | None = None,
    stride: Pair = (1, 1),
    padding: Pads = NO_PADS,
    dilation: Pair = (1, 1),
    groups: int = 1,
    activation: str = "",
    z: npt.ArrayLike | None = None,
) -> Array:
    """y[n, o, i, j] = b[o] + Σ_c Σ_r Σ_s xpadded[n, c, i·sh + r·dh, j·sw + s·dw]·w[o, c, r, s], c over o's group.

    Then z is added and `activation` applied, one of those that `activate` knows.
    x (n, c, h, w), w (o, c/groups, kh, kw), b (o), z (n, o, oh, ow) -> y (n, o, oh, ow).
    """
    x, w = _float64(x), _float64(w)
    xpadded = _pad(x, padding)
    oh, ow = _out_size(x.shape[2:], w.shape[2:], stride, padding, dilation)
    y = np.zeros((x.shape[0], w.shape[0], oh, ow))
    for og, cg in _groups(x.shape[1], w.shape, groups):
        for r, s, tap in _taps(w.shape[2:], stride, dilation, (oh, ow)):
            y[:, og] += _contract("oc,nchw->nohw", w[og, :, r, s], xpadded[:, cg][tap])
    if b is not None:
        y += _float64(b)[:, None, None]
    if z is not None:
        y += _float64(z)
    return activate(y, activation)


@_ieee
def activate(y: npt.ArrayLike, activation: str) -> Array:
    """max(y, 0) for "relu", 1 / (1 + e^−y) for "sigmoid", the hyperbolic tangent for "tanh", y itself for ""."""
    y = _float64(y)
    results = {"relu": np.maximum(y, 0), "sigmoid": 1 / (1 + np.exp(-y)), "tanh": np.tanh(y)}
    return results[activation] if activation else y


@_ieee
def conv2d_grad_input(
    input_shape: tuple[int, ...],
    w: npt.ArrayLike,
    gy: npt.ArrayLike,
    stride: Pair = (1, 1),
    padding: Pads = NO_PADS,
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Array:
    """gx[n, c, i·sh + r·dh − top, j·sw + s·dw − left] += Σ_o w[o, c, r, s]·gy[n, o, i, j], o over c's group.

    input_shape (n, c, h, w), w (o, c/groups, kh, kw), gy (n, o, oh, ow) -> gx (n, c, h, w).
    """
    w, gy = _float64(w), _float64(gy)
    n, c, height, width = input_shape
    top, bottom, left, right = padding
    gpadded = np.zeros((n, c, top + height + bottom, left + width + right))
    for og, cg in _groups(c, w.shape, groups):
        for r, s, tap in _taps(w.shape[2:], stride, dilation, gy.shape[2:]):
            gpadded[:, cg][tap] += _contract("oc,nohw->nchw", w[og, :, r, s], gy[:, og])
    return gpadded[:, :, top : top + height, left : left + width].copy()


@_ieee
def conv2d_grad_weight(
    x: npt.ArrayLike,
    weight_shape: tuple[int, ...],
    gy: npt.ArrayLike,
    stride: Pair = (1, 1),
    padding: Pads = NO_PADS,
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Array:
    """gw[o, c, r, s] = Σ_n Σ_i Σ_j gy[n, o, i, j]·xpadded[n, c, i·sh + r·dh, j·sw + s·dw].

    x (n, c, h, w), weight_shape (o, c/groups, kh, kw), gy (n, o, oh, ow) -> gw (o, c/groups, kh, kw).
    """
    xpadded, gy = _pad(_float64(x), padding), _float64(gy)
    gw = np.zeros(weight_shape)
    for og, cg in _groups(xpadded.shape[1], weight_shape, groups):
        for r, s, tap in _taps(weight_shape[2:], stride, dilation, gy.shape[2:]):
            gw[og, :, r, s] = _contract("nohw,nchw->oc", gy[:, og], xpadded[:, cg][tap])
    return gw


@_ieee
def conv2d_grad_bias(gy: npt.ArrayLike) -> Array:
    """gb[o] = Σ_n Σ_i Σ_j gy[n, o, i, j]. gy (n, o, oh, ow) -> gb (o)."""
    gb: Array = _float64(gy).sum(axis=(0, 2, 3))
    return gb


def pool_output_size(
    size: int, kernel: int, stride: int, before: int = 0, after: int = 0, dilation: int = 1, ceil_mode: bool = False
) -> int:
    """How many windows lie on one axis, counted start by start (torch.nn.MaxPool2d, "Shape").

    Without ceil_mode a window must end inside the padded axis. With it windows are added until one reaches the end,
    but none may start in the padding after the input.
    """
    span = dilation * (kernel - 1) + 1
    end = before + size + after
    starts = range(0, end, stride)
    if ceil_mode:
        return sum(start - stride + span < end and start < before + size for start in starts)
    return sum(start + span <= end for start in starts)


def max_pool2d(
    x: npt.ArrayLike,
    kernel: Pair,
    stride: Pair,
    padding: Pads = NO_PADS,
    dilation: Pair = (1, 1),
    out_size: Pair | None = None,
) -> tuple[Array, Array]:
    """y[n, c, i, j] = the largest element of window (i, j), and where it lies: row·w + column in its plane.

    x (n, c, h, w) -> y (n, c, oh, ow) float64, indices (n, c, oh, ow) int64. `out_size` is (oh, ow) if not what whole
    windows give (ceil_mode). As torch does it: of equal elements (0 and −0 too) the first in scan order; a NaN beats
    every number, and of several NaN the last is taken. A window with no input element gives −inf and index −1 (torch's
    index lies outside the plane there).
    """
    x = _float64(x)
    n, c, height, width = x.shape
    oh, ow = out_size or _out_size((height, width), kernel, stride, padding, dilation)
    y = np.full((n, c, oh, ow), -np.inf)
    indices = np.full((n, c, oh, ow), -1, dtype=np.int64)
    for i in range(oh):
        for j in range(ow):
            for row in _window(i, kernel[0], stride[0], padding[0], dilation[0], height):
                for column in _window(j, kernel[1], stride[1], padding[2], dilation[1], width):
                    value = x[:, :, row, column]
                    better = (value > y[:, :, i, j]) | np.isnan(value) | (indices[:, :, i, j] < 0)
                    y[better, i, j] = value[better]
                    indices[better, i, j] = row * width + column
    return y, indices


@_ieee
def max_pool2d_grad(
    x: npt.ArrayLike,
    gy: npt.ArrayLike,
    kernel: Pair,
    stride: Pair,
    padding: Pads = NO_PADS,
    dilation: Pair = (1, 1),
) -> Array:
    """gx = gy added up where max_pool2d found its maxima. x (n, c, h, w), gy (n, c, oh, ow) -> gx (n, c, h, w)."""
    x, gy = _float64(x), _float64(gy)
    oh, ow = gy.shape[2:]
    indices = max_pool2d(x, kernel, stride, padding, dilation, (oh, ow))[1]
    gx = np.zeros(x.shape)
    n, c, i, j = np.nonzero(indices >= 0)
    row, column = np.divmod(indices[n, c, i, j], x.shape[3])
    np.add.at(gx, (n, c, row, column), gy[n, c, i, j])
    return gx


@_ieee
def avg_pool2d(
    x: npt.ArrayLike,
    kernel: Pair,
    stride: Pair,
    padding: Pads = NO_PADS,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    out_size: Pair | None = None,
) -> Array:
    """y[n, c, i, j] = (sum of window (i, j)) / divisor.

    x (n, c, h, w) -> y (n, c, oh, ow). `out_size` is (oh, ow) if not what whole windows give (ceil_mode). The divisor
    is divisor_override, or else the number of the window's elements that lie in the input (count_include_pad False)
    or in the padded input (True): what runs off the padding's end, as it may with ceil_mode, never counts. A window
    with no input element gives 0.
    """
    x = _float64(x)
    oh, ow = out_size or _out_size(x.shape[2:], kernel, stride, padding, (1, 1))
    y = np.zeros((*x.shape[:2], oh, ow))
    for i in range(oh):
        for j in range(ow):
            rows, columns, divisor = _avg_window(
                i, j, x.shape[2:], kernel, stride, padding, count_include_pad, divisor_override
            )
            y[:, :, i, j] = x[:, :, rows, columns].sum(axis=(2, 3)) / divisor
    return y


@_ieee
def avg_pool2d_grad(
    input_shape: tuple[int, ...],
    gy: npt.ArrayLike,
    kernel: Pair,
    stride: Pair,
    padding: Pads = NO_PADS,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """gx = every gy divided by its window's divisor, added to each input element of the window.

    input_shape (n, c, h, w), gy (n, c, oh, ow) -> gx (n, c, h, w).
    """
    gy = _float64(gy)
    gx = np.zeros(input_shape)
    for i in range(gy.shape[2]):
        for j in range(gy.shape[3]):
            rows, columns, divisor = _avg_window(
                i, j, input_shape[2:], kernel, stride, padding, count_include_pad, divisor_override
            )
            gx[:, :, rows, columns] += gy[:, :, i, j, None, None] / divisor
    return gx


@_ieee
def linear(x: npt.ArrayLike, w: npt.ArrayLike, b: npt.ArrayLike | None = None) -> Array:
    """y = x wᵀ + b. x (m, in), w (out, in), b (out) -> y (m, out)."""
    y = _contract("mi,oi->mo", _float64(x), _float64(w))
    return y if b is None else y + _float64(b)


@_ieee
def linear_grad_input(w: npt.ArrayLike, gy: npt.ArrayLike) -> Array:
    """gx = gy w. w (out, in), gy (m, out) -> gx (m, in)."""
    return _contract("mo,oi->mi", _float64(gy), _float64(w))


@_ieee
def linear_grad_weight(x: npt.ArrayLike, gy: npt.ArrayLike) -> Array:
    """gw = gyᵀ x. x (m, in), gy (m, out) -> gw (out, in)."""
    return _contract("mo,mi->oi", _float64(gy), _float64(x))


@_ieee
def softmax(x: npt.ArrayLike, axis: int = -1) -> Array:
    """exp(x) / Σ exp(x) along `axis`, with the largest element taken out first so that exp cannot overflow."""
    x = _float64(x)
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    p: Array = e / e.sum(axis=axis, keepdims=True)
    return p


@_ieee
def log_softmax(x: npt.ArrayLike, axis: int = -1) -> Array:
    """x − log Σ exp(x) along `axis`, with the largest element taken out first as in softmax."""
    x = _float64(x)
    shifted = x - x.max(axis=axis, keepdims=True)
    log_p: Array = shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
    return log_p


@_ieee
def cross_entropy(x: npt.ArrayLike, target: npt.ArrayLike) -> float:
    """−mean over n of log_softmax(x)[n, target[n]]. x (n, classes), target (n) class indices."""
    log_p, target = log_softmax(x, 1), np.asarray(target)
    return -float(log_p[np.arange(target.size), target].mean())


def _float64(a: npt.ArrayLike) -> Array:
    return np.asarray(a, dtype=np.float64)


def _contract(formula: str, a: Array, b: Array) -> Array:
    result: Array = np.einsum(formula, a, b, optimize=True)
    return result


def _pad(x: Array, padding: Pads) -> Array:
    top, bottom, left, right = padding
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))


def _out_size(size: tuple[int, ...], kernel: tuple[int, ...], stride: Pair, padding: Pads, dilation: Pair) -> Pair:
    return (
        pool_output_size(size[0], kernel[0], stride[0], padding[0], padding[1], dilation[0]),
        pool_output_size(size[1], kernel[1], stride[1], padding[2], padding[3], dilation[1]),
    )


def _groups(c: int, w_shape: tuple[int, ...], groups: int) -> list[tuple[slice, slice]]:
    """For each group its output channels and its input channels."""
    og, cg = w_shape[0] // groups, w_shape[1]
    if c != cg * groups or w_shape[0] != og * groups:
        raise ValueError(f"groups={groups}: does not split {c} input channels for a weight of shape {w_shape}")
    return [(slice(g * og, (g + 1) * og), slice(g * cg, (g + 1) * cg)) for g in range(groups)]


def _taps(kernel: tuple[int, ...], stride: Pair, dilation: Pair, out: tuple[int, ...]) -> list[tuple[int, int, Any]]:
    """For each kernel element (r, s) the part of the padded input (n, c, ·, ·) that it meets, an (oh, ow) grid."""
    (sh, sw), (dh, dw), (oh, ow) = stride, dilation, out
    return [
        (r, s, np.s_[:, :, r * dh : r * dh + oh * sh : sh, s * dw : s * dw + ow * sw : sw])
        for r in range(kernel[0])
        for s in range(kernel[1])
    ]


def _window(i: int, kernel: int, stride: int, before: int, dilation: int, size: int) -> list[int]:
    """The input positions of window i on one axis."""
    positions = (i * stride - before + r * dilation for r in range(kernel))
    return [position for position in positions if 0 <= position < size]


def _avg_window(
    i: int,
    j: int,
    size: tuple[int, ...],
    kernel: Pair,
    stride: Pair,
    padding: Pads,
    count_include_pad: bool,
    divisor_override: int | None,
) -> tuple[slice, slice, float]:
    """The rows and columns of window (i, j) that lie in the input, and the divisor."""
    top, bottom, left, right = padding
    ends = (size[0] + bottom, size[1] + right)
    y0, x0 = i * stride[0] - top, j * stride[1] - left
    y1, x1 = min(y0 + kernel[0], ends[0]), min(x0 + kernel[1], ends[1])
    padded_count = (y1 - y0) * (x1 - x0)
    y0, x0 = max(y0, 0), max(x0, 0)
    y1, x1 = max(y0, min(y1, size[0])), max(x0, min(x1, size[1]))
    count = padded_count if count_include_pad else (y1 - y0) * (x1 - x0)
    return slice(y0, y1), slice(x0, x1), divisor_override or max(count, 1)
