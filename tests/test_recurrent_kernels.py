"""Recurrent layers by their kernels: the oracle, streaming, lengths, threads, prepared weights and their freshness.

What every kernel has to do on every case is in test_kernels.py, what layers and their options are in
test_recurrent_layers.py.
"""

import copy
import dataclasses
import math
import pickle
import sys
import threading
import time
from contextlib import nullcontext

import numpy as np
import pytest
from helpers import DTYPES, handing_over, meets

import fastconv
from fastconv import explain, functional, nn, optim, reference_rnn, testing, use
from fastconv.kernels.cpu import team
from fastconv.problem import GATES, RecurrentProblem
from fastconv.registry import OPS, choose, kernels
from fastconv.tensors import Tensor

CELLS = tuple(GATES)
LAYERS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
STEPS = ("rows_worker", "units_worker", "one_worker", "single_worker", "bptt_worker")


@pytest.fixture(autouse=True)
def _seeded():
    fastconv.manual_seed(1)


def bits(arrays):
    return [array.tobytes() for array in arrays]


def recurrent_grid():
    return [(kernel, case) for kernel, case in testing.grid(small=True) if isinstance(case.problem, RecurrentProblem)]


def parameters(pairs):
    return [
        pytest.param(kernel, dataclasses.replace(case.problem, dtype=dtype), id=f"{kernel.name}-{case.name}-{dtype}")
        for kernel, case in pairs
        for dtype in DTYPES
    ]


