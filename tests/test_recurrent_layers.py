"""Recurrent layers and cells: against loops in float64, one sequence and one step at a time, which share no code with
the library; against what torch 2.13 computed (golden/recurrent.json); gradients by finite differences.
"""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv import Tensor, manual_seed, nn, no_grad, optim, set_num_threads
from fastconv.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

CASES = json.loads(Path(__file__).with_name("golden").joinpath("recurrent.json").read_text(encoding="utf-8"))
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])

Array = Any


def assert_near(actual: Any, expected: Any, dtype: str, terms: int = 64, scale: float = 1) -> None:
    """|actual − expected| <= eps(dtype) · √terms · the largest value, or `scale`; the same shape."""
    a = actual.detach().numpy() if isinstance(actual, Tensor) else actual
    assert a.dtype == dtype
    e = np.asarray(expected)
    assert a.shape == e.shape
    limit = np.finfo(dtype).eps * math.sqrt(terms) * max(np.abs(e).max(initial=0), scale)
    np.testing.assert_allclose(a, e, rtol=0, atol=limit)


def listed(hn: Any) -> list[Any]:
    """The states at the end, one or a pair, as a list."""
    return list(hn) if isinstance(hn, tuple) else [hn]


def joined(hx: list[Any]) -> Any:
    """The opposite of listed; None for no states."""
    return None if not hx else tuple(hx) if len(hx) > 1 else hx[0]


# The loops


def sigma(a: Array) -> Array:
    return 1 / (1 + np.exp(-a))


FUNCTIONS = {"tanh": np.tanh, "sigmoid": sigma, "linear": lambda a: a, "relu": lambda a: np.maximum(a, 0)}


def normalised(w: dict[str, Array], name: str, v: Array) -> Array:
    if f"weight_ln_{name}" not in w:
        return v
    v = (v - v.mean()) / math.sqrt(((v - v.mean()) ** 2).mean() + 1e-5)
    return v * w[f"weight_ln_{name}"] + w.get(f"bias_ln_{name}", 0)


def one_step(kind: str, o: dict[str, Any], w: dict[str, Array], x: Array, state: list[Array], draw: Any) -> list[Array]:
    """The states after a step of one sequence; draw: the random numbers of its units for zoneout, of h and of c."""

    def of_x(rows: slice = slice(None)) -> Array:
        return normalised(w, "ih", w["weight_ih"][rows] @ x) + w.get("bias_ih", np.zeros(len(w["weight_ih"])))[rows]

    def of_state(s: Array, rows: slice = slice(None)) -> Array:
        return normalised(w, "hh", w["weight_hh"][rows] @ s) + w.get("bias_hh", np.zeros(len(w["weight_hh"])))[rows]

    h = state[0]
    if kind == "RNN":
        return [FUNCTIONS[o.get("nonlinearity", "tanh")](of_x() + of_state(h))]
    if kind == "JordanRNN":
        hidden = FUNCTIONS[o.get("nonlinearity", "tanh")](of_x() + of_state(h))
        return [FUNCTIONS[o.get("output_activation", "linear")](w["weight_ho"] @ hidden + w.get("bias_ho", 0))]
    units = len(w["weight_ih"]) // {"GRU": 3, "LSTM": 4}[kind]
    gate = [slice(k * units, (k + 1) * units) for k in range(4)]
    if kind == "GRU":
        r = sigma(of_x(gate[0]) + of_state(h, gate[0]))
        z = sigma(of_x(gate[1]) + of_state(h, gate[1]))
        seen = r * of_state(h, gate[2]) if o.get("reset_after", True) else of_state(r * h, gate[2])
        n = np.tanh(of_x(gate[2]) + seen)
        return [(1 - z) * n + z * h]
    c = state[1]
    a = of_x() + of_state(c if o.get("peephole") == "full" else h)
    if o.get("fully_connected"):
        a = a + normalised(w, "ch", w["weight_ch"] @ c)
    p = w["weight_pc"] if o.get("peephole") == "diagonal" else np.zeros(3 * units)
    i, f = sigma(a[gate[0]] + p[gate[0]] * c), sigma(a[gate[1]] + p[gate[1]] * c)
    new_c = f * c + i * np.tanh(a[gate[2]])
    new_h = sigma(a[gate[3]] + p[gate[2]] * new_c) * FUNCTIONS[o.get("activation", "tanh")](normalised(w, "c", new_c))
    if "weight_hr" in w:
        new_h = w["weight_hr"] @ new_h
    after = []
    zoneout = o.get("zoneout", 0.0)
    for new, old, chance, u in zip(
        (new_h, new_c), (h, c), zoneout if isinstance(zoneout, tuple) else (zoneout,) * 2, draw, strict=True
    ):
        if u is None:
            after.append(chance * old + (1 - chance) * new)
        else:
            after.append(np.where(u < np.float32(chance), old, new))
    return after


def by_loops(
    layer: Any, args: dict[str, Any], x: Array, hx: list[Array], lengths: Any, seed: int = 0
) -> tuple[Array, list[Array]]:
    """What `layer`, made with `args`, gives for a batch, and in training mode after manual_seed(seed): y, states."""
    kind, rng = type(layer).__name__, np.random.default_rng(seed)
    weights = {name: value.astype(np.float64) for name, value in layer.state_dict().items()}
    first = args.get("batch_first", False)
    x = (x.swapaxes(0, 1) if first else x).astype(np.float64)
    t, b = x.shape[:2]
    units = args["hidden_size"]
    width = args.get("output_size") or args.get("proj_size") or units
    sizes = [width, units] if kind == "LSTM" else [width]
    lengths = [t] * b if lengths is None else lengths
    zoneout = args.get("zoneout", 0.0)
    chances = zoneout if isinstance(zoneout, tuple) else (zoneout, zoneout)
    ends: list[list[Array]] = [[] for _ in sizes]
    place = 0
    for number, suffixes in product(range(args.get("num_layers", 1)), [("", "_reverse")]):
        if number and layer.training and args.get("dropout", 0):
            shape = (b, t, x.shape[2]) if first else x.shape
            keep = rng.random(shape, dtype=np.float32) >= args["dropout"]
            x = x * (keep.swapaxes(0, 1) if first else keep) / (1 - args["dropout"])
        ys = []
        for reverse in range(1 + args.get("bidirectional", False)):
            suffix = f"_l{number}{suffixes[reverse]}"
            w = {
                name.removesuffix(suffix): value
                for name, value in weights.items()
                if name.endswith(suffix) and name.endswith("_reverse") == bool(reverse)
            }
            # One draw for all units of a step, in the order of the steps.
            draws: dict[int, list[Any]] = {}
            for step in reversed(range(t)) if reverse else range(t):
                draws[step] = [
                    rng.random((b, size), dtype=np.float32) if layer.training and chance else None
                    for size, chance in zip(sizes, chances, strict=False)
                ]
            y = np.zeros((t, b, width))
            end = [np.zeros((b, size)) for size in sizes]
            for s in range(b):
                state = [h[place, s].astype(np.float64) for h in hx] or [np.zeros(size) for size in sizes]
                own = range(lengths[s])
                for step in reversed(own) if reverse else own:
                    draw = [None if u is None else u[s] for u in draws[step]]
                    state = one_step(kind, args, w, x[step, s], state, draw)
                    y[step, s] = state[0]
                for k, value in enumerate(state):
                    end[k][s] = value
            ys.append(y)
            for k, value in enumerate(end):
                ends[k].append(value)
            place += 1
        x = np.concatenate(ys, axis=2)
    return x.swapaxes(0, 1) if first else x, [np.stack(each) for each in ends]


