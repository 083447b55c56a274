"""Clipping gradients against recorded torch and the definition."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from fastconv import Tensor, nn, tensor
from fastconv.nn.utils import clip_grad, clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm

CASES = json.loads(Path(__file__).with_name("golden").joinpath("sequences.json").read_text(encoding="utf-8"))


def parameters(*gradients, dtype="float64"):
    made = [nn.Parameter(np.zeros(np.shape(g), dtype)) for g in gradients]
    for p, g in zip(made, gradients, strict=True):
        p.grad = Tensor(np.array(g, dtype))
    return made


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["op"] == "clip"])
def test_as_torch(name, dtype):
    case = CASES[name]
    made = parameters(*case["before"], dtype=dtype)
    total = getattr(nn.utils, case["args"]["function"])(iter(made), *case["args"]["args"])
    limit = {"rtol": 4 * np.finfo(dtype).eps, "atol": 0}
    if "total" in case:
        assert isinstance(total, Tensor)
        assert (total.shape, total.dtype) == ((), dtype)
        np.testing.assert_allclose(total.numpy(), case["total"], **limit)
    else:
        assert total is None
    for p, after in zip(made, case["after"], strict=True):
        assert p.grad.dtype == dtype
        np.testing.assert_allclose(p.grad.numpy(), after, **limit)


@pytest.mark.parametrize("block", [3, 2**16])
@pytest.mark.parametrize("norm_type", [0.5, 1, 2.0, 3, math.inf, -math.inf, "inf", 0])
def test_total_norm_is_that_of_one_vector(norm_type, block, monkeypatch):
    monkeypatch.setattr(clip_grad, "_BLOCK", block)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape) for shape in ((3, 4), (5,), (), (2, 1, 3))]
    arrays[1][2] = 0
    together = np.concatenate([a.ravel() for a in arrays])
    expected = np.linalg.norm(together, float(norm_type))
    np.testing.assert_allclose(get_total_norm(arrays, norm_type), expected, rtol=1e-14)
    assert isinstance(get_total_norm([tensor(a) for a in arrays], norm_type), Tensor)
    np.testing.assert_allclose(get_total_norm(together, norm_type), expected, rtol=1e-14)


def test_what_is_returned():
    assert isinstance(get_total_norm(np.ones(4, np.float32)), np.float32)
    assert get_total_norm(tensor([3.0, 4.0])).item() == 5
    for nothing in ([], [np.zeros((0, 3))]):
        assert float(get_total_norm(nothing)) == 0
    assert float(clip_grad_norm_([nn.Parameter([1.0])], 1.0)) == 0
    assert get_total_norm([np.ones(2, np.float32), np.ones(2)]).dtype == np.float64


def test_float32_neither_overflows_nor_vanishes():
    for size in (1e30, 1e-30):
        (p,) = parameters(np.full(4, size), dtype="float32")
        assert clip_grad_norm_(p, math.inf).item() == pytest.approx(2 * size, rel=1e-6)


def test_scaling_changes_values_in_place_and_their_version():
    (p, q), alone = parameters([3.0, 0.0], [[4.0]]), nn.Parameter([1.0])
    gradients = [p.grad, q.grad]
    memory, versions = [g.numpy() for g in gradients], [g._version for g in gradients]
    assert clip_grad_norm_([p, alone, q], 1.0).item() == 5
    assert p.grad is gradients[0]
    assert [g.numpy() is a for g, a in zip(gradients, memory, strict=True)] == [True, True]
    assert all(g._version != version for g, version in zip(gradients, versions, strict=True))
    assert alone.grad is None
    np.testing.assert_allclose(p.grad.numpy(), [0.6, 0], rtol=1e-6)
    versions = [g._version for g in gradients]
    before = p.grad.numpy().copy()
    clip_grad_norm_([p, q], 2.0)
    assert [g._version for g in gradients] == versions
    np.testing.assert_array_equal(p.grad.numpy(), before)


def test_clip_grads_with_norm_of_another_group():
    (p,) = parameters([3.0, 4.0])
    clip_grads_with_norm_(p, 1.0, tensor(10.0))
    np.testing.assert_allclose(p.grad.numpy(), [0.3, 0.4], rtol=1e-6)


def test_values():
    (p,) = parameters([-3.0, 0.25, 2.0])
    version = p.grad._version
    clip_grad_value_(p, 0.5)
    assert p.grad.tolist() == [-0.5, 0.25, 0.5]
    assert p.grad._version != version


def test_error_if_nonfinite_leaves_the_gradients():
    for bad in (np.nan, np.inf):
        made = parameters([1.0, bad], [2.0])
        with pytest.raises(RuntimeError, match="total norm of order 2 is"):
            clip_grad_norm_(made, 1.0, error_if_nonfinite=True)
        assert made[1].grad.tolist() == [2]


def test_in_training():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    net(tensor(np.ones((2, 3), np.float32))).sum().backward()
    before = clip_grad_norm_(net.parameters(), 0.5).item()
    assert before > 0.5
    assert get_total_norm([p.grad for p in net.parameters()]).item() == pytest.approx(0.5, rel=1e-5)


P = nn.Parameter([1.0])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: clip_grad_norm_(3, 1.0), TypeError, "parameters=3: needs a Tensor or an iterable"),
        (lambda: clip_grad_norm_([np.ones(2)], 1.0), TypeError, "parameters: needs Tensors, got ndarray"),
        (lambda: clip_grad_norm_(np.ones(2), 1.0), TypeError, "needs a Tensor or an iterable"),
        (lambda: clip_grad_norm_(P, -1), ValueError, "max_norm=-1: needs a number >= 0"),
        (lambda: clip_grad_norm_(P, math.nan), ValueError, "max_norm=nan"),
        (lambda: clip_grad_norm_(P, None), TypeError, "max_norm=None"),
        (lambda: clip_grad_norm_(P, 1.0, "two"), ValueError, "norm_type='two'"),
        (lambda: clip_grad_norm_(P, 1.0, error_if_nonfinite=1), TypeError, "error_if_nonfinite=1"),
        (lambda: clip_grad_value_(P, -0.5), ValueError, "clip_value=-0.5"),
        (lambda: clip_grad_value_("weights", 1.0), TypeError, "parameters='weights'"),
        (lambda: get_total_norm([np.ones(2, int)]), TypeError, "tensors: dtype int64"),
        (lambda: get_total_norm([[1.0]]), TypeError, "needs Tensors or arrays, got list"),
    ],
)
def test_wrong_calls_say_what_is_wrong(call, error, words):
    with pytest.raises(error, match=words):
        call()
