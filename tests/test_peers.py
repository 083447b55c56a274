"""bench/peers without any peer: fake workers, whose answers the tests know."""

import json
import sys
from dataclasses import replace
from itertools import pairwise
from math import prod
from pathlib import Path

import numpy as np
import pytest

from fastconv import nn, testing
from fastconv.kernels.cuda import launch
from fastconv.peers import cases, driver, expected, groups
from fastconv.peers.cases import Case
from fastconv.peers.driver import Budget, Plan
from fastconv.peers.groups import Contender, Given, Group
from fastconv.peers.journal import CannotResume, Journal
from fastconv.peers.record import Record
from fastconv.peers.work import modules, program
from fastconv.problem import ConvProblem, LinearProblem, PoolProblem, RecurrentProblem
from fastconv.registry import OPS, has_meaning, kernels, operations
from fastconv.report import runs

BUDGET = Budget(3, 0.05, 60.0, 2)


def conv_work(kind="forward"):
    window = {"kernel": [2, 3], "stride": [1, 2], "padding": [0, 1], "dilation": [1, 1]}
    return {
        "kind": kind,
        "shape": [2, 2, 5, 7],
        "layers": [{"op": "conv", "in": 2, "out": 3, **window, "groups": 1, "bias": True}],
    }


class Fake:
    """A worker that does the work with the reference: `seconds` a call, `error` added to every output."""

    def __init__(self, name, log, seconds=1e-3, error=0.0, crash="", cannot="", lazy=False):
        self.name, self.log, self.seconds, self.error, self.lazy = name, log, seconds, error, lazy
        self.crash, self.cannot, self.closed = crash, cannot, False
        self.made = {}

    def ask(self, do, **arguments):
        self.log.append((self.name, do, arguments))
        if do == self.crash:
            raise driver.Crashed("Segmentation fault")
        return getattr(self, do)(**arguments)

    def close(self):
        self.closed = True

    def hello(self):
        return {"version": f"{self.name} 1", "threads": 2}

    def clear(self):
        self.made = {}
        return {}

    def build(self, folder, slot="", options=None):
        if self.cannot:
            return {"cannot": self.cannot}
        folder = Path(folder)
        work = json.loads((folder / "work.json").read_text())
        with np.load(folder / "arrays.npz") as file:
            self.made[slot] = expected.outputs(work, dict(file))
        return {}

    def turn(self, discard, calls, repeat=1, slot="", poison=False):
        return {"seconds": [self.seconds] * calls, "settled": True, "settling": 0.0, "processors": 2.0}

    def outputs(self, file, slot=""):
        np.savez(file, *(y + self.error * np.abs(y).max() for y in self.made[slot]))
        return {"kernel": ""}


def of_work(names, work=None, **more):
    """A group of one piece of work, a contender for each process; "x:y" is a row y of the process x."""
    rows = [Contender(f"network/{n}", n.split(":")[0], "layer" if n == "fastconv" else "peer") for n in names]
    return Group("small network", "small", "network", tuple(rows), None, work or conv_work(), **more)


def measured(budget=BUDGET, group=None, peak=None, **fakes):
    """(cells by process, log) of a small convolution with these fake workers."""
    log = []
    pool = driver.Pool(lambda name: Fake(name, log, **fakes[name]))
    group = group or of_work(fakes)
    found = driver.measure(group, group.contenders, pool, budget, peak=peak)
    return {name.split("/")[1]: cell for name, cell in found.cells.items()}, log


def turns(log):
    """Who had turns, after building and checking, in which each has some of its own: those have no `repeat`."""
    return [name for name, do, arguments in log if do == "turn" and "repeat" in arguments]


def test_turns_alternate():
    _, log = measured(a={}, b={}, c={})
    assert turns(log) == ["a", "b", "c"] * 3


