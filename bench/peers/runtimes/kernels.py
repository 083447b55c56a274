"""fastconv's kernels by name, all of a group in one process and on the same arrays.

The caller owns outputs and scratch, and weights are prepared before, as a layer in evaluation keeps them.
"""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import numpy as np

from fastconv import functional, problem
from fastconv.registry import OPS, kernels

from ..work import Arrays, Prepared
from .fastconv import threads, version

__all__ = ["build", "threads", "version"]


def build(work: dict[str, Any], arrays: Arrays, folder: str, kernel: str, module: str) -> Prepared:
    # A kernel of somebody else's file registers itself as that is imported.
    importlib.import_module(module)
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in work["fields"].items()}
    p = getattr(problem, work["problem"])(**fields)
    op = OPS[work["op"]]
    found = next(known for known in kernels(work["op"]) if known.name == kernel)
    inputs = tuple(arrays[name] for name in op.inputs)
    made: dict[str, np.ndarray] = {}
    if found.prepare is not None:
        made["u"] = functional.aligned(found.prepared(p), p.dtype)
        found.prepare(p, *(arrays[name] for name in op.weights), made["u"])
    outputs = tuple(np.empty(shape, dtype) for shape, dtype in functional.output_shapes(work["op"], p))
    scratch = functional.aligned(found.scratch(p), p.dtype)
    run = partial(found.run, p) if found.ready is None else found.ready(p)

    def call() -> tuple[np.ndarray, ...]:
        run(*inputs, *outputs, scratch, **made)
        return outputs

    def poison() -> None:
        for array in (*outputs, scratch):
            array.fill(np.nan if array.dtype.kind == "f" else np.iinfo(array.dtype).min)

    return Prepared(call, list, lambda: kernel, poison)
