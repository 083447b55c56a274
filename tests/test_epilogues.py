"""What convolutions do to their outputs in the same pass: z added, ReLU, sigmoid, tanh; and how exact these are."""

import dataclasses
import itertools
import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from helpers import DTYPES

from fastconv import explain, functional, nn, no_grad, testing
from fastconv.kernels.cpu.epilogue import CODES, finish
from fastconv.kernels.cpu.jit import njit
from fastconv.nn import functional as F
from fastconv.problem import ACTIVATIONS, ConvProblem, PoolProblem
from fastconv.registry import has_meaning, kernels
from fastconv.tensors import Tensor


@njit
def finished(y, at, count, z, code):
    finish(y, at, count, z, code)


def activated(x, activation, z=None):
    """activation(x + z) by the epilogue alone."""
    y = np.ascontiguousarray(x).reshape(-1).copy()
    z = np.empty(0, y.dtype) if z is None else np.ascontiguousarray(z).reshape(-1)
    finished(y, 0, y.size, z, CODES[activation])
    return y.reshape(x.shape)


# Accuracy.

ULPS = 3


def exactly(x, activation):
    """The function of a float, to fifty digits."""
    with localcontext() as context:
        context.prec = 80
        value = Decimal(float(x))
        if activation == "tanh" and abs(value) < Decimal("1e-10"):
            return value - value**3 / 3
        e = (-abs(value) * (2 if activation == "tanh" else 1)).exp()
        if activation == "tanh":
            return ((1 - e) / (1 + e)).copy_sign(value)
        return (1 if value >= 0 else e) / (1 + e)


def ulps(y, x, activation):
    """The error of y in units of the last place of the exact result; 0 where that is less than any normal number."""
    wanted = exactly(x, activation)
    nearest = y.dtype.type(float(wanted))
    if abs(nearest) < np.finfo(y.dtype).tiny:
        return 0.0 if abs(y) <= np.finfo(y.dtype).tiny else math.inf
    return float(abs(Decimal(float(y)) - wanted) / Decimal(float(np.spacing(abs(nearest)))))


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_float32_on_every_exponent(activation):
    """Against float64, whose own rounding is a millionth of the unit here."""
    generator = np.random.default_rng(3)
    exponents = np.arange(255, dtype=np.uint32)[:, None] << 23
    # The exponents on which the functions are neither straight nor constant have most.
    mantissas = generator.integers(0, 2**23, (255, 4096), dtype=np.uint32)
    mantissas[:, :3] = 0, 1, 2**23 - 1
    x = (exponents | mantissas).reshape(-1).view(np.float32)
    x = np.concatenate([x, -x])
    y = activated(x, activation).astype(np.float64)
    wide = x.astype(np.float64)
    if activation == "tanh":
        wanted = np.tanh(wide)
    else:
        e = np.exp(-np.abs(wide))
        wanted = np.where(wide >= 0, 1, e) / (1 + e)
    normal = np.abs(wanted) >= np.finfo(np.float32).tiny
    unit = np.spacing(np.abs(wanted).astype(np.float32)).astype(np.float64)
    assert (np.abs(y - wanted)[normal] / unit[normal]).max() <= ULPS
    assert np.abs(y - wanted)[~normal].max() <= np.finfo(np.float32).tiny
    assert (np.abs(y) <= 1).all()


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_float64_on_every_exponent(activation):
    generator = np.random.default_rng(4)
    x = np.ldexp(generator.uniform(1, 2, 2047), np.arange(-1023, 1024)) * generator.choice([-1, 1], 2047)
    x = np.concatenate([x, np.ldexp(generator.uniform(1, 2, 2000), generator.integers(-8, 11, 2000)), [-708.3, 708.5]])
    y = activated(x, activation)
    assert max(ulps(*pair, activation) for pair in zip(y, x, strict=True)) <= ULPS