def test_every_turn_discards_its_first_calls_and_poisons_its_last():
    _, log = measured(a={"seconds": 0.2}, b={"seconds": 1e-3}, c={"seconds": 1e-6})
    plans = {name: arguments for name, do, arguments in log if do == "turn" and "repeat" in arguments}
    wanted = {"a": (1, 1, 1), "b": (12, 50, 1), "c": (10_000, 50, 1000)}
    for name, (discard, calls, repeat) in wanted.items():
        assert plans[name] == {
            "slot": f"network/{name}",
            "discard": discard,
            "calls": calls,
            "repeat": repeat,
            "poison": True,
        }


def test_a_long_call_has_few_rounds():
    assert Plan.of(0.3, Budget(10)) == Plan(0, 1, 1, 3)
    assert Plan.of(1e-3, Budget(10)).rounds == 10
    cells, log = measured(Budget(6, 0.05, 60.0), a={"seconds": 0.3}, b={})
    assert turns(log) == ["a", "b"] * 3 + ["b"] * 3
    assert len(cells["a"]["times"]) == 3


def test_after_its_seconds_a_group_has_the_fewest_rounds():
    _, log = measured(Budget(20, 0.05, 0.0), a={})
    assert turns(log) == ["a"] * driver.FEWEST_ROUNDS


def test_cells_hold_times_and_error():
    cells, _ = measured(a={"error": 1e-3}, fastconv={})
    assert cells["a"]["error"] == pytest.approx(1e-3, rel=1e-3)
    assert cells["a"]["times"] == [1e-3] * 150
    assert cells["fastconv"]["error"] < 1e-6


def test_the_peak_has_a_turn_in_each_round():
    rates = iter([3.0, 1.0, 2.0])
    log = []
    pool = driver.Pool(lambda name: Fake(name, log))
    group = of_work(["fastconv", "a"], flops=4.0)
    found = driver.measure(group, group.contenders, pool, BUDGET, peak=lambda: next(rates))
    assert found.peaks == [3.0, 1.0, 2.0]
    record = Record("abc", limits=[{"fma": {str(Record("").machine.threads): 3.0}, "copy": {}}])
    notes = record.add(group, group.contenders[0], found, "again")
    assert notes["fma_peak_gflops"] == pytest.approx(2e-9)
    assert notes["share_of_peak"] == pytest.approx(4.0 / 1e-3 / 2.0)
    # A machine that was a third slower around this row than at other times says that its time is not settled.
    assert notes["steady"] is False


@pytest.mark.parametrize("command", ["hello", "build", "turn", "outputs"])
def test_a_crashed_worker_ends_only_itself(command):
    cells, log = measured(a={}, b={"crash": command}, c={})
    assert cells["b"] == {"crashed": "Segmentation fault"}
    assert len(cells["a"]["times"]) == len(cells["c"]["times"]) == 150
    assert [name for name, do, _ in log if do not in ("hello", "clear")].count("b") <= 4


def test_a_crash_ends_all_rows_of_its_process_and_of_no_other():
    log = []
    pool = driver.Pool(lambda name: Fake(name, log, crash="turn" if name == "b" else ""))
    group = of_work(["a", "b:1", "b:2"])
    found = driver.measure(group, group.contenders, pool, BUDGET)
    assert found.cells["network/b:1"] == found.cells["network/b:2"] == {"crashed": "Segmentation fault"}
    assert len(found.cells["network/a"]["times"]) == 150


def test_a_crashed_worker_starts_again_for_the_next_group():
    started, log = [], []

    def start(name):
        started.append(name)
        return Fake(name, log, crash="turn" if started.count(name) == 1 else "")

    pool, group = driver.Pool(start), of_work(["a"])
    first, second = (driver.measure(group, group.contenders, pool, Budget(1)).cells["network/a"] for _ in range(2))
    assert first == {"crashed": "Segmentation fault"}
    assert len(second["times"]) == 50
    assert started == ["a", "a"]


def test_cannot_is_told_in_the_cell():
    cells, _ = measured(a={"cannot": "no training"}, b={})
    assert cells["a"] == {"cannot": "no training"}


def test_a_real_worker_that_dies_is_a_crash(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "interpreter", lambda runtime: sys.executable)
    worker = driver.Worker("no_such_runtime", 1, tmp_path)
    with pytest.raises(driver.Crashed, match=r"No module named .*no_such_runtime"):
        worker.ask("hello")
    worker.close()


