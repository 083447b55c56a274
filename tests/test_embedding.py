"""Embeddings against recorded torch, the definition, and finite differences."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest

import fastconv
import fastconv.nn.functional as F
from fastconv import nn, optim, tensor

CASES = json.loads(Path(__file__).with_name("golden").joinpath("sequences.json").read_text(encoding="utf-8"))
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def table(rows, columns, seed=0, dtype="float64"):
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(dtype)


def by_definition(indices, w, g, padding_idx=None, by_frequency=False):
    """(y, gw), one index at a time."""
    y, gw = np.zeros((*indices.shape, w.shape[1])), np.zeros(w.shape)
    count = np.bincount(indices.ravel(), minlength=len(w))
    for place in np.ndindex(indices.shape):
        i = indices[place]
        y[place] = w[i]
        if i != padding_idx:
            gw[i] += g[place] / (count[i] if by_frequency else 1)
    return y, gw


@DTYPES
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["op"] == "embedding"])
def test_as_torch(name, dtype):
    case = CASES[name]
    args = case["args"]
    a = {key: np.array(case[key], dtype) for key in ("w", "gy", "y", "gw", "new_w")}
    indices = np.array(case["x"])
    w = tensor(a["w"].copy(), requires_grad=True)
    y = F.embedding(tensor(indices), w, **args)
    y.backward(a["gy"])
    limit = {"rtol": 4 * np.finfo(dtype).eps, "atol": np.finfo(dtype).eps}
    for actual, expected in ((y.detach(), a["y"]), (w.grad, a["gw"]), (w.detach(), a["new_w"])):
        assert actual.dtype == dtype
        np.testing.assert_allclose(actual.numpy(), expected, **limit)
    layer = nn.Embedding(*a["w"].shape, _weight=a["w"].copy(), **args)
    np.testing.assert_array_equal(layer(indices), y.detach().numpy())
    layer(tensor(indices)).backward(a["gy"])
    np.testing.assert_array_equal(layer.weight.grad.numpy(), w.grad.numpy())


@pytest.mark.parametrize("by_frequency", [False, True])
@pytest.mark.parametrize("padding_idx", [None, 3])
@pytest.mark.parametrize("shape", [(500,), (6, 7), (2, 3, 4), (), (0,), (3, 0)])
def test_rows_and_their_gradients_are_the_definition(shape, padding_idx, by_frequency):
    indices = np.random.default_rng(1).integers(0, 9, shape)
    w, g = table(11, 5), np.random.default_rng(2).standard_normal((*np.shape(indices), 5))
    leaf = tensor(w, requires_grad=True)
    y = F.embedding(tensor(indices), leaf, padding_idx, scale_grad_by_freq=by_frequency)
    y.backward(g)
    expected, gw = by_definition(np.asarray(indices), w, g, padding_idx, by_frequency)
    np.testing.assert_array_equal(y.detach().numpy(), expected)
    np.testing.assert_allclose(leaf.grad.numpy(), gw, rtol=0, atol=1e-13)


def test_gradient_by_finite_differences():
    rng = np.random.default_rng(3)
    indices, weights, direction = (
        rng.integers(0, 4, (3, 5)),
        rng.standard_normal((3, 5, 2)),
        rng.standard_normal((4, 2)),
    )
    layer = nn.Embedding(4, 2, dtype="float64")
    (layer(tensor(indices)) * weights).sum().backward()
    start, ends = layer.weight.detach().numpy().copy(), []
    for step in (1e-5, -1e-5):
        layer.weight.data.copy_(start + step * direction)
        ends.append((layer(indices) * weights).sum())
    np.testing.assert_allclose((layer.weight.grad.numpy() * direction).sum(), (ends[0] - ends[1]) / 2e-5, rtol=1e-8)


def test_arrays_give_arrays_and_tensors_tensors():
    layer, indices = nn.Embedding(5, 3), np.array([[0, 4], [2, 2]])
    y = layer(indices)
    assert type(y) is np.ndarray
    assert y.dtype == np.float32
    recorded = layer(tensor(indices))
    assert recorded.requires_grad
    with fastconv.no_grad():
        assert not layer(tensor(indices)).requires_grad
    assert not F.embedding(tensor(indices), layer.weight.detach()).requires_grad
    np.testing.assert_array_equal(recorded.detach().numpy(), y)
    np.testing.assert_array_equal(F.embedding(indices, layer.weight.detach().numpy()), y)
    for dtype in (np.uint8, np.int16, np.uint64, ">i4"):
        np.testing.assert_array_equal(layer(indices.astype(dtype)), y)
    np.testing.assert_array_equal(layer(np.asfortranarray(indices)), y)
    strided = np.asfortranarray(layer.weight.detach().numpy())
    np.testing.assert_array_equal(F.embedding(indices, strided), y)
    y[:] = 7
    assert not (layer(indices) == 7).any()


def test_indices_changed_after_the_forward_pass_do_not_matter():
    layer, indices = nn.Embedding(4, 2), np.array([1, 1])
    y = layer(tensor(indices))
    indices[:] = 3
    y.sum().backward()
    assert layer.weight.grad.tolist() == [[0, 0], [2, 2], [0, 0], [0, 0]]


def test_gradients_of_several_uses_add_up():
    layer = nn.Embedding(4, 2)
    (layer(tensor(np.array([0, 1]))).sum() + layer(tensor(np.array([1]))).sum()).backward()
    assert layer.weight.grad.tolist() == [[1, 1], [2, 2], [0, 0], [0, 0]]


def test_the_padding_row_starts_as_zeros_and_stays():
    layer = nn.Embedding(5, 3, padding_idx=-2)
    assert layer.padding_idx == 3
    assert layer.weight[3].tolist() == [0, 0, 0]
    assert np.abs(layer.weight.detach().numpy()).sum(axis=1).astype(bool).tolist() == [True, True, True, False, True]
    optimiser = optim.SGD(layer.parameters(), lr=0.5)
    before = layer.weight.detach().numpy().copy()
    layer(tensor(np.array([3, 3, 1]))).sum().backward()
    optimiser.step()
    changed = (layer.weight.detach().numpy() != before).any(axis=1)
    assert changed.tolist() == [False, True, False, False, False]
    layer.reset_parameters()
    assert layer.weight[3].tolist() == [0, 0, 0]


def test_initialisation_is_normal_and_repeatable():
    fastconv.manual_seed(0)
    weight = nn.Embedding(300, 200).weight.detach().numpy()
    assert abs(weight.mean()) < 0.02
    assert abs(weight.std() - 1) < 0.02
    fastconv.manual_seed(0)
    np.testing.assert_array_equal(nn.Embedding(300, 200).weight.detach().numpy(), weight)


def test_from_pretrained():
    vectors = table(4, 3, dtype="float32")
    layer = nn.Embedding.from_pretrained(vectors)
    assert not layer.weight.requires_grad
    assert (layer.num_embeddings, layer.embedding_dim) == (4, 3)
    np.testing.assert_array_equal(layer(np.array([2, 0])), vectors[[2, 0]])
    vectors[2] = 1
    assert layer(np.array(2)).tolist() == [1, 1, 1]
    learned = nn.Embedding.from_pretrained(tensor(vectors), freeze=False, padding_idx=2)
    assert learned.weight.requires_grad
    assert learned.weight[2].tolist() == [1, 1, 1]
    learned(tensor(np.array([2, 1]))).sum().backward()
    assert learned.weight.grad.tolist() == [[0, 0, 0], [1, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert list(learned.state_dict()) == ["weight"]
    assert nn.Embedding.from_pretrained(table(4, 3)).weight.dtype == np.float64


def test_max_norm_changes_the_rows_taken_and_no_others():
    w = table(6, 4) * 3
    layer = nn.Embedding(6, 4, max_norm=1.0, _weight=w.copy())
    version = layer.weight._version
    y = layer(np.array([[4, 1], [1, 4]]))
    assert layer.weight._version != version
    norms = np.linalg.norm(w, axis=1)
    np.testing.assert_allclose(np.linalg.norm(y, axis=-1), np.minimum(norms, 1)[[[4, 1], [1, 4]]], rtol=1e-6)
    left = [0, 2, 3, 5]
    np.testing.assert_array_equal(layer.weight.detach().numpy()[left], w[left])
    plain = w.copy()
    np.testing.assert_array_equal(F.embedding(np.array([[4, 1], [1, 4]]), plain, max_norm=1.0), y)
    np.testing.assert_array_equal(plain, layer.weight.detach().numpy())
    version = layer.weight._version
    layer(np.array([], np.int64))
    assert layer.weight._version == version


def test_nan_travels_and_only_along_its_row():
    w = table(3, 2)
    w[1, 0] = np.nan
    assert np.isnan(F.embedding(np.array([0, 1, 2]), w)).tolist() == [[False] * 2, [True, False], [False] * 2]
    leaf = tensor(table(3, 2), requires_grad=True)
    F.embedding(tensor(np.array([0, 1])), leaf).backward(np.array([[1.0, 2], [np.nan, 3]]))
    np.testing.assert_array_equal(leaf.grad.numpy(), [[1, 2], [np.nan, 3], [0, 0]])


def test_in_a_network_that_is_copied_and_loaded():
    net = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 2))
    assert list(net.state_dict()) == ["0.weight", "2.weight", "2.bias"]
    twin = copy.deepcopy(net)
    other = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 2))
    other.load_state_dict(net.state_dict())
    x = np.array([[0, 6, 3], [1, 1, 2]])
    np.testing.assert_array_equal(twin(x), net(x))
    np.testing.assert_array_equal(other(x), net(x))


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (lambda: nn.Embedding(5, 3), "Embedding(5, 3)"),
        (
            lambda: nn.Embedding(5, 3, -1, 1.0, 1.0, True),
            "Embedding(5, 3, padding_idx=4, max_norm=1.0, norm_type=1.0, scale_grad_by_freq=True)",
        ),
    ],
)
def test_repr_as_torch(layer, text):
    assert repr(layer()) == text


W = table(5, 3)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: F.embedding(np.array([0, 5]), W), IndexError, "index 5 is out of range, needs 0 to 4"),
        (lambda: F.embedding(np.array([[-1]]), W), IndexError, "index -1 is out of range, needs 0 to 4"),
        (lambda: nn.Embedding(5, 3)(np.array(9)), IndexError, "index 9"),
        (lambda: F.embedding(np.array([1.0]), W), TypeError, "input: dtype float64"),
        (lambda: F.embedding(np.array([True]), W), TypeError, "input: dtype bool"),
        (lambda: F.embedding([1], W), TypeError, r"input=\[1\]"),
        (lambda: F.embedding(np.array([1]), W[0]), ValueError, r"weight=\(3,\): needs shape"),
        (lambda: F.embedding(np.array([1]), W.astype(int)), TypeError, "weight: dtype int64"),
        (lambda: F.embedding(np.array([1]), W, 5), ValueError, "padding_idx=5: needs -5 to 4"),
        (lambda: F.embedding(np.array([1]), W, 0.5), TypeError, "padding_idx=0.5"),
        (lambda: F.embedding(np.array([1]), W, max_norm=0), ValueError, "max_norm=0: needs a number > 0"),
        (lambda: F.embedding(np.array([1]), W, max_norm="a"), TypeError, "max_norm='a'"),
        (lambda: F.embedding(np.array([1]), W, max_norm=1.0, norm_type=-1), ValueError, "norm_type=-1"),
        (lambda: F.embedding(np.array([1]), W, sparse=True), ValueError, "sparse=True: .* needs False"),
        (lambda: F.embedding(np.array([1]), W, scale_grad_by_freq=1), TypeError, "scale_grad_by_freq=1"),
        (lambda: nn.Embedding(0, 3), ValueError, "num_embeddings=0"),
        (lambda: nn.Embedding(3, 2.5), TypeError, "embedding_dim=2.5"),
        (lambda: nn.Embedding(3, 2, 3), ValueError, "padding_idx=3: needs -3 to 2"),
        (lambda: nn.Embedding(3, 2, sparse=True), ValueError, "sparse=True"),
        (lambda: nn.Embedding(3, 2, dtype="int32"), TypeError, "dtype='int32'"),
        (lambda: nn.Embedding(3, 2, _weight=W), ValueError, r"_weight=\(5, 3\): needs shape \(3, 2\)"),
        (lambda: nn.Embedding(5, 3, _weight=W, dtype="float32"), TypeError, "dtype='float32'"),
        (lambda: nn.Embedding.from_pretrained(W[0]), ValueError, r"embeddings=\(3,\)"),
        (lambda: nn.Embedding.from_pretrained(W, freeze=1), TypeError, "freeze=1"),
    ],
)
def test_wrong_calls_say_what_is_wrong(call, error, words):
    with pytest.raises(error, match=words):
        call()
