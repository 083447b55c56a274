"""The table of a network's layers: output shapes, parameters, memory. Source: torchsummary's format."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastconv.autograd import no_grad
from fastconv.nn.module import Module
from fastconv.problem import integer
from fastconv.tensors import Tensor

_MIB = 2**20


@dataclass(frozen=True)
class Row:
    """One call of a layer: its type and number, the shape that comes out (a list of shapes for several), parameters."""

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


def summary(model: Module, input_size: tuple[int, ...], batch_size: int = -1) -> Summary:
    """Every layer's output shape and parameters for an input (batch_size, *input_size), in the order of the calls.

    Rows are the modules that hold no others, and those with parameters of their own. Nothing is computed: the model
    runs on a batch of no images, in evaluation mode. Totals count every parameter of the model once; the forward and
    backward pass has each row's output twice, for values and gradients; batch_size −1 counts as 1.
    TypeError or ValueError names the argument at fault; what the model itself raises comes through.
    """
    if not isinstance(model, Module):
        raise TypeError(f"model={model!r:.60}: needs an nn.Module, got {type(model).__name__}")
    if not isinstance(input_size, (tuple, list)):
        raise TypeError(f"input_size={input_size!r}: needs a shape without the batch, got {type(input_size).__name__}")
    sizes = [integer("input_size", n) for n in input_size]
    batch = -1 if batch_size == -1 else integer("batch_size", batch_size)
    parameters = list(model.parameters())
    dtype = parameters[0].dtype if parameters else np.dtype(np.float32)
    rows: list[Row] = []

    def shape(output: Any) -> list[Any]:
        if isinstance(output, (tuple, list)):
            return [shape(part) for part in output]
        return [batch, *output.shape[1:]]

    def note(module: Module, inputs: tuple[Any, ...], output: Any) -> None:
        own = sum(p.numel() for p in module._parameters.values() if p is not None)
        rows.append(Row(f"{type(module).__name__}-{len(rows) + 1}", shape(output), own))

    noted = [m for m in model.modules() if not m._modules or m._parameters]
    modes = [(m, m.training) for m in model.modules()]
    hooks = [m.register_forward_hook(note) for m in noted]
    try:
        with no_grad():
            model.eval()(Tensor(np.zeros((0, *sizes), dtype)))
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
        abs(batch) * math.prod(sizes) * mb,
        2 * sum(elements(row.output_shape) for row in rows) * mb,
        total * mb,
    )