def test_a_worker_that_does_not_answer_is_a_crash(tmp_path, monkeypatch):
    silent = tmp_path / "python"
    silent.write_text("#!/bin/sh\nexec sleep 60\n")
    silent.chmod(0o755)
    monkeypatch.setattr(driver, "interpreter", lambda runtime: str(silent))
    monkeypatch.setattr(driver, "PATIENCE", 0.1)
    worker = driver.Worker("torch", 1, tmp_path)
    with pytest.raises(driver.Crashed, match="no answer to hello"):
        worker.ask("hello")
    assert worker.process.returncode is not None
    # The pool closes it once more.
    worker.close()


def test_starts_alternate_and_the_first_round_does_not_count():
    log, caches = [], []

    def start(name, cache):
        caches.append((name, cache))
        return Fake(name, log)

    group = of_work(["fastconv", "torch"], fresh="empty")
    cells = driver.measure_starts(group, group.contenders, start, BUDGET).cells
    assert [name for name, _ in caches] == ["fastconv", "torch"] * 3
    assert len({cache for _, cache in caches}) == 3
    assert len(cells["network/fastconv"]["times"]) == 2
    assert 0 < min(cells["network/torch"]["times"]) < 1


@pytest.mark.parametrize("case", ["filled", "empty"])
def test_starts_find_compiled_code_or_none(case):
    caches, workers = [], []

    def start(name, cache):
        caches.append(cache)
        workers.append(Fake(name, []))
        return workers[-1]

    group = of_work(["fastconv"], fresh=case)
    driver.measure_starts(group, group.contenders, start, BUDGET)
    assert len(set(caches)) == (1 if case == "filled" else 3)
    assert all(worker.closed for worker in workers)


def test_a_start_that_crashes_ends_only_itself():
    group = of_work(["fastconv", "torch"], fresh="empty")

    def start(name, cache):
        return Fake(name, [], crash="turn" if name == "torch" else "")

    cells = driver.measure_starts(group, group.contenders, start, BUDGET).cells
    assert cells["network/torch"] == {"crashed": "Segmentation fault"}
    assert len(cells["network/fastconv"]["times"]) == 2


def test_dense_work_has_turns_in_the_same_rounds_and_is_checked():
    from test_peers_rnn import small

    work, log = small("lstm", lengths=[2, 4, 1]), []
    group = groups.of_case(Case("c", work, {"per_step": 1.1}, "", dense=small("lstm"), flops=7.0), ("torch",))
    pool = driver.Pool(lambda name: Fake(name, log))
    cells = driver.measure(group, group.contenders, pool, BUDGET).cells
    assert turns(log) == ["fastconv", "fastconv_dense", "torch"] * 3
    # The fake ones do the work that is given to them: each was compared with its own.
    assert max(cell["error"] for cell in cells.values()) < 1e-6
    folders = [arguments["folder"] for _, do, arguments in log if do == "build"]
    assert folders[0] == folders[2] != folders[1]


def test_kernels_share_a_process_and_are_judged_by_their_own_limits(tmp_path):
    problem = testing.CASES["linear-odd"].problem
    group = groups.of_problem("odd", problem, "linear", ())
    assert [one.name for one in group.contenders] == [*(kernel.name for kernel in kernels("linear")), "linear/fastconv"]
    assert group.chosen == "linear/fastconv"
    pool = driver.Pool(lambda name: driver.Worker(name, 2, tmp_path))
    try:
        found = driver.measure(group, group.contenders, pool, Budget(2, 0.001))
    finally:
        pool.close()
    assert set(pool.about) == {"kernels", "fastconv"}
    for one in group.contenders:
        cell = found.cells[one.name]
        assert cell["times"]
        assert 0 < cell["error"] < runs.ERROR_LIMIT
        assert 0 < cell["kernel_error"] <= cell["kernel_limit"]
    assert found.cells["linear/fastconv"]["kernel"].startswith("linear/")


