"""What tests and benchmarks share: the table of shapes, random inputs, and the one error measure.

A new kernel is tested and benchmarked on every case its operation has, because both go over `grid`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastconv import reference, testing_rnn
from fastconv.functional import Array, aligned, output_shapes
from fastconv.problem import ConvProblem, LinearProblem, PoolProblem, Problem, RecurrentProblem
from fastconv.registry import OPS, Kernel, has_meaning, kernels, operations


@dataclass(frozen=True, slots=True)
class Case:
    """A named problem; small ones are tested, the others benchmarked."""

    name: str
    problem: Problem
    small: bool


def _conv(n: int, c: int, h: int, w: int, o: int, kh: int, kw: int, **arguments: Any) -> ConvProblem:
    groups = arguments.get("groups", 1)
    return ConvProblem.make((n, c, h, w), (o, c // groups, kh, kw), **arguments)


def _pool(n: int, c: int, h: int, w: int, *kernel: int, **arguments: Any) -> PoolProblem:
    return PoolProblem.make((n, c, h, w), kernel, **arguments)


def _recurrent(cell: str, t: int, b: int, i: int, h: int, **arguments: Any) -> RecurrentProblem:
    first = arguments.get("batch_first", False)
    return RecurrentProblem.make(cell, (b, t, i) if first else (t, b, i), h, **arguments)


def _linear(m: int, i: int, o: int, **arguments: Any) -> LinearProblem:
    return LinearProblem.make((m, i), (o, i), **arguments)


# Asymmetric on purpose: unequal heights and widths, kernels, strides, paddings and dilations; odd and prime channels.
_SMALL: dict[str, Problem] = {
    "conv-one-pixel": _conv(1, 1, 1, 1, 1, 1, 1),
    "conv-edge-detector": _conv(1, 1, 6, 8, 1, 1, 2),
    "conv-bias": _conv(2, 3, 9, 11, 5, 3, 2, padding=(1, 0), bias=True),
    "conv-1x1": _conv(2, 17, 5, 7, 9, 1, 1, bias=True),
    "conv-1x1-stride": _conv(3, 5, 9, 8, 7, 1, 1, stride=(2, 3)),
    "conv-wide": _conv(1, 2, 5, 101, 3, 3, 3, padding=(2, 1)),
    "conv-tall": _conv(1, 3, 67, 3, 2, 5, 2, padding=(1, 1)),
    "conv-stride": _conv(2, 5, 13, 40, 11, 3, 5, stride=(2, 1), padding=(1, 2)),
    "conv-stride-2": _conv(2, 3, 17, 37, 10, 3, 3, stride=2, padding=1, bias=True),
    "conv-stride-3": _conv(2, 2, 19, 23, 3, 4, 5, stride=(1, 3), padding=(2, 3)),
    "conv-stride-over-kernel": _conv(1, 3, 14, 16, 5, 2, 1, stride=(3, 4)),
    "conv-patches": _conv(2, 6, 14, 17, 8, 3, 4, stride=(4, 5), padding=(1, 2), groups=2),
    "conv-patches-exact": _conv(1, 3, 15, 14, 5, 5, 7, stride=(5, 7)),
    "conv-patches-dilated": _conv(2, 2, 19, 23, 3, 3, 2, stride=(5, 6), dilation=(2, 4), padding=(2, 1)),
    "conv-dilation": _conv(2, 3, 15, 19, 4, 3, 2, dilation=(2, 5), padding=(3, 1)),
    "conv-dilation-stride": _conv(1, 2, 21, 18, 3, 3, 3, dilation=(3, 2), stride=(2, 3), padding=(4, 3)),
    "conv-same": _conv(2, 2, 9, 10, 3, 2, 4, padding="same", stride=(2, 3)),
    "conv-padding-over-kernel": _conv(1, 2, 3, 4, 3, 2, 1, padding=(3, 5)),
    "conv-groups": _conv(2, 6, 8, 11, 9, 3, 2, groups=3, padding=(0, 1), bias=True),
    "conv-depthwise": _conv(2, 7, 12, 18, 7, 3, 3, groups=7, padding=1, stride=(1, 2)),
    "conv-depthwise-multiplier": _conv(1, 5, 9, 20, 10, 5, 3, groups=5, padding=(2, 1)),
    "conv-depthwise-3x3": _conv(1, 3, 9, 41, 6, 3, 3, groups=3, padding=(1, 2), bias=True),
    "conv-depthwise-3x3-stride": _conv(2, 3, 13, 40, 3, 3, 3, groups=3, stride=2, padding=1, bias=True),
    "conv-depthwise-5x5": _conv(1, 3, 11, 21, 6, 5, 5, groups=3, padding=2, dilation=(1, 2)),
    "conv-many-channels": _conv(1, 67, 6, 9, 19, 3, 3, padding=1),
    "conv-many-outputs": _conv(1, 3, 7, 50, 70, 2, 3),
    "conv-deep": _conv(1, 131, 4, 5, 9, 3, 2, padding=(1, 1)),
    "conv-large-kernel": _conv(2, 4, 41, 30, 6, 9, 7, groups=2, padding=(0, 3), bias=True),
    "conv-batch": _conv(9, 2, 5, 6, 4, 3, 3),
    "conv-relu": _conv(2, 4, 11, 22, 10, 3, 3, padding=(1, 2), groups=2, bias=True, activation="relu"),
    "conv-sigmoid-add": _conv(2, 3, 13, 9, 9, 3, 3, padding=1, bias=True, activation="sigmoid", add=True),
    "conv-depthwise-tanh-add": _conv(2, 3, 11, 19, 6, 3, 3, groups=3, stride=(1, 2), activation="tanh", add=True),
    "pool-2x2": _pool(2, 3, 8, 10, 2, 2),
    "pool-3x3-stride-2": _pool(2, 5, 13, 15, 3, 3, stride=2, padding=1),
    "pool-asymmetric": _pool(3, 2, 11, 37, 3, 5, stride=(2, 1), padding=(1, 2)),
    "pool-ceil": _pool(1, 3, 12, 14, 3, 4, stride=(2, 3), ceil_mode=True, padding=(1, 0)),
    "pool-stride-3": _pool(2, 2, 17, 20, 2, 3, stride=(3, 4)),
    "pool-same": _pool(2, 2, 7, 9, 2, 3, stride=(2, 2), padding="same"),
    "pool-whole": _pool(2, 3, 7, 9, 7, 9),
    "pool-wide": _pool(1, 2, 6, 133, 2, 2, stride=(1, 2)),
    "pool-1x1": _pool(2, 3, 4, 5, 1, 1),
    "max-pool-dilation": _pool(2, 3, 14, 17, 3, 2, stride=(1, 2), dilation=(2, 3), padding=(1, 1)),
    "avg-pool-exclude-pad": _pool(2, 3, 9, 11, 3, 3, stride=2, padding=1, count_include_pad=False),
    "avg-pool-divisor": _pool(1, 2, 8, 9, 3, 2, divisor_override=5, ceil_mode=True),
    "linear-one": _linear(1, 1, 1),
    "linear-vector": _linear(1, 70, 33, bias=True),
    "linear-odd": _linear(7, 13, 5, bias=True),
    "linear-lenet": _linear(9, 400, 120, bias=True),
    "linear-deep": _linear(3, 1031, 17),
    "linear-wide": _linear(2, 9, 211),
    "lstm-one-step": _recurrent("lstm", 1, 1, 3, 5, state=True),
    "lstm-one-sequence": _recurrent("lstm", 13, 1, 7, 67, directions=2, peephole=True),
    "lstm-few": _recurrent("lstm", 6, 5, 17, 35, state=True, batch_first=True),
    "lstm-lengths": _recurrent("lstm", 7, 11, 5, 19, ragged=True, directions=2, state=True),
    "lstm-linear": _recurrent("lstm", 4, 9, 3, 33, linear=True, peephole=True, ragged=True, bias=False),
    "lstm-many": _recurrent("lstm", 3, 101, 4, 9, batch_first=True),
    "gru-one-sequence": _recurrent("gru", 12, 1, 9, 51, state=True, ragged=True),
    "gru-few": _recurrent("gru", 5, 2, 4, 37, directions=2, bias=False),
    "gru-lengths": _recurrent("gru", 9, 13, 6, 21, ragged=True, directions=2, batch_first=True, state=True),
    "gru-many": _recurrent("gru", 2, 53, 3, 70),
    "rnn-one-sequence": _recurrent("rnn", 11, 1, 5, 130, directions=2),
    "rnn-relu": _recurrent("rnn", 6, 4, 3, 71, relu=True, state=True),
    "rnn-lengths": _recurrent("rnn", 8, 10, 7, 18, ragged=True, directions=2, batch_first=True),
}

# Real layers, in batches people train or run with.
_BENCH: dict[str, Problem] = {
    "lenet-conv1": _conv(64, 1, 28, 28, 6, 5, 5, padding=2, bias=True),
    "lenet-pool1": _pool(64, 6, 28, 28, 2, 2),
    "lenet-conv2": _conv(64, 6, 14, 14, 16, 5, 5, bias=True),
    "lenet-pool2": _pool(64, 16, 10, 10, 2, 2),
    "lenet-fc1": _linear(64, 400, 120, bias=True),
    "lenet-fc2": _linear(64, 120, 84, bias=True),
    "lenet-fc3": _linear(64, 84, 10, bias=True),
    "gemm-512": _linear(512, 512, 512),
    "gemm-1024": _linear(1024, 1024, 1024),
    "tiny": _conv(1, 1, 6, 8, 1, 1, 2, bias=True),
    "vgg1_1": _conv(1, 3, 224, 224, 64, 3, 3, padding=1, bias=True),
    "vgg1_2": _conv(1, 64, 224, 224, 64, 3, 3, padding=1, bias=True),
    "vgg-pool1": _pool(1, 64, 224, 224, 2, 2),
    "vgg2_1": _conv(1, 64, 112, 112, 128, 3, 3, padding=1, bias=True),
    "vgg2_2": _conv(1, 128, 112, 112, 128, 3, 3, padding=1, bias=True),
    "vgg-pool2": _pool(1, 128, 112, 112, 2, 2),
    "vgg3_1": _conv(1, 128, 56, 56, 256, 3, 3, padding=1, bias=True),
    "vgg3_2": _conv(1, 256, 56, 56, 256, 3, 3, padding=1, bias=True),
    "vgg-pool3": _pool(1, 256, 56, 56, 2, 2),
    "vgg4_1": _conv(1, 256, 28, 28, 512, 3, 3, padding=1, bias=True),
    "vgg4_2": _conv(1, 512, 28, 28, 512, 3, 3, padding=1, bias=True),
    "vgg-pool4": _pool(1, 512, 28, 28, 2, 2),
    "vgg5": _conv(1, 512, 14, 14, 512, 3, 3, padding=1, bias=True),
    "vgg-pool5": _pool(1, 512, 14, 14, 2, 2),
    "vgg-fc6": _linear(1, 25088, 4096, bias=True),
    "vgg-fc7": _linear(1, 4096, 4096, bias=True),
    "vgg-fc8": _linear(1, 4096, 1000, bias=True),
    "resnet-stem": _conv(1, 3, 224, 224, 64, 7, 7, stride=2, padding=3),
    "resnet-1x1": _conv(1, 256, 56, 56, 64, 1, 1),
    "resnet-stride-2": _conv(1, 128, 56, 56, 128, 3, 3, stride=2, padding=1),
    "alexnet-conv2": _conv(1, 64, 27, 27, 192, 5, 5, padding=2, bias=True),
    "depthwise": _conv(1, 128, 56, 56, 128, 3, 3, padding=1, groups=128),
    "pool-2x2-112": _pool(8, 64, 112, 112, 2, 2),
    "pool-3x3-112": _pool(8, 64, 112, 112, 3, 3, stride=2, padding=1),
    "lstm-question": _recurrent("lstm", 30, 1, 300, 512),
    "lstm-question-2": _recurrent("lstm", 30, 1, 512, 512),
    "question-fc": _linear(1, 2048, 1024, bias=True),
    "lstm-question-32": _recurrent("lstm", 30, 32, 300, 512),
    "lstm-128": _recurrent("lstm", 100, 1, 64, 128),
    "lstm-vowels": _recurrent("lstm", 29, 32, 12, 64, directions=2, ragged=True),
    "gru-question": _recurrent("gru", 30, 1, 300, 512),
    "gru-question-32": _recurrent("gru", 30, 32, 300, 512),
    "gru-128-16": _recurrent("gru", 100, 16, 64, 128),
    "rnn-question-32": _recurrent("rnn", 30, 32, 300, 512),
}

CASES: Mapping[str, Case] = {
    name: Case(name, problem, table is _SMALL) for table in (_SMALL, _BENCH) for name, problem in table.items()
}

# Networks by their layers in order, each (its name, its case), for one image or one question; activations, dropout and
# the embedding, which has no kernel, are left out.
NETWORKS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "VGG16": (
        ("conv1_1", "vgg1_1"),
        ("conv1_2", "vgg1_2"),
        ("pool1", "vgg-pool1"),
        ("conv2_1", "vgg2_1"),
        ("conv2_2", "vgg2_2"),
        ("pool2", "vgg-pool2"),
        ("conv3_1", "vgg3_1"),
        ("conv3_2", "vgg3_2"),
        ("conv3_3", "vgg3_2"),
        ("pool3", "vgg-pool3"),
        ("conv4_1", "vgg4_1"),
        ("conv4_2", "vgg4_2"),
        ("conv4_3", "vgg4_2"),
        ("pool4", "vgg-pool4"),
        ("conv5_1", "vgg5"),
        ("conv5_2", "vgg5"),
        ("conv5_3", "vgg5"),
        ("pool5", "vgg-pool5"),
        ("fc6", "vgg-fc6"),
        ("fc7", "vgg-fc7"),
        ("fc8", "vgg-fc8"),
    ),
    "LeNet-5, 64 images": (
        ("conv1", "lenet-conv1"),
        ("pool1", "lenet-pool1"),
        ("conv2", "lenet-conv2"),
        ("pool2", "lenet-pool2"),
        ("fc1", "lenet-fc1"),
        ("fc2", "lenet-fc2"),
        ("fc3", "lenet-fc3"),
    ),
    "QstEncoder": (("lstm, layer 1", "lstm-question"), ("lstm, layer 2", "lstm-question-2"), ("fc", "question-fc")),
}


def serves(kernel: Kernel, problem: Problem) -> bool:
    """Whether the kernel can do the problem."""
    return has_meaning(kernel.op, problem) and kernel.unsupported(problem) is None


def grid(small: bool, backend: str = "cpu") -> Iterator[tuple[Kernel, Case]]:
    """Every kernel with every case of its operation that it supports: what tests and benchmarks run."""
    for case in CASES.values():
        if case.small == small:
            for op in operations(case.problem):
                for kernel in kernels(op, backend):
                    if serves(kernel, case.problem):
                        yield kernel, case


def inputs(op: str, problem: Problem, seed: int = 0) -> tuple[Array, ...]:
    """Random inputs of `op`, standard normal, the same for the same operation, problem and seed."""
    generator = np.random.default_rng([zlib.crc32(repr((op, problem)).encode()), seed])
    if isinstance(problem, RecurrentProblem):
        return testing_rnn.inputs(op, problem, generator)
    return tuple(generator.standard_normal(shape).astype(problem.dtype) for shape in input_shapes(op, problem))


def input_shapes(op: str, problem: Problem) -> list[tuple[int, ...]]:
    """The shape of every input of `op`; of absent ones (0,)."""
    if isinstance(problem, RecurrentProblem):
        found = testing_rnn.shapes(problem)
        return [found[name] for name in OPS[op].inputs]
    shapes: dict[str, tuple[int, ...]] = {"x": problem.input_shape, "gy": problem.output_shape}
    if not isinstance(problem, PoolProblem):
        shapes["w"] = problem.weight_shape
        shapes["b"] = (problem.o,) if problem.bias else (0,)
        shapes["z"] = problem.output_shape if isinstance(problem, ConvProblem) and problem.add else (0,)
    return [shapes[name] for name in OPS[op].inputs]


def poisoned_run(kernel: Kernel, problem: Problem, arrays: tuple[Array, ...], **made: Array) -> tuple[Array, ...]:
    """The kernel's outputs, with outputs and scratch full of NaN (integers: of their minimum) before the call.

    made: u=, what the kernel prepared of the weights.
    """
    outputs = []
    for shape, dtype in output_shapes(kernel.op, problem):
        poison = np.nan if np.dtype(dtype).kind == "f" else np.iinfo(dtype).min
        outputs.append(np.full(shape, poison, dtype))
    scratch = aligned(kernel.scratch(problem), problem.dtype)
    scratch[:] = np.nan
    kernel.run(problem, *arrays, *outputs, scratch, **made)
    return tuple(outputs)


def expected(op: str, problem: Problem, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """The outputs of `op` in float64, by fastconv.reference."""
    p: Any = problem
    if isinstance(problem, RecurrentProblem):
        return testing_rnn.expected(op, problem, arrays)
    if isinstance(problem, ConvProblem):
        rest = (p.stride, p.padding, p.dilation, p.groups)
        if op == "conv2d":
            x, w, b, z = arrays
            epilogue = (p.activation, z if p.add else None)
            return (reference.conv2d(x, w, b if p.bias else None, *rest, *epilogue),)
        if op == "conv2d_grad_input":
            gy, w = arrays
            return (reference.conv2d_grad_input(p.input_shape, w, gy, *rest),)
        return (reference.conv2d_grad_weight(arrays[0], p.weight_shape, arrays[1], *rest),)
    if isinstance(problem, LinearProblem):
        if op == "linear":
            x, w, b = arrays
            return (reference.linear(x, w, b if p.bias else None),)
        if op == "linear_grad_input":
            return (reference.linear_grad_input(arrays[1], arrays[0]),)
        return (reference.linear_grad_weight(*arrays),)
    window = ((p.kh, p.kw), p.stride, p.padding)
    if op == "max_pool2d_grad":
        return (reference.max_pool2d_grad(arrays[0], arrays[1], *window, p.dilation),)
    if op.startswith("max_pool2d"):
        outputs = reference.max_pool2d(arrays[0], *window, p.dilation, (p.oh, p.ow))
        return outputs if op.endswith("indices") else outputs[:1]
    rule = (p.count_include_pad, p.divisor_override or None)
    if op == "avg_pool2d":
        return (reference.avg_pool2d(arrays[0], *window, *rule, (p.oh, p.ow)),)
    return (reference.avg_pool2d_grad(p.input_shape, arrays[0], *window, *rule),)


def terms(op: str, problem: Problem) -> int:
    """How many products at most are summed into one element of the output."""
    p: Any = problem
    if isinstance(problem, RecurrentProblem):
        return testing_rnn.terms(op, problem)
    if isinstance(problem, ConvProblem):
        counts = {
            "conv2d": p.cg * p.kh * p.kw + p.bias + p.add,
            "conv2d_grad_input": p.og * p.kh * p.kw,
            "conv2d_grad_weight": p.n * p.oh * p.ow,
        }
    elif isinstance(problem, LinearProblem):
        counts = {"linear": p.i + p.bias, "linear_grad_input": p.o, "linear_grad_weight": p.m}
    else:
        return int(p.kh * p.kw)
    return int(counts[op])


class Oracle:
    """What `op` on these inputs must give, computed once for all kernels that are compared with it."""

    def __init__(self, op: str, problem: Problem, arrays: tuple[Array, ...]) -> None:
        self.op, self.problem, self.arrays = op, problem, arrays
        self.wanted = expected(op, problem, arrays)
        self._bound: Array | None = None

    def _scale(self, finite: Array) -> float:
        """The largest of the operation on the magnitudes of the inputs."""
        if self._bound is None:
            # max_pool2d_grad's x only says where gradients go.
            kept = 1 if self.op == "max_pool2d_grad" else 0
            magnitudes = (*self.arrays[:kept], *(np.abs(array) for array in self.arrays[kept:]))
            plain = replace(self.problem, activation="") if isinstance(self.problem, ConvProblem) else self.problem
            self._bound = expected(self.op, plain, magnitudes)[0]
            if plain != self.problem:
                self._bound = np.maximum(self._bound, np.abs(self.wanted[0]))
        # An activation may make a finite number of an infinite one.
        return float(np.max(self._bound[finite & np.isfinite(self._bound)], initial=0.0))

    def error(self, outputs: tuple[Array, ...]) -> float:
        """The one error measure; see `error`."""
        if isinstance(self.problem, RecurrentProblem):
            return testing_rnn.error(self.op, self.problem, self.arrays, self.wanted, outputs)
        if self.op in ("max_pool2d", "max_pool2d_with_indices"):
            same = all(np.array_equal(y, r, equal_nan=True) for y, r in zip(outputs, self.wanted, strict=True))
            return 0.0 if same else float("inf")
        y, ref = outputs[0].astype(np.float64), self.wanted[0]
        finite = np.isfinite(ref)
        if y.shape != ref.shape or not np.array_equal(y[~finite], ref[~finite], equal_nan=True):
            return float("inf")
        scale = self._scale(finite)
        difference = float(np.max(np.abs(y[finite] - ref[finite]), initial=0.0))
        if not np.isfinite(difference):
            return float("inf")
        if scale == 0.0:
            return 0.0 if difference == 0.0 else float("inf")
        unit = float(np.finfo(self.problem.dtype).eps) * math.sqrt(terms(self.op, self.problem)) * scale
        return difference / unit

    def largest_error(self, outputs: tuple[Array, ...]) -> float:
        """max |y − ref| as a share of max |ref|; see `largest_error`."""
        if outputs[0].shape != self.wanted[0].shape:
            return float("inf")
        difference = float(np.max(np.abs(outputs[0].astype(np.float64) - self.wanted[0]), initial=0.0))
        largest = float(np.max(np.abs(self.wanted[0]), initial=0.0))
        return 0.0 if difference == 0 else difference / largest if largest else float("inf")


def error(op: str, problem: Problem, arrays: tuple[Array, ...], outputs: tuple[Array, ...]) -> float:
    """The one error measure: max |y − ref| / (eps · √terms · max of the operation on |inputs|), ref in float64.

    A single rounding is at most 1/2 in these units, and a plain sum of random terms stays about there, whatever its
    length and dtype: a limit of 1 leaves no room for a wrong term. Activations change no output by more than what they
    are applied to, so they have no part in the operation on |inputs|; a sigmoid may be larger than that, and is then
    the scale itself. Max pooling selects, so anything but equality is infinite; so are NaN or inf where the reference
    has none, or none where it has.
    """
    return Oracle(op, problem, arrays).error(outputs)


def largest_error(op: str, problem: Problem, arrays: tuple[Array, ...], outputs: tuple[Array, ...]) -> float:
    """max |y − ref| as a share of max |ref|, ref in float64: the measure that papers on Winograd convolution state.

    0 for outputs that are all zero, as they are to be, and for no outputs at all.
    """
    return Oracle(op, problem, arrays).largest_error(outputs)
