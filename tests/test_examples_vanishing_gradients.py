"""The vanishing-gradients example: what it prints and draws is what happens."""

import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest

import fastconv
from fastconv import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
example = importlib.import_module("vanishing_gradients")


@pytest.fixture(scope="module")
def found():
    return {line.name: line for line in example.lines(200, 0, 3.0, 2.0, example.Console())}


def test_initial_layers_vanish_and_open_gates_do_not(found):
    assert all(line.norms.shape == (200,) and line.norms[0] == 1 for line in found.values())
    for kind in ("RNN", "LSTM", "GRU"):
        assert 1e-60 < found[f"{kind}, as initialised"].norms[-1] < 1e-30
    assert 1e-5 < found["GRU, update gate's bias + 3"].norms[-1] < 1
    assert 1e-3 < found["LSTM, forget gate's bias + 3"].norms[-1] < 1e3
    assert found["RNN, recurrent weights 2 × orthogonal"].norms[-1] > 1e8


def test_norms_are_those_of_the_chain_rule():
    fastconv.manual_seed(4)
    layer = nn.RNN(example.INPUTS, example.HIDDEN, dtype=np.float64)
    norms = example.back_propagate(layer, 12, 7)
    random = np.random.default_rng(7)
    x = random.normal(size=(12, example.BATCH, example.INPUTS))
    g = random.normal(size=(example.BATCH, example.HIDDEN))
    w_ih, w_hh = layer.weight_ih_l0.detach().numpy(), layer.weight_hh_l0.detach().numpy()
    bias = layer.bias_ih_l0.detach().numpy() + layer.bias_hh_l0.detach().numpy()
    h, states = np.zeros_like(g), []
    for step in x:
        h = np.tanh(step @ w_ih.T + h @ w_hh.T + bias)
        states.append(h)
    expected = []
    for h in reversed(states):
        # ∂L/∂a of this step, by which its input and the state before it are weighted.
        g = g * (1 - h**2)
        expected.append(np.linalg.norm(g @ w_ih))
        g = g @ w_hh
    np.testing.assert_allclose(norms, expected[::-1], rtol=1e-10)


@pytest.mark.parametrize(("factor", "expected"), [(0.99, 4.317e-5), (1.01, 20_959)])
def test_one_unit_multiplies(factor, expected):
    # 1,000 roundings of relative size 1.1e-16.
    assert example.product(factor, 1000) == pytest.approx(math.pow(factor, 1000), rel=2e-13)
    assert example.product(factor, 1000) == pytest.approx(expected, rel=1e-4)


def test_clipping_bounds_the_step_and_keeps_its_direction(found):
    layer = found["RNN, recurrent weights 2 × orthogonal"].layer
    before = [p.detach().numpy().copy() for p in layer.parameters()]
    norm, free = example.step(layer, 0.1, None)
    again, clipped = example.step(layer, 0.1, 1.0)
    assert norm == again > 1e8
    assert np.linalg.norm(free) == pytest.approx(0.1 * norm)
    assert np.linalg.norm(clipped) == pytest.approx(0.1, rel=1e-6)
    assert free @ clipped == pytest.approx(np.linalg.norm(free) * np.linalg.norm(clipped))
    for p, values in zip(layer.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.detach().numpy(), values)


def test_the_command_prints_and_draws(tmp_path, capsys):
    path = tmp_path / "new" / "picture.png"
    example.main(["--steps", "20", "--out", str(path)])
    printed = capsys.readouterr().out
    assert "0.99^1000 = 4.317125e-05" in printed
    assert "1.01^1000 = 20,959.16" in printed
    assert "GRU, update gate's bias + 3" in printed
    header = path.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(header[16:20], "big") == 1275
