"""Recurrent layers; cells are in recurrent_cells.py. Source: torch.nn.RNN, LSTM, GRU.

Beyond torch: sequences of unequal lengths by the plain argument `lengths`, T = 0, Jordan's network, the GRU of 2014,
and LSTMs with peepholes, with gates that see c, with a linear output, with layer normalisation and with zoneout.

Input is an array or a Tensor of the parameters' dtype; the same kind comes back, and initial states may be of either.
ValueError or TypeError names the argument at fault, its value and what is allowed.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv import ops, views
from fastconv.autograd import Array, Variable, array, array_module, is_array
from fastconv.functional import Kept
from fastconv.nn import functional as F
from fastconv.nn import init, recurrence, steps
from fastconv.nn.checks import float_dtype, fraction, one_of, real
from fastconv.nn.module import Module, Parameter
from fastconv.nn.ready import of_layers
from fastconv.nn.steps import Recurrence, States, Weights
from fastconv.problem import RecurrentProblem, boolean, integer

NONLINEARITIES = ("tanh", "relu")
PEEPHOLES = ("diagonal", "full")

Shapes = dict[str, tuple[int, ...]]


def shapes_of(gates: int, features: int, hidden: int, state: int, bias: bool) -> Shapes:
    """The parameters that all recurrent layers have, in torch's order."""
    rows = gates * hidden
    shapes: Shapes = {"weight_ih": (rows, features), "weight_hh": (rows, state)}
    return shapes | ({"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {})


def draw(parameters: Any, hidden: int) -> None:
    """Uniform on ±1/√hidden; of layer normalisation, gains 1 and biases 0."""
    bound = 1 / math.sqrt(hidden)
    for name, parameter in parameters:
        if name.startswith("weight_ln_"):
            init.ones_(parameter)
        elif name.startswith("bias_ln_"):
            init.zeros_(parameter)
        else:
            init.uniform_(parameter, -bound, bound)


def state_of(name: str, value: Any, input: Any, shape: tuple[int, ...], axes: str) -> Any:
    """The initial state `value` as what the input is, of this shape, whose axes are called `axes`."""
    a = real(name, value, array(input))
    if a.shape != shape:
        raise ValueError(f"{name}={a.shape}: needs shape {shape}, ({axes})")
    return steps.same_kind(input, value)


def pair_of(hx: Any) -> tuple[Any, Any]:
    """An LSTM's hx as (h_0, c_0)."""
    if not isinstance(hx, (tuple, list)):
        raise TypeError(f"hx={hx!r:.60}: needs a pair (h_0, c_0) of arrays or Tensors, got {type(hx).__name__}")
    if len(hx) != 2:
        raise ValueError(f"hx: needs a pair (h_0, c_0), got {len(hx)} values")
    return hx[0], hx[1]


def _lengths(lengths: Any, t: int, b: int) -> Array | None:
    """The lengths as int64 (b); None if no sequence is shorter than t."""
    if lengths is None:
        return None
    if isinstance(lengths, (list, tuple)):
        counts = np.array([integer("lengths", n, 0) for n in lengths], np.int64)
    elif isinstance(lengths, Variable) or is_array(lengths):
        counts = array(lengths)
        if counts.dtype.kind not in "iu":
            raise TypeError(f"lengths: dtype {counts.dtype} is not supported, needs an integer dtype")
    else:
        raise TypeError(f"lengths={lengths!r:.60}: needs {b} ints or None, got {type(lengths).__name__}")
    if counts.shape != (b,):
        raise ValueError(f"lengths={counts.shape}: needs shape ({b},), one length a sequence")
    shortest, longest = (int(counts.min()), int(counts.max())) if b else (t, t)
    if shortest < 0 or longest > t:
        raise ValueError(
            f"lengths: {shortest if shortest < 0 else longest} is not allowed, needs 0 to {t}, the input's steps"
        )
    return None if shortest == t else counts.astype(np.int64)


class _Recurrent(Module):
    """What all recurrent layers share: layers and directions, what comes in and what goes out."""

    # For error messages.
    _states: tuple[str, ...] = ("hx",)
    # Its kernels' name.
    cell = ""
    # What an output and the recurrent state have; further states have hidden_size.
    _width: int

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        algorithm: str,
    ) -> None:
        super().__init__()
        self.input_size = integer("input_size", input_size)
        self.hidden_size = integer("hidden_size", hidden_size)
        self.num_layers = integer("num_layers", num_layers)
        self.bias = boolean("bias", bias)
        self.batch_first = boolean("batch_first", batch_first)
        self.dropout = fraction("dropout", dropout)
        self.bidirectional = boolean("bidirectional", bidirectional)
        self.algorithm = algorithm
        self._width = self.hidden_size
        self._names: tuple[str, ...] = ()
        self._full_names: dict[tuple[int, int], dict[str, str]] = {}
        # By layer: what kernels prepared of its weights, and its last problem with what that was made of.
        self._kept: dict[int, Kept] = {}
        self._known: dict[int, tuple[object, RecurrentProblem]] = {}
        self.__dict__["_ready"] = None

    def __setattr__(self, name: str, value: Any) -> None:
        # Another parameter or option: what was worked out no longer holds.
        self.__dict__["_ready"] = None
        super().__setattr__(name, value)

    def _register(self, table: str, name: str, value: Any) -> None:
        self.__dict__["_ready"] = None
        super()._register(table, name, value)

    def _parameter_shapes(self, features: int) -> Shapes:
        """The parameters of one direction of a layer of so many input features, without the layer's number."""
        raise NotImplementedError

    def _recurrence(self, weights: Weights) -> Recurrence:
        """One direction of a layer with these weights, step by step."""
        raise NotImplementedError

    @property
    def _directions(self) -> int:
        return 1 + self.bidirectional

    def _make(self, dtype: npt.DTypeLike | None) -> None:
        """Make and draw the parameters; called when all options are known."""
        kind = float_dtype(dtype)
        for number in range(self.num_layers):
            shapes = self._parameter_shapes(self._width * self._directions if number else self.input_size)
            self._names = tuple(shapes)
            for reverse in range(self._directions):
                for name, shape in shapes.items():
                    setattr(self, self._full(name, number, reverse), Parameter(np.empty(shape, kind)))
        self.reset_parameters()

    @staticmethod
    def _full(name: str, number: int, reverse: int) -> str:
        return f"{name}_l{number}{'_reverse' * reverse}"

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        draw(self.named_parameters(), self.hidden_size)

    def flatten_parameters(self) -> None:
        """Nothing, for programs written for torch: where parameters lie does not matter here."""

    def _weights(self, number: int, reverse: int) -> dict[str, Parameter]:
        """The parameters of one direction of a layer, by their names without its number."""
        known = self._full_names.get((number, reverse))
        if known is None:
            known = {name: self._full(name, number, reverse) for name in self._names}
            self._full_names[number, reverse] = known
        return {name: self._parameters[full] for name, full in known.items()}

    def forward(self, input: Any, hx: Any = None, *, lengths: Any = None) -> Any:
        """(output, state at the end): see the class."""
        if isinstance(input, tuple):
            return self._packed(input, hx, lengths)
        ready = self.__dict__["_ready"]
        if ready is not None and type(input) is np.ndarray and input.ndim == 3:
            axis = 0 if self.batch_first else 1
            found = ready(input, hx, _lengths(lengths, input.shape[1 - axis], input.shape[axis]))
            if found is not None:
                return found
        a = real("input", input)
        axes = "(batch, T, input_size)" if self.batch_first else "(T, batch, input_size)"
        if a.ndim not in (2, 3):
            raise ValueError(f"input={a.shape}: needs shape {axes} or (T, input_size), got {a.ndim} dimensions")
        if a.shape[-1] != self.input_size:
            raise ValueError(f"input={a.shape}: needs shape {axes}, input_size={self.input_size}")
        real("weight_ih_l0", self.weight_ih_l0, a)
        axis = 0 if self.batch_first else 1
        single = a.ndim == 2
        x = views.unsqueeze(input, axis) if single else input
        shape: tuple[int, ...] = array(x).shape
        states = self._initial(hx, input, () if single else (shape[axis],))
        if states and single:
            states = tuple(views.unsqueeze(state, 1) for state in states)
        counts = _lengths(lengths, shape[1 - axis], shape[axis])
        y, states = self._layers(x, states, counts)
        if not single and not self.training and type(input) is np.ndarray and input.size:
            self.__dict__["_ready"] = of_layers(self, array(x), hx, counts is not None)
        if single:
            y, states = views.squeeze(y, axis), tuple(views.squeeze(state, 1) for state in states)
        return y, states if len(states) > 1 else states[0]

    def _packed(self, input: Any, hx: Any, lengths: Any) -> Any:
        """forward of a PackedSequence."""
        from fastconv.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

        if not isinstance(input, PackedSequence):
            raise TypeError(f"input={input!r:.60}: needs an array, a Tensor or a PackedSequence, got a tuple")
        if lengths is not None:
            raise ValueError("lengths: needs None with a PackedSequence, which has its own")
        data, sizes, order, back = input
        a = real("input.data", data)
        if a.ndim != 2 or a.shape[1] != self.input_size:
            raise ValueError(f"input.data={a.shape}: needs shape (elements, input_size), input_size={self.input_size}")
        real("weight_ih_l0", self.weight_ih_l0, a)
        # The longest sequence first, as they are packed.
        x, counts = pad_packed_sequence(PackedSequence(data, sizes), self.batch_first)
        counts = array(counts)
        states = self._initial(hx, data, (len(counts),))
        if states and order is not None:
            states = tuple(views.getitem(state, (slice(None), order)) for state in states)
        y, states = self._layers(x, states, _lengths(counts, len(array(sizes)), len(counts)))
        if back is not None:
            states = tuple(views.getitem(state, (slice(None), back)) for state in states)
        packed = pack_padded_sequence(y, counts, self.batch_first).data
        return PackedSequence(packed, sizes, order, back), states if len(states) > 1 else states[0]

    def _initial(self, hx: Any, input: Any, batch: tuple[int, ...]) -> States | None:
        """hx, checked, as what the input is: each (layers · directions, *batch, size); None for none."""
        if hx is None:
            return None
        given = (hx,) if len(self._states) == 1 else pair_of(hx)
        axes = f"num_layers · directions, {'batch, ' * len(batch)}size"
        sizes = (self._width, self.hidden_size)
        return tuple(
            state_of(name, value, input, (self.num_layers * self._directions, *batch, size), axes)
            for name, value, size in zip(self._states, given, sizes, strict=False)
        )

    def _layers(self, x: Any, states: States | None, lengths: Array | None) -> tuple[Any, States]:
        """All layers, with dropout between them: y, and the states (layers · directions, b, size) at the end."""
        ends: list[States] = []
        for number in range(self.num_layers):
            if number:
                x = F.dropout(x, self.dropout, self.training)
            part = slice(number * self._directions, (number + 1) * self._directions)
            begin = None if states is None else tuple(views.getitem(state, part) for state in states)
            x, end = self._layer(number, x, begin, lengths)
            ends.append(end)
        if len(ends) == 1:
            return x, ends[0]
        return x, tuple(ops.cat(each) for each in zip(*ends, strict=True))

    def _layer(self, number: int, x: Any, states: States | None, lengths: Array | None) -> tuple[Any, States]:
        """One layer, all its directions: y and the states (directions, b, size) at each sequence's end.

        x (t, b, i), or (b, t, i) if batch_first, and y alike; states as x is, None for zeros; lengths (b), int64, or
        None for t.
        """
        options = None if self.algorithm == steps.COMPOSED else self._options()
        if options is None:
            if self.algorithm not in ("auto", steps.COMPOSED):
                raise ValueError(f"algorithm={self.algorithm!r}: needs 'auto' or '{steps.COMPOSED}' with these options")
            return self._composed(number, x, states, lengths)
        p = self._problem(number, array(x).shape, states is not None, lengths is not None, options)
        if p.t == 0:
            return self._composed(number, x, states, lengths)
        weights = [self._weights(number, reverse) for reverse in range(self._directions)]
        return recurrence.run(p, x, weights, states, lengths, self.algorithm, self._keep(number, weights))

    def _options(self) -> dict[str, bool] | None:
        """The options of RecurrentProblem that make this layer, None if no kernel has them."""
        return None

    def _problem(
        self, number: int, shape: tuple[int, ...], state: bool, ragged: bool, options: dict[str, bool]
    ) -> RecurrentProblem:
        """What a layer asks of the kernels for an input of this shape."""
        key = (shape, state, ragged, self.weight_ih_l0.dtype, tuple(options.items()))
        known = self._known.get(number)
        if known is None or known[0] != key:
            problem = RecurrentProblem.make(
                self.cell,
                shape,
                self.hidden_size,
                directions=self._directions,
                bias=self.bias,
                state=state,
                ragged=ragged,
                batch_first=self.batch_first,
                dtype=str(self.weight_ih_l0.dtype),
                **options,
            )
            self._known[number] = known = (key, problem)
        return known[1]

    def _keep(self, number: int, weights: Sequence[dict[str, Parameter]]) -> Kept | None:
        """Where kernels keep what they prepare of a layer's weights; None while these may change unseen."""
        parameters = [w for each in weights for w in each.values()]
        if self.training or not all(w._is_exclusive() for w in parameters):
            self._kept.clear()
            return None
        kept = self._kept.setdefault(number, Kept())
        return kept.of(tuple([(w._version, id(w._array)) for w in parameters]))

    @property
    def operations(self) -> tuple[str, ...]:
        """The kernels' operations that serve it: in evaluation, in training, and back."""
        return (self.cell, f"{self.cell}_train", f"{self.cell}_grad")

    def problem(self, x: Any, number: int = 0) -> RecurrentProblem:
        """What layer `number` asks of the kernels for `x`, an array, a Tensor or a shape, without states or lengths.

        ValueError where the layer's options are done step by step, without a kernel.
        """
        options = self._options()
        if options is None:
            raise ValueError(f"{type(self).__name__}({self.extra_repr()}): has no kernel for these options")
        shape = tuple(getattr(x, "shape", x))
        shape = shape if len(shape) == 3 else (shape[0], 1, shape[1])
        features = self._width * self._directions if number else shape[-1]
        return self._problem(number, (*shape[:-1], features), False, False, options)

    def _composed(self, number: int, x: Any, states: States | None, lengths: Array | None) -> tuple[Any, States]:
        """_layer out of recorded operations, step by step."""
        if self.batch_first:
            x = views.transpose(x, 0, 1)
        a = array(x)
        sizes = (self._width, self.hidden_size)[: len(self._states)]
        outputs, ends = [], []
        for reverse in range(self._directions):
            weights = {name: steps.same_kind(x, w) for name, w in self._weights(number, reverse).items()}
            if states is None:
                begin = tuple(steps.like(x, array_module(a).zeros((a.shape[1], size), a.dtype)) for size in sizes)
            else:
                begin = tuple(views.getitem(state, reverse) for state in states)
            y, end = steps.run(self._recurrence(weights), x, begin, lengths, bool(reverse))
            outputs.append(y)
            ends.append(end)
        y = outputs[0] if len(outputs) == 1 else ops.cat(outputs, -1)
        if self.batch_first:
            y = views.transpose(y, 0, 1)
        return y, tuple(ops.stack(each) for each in zip(*ends, strict=True))

    def _sizes_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"

    def _options_repr(self) -> dict[str, tuple[Any, Any]]:
        """Further options: their values and their defaults."""
        return {}

    def extra_repr(self) -> str:
        options = {
            "num_layers": (self.num_layers, 1),
            "bias": (self.bias, True),
            "batch_first": (self.batch_first, False),
            "dropout": (self.dropout, 0),
            "bidirectional": (self.bidirectional, False),
        } | self._options_repr()
        parts = [f"{name}={value!s}" for name, (value, default) in options.items() if value != default]
        return ", ".join([self._sizes_repr(), *parts])


class RNN(_Recurrent):
    """Elman's network: h(t) = f(W_ih·x(t) + b_ih + W_hh·h(t−1) + b_hh), f `nonlinearity`, "tanh" or "relu".

    Input (T, batch, input_size), (batch, T, input_size) if batch_first, (T, input_size) without a batch, or a
    PackedSequence; hx, zeros if it is None, (num_layers·D, batch, hidden_size), D = 2 if bidirectional, else 1.
    Returns (output, h_n): output (T, batch, D·hidden_size) or as the input, the last layer's h of every step, the
    reverse direction's after the other's; h_n as hx, the state after the last step.
    lengths: batch ints from 0 to T in any order, or None. Beyond its length a sequence's output is 0 and its input
    does not matter; its final state is that at its own end, where the reverse direction starts.
    dropout, in training, of the outputs of all layers but the last: with one layer there is none, without a warning.
    T = 0 gives no outputs and the state as it was. All parameters start uniform on ±1/√hidden_size.
    algorithm: "auto" or "composed".
    """

    cell = "rnn"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        dtype: npt.DTypeLike | None = None,
        algorithm: str = "auto",
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, algorithm)
        self.nonlinearity = one_of("nonlinearity", nonlinearity, NONLINEARITIES)
        self._make(dtype)

    def _parameter_shapes(self, features: int) -> Shapes:
        return shapes_of(1, features, self.hidden_size, self.hidden_size, self.bias)

    def _recurrence(self, weights: Weights) -> Recurrence:
        return steps.Elman(weights, self.nonlinearity)

    def _options(self) -> dict[str, bool] | None:
        return {"relu": self.nonlinearity == "relu"}


