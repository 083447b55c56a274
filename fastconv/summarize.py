"""The table of a network's layers: output shapes, parameters, memory. Source: torchsummary's format; torchinfo's rules
for recurrent layers and integer inputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastconv.autograd import no_grad
from fastconv.nn.embedding import Embedding
from fastconv.nn.module import Module
from fastconv.nn.recurrent import GRU, LSTM, RNN, JordanRNN
from fastconv.nn.utils.rnn import PackedSequence
from fastconv.problem import integer
from fastconv.tensors import Tensor

_MIB = 2**20
_RECURRENT = (RNN, JordanRNN, LSTM, GRU)


@dataclass(frozen=True)
class Row:
    """One call of a layer: its type and number, the shape that comes out, parameters.

    Of several outputs, a list of shapes; of a recurrent layer's output and states, the output's shape.
    """

    name: str
    output_shape: list[Any]
    parameters: int


@dataclass(frozen=True)
class Summary:
    """What `summary` found; printed, it is torchsummary's table. Sizes are in MB of 2²⁰ bytes."""

    rows: tuple[Row, ...]
    total_parameters: int
    trainable_parameters: int
    input_mb: float
    forward_backward_mb: float
    parameters_mb: float

    @property
    def total_mb(self) -> float:
        return self.input_mb + self.forward_backward_mb + self.parameters_mb

    def __str__(self) -> str:
        line, double = "-" * 64, "=" * 64
        rows = [f"{row.name:>20}  {row.output_shape!s:>25} {row.parameters:>15,}" for row in self.rows]
        return "\n".join(
            [
                line,
                f"{'Layer (type)':>20}  {'Output Shape':>25} {'Param #':>15}",
                double,
                *rows,
                double,
                f"Total params: {self.total_parameters:,}",
                f"Trainable params: {self.trainable_parameters:,}",
                f"Non-trainable params: {self.total_parameters - self.trainable_parameters:,}",
                line,
                f"Input size (MB): {self.input_mb:.2f}",
                f"Forward/backward pass size (MB): {self.forward_backward_mb:.2f}",
                f"Params size (MB): {self.parameters_mb:.2f}",
                f"Estimated Total Size (MB): {self.total_mb:.2f}",
                line,
            ]
        )

    __repr__ = __str__


def _shapes(input_size: Any) -> list[list[int]]:
    """`input_size`, a shape or a list of shapes, one an input, all without the batch."""
    if not isinstance(input_size, (tuple, list)):
        raise TypeError(f"input_size={input_size!r}: needs a shape without the batch, got {type(input_size).__name__}")
    several = bool(input_size) and all(isinstance(size, (tuple, list)) for size in input_size)
    return [[integer("input_size", n) for n in size] for size in (input_size if several else [input_size])]


def _dtypes(dtypes: Any, model: Module, count: int, default: np.dtype[Any]) -> list[np.dtype[Any]]:
    """The dtypes of `count` inputs: `dtypes`, or what the first layer of the model looks up or computes with."""
    if dtypes is None:
        first = next((m for m in model.modules() if not m._modules), model)
        return [np.dtype(np.int64) if isinstance(first, Embedding) else default] * count
    if not isinstance(dtypes, (tuple, list)):
        raise TypeError(f"dtypes={dtypes!r:.60}: needs a list of dtypes, one an input, got {type(dtypes).__name__}")
    if len(dtypes) != count:
        raise ValueError(f"dtypes={dtypes!r:.60}: needs {count} dtypes, one an input, got {len(dtypes)}")
    return [np.dtype(dtype) for dtype in dtypes]


def summary(model: Module, input_size: Any, batch_size: int = -1, dtypes: Any = None) -> Summary:
    """Every layer's output shape and parameters for an input (batch_size, *input_size), in the order of the calls.

    input_size may also be a list of shapes, for a model of several inputs. dtypes: one an input; None for int64 if the
    model's first layer is an Embedding, whose inputs are numbers of words, else for the dtype of the parameters.
    Rows are the modules that hold no others, and those with parameters of their own. Nothing is computed: the model
    runs on a batch of no images, in evaluation mode, and where an extent is 0 the table has batch_size. Of a recurrent
    layer the row has its output's shape, not its states'. Totals count every parameter of the model once; the forward
    and backward pass has each row's output twice, for values and gradients; batch_size −1 counts as 1.
    TypeError or ValueError names the argument at fault; what the model itself raises comes through.
    """
    if not isinstance(model, Module):
        raise TypeError(f"model={model!r:.60}: needs an nn.Module, got {type(model).__name__}")
    sizes = _shapes(input_size)
    batch = -1 if batch_size == -1 else integer("batch_size", batch_size)
    parameters = list(model.parameters())
    dtype = parameters[0].dtype if parameters else np.dtype(np.float32)
    kinds = _dtypes(dtypes, model, len(sizes), dtype)
    rows: list[Row] = []

    def shape(output: Any) -> list[Any]:
        output = output.data if isinstance(output, PackedSequence) else output
        if isinstance(output, (tuple, list)):
            return [shape(part) for part in output]
        # Time may come before the batch.
        return [n or batch for n in output.shape]

    def note(module: Module, inputs: tuple[Any, ...], output: Any) -> None:
        own = sum(p.numel() for p in module._parameters.values() if p is not None)
        shown = output[0] if isinstance(module, _RECURRENT) else output
        rows.append(Row(f"{type(module).__name__}-{len(rows) + 1}", shape(shown), own))

    noted = [m for m in model.modules() if not m._modules or m._parameters]
    modes = [(m, m.training) for m in model.modules()]
    hooks = [m.register_forward_hook(note) for m in noted]
    try:
        with no_grad():
            model.eval()(*(Tensor(np.zeros((0, *size), kind)) for size, kind in zip(sizes, kinds, strict=True)))
    finally:
        for hook in hooks:
            hook.remove()
        for m, training in modes:
            m.training = training

    def elements(found: list[Any]) -> int:
        return sum(map(elements, found)) if isinstance(found[0], list) else abs(math.prod(found))

    total = sum(p.numel() for p in parameters)
    mb = dtype.itemsize / _MIB
    return Summary(
        tuple(rows),
        total,
        sum(p.numel() for p in parameters if p.requires_grad),
        sum(abs(batch) * math.prod(size) * kind.itemsize for size, kind in zip(sizes, kinds, strict=True)) / _MIB,
        2 * sum(elements(row.output_shape) for row in rows) * mb,
        total * mb,
    )
