"""The table of kernels: names, choice, `use`, and `explain`."""

import asyncio
import threading

import numpy as np
import pytest

import fastconv
from fastconv import Unsupported, explain, functional, nn, registry, testing, use
from fastconv.problem import ConvProblem, LinearProblem, PoolProblem, RecurrentProblem
from fastconv.registry import OPS, PRECISIONS, choose, kernel, kernels, operations, precision

CONV = ConvProblem.make((2, 3, 9, 8), (4, 3, 3, 2), padding=1)
POOL = PoolProblem.make((2, 3, 9, 8), 2)
LINEAR = LinearProblem.make((5, 7), (3, 7))
LSTM = RecurrentProblem.make("lstm", (4, 3, 5), 7)
GRU = RecurrentProblem.make("gru", (4, 1, 5), 7)


@pytest.fixture
def register():
    """fastconv.registry.kernel, whose kernels are gone after the test."""
    names = []

    def registering(name, **arguments):
        decorate = kernel(name, **arguments)
        names.append(name)
        return decorate

    kernels()
    yield registering
    for name in names:
        registry._kernels.pop(name, None)
    registry._automatic.cache_clear()
    registry._named_kernel.cache_clear()


def toy(p, x, w, b, z, y, scratch):
    """No convolution at all: its sevens show who ran."""
    y[:] = 7


def arrays(problem=CONV):
    x, w, _, _ = testing.inputs("conv2d", problem)
    return x, w


# Registering.


@pytest.mark.parametrize(
    "name",
    [
        "conv2d",
        "conv2d/toy",
        "conv2d/toy/cpu/more",
        "conv3d/toy/cpu",
        "conv2d/toy/gpu",
        "conv2d//cpu",
        "conv2d/auto/cpu",
        "",
        "/toy/cpu",
        " conv2d/toy/cpu",
    ],
)
def test_bad_names_are_refused(name, register):
    before = {k.name for k in kernels()}
    with pytest.raises(ValueError, match="name=") as raised:
        register(name, limit=1.0, cost=lambda p: 1.0)(toy)
    assert repr(name) in str(raised.value)
    assert {k.name for k in kernels()} == before


def test_a_name_is_registered_once(register):
    register("conv2d/toy/cpu", limit=1.0, cost=lambda p: 1e30)(toy)
    with pytest.raises(ValueError, match=r"conv2d/toy/cpu.*twice.*test_registry"):
        register("conv2d/toy/cpu", limit=1.0, cost=lambda p: 1e30)


def test_every_kernel_is_where_its_name_says():
    for found in kernels():
        op, algorithm, backend = found.name.split("/")
        assert (op, algorithm, backend) == (found.op, found.algorithm, found.backend)
        assert op in OPS
        assert found.run.__module__.startswith(f"fastconv.kernels.{backend}.")
        # Those over 1 round worse than a plain sum, and F(6×6) alone is over what "default" allows.
        assert 0 <= found.limit <= 3 or found.algorithm == "winograd_f6"


def test_kernels_lists_by_operation():
    assert {k.name for k in kernels()} == {k.name for op in OPS for k in kernels(op)}
    assert [k.name for k in kernels("linear")] == sorted(k.name for k in kernels("linear"))
    with pytest.raises(ValueError, match=r"op='conv9d'.*conv2d"):
        kernels("conv9d")
    with pytest.raises(ValueError, match=r"backend='gpu'.*cpu"):
        kernels("conv2d", "gpu")


def test_operations_of_a_problem():
    assert operations(CONV) == ["conv2d", "conv2d_grad_input", "conv2d_grad_weight"]
    assert operations(LINEAR) == ["linear", "linear_grad_input", "linear_grad_weight"]
    assert len(operations(POOL)) == 5
    assert operations(LSTM) == ["lstm", "lstm_train", "lstm_grad"]
    assert operations(GRU) == ["gru", "gru_train", "gru_grad"]


# Choosing.


def test_auto_takes_the_cheapest(register):
    x, w = arrays()
    assert not (functional.conv2d(x, w, padding=1) == 7).any()
    register("conv2d/toy/cpu", limit=1.0, cost=lambda p: 0.0)(toy)
    assert choose("conv2d", CONV).name == "conv2d/toy/cpu"
    assert (functional.conv2d(x, w, padding=1) == 7).all()


