"""bench/peers without any peer: fake workers, whose answers the tests know."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.peers import __main__ as command
from bench.peers import cases, driver, expected, table
from bench.peers.cases import Case

ROOT = Path(__file__).parents[1]


def conv_work(kind="forward"):
    layer = {"op": "conv", "in": 2, "out": 3, "kernel": [2, 3], "stride": [1, 2], "padding": [0, 1], "groups": 1}
    return {"kind": kind, "shape": [2, 2, 5, 7], "layers": [{**layer, "bias": True}]}


class Fake:
    """A worker that does the work with the reference: `seconds` a call, `error` added to every output."""

    def __init__(self, name, log, seconds=1e-3, error=0.0, crash="", cannot=""):
        self.name, self.log, self.seconds, self.error = name, log, seconds, error
        self.crash, self.cannot, self.closed = crash, cannot, False

    def ask(self, do, **arguments):
        self.log.append((self.name, do, arguments))
        if do == self.crash:
            raise driver.Crashed("Segmentation fault")
        return getattr(self, do)(**arguments)

    def close(self):
        self.closed = True

    def hello(self):
        return {"version": f"{self.name} 1", "threads": 2}

    def build(self, folder):
        if self.cannot:
            return {"cannot": self.cannot}
        folder = Path(folder)
        work = json.loads((folder / "work.json").read_text())
        with np.load(folder / "arrays.npz") as file:
            self.outputs_of_call = expected.outputs(work, dict(file))
        return {}

    def turn(self, discard, calls, repeat=1):
        return {"seconds": [self.seconds] * calls, "settled": True, "settling": 0.0, "processors": 2.0}

    def outputs(self, file):
        np.savez(file, *(y + self.error * np.abs(y).max() for y in self.outputs_of_call))
        return {"kernel": ""}


def measured(rounds=3, **fakes):
    """(cells, log) of a small convolution with these fake workers."""
    log = []
    pool = driver.Pool(lambda name: Fake(name, log, **fakes[name]))
    cells = driver.measure(Case("small", conv_work(), ratio=1.0), fakes, pool, rounds, 60.0, lambda text: None)
    return cells, log


def cell(seconds=1.0, error=1e-7, **more):
    return {"seconds": seconds, "low": seconds, "high": seconds, "count": 1, "error": error, **more}


def judged(own, ratio=0.7, seconds=None, **peers):
    return table.verdict(Case("c", conv_work(), ratio, seconds), {"fastconv": own, **peers})


def test_turns_alternate():
    _, log = measured(3, a={}, b={}, c={})
    # After the building and checking, in which each has some turns of its own.
    turns = [name for name, do, arguments in log if do == "turn" and arguments["discard"]]
    assert turns == ["a", "b", "c"] * 3


def test_every_turn_discards_its_first_call():
    _, log = measured(2, a={"seconds": 1.0}, b={"seconds": 1e-3}, c={"seconds": 1e-6})
    plans = {name: arguments for name, do, arguments in log if do == "turn" and arguments["discard"]}
    assert plans["a"] == {"discard": 1, "calls": 1, "repeat": 1}
    assert plans["b"] == {"discard": 12, "calls": 50, "repeat": 1}
    assert plans["c"] == {"discard": 12, "calls": 50, "repeat": 1000}


def test_cells_hold_statistics_and_error():
    cells, _ = measured(3, a={"error": 1e-3}, fastconv={})
    assert cells["a"]["error"] == pytest.approx(1e-3, rel=1e-3)
    assert cells["a"]["seconds"] == cells["a"]["low"] == 1e-3
    assert cells["a"]["count"] == 150
    assert cells["fastconv"]["error"] < 1e-6


@pytest.mark.parametrize("command", ["hello", "build", "turn", "outputs"])
def test_crashed_worker_ends_only_itself(command):
    cells, log = measured(3, a={}, b={"crash": command}, c={})
    assert cells["b"] == {"crashed": "Segmentation fault"}
    assert cells["a"]["count"] == cells["c"]["count"] == 150
    assert [name for name, do, _ in log].count("b") <= 4


def test_crashed_worker_starts_again_for_the_next_case():
    started, log = [], []

    def start(name):
        started.append(name)
        return Fake(name, log, crash="turn" if started.count(name) == 1 else "")

    pool = driver.Pool(start)
    case = Case("small", conv_work())
    first, second = (driver.measure(case, ["a"], pool, 1, 1.0, lambda text: None) for _ in range(2))
    assert first["a"] == {"crashed": "Segmentation fault"}
    assert second["a"]["count"] == 50
    assert started == ["a", "a"]


def test_cannot_is_told_in_the_cell():
    cells, _ = measured(1, a={"cannot": "no training"}, b={})
    assert cells["a"] == {"cannot": "no training"}
    assert table.cell_text("a", cells["a"]) == "no training"


def test_real_worker_that_dies_is_a_crash(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "python", lambda peer: sys.executable)
    worker = driver.Worker("no_such_runtime", 1, tmp_path)
    with pytest.raises(driver.Crashed, match=r"No module named .*no_such_runtime"):
        worker.ask("hello")
    worker.close()


def test_fresh_processes_alternate_and_the_first_round_does_not_count():
    log, caches = [], []

    def start(name, cache):
        caches.append((name, cache))
        return Fake(name, log)

    case = Case("first", conv_work(), seconds=1.0, fresh="empty")
    cells = driver.measure_fresh(case, ["fastconv", "torch"], start, 2, lambda text: None)
    assert [name for name, _ in caches] == ["fastconv", "torch"] * 3
    assert len({cache for _, cache in caches}) == 3
    assert cells["fastconv"]["count"] == 2
    assert 0 < cells["torch"]["seconds"] < 1


def test_pass_and_short():
    assert judged(cell(0.7), a=cell(1.0), b=cell(1.5)) == {"best": "a", "ratio": 0.7, "verdict": "PASS", "reason": ""}
    assert judged(cell(0.71), a=cell(1.0))["verdict"] == "short"
    assert judged(cell(2e-6), None, 3e-6, a=cell(1e-6))["verdict"] == "PASS"
    assert judged(cell(4e-6), None, 3e-6, a=cell(9.0))["verdict"] == "short"
    assert judged(cell(0.1), 0.7, 0.05, a=cell(1.0))["verdict"] == "short"


def test_wrong_peer_wins_nothing_but_is_shown():
    found = judged(cell(0.5), wrong=cell(0.1, error=2e-5), nan=cell(0.1, error=float("nan")), right=cell(1.0))
    assert (found["best"], found["ratio"]) == ("right", 0.5)
    assert table.cell_text("wrong", cell(0.1, error=2e-5)) == "100 error 2e-05"


def test_no_valid_peer():
    assert judged(cell(0.5), wrong=cell(0.1, error=1.0), gone={"crashed": "x"})["verdict"] == "no peer"


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        ({"crashed": "Segmentation fault"}, "Segmentation fault"),
        ({"cannot": "no training"}, "no training"),
        ({}, "not measured"),
        (cell(0.1, error=2e-5), "error 2.0e-05 over 1e-05"),
        (cell(0.1, error=float("nan")), "error nan over 1e-05"),
        (
            cell(0.1, kernel="conv2d/x/cpu", kernel_error=3.0, kernel_limit=1.0),
            "conv2d/x/cpu: error 3.00 over its limit 1",
        ),
    ],
)
def test_fastconv_fails(own, reason):
    found = judged(own, a=cell(1.0))
    assert (found["verdict"], found["reason"], found["ratio"]) == ("FAIL", reason, None)


def test_kernel_error_is_in_units_of_its_limit():
    problem = cases.testing.CASES["conv-bias"].problem
    work = {"kind": "forward", "shape": list(problem.input_shape), "layers": [cases.layer(problem)]}
    data = cases.arrays(work)
    y = expected.outputs(work, data)[0]
    error, limit = expected.kernel_error(problem, "conv2d/im2col/cpu", data, y.astype(np.float32))
    assert error <= 0.5 <= limit
    assert expected.kernel_error(problem, "conv2d/im2col/cpu", data, (y + 1e-2).astype(np.float32))[0] > 100


def test_table_has_every_cell(capsys):
    results = {name: {"fastconv": cell(0.6), "a": cell(1.0)} for name in cases.VGG_LAYERS}
    results["tiny"] = {
        "fastconv": cell(2e-6, kernel="conv2d/direct/cpu"),
        "a": {"crashed": "a long line of last words"},
    }
    rows = table.rows(cases.CASES, results, ["a", "b"])
    assert rows[0][3:5] == ["a", "b"]
    assert rows[1] == ["vgg1_2", "600 (600–600)", "", "1000", "–", "a", "0.60", "≤ 0.70×", "PASS"]
    assert rows[-1][1:5] == ["2.00 µs (2.00 µs–2.00 µs)", "direct", "crashed: a long l…", "–"]
    assert table.geometric_mean(cases.CASES, results) == pytest.approx(0.6)
    notes = "\n".join(table.notes(cases.CASES, results))
    assert "tiny: a crashed: a long line of last words" in notes
    assert "0.60, bar ≤ 0.60" in notes
    table.print_rows(rows)
    assert len(capsys.readouterr().out.splitlines()) == len(rows) + 1


def test_geometric_mean_needs_all_five():
    results = {"vgg5": {"fastconv": cell(0.5), "a": cell(1.0)}}
    assert table.geometric_mean(cases.CASES, results) is None


def test_figures():
    assert [table.figure(s) for s in (3.1e-6, 2e-4, 0.0123, 0.61, 12.0)] == [
        "3.10 µs",
        "0.200",
        "12.3",
        "610",
        "12.0 s",
    ]


def test_peaks_that_moved():
    assert driver.moved({"fma": 100.0, "L2": 50.0}, {"fma": 80.0, "L2": 50.0}) == {"fma": pytest.approx(0.2), "L2": 0}


def test_report_is_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "out" / "report.json"
    driver.save({"results": {"a": 1}}, path)

    def interrupted(*names):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        driver.save({"results": {"a": 2}}, path)
    assert driver.load(path) == {"a": 1}
    assert driver.load(tmp_path / "none.json") == {}


def test_results_are_saved_as_they_come_and_resumed(tmp_path, monkeypatch):
    chosen = {name: Case(name, conv_work(), ratio=1.0) for name in ("one", "two", "three")}
    out, seen, log = tmp_path / "out.json", [], []
    options = command.argparse.Namespace(
        chosen=chosen, peers=["torch"], quick=True, rounds=1, seconds=1.0, out=out, threads=2
    )
    monkeypatch.setattr(command, "tell", lambda text: seen.append(sorted(driver.load(out))))
    report = {"results": {"one": {"fastconv": cell()}}, "verdicts": {}}
    command.run(options, driver.Pool(lambda name: Fake(name, log)), tmp_path, report)
    assert ["one", "two"] in seen
    assert sorted(driver.load(out)) == ["one", "three", "two"]
    assert sum(do == "build" for _, do, _ in log) == 4


@pytest.mark.parametrize("case", cases.CASES.values(), ids=lambda case: case.name)
def test_cases_fit_together(case):
    """Shapes of arrays and outputs follow from the layers, and every bar is there."""
    assert case.ratio or case.seconds
    if case.problem is not None:
        assert cases.output_shape(case.work) == case.problem.output_shape
    if np.prod(case.work["shape"]) < 1e5:
        outputs = expected.outputs(case.work, cases.arrays(case.work))
        if case.work["kind"] != "step":
            assert outputs[0].shape == cases.output_shape(case.work)


def test_gradients_of_a_step_by_finite_differences():
    work = {"kind": "step", "shape": [2, 1, 28, 28], "layers": cases.lenet5()}
    data = {name: a.astype(np.float64) if a.dtype == np.float32 else a for name, a in cases.arrays(work).items()}
    names = [name for name in data if "." in name]
    gradients = dict(zip(names, expected.outputs(work, data), strict=False))

    def loss():
        y = expected.outputs({**work, "kind": "forward"}, data)[0]
        return expected.reference.cross_entropy(y, data["target"])

    for name in ("0.weight", "3.bias", "9.weight"):
        step = np.zeros_like(data[name])
        step.flat[1] = 1e-5
        data[name] += step
        up = loss()
        data[name] -= 2 * step
        down = loss()
        data[name] += step
        assert gradients[name].flat[1] == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-8)


def test_fastconv_is_a_runtime(tmp_path):
    """The one runtime that is always here, in a worker of its own, on every kind of work."""
    worker = driver.Worker("fastconv", 2, tmp_path)
    try:
        assert worker.ask("hello")["threads"] == 2
        step = {"kind": "step", "shape": [4, 1, 28, 28], "layers": cases.lenet5()}
        for work in (conv_work(), conv_work("gradients"), step):
            cells = {}
            data = driver.put(Case("c", work), tmp_path)
            assert worker.ask("build", folder=str(tmp_path)) == {}
            answer = worker.ask("turn", discard=0, calls=1)
            assert len(answer["seconds"]) == 1
            driver.Check(Case("c", work), data)("fastconv", worker, tmp_path, cells)
            assert cells["error"] < table.ERROR_LIMIT
    finally:
        worker.close()


def test_command_line_names_what_is_wrong():
    done = subprocess.run(
        [sys.executable, "-m", "bench.peers", "--cases", "nothing"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "--cases 'nothing': matches none of vgg1_1" in done.stderr
