"""What only a CUDA device can show: every kernel on every case against the reference, streams, training, the sanitizer.

`pytest -m gpu`. Without a device each of these is counted as "no device".
"""

import os
import shutil
from itertools import product

import numpy as np
import pytest
from helpers import child

import fastconv
from fastconv import Tensor, device, functional, nn, optim, testing
from fastconv.models import lenet5
from fastconv.nn import functional as F

pytestmark = pytest.mark.gpu

# The reference takes seconds for a network's large layers: of these only what is within so many flops.
MOST = 3e8
SMALL = testing.grid(small=True, backend="cuda")
LARGE = [pair for pair in testing.grid(small=False, backend="cuda") if pair[1].problem.flops <= MOST]


# The sanitizer's tools see memory as the driver gives it, not what CuPy's pool has used before.
WITHOUT_POOL = "FASTCONV_TEST_WITHOUT_POOL"


@pytest.fixture(scope="module")
def cp():
    found = device.cupy()
    if WITHOUT_POOL in os.environ:
        found.cuda.set_allocator(None)
    return found


def run(cp, kernel, problem, arrays):
    """The kernel's outputs. What the pool gives out for them and for scratch is full of NaN before."""
    given = tuple(cp.asarray(array) for array in arrays)
    if WITHOUT_POOL not in os.environ:
        wanted = functional.output_shapes(kernel.op, problem)
        sizes = [np.prod(shape, dtype=int) * np.dtype(dtype).itemsize for shape, dtype in wanted]
        sizes.append(kernel.scratch(problem) * np.dtype(problem.dtype).itemsize)
        # All at once, so that none of them is another one's block.
        poison = [cp.full(max(int(size) // 4, 1), np.nan, np.float32) for size in sizes]
        del poison
    outputs = functional.bound(kernel, problem)(given)
    return tuple(array.get() for array in outputs)


@pytest.mark.parametrize(
    ("kernel", "case"), [pytest.param(*pair, id=f"{pair[0].name}-{pair[1].name}") for pair in (*SMALL, *LARGE)]
)
def test_every_kernel_is_right_and_always_the_same(cp, kernel, case):
    arrays = testing.inputs(kernel.op, case.problem)
    first, second = (run(cp, kernel, case.problem, arrays) for _ in range(2))
    assert testing.Oracle(kernel.op, case.problem, arrays).error(first) <= kernel.limit
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_the_current_stream_is_used(cp):
    """Work of two streams, each in its own order, with a slow product before the input of each is ready."""
    x, w = random(8, 16, 64, 64), random(16, 16, 3, 3)
    wanted = functional.conv2d(x, w, padding=1)
    results = []
    for _ in range(2):
        with cp.cuda.Stream(non_blocking=True) as stream:
            late = cp.asarray(x) * 0
            slow = cp.ones((1024, 1024), np.float32)
            for _ in range(20):
                slow = slow @ slow * 0
            late += cp.asarray(x) + slow[0, 0]
            results.append((stream, functional.conv2d(late, cp.asarray(w), padding=1)))
    for stream, y in results:
        stream.synchronize()
        np.testing.assert_allclose(y.get(), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("activation", "pool"), [(nn.Sigmoid, nn.AvgPool2d), (nn.ReLU, nn.MaxPool2d)])
def test_lenet_trains_as_on_the_cpu(cp, activation, pool):
    images, classes = random(64, 1, 28, 28), np.random.default_rng(1).integers(0, 10, 64)
    fastconv.manual_seed(1)
    here, there = (lenet5(activation=activation, pool=pool) for _ in range(2))
    there.load_state_dict(here.state_dict())
    there.cuda()
    losses = []
    for model, x, target in ((here, images, classes), (there, cp.asarray(images), cp.asarray(classes))):
        steps = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        losses.append([])
        for _ in range(10):
            steps.zero_grad()
            loss = F.cross_entropy(model(Tensor(x)), target)
            loss.backward()
            steps.step()
            losses[-1].append(loss.item())
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")


@pytest.mark.parametrize(("tool", "op"), list(product(TOOLS, ("conv2d", "max_pool2d", "linear", "lstm"))))
def test_compute_sanitizer_finds_nothing(cp, tool, op):
    """On the small cases of an operation and its gradients, with NVIDIA's own checker."""
    if shutil.which("compute-sanitizer") is None:
        pytest.skip("no compute-sanitizer")
    program = f"""
import subprocess, sys
command = ["compute-sanitizer", "--tool", "{tool}", "--error-exitcode", "9", sys.executable, "-m", "pytest", "-q"]
command += ["tests/test_gpu.py", "-k", "every_kernel and {op} and not vgg"]
sys.exit(subprocess.run(command).returncode)
"""
    done = child(program, timeout=3600, **{WITHOUT_POOL: "1"})
    assert done.returncode == 0, done.stdout[-4000:]