@pytest.mark.parametrize("name", ["conv-bias", "pool-ceil", "avg-pool-divisor", "linear-odd", "lstm-lengths"])
def test_what_kernels_are_sent_is_the_problem(name):
    """By JSON and back; each then writes all of its own outputs."""
    from fastconv.peers.runtimes import kernels as runtime

    problem = testing.CASES[name].problem
    work_of = {op: json.loads(json.dumps(groups.for_kernels(op, problem))) for op in operations(problem)}
    for op, work in work_of.items():
        group = groups.of_problem(name, problem, op, ())
        given = Given.of(group)
        check, arrays = driver.Check(group, given), dict(zip(OPS[op].inputs, given.inputs, strict=True))
        for one in (one for one in group.contenders if one.kernel is not None):
            prepared, cell = runtime.build(work, arrays, "", one.name, one.kernel.run.__module__), {}
            for _ in range(2):
                prepared.poison()
                check(one, prepared.read(prepared.call()), prepared.kernel(), cell)
            assert cell["kernel"] == one.name
            assert cell["kernel_error"] <= cell["kernel_limit"] == one.kernel.limit
            assert np.isfinite(cell["error"])


@pytest.mark.parametrize("role", ["kernel", "peer"])
def test_wrong_outputs_are_told(role):
    problem = testing.CASES["conv-bias"].problem
    group = groups.of_problem("c", problem, "conv2d", ())
    given = Given.of(group)
    check = driver.Check(group, given)
    one = next(one for one in group.contenders if one.role == "kernel")
    one = one if role == "kernel" else Contender("conv2d/x", "x", "peer")
    kernel = one.name if role == "kernel" else ""
    y = check.wanted[0].astype(np.float32)
    right, wrong, missing = {}, {}, {}
    check(one, [y], kernel, right)
    check(one, [y + 1e-2], kernel, wrong)
    check(one, [y[:1] if role == "peer" else np.full_like(y, np.nan)], kernel, missing)

    def failure(cell):
        return runs.failure(role, cell["error"], cell.get("kernel_error"), cell.get("kernel_limit"))

    assert failure(right) == ""
    assert failure(wrong)
    assert failure(missing)
    assert right["error"] < runs.ERROR_LIMIT < wrong["error"] < missing["error"] == float("inf")


FORWARD = [
    (name, op)
    for name, case in testing.CASES.items()
    if case.small
    for op in ("conv2d", "max_pool2d", "avg_pool2d", "linear")
    if has_meaning(op, case.problem)
]


@pytest.mark.parametrize(("name", "op"), FORWARD)
def test_work_is_the_operation(name, op):
    """What peers are asked for has the outputs of the operation on the same inputs, or they are not asked."""
    problem = testing.CASES[name].problem
    group = groups.of_problem(name, problem, op, ("torch",))
    asked = [one.role for one in group.contenders if one.role != "kernel"]
    if group.work is None:
        assert asked == []
        with pytest.raises(ValueError, match=r"padding|divisor|rounded|addition"):
            groups.layers(op, problem)
        return
    assert asked == ["layer", "peer"]
    given = Given.of(group)
    found = expected.outputs(group.work, given.arrays)
    wanted = testing.expected(op, problem, given.inputs)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-12, atol=1e-12)
    # And the layers that runtimes make of it have these parameters.
    state = nn.Sequential(*modules(nn, group.work["layers"])).state_dict()
    assert {key: value.shape for key, value in state.items()} == {
        key: value.shape for key, value in given.arrays.items() if "." in key
    }


SERIES = {
    "lstm": replace(testing.CASES["lstm-many"].problem, batch_first=False),
    "gru": testing.CASES["gru-many"].problem,
    "rnn": testing.CASES["rnn-one-sequence"].problem,
}


@pytest.mark.parametrize("op", SERIES)
def test_work_of_series_is_the_operation(op):
    group = groups.of_problem("c", SERIES[op], op, ("torch", "keras", "ncnn"))
    assert [one.name for one in group.contenders if one.role == "peer"] == [f"{op}/torch", f"{op}/keras"]
    given = Given.of(group)
    wanted = [array for array in testing.expected(op, SERIES[op], given.inputs) if array.size]
    found = expected.outputs(group.work, given.arrays)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "change",
    [{"ragged": True}, {"peephole": True}, {"linear": True}, {"state": True}, {"batch_first": True}, {"bias": False}],
)
def test_peers_are_not_asked_for_what_some_have_not(change):
    group = groups.of_problem("c", replace(SERIES["lstm"], **change), "lstm", tuple(groups.PEERS))
    assert group.work is None
    assert {one.role for one in group.contenders} == {"kernel"}
    # What stands for fastconv is then the kernel that it chooses.
    assert group.chosen in [one.name for one in group.contenders]


@pytest.mark.parametrize(
    ("name", "op"),
    [
        ("conv-bias", "conv2d_grad_input"),
        ("conv-bias", "conv2d_grad_weight"),
        ("pool-asymmetric", "max_pool2d_grad"),
        ("pool-asymmetric", "max_pool2d_with_indices"),
        ("pool-asymmetric", "avg_pool2d_grad"),
        ("linear-odd", "linear_grad_input"),
        ("linear-odd", "linear_grad_weight"),
    ],
)
def test_work_of_a_gradient_has_the_kernels_arrays(name, op):
    group = groups.of_problem(name, testing.CASES[name].problem, op, ("torch", "onnxruntime"))
    assert {one.runtime for one in group.contenders} == {"kernels", "torch"}
    assert (group.work["kind"], group.work["op"]) == ("operation", op)
    given = Given.of(group)
    assert list(given.arrays) == list(OPS[op].inputs)
    for named, array in zip(given.arrays.values(), given.inputs, strict=True):
        assert named is array


def test_float64_and_training_of_series_are_for_kernels_alone():
    problem = replace(testing.CASES["conv-bias"].problem, dtype="float64")
    assert {one.role for one in groups.of_problem("c", problem, "conv2d", ("torch",)).contenders} == {"kernel"}
    series = testing.CASES["lstm-128"].problem
    assert {one.role for one in groups.of_problem("c", series, "lstm_train", ("torch",)).contenders} == {"kernel"}


def test_groups_are_every_kernel_on_every_bench_case():
    every = list(groups.all_groups(tuple(groups.PEERS)))
    found = {group.name: group for group in every}
    assert len(found) == len(every)
    assert sum(group.problem is None for group in every) == len(cases.all_cases())
    assert {"lstm_32 network", "lstm_32 gradients", "lstm_32 training"} <= set(found)
    own = {(one.name, group.case) for group in found.values() for one in group.contenders if one.role == "kernel"}
    here = {(kernel.name, case.name) for kernel, case in testing.grid(small=False)}
    there = {(kernel.name, f"{case.name}-cuda") for kernel, case in testing.grid(small=False, backend="cuda")}
    assert own == here | there
    assert {group.backend for group in every} == {"cpu", "cuda"}
    for group in found.values():
        names = [one.name for one in group.contenders]
        assert len(names) == len(set(names))
        with launch.running(launch.Emulated()):
            assert group.chosen in names
        assert set(group.goal) <= {"ratio", "ratio_to_torch", "seconds", "share", "per_step"}
    assert set(cases.GOALS) | set(cases.QUICK) <= set(found)
    assert {group.op for group in found.values() if group.quick} >= {"conv2d", "network", "step", "gru", "max_pool2d"}


@pytest.mark.parametrize("network", testing.NETWORKS)
def test_layers_of_a_network_follow_each_other(network):
    """Each takes what the one before gives; the first linear one takes it flat, or all last states of all layers."""
    problems = [testing.CASES[name].problem for _, name in testing.NETWORKS[network]]
    names = [shown for shown, _ in testing.NETWORKS[network]]
    assert len(set(names)) == len(names)
    for before, after in pairwise(problems):
        given = before.output_shape
        if isinstance(after, LinearProblem) and isinstance(before, RecurrentProblem):
            given = (before.b, sum(2 * p.h for p in problems if isinstance(p, RecurrentProblem)))
        elif isinstance(after, LinearProblem):
            given = (given[0], prod(given[1:]))
        assert after.input_shape == given


def test_vgg16_is_the_network_of_its_layers():
    layers = [layer for layer in cases.vgg16() if layer["op"] != "relu"]
    operations_of = {ConvProblem: "conv2d", PoolProblem: "max_pool2d"}
    problems = [testing.CASES[name].problem for _, name in testing.NETWORKS["VGG16"]]
    images = [p for p in problems if not isinstance(p, LinearProblem)]
    assert layers == [groups.layers(operations_of[type(p)], p)[0] for p in images]
    features = {"kind": "forward", "shape": [8, 3, 224, 224], "layers": cases.vgg16()}
    assert cases.output_shape(features) == (8, *images[-1].output_shape[1:])
    flops = {case.name: case.flops for case in cases.all_cases()}
    assert flops["vgg16-8"] == 8 * flops["vgg16-1"] == 8 * sum(p.flops for p in images if isinstance(p, ConvProblem))


@pytest.mark.parametrize("case", cases.all_cases(), ids=lambda case: f"{case.name} {case.work['kind']}")
def test_cases_fit_together(case):
    """Shapes of arrays and outputs follow from the layers."""
    if np.prod(case.work["shape"]) < 1e5 and "hidden" not in case.work["layers"][0]:
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


@pytest.mark.parametrize(
    "work",
    [conv_work(), conv_work("gradients"), {"kind": "step", "shape": [4, 1, 28, 28], "layers": cases.lenet5()}],
    ids=["forward", "gradients", "step"],
)
def test_fastconv_is_a_runtime(tmp_path, work):
    """The one runtime that is always here, in a worker of its own, on every kind of work."""
    pool = driver.Pool(lambda name: driver.Worker(name, 2, tmp_path))
    group = replace(of_work(["fastconv"], work), op=work["kind"])
    try:
        cell = driver.measure(group, group.contenders, pool, Budget(1, 0.001)).cells["network/fastconv"]
    finally:
        pool.close()
    assert cell["error"] < runs.ERROR_LIMIT
    assert cell["times"]


# A runtime of the test: it has no fastconv, and its output is the number of the call.
RUNTIME = """
import random, sys, types
import numpy as np
from peers.work import Prepared, Unsupported

def build(work, arrays, folder):
    if work["kind"] != "forward":
        raise Unsupported("no training")
    made = []
    call, read = lambda: made.append(0) or len(made), lambda y: [np.array([y])]
    return Prepared(call, read, poison=lambda: made.extend([0] * 100))

fake = types.ModuleType("peers.runtimes.fake")
fake.build, fake.threads = build, lambda count: count
fake.version = lambda: f"{sorted(name for name in sys.modules if name.startswith('fastconv'))} {random.__file__}"
sys.modules["peers.runtimes.fake"] = fake
"""


def test_a_worker_needs_numpy_alone(tmp_path, monkeypatch):
    """It answers where fastconv cannot be imported, and its folder hides no module of Python's."""
    bootstrap = program("worker", "fake", 1).split("\n")
    place = str(Path(np.__file__).parents[1])
    code = "\n".join([*bootstrap[:-1], f"sys.path.append({place!r})", RUNTIME, bootstrap[-1]])
    monkeypatch.setattr(driver, "program", lambda *arguments: code)
    # Of this environment only the folder with NumPy is on the path, and of that no .pth file is read.
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(driver, "interpreter", lambda runtime: str(python))
    groups.write(conv_work(), {}, tmp_path / "forward")
    groups.write(conv_work("gradients"), {}, tmp_path / "gradients")
    worker = driver.Worker("fake", 1, tmp_path)
    try:
        loaded, _, file = worker.ask("hello")["version"].partition(" ")
        assert (loaded, Path(file).name) == ("[]", "random.py")
        assert Path(file).parent != Path(groups.__file__).parents[1]
        assert worker.ask("build", folder=str(tmp_path / "gradients"), slot="c") == {"cannot": "no training"}
        for slot in "ab":
            assert worker.ask("build", folder=str(tmp_path / "forward"), slot=slot) == {}

        def output(slot):
            ((y,),), kernel = driver.outputs(worker, slot, tmp_path)
            assert kernel == ""
            return y

        # Slots are apart; the output is that of the last call, before which outputs are made invalid.
        assert len(worker.ask("turn", slot="a", discard=2, calls=3)["seconds"]) == 3
        worker.ask("turn", slot="b", discard=0, calls=1)
        assert (output("a"), output("b")) == (5, 1)
        worker.ask("turn", slot="a", discard=1, calls=2, poison=True)
        assert output("a") == 5 + 2 + 100 + 1
        # Of calls that are too short for the clock, one more is made for its output.
        assert len(worker.ask("turn", slot="b", discard=0, calls=2, repeat=10)["seconds"]) == 2
        assert output("b") == 1 + 20 + 1
        worker.ask("clear")
        with pytest.raises(driver.Crashed, match="KeyError: 'a'"):
            worker.ask("turn", slot="a", discard=0, calls=1)
    finally:
        worker.close()


HEAD = {"git": "abc", "machine": "m"}


def test_a_journal_is_read_again(tmp_path):
    path = tmp_path / "out" / "journal.jsonl"
    first = Journal(path, HEAD)
    first.add_limits({"fma": {"2": 1.0}})
    first.add("g", driver.Measured({"a": {"times": [1.0, 2.0], "error": float("inf")}}, [3.0]), {"torch": "torch 1"})
    again = Journal(path, HEAD, resume=True)
    assert again.groups == first.groups
    assert (again.limits, again.about) == ([{"fma": {"2": 1.0}}], {"torch": "torch 1"})
    # Without --resume it begins anew.
    assert Journal(path, HEAD).groups == {}


def test_a_line_that_was_cut_short_is_left_out_and_overwritten(tmp_path):
    path = tmp_path / "journal.jsonl"
    Journal(path, HEAD).add("g", driver.Measured({}, []), {})
    with path.open("a") as file:
        file.write('{"group": "h", "cel')
    again = Journal(path, HEAD, resume=True)
    assert list(again.groups) == ["g"]
    again.add("h", driver.Measured({}, []), {})
    assert list(Journal(path, HEAD, resume=True).groups) == ["g", "h"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (json.dumps({"head": {**HEAD, "git": "xyz"}}) + "\n", "was measured with git 'xyz', and this run has 'abc'"),
        ("nonsense\n", "line 1 is damaged"),
        ("[]\n", "is no journal of a run"),
        ("", "line 1 is damaged"),
    ],
)
def test_a_journal_of_something_else_is_refused(tmp_path, text, reason):
    path = tmp_path / "journal.jsonl"
    path.write_text(text)
    with pytest.raises(CannotResume, match=reason):
        Journal(path, HEAD, resume=True)
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("role", "cell", "timed"),
    [
        ("peer", {"cannot": "no training"}, False),
        ("layer", {"crashed": "Segmentation fault"}, False),
        ("layer", {"error": 2e-5, "times": [1.0]}, False),
        ("peer", {"error": 2e-5, "times": [1.0]}, True),
        ("aside", {"error": 1e-7, "times": [1.0, 2.0, 3.0]}, True),
    ],
)
def test_rows_of_a_record(role, cell, timed):
    """A peer that is wrong is shown with its time; ours has none. Every row is read again as what it was."""
    one = Contender("network/fastconv" if role == "layer" else "network/other", "other", role)
    group = replace(of_work([], flops=6e9), contenders=(one,), dense=None)
    record = Record("abc")
    record.limits.append({"time": "", "fma": {"1": 1e9, str(record.machine.threads): 1e9}, "copy": {"memory": 1e9}})
    notes = record.add(group, one, driver.Measured({one.name: cell}, [2e9, 8e9, 4e9]), "again")
    assert ("gflops" in notes) is (timed and role != "aside")
    (row,) = record.run().rows
    assert (row.timed, row.role) == (timed, role)
    assert row.valid is (timed and role == "aside")
    assert bool(row.absent) is ("times" not in cell)
    assert bool(row.failure) is (cell.get("error") == 2e-5)
    if "gflops" in notes:
        assert (notes["gflops"], notes["share_of_peak"]) == (pytest.approx(6.0), pytest.approx(1.5))
