"""Launches of CUDA kernels: grid, block and arguments are computed once, for CuPy or for the executor.

    launch("pool.cu", "max_pool", grid, block, (x, out(y), 3), REAL="float")

A Python int goes to the kernel as int, a float as float: no kernel takes others. Who does the launch is the runner:
CuPy, on the current device and stream, and within `running(Emulated())` the executor of tools/cudaemu, on NumPy arrays.
"""

from __future__ import annotations

import importlib
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fastconv import device as device_module

HERE = Path(__file__).parent
# Most blocks along y and z, on every device.
MOST_YZ = 65_535
# Dynamic shared memory that a block may have on every device without being asked for, in bytes.
_GIVEN_SHARED = 48 * 1024
# Tables kept on devices.
_MOST_TABLES = 1024
# Of CUDA's headers the one that tells where they are, and how ours are included.
_HEADER = "cuda_pipeline_primitives.h"
_INCLUDE = re.compile(r'^#include "(\w+\.cuh)"$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Device:
    """What launches depend on: multiprocessors, threads that each holds, bytes of shared memory a block may have, and
    the compute capability, 80 for 8.0."""

    name: str
    processors: int
    threads: int
    shared_bytes: int
    capability: int = 80


# For the executor; what a launch needs is the same on all, but for how many blocks fill the device.
A100 = Device("A100", 108, 2048, 163 * 1024)


@dataclass(frozen=True, slots=True)
class Out:
    """An array that the kernel writes all of."""

    array: Any


def out(array: Any) -> Out:
    """Mark an output among a launch's arguments."""
    return Out(array)


class Runner(Protocol):
    """Who does launches."""

    device: Device

    def __call__(
        self,
        file: str,
        kernel: str,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[Any],
        defines: Any,
        shared_mem: int = 0,
    ) -> None: ...


class Cupy:
    """CuPy: a file is compiled for the current device by NVRTC when it is first needed, which CuPy remembers on disk.

    NumPy arrays among the arguments are tables, which nobody changes: they are copied to a device once.
    """

    def __init__(self) -> None:
        self._cupy = device_module.cupy()
        self._devices: dict[int, Device] = {}
        self._tables: OrderedDict[tuple[int, int], tuple[np.ndarray, Any]] = OrderedDict()

    @property
    def device(self) -> Device:
        """CuPy's current device."""
        runtime, here = self._cupy.cuda.runtime, self._cupy.cuda.Device().id
        if here not in self._devices:
            attributes = (
                runtime.cudaDevAttrMultiProcessorCount,
                runtime.cudaDevAttrMaxThreadsPerMultiProcessor,
                runtime.cudaDevAttrMaxSharedMemoryPerBlockOptin,
            )
            limits = (runtime.deviceGetAttribute(attribute, here) for attribute in attributes)
            name = runtime.getDeviceProperties(here)["name"].decode()
            self._devices[here] = Device(name, *limits, int(self._cupy.cuda.Device().compute_capability))
        return self._devices[here]

    def __call__(
        self,
        file: str,
        kernel: str,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[Any],
        defines: Any,
        shared_mem: int = 0,
    ) -> None:
        function = _function(file, kernel, tuple(sorted(defines.items())))
        if shared_mem > _GIVEN_SHARED:
            # All that there is: other threads may launch it with more or less.
            function.max_dynamic_shared_size_bytes = self.device.shared_bytes
        function(tuple(grid), tuple(block), tuple([self._given(one) for one in args]), shared_mem=shared_mem)

    def _given(self, value: Any) -> Any:
        """An argument as CuPy takes it."""
        if isinstance(value, Out):
            if isinstance(value.array, np.ndarray):
                raise TypeError("an output is a NumPy array: a kernel for CUDA devices writes to CuPy arrays")
            value = value.array
        if value is None:
            # A null pointer; CuPy would pass none at all for None.
            return np.uint64(0)
        return self._uploaded(value) if isinstance(value, np.ndarray) else _scalar(value)

    def _uploaded(self, table: np.ndarray) -> Any:
        key = id(table), self._cupy.cuda.Device().id
        found = self._tables.get(key)
        if found is None:
            # With the array itself, so that no other one comes to have its id.
            found = table, self._cupy.asarray(table)
            # Other streams and threads may be the next to read it.
            self._cupy.cuda.get_current_stream().synchronize()
            self._tables[key] = found
            if len(self._tables) > _MOST_TABLES:
                # What was uploaded first may still be read.
                self._cupy.cuda.Device().synchronize()
                self._tables.popitem(last=False)
        return found[1]


@lru_cache(maxsize=1024)
def _function(file: str, kernel: str, defines: tuple[tuple[str, object], ...]) -> Any:
    """A kernel, by CuPy. It is looked up once: CuPy would hash the source at each call."""
    return _compiled(file, defines).get_function(kernel)


@lru_cache(maxsize=256)
def _compiled(file: str, defines: tuple[tuple[str, object], ...]) -> Any:
    """CuPy's module of a file compiled with these defines; compiled when a kernel of it is first launched."""
    cupy = device_module.cupy()
    headers = [f"-I{folder}" for folder in include_folders()]
    given = [f"-D{name}={value}" for name, value in defines]
    return cupy.RawModule(code=source(file), options=("-std=c++17", *headers, *given))


def source(file: str) -> str:
    """A .cu file of this folder with our own headers in the places where it includes them.

    CuPy remembers what it compiled by this text, and would not see that a header has changed.
    """
    seen: set[str] = set()

    def header(found: re.Match[str]) -> str:
        name = found[1]
        if name in seen:
            return ""
        seen.add(name)
        return read(name).replace("#pragma once\n", "")

    def read(name: str) -> str:
        return _INCLUDE.sub(header, (HERE / name).read_text(encoding="utf-8"))

    return read(file)


def include_folders() -> list[str]:
    """Where CUDA's headers are: of NVIDIA's wheels, else of the toolkit that CuPy has found."""
    try:
        places = [Path(place) for place in importlib.import_module("nvidia").__path__]
    except ModuleNotFoundError:
        places = []
    # CUDA 13's wheels have one folder for all, CUDA 12's one each.
    found = [path for place in places for pattern in ("cu*/include", "cuda_*/include") for path in place.glob(pattern)]
    if not any((folder / _HEADER).exists() for folder in found):
        toolkit = device_module.cupy().cuda.get_cuda_path()
        found = [Path(toolkit, "include")] if toolkit else []
    return sorted(map(str, found))


class Emulated:
    """The executor: flavour and order as fastconv.cudaemu has them. `launches` counts."""

    def __init__(self, flavour: str = "result", order: str = "ascending", seed: int = 0, device: Device = A100) -> None:
        self.flavour, self.order, self.seed, self.device = flavour, order, seed, device
        self.launches = 0
        # What launches did to memory, by kernel, if this is set to a dict; needs the flavour "check".
        self.counts: dict[str, Any] | None = None
        # Where the .cu files are: another folder has the same files with bugs in them.
        self.folder = HERE

    def __call__(
        self,
        file: str,
        kernel: str,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[Any],
        defines: Any,
        shared_mem: int = 0,
    ) -> None:
        function = _emulated(self.folder / file, tuple(sorted(defines.items())), self.flavour).get_function(kernel)
        given = _on_cpu(args)
        self.launches += 1
        if self.counts is not None:
            self.counts[kernel] = function.count(grid, block, given, shared_mem)
        else:
            function(grid, block, given, shared_mem, order=self.order, seed=self.seed)


@lru_cache(maxsize=256)
def _emulated(path: Path, defines: tuple[tuple[str, object], ...], flavour: str) -> Any:
    from fastconv import cudaemu

    return cudaemu.Module(path, dict(defines), flavour)


class Interpreted:
    """The interpreter of the PTX that nvcc makes (fastconv.cudaemu.ptx); contract: whether with fused multiply-adds."""

    def __init__(self, contract: bool = True, device: Device = A100) -> None:
        self.contract, self.device, self.folder, self.launches = contract, device, HERE, 0

    def __call__(
        self,
        file: str,
        kernel: str,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[Any],
        defines: Any,
        shared_mem: int = 0,
    ) -> None:
        function = _interpreted(self.folder / file, tuple(sorted(defines.items())), self.contract).get_function(kernel)
        self.launches += 1
        function(grid, block, _on_cpu(args), shared_mem)


@lru_cache(maxsize=128)
def _interpreted(path: Path, defines: tuple[tuple[str, object], ...], contract: bool) -> Any:
    from fastconv.cudaemu import ptx

    return ptx.Module(path, dict(defines), contract)


def _on_cpu(args: Sequence[Any]) -> list[Any]:
    """Arguments as the executor and the interpreter take them."""
    from fastconv import cudaemu

    return [cudaemu.Out(one.array) if isinstance(one, Out) else _scalar(one) for one in args]


def _scalar(value: Any) -> Any:
    if isinstance(value, bool | int):
        return np.int32(value)
    return np.float32(value) if isinstance(value, float) else value


_runner: ContextVar[Runner | None] = ContextVar("fastconv_cuda_runner", default=None)


@contextmanager
def running(runner: Runner) -> Iterator[Runner]:
    """Within it launches are done by this runner."""
    token = _runner.set(runner)
    try:
        yield runner
    finally:
        _runner.reset(token)


def device() -> Device:
    """The device that launches go to now. RuntimeError without CuPy, a driver or a device."""
    return _current().device


def assumed() -> Device:
    """The device, or where there is none the executor's: for what a kernel cannot do."""
    try:
        return device()
    except RuntimeError:
        return A100


def _current() -> Runner:
    return _runner.get() or _cupy()


@lru_cache(maxsize=1)
def _cupy() -> Cupy:
    return Cupy()


def launch(
    file: str,
    kernel: str,
    grid: Sequence[int],
    block: Sequence[int],
    args: Sequence[Any],
    *,
    shared_mem: int = 0,
    **defines: object,
) -> None:
    """Launch a kernel of a file in this folder, compiled with these defines; shared_mem: bytes that are dynamic.

    ValueError if no device has such a grid.
    """
    across, *others = grid
    if not 0 < across < 2**31 or not all(0 < n <= MOST_YZ for n in others):
        raise ValueError(f"grid={tuple(grid)} of {kernel}: needs at most {(2**31 - 1, MOST_YZ, MOST_YZ)} blocks")
    _current()(file, kernel, grid, block, args, defines, shared_mem)


def blocks(count: int, each: int) -> int:
    """Blocks that do `count` things, `each` at a time; at least one."""
    return max(1, -(-count // each))


def spread(count: int, threads: int) -> int:
    """Blocks of a loop over `count` things: as many as fill the device twice, or fewer if that is enough."""
    here = device()
    return min(blocks(count, threads), 2 * here.processors * here.threads // threads)