class JordanRNN(_Recurrent):
    """Jordan's network, whose state is its output: y(t) = g(W_ho·h(t) + b_ho), of output_size, where
    h(t) = f(W_ih·x(t) + b_ih + W_hh·y(t−1) + b_hh), of hidden_size.

    f is `nonlinearity`, "tanh" or "relu"; g is `output_activation`, "linear", "tanh", "sigmoid" or "relu".
    Parameters are RNN's, with weight_hh (hidden_size, output_size), weight_ho (output_size, hidden_size) and bias_ho.
    Arguments, input, lengths and results are RNN's, with output_size in place of hidden_size: hx and y_n are
    (num_layers·D, batch, output_size). Source: Jordan 1986.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        output_activation: str = "linear",
        dtype: npt.DTypeLike | None = None,
        algorithm: str = "auto",
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, algorithm)
        self.output_size = self._width = integer("output_size", output_size)
        self.nonlinearity = one_of("nonlinearity", nonlinearity, NONLINEARITIES)
        self.output_activation = one_of("output_activation", output_activation, tuple(steps.ACTIVATIONS))
        self._make(dtype)

    def _parameter_shapes(self, features: int) -> Shapes:
        shapes = shapes_of(1, features, self.hidden_size, self.output_size, self.bias)
        shapes["weight_ho"] = (self.output_size, self.hidden_size)
        return shapes | ({"bias_ho": (self.output_size,)} if self.bias else {})

    def _recurrence(self, weights: Weights) -> Recurrence:
        return steps.Jordan(weights, self.nonlinearity, self.output_activation)

    def _sizes_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, {self.output_size}"

    def _options_repr(self) -> dict[str, tuple[Any, Any]]:
        return {
            "nonlinearity": (self.nonlinearity, "tanh"),
            "output_activation": (self.output_activation, "linear"),
        }


class GRU(_Recurrent):
    """r, z = σ(W_ih·x(t) + b_ih + W_hh·h(t−1) + b_hh) and h(t) = (1 − z)·n + z·h(t−1), where
    n = tanh(W_in·x(t) + b_in + r·(W_hn·h(t−1) + b_hn)).

    reset_after=False: n = tanh(W_in·x(t) + b_in + W_hn·(r·h(t−1)) + b_hn), as in Cho et al. 2014.
    weight_ih (3·hidden_size, features), weight_hh (3·hidden_size, hidden_size) and both biases (3·hidden_size) hold r,
    z and n in this order. Arguments, input, lengths and results are RNN's.
    """

    cell = "gru"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        reset_after: bool = True,
        dtype: npt.DTypeLike | None = None,
        algorithm: str = "auto",
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, algorithm)
        self.reset_after = boolean("reset_after", reset_after)
        self._make(dtype)

    def _parameter_shapes(self, features: int) -> Shapes:
        return shapes_of(3, features, self.hidden_size, self.hidden_size, self.bias)

    def _recurrence(self, weights: Weights) -> Recurrence:
        return steps.GRU(weights, self.reset_after)

    def _options(self) -> dict[str, bool] | None:
        return {} if self.reset_after else None

    def _options_repr(self) -> dict[str, tuple[Any, Any]]:
        return {"reset_after": (self.reset_after, True)}


def _zoneout(value: Any) -> tuple[float, float]:
    """zoneout as the probabilities of h and of c."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"zoneout={value!r}: needs a number or a pair (of h, of c), got {len(value)} values")
        return fraction("zoneout", value[0]), fraction("zoneout", value[1])
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"zoneout={value!r}: needs a number from 0 to 1 or a pair, got {type(value).__name__}")
    both = fraction("zoneout", value)
    return both, both


