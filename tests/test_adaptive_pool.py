"""Adaptive pooling against recorded torch, the formula of its windows and finite differences."""

import json
from pathlib import Path

import numpy as np
import pytest

import fastconv.nn.functional as F
from fastconv import functional, nn, tensor

CASES = json.loads(Path(__file__).with_name("golden").joinpath("torch.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["op"].startswith("adaptive")])
def test_as_torch(name, dtype):
    case = CASES[name]
    size = case["args"]["output_size"]
    size = tuple(size) if isinstance(size, list) else size
    a = {key: np.array(value, dtype) for key, value in case.items() if key not in ("op", "args")}
    x = tensor(a["x"], requires_grad=True)
    average = case["op"] == "adaptive_avg_pool2d"
    layer = nn.AdaptiveAvgPool2d(size) if average else nn.AdaptiveMaxPool2d(size, return_indices=True)
    y, indices = (layer(x), None) if average else layer(x)
    y.backward(a["gy"])
    atol = 64 * np.finfo(dtype).eps if average else 0
    np.testing.assert_allclose(y.detach().numpy(), a["y"], rtol=0, atol=atol)
    np.testing.assert_allclose(x.grad.numpy(), a["gx"], rtol=0, atol=atol)
    if indices is not None:
        assert indices.dtype == np.int64
        np.testing.assert_array_equal(indices.numpy(), case["indices"])
        np.testing.assert_array_equal(nn.AdaptiveMaxPool2d(size)(a["x"]), a["y"])


@pytest.mark.parametrize("size", range(1, 9))
def test_windows_cover_the_axis_as_the_formula_says(size):
    x = np.arange(5.0 * size).reshape(1, 1, size, 5)
    for count in range(1, 10):
        ends = [(int(np.floor(i * size / count)), int(np.ceil((i + 1) * size / count))) for i in range(count)]
        y = F.adaptive_max_pool2d(x, (count, None))
        np.testing.assert_array_equal(y[0, 0], [x[0, 0, s:e].max(axis=0) for s, e in ends])
        mean = F.adaptive_avg_pool2d(x, (count, None))
        np.testing.assert_allclose(mean[0, 0], [x[0, 0, s:e].mean(axis=0) for s, e in ends], rtol=1e-14)


@pytest.mark.parametrize(("size", "out"), [(6, 3), (7, 3), (5, 2), (4, 1), (4, 4)])
def test_regular_windows_use_the_pooling_kernels(size, out, monkeypatch):
    calls = []
    real = functional.run
    monkeypatch.setattr(functional, "run", lambda op, *args: (calls.append(op), real(op, *args))[1])
    x = np.random.default_rng(0).standard_normal((1, 2, size, size)).astype(np.float32)
    nn.AdaptiveAvgPool2d(out)(x)
    nn.AdaptiveMaxPool2d(out)(x)
    assert calls == ["avg_pool2d", "max_pool2d"]


@pytest.mark.parametrize("layer", [nn.AdaptiveAvgPool2d((3, 4)), nn.AdaptiveMaxPool2d((3, 4)), nn.AdaptiveAvgPool2d(1)])
def test_gradient_by_finite_differences(layer):
    rng = np.random.default_rng(2)
    x = tensor(rng.permutation(2 * 2 * 5 * 6).reshape(2, 2, 5, 6) / 10, requires_grad=True)
    y = layer(x)
    weights, direction = rng.standard_normal(y.shape), rng.standard_normal(x.shape)
    y.backward(weights)
    ends = [(layer(x.detach().numpy() + step * direction) * weights).sum() for step in (1e-4, -1e-4)]
    np.testing.assert_allclose((x.grad.numpy() * direction).sum(), (ends[0] - ends[1]) / 2e-4, rtol=1e-8)


@pytest.mark.parametrize("size", [1, 3, (2, 5)])
def test_empty_batches_and_inputs_left_alone(size):
    for layer in (nn.AdaptiveAvgPool2d(size), nn.AdaptiveMaxPool2d(size)):
        x = tensor(np.zeros((0, 2, 4, 7), np.float32), requires_grad=True)
        y = layer(x)
        y.sum().backward()
        assert (y.shape[0], x.grad.shape) == (0, x.shape)
        full = np.random.default_rng(0).standard_normal((1, 2, 4, 7)).astype(np.float32)
        full.flags.writeable = False
        assert layer(full).dtype == np.float32


def test_repr_as_torch():
    assert repr(nn.AdaptiveAvgPool2d((7, None))) == "AdaptiveAvgPool2d(output_size=(7, None))"
    assert repr(nn.AdaptiveMaxPool2d(1)) == "AdaptiveMaxPool2d(output_size=1)"


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: nn.AdaptiveAvgPool2d(0), ValueError, "output_size=0"),
        (lambda: nn.AdaptiveAvgPool2d((1, 2, 3)), ValueError, r"output_size=\(1, 2, 3\)"),
        (lambda: nn.AdaptiveMaxPool2d("1"), TypeError, "output_size='1'"),
        (lambda: nn.AdaptiveMaxPool2d(1, return_indices=1), TypeError, "return_indices=1"),
        (lambda: nn.AdaptiveAvgPool2d(1)(np.zeros((3, 4))), ValueError, r"input=\(3, 4\)"),
        (lambda: nn.AdaptiveAvgPool2d(1)(np.zeros((1, 2, 0, 4))), ValueError, r"input=\(1, 2, 0, 4\)"),
        (lambda: nn.AdaptiveMaxPool2d(2)(np.zeros((1, 3, 3), int)), TypeError, "int64"),
    ],
)
def test_wrong_calls_say_what_is_wrong(call, error, words):
    with pytest.raises(error, match=words):
        call()
