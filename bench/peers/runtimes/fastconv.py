"""fastconv itself, called as its users call it: layers in evaluation on NumPy arrays, Tensors for gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastconv
from fastconv import nn, optim

from ..recurrent import flat, is_recurrent, lengths
from ..work import LEARNING_RATE, Arrays, Prepared, modules

# Held as long as the process lives: a figure of n threads is of n, and helpers do not rest while it is taken.
_measuring = fastconv.threads.measuring()


def threads(count: int) -> int:
    fastconv.set_num_threads(count)
    _measuring.__enter__()
    return fastconv.get_num_threads()


def version() -> str:
    return f"fastconv {fastconv.__version__}"


def _kernel(net: Any, x: np.ndarray) -> str:
    """The kernel that auto chooses for a single layer; networks have many."""
    if not hasattr(net, "problem"):
        return ""
    return fastconv.registry.choose(net.operations[0], net.problem(x), kept=hasattr(net, "_kept")).name


def _recurrent(net: Any, work: dict[str, Any], arrays: Arrays) -> Prepared:
    """A recurrent layer or cell in evaluation."""
    net.eval()
    x, sizes = arrays["x"], lengths(work)
    if "h" in arrays:
        state = arrays["h"], arrays["c"]
        return Prepared(lambda: net(x, state), flat, lambda: _kernel(net, x))
    if sizes is not None:
        return Prepared(lambda: net(x, lengths=sizes), flat, lambda: _kernel(net, x))
    return Prepared(lambda: net(x), flat, lambda: _kernel(net, x))


def build(work: dict[str, Any], arrays: Arrays, folder: str) -> Prepared:
    layers = modules(nn, work["layers"])
    net = nn.Sequential(*layers)
    net.load_state_dict({name: array for name, array in arrays.items() if "." in name})
    # A single layer is called as such, without a container around it.
    net = layers[0] if len(layers) == 1 else net
    if work["kind"] == "forward" and is_recurrent(work):
        return _recurrent(net, work, arrays)
    if work["kind"] == "forward":
        net.eval()
        if len(layers) > 1 and hasattr(nn, "fuse"):
            net = nn.fuse(net)
        x = arrays["x"]
        return Prepared(lambda: net(x), lambda y: [y], lambda: _kernel(net, x))

    parameters = list(net.parameters())
    if work["kind"] in ("gradients", "training"):
        x = fastconv.tensor(arrays["x"], requires_grad=work["kind"] == "gradients")
        gy = fastconv.tensor(arrays["gy"])
        recurrent = is_recurrent(work)

        def call() -> Any:
            x.grad = None
            net.zero_grad()
            y = net(x)[0] if recurrent else net(x)
            y.backward(gy)
            return y

        def read(y: Any) -> list[np.ndarray]:
            of_x = [x.grad] if x.requires_grad else []
            return [tensor.detach().numpy() for tensor in (y, *of_x, *(p.grad for p in parameters))]

        return Prepared(call, read)

    criterion, optimizer = nn.CrossEntropyLoss(), optim.SGD(parameters, lr=LEARNING_RATE)
    images, target = fastconv.from_numpy(arrays["x"]), arrays["target"]

    def step() -> Any:
        optimizer.zero_grad()
        loss = criterion(net(images), target)
        loss.backward()
        optimizer.step()
        return loss

    return Prepared(step, lambda loss: [*(p.grad.numpy() for p in parameters), *(p.data.numpy() for p in parameters)])
