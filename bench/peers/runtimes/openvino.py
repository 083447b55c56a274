"""OpenVINO: the model from its operation set, compiled for latency in float32, input shared with the caller."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from bench.peers.work import Arrays, Prepared, Unsupported, only_forward

_count = 1


def threads(count: int) -> int:
    """Sets it for the models that are built; `build` makes sure that they have as many."""
    global _count
    _count = count
    return count


def version() -> str:
    return f"openvino {ov.__version__.split('-')[0]}"


def _layer(y: Any, layer: dict[str, Any], number: int, arrays: Arrays) -> Any:
    if layer["op"] == "relu":
        return ops.relu(y)
    if layer["op"] not in ("conv", "maxpool", "avgpool"):
        raise Unsupported(f"no {layer['op']}")
    stride, padding, kernel = layer["stride"], layer["padding"], layer["kernel"]
    match layer["op"]:
        case "maxpool":
            return ops.max_pool(y, stride, [1, 1], padding, padding, kernel, "floor").output(0)
        case "avgpool":
            return ops.avg_pool(y, stride, padding, padding, kernel, False, "floor")
    weight, groups = arrays[f"{number}.weight"], layer["groups"]
    if groups == 1:
        y = ops.convolution(y, ops.constant(weight), stride, padding, padding, [1, 1])
    else:
        split = weight.reshape(groups, -1, *weight.shape[1:])
        y = ops.group_convolution(y, ops.constant(split), stride, padding, padding, [1, 1])
    return ops.add(y, ops.constant(arrays[f"{number}.bias"][None, :, None, None])) if layer["bias"] else y


def build(work: dict[str, Any], arrays: Arrays, folder: str) -> Prepared:
    only_forward(work)
    x = y = ops.parameter(work["shape"], np.float32, name="x")
    for number, layer in enumerate(work["layers"]):
        y = _layer(y, layer, number, arrays)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": _count}
    compiled = ov.Core().compile_model(ov.Model([y], [x], "work"), "CPU", settings)
    used = compiled.get_property("INFERENCE_NUM_THREADS")
    if used != _count:
        raise RuntimeError(f"OpenVINO uses {used} threads, asked for {_count}")
    request = compiled.create_infer_request()
    # The tensor does not keep the memory that it shares: the call below does.
    shared = arrays["x"]
    request.set_input_tensor(ov.Tensor(shared, shared_memory=True))

    def call(shared: np.ndarray = shared) -> Any:
        return request.infer(share_outputs=True)

    return Prepared(call, lambda _: [request.get_output_tensor(0).data.copy()])
