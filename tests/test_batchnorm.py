"""Batch normalisation against recorded torch, finite differences and the definition."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest

import fastconv
import fastconv.nn.functional as F
from fastconv import nn, tensor

CASES = json.loads(Path(__file__).with_name("golden").joinpath("torch.json").read_text(encoding="utf-8"))
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def image(*shape, dtype="float64", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@DTYPES
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["op"] == "batch_norm"])
def test_as_torch(name, dtype):
    case = CASES[name]
    a = {key: np.array(value, dtype) for key, value in case.items() if key not in ("op", "args")}
    x, w, b = (tensor(a[key], requires_grad=True) if key in a else None for key in ("x", "w", "b"))
    mean, var = (a[key].copy() if key in a else None for key in ("mean", "var"))
    y = F.batch_norm(x, mean, var, w, b, **case["args"])
    y.backward(a["gy"])
    limit = {"rtol": 0, "atol": 200 * np.finfo(dtype).eps}
    np.testing.assert_allclose(y.detach().numpy(), a["y"], **limit)
    for key, leaf in (("gx", x), ("gw", w), ("gb", b)):
        if leaf is not None:
            assert leaf.grad.dtype == dtype
            np.testing.assert_allclose(leaf.grad.numpy(), a[key], **limit)
    if mean is not None:
        np.testing.assert_allclose(mean, a["new_mean"], **limit)
        np.testing.assert_allclose(var, a["new_var"], **limit)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm2d(3, dtype="float64"), (4, 3, 5, 2)),
        (nn.BatchNorm2d(2, affine=False, dtype="float64"), (2, 2, 3, 3)),
        (nn.BatchNorm2d(3, track_running_stats=False, dtype="float64"), (2, 3, 4, 3)),
        (nn.BatchNorm1d(4, dtype="float64"), (5, 4)),
        (nn.BatchNorm1d(4, dtype="float64"), (2, 4, 3)),
    ],
)
def test_gradients_by_finite_differences(layer, shape, training):
    layer = copy.deepcopy(layer).train(training)
    rng = np.random.default_rng(1)
    for p in layer.parameters():
        p.data.copy_(rng.standard_normal(p.shape))
    if layer.running_var is not None:
        layer.running_mean.copy_(rng.standard_normal(shape[1]))
        layer.running_var.copy_(rng.uniform(0.5, 2, shape[1]))
    x = tensor(image(*shape), requires_grad=True)
    weights = rng.standard_normal(shape)

    def value():
        with fastconv.no_grad():
            return float((copy.deepcopy(layer)(x.detach().numpy()) * weights).sum())

    copied = copy.deepcopy(layer)
    copied(x).backward(weights)
    leaves = [(x, x.grad)] + [(p, q.grad) for p, q in zip(layer.parameters(), copied.parameters(), strict=True)]
    for leaf, grad in leaves:
        direction = rng.standard_normal(leaf.shape)
        start, ends = leaf.detach().numpy().copy(), []
        for step in (1e-5, -1e-5):
            leaf.data.copy_(start + step * direction)
            ends.append(value())
        leaf.data.copy_(start)
        slope = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose((grad.numpy() * direction).sum(), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("block", [1, 300, 2**18])
def test_blocks_of_channels_give_the_definition(block, monkeypatch):
    monkeypatch.setattr(F, "_BLOCK", block)
    x = image(3, 7, 4, 5)
    mean, var = x.mean(axis=(0, 2, 3), keepdims=True), x.var(axis=(0, 2, 3), keepdims=True)
    y = nn.BatchNorm2d(7, dtype="float64")(x)
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), rtol=0, atol=1e-13)


def test_a_mean_far_from_zero_costs_no_precision():
    x = (10_000 + image(8, 2, 32, 32)).astype(np.float32)
    exact = x.astype(np.float64)
    exact = (exact - exact.mean(axis=(0, 2, 3), keepdims=True)) / exact.std(axis=(0, 2, 3), keepdims=True)
    np.testing.assert_allclose(nn.BatchNorm2d(2, eps=0)(x), exact, rtol=0, atol=2e-6)


def test_state_and_modes_as_torch():
    layer = nn.BatchNorm2d(3)
    keys = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert list(layer.state_dict()) == keys
    assert [name for name, _ in layer.named_parameters()] == keys[:2]
    assert [name for name, _ in layer.named_buffers()] == keys[2:]
    assert len(list(layer.buffers())) == 3
    assert layer.state_dict()["num_batches_tracked"].dtype == np.int64
    x = image(4, 3, 5, 5, dtype="float32")
    layer(x)
    layer(tensor(x))
    assert layer.num_batches_tracked.item() == 2
    before = layer.state_dict()
    y = layer.eval()(x)
    assert all(np.array_equal(before[key], value) for key, value in layer.state_dict().items())
    scale = 1 / np.sqrt(before["running_var"] + 1e-5)
    expected = (x - before["running_mean"][:, None, None]) * scale[:, None, None]
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)
    other = nn.BatchNorm2d(3).eval()
    other.load_state_dict(before)
    np.testing.assert_array_equal(other(x), y)
    layer.reset_parameters()
    assert layer.running_var.tolist() == [1, 1, 1]
    assert list(nn.BatchNorm2d(3, affine=False).state_dict()) == keys[2:]
    assert list(nn.BatchNorm2d(3, track_running_stats=False).state_dict()) == keys[:2]
    assert repr(layer) == "BatchNorm2d(3, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)"


def test_buffers_survive_a_file(tmp_path):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    net(image(2, 1, 5, 5, dtype="float32"))
    fastconv.save(net, tmp_path / "net.safetensors")
    loaded = fastconv.load(tmp_path / "net.safetensors")
    assert loaded["1.num_batches_tracked"] == 1
    other = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    other.load_state_dict(loaded)
    np.testing.assert_array_equal(other[1].running_var.numpy(), net[1].running_var.numpy())


def test_momentum_none_is_the_mean_over_all_batches():
    layer = nn.BatchNorm1d(2, momentum=None, dtype="float64")
    batches = image(3, 5, 2)
    for x in batches:
        layer(x)
    np.testing.assert_allclose(layer.running_mean.numpy(), batches.mean(axis=1).mean(axis=0))
    np.testing.assert_allclose(layer.running_var.numpy(), batches.var(axis=1, ddof=1).mean(axis=0))


def test_without_running_statistics_evaluation_takes_the_batch():
    layer = nn.BatchNorm2d(2, track_running_stats=False)
    x = image(3, 2, 4, 4, dtype="float32")
    np.testing.assert_array_equal(layer(x), layer.eval()(x))


def test_an_empty_batch_changes_nothing():
    layer = nn.BatchNorm2d(2)
    x = tensor(np.zeros((0, 2, 3, 3), np.float32), requires_grad=True)
    y = layer(x)
    assert y.shape == (0, 2, 3, 3)
    y.sum().backward()
    assert layer.running_mean.tolist() == [0, 0]
    assert layer.weight.grad.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: nn.BatchNorm2d(0), ValueError, "num_features=0"),
        (lambda: nn.BatchNorm2d(3, eps=-1), ValueError, "eps=-1"),
        (lambda: nn.BatchNorm2d(3, momentum="a"), TypeError, "momentum='a'"),
        (lambda: nn.BatchNorm2d(3, affine=1), TypeError, "affine=1"),
        (lambda: nn.BatchNorm2d(3)(image(3, 4, 5)), ValueError, r"input=\(3, 4, 5\): needs shape \(N, C, H, W\)"),
        (lambda: nn.BatchNorm2d(3)(image(1, 4, 5, 5)), ValueError, "C = 3"),
        (lambda: nn.BatchNorm2d(3)(image(2, 3, 5, 5)), TypeError, "float64"),
        (
            lambda: nn.BatchNorm2d(3)(image(1, 3, 1, 1, dtype="float32")),
            ValueError,
            "expected more than 1 value per channel when training",
        ),
        (lambda: nn.BatchNorm1d(3)([1.0]), TypeError, "NumPy array"),
        (lambda: F.batch_norm(image(2, 3), None, None), ValueError, "running_mean=None"),
        (lambda: F.batch_norm(image(2, 3), np.zeros(2), np.ones(3)), ValueError, r"running_mean=\(2,\)"),
    ],
)
def test_wrong_calls_say_what_is_wrong(call, error, words):
    with pytest.raises(error, match=words):
        call()