def make(kind: str, dtype: str, seed: int = 1, **args: Any) -> Any:
    """A layer whose parameters, gains of normalisation too, are random numbers of a size that matters."""
    manual_seed(seed)
    layer = getattr(nn, kind)(**args, dtype=dtype)
    rng = np.random.default_rng(seed)
    for parameter in layer.parameters():
        parameter.data.copy_(rng.standard_normal(parameter.shape) * 0.6)
    return layer


def random_input(layer: Any, args: dict[str, Any], t: int, b: int, states: bool, seed: int = 2) -> Any:
    """x, and hx as a list, for a batch."""
    rng = np.random.default_rng(seed)
    dtype = layer.weight_ih_l0.dtype
    shape = (b, t) if args.get("batch_first") else (t, b)
    x = rng.standard_normal((*shape, args["input_size"])).astype(dtype)
    count = args.get("num_layers", 1) * (1 + args.get("bidirectional", False))
    width = args.get("output_size") or args.get("proj_size") or args["hidden_size"]
    sizes = [width, args["hidden_size"]] if isinstance(layer, nn.LSTM) else [width]
    return x, [rng.standard_normal((count, b, size)).astype(dtype) for size in sizes] if states else []


def check(layer: Any, args: dict[str, Any], x: Array, hx: list[Array], lengths: Any, terms: int = 256) -> None:
    """The layer agrees with the loops, in training and evaluation, and gives the same for arrays and for Tensors."""
    dtype = str(x.dtype)
    for training in (False, True):
        layer.train(training)
        y, ends = by_loops(layer, args, x, hx, lengths, seed=7)
        manual_seed(7)
        actual, hn = layer(x, joined(hx), lengths=lengths)
        assert type(actual) is np.ndarray
        scale = max(np.abs(each).max(initial=1) for each in [y, *ends])
        for got, expected in zip([actual, *listed(hn)], [y, *ends], strict=True):
            assert type(got) is np.ndarray
            assert_near(got, expected, dtype, terms, scale)
        manual_seed(7)
        recorded, recorded_hn = layer(Tensor(x), joined(hx), lengths=lengths)
        assert recorded.requires_grad
        for got, expected in zip([recorded, *listed(recorded_hn)], [actual, *listed(hn)], strict=True):
            np.testing.assert_array_equal(got.detach().numpy(), expected)


def loss_of(layer: Any, x: Any, hx: list[Any], lengths: Any) -> Any:
    """A sum of all results times random numbers; the same masks in every call."""
    manual_seed(7)
    y, hn = layer(x, joined(hx), lengths=lengths)
    rng = np.random.default_rng(3)
    total: Any = 0
    for result in [y, *listed(hn)]:
        g = rng.standard_normal(result.shape)
        total = total + (result * g).sum()
    return total


def check_gradients(layer: Any, x: Array, hx: list[Array], lengths: Any) -> None:
    """Every gradient, of inputs, states and parameters, along a random direction, by differences of four values."""
    leaves = {"x": Tensor(x.copy(), True)} | {f"hx[{k}]": Tensor(h.copy(), True) for k, h in enumerate(hx)}
    inputs, states = leaves["x"], [leaf for name, leaf in leaves.items() if name != "x"]
    layer.zero_grad()
    loss = loss_of(layer, inputs, states, lengths)
    loss.backward()
    rng, e = np.random.default_rng(4), 3e-5
    for name, leaf in (leaves | dict(layer.named_parameters())).items():
        direction = rng.standard_normal(leaf.shape)
        before = leaf.detach().numpy().copy()
        expected = 0.0
        with no_grad():
            # Exact but for e⁴: normalisation bends sharply.
            for times, weight in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
                leaf.data.copy_(before + times * e * direction)
                expected += weight * loss_of(layer, inputs, states, lengths).item() / (12 * e)
            leaf.data.copy_(before)
        # With peephole="full" nothing depends on the first h.
        actual = 0.0 if leaf.grad is None else float((leaf.grad.numpy() * direction).sum())
        assert actual == pytest.approx(expected, rel=1e-6, abs=1e-7 * max(1, abs(loss.item()))), name


SIZE = {"input_size": 3, "hidden_size": 5}

TORCH_OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *((kind, {}) for kind in ("RNN", "LSTM", "GRU")),
    *((kind, {"num_layers": 2, "bidirectional": True}) for kind in ("RNN", "LSTM", "GRU")),
    *((kind, {"bias": False, "batch_first": True}) for kind in ("RNN", "LSTM", "GRU")),
    *((kind, {"num_layers": 3, "dropout": 0.4, "batch_first": True}) for kind in ("RNN", "LSTM", "GRU")),
    ("RNN", {"nonlinearity": "relu"}),
    ("LSTM", {"proj_size": 2}),
    ("LSTM", {"proj_size": 4, "num_layers": 2, "bidirectional": True, "dropout": 0.25}),
]
BEYOND: list[tuple[str, dict[str, Any]]] = [
    ("JordanRNN", {"output_size": 4}),
    ("JordanRNN", {"output_size": 2, "output_activation": "sigmoid", "bidirectional": True, "num_layers": 2}),
    ("JordanRNN", {"output_size": 7, "output_activation": "tanh", "bias": False, "batch_first": True}),
    ("JordanRNN", {"output_size": 3, "output_activation": "relu", "nonlinearity": "relu"}),
    ("GRU", {"reset_after": False}),
    ("GRU", {"reset_after": False, "bias": False, "num_layers": 2, "bidirectional": True}),
    ("LSTM", {"peephole": "diagonal"}),
    ("LSTM", {"peephole": "diagonal", "proj_size": 2, "num_layers": 2, "bidirectional": True}),
    ("LSTM", {"peephole": "full"}),
    ("LSTM", {"peephole": "full", "bias": False, "num_layers": 2, "bidirectional": True}),
    ("LSTM", {"fully_connected": True}),
    ("LSTM", {"fully_connected": True, "proj_size": 3, "bidirectional": True}),
    ("LSTM", {"activation": "linear"}),
    ("LSTM", {"activation": "linear", "peephole": "diagonal", "batch_first": True}),
    ("LSTM", {"layer_norm": True}),
    ("LSTM", {"layer_norm": True, "bias": False, "num_layers": 2, "bidirectional": True}),
    ("LSTM", {"layer_norm": True, "fully_connected": True, "activation": "linear"}),
    ("LSTM", {"layer_norm": True, "peephole": "diagonal", "proj_size": 2}),
    ("LSTM", {"layer_norm": True, "peephole": "full"}),
    ("LSTM", {"zoneout": 0.3}),
    ("LSTM", {"zoneout": (0.25, 0.0), "proj_size": 3, "num_layers": 2, "bidirectional": True, "dropout": 0.5}),
    ("LSTM", {"zoneout": (0.0, 0.75), "peephole": "full", "batch_first": True}),
    ("LSTM", {"zoneout": (0.5, 0.25), "layer_norm": True, "fully_connected": True, "bidirectional": True}),
]


