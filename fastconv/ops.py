"""Operations on arrays or Tensors that compute new values: arithmetic, matmul, functions, reductions, cat and stack.

Each is written once, computes on arrays and hands its result and its gradients to `record`. Given arrays it returns an
array and records nothing; given a Tensor among its inputs, a Tensor. Source: the functions of the same names in torch.

In this file abs, max, min, pow and sum are these operations, not Python's.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from fastconv.autograd import Array, Gradient, T, Variable, array, array_module, is_array, record
from fastconv.device import is_cupy, moved, name_of

Dims: TypeAlias = "int | Sequence[int] | None"


def _is_operand(x: object) -> bool:
    """Whether `x` is a Tensor, an array or a number."""
    return isinstance(x, (Variable, bool, int, float, np.generic)) or is_array(x)


def _common_dtype(arrays: Sequence[Array]) -> Any:
    """The float dtype that arrays share by torch's rules; None if no array is a float.

    An integer takes the dtype of a float, and a 0-d array that of one with dimensions. Source: torch.Tensor,
    "Type promotion".
    """
    floats = [a for a in arrays if a.dtype.kind == "f"]
    dtypes = [a.dtype for a in floats if a.ndim] or [a.dtype for a in floats]
    return np.result_type(*dtypes) if dtypes else None


def _operands(x: Any, y: Any, divide: bool = False) -> tuple[Any, Any]:
    """The arrays, or weak Python scalars, of two operands, brought to torch's result dtype."""
    for value in (x, y):
        if not _is_operand(value):
            raise TypeError(
                f"operand={value!r:.60}: needs a Tensor, an array or a Python number, got {type(value).__name__}"
            )
    a, b = (v._array if isinstance(v, Variable) else v.item() if isinstance(v, np.generic) else v for v in (x, y))
    dtype = _common_dtype([v for v in (a, b) if is_array(v)])
    if dtype is None:
        if not divide and not isinstance(a, float) and not isinstance(b, float):
            return a, b
        dtype = np.float32
    a, b = (v.astype(dtype, copy=False) if is_array(v) else v for v in (a, b))
    return a, b


def _kind(x: T, y: Any) -> T:
    """The operand that says what the result is: a Tensor if there is one."""
    return x if isinstance(x, Variable) else cast(T, y)


def fit(x: Any) -> Gradient:
    """The function that brings a gradient to the shape and dtype of `x`: broadcasting, undone."""
    if not isinstance(x, Variable):
        return lambda g: g
    shape, dtype = x._array.shape, x._array.dtype

    def fitted(g: Array) -> Array:
        if g.shape != shape:
            # Assignment drops leading extents of 1; here they come back.
            g = g.reshape((1,) * (len(shape) - g.ndim) + g.shape)
            extra = g.ndim - len(shape)
            stretched = tuple(extra + i for i, n in enumerate(shape) if n == 1 and g.shape[extra + i] != 1)
            g = g.sum(axis=tuple(range(extra)) + stretched, keepdims=True).reshape(shape)
        return g.astype(dtype, copy=False)

    return fitted


def add(x: T, y: Any) -> T:
    a, b = _operands(x, y)
    return record(_kind(x, y), a + b, (x, fit(x)), (y, fit(y)))


def sub(x: T, y: Any) -> T:
    a, b = _operands(x, y)
    fit_y = fit(y)
    return record(_kind(x, y), a - b, (x, fit(x)), (y, lambda g: fit_y(-g)))


def mul(x: T, y: Any) -> T:
    a, b = _operands(x, y)
    fit_x, fit_y = fit(x), fit(y)
    return record(_kind(x, y), a * b, (x, lambda g: fit_x(g * b), y), (y, lambda g: fit_y(g * a), x))


def div(x: T, y: Any) -> T:
    a, b = _operands(x, y, divide=True)
    fit_x, fit_y = fit(x), fit(y)
    # Divided twice, because b·b may underflow.
    return record(_kind(x, y), a / b, (x, lambda g: fit_x(g / b), y), (y, lambda g: fit_y(-g * (a / b) / b), x, y))


