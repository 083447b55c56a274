"""Launches of CUDA kernels: grid, block and arguments are computed once, for CuPy or for the executor.

    launch("pool.cu", "max_pool", grid, block, (x, out(y), 3), REAL="float")

A Python int goes to the kernel as int, a float as float: no kernel takes others. Who does the launch is the runner: on
a GPU CuPy, and within `running(Emulated())` the executor of tools/cudaemu, on NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

HERE = Path(__file__).parent
# Most blocks along y and z, on every device.
MOST_YZ = 65_535


@dataclass(frozen=True, slots=True)
class Device:
    """What launches depend on: multiprocessors, threads that each holds, bytes of shared memory a block may have."""

    name: str
    processors: int
    threads: int
    shared_bytes: int


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
        self, file: str, kernel: str, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], defines: Any
    ) -> None: ...


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
        self, file: str, kernel: str, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], defines: Any
    ) -> None:
        from fastconv import cudaemu

        function = _emulated(self.folder / file, tuple(sorted(defines.items())), self.flavour).get_function(kernel)
        given = [cudaemu.Out(one.array) if isinstance(one, Out) else _scalar(one) for one in args]
        self.launches += 1
        if self.counts is not None:
            self.counts[kernel] = function.count(grid, block, given)
        else:
            function(grid, block, given, order=self.order, seed=self.seed)


@lru_cache(maxsize=256)
def _emulated(path: Path, defines: tuple[tuple[str, object], ...], flavour: str) -> Any:
    from fastconv import cudaemu

    return cudaemu.Module(path, dict(defines), flavour)


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
    """The device that launches go to now. RuntimeError if there is none."""
    return _current().device


def _current() -> Runner:
    runner = _runner.get()
    if runner is None:
        raise RuntimeError("CUDA kernels have no device here yet: only the executor runs them, within launch.running")
    return runner


def launch(
    file: str, kernel: str, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], **defines: object
) -> None:
    """Launch a kernel of a file in this folder, compiled with these defines."""
    _current()(file, kernel, grid, block, args, defines)


def blocks(count: int, each: int) -> int:
    """Blocks that do `count` things, `each` at a time; at least one."""
    return max(1, -(-count // each))


def spread(count: int, threads: int) -> int:
    """Blocks of a loop over `count` things: as many as fill the device twice, or fewer if that is enough."""
    here = device()
    return min(blocks(count, threads), 2 * here.processors * here.threads // threads)