def named(case: tuple[str, dict[str, Any]]) -> str:
    return "-".join([case[0], *(f"{name}={value}" for name, value in case[1].items())])


# Against the loops


@DTYPES
@pytest.mark.parametrize("lengths", [None, [4, 0, 6, 1]], ids=["dense", "ragged"])
@pytest.mark.parametrize("case", TORCH_OPTIONS + BEYOND, ids=named)
def test_layer_against_loops(case: tuple[str, dict[str, Any]], lengths: Any, dtype: str) -> None:
    kind, args = case[0], SIZE | case[1]
    layer = make(kind, dtype, **args)
    for states in (False, True):
        x, hx = random_input(layer, args, 6, 4, states)
        check(layer, args, x, hx, lengths)


@pytest.mark.parametrize("lengths", [None, [4, 0, 1]], ids=["dense", "ragged"])
@pytest.mark.parametrize("case", BEYOND, ids=named)
def test_gradients_by_finite_differences(case: tuple[str, dict[str, Any]], lengths: Any) -> None:
    kind, args = case[0], SIZE | case[1]
    layer = make(kind, "float64", **args)
    x, hx = random_input(layer, args, 4, 3, True)
    check_gradients(layer, x, hx, lengths)
    if "zoneout" in args:
        check_gradients(layer.eval(), x, hx, lengths)


@st.composite
def layers(draw: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """A layer, its arguments, and how it is called."""
    kind = draw(st.sampled_from(["RNN", "GRU", "LSTM", "LSTM", "LSTM", "JordanRNN"]))
    flag, small = st.booleans(), st.integers(1, 6)
    args: dict[str, Any] = {name: draw(small) for name in ("input_size", "hidden_size")}
    args["num_layers"] = draw(st.integers(1, 3))
    for name in ("bias", "batch_first", "bidirectional"):
        args[name] = draw(flag)
    args["dropout"] = draw(st.sampled_from([0.0, 0.25, 0.5]))
    if kind in ("RNN", "JordanRNN"):
        args["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
    if kind == "JordanRNN":
        args["output_size"] = draw(small)
        # Jordan's network feeds its outputs back: without a limit they grow without end.
        args["output_activation"] = draw(st.sampled_from(["tanh", "sigmoid"]))
    if kind == "GRU":
        args["reset_after"] = draw(flag)
    if kind == "LSTM":
        args["activation"] = draw(st.sampled_from(["tanh", "linear"]))
        args["peephole"] = draw(st.sampled_from([None, "diagonal", "full"]))
        args["fully_connected"] = args["peephole"] is None and draw(flag)
        args["layer_norm"] = draw(flag)
        args["zoneout"] = draw(st.sampled_from([0.0, (0.25, 0.5), (0.0, 0.5)]))
        if args["peephole"] != "full":
            args["proj_size"] = draw(st.integers(0, args["hidden_size"] - 1))
    t, b = draw(st.integers(0, 7)), draw(st.integers(0, 5))
    ragged = draw(flag)
    lengths = [draw(st.integers(0, t)) for _ in range(b)] if ragged else None
    return kind, args, {"t": t, "b": b, "states": draw(flag), "lengths": lengths}


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(layers())
def test_drawn_options(drawn: tuple[str, dict[str, Any], dict[str, Any]]) -> None:
    kind, args, call = drawn
    layer = make(kind, "float64", **args)
    x, hx = random_input(layer, args, call["t"], call["b"], call["states"])
    # Normalising multiplies errors by up to 1/√eps, where values are nearly equal.
    check(layer, args, x, hx, call["lengths"], 2**16 if args.get("layer_norm") else 2**10)
    if not args.get("layer_norm"):
        single = make(kind, "float32", **args)
        check(single, args, x.astype(np.float32), [h.astype(np.float32) for h in hx], call["lengths"], 2**10)
    if x.size and args.get("nonlinearity") != "relu":
        check_gradients(layer.train(), x, hx, call["lengths"])


# Against torch


def golden(name: str, dtype: str) -> tuple[dict[str, Any], Any, Any, list[Any]]:
    """The case, its layer, and x and hx as leaves."""
    case = CASES[name]
    layer = getattr(nn, case["op"])(**case["args"], dtype=dtype)
    assert repr(layer) == case["repr"]
    assert list(layer.state_dict()) == list(case["state"])
    layer.load_state_dict({key: np.array(value) for key, value in case["state"].items()})
    hx = [Tensor(np.array(h, dtype), True) for h in case["hx"]]
    return case, layer, Tensor(np.array(case["x"], dtype), True), hx


def assert_as_torch(case: dict[str, Any], layer: Any, results: list[Any], x: Any, hx: list[Any], dtype: str) -> None:
    """The results, and after a backward pass all gradients, are those of the case."""
    cell = case["y"] is None
    expected = case["hn"] if cell else [case["y"], *case["hn"]]
    gradients = case["gh"] if cell else [case["gy"], *case["gh"]]
    for result, value in zip(results, expected, strict=True):
        assert_near(result, value, dtype)
    total: Any = 0
    for result, g in zip(results, gradients, strict=True):
        total = total + (result * np.array(g, dtype)).sum()
    total.backward()
    assert_near(x.grad, case["gx"], dtype)
    for h, value in zip(hx, case["ghx"], strict=True):
        assert_near(h.grad, value, dtype)
    for key, parameter in layer.named_parameters():
        assert_near(parameter.grad, case["gradients"][key], dtype)


@DTYPES
@pytest.mark.parametrize("name", CASES)
def test_as_torch(name: str, dtype: str) -> None:
    case, layer, x, hx = golden(name, dtype)
    if case["y"] is None:
        results = listed(layer(x, joined(hx)))
        plain = listed(layer(x.detach().numpy(), joined(hx)))
    else:
        y, hn = layer(x, joined(hx), lengths=case["lengths"])
        results = [y, *listed(hn)]
        y, hn = layer(x.detach().numpy(), joined(hx), lengths=case["lengths"])
        plain = [y, *listed(hn)]
    for result, value in zip(results, plain, strict=True):
        assert type(value) is np.ndarray
        np.testing.assert_array_equal(result.detach().numpy(), value)
    assert_as_torch(case, layer, results, x, hx, dtype)


@DTYPES
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["lengths"]])
def test_packed_as_torch(name: str, dtype: str) -> None:
    case, layer, x, hx = golden(name, dtype)
    first = case["args"].get("batch_first", False)
    packed = pack_padded_sequence(x, case["lengths"], first, enforce_sorted=False)
    y, hn = layer(packed, joined(hx))
    assert type(y) is PackedSequence
    for before, after in zip(packed[1:], y[1:], strict=True):
        assert (before is None) == (after is None)
        if before is not None:
            np.testing.assert_array_equal(before.numpy(), after.numpy())
    padded, counts = pad_packed_sequence(y, first, total_length=x.shape[1 if first else 0])
    assert counts.tolist() == case["lengths"]
    assert_as_torch(case, layer, [padded, *listed(hn)], x, hx, dtype)
    plain, _ = layer(packed._replace(data=packed.data.detach().numpy()), joined(hx))
    np.testing.assert_array_equal(plain.data, y.data.detach().numpy())


