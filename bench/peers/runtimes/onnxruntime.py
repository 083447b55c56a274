"""ONNX Runtime: input and output bound once, so that a call copies nothing. All graph optimisations are on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ..work import Arrays, Prepared, only_forward
from . import onnx_model

_options = onnxruntime.SessionOptions()


def threads(count: int) -> int:
    _options.intra_op_num_threads = count
    _options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return _options.intra_op_num_threads


def version() -> str:
    return f"onnxruntime {onnxruntime.__version__}"


def build(work: dict[str, Any], arrays: Arrays, folder: str) -> Prepared:
    only_forward(work)
    path = str(Path(folder, "model.onnx"))
    names = onnx_model.write(work, arrays, path)
    session = onnxruntime.InferenceSession(path, _options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(arrays["x"]))
    for name in names:
        binding.bind_output(name, "cpu")

    def read(_: Any) -> list[np.ndarray]:
        y, *states = (value.numpy() for value in binding.get_outputs())
        # Of a recurrent layer: h and c, each of as many outputs as there are layers.
        letters = [name[0] for name in names[1:]]
        layers = letters.count("h")
        return [y, *(np.concatenate(states[k : k + layers]) for k in range(0, len(states), layers or 1))]

    return Prepared(lambda: session.run_with_iobinding(binding), read)
