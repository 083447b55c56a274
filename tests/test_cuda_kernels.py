"""The CUDA kernels on the executor: results in three orders, nothing found by the checker, every seeded bug found."""

import math
import os
import shutil
import sys
from collections import Counter

import numpy as np
import pytest
from cuda_bugs import BUGS, FILES

from fastconv import cudaemu, device, testing
from fastconv.kernels.cuda import launch, pointwise
from fastconv.problem import ConvProblem, LinearProblem, PoolProblem, RecurrentProblem
from fastconv.registry import OPS, kernels, operations

# What the small cases leave out: pixels for several shares of a weight gradient, channels for several parts of a sum.
PARTS = {"padding": 1, "bias": True, "activation": "relu", "add": True}
MORE = [
    testing.Case("conv-no-tap", ConvProblem.make((1, 2, 1, 1), (3, 2, 1, 1), stride=2, padding=1), small=True),
    testing.Case("conv-parts", ConvProblem.make((2, 70, 5, 6), (9, 70, 3, 3), **PARTS), small=True),
    testing.Case("conv-shares", ConvProblem.make((3, 2, 17, 19), (5, 2, 3, 3), stride=(1, 2), padding=1), small=True),
    testing.Case("conv-depthwise-shares", ConvProblem.make((3, 2, 40, 70), (4, 1, 3, 3), groups=2), small=True),
]
PAIRS = [
    *testing.grid(small=True, backend="cuda"),
    *(
        (k, case)
        for case in MORE
        for op in operations(case.problem)
        for k in kernels(op, "cuda")
        if testing.serves(k, case.problem)
    ),
]
GRID = [pytest.param(kernel, case, id=f"{kernel.name}-{case.name}") for kernel, case in PAIRS]
FUNCTIONS = ("relu", "sigmoid", "tanh")


def run_on(runner, kernel, problem, arrays, **made):
    with launch.running(runner):
        return testing.poisoned_run(kernel, problem, arrays, **made)


@pytest.mark.parametrize(("kernel", "case"), GRID)
def test_every_kernel_is_right_in_every_order(kernel, case):
    arrays = testing.inputs(kernel.op, case.problem)
    oracle = testing.Oracle(kernel.op, case.problem, arrays)
    found = []
    for order in cudaemu.ORDERS:
        found.append(run_on(launch.Emulated("result", order, seed=len(case.name)), kernel, case.problem, arrays))
        assert oracle.error(found[-1]) <= kernel.limit
    # Every output has one writer, whose sum has one order.
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("kernel", "case"), GRID)
def test_the_checker_finds_nothing(kernel, case):
    arrays = testing.inputs(kernel.op, case.problem)
    runner = launch.Emulated("check", "random", seed=1)
    outputs = run_on(runner, kernel, case.problem, arrays)
    assert runner.launches
    assert testing.Oracle(kernel.op, case.problem, arrays).error(outputs) <= kernel.limit


