"""OpenVINO: the model from its operation set, compiled for latency in float32, input shared with the caller.

Its recurrent operations are batch-first; the transposes around them are what its converters write for models that are
not, and its CPU plugin takes them away again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from ..recurrent import is_recurrent, lengths, no_cell, parameters, reordered, stack
from ..work import Arrays, Prepared, Unsupported, only_forward

_count = 1


def threads(count: int) -> int:
    """Sets it for the models that are built; `build` makes sure that they have as many."""
    global _count
    _count = count
    return count


def version() -> str:
    return f"openvino {ov.__version__.split('-')[0]}"


def _layer(y: Any, layer: dict[str, Any], number: int, arrays: Arrays) -> Any:
    match layer["op"]:
        case "relu":
            return ops.relu(y)
        case "tanh":
            return ops.tanh(y)
        case "sigmoid":
            return ops.sigmoid(y)
        case "linear":
            y = ops.matmul(y, ops.constant(arrays[f"{number}.weight"]), False, True)
            return ops.add(y, ops.constant(arrays[f"{number}.bias"][None])) if layer["bias"] else y
    if layer["op"] not in ("conv", "maxpool", "avgpool"):
        raise Unsupported(f"no {layer['op']}")
    stride, padding, kernel, dilation = (layer[name] for name in ("stride", "padding", "kernel", "dilation"))
    match layer["op"]:
        case "maxpool":
            return ops.max_pool(y, stride, dilation, padding, padding, kernel, "floor").output(0)
        case "avgpool":
            return ops.avg_pool(y, stride, padding, padding, kernel, False, "floor")
    weight, groups = arrays[f"{number}.weight"], layer["groups"]
    if groups == 1:
        y = ops.convolution(y, ops.constant(weight), stride, padding, padding, dilation)
    else:
        split = weight.reshape(groups, -1, *weight.shape[1:])
        y = ops.group_convolution(y, ops.constant(split), stride, padding, padding, dilation)
    return ops.add(y, ops.constant(arrays[f"{number}.bias"][None, :, None, None])) if layer["bias"] else y


def _weights(op: str, arrays: Arrays, directions: list[Any]) -> list[Any]:
    """Constants W, R and B of a layer: all its directions, gates in OpenVINO's order, biases added up."""
    found: list[list[np.ndarray]] = []
    for one in directions:
        w_ih, w_hh, b_ih, b_hh = (
            reordered(array, op, {"lstm": "figo", "gru": "zrn", "rnn": "h"}[op]) for array in parameters(arrays, one)
        )
        bias = b_ih + b_hh
        if op == "gru":
            # The new gate's recurrent bias is multiplied by the reset gate, so it stays apart.
            z, r, _ = np.split(bias, 3)
            bias = np.concatenate([z, r, np.split(b_ih, 3)[2], np.split(b_hh, 3)[2]])
        found.append([w_ih, w_hh, bias])
    return [ops.constant(np.stack(arrays)) for arrays in zip(*found, strict=True)]


def _recurrent(work: dict[str, Any], arrays: Arrays) -> tuple[Any, list[Any]]:
    """(x, outputs): y, then the last h of each layer, and of an LSTM the last c of each, as (b, directions, hidden)."""
    no_cell(work)
    layer = work["layers"][0]
    op, hidden, (t, b, _) = layer["op"], layer["hidden"], work["shape"]
    x = y = ops.parameter(work["shape"], np.float32, name="x")
    sizes = lengths(work)
    ends = ops.constant(np.full(b, t, np.int64) if sizes is None else sizes)
    states = []
    for directions in stack(layer):
        zero = ops.constant(np.zeros((b, len(directions), hidden), np.float32))
        way = "bidirectional" if layer["bidirectional"] else "forward"
        given = ops.transpose(y, [1, 0, 2]), zero
        w = _weights(op, arrays, directions)
        match op:
            case "lstm":
                node = ops.lstm_sequence(*given, zero, ends, *w, hidden, way)
            case "gru":
                node = ops.gru_sequence(*given, ends, *w, hidden, way, linear_before_reset=True)
            case "rnn":
                node = ops.rnn_sequence(*given, ends, *w, hidden, way, ["tanh"])
        # (b, directions, t, hidden), here and below.
        y, *last = node.outputs()
        states.append(last)
        if len(directions) == 1:
            y = ops.squeeze(ops.transpose(y, [2, 1, 0, 3]), ops.constant([1]))
        else:
            y = ops.reshape(ops.transpose(y, [2, 0, 1, 3]), [0, 0, -1], True)
    return x, [y, *(state for one in zip(*states, strict=True) for state in one)]


def build(work: dict[str, Any], arrays: Arrays, folder: str) -> Prepared:
    only_forward(work)
    if is_recurrent(work):
        x, results = _recurrent(work, arrays)
    else:
        x = y = ops.parameter(work["shape"], np.float32, name="x")
        for number, layer in enumerate(work["layers"]):
            y = _layer(y, layer, number, arrays)
        results = [y]
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": _count}
    compiled = ov.Core().compile_model(ov.Model([ops.result(y) for y in results], [x], "work"), "CPU", settings)
    used = compiled.get_property("INFERENCE_NUM_THREADS")
    if used != _count:
        raise RuntimeError(f"OpenVINO uses {used} threads, asked for {_count}")
    request = compiled.create_infer_request()
    # The tensor does not keep the memory that it shares: the call below does.
    shared = arrays["x"]
    request.set_input_tensor(ov.Tensor(shared, shared_memory=True))

    def call(shared: np.ndarray = shared) -> Any:
        return request.infer(share_outputs=True)

    def read(_: Any) -> list[np.ndarray]:
        y, *states = (request.get_output_tensor(number).data.copy() for number in range(len(results)))
        layers = len(stack(work["layers"][0])) if states else 1
        turned = [state.transpose(1, 0, 2) for state in states]
        return [y, *(np.concatenate(turned[k : k + layers]) for k in range(0, len(turned), layers))]

    return Prepared(call, read)