def pow(x: T, y: Any) -> T:
    """x to the power of y."""
    a, b = _operands(x, y)
    fit_x, fit_y = fit(x), fit(y)
    result = a**b

    def gradient_x(g: Array) -> Array:
        if not is_array(b):
            return fit_x(g * (b * a ** (b - 1)) if b else g * 0)
        # 0 · a**(−1) is no gradient, not NaN, where a is 0.
        return fit_x(g * b * a ** array_module(b).where(b == 0, 1, b - 1))

    def gradient_y(g: Array) -> Array:
        xp = array_module(g)
        # 0**b is constantly 0 for b >= 0; its formula 0 · log 0 is NaN.
        zero = (xp.asarray(a) == 0) & (b >= 0)
        return fit_y(g * result * xp.log(xp.where(zero, 1, a)))

    return record(_kind(x, y), result, (x, gradient_x, x, y), (y, gradient_y, x, y, result))


def matmul(x: T, y: Any) -> T:
    """x @ y with NumPy's rules for 1-D operands and leading dimensions; an array if both are arrays."""
    a, b = _operands(x, y)
    fit_x, fit_y = fit(x), fit(y)

    # Gradients see matrices: a row on the left, a column on the right.
    def matrix(g: Array) -> Array:
        g = g[..., None] if b.ndim == 1 else g
        return g[..., None, :] if a.ndim == 1 else g

    def gradient_x(g: Array) -> Array:
        columns = b[:, None] if b.ndim == 1 else b
        ga = matrix(g) @ columns.swapaxes(-1, -2)
        return fit_x(ga[..., 0, :] if a.ndim == 1 else ga)

    def gradient_y(g: Array) -> Array:
        rows = a[None] if a.ndim == 1 else a
        gb = rows.swapaxes(-1, -2) @ matrix(g)
        return fit_y(gb[..., 0] if b.ndim == 1 else gb)

    return record(_kind(x, y), a @ b, (x, gradient_x, y), (y, gradient_y, x))


def neg(x: T) -> T:
    """−x."""
    return record(x, -array(x), (x, operator.neg))


def abs(x: T) -> T:
    """The absolute value of every element; its gradient is 0 at 0."""
    a = array(x)
    xp = array_module(a)
    return record(x, xp.abs(a), (x, lambda g: g * xp.sign(a), x))


def _floating(x: Any) -> Array:
    """The array of `x` for a function of real numbers: integers become float32, as in torch."""
    a = array(x)
    return a if a.dtype.kind == "f" else a.astype(np.float32)


def exp(x: T) -> T:
    """e to the power of every element."""
    a = _floating(x)
    y = array_module(a).exp(a)
    return record(x, y, (x, lambda g: g * y, y))


def log(x: T) -> T:
    """The natural logarithm of every element."""
    a = _floating(x)
    return record(x, array_module(a).log(a), (x, lambda g: g / a, x))


def sqrt(x: T) -> T:
    """The square root of every element."""
    a = _floating(x)
    y = array_module(a).sqrt(a)
    return record(x, y, (x, lambda g: g / (2 * y), y))


# Below this many elements NumPy is as fast as a kernel.
_FEW = 2048


def vectorised(*arrays: Array) -> bool:
    """Whether kernels that take whole arrays of one dtype take these, and are worth calling."""
    first = arrays[0]
    return first.size >= _FEW and all(
        type(a) is np.ndarray and a.flags.carray and a.dtype is first.dtype and a.dtype.char in "fd" for a in arrays
    )


def on_device(*arrays: Array) -> Any:
    """The module of functions of whole CuPy arrays if it takes these, else None."""
    if not is_cupy(arrays[0]):
        return None
    from fastconv.kernels.cuda import functions

    return functions if functions.take(*arrays) else None


def _pointwise(*arrays: Array) -> Any:
    """The module that has the functions of whole arrays, activate and gradient, if it takes these, else None."""
    if vectorised(*arrays):
        from fastconv.kernels.cpu import pointwise

        return pointwise
    return on_device(*arrays) if arrays[0].dtype.char == "f" else None


def _activation(
    name: str, x: T, a: Array, plain: Callable[[Array], Array], slope: Callable[[Array, Array], Array]
) -> T:
    """y = f(x) and its gradient from y and g, by kernels or, for few or other elements, by `plain` and `slope`."""
    kernels = _pointwise(a)
    y = plain(a) if kernels is None else kernels.activate(name, a)

    def gradient(g: Array) -> Array:
        kernels = _pointwise(y, g)
        return slope(y, g) if kernels is None else cast(Array, kernels.gradient(name, y, g))

    return record(x, y, (x, gradient, y))