@pytest.mark.parametrize("dtype", DTYPES)
def test_float32_and_float64_near_the_reductions_ends(dtype):
    """Where the multiple of ln 2 changes, the rest is largest."""
    halves = (np.arange(0, 60) + 0.5) * math.log(2)
    x = np.concatenate([halves, halves / 2]).astype(dtype)
    x = np.concatenate([x, np.nextafter(x, 0), -x])
    for activation in ("sigmoid", "tanh"):
        y = activated(x, activation)
        assert max(ulps(*pair, activation) for pair in zip(y, x, strict=True)) <= ULPS


@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values(dtype):
    info = np.finfo(dtype)
    x = np.array([0.0, -0.0, np.inf, -np.inf, info.max, info.min, info.smallest_subnormal, np.nan, -np.nan], dtype)
    sigmoid, tanh, relu = (activated(x, name) for name in ("sigmoid", "tanh", "relu"))
    np.testing.assert_array_equal(sigmoid, np.array([0.5, 0.5, 1, 0, 1, 0, 0.5, np.nan, np.nan], dtype))
    np.testing.assert_array_equal(tanh[:-3], np.array([0, 0, 1, -1, 1, -1], dtype))
    assert np.signbit(tanh[1])
    assert 0 <= tanh[6] <= info.tiny
    assert np.isnan(tanh[7:]).all()
    np.testing.assert_array_equal(
        relu[[0, 1, 2, 3, 4, 5, 7, 8]], np.array([0, 0, np.inf, 0, info.max, 0, *x[7:]], dtype)
    )
    # A payload stays as it is.
    quiet = np.array([0x7FC12345 if dtype == "float32" else 0x7FF8123456789ABC], f"u{info.bits // 8}").view(dtype)
    for name in ("sigmoid", "tanh", "relu"):
        assert activated(quiet, name).tobytes() == quiet.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_only_the_run_is_written(dtype, activation):
    generator = np.random.default_rng(5)
    memory, z = generator.standard_normal((2, 80)).astype(dtype)
    for at, count in itertools.product((0, 3), range(40)):
        y = memory.copy()
        finished(y, at, count, z, CODES[activation])
        run = slice(at, at + count)
        assert y[run].tobytes() == activated(memory[run], activation, z[run]).tobytes()
        y[run] = memory[run]
        assert y.tobytes() == memory.tobytes()


# In the kernels.

EPILOGUES = [pair for pair in itertools.product(ACTIVATIONS, (False, True)) if pair != ("", False)]