def test_packed_sorted_without_permutation() -> None:
    layer = make("LSTM", "float32", **SIZE, bidirectional=True)
    x, hx = random_input(layer, SIZE | {"bidirectional": True}, 5, 3, True)
    y, (h, c) = layer(pack_padded_sequence(x, [5, 3, 1]), tuple(hx))
    assert y.sorted_indices is None
    expected, (hn, cn) = layer(x, tuple(hx), lengths=[5, 3, 1])
    np.testing.assert_array_equal(pad_packed_sequence(y)[0], expected)
    np.testing.assert_array_equal(h, hn)
    np.testing.assert_array_equal(c, cn)


# Sizes, parameters


@pytest.mark.parametrize(
    ("make_layer", "count"),
    [
        (lambda: nn.RNN(300, 512, 3, bidirectional=True), 3_983_360),
        (lambda: nn.LSTM(300, 512, 3, bidirectional=True), 15_933_440),
        (lambda: nn.GRU(300, 512, 3, bidirectional=True), 11_950_080),
        (lambda: nn.LSTM(300, 512, 2), 3_768_320),
    ],
)
def test_parameter_counts(make_layer: Any, count: int) -> None:
    with nn.init.skipped():
        assert sum(parameter.numel() for parameter in make_layer().parameters()) == count


def test_parameters_of_options() -> None:
    def shapes(layer: Any) -> dict[str, tuple[int, ...]]:
        return {name: parameter.shape for name, parameter in layer.named_parameters()}

    torch_lstm = {"weight_ih_l0": (20, 3), "weight_hh_l0": (20, 5), "bias_ih_l0": (20,), "bias_hh_l0": (20,)}
    assert shapes(nn.LSTM(3, 5)) == torch_lstm
    assert shapes(nn.LSTM(3, 5, peephole="diagonal")) == torch_lstm | {"weight_pc_l0": (15,)}
    assert shapes(nn.LSTM(3, 5, peephole="full", activation="linear", zoneout=0.5)) == torch_lstm
    assert shapes(nn.LSTM(3, 5, fully_connected=True)) == torch_lstm | {"weight_ch_l0": (20, 5)}
    norms = {"ih": 20, "hh": 20, "c": 5}
    of_norms = {f"{what}_ln_{name}_l0": (n,) for name, n in norms.items() for what in ("weight", "bias")}
    assert shapes(nn.LSTM(3, 5, layer_norm=True)) == torch_lstm | of_norms
    names = list(shapes(nn.LSTM(3, 5, bias=False, layer_norm=True, fully_connected=True, proj_size=2)))
    ln = [f"weight_ln_{name}_l0" for name in ("ih", "hh", "ch", "c")]
    assert names == ["weight_ih_l0", "weight_hh_l0", "weight_hr_l0", "weight_ch_l0", *ln]
    layer = nn.LSTM(3, 5, 2, bidirectional=True, peephole="diagonal")
    assert layer.weight_pc_l1_reverse.shape == (15,)
    assert layer.weight_ih_l1_reverse.shape == (20, 10)
    assert shapes(nn.GRU(3, 5, reset_after=False)) == shapes(nn.GRU(3, 5))
    assert shapes(nn.JordanRNN(3, 5, 2, 2, bidirectional=True)) == {
        f"{name}_l{number}{reverse}": shape
        for number, reverse in product(range(2), ("", "_reverse"))
        for name, shape in {
            "weight_ih": (5, 4 if number else 3),
            "weight_hh": (5, 2),
            "bias_ih": (5,),
            "bias_hh": (5,),
            "weight_ho": (2, 5),
            "bias_ho": (2,),
        }.items()
    }


def test_initialisation() -> None:
    bound = 1 / math.sqrt(64)
    for module in (
        nn.RNN(3, 64),
        nn.LSTM(3, 64, peephole="diagonal", layer_norm=True, proj_size=9),
        nn.LSTM(3, 64, fully_connected=True),
        nn.GRU(3, 64, 2),
        nn.JordanRNN(3, 64, 5),
        nn.RNNCell(3, 64),
        nn.LSTMCell(3, 64),
        nn.GRUCell(3, 64),
    ):
        manual_seed(3)
        module.reset_parameters()
        for name, parameter in module.named_parameters():
            a = parameter.detach().numpy()
            assert a.dtype == np.float32
            if "_ln_" in name:
                assert (a == name.startswith("weight")).all(), name
                continue
            assert np.abs(a).max() <= bound, name
            # Uniform: the standard deviation is bound / √3, that of an estimate of n values below 0.5 / √n of it.
            assert a.std() == pytest.approx(bound / math.sqrt(3), rel=2.5 / math.sqrt(a.size)), name
        before = module.state_dict()
        manual_seed(3)
        module.reset_parameters()
        for name, value in module.state_dict().items():
            np.testing.assert_array_equal(value, before[name])


def test_repr_of_options() -> None:
    assert repr(nn.GRU(3, 5, reset_after=False)) == "GRU(3, 5, reset_after=False)"
    layer = nn.LSTM(3, 5, 2, peephole="diagonal", activation="linear", layer_norm=True, zoneout=0.25)
    text = "LSTM(3, 5, num_layers=2, peephole=diagonal, activation=linear, layer_norm=True, zoneout=(0.25, 0.25))"
    assert repr(layer) == text
    text = "JordanRNN(3, 5, 2, nonlinearity=relu, output_activation=tanh)"
    assert repr(nn.JordanRNN(3, 5, 2, nonlinearity="relu", output_activation="tanh")) == text


def test_copies() -> None:
    layer = make("LSTM", "float32", **SIZE, num_layers=2, layer_norm=True)
    x, _ = random_input(layer, SIZE, 3, 2, False)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        np.testing.assert_array_equal(layer(x)[0], other(x)[0])
    layer.flatten_parameters()


# Sequences


ALL = [(kind, args) for kind, args in TORCH_OPTIONS + BEYOND if not args.get("dropout")]


