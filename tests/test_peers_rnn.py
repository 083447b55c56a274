"""The recurrent cases of bench/peers, without any peer: what tests/test_peers.py has is not said again here."""

import numpy as np
import pytest

from fastconv import nn
from fastconv.peers import cases, cases_rnn, driver, expected, groups, recurrent
from fastconv.peers.cases import Case
from fastconv.peers.work import modules
from fastconv.report import runs

CASES = {
    case.name if case.work["kind"] == "forward" else f"{case.name} {case.work['kind']}": case
    for case in cases_rnn.series()
}
LENGTHS = ("lstm_lengths", "gru_lengths", "bilstm_lengths")


def small(op="lstm", kind="forward", layers=2, bidirectional=True, lengths=None):
    work = cases_rnn.work(op, 4, 3, 5, 2, layers, kind, bidirectional)
    return work if lengths is None else {**work, "lengths": lengths}


CELL = {"kind": "forward", "shape": [3, 5], "layers": [{"op": "lstm_cell", "in": 5, "hidden": 2}]}
SMALL = {
    **{op: small(op) for op in ("lstm", "gru", "rnn")},
    "one direction": small(bidirectional=False),
    "lengths": small("gru", lengths=[2, 4, 1]),
    "lstm lengths": small("lstm", lengths=[2, 4, 1]),
    "lstm gradients": small("lstm", "gradients"),
    "gru gradients": small("gru", "gradients", layers=1),
    "lstm training": small("lstm", "training"),
    "cell": CELL,
}


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_cases_fit_together(case):
    layer, data = case.work["layers"][0], cases.arrays(case.work)
    bound = layer["hidden"] ** -0.5
    for name, size in recurrent.shapes(layer).items():
        assert data[f"0.{name}"].shape == size
        assert data[f"0.{name}"].dtype == np.float32
        assert 0.9 * bound < np.abs(data[f"0.{name}"]).max() <= bound
    assert ("gy" in data) == (case.work["kind"] in ("gradients", "training"))
    assert (case.flops is None) == (case.work["kind"] == "training")
    assert "share" not in case.goal or case.flops is not None


def test_goals():
    """Issue 4's table: ratio, seconds, share of the peak."""
    both = ("gradients", "training")
    wanted = {
        "lstm_1": {"ratio": 0.80},
        "lstm_small": {"ratio": 0.60},
        "gru_1": {"ratio": 0.75},
        "gru_small": {"ratio": 0.72},
        "lstm_32": {"ratio": 0.97, "share": 0.93},
        "gru_32": {"ratio": 0.90, "share": 0.93},
        "lstm_cell": {"seconds": 9e-6},
        **{f"lstm_32 {kind}": {"ratio": 0.75} for kind in both},
        **{f"gru_32 {kind}": {"ratio": 0.62} for kind in both},
        **{f"bilstm {kind}": {"ratio": 0.50} for kind in both},
        **{f"bigru {kind}": {"ratio": 0.25} for kind in both},
        **{name: {"ratio_to_torch": 0.40, "per_step": 1.10} for name in LENGTHS},
        "rnn_32": {},
    }
    assert {name: case.goal for name, case in CASES.items()} == wanted


@pytest.mark.parametrize("name", LENGTHS)
def test_dense_work_differs_by_lengths_alone(name):
    case, work = CASES[name], dict(CASES[name].work)
    lengths = work.pop("lengths")
    assert work == case.dense
    t, b, _ = work["shape"]
    assert (sum(lengths), max(lengths), len(lengths)) == (0.75 * t * b, t, b)
    assert min(lengths) >= t // 2
    # Neither order helps anybody.
    assert lengths not in (sorted(lengths), sorted(lengths, reverse=True))
    assert case.flops == 0.75 * recurrent.flops(work)
    for one, other in zip(cases.arrays(case.work).items(), cases.arrays(work).items(), strict=True):
        assert one[0] == other[0]
        np.testing.assert_array_equal(one[1], other[1])


@pytest.mark.parametrize("seed", range(20))
def test_mean_length_is_exact(seed):
    lengths = cases_rnn.drawn_lengths(30, 32, seed)
    assert np.mean(lengths) == 22.5
    assert max(lengths) == 30


def test_flops():
    assert CASES["lstm_1"].flops == 2 * 30 * 4 * 512 * (300 + 512 + 512 + 512)
    assert CASES["gru_small"].flops == 2 * 100 * 16 * 3 * 128 * (64 + 128)
    assert CASES["bilstm_lengths"].flops == 0.75 * 2 * 30 * 32 * 2 * 4 * 64 * (12 + 64)
    assert CASES["lstm_cell"].flops == 2 * 4 * 128 * 256


