"""Pooling where sizes and values are extreme: denormals, huge windows and strides, windows of nothing."""

import numpy as np
import pytest

from fastconv import functional as F
from fastconv.problem import PoolProblem
from fastconv.registry import choose, kernels


@pytest.mark.parametrize("algorithm", [k.algorithm for k in kernels("max_pool2d")])
def test_maximum_of_denormals_is_one_of_them(algorithm):
    x = np.array([[1e-40, 3e-40], [2e-40, 0]], np.float32).reshape(1, 1, 2, 2)
    gy = np.ones((1, 1, 1, 1), np.float32)
    assert F.max_pool2d(x, 2, algorithm=algorithm).item() == np.float32(3e-40)
    y, indices = F.max_pool2d_with_indices(x, 2, algorithm=algorithm)
    assert (y.item(), indices.item()) == (np.float32(3e-40), 1)
    assert F.max_pool2d_grad(x, gy, 2, algorithm=algorithm).reshape(-1).tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("algorithm", [k.algorithm for k in kernels("max_pool2d_with_indices")])
def test_window_of_more_elements_than_float32_can_count(algorithm):
    size = 4099
    assert size * size > 2**24
    x = np.zeros((1, 1, size, size), np.float32)
    x[0, 0, -1, -2] = 5
    y, indices = F.max_pool2d_with_indices(x, size, algorithm=algorithm)
    assert (y.item(), indices.item()) == (5, size * size - 2)


@pytest.mark.parametrize("stride", [7, 10**7, 2**31 - 1])
def test_stride_over_the_input_takes_little_scratch(stride):
    problem = PoolProblem.make((1, 3, 61, 67), (50, 40), stride=stride)
    assert problem.output_shape[3] == (4 if stride == 7 else 1)
    for op in ("max_pool2d", "max_pool2d_with_indices", "max_pool2d_grad", "avg_pool2d", "avg_pool2d_grad"):
        assert choose(op, problem).scratch(problem) < 10_000
    x = np.random.default_rng(0).standard_normal((1, 3, 61, 67)).astype(np.float32)
    np.testing.assert_array_equal(
        F.max_pool2d(x, (50, 40), stride), F.max_pool2d(x, (50, 40), stride, algorithm="naive")
    )
    gy = np.ones(problem.output_shape, np.float32)
    np.testing.assert_allclose(
        F.avg_pool2d_grad(x.shape, gy, (50, 40), stride),
        F.avg_pool2d_grad(x.shape, gy, (50, 40), stride, algorithm="naive"),
        rtol=1e-6,
    )


@pytest.mark.parametrize("algorithm", [k.algorithm for k in kernels("max_pool2d_grad")])
def test_window_wholly_in_padding_has_no_gradient(algorithm):
    x = np.array([[[[1.0, 2.0]]]])
    arguments = {"kernel_size": (1, 2), "stride": (1, 1), "padding": (0, 1), "dilation": (1, 3), "algorithm": algorithm}
    y, indices = F.max_pool2d_with_indices(x, **arguments)
    assert y.tolist() == [[[[-np.inf]]]]
    assert indices.item() == -1
    assert F.max_pool2d_grad(x, np.ones_like(y), **arguments).tolist() == [[[[0.0, 0.0]]]]