@pytest.mark.parametrize("case", ALL, ids=named)
def test_no_steps_give_no_outputs_and_the_same_state(case: tuple[str, dict[str, Any]]) -> None:
    args = SIZE | case[1]
    layer = make(case[0], "float32", **args)
    for lengths, (x, hx) in product((None, [0, 0]), (random_input(layer, args, 0, 2, states) for states in (0, 1))):
        y, hn = layer(x, joined(hx), lengths=lengths)
        assert y.shape == by_loops(layer, args, x, hx, lengths)[0].shape
        assert y.dtype == np.float32
        for k, end in enumerate(listed(hn)):
            np.testing.assert_array_equal(end, hx[k] if hx else np.zeros_like(end))
            assert not hx or not np.may_share_memory(end, hx[k])
    leaves = [Tensor(h, True) for h in random_input(layer, args, 0, 2, True)[1]]
    _, hn = layer(Tensor(x), joined(leaves))
    sum(end.sum() for end in listed(hn)).backward()
    assert all((leaf.grad.numpy() == 1).all() for leaf in leaves)


@pytest.mark.parametrize("case", ALL, ids=named)
def test_no_sequences(case: tuple[str, dict[str, Any]]) -> None:
    args = SIZE | case[1]
    layer = make(case[0], "float32", **args)
    for lengths in (None, [], np.zeros(0, np.int32)):
        x, hx = random_input(layer, args, 3, 0, True)
        y, hn = layer(Tensor(x, True), joined(hx), lengths=lengths)
        assert y.shape == by_loops(layer, args, x, hx, None)[0].shape
        assert [end.shape for end in listed(hn)] == [h.shape for h in hx]
        layer.zero_grad()
        y.sum().backward()
        assert all((parameter.grad is None or not parameter.grad.numpy().any()) for parameter in layer.parameters())


@pytest.mark.parametrize("case", ALL, ids=named)
def test_streaming_is_one_call(case: tuple[str, dict[str, Any]]) -> None:
    args = SIZE | {**case[1], "bidirectional": False}
    layer = make(case[0], "float64", **args).eval()
    axis = 1 if args.get("batch_first") else 0
    x, hx = random_input(layer, args, 7, 2, True)
    y, hn = layer(x, joined(hx))
    state, parts = joined(hx), []
    for part in np.split(x, [1, 2, 2, 5], axis):
        out, state = layer(part, state)
        parts.append(out)
    assert_near(np.concatenate(parts, axis), y, "float64", 16)
    for end, expected in zip(listed(state), listed(hn), strict=True):
        assert_near(end, expected, "float64", 16)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("bias", [True, False])
def test_cell_is_a_layer_of_one_step(kind: str, bias: bool) -> None:
    layer = make(kind, "float32", **SIZE, bias=bias)
    cell = getattr(nn, f"{kind}Cell")(**SIZE, bias=bias)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
    assert sum(p.numel() for p in cell.parameters()) == sum(p.numel() for p in layer.parameters())
    x, hx = random_input(layer, SIZE, 4, 3, True)
    y, _ = layer(x, joined(hx))
    state = joined([h[0] for h in hx])
    for step in range(4):
        state = cell(x[step], state)
        assert_near(listed(state)[0], y[step], "float32", 16)
    single = listed(cell(x[0, 1]))
    for got, expected in zip(single, listed(cell(x[0])), strict=True):
        np.testing.assert_array_equal(got, expected[1])
    assert listed(cell(x[0, :0]))[0].shape == (0, 5)


@pytest.mark.parametrize("first", [False, True])
def test_unbatched_is_a_batch_of_one(first: bool) -> None:
    for kind in ("RNN", "LSTM", "GRU"):
        args = SIZE | {"num_layers": 2, "bidirectional": True, "batch_first": first}
        layer = make(kind, "float32", **args)
        x, hx = random_input(layer, args, 4, 1, True)
        for lengths in (None, [3]):
            y, hn = layer(x, joined(hx), lengths=lengths)
            own, own_hn = layer(x.squeeze(0 if first else 1), joined([h[:, 0] for h in hx]), lengths=lengths)
            np.testing.assert_array_equal(own, y.squeeze(0 if first else 1))
            for end, expected in zip(listed(own_hn), listed(hn), strict=True):
                np.testing.assert_array_equal(end, expected[:, 0])


@pytest.mark.parametrize("case", ALL, ids=named)
def test_lengths_are_as_each_sequence_for_itself(case: tuple[str, dict[str, Any]]) -> None:
    args = SIZE | case[1]
    layer = make(case[0], "float64", **args).eval()
    x, hx = random_input(layer, args, 5, 4, True)
    first = args.get("batch_first", False)
    lengths = [3, 5, 0, 1]
    y, hn = layer(x, joined(hx), lengths=lengths)
    for same in (np.array(lengths), np.array(lengths, np.uint8), Tensor(np.array(lengths)), tuple(lengths)):
        np.testing.assert_array_equal(layer(x, joined(hx), lengths=same)[0], y)
    for i, length in enumerate(lengths):
        own = x[i : i + 1, :length] if first else x[:length, i : i + 1]
        out, ends = layer(own, joined([h[:, i : i + 1] for h in hx]))
        part = y[i : i + 1] if first else y[:, i : i + 1]
        assert_near(part[:, :length] if first else part[:length], out, "float64", 16)
        assert not (part[:, length:] if first else part[length:]).any()
        for end, expected in zip(listed(hn), listed(ends), strict=True):
            assert_near(end[:, i : i + 1], expected, "float64", 16)


def wild_padding(x: Array, lengths: list[int], first: bool) -> Array:
    """x with NaN and infinities beyond the sequences' ends."""
    x = x.copy()
    for i, length in enumerate(lengths):
        rest = x[i, length:] if first else x[length:, i]
        rest[...] = np.nan
        rest[::2] = np.inf
    return x


@pytest.mark.parametrize("case", ALL, ids=named)
def test_padding_matters_to_nothing(case: tuple[str, dict[str, Any]]) -> None:
    args = SIZE | case[1]
    layer = make(case[0], "float32", **args).eval()
    x, hx = random_input(layer, args, 5, 4, True)
    lengths = [3, 5, 0, 1]
    found = []
    for given_x in (x, wild_padding(x, lengths, args.get("batch_first", False))):
        leaf = Tensor(given_x, True)
        layer.zero_grad()
        y, hn = layer(leaf, joined(hx), lengths=lengths)
        total: Any = sum((end * end).sum() for end in listed(hn))
        (total + (y * y).sum()).backward()
        gradients = [parameter.grad.numpy() for parameter in layer.parameters()]
        found.append([y.detach().numpy(), leaf.grad.numpy(), *gradients])
    for clean, wild in zip(*found, strict=True):
        np.testing.assert_array_equal(clean, wild)
    gx = found[0][1].swapaxes(0, 1) if args.get("batch_first") else found[0][1]
    assert not any(gx[length:, i].any() for i, length in enumerate(lengths))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("case", ALL, ids=named)
