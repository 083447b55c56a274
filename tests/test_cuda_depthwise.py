"""Depthwise convolution on CUDA, by the executor: every build with sizes around its blocks, and how much it moves."""

import numpy as np
import pytest

from fastconv import cudaemu, testing
from fastconv.kernels.cuda import conv_depthwise, launch
from fastconv.problem import ConvProblem
from fastconv.registry import kernels

OPS = ("conv2d", "conv2d_grad_input", "conv2d_grad_weight")
# (window, stride) of every build with a window of its own.
SQUARES = [(build["K"], build["S"]) for build in conv_depthwise.BUILDS["depthwise.cu"] if build["K"]]


def depthwise(op):
    return next(kernel for kernel in kernels(op, "cuda") if kernel.algorithm == "depthwise")


def run(op, problem, arrays, flavour="check", order="random"):
    with launch.running(launch.Emulated(flavour, order, seed=5)) as runner:
        outputs = testing.poisoned_run(depthwise(op), problem, arrays)
    return outputs, runner


def right(op, problem, arrays):
    outputs, _ = run(op, problem, arrays)
    return testing.Oracle(op, problem, arrays).error(outputs) <= 1.0


@pytest.mark.parametrize(("window", "stride"), SQUARES)
@pytest.mark.parametrize("size", [(1, 2), (7, 9), (8, 8), (17, 130), (35, 16)])
def test_every_window_of_its_own_is_right(window, stride, size):
    generator = np.random.default_rng(window * 1000 + size[0])
    for multiplier in (1, 2):
        padding = generator.integers(window // 2, window + 2, 4).tolist()
        shapes = (2, 3, *size), (3 * multiplier, 1, window, window)
        problem = ConvProblem.make(*shapes, stride=stride, padding=padding, groups=3)
        for op in OPS:
            assert right(op, problem, testing.inputs(op, problem)), (op, problem)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_random_windows_strides_and_dilations(dtype):
    generator = np.random.default_rng(7)
    for _ in range(20):
        (kh, kw), stride, dilation = (generator.integers(1, high, 2).tolist() for high in (7, 5, 4))
        padding = generator.integers(0, 6, 4).tolist()
        size = [int(dilation[axis] * ((kh, kw)[axis] - 1) + generator.integers(1, 20)) for axis in (0, 1)]
        images, channels, multiplier = generator.integers(1, 4, 3).tolist()
        problem = ConvProblem.make(
            (images, channels, *size),
            (channels * multiplier, 1, kh, kw),
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=channels,
            dtype=dtype,
        )
        for op in OPS:
            assert right(op, problem, testing.inputs(op, problem)), (op, problem)


@pytest.mark.parametrize(("window", "stride"), [*SQUARES, (2, 3)])
def test_nan_reaches_what_it_is_part_of_and_no_more(window, stride):
    """Also from a row and a column that no window reads, and outputs that a thread has but the problem has not."""
    problem = ConvProblem.make((1, 2, 14, 12), (2, 1, window, window), stride=stride, groups=2)
    for op in OPS:
        for place in (0, 57, -1, -25):
            arrays = testing.inputs(op, problem)
            arrays[0].flat[place % arrays[0].size] = np.nan
            assert right(op, problem, arrays), (op, place)


@pytest.mark.parametrize("order", cudaemu.ORDERS)
def test_a_weight_gradient_of_many_shares_is_the_same_in_every_order(order):
    op, problem = "conv2d_grad_weight", ConvProblem.make((2, 2, 70, 140), (2, 1, 3, 3), groups=2)
    arrays = testing.inputs(op, problem)
    outputs, runner = run(op, problem, arrays, "result", order)
    assert runner.launches == 2
    np.testing.assert_array_equal(outputs[0], run(op, problem, arrays, "result", "ascending")[0][0])
    assert testing.Oracle(op, problem, arrays).error(outputs) <= 1.0


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("op", OPS)
def test_little_more_is_moved_than_must_be(op, stride):
    problem = ConvProblem.make((1, 8, 64, 64), (8, 1, 3, 3), stride=stride, padding=1, groups=8)
    runner = launch.Emulated("check")
    runner.counts = {}
    with launch.running(runner):
        testing.poisoned_run(depthwise(op), problem, testing.inputs(op, problem))
    moved, compulsory = (sum(getattr(one, name) for one in runner.counts.values()) for name in ("moved", "compulsory"))
    # Of all arrays, in sectors: what launches say they had to move is itself held to the problem's size.
    assert compulsory >= 0.9 * moved
    assert compulsory <= 1.1 * problem.bytes
