"""Convolution of lines against recorded torch, the oracle, and Conv2d."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest

import fastconv
import fastconv.nn.functional as F
from fastconv import nn, optim, tensor
from fastconv import reference as ref
from fastconv.problem import ConvProblem

CASES = json.loads(Path(__file__).with_name("golden").joinpath("sequences.json").read_text(encoding="utf-8"))
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def golden(op):
    return pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["op"] == op])


def load(name, dtype):
    case = CASES[name]
    return case["args"], {key: np.array(value, dtype) for key, value in case.items() if key not in ("op", "args")}


def line(*shape, seed=0, dtype="float32"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def assert_as_recorded(computed, a, dtype):
    """Within eps · √terms · the largest sum of absolute products, an output's or a gradient's; all inputs are < 2.1."""
    terms = max(a["w"][0].size + 1, a["w"][:, 0].size, a["gy"].size)
    for key, value in computed.items():
        assert value.dtype == dtype
        assert value.shape == a[key].shape
        np.testing.assert_allclose(value, a[key], rtol=0, atol=np.finfo(dtype).eps * math.sqrt(terms) * terms * 4)


@DTYPES
@golden("conv1d")
def test_as_torch(name, dtype):
    args, a = load(name, dtype)
    leaves = {key: tensor(a[key], requires_grad=True) for key in ("x", "w", "b") if key in a}
    y = F.conv1d(leaves["x"], leaves["w"], leaves.get("b"), **args)
    y.backward(a["gy"])
    gradients = {f"g{key}": leaf.grad.numpy() for key, leaf in leaves.items()}
    assert_as_recorded({"y": y.detach().numpy()} | gradients, a, dtype)
    plain = F.conv1d(a["x"], a["w"], a.get("b"), **args)
    assert type(plain) is np.ndarray
    np.testing.assert_array_equal(plain, y.detach().numpy())


@DTYPES
@golden("Conv1d")
def test_padding_modes_as_torch(name, dtype):
    args, a = load(name, dtype)
    layer = nn.Conv1d(**args, dtype=dtype)
    layer.load_state_dict({"weight": a["w"], "bias": a["b"]})
    x = tensor(a["x"], requires_grad=True)
    y = layer(x)
    y.backward(a["gy"])
    computed = {"y": y.detach(), "gx": x.grad, "gw": layer.weight.grad, "gb": layer.bias.grad}
    assert_as_recorded({key: value.numpy() for key, value in computed.items()}, a, dtype)
    np.testing.assert_array_equal(layer(a["x"]), y.detach().numpy())
    assert layer.problem(a["x"]).output_shape == (*y.shape[:2], 1, y.shape[2])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize("length", [1, 2, 16, 131])
def test_every_length_is_the_oracle(k, length, training):
    x, w, b = line(2, 6, length), line(4, 3, k, seed=1), line(4, seed=2)
    layer = nn.Conv1d(6, 4, k, 2, k // 2, groups=2).train(training)
    layer.load_state_dict({"weight": w, "bias": b})
    exact = [a.astype(np.float64) for a in (x[:, :, None], w[:, :, None], b)]
    sides = (0, 0, k // 2, k // 2)
    expected = ref.conv2d(*exact, stride=(1, 2), padding=sides, groups=2)[:, :, 0]
    for _ in range(2):
        np.testing.assert_allclose(layer(x), expected, rtol=0, atol=2e-5)
    assert layer(x[1]).shape == expected[1].shape


def test_gradients_by_finite_differences():
    rng = np.random.default_rng(1)
    layer = nn.Conv1d(4, 6, 3, 2, "same", 2, 2, dtype="float64")
    x = tensor(line(2, 4, 11, dtype="float64"), requires_grad=True)
    y = layer(x)
    weights = rng.standard_normal(y.shape)
    y.backward(weights)
    for leaf in (x, layer.weight, layer.bias):
        direction = rng.standard_normal(leaf.shape)
        start, ends = leaf.detach().numpy().copy(), []
        for step in (1e-5, -1e-5):
            leaf.data.copy_(start + step * direction)
            ends.append(float((layer(x.detach().numpy()) * weights).sum()))
        leaf.data.copy_(start)
        np.testing.assert_allclose((leaf.grad.numpy() * direction).sum(), (ends[0] - ends[1]) / 2e-5, rtol=1e-7)


def test_the_layer_as_torch():
    layer = nn.Conv1d(4, 6, 5, groups=2)
    state = layer.state_dict()
    assert {key: value.shape for key, value in state.items()} == {"weight": (6, 2, 5), "bias": (6,)}
    assert np.abs(state["weight"]).max() <= 1 / math.sqrt(10)
    assert np.abs(state["bias"]).max() <= 1 / math.sqrt(10)
    assert list(nn.Conv1d(1, 1, 1, bias=False).state_dict()) == ["weight"]
    reprs = {
        "Conv1d(3, 6, kernel_size=(5,), stride=(1,))": nn.Conv1d(3, 6, 5),
        "Conv1d(4, 6, kernel_size=(5,), stride=(2,), padding=(1,), dilation=(2,), groups=2, bias=False, "
        "padding_mode=reflect)": nn.Conv1d(4, 6, (5,), (2,), (1,), (2,), 2, False, "reflect"),
        "Conv1d(1, 1, kernel_size=(3,), stride=(1,), padding=same)": nn.Conv1d(1, 1, 3, padding="same"),
    }
    assert [repr(made) for made in reprs.values()] == list(reprs)


def test_same_padding_with_stride_is_tensorflow_s_rule():
    for length in (6, 7, 8):
        assert nn.Conv1d(1, 1, 3, 3, "same")(line(1, 1, length)).shape == (1, 1, -(-length // 3))


def test_kinds_strides_and_sizes():
    layer, x = nn.Conv1d(3, 4, 2), line(2, 3, 9)
    y = layer(x)
    assert type(y) is np.ndarray
    recorded = layer(tensor(x))
    assert recorded.requires_grad
    with fastconv.no_grad():
        assert not layer(tensor(x)).requires_grad
    np.testing.assert_array_equal(recorded.detach().numpy(), y)
    np.testing.assert_array_equal(layer(np.asfortranarray(x)), y)
    # Another problem, so perhaps another kernel.
    np.testing.assert_allclose(layer(x[0]), y[0], rtol=0, atol=1e-6)
    x.flags.writeable = False
    np.testing.assert_array_equal(layer(x), y)
    nothing = tensor(np.zeros((0, 3, 9), np.float32), requires_grad=True)
    layer(nothing).sum().backward()
    assert nothing.grad.shape == (0, 3, 9)
    assert not layer.weight.grad.numpy().any()


def test_no_tensor_is_made_for_an_array(monkeypatch):
    layer, x = nn.Conv1d(3, 4, 2, padding=1, padding_mode="circular"), line(2, 3, 9)
    monkeypatch.setattr(fastconv.Tensor, "__init__", None)
    assert type(layer(x)) is np.ndarray


def test_nan_travels_no_further_than_its_windows():
    x = line(1, 2, 40)
    x[0, 1, 20] = np.nan
    y = nn.Conv1d(2, 3, 3, algorithm="direct")(x)
    assert np.flatnonzero(np.isnan(y).all(axis=(0, 1))).tolist() == [18, 19, 20]
    assert np.isnan(y).sum() == 9


def test_explain_and_named_algorithms():
    layer, x = nn.Conv1d(3, 4, 5, 2, 2, algorithm="im2col"), line(2, 3, 20)
    p = layer.problem(x)
    assert p == ConvProblem.make((2, 3, 1, 20), (4, 3, 1, 5), stride=(1, 2), padding=(0, 0, 2, 2), bias=True)
    assert p == layer.problem(tensor(x)) == layer.problem(x.shape)
    assert "im2col" in str(fastconv.explain(layer, x))
    assert layer(x).shape == (2, 4, 10)
    with pytest.raises(ValueError, match="algorithm='magic'"):
        nn.Conv1d(3, 4, 5, algorithm="magic")(x)
    with pytest.raises(fastconv.Unsupported):
        nn.Conv1d(3, 4, 5, algorithm="depthwise")(x)


KEEPING = [
    k.algorithm
    for k in fastconv.registry.kernels("conv2d")
    if k.prepare is not None and k.unsupported(ConvProblem.make((2, 16, 1, 64), (16, 16, 1, 3))) is None
]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("algorithm", ["auto", *KEEPING])
def test_no_stale_weights(algorithm, training):
    layer, x = nn.Conv1d(16, 16, 3, algorithm=algorithm).train(training), line(2, 16, 64)

    def uses_the_parameters_it_has():
        fresh = nn.Conv1d(16, 16, 3, algorithm=algorithm).train(training)
        fresh.load_state_dict(layer.state_dict())
        expected = fresh(x)
        for _ in range(2):
            np.testing.assert_array_equal(layer(x), expected)
        np.testing.assert_array_equal(layer(tensor(x)).detach().numpy(), expected)

    uses_the_parameters_it_has()
    layer.weight.data[:] *= 2
    uses_the_parameters_it_has()
    layer.bias.data[:] += 1
    uses_the_parameters_it_has()
    layer.weight = nn.Parameter(line(16, 16, 3, seed=5))
    uses_the_parameters_it_has()
    layer.bias = None
    np.testing.assert_array_equal(layer(x), F.conv1d(x, layer.weight, algorithm=algorithm))
    layer.bias = nn.Parameter(line(16, seed=6))
    layer.load_state_dict(nn.Conv1d(16, 16, 3).state_dict())
    uses_the_parameters_it_has()
    layer(tensor(x)).sum().backward()
    optim.SGD(layer.parameters(), lr=0.1).step()
    uses_the_parameters_it_has()
    twin = copy.deepcopy(layer)
    twin.weight.data[:] = 0
    uses_the_parameters_it_has()


@pytest.mark.parametrize("algorithm", KEEPING)
def test_prepared_weights_are_kept_in_evaluation(algorithm):
    layer, x = nn.Conv1d(16, 16, 3, algorithm=algorithm).eval(), line(2, 16, 64)
    layer(x)
    assert layer._kept.nbytes
    (made,) = layer._kept._made.values()
    for given in (x, x, line(2, 16, 64, seed=1), tensor(x)):
        layer(given)
        assert next(iter(layer._kept._made.values())) is made
    held = layer.weight.detach().numpy()
    layer(x)
    # What is held elsewhere may be changed there.
    assert not layer._kept.nbytes
    held[:] = 0
    assert not (layer(x) - layer.bias.detach().numpy()[:, None]).any()
    del held
    layer(x)
    assert layer._kept.nbytes
    layer.train()(x)
    assert not layer._kept.nbytes


def test_some_kernel_keeps_weights_of_lines():
    assert KEEPING


X = line(2, 3, 8)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: nn.Conv1d(0, 4, 3), ValueError, "in_channels=0"),
        (lambda: nn.Conv1d(3, 4, 0), ValueError, "kernel_size=0"),
        (lambda: nn.Conv1d(3, 4, (3, 3)), ValueError, r"kernel_size=\(3, 3\): needs an int"),
        (lambda: nn.Conv1d(3, 4, "3"), TypeError, "kernel_size='3'"),
        (lambda: nn.Conv1d(3, 4, 3, stride=0), ValueError, "stride=0"),
        (lambda: nn.Conv1d(3, 4, 3, padding=-1), ValueError, "padding=-1"),
        (lambda: nn.Conv1d(3, 4, 3, padding="full"), ValueError, "padding='full': needs one of 'same', 'valid'"),
        (lambda: nn.Conv1d(3, 4, 3, dilation=0.5), TypeError, "dilation=0.5"),
        (lambda: nn.Conv1d(3, 4, 3, groups=2), ValueError, "groups=2: needs a divisor of in_channels=3"),
        (lambda: nn.Conv1d(3, 4, 3, bias=1), TypeError, "bias=1"),
        (lambda: nn.Conv1d(3, 4, 3, padding_mode="mirror"), ValueError, "padding_mode='mirror'"),
        (lambda: nn.Conv1d(3, 4, 3, dtype="float16"), TypeError, "dtype='float16'"),
        (lambda: nn.Conv1d(3, 4, 3)(X[0, 0]), ValueError, r"input=\(8,\): needs shape \(N, C, L\) or \(C, L\)"),
        (lambda: nn.Conv1d(3, 4, 3)(X[None]), ValueError, r"input=\(1, 2, 3, 8\): needs shape \(N, C, L\)"),
        (lambda: nn.Conv1d(4, 4, 3)(X), ValueError, r"input=\(2, 3, 8\): needs 4 channels"),
        (lambda: nn.Conv1d(3, 4, 9)(X), ValueError, r"input=\(2, 3, 8\): with padding \(0, 0\) its length is 8"),
        (lambda: nn.Conv1d(3, 4, 3)(X[:, :, :0]), ValueError, r"input=\(2, 3, 0\)"),
        (lambda: nn.Conv1d(3, 4, 3).problem((2, 3, 2)), ValueError, "which spans 3"),
        (lambda: nn.Conv1d(3, 4, 3)(X.astype(np.float64)), TypeError, "float64"),
        (lambda: nn.Conv1d(3, 4, 3)(X.astype(int)), TypeError, "input: dtype int64"),
        (lambda: nn.Conv1d(3, 4, 3)([1.0]), TypeError, "NumPy array"),
        (lambda: F.conv1d(X, X[:, :, None]), ValueError, r"weight=\(2, 3, 1, 8\): needs shape \(O, C/groups, K\)"),
        (lambda: F.conv1d(X, X[:, :, :0]), ValueError, "K at least 1"),
        (lambda: F.conv1d(X, X, np.zeros(3, np.float32)), ValueError, r"bias=\(3,\): needs shape \(2,\)"),
        (lambda: F.conv1d(X, X[:1, :1, :3], groups=2), ValueError, r"input=\(2, 3, 8\): needs 2 channels"),
        (lambda: F.conv1d(X, X[:, :1, :3], groups=3), ValueError, "groups=3: needs a divisor of the 2 output channels"),
        (lambda: F.conv1d(X, X, stride=(1, 1)), ValueError, r"stride=\(1, 1\): needs an int"),
        (lambda: F.conv1d(X, X, padding=(1, 2)), ValueError, r"padding=\(1, 2\): needs an int"),
    ],
)
def test_wrong_calls_say_what_is_wrong(call, error, words):
    with pytest.raises(error, match=words):
        call()