def normal(*shape, seed=0, dtype="float32"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# The oracle.


def by_hand(cell, x, w, u, b, h, c, p, other):
    """One step of one unit by math's functions: (h, c)."""

    def sigmoid(v):
        return 1 / (1 + math.exp(-v))

    z = [w[k] * x + u[k] * h + b[k] + b[-1 - k] for k in range(GATES[cell])]
    if cell == "rnn":
        return (max(z[0], 0.0) if other else math.tanh(z[0])), c
    if cell == "gru":
        r, update = sigmoid(z[0]), sigmoid(z[1])
        n = math.tanh(w[2] * x + b[2] + r * (u[2] * h + b[-3]))
        return (1 - update) * n + update * h, c
    new = sigmoid(z[1] + p[1] * c) * c + sigmoid(z[0] + p[0] * c) * math.tanh(z[2])
    return sigmoid(z[3] + p[2] * new) * (new if other else math.tanh(new)), new


@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_the_oracle_is_the_formulas_one_number_at_a_time(cell, other):
    generator = np.random.default_rng(3)
    gates = GATES[cell]
    for _ in range(20):
        w, u, p = generator.standard_normal((3, 4))
        b = generator.standard_normal(2 * gates)
        x = generator.standard_normal(4)
        h, c = (0.3, -0.7) if cell == "lstm" else (0.3, 0.0)
        shown = [w[:gates, None], u[:gates, None], b[:gates], b[gates:][::-1], [[h]]]
        if cell == "lstm":
            y, hn, cn = reference_rnn.lstm(x[:, None, None], *shown, [[c]], peephole=p[:3], linear=other)
        elif cell == "gru":
            y, hn = reference_rnn.gru(x[:, None, None], *shown)
        else:
            y, hn = reference_rnn.rnn(x[:, None, None], *shown, activation="relu" if other else "tanh")
        for step in range(4):
            h, c = by_hand(cell, x[step], w, u, b, h, c, p, other)
            assert y[step, 0, 0] == pytest.approx(h, rel=1e-13)
        assert hn[0, 0] == y[-1, 0, 0]
        if cell == "lstm":
            assert cn[0, 0] == pytest.approx(c, rel=1e-13)


VARIANTS = [
    ("lstm", {}),
    ("lstm", {"peephole": True}),
    ("lstm", {"linear": True}),
    ("lstm", {"peephole": True, "linear": True}),
    ("gru", {}),
    ("rnn", {"activation": "tanh"}),
    ("rnn", {"activation": "relu"}),
]


@pytest.mark.parametrize("lengths", [None, [5, 0, 3, 1]], ids=["even", "lengths"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("cell", "options"), VARIANTS, ids=str)
def test_the_oracles_gradients_are_differences(cell, options, reverse, lengths):
    """⟨gradient, d⟩ against (f(a + e·d) − f(a − e·d)) / 2e along a random d, of every input for itself."""
    generator = np.random.default_rng(7)
    t, b, i, h, gates = 5, 4, 3, 6, GATES[cell]
    shapes = {"x": (t, b, i), "w_ih": (gates * h, i), "w_hh": (gates * h, h), "b_ih": gates * h, "b_hh": gates * h}
    shapes["h0"] = (b, h)
    if cell == "lstm":
        shapes["c0"] = (b, h)
    given = {name: generator.standard_normal(shape) * (0.5 if name[0] in "wb" else 1) for name, shape in shapes.items()}
    options = dict(options)
    if options.get("peephole"):
        options["peephole"] = generator.standard_normal(3 * h)
    gy, gh, gc = generator.standard_normal((t, b, h)), *generator.standard_normal((2, b, h))
    rest = {"lengths": lengths, "reverse": reverse}

    def total(moved):
        moved = dict(moved)
        others = {**options, **({"peephole": moved.pop("p")} if "p" in moved else {})}
        y, *ends = getattr(reference_rnn, cell)(**moved, **rest, **others)
        return np.sum(gy * y) + sum(np.sum(g * end) for g, end in zip((gh, gc), ends, strict=False))

    ends = (gh, gc) if cell == "lstm" else (gh,)
    found = getattr(reference_rnn, f"{cell}_grad")(*given.values(), gy, *ends, **rest, **options)
    if "peephole" in options:
        given["p"] = options.pop("peephole")
    for name, value in given.items():
        direction = generator.standard_normal(value.shape)
        e = 1e-6
        difference = (total({**given, name: value + e * direction}) - total({**given, name: value - e * direction})) / (
            2 * e
        )
        assert found[f"g{name}"].shape == value.shape
        assert np.sum(found[f"g{name}"] * direction) == pytest.approx(difference, rel=1e-6, abs=1e-6), name


# What training saves, and the way back from it.


@pytest.mark.parametrize("algorithm", ["bptt", "stepwise"])
@pytest.mark.parametrize(("kernel", "problem"), parameters([p for p in recurrent_grid() if p[0].op.endswith("_train")]))
def test_gradients_from_what_a_kernel_saved(kernel, problem, algorithm):
    """Forward by this kernel, back by that one: together the oracle's gradient of the inputs themselves."""
    p = problem
    given = dict(zip(OPS[kernel.op].inputs, testing.inputs(kernel.op, p), strict=True))
    *_, saved = testing.poisoned_run(kernel, p, tuple(given.values()))
    assert np.isfinite(saved).all()
    names = OPS[f"{p.cell}_grad"]
    back = dict(zip(names.inputs, testing.inputs(f"{p.cell}_grad", p), strict=True))
    back |= {name: given[name] for name in ("x", "w_ih", "w_hh", "p", "lengths")} | {"saved": saved}
    way_back = next(found for found in kernels(f"{p.cell}_grad") if found.algorithm == algorithm)
    outputs = testing.poisoned_run(way_back, p, tuple(back.values()))
    found = dict(zip(names.outputs, outputs, strict=True))

    def of(name, d):
        return given[name][d] if given[name].size else None

    x = given["x"].swapaxes(0, 1) if p.batch_first else given["x"]
    gy = back["gy"].swapaxes(0, 1) if p.batch_first else back["gy"]
    gx = 0
    for d in range(p.directions):
        lstm = p.cell == "lstm"
        ends = (back["ghn"][d], back["gcn"][d]) if lstm else (back["ghn"][d],)
        states = [of("h0", d), of("c0", d)] if lstm else [of("h0", d)]
        options = {"lstm": {"peephole": of("p", d), "linear": p.linear}}
        options["rnn"] = {"activation": "relu" if p.relu else "tanh"}
        weights = [of(name, d) for name in ("w_ih", "w_hh", "b_ih", "b_hh")]
        want = getattr(reference_rnn, f"{p.cell}_grad")(
            *(x, *weights, *states, gy[..., d * p.h : (d + 1) * p.h], *ends),
            lengths=given["lengths"] if p.ragged else None,
            reverse=bool(d),
            **options.get(p.cell, {}),
        )
        gx = gx + want.pop("gx")
        for name, value in want.items():
            if found[name].size:
                near(found[name][d], value, p)
    near(found["gx"].swapaxes(0, 1) if p.batch_first else found["gx"], gx, p)


def near(actual, wanted, p):
    """Within what rounding of all that is summed may be."""
    scale = max(np.abs(wanted).max(), 1)
    assert np.abs(actual - wanted).max() <= 4 * np.finfo(p.dtype).eps * math.sqrt(p.t * p.b + p.h) * scale


# Streaming.


def algorithms(cell, b):
    """The kernels that can do b sequences in evaluation."""
    p = RecurrentProblem.make(cell, (3, b, 5), 7)
    return [kernel.algorithm for kernel in kernels(cell) if kernel.unsupported(p) is None]


def split(y_and_states):
    y, states = y_and_states
    return y, states if isinstance(states, tuple) else (states,)


STREAMS = [
    pytest.param(cell, b, algorithm, id=f"{cell}/{algorithm}-{b}")
    for cell in CELLS
    for b in (1, 3, 9)
    for algorithm in algorithms(cell, b)
]


@pytest.mark.parametrize("team_size", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("cell", "b", "algorithm"), STREAMS)
def test_streaming_is_one_call_bit_for_bit(cell, b, algorithm, dtype, team_size, threads):
    threads.set_num_threads(team_size)
    t, i, h = 13, 5, 37
    layer = LAYERS[cell](i, h, dtype=dtype, algorithm=algorithm).eval()
    x = normal(t, b, i, dtype=dtype)
    first = tuple(normal(1, b, h, seed=k, dtype=dtype) for k in range(1 + (cell == "lstm")))
    with threads.eager() if team_size > 1 else nullcontext():
        for begin in (None, first if cell == "lstm" else first[0]):
            y, ends = split(layer(x, begin))
            for parts in (range(1, t), (4, 5, 11)):
                outputs, state = [], begin
                for part in np.split(x, parts):
                    out, state = layer(part, state)
                    outputs.append(out)
                assert np.concatenate(outputs).tobytes() == y.tobytes()
                assert bits(state if isinstance(state, tuple) else (state,)) == bits(ends)


# Threads.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("b", [1, 4, 30])
@pytest.mark.parametrize("cell", CELLS)
def test_fifty_runs_on_one_and_two_threads_are_alike(cell, b, dtype, threads, monkeypatch):
    counters = []
    real = team.new_counter
    monkeypatch.setattr(team, "new_counter", lambda size: counters.append(real(size)) or counters[-1])
    p = RecurrentProblem.make(cell, (9, b, 20), 70, directions=2, state=True, ragged=b > 1, dtype=dtype)
    for op in OPS:
        if op.partition("_")[0] != cell:
            continue
        arrays = testing.inputs(op, p)
        for kernel in (k for k in kernels(op) if k.unsupported(p) is None):
            threads.set_num_threads(1)
            wanted = bits(testing.poisoned_run(kernel, p, arrays))
            threads.set_num_threads(2)
            with threads.eager():
                counters.clear()
                for _ in range(50):
                    assert bits(testing.poisoned_run(kernel, p, arrays)) == wanted, kernel.name
            if kernel.algorithm in ("one", "units"):
                # The gate of a team that has come says so; each of two threads has done all steps.
                gates = [counter[8 * 3] for counter in counters if counter[0] == 2]
                assert any(gate > 0 for gate in gates), "the team never came"


def caller_alone(worker, size, arguments):
    """A job of which every helper comes when the caller has done it."""
    counter = team.new_counter(size)
    for thread in range(size):
        worker(counter, thread, *arguments)
        assert not meets(worker) or counter[8 * (size + 1)] < 0 or size == 1


@pytest.mark.parametrize("b", [1, 4])
@pytest.mark.parametrize("cell", CELLS)
def test_helpers_that_come_late_change_nothing(cell, b, threads):
    p = RecurrentProblem.make(cell, (7, b, 9), 50, directions=2, state=True)
    algorithm = "one" if b == 1 else "units"
    for op in (cell, f"{cell}_train"):
        kernel = choose(op, p, algorithm)
        arrays = testing.inputs(op, p)
        threads.set_num_threads(1)
        wanted = bits(testing.poisoned_run(kernel, p, arrays))
        threads.set_num_threads(2)
        with threads.eager(), handing_over(caller_alone):
            assert bits(testing.poisoned_run(kernel, p, arrays)) == wanted


def test_a_team_with_more_threads_than_units():
    """Threads that have no unit tile go through the steps all the same."""
    p = RecurrentProblem.make("lstm", (6, 1, 4), 5, state=True)
    jobs = []

    def many(worker, size, arguments):
        from helpers import last_first

        jobs.append(worker.py_func.__name__)
        last_first(worker, size, arguments)

    arrays = testing.inputs("lstm", p)
    kernel = choose("lstm", p, "one")
    wanted = bits(testing.poisoned_run(kernel, p, arrays))
    with handing_over(many):
        assert bits(testing.poisoned_run(kernel, p, arrays)) == wanted
    assert "one_worker" in jobs


@pytest.mark.parametrize(("cell", "b"), [("lstm", 1), ("lstm", 5), ("gru", 3), ("rnn", 20)])
@pytest.mark.parametrize("directions", [1, 2])
def test_ten_python_threads_call_one_layer(cell, b, directions):
    layer = LAYERS[cell](24, 70, 2, bidirectional=directions == 2).eval()
    inputs = [normal(8, b, 24, seed=k) for k in range(10)]
    wanted = [bits([y, *ends]) for y, ends in (split(layer(x)) for x in inputs)]
    again = LAYERS[cell](24, 70, 2, bidirectional=directions == 2).eval()
    again.load_state_dict(layer.state_dict())
    barrier, wrong = threading.Barrier(10), []

    def call(number):
        barrier.wait()
        # The first call prepares the weights, in all threads at once.
        for shift in range(30):
            k = (number + shift) % 10
            y, ends = split(again(inputs[k]))
            if bits([y, *ends]) != wanted[k]:
                wrong.append((number, shift))

    callers = [threading.Thread(target=call, args=(number,)) for number in range(10)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.parametrize("cell", CELLS)
def test_python_threads_with_lengths_of_their_own(cell):
    """One problem, ten threads, each with other lengths: what is worked out of them is no other thread's."""
    layer, t, b = LAYERS[cell](4, 9).eval(), 9, 3
    inputs = [(normal(t, b, 4, seed=k), np.roll([k % 10, 9 - k % 10, 4], k)) for k in range(10)]
    wanted = [layer(x, lengths=lengths)[0].tobytes() for x, lengths in inputs]
    barrier, wrong = threading.Barrier(10), []

    def call(number):
        x, lengths = inputs[number]
        barrier.wait()
        for _ in range(300):
            if layer(x, lengths=lengths)[0].tobytes() != wanted[number]:
                wrong.append(number)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        callers = [threading.Thread(target=call, args=(number,)) for number in range(10)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


# Lengths.


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("b", [1, 4, 11])
@pytest.mark.parametrize("cell", CELLS)
def test_each_sequence_is_as_if_alone(cell, b, batch_first, threads):
    t, i, h, d = 9, 6, 35, 2
    lengths = np.array([[5], [4, 9, 0, 1], [3, 9, 0, 9, 1, 7, 7, 2, 0, 8, 5]][{1: 0, 4: 1, 11: 2}[b]])
    p = RecurrentProblem.make(cell, (t, b, i), h, directions=d, state=True, ragged=True, dtype="float64")
    given = dict(zip(OPS[cell].inputs, testing.inputs(cell, p), strict=True)) | {"lengths": lengths}
    for n, end in enumerate(lengths):
        # What stands beyond its end is nothing to a sequence.
        given["x"][end:, n] = np.nan
    shown = dict(given)
    if batch_first:
        p = dataclasses.replace(p, batch_first=True)
        shown["x"] = np.ascontiguousarray(given["x"].swapaxes(0, 1))
    for kernel in (k for k in kernels(cell) if k.unsupported(p) is None):
        y, hn, cn = testing.poisoned_run(kernel, p, tuple(shown.values()))
        y = y.swapaxes(0, 1) if batch_first else y
        for n, end in enumerate(lengths):
            assert not y[end:, n].any()
            if end == 0:
                assert hn[:, n].tobytes() == given["h0"][:, n].tobytes()
                assert not cn.size or cn[:, n].tobytes() == given["c0"][:, n].tobytes()
                continue
            alone = {**given, "x": given["x"][:end, n : n + 1], "lengths": np.empty(0, np.int64)}
            alone |= {name: given[name][:, n : n + 1] for name in ("h0", "c0") if given[name].size}
            single = dataclasses.replace(p, t=int(end), b=1, ragged=False, batch_first=False)
            own = kernel if kernel.unsupported(single) is None else choose(cell, single, "one")
            arrays = tuple(np.ascontiguousarray(a) for a in alone.values())
            one_y, one_h, one_c = testing.poisoned_run(own, single, arrays)
            ends = [(hn, one_h)] + [(cn, one_c)] * bool(cn.size)
            if kernel.algorithm in ("rows", "one"):
                assert y[:end, n].tobytes() == one_y[:, 0].tobytes()
                assert all(all_of[:, n].tobytes() == of_one[:, 0].tobytes() for all_of, of_one in ends)
            else:
                np.testing.assert_allclose(y[:end, n], one_y[:, 0], atol=1e-13)
                for all_of, of_one in ends:
                    np.testing.assert_allclose(all_of[:, n], of_one[:, 0], atol=1e-13)


@pytest.mark.parametrize("b", [1, 3, 9])
@pytest.mark.parametrize("cell", CELLS)
def test_sequences_of_no_steps_hand_their_states_on(cell, b):
    p = RecurrentProblem.make(cell, (4, b, 3), 20, directions=2, state=True, ragged=True)
    for op in (cell, f"{cell}_train"):
        given = dict(zip(OPS[op].inputs, testing.inputs(op, p), strict=True)) | {"lengths": np.zeros(b, np.int64)}
        for kernel in (k for k in kernels(op) if k.unsupported(p) is None):
            outputs = dict(zip(OPS[op].outputs, testing.poisoned_run(kernel, p, tuple(given.values())), strict=True))
            assert not outputs["y"].any()
            assert outputs["hn"].tobytes() == given["h0"].tobytes()
            assert outputs["cn"].tobytes() == given["c0"].tobytes()
    back = dict(zip(OPS[f"{cell}_grad"].inputs, testing.inputs(f"{cell}_grad", p), strict=True))
    back |= {"lengths": np.zeros(b, np.int64), "saved": np.zeros(p.saved_shape, p.dtype)}
    for kernel in kernels(f"{cell}_grad"):
        names = OPS[kernel.op].outputs
        found = dict(zip(names, testing.poisoned_run(kernel, p, tuple(back.values())), strict=True))
        assert found["gh0"].tobytes() == back["ghn"].tobytes()
        assert found["gc0"].tobytes() == back["gcn"].tobytes()
        assert not any(found[name].any() for name in names if name not in ("gh0", "gc0"))


# Long sequences.


@pytest.mark.parametrize("b", [1, 3, 8])
@pytest.mark.parametrize("cell", CELLS)
def test_a_thousand_steps(cell, b):
    p = RecurrentProblem.make(cell, (1000, b, 4), 20, state=True, directions=2, ragged=b == 3)
    for op in (cell, f"{cell}_train", f"{cell}_grad"):
        arrays = testing.inputs(op, p)
        for kernel in (k for k in kernels(op) if k.unsupported(p) is None):
            outputs = testing.poisoned_run(kernel, p, arrays)
            # Weights as large as these let a plain network remember what its steps were off by.
            assert testing.error(op, p, arrays, outputs) <= 2 * kernel.limit, kernel.name


# Prepared weights.


@pytest.mark.parametrize(("kernel", "problem"), parameters([p for p in recurrent_grid() if p[0].prepare is not None]))
def test_prepared_weights_change_no_bit(kernel, problem, threads):
    arrays = testing.inputs(kernel.op, problem)
    plain = bits(testing.poisoned_run(kernel, problem, arrays))
    names = OPS[kernel.op]
    made = functional.aligned(kernel.prepared(problem), problem.dtype)
    made[:] = np.nan
    kernel.prepare(problem, *(arrays[names.inputs.index(name)] for name in names.weights), made)
    assert np.isfinite(made).all(), "some of what is prepared was never written"
    # With them, the weights themselves are not read.
    blind = tuple(
        np.full_like(array, np.nan) if name in names.weights else array
        for name, array in zip(names.inputs, arrays, strict=True)
    )
    assert bits(testing.poisoned_run(kernel, problem, blind, u=made)) == plain
    with threads.eager():
        again = np.full_like(made, np.nan)
        kernel.prepare(problem, *(arrays[names.inputs.index(name)] for name in names.weights), again)
    assert again.tobytes() == made.tobytes()


MODELS = {
    "lstm": lambda: nn.LSTM(5, 19),
    "lstm-deep": lambda: nn.LSTM(5, 19, 2, bidirectional=True, peephole="diagonal", batch_first=True),
    "gru": lambda: nn.GRU(5, 19, bidirectional=True),
    "gru-deep": lambda: nn.GRU(5, 19, 3, bias=False),
    "rnn": lambda: nn.RNN(5, 19, 2, "relu"),
    "lstm-rows": lambda: nn.LSTM(5, 19, algorithm="rows"),
    "lstm-stepwise": lambda: nn.LSTM(5, 19, algorithm="stepwise"),
}


def state_of(layer):
    return {name: np.array(p.detach().numpy()) for name, p in layer.named_parameters()}


def assign(layer):
    layer.weight_hh_l0 = nn.Parameter(state_of(layer)["weight_hh_l0"] * 0.5)


def assign_bias_or_weight(layer):
    name = "bias_hh_l0" if layer.bias else "weight_ih_l0"
    setattr(layer, name, nn.Parameter(state_of(layer)[name] + 0.25))


def in_place(layer):
    with fastconv.no_grad():
        layer.weight_ih_l0.copy_(state_of(layer)["weight_ih_l0"] * 2)


def in_place_operator(layer):
    with fastconv.no_grad():
        layer.weight_hh_l0 *= 1.5


def through_a_view(layer):
    with fastconv.no_grad():
        part = layer.weight_hh_l0.detach()[:3]
        part *= 0.5


def load(layer):
    layer.load_state_dict({name: value * 0.75 for name, value in state_of(layer).items()})


def reset(layer):
    layer.reset_parameters()


def initialise(layer):
    nn.init.constant_(layer.weight_ih_l0, 0.125)


def through_data(layer):
    layer.weight_ih_l0.data = Tensor(state_of(layer)["weight_ih_l0"] * -1)


def optimise(layer):
    # A larger step would leave a ReLU network that is zero everywhere.
    optimiser = optim.SGD(layer.parameters(), lr=0.02)
    x = normal(3, 2, 5, seed=9)
    layer.train()
    y, _ = layer(Tensor(x))
    (y * y).sum().backward()
    optimiser.step()
    layer.zero_grad()
    layer.eval()


def optimise_with_adam(layer):
    optimiser = optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(2):
        y, _ = layer(Tensor(normal(3, 2, 5, seed=9)))
        (-y.sum()).backward()
        optimiser.step()
    layer.zero_grad()


CHANGES = [assign, assign_bias_or_weight, in_place, in_place_operator, through_a_view, load, reset, initialise]
CHANGES += [through_data, optimise, optimise_with_adam]


def fresh(layer):
    """A layer with the same weights that has never been called."""
    made = copy.deepcopy(layer)
    made.load_state_dict(state_of(layer))
    return made.eval()


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", MODELS)
def test_no_stale_weights(name, change):
    layer = MODELS[name]().eval()
    x = normal(4, 3, 5)
    for _ in range(3):
        before = [layer(x)[0] for _ in range(3)]
        assert len({y.tobytes() for y in before}) == 1
        change(layer)
        for _ in range(3):
            now, wanted = split(layer(x)), split(fresh(layer)(x))
            assert bits([now[0], *now[1]]) == bits([wanted[0], *wanted[1]])
        if change not in (initialise,):
            assert not np.array_equal(layer(x)[0], before[0])


@pytest.mark.parametrize("name", MODELS)
def test_a_change_between_shapes_and_modes_is_seen(name):
    """What is kept is the layer's, not a shape's: two shapes, with and without states, lengths and Tensors, in turn."""
    layer = MODELS[name]().eval()
    inputs = [normal(4, 3, 5), normal(2, 3, 5, seed=1), normal(4, 1, 5, seed=2), normal(6, 9, 5, seed=3)]
    for step in range(4):
        with fastconv.no_grad():
            layer.weight_hh_l0 *= 0.9
        for x in inputs:
            b = x.shape[0 if layer.batch_first else 1]
            t = x.shape[1 if layer.batch_first else 0]
            wanted = bits([fresh(layer)(x)[0]])
            assert bits([layer(x)[0]]) == wanted
            assert bits([layer(x)[0]]) == wanted
            with fastconv.no_grad():
                assert bits([layer(Tensor(x))[0].numpy()]) == wanted
            ends = np.arange(b) % t + 1
            assert bits([layer(x, lengths=ends)[0]]) == bits([fresh(layer)(x, lengths=ends)[0]])
        layer.train(step % 2 == 0)
        layer(inputs[0])
        layer.eval()


def test_somebody_elses_array_is_read_in_every_call():
    """A Parameter of an array that is kept, and a view that is kept: changes go unseen, so nothing is kept."""
    layer = nn.LSTM(5, 19).eval()
    x = normal(4, 1, 5)
    mine = state_of(layer)["weight_hh_l0"]
    layer.weight_hh_l0 = nn.Parameter(mine)
    view = layer.weight_ih_l0.detach().numpy()
    for change in (mine, view):
        for _ in range(3):
            layer(x)
            change *= 0.9
            assert bits([layer(x)[0]]) == bits([fresh(layer)(x)[0]])


def test_a_view_taken_after_weights_were_kept():
    layer = nn.GRU(5, 19).eval()
    x = normal(4, 1, 5)
    for _ in range(3):
        layer(x)
    view = layer.weight_hh_l0.detach().numpy()
    for _ in range(3):
        view *= 0.9
        assert bits([layer(x)[0]]) == bits([fresh(layer)(x)[0]])
    del view
    for _ in range(3):
        assert bits([layer(x)[0]]) == bits([fresh(layer)(x)[0]])


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_have_weights_of_their_own(make):
    layer = nn.LSTM(5, 19, 2).eval()
    x = normal(4, 1, 5)
    wanted = bits([layer(x)[0], layer(x)[0]])
    other = make(layer)
    assert bits([other(x)[0], other(x)[0]]) == wanted
    if make is not copy.copy:
        load(other)
        assert bits([layer(x)[0], layer(x)[0]]) == wanted
        assert bits([other(x)[0]]) == bits([fresh(other)(x)[0]])
    load(layer)
    assert bits([layer(x)[0]]) == bits([fresh(layer)(x)[0]]) != wanted[:1]
    assert bits([other(x)[0]]) == bits([fresh(other)(x)[0]])


def test_another_kernel_is_taken_when_it_is_named(threads):
    layer = nn.LSTM(8, 40).eval()
    x = normal(5, 1, 8)
    layer(x)
    for algorithm in ("rows", "stepwise", "one", "rows"):
        with use(f"lstm/{algorithm}"):
            for _ in range(2):
                assert bits([layer(x)[0]]) == bits([fresh(layer)(x)[0]])
                named = copy.deepcopy(layer)
                named.algorithm = algorithm
                assert bits([named(x)[0]]) == bits([layer(x)[0]])
    with use("lstm/units"), pytest.raises(fastconv.Unsupported, match="lstm/units/cpu"):
        layer(x)
    threads.set_num_threads(1)
    assert bits([layer(x)[0]]) == bits([fresh(layer)(x)[0]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_inputs_of_every_kind_after_a_plain_one(dtype):
    """A call worked out for plain arrays of a shape is not taken for arrays that differ in anything else."""
    layer = nn.LSTM(6, 21, dtype=dtype).eval()
    x = normal(5, 1, 6, dtype=dtype)
    hx = (normal(1, 1, 21, seed=1, dtype=dtype), normal(1, 1, 21, seed=2, dtype=dtype))
    wanted, with_state = layer(x)[0].tobytes(), layer(x, hx)[0].tobytes()
    wide = np.zeros((5, 1, 12), dtype)
    wide[..., ::2] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    for _ in range(2):
        for other in (wide[..., ::2], frozen, np.asfortranarray(x), x.view(type("Sub", (np.ndarray,), {}))):
            assert layer(other)[0].tobytes() == wanted
            assert layer(other, hx)[0].tobytes() == with_state
            assert layer(x, (hx[0], np.asfortranarray(hx[1])))[0].tobytes() == with_state
            assert layer(x, list(hx))[0].tobytes() == with_state
        other = "float64" if dtype == "float32" else "float32"
        with pytest.raises(TypeError, match=r"dtype"):
            layer(x.astype(other))
        with pytest.raises(TypeError, match=r"dtype"):
            layer(x, (hx[0].astype(other), hx[1]))
        with pytest.raises(ValueError, match=r"hx\[1\]"):
            layer(x, (hx[0], hx[1][:, :, :-1]))
        with pytest.raises(TypeError, match=r"dtype"):
            layer(x.astype(x.dtype.newbyteorder()))
        assert layer(x)[0].tobytes() == wanted
        assert layer(x, hx)[0].tobytes() == with_state
        y, (h, c) = layer(x, hx)
        assert not any(np.shares_memory(out, given) for out in (y, h, c) for given in (x, *hx))


# explain().


@pytest.mark.parametrize("cell", CELLS)
def test_a_layer_is_explained(cell):
    layer, x = LAYERS[cell](12, 24), normal(5, 3, 12)
    for mode, chosen in ((layer.train, f"{cell}_train"), (layer.eval, cell)):
        mode()
        explanation = explain(layer, x)
        names = {c.kernel.name for c in explanation.candidates}
        assert names == {k.name for op in (cell, f"{cell}_train", f"{cell}_grad") for k in kernels(op)}
        marked = [c.kernel for c in explanation.candidates if c.chosen]
        assert [k.op for k in marked] == [cell, f"{cell}_train", f"{cell}_grad"]
        assert chosen in {k.op for k in marked}
        text = str(explanation)
        assert f"{cell}/one/cpu" in text
        assert "3 sequences, needs 1" in text
    assert "kept KiB" in str(explain(layer.eval(), x))
    named = LAYERS[cell](12, 24, algorithm="rows")
    assert [c.kernel.algorithm for c in explain(named, x, ops=[cell]).candidates if c.chosen] == ["rows"]


@pytest.mark.parametrize("cell", CELLS)
def test_a_layer_is_explained_and_measured(cell):
    explanation = explain(LAYERS[cell](12, 24), normal(5, 1, 12), measure=True)
    able = [c for c in explanation.candidates if c.reason is None]
    assert len(able) == 8
    assert all(c.measurement.passed for c in able)
    assert all(c.measurement.rate > 0 for c in able)


def test_a_layer_that_has_no_kernel_says_so():
    with pytest.raises(ValueError, match="no kernel"):
        explain(nn.LSTM(4, 8, layer_norm=True), normal(5, 1, 4))


def test_measuring_chooses_among_recurrent_kernels():
    p = RecurrentProblem.make("lstm", (4, 3, 8), 16)
    with use(measure=True):
        for op in ("lstm", "lstm_train", "lstm_grad"):
            assert choose(op, p) in kernels(op)
            assert choose(op, p, kept=True) in kernels(op)


# Bounds on time: a layer that waits for helpers is no slower for ever.


def test_a_call_ends_though_all_cores_are_busy():
    """Threads that give up the core between looks: two busy Python processes' worth of spinning beside a team."""
    layer = nn.LSTM(64, 128).eval()
    x = normal(50, 1, 64)
    wanted = layer(x)[0].tobytes()
    stop = threading.Event()

    def spin():
        a = np.ones((300, 300))
        while not stop.is_set():
            a @ a

    others = [threading.Thread(target=spin) for _ in range(4)]
    for other in others:
        other.start()
    try:
        begun = time.perf_counter()
        for _ in range(20):
            assert layer(x)[0].tobytes() == wanted
        assert time.perf_counter() - begun < 60
    finally:
        stop.set()
        for other in others:
            other.join()
