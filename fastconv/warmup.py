"""Compile every kernel ahead, so that no later call waits for a compiler."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fastconv import testing, threads
from fastconv.problem import DTYPES
from fastconv.registry import kernels


@dataclass(frozen=True, slots=True)
class Warmed:
    """A kernel for one dtype: how long it took, and the functions compiled for it with their seconds."""

    name: str
    seconds: float
    functions: tuple[tuple[str, float], ...]


def warmup(dtypes: Sequence[str] = DTYPES, report: Callable[[Warmed], None] = lambda warmed: None) -> float:
    """Compile every CPU kernel for `dtypes`, for one thread and for a team, and fill the cache; returns seconds.

    `report` is called after each. What an earlier one or the cache has is not compiled again. Raises ValueError for
    another dtype than float32, float64.
    """
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise ValueError(f"dtypes={dtypes!r}: needs some of {', '.join(DTYPES)}")
    begun = time.perf_counter()
    problems = [case.problem for case in testing.CASES.values() if case.small]
    every = kernels()
    # With the kernels, so that importing fastconv does not import Numba.
    from fastconv.kernels.cpu.jit import COMPILED

    for kernel in every:
        for dtype in dtypes:
            start, before = time.perf_counter(), len(COMPILED)
            # A kernel may have variants, such as Winograd's with a stride of two; every small case is fast.
            for problem in (replace(p, dtype=dtype) for p in problems if testing.serves(kernel, p)):
                arrays = testing.inputs(kernel.op, problem)
                testing.poisoned_run(kernel, problem, arrays)
                with threads.eager():
                    testing.poisoned_run(kernel, problem, arrays)
            report(Warmed(f"{kernel.name} {dtype}", time.perf_counter() - start, tuple(COMPILED[before:])))
    return time.perf_counter() - begun