def relu(x: T) -> T:
    """max(x, 0), NaN for NaN; its gradient is 0 at 0."""
    a = array(x)
    xp = array_module(a)
    return _activation("relu", x, a, lambda a: xp.maximum(a, 0), lambda y, g: xp.where(y <= 0, g.dtype.type(0), g))


def _plain_sigmoid(a: Array) -> Array:
    xp = array_module(a)
    e = xp.exp(-xp.abs(a))
    return cast(Array, xp.where(a >= 0, 1, e) / (1 + e))


def sigmoid(x: T) -> T:
    """1 / (1 + e^−x), computed without overflow."""
    return _activation("sigmoid", x, _floating(x), _plain_sigmoid, lambda y, g: g * (y * (1 - y)))


def tanh(x: T) -> T:
    """The hyperbolic tangent of every element."""
    a = _floating(x)
    return _activation("tanh", x, a, array_module(a).tanh, lambda y, g: g * (1 - y * y))


def _soft(kernels: Any, x: T, a: Array, dim: int, logarithm: bool) -> T:
    """softmax or its logarithm on a device."""
    axis = normalize_axis_index(dim, a.ndim)
    y = kernels.soft(a, axis, logarithm)
    return record(x, y, (x, lambda g: kernels.soft_grad(y, g.astype(y.dtype, copy=False), axis, logarithm), y))


def softmax(x: T, dim: int) -> T:
    """e^x / Σ e^x along `dim`, less its largest element first."""
    a = _floating(x)
    if (kernels := on_device(a)) is not None and a.ndim:
        return _soft(kernels, x, a, dim, False)
    e = array_module(a).exp(a - a.max(axis=dim, keepdims=True))
    y = e / e.sum(axis=dim, keepdims=True)
    return record(x, y, (x, lambda g: y * (g - (g * y).sum(axis=dim, keepdims=True)), y))


def log_softmax(x: T, dim: int) -> T:
    """x − log Σ e^x along `dim`, computed without overflow."""
    a = _floating(x)
    if (kernels := on_device(a)) is not None and a.ndim:
        return _soft(kernels, x, a, dim, True)
    xp = array_module(a)
    shifted = a - a.max(axis=dim, keepdims=True)
    y = shifted - xp.log(xp.exp(shifted).sum(axis=dim, keepdims=True))
    return record(x, y, (x, lambda g: g - xp.exp(y) * g.sum(axis=dim, keepdims=True), y))


def cast_to(x: T, dtype: Any) -> T:
    """A copy of `x` as `dtype`; its gradient returns as x's dtype, and there is none if `dtype` is no float."""
    y = array(x).astype(dtype)
    return record(x, y, (x, fit(x))) if y.dtype.kind == "f" else record(x, y)


def move_to(x: T, device: str) -> T:
    """`x` on a device, itself if it is there; its gradient returns to where x is."""
    a = array(x)
    y = moved(a, device)
    if y is a:
        return x
    back = name_of(a)
    return record(x, y, (x, lambda g: cast(Array, moved(g, back))))


def cat(tensors: Sequence[Any], dim: int = 0) -> Any:
    """The tensors joined along `dim`; an array if all of them are arrays."""
    return _joined("cat", tensors, dim)


def stack(tensors: Sequence[Any], dim: int = 0) -> Any:
    """The tensors, of one shape, along a new dimension `dim`; an array if all are arrays."""
    return _joined("stack", tensors, dim)


def _part(where: tuple[Any, ...], fitted: Gradient) -> Gradient:
    return lambda g: fitted(g[where])


def _joined(kind: str, tensors: Sequence[Any], dim: int) -> Any:
    arrays = [array(t, "tensors") for t in tensors]
    if not arrays:
        raise ValueError(f"tensors={tensors!r}: {kind} needs at least one tensor")
    join = getattr(array_module(arrays[0]), "concatenate" if kind == "cat" else "stack")
    y = join(arrays, axis=dim, dtype=_common_dtype(arrays))
    axis = dim % y.ndim
    before: tuple[slice, ...] = (slice(None),) * axis
    edges: list[tuple[Any, Gradient]] = []
    start = 0
    for i, (t, a) in enumerate(zip(tensors, arrays, strict=True)):
        where: Any = i
        if kind == "cat":
            where = slice(start, start + a.shape[axis])
            start = where.stop
        edges.append((t, _part((*before, where), fit(t))))
    among = next((t for t in tensors if isinstance(t, Variable)), tensors[0])
    return record(among, y, *edges)


