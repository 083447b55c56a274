"""Calls worked out: recurrent layers and cells in evaluation on arrays of the shapes of the call before, so that small
ones do not wait for Python.
"""

from __future__ import annotations

from sys import getrefcount
from typing import Any

import numpy as np

from fastconv.autograd import Array, is_array
from fastconv.functional import Kept, bound
from fastconv.nn import steps
from fastconv.registry import choose, setting


def _nothing() -> None:
    return None


class ReadyLayers:
    """A layer's forward worked out for arrays of one shape, so that a small one does not wait for Python."""

    __slots__ = ("dtype", "jobs", "layer", "none", "ragged", "setting", "shape", "state", "weights")

    def __init__(
        self, layer: Any, x: Array, state: tuple[int, ...] | None, ragged: bool, jobs: list[tuple[Any, Array]]
    ) -> None:
        self.layer, self.shape, self.dtype, self.state, self.jobs = layer, x.shape, x.dtype, state, jobs
        self.ragged = ragged
        self.none, self.setting = jobs[0][0].none, setting()
        self.weights = [(w, w._state.number) for w in layer.parameters()]

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy of the layer works out its own.
        return _nothing, ()

    def __call__(self, x: Array, hx: Any, counts: Array | None) -> Any:
        """(y, states), or None if x, hx, the parameters or the setting are not those that this was worked out for.

        counts (b), int64: the lengths, checked; None for those of x.
        """
        if (
            (counts is not None) != self.ragged
            or x.shape != self.shape
            or x.dtype is not self.dtype
            or not x.flags.carray
            or self.layer.training
        ):
            return None
        count = len(self.layer._states)
        given = () if hx is None else hx if count == 2 else (hx,)
        if self.state is None:
            if hx is not None:
                return None
        elif type(given) is not tuple or len(given) != count:
            return None
        for h in given:
            if type(h) is not np.ndarray or h.shape != self.state or h.dtype is not self.dtype or not h.flags.carray:
                return None
        for w, number in self.weights:
            # Held by the parameter and as the argument; what someone else holds could change unseen.
            if w._state.number != number or getrefcount(w._array) != 2:
                return None
        if setting() != self.setting:
            return None
        none, rest, ends = self.none, (self.none,) * 5, []
        lengths = none if counts is None else counts
        for number, (job, u) in enumerate(self.jobs):
            if given:
                first = number * self.layer._directions
                begin = [h[first : first + self.layer._directions] for h in given]
                begin += [none] * (2 - count)
            else:
                begin = [none, none]
            x, *end = job.compute((x, *rest, *begin, lengths), u=u)
            ends.append(end)
        if len(ends) == 1:
            return x, (ends[0][0] if count == 1 else tuple(ends[0][:2]))
        states = tuple([np.concatenate([end[k] for end in ends]) for k in range(count)])
        return x, states if count == 2 else states[0]


def of_layers(layer: Any, x: Array, hx: Any, ragged: bool) -> ReadyLayers | None:
    """The layer worked out for x and hx, arrays, with lengths if ragged.

    None unless kernels do it and what they prepared of its weights is kept.
    """
    given = () if hx is None else hx if isinstance(hx, tuple) else (hx,)
    options = None if layer.algorithm == steps.COMPOSED else layer._options()
    if options is None or not all(is_array(h) for h in given):
        return None
    jobs, shape = [], x.shape
    for number in range(layer.num_layers):
        weights = [layer._weights(number, reverse) for reverse in range(layer._directions)]
        kept = layer._keep(number, weights)
        if kept is None:
            return None
        p = layer._problem(number, shape, bool(given), ragged, options)
        kernel = choose(p.cell, p, layer.algorithm, kept=True)
        made = kept.get(kernel)
        if made is None:
            return None
        jobs.append((bound(kernel, p), made))
        shape = p.output_shape
    return ReadyLayers(layer, x, given[0].shape if given else None, ragged, jobs)


class ReadyCell:
    """A cell's step worked out for arrays of one shape, so that a small one does not wait for Python."""

    __slots__ = ("call", "dtype", "hidden", "layer", "none", "setting", "shape", "states", "weights")

    def __init__(self, layer: Any, x: Array, kept: Kept) -> None:
        problem = layer._problem(x.shape[0])
        kernel = choose(layer.cell, problem, layer.algorithm, kept=True)
        ready = bound(kernel, problem)
        u = kept.get(kernel)
        alone = getattr(ready.run, "alone", None)
        # (x, h, c, hn, cn), each (b, features); None where it is more than one thread's.
        self.call = None if alone is None or u is None else alone(u)
        self.layer, self.none = layer, ready.none.reshape(0, 1)
        self.shape, self.hidden, self.dtype = x.shape, (x.shape[0], layer.hidden_size), x.dtype
        self.states, self.setting = len(layer._states), setting()
        present = [w for w in layer._parameters.values() if w is not None]
        self.weights = [(w, w._state.number) for w in present]

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy of the cell works out its own.
        return _nothing, ()

    def __call__(self, x: Any, hx: Any) -> Any:
        """The states, or None if x, hx, the parameters or the setting are not those that this was worked out for."""
        if type(x) is not np.ndarray or x.shape != self.shape or x.dtype is not self.dtype or self.layer.training:
            return None
        given = (hx,) if self.states == 1 else hx
        if type(given) is not tuple or len(given) != self.states or not x.flags.carray:
            return None
        for h in given:
            if type(h) is not np.ndarray or h.shape != self.hidden or h.dtype is not self.dtype or not h.flags.carray:
                return None
        for w, number in self.weights:
            # Held by the parameter and as the argument; what someone else holds could change unseen.
            if w._state.number != number or getrefcount(w._array) != 2:
                return None
        if setting() != self.setting:
            return None
        call = self.call
        assert call is not None
        hn = np.empty(self.hidden, self.dtype)
        cn = np.empty(self.hidden, self.dtype) if self.states == 2 else None
        if cn is None:
            call(x, given[0], self.none, hn, self.none)
            return hn
        call(x, given[0], given[1], hn, cn)
        return hn, cn