def conv(n, c, h, w, o, kh, kw, **arguments):
    return ConvProblem.make((n, c, h, w), (o, c // arguments.get("groups", 1), kh, kw), **arguments)


# Every way of every kernel, and outputs that end within a vector, a tile, a block and a region.
PROBLEMS = {
    "one pixel": conv(1, 1, 1, 1, 1, 1, 1),
    "1x1": conv(2, 17, 9, 11, 9, 1, 1, bias=True),
    "deep": conv(1, 140, 5, 7, 9, 3, 3, padding=1),
    "many rows": conv(1, 3, 6, 9, 140, 2, 3, bias=True),
    "large": conv(1, 2, 50, 61, 9, 3, 3, padding=1, bias=True),
    "stride": conv(2, 4, 13, 40, 11, 3, 5, stride=(2, 1), padding=(1, 2), groups=1, bias=True),
    "joined tiles": conv(3, 3, 14, 14, 9, 3, 3, padding=1, groups=3),
    "depthwise 3x3": conv(2, 3, 40, 41, 6, 3, 3, groups=3, padding=1, dilation=(2, 1), bias=True),
    "depthwise 3x3 stride 2": conv(1, 3, 13, 40, 3, 3, 3, groups=3, stride=2, padding=1),
    "depthwise 5x5": conv(1, 3, 21, 21, 6, 5, 5, groups=3, padding=2, dilation=(1, 2), bias=True),
    "depthwise 7x7": conv(1, 2, 12, 23, 2, 7, 7, groups=2, padding=3),
    "depthwise any": conv(2, 2, 30, 19, 4, 3, 4, groups=2, stride=(1, 3), bias=True),
}
SERVED = [
    pytest.param(kernel, dataclasses.replace(problem, dtype=dtype), id=f"{kernel.algorithm}-{name}-{dtype}")
    for dtype in DTYPES
    for name, problem in PROBLEMS.items()
    for kernel in kernels("conv2d")
    if kernel.unsupported(problem) is None
]


@pytest.mark.parametrize(("kernel", "problem"), SERVED)
def test_every_kernel_with_every_epilogue(kernel, problem):
    (plain,) = testing.poisoned_run(kernel, problem, testing.inputs("conv2d", problem))
    x, w, b, none = testing.inputs("conv2d", problem)
    addend = np.random.default_rng(6).standard_normal(problem.output_shape).astype(problem.dtype)
    for activation, add in EPILOGUES:
        p = dataclasses.replace(problem, activation=activation, add=add)
        z = addend if add else none
        outputs = testing.poisoned_run(kernel, p, (x, w, b, z))
        assert testing.error("conv2d", p, (x, w, b, z), outputs) <= kernel.limit
        if kernel.algorithm != "naive":
            # The same as in a second pass, bit for bit: each output once, after all that is summed.
            np.testing.assert_array_equal(outputs[0], activated(plain, activation, z if add else None))


@pytest.mark.parametrize("kernel", kernels("conv2d"), ids=lambda kernel: kernel.algorithm)
def test_bits_do_not_depend_on_threads(kernel, threads):
    # More outputs than the grid's small cases have, so that every thread finishes some.
    problem = PROBLEMS["depthwise 3x3" if kernel.algorithm == "depthwise" else "large"]
    problem = dataclasses.replace(problem, activation="tanh", add=True)
    arrays = testing.inputs("conv2d", problem)
    threads.set_num_threads(1)
    (alone,) = testing.poisoned_run(kernel, problem, arrays)
    threads.set_num_threads(2)
    with threads.eager():
        (together,) = testing.poisoned_run(kernel, problem, arrays)
    assert alone.tobytes() == together.tobytes()


# Problems and functions.

SMALL = conv(2, 4, 9, 11, 6, 3, 3, padding=1, bias=True)


def test_gradients_have_no_epilogue():
    for activation, add in EPILOGUES:
        p = dataclasses.replace(SMALL, activation=activation, add=add)
        assert p.epilogue
        assert [op for op in ("conv2d", "conv2d_grad_input", "conv2d_grad_weight") if has_meaning(op, p)] == ["conv2d"]
    assert not SMALL.epilogue
    assert has_meaning("conv2d_grad_input", SMALL)
    assert not has_meaning("conv2d", PoolProblem.make((1, 1, 4, 4), 2))
    x = np.zeros(SMALL.input_shape, np.float32)
    lines = str(explain(nn.Conv2d(4, 6, 3, padding=1, activation="relu"), x))
    assert "conv2d/im2col/cpu" in lines
    assert "conv2d_grad" not in lines


def test_addition_is_traffic_but_no_work():
    p = dataclasses.replace(SMALL, add=True)
    assert p.flops == SMALL.flops
    assert p.bytes - SMALL.bytes == 4 * math.prod(SMALL.output_shape)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"activation": "gelu"}, ValueError, r"activation='gelu': needs one of '', 'relu', 'sigmoid', 'tanh'"),
        ({"activation": None}, TypeError, r"activation=None: needs one of .*, got NoneType"),
        ({"add": 1}, TypeError, r"add=1: needs True or False"),
    ],
)
def test_problem_errors(arguments, error, match):
    with pytest.raises(error, match=match):
        conv(1, 2, 5, 5, 3, 3, 3, **arguments)


