"""Recurrent layers by their kernels: from parameters and states to a problem, and onto the tape.

`fastconv.nn.steps` does the options that no kernel has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from fastconv.autograd import Array, Variable, array, array_module, is_recorded, record_all
from fastconv.device import backend
from fastconv.functional import Kept, bound, prepared
from fastconv.memory import split
from fastconv.problem import RecurrentProblem
from fastconv.registry import choose

# The parameters that kernels know, in the order of their operations' weights.
PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_pc")

_NO_LENGTHS = np.empty(0, np.int64)


def _stacked(arrays: Sequence[Array]) -> Array:
    """The arrays of both directions as one; that of a single direction without a copy."""
    if len(arrays) == 1:
        return arrays[0][None]
    # For two arrays that agree np.stack takes longer than copying them.
    both = array_module(arrays[0]).empty((2, *arrays[0].shape), arrays[0].dtype)
    both[0], both[1] = arrays
    return cast(Array, both)


def run(
    p: RecurrentProblem,
    x: Any,
    weights: Sequence[Mapping[str, Any]],
    states: Sequence[Any] | None,
    lengths: Array | None,
    algorithm: str,
    kept: Kept | None,
) -> tuple[Any, tuple[Any, ...]]:
    """(y, states at the end) of problem p; weights: of each direction its parameters, by their names in PARAMETERS.

    All as x is, arrays or Tensors. kept: what the layer keeps of its weights between calls.
    """
    named = [[one[name] for one in weights if name in one] for name in PARAMETERS]
    given = list(states or ())
    recorded = is_recorded(x, *given, *(w for each in named for w in each))
    a = prepared(array(x))
    xp, where = array_module(a), backend(a)
    op = p.cell + ("_train" if recorded else "")
    kernel = choose(op, p, algorithm, where, kept=kept is not None and not recorded)
    call = bound(kernel, p)
    none = call.none
    # Where all that a CPU kernel reads of the weights is kept, they need not be laid beside each other.
    made = kept.get(kernel) if kept is not None and not recorded and where == "cpu" else None
    arrays = [none if not each or made is not None else prepared(_stacked([array(w) for w in each])) for each in named]
    begin = [prepared(array(state)) for state in given] + [none] * (2 - len(given))
    counts = _NO_LENGTHS if lengths is None else lengths
    if where == "cuda":
        counts = xp.asarray(counts)
    given_arrays = (a, *arrays, *begin, counts)
    if made is not None and p.flops:
        results = call.compute(given_arrays, u=made)
    else:
        results = call(given_arrays, None if recorded else kept)
    y, *ends = results[:3]
    count = 2 if p.cell == "lstm" else 1
    if not recorded:
        plain = record_all(x, [y, *ends[:count]], (), lambda _: ())
        return plain[0], tuple(plain[1:])

    sources = [x, *given, *(w for each in named for w in each)]

    # A network's first layer reads data: nobody wants to know how its loss depends on them.
    unwanted = frozenset() if is_recorded(x) else frozenset({"gx"})

    def gradients(of: list[Array | None]) -> list[Array]:
        gy, *gs = of
        gy = xp.zeros(p.output_shape, p.dtype) if gy is None else gy
        if any(g is not None and g.dtype != p.dtype for g in (gy, *gs)):
            raise TypeError(f"gradient: needs dtype {p.dtype}, as the forward pass had, got {gy.dtype}")
        back = [none if g is None else prepared(g) for g in (*gs, *[None] * (2 - count))]
        back_call = bound(choose(p.cell + "_grad", p, backend=where), p, unwanted)
        inputs = (a, arrays[0], arrays[1], arrays[4], results[3], prepared(gy), *back, counts)
        gx, *of_weights, gh0, gc0 = back_call(inputs)
        parts = [part for g, each in zip(of_weights, named, strict=True) if each for part in split(g)]
        return [gx, *[gh0, gc0][: len(given)], *parts]

    saved = [v for v in sources if isinstance(v, Variable)]
    out = record_all(x, [y, *ends[:count]], sources, gradients, *saved)
    return out[0], tuple(out[1:])
