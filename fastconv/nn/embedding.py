"""Rows of a table by their numbers: words, say, as vectors. Source: torch.nn.Embedding."""

from __future__ import annotations

import numbers
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from fastconv.autograd import Array, Variable, array, array_module, record
from fastconv.device import check_together, is_cupy
from fastconv.memory import empty
from fastconv.nn import init
from fastconv.nn.checks import float_dtype, real, whole
from fastconv.nn.module import Module, Parameter
from fastconv.problem import boolean, integer

T = TypeVar("T")


def _row(padding_idx: Any, rows: int) -> int | None:
    """`padding_idx` as a row of the weight, counted from the end if negative."""
    if padding_idx is None:
        return None
    row = whole("padding_idx", padding_idx)
    if not -rows <= row < rows:
        raise ValueError(f"padding_idx={padding_idx!r}: needs {-rows} to {rows - 1} for {rows} embeddings, or None")
    return row % rows


def _positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}={value!r}: needs a number > 0, got {type(value).__name__}")
    number = float(value)
    if not number > 0:
        raise ValueError(f"{name}={value!r}: needs a number > 0")
    return number


def _dense(sparse: Any) -> bool:
    if boolean("sparse", sparse):
        raise ValueError("sparse=True: gradients are dense arrays, needs False")
    return False


def _shrink(weight: Any, indices: Array, max_norm: float, norm_type: float) -> None:
    """Scale those of the rows that are longer than max_norm to that length, in place."""
    w = array(weight)
    xp = array_module(w)
    rows = xp.unique(indices)
    norms = xp.linalg.norm(w[rows].astype(np.float64), norm_type, axis=1)
    long = norms > max_norm
    if long.any():
        # torch's guard against a division by 0.
        factors = max_norm / (norms[long] + 1e-7)
        w[rows[long]] = w[rows[long]] * factors[:, None].astype(w.dtype)
        if isinstance(weight, Variable):
            weight._state.bump()


def _scatter(g: Array, indices: Array, shape: tuple[int, ...], padding: int | None, by_frequency: bool) -> Array:
    """gw[i] = Σ of the rows of g (M, D) whose index is i, over their number if by_frequency."""
    xp = array_module(g)
    gw: Array = xp.zeros(shape, g.dtype)
    if padding is not None:
        counted = indices != padding
        g, indices = g[counted], indices[counted]
    if not indices.size:
        return gw
    if xp is not np:
        # In no order that anybody knows.
        xp.add.at(gw, indices, g)
        counts = xp.maximum(xp.bincount(indices, minlength=shape[0]), 1)[:, None].astype(g.dtype)
        return gw / counts if by_frequency else gw
    order = np.argsort(indices, kind="stable")
    rows, first, counts = np.unique(indices[order], return_index=True, return_counts=True)
    once = counts == 1
    gw[rows[once]] = g[order[first[once]]]
    many = ~once
    if many.any():
        # Rows of one index side by side are summed in one pass, where np.add.at goes back and forth. It takes a
        # microsecond for each index, however few its rows are, so those of one row are left out.
        repeated = g[order[np.repeat(many, counts)]]
        counts = counts[many]
        sums = np.add.reduceat(repeated, np.cumsum(counts) - counts, axis=0)
        gw[rows[many]] = sums / counts[:, None].astype(g.dtype) if by_frequency else sums
    return gw


