"""Calls worked out: layers on arrays of the shapes of the call before, so that small ones do not wait for Python."""

from __future__ import annotations

from sys import getrefcount
from typing import Any

import numpy as np

from fastconv.autograd import Array, is_array
from fastconv.functional import Kept, bound
from fastconv.nn import steps
from fastconv.nn.module import Module, Parameter
from fastconv.registry import OPS, choose, setting


def _nothing() -> None:
    return None


class Ready:
    """A layer's operation `op` without weights, worked out for arrays of the shape of x."""

    __slots__ = ("bound", "dtype", "layer", "setting", "shape")

    def __init__(self, layer: Any, op: str, x: Array, kept: bool = False) -> None:
        problem = layer.problem(x)
        self.layer, self.shape, self.dtype, self.setting = layer, x.shape, x.dtype, setting()
        self.bound = bound(choose(op, problem, layer.algorithm, kept=kept), problem)

    def __call__(self, x: Array) -> Any:
        """The output or outputs, or None if x or the setting are not those that this was worked out for."""
        # An array that functional.prepared would copy is left to it.
        if x.shape != self.shape or x.dtype is not self.dtype or setting() != self.setting or not x.flags.carray:
            return None
        bound = self.bound
        if bound.simple is not None:
            return bound.simple(x)
        outputs = bound((x,))
        return outputs if len(outputs) > 1 else outputs[0]


class ReadyWeighted(Ready):
    """A layer's operation (x, weight, bias, …) -> y, worked out for arrays of the shape of x."""

    __slots__ = ("bias", "line", "of_bias", "of_weight", "parameters", "rest")

    def __init__(self, layer: Any, op: str, x: Array) -> None:
        super().__init__(layer, op, x, kept=layer._keep() is not None)
        self.parameters = layer.__dict__["_parameters"]
        none = self.bound.none
        # Kernels of convolution take lines as images of one row, and what is added to the output.
        self.line = op == "conv2d" and x.ndim == 3
        self.rest = (none,) * (len(OPS[op].inputs) - 3)
        self.bias = None if layer.bias is not None else none
        ready = all(p is None or p._array.flags.carray for p in self.parameters.values())
        self.of_weight = layer.weight._state.number if ready else -1
        self.of_bias = 0 if layer.bias is None else layer.bias._state.number

    def __call__(self, x: Array) -> Array | None:
        """y, or None if x, the parameters or the setting are not those that this was worked out for."""
        parameters, b = self.parameters, self.bias
        weight, bias = parameters["weight"], parameters.get("bias")
        if weight is None or (bias is None) is (b is None):
            # A parameter has come or gone by register_parameter.
            return None
        if b is None:
            b, version = bias._array, bias._state.number
        else:
            version = 0
        # An array that functional.prepared would copy is left to it.
        if (
            x.shape != self.shape
            or x.dtype is not self.dtype
            or weight._state.number != self.of_weight
            or version != self.of_bias
            or setting() != self.setting
            or not x.flags.carray
        ):
            return None
        bound = self.bound
        # Before anybody here holds the weight's array: it is kept only while nobody else does.
        kept = None if bound.weights is None else self.layer._keep_of(weight)
        w = weight._array
        if self.line:
            x, w = x[:, :, None], w[:, :, None]
        y: Array
        y = bound.simple(x, w, b, *self.rest) if bound.simple is not None else bound((x, w, b, *self.rest), kept)[0]
        return y[:, :, 0] if self.line else y


class Answering(Module):
    """A layer of one operation that is `ready` for arrays of the shape of the call before."""

    _ready: Ready | None

    def _answer(self, x: Any) -> Any:
        """The output for `x`, if it is an array of the shape that the layer is ready for, else None."""
        ready = self._ready
        return ready(x) if ready is not None and type(x) is np.ndarray else None

    def _prepare(self, ready: Ready) -> None:
        self.__dict__["_ready"] = ready

    def __setattr__(self, name: str, value: Any) -> None:
        # A list could be changed unseen.
        super().__setattr__(name, tuple(value) if type(value) is list else value)
        self.__dict__["_ready"] = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy works it out for itself.
        return {**self.__dict__, "_ready": None}


class Keeping(Answering):
    """A layer whose kernel may prepare something of its `weight`, which is kept from call to call."""

    weight: Parameter

    def __init__(self) -> None:
        super().__init__()
        self._kept = Kept()

    def _keep(self) -> Kept | None:
        """Where prepared weights are kept: in evaluation, and only while no change of the weights can go unseen."""
        return self._keep_of(self.weight)

    def _keep_of(self, weight: Parameter) -> Kept | None:
        """`_keep`, for callers that have the weight at hand: finding it takes longer than all the rest."""
        if self.training or not weight._is_exclusive():
            self._kept.of(None)
            return None
        return self._kept.of((weight._version, id(weight._array)))


class ReadyLayers:
    """A recurrent layer's forward in evaluation, worked out for arrays of one shape."""

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
    """A cell's step in evaluation, worked out for arrays of one shape."""

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
