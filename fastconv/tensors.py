"""Tensor: torch.Tensor's names over the tape. What its methods compute stands in fastconv.ops and fastconv.views."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from fastconv import autograd, ops, views
from fastconv import device as device_module
from fastconv.autograd import Array, Variable, array_module, is_array


def adopt(data: Any, dtype: npt.DTypeLike | None = None) -> Array:
    """`data` as an array, copied only if it must be; floats from Python objects are float32."""
    if type(data) is np.ndarray and dtype is None and data.dtype.kind == "f":
        return data
    if isinstance(data, Variable):
        data = data._array
    if is_array(data):
        found = cast(Array, data)
    elif (taken := device_module.foreign(data)) is not None:
        found = taken
    else:
        found = np.asarray(data)
        if dtype is None and found.dtype == np.float64 and not isinstance(data, np.generic):
            dtype = np.float32
    if found.dtype.kind not in "biuf":
        raise TypeError(f"data: dtype {found.dtype} is not supported, needs bool, an integer or a float dtype")
    return found if dtype is None else found.astype(dtype, copy=False)


def _in_place(operation: Callable[[Any, Any], Any]) -> Callable[[Tensor, Any], Tensor]:
    """The method that puts operation(self, y) into the tensor's own memory."""
    return lambda self, y: self._in_place(operation, y)


