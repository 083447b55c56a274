"""CUDA functions that are no operations of the registry, and pools, on the executor: against fastconv on the CPU.

`everywhere` runs each in three orders and under the checker; results must be the same bit for bit.
"""

import numpy as np
import pytest
from cuda_bugs import FILES

import fastconv.nn.functional as F
from fastconv import cudaemu, optim, tensor, testing
from fastconv.kernels.cuda import adaptive, launch, pointwise, pool, softmax, stochastic, sums
from fastconv.kernels.cuda import optim as steps
from fastconv.problem import PoolProblem
from fastconv.registry import kernels, operations

DTYPES = ("float32", "float64")
# A device that small problems fill, so that blocks go down many rows.
SMALL = launch.Device("small", 1, 256, 48 * 1024)


def random(shape, dtype, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def everywhere(compute, device=launch.A100):
    """What compute() returns, a tuple of arrays, on the executor."""
    runners = [launch.Emulated("result", order, seed=3, device=device) for order in cudaemu.ORDERS]
    found = []
    for runner in (*runners, launch.Emulated("check", "random", seed=4, device=device)):
        with launch.running(runner):
            found.append(compute())
        assert runner.launches
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
    return found[0]


def close(a, b, dtype, scale=1.0):
    """Within a few roundings of numbers of this size."""
    np.testing.assert_allclose(a, b, rtol=0, atol=16 * np.finfo(dtype).eps * scale)


def test_relu_has_no_gradient_where_it_is_0():
    y, gy = np.array([0, 0, 2, np.nan], np.float32), np.array([np.inf, np.nan, 3, 4], np.float32)

    def compute():
        gx = np.empty_like(y)
        pointwise.gradient("relu", y, gy, gx)
        return (gx,)

    np.testing.assert_array_equal(everywhere(compute)[0], [0, 0, 3, 4])


# (shape, axis): a lane or more of a warp to a row, a block to a row, a thread to a row.
ROWS = [((9, 10), -1), ((1, 33), 1), ((2, 1100), 1), ((3, 7, 4, 5), 1), ((6,), 0), ((300, 1), 1), ((0, 4), 1)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("logarithm", [False, True])
@pytest.mark.parametrize(("shape", "axis"), ROWS)
def test_softmax(shape, axis, logarithm, dtype):
    x, gy = 5 * random(shape, dtype), random(shape, dtype, 1)

    def compute():
        y, gx = np.empty_like(x), np.empty_like(x)
        softmax.softmax(x, y, axis, logarithm=logarithm)
        softmax.softmax_grad(y, gy, gx, axis, logarithm=logarithm)
        return y, gx

    y, gx = everywhere(compute)
    given = tensor(x.astype(np.float64), requires_grad=True)
    wanted = (F.log_softmax if logarithm else F.softmax)(given, axis)
    wanted.backward(gy.astype(np.float64))
    close(y, wanted.detach().numpy(), dtype, 4)
    close(gx, given.grad.numpy(), dtype, 8)


def test_softmax_of_large_infinite_and_missing_numbers():
    inf, nan = np.inf, np.nan
    x = np.array([[1e30, 1e30, -1e30], [-inf, 0, 0], [inf, 0, 0], [nan, 0, 0], [-inf, -inf, -inf]], np.float32)

    def compute():
        y = np.empty_like(x)
        softmax.softmax(x, y)
        return (y,)

    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(everywhere(compute)[0], F.softmax(x, 1))


def cross_entropy(x, labels, weight, reduction, gy, **options):
    """(loss, gradient) by the kernels, as nn.functional would ask for them."""
    smoothing = {"label_smoothing": options.pop("label_smoothing", 0.0)}
    losses, gradient, gx = np.empty(labels.shape, x.dtype), np.empty_like(x), np.empty_like(x)
    softmax.cross_entropy(x, labels, weight, losses, gradient, **options, **smoothing)
    if reduction == "none":
        softmax.cross_entropy_grad(gradient, gy, None, gx)
        return losses, gx
    y, divisor = np.empty(1, x.dtype), np.empty(1, x.dtype)
    mean, classes = reduction == "mean", x.shape[min(x.ndim - 1, 1)]
    softmax.reduce_losses(losses, labels, weight, y, divisor, classes, mean=mean, **options)
    softmax.cross_entropy_grad(gradient, gy, divisor, gx)
    return y[0], gx


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"ignore_index": 2}, {"label_smoothing": 0.1}, {"ignore_index": -7}])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("shape", "reduction"),
    [((64, 10), "mean"), ((5, 33), "none"), ((2, 1100), "sum"), ((3, 4, 2, 3), "mean"), ((3, 4, 5), "none")],
)
def test_cross_entropy(shape, reduction, weighted, options, dtype):
    generator = np.random.default_rng(len(shape))
    x = 3 * random(shape, dtype)
    labels = generator.integers(0, shape[1], (shape[0], *shape[2:]))
    labels.flat[:: 3 if "ignore_index" in options else labels.size + 1] = options.get("ignore_index", 0)
    weight = generator.random(shape[1]).astype(dtype) + dtype_of(dtype, 0.1) if weighted else None
    gy = random(labels.shape if reduction == "none" else (1,), dtype, 1)
    y, gx = everywhere(lambda: cross_entropy(x, labels, weight, reduction, gy, **options))
    given = tensor(x.astype(np.float64), requires_grad=True)
    heavy = None if weight is None else weight.astype(np.float64)
    wanted = F.cross_entropy(given, labels, heavy, reduction=reduction, **options)
    wanted.backward(gy.astype(np.float64).reshape(wanted.shape))
    scale = float(np.max(np.abs(wanted.detach().numpy())))
    close(y, wanted.detach().numpy(), dtype, max(scale, 4))
    close(gx, given.grad.numpy(), dtype, 4)


