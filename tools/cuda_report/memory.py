"""How warps touch memory, line by line, as the executor counts it.

Counted on the largest problem of the benchmarks that a kernel serves, made smaller where that changes little of which
addresses a warp touches: fewer images, channels, rows and steps; rows of images stay as long as they are. The device
has one multiprocessor, so that tiles are as large as on a large problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from fastconv import cudaemu, testing
from fastconv.kernels.cuda import launch
from fastconv.peers.groups import describe
from fastconv.problem import ConvProblem, LinearProblem, PoolProblem, Problem, RecurrentProblem
from fastconv.registry import Kernel

from .bounds import largest_small


@dataclass(frozen=True, slots=True)
class Access:
    """What all warps did in a line of a .cu or .cuh file: loads or stores of global or shared memory.

    units: sectors of 32 bytes of global memory, or passes over the banks of shared memory; least: the fewest that
    could do. share: those above the least, of all such units of the CUDA kernel.
    """

    kernel: str
    code: str
    file: str
    line: int
    text: str
    write: bool
    shared: bool
    warps: int
    units: int
    least: int
    share: float

    @property
    def what(self) -> str:
        return f"{'store' if self.write else 'load'}, {'shared' if self.shared else 'global'}"

    @property
    def excess(self) -> int:
        """Units above the least."""
        return self.units - self.least

    @property
    def factor(self) -> float:
        """Units by the least; 1 is best."""
        return self.units / self.least


@dataclass(frozen=True, slots=True)
class Counted:
    """A kernel's accesses, the worst first, and the problem on which they were counted."""

    kernel: str
    problem: str
    accesses: tuple[Access, ...]


def smaller(problem: Problem) -> Problem:
    """The problem with fewer images, channels, rows or steps; ValueError of a kind that is not known here."""
    p: Any = problem
    if isinstance(problem, ConvProblem):
        if p.groups == p.c:
            channels = {"c": min(p.c, 8), "groups": min(p.c, 8), "o": min(p.c, 8) * (p.o // p.groups)}
        else:
            channels = {"c": min(p.c, 8 * p.groups), "o": min(p.o, 64 * p.groups)}
        return replace(p, n=min(p.n, 1), h=min(p.h, 4 * p.stride[0] + p.dilation[0] * (p.kh - 1)), **channels)
    if isinstance(problem, PoolProblem):
        # Of all rows: how the last windows end depends on them.
        return replace(p, n=min(p.n, 1), c=min(p.c, 2))
    if isinstance(problem, LinearProblem):
        return replace(p, m=min(p.m, 128), i=min(p.i, 64), o=min(p.o, 256))
    if isinstance(problem, RecurrentProblem):
        return replace(p, t=min(p.t, 2), b=min(p.b, 32), i=min(p.i, 64), h=min(p.h, 64))
    raise ValueError(f"{type(problem).__name__}: nobody has said how to make it smaller")


def example(kernel: Kernel) -> Problem:
    """The problem on which a kernel is counted; if it serves no benchmark's made smaller, its largest small case."""
    served = [
        case.problem for case in testing.CASES.values() if not case.small and testing.serves(kernel, case.problem)
    ]
    less = (smaller(problem) for problem in sorted(served, key=lambda problem: problem.flops, reverse=True))
    able = (problem for problem in less if testing.serves(kernel, problem))
    return next(able, None) or largest_small(kernel).problem


class Counting(launch.Emulated):
    """The executor that counts every launch: `found` has the counts of each CUDA kernel."""

    def __init__(self) -> None:
        super().__init__("check", device=replace(launch.A100, name="one multiprocessor", processors=1))
        self.found: dict[str, list[cudaemu.Line]] = {}

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
        self.counts = {}
        super().__call__(file, kernel, grid, block, args, defines, shared_mem)
        self.found.setdefault(kernel, []).extend(self.counts[kernel].lines)


def counted(kernel: Kernel) -> Counted:
    """The accesses of a kernel on its `example`. cudaemu.Found if the launches do what they must not."""
    problem = example(kernel)
    with launch.running(Counting()) as runner:
        testing.poisoned_run(kernel, problem, testing.inputs(kernel.op, problem))
    accesses = [one for code, lines in runner.found.items() for one in _accesses(kernel.name, code, lines)]
    accesses.sort(key=lambda one: (-one.share, one.code, one.file, one.line))
    return Counted(kernel.name, describe(problem), tuple(accesses))


def _accesses(kernel: str, code: str, lines: Sequence[cudaemu.Line]) -> list[Access]:
    """One for each line and kind of access, whatever launches and sizes it has."""
    sums: dict[tuple[Any, ...], list[int]] = {}
    for one in lines:
        units = (one.passes, one.least_passes) if one.shared else (one.sectors, one.least_sectors)
        total = sums.setdefault((one.file, one.line, one.write, one.shared), [0, 0, 0])
        for k, number in enumerate((one.warps, *units)):
            total[k] += number
    found = [(place, numbers) for place, numbers in sums.items() if numbers[1]]
    every = {kind: sum(units for place, (_, units, _) in found if place[3] is kind) for kind in (False, True)}
    return [
        Access(
            kernel,
            code,
            file,
            line,
            _source(file, line),
            write,
            shared,
            *numbers,
            (numbers[1] - numbers[2]) / every[shared],
        )
        for (file, line, write, shared), numbers in found
    ]


@lru_cache(maxsize=1024)
def _lines(file: str) -> list[str]:
    return (launch.HERE / file).read_text(encoding="utf-8").splitlines()


def _source(file: str, line: int) -> str:
    return _lines(file)[line - 1].strip() if (launch.HERE / file).is_file() else ""
