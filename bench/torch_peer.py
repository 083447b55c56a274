"""PyTorch as a peer: every operation as torch itself would be asked for it, on as many threads as fastconv uses.

torch allocates its outputs inside the timed call, as its users' calls do; fastconv's kernels get theirs, and their
scratch, from the caller. torch's gradient of max pooling reads the indices that the forward pass stored; fastconv's
finds them again. Of recurrent layers there are rows in evaluation alone: what torch saves in training it keeps to
itself, and its way back starts from that.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np

from fastconv import threads
from fastconv.problem import ConvProblem, LinearProblem, PoolProblem, Problem, RecurrentProblem, output_size

INSTALLED = find_spec("torch") is not None
VERSION = version("torch") if INSTALLED else ""


def unsupported(problem: Problem, op: str = "") -> str | None:
    """Why torch's functions cannot express the problem, or this operation on it, or None."""
    if isinstance(problem, RecurrentProblem):
        return _recurrent_unsupported(problem, op)
    if isinstance(problem, ConvProblem) and problem.epilogue:
        return "an activation or addition, which torch does in further functions"
    if isinstance(problem, LinearProblem) or problem.padding[::2] == problem.padding[1::2]:
        return None
    return f"padding {problem.padding} differs before and after"


def _recurrent_unsupported(p: RecurrentProblem, op: str) -> str | None:
    if op not in ("", p.cell):
        return "what it saves in training is its own"
    if p.ragged:
        return "lengths, for which torch's input is another, packed one"
    return "an option that torch's cell has not" if p.peephole or p.linear else None


def contender(op: str, problem: Problem, arrays: tuple[np.ndarray, ...]) -> Callable[[], tuple[np.ndarray, ...]]:
    """A call without arguments that does `op` in torch and returns its outputs, as NumPy arrays on torch's memory."""
    import torch

    count = threads.get_num_threads()
    torch.set_num_threads(count)
    if torch.get_num_threads() != count:
        raise RuntimeError(f"torch uses {torch.get_num_threads()} threads where fastconv uses {count}")
    tensors = tuple(torch.from_numpy(array) for array in arrays)
    if isinstance(problem, ConvProblem):
        call = _conv(op, problem, *tensors)
    elif isinstance(problem, PoolProblem):
        call = _pool(op, problem, *tensors)
    elif isinstance(problem, RecurrentProblem):
        call = _recurrent(problem, *tensors)
    else:
        call = _linear(op, problem, *tensors)

    def outputs() -> tuple[np.ndarray, ...]:
        returned = call()
        return tuple(tensor.numpy() for tensor in (returned if isinstance(returned, tuple) else (returned,)))

    return outputs


def _conv(op: str, p: ConvProblem, first: Any, second: Any, b: Any = None, z: Any = None) -> Callable[[], Any]:
    from torch.nn import functional, grad

    arguments = (p.stride, p.padding[::2], p.dilation, p.groups)
    if op == "conv2d":
        bias = b if p.bias else None
        return lambda: functional.conv2d(first, second, bias, *arguments)
    if op == "conv2d_grad_input":
        return lambda: grad.conv2d_input(p.input_shape, second, first, *arguments)
    return lambda: grad.conv2d_weight(first, p.weight_shape, second, *arguments)


def _pool(op: str, p: PoolProblem, first: Any, gy: Any = None) -> Callable[[], Any]:
    import torch
    from torch.nn import functional

    sides = zip((p.h, p.w), (p.kh, p.kw), p.stride, p.padding[::2], p.padding[1::2], p.dilation, strict=True)
    # A problem holds its output size, not the rounding it came from.
    ceil = (p.oh, p.ow) != tuple(output_size(*side) for side in sides)
    window = ((p.kh, p.kw), p.stride, p.padding[::2])
    if op.startswith("max"):

        def forward(x: Any) -> Any:
            return functional.max_pool2d(x, *window, p.dilation, ceil, return_indices=op.endswith("indices"))
    else:

        def forward(x: Any) -> Any:
            return functional.avg_pool2d(x, *window, ceil, p.count_include_pad, p.divisor_override or None)

    if not op.endswith("grad"):
        return lambda: forward(first)
    x, gradient = (first, gy) if op.startswith("max") else (torch.zeros(p.input_shape, dtype=first.dtype), first)
    x.requires_grad_()
    y = forward(x)
    return lambda: torch.autograd.grad(y, x, gradient, retain_graph=True)


def _linear(op: str, p: LinearProblem, first: Any, second: Any, b: Any = None) -> Callable[[], Any]:
    from torch.nn import functional

    if op == "linear":
        bias = b if p.bias else None
        return lambda: functional.linear(first, second, bias)
    if op == "linear_grad_input":
        return lambda: first @ second
    return lambda: second.T @ first


def _recurrent(
    p: RecurrentProblem, x: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, _: Any, h0: Any, c0: Any, lengths: Any
) -> Callable[[], Any]:
    import torch

    kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[p.cell]
    options = {"nonlinearity": "relu"} if p.relu else {}
    layer = kind(p.i, p.h, bias=p.bias, batch_first=p.batch_first, bidirectional=p.directions == 2, **options)
    layer = layer.to(x.dtype).eval()
    with torch.no_grad():
        for d in range(p.directions):
            named = {"weight_ih": w_ih, "weight_hh": w_hh} | ({"bias_ih": b_ih, "bias_hh": b_hh} if p.bias else {})
            for name, values in named.items():
                getattr(layer, f"{name}_l0{'_reverse' * d}").copy_(values[d])
    begin = None if not p.state else (h0, c0) if p.cell == "lstm" else h0

    def call() -> tuple[Any, ...]:
        with torch.inference_mode():
            y, ends = layer(x, begin)
        return (y, *ends) if p.cell == "lstm" else (y, ends, c0)

    return call
