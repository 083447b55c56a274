"""What driver and workers say to each other. NumPy and the standard library only: it is imported in every environment.

Work is plain data, so that it travels as JSON:

    {"kind": "forward", "shape": [n, c, h, w], "layers": [{"op": "conv", …}, {"op": "relu"}, …]}

kind: "forward", a network in evaluation; "gradients", forward and backward of it from a given output gradient;
"training", of a recurrent layer, the same for its parameters alone, as a network's first layer is trained; "step", one
step of training with cross-entropy and SGD; "operation", one operation of fastconv.registry.OPS that is no forward
pass, named "op", of a single layer: its arrays go by the names that they have there. Layers: conv, maxpool, avgpool,
relu, tanh, sigmoid, flatten, linear. Arrays: x (n, c, h, w), of linear layers (m, i); "0.weight", "0.bias", … as
torch.nn.Sequential's state_dict names them; gy, of the output's shape, for gradients and training; target (n), classes,
for a step. All float32 but target, which is int64.

A recurrent layer stands alone:

    {"kind": …, "shape": [t, b, i], "layers": [{"op": "lstm", "in": i, "hidden", "layers", "bidirectional"}]}

lstm, gru, or rnn with tanh, from a state of zeros; "lengths", if there, is how many steps each sequence has, and x is
random beyond them. Outputs: y (t, b, h), zero beyond a sequence's end, then the last states h and of an LSTM c, shaped
as torch has them; gradients begin with y alone. lstm_cell is one step: "shape": [b, i]; h and c are given and returned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# Of the step; the same in every runtime and in the reference.
LEARNING_RATE = 0.1

Arrays = dict[str, np.ndarray]


class Unsupported(Exception):  # noqa: N818 - fastconv's word for it
    """The runtime cannot do this work; the message says why, in a few words."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Work as one runtime does it.

    call() is what is timed, and returns outputs as the runtime has them; read(outputs) makes NumPy arrays of them, in
    the order of expected.outputs and with channels first; kernel() names what did the work, where that is known;
    poison() fills what the next call is to write with NaN, where that memory is known; timed(count), of work on a
    device that has a clock of its own, is the seconds that so many calls took, and what the last one returned.
    """

    call: Callable[[], Any]
    read: Callable[[Any], list[np.ndarray]]
    kernel: Callable[[], str] = lambda: ""
    poison: Callable[[], None] = lambda: None
    timed: Callable[[int], tuple[float, Any]] | None = None


def program(module: str, *arguments: Any) -> str:
    """Python code that runs main(*arguments) of a module of this package, in an environment without fastconv.

    The package goes by the name of `peers` there. Its folder's parent is not put on the path: installed, that is
    fastconv's own folder, whose `random` would stand before Python's.
    """
    folder = str(Path(__file__).parent)
    return "\n".join(
        [
            "import importlib, importlib.util, sys",
            f"spec = importlib.util.spec_from_file_location('peers', {folder + '/__init__.py'!r},"
            f" submodule_search_locations=[{folder!r}])",
            "sys.modules['peers'] = package = importlib.util.module_from_spec(spec)",
            "spec.loader.exec_module(package)",
            f"importlib.import_module({'peers.' + module!r}).main(*{arguments!r})",
        ]
    )


def only_forward(work: dict[str, Any]) -> None:
    """For runtimes that do not train: raise Unsupported for anything else."""
    if work["kind"] != "forward":
        raise Unsupported("no training")


def modules(nn: Any, layers: list[dict[str, Any]]) -> list[Any]:
    """The layers by the constructors of `nn`: torch.nn, or fastconv.nn, whose constructors are the same."""

    def module(layer: dict[str, Any]) -> Any:
        match layer["op"]:
            case "conv":
                named = {name: layer[name] for name in ("groups", "bias")}
                window = (tuple(layer[name]) for name in ("kernel", "stride", "padding", "dilation"))
                return nn.Conv2d(layer["in"], layer["out"], *window, **named)
            case "maxpool" | "avgpool" as op:
                window = (tuple(layer[name]) for name in ("kernel", "stride", "padding"))
                if op == "maxpool":
                    return nn.MaxPool2d(*window, dilation=tuple(layer["dilation"]))
                return nn.AvgPool2d(*window)
            case "linear":
                return nn.Linear(layer["in"], layer["out"], bias=layer["bias"])
            case "relu":
                return nn.ReLU(inplace=True)
            case "tanh":
                return nn.Tanh()
            case "sigmoid":
                return nn.Sigmoid()
            case "flatten":
                return nn.Flatten()
            case "lstm" | "gru" | "rnn" as op:
                recurrent = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[op]
                sizes = (layer[name] for name in ("in", "hidden", "layers"))
                return recurrent(*sizes, bidirectional=layer["bidirectional"])
            case "lstm_cell":
                return nn.LSTMCell(layer["in"], layer["hidden"])
        raise ValueError(f"op={layer['op']!r} is not known here")

    return [module(layer) for layer in layers]
