"""Work as an ONNX model, for the runtimes that read one. As a program: python -m … FOLDER_OF_WORK MODEL."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench.peers.work import Arrays, Unsupported

# Understood by every runtime here; nothing newer is needed for these layers.
OPSET, IR_VERSION = 17, 8


def _node(layer: dict[str, Any], number: int) -> tuple[str, list[str], dict[str, Any]]:
    """(operator, names of its weights, attributes)."""
    match layer["op"]:
        case "relu":
            return "Relu", [], {}
        case "conv":
            window = {"kernel_shape": layer["kernel"], "strides": layer["stride"], "pads": layer["padding"] * 2}
            names = [f"{number}.weight", *([f"{number}.bias"] if layer["bias"] else [])]
            return "Conv", names, {**window, "group": layer["groups"]}
        case "maxpool":
            return (
                "MaxPool",
                [],
                {"kernel_shape": layer["kernel"], "strides": layer["stride"], "pads": layer["padding"] * 2},
            )
        case "avgpool":
            window = {"kernel_shape": layer["kernel"], "strides": layer["stride"], "pads": layer["padding"] * 2}
            return "AveragePool", [], {**window, "count_include_pad": 1}
    raise Unsupported(f"no {layer['op']}")


def write(work: dict[str, Any], arrays: Arrays, path: str) -> None:
    """Write the model: input "x", output "y", weights as constants."""
    nodes, last = [], "x"
    for number, layer in enumerate(work["layers"]):
        operator, names, attributes = _node(layer, number)
        result = "y" if number == len(work["layers"]) - 1 else f"y{number}"
        nodes.append(helper.make_node(operator, [last, *names], [result], name=f"{operator}_{number}", **attributes))
        last = result
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items() if "." in name]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
        for name, shape in (("x", work["shape"]), ("y", [None] * 4))
    ]
    graph = helper.make_graph(nodes, "work", *ends, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    # MNN's converter wants the sizes of all tensors to be known.
    onnx.save(onnx.shape_inference.infer_shapes(model), path)


def main() -> None:
    folder = Path(sys.argv[1])
    with np.load(folder / "arrays.npz") as file:
        arrays = {name: file[name] for name in file.files}
    write(json.loads((folder / "work.json").read_text(encoding="utf-8")), arrays, sys.argv[2])


if __name__ == "__main__":
    main()