class LSTM(_Recurrent):
    """i, f, o = σ(a), g = tanh(a), c(t) = f·c(t−1) + i·g, h(t) = o·σ_h(c(t)), where
    a = W_ih·x(t) + b_ih + W_hh·h(t−1) + b_hh.

    weight_ih (4·hidden_size, features), weight_hh and both biases hold i, f, g and o in this order. With proj_size > 0,
    smaller than hidden_size, h is W_hr·(o·σ_h(c)) of that size, weight_hr (proj_size, hidden_size).
    Arguments, input, lengths and results are RNN's, but that hx and the state at the end are pairs (h, c), h
    (num_layers·D, batch, proj_size or hidden_size), c (num_layers·D, batch, hidden_size).

    Beyond torch:
    - activation: σ_h, "tanh" or "linear".
    - peephole="diagonal": i and f see c(t−1), o sees c(t), each unit its own, by weight_pc (3·hidden_size) in the order
      i, f, o (ONNX's P has i, o, f). Source: Gers et al. 2002.
    - peephole="full": all four, g too, see [x(t), c(t−1)] in place of [x(t), h(t−1)]: weight_hh acts on c. h is output
      only, so proj_size must be 0.
    - fully_connected: FC-LSTM, all four see x(t), h(t−1) and c(t−1), this by weight_ch (4·hidden_size, hidden_size).
    - layer_norm: W_ih·x, W_hh·h and, if fully connected, W_ch·c, each over its 4·hidden_size values, and the c that σ_h
      sees are normalised with gains weight_ln_ih, weight_ln_hh, (weight_ln_ch,) weight_ln_c, which start with 1, and,
      if `bias`, biases bias_ln_…, which start with 0; bias_ih and bias_hh are added to them. Source: Ba et al. 2016.
    - zoneout: a probability, or one of h and one of c. In training a unit keeps its value of the step before with that
      probability, drawn from the library's generator (see manual_seed); in evaluation it is the expectation. h(t) is
      computed from the c(t) before its zoneout. Source: Krueger et al. 2017.
    """

    cell = "lstm"

    _states = ("hx[0]", "hx[1]")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        peephole: str | None = None,
        fully_connected: bool = False,
        activation: str = "tanh",
        layer_norm: bool = False,
        zoneout: float | Sequence[float] = 0.0,
        dtype: npt.DTypeLike | None = None,
        algorithm: str = "auto",
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, algorithm)
        self.proj_size = integer("proj_size", proj_size, 0)
        if self.proj_size >= self.hidden_size:
            raise ValueError(f"proj_size={proj_size!r}: needs 0 to {self.hidden_size - 1}, less than hidden_size")
        self.peephole = None if peephole is None else one_of("peephole", peephole, PEEPHOLES)
        self.fully_connected = boolean("fully_connected", fully_connected)
        self.activation = one_of("activation", activation, ("tanh", "linear"))
        self.layer_norm = boolean("layer_norm", layer_norm)
        self.zoneout = _zoneout(zoneout)
        if self.fully_connected and self.peephole:
            raise ValueError(
                f"peephole={peephole!r}: needs None with fully_connected=True, where all gates see all of c(t−1)"
            )
        if self.peephole == "full" and self.proj_size:
            raise ValueError(f"proj_size={proj_size!r}: needs 0 with peephole='full', where no gate sees h(t−1)")
        self._width = self.proj_size or self.hidden_size
        self._make(dtype)

    def _parameter_shapes(self, features: int) -> Shapes:
        h = self.hidden_size
        shapes = shapes_of(4, features, h, self._width, self.bias)
        if self.proj_size:
            shapes["weight_hr"] = (self.proj_size, h)
        if self.peephole == "diagonal":
            shapes["weight_pc"] = (3 * h,)
        if self.fully_connected:
            shapes["weight_ch"] = (4 * h, h)
        if self.layer_norm:
            sizes = {"ih": 4 * h, "hh": 4 * h} | ({"ch": 4 * h} if self.fully_connected else {}) | {"c": h}
            for name, size in sizes.items():
                shapes[f"weight_ln_{name}"] = (size,)
                if self.bias:
                    shapes[f"bias_ln_{name}"] = (size,)
        return shapes

    def _recurrence(self, weights: Weights) -> Recurrence:
        return steps.LSTM(weights, self.peephole, self.activation, self.zoneout, self.training)

    def _options(self) -> dict[str, bool] | None:
        if self.proj_size or self.fully_connected or self.layer_norm or any(self.zoneout) or self.peephole == "full":
            return None
        return {"peephole": self.peephole is not None, "linear": self.activation == "linear"}

    def _sizes_repr(self) -> str:
        return super()._sizes_repr() + (f", proj_size={self.proj_size}" if self.proj_size else "")

    def _options_repr(self) -> dict[str, tuple[Any, Any]]:
        return {
            "peephole": (self.peephole, None),
            "fully_connected": (self.fully_connected, False),
            "activation": (self.activation, "tanh"),
            "layer_norm": (self.layer_norm, False),
            "zoneout": (self.zoneout, (0, 0)),
        }
