"""All that the report shows, computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product

from fastconv.registry import Kernel

from .bounds import Bound, Launch, bounds, launches, pairs
from .code import Code, compiled, is_for
from .memory import Counted, counted


@dataclass(frozen=True, slots=True)
class Report:
    """Builds on every architecture, bounds of every problem, and the accesses of every kernel."""

    architectures: tuple[str, ...]
    codes: tuple[Code, ...]
    bounds: tuple[Bound, ...]
    counted: tuple[Counted, ...]


def launched(kernels: Sequence[Kernel]) -> list[Launch]:
    """What these kernels launch for the problems, each once."""
    return list(dict.fromkeys(one for _, problem, kernel in pairs(kernels) for one in launches(kernel, problem)))


def _as_launched(code: Code, launched: Sequence[Launch]) -> Code:
    """The code with a block as it is launched: of those for the problems, the one with most shared memory."""
    blocks = [
        (one.shared, one.threads) for one in launched if (one.build, one.kernel) == (code.build, code.usage.kernel)
    ]
    dynamic, threads = max(blocks, default=(0, code.threads))
    return replace(code, dynamic=dynamic, threads=threads)


def gather(
    kernels: Sequence[Kernel],
    builds: Sequence[str],
    architectures: Sequence[str],
    tick: Callable[[str, int], None] = lambda doing, of: None,
) -> Report:
    """Count the kernels, compile the builds, bound the problems. tick: called at each step with what it is, and how
    many there are. CompileError; cudaemu.Found if a kernel does what it must not."""
    jobs = [(architecture, name) for architecture, name in product(architectures, builds) if is_for(name, architecture)]
    steps = len(jobs) + len(kernels) + 1
    asked = launched(kernels)
    accesses, codes = [], []
    # What may find a mistake comes before what takes minutes.
    for kernel in kernels:
        tick(f"counting {kernel.name}", steps)
        accesses.append(counted(kernel))
    with ThreadPoolExecutor(2) as pool:
        for (architecture, name), found in zip(jobs, pool.map(lambda job: compiled(*job[::-1]), jobs), strict=True):
            codes += [_as_launched(code, asked) for code in found]
            tick(f"compiled {name} for {architecture}", steps)
    tick("bounds of problems", steps)
    return Report(tuple(architectures), tuple(codes), tuple(bounds(kernels)), tuple(accesses))