def dtype_of(dtype, number):
    return np.dtype(dtype).type(number)


def test_cross_entropy_where_all_is_ignored_or_a_label_is_no_class():
    x, gy = random((4, 5), "float32"), np.ones(1, np.float32)
    y, gx = everywhere(lambda: cross_entropy(x, np.full(4, -100), None, "mean", gy))
    assert np.isnan(y)
    np.testing.assert_array_equal(gx, np.zeros_like(x))
    for label in (5, -1):
        losses = np.empty(4, np.float32)
        labels = np.array([0, label, 1, -100])

        def compute(labels=labels, losses=losses):
            softmax.cross_entropy(x, labels, None, losses)
            return (losses.copy(),)

        np.testing.assert_array_equal(np.isnan(everywhere(compute)[0]), [False, True, False, False])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape",
    [(5, 3, 7, 9), (64, 10), (2100, 35), (70, 2, 28, 28), (1, 2, 90, 300), (3, 300), (0, 3, 2, 2), (33, 3, 1, 1)],
)
def test_sums_of_channels(shape, dtype):
    x = random(shape, dtype)
    plane = int(np.prod(shape[2:]))

    def compute():
        y, scratch = np.empty(shape[1], dtype), np.empty(sums.scratch(*shape[:2], plane), dtype)
        sums.of_channels(x, y, scratch)
        return (y,)

    axes = (0, *range(2, x.ndim))
    # A thread's sum is short, and a tree adds them up.
    bound = np.sqrt(np.square(x, dtype=np.float64).sum(axis=axes).max(initial=0))
    close(everywhere(compute)[0], x.sum(axis=axes, dtype=np.longdouble), dtype, bound)


def trained(make, step, options):
    """Parameters after three steps of fastconv's optimiser and of the kernel's."""
    p = tensor(random(1030, "float32"), requires_grad=True)
    optimizer = make([p], **options)
    start = p.detach().numpy().copy()
    gradients = [random(1030, "float32", seed) for seed in (5, 6, 7)]
    for g in gradients:
        p.grad = tensor(g)
        optimizer.step()

    def compute():
        q = start.copy()
        state = [np.zeros_like(q), np.zeros_like(q)]
        for number, g in enumerate(gradients, 1):
            step(q, g, state, number)
        return (q, *state)

    return p.detach().numpy(), everywhere(compute)[0]


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.1},
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True},
    ],
)
def test_sgd(options):
    def step(q, g, state, number):
        v = state[0] if options.get("momentum") else None
        steps.sgd(q, g, v, first=number == 1, **options)

    wanted, found = trained(optim.SGD, step, options)
    # The same roundings in the same order, but for what a compiler fuses.
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "options", [{"lr": 0.1}, {"lr": 0.01, "betas": (0.5, 0.9), "weight_decay": 0.1, "maximize": True, "eps": 1e-3}]
)
def test_adam(options):
    def step(q, g, state, number):
        steps.adam(q, g, *state, number, **options)

    wanted, found = trained(optim.Adam, step, options)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


