"""PyTorch, eager, NCHW; torch_channels_last is the same with everything in its other layout.

Sequences of different lengths are packed before the time starts, and the output is padded again after it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ..recurrent import flat, is_recurrent, lengths
from ..work import LEARNING_RATE, Arrays, Prepared, modules


def threads(count: int) -> int:
    torch.set_num_threads(count)
    return torch.get_num_threads()


def version() -> str:
    return f"torch {torch.__version__}"


def _recurrent(net: Any, work: dict[str, Any], arrays: Arrays, device: str) -> Prepared:
    """A recurrent layer or cell in evaluation."""
    net.eval()
    x, sizes = torch.from_numpy(arrays["x"]).to(device), lengths(work)
    if "h" in arrays:
        state = torch.from_numpy(arrays["h"]).to(device), torch.from_numpy(arrays["c"]).to(device)
        return Prepared(lambda: net(x, state), lambda found: [part.cpu().numpy() for part in found])
    if sizes is not None:
        x = pack_padded_sequence(x, torch.from_numpy(sizes), enforce_sorted=False)

    def read(found: Any) -> list[np.ndarray]:
        y, states = found
        if isinstance(y, PackedSequence):
            y, _ = pad_packed_sequence(y, total_length=work["shape"][0])
        return [part.cpu().numpy() for part in flat((y, states))]

    return Prepared(lambda: net(x), read)


def _operation(work: dict[str, Any], arrays: Arrays, layout: torch.memory_format, device: str) -> Prepared:
    """One gradient alone, or max pooling with its indices. Of pooling's gradients the forward pass is not timed."""
    layer, op, shape = work["layers"][0], work["op"], tuple(work["shape"])
    given = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
    given = {name: t.contiguous(memory_format=layout) if t.ndim == 4 else t for name, t in given.items()}
    if layer["op"] == "conv":
        rest = tuple(layer["stride"]), tuple(layer["padding"]), tuple(layer["dilation"]), layer["groups"]
        if op == "conv2d_grad_input":
            call = partial(torch.nn.grad.conv2d_input, shape, given["w"], given["gy"], *rest)
        else:
            weight = (layer["out"], layer["in"] // layer["groups"], *layer["kernel"])
            call = partial(torch.nn.grad.conv2d_weight, given["x"], weight, given["gy"], *rest)
    elif layer["op"] == "linear":
        first, second = (given["gy"], given["w"]) if op == "linear_grad_input" else (given["gy"].T, given["x"])
        call = partial(torch.matmul, first, second)
    else:
        window = (tuple(layer[name]) for name in ("kernel", "stride", "padding"))
        name, options = "avg_pool2d", {}
        if layer["op"] == "maxpool":
            name = "max_pool2d"
            options = {"dilation": tuple(layer["dilation"]), "return_indices": op.endswith("indices")}
        forward = partial(getattr(torch.nn.functional, name), **options)
        if not op.endswith("grad"):
            call = partial(forward, given["x"], *window)
        else:
            x = given.get("x", torch.zeros(shape, device=device).contiguous(memory_format=layout)).requires_grad_()
            call = partial(torch.autograd.grad, forward(x, *window), x, given["gy"], retain_graph=True)

    def read(found: Any) -> list[np.ndarray]:
        return [t.contiguous().cpu().numpy() for t in (found if isinstance(found, tuple) else (found,))]

    return Prepared(call, read)


def build(
    work: dict[str, Any],
    arrays: Arrays,
    folder: str,
    layout: torch.memory_format = torch.contiguous_format,
    device: str = "cpu",
) -> Prepared:
    # For all calls that follow: entering a context in each of them would be part of its time.
    torch.set_grad_enabled(work["kind"] != "forward" and not work.get("op", "").endswith(("_input", "_weight")))
    if work["kind"] == "operation":
        return _operation(work, arrays, layout, device)
    layers = modules(nn, work["layers"])
    net = nn.Sequential(*layers)
    net.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items() if "." in name})
    net = (layers[0] if len(layers) == 1 else net).to(device, memory_format=layout)
    # A user of channels_last has the input so already.
    x = torch.from_numpy(arrays["x"]).to(device).contiguous(memory_format=layout)
    if work["kind"] == "forward" and is_recurrent(work):
        return _recurrent(net, work, arrays, device)
    if work["kind"] == "forward":
        net.eval()
        return Prepared(lambda: net(x), lambda y: [y.contiguous().cpu().numpy()])

    parameters = list(net.parameters())
    if work["kind"] in ("gradients", "training"):
        x.requires_grad_(work["kind"] == "gradients")
        gy = torch.from_numpy(arrays["gy"]).to(device).contiguous(memory_format=layout)
        recurrent = is_recurrent(work)

        def call() -> Any:
            x.grad = None
            net.zero_grad()
            y = net(x)[0] if recurrent else net(x)
            y.backward(gy)
            return y

        def read(y: Any) -> list[np.ndarray]:
            of_x = [x.grad] if x.requires_grad else []
            return [tensor.detach().cpu().numpy() for tensor in (y, *of_x, *(p.grad for p in parameters))]

        return Prepared(call, read)

    criterion, optimizer = nn.CrossEntropyLoss(), torch.optim.SGD(parameters, lr=LEARNING_RATE)
    target = torch.from_numpy(arrays["target"]).to(device)

    def step() -> Any:
        optimizer.zero_grad()
        loss = criterion(net(x), target)
        loss.backward()
        optimizer.step()
        return loss

    return Prepared(step, lambda loss: [t.detach().cpu().numpy() for t in (*(p.grad for p in parameters), *parameters)])
