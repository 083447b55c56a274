"""MNN: the ONNX model through its converter, then a session.

A session uses its input's memory for what comes later in the network, so its users fill it again before every run.
That copy is part of the call; reading the output is not.

onnx writes the model in a process of its own: in one with MNN their copies of protobuf clash.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import MNN
import numpy as np

from ..work import Arrays, Prepared, only_forward, program

_count = 1


def threads(count: int) -> int:
    """Sets it for the sessions that are built: MNN tells nobody how many it uses."""
    global _count
    _count = count
    return count


def version() -> str:
    return f"MNN {installed('mnn')}"


def build(work: dict[str, Any], arrays: Arrays, folder: str) -> Prepared:
    only_forward(work)
    place = Path(folder)
    source, model = place / "model.onnx", place / "model.mnn"
    np.savez(place / "arrays.npz", **arrays)
    (place / "work.json").write_text(json.dumps(work), encoding="utf-8")
    subprocess.run([sys.executable, "-c", program("runtimes.onnx_model", folder, str(source))], check=True)
    converter = Path(sys.executable).with_name("mnnconvert")
    command = [converter, "-f", "ONNX", "--modelFile", source, "--MNNModel", model, "--bizCode", "fastconv"]
    subprocess.run(command, check=True)
    interpreter = MNN.Interpreter(str(model))
    # "normal" is float32 on x86 and "low" bfloat16 where there is any; "high" is float32 everywhere.
    session = interpreter.createSession({"backend": "CPU", "numThread": _count, "precision": "high"})
    given = interpreter.getSessionInput(session)
    shape = tuple(work["shape"])
    x = MNN.Tensor(shape, MNN.Halide_Type_Float, arrays["x"], MNN.Tensor_DimensionType_Caffe)
    result = interpreter.getSessionOutput(session)

    def read(_: Any) -> list[np.ndarray]:
        wanted = result.getShape()
        host = MNN.Tensor(wanted, MNN.Halide_Type_Float, np.empty(wanted, np.float32), MNN.Tensor_DimensionType_Caffe)
        result.copyToHostTensor(host)
        return [np.array(host.getData(), np.float32).reshape(wanted)]

    def call() -> None:
        given.copyFrom(x)
        code = interpreter.runSession(session)
        if code:
            raise RuntimeError(f"MNN's runSession returned {code}")

    return Prepared(call, read)
