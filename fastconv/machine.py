"""This machine: its vector unit and threads, and its limits as measured now.

Every rate in a report is divided by limits from the same process and minute, because shared machines drift.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from statistics import median

import numpy as np

from fastconv import cache, threads

# Working sets for copying, in bytes a thread: inside L2, inside a share of L3, and far outside of every cache.
COPY_SETS = {"L2": 2**18, "L3": 2**21, "memory": 2**26}


def _shortest_time(call: Callable[[], object], seconds: float) -> float:
    """A limit is what the machine can do, so the shortest time counts, not the usual one."""
    times: list[float] = []
    with threads.measuring():
        call()
        end = time.perf_counter() + seconds
        while len(times) < 5 or time.perf_counter() < end:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    return min(times)


def _fma_call(dtype: str, team: int) -> tuple[Callable[[], object], float]:
    """A call that does nothing but fused multiply-adds on `team` threads, and the flops it does."""
    from fastconv.kernels.cpu import peak
    from fastconv.kernels.cpu.host import TILE_ROWS, TILE_VECS, VECTOR_BYTES
    from fastconv.kernels.cpu.team import parallel

    x = np.random.default_rng(0).standard_normal(4096).astype(dtype)
    y = np.empty(1024 * team, dtype)
    pieces, steps = 16 * team, 2_000
    flops = 2.0 * pieces * steps * TILE_ROWS * TILE_VECS * (VECTOR_BYTES // x.itemsize)
    return partial(parallel, peak.fma_loop, team, x, y, pieces, steps), flops


def fma_rate(dtype: str = "float32", count: int | None = None, seconds: float = 0.05) -> float:
    """Fused multiply-adds this machine does now, as flop/s, on `count` threads (default: all that kernels use)."""
    call, flops = _fma_call(dtype, count or threads.get_num_threads())
    return flops / _shortest_time(call, seconds)


def copy_rates(count: int | None = None, seconds: float = 0.05) -> dict[str, float]:
    """Bytes per second read plus written by a copy whose working set lies in each of COPY_SETS."""
    from fastconv.kernels.cpu import peak
    from fastconv.kernels.cpu.team import parallel

    team = count or threads.get_num_threads()
    rates = {}
    for name, size in COPY_SETS.items():
        # One piece a thread, half of the set read and half written; small sets are gone over often enough to count.
        part = size // 8
        times = max(1, COPY_SETS["memory"] // size // 4)
        x = np.random.default_rng(0).standard_normal(part * team).astype(np.float32)
        y = np.empty_like(x)
        taken = _shortest_time(partial(parallel, peak.copy, team, x, y, team, part, times), seconds)
        rates[name] = 2.0 * times * x.nbytes / taken
    return rates


@dataclass(frozen=True, slots=True)
class Machine:
    """What a result must be read with: processor, instruction set, threads, versions."""

    processor: str
    isa: str
    vector_bits: int
    cpu_name: str
    threads: int
    threading_layer: str
    versions: str

    def line(self) -> str:
        """All of it on one line, as every table prints it."""
        return (
            f"{self.processor} ({self.cpu_name}), {self.isa} {self.vector_bits} bit, {self.threads} threads "
            f"({self.threading_layer}), {self.versions}"
        )


@lru_cache(maxsize=1)
def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except FileNotFoundError:
        pass
    return platform.processor() or platform.machine()


def machine() -> Machine:
    """This machine, as kernels see it now."""
    from fastconv.kernels.cpu import host

    versions = ", ".join(f"{name} {version(name)}" for name in ("fastconv", "numba", "numpy"))
    return Machine(
        _processor(),
        host.isa(),
        host.VECTOR_BYTES * 8,
        host.CPU_NAME,
        threads.get_num_threads(),
        threads.LAYER,
        f"{versions}, Python {platform.python_version()}",
    )


def describe(measured: bool = True) -> str:
    """The text of `fastconv info`."""
    from fastconv.kernels.cpu import host

    here = machine()
    place = cache.folder()
    lines = [
        f"fastconv          {here.versions}",
        f"platform          {platform.system()} {platform.machine()}, {sys.implementation.name}",
        f"processor         {here.processor}, {os.cpu_count()} logical CPUs",
        f"compiled for      {here.cpu_name}: {here.isa}, {here.vector_bits}-bit vectors",
        f"CPU features      {' '.join(sorted(host.FEATURES))}",
        f"register tiles    {host.TILE_ROWS}×{host.TILE_VECS} vectors, along lanes {host.LANE_ROWS}×{host.LANE_VECS}",
        f"threads           {here.threads} of {threads.available()}, layer {here.threading_layer}",
        f"cache             {place or 'none: no private, writable folder'}",
    ]
    if place is not None:
        lines.append(
            f"cache size        {cache.size(place) / 2**20:.1f} MiB here, {cache.size(cache.root()) / 2**20:.1f} in all"
        )
    if measured:
        for dtype in ("float32", "float64"):
            rates = " · ".join(
                f"{fma_rate(dtype, count) / 1e9:.0f} GFLOP/s on {count}" for count in sorted({1, here.threads})
            )
            lines.append(f"FMA peak {dtype:8} {rates}")
        copies = " · ".join(f"{name} {rate / 1e9:.0f} GB/s" for name, rate in copy_rates().items())
        lines.append(f"copy, read+write  {copies} on {here.threads}")
        lines.append(f"matrix product    {product_share()}")
    return "\n".join(lines)


def product_share(size: int = 512, rounds: int = 60) -> str:
    """The packed matrix product of size³ against the FMA peak, measured in turn, for one thread and for all.

    Both as medians: what the machine does usually, not at best.
    """
    from fastconv.functional import linear_grad_input

    generator = np.random.default_rng(0)
    a, b = (generator.standard_normal((size, size)).astype(np.float32) for _ in range(2))
    former = threads.get_num_threads()
    parts = []
    try:
        for count in sorted({1, former}):
            threads.set_num_threads(count)
            peak, peak_flops = _fma_call("float32", count)
            product = partial(linear_grad_input, b, a, algorithm="gemm")
            times: dict[Callable[[], object], list[float]] = {peak: [], product: []}
            for turn in range(rounds + 2):
                for call, taken in times.items():
                    start = time.perf_counter()
                    with threads.measuring():
                        call()
                    # The first rounds compile, and bring the helpers and the clock up.
                    if turn >= 2:
                        taken.append(time.perf_counter() - start)
            rate, limit = 2.0 * size**3 / median(times[product]), peak_flops / median(times[peak])
            parts.append(f"{rate / 1e9:.0f} GFLOP/s, {100 * rate / limit:.0f} % of the FMA peak, on {count}")
    finally:
        threads.set_num_threads(former)
    return f"{size}³ float32: " + " · ".join(parts)