def test_nan_travels_within_its_own_sequence(case: tuple[str, dict[str, Any]], value: float) -> None:
    args = SIZE | case[1] | {"batch_first": False}
    layer = make(case[0], "float32", **args).eval()
    x, hx = random_input(layer, args, 5, 4, True)
    bad = x.copy()
    bad[2, 1, 0] = value
    with np.errstate(invalid="ignore"):
        for lengths in (None, [5, 4, 1, 0]):
            (clean, hn), (y, bad_hn) = (layer(each, joined(hx), lengths=lengths) for each in (x, bad))
            others = [0, 2, 3]
            np.testing.assert_array_equal(y[:, others], clean[:, others])
            for end, expected in zip(listed(bad_hn), listed(hn), strict=True):
                np.testing.assert_array_equal(end[:, others], expected[:, others])
            if np.isnan(value) and case[1].get("nonlinearity") != "relu":
                size = args["hidden_size"]
                width = args.get("output_size") or args.get("proj_size") or size
                assert np.isnan(y[2:4, 1, :width]).all()
                if args.get("num_layers", 1) == 1:
                    np.testing.assert_array_equal(y[:2, 1, :width], clean[:2, 1, :width])
            leaf = Tensor(bad, True)
            out, _ = layer(leaf, joined(hx), lengths=lengths)
            out.sum().backward()
            clean_leaf = Tensor(x, True)
            out, _ = layer(clean_leaf, joined(hx), lengths=lengths)
            out.sum().backward()
            np.testing.assert_array_equal(leaf.grad.numpy()[:, others], clean_leaf.grad.numpy()[:, others])


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("batch", [1, 2, 6, 7, 20])
@pytest.mark.parametrize("count", [1, 2])
def test_cells_from_call_to_call(kind: str, batch: int, count: int, threads: Any) -> None:
    threads.set_num_threads(count)
    cell = getattr(nn, f"{kind}Cell")(30, 50).eval()
    generator = np.random.default_rng(7)
    for call in range(9):
        x = generator.standard_normal((batch, 30), np.float32)
        hx = joined([generator.standard_normal((batch, 50), np.float32) for _ in cell._states])
        # A copy has worked out nothing yet.
        expected = listed(copy.deepcopy(cell)(x, hx))
        for got, other in zip(listed(cell(x, hx)), expected, strict=True):
            np.testing.assert_array_equal(got, other)
        if call % 4 == 3:
            cell.weight_hh.data[0] += 0.1


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_lengths_that_change_from_call_to_call(kind: str, first: bool) -> None:
    layer = getattr(nn, kind)(3, 5, 2, bidirectional=True, batch_first=first).eval()
    generator = np.random.default_rng(5)
    for lengths in ([4, 1, 0], [2, 2, 3], None, [0, 0, 0], [4, 4, 4], [1, 4, 4]):
        x = generator.standard_normal((3, 4, 3) if first else (4, 3, 3), np.float32)
        # A copy has worked out nothing yet.
        expected = copy.deepcopy(layer)(x, lengths=lengths)
        y, hn = layer(x, lengths=lengths)
        np.testing.assert_array_equal(y, expected[0])
        for h, other in zip(listed(hn), listed(expected[1]), strict=True):
            np.testing.assert_array_equal(h, other)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("directions", [1, 2])
def test_parameters_have_the_same_gradients_where_that_of_the_input_is_not_wanted(kind: str, directions: int) -> None:
    layer = getattr(nn, kind)(3, 70, 2, bidirectional=directions == 2)
    x = np.random.default_rng(6).standard_normal((4, 9, 3), np.float32)
    found = []
    for wanted in (True, False):
        for lengths in (None, [4, 2, 0, 4, 1, 3, 3, 4, 4]):
            layer.zero_grad()
            y, _ = layer(Tensor(x, requires_grad=wanted), lengths=lengths)
            y.sum().backward()
            found.append([p.grad.numpy() for p in layer.parameters()])
    for with_x, without in zip(found[:2], found[2:], strict=True):
        for g, other in zip(with_x, without, strict=True):
            np.testing.assert_array_equal(g, other)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_same_with_any_number_of_threads(kind: str, threads: Any) -> None:
    args = {"input_size": 40, "hidden_size": 65, "bidirectional": True}
    layer = make(kind, "float32", **args)
    x, hx = random_input(layer, args, 9, 33, True)
    found = []
    for count in (1, 2):
        set_num_threads(count)
        leaf = Tensor(x, True)
        layer.zero_grad()
        y, hn = layer(leaf, joined(hx), lengths=[9, 1, 5] * 11)
        y.sum().backward()
        ends = [end.detach().numpy() for end in listed(hn)]
        gradients = [parameter.grad.numpy() for parameter in layer.parameters()]
        found.append([y.detach().numpy(), *ends, leaf.grad.numpy(), *gradients])
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)


# Training


def test_dropout_lies_between_layers_in_training_only() -> None:
    args = SIZE | {"num_layers": 2, "dropout": 0.5}
    layer, x = make("GRU", "float32", **args), np.ones((3, 2, 3), np.float32)
    np.testing.assert_array_equal(layer.eval()(x)[0], layer(x)[0])
    layer.train()
    manual_seed(1)
    one, two = layer(x)[0], layer(x)[0]
    assert (one != two).any()
    manual_seed(1)
    np.testing.assert_array_equal(layer(x)[0], one)
    # The first layer's final state has seen no dropout.
    np.testing.assert_array_equal(layer(x)[1][0], layer.eval()(x)[1][0])
    # One layer has none, and says nothing about it.
    single = nn.RNN(3, 5, dropout=0.9)
    np.testing.assert_array_equal(single(x)[0], single.eval()(x)[0])
    all_gone = nn.RNN(3, 5, 2, dropout=1.0)
    deaf = all_gone(x)[0]
    np.testing.assert_array_equal(deaf, all_gone(-x)[0])


def test_zoneout_of_all_keeps_the_state() -> None:
    layer = make("LSTM", "float32", **SIZE, zoneout=1.0)
    x, hx = random_input(layer, SIZE, 4, 2, True)
    for module in (layer, layer.eval()):
        y, (h, c) = module(x, tuple(hx))
        np.testing.assert_array_equal(y, np.broadcast_to(hx[0], y.shape))
        np.testing.assert_array_equal(h, hx[0])
        np.testing.assert_array_equal(c, hx[1])


def test_the_first_argument_decides_the_kind() -> None:
    layer = make("LSTM", "float32", **SIZE)
    x, hx = random_input(layer, SIZE, 2, 2, True)
    leaves = [Tensor(h, True) for h in hx]
    y, hn = layer(x, tuple(leaves))
    assert all(type(result) is np.ndarray for result in [y, *hn])
    y, hn = layer(Tensor(x), tuple(hx))
    assert all(isinstance(result, Tensor) and result.requires_grad for result in [y, *hn])
    with no_grad():
        y, hn = layer(Tensor(x), tuple(leaves))
    assert not any(result.requires_grad for result in [y, *hn])
    h, c = nn.LSTMCell(**SIZE)(Tensor(x[0]), (hx[0][0], leaves[1]._array[0]))
    assert h.requires_grad
    assert c.requires_grad
    frozen = nn.GRU(**SIZE).requires_grad_(False)
    assert not frozen(Tensor(x))[0].requires_grad
    assert frozen(Tensor(x, True))[0].requires_grad