def test_auto_passes_over_what_cannot(register):
    reason = "the moon, needs the sun"
    register("conv2d/toy/cpu", limit=1.0, cost=lambda p: 0.0, unsupported=lambda p: reason)(toy)
    assert choose("conv2d", CONV).name != "conv2d/toy/cpu"
    assert "conv2d/toy/cpu" not in {k.name for k, _ in testing.grid(small=True)}
    x, w = arrays()
    assert not (functional.conv2d(x, w, padding=1) == 7).any()


def test_a_named_algorithm_never_falls_back(register):
    ask = []

    def unsupported(p):
        ask.append(p)
        return f"stride {p.stride}, needs 1" if p.stride != (1, 1) else None

    register("conv2d/toy/cpu", limit=1.0, cost=lambda p: 1e30, unsupported=unsupported)(toy)
    x, w = arrays()
    assert (functional.conv2d(x, w, padding=1, algorithm="toy") == 7).all()
    with pytest.raises(Unsupported) as raised:
        functional.conv2d(x, w, stride=(1, 2), padding=1, algorithm="toy")
    assert str(raised.value) == "conv2d/toy/cpu: stride (1, 2), needs 1"
    assert isinstance(raised.value, ValueError)
    with use("conv2d/toy"), pytest.raises(Unsupported, match="conv2d/toy/cpu: stride"):
        functional.conv2d(x, w, stride=2)
    assert ask


def test_choice_counts_from_the_moment_a_kernel_is_registered(register):
    x, w = arrays()
    with pytest.raises(ValueError, match="toy"):
        functional.conv2d(x, w, padding=1, algorithm="toy")
    register("conv2d/toy/cpu", limit=1.0, cost=lambda p: 1e30)(toy)
    assert (functional.conv2d(x, w, padding=1, algorithm="toy") == 7).all()


@pytest.mark.parametrize("algorithm", ["winograd", "", "AUTO", "direct ", "conv2d/direct", "direct/cpu"])
def test_unknown_algorithms(algorithm):
    with pytest.raises(ValueError, match="algorithm=") as raised:
        functional.conv2d(*arrays(), padding=1, algorithm=algorithm)
    assert repr(algorithm) in str(raised.value)
    for found in kernels("conv2d"):
        assert found.algorithm in str(raised.value)
    assert not isinstance(raised.value, Unsupported)


@pytest.mark.parametrize("algorithm", [None, 3, True, ["direct"], np.array(["a", "b"]), b"direct"])
def test_algorithms_that_are_no_name(algorithm):
    with pytest.raises(TypeError, match="algorithm="):
        functional.conv2d(*arrays(), padding=1, algorithm=algorithm)


def test_every_kernel_is_reached_by_name():
    served = {found.name: case.problem for found, case in testing.grid(small=True)}
    for found in kernels():
        assert choose(found.op, served[found.name], found.algorithm) == found


def test_im2col_and_naive_support_everything():
    for case in testing.CASES.values():
        for op in operations(case.problem):
            able = [k for k in kernels(op) if k.unsupported(case.problem) is None]
            assert able
            assert choose(op, case.problem) in able
            for name, limit in PRECISIONS.items():
                allowed = [k for k in able if k.limit <= limit]
                with precision(name):
                    chosen = choose(op, case.problem)
                    kept = choose(op, case.problem, kept=True)
                assert chosen.cost(case.problem) == min(k.cost(case.problem) for k in allowed)
                rest = [k.cost(case.problem) - k.prepare_cost(case.problem) for k in allowed]
                assert kept.cost(case.problem) - kept.prepare_cost(case.problem) == min(rest)


def test_cost_and_scratch_are_numbers_for_every_case():
    for small in (True, False):
        for found, case in testing.grid(small):
            assert np.isfinite(found.cost(case.problem))
            assert found.cost(case.problem) > 0
            assert isinstance(found.scratch(case.problem), int)
            assert found.scratch(case.problem) >= 0


