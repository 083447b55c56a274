"""Recurrent layers on CUDA beyond the small cases: how many launches, large batches, padding, what is left out."""

import cupy_standin
import numpy as np
import pytest

from fastconv import Tensor, nn, testing, testing_rnn
from fastconv.kernels.cuda import launch, rnn_persistent
from fastconv.problem import GATES, RecurrentProblem
from fastconv.registry import OPS, Unsupported, choose, kernels

CELLS = tuple(GATES)
RECURRENT = [op for op, one in OPS.items() if one.problem is RecurrentProblem]
# Two multiprocessors, so that few sequences fill them.
SMALL = launch.Device("small", 2, 2048, launch.A100.shared_bytes)


def made(cell, t=5, b=3, i=4, h=10, **options):
    shape = (b, t, i) if options.get("batch_first") else (t, b, i)
    return RecurrentProblem.make(cell, shape, h, **options)


def run(kernel, problem, arrays, flavour="result", device=launch.A100, **prepared):
    """(outputs by name, launches)."""
    with launch.running(launch.Emulated(flavour, "random", seed=5, device=device)) as runner:
        outputs = testing.poisoned_run(kernel, problem, arrays, **prepared)
    return dict(zip(OPS[kernel.op].outputs, outputs, strict=True)), runner.launches


def given_to(op, problem):
    return dict(zip(OPS[op].inputs, testing.inputs(op, problem), strict=True))


def launches_of(op, algorithm, t, **options):
    """Launches of t steps, of weights that are prepared where they can be."""
    problem = made(op.partition("_")[0], t, **options)
    kernel = choose(op, problem, algorithm, "cuda")
    arrays = testing.inputs(op, problem)
    prepared = {}
    if kernel.prepare is not None:
        prepared["u"] = np.empty(kernel.prepared(problem), np.float32)
        weights = [arrays[OPS[op].inputs.index(name)] for name in OPS[op].weights]
        with launch.running(launch.Emulated()):
            kernel.prepare(problem, *weights, prepared["u"])
    outputs, launches = run(kernel, problem, arrays, **prepared)
    assert testing.error(op, problem, arrays, tuple(outputs.values())) <= kernel.limit
    return launches


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("op", [op for op in RECURRENT if not op.endswith("_grad")])
def test_forward_launches(op, directions):
    """One product for x of all steps; then a kernel a step, or one for all."""
    assert [launches_of(op, "steps", t, directions=directions) for t in (1, 6)] == [1 + 1, 1 + 6]
    assert [launches_of(op, "persistent", t, directions=directions) for t in (1, 6)] == [1 + 1, 1 + 1]


@pytest.mark.parametrize("op", [op for op in RECURRENT if op.endswith("_grad")])
def test_launches_back(op):
    # gw_ih, gw_hh of each direction, gx, and both biases.
    products = 1 + 2 + 1 + 2
    options = {"directions": 2}
    assert [launches_of(op, "steps", t, **options) for t in (1, 6)] == [1 + products, 6 + products]
    assert [launches_of(op, "persistent", t, **options) for t in (1, 6)] == [1 + products, 1 + products]
    # The gradient of h0 has a step's product more.
    assert launches_of(op, "steps", 6, state=True, **options) == 6 + 1 + products
    assert launches_of(op, "persistent", 6, state=True, **options) == 1 + products


@pytest.mark.parametrize("flavour", ["result", "check"])
@pytest.mark.parametrize("op", RECURRENT)
def test_many_sequences(op, flavour):
    """Blocks of 64 sequences, and of several groups of four."""
    problem = made(op.partition("_")[0], 3, 75, 3, 21, directions=2, ragged=True, state=True)
    arrays = testing.inputs(op, problem)
    oracle = testing.Oracle(op, problem, arrays)
    for kernel in kernels(op, "cuda"):
        outputs, _ = run(kernel, problem, arrays, flavour, SMALL)
        assert oracle.error(tuple(outputs.values())) <= kernel.limit


