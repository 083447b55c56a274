"""A stand-in for CuPy on machines without a GPU: arrays in main memory, and raw kernels that the executor runs.

It is as narrow as CuPy: a NumPy array among CuPy's is a TypeError, an array is never made a NumPy array but by get(),
and what CuPy has no function for, this has none for. So it shows that a call finds its way to the kernels and back,
and nothing about a device. It needs CuPy itself, which imports without a driver, to know what there is.
"""

import ctypes
import hashlib
import operator
import os
import re
import sys
import tempfile
import time
import types
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import cupy as real
import numpy as np

from fastconv import cudaemu, device
from fastconv.kernels.cuda import launch

# Shapes of what was copied to main memory.
copies: list[tuple[int, ...]] = []
_RESULTS = (np.ndarray, np.generic)


class ndarray:  # noqa: N801 - CuPy's name
    """A CuPy array whose elements are in main memory."""

    __module__ = "cupy"
    __slots__ = ("_a", "_base")
    __hash__ = None

    def __init__(self, a, base=None):
        self._a, self._base = a, base

    @property
    def base(self):
        return self._base

    @property
    def flags(self):
        flags = self._a.flags
        return types.SimpleNamespace(
            c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous, owndata=flags.owndata
        )

    @property
    def data(self):
        return types.SimpleNamespace(ptr=self._a.ctypes.data)

    @property
    def device(self):
        return Device(0)

    @property
    def T(self):
        return _made(self._a.T, self)

    def get(self):
        copies.append(self.shape)
        return self._a.copy()

    def item(self, *args):
        return self._a.item(*args)

    def tolist(self):
        return self._a.tolist()

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        if method not in ("__call__", "at") or not hasattr(real, ufunc.__name__):
            return NotImplemented
        if out is not None:
            kwargs["out"] = tuple(map(_given, out))
        result = getattr(ufunc, method)(*map(_given, inputs), **kwargs)
        return out[0] if out is not None and method == "__call__" else _made(result)

    def __array_function__(self, function, types_, args, kwargs):
        inside = module.linalg if function.__module__ == "numpy.linalg" else module
        return getattr(inside, function.__name__)(*args, **kwargs)

    def __getattr__(self, name):
        if not hasattr(real.ndarray, name):
            raise AttributeError(f"cupy.ndarray has no {name}")
        value = getattr(self._a, name)
        if not callable(value):
            return value

        def method(*args, **kwargs):
            # CuPy's methods have fewer arguments than NumPy's; what they are is the first line of their docstrings.
            signature = (getattr(real.ndarray, name).__doc__ or "").partition("\n")[0]
            unknown = [word for word in kwargs if f"{name}(" in signature and not re.search(rf"\b{word}\b", signature)]
            if unknown:
                raise TypeError(f"cupy.ndarray.{name}() got an unexpected keyword argument {unknown[0]!r}")
            return _made(value(*map(_given, args), **_all_given(kwargs)), self)

        return method

    def __getitem__(self, index):
        return _made(self._a[_index(index)], self)

    def __setitem__(self, index, value):
        if isinstance(value, np.ndarray) and value.ndim:
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        self._a[_index(index)] = _given(value)

    def __iter__(self):
        return (self[k] for k in range(len(self._a)))

    def __len__(self):
        return len(self._a)

    def __bool__(self):
        return bool(self._a)

    def __int__(self):
        return int(self._a)

    def __float__(self):
        return float(self._a)

    def __index__(self):
        return operator.index(self._a)

    def __repr__(self):
        return repr(self._a)


def _operator(name, reverse=False):
    function = getattr(np.ndarray, f"__{name}__")

    def operate(self, other=None):
        if other is not None and not isinstance(other, (ndarray, int, float, bool, np.generic)):
            return NotImplemented
        return _made(function(self._a) if other is None else function(self._a, _given(other)))

    def change(self, other):
        function(self._a, _given(other))
        return self

    return change if name[0] == "i" and name not in ("invert",) else operate


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"):
    for _form in (_name, f"r{_name}", f"i{_name}"):
        if hasattr(np.ndarray, f"__{_form}__"):
            setattr(ndarray, f"__{_form}__", _operator(_form))
for _name in ("neg", "pos", "abs", "invert", "eq", "ne", "lt", "le", "gt", "ge"):
    setattr(ndarray, f"__{_name}__", _operator(_name))


def _given(value):
    """What NumPy gets for an argument of CuPy's; TypeError for a NumPy array, as CuPy has it."""
    if isinstance(value, ndarray):
        return value._a
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, (list, tuple)):
        return type(value)(map(_given, value))
    return value


def _all_given(kwargs):
    return {name: _given(value) for name, value in kwargs.items()}


def _index(index):
    parts = index if isinstance(index, tuple) else (index,)
    return tuple(part._a if isinstance(part, ndarray) else part for part in parts)


def _made(result, source=None):
    """A result of NumPy's as CuPy has it: arrays, of no dimensions too."""
    if isinstance(result, (tuple, list)):
        return type(result)(_made(one, source) for one in result)
    if not isinstance(result, _RESULTS):
        return result
    a = np.asarray(result)
    view = source is not None and a.size and np.may_share_memory(a, source._a)
    return ndarray(a, source if view else None)


class Device:
    """The only device."""

    compute_capability = "80"
    current = 0

    def __init__(self, number=None):
        self.id = self.current if number is None else number

    def synchronize(self):
        return None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def __eq__(self, other):
        return self.id == other.id

    __hash__ = None


