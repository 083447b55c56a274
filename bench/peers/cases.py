"""What is measured, and how fast it is to be. Shapes that tests and benchmarks share are fastconv.testing's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from bench.peers.recurrent import is_recurrent, shapes
from bench.peers.work import Arrays
from fastconv import testing
from fastconv.problem import ConvProblem, PoolProblem, Problem

# The runtimes that train, and those whose start is measured.
TRAINING = ("torch", "torch_channels_last")
STARTING = ("torch",)

# The cases of the geometric mean, and its bar.
VGG_LAYERS = ("vgg1_2", "vgg2_2", "vgg3_2", "vgg4_2", "vgg5")
VGG_LAYERS_BAR = 0.60


@dataclass(frozen=True, slots=True)
class Case:
    """Work and its bars: `ratio` of the best peer's time at most, `seconds` at most, `share` of the FMA peak at least.

    None where there is none. problem: what a single layer is to kernels, whose limit its error must keep. peers: the
    only ones that take part; against: the only ones that the ratio is of. fresh: measured from the start of a new
    process, with a compiler cache that is "filled" or "empty". flops: those that the FMA peak is a limit of. dense: of
    work with lengths, the same without, which fastconv does in the same rounds; `per_step`: its time for a step that is
    no padding by that of a dense step, at most.
    """

    name: str
    work: dict[str, Any]
    ratio: float | None = None
    seconds: float | None = None
    problem: Problem | None = None
    peers: tuple[str, ...] | None = None
    fresh: str = ""
    share: float | None = None
    flops: float | None = None
    against: tuple[str, ...] | None = None
    dense: dict[str, Any] | None = None
    per_step: float | None = None


def _conv(c: int, o: int, kernel: int, stride: int = 1, padding: int = 0) -> dict[str, Any]:
    pairs = {"kernel": [kernel] * 2, "stride": [stride] * 2, "padding": [padding] * 2}
    return {"op": "conv", "in": c, "out": o, **pairs, "groups": 1, "bias": True}


def _pool(kind: str, kernel: int) -> dict[str, Any]:
    return {"op": f"{kind}pool", "kernel": [kernel] * 2, "stride": [kernel] * 2, "padding": [0, 0]}


def layer(problem: Problem, pool: str = "max") -> dict[str, Any]:
    """The layer that `problem` is of; a PoolProblem fits "max" and "avg"."""
    if isinstance(problem, PoolProblem):
        kind: dict[str, Any] = {"op": f"{pool}pool"}
    else:
        assert isinstance(problem, ConvProblem)
        names = {"in": problem.c, "out": problem.o, "groups": problem.groups, "bias": problem.bias}
        kind = {"op": "conv", **names}
    top, bottom, left, right = problem.padding
    if (top, left) != (bottom, right) or problem.dilation != (1, 1):
        raise ValueError(f"{problem}: needs the same padding on both sides and no dilation")
    return {**kind, "kernel": [problem.kh, problem.kw], "stride": list(problem.stride), "padding": [top, left]}


def _single(name: str, problem: Problem, kind: str = "forward", pool: str = "max", **bars: Any) -> Case:
    work = {"kind": kind, "shape": list(problem.input_shape), "layers": [layer(problem, pool)]}
    if kind == "forward":
        return Case(name, work, problem=problem, **bars)
    return Case(name, work, peers=TRAINING, **bars)


def _vgg(channels: int, size: int) -> ConvProblem:
    shape = (channels, channels, 3, 3)
    return ConvProblem.make((1, channels, size, size), shape, padding=1, bias=True)


# The convolutions, by the names of the report: problem and bar.
CONVOLUTIONS: Mapping[str, tuple[Problem, float]] = {
    "vgg1_1": (testing.CASES["vgg1_1"].problem, 1.0),
    "vgg1_2": (_vgg(64, 224), 0.7),
    "vgg2_2": (_vgg(128, 112), 0.7),
    "vgg3_2": (testing.CASES["vgg3_2"].problem, 0.7),
    "vgg4_2": (_vgg(512, 28), 0.7),
    "vgg5": (testing.CASES["vgg5"].problem, 0.7),
    "stem": (testing.CASES["resnet-stem"].problem, 1.0),
    "1x1": (testing.CASES["resnet-1x1"].problem, 1.0),
    "stride2": (testing.CASES["resnet-stride-2"].problem, 1.0),
    "alex2": (testing.CASES["alexnet-conv2"].problem, 1.0),
    "depthwise": (testing.CASES["depthwise"].problem, 1.0),
    "lenet1": (testing.CASES["lenet-conv1"].problem, 1.0),
    "lenet2": (testing.CASES["lenet-conv2"].problem, 1.0),
}

# VGG16's features, Simonyan and Zisserman 2015, table 1, D: channels of 3×3 convolutions with ReLU, "M" a 2×2 maximum.
VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


def vgg16() -> list[dict[str, Any]]:
    """The layers of VGG16's features, for (n, 3, 224, 224)."""
    layers: list[dict[str, Any]] = []
    channels = 3
    for step in VGG16:
        if isinstance(step, str):
            layers.append(_pool("max", 2))
        else:
            layers += [_conv(channels, step, 3, padding=1), {"op": "relu"}]
            channels = step
    return layers


