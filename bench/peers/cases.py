"""Work that is more than one operation: networks, training, starts. And how fast fastconv is to be, of all groups.

Single operations are fastconv.testing's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from fastconv import testing

from .recurrent import is_recurrent, shapes
from .work import Arrays

# The runtimes that train, and those whose start is measured.
TRAINING = ("torch", "torch_channels_last")
STARTING = ("torch",)


@dataclass(frozen=True, slots=True)
class Case:
    """Work and what is asked of it.

    goal: "ratio", of the best peer's time at most; "seconds" at most; "share", of the FMA peak at least; "per_step", of
    work with lengths, fastconv's time for a step that is no padding by that of a dense step at most. peers: the only
    ones that take part. fresh: measured from the start of a new process, with a compiler cache that is "filled" or
    "empty". flops: those that the FMA peak is a limit of. dense: of work with lengths, the same without, which fastconv
    does in the same rounds.
    """

    name: str
    work: dict[str, Any]
    goal: Mapping[str, float]
    text: str
    peers: tuple[str, ...] | None = None
    fresh: str = ""
    flops: float | None = None
    dense: dict[str, Any] | None = None
    quick: bool = False


def _conv(c: int, o: int, kernel: int, stride: int = 1, padding: int = 0) -> dict[str, Any]:
    pairs = {"kernel": [kernel] * 2, "stride": [stride] * 2, "padding": [padding] * 2, "dilation": [1, 1]}
    return {"op": "conv", "in": c, "out": o, **pairs, "groups": 1, "bias": True}


def _pool(kind: str, kernel: int) -> dict[str, Any]:
    return {"op": f"{kind}pool", "kernel": [kernel] * 2, "stride": [kernel] * 2, "padding": [0, 0], "dilation": [1, 1]}


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
    dense = [{"op": "linear", "in": a, "out": b, "bias": True} for a, b in ((400, 120), (120, 84), (84, 10))]
    images = [_conv(1, 6, 5, padding=2), tanh, pool, _conv(6, 16, 5), tanh, pool, {"op": "flatten"}]
    return [*images, dense[0], tanh, dense[1], tanh, dense[2]]


def _layers(work: dict[str, Any]) -> str:
    kinds = {"conv": "convolutions", "maxpool": "pools", "linear": "linear layers"}
    counted = ((sum(step["op"] == op for step in work["layers"]), text) for op, text in kinds.items())
    return ", ".join(f"{count} {text if count > 1 else text[:-1]}" for count, text in counted if count)


def _gradients(name: str, n: int, ratio: float) -> Case:
    """Forward and backward of one of testing's convolutions, at batch n."""
    problem: Any = testing.CASES[name].problem
    pairs = {name: list(getattr(problem, name)) for name in ("stride", "dilation")}
    window = {"kernel": [problem.kh, problem.kw], **pairs, "padding": list(problem.padding[::2])}
    conv = {"op": "conv", "in": problem.c, "out": problem.o, **window, "groups": problem.groups, "bias": problem.bias}
    work = {"kind": "gradients", "shape": [n, *problem.input_shape[1:]], "layers": [conv]}
    flops = 3.0 * problem.flops * n / problem.n
    text = "forward, then gradients of input and weights"
    return Case(f"{name}-{n}", work, {"ratio": ratio}, text, TRAINING, flops=flops)


def _network_flops(n: int) -> float:
    """Of VGG16's convolutions."""
    layers = [case for name, case in testing.NETWORKS["VGG16"] if name.startswith("conv")]
    return float(n * sum(testing.CASES[case].problem.flops for case in layers))


def _cases() -> Iterator[Case]:
    def features(n: int) -> dict[str, Any]:
        return {"kind": "forward", "shape": [n, 3, 224, 224], "layers": vgg16()}

    for n in (1, 8):
        text = f"VGG16's features: {_layers(features(n))}"
        yield Case(f"vgg16-{n}", features(n), {"ratio": 0.62}, text, flops=_network_flops(n))
    for name in ("vgg2_2", "vgg3_2", "vgg4_2"):
        yield _gradients(name, 4, 0.45)
    for name, n in (("resnet-1x1", 1), ("resnet-stride-2", 1), ("lenet-conv1", 64), ("lenet-conv2", 64)):
        yield _gradients(name, n, 0.80)
    step = {"kind": "step", "shape": [64, 1, 28, 28], "layers": lenet5()}
    text = f"LeNet-5, cross-entropy and SGD: {_layers(step)}"
    yield Case("lenet5-64", step, {"ratio": 0.5}, text, TRAINING, quick=True)
    first = {"kind": "forward", "shape": [1, 256, 56, 56], "layers": [_conv(256, 256, 3, padding=1)]}
    text = "from python's start to the first output of vgg3_2, "
    yield Case("first-cached", first, {"seconds": 0.6}, text + "compiled code cached", STARTING, "filled")
    yield Case("first-uncached", first, {"seconds": 8.0}, text + "nothing compiled", STARTING, "empty")
    text = "from python's start to the first output of VGG16's features, nothing compiled"
    yield Case("vgg16-uncached", features(1), {"seconds": 20.0}, text, STARTING, "empty")


def all_cases() -> list[Case]:
    """Of images first, then of series. One name may have several kinds of work."""
    from .cases_rnn import series

    return [*_cases(), *series()]


# What is asked of single operations, by the names of their groups.
GOALS: Mapping[str, Mapping[str, float]] = {
    **{f"{name} conv2d": {"ratio": 0.7} for name in ("vgg1_2", "vgg2_2", "vgg3_2", "vgg4_2", "vgg5")},
    **{
        f"{name} conv2d": {"ratio": 1.0}
        for name in (
            *("vgg1_1", "resnet-stem", "resnet-1x1", "resnet-stride-2", "alexnet-conv2", "depthwise"),
            *("lenet-conv1", "lenet-conv2"),
        )
    },
    **{f"pool-{name}-112 max_pool2d": {"ratio": 1.0} for name in ("2x2", "3x3")},
    "pool-2x2-112 avg_pool2d": {"ratio": 1.0},
    "tiny conv2d": {"seconds": 3e-6},
}

# The groups of --quick, beside the cases that say so: one or two of each kind.
QUICK = (
    *(f"{name} conv2d" for name in ("vgg3_2", "vgg5", "resnet-1x1", "depthwise", "lenet-conv1")),
    *("vgg3_2 conv2d_grad_input", "vgg3_2 conv2d_grad_weight", "pool-2x2-112 max_pool2d", "gemm-512 linear"),
    "gru-128-16 gru",
)


def output_shape(work: dict[str, Any]) -> tuple[int, ...]:
    """Of the last layer of `work`."""
    shape = tuple(work["shape"])
    for step in work["layers"]:
        if "kernel" in step:
            n, c, *sizes = shape
            geometry = zip(sizes, step["kernel"], step["stride"], step["padding"], step["dilation"], strict=True)
            windows = ((size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in geometry)
            shape = (n, step.get("out", c), *windows)
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
