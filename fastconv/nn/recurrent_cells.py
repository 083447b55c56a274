"""Recurrent cells: one step. Source: torch.nn.RNNCell, LSTMCell, GRUCell."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv import views
from fastconv.autograd import array, array_module
from fastconv.functional import Kept
from fastconv.nn import recurrence, steps
from fastconv.nn.checks import float_dtype, one_of, real
from fastconv.nn.module import Module, Parameter
from fastconv.nn.ready import ReadyCell
from fastconv.nn.recurrent import NONLINEARITIES, draw, pair_of, shapes_of, state_of
from fastconv.nn.steps import Recurrence, States, Weights
from fastconv.problem import RecurrentProblem, boolean, integer


class _Cell(Module):
    """What all cells share: one step of a layer of one direction, whose parameters have no number."""

    # Its kernels' name.
    cell = ""

    _states: tuple[str, ...] = ("hx",)

    weight_ih: Parameter
    weight_hh: Parameter
    bias_ih: Parameter | None
    bias_hh: Parameter | None

    def __init__(
        self,
        gates: int,
        input_size: int,
        hidden_size: int,
        bias: bool,
        dtype: npt.DTypeLike | None,
        algorithm: str,
    ) -> None:
        super().__init__()
        self.input_size = integer("input_size", input_size)
        self.hidden_size = h = integer("hidden_size", hidden_size)
        self.bias = boolean("bias", bias)
        self.algorithm = algorithm
        self._kept = Kept()
        kind = float_dtype(dtype)
        for name, shape in shapes_of(gates, self.input_size, h, h, True).items():
            wanted = self.bias or name.startswith("weight")
            self.register_parameter(name, Parameter(np.empty(shape, kind)) if wanted else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        draw(self.named_parameters(), self.hidden_size)

    def _recurrence(self, weights: Weights) -> Recurrence:
        raise NotImplementedError

    def __setattr__(self, name: str, value: Any) -> None:
        # Another parameter or option: what was worked out no longer holds.
        self.__dict__["_ready"] = None
        super().__setattr__(name, value)

    def _register(self, table: str, name: str, value: Any) -> None:
        self.__dict__["_ready"] = None
        super()._register(table, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        ready = self.__dict__["_ready"]
        if ready is not None and len(args) == 2 and not kwargs and not self._forward_hooks:
            found = ready(*args)
            if found is not None:
                return found
        return super().__call__(*args, **kwargs)

    def forward(self, input: Any, hx: Any = None) -> Any:
        """The state after the step: see the class."""
        a = real("input", input)
        if a.ndim not in (1, 2) or a.shape[-1] != self.input_size:
            raise ValueError(
                f"input={a.shape}: needs shape (batch, input_size) or (input_size,), input_size={self.input_size}"
            )
        real("weight_ih", self.weight_ih, a)
        shape = (*a.shape[:-1], self.hidden_size)
        if hx is None:
            states: States = tuple(steps.like(input, array_module(a).zeros(shape, a.dtype)) for _ in self._states)
        else:
            given = (hx,) if len(self._states) == 1 else pair_of(hx)
            axes = "batch, hidden_size" if a.ndim == 2 else "hidden_size"
            states = tuple(
                state_of(name, value, input, shape, axes) for name, value in zip(self._states, given, strict=True)
            )
        if a.ndim == 2:
            states = self._step(input, states)
        else:
            states = self._step(views.unsqueeze(input, 0), tuple(views.unsqueeze(state, 0) for state in states))
            states = tuple(views.squeeze(state, 0) for state in states)
        if type(input) is np.ndarray and a.ndim == 2 and hx is not None and a.shape[0]:
            kept = self._keep() if self.algorithm != steps.COMPOSED else None
            ready = None if kept is None else ReadyCell(self, a, kept)
            self.__dict__["_ready"] = None if ready is None or ready.call is None else ready
        return states if len(states) > 1 else states[0]

    def _step(self, x: Any, states: States) -> States:
        """The states after a step from x (b, i); all as x is, an array or a Tensor."""
        if self.algorithm == steps.COMPOSED:
            weights = {name: steps.same_kind(x, w) for name, w in self._parameters.items() if w is not None}
            of_steps = self._recurrence(weights)
            return of_steps.step(of_steps.inputs(x), states)
        named = {name: w for name, w in self._parameters.items() if w is not None}
        parts = (views.unsqueeze(x, 0), [named], tuple(views.unsqueeze(state, 0) for state in states))
        ends = recurrence.run(self._problem(array(x).shape[0]), *parts, None, self.algorithm, self._keep())[1]
        return tuple(views.squeeze(state, 0) for state in ends)

    def _problem(self, b: int) -> RecurrentProblem:
        """What a step on b sequences asks of the kernels."""
        return RecurrentProblem.make(
            self.cell,
            (1, b, self.input_size),
            self.hidden_size,
            bias=self.bias,
            state=True,
            dtype=str(self.weight_ih.dtype),
            **self._options(),
        )

    def _options(self) -> dict[str, bool]:
        """Its options of RecurrentProblem."""
        return {}

    def _keep(self) -> Kept | None:
        """Where kernels keep what they prepare of the weights; None while these may change unseen."""
        parameters = [w for w in self._parameters.values() if w is not None]
        if self.training or not all(w._is_exclusive() for w in parameters):
            return None
        return self._kept.of(tuple([(w._version, id(w._array)) for w in parameters]))

    @property
    def operations(self) -> tuple[str, ...]:
        """The kernels' operations that serve it: in evaluation, in training, and back."""
        return (self.cell, f"{self.cell}_train", f"{self.cell}_grad")

    def problem(self, x: Any) -> RecurrentProblem:
        """What the kernels are asked to do for `x`, an array, a Tensor or a shape."""
        shape = tuple(getattr(x, "shape", x))
        return self._problem(shape[0] if len(shape) == 2 else 1)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")