def lenet5() -> list[dict[str, Any]]:
    """examples/lenet.py's network, for (n, 1, 28, 28)."""
    tanh, pool = {"op": "tanh"}, _pool("max", 2)
    dense = [{"op": "linear", "in": a, "out": b} for a, b in ((400, 120), (120, 84), (84, 10))]
    images = [_conv(1, 6, 5, padding=2), tanh, pool, _conv(6, 16, 5), tanh, pool, {"op": "flatten"}]
    return [*images, dense[0], tanh, dense[1], tanh, dense[2]]


def _cases() -> list[Case]:
    two, three = testing.CASES["pool-2x2-112"].problem, testing.CASES["pool-3x3-112"].problem
    tiny = ConvProblem.make((1, 1, 6, 8), (1, 1, 1, 2), bias=True)
    backward = {name: replace(CONVOLUTIONS[name][0], n=4) for name in ("vgg2_2", "vgg3_2", "vgg4_2")}
    small = {name: CONVOLUTIONS[name][0] for name in ("1x1", "stride2", "lenet1", "lenet2")}

    def features(n: int) -> dict[str, Any]:
        return {"kind": "forward", "shape": [n, 3, 224, 224], "layers": vgg16()}

    first = {"kind": "forward", "shape": [1, 256, 56, 56], "layers": [layer(CONVOLUTIONS["vgg3_2"][0])]}
    return [
        *(_single(name, problem, ratio=bar) for name, (problem, bar) in CONVOLUTIONS.items()),
        _single("maxpool2", two, ratio=1.0),
        _single("maxpool3", three, ratio=1.0),
        _single("avgpool2", two, pool="avg", ratio=1.0),
        Case("vgg16_n1", features(1), ratio=0.62),
        Case("vgg16_n8", features(8), ratio=0.62),
        *(_single(f"{name}_n4_grad", problem, "gradients", ratio=0.45) for name, problem in backward.items()),
        *(_single(f"{name}_grad", problem, "gradients", ratio=0.80) for name, problem in small.items()),
        Case("lenet5_step", {"kind": "step", "shape": [64, 1, 28, 28], "layers": lenet5()}, 0.5, peers=TRAINING),
        _single("tiny", tiny, seconds=3e-6),
        Case("first_cached", first, seconds=0.6, peers=STARTING, fresh="filled"),
        Case("first_uncached", first, seconds=8.0, peers=STARTING, fresh="empty"),
        Case("vgg16_uncached", features(1), seconds=20.0, peers=STARTING, fresh="empty"),
    ]


CASES: Mapping[str, Case] = {case.name: case for case in _cases()}


def output_shape(work: dict[str, Any]) -> tuple[int, ...]:
    """Of the last layer of `work`."""
    shape = tuple(work["shape"])
    for step in work["layers"]:
        if "kernel" in step:
            n, c, *sizes = shape
            geometry = zip(sizes, step["kernel"], step["stride"], step["padding"], strict=True)
            shape = (n, step.get("out", c), *((size + 2 * p - k) // s + 1 for size, k, s, p in geometry))
        elif step["op"] == "flatten":
            shape = (shape[0], prod(shape[1:]))
        elif step["op"] == "linear":
            shape = (shape[0], step["out"])
        elif "hidden" in step:
            shape = (*shape[:-1], step["hidden"] * (1 + step.get("bidirectional", False)))
    return shape


def arrays(work: dict[str, Any], seed: int = 0) -> Arrays:
    """Random arrays for `work`, the same for the same seed; weights scaled so that activations keep their size."""
    generator = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape, np.float32)

    found = {"x": normal(*work["shape"])}
    if is_recurrent(work):
        layer = work["layers"][0]
        bound = layer["hidden"] ** -0.5
        for name, size in shapes(layer).items():
            found[f"0.{name}"] = generator.uniform(-bound, bound, size).astype(np.float32)
        if layer["op"] == "lstm_cell":
            found |= {"h": normal(*output_shape(work)), "c": normal(*output_shape(work))}
    for number, step in enumerate(work["layers"]):
        if step["op"] in ("conv", "linear"):
            fan = (step["in"] // step["groups"], *step["kernel"]) if step["op"] == "conv" else (step["in"],)
            gain = 2.0 if any(later["op"] == "relu" for later in work["layers"]) else 1.0
            found[f"{number}.weight"] = normal(step["out"], *fan) * np.float32((gain / prod(fan)) ** 0.5)
            if step.get("bias", True):
                found[f"{number}.bias"] = normal(step["out"]) * np.float32(0.1)
    if work["kind"] in ("gradients", "training"):
        found["gy"] = normal(*output_shape(work))
    if work["kind"] == "step":
        found["target"] = generator.integers(0, output_shape(work)[1], work["shape"][0])
    return found
