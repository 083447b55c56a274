"""Recurrent layers step by step, out of recorded operations: the path that every option takes that no kernel has.

A recurrence maps the inputs of all steps to what they give to each step, at once, and then takes one step after the
other. It works on arrays or Tensors, its weights and states of the same kind as its inputs, and gradients flow back
through the tape. Sizes: t steps, b sequences, i inputs, h hidden units, o outputs of Jordan's network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias, cast

import numpy as np

from fastconv import ops, views
from fastconv.autograd import Array, Gradient, T, Variable, array, array_module, is_array, record, record_all
from fastconv.nn import functional as F
from fastconv.random import generator

# The parameters of one layer and direction, or of a cell, by their names without the layer's number.
Weights: TypeAlias = Mapping[str, Any]
# What a step hands to the next, each (b, …); the first is also its output.
States: TypeAlias = tuple[Any, ...]

# The name of this algorithm, where kernels' are named.
COMPOSED = "composed"

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "tanh": ops.tanh,
    "relu": ops.relu,
    "sigmoid": ops.sigmoid,
    "linear": lambda x: x,
}


def _nothing(x: Any) -> Gradient:
    """The gradient of x in what does not depend on it."""
    a = array(x)
    return lambda g: cast(Array, array_module(g).zeros(a.shape, a.dtype))


def unbind(x: T, axis: int = 0) -> list[T]:
    """x[0], x[1], … along `axis`, which share its memory. Source: torch.unbind.

    As single indices each gradient would be an array of the size of x, and T of them a sum of T² steps.
    """
    a = array(x)
    places: list[tuple[Any, ...]] = [(*(slice(None),) * axis, i) for i in range(a.shape[axis])]

    def whole(parts: list[Array | None]) -> list[Array]:
        gx = array_module(a).zeros(a.shape, a.dtype)
        for where, part in zip(places, parts, strict=True):
            if part is not None:
                gx[where] = part
        return [gx]

    return list(record_all(x, [a[where] for where in places], [x], whole))


def choose(mask: Array, x: T, y: Any) -> T:
    """x where `mask`, broadcast to its shape, is true, and y, of the same shape or a number, elsewhere."""
    other = y._array if isinstance(y, Variable) else y
    a = array(x)
    xp, zero = array_module(a), a.dtype.type(0)
    return record(
        x,
        xp.where(mask, a, other if is_array(other) else a.dtype.type(other)),
        (x, lambda g: xp.where(mask, g, zero)),
        (y, lambda g: xp.where(mask, zero, g)),
    )


def _gates(x: Any, count: int) -> list[Any]:
    """The (b, count·h) of a step as `count` times (b, h)."""
    b, width = x.shape
    return unbind(views.reshape(x, (b, count, width // count)), 1)


class Recurrence(Protocol):
    """One direction of one layer, or a cell."""

    w: Weights

    def inputs(self, x: Any) -> Any:
        """What x (…, i) gives to its steps."""

    def step(self, given: Any, states: States) -> States:
        """The states after a step, from those before it and what its inputs give, (b, …)."""


class Elman:
    """h = f(W_ih·x + b_ih + W_hh·h(t−1) + b_hh), f tanh or relu. Source: Elman 1990; torch.nn.RNN."""

    def __init__(self, w: Weights, nonlinearity: str) -> None:
        self.w = w
        self.function = ACTIVATIONS[nonlinearity]

    def inputs(self, x: Any) -> Any:
        return F.linear(x, self.w["weight_ih"], self.w.get("bias_ih"))

    def step(self, given: Any, states: States) -> States:
        return (self.function(given + F.linear(states[0], self.w["weight_hh"], self.w.get("bias_hh"))),)


class Jordan(Elman):
    """h = f(W_ih·x + b_ih + W_hh·y(t−1) + b_hh), y = g(W_ho·h + b_ho); the state is y. Source: Jordan 1986."""

    def __init__(self, w: Weights, nonlinearity: str, output_activation: str) -> None:
        super().__init__(w, nonlinearity)
        self.output = ACTIVATIONS[output_activation]

    def step(self, given: Any, states: States) -> States:
        (h,) = super().step(given, states)
        return (self.output(F.linear(h, self.w["weight_ho"], self.w.get("bias_ho"))),)


class GRU:
    """r, z = σ(W_ih·x + b_ih + W_hh·h(t−1) + b_hh), h = (1 − z)·n + z·h(t−1), gates in the order r, z, n.

    n = tanh(W_in·x + b_in + r·(W_hn·h(t−1) + b_hn)) if reset_after, which is torch.nn.GRU's, else
    n = tanh(W_in·x + b_in + W_hn·(r·h(t−1)) + b_hn). Source: Cho et al. 2014.
    """

    def __init__(self, w: Weights, reset_after: bool = True) -> None:
        self.w, self.reset_after = w, reset_after
        if not reset_after:
            # Of r and z together, and of n.
            rows = w["weight_hh"].shape[0] // 3 * 2
            parts = slice(rows), slice(rows, None)
            bias = w.get("bias_hh")
            self.weights = [views.getitem(w["weight_hh"], part) for part in parts]
            self.biases = [None if bias is None else views.getitem(bias, part) for part in parts]

    def inputs(self, x: Any) -> Any:
        return F.linear(x, self.w["weight_ih"], self.w.get("bias_ih"))

    def step(self, given: Any, states: States) -> States:
        (h,) = states
        rx, zx, nx = _gates(given, 3)
        if self.reset_after:
            rh, zh, nh = _gates(F.linear(h, self.w["weight_hh"], self.w.get("bias_hh")), 3)
            r, z = ops.sigmoid(rx + rh), ops.sigmoid(zx + zh)
            n = ops.tanh(nx + r * nh)
        else:
            rh, zh = _gates(F.linear(h, self.weights[0], self.biases[0]), 2)
            r, z = ops.sigmoid(rx + rh), ops.sigmoid(zx + zh)
            n = ops.tanh(nx + F.linear(r * h, self.weights[1], self.biases[1]))
        return (n + z * (h - n),)


class LSTM:
    """i, f, o = σ(a), g = tanh(a), c = f·c(t−1) + i·g, h = W_hr·(o·σ_h(c)), gates in the order i, f, g, o.

    a = W_ih·x + b_ih + W_hh·h(t−1) + b_hh; without W_hr, h = o·σ_h(c). σ_h is `activation`. Source: Hochreiter &
    Schmidhuber 1997, Gers et al. 2000; torch.nn.LSTM.
    peephole "diagonal": c(t−1)·p_i and c(t−1)·p_f are added to a of i and f, and c·p_o to that of o, p = weight_pc.
    Source: Gers et al. 2002. "full": W_hh·c(t−1) in place of W_hh·h(t−1), for all four.
    With weight_ch (FC-LSTM), W_ch·c(t−1) is added for all four.
    With weight_ln_ih and so on, W_ih·x, W_hh·h(t−1) (and W_ch·c(t−1)), each over its 4·h values, and the c that
    σ_h sees are layer-normalised, with gains and biases of their own. Source: Ba et al. 2016.
    zoneout (of h, of c): in training a unit keeps its old value with that probability, otherwise it takes the
    expectation. h is computed from the c before its own zoneout. Source: Krueger et al. 2017.
    """

    def __init__(
        self,
        w: Weights,
        peephole: str | None = None,
        activation: str = "tanh",
        zoneout: tuple[float, float] = (0.0, 0.0),
        training: bool = False,
    ) -> None:
        self.w, self.activation = w, ACTIVATIONS[activation]
        self.zoneout, self.training = zoneout, training
        # Name of the weight and of its input's state.
        self.products = [("hh", 1 if peephole == "full" else 0)] + [("ch", 1)] * ("weight_ch" in w)
        self.peepholes = None
        if peephole == "diagonal":
            p = w["weight_pc"]
            self.peepholes = unbind(views.reshape(p, (3, p.shape[0] // 3)))

    def _product(self, name: str, x: Any) -> Any:
        """x times the weight `name`, plus its bias, and normalised if the layer is."""
        weight, bias = self.w[f"weight_{name}"], self.w.get(f"bias_{name}")
        if f"weight_ln_{name}" not in self.w:
            return F.linear(x, weight, bias)
        y = self._normalised(name, F.linear(x, weight))
        return y if bias is None else y + bias

    def _normalised(self, name: str, x: Any) -> Any:
        gain = self.w.get(f"weight_ln_{name}")
        return x if gain is None else F.layer_norm(x, x.shape[-1], gain, self.w.get(f"bias_ln_{name}"))

    def _zoned(self, new: Any, old: Any, p: float) -> Any:
        if not p:
            return new
        if self.training:
            kept = generator().random(new.shape, dtype=np.float32) < p
            return choose(array_module(array(new)).asarray(kept), old, new)
        return old * p + new * (1 - p)

    def inputs(self, x: Any) -> Any:
        return self._product("ih", x)

    def step(self, given: Any, states: States) -> States:
        h, c = states
        for name, source in self.products:
            given = given + self._product(name, states[source])
        i, f, g, o = _gates(given, 4)
        if self.peepholes:
            i, f = i + self.peepholes[0] * c, f + self.peepholes[1] * c
        new = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
        if self.peepholes:
            o = o + self.peepholes[2] * new
        y = ops.sigmoid(o) * self.activation(self._normalised("c", new))
        if "weight_hr" in self.w:
            y = F.linear(y, self.w["weight_hr"])
        return self._zoned(y, h, self.zoneout[0]), self._zoned(new, c, self.zoneout[1])


def run(recurrence: Recurrence, x: T, states: States, lengths: Array | None, reverse: bool) -> tuple[T, States]:
    """All steps of x (t, b, i), the last first if `reverse`, from `states`: (t, b, …) and the states at the end.

    lengths (b), int64: beyond its length a sequence has no steps, outputs of zero, and its state does not change.
    """
    a = array(x)
    t, b = a.shape[:2]
    if not t:
        edges = [(source, _nothing(source)) for source in (x, *recurrence.w.values(), *states)]
        return record(x, array_module(a).zeros((0, b, states[0].shape[-1]), a.dtype), *edges), states
    valid = None
    if lengths is not None:
        xp = array_module(a)
        valid = (xp.arange(t)[:, None] < xp.asarray(lengths))[..., None]
        # Whatever stands beyond a sequence's end, NaN too, must not reach the gradients of the weights.
        x = choose(valid, x, 0)
    given = unbind(recurrence.inputs(x))
    outputs: list[Any] = [None] * t
    for i in reversed(range(t)) if reverse else range(t):
        new = recurrence.step(given[i], states)
        output = new[0]
        if valid is not None and not valid[i].all():
            new = tuple(choose(valid[i], after, before) for after, before in zip(new, states, strict=True))
            output = choose(valid[i], output, 0)
        outputs[i], states = output, new
    return ops.stack(outputs), states


def like(x: T, values: Array) -> T:
    """`values` as what x is, an array or a Tensor, not recorded."""
    return record(x, values)


def same_kind(x: Any, value: Any) -> Any:
    """`value`, an array, Tensor or Parameter, as what x is: from an array nothing is recorded."""
    if isinstance(x, Variable):
        return value if isinstance(value, Variable) else like(x, value)
    return array(value)