def test_scratch_stays_bounded_when_steps_are_huge():
    """A stride far beyond the input reads one window; nothing needs memory for what it steps over."""
    for problem in (
        ConvProblem.make((1, 2, 5, 7), (3, 2, 2, 2), stride=2**31 - 1),
        ConvProblem.make((1, 2, 5, 7), (3, 2, 2, 2), stride=(1, 2**20)),
        PoolProblem.make((1, 2, 5, 7), 2, stride=2**31 - 1),
    ):
        for op in operations(problem):
            for found in (k for k in kernels(op) if k.unsupported(problem) is None):
                assert found.scratch(problem) * 4 < 2**24, found.name
                if testing.has_meaning(op, problem):
                    values = testing.inputs(op, problem)
                    outputs = testing.poisoned_run(found, problem, values)
                    assert testing.error(op, problem, values, outputs) <= found.limit, found.name


# use().


def chosen(op="conv2d", problem=CONV):
    return choose(op, problem).algorithm


def test_use_as_a_context_manager():
    free = chosen()
    with use("conv2d/naive"):
        assert chosen() == "naive"
        assert chosen("conv2d_grad_input") != "naive"
        assert chosen("max_pool2d", POOL) == choose("max_pool2d", POOL).algorithm
    assert chosen() == free


def test_use_as_a_call():
    free = chosen()
    try:
        use("conv2d/naive")
        assert chosen() == "naive"
    finally:
        use()
    assert chosen() == free


def test_use_several_and_with_the_backend():
    with use("conv2d/naive/cpu", "linear/naive"):
        assert chosen() == "naive"
        assert chosen("linear", LINEAR) == "naive"


def test_use_nests():
    free = chosen()
    with use("conv2d/naive"):
        with use("conv2d/direct", "linear/naive"):
            assert chosen() == "direct"
            assert chosen("linear", LINEAR) == "naive"
            with use():
                assert chosen() == free
            assert chosen() == "direct"
        assert chosen() == "naive"
        assert chosen("linear", LINEAR) == choose("linear", LINEAR).algorithm
        with use("linear/naive"):
            assert chosen() == "naive"
    assert chosen() == free


def test_use_ends_with_an_exception():
    free = chosen()
    with pytest.raises(ZeroDivisionError), use("conv2d/naive"):
        raise ZeroDivisionError
    assert chosen() == free


def test_a_named_algorithm_goes_before_use():
    with use("conv2d/naive"):
        assert choose("conv2d", CONV, "direct").algorithm == "direct"


def test_use_reaches_the_layers(register):
    register("conv2d/toy/cpu", limit=1.0, cost=lambda p: 1e30)(toy)
    layer = nn.Conv2d(3, 4, (3, 2), padding=1)
    x, _ = arrays()
    assert not (np.asarray(layer(x)) == 7).any()
    with use("conv2d/toy"):
        assert (np.asarray(layer(x)) == 7).all()


def test_use_is_for_this_thread():
    free, seen = chosen(), []
    inside, outside = threading.Event(), threading.Event()

    def other():
        with use("conv2d/direct"):
            inside.set()
            outside.wait(10)
            seen.append(chosen())

    with use("conv2d/naive"):
        thread = threading.Thread(target=other)
        thread.start()
        assert inside.wait(10)
        assert chosen() == "naive"
        fresh = threading.Thread(target=lambda: seen.append(chosen()))
        fresh.start()
        fresh.join()
        outside.set()
        thread.join()
    assert seen == [free, "direct"]


def test_use_is_for_this_task():
    async def task(name):
        with use(f"conv2d/{name}"):
            await asyncio.sleep(0.01)
            return chosen()

    async def both():
        return await asyncio.gather(task("naive"), task("direct"))

    assert asyncio.run(both()) == ["naive", "direct"]


@pytest.mark.parametrize(
    "name",
    [
        *(
            "conv2d",
            "conv2d/",
            "conv2d/winograd",
            "conv9d/naive",
            "naive",
            "",
            "/",
            "conv2d/naive/gpu",
            "conv2d/naive/cpu/x",
        ),
        *(None, 3, ("conv2d", "naive"), b"conv2d/naive"),
    ],
)
def test_use_refuses_unknown_names(name):
    free = chosen()
    with pytest.raises((ValueError, TypeError), match="name=") as raised:
        use("conv2d/naive", name)
    assert repr(name) in str(raised.value)
    assert "/" in str(raised.value)
    assert chosen() == free, "the name before the wrong one was taken"