def test_state_carried_over_is_differentiated_through_or_not() -> None:
    layer = make("GRU", "float64", **SIZE)
    x, _ = random_input(layer, SIZE, 6, 2, False)
    leaf = Tensor(x, True)
    y, _ = layer(leaf)
    y[-1].sum().backward()
    whole = leaf.grad.numpy().copy()
    parts = [Tensor(x[:3], True), Tensor(x[3:], True)]
    _, h = layer(parts[0])
    y, _ = layer(parts[1], h)
    y[-1].sum().backward()
    assert_near(np.concatenate([part.grad.numpy() for part in parts]), whole, "float64", 16)
    parts[0].grad = None
    y, _ = layer(parts[1], h.detach())
    y[-1].sum().backward()
    assert parts[0].grad is None


def test_backward_twice_and_retain_graph() -> None:
    layer = make("LSTM", "float64", **SIZE)
    x, _ = random_input(layer, SIZE, 3, 2, False)
    y, _ = layer(Tensor(x))
    loss = (y * y).sum()
    loss.backward(retain_graph=True)
    once = [parameter.grad.numpy().copy() for parameter in layer.parameters()]
    loss.backward()
    for parameter, g in zip(layer.parameters(), once, strict=True):
        np.testing.assert_array_equal(parameter.grad.numpy(), 2 * g)
    with pytest.raises(RuntimeError, match="a second time"):
        loss.backward()


@pytest.mark.parametrize(
    "case", [("RNN", {}), ("JordanRNN", {"output_size": 6, "output_activation": "tanh"}), ("GRU", {}), ("LSTM", {})]
)
def test_learns_to_remember(case: tuple[str, dict[str, Any]]) -> None:
    """The sign of the first of five inputs, told at the end of sequences of unequal lengths."""
    manual_seed(5)
    rng = np.random.default_rng(5)
    layer = getattr(nn, case[0])(1, 8, **case[1])
    head = nn.Linear(6 if case[0] == "JordanRNN" else 8, 1)
    parameters = [*layer.parameters(), *head.parameters()]
    optimiser = optim.Adam(parameters, lr=0.05)
    lengths = np.tile([5, 3, 1, 4], 8)
    losses = []
    for _ in range(120):
        x = rng.standard_normal((5, 32, 1)).astype(np.float32)
        x[1:] *= 0.25
        _, hn = layer(Tensor(x), lengths=lengths)
        loss = nn.MSELoss()(head(listed(hn)[0][0]), Tensor(np.sign(x[0])))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.4 * losses[0]


# Bad arguments


def zeros(*shape: int, dtype: Any = np.float32) -> Array:
    return np.zeros(shape, dtype)


X = zeros(4, 2, 3)
H = zeros(1, 2, 5)
LSTM, GRU, RNN = nn.LSTM(3, 5), nn.GRU(3, 5), nn.RNN(3, 5)


