"""ncnn: its text and binary model files, its defaults, but float32 everywhere. ReLU is part of the convolution.

ncnn has no batch dimension; its users loop over images, and so does this.
"""

from __future__ import annotations

import os
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, BinaryIO

import ncnn
import numpy as np

from ..work import Arrays, Prepared, Unsupported, only_forward

_count = 1


def threads(count: int) -> int:
    """Sets it for the nets that are built: get_omp_num_threads tells 1 between calls, whatever they use."""
    global _count
    _count = count
    return count


def version() -> str:
    return f"ncnn {installed('ncnn')}"


def _line(kind: str, number: int, blobs: int, values: dict[int, Any]) -> str:
    rest = " ".join(f"{key}={value}" for key, value in values.items())
    return f"{kind} layer{number} 1 1 blob{blobs} blob{blobs + 1} {rest}"


def _conv(layer: dict[str, Any], number: int, arrays: Arrays, relu: bool, weights: BinaryIO) -> tuple[str, dict]:
    weight = arrays[f"{number}.weight"]
    (kh, kw), (sh, sw), (ph, pw) = layer["kernel"], layer["stride"], layer["padding"]
    values = {0: layer["out"], 1: kw, 11: kh, 3: sw, 13: sh, 4: pw, 14: ph, 5: int(layer["bias"]), 6: weight.size}
    values |= {9: 1} if relu else {}
    dilation_h, dilation_w = layer["dilation"]
    values |= {2: dilation_w, 12: dilation_h} if (dilation_h, dilation_w) != (1, 1) else {}
    values |= {7: layer["groups"]} if layer["groups"] > 1 else {}
    # Four zero bytes: what follows is float32.
    weights.write(bytes(4) + weight.tobytes())
    if layer["bias"]:
        weights.write(arrays[f"{number}.bias"].tobytes())
    return ("ConvolutionDepthWise" if layer["groups"] > 1 else "Convolution"), values


def _write(work: dict[str, Any], arrays: Arrays, text: Path, binary: Path) -> str:
    """Write both files; the name of the output."""
    layers, lines = work["layers"], ["Input input 0 1 blob0"]
    with binary.open("wb") as weights:
        for number, layer in enumerate(layers):
            blobs = len(lines) - 1
            match layer["op"]:
                case "relu":
                    if not number or layers[number - 1]["op"] != "conv":
                        raise Unsupported("relu without conv")
                case "conv":
                    relu = number + 1 < len(layers) and layers[number + 1]["op"] == "relu"
                    kind, values = _conv(layer, number, arrays, relu, weights)
                    lines.append(_line(kind, number, blobs, values))
                case "tanh" | "sigmoid" as op:
                    lines.append(_line({"tanh": "TanH", "sigmoid": "Sigmoid"}[op], number, blobs, {}))
                case "linear":
                    weight = arrays[f"{number}.weight"]
                    weights.write(bytes(4) + weight.tobytes())
                    if layer["bias"]:
                        weights.write(arrays[f"{number}.bias"].tobytes())
                    values = {0: layer["out"], 1: int(layer["bias"]), 2: weight.size}
                    lines.append(_line("InnerProduct", number, blobs, values))
                case "maxpool" | "avgpool" as op:
                    if layer.get("dilation", [1, 1]) != [1, 1]:
                        raise Unsupported("no dilated pool")
                    (kh, kw), (sh, sw), (ph, pw) = layer["kernel"], layer["stride"], layer["padding"]
                    # 5=1: padding as given, sizes rounded down; 6=1: the mean counts padding.
                    values = {0: int(op == "avgpool"), 1: kw, 11: kh, 2: sw, 12: sh, 3: pw, 13: ph, 5: 1, 6: 1}
                    lines.append(_line("Pooling", number, blobs, values))
                case op:
                    raise Unsupported(f"no {op}")
    text.write_text("\n".join(["7767517", f"{len(lines)} {len(lines)}", *lines, ""]), encoding="utf-8")
    return f"blob{len(lines) - 1}"


def build(work: dict[str, Any], arrays: Arrays, folder: str) -> Prepared:
    only_forward(work)
    text, binary = Path(folder, "net.param"), Path(folder, "net.bin")
    output = _write(work, arrays, text, binary)
    net = ncnn.Net()
    net.opt.num_threads = _count
    net.opt.use_winograd_convolution = net.opt.use_sgemm_convolution = net.opt.use_packing_layout = True
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = net.opt.use_int8_inference = False
    if net.load_param(os.fspath(text)) or net.load_model(os.fspath(binary)):
        raise RuntimeError("ncnn cannot read its model")
    # A Mat is a view that does not keep its array: the pairs do.
    images = [(ncnn.Mat(image), image) for image in arrays["x"]]

    def call() -> list[Any]:
        results = []
        for image, _ in images:
            extractor = net.create_extractor()
            extractor.input("blob0", image)
            code, result = extractor.extract(output)
            if code:
                raise RuntimeError(f"ncnn's extract returned {code}")
            results.append(result)
        return results

    return Prepared(call, lambda results: [np.stack([np.array(result) for result in results])])