def random_problem(generator):
    """A problem of any operation, of small sizes."""

    def number(low, high):
        return int(generator.integers(low, high + 1))

    kind = number(0, 6)
    if kind == 0:
        cell = ("lstm", "gru", "rnn")[number(0, 2)]
        options = {name: bool(number(0, 1)) for name in ("bias", "state", "ragged", "batch_first")}
        if cell == "lstm":
            options["peephole"] = bool(number(0, 1))
        shape = (number(1, 4), number(1, 20), number(1, 9))
        return RecurrentProblem.make(cell, shape, number(1, 40), directions=number(1, 2), **options)
    if kind == 1:
        i, o = number(1, 90), number(1, 90)
        return LinearProblem.make((number(1, 90), i), (o, i), bias=bool(number(0, 1)))
    size, window, stride = [number(1, 24), number(1, 40)], [number(1, 4), number(1, 4)], (number(1, 3), number(1, 3))
    dilation, padding = (number(1, 2), number(1, 2)), (number(0, 1), number(0, 1))
    size = [max(n, d * (k - 1) + 1) for n, d, k in zip(size, dilation, window, strict=True)]
    images = number(1, 3)
    if kind == 2:
        padding = tuple(min(side, k // 2) for side, k in zip(padding, window, strict=True))
        options = {"stride": stride, "padding": padding, "ceil_mode": bool(number(0, 1))}
        return PoolProblem.make((images, number(1, 5), *size), window, **options)
    groups = number(1, 3) if kind in (3, 6) else 1
    # 6: depthwise.
    channels, outputs = groups * (1 if kind == 6 else number(1, 9)), groups * number(1, 20)
    if kind == 5 or (kind == 6 and number(0, 1)):
        window, stride, dilation = [3, 3], (1, 1), (1, 1)
        size = [max(n, 3) for n in size]
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "bias": bool(number(0, 1))}
    # With an epilogue a problem has no gradients.
    if number(0, 1):
        options |= {"activation": ("", "relu", "sigmoid", "tanh")[number(0, 3)], "add": bool(number(0, 1))}
    return ConvProblem.make((images, channels, *size), (outputs, channels // groups, *window), **options)


# For a longer run: CUDA_ROUNDS=2000 pytest tests/test_cuda_kernels.py -k random_problems
ROUNDS = int(os.environ.get("CUDA_ROUNDS", "60"))


def test_random_problems_are_right_and_the_checker_finds_nothing():
    generator, launches = np.random.default_rng(2026), Counter()
    for number in range(ROUNDS):
        problem = random_problem(generator)
        for op in operations(problem):
            for kernel in kernels(op, "cuda"):
                if not testing.serves(kernel, problem):
                    continue
                arrays = testing.inputs(op, problem)
                outputs = run_on(launch.Emulated("check", "random", seed=number), kernel, problem, arrays)
                error = testing.Oracle(op, problem, arrays).error(outputs)
                assert error <= kernel.limit, (kernel.name, problem)
                launches[kernel.name] += 1
    print(sum(launches.values()), "runs:", *sorted(launches.items()))
    assert set(launches) == {kernel.name for op in OPS for kernel in kernels(op, "cuda")}


def activated(name, x):
    return {"relu": np.maximum(x, 0), "sigmoid": 1 / (1 + np.exp(-x)), "tanh": np.tanh(x)}[name]


@pytest.mark.parametrize("flavour", cudaemu.FLAVOURS)
@pytest.mark.parametrize("size", [1, 3, 4, 1000, 4099])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_pointwise(name, size, flavour):
    x = np.random.default_rng(size).standard_normal(size).astype(np.float32) * 3
    gy = np.random.default_rng(size + 1).standard_normal(size).astype(np.float32)
    with launch.running(launch.Emulated(flavour, "random")):
        y, gx = np.empty_like(x), np.empty_like(x)
        pointwise.activate(name, x, y)
        pointwise.gradient(name, y, gy, gx)
    wanted = activated(name, x.astype(np.float64))
    np.testing.assert_allclose(y, wanted, rtol=2e-6, atol=1e-7)
    slope = {"relu": (wanted > 0) * 1.0, "sigmoid": wanted * (1 - wanted), "tanh": 1 - wanted**2}[name]
    np.testing.assert_allclose(gx, gy * slope, rtol=1e-4, atol=2e-6)


def exercised(file):
    """Whether what is in the file is right on all small cases; Found if the checker finds something."""
    bugs = FILES[file]
    if hasattr(bugs, "works") and not bugs.works():
        return False
    for kernel, case in PAIRS:
        if kernel.run.__module__.rpartition(".")[2] not in getattr(bugs, "MODULES", ()):
            continue
        arrays = testing.inputs(kernel.op, case.problem)
        if "with_indices" in kernel.op:
            # Ties.
            arrays = tuple(np.round(array) for array in arrays)
        with np.errstate(all="ignore"):
            outputs = testing.poisoned_run(kernel, case.problem, arrays)
            if not testing.Oracle(kernel.op, case.problem, arrays).error(outputs) <= kernel.limit:
                return False
    return True


@pytest.mark.parametrize("name", BUGS)
def test_every_seeded_bug_is_found(name, tmp_path):
    bug = BUGS[name]
    source = (launch.HERE / bug.file).read_text(encoding="utf-8")
    assert source.count(bug.right) == 1
    for path in launch.HERE.glob("*.cu*"):
        shutil.copy(path, tmp_path)
    (tmp_path / bug.file).write_text(source.replace(bug.right, bug.wrong), encoding="utf-8")
    runner = launch.Emulated("check", "random", seed=2)
    runner.folder = tmp_path
    try:
        with launch.running(runner):
            found = not exercised(bug.of)
    except cudaemu.Found:
        found = True
    assert found


def counts_of(op, algorithm, problem):
    """What the kernels of an operation did to memory: counts by kernel."""
    kernel = next(k for k in kernels(op, "cuda") if k.algorithm == algorithm)
    runner = launch.Emulated("check")
    runner.counts = {}
    run_on(runner, kernel, problem, testing.inputs(op, problem))
    return runner.counts


@pytest.mark.parametrize("channels", [64, 128])
def test_the_implicit_product_reads_without_conflicts(channels):
    """VGG's 3×3 layers, but for fewer channels of input and rows, which change no address's place in a line or bank."""
    problem = ConvProblem.make((1, 8, 8, 56), (channels, 8, 3, 3), padding=1)
    found = counts_of("conv2d", "implicit", problem)["implicit"]
    shared = [line for line in found.lines if line.shared]
    assert shared
    for line in shared:
        assert line.passes == line.least_passes, line
    stores = [line for line in found.lines if line.write and not line.shared]
    assert stores
    for line in stores:
        assert line.sectors == line.least_sectors, line
    for line in found.lines:
        # Rows of 56 and the window's place among them: a warp's pixels begin anywhere in a sector.
        if not line.shared and not line.write:
            assert line.sectors <= 1.5 * line.least_sectors + line.warps, line


def test_pointwise_functions_move_what_they_must():
    x = np.random.default_rng(1).standard_normal(8192).astype(np.float32)
    runner = launch.Emulated("check")
    runner.counts = {}
    with launch.running(runner):
        pointwise.activate("relu", x, np.empty_like(x))
    found = runner.counts["activate"]
    assert found.moved == found.compulsory == 2 * x.nbytes
    assert all(line.sectors == line.least_sectors for line in found.lines)


def test_every_cuda_kernel_has_two_bugs():
    of_kernel = Counter((bug.of, bug.kernel) for bug in BUGS.values())
    for path in sorted(launch.HERE.glob("*.cu")):
        for kernel in cudaemu.kernel_names(path.read_text(encoding="utf-8")):
            assert of_kernel[path.name, kernel] >= 2, (path.name, kernel)


def test_without_a_device_there_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    device.cupy.cache_clear()
    kernel = next(k for k in kernels("max_pool2d", "cuda"))
    problem = next(case.problem for k, case in testing.grid(small=True, backend="cuda") if k is kernel)
    with pytest.raises(RuntimeError, match="CUDA needs CuPy, which is not installed"):
        testing.poisoned_run(kernel, problem, testing.inputs("max_pool2d", problem))


def test_launches_fill_the_device_and_no_more():
    with launch.running(launch.Emulated()):
        most = 2 * launch.A100.processors * launch.A100.threads // 256
        assert launch.spread(10**9, 256) == most
        assert launch.spread(1000, 256) == 4
        assert launch.spread(0, 256) == 1
    assert math.isclose(launch.blocks(7, 2), 4)
