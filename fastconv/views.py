"""Shapes and indices of arrays or Tensors: reshape, permute, x[index] and x[index] = value.

What NumPy gives as a view shares memory and version with its input, and changing either in place is seen by both.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from fastconv.autograd import Array, T, Variable, array, array_module, is_array, record, record_view
from fastconv.ops import fit


def sizes_of(sizes: tuple[Any, ...], size: Sequence[int] | None = None) -> tuple[int, ...]:
    """A size given as f(2, 3), f((2, 3)), f([2, 3]) or f(size=(2, 3))."""
    if size is not None:
        sizes = tuple(size)
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = tuple(sizes[0])
    return tuple(operator.index(n) for n in sizes)


def flat_shape(shape: tuple[int, ...], start_dim: int, end_dim: int) -> tuple[int, ...]:
    """`shape` with its dimensions start_dim to end_dim as one; a shape of no dimensions becomes (1,)."""
    rank = max(len(shape), 1)
    for name, dim in (("start_dim", start_dim), ("end_dim", end_dim)):
        if isinstance(dim, bool) or not isinstance(dim, numbers.Integral):
            raise TypeError(f"{name}={dim!r}: needs an int, got {type(dim).__name__}")
        if not -rank <= dim < rank:
            raise ValueError(f"{name}={dim!r}: needs {-rank} to {rank - 1} for shape {shape}")
    start, end = start_dim % rank, end_dim % rank
    if start > end:
        raise ValueError(f"start_dim={start_dim!r}: needs to come before end_dim={end_dim!r} for shape {shape}")
    return (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])


def _inferred(before: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[int, ...]:
    """`sizes` with the −1 of a batch of no images worked out from what one image has; NumPy does the rest."""
    if 0 not in before or sizes.count(-1) != 1:
        return sizes
    same = next((i for i, (m, n) in enumerate(zip(before, sizes, strict=False)) if m != n), 0)
    elements, others = math.prod(before[same:]), -math.prod(sizes[same:])
    return tuple(elements // others if n == -1 else n for n in sizes) if others > 0 else sizes


def reshape(x: T, *shape: Any) -> T:
    """The elements in another shape, one extent of which may be −1; a view where strides allow it.

    For a batch of no images, too: (0, 3, 4) as (0, −1) is (0, 12).
    """
    a = array(x)
    before = a.shape
    return record_view(x, a.reshape(_inferred(before, sizes_of(shape))), lambda g: g.reshape(before))


def flatten(x: T, start_dim: int = 0, end_dim: int = -1) -> T:
    """Dimensions start_dim to end_dim as one."""
    return reshape(x, flat_shape(array(x).shape, start_dim, end_dim))


def squeeze(x: T, dim: int | None = None) -> T:
    """Without its dimensions of extent 1, or without dimension `dim` if its extent is 1."""
    shape = array(x).shape
    if dim is None:
        return reshape(x, tuple(n for n in shape if n != 1))
    if shape[dim] != 1:
        return reshape(x, shape)
    return record_view(x, array(x).squeeze(dim), lambda g: cast(Array, array_module(g).expand_dims(g, dim)))


def unsqueeze(x: T, dim: int) -> T:
    """With a new dimension of extent 1 at `dim`."""
    a = array(x)
    return record_view(x, array_module(a).expand_dims(a, dim), lambda g: g.squeeze(dim))


def permute(x: T, *dims: Any) -> T:
    """The dimensions in the order of `dims`; a view."""
    a, order = array(x), sizes_of(dims)
    back = tuple(int(i) for i in np.argsort([d % max(a.ndim, 1) for d in order]))
    return record_view(x, a.transpose(order), lambda g: g.transpose(back))


def transpose(x: T, dim0: int, dim1: int) -> T:
    """Dimensions dim0 and dim1 exchanged; a view."""
    return record_view(x, array(x).swapaxes(dim0, dim1), lambda g: g.swapaxes(dim0, dim1))


def _index(index: Any) -> tuple[tuple[Any, ...], bool]:
    """`index` as NumPy takes it, and whether it may name an element twice.

    Index arrays are copied: the gradient still needs them when the caller may have changed them.
    """
    plain: list[Any] = []
    for part in index if isinstance(index, tuple) else (index,):
        part = part._array if isinstance(part, Variable) else part
        if is_array(part):
            part = part.copy()
        elif isinstance(part, (list, tuple, range)):
            # An empty list is a selection of nothing, not of floats.
            part = np.array(part, None if len(part) else np.intp)
        plain.append(part)
    arrays = [part for part in plain if is_array(part)]
    if not arrays and not any(part is Ellipsis for part in plain):
        # An index that names one element gives a view of it, not a NumPy scalar.
        plain.append(Ellipsis)
    return tuple(plain), any(part.dtype.kind in "iu" for part in arrays)


def getitem(x: T, index: Any) -> T:
    """x[index] by NumPy's rules; index arrays may be Tensors."""
    index, repeats = _index(index)
    a = array(x)
    shape, dtype = a.shape, a.dtype

    def gradient(g: Array) -> Array:
        xp = array_module(g)
        gx = xp.zeros(shape, dtype)
        if repeats:
            xp.add.at(gx, index, g)
        else:
            gx[index] = g
        return cast(Array, gx)

    return record_view(x, a[index], gradient)


def setitem(x: Variable, index: Any, value: Any) -> None:
    """x[index] = value by NumPy's rules, in place; differentiable in what stays of x and in `value`."""
    index, repeats = _index(index)
    fitted = fit(value)

    def gradient_self(g: Array) -> Array:
        g = g.copy()
        g[index] = 0
        return g

    def gradient_value(g: Array) -> Array:
        part = g[index]
        if repeats:
            # Of several values for one element, only the last has stayed.
            xp = array_module(g)
            order = xp.arange(part.size).reshape(part.shape)
            last = xp.zeros(g.shape, np.int64)
            last[index] = order
            part = part * (last[index] == order)
        return fitted(part)

    result = record(x, x._array, (x, gradient_self), (value, gradient_value))
    x._check_change(result)
    x._array[index] = value._array if isinstance(value, Variable) else value
    x._changed(result)