def _axis(dim: Dims, axis: Dims) -> Any:
    """The one dimension argument of a reduction: torch's `dim` or NumPy's `axis`."""
    if dim is not None and axis is not None:
        raise TypeError(f"dim={dim!r}, axis={axis!r}: needs one of them, not both")
    chosen = axis if dim is None else dim
    return tuple(chosen) if isinstance(chosen, list) else chosen


def _spread(shape: tuple[int, ...], dims: Any, keepdim: bool) -> Gradient:
    """The gradient of a sum: every element of `shape` has the gradient of the sum that it went into."""

    def gradient(g: Array) -> Array:
        xp = array_module(g)
        return cast(Array, xp.broadcast_to(g if keepdim or dims is None else xp.expand_dims(g, dims), shape))

    return gradient


def sum(x: T, dim: Dims = None, keepdim: bool = False, *, axis: Dims = None) -> T:
    """The sum, over all elements or along dimensions."""
    a, dims = array(x), _axis(dim, axis)
    return record(x, a.sum(axis=dims, keepdims=keepdim), (x, _spread(a.shape, dims, keepdim)))


def mean(x: T, dim: Dims = None, keepdim: bool = False, *, axis: Dims = None) -> T:
    """The mean, over all elements or along dimensions; float dtypes only."""
    a, dims = array(x), _axis(dim, axis)
    if a.dtype.kind != "f":
        raise TypeError(f"mean: dtype {a.dtype} is not supported, needs a float dtype")
    y = a.mean(axis=dims, keepdims=keepdim)
    spread, count = _spread(a.shape, dims, keepdim), a.size / y.size if a.size else 1
    return record(x, y, (x, lambda g: spread(g / count)))


class Extremum(NamedTuple):
    """What max and min give along a dimension. Source: torch.return_types.max."""

    values: Any
    indices: Any


def _extremum(name: str, x: Any, axis: int | None, keepdim: bool) -> Any:
    a = array(x)
    xp = array_module(a)
    values = getattr(a, name)(axis=axis, keepdims=keepdim)
    if axis is None:

        def shared(g: Array) -> Array:
            # Equal elements share the gradient; if the result is NaN, the NaNs do.
            top = (a == values) | xp.isnan(a)
            return cast(Array, g * top / top.sum(dtype=a.dtype))

        return record(x, values, (x, shared, x, values))
    shape, first = a.shape, xp.expand_dims(getattr(a, "arg" + name)(axis=axis), axis)

    def gradient(g: Array) -> Array:
        gx = xp.zeros(shape, g.dtype)
        xp.put_along_axis(gx, first, g if keepdim else xp.expand_dims(g, axis), axis=axis)
        return cast(Array, gx)

    # A copy of the indices, because the gradient still needs them when the caller may have changed them.
    indices = (first if keepdim else first.squeeze(axis)).copy()
    return Extremum(record(x, values, (x, gradient, first)), record(x, indices))


def max(x: Any, dim: int | None = None, keepdim: bool = False, *, axis: int | None = None) -> Any:
    """The largest element; along a dimension (values, indices), the first of equals. NaN counts as largest."""
    return _extremum("max", x, _axis(dim, axis), keepdim)


def min(x: Any, dim: int | None = None, keepdim: bool = False, *, axis: int | None = None) -> Any:
    """The smallest element; along a dimension (values, indices), the first of equals. NaN counts as smallest."""
    return _extremum("min", x, _axis(dim, axis), keepdim)


def argmax(x: T, dim: int | None = None, keepdim: bool = False, *, axis: int | None = None) -> T:
    """Where the largest element stands, in the flattened tensor or along a dimension; int64."""
    return record(x, array(x).argmax(axis=_axis(dim, axis), keepdims=keepdim))


def argmin(x: T, dim: int | None = None, keepdim: bool = False, *, axis: int | None = None) -> T:
    """Where the smallest element stands, in the flattened tensor or along a dimension; int64."""
    return record(x, array(x).argmin(axis=_axis(dim, axis), keepdims=keepdim))


def compare(x: Any, y: Any, comparison: Callable[[Any, Any], Any]) -> Any:
    """comparison(x, y), elementwise and never recorded; NotImplemented for what cannot be an operand."""
    if not _is_operand(y):
        return NotImplemented
    return record(x, comparison(*_operands(x, y)))
