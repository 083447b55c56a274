"""Memory for results: an array's own as long as anybody holds it, and used again after that."""

import sys
import threading

import numpy as np
import pytest

import fastconv
from fastconv import functional, memory, nn

LARGE = (64, 32, 32)


@pytest.fixture(autouse=True)
def nothing_waits():
    memory._waiting.clear()
    yield
    memory._waiting.clear()


def kept():
    return sum(size * len(blocks) for size, blocks in memory._waiting.items())


def address(array):
    return array.ctypes.data


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_arrays_are_as_numpys(dtype):
    for shape in (LARGE, (1, 17, 1031, 3), (0, 5), (2, 3), ()):
        array = memory.empty(shape, dtype)
        assert (array.shape, array.dtype, type(array)) == (shape, np.dtype(dtype), np.ndarray)
        assert array.flags.carray
        assert memory.is_own(array)
        assert not memory.is_own(array[...])
        array[...] = 3
        assert (array == 3).all()
        assert address(array) % memory.CACHE_LINE == 0 or array.nbytes < memory.SMALLEST


def test_memory_is_used_again_when_nobody_holds_the_array_or_a_view():
    array = memory.empty(LARGE, "float32")
    place, view = address(array), array.reshape(-1)[5:].view(np.int32)
    del array
    other = memory.empty(LARGE, "float32")
    assert address(other) != place
    view[:] = 7
    assert kept() == 0
    del view
    assert kept() > 0
    assert address(memory.empty(LARGE, "float32")) == place


def test_sizes_nearby_share_a_block():
    place = address(memory.empty((100_000,), "float32"))
    assert address(memory.empty((99_000,), "float32")) == place


def test_what_waits_is_bounded():
    held = [memory.empty((2**20 * k,), "float32") for k in range(1, 9)]
    assert kept() == 0
    while held:
        held.pop()
        assert kept() <= memory.MOST_KEPT
    memory.empty((memory.MOST_KEPT,), "float32")
    assert kept() <= memory.MOST_KEPT


def test_no_two_arrays_share_memory_among_threads():
    wrong = []

    def work(number):
        held = []
        for k in range(300):
            array = memory.empty((20_000 + 100 * (k % 3),), "float32")
            array[:] = number * 1000 + k
            held.append((number * 1000 + k, array))
            if len(held) > 5:
                value, oldest = held.pop(0)
                wrong.extend(oldest[oldest != value])

    team = [threading.Thread(target=work, args=(number,)) for number in range(10)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    assert wrong == []


def test_a_result_keeps_its_values_while_others_are_computed():
    x = np.random.default_rng(0).standard_normal((4, 16, 40, 40), np.float32)
    layer = nn.Conv2d(16, 16, 3, padding=1).eval()
    first = layer(x)
    before = first.copy()
    rows = layer(x)[1]
    for _ in range(5):
        layer(-x)
    np.testing.assert_array_equal(first, before)
    np.testing.assert_array_equal(rows, before[1])


def test_a_gradient_is_taken_over_only_from_nobody():
    x = fastconv.tensor(np.ones(LARGE, np.float32)[None], requires_grad=True)
    # Both gradients of a sum of tensors are the same array.
    z = fastconv.tensor(np.ones(LARGE, np.float32)[None], requires_grad=True)
    g = np.full((1, *LARGE), 2, np.float32)
    (x + z).backward(fastconv.tensor(g))
    x.grad.numpy()[...] = 5
    assert (z.grad.numpy() == 2).all()
    assert (g == 2).all()

    pooled = nn.AvgPool2d(2)(x)
    upstream = np.ones(pooled.shape, np.float32)
    x.grad = None
    pooled.backward(fastconv.tensor(upstream), retain_graph=True)
    first = x.grad.numpy().copy()
    pooled.backward(fastconv.tensor(upstream))
    np.testing.assert_array_equal(x.grad.numpy(), 2 * first)


def test_the_gradient_of_a_convolution_is_not_copied():
    taken = []
    real = functional.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            functional, "run", lambda *a, **k: (taken.append(address(y[0])), y)[1] if (y := real(*a, **k)) else y
        )
        layer = nn.Conv2d(4, 8, 3, padding=1)
        x = fastconv.tensor(np.ones((2, 4, 64, 64), np.float32), requires_grad=True)
        y = layer(x)
        y.backward(fastconv.tensor(np.ones(y.shape, np.float32)))
    assert address(x.grad.numpy()) in taken
    assert address(layer.weight.grad.numpy()) in taken


def test_what_a_local_alone_holds_is_known():
    from fastconv import autograd

    def alone():
        value = np.empty(3)
        return sys.getrefcount(value)

    def shared():
        value = np.empty(3)
        other = [value]
        return sys.getrefcount(value), other

    assert alone() == autograd._ONE_HOLDER
    assert shared()[0] == autograd._ONE_HOLDER + 1


def test_the_parts_of_an_array_are_as_much_its_own():
    for count in (1, 3):
        whole = memory.empty((count, 300, 100), np.float32)
        whole[...] = np.arange(whole.size).reshape(whole.shape)
        parts = memory.split(whole)
        for part, expected in zip(parts, whole, strict=True):
            assert memory.is_own(part)
            np.testing.assert_array_equal(part, expected)
        # A part keeps the memory from being given out again.
        kept, before = parts[-1], parts[-1].copy()
        del whole, parts, part, expected
        memory.empty((count, 300, 100), np.float32).fill(-1)
        np.testing.assert_array_equal(kept, before)
    small = np.zeros((2, 3))
    assert [part.shape for part in memory.split(small)] == [(3,), (3,)]
