"""Compile every kernel ahead, so that no later call waits for a compiler."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from fastconv import testing, threads
from fastconv.problem import DTYPES
from fastconv.registry import kernels


def warmup(dtypes: Sequence[str] = DTYPES, report: Callable[[str, float], None] = lambda name, seconds: None) -> float:
    """Compile every CPU kernel for `dtypes`, for one thread and for a team, and fill the cache; returns seconds.

    `report(kernel and dtype, seconds)` is called after each. Raises ValueError for another dtype than float32, float64.
    """
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise ValueError(f"dtypes={dtypes!r}: needs some of {', '.join(DTYPES)}")
    begun = time.perf_counter()
    problems = [case.problem for case in testing.CASES.values() if case.small]
    for kernel in kernels():
        # A kernel's argument types depend on the dtype alone, so one problem it supports compiles all of it.
        able = [p for p in problems if testing.serves(kernel, p)]
        for dtype in dtypes:
            start = time.perf_counter()
            for problem in able[:1]:
                problem = replace(problem, dtype=dtype)
                arrays = testing.inputs(kernel.op, problem)
                testing.poisoned_run(kernel, problem, arrays)
                with threads.eager():
                    testing.poisoned_run(kernel, problem, arrays)
            report(f"{kernel.name} {dtype}", time.perf_counter() - start)
    return time.perf_counter() - begun