class RawModule:
    """A source whose kernels the executor runs."""

    # Launches, by kernel.
    launched: ClassVar[dict[str, int]] = {}

    def __init__(self, *, code=None, options=()):
        defines = dict(option[2:].partition("=")[::2] for option in options if option.startswith("-D"))
        folder = Path(tempfile.gettempdir(), f"cupy-standin-{os.getuid()}")
        folder.mkdir(exist_ok=True)
        path = folder / f"{hashlib.sha256(code.encode()).hexdigest()[:20]}.cu"
        path.write_text(code, encoding="utf-8")
        self._module = cudaemu.Module(path, defines)

    def get_function(self, name):
        return _RawKernel(self._module.get_function(name))


class _RawKernel:
    """A kernel; its most dynamic shared memory can be set, as CuPy's can."""

    def __init__(self, function):
        self._function = function
        self.max_dynamic_shared_size_bytes = 48 * 1024

    def __call__(self, grid, block, args, *, shared_mem=0):
        assert type(grid) is type(block) is type(args) is tuple
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise ValueError(f"shared_mem={shared_mem}: is more than a kernel may have unless it is told")
        null = [isinstance(one, np.uint64) and not one for one in args]
        given = [None if none else _given(one) for none, one in zip(null, args, strict=True)]
        name = self._function.name
        RawModule.launched[name] = RawModule.launched.get(name, 0) + 1
        self._function(grid, block, given, shared_mem)


class Stream:
    """A stream: here work is done at once."""

    def __init__(self, non_blocking=False):
        return None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def synchronize(self):
        return None


class Event:
    """A moment of this machine's clock."""

    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        return None


_ATTRIBUTES = {
    real.cuda.runtime.cudaDevAttrClockRate: 1_410_000,
    real.cuda.runtime.cudaDevAttrMultiProcessorCount: launch.A100.processors,
    real.cuda.runtime.cudaDevAttrMaxThreadsPerMultiProcessor: launch.A100.threads,
    real.cuda.runtime.cudaDevAttrMaxSharedMemoryPerBlockOptin: launch.A100.shared_bytes,
}


class _Runtime(types.ModuleType):
    CUDARuntimeError = real.cuda.runtime.CUDARuntimeError

    def getDeviceCount(self):
        return 1

    def getDeviceProperties(self, number):
        return {"name": b"stand-in for an A100"}

    def driverGetVersion(self):
        return 13_000

    def deviceGetAttribute(self, attribute, number):
        return _ATTRIBUTES[attribute]

    def __getattr__(self, name):
        return getattr(real.cuda.runtime, name)


class _Cuda(types.ModuleType):
    Device = Device
    Event = Event
    Stream = Stream
    runtime = _Runtime("cupy.cuda.runtime")

    def get_current_stream(self):
        return Stream()

    def get_elapsed_time(self, start, end):
        return (end.at - start.at) * 1e3

    def __getattr__(self, name):
        return getattr(real.cuda, name)


class _Cupy(types.ModuleType):
    """NumPy's functions, of those that CuPy has, on CuPy arrays."""

    __version__ = real.__version__
    ndarray = ndarray
    RawModule = RawModule
    cuda = _Cuda("cupy.cuda")
    linalg: types.ModuleType

    def asarray(self, value, dtype=None, order=None):
        if isinstance(value, ndarray) and dtype in (None, value.dtype):
            return value
        if hasattr(value, "__cuda_array_interface__"):
            where = value.__cuda_array_interface__
            buffer = np.lib.stride_tricks.as_strided(_at(where), where["shape"], where["strides"])
            return ndarray(buffer)
        return ndarray(np.array(value._a if isinstance(value, ndarray) else value, dtype, order=order))

    def array(self, value, dtype=None, copy=True, order="K"):
        return ndarray(np.array(value._a if isinstance(value, ndarray) else value, dtype, order=order))

    def from_dlpack(self, value):
        return ndarray(np.from_dlpack(value.on_host()))

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _wrapped(name, real, np)


class _Linalg(types.ModuleType):
    """numpy.linalg, in the same way."""

    def __getattr__(self, name):
        return _wrapped(name, real.linalg, np.linalg)


def _wrapped(name, known, source):
    """A function of NumPy's on CuPy arrays, if CuPy has it."""
    if not hasattr(known, name):
        raise AttributeError(f"module {known.__name__!r} has no attribute {name!r}")
    value = getattr(source, name)
    if not callable(value) or isinstance(value, type):
        return value

    def function(*args, **kwargs):
        return _made(value(*map(_given, args), **_all_given(kwargs)))

    if isinstance(value, np.ufunc):
        function.at = lambda a, *rest: value.at(a._a, *map(_given, rest))
    return function


def _at(where):
    """The memory that an array interface describes."""
    dtype = np.dtype(where["typestr"])
    strides = where["strides"] or np.empty(where["shape"], dtype).strides
    where["strides"] = strides
    count = sum((n - 1) * s for n, s in zip(where["shape"], strides, strict=True)) // dtype.itemsize + 1
    return np.frombuffer((ctypes.c_byte * (count * dtype.itemsize)).from_address(where["data"][0]), dtype)


_Cupy.linalg = _Linalg("cupy.linalg")
module = _Cupy("cupy")


@contextmanager
def installed(monkeypatch):
    """`import cupy` gives the stand-in, and kernels are launched through it."""
    monkeypatch.setitem(sys.modules, "cupy", module)
    caches = device.cupy, launch._cupy, launch._compiled, launch._function
    for cache in caches:
        cache.cache_clear()
    RawModule.launched.clear()
    yield module
    for cache in caches:
        cache.cache_clear()
