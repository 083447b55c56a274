"""Convolution by FFT: the transforms against their definition, and what is peculiar to tiles of spectra."""

import dataclasses

import numpy as np
import pytest
from helpers import DTYPES

from fastconv import functional, nn, testing
from fastconv.functional import aligned
from fastconv.kernels.cpu.fft_transforms import height_of, restore, transform
from fastconv.kernels.cpu.host import VECTOR_BYTES
from fastconv.kernels.cpu.jit import njit
from fastconv.measure import scratch_bytes
from fastconv.problem import ConvProblem, itemsize
from fastconv.registry import OPS, choose, kernels

FFT = [kernel for kernel in kernels() if kernel.algorithm.startswith("fft_")]
WIDTHS = (16, 32, 64)


def named(op, algorithm):
    (found,) = (kernel for kernel in kernels(op) if kernel.algorithm == algorithm)
    return found


@njit
def transformed(edge, x, i, stride, work, v, plane):
    transform(edge, x, i, stride, work, 0, v, 0, plane)


@njit
def restored(edge, v, work):
    restore(edge, v, 0, work, 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_transforms_are_those_of_the_definition(width, dtype):
    height = height_of(width)
    half, lanes, edge = height // 2, VECTOR_BYTES // itemsize(dtype), (0,) * width
    # A tile within an image, and more room between frequencies than they need.
    image = np.random.default_rng(7).standard_normal((height + 3, width + 5)).astype(dtype)
    tile = image[2 : 2 + height, 3 : 3 + width].astype(np.float64)
    work, plane = aligned(2 * height * width, dtype), 6 * lanes
    v = np.full(height * width * 3, np.nan, dtype)
    transformed(edge, image.reshape(-1), 2 * (width + 5) + 3, width + 5, work, v, plane)
    pairs = v.reshape(width, half // lanes, 3, 2, lanes)[:, :, 0]
    found = (pairs[:, :, 0] + 1j * pairs[:, :, 1]).reshape(width, half).T
    # Down the columns one of each pair of conjugate roots of y^height = −1, to its powers.
    powers = np.outer(1 - 4 * np.arange(half), np.arange(height)) % (2 * height)
    wanted = np.fft.fft(np.exp(1j * np.pi * powers / height) @ tile, axis=1)
    limit = 4 * np.finfo(dtype).eps * np.abs(wanted).max()
    assert np.abs(found - wanted).max() <= limit
    packed = np.ascontiguousarray(pairs).reshape(-1)
    restored(edge, packed, work)
    back = work[height * width :].reshape(height, width) / (half * width)
    assert np.abs(back - tile).max() <= 4 * np.finfo(dtype).eps * np.abs(tile).max()


def conv(n, c, h, w, o, kh, kw, **arguments):
    return ConvProblem.make((n, c, h, w), (o, c // arguments.get("groups", 1), kh, kw), **arguments)


PROBLEMS = {
    "9x9": conv(1, 3, 40, 45, 5, 9, 9, padding=4, bias=True),
    "even": conv(2, 2, 31, 50, 3, 10, 12, padding=(5, 6)),
    "tall": conv(1, 2, 70, 20, 2, 31, 3, padding=(15, 0)),
    "wide": conv(1, 2, 20, 75, 2, 2, 16),
    "one row": conv(1, 2, 12, 90, 3, 1, 13),
    "33x31": conv(1, 2, 50, 70, 2, 33, 31, padding=(16, 15)),
    "as large as the tile": conv(1, 1, 64, 64, 1, 64, 64),
    "padding on some sides": conv(1, 2, 30, 29, 3, 9, 11, padding=(3, 0, 0, 7)),
    "padding over the kernel": conv(1, 2, 8, 9, 3, 9, 9, padding=(11, 13)),
    "image smaller than the kernel": conv(2, 4, 4, 3, 4, 9, 11, padding=(4, 5)),
    "groups": conv(2, 6, 30, 33, 10, 11, 9, groups=2, padding=5, bias=True),
    "groups of two": conv(1, 4, 30, 33, 4, 9, 9, groups=2, padding=1),
    "depthwise": conv(2, 7, 60, 61, 7, 13, 13, groups=7, padding=6, bias=True),
    "depthwise multiplier": conv(1, 3, 33, 40, 9, 9, 9, groups=3, padding=2),
    "many tiles": conv(3, 2, 140, 150, 3, 9, 9, padding=4),
    "many channels": conv(1, 37, 20, 25, 29, 9, 9, padding=4),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("kernel", FFT, ids=lambda kernel: kernel.name)
def test_shapes_that_take_other_paths(kernel, name, dtype):
    p = dataclasses.replace(PROBLEMS[name], dtype=dtype)
    width = int(kernel.algorithm[4:])
    if p.kw > width or p.kh > height_of(width):
        assert "needs at most" in kernel.unsupported(p)
        return
    assert kernel.unsupported(p) is None
    arrays = testing.inputs(kernel.op, p)
    outputs = testing.poisoned_run(kernel, p, arrays)
    assert testing.error(kernel.op, p, arrays, outputs) <= kernel.limit
    # With kept weights the same, bit for bit.
    u = np.full(kernel.prepared(p), np.nan, dtype)
    kernel.prepare(p, arrays[OPS[kernel.op].inputs.index("w")], u)
    assert np.isfinite(u).all()
    again = testing.poisoned_run(kernel, p, arrays, u=u)
    np.testing.assert_array_equal(again[0], outputs[0])


@pytest.mark.parametrize("op", ["conv2d", "conv2d_grad_input"])
@pytest.mark.parametrize("width", WIDTHS)
def test_weights_that_nobody_keeps_come_in_parts(width, op, monkeypatch):
    from fastconv.kernels.cpu import conv_fft

    kernel = named(op, f"fft_{width}")
    monkeypatch.setattr(conv_fft, "_WEIGHT_BYTES", 5 * width * height_of(width) * 4 * 6)
    conv_fft._plan.cache_clear()
    try:
        for p in (conv(1, 5, 30, 31, 17, 9, 9, padding=4), conv(1, 14, 20, 21, 14, 9, 9, padding=4, groups=7)):
            arrays = testing.inputs(op, p)
            outputs = testing.poisoned_run(kernel, p, arrays)
            assert testing.error(op, p, arrays, outputs) <= kernel.limit
    finally:
        conv_fft._plan.cache_clear()


@pytest.mark.parametrize("width", WIDTHS)
def test_one_preparation_fits_any_image(width):
    """What a layer keeps is known by the kernel's name alone."""
    kernel = named("conv2d", f"fft_{width}")
    problems = [conv(1, 3, 20, 20, 5, 9, 9), conv(4, 3, 90, 41, 5, 9, 9, padding=4, bias=True)]
    w = testing.inputs("conv2d", problems[0])[1]
    made = []
    for p in problems:
        u = np.full(kernel.prepared(p), np.nan, np.float32)
        kernel.prepare(p, w, u)
        made.append(u.tobytes())
    assert made[0] == made[1]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("activation", ["", "relu", "sigmoid", "tanh"])
@pytest.mark.parametrize("add", [False, True])
def test_epilogues(width, activation, add):
    p = conv(1, 3, 37, 41, 5, 9, 9, padding=4, bias=True, activation=activation, add=add)
    kernel = named("conv2d", f"fft_{width}")
    arrays = testing.inputs("conv2d", p)
    outputs = testing.poisoned_run(kernel, p, arrays)
    assert testing.error("conv2d", p, arrays, outputs) <= kernel.limit


@pytest.mark.parametrize("width", WIDTHS)
def test_a_nan_stays_in_its_tiles(width):
    p = conv(2, 2, 200, 210, 2, 9, 9, padding=4, groups=2)
    kernel = named("conv2d", f"fft_{width}")
    assert kernel.spread == height_of(width) - 1
    x, w, b, z = testing.inputs("conv2d", p)
    (before,) = testing.poisoned_run(kernel, p, (x, w, b, z))
    x[1, 0, 100, 90] = np.nan
    (y,) = testing.poisoned_run(kernel, p, (x, w, b, z))
    lost = np.isnan(y)
    assert lost[1, 0, 96:105, 86:95].all()
    rows, columns = np.nonzero(lost[1, 0])
    assert 96 - kernel.spread <= rows.min()
    assert rows.max() <= 104 + kernel.spread
    assert 86 - kernel.spread <= columns.min()
    assert columns.max() <= 94 + kernel.spread
    # Other channels and images as if nothing had happened.
    assert not lost[1, 1].any()
    assert not lost[0].any()
    np.testing.assert_array_equal(y[~lost], before[~lost])


@pytest.mark.parametrize("k", [9, 15, 31])
def test_exact_to_a_millionth(k):
    """The bar of the project is 3e-6 of the output's largest value; these are an order of magnitude below it."""
    p = conv(1, 16, 64, 64, 8, k, k, padding=k // 2)
    arrays = testing.inputs("conv2d", p)
    (wanted,) = testing.expected("conv2d", p, arrays)
    for kernel in FFT:
        if kernel.op == "conv2d" and kernel.unsupported(p) is None:
            (y,) = testing.poisoned_run(kernel, p, arrays)
            assert np.abs(y - wanted).max() <= 1e-6 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"stride": 2}, "stride"),
        ({"dilation": 2}, "dilation"),
        ({"kh": 3, "kw": 3}, "taps"),
        ({"kh": 9, "kw": 65}, "needs at most"),
        ({"c": 4096, "o": 4096}, "channels"),
    ],
)
def test_unsupported(arguments, reason):
    given = {"c": 2, "o": 3, "kh": 9, "kw": 9, **arguments}
    sizes = [given.pop(name) for name in ("c", "o", "kh", "kw")]
    p = conv(1, sizes[0], 150, 151, *sizes[1:], **given)
    for kernel in FFT:
        assert reason in kernel.unsupported(p), kernel.name


BOUNDED = {
    "dense": conv(1, 256, 56, 56, 256, 9, 9, padding=4),
    "wide tiles": conv(8, 64, 224, 224, 64, 31, 31, padding=15),
    "depthwise": conv(8, 3000, 56, 56, 3000, 31, 31, padding=15, groups=3000),
    "groups": conv(1, 1024, 28, 28, 1024, 9, 9, padding=4, groups=4),
    "float64": conv(1, 128, 56, 56, 128, 9, 9, padding=4, dtype="float64"),
    "one channel": conv(1, 1, 2000, 2000, 1, 15, 15),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_scratch_is_bounded(name):
    p = BOUNDED[name]
    for kernel in FFT:
        if kernel.unsupported(p) is None:
            bound = max(32 * 2**20, p.n * p.o * p.oh * p.ow * itemsize(p.dtype) // 2)
            assert scratch_bytes(kernel, p) <= bound, kernel.name


def test_auto_takes_it_for_large_kernels():
    assert choose("conv2d", conv(1, 64, 56, 56, 64, 9, 9, padding=4), kept=True).algorithm.startswith("fft_")
    assert choose("conv2d", conv(1, 1, 512, 512, 1, 31, 31)).algorithm == "fft_64"
    assert choose("conv2d", conv(1, 96, 56, 56, 96, 31, 31, padding=15, groups=96)).algorithm == "fft_64"
    assert not choose("conv2d", conv(1, 96, 56, 56, 96, 5, 5, padding=2, groups=96)).algorithm.startswith("fft_")


def test_a_layer_keeps_spectra_for_every_size():
    layer = nn.Conv2d(4, 6, 9, padding=4, algorithm="fft_32").eval()
    generator = np.random.default_rng(3)
    for size in (20, 47, 20):
        x = generator.standard_normal((2, 4, size, size + 3), np.float32)
        bias = layer.bias._array
        wanted = functional.conv2d(x, layer.weight._array, bias, padding=4, algorithm="im2col")
        np.testing.assert_allclose(layer(x), wanted, atol=1e-5)
    assert layer._kept.nbytes > 0