@pytest.mark.parametrize("work", SMALL.values(), ids=SMALL)
def test_parameters_are_the_layer_s_own(work):
    """Names, shapes and order are those of the layer that runtimes make of it."""
    state = modules(nn, work["layers"])[0].state_dict()
    assert [(name, array.shape) for name, array in state.items()] == list(recurrent.shapes(work["layers"][0]).items())


def test_gates_in_another_order():
    rows = np.repeat(np.arange(4), 2)
    assert recurrent.reordered(rows, "lstm", "iofg").tolist() == [0, 0, 3, 3, 1, 1, 2, 2]
    rows = np.repeat(np.arange(3), 2)[:, None]
    assert recurrent.reordered(rows, "gru", "zrn")[:, 0].tolist() == [1, 1, 0, 0, 2, 2]
    assert recurrent.reordered(rows, "rnn", "h") is not None


def test_flat():
    assert recurrent.flat(("y", ("h", "c"))) == ["y", "h", "c"]
    assert recurrent.flat(("y", "h")) == ["y", "h"]


@pytest.mark.parametrize("work", SMALL.values(), ids=SMALL)
def test_expected_shapes(work):
    data = cases.arrays(work)
    shapes = [y.shape for y in expected.outputs(work, data)]
    layer = work["layers"][0]
    directions = 2 if layer.get("bidirectional") else 1
    state = (layer.get("layers", 1) * directions, 3, 2)
    letters = 2 if layer["op"].startswith("lstm") else 1
    if work is CELL:
        assert shapes == [(3, 2), (3, 2)]
    elif work["kind"] == "forward":
        assert shapes == [(4, 3, 2 * directions), *[state] * letters]
    else:
        of_x = [(4, 3, 5)] if work["kind"] == "gradients" else []
        assert shapes == [(4, 3, 2 * directions), *of_x, *recurrent.shapes(layer).values()]


@pytest.mark.parametrize("op", ["lstm", "gru"])
def test_expected_gradients_by_finite_differences(op):
    """Through two layers of two directions, with lengths."""
    work = small(op, "gradients", lengths=[2, 4, 1])
    data = {name: array.astype(np.float64) for name, array in cases.arrays(work).items()}
    names = ["x", *(f"0.{name}" for name in recurrent.shapes(work["layers"][0]))]
    gradients = dict(zip(names, expected.outputs(work, data)[1:], strict=True))

    def value():
        return float((expected.outputs({**work, "kind": "forward"}, data)[0] * data["gy"]).sum())

    for name in names:
        for index in range(0, data[name].size, 3):
            kept = data[name].flat[index]
            data[name].flat[index] = kept + 1e-6
            up = value()
            data[name].flat[index] = kept - 1e-6
            down = value()
            data[name].flat[index] = kept
            assert gradients[name].flat[index] == pytest.approx((up - down) / 2e-6, rel=1e-6, abs=1e-8)


def test_padding_is_random_and_has_no_effect():
    work = small("lstm", lengths=[2, 4, 1])
    data = cases.arrays(work)
    before = expected.outputs(work, data)
    assert (before[0][2:, 0] == 0).all()
    assert np.abs(data["x"][2:, 0]).min() > 0
    data["x"][2:, 0] = np.nan
    for one, other in zip(before, expected.outputs(work, data), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("work", SMALL.values(), ids=SMALL)
def test_fastconv_is_a_runtime(tmp_path, work):
    """On every kind of recurrent work, in a worker of its own."""
    group = groups.of_case(Case("c", work, {}, "", peers=()), ())
    pool = driver.Pool(lambda name: driver.Worker(name, 2, tmp_path))
    try:
        found = driver.measure(group, group.contenders, pool, driver.Budget(1, 0.001))
    finally:
        pool.close()
    (cell,) = found.cells.values()
    assert cell["error"] < runs.ERROR_LIMIT


def test_a_step_that_is_no_padding():
    """The goal is of times by flops, which are those of steps that are no padding."""
    shared = {"group": "g", "case": "c", "op": "network", "runtime": "fastconv", "error": 0.0, "rounds": 3}
    own = runs.Row(
        **shared, name="network/fastconv", role="layer", chosen=True, seconds=0.8, flops=75.0, goal={"per_step": 1.1}
    )
    dense = runs.Row(**shared, name="network/fastconv_dense", role="aside", seconds=1.0, flops=100.0)
    ((_, value, kept),) = runs.Group("g", "c", "network", (own, dense)).goals
    assert value == pytest.approx(0.8 / 0.75)
    assert kept
