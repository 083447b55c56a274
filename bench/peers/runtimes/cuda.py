"""fastconv's CUDA kernels by name, through CuPy, all of a group in one process; times are those of its events.

Weights are prepared before, as a layer in evaluation keeps them; outputs and scratch are of CuPy's memory pool.
"""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import numpy as np

from fastconv import device, functional, problem
from fastconv.registry import OPS, kernels

from ..work import Arrays, Prepared
from .fastconv import threads, version

__all__ = ["build", "threads", "version"]


def build(work: dict[str, Any], arrays: Arrays, folder: str, kernel: str, module: str) -> Prepared:
    # A kernel of somebody else's file registers itself as that is imported.
    importlib.import_module(module)
    xp = device.cupy()
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in work["fields"].items()}
    p = getattr(problem, work["problem"])(**fields)
    op = OPS[work["op"]]
    found = next(known for known in kernels(work["op"], "cuda") if known.name == kernel)
    inputs = tuple(xp.asarray(arrays[name]) for name in op.inputs)
    made: dict[str, Any] = {}
    if found.prepare is not None:
        made["u"] = xp.empty(found.prepared(p), p.dtype)
        found.prepare(p, *(inputs[op.inputs.index(name)] for name in op.weights), made["u"])
    call = partial(functional.bound(found, p).compute, inputs, **made)

    def read(outputs: Any) -> list[np.ndarray]:
        return [array.get() for array in outputs]

    return Prepared(call, read, lambda: kernel, timed=partial(device.seconds, call))