class RNNCell(_Cell):
    """One step of RNN: h' = f(W_ih·x + b_ih + W_hh·h + b_hh), f `nonlinearity`, "tanh" or "relu".

    Input (batch, input_size) or (input_size,), hx, zeros if it is None, (batch, hidden_size) or (hidden_size,) -> h'.
    """

    cell = "rnn"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        *,
        dtype: npt.DTypeLike | None = None,
        algorithm: str = "auto",
    ) -> None:
        super().__init__(1, input_size, hidden_size, bias, dtype, algorithm)
        self.nonlinearity = one_of("nonlinearity", nonlinearity, NONLINEARITIES)

    def _recurrence(self, weights: Weights) -> Recurrence:
        return steps.Elman(weights, self.nonlinearity)

    def _options(self) -> dict[str, bool]:
        return {"relu": self.nonlinearity == "relu"}

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity}")


class LSTMCell(_Cell):
    """One step of LSTM: input (batch, input_size) or (input_size,), hx None for zeros or (h, c) -> (h', c').

    h and c are (batch, hidden_size) or (hidden_size,).
    """

    cell = "lstm"

    _states = ("hx[0]", "hx[1]")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        dtype: npt.DTypeLike | None = None,
        algorithm: str = "auto",
    ) -> None:
        super().__init__(4, input_size, hidden_size, bias, dtype, algorithm)

    def _recurrence(self, weights: Weights) -> Recurrence:
        return steps.LSTM(weights)


class GRUCell(_Cell):
    """One step of GRU: input (batch, input_size) or (input_size,), hx, zeros if it is None -> h'.

    hx and h' are (batch, hidden_size) or (hidden_size,).
    """

    cell = "gru"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        dtype: npt.DTypeLike | None = None,
        algorithm: str = "auto",
    ) -> None:
        super().__init__(3, input_size, hidden_size, bias, dtype, algorithm)

    def _recurrence(self, weights: Weights) -> Recurrence:
        return steps.GRU(weights)