class Tensor(Variable):
    """An array that operations on it can be traced back from. Source: torch.Tensor.

    data: an array (its memory is shared), a Tensor, a number or nested lists; floats of Python objects are float32.
    requires_grad: whether `backward` shall leave a gradient in `.grad`; float dtypes only, else TypeError.
    """

    __slots__ = ()
    # ndarray + Tensor is the Tensor's business.
    __array_priority__ = 1000
    # By identity, though == compares elements.
    __hash__ = object.__hash__

    def __init__(self, data: Any, requires_grad: bool = False) -> None:
        super().__init__(adopt(data), data._state if isinstance(data, Variable) else None)
        if requires_grad:
            self.requires_grad_()

    def _result(self, values: Any) -> Tensor:
        """The Tensor of what an operation on this one gave, also where that is a Parameter; not recorded yet."""
        return Tensor(values)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._array.dtype

    @property
    def ndim(self) -> int:
        return self._array.ndim

    def size(self, dim: int | None = None) -> Any:
        """The shape, or one extent of it."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return self.ndim

    def numel(self) -> int:
        return int(self._array.size)

    @property
    def data(self) -> Tensor:
        """A Tensor over the same memory and version, without history; assigning replaces the memory."""
        return self.detach()

    @data.setter
    def data(self, value: Any) -> None:
        new = Tensor(value)
        if self.requires_grad and new.dtype.kind != "f":
            raise TypeError(f"data: dtype {new.dtype} cannot require a gradient, needs a float dtype")
        self._array, self._state = new._array, new._state

    def backward(self, gradient: Any = None, retain_graph: bool = False) -> None:
        """Add d(self)/d(leaf), times `gradient`, to the `.grad` of every leaf that requires one.

        gradient: array or Tensor of this shape; may be left out for a tensor of one element. RuntimeError if nothing
        was recorded, if the graph has been used and freed, or if a saved tensor has been changed in place.
        """
        if not self._is_recorded():
            raise RuntimeError("backward on a tensor that does not require grad and that no recorded operation made")
        if gradient is None:
            if self.numel() != 1:
                raise RuntimeError(f"grad can be implicitly created only for scalar outputs, got shape {self.shape}")
            g = array_module(self._array).ones_like(self._array)
        else:
            g = adopt(gradient, self.dtype)
            if g.shape != self.shape:
                raise RuntimeError(f"gradient={g.shape}: needs the tensor's shape {self.shape}")
        autograd.backward(self, g, retain_graph)

    def detach(self) -> Tensor:
        """The same memory and version, without history."""
        return Tensor(self)

    def clone(self) -> Tensor:
        """A copy, recorded."""
        return autograd.record(self, self._array.copy(), (self, lambda g: g))

    def contiguous(self) -> Tensor:
        """The tensor itself if its memory is in C order, else a copy that is."""
        return self if self._array.flags.c_contiguous else self.clone()

    def to(self, *target: Any, device: str | None = None, dtype: npt.DTypeLike | None = None) -> Tensor:
        """The tensor on a device and as a dtype, given in any order or by name: itself if it is so already.

        A copy is recorded if its dtype is a float. device: "cpu", "cuda" or "cuda:0" with a number, else ValueError;
        RuntimeError if there is no CUDA device.
        """
        for one in target:
            if isinstance(one, str) and one.startswith(("cpu", "cuda")):
                device = one
            else:
                dtype = one
        found = self if dtype is None or self.dtype == dtype else ops.cast_to(self, dtype)
        return found if device is None else ops.move_to(found, device)

    def cuda(self, device: int | None = None) -> Tensor:
        """The tensor on the current CUDA device or the one of this number; see `to`."""
        return self.to("cuda" if device is None else f"cuda:{device}")

    def cpu(self) -> Tensor:
        """The tensor in main memory; see `to`."""
        return self.to("cpu")

    @property
    def device(self) -> str:
        """Where its array is: "cpu", or "cuda:0" with the device's number."""
        return device_module.name_of(self._array)

    def numpy(self) -> Array:
        """The array itself, sharing memory. RuntimeError if the tensor requires a gradient, TypeError on a device."""
        if self.requires_grad:
            raise RuntimeError("numpy() on a Tensor that requires grad; use tensor.detach().numpy()")
        if device_module.is_cupy(self._array):
            raise TypeError(f"numpy() on a Tensor on {self.device}; use tensor.cpu() first")
        return self._array

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def item(self) -> Any:
        """The value of a tensor of one element, as a Python number."""
        if self.numel() != 1:
            raise RuntimeError(f"a Tensor with {self.numel()} elements cannot be converted to a scalar")
        return self._array.item()

    def tolist(self) -> Any:
        return self._array.tolist()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        return operator.index(self.item())

    def __bool__(self) -> bool:
        if self.numel() != 1:
            raise RuntimeError(f"the truth of a Tensor with {self.numel()} elements is ambiguous")
        return bool(self._array.item())

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of a 0-d tensor")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if not self.ndim:
            raise TypeError("iteration over a 0-d tensor")
        return (self[i] for i in range(len(self)))

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if not self.ndim else format(str(self), spec)

    def __repr__(self) -> str:
        a = device_module.moved(self._array, "cpu")
        options: dict[str, Any] = {"precision": 4}
        if a.dtype.kind == "f":
            finite = a[np.isfinite(a)]
            if (finite != np.trunc(finite)).any():
                options["floatmode"] = "fixed"
        text = np.array2string(a, separator=", ", prefix="tensor(", threshold=1000, **options)
        if not a.size and a.ndim > 1:
            text += f", size={a.shape}"
        if a.dtype not in (np.float32, np.int64, np.bool_):
            text += f", dtype={a.dtype}"
        if self.device != "cpu":
            text += f", device='{self.device}'"
        return f"tensor({text}{', requires_grad=True' if self.requires_grad else ''})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if self._node is not None:
            raise RuntimeError("only leaf tensors can be deep-copied; use .detach() or .clone()")
        copy = type(self)(self._array.copy(), requires_grad=self._requires_grad)
        copy.grad = None if self.grad is None else Tensor(self.grad._array.copy())
        memo[id(self)] = copy
        return copy

    __add__ = __radd__ = ops.add
    __sub__ = ops.sub
    __mul__ = __rmul__ = ops.mul
    __truediv__ = ops.div
    __pow__ = pow = ops.pow
    __matmul__ = matmul = ops.matmul
    __neg__ = ops.neg
    __abs__ = abs = ops.abs
    __getitem__ = views.getitem
    __setitem__ = views.setitem

    def __rsub__(self, y: Any) -> Tensor:
        return cast(Tensor, ops.sub(y, self))

    def __rtruediv__(self, y: Any) -> Tensor:
        return cast(Tensor, ops.div(y, self))

    def __rpow__(self, y: Any) -> Tensor:
        return cast(Tensor, ops.pow(y, self))

    def __rmatmul__(self, y: Any) -> Tensor:
        return cast(Tensor, ops.matmul(y, self))

    __iadd__ = _in_place(ops.add)
    __isub__ = _in_place(ops.sub)
    __imul__ = _in_place(ops.mul)
    __itruediv__ = _in_place(ops.div)
    __ipow__ = _in_place(ops.pow)

    def relu_(self) -> Tensor:
        """relu, in place."""
        return self._in_place(ops.relu)

    def fill_(self, value: Any) -> Tensor:
        """Set every element to `value`, in place."""
        self[...] = value
        return self

    def copy_(self, source: Any) -> Tensor:
        """Set the elements to those of `source`, broadcast, in place."""
        return self.fill_(source)

    def zero_(self) -> Tensor:
        """Set every element to 0, in place."""
        return self.fill_(0)

    def __eq__(self, other: object) -> Any:
        return ops.compare(self, other, operator.eq)

    def __ne__(self, other: object) -> Any:
        return ops.compare(self, other, operator.ne)

    def __lt__(self, other: Any) -> Any:
        return ops.compare(self, other, operator.lt)

    def __le__(self, other: Any) -> Any:
        return ops.compare(self, other, operator.le)

    def __gt__(self, other: Any) -> Any:
        return ops.compare(self, other, operator.gt)

    def __ge__(self, other: Any) -> Any:
        return ops.compare(self, other, operator.ge)

    def __and__(self, other: Any) -> Any:
        return ops.compare(self, other, operator.and_)

    def __or__(self, other: Any) -> Any:
        return ops.compare(self, other, operator.or_)

    def __invert__(self) -> Tensor:
        return Tensor(~self._array)

    exp = ops.exp
    log = ops.log
    sqrt = ops.sqrt
    relu = ops.relu
    sigmoid = ops.sigmoid
    tanh = ops.tanh
    softmax = ops.softmax
    log_softmax = ops.log_softmax

    sum = ops.sum
    mean = ops.mean
    max = ops.max
    min = ops.min
    argmax = ops.argmax
    argmin = ops.argmin

    reshape = view = views.reshape
    flatten = views.flatten
    squeeze = views.squeeze
    unsqueeze = views.unsqueeze
    permute = views.permute
    transpose = views.transpose

    @property
    def T(self) -> Tensor:
        """The dimensions in reverse order; a view."""
        return self.permute(tuple(range(self.ndim))[::-1])

    def float(self) -> Tensor:
        return self.to(np.float32)

    def double(self) -> Tensor:
        return self.to(np.float64)

    def long(self) -> Tensor:
        return self.to(np.int64)