# explain().


def lines_of(text):
    return {line.split()[0]: line for line in str(text).splitlines() if line.split()[0].count("/") == 2}


@pytest.mark.parametrize("problem", [CONV, POOL, LINEAR, LSTM, GRU], ids=lambda p: getattr(p, "cell", type(p).__name__))
def test_explain_lists_every_kernel_and_marks_the_choice(problem):
    lines = lines_of(explain(problem))
    assert set(lines) == {k.name for op in operations(problem) for k in kernels(op)}
    marked = {name for name, line in lines.items() if "←" in line}
    assert marked == {choose(op, problem).name for op in operations(problem)}


def test_explain_measures():
    explanation = explain(CONV, measure=True, ops=["conv2d"])
    names = {candidate.kernel.name for candidate in explanation.candidates}
    assert names == {k.name for k in kernels("conv2d")}
    able = [candidate for candidate in explanation.candidates if candidate.reason is None]
    assert {"naive", "im2col", "direct"} <= {candidate.kernel.algorithm for candidate in able}
    for candidate in able:
        m = candidate.measurement
        assert m.passed
        assert 0 < m.low <= m.seconds <= m.high
        assert m.count >= 5
        assert m.rate == pytest.approx(CONV.flops / m.seconds)
        assert 0 < m.share < 2
        assert m.traffic == pytest.approx(CONV.bytes / m.seconds)
        assert 0 <= m.error <= candidate.kernel.limit
        assert candidate.scratch == candidate.kernel.scratch(CONV) * 4
        assert candidate.predicted > 0
    assert "GFLOP/s" in str(explanation)
    assert "GB/s" in str(explanation)
    assert explanation.machine in str(explanation)


def test_explain_gives_the_reason_and_no_speed_for_what_is_wrong(register):
    register("conv2d/toy/cpu", limit=1.0, cost=lambda p: 1e30)(toy)
    register("conv2d/cannot/cpu", limit=1.0, cost=lambda p: 0.0, unsupported=lambda p: "no wish to")(toy)
    lines = lines_of(explain(CONV, measure=True, ops=["conv2d"]))
    assert "FAIL" in lines["conv2d/toy/cpu"]
    assert sum("FAIL" in line for line in lines.values()) == 1
    assert "no wish to" in lines["conv2d/cannot/cpu"]
    assert "←" not in lines["conv2d/cannot/cpu"]


def test_explain_shows_what_use_names():
    with use("conv2d/naive"):
        assert "←" in lines_of(explain(CONV))["conv2d/naive/cpu"]


def test_explain_a_layer():
    x, _ = arrays()
    lines = lines_of(explain(nn.Conv2d(3, 4, 3), x))
    assert set(lines) == {k.name for op in operations(CONV) for k in kernels(op)}
    assert "conv2d/naive/cpu" in str(fastconv.explain(nn.Conv2d(3, 4, 3), x, ops=["conv2d"]))


def test_explain_without_images():
    none = ConvProblem.make((0, 3, 9, 8), (4, 3, 3, 2))
    assert set(lines_of(explain(none, measure=True))) == {k.name for op in operations(none) for k in kernels(op)}


def test_average_pooling_has_no_dilation():
    dilated = PoolProblem.make((1, 1, 9, 9), 2, dilation=2)
    assert not any(name.startswith("avg") for name in lines_of(explain(dilated)))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: explain(3), TypeError, ["target", "3"]),
        (lambda: explain(nn.ReLU(), np.zeros((1, 2), np.float32)), TypeError, ["target", "ReLU"]),
        (lambda: explain(nn.Conv2d(3, 4, 3)), ValueError, ["x=None", "input"]),
        (lambda: explain(CONV, ops=["conv9d"]), ValueError, ["conv9d"]),
        (lambda: explain(CONV, ops=["linear"]), ValueError, ["linear"]),
    ],
    ids=["a number", "a layer without kernels", "no input", "no operation", "another problem's operation"],
)
def test_explain_refuses(call, error, words):
    with pytest.raises(error) as raised:
        call()
    for word in words:
        assert word in str(raised.value)