def bad() -> Iterator[tuple[Any, type[Exception], list[str]]]:
    """call, error, what its message must contain."""
    makers: list[Any] = [nn.RNN, nn.LSTM, nn.GRU, lambda i, h, **k: nn.JordanRNN(i, h, 2, **k)]
    for build in [*makers, nn.RNNCell, nn.LSTMCell, nn.GRUCell]:
        yield lambda b=build: b(0, 5), ValueError, ["input_size=0", ">= 1"]
        yield lambda b=build: b(3, -5), ValueError, ["hidden_size=-5", ">= 1"]
        yield lambda b=build: b(3.0, 5), TypeError, ["input_size=3.0", "int"]
        yield lambda b=build: b(3, "5"), TypeError, ["hidden_size='5'", "int"]
        yield lambda b=build: b(3, 5, bias=1), TypeError, ["bias=1", "True or False"]
        yield lambda b=build: b(3, 5, dtype="float16"), TypeError, ["dtype='float16'", "float32"]
        yield lambda b=build: b(3, 5, algorithm="magic")(zeros(2, 3)), ValueError, ["algorithm='magic'", "'auto'"]
    for build in makers:
        yield lambda b=build: b(3, 5, num_layers=0), ValueError, ["num_layers=0", ">= 1"]
        yield lambda b=build: b(3, 5, num_layers=True), TypeError, ["num_layers=True", "int"]
        yield lambda b=build: b(3, 5, batch_first=None), TypeError, ["batch_first=None", "True or False"]
        yield lambda b=build: b(3, 5, bidirectional=2), TypeError, ["bidirectional=2", "True or False"]
        yield lambda b=build: b(3, 5, dropout=1.5), ValueError, ["dropout=1.5", "0 to 1"]
        yield lambda b=build: b(3, 5, dropout=-0.1), ValueError, ["dropout=-0.1", "0 to 1"]
        yield lambda b=build: b(3, 5, dropout=True), TypeError, ["dropout=True", "0 to 1"]
    yield lambda: nn.RNN(3, 5, 1, "sigmoid"), ValueError, ["nonlinearity='sigmoid'", "'tanh'", "'relu'"]
    yield lambda: nn.RNNCell(3, 5, nonlinearity=None), ValueError, ["nonlinearity=None", "'tanh'"]
    yield lambda: nn.JordanRNN(3, 5, 0), ValueError, ["output_size=0", ">= 1"]
    yield lambda: nn.JordanRNN(3, 5, 2, nonlinearity="linear"), ValueError, ["nonlinearity='linear'", "'tanh'"]
    yield lambda: nn.JordanRNN(3, 5, 2, output_activation="softmax"), ValueError, ["output_activation=", "'linear'"]
    yield lambda: nn.GRU(3, 5, reset_after=0), TypeError, ["reset_after=0", "True or False"]
    yield lambda: nn.LSTM(3, 5, proj_size=5), ValueError, ["proj_size=5", "0 to 4"]
    yield lambda: nn.LSTM(3, 5, proj_size=-1), ValueError, ["proj_size=-1", ">= 0"]
    yield lambda: nn.LSTM(3, 5, proj_size=2.0), TypeError, ["proj_size=2.0", "int"]
    yield lambda: nn.LSTM(3, 5, peephole=True), ValueError, ["peephole=True", "'diagonal'", "'full'"]
    yield lambda: nn.LSTM(3, 5, activation="relu"), ValueError, ["activation='relu'", "'tanh'", "'linear'"]
    yield lambda: nn.LSTM(3, 5, fully_connected=1), TypeError, ["fully_connected=1", "True or False"]
    yield lambda: nn.LSTM(3, 5, layer_norm="yes"), TypeError, ["layer_norm='yes'", "True or False"]
    yield lambda: nn.LSTM(3, 5, zoneout=1.5), ValueError, ["zoneout=1.5", "0 to 1"]
    yield lambda: nn.LSTM(3, 5, zoneout=(0.5, -1)), ValueError, ["zoneout=-1", "0 to 1"]
    yield lambda: nn.LSTM(3, 5, zoneout=(0.5,)), ValueError, ["zoneout=(0.5,)", "pair"]
    yield lambda: nn.LSTM(3, 5, zoneout=None), TypeError, ["zoneout=None", "pair"]
    for form in ("diagonal", "full"):
        yield (
            lambda p=form: nn.LSTM(3, 5, peephole=p, fully_connected=True),
            ValueError,
            [f"peephole={form!r}", "None", "fully_connected=True"],
        )
    yield lambda: nn.LSTM(3, 5, proj_size=2, peephole="full"), ValueError, ["proj_size=2", "0", "peephole='full'"]
    # Input.
    for layer in (RNN, LSTM, GRU):
        yield lambda m=layer: m(zeros(3)), ValueError, ["input=(3,)", "(T, batch, input_size)", "(T, input_size)"]
        yield lambda m=layer: m(zeros(1, 4, 2, 3)), ValueError, ["input=(1, 4, 2, 3)", "4 dimensions"]
        yield lambda m=layer: m(zeros(4, 2, 4)), ValueError, ["input=(4, 2, 4)", "input_size=3"]
        yield lambda m=layer: m(Tensor(zeros(4, 4))), ValueError, ["input=(4, 4)", "input_size=3"]
        yield lambda m=layer: m(X.astype(np.float64)), TypeError, ["weight_ih_l0", "float32", "input", "float64"]
        yield lambda m=layer: m(X.astype(np.int64)), TypeError, ["input", "int64", "float32"]
        yield lambda m=layer: m([[1.0, 2.0, 3.0]]), TypeError, ["input=[[", "NumPy array", "list"]
        yield lambda m=layer: m((X, H)), TypeError, ["input=(", "PackedSequence", "tuple"]
        yield lambda m=layer: m(None), TypeError, ["input=None", "NumPy array"]
    yield (
        lambda: nn.GRU(3, 5, batch_first=True)(zeros(4, 2, 4)),
        ValueError,
        ["input=(4, 2, 4)", "(batch, T, input_size)"],
    )
    # States.
    for layer in (RNN, GRU):
        yield lambda m=layer: m(X, zeros(1, 3, 5)), ValueError, ["hx=(1, 3, 5)", "(1, 2, 5)", "batch"]
        yield lambda m=layer: m(X, zeros(2, 5)), ValueError, ["hx=(2, 5)", "(1, 2, 5)"]
        yield lambda m=layer: m(X[:, 0], H), ValueError, ["hx=(1, 2, 5)", "(1, 5)"]
        yield lambda m=layer: m(X, H.astype(np.float64)), TypeError, ["hx", "float64", "input", "float32"]
        yield lambda m=layer: m(X, (H, H)), TypeError, ["hx=(", "NumPy array", "tuple"]
    yield lambda: LSTM(X, H), TypeError, ["hx=", "(h_0, c_0)", "ndarray"]
    yield lambda: LSTM(X, (H,)), ValueError, ["hx", "(h_0, c_0)", "1 values"]
    yield lambda: LSTM(X, (H, zeros(1, 2, 4))), ValueError, ["hx[1]=(1, 2, 4)", "(1, 2, 5)"]
    yield lambda: LSTM(X, (zeros(2, 2, 5), H)), ValueError, ["hx[0]=(2, 2, 5)", "(1, 2, 5)"]
    yield lambda: LSTM(X, (H, None)), TypeError, ["hx[1]=None", "NumPy array"]
    yield (
        lambda: nn.LSTM(3, 5, 2, bidirectional=True, proj_size=2)(X, (zeros(4, 2, 5), zeros(4, 2, 5))),
        ValueError,
        ["hx[0]=(4, 2, 5)", "(4, 2, 2)"],
    )
    yield lambda: nn.JordanRNN(3, 5, 2)(X, H), ValueError, ["hx=(1, 2, 5)", "(1, 2, 2)"]
    # Lengths.
    yield lambda: GRU(X, lengths=[4]), ValueError, ["lengths=(1,)", "(2,)"]
    yield lambda: GRU(X, lengths=zeros(2, 1, dtype=int)), ValueError, ["lengths=(2, 1)", "(2,)"]
    yield lambda: GRU(X, lengths=[5, 4]), ValueError, ["lengths", "5 is not allowed", "0 to 4"]
    yield lambda: GRU(X, lengths=np.array([2, -1])), ValueError, ["lengths", "-1 is not allowed", "0 to 4"]
    yield lambda: GRU(X, lengths=[2, -1]), ValueError, ["lengths=-1", ">= 0"]
    yield lambda: GRU(X, lengths=[2.0, 1]), TypeError, ["lengths=2.0", "int"]
    yield lambda: GRU(X, lengths=zeros(2)), TypeError, ["lengths", "float32", "integer"]
    yield lambda: GRU(X, lengths=np.array([True, False])), TypeError, ["lengths", "bool", "integer"]
    yield lambda: GRU(X, lengths=4), TypeError, ["lengths=4", "2 ints"]
    yield lambda: GRU(X, lengths="42"), TypeError, ["lengths='42'", "2 ints"]
    packed = pack_padded_sequence(X, [4, 2])
    yield lambda: GRU(packed, lengths=[4, 2]), ValueError, ["lengths", "PackedSequence"]
    yield lambda: GRU(packed._replace(data=zeros(6, 2))), ValueError, ["input.data=(6, 2)", "input_size=3"]
    yield lambda: GRU(packed._replace(data=zeros(6))), ValueError, ["input.data=(6,)", "input_size=3"]
    yield lambda: GRU(packed._replace(data=zeros(6, 3, dtype=float))), TypeError, ["weight_ih_l0", "float64"]
    yield lambda: GRU(packed, zeros(1, 3, 5)), ValueError, ["hx=(1, 3, 5)", "(1, 2, 5)"]
    # Cells.
    yield lambda: nn.LSTMCell(3, 5)(X), ValueError, ["input=(4, 2, 3)", "(batch, input_size)", "input_size=3"]
    yield lambda: nn.GRUCell(3, 5)(zeros(2, 4)), ValueError, ["input=(2, 4)", "input_size=3"]
    yield lambda: nn.GRUCell(3, 5)(zeros(2, 3, dtype=float)), TypeError, ["weight_ih", "float64"]
    yield lambda: nn.GRUCell(3, 5)(zeros(2, 3), zeros(3, 5)), ValueError, ["hx=(3, 5)", "(2, 5)"]
    yield lambda: nn.RNNCell(3, 5)(zeros(3), zeros(1, 5)), ValueError, ["hx=(1, 5)", "(5,)"]
    yield lambda: nn.LSTMCell(3, 5)(zeros(2, 3), zeros(2, 5)), TypeError, ["hx=", "(h_0, c_0)"]
    yield lambda: nn.LSTMCell(3, 5)(zeros(2, 3), (zeros(2, 5), zeros(2, 4))), ValueError, ["hx[1]=(2, 4)", "(2, 5)"]


@pytest.mark.parametrize(("call", "error", "parts"), list(bad()))
def test_bad_arguments_are_named(call: Any, error: type[Exception], parts: list[str]) -> None:
    with pytest.raises(error) as raised:
        call()
    for part in parts:
        assert part in str(raised.value)
