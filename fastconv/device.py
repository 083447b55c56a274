"""CUDA devices, through CuPy: whose an array is, arrays of other libraries, and calls of CUDA kernels.

CuPy is imported when CUDA is asked for, never by `import fastconv`. Kernels run on CuPy's current stream and get their
memory from its pool, so a call returns before its result is there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv.problem import Problem
from fastconv.registry import OPS, Kernel

if TYPE_CHECKING:
    from fastconv.functional import Kept

# What kernels may assume of where an array begins: they read four floats at a time.
_ALIGNMENT = 16
_DEVICES = ("cpu", "cuda")


def is_cupy(x: object) -> bool:
    """Whether `x` is a CuPy array; CuPy is not imported for it."""
    return type(x).__module__ == "cupy"


def backend(x: object) -> str:
    """The backend whose kernels take the array: "cuda" for one of CuPy, else "cpu"."""
    return "cuda" if is_cupy(x) else "cpu"


@lru_cache(maxsize=1)
def cupy() -> Any:
    """CuPy with a device. RuntimeError that says what to install without it, without a driver or without a device."""
    try:
        import cupy as found
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            raise
        raise RuntimeError(
            "CUDA needs CuPy, which is not installed: pip install 'fastconv[cuda13]', or 'fastconv[cuda12]' for a "
            "driver of CUDA 12"
        ) from None
    try:
        count = found.cuda.runtime.getDeviceCount()
    except found.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(
            f"CUDA needs NVIDIA's driver and a device; CuPy {found.__version__} finds none: {error}. Install a driver "
            "of at least CUDA 13 for 'fastconv[cuda13]', of CUDA 12 for 'fastconv[cuda12]'"
        ) from None
    if not count:
        raise RuntimeError(f"CUDA needs a device; CuPy {found.__version__} finds a driver and no device")
    return found


# Multiply-adds that a multiprocessor does in a cycle, (float32, float64), by compute capability. Source: CUDA C++
# Programming Guide, "Throughput of Native Arithmetic Instructions".
_PER_CYCLE = {
    75: (64, 2),
    80: (64, 32),
    86: (128, 2),
    89: (128, 2),
    90: (128, 64),
    100: (128, 64),
    120: (128, 2),
}


def peak(dtype: str) -> float:
    """Flop/s of the current device without tensor cores, computed from its multiprocessors and its highest clock."""
    runtime, here = cupy().cuda.runtime, cupy().cuda.Device()
    count = runtime.deviceGetAttribute(runtime.cudaDevAttrMultiProcessorCount, here.id)
    kilohertz = runtime.deviceGetAttribute(runtime.cudaDevAttrClockRate, here.id)
    capability = int(here.compute_capability)
    # Of a capability that is not listed, those of the newest before it.
    known = [each for at, each in sorted(_PER_CYCLE.items()) if at <= capability] or [_PER_CYCLE[75]]
    return float(2e3 * known[-1][dtype == "float64"] * count * kilohertz)


def line() -> str:
    """The current device and what drives it on one line, as every table prints it."""
    xp = cupy()
    runtime, here = xp.cuda.runtime, xp.cuda.Device().id
    driver, version = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    name = runtime.getDeviceProperties(here)["name"].decode()
    cuda = f"CUDA {version // 1000}.{version % 1000 // 10}, driver for {driver // 1000}.{driver % 1000 // 10}"
    return f"{name} (cuda:{here}), {cuda}, CuPy {xp.__version__}"


def available() -> bool:
    """Whether CuPy is here and finds a CUDA device."""
    try:
        cupy()
    except RuntimeError:
        return False
    return True


def array_module(x: object) -> Any:
    """The module, numpy or cupy, that makes arrays like `x`."""
    return sys.modules["cupy"] if is_cupy(x) else np


def parse(device: object) -> tuple[str, int | None]:
    """(kind, number) of "cpu", "cuda" or "cuda:1"; ValueError or TypeError that names `device` otherwise."""
    if not isinstance(device, str):
        raise TypeError(
            f"device={device!r}: needs 'cpu', 'cuda' or 'cuda:0' with a number, got {type(device).__name__}"
        )
    kind, colon, number = device.partition(":")
    if kind not in _DEVICES or (colon and not number.isdecimal()) or (kind == "cpu" and number not in ("", "0")):
        raise ValueError(f"device={device!r}: needs 'cpu', 'cuda' or 'cuda:0' with a number")
    return kind, int(number) if colon and kind == "cuda" else None


def name_of(x: Any) -> str:
    """The device of an array: "cpu", or "cuda:0" with its number."""
    return f"cuda:{x.device.id}" if is_cupy(x) else "cpu"


def seconds(call: Callable[[], Any], count: int = 1) -> tuple[float, Any]:
    """Seconds between two events of the current device around so many calls, and what the last one returned.

    The device is given something longer to do before, so that it does not wait for the calls to be made.
    """
    xp = cupy()
    start, end, busy = xp.cuda.Event(), xp.cuda.Event(), xp.empty(2**24, np.float32)
    for value in range(8):
        busy.fill(value)
    start.record()
    for _ in range(count):
        result = call()
    end.record()
    end.synchronize()
    return float(xp.cuda.get_elapsed_time(start, end)) / 1e3, result


def moved(x: Any, device: str) -> Any:
    """The array on the device, itself if it is there. ValueError for an unknown device, RuntimeError without CUDA."""
    kind, number = parse(device)
    if kind == "cpu":
        return x.get() if is_cupy(x) else x
    xp = cupy()
    if number is not None and number >= (count := xp.cuda.runtime.getDeviceCount()):
        raise ValueError(f"device={device!r}: needs a number below {count}, the devices that are here")
    if is_cupy(x) and number in (None, x.device.id):
        return x
    with xp.cuda.Device(number) if number is not None else nullcontext():
        return xp.asarray(x)


def foreign(x: Any) -> Any:
    """An array of another library that lies on a CUDA device as a CuPy array over the same memory, else None.

    By DLPack, which has the current stream wait for what made the array, else by `__cuda_array_interface__`. Source:
    the array API standard, "Data interchange"; Numba's documentation, "CUDA Array Interface".
    """
    if isinstance(x, (np.ndarray, np.generic)) or is_cupy(x):
        return None
    # 2 is kDLCUDA. A view: whose memory is somebody else's can be changed unseen (autograd.Variable._is_exclusive).
    if hasattr(x, "__dlpack_device__") and int(x.__dlpack_device__()[0]) == 2:
        return cupy().from_dlpack(x).view()
    return cupy().asarray(x).view() if hasattr(x, "__cuda_array_interface__") else None


def check_together(arrays: Mapping[str, Any]) -> None:
    """TypeError or ValueError that names the array unless all are CuPy's, on CuPy's current device."""
    here = cupy().cuda.Device().id
    for name, array in arrays.items():
        if not is_cupy(array):
            raise TypeError(f"{name}: is a {type(array).__name__} on the CPU, needs a CuPy array as the others are")
        if array.size and array.device.id != here:
            raise ValueError(
                f"{name}: is on {name_of(array)}, needs CuPy's current device, cuda:{here}; "
                f"`with cupy.cuda.Device({array.device.id}):` makes the other one current"
            )


def prepared(array: Any) -> Any:
    """A CuPy array as kernels take it: C-contiguous, and from an address on that they may read vectors from."""
    if array.flags.c_contiguous and not (array.size and array.data.ptr % _ALIGNMENT):
        return array
    return array.copy(order="C")


class Bound:
    """A CUDA kernel and a problem, as functional.Bound is a CPU kernel and a problem."""

    __slots__ = ("empty", "kernel", "outputs", "problem", "simple", "weights")

    def __init__(self, kernel: Kernel, problem: Problem, outputs: Sequence[tuple[tuple[int, ...], str]]) -> None:
        self.kernel, self.problem, self.outputs = kernel, problem, outputs
        # No images: nothing to do, and a sum over nothing is zero.
        self.empty = problem.flops == 0
        op = OPS[kernel.op]
        self.weights = [op.inputs.index(name) for name in op.weights] if kernel.prepare is not None else None
        self.simple = None

    @property
    def none(self) -> Any:
        """What stands for an absent array."""
        return cupy().empty(0, self.problem.dtype)

    def __call__(self, arrays: tuple[Any, ...], kept: Kept | None = None) -> tuple[Any, ...]:
        """The outputs for these arrays, which are `prepared`; kept: where what the kernel makes of weights stays."""
        check_together(dict(zip(OPS[self.kernel.op].inputs, arrays, strict=True)))
        if self.empty:
            return tuple(cupy().zeros(shape, dtype) for shape, dtype in self.outputs)
        made = {}
        if kept is not None and self.weights is not None:
            made["u"] = kept.weights(self.kernel, self.problem, [arrays[k] for k in self.weights])
        return self.compute(arrays, **made)

    def compute(self, arrays: tuple[Any, ...], **made: Any) -> tuple[Any, ...]:
        """The outputs for these arrays, of which there are some; made: u=, what the kernel prepared."""
        xp, dtype = cupy(), self.problem.dtype
        outputs = tuple([xp.empty(shape, dtype) for shape, dtype in self.outputs])
        scratch = xp.empty(self.kernel.scratch(self.problem), dtype)
        self.kernel.run(self.problem, *arrays, *outputs, scratch, **made)
        return outputs
