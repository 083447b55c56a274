"""Scratch is bounded, and memory stays flat however many shapes are met."""

import subprocess
import sys

import pytest

from fastconv import testing
from fastconv.measure import scratch_bytes
from fastconv.problem import ConvProblem, RecurrentProblem, itemsize
from fastconv.registry import choose, kernels, operations

MOST = 32 * 2**20

LAYERS = {
    **{name: case.problem for name, case in testing.CASES.items() if isinstance(case.problem, ConvProblem)},
    "vgg1_2": ConvProblem.make((1, 64, 224, 224), (64, 64, 3, 3), padding=1),
    "vgg2_2": ConvProblem.make((1, 128, 112, 112), (128, 128, 3, 3), padding=1),
    "vgg4_2": ConvProblem.make((1, 512, 28, 28), (512, 512, 3, 3), padding=1),
    "vgg4_2 batch 4": ConvProblem.make((4, 512, 28, 28), (512, 512, 3, 3), padding=1),
    "vgg1_2 batch 8": ConvProblem.make((8, 64, 224, 224), (64, 64, 3, 3), padding=1),
}


@pytest.mark.parametrize("name", LAYERS)
def test_scratch_is_at_most_32_mib_or_half_the_output(name):
    p = LAYERS[name]
    for op in operations(p):
        for kept in (False, True):
            kernel = choose(op, p, kept=kept)
            bound = max(MOST, p.n * p.o * p.oh * p.ow * itemsize(p.dtype) // 2)
            assert scratch_bytes(kernel, p) <= bound, kernel.name


@pytest.mark.parametrize("name", ["vgg1_2", "vgg4_2 batch 4", "vgg1_2 batch 8"])
def test_scratch_of_every_winograd_is_bounded(name):
    p = LAYERS[name]
    for op in operations(p):
        for kernel in kernels(op):
            if "winograd" in kernel.name and kernel.unsupported(p) is None:
                assert scratch_bytes(kernel, p) <= MOST, kernel.name


RECURRENT = {
    **{name: case.problem for name, case in testing.CASES.items() if isinstance(case.problem, RecurrentProblem)},
    "long": RecurrentProblem.make("lstm", (1000, 1, 64), 512, directions=2),
    "large": RecurrentProblem.make("lstm", (20, 64, 1024), 1024),
    "many": RecurrentProblem.make("gru", (50, 1000, 32), 64, ragged=True),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_scratch_of_recurrent_layers_is_the_weights_and_little_more(name):
    """On the way, what the fused kernels pack of the weights and less than the states of a few steps; on the way back
    the gradients of all gates, as much as what was saved, and packed weights."""
    p = RECURRENT[name]
    item = itemsize(p.dtype)
    # Lanes and columns beyond the hidden size: at most three vectors for each.
    padded = p.h + 64
    weights = p.directions * p.gates * padded * (p.i + padded) * item
    saved = p.directions * p.t * p.b * (4 * padded + 32) * item
    for op in operations(p):
        for kernel in kernels(op):
            if kernel.unsupported(p) is not None or not testing.has_meaning(op, p):
                continue
            if kernel.algorithm in ("rows", "one", "units"):
                bound = weights + 4 * 2**20
                assert kernel.prepared(p) * item <= weights + 2**16
                assert scratch_bytes(kernel, p) - kernel.prepared(p) * item <= 4 * 2**20, kernel.name
            else:
                bound = weights + 2 * saved + 32 * 2**20
            assert scratch_bytes(kernel, p) <= bound, kernel.name


CHILD = """
import os
import numpy as np
from fastconv import functional

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

generator = np.random.default_rng(0)

def call():
    n, c, o = (int(generator.integers(1, 9)) for _ in range(3))
    kernel = int(generator.choice([1, 3, 5]))
    h, w = (int(generator.integers(kernel, 40)) for _ in range(2))
    x = generator.standard_normal((n, c, h, w), np.float32)
    weight = generator.standard_normal((o, c, kernel, kernel), np.float32)
    y = functional.conv2d(x, weight, padding=kernel // 2)
    functional.conv2d_grad_input(x.shape, weight, y, padding=kernel // 2)
    functional.conv2d_grad_weight(x, weight.shape, y, padding=kernel // 2)

for _ in range(1000):
    call()
before = resident()
for _ in range(1000):
    call()
print(resident() - before)
"""


def test_memory_is_flat_over_a_thousand_shapes():
    result = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 16 * 2**20
