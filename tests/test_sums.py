"""The gradient of a convolution's bias is the sum over all but the channels, however the planes lie in vectors."""

import numpy as np
import pytest

import fastconv
from fastconv import nn, threads
from fastconv.kernels.cpu import sums


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (2, 3, 64), (64, 6, 784), (1, 2, 50177), (0, 3, 9), (3, 4, 0)])
@pytest.mark.parametrize("count", [1, 2])
def test_channels_are_summed(shape, dtype, count):
    x = np.random.default_rng(4).standard_normal(shape).astype(dtype)
    threads.set_num_threads(count)
    try:
        with threads.eager():
            total = sums.of_channels(x)
    finally:
        threads.set_num_threads(threads.available())
    wanted = x.sum(axis=(0, 2), dtype=np.longdouble)
    scale = np.abs(x).sum(axis=(0, 2), dtype=np.longdouble)
    assert total.dtype == dtype
    assert np.all(np.abs(total - wanted) <= 4 * np.finfo(dtype).eps * scale)


def test_any_number_of_threads_gives_the_same():
    x = np.random.default_rng(5).standard_normal((9, 7, 1031), np.float32)
    totals = []
    for count in (1, 2):
        threads.set_num_threads(count)
        with threads.eager():
            totals.append(sums.of_channels(x))
    threads.set_num_threads(threads.available())
    np.testing.assert_array_equal(*totals)


@pytest.mark.parametrize("size", [3, 40])
def test_a_layer_of_few_and_of_many_elements(size):
    layer = nn.Conv2d(2, 5, 3, padding=1)
    x = np.random.default_rng(6).standard_normal((4, 2, size, size), np.float32)
    g = np.random.default_rng(7).standard_normal((4, 5, size, size), np.float32)
    layer(fastconv.tensor(x)).backward(fastconv.tensor(g))
    np.testing.assert_allclose(layer.bias.grad.numpy(), g.sum(axis=(0, 2, 3), dtype=np.float64), rtol=1e-5, atol=1e-5)


def test_nan_and_infinity_stay_in_their_channel():
    x = np.ones((2, 4, 3000), np.float32)
    x[0, 1, 7], x[1, 2, 2999] = np.nan, -np.inf
    total = sums.of_channels(x)
    assert np.isnan(total[1])
    assert total[2] == -np.inf
    assert total[0] == total[3] == 6000
