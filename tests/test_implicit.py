"""The weight gradient of implicit when output gradients are packed in parts: a few images, or some pixels of one."""

import numpy as np
import pytest

from fastconv import testing
from fastconv.kernels.cpu import conv_implicit
from fastconv.problem import ConvProblem
from fastconv.registry import kernels

PROBLEMS = {
    "padded": ConvProblem.make((5, 6, 9, 11), (8, 3, 3, 3), padding=1, groups=2),
    "strided": ConvProblem.make((4, 5, 13, 10), (20, 5, 3, 2), stride=(2, 3), padding=(1, 0)),
    "as it lies": ConvProblem.make((3, 7, 8, 8), (17, 7, 1, 1)),
}


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("pixels", [1, 7, 64, 150])
def test_gradients_packed_in_parts(name, pixels, monkeypatch):
    p = PROBLEMS[name]
    kernel = next(k for k in kernels("conv2d_grad_weight") if k.algorithm == "implicit")
    monkeypatch.setattr(conv_implicit, "_PACKED_BYTES", pixels * 4 * conv_implicit._packed(p, p.og, 1))
    assert conv_implicit._pixels_at_once(p) == pixels
    arrays = testing.inputs(kernel.op, p)
    outputs = testing.poisoned_run(kernel, p, arrays)
    assert np.isfinite(outputs[0]).all()
    assert testing.error(kernel.op, p, arrays, outputs) <= kernel.limit
