"""Work as an ONNX model, for the runtimes that read one. `main` does it in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..recurrent import is_recurrent, no_cell, parameters, reordered, stack
from ..work import Arrays, Unsupported

# Understood by every runtime here; nothing newer is needed for these layers.
OPSET, IR_VERSION = 17, 8


def _window(layer: dict[str, Any]) -> dict[str, Any]:
    names = {"kernel_shape": "kernel", "strides": "stride", "dilations": "dilation"}
    return {**{name: layer[ours] for name, ours in names.items()}, "pads": layer["padding"] * 2}


def _node(layer: dict[str, Any], number: int) -> tuple[str, list[str], dict[str, Any]]:
    """(operator, names of its weights, attributes)."""
    match layer["op"]:
        case "relu" | "tanh" | "sigmoid" as op:
            return op.title(), [], {}
        case "flatten":
            return "Flatten", [], {}
        case "linear":
            return "Gemm", [f"{number}.weight", *([f"{number}.bias"] if layer["bias"] else [])], {"transB": 1}
        case "conv":
            window = {
                "kernel_shape": layer["kernel"],
                "strides": layer["stride"],
                "pads": layer["padding"] * 2,
                "dilations": layer["dilation"],
            }
            names = [f"{number}.weight", *([f"{number}.bias"] if layer["bias"] else [])]
            return "Conv", names, {**window, "group": layer["groups"]}
        case "maxpool":
            return "MaxPool", [], _window(layer)
        case "avgpool":
            window = {name: value for name, value in _window(layer).items() if name != "dilations"}
            return "AveragePool", [], {**window, "count_include_pad": 1}
    raise Unsupported(f"no {layer['op']}")


# Operator, its order of gates, and attributes.
RECURRENT: dict[str, tuple[str, str, dict[str, Any]]] = {
    "lstm": ("LSTM", "iofg", {}),
    "gru": ("GRU", "zrn", {"linear_before_reset": 1}),
    "rnn": ("RNN", "h", {}),
}


def _recurrent(work: dict[str, Any], arrays: Arrays) -> tuple[list[Any], dict[str, np.ndarray], list[str]]:
    """(nodes, constants, names of the outputs): y, the last h of each layer, and of an LSTM the last c of each."""
    no_cell(work)
    layer = work["layers"][0]
    operator, order, attributes = RECURRENT[layer["op"]]
    direction = "bidirectional" if layer["bidirectional"] else "forward"
    layers, letters = stack(layer), "hc" if layer["op"] == "lstm" else "h"
    # Merges the axis of directions, which stands before that of sequences in an operator's output.
    constants = {"axis": np.array([1]), "merged": np.array([0, 0, -1])}
    if "lengths" in work:
        constants["lengths"] = np.array(work["lengths"], np.int32)
    nodes, last = [], "x"
    for number, directions in enumerate(layers):
        w, r, b = [], [], []
        for one in directions:
            w_ih, w_hh, *biases = (reordered(array, layer["op"], order) for array in parameters(arrays, one))
            w, r, b = [*w, w_ih], [*r, w_hh], [*b, np.concatenate(biases)]
        constants |= {f"w{number}": np.stack(w), f"r{number}": np.stack(r), f"b{number}": np.stack(b)}
        given = [last, *(f"{letter}{number}" for letter in "wrb"), *(["lengths"] if "lengths" in work else [])]
        results = [f"steps{number}", *(f"{letter}{number}" for letter in letters)]
        last = "y" if number == len(layers) - 1 else f"y{number}"
        sizes = {"hidden_size": layer["hidden"], "direction": direction}
        nodes.append(helper.make_node(operator, given, results, name=f"layer{number}", **sizes, **attributes))
        if len(directions) == 1:
            nodes.append(helper.make_node("Squeeze", [f"steps{number}", "axis"], [last]))
            continue
        turned = f"turned{number}"
        nodes.append(helper.make_node("Transpose", [f"steps{number}"], [turned], perm=[0, 2, 1, 3]))
        nodes.append(helper.make_node("Reshape", [turned, "merged"], [last]))
    return nodes, constants, ["y", *(f"{letter}{number}" for letter in letters for number in range(len(layers)))]


def _network(work: dict[str, Any], arrays: Arrays) -> tuple[list[Any], dict[str, np.ndarray], list[str]]:
    """(nodes, constants, names of the outputs) of a chain of layers."""
    nodes, last = [], "x"
    for number, layer in enumerate(work["layers"]):
        operator, names, attributes = _node(layer, number)
        result = "y" if number == len(work["layers"]) - 1 else f"y{number}"
        nodes.append(helper.make_node(operator, [last, *names], [result], name=f"{operator}_{number}", **attributes))
        last = result
    return nodes, {name: array for name, array in arrays.items() if "." in name}, ["y"]


def write(work: dict[str, Any], arrays: Arrays, path: str) -> list[str]:
    """Write the model, weights as constants; the names of its outputs. Input "x", output "y".

    A recurrent layer has its last states too, an output for each letter and layer: h0, h1, …, c0, c1, …
    """
    nodes, constants, names = (_recurrent if is_recurrent(work) else _network)(work, arrays)
    # The sizes of outputs are inferred, but not how many there are.
    x, *ends = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", work["shape"]), *((name, [None] * len(work["shape"])) for name in names))
    )
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "work", [x], ends, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    # MNN's converter wants the sizes of all tensors to be known.
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return names


def main(source: str, model: str) -> None:
    folder = Path(source)
    with np.load(folder / "arrays.npz") as file:
        arrays = {name: file[name] for name in file.files}
    write(json.loads((folder / "work.json").read_text(encoding="utf-8")), arrays, model)
