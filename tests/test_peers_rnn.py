"""The recurrent cases of bench/peers, without any peer: what tests/test_peers.py has is not said again here."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from test_peers import ROOT, Fake, cell, conv_work

from bench.peers import cases, cases_rnn, driver, expected, recurrent, table
from bench.peers.cases import Case
from fastconv import nn

CASES = cases_rnn.CASES
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
    assert (case.flops is None) == (case.work["kind"] in ("gradients", "training"))
    assert case.share is None or case.flops is not None


def test_bars():
    """Issue 4's table: ratio, seconds, share of the peak."""
    wanted = {
        "lstm_1": (0.80, None, None),
        "lstm_small": (0.60, None, None),
        "gru_1": (0.75, None, None),
        "gru_small": (0.72, None, None),
        "lstm_32": (0.97, None, 0.93),
        "gru_32": (0.90, None, 0.93),
        "lstm_cell": (None, 9e-6, None),
        "lstm_32_grad": (0.75, None, None),
        "lstm_32_train": (0.75, None, None),
        "gru_32_grad": (0.62, None, None),
        "gru_32_train": (0.62, None, None),
        "bilstm_grad": (0.50, None, None),
        "bilstm_train": (0.50, None, None),
        "bigru_grad": (0.25, None, None),
        "bigru_train": (0.25, None, None),
        **dict.fromkeys(LENGTHS, (0.40, None, None)),
        "rnn_32": (None, None, None),
    }
    assert {name for name, case in CASES.items() if case.per_step == 1.10} == set(LENGTHS)
    assert {name: (case.ratio, case.seconds, case.share) for name, case in CASES.items()} == wanted


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
    from bench.peers.work import modules

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


def test_peak_has_a_turn_in_each_round_and_cells_hold_its_median():
    log, rates = [], iter([3.0, 1.0, 2.0])

    def peak():
        log.append(("peak", "turn", {"discard": 1}))
        return next(rates)

    def measured(case):
        log.clear()
        pool = driver.Pool(lambda name: Fake(name, log))
        return driver.measure(case, ["fastconv", "a"], pool, 3, 60.0, lambda text: None, peak)

    cells = measured(Case("c", small(), flops=5.0))
    assert [name for name, do, arguments in log if do == "turn" and arguments["discard"]] == [
        "peak",
        "fastconv",
        "a",
    ] * 3
    assert cells["fastconv"]["peak"] == cells["a"]["peak"] == 2.0
    assert cells["fastconv"]["error"] < 1e-6
    assert "peak" not in measured(Case("c", conv_work()))["fastconv"]


def test_share_of_the_peak_is_a_bar():
    case = Case("c", small(), ratio=0.9, share=0.93, flops=94.0)
    kept, low, slow = cell(1.0, peak=100.0), cell(1.0, peak=102.0), cell(0.95, peak=100.0)
    peer = cell(1.2, peak=100.0)
    assert table.share(case, kept) == 0.94
    assert table.verdict(case, {"fastconv": kept, "a": peer})["verdict"] == "PASS"
    assert table.verdict(case, {"fastconv": low, "a": peer})["verdict"] == "short"
    assert table.verdict(case, {"fastconv": slow, "a": cell(1.0)})["verdict"] == "short"
    assert table.verdict(case, {"fastconv": cell(1.0), "a": peer})["verdict"] == "short"
    assert table.share(case, cell(1.0, error=1e-3, peak=100.0)) is None
    assert table.bar(case) == "≤ 0.90×, ≥ 93 % of peak"


def test_ratio_is_against_the_named_peers_alone():
    case = CASES["lstm_lengths"]
    cells = {"fastconv": cell(0.4), "fastconv_dense": cell(0.5), "torch": cell(1.0), "onnxruntime": cell(0.5)}
    assert table.verdict(case, cells) == {"best": "torch", "ratio": 0.4, "verdict": "PASS", "reason": ""}
    assert table.verdict(case, {**cells, "torch": {"crashed": "x"}})["verdict"] == "no peer"


def test_no_bar_is_no_pass():
    assert table.verdict(CASES["rnn_32"], {"fastconv": cell(2.0), "a": cell(1.0)})["verdict"] == "no bar"
    assert table.verdict(CASES["rnn_32"], {"fastconv": {}, "a": cell(1.0)})["verdict"] == "FAIL"


