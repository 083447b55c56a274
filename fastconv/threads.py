"""How many threads kernels use."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from fastconv.problem import integer

LAYER = "fastconv's own team"

_limit: int | None = None
_may_rest = True

# Below this many flops a second thread costs more than it saves.
_ALONE_BELOW = 200_000


@lru_cache(maxsize=1)
def available() -> int:
    """The most threads kernels can use: Numba's, which NUMBA_NUM_THREADS and the process's CPU affinity limit."""
    from numba import config

    return int(config.NUMBA_NUM_THREADS)


def get_num_threads() -> int:
    """Threads that kernels may use in this process."""
    return _limit or available()


def set_num_threads(count: int) -> None:
    """Let kernels use `count` threads, 1 to `available()`. Raises ValueError or TypeError outside of that."""
    global _limit
    number = integer("count", count)
    if number > available():
        raise ValueError(f"count={number}: needs 1 to {available()}, the threads Numba was started with")
    _limit = number


@contextmanager
def eager() -> Iterator[None]:
    """Within it every call uses a team of threads, however little its work and however busy the machine.

    For tests and for compiling ahead.
    """
    global _ALONE_BELOW
    former, _ALONE_BELOW = _ALONE_BELOW, 0
    try:
        yield
    finally:
        _ALONE_BELOW = former


def setting() -> tuple[int, bool]:
    """What `team` depends on besides its arguments."""
    return _limit or available(), _ALONE_BELOW == 0


def is_eager() -> bool:
    """Whether this is within `eager`."""
    return _ALONE_BELOW == 0


@contextmanager
def measuring() -> Iterator[None]:
    """Within it helpers never rest: a figure said to be of n threads must be of n, however busy the machine."""
    global _may_rest
    former, _may_rest = _may_rest, False
    try:
        yield
    finally:
        _may_rest = former


def rests(until: float) -> bool:
    """Whether helpers that were to rest until then (time.perf_counter) still do; never in `eager` or `measuring`."""
    return _may_rest and _ALONE_BELOW > 0 and time.perf_counter() < until


def team(flops: float, pieces: int) -> int:
    """Threads worth using for this much work in this many independent pieces."""
    return 1 if flops < _ALONE_BELOW else max(1, min(get_num_threads(), pieces))
