"""How many threads kernels use, and when they may not use any.

Numba's OpenMP layer cannot start a team in a process forked after OpenMP ran, and its workqueue layer aborts when two
Python threads enter at once. Both are handled here: a forked child runs kernels on one thread, and calls hold a lock
where the layer needs one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock

from fastconv.problem import integer

_forked = False
_limit: int | None = None
_workqueue_lock = Lock()

# Below this many flops a second thread costs more than it saves: opening a region takes about 2.5 µs.
_ALONE_BELOW = 300_000


def _after_fork() -> None:
    global _forked, _workqueue_lock
    _forked = True
    _workqueue_lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def available() -> int:
    """The most threads kernels can use: Numba's, which NUMBA_NUM_THREADS and the process's CPU affinity limit."""
    from numba import config

    return int(config.NUMBA_NUM_THREADS)


def get_num_threads() -> int:
    """Threads that kernels may use in this process."""
    return 1 if _forked else _limit or available()


def set_num_threads(count: int) -> None:
    """Let kernels use `count` threads, 1 to `available()`. Raises ValueError or TypeError outside of that."""
    global _limit
    number = integer("count", count)
    if number > available():
        raise ValueError(f"count={number}: needs 1 to {available()}, the threads Numba was started with")
    _limit = number


@contextmanager
def eager() -> Iterator[None]:
    """Within it every call uses a team of threads, however little its work: for tests and for compiling ahead."""
    global _ALONE_BELOW
    former, _ALONE_BELOW = _ALONE_BELOW, 0
    try:
        yield
    finally:
        _ALONE_BELOW = former


def team(flops: float, pieces: int) -> int:
    """Threads worth using for this much work in this many independent pieces."""
    return 1 if flops < _ALONE_BELOW else max(1, min(get_num_threads(), pieces))


def layer() -> str:
    """Numba's threading layer in this process: 'omp', 'tbb' or 'workqueue'; starts it if need be."""
    from numba.np.ufunc import parallel

    from fastconv.kernels.cpu.peak import start_threads

    if not _forked:
        start_threads(1)
    return "none (forked)" if _forked else str(parallel.threading_layer())


_needs_lock: bool | None = None


def guard() -> AbstractContextManager[object]:
    """Held while a kernel runs: nothing, or a lock where the threading layer allows one caller at a time."""
    global _needs_lock
    if _needs_lock is None:
        with _workqueue_lock:
            _needs_lock = layer() == "workqueue"
    return _workqueue_lock if _needs_lock and not _forked else nullcontext()