def test_a_block_has_as_many_groups_as_the_device_needs():
    problem = made("lstm", b=75, h=21, directions=2)
    with launch.running(launch.Emulated()):
        assert rnn_persistent.block_of(problem) == (32, 1)
    with launch.running(launch.Emulated(device=SMALL)):
        assert rnn_persistent.block_of(problem) == (32, 8)
        assert rnn_persistent.block_of(made("rnn", b=75, h=130)) == (64, 4)
        # 96 columns are three warps; and of 163 KiB U of 101 units leaves room for one group.
        assert rnn_persistent.block_of(made("lstm", b=75, h=96)) == (96, 2)
        assert rnn_persistent.block_of(made("lstm", b=75, h=101)) == (128, 1)
        # On the way back a thread has one column.
        assert rnn_persistent.block_of(made("rnn", b=75, h=130), back=True) == (160, 1)


def test_a_layer_that_no_block_holds_is_refused():
    large = made("lstm", h=102)
    with launch.running(launch.Emulated()):
        choose("lstm", made("lstm", h=101), "persistent", "cuda")
        with pytest.raises(Unsupported, match=r"lstm/persistent/cuda: 102 units take \d+ bytes"):
            choose("lstm", large, "persistent", "cuda")
    kernel = choose("lstm", large, "steps", "cuda")
    arrays = testing.inputs("lstm", large)
    assert testing.error("lstm", large, arrays, tuple(run(kernel, large, arrays)[0].values())) <= kernel.limit


@pytest.mark.parametrize("op", RECURRENT)
def test_small_layers_are_persistent(op):
    cell = op.partition("_")[0]
    with launch.running(launch.Emulated()):
        for shape, algorithm in (((29, 32, 12, 64), "persistent"), ((30, 32, 300, 512), "steps")):
            assert choose(op, made(cell, *shape, directions=2), backend="cuda").algorithm == algorithm


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("op", RECURRENT)
def test_what_padding_holds_is_nothing(op, batch_first):
    options = {"batch_first": batch_first, "ragged": True, "directions": 2, "state": True}
    problem = made(op.partition("_")[0], 4, 5, **options)
    given = given_to(op, problem) | {"lengths": np.array([2, 4, 0, 1, 3])}
    if "saved" in given:
        saved = testing_rnn.saved(problem, given_to(f"{problem.cell}_train", problem) | given)
        given["saved"] = saved.astype(np.float32)
    clean = {name: a.copy() for name, a in given.items()}
    for n, end in enumerate(given["lengths"]):
        for name in ("x", "gy"):
            if name in given:
                rows = given[name][n, end:] if batch_first else given[name][end:, n]
                rows[...] = np.nan
    for kernel in kernels(op, "cuda"):
        found, wanted = (run(kernel, problem, tuple(one.values()))[0] for one in (given, clean))
        for name in wanted:
            assert found[name].tobytes() == wanted[name].tobytes(), name
            assert np.isfinite(found[name]).all()


@pytest.mark.parametrize("cell", CELLS)
def test_sequences_of_no_steps_hand_their_states_on(cell):
    """Whatever the weights are."""
    problem = made(cell, ragged=True, state=True, directions=2)
    for op in (cell, f"{cell}_train"):
        given = given_to(op, problem) | {"lengths": np.zeros(3, np.int64)}
        given["w_hh"][:] = np.inf
        for kernel in kernels(op, "cuda"):
            found, _ = run(kernel, problem, tuple(given.values()))
            assert found["hn"].tobytes() == given["h0"].tobytes()
            assert found["cn"].tobytes() == given["c0"].tobytes()
            assert not any(found[name].any() for name in found if name not in ("hn", "cn"))
    back = given_to(f"{cell}_grad", problem)
    back |= {"lengths": np.zeros(3, np.int64), "saved": np.zeros_like(back["saved"])}
    back["w_hh"][:] = back["w_ih"][:] = np.inf
    for kernel in kernels(f"{cell}_grad", "cuda"):
        found, _ = run(kernel, problem, tuple(back.values()))
        assert found["gh0"].tobytes() == back["ghn"].tobytes()
        assert found["gc0"].tobytes() == back["gcn"].tobytes()
        assert not any(found[name].any() for name in found if name not in ("gh0", "gc0"))