def embedding(
    input: T,
    weight: Any,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> T:
    """weight[input]: integers of any shape, each the number of a row of weight (V, D) -> (…, D) of weight's dtype.

    The gradient of a row is the sum over all places where it was taken, with scale_grad_by_freq their mean; that of
    row padding_idx, which may count from the end, is 0. max_norm: rows taken whose norm (of norm_type) is larger are
    first scaled to it, in place. IndexError for an index that is no row; sparse=True is not supported.
    Source: torch.nn.functional.embedding.
    """
    indices, w = array(input), real("weight", weight)
    if is_cupy(indices) or is_cupy(w):
        check_together({"input": indices, "weight": w})
    if indices.dtype.kind not in "iu":
        raise TypeError(f"input: dtype {indices.dtype} is not supported, needs an integer dtype")
    if w.ndim != 2:
        raise ValueError(f"weight={w.shape}: needs shape (num_embeddings, embedding_dim), got {w.ndim} dimensions")
    padding = _row(padding_idx, len(w))
    by_frequency = boolean("scale_grad_by_freq", scale_grad_by_freq)
    _dense(sparse)
    wrong = indices[(indices < 0) | (indices >= len(w))]
    if wrong.size:
        raise IndexError(f"input: index {int(wrong[0])} is out of range, needs 0 to {len(w) - 1} for weight {w.shape}")
    # A copy, because the gradient still needs the indices when the caller may have changed them.
    taken = indices.astype(np.intp)
    if max_norm is not None:
        _shrink(weight, taken, _positive("max_norm", max_norm), _positive("norm_type", norm_type))
    if array_module(w) is np:
        y = empty((*taken.shape, w.shape[1]), w.dtype)
        # Every index is a row, and modes other than "raise" write to `out` without a buffer.
        w.take(taken, axis=0, out=y, mode="clip")
    else:
        y = w.take(taken, axis=0)
    shape = w.shape

    def gradient(g: Array) -> Array:
        return _scatter(g.reshape(taken.size, shape[1]), taken.ravel(), shape, padding, by_frequency)

    return record(input, y, (weight, gradient))


class Embedding(Module):
    """A table of num_embeddings vectors, taken by their numbers: integers of any shape -> (…, embedding_dim).

    weight (num_embeddings, embedding_dim) starts normal with mean 0 and deviation 1, but row padding_idx, which gets
    no gradient, with zeros. An array of indices gives an array, a Tensor a Tensor, recorded if the weight requires a
    gradient. max_norm, norm_type, scale_grad_by_freq and errors: see nn.functional.embedding. sparse must be False.
    _weight: what the table starts with, of its shape; its memory is shared. _freeze: whether it requires no gradient.
    """

    weight: Parameter

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Any = None,
        _freeze: bool = False,
        *,
        dtype: npt.DTypeLike | None = None,
    ) -> None:
        super().__init__()
        self.num_embeddings = integer("num_embeddings", num_embeddings)
        self.embedding_dim = integer("embedding_dim", embedding_dim)
        self.padding_idx = _row(padding_idx, self.num_embeddings)
        self.max_norm = None if max_norm is None else _positive("max_norm", max_norm)
        self.norm_type = _positive("norm_type", norm_type)
        self.scale_grad_by_freq = boolean("scale_grad_by_freq", scale_grad_by_freq)
        self.sparse = _dense(sparse)
        shape, learns = (self.num_embeddings, self.embedding_dim), not boolean("_freeze", _freeze)
        if _weight is None:
            self.weight = Parameter(np.empty(shape, float_dtype(dtype)), learns)
            self.reset_parameters()
            return
        given = real("_weight", _weight)
        if given.shape != shape:
            raise ValueError(f"_weight={given.shape}: needs shape {shape}, num_embeddings and embedding_dim")
        if dtype is not None and given.dtype != float_dtype(dtype):
            raise TypeError(f"dtype={dtype!r}: needs that of _weight, {given.dtype}, or None")
        self.weight = Parameter(_weight, learns)

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Any,
        freeze: bool = True,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Self:
        """A table of these vectors, an array or Tensor (num_embeddings, embedding_dim), whose memory it shares.

        freeze: whether it requires no gradient. Row padding_idx stays as it is.
        """
        shape = real("embeddings", embeddings).shape
        if len(shape) != 2:
            raise ValueError(f"embeddings={shape}: needs shape (num_embeddings, embedding_dim)")
        options = (padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
        return cls(shape[0], shape[1], *options, embeddings, boolean("freeze", freeze))

    def reset_parameters(self) -> None:
        """Draw the table anew, zeros in row padding_idx."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            self.weight.data[self.padding_idx] = 0

    def forward(self, x: T) -> T:
        options = (self.padding_idx, self.max_norm, self.norm_type, self.scale_grad_by_freq, self.sparse)
        return embedding(x, self.weight, *options)

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        if self.padding_idx is not None:
            text += f", padding_idx={self.padding_idx}"
        if self.max_norm is not None:
            text += f", max_norm={self.max_norm}"
        if self.norm_type != 2:
            text += f", norm_type={self.norm_type}"
        if self.scale_grad_by_freq:
            text += f", scale_grad_by_freq={self.scale_grad_by_freq}"
        return text
