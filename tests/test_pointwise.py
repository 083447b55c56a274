"""ReLU, sigmoid and tanh by vector kernels are those of NumPy in float64, and so are their gradients."""

import numpy as np
import pytest

import fastconv
from fastconv import threads
from fastconv.ops import _FEW, relu, sigmoid, tanh

FUNCTIONS = {
    "relu": (relu, lambda x: np.maximum(x, 0), lambda y: ~(y <= 0)),
    "sigmoid": (sigmoid, lambda x: 1 / (1 + np.exp(-x)), lambda y: y * (1 - y)),
    "tanh": (tanh, np.tanh, lambda y: 1 - y * y),
}
SHAPES = [(1,), (_FEW - 1,), (_FEW,), (3, 5, 1031), (64, 6, 28, 28)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("count", [1, 2])
def test_values_and_gradients(name, shape, dtype, count):
    function, value, slope = FUNCTIONS[name]
    generator = np.random.default_rng(3)
    a = (4 * generator.standard_normal(shape)).astype(dtype)
    g = generator.standard_normal(shape).astype(dtype)
    threads.set_num_threads(count)
    try:
        with threads.eager():
            x = fastconv.tensor(a, requires_grad=True)
            y = function(x)
            y.backward(fastconv.tensor(g))
    finally:
        threads.set_num_threads(threads.available())
    eps = np.finfo(dtype).eps
    wanted = value(a.astype(np.float64))
    np.testing.assert_allclose(y.detach().numpy(), wanted, rtol=4 * eps, atol=0)
    # Near ±1 the slope is a difference, so what y was rounded by, at most 3 ulp, counts absolutely.
    assert (np.abs(x.grad.numpy() - g * slope(wanted)) <= 8 * eps * np.abs(g)).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_values(name):
    function, value, _ = FUNCTIONS[name]
    a = np.zeros(_FEW, np.float32)
    a[:4] = np.nan, np.inf, -np.inf, -0.0
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(function(a)[:4], value(a[:4]))


def test_arrays_that_are_not_contiguous():
    a = np.random.default_rng(1).standard_normal((80, 90)).astype(np.float32)
    np.testing.assert_allclose(sigmoid(a.T), 1 / (1 + np.exp(-a.T)), rtol=1e-6)
    np.testing.assert_allclose(tanh(a[::2, ::3]), np.tanh(a[::2, ::3]), rtol=1e-6)
    frozen = a.copy()
    frozen.flags.writeable = False
    np.testing.assert_allclose(tanh(frozen), np.tanh(a), rtol=1e-6)