@pytest.mark.parametrize("cell", CELLS)
def test_infinite_states_travel_as_the_formulas_say(cell):
    problem = made(cell, 3, 2, h=6, state=True)
    given = given_to(cell, problem)
    given["h0"][0, 1, 2] = np.inf
    arrays = tuple(given.values())
    oracle = testing.Oracle(cell, problem, arrays)
    for kernel in kernels(cell, "cuda"):
        outputs, _ = run(kernel, problem, arrays)
        assert oracle.error(tuple(outputs.values())) <= kernel.limit


GRADIENTS = [pytest.param(kernel, id=kernel.name) for cell in CELLS for kernel in kernels(f"{cell}_grad", "cuda")]


@pytest.mark.parametrize("kernel", GRADIENTS)
def test_a_gradient_that_nobody_wants_is_left_out(kernel):
    problem = made(kernel.op.partition("_")[0], ragged=True, state=True)
    arrays = testing.inputs(kernel.op, problem)
    whole, of_whole = run(kernel, problem, arrays)
    shapes = {name: a.shape for name, a in whole.items()} | {"gx": (0,)}
    found = [np.full(shape, np.nan, np.float32) for shape in shapes.values()]
    with launch.running(launch.Emulated()) as runner:
        kernel.run(problem, *arrays, *found, np.full(kernel.scratch(problem), np.nan, np.float32))
    # The product, and what clears its padding.
    assert runner.launches == of_whole - 2
    for (name, wanted), one in zip(whole.items(), found, strict=True):
        assert name == "gx" or one.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("kernel", GRADIENTS)
def test_gradients_of_results_that_nobody_used_are_zeros(kernel):
    problem = made(kernel.op.partition("_")[0], state=True)
    given = given_to(kernel.op, problem)
    zeros = {name: np.zeros_like(given[name]) for name in ("ghn", "gcn")}
    none = {name: np.empty(0, np.float32) for name in zeros}
    one, other = (run(kernel, problem, tuple((given | ends).values()))[0] for ends in (zeros, none))
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


@pytest.mark.parametrize("op", RECURRENT)
def test_steps_and_persistent_sum_alike(op):
    """A step's sums have one order, whoever does it."""
    problem = made(op.partition("_")[0], 4, 6, directions=2, ragged=True)
    arrays = testing.inputs(op, problem)
    one, other = (run(choose(op, problem, name, "cuda"), problem, arrays)[0] for name in ("steps", "persistent"))
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_a_layer_trains_by_one_kernel_each_way(monkeypatch):
    """With CuPy, which is told of more than 48 KiB of shared memory."""
    net, x = nn.LSTM(3, 64), np.random.default_rng(1).standard_normal((4, 2, 3)).astype(np.float32)

    def gradients(x):
        for parameter in net.parameters():
            parameter.grad = None
        net(Tensor(x))[0].sum().backward()
        return [parameter.grad.cpu().numpy() for parameter in net.parameters()]

    wanted = gradients(x)
    monkeypatch.setattr(cupy_standin.RawModule, "launched", {})
    with cupy_standin.installed(monkeypatch) as cp:
        net.to("cuda")
        for found, one in zip(gradients(cp.asarray(x)), wanted, strict=True):
            np.testing.assert_allclose(found, one, rtol=1e-4, atol=1e-5)
        # x·W, gw_ih and gw_hh; both biases.
        counts = {"pack": 1, "gemm": 3, "persistent": 1, "persistent_back": 1, "sum_rows": 2}
        assert cupy_standin.RawModule.launched == counts
