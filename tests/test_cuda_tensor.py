"""Convolutions on tensor cores: right to float32's roundings once inputs are rounded, and how they touch memory."""

import re

import numpy as np
import pytest
from cuda_bugs import tensor
from formats import ROUNDED

from fastconv import precision, testing
from fastconv.cudaemu import CompileError, static
from fastconv.kernels.cuda import builds, conv_tensor, launch
from fastconv.problem import ConvProblem
from fastconv.registry import choose, kernels

SMALL = [case.problem for case in testing.CASES.values() if case.small and isinstance(case.problem, ConvProblem)]
PROBLEMS = [(op, p) for p in (*tensor.PROBLEMS, *SMALL) for op in tensor.served(p)]
IDS = [f"{op}-{'x'.join(map(str, (*p.input_shape, *p.weight_shape)))}" for op, p in PROBLEMS]


@pytest.mark.parametrize("format", ROUNDED)
@pytest.mark.parametrize(("op", "problem"), PROBLEMS, ids=IDS)
def test_nothing_but_the_inputs_is_rounded(op, problem, format):
    with launch.running(launch.Emulated("result", "random", seed=4)):
        assert tensor.error(op, format, problem) <= 1


def ran(format, x, w):
    problem = ConvProblem.make(x.shape, w.shape)
    kernel = next(k for k in kernels("conv2d", "cuda") if k.algorithm == f"implicit_{format}")
    none = np.empty(0, np.float32)
    with launch.running(launch.Emulated()):
        return testing.poisoned_run(kernel, problem, (x, w, none, none))[0]


def test_the_range_of_the_formats():
    """Of half it ends at 65504; the other two have float32's."""
    w = np.ones((1, 1, 1, 1), np.float32)
    x = np.array([65504, 65536, 2.0**-30, np.inf, np.nan], np.float32).reshape(1, 1, 1, 5)
    for format in ROUNDED:
        wanted = [65536 if format == "bfloat16" else 65504, 65536, 2.0**-30, np.inf, np.nan]
        if format == "half":
            wanted[1:3] = np.inf, 0
        np.testing.assert_array_equal(ran(format, x, w).reshape(-1), np.float32(wanted))


def test_the_limit_is_what_rounding_both_factors_may_do():
    """Of 1 + 2^-p, which lies halfway between two numbers of p bits, times itself."""
    for format, (bits, _) in conv_tensor.FORMATS.items():
        value = np.float32(1 + 2.0**-bits + (-(2.0**-20) if format == "tf32" else 0))
        x = np.full((1, 1, 1, 1), value)
        error = testing.error(
            "conv2d", ConvProblem.make(x.shape, x.shape), (x, x, *[np.empty(0)] * 2), (ran(format, x, x),)
        )
        assert 0.97 * conv_tensor.limit(bits) < error <= conv_tensor.limit(bits)


def test_they_are_only_ever_named():
    problem = ConvProblem.make((1, 64, 56, 56), (64, 64, 3, 3), padding=1)
    with precision("fast"), launch.running(launch.Emulated()):
        for op in tensor.served(problem):
            assert "implicit_" not in choose(op, problem, backend="cuda").algorithm
            for format in ROUNDED:
                assert choose(op, problem, f"implicit_{format}", "cuda").limit > 1000


FILES = {"conv2d": "tensor", "conv2d_grad_weight": "tensor_weight"}


@pytest.mark.parametrize("op", FILES)
@pytest.mark.parametrize("format", ROUNDED)
def test_shared_memory_without_conflicts_and_whole_sectors(format, op):
    """A 3×3 layer as VGG has it, but for fewer channels of input and rows, which change no address's place in a line or
    bank, and for padding: to who counts, a lane that skips a load is one load ahead of its warp from there on."""
    problem = ConvProblem.make((1, 16, 10, 58), (128, 16, 3, 3))
    runner = launch.Emulated("check")
    runner.counts = {}
    with launch.running(runner):
        assert tensor.error(op, format, problem) <= 1
    lines = runner.counts[FILES[op]].lines
    shared = [line for line in lines if line.shared]
    # What comes, both operands, sums there and back.
    assert len(shared) >= 5
    for line in shared:
        assert line.passes == line.least_passes, line
    stores = [line for line in lines if line.write and not line.shared]
    assert stores
    for line in stores:
        assert line.sectors == line.least_sectors, line
    for line in lines:
        # Rows of 58 and the window's place among them: a warp's pixels begin anywhere in a sector.
        if not line.shared and not line.write:
            assert line.sectors <= 1.5 * line.least_sectors + line.warps, line


def test_formats_are_built_where_there_are_such_tensor_cores():
    path = launch.HERE / "tensor.cu"
    for format in ROUNDED:
        defines = {"FORMAT": format.upper()}
        first = builds.architectures(path.name, defines)[0]
        assert first == ("sm_75" if format == "half" else "sm_80")
        if format != "half":
            with pytest.raises(CompileError):
                static.nvcc(path, defines, "sm_75")


# Products of a warp's 32 × 32 outputs and 64 bytes of the sum, by instructions of 16 × 8 × 4 and of 16 × 8 × 16.
HMMA = {"tf32": 32, "half": 16, "bfloat16": 16}


@pytest.mark.parametrize(("format", "kernel"), [*((format, "tensor") for format in ROUNDED), ("half", "tensor_weight")])
def test_the_main_loop_multiplies_on_tensor_cores(format, kernel):
    loop = static.main_loops(launch.HERE / f"{kernel}.cu", {"FORMAT": format.upper()}, "sm_80")[kernel]
    assert loop["HMMA"] == HMMA[format], loop
    # No division, which calls or inverts, and nothing that waits for local memory.
    assert not [name for name in loop if re.match("CALL|MUFU|LDL|STL", name)]
