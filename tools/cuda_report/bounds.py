"""The least time that a kernel could take for a problem on a device; none is said to be as fast.

It is the larger of two: a kernel's flops by the peak of what it multiplies, and the bytes of all arrays, once each, by
the bandwidth of the memory. The first holds for kernels that do the products with padding, which are counted; the
second for arrays in memory: where all fit into the L2 cache, they may be there.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from fastconv.functional import aligned, output_shapes
from fastconv.kernels.cuda import launch
from fastconv.kernels.cuda.builds import NEEDS
from fastconv.peers.groups import describe
from fastconv.problem import LinearProblem, Problem, RecurrentProblem
from fastconv.registry import OPS, Kernel, operations
from fastconv.testing import CASES, NETWORKS, Case, input_shapes, serves

from .code import build, compiled
from .devices import DEVICES, Device

BATCH = 32


@dataclass(frozen=True, slots=True)
class Launch:
    """A launch that a kernel asked for: which build, which CUDA kernel, blocks, threads of one, and bytes of shared
    memory that it is given."""

    build: str
    kernel: str
    blocks: int
    threads: int
    shared: int


@dataclass(frozen=True, slots=True)
class Time:
    """The least seconds, and what takes them: what is multiplied, such as "float32", or "memory". in_cache: all arrays
    fit into L2, and memory is no limit if they are there."""

    seconds: float
    limit: str
    in_cache: bool

    @property
    def what(self) -> str:
        """The limit, with a * where it may be none."""
        return self.limit + "*" * (self.limit == "memory" and self.in_cache)


@dataclass(frozen=True, slots=True)
class Bound:
    """A kernel on a problem. flops: of the problem, by the operation's definition; own: those that the kernel does;
    bytes: of every array once; times: by the names of devices."""

    case: str
    text: str
    kernel: Kernel
    flops: float
    own: float
    bytes: int
    launches: tuple[Launch, ...]
    times: Mapping[str, Time]

    @property
    def fewer(self) -> bool:
        """Whether the kernel does other flops than the definition's."""
        return self.own != self.flops

    @property
    def steps(self) -> list[tuple[str, int, int]]:
        """(CUDA kernel, launches of it, blocks of the largest) in the order in which they begin."""
        counts = Counter(one.kernel for one in self.launches)
        return [(n, k, max(one.blocks for one in self.launches if one.kernel == n)) for n, k in counts.items()]


def problems() -> dict[str, Problem]:
    """Those of the benchmarks, and VGG16's layers for 32 images."""
    found = {name: case.problem for name, case in CASES.items() if not case.small}
    layers = dict.fromkeys(case for _, case in NETWORKS["VGG16"])
    for name in layers:
        batch = {"m" if isinstance(found[name], LinearProblem) else "n": BATCH}
        found[f"{name} ×{BATCH}"] = replace(found[name], **batch)
    return found


def largest_small(kernel: Kernel) -> Case:
    """Of the small cases that a kernel serves, the one with most flops."""
    served = (case for case in CASES.values() if case.small and serves(kernel, case.problem))
    return max(served, key=lambda case: case.problem.flops)


def pairs(kernels: Sequence[Kernel]) -> list[tuple[str, Problem, Kernel]]:
    """Every problem with every kernel of these that serves it, operation by operation; the largest small case of a
    kernel that serves none."""
    found = [
        (name, problem, kernel)
        for name, problem in problems().items()
        for op in operations(problem)
        for kernel in kernels
        if kernel.op == op and serves(kernel, problem)
    ]
    left = [kernel for kernel in kernels if kernel not in {one[2] for one in found}]
    return found + [(case.name, case.problem, kernel) for kernel in left for case in [largest_small(kernel)]]


def flops(op: str, problem: Problem) -> float:
    """Of the operation's definition. The way back of a recurrent layer has each of its products twice: one towards
    inputs and states, one towards weights."""
    twice = isinstance(problem, RecurrentProblem) and op.endswith("grad")
    return problem.flops * (2 if twice else 1)


def own_flops(kernel: Kernel, problem: Problem) -> float:
    """Those that the kernel does, where its module says that they are others than the definition's."""
    said = getattr(sys.modules[kernel.run.__module__], "FLOPS", {}).get(kernel.name)
    return said(problem) if said is not None else flops(kernel.op, problem)


def traffic(op: str, problem: Problem) -> int:
    """Bytes of every array that the operation has, once."""
    inputs = zip(OPS[op].inputs, input_shapes(op, problem), strict=True)
    given = [(shape, "int64" if name == "lengths" else problem.dtype) for name, shape in inputs]
    return sum(prod(shape) * np.dtype(dtype).itemsize for shape, dtype in (*given, *output_shapes(op, problem)))


class Recorder:
    """A runner that only writes down what is launched."""

    device = launch.A100

    def __init__(self) -> None:
        self.launches: list[Launch] = []

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
        self.launches.append(Launch(build(file, defines), kernel, prod(grid), prod(block), shared_mem))


def launches(kernel: Kernel, problem: Problem) -> tuple[Launch, ...]:
    """What the kernel launches for the problem on an A100, weights not prepared."""
    # Memory that is never touched is never there.
    arrays = [np.zeros(shape, problem.dtype) for shape in input_shapes(kernel.op, problem)]
    if "lengths" in OPS[kernel.op].inputs:
        at = OPS[kernel.op].inputs.index("lengths")
        arrays[at] = np.full(arrays[at].shape, problem.t, np.int64)  # type: ignore[union-attr]
    outputs = [np.zeros(shape, dtype) for shape, dtype in output_shapes(kernel.op, problem)]
    with launch.running(Recorder()) as recorder:
        kernel.run(problem, *arrays, *outputs, aligned(kernel.scratch(problem), problem.dtype))
    return tuple(recorder.launches)


def multiplied(launched: Sequence[Launch]) -> str:
    """What the launched kernels multiply: float32, or what is given to tensor cores. As compiled for sm_80, or for the
    first architecture that has it."""
    kernels = {(one.build, one.kernel) for one in launched}
    codes = [code for name in {one.build for one in launched} for code in compiled(name, NEEDS.get(name, "sm_80"))]
    return max(code.precision for code in codes if (code.build, code.usage.kernel) in kernels) or "float32"


def least(flops: float, moved: int, multiplies: str, device: Device) -> Time:
    """The least time of so many flops and bytes on a device."""
    by_flops, by_bytes = flops / device.peaks[multiplies], moved / device.bandwidth
    limit = multiplies if by_flops >= by_bytes else "memory"
    return Time(max(by_flops, by_bytes), limit, moved <= device.cache)


def bounds(kernels: Sequence[Kernel], multiplies: Callable[[Sequence[Launch]], str] = multiplied) -> list[Bound]:
    """Of every one of `pairs`."""
    found = []
    for case, problem, kernel in pairs(kernels):
        own, moved, launched = own_flops(kernel, problem), traffic(kernel.op, problem), launches(kernel, problem)
        kind = multiplies(launched)
        times = {device.name: least(own, moved, kind, device) for device in DEVICES}
        rest = (flops(kernel.op, problem), own, moved, launched, times)
        found.append(Bound(case, describe(problem), kernel, *rest))
    return found
