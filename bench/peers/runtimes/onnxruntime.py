"""ONNX Runtime: input and output bound once, so that a call copies nothing. All graph optimisations are on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime

from bench.peers.runtimes import onnx_model
from bench.peers.work import Arrays, Prepared, only_forward

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
    onnx_model.write(work, arrays, path)
    session = onnxruntime.InferenceSession(path, _options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(arrays["x"]))
    binding.bind_output("y", "cpu")
    return Prepared(
        lambda: session.run_with_iobinding(binding), lambda _: [value.numpy() for value in binding.get_outputs()]
    )
