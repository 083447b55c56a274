"""Kernels with images in the lanes: shapes that small cases do not have."""

from dataclasses import replace

import numpy as np
import pytest

from fastconv import testing, threads
from fastconv.problem import ConvProblem
from fastconv.registry import kernels

KERNELS = [k for k in kernels() if k.algorithm == "batch"]
PROBLEMS = {
    "part of a vector": ConvProblem.make((3, 2, 7, 9), (4, 2, 3, 3), padding=1),
    "blocks and a part of one": ConvProblem.make((37, 1, 12, 13), (6, 1, 5, 5), padding=2),
    "rows of three": ConvProblem.make((17, 3, 6, 6), (5, 3, 3, 3), bias=True),
    "more blocks than shares": ConvProblem.make((16 * 40, 1, 4, 3), (2, 1, 2, 2)),
    "groups, strides, dilation": ConvProblem.make(
        (20, 4, 13, 12), (6, 2, 3, 2), stride=(3, 2), padding=(2, 1), dilation=(2, 3), groups=2
    ),
    "padding over the kernel": ConvProblem.make((2, 2, 3, 4), (3, 2, 2, 2), padding=(3, 5)),
}
TAKEN = [(k, name) for k in KERNELS for name, p in PROBLEMS.items() if not k.unsupported(p)]


def test_what_is_taken():
    """All but input gradients with strides."""
    left_out = {(k.op, name) for k in KERNELS for name in PROBLEMS} - {(k.op, name) for k, name in TAKEN}
    assert left_out == {("conv2d_grad_input", "groups, strides, dilation")}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("kernel", "name"), TAKEN, ids=lambda v: getattr(v, "name", v))
def test_shapes(kernel, name, dtype):
    p = replace(PROBLEMS[name], dtype=dtype)
    arrays = testing.inputs(kernel.op, p)
    outputs = testing.poisoned_run(kernel, p, arrays)
    assert testing.error(kernel.op, p, arrays, outputs) <= kernel.limit
    with threads.eager():
        np.testing.assert_array_equal(testing.poisoned_run(kernel, p, arrays)[0], outputs[0])


def test_large_planes_are_not_taken():
    for kernel in KERNELS:
        assert "needs at most" in kernel.unsupported(ConvProblem.make((1, 1, 100, 100), (1, 1, 3, 3)))