# (input, output size): windows that overlap, of several sizes, larger outputs than inputs, one window, wide planes.
ADAPTIVE = [((2, 3, 7, 5), (3, 2)), ((1, 2, 4, 3), (7, 5)), ((2, 1, 9, 70), (1, 1)), ((1, 2, 80, 65), (37, 64))]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("device", [launch.A100, SMALL], ids=lambda device: device.name)
@pytest.mark.parametrize(("shape", "size"), ADAPTIVE)
def test_adaptive_average_pooling(shape, size, device, dtype):
    x, gy = random(shape, dtype), random((*shape[:2], *size), dtype, 1)

    def compute():
        y, gx = np.empty_like(gy), np.empty_like(x)
        adaptive.avg_pool(x, y)
        adaptive.avg_pool_grad(gy, gx)
        return y, gx

    y, gx = everywhere(compute, device)
    given = tensor(x.astype(np.float64), requires_grad=True)
    wanted = F.adaptive_avg_pool2d(given, size)
    wanted.backward(gy.astype(np.float64))
    close(y, wanted.detach().numpy(), dtype, 4)
    close(gx, given.grad.numpy(), dtype, 4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("device", [launch.A100, SMALL], ids=lambda device: device.name)
@pytest.mark.parametrize(("shape", "size"), ADAPTIVE)
def test_adaptive_max_pooling(shape, size, device, dtype):
    # Many ties.
    x, gy = np.round(random(shape, dtype)), random((*shape[:2], *size), dtype, 1)
    x[0, 0, 1, 2] = np.nan

    def compute():
        y, gx = np.empty_like(gy), np.empty_like(x)
        indices, places, alone = np.empty(y.shape, np.int64), np.empty(y.shape, np.int32), np.empty_like(y)
        adaptive.max_pool(x, y, indices, places)
        adaptive.max_pool(x, alone)
        adaptive.max_pool_grad(places, gy, gx)
        return y, indices, gx, alone

    y, indices, gx, alone = everywhere(compute, device)
    given = tensor(x, requires_grad=True)
    wanted, at = F.adaptive_max_pool2d(given, size, return_indices=True)
    wanted.backward(gy)
    np.testing.assert_array_equal(y, wanted.detach().numpy())
    np.testing.assert_array_equal(alone, y)
    np.testing.assert_array_equal(indices, at.numpy())
    close(gx, given.grad.numpy(), dtype, 16)


def windows_of(p, plane):
    """Each window of a pooling, as ((i, j), its elements' places), those that are above 0 in a plane."""
    for i in range(p.oh):
        for j in range(p.ow):
            top, left = i * p.stride[0] - p.padding[0], j * p.stride[1] - p.padding[2]
            rows = range(max(top, 0), min(top + p.kh, p.h))
            columns = range(max(left, 0), min(left + p.kw, p.w))
            yield (i, j), [(r, s) for r in rows for s in columns if plane[r, s] > 0]


STOCHASTIC = [
    PoolProblem.make((2, 3, 9, 12), (3, 3), stride=2, padding=1),
    PoolProblem.make((1, 2, 7, 40), (2, 3), stride=(1, 2), ceil_mode=True, dtype="float64"),
]


@pytest.mark.parametrize("device", [launch.A100, SMALL], ids=lambda device: device.name)
@pytest.mark.parametrize("p", STOCHASTIC, ids=str)
def test_stochastic_pooling(p, device):
    small, large = (p.n, p.c, p.oh, p.ow), (p.n, p.c, p.h, p.w)
    # Windows with elements below 0, some without any above.
    x, gy = random(large, p.dtype), random(small, p.dtype, 1)
    x[0, 0] -= 2
    draws = np.random.default_rng(2).random(small, p.dtype)
    draws[..., 0, :2] = 0, 1 - np.finfo(p.dtype).epsneg

    def compute():
        y, gx, places = np.empty_like(gy), np.empty_like(x), np.empty(small, np.int32)
        stochastic.stochastic_pool(p, x, draws, y, places)
        stochastic.stochastic_pool_grad(p, places, gy, gx)
        mean, totals, mean_gx = np.empty_like(gy), np.empty_like(gy), np.empty_like(x)
        stochastic.stochastic_mean(p, x, mean, totals)
        stochastic.stochastic_mean_grad(p, x, mean, totals, gy, mean_gx)
        return y, places, gx, mean, mean_gx

    y, places, gx, mean, mean_gx = everywhere(compute, device)
    wanted_gx, wanted_mean_gx = np.zeros(large), np.zeros(large)
    for n, c in np.ndindex(p.n, p.c):
        for (i, j), above in windows_of(p, x[n, c]):
            window, g = (n, c, i, j), gy[n, c, i, j]
            if not above:
                assert (y[window], places[window], mean[window]) == (0, -1, 0)
                continue
            values = np.array([x[n, c, r, s] for r, s in above])
            sums_to = np.cumsum(values)
            goal = draws[window] * sums_to[-1]
            drawn = above[min(int(np.searchsorted(sums_to, goal, "right")), len(above) - 1)]
            assert places[window] == drawn[0] * p.w + drawn[1]
            assert y[window] == x[n, c][drawn]
            wanted_gx[n, c][drawn] += g
            total = values.astype(np.float64).sum()
            expected = np.square(values, dtype=np.float64).sum() / total
            close(mean[window], expected, p.dtype, 4)
            for place in above:
                wanted_mean_gx[n, c][place] += g * (2 * float(x[n, c][place]) - expected) / total
    close(gx, wanted_gx, p.dtype, 4)
    close(mean_gx, wanted_mean_gx, p.dtype, 4 * max(1, np.abs(wanted_mean_gx).max()))


def test_stochastic_pooling_draws_in_proportion_and_keeps_nan():
    p = PoolProblem.make((1, 1, 1, 4096), (1, 4), stride=4)
    x = np.tile(np.array([1, 2, 0, 5], np.float32), 1024).reshape(1, 1, 1, -1)
    x[..., -1] = np.nan
    draws = np.random.default_rng(3).random((1, 1, 1, 1024), np.float32)

    def compute():
        y, places = np.empty_like(draws), np.empty(draws.shape, np.int32)
        stochastic.stochastic_pool(p, x, draws, y, places)
        return y, places

    y, places = everywhere(compute)
    assert np.isnan(y[..., -1])
    shares = np.bincount(places[0, 0, 0, :-1] % 4, minlength=4) / 1023
    # Four standard deviations.
    np.testing.assert_allclose(shares, [1 / 8, 2 / 8, 0, 5 / 8], rtol=0, atol=4 * np.sqrt(0.25 / 1023))


TALL = [
    PoolProblem.make((2, 3, 37, 70), (3, 3), stride=2, padding=1),
    PoolProblem.make((1, 2, 150, 40), (2, 4), stride=(1, 3), padding=(1, 2), dtype="float64"),
]


@pytest.mark.parametrize("p", TALL, ids=str)
@pytest.mark.parametrize("op", operations(TALL[0]))
def test_blocks_that_go_down_many_rows(op, p):
    kernel = kernels(op, "cuda")[0]
    arrays = testing.inputs(op, p)
    with launch.running(launch.Emulated(device=SMALL)):
        grid, block, each = pool.strips(p.ow, p.oh, p.n * p.c)
    assert each > 1
    assert grid[1] * block[1] * each >= p.oh
    outputs = everywhere(lambda: testing.poisoned_run(kernel, p, arrays), SMALL)
    assert testing.Oracle(op, p, arrays).error(outputs) <= kernel.limit


def test_random_shapes():
    generator = np.random.default_rng(2027)
    for seed in range(12):
        n, c, h, w, oh, ow = (int(k) for k in generator.integers(1, (4, 40, 20, 40, 25, 45)))
        x, gy = random((n, c, h, w), "float32", seed), random((n, c, oh, ow), "float32", seed + 100)
        y, gx, places, sums_of = (
            np.empty_like(gy),
            np.empty_like(x),
            np.empty(gy.shape, np.int32),
            np.empty(c, np.float32),
        )
        soft, scratch = np.empty_like(x), np.empty(sums.scratch(n, c, h * w), np.float32)
        axis = int(generator.integers(0, 4))
        device = (launch.A100, SMALL)[seed % 2]
        with launch.running(launch.Emulated("check", "random", seed=seed, device=device)):
            adaptive.max_pool(x, y, None, places)
            adaptive.max_pool_grad(places, gy, gx)
            sums.of_channels(x, sums_of, scratch)
            softmax.softmax(x, soft, axis)
        given = tensor(x, requires_grad=True)
        wanted = F.adaptive_max_pool2d(given, (oh, ow))
        wanted.backward(gy)
        np.testing.assert_array_equal(y, wanted.detach().numpy())
        np.testing.assert_allclose(gx, given.grad.numpy(), rtol=0, atol=1e-4)
        np.testing.assert_allclose(sums_of, x.sum(axis=(0, 2, 3), dtype=np.float64), rtol=0, atol=1e-4)
        close(soft, F.softmax(x, axis), "float32")


@pytest.mark.parametrize("file", [file for file, bugs in FILES.items() if hasattr(bugs, "works")])
def test_what_bugs_are_found_by_is_right_without_them(file):
    with launch.running(launch.Emulated("check", "random", seed=2)):
        assert FILES[file].works()


@pytest.mark.parametrize("stem", ["optim", "pointwise", "pool", "softmax", "stochastic", "sums"])
def test_the_second_witness_agrees(stem):
    """What nvcc makes of the kernels, with fused multiply-adds, is right too (docs/cuda.md)."""
    with launch.running(launch.Interpreted()) as runner:
        assert FILES[f"{stem}.cu"].works()
    assert runner.launches


def counted(compute):
    """What the kernels that compute() launches did to memory, by kernel, on a device that they fill."""
    runner = launch.Emulated("check", device=SMALL)
    runner.counts = {}
    with launch.running(runner):
        compute()
    return runner.counts


@pytest.mark.parametrize("shape", [(64, 96), (8, 1100), (4, 8, 16, 16)])
def test_softmax_moves_what_it_must(shape):
    x = random(shape, "float32")
    y, gx = np.empty_like(x), np.empty_like(x)

    def compute():
        softmax.softmax(x, y, 1)
        softmax.softmax_grad(y, x, gx, 1)

    found = counted(compute)
    assert set(found) == {"softmax", "softmax_grad"}
    for one in found.values():
        assert one.compulsory >= 0.9 * one.moved
        assert all(line.sectors <= 1.2 * line.least_sectors for line in one.lines)


def test_others_move_what_they_must():
    x = random((48, 10, 8, 8), "float32")
    y, gx, sums_of = x.copy(), np.empty_like(x), np.empty(10, np.float32)
    logits, labels, losses = random((64, 10), "float32"), np.arange(64) % 10, np.empty(64, np.float32)
    scratch = np.empty(sums.scratch(48, 10, 64), np.float32)

    def compute():
        pointwise.gradient("tanh", x, y, gx)
        sums.of_channels(x, sums_of, scratch)
        softmax.cross_entropy(logits, labels, None, losses, np.empty_like(logits))
        steps.sgd(x.copy(), y, np.zeros_like(x), lr=0.1, momentum=0.9)
        steps.adam(x.copy(), y, np.zeros_like(x), np.zeros_like(x), 1, lr=0.1)

    found = counted(compute)
    assert set(found) >= {"gradient", "sum_planes", "cross_entropy", "sgd", "adam"}
    for name, one in found.items():
        assert one.compulsory >= 0.9 * one.moved, name


POOLS = [
    PoolProblem.make((1, 2, 64, 64), (2, 2), stride=2),
    PoolProblem.make((1, 2, 64, 64), (3, 3), stride=1),
    PoolProblem.make((1, 2, 64, 64), (3, 3), stride=2, padding=1),
    PoolProblem.make((1, 1, 112, 224), (3, 3), stride=1, padding=1),
    PoolProblem.make((1, 1, 112, 224), (3, 3), stride=2),
]


@pytest.mark.parametrize("p", POOLS, ids=str)
@pytest.mark.parametrize("op", operations(POOLS[0]))
def test_pools_move_what_they_must(op, p):
    kernel = kernels(op, "cuda")[0]
    for name, one in counted(lambda: testing.poisoned_run(kernel, p, testing.inputs(op, p))).items():
        assert one.compulsory >= 0.9 * one.moved, name


def test_adaptive_and_stochastic_pools_move_what_they_must():
    p = PoolProblem.make((1, 2, 64, 64), (3, 3), stride=2, padding=1)
    x = random((1, 2, 64, 64), "float32")
    y, places, totals = (np.empty((1, 2, 32, 32), dtype) for dtype in ("float32", "int32", "float32"))

    def compute():
        adaptive.max_pool(x, np.empty((1, 2, 30, 30), np.float32))
        adaptive.avg_pool(x, np.empty((1, 2, 30, 30), np.float32))
        stochastic.stochastic_pool(p, x, np.zeros_like(y), y, places)
        stochastic.stochastic_mean(p, x, y, totals)
        stochastic.stochastic_mean_grad(p, x, y, totals, y, np.empty_like(x))

    found = counted(compute)
    assert len(found) == 5
    for name, one in found.items():
        assert one.compulsory >= 0.9 * one.moved, name
