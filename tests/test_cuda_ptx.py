"""The second witness: CUDA kernels as nvcc compiles them, interpreted, against float64 and against the executor.

Needs nvcc, and fails where it is absent.
"""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from cuda_bugs import BUGS, FILES
from test_cuda_kernels import exercised

from fastconv import cudaemu, testing
from fastconv.cudaemu import ptx
from fastconv.kernels.cuda import builds, launch

PAIRS = list(testing.grid(small=True, backend="cuda"))
GRID = [pytest.param(kernel, case, id=f"{kernel.name}-{case.name}") for kernel, case in PAIRS]
# In double precision, where a kernel takes it.
DOUBLES = [
    (kernel, testing.Case(case.name, replace(case.problem, dtype="float64"), small=True))
    for kernel, case in PAIRS
    if case.name in ("conv-groups", "conv-stride", "conv-depthwise-3x3", "conv-depthwise-tanh-add", "pool-asymmetric")
]
DOUBLES = [
    pytest.param(kernel, case, id=f"{kernel.name}-{case.name}")
    for kernel, case in DOUBLES
    if testing.serves(kernel, case.problem)
]
# Of tests/cuda_bugs, bugs that make no access out of bounds: only results can show them.
SEEDED = (
    "depthwise.cu outputs in the wrong direction",
    "direct.cu half of the warp's sum",
    "gemm.cu the next part not waited for",
    "implicit.cu nothing waited for",
    "optim.cu g not squared",
    "pointwise.cu a third lane for a fourth",
    "pool.cu the last of equal maxima",
    "pool.cu gradients set, not added",
    "rnn.cu the peephole of c before",
    "rnn_grad.cu dc before the forget gate",
    "rnn_persistent.cu the end of the step before",
    "softmax.cu no largest taken away",
    "stochastic.cu x once",
    "sums.cu each share has all images",
    "tensor.cu sums by columns",
    "weight.cu q of another row",
    "winograd.cu channels exchanged",
)


def approximates(kernel, problem):
    """Whether CUDA and g++ do not say what comes out: of exp and tanh, and of tensor cores' sums, which have no order.

    Everything else is the same bit for bit if nvcc does not contract.
    """
    if kernel.run.__module__.rpartition(".")[2].startswith("conv_tensor"):
        return True
    if getattr(problem, "activation", "") in ("sigmoid", "tanh"):
        return not kernel.op.startswith("conv2d_grad")
    recurrent = kernel.op.partition("_")[0] in ("lstm", "gru", "rnn")
    return recurrent and not kernel.op.endswith("_grad") and not getattr(problem, "relu", False)


def bits(arrays):
    return [array.tobytes() for array in arrays]


def run_on(runner, kernel, problem, arrays):
    with launch.running(runner):
        return testing.poisoned_run(kernel, problem, arrays)


def check(kernel, problem):
    arrays = testing.inputs(kernel.op, problem)
    oracle = testing.Oracle(kernel.op, problem, arrays)
    executed = run_on(launch.Emulated("result"), kernel, problem, arrays)
    runner = launch.Interpreted()
    outputs = run_on(runner, kernel, problem, arrays)
    assert runner.launches
    assert oracle.error(outputs) <= kernel.limit
    oracle.wanted = tuple(array.astype(np.float64) for array in executed)
    assert oracle.error(outputs) <= kernel.limit
    if not approximates(kernel, problem) and bits(outputs) != bits(executed):
        # nvcc makes one fma of a product and a sum; or else this fails.
        outputs = run_on(launch.Interpreted(contract=False), kernel, problem, arrays)
        assert bits(outputs) == bits(executed)


@pytest.mark.parametrize(("kernel", "case"), GRID)
def test_every_kernel_is_right_and_agrees_with_the_executor(kernel, case):
    check(kernel, case.problem)


@pytest.mark.parametrize(("kernel", "case"), DOUBLES)
def test_double_precision_is_right_and_agrees_with_the_executor(kernel, case):
    check(kernel, case.problem)


@pytest.mark.parametrize("file", [file for file, module in FILES.items() if hasattr(module, "works")])
def test_what_no_small_case_comes_to_is_right(file):
    with launch.running(launch.Interpreted()) as runner:
        assert FILES[file].works()
    assert runner.launches


@pytest.mark.parametrize("file", builds.BUILDS)
def test_every_instruction_of_every_build_is_known(file):
    """No build is left out: tensor cores' instructions are interpreted too."""
    for defines in builds.BUILDS[file]:
        module = ptx.Module(launch.HERE / file, defines)
        assert set(module.kernels) == set(cudaemu.kernel_names((launch.HERE / file).read_text(encoding="utf-8")))
        for name in module.kernels:
            module.get_function(name)


@pytest.mark.parametrize("name", SEEDED)
def test_seeded_bugs_are_seen_in_the_results(name, tmp_path):
    """The witness can fail."""
    bug = BUGS[name]
    source = (launch.HERE / bug.file).read_text(encoding="utf-8")
    assert source.count(bug.right) == 1
    for path in launch.HERE.glob("*.cu*"):
        shutil.copy(path, tmp_path)
    (tmp_path / bug.file).write_text(source.replace(bug.right, bug.wrong), encoding="utf-8")
    with launch.running(launch.Interpreted()) as runner:
        runner.folder = tmp_path
        assert not exercised(bug.of)
