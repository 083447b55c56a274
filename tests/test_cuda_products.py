"""The matrix products on CUDA in tiles that small cases do not take, by the executor."""

from dataclasses import replace

import pytest

from fastconv import cudaemu, testing
from fastconv.kernels.cuda import conv_weight, launch
from fastconv.problem import ConvProblem, LinearProblem
from fastconv.registry import kernels

# So that one large tile fills it.
ONE = replace(launch.A100, processors=1)


def right(kernel, problem, device, flavour, order):
    arrays = testing.inputs(kernel.op, problem)
    runner = launch.Emulated(flavour, order, seed=6, device=device)
    with launch.running(runner):
        outputs = testing.poisoned_run(kernel, problem, arrays)
    return testing.Oracle(kernel.op, problem, arrays).error(outputs) <= kernel.limit


def everywhere(kernel, problem, device=launch.A100):
    ways = [("result", order) for order in cudaemu.ORDERS] + [("check", "random")]
    return all(right(kernel, problem, device, *way) for way in ways)


@pytest.mark.parametrize("op", ["linear", "linear_grad_input", "linear_grad_weight"])
@pytest.mark.parametrize("sizes", [(129, 33, 130), (1, 40, 7), (200, 1, 16)])
def test_products_in_large_tiles(op, sizes):
    m, i, o = sizes
    problem = LinearProblem.make((m, i), (o, i), bias=True)
    [kernel] = [kernel for kernel in kernels(op, "cuda") if kernel.algorithm == "gemm"]
    assert everywhere(kernel, problem, ONE)


@pytest.mark.parametrize(("channels", "outputs", "tile"), [(15, 65, (128, 128)), (40, 60, (64, 256)), (3, 9, (64, 64))])
def test_weight_gradients_in_every_tile(channels, outputs, tile):
    problem = ConvProblem.make((2, channels, 9, 11), (outputs, channels, 3, 3), stride=(1, 2), padding=(2, 1))
    assert conv_weight.tiles(problem)[0] == tile
    [kernel] = [one for one in kernels("conv2d_grad_weight", "cuda") if one.name == "conv2d_grad_weight/implicit/cuda"]
    assert everywhere(kernel, problem)
