"""Layer normalisation against recorded torch, the definition, and finite differences."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest

import fastconv
import fastconv.nn.functional as F
from fastconv import nn, tensor
from fastconv.nn import layernorm

CASES = json.loads(Path(__file__).with_name("golden").joinpath("sequences.json").read_text(encoding="utf-8"))
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def random(*shape, seed=0, dtype="float64"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@DTYPES
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["op"] == "layer_norm"])
def test_as_torch(name, dtype):
    case = CASES[name]
    a = {key: np.array(value, dtype) for key, value in case.items() if key not in ("op", "args")}
    x, w, b = (tensor(a[key], requires_grad=True) if key in a else None for key in ("x", "w", "b"))
    y = F.layer_norm(x, weight=w, bias=b, **case["args"])
    y.backward(a["gy"])
    limit = {"rtol": 0, "atol": 100 * np.finfo(dtype).eps}
    np.testing.assert_allclose(y.detach().numpy(), a["y"], **limit)
    for key, leaf in (("gx", x), ("gw", w), ("gb", b)):
        if leaf is not None:
            assert leaf.grad.dtype == dtype
            np.testing.assert_allclose(leaf.grad.numpy(), a[key], **limit)
    arrays = {"weight": a.get("w"), "bias": a.get("b")}
    np.testing.assert_array_equal(F.layer_norm(a["x"], **arrays, **case["args"]), y.detach().numpy())


@pytest.mark.parametrize("block", [1, 200, 2**18])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.LayerNorm(5, dtype="float64"), (4, 5)),
        (lambda: nn.LayerNorm((3, 4), dtype="float64"), (2, 5, 3, 4)),
        (lambda: nn.LayerNorm([6], bias=False, eps=0.1, dtype="float64"), (2, 3, 6)),
        (lambda: nn.LayerNorm(6, elementwise_affine=False), (7, 6)),
        (lambda: nn.LayerNorm(4, dtype="float64"), (4,)),
    ],
)
def test_gradients_by_finite_differences(make, shape, block, monkeypatch):
    monkeypatch.setattr(layernorm, "_BLOCK", block)
    layer, rng = make(), np.random.default_rng(1)
    for p in layer.parameters():
        p.data.copy_(rng.standard_normal(p.shape))
    x, weights = tensor(random(*shape), requires_grad=True), rng.standard_normal(shape)
    layer(x).backward(weights)
    for leaf in (x, *layer.parameters()):
        direction = rng.standard_normal(leaf.shape)
        start, ends = leaf.detach().numpy().copy(), []
        for step in (1e-5, -1e-5):
            leaf.data.copy_(start + step * direction)
            ends.append(float((layer(x.detach().numpy()) * weights).sum()))
        leaf.data.copy_(start)
        slope = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose((leaf.grad.numpy() * direction).sum(), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("block", [1, 300, 2**18])
def test_blocks_of_rows_give_the_definition(block, monkeypatch):
    monkeypatch.setattr(layernorm, "_BLOCK", block)
    x, w, b = random(4, 9, 7), random(7, seed=1), random(7, seed=2)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * w + b
    np.testing.assert_allclose(F.layer_norm(x, 7, w, b), expected, rtol=0, atol=1e-14)
    plain = (x - x.mean((1, 2), keepdims=True)) / x.std((1, 2), keepdims=True)
    np.testing.assert_allclose(F.layer_norm(x, (9, 7), eps=0), plain, rtol=0, atol=1e-14)


def test_a_mean_far_from_zero_costs_no_precision():
    x = (10_000 + random(8, 512)).astype(np.float32)
    exact = x.astype(np.float64)
    exact = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True)
    np.testing.assert_allclose(nn.LayerNorm(512, eps=0)(x), exact, rtol=0, atol=2e-6)


def test_long_rows_in_float32():
    x = random(2, 1_000_000, dtype="float32")
    exact = x.astype(np.float64)
    exact = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(F.layer_norm(x, 1_000_000), exact, rtol=0, atol=2e-6)


def test_the_layer_as_torch():
    layer = nn.LayerNorm((2, 3))
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert layer.weight.tolist() == [[1] * 3] * 2
    assert layer.bias.tolist() == [[0] * 3] * 2
    assert list(nn.LayerNorm(4, bias=False).state_dict()) == ["weight"]
    assert nn.LayerNorm(4, elementwise_affine=False).state_dict() == {}
    reprs = {
        "LayerNorm((4,), eps=1e-05, elementwise_affine=True, bias=True)": nn.LayerNorm(4),
        "LayerNorm((2, 3), eps=1e-05, elementwise_affine=True, bias=False)": nn.LayerNorm([2, 3], bias=False),
        "LayerNorm((4,), eps=1e-05, elementwise_affine=False, bias=False)": nn.LayerNorm(4, elementwise_affine=False),
    }
    assert [repr(made) for made in reprs.values()] == list(reprs)
    x = random(5, 2, 3, dtype="float32")
    np.testing.assert_array_equal(copy.deepcopy(layer).eval()(x), layer(x))


def test_arrays_give_arrays_and_strides_do_not_matter():
    layer, x = nn.LayerNorm(6), random(3, 4, 6, dtype="float32")
    y = layer(x)
    assert type(y) is np.ndarray
    assert layer(tensor(x)).requires_grad
    with fastconv.no_grad():
        assert not layer(tensor(x)).requires_grad
    np.testing.assert_array_equal(layer(np.asfortranarray(x)), y)
    np.testing.assert_array_equal(layer(np.repeat(x, 2, axis=1)[:, ::2]), y)
    x.flags.writeable = False
    np.testing.assert_array_equal(layer(x), y)
    leaf = tensor(x.transpose(1, 0, 2), requires_grad=True)
    (layer(leaf) * layer(leaf)).sum().backward()
    same = tensor(np.ascontiguousarray(x.transpose(1, 0, 2)), requires_grad=True)
    (layer(same) * layer(same)).sum().backward()
    np.testing.assert_array_equal(leaf.grad.numpy(), same.grad.numpy())


@pytest.mark.filterwarnings("error")
def test_nothing_and_what_is_no_number():
    layer = nn.LayerNorm(3)
    x = tensor(np.zeros((0, 2, 3), np.float32), requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.shape == (0, 2, 3)
    assert layer.weight.grad.tolist() == layer.bias.grad.tolist() == [0, 0, 0]
    assert F.layer_norm(np.zeros((2, 0)), 0).shape == (2, 0)
    assert np.isnan(F.layer_norm(np.ones((1, 3)), 3, eps=0)).all()
    wild = random(4, 3, dtype="float32")
    wild[1, 1], wild[2, 0] = np.nan, np.inf
    y = layer(wild)
    assert np.isnan(y[1:3]).all()
    np.testing.assert_array_equal(y[[0, 3]], layer(wild[[0, 3]]))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: nn.LayerNorm(()), ValueError, r"normalized_shape=\(\)"),
        (lambda: nn.LayerNorm(-1), ValueError, "normalized_shape=-1"),
        (lambda: nn.LayerNorm("a"), TypeError, "normalized_shape='a'"),
        (lambda: nn.LayerNorm(3, eps=-1), ValueError, "eps=-1"),
        (lambda: nn.LayerNorm(3, elementwise_affine=1), TypeError, "elementwise_affine=1"),
        (lambda: nn.LayerNorm(3, bias=0), TypeError, "bias=0"),
        (lambda: nn.LayerNorm(3, dtype="float16"), TypeError, "dtype='float16'"),
        (lambda: nn.LayerNorm(3)(random(4, 5)), ValueError, r"input=\(4, 5\): needs shape \(\.\.\., 3\)"),
        (lambda: nn.LayerNorm((4, 3))(random(3)), ValueError, r"input=\(3,\): needs shape \(\.\.\., 4, 3\)"),
        (lambda: nn.LayerNorm(3)(random(4, 3)), TypeError, "float64"),
        (lambda: nn.LayerNorm(3)([1.0]), TypeError, "NumPy array"),
        (lambda: F.layer_norm(np.ones((2, 3), int), 3), TypeError, "int64"),
        (
            lambda: F.layer_norm(random(2, 3), 3, np.ones(2)),
            ValueError,
            r"weight=\(2,\): needs normalized_shape, \(3,\)",
        ),
        (lambda: F.layer_norm(random(2, 3), 3, None, np.ones((2, 3))), ValueError, r"bias=\(2, 3\)"),
    ],
)
def test_wrong_calls_say_what_is_wrong(call, error, words):
    with pytest.raises(error, match=words):
        call()