def test_table_has_shares_where_there_are_flops():
    case = CASES["lstm_32"]
    results = {
        "lstm_32": {"fastconv": cell(1.0, peak=case.flops * 1.05, kernel="lstm/fused/cpu"), "torch": cell(2.0)},
        "lstm_32_grad": {"fastconv": cell(1.0), "torch": cell(2.0)},
    }
    rows = table.rows(CASES, results, ["torch"])
    assert rows[0][2:5] == ["kernel", "of peak", "torch"]
    assert rows[1][2:5] == ["fused", "95 %", "2000"]
    assert rows[2][2:5] == ["", "", "2000"]
    assert "of peak" not in table.rows(cases.CASES, {"tiny": {"fastconv": cell()}}, ["torch"])[0]


@pytest.mark.parametrize(("seconds", "outcome"), [(0.82, "PASS"), (0.84, "short")])
def test_time_of_a_step_that_is_no_padding(seconds, outcome):
    cells = {"fastconv": cell(seconds), "fastconv_dense": cell(1.0), "torch": cell(9.0)}
    case = CASES["lstm_lengths"]
    assert table.per_step(case, cells) == pytest.approx(seconds / 0.75)
    assert table.verdict(case, cells)["verdict"] == outcome
    (note,) = table.notes(CASES, {"lstm_lengths": cells})
    assert note == f"lstm_lengths: {seconds / 0.75:.2f}× a dense step (1000 without padding), bar ≤ 1.10: {outcome}"
    assert table.bar(case) == "≤ 0.40×, ≤ 1.10× a dense step"


@pytest.mark.parametrize("dense", [{}, {"crashed": "gone"}, cell(error=1.0)])
def test_without_a_valid_dense_time_it_fails(dense):
    cells = {"fastconv": cell(0.1), "fastconv_dense": dense, "torch": cell(9.0)}
    judged = table.verdict(CASES["lstm_lengths"], cells)
    assert judged["verdict"] == "FAIL"
    assert judged["reason"].startswith("without padding: ")


def test_dense_work_has_turns_in_the_same_rounds_and_is_checked():
    log, work = [], small("lstm", lengths=[2, 4, 1])
    case = Case("c", work, dense=small("lstm"), per_step=1.1)
    pool = driver.Pool(lambda name: Fake(name, log, error=1e-3 if name == "a" else 0.0))
    cells = driver.measure(case, ["fastconv", "fastconv_dense", "a"], pool, 2, 60.0, lambda text: None)
    turns = [name for name, do, arguments in log if do == "turn" and arguments["discard"]]
    assert turns == ["fastconv", "fastconv_dense", "a"] * 2
    # The fake ones do the work that is given to them: each was compared with its own.
    assert max(cells[name]["error"] for name in ("fastconv", "fastconv_dense")) < 1e-6
    folders = [arguments["folder"] for name, do, arguments in log if do == "build"]
    assert folders[0] == folders[2] != folders[1]


def test_fastconv_is_a_runtime(tmp_path):
    """On every kind of recurrent work, in a worker of its own."""
    worker = driver.Worker("fastconv", 2, tmp_path)
    try:
        for name, work in SMALL.items():
            case, cells = replace(CASES["rnn_32"], work=work), {}
            data = driver.put(case, tmp_path)
            assert worker.ask("build", folder=str(tmp_path)) == {}, name
            worker.ask("turn", discard=0, calls=2)
            driver.Check(case, data)("fastconv", worker, tmp_path, cells)
            assert cells["error"] < table.ERROR_LIMIT, name
    finally:
        worker.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "rnn", "--cases", "vgg"], "--cases 'vgg': matches none of lstm_1"),
        (["--set", "rnn", "--peers", "torch,ncnn"], "--peers: 'ncnn' is not one of torch,onnxruntime"),
        (["--peers", "keras"], "--peers: 'keras' is not one of torch,torch_channels_last"),
        (["--set", "other"], "'other'"),
    ],
)
def test_command_line_names_what_is_wrong(arguments, message):
    done = subprocess.run([sys.executable, "-m", "bench.peers", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr
