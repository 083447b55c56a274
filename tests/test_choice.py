"""How "auto" chooses: by the model, by what was measured once and is remembered, by a tuned model; and who says so.

The kernels here are toys that sleep for their time, alone in the table, so that it is known who must win.
"""

import stat
import time
from dataclasses import replace

import numpy as np
import pytest
from helpers import succeed

from fastconv import choices, cli, explain, functional, measure, nn, registry, testing, tuning, use
from fastconv.problem import ConvProblem, LinearProblem
from fastconv.registry import choose, kernel, kernels, precision, predicted

LINEAR = LinearProblem.make((5, 7), (3, 7))
CONV = ConvProblem.make((1, 2, 5, 6), (3, 2, 3, 3))


class Toy:
    """A kernel that sleeps and counts its calls; it returns sevens."""

    def __init__(self, seconds):
        self.seconds, self.calls, self.made = seconds, 0, []

    def __call__(self, p, *arrays, u=None):
        self.calls += 1
        self.made.append(None if u is None else u.copy())
        arrays[-2][:] = 7
        time.sleep(self.seconds(p) if callable(self.seconds) else self.seconds)


@pytest.fixture
def toy(monkeypatch):
    """Register a toy: toy(name, seconds, cost). No other kernels are there."""
    kernels()
    monkeypatch.setattr(registry, "_kernels", {})

    def register(name, seconds, cost, limit=1.0, **arguments):
        made = Toy(seconds)
        price = cost if callable(cost) else lambda p: cost
        kernel(name, limit=limit, cost=price, **arguments)(made)
        return made

    registry._automatic.cache_clear()
    registry._named_kernel.cache_clear()
    yield register
    registry._automatic.cache_clear()
    registry._named_kernel.cache_clear()


@pytest.fixture
def pair(toy):
    """The model says slow, the clock says quick."""
    return toy("linear/slow/cpu", 0.004, 10.0), toy("linear/quick/cpu", 0.0005, 1000.0)


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Where choices are remembered."""
    place = tmp_path / "choices.jsonl"
    monkeypatch.setattr(choices, "path", lambda: place)
    return place


def forget(monkeypatch):
    """As in a new process: only the file remembers."""
    monkeypatch.setattr(choices, "_known", {})
    monkeypatch.setattr(choices, "_read", 0)
    registry._automatic.cache_clear()


def chosen(problem=LINEAR, **named):
    return choose("linear", problem, **named).algorithm


def why(problem=LINEAR, algorithm="auto"):
    return registry.choose_and_say("linear", problem, algorithm, "cpu", False)[1]


# Measured once.


def test_measured_once_and_remembered(pair):
    assert chosen() == "slow"
    assert why() == "model"
    with use(measure=True):
        assert chosen() == "quick"
        calls = [made.calls for made in pair]
        assert min(calls) >= 2
        assert chosen() == "quick"
        assert [made.calls for made in pair] == calls
    # Another block, and none at all: what was measured goes before the model.
    assert chosen() == "quick"
    assert why() == "measured"
    assert chosen(replace(LINEAR, m=6)) == "slow"
    with use(measure=True):
        assert chosen() == "quick"
    assert [made.calls for made in pair] == calls


def test_what_is_served_is_what_was_measured(pair):
    x, w = np.ones((5, 7), np.float32), np.ones((3, 7), np.float32)
    with use(measure=True):
        functional.linear(x, w)
        before = pair[1].calls
        assert (functional.linear(x, w) == 7).all()
    assert pair[1].calls == before + 1


def test_measuring_from_the_call_on(pair):
    try:
        use(measure=True)
        assert chosen() == "quick"
    finally:
        use()
    assert chosen(replace(LINEAR, m=6)) == "slow"


def test_names_and_measuring_together(pair):
    with use("linear/slow"), use(measure=True):
        assert (chosen(), why()) == ("slow", "used")
        with use("linear/quick"):
            assert chosen(replace(LINEAR, m=6)) == "quick"
        with use():
            assert chosen(replace(LINEAR, m=6)) == "slow"
        with use(measure=False):
            assert why() == "used"
    with use(measure=True), use(measure=False):
        assert (chosen(), why()) == ("slow", "model")
    assert all(made.calls == 0 for made in pair)


@pytest.mark.parametrize("value", [1, "yes", "linear/naive"])
def test_measure_is_true_or_false(value):
    with pytest.raises(TypeError, match="measure="):
        use(measure=value)


def test_measuring_does_not_choose_by_measuring(toy):
    seen = []

    def nosy(p):
        seen.append(registry._measures.get())
        return 0.0

    toy("linear/nosy/cpu", nosy, 1.0)
    toy("linear/quick/cpu", 0.0, 2.0)
    with use(measure=True):
        chosen()
        assert registry._measures.get()
    assert seen
    assert not any(seen)


def test_no_images_are_not_measured(pair):
    with use(measure=True):
        assert chosen(LinearProblem.make((0, 7), (3, 7))) == "slow"
    assert all(made.calls == 0 for made in pair)


def test_precision_bounds_what_is_measured(toy):
    rough = toy("linear/rough/cpu", 0.0, 1.0, limit=10.0)
    toy("linear/quick/cpu", 0.001, 2.0)
    toy("linear/slow/cpu", 0.004, 1.0)
    with use(measure=True):
        assert chosen() == "quick"
        assert rough.calls == 0
        with precision("fast"):
            assert chosen() == "rough"
            assert rough.calls > 0
        assert chosen() == "quick"
    with precision("fast"):
        assert chosen() == "rough"
    assert chosen() == "quick"


def test_each_number_of_threads_is_measured_for_itself(toy, threads):
    threads.set_num_threads(2)
    toy("linear/alone/cpu", lambda p: 0.003 * threads.get_num_threads() - 0.003, 1.0)
    toy("linear/team/cpu", 0.001, 2.0)
    with use(measure=True):
        assert chosen() == "team"
        threads.set_num_threads(1)
        assert chosen() == "alone"
    assert why() == "measured"
    threads.set_num_threads(2)
    assert chosen() == "team"


def test_kept_weights_are_measured_for_themselves(toy):
    def prepare(p, w, u):
        u[:] = 5

    toy("conv2d/plain/cpu", 0.002, 1.0)
    made = toy(
        "conv2d/prepares/cpu", 0.0, 10.0, prepare=prepare, prepared=lambda p: 3, prepare_cost=lambda p: 5.0, limit=9
    )
    with precision("fast"), use(measure=True):
        assert choose("conv2d", CONV, kept=True).algorithm == "prepares"
        assert all(u.tolist() == [5, 5, 5] for u in made.made)
        made.made.clear()
        assert choose("conv2d", CONV).algorithm == "prepares"
        assert made.made
        assert all(u is None for u in made.made)


def test_hopeless_kernels_are_not_run(toy):
    endless = toy("linear/endless/cpu", 0.0, 1e15)
    toy("linear/quick/cpu", 0.0, 2.0)
    toy("linear/slow/cpu", 0.002, 1.0)
    with use(measure=True):
        assert chosen() == "quick"
        assert chosen() == "quick"
    assert endless.calls == 0
    record = choices.recall(choices.problem_key("linear", LINEAR, registry.threads.get_num_threads(), False))
    assert record["linear/endless/cpu"] is None
    assert record["linear/quick/cpu"] < 0.002 <= record["linear/slow/cpu"]


def test_measuring_is_short(toy):
    for name in ("a", "b", "c", "d"):
        toy(f"linear/{name}/cpu", 0.001, 1.0)
    measure.machine.fma_rate("float32", seconds=0.0)
    start = time.perf_counter()
    with use(measure=True):
        chosen()
    assert time.perf_counter() - start < 1.5


def test_a_known_problem_is_not_looked_up_again(pair, monkeypatch):
    with use(measure=True):
        chosen()
        chosen()
        chosen(kept=True)
    chosen()

    def fail(key):
        raise AssertionError("looked up")

    monkeypatch.setattr(choices, "recall", fail)
    assert chosen() == "quick"


# On disk.

PROCESS = """
import time
from fastconv import registry, use
from fastconv.problem import LinearProblem
from fastconv.registry import choose, kernel, kernels

kernels()
registry._kernels.clear()
calls = []

@kernel("linear/slow/cpu", limit=1.0, cost=lambda p: 10.0)
def slow(p, *arrays):
    calls.append(1)
    time.sleep(0.004)

@kernel("linear/quick/cpu", limit=1.0, cost=lambda p: 1000.0)
def quick(p, *arrays):
    calls.append(1)

problem = LinearProblem.make((5, 7), (3, 7))
"""


def test_a_second_process_chooses_at_once(tmp_path):
    first = "with use(measure=True):\n    print(choose('linear', problem).algorithm, len(calls) >= 4)\n"
    second = "print(choose('linear', problem).algorithm, len(calls))\n" + first
    place = tmp_path / "cache"
    assert succeed(PROCESS + first, FASTCONV_CACHE_DIR=place).split() == ["quick", "True"]
    assert succeed(PROCESS + second, FASTCONV_CACHE_DIR=place).split() == ["quick", "0", "quick", "False"]
    (found,) = place.glob("*/choices.jsonl")
    assert stat.S_IMODE(found.stat().st_mode) == 0o600


def test_the_file_alone_remembers(pair, file, monkeypatch):
    with use(measure=True):
        chosen()
    calls = pair[1].calls
    forget(monkeypatch)
    assert (chosen(), why()) == ("quick", "measured")
    assert pair[1].calls == calls


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\x00\xff\n",
        b"[" * 100_000 + b"\n",
        b'{"key": 1}\n[]\n3\nnull\n"x"\n',
        b'{"key": "KEY", "record": {"linear/slow/cpu": -1, "linear/quick/cpu": 1}}\n',
        b'{"key": "KEY", "record": {"linear/slow/cpu": NaN}}\n',
        b'{"key": "KEY", "record": {"linear/slow/cpu": "fast"}}\n',
        b'{"key": "KEY", "record": {"linear/slow/cpu": 1e-9}',
        b'{"key": "KEY", "record": {"no/such/kernel": 1e-9}}\n',
    ],
)
def test_a_damaged_file_is_as_none(damage, pair, file, monkeypatch):
    key = choices.problem_key("linear", LINEAR, registry.threads.get_num_threads(), False)
    file.write_bytes(damage.replace(b"KEY", key.encode()))
    assert (chosen(), why()) == ("slow", "model")
    with use(measure=True):
        assert chosen() == "quick"
    forget(monkeypatch)
    assert chosen() == "quick"


def test_damage_in_one_line_leaves_the_others(pair, file, monkeypatch):
    with use(measure=True):
        chosen()
        chosen(replace(LINEAR, m=6))
    lines = file.read_bytes().split(b"\n")
    assert len([line for line in lines if line]) == 2
    file.write_bytes(b"\n".join([lines[1][: len(lines[1]) // 2], *lines[2:]]))
    forget(monkeypatch)
    assert (chosen(), why()) == ("slow", "model")
    assert chosen(replace(LINEAR, m=6)) == "quick"


def test_no_place_to_remember(pair, file, monkeypatch):
    monkeypatch.setattr(choices, "path", lambda: file.parent / "missing" / "choices.jsonl")
    with use(measure=True):
        assert chosen() == "quick"
    assert chosen() == "quick"


def test_processes_do_not_lose_each_others_records(file):
    program = f"""
import os
from pathlib import Path
from fastconv import choices

choices.path = lambda: Path({str(file)!r})
children = []
for child in range(4):
    pid = os.fork()
    if not pid:
        for number in range(100):
            choices.remember(f"{{child}} {{number}}", {{"a": number + 1.0, "b": None}})
        os._exit(0)
    children.append(pid)
assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
print(all(choices.recall(f"{{c}} {{n}}") == {{"a": n + 1.0, "b": None}} for c in range(4) for n in range(100)))
"""
    choices.remember("here", {"a": 1.0})
    assert succeed(program).split() == ["True"]
    # This process sees what others wrote since it last looked, and a record adds to an earlier one.
    choices.remember("3 99", {"c": 2.0})
    assert choices.recall("3 99") == {"a": 100.0, "b": None, "c": 2.0}
    assert choices.recall("here") == {"a": 1.0}


# Tuning.


@pytest.fixture
def small(monkeypatch):
    """A few small problems to tune on."""
    found = [replace(LINEAR, m=m) for m in (2, 3, 4)]
    monkeypatch.setattr(tuning, "problems", lambda: found)
    return found


def test_tuning_improves_a_wrong_model(pair, file, small, monkeypatch):
    other = LinearProblem.make((50, 7), (3, 7))
    assert (chosen(other), why(other)) == ("slow", "model")
    heard = []
    (fit,) = tuning.tune(["linear"], seconds=0.2, report=heard.append)
    assert len(heard) == 3
    assert fit.own
    assert fit.before[0] > 2
    assert fit.after[0] == pytest.approx(1.0)
    assert fit.counts == {"linear/slow/cpu": 3, "linear/quick/cpu": 3}
    assert all(1 <= spread < 5 for spread in fit.spreads.values())
    assert (chosen(other), why(other)) == ("quick", "tuned")
    forget(monkeypatch)
    assert (chosen(other), why(other)) == ("quick", "tuned")
    ratio = predicted(*kernels("linear")[1:], LINEAR) / predicted(kernels("linear")[0], LINEAR)
    assert ratio > 2, "slow is predicted to be slower"
    # What was measured goes before any model.
    key = choices.problem_key("linear", other, registry.threads.get_num_threads(), False)
    registry.remember(key, {"linear/slow/cpu": 1e-3, "linear/quick/cpu": 2e-3})
    assert (chosen(other), why(other)) == ("slow", "measured")


def test_tuning_is_of_a_number_of_threads(pair, file, small, threads):
    threads.set_num_threads(2)
    tuning.tune(["linear"], seconds=0.1)
    assert why() == "tuned"
    threads.set_num_threads(1)
    assert why() == "model"


def test_factors_that_choose_worse_are_not_taken(toy):
    """The shipped model is right everywhere; a problem that only one kernel can do would spoil its factor."""
    toy("linear/a/cpu", 0.0, 1.0)
    toy("linear/b/cpu", 0.0, 1.1)
    a, b = kernels("linear")
    ratios = {replace(LINEAR, m=m): {a: 1.0, b: 1.0} for m in (1, 2, 3, 4)}
    assert tuning._fit("linear", ratios).own
    ratios[replace(LINEAR, m=5)] = {a: 100.0}
    fit = tuning._fit("linear", ratios)
    assert not fit.own
    assert fit.before == (1.0, 1.0)
    assert fit.after[1] == pytest.approx(1.1)
    assert fit.factors["linear/a/cpu"] == fit.factors["linear/b/cpu"] == pytest.approx(100 ** (1 / 9))


def test_a_kernel_that_was_not_measured_has_the_others_factor(toy, small):
    toy("linear/a/cpu", 0.001, 1e6)
    toy("linear/never/cpu", 0.0, 2e6, unsupported=lambda p: "too small" if p.m < 5 else None)
    (fit,) = tuning.tune(["linear"], seconds=0.05)
    assert fit.factors["linear/a/cpu"] == pytest.approx(fit.factors["linear/never/cpu"])
    assert fit.counts["linear/never/cpu"] == 0
    assert chosen() == "a"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((["conv9d"],), "conv9d"), (([],), "ops="), ((["linear"], 0), "seconds=0"), ((["linear"], float("nan")), "nan")],
)
def test_tuning_refuses(arguments, named):
    with pytest.raises(ValueError, match=named):
        tuning.tune(*arguments)


def test_every_kernel_is_tuned_on_some_problem():
    for found in kernels():
        assert sum(testing.serves(found, problem) for problem in tuning.problems()) >= 3, found.name


def test_the_command_prints_the_fit(pair, small, monkeypatch, capsys):
    monkeypatch.setattr(cli, "warmup", lambda dtypes, report: 0.0)
    assert cli.main(["warmup", "--tune", "--ops", "linear", "--seconds", "0.1"]) == 0
    out, err = capsys.readouterr()
    for word in ("linear/slow/cpu", "factor", "spread", "regret", "before", "after"):
        assert word in out
    assert "1/3 linear" in err
    assert "1/3" not in out


@pytest.mark.parametrize(
    "words", [["--ops", "linear"], ["--seconds", "3"], ["--tune", "--seconds", "0"], ["--tune", "--ops", "conv9d"]]
)
def test_the_command_refuses(words, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["warmup", *words])
    assert end.value.code == 2
    assert words[-2].strip("-") in capsys.readouterr().err


# explain().


def marked(explanation):
    (line,) = (line for line in str(explanation).splitlines() if "←" in line)
    return line.split()[0].split("/")[1], line.split()[2]


def test_explain_says_why(pair, file, small):
    def shown():
        return marked(explain(LINEAR, ops=["linear"]))

    layer, x = nn.Linear(7, 3, algorithm="quick"), np.zeros((5, 7), np.float32)
    assert marked(explain(layer, x, ops=["linear"])) == ("quick", "named")
    with use("linear/quick"):
        assert shown() == ("quick", "used")
    assert shown() == ("slow", "model")
    tuning.tune(["linear"], seconds=0.1)
    assert shown() == ("quick", "tuned")
    with use(measure=True):
        assert shown() == ("quick", "measured")
    assert shown() == ("quick", "measured")


def test_explain_predicts_by_the_tuned_model(pair, file, small):
    before = {c.kernel.algorithm: c.predicted for c in explain(LINEAR, ops=["linear"]).candidates}
    assert before["slow"] < before["quick"]
    tuning.tune(["linear"], seconds=0.1)
    after = {c.kernel.algorithm: c.predicted for c in explain(LINEAR, ops=["linear"]).candidates}
    assert after["slow"] > after["quick"]


def test_explain_chooses_as_a_layer_in_evaluation_does():
    layer, x = nn.Conv2d(16, 16, 3, padding=1), np.zeros((1, 16, 14, 14), np.float32)
    problem = layer.problem(x)
    training = explain(layer, x)
    assert "kept KiB" not in str(training)
    evaluation = explain(layer.eval(), x)
    assert "kept KiB" in str(evaluation)
    for candidate in evaluation.candidates:
        found = candidate.kernel
        forward = found.op == "conv2d"
        if candidate.reason is None:
            assert candidate.kept == (found.prepared(problem) * 4 if forward else 0)
            assert candidate.chosen == (found == choose(found.op, problem, kept=forward))
    less = {c.kernel.name: c.predicted for c in evaluation.candidates if c.kept}
    assert less
    more = {c.kernel.name: c.predicted for c in explain(problem, kept=False, ops=["conv2d"]).candidates}
    assert all(less[name] != more[name] for name in less)
    assert "kept KiB" in str(explain(problem, kept=True))


def test_explain_says_what_precision_keeps_out():
    def out():
        return {c.kernel.algorithm for c in explain(problem, ops=["conv2d"]).candidates if c.why == "over precision"}

    problem = ConvProblem.make((1, 16, 14, 14), (16, 16, 3, 3))
    assert out() == {"winograd_f6"}
    assert "over precision" in str(explain(problem))
    with precision("strict"):
        assert out() == {"winograd_f4", "winograd_f6"}
    with precision("fast"):
        assert out() == set()


def test_the_command_explains_kept_weights(capsys):
    words = ["explain", "conv2d", "1", "16", "14", "14", "16", "3", "3"]
    cli.main(words)
    assert "kept KiB" not in capsys.readouterr().out
    cli.main([*words, "--kept"])
    assert "kept KiB" in capsys.readouterr().out


def test_prepared_weights_are_made_outside_of_the_timing(toy):
    def prepare(p, w, u):
        time.sleep(0.05)
        u[:] = 5

    arguments = {"prepare": prepare, "prepared": lambda p: 3, "limit": float("inf")}
    made = toy("conv2d/prepares/cpu", 0.0, 1.0, **arguments)
    (found,) = measure.compare(kernels("conv2d"), CONV, seconds=0.01, kept=True)
    assert found.high < 0.05
    assert all(u.tolist() == [5, 5, 5] for u in made.made)
    made.made.clear()
    measure.compare(kernels("conv2d"), CONV, seconds=0.01)
    assert all(u is None for u in made.made)