def arrays_of(problem, dtype="float32"):
    return testing.inputs("conv2d", dataclasses.replace(problem, dtype=dtype, add=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("activation", "add"), EPILOGUES)
def test_through_functional(activation, add, dtype):
    x, w, b, z = arrays_of(SMALL, dtype)
    given = {"padding": 1, "activation": activation, "z": z[:, ::-1][:, ::-1] if add else None}
    p = dataclasses.replace(SMALL, activation=activation, add=add, dtype=dtype)
    for algorithm in ("auto", "im2col", "direct", "winograd_f2", "naive"):
        y = functional.conv2d(x, w, b, **given, algorithm=algorithm)
        assert testing.error("conv2d", p, (x, w, b, z), (y,)) <= 3
    wanted = F.conv2d(x, w, b, **given)
    np.testing.assert_array_equal(functional.conv2d(x, w, b, **given), wanted)
    np.testing.assert_array_equal(F.conv2d(Tensor(x), w, b, **given).numpy(), wanted)
    # One image without its axis.
    given["z"] = z[0] if add else None
    np.testing.assert_array_equal(
        F.conv2d(x[0], w, b, **given), functional.conv2d(x[:1], w, b, **{**given, "z": z[:1] if add else None})[0]
    )


def test_no_images():
    y = functional.conv2d(np.zeros((0, 2, 4, 4)), np.zeros((3, 2, 3, 3)), activation="tanh", z=np.zeros((0, 3, 2, 2)))
    assert y.shape == (0, 3, 2, 2)


def test_function_errors():
    x, w, b, z = arrays_of(SMALL)
    for call in (functional.conv2d, F.conv2d):
        with pytest.raises(ValueError, match=r"z=\(2, 6, 9, 10\): needs .*\(2, 6, 9, 11\)"):
            call(x, w, b, padding=1, z=z[..., :-1])
        with pytest.raises(TypeError, match="z: dtype float64"):
            call(x, w, b, padding=1, z=z.astype(np.float64))
        with pytest.raises(ValueError, match="activation='swish'"):
            call(x, w, b, activation="swish")
    with pytest.raises(TypeError, match="z: needs a NumPy array"):
        functional.conv2d(x, w, b, padding=1, z=[1.0])
    recorded = Tensor(x, requires_grad=True)
    with pytest.raises(ValueError, match=r"z=\(9, 11\): needs the output's shape \(2, 6, 9, 11\)"):
        F.conv2d(recorded, w, b, padding=1, z=z[0, 0])
    with pytest.raises(ValueError, match="activation='swish'"):
        F.conv2d(recorded, w, b, activation="swish")
    with pytest.raises(ValueError, match="activation='swish'"):
        nn.Conv2d(2, 3, 3, activation="swish")


@pytest.mark.parametrize(("activation", "add"), EPILOGUES)
def test_what_is_recorded_has_the_gradients_of_its_parts(activation, add):
    found, wanted = ([Tensor(a, requires_grad=True) for a in arrays_of(SMALL, "float64")] for _ in range(2))
    x, w, b, z = found
    y = F.conv2d(x, w, b, padding=1, activation=activation, z=z if add else None)
    (y * y).sum().backward()
    with no_grad():
        fused = F.conv2d(x, w, b, padding=1, activation=activation, z=z if add else None)
    np.testing.assert_allclose(fused.numpy(), y.detach().numpy(), rtol=0, atol=1e-13)
    x, w, b, z = wanted
    y = F.conv2d(x, w, b, padding=1)
    y = y + z if add else y
    y = getattr(F, activation)(y) if activation else y
    (y * y).sum().backward()
    for a, c in zip(found, wanted, strict=True):
        assert (a.grad is None) == (c.grad is None)
        if a.grad is not None:
            np.testing.assert_array_equal(a.grad.numpy(), c.grad.numpy())


def test_a_layer_follows_its_attribute():
    layer = nn.Conv2d(4, 6, 3, padding=1).eval()
    x = arrays_of(SMALL)[0]
    plain = layer(x)
    for activation in (*ACTIVATIONS, "relu", ""):
        layer.activation = activation
        for _ in range(2):
            np.testing.assert_array_equal(layer(x), activated(plain, activation))
