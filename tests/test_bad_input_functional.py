"""Bad arguments of the array level: ValueError or TypeError that names the argument, its value and what is allowed."""

import numpy as np
import pytest

from fastconv import functional as f
from fastconv.problem import ConvProblem, LinearProblem, PoolProblem

rng = np.random.default_rng(0)
X = rng.standard_normal((2, 4, 6, 5)).astype(np.float32)
W = rng.standard_normal((6, 4, 3, 2)).astype(np.float32)
B = rng.standard_normal(6).astype(np.float32)
GY = rng.standard_normal((2, 6, 4, 4)).astype(np.float32)
# Pooling with a 2×2 window.
GP = rng.standard_normal((2, 4, 3, 2)).astype(np.float32)
M = rng.standard_normal((3, 7)).astype(np.float32)
V = rng.standard_normal((5, 7)).astype(np.float32)
GM = rng.standard_normal((3, 5)).astype(np.float32)


def test_the_arguments_are_right_where_nothing_is_changed():
    """So that each call below fails for its own reason."""
    assert f.conv2d(X, W, B).shape == GY.shape
    assert f.conv2d_grad_input(X.shape, W, GY).shape == X.shape
    assert f.conv2d_grad_weight(X, W.shape, GY).shape == W.shape
    assert f.max_pool2d(X, 2).shape == GP.shape
    assert f.max_pool2d_with_indices(X, 2)[1].shape == GP.shape
    assert f.max_pool2d_grad(X, GP, 2).shape == X.shape
    assert f.avg_pool2d(X, 2).shape == GP.shape
    assert f.avg_pool2d_grad(X.shape, GP, 2).shape == X.shape
    assert f.linear(M, V, V[:, 0].copy()).shape == GM.shape
    assert f.linear_grad_input(V, GM).shape == M.shape
    assert f.linear_grad_weight(M, GM).shape == V.shape


# (what is wrong, call, exception, what the message must hold: the argument's name, the value, what is allowed).
# Inputs and weights are called by torch's names, input and weight, where a shape is at fault.
BAD = [
    # Arrays: type, dtype.
    ("x a list", lambda: f.conv2d(X.tolist(), W), TypeError, ["x", "NumPy array", "list"]),
    ("w a list", lambda: f.conv2d(X, W.tolist()), TypeError, ["w", "NumPy array", "list"]),
    ("b a list", lambda: f.conv2d(X, W, B.tolist()), TypeError, ["b", "NumPy array", "list"]),
    ("b a number", lambda: f.conv2d(X, W, 0.5), TypeError, ["b", "NumPy array", "float"]),
    ("x None", lambda: f.conv2d(None, W), TypeError, ["x", "NumPy array", "NoneType"]),
    ("x a scalar", lambda: f.conv2d(X[0, 0, 0, 0], W), TypeError, ["x", "NumPy array", "float32"]),
    ("x ints", lambda: f.conv2d(X.astype(np.int64), W), TypeError, ["x", "int64", "float32, float64"]),
    ("x bools", lambda: f.max_pool2d(X > 0, 2), TypeError, ["x", "bool", "float32, float64"]),
    ("x float16", lambda: f.conv2d(X.astype(np.float16), W), TypeError, ["x", "float16", "float32, float64"]),
    ("x complex", lambda: f.avg_pool2d(X.astype(np.complex64), 2), TypeError, ["x", "complex64", "float32, float64"]),
    ("x objects", lambda: f.avg_pool2d(X.astype(object), 2), TypeError, ["x", "object", "float32, float64"]),
    ("x other byte order", lambda: f.max_pool2d(X.astype(">f4"), 2), TypeError, ["x", ">f4", "float32, float64"]),
    ("x and w differ", lambda: f.conv2d(X, W.astype(np.float64)), TypeError, ["w", "float64", "float32"]),
    ("x and b differ", lambda: f.conv2d(X, W, B.astype(np.float64)), TypeError, ["b", "float64", "float32"]),
    ("gy differs", lambda: f.conv2d_grad_input(X.shape, W, GY.astype(float)), TypeError, ["gy", "float64", "float32"]),
    ("gy a list", lambda: f.conv2d_grad_weight(X, W.shape, GY.tolist()), TypeError, ["gy", "NumPy array", "list"]),
    ("pool gy differs", lambda: f.max_pool2d_grad(X, GP.astype(float), 2), TypeError, ["gy", "float64", "float32"]),
    ("pool gy a list", lambda: f.avg_pool2d_grad(X.shape, GP.tolist(), 2), TypeError, ["gy", "NumPy array", "list"]),
    ("linear x a tuple", lambda: f.linear(tuple(M), V), TypeError, ["x", "NumPy array", "tuple"]),
    ("linear w differs", lambda: f.linear(M, V.astype(float)), TypeError, ["w", "float64", "float32"]),
    ("linear gy ints", lambda: f.linear_grad_input(V, GM.astype(int)), TypeError, ["gy", "int64", "float32, float64"]),
    # Arrays: shape.
    ("x 3-D", lambda: f.conv2d(X[0], W), ValueError, ["input", "(4, 6, 5)", "4 dimensions (N, C, H, W)"]),
    ("x 2-D", lambda: f.max_pool2d(X[0, 0], 2), ValueError, ["input", "(6, 5)", "4 dimensions (N, C, H, W)"]),
    ("x 5-D", lambda: f.avg_pool2d(X[None], 2), ValueError, ["input", "(1, 2, 4, 6, 5)", "4 dimensions"]),
    ("x 0-D", lambda: f.conv2d(np.array(1, np.float32), W), ValueError, ["input", "()", "4 dimensions"]),
    ("w 3-D", lambda: f.conv2d(X, W[0]), ValueError, ["weight", "(4, 3, 2)", "4 dimensions"]),
    ("linear x 1-D", lambda: f.linear(M[0], V), ValueError, ["input", "(7,)", "2 dimensions"]),
    ("linear x 3-D", lambda: f.linear(M[None], V), ValueError, ["input", "(1, 3, 7)", "2 dimensions"]),
    ("linear w 1-D", lambda: f.linear(M, V[0]), ValueError, ["weight", "(7,)", "2 dimensions"]),
    ("channels", lambda: f.conv2d(X[:, :3], W), ValueError, ["input", "(2, 3, 6, 5)", "needs 4 channels"]),
    ("channels of groups", lambda: f.conv2d(X, W, groups=2), ValueError, ["input", "8 channels", "groups=2"]),
    ("no channels", lambda: f.max_pool2d(X[:, :0], 2), ValueError, ["input", "(2, 0, 6, 5)", "at least one channel"]),
    ("conv no channels", lambda: f.conv2d(X[:, :0], W[:, :0]), ValueError, ["input", "(2, 0, 6, 5)", "channels"]),
    ("no outputs", lambda: f.conv2d(X, W[:0]), ValueError, ["0 output channels"]),
    ("no kernel", lambda: f.conv2d(X, W[:, :, :0]), ValueError, ["weight", "(6, 4, 0, 2)", "at least 1×1"]),
    ("empty image", lambda: f.conv2d(X[:, :, :0], W), ValueError, ["input", "(2, 4, 0, 5)", "smaller"]),
    ("kernel over x", lambda: f.conv2d(X[:, :, :2], W), ValueError, ["input", "(2, 4, 2, 5)", "smaller", "3×2"]),
    ("window over x", lambda: f.max_pool2d(X, 7), ValueError, ["input", "(2, 4, 6, 5)", "at least the window", "7×7"]),
    ("b 2-D", lambda: f.conv2d(X, W, B[None]), ValueError, ["b", "(1, 6)", "(6,)"]),
    ("b short", lambda: f.conv2d(X, W, B[:5]), ValueError, ["b", "(5,)", "(6,)"]),
    ("b of one", lambda: f.conv2d(X, W, B[:1]), ValueError, ["b", "(1,)", "(6,)"]),
    ("linear b", lambda: f.linear(M, V, B), ValueError, ["b", "(6,)", "(5,)"]),
    ("features", lambda: f.linear(M[:, :6], V), ValueError, ["input", "(3, 6)", "needs 7 features"]),
    ("no features", lambda: f.linear(M[:, :0], V[:, :0]), ValueError, ["input", "(3, 0)", "at least 1"]),
    (
        "gy for x",
        lambda: f.conv2d_grad_input(X.shape, W, GY[:, :, 1:]),
        ValueError,
        ["gy", "(2, 6, 3, 4)", "(2, 6, 4, 4)"],
    ),
    ("gy 3-D", lambda: f.conv2d_grad_input(X.shape, W, GY[0]), ValueError, ["gy", "(6, 4, 4)", "(2, 6, 4, 4)"]),
    ("gy for w", lambda: f.conv2d_grad_weight(X, W.shape, GY[:1]), ValueError, ["gy", "(1, 6, 4, 4)", "(2, 6, 4, 4)"]),
    ("gy for max", lambda: f.max_pool2d_grad(X, GY, 2), ValueError, ["gy", "(2, 6, 4, 4)", "(2, 4, 3, 2)"]),
    ("gy for avg", lambda: f.avg_pool2d_grad(X.shape, GY, 2), ValueError, ["gy", "(2, 6, 4, 4)", "(2, 4, 3, 2)"]),
    (
        "gy one for all",
        lambda: f.avg_pool2d_grad(X.shape, GP[:1], 2),
        ValueError,
        ["gy", "(1, 4, 3, 2)", "(2, 4, 3, 2)"],
    ),
    ("linear gy", lambda: f.linear_grad_input(V, GM[:, :4]), ValueError, ["gy", "(3, 4)", "(3, 5)"]),
    ("linear gy rows", lambda: f.linear_grad_weight(M, GM[:2]), ValueError, ["gy", "(2, 5)", "(3, 5)"]),
    ("linear gy 1-D", lambda: f.linear_grad_weight(M, GM[0]), ValueError, ["gy", "(5,)", "2 dimensions"]),
    # Shapes given as such.
    ("input_size 3", lambda: f.conv2d_grad_input((4, 6, 5), W, GY), ValueError, ["input", "(4, 6, 5)", "4 dimensions"]),
    ("input_size a number", lambda: f.conv2d_grad_input(6, W, GY), TypeError, ["input", "6", "shape", "int"]),
    ("input_size None", lambda: f.avg_pool2d_grad(None, GP, 2), TypeError, ["input", "None", "shape"]),
    (
        "input_size floats",
        lambda: f.avg_pool2d_grad((2, 4, 6.0, 5), GP, 2),
        TypeError,
        ["input", "6.0", "int", "float"],
    ),
    ("input_size negative", lambda: f.conv2d_grad_input((2, 4, -6, 5), W, GY), ValueError, ["input", "-6", ">= 0"]),
    ("input_size an array", lambda: f.conv2d_grad_input(X, W, GY), TypeError, ["input", "shape", "ndarray"]),
    (
        "weight_size a string",
        lambda: f.conv2d_grad_weight(X, "6432", GY),
        TypeError,
        ["weight", "6432", "shape", "str"],
    ),
    ("weight_size 2", lambda: f.conv2d_grad_weight(X, (3, 2), GY), ValueError, ["weight", "(3, 2)", "4 dimensions"]),
    ("weight_size bool", lambda: f.conv2d_grad_weight(X, (6, 4, True, 2), GY), TypeError, ["weight", "True", "bool"]),
    # stride.
    ("stride 0", lambda: f.conv2d(X, W, stride=0), ValueError, ["stride=0", ">= 1"]),
    ("stride negative", lambda: f.conv2d(X, W, stride=(1, -2)), ValueError, ["stride=(1, -2)", ">= 1"]),
    ("stride float", lambda: f.conv2d(X, W, stride=1.0), TypeError, ["stride=1.0", "int", "float"]),
    ("stride bool", lambda: f.conv2d(X, W, stride=True), TypeError, ["stride=True", "int", "bool"]),
    ("stride NumPy bool", lambda: f.conv2d(X, W, stride=np.True_), TypeError, ["stride=", "int", "bool"]),
    ("stride string", lambda: f.conv2d(X, W, stride="2"), TypeError, ["stride='2'", "int", "str"]),
    ("stride None", lambda: f.conv2d(X, W, stride=None), TypeError, ["stride=None", "int", "NoneType"]),
    ("stride of 3", lambda: f.conv2d(X, W, stride=(1, 1, 1)), ValueError, ["stride=(1, 1, 1)", "pair", "3"]),
    ("stride of 0", lambda: f.max_pool2d(X, 2, stride=()), ValueError, ["stride=()", "pair", "0"]),
    ("stride of floats", lambda: f.max_pool2d(X, 2, stride=(1, 1.5)), TypeError, ["stride=(1, 1.5)", "int", "float"]),
    ("stride an array", lambda: f.conv2d(X, W, stride=np.array([1, 2])), TypeError, ["stride=", "pair", "ndarray"]),
    ("stride a dict", lambda: f.conv2d(X, W, stride={1: 2}), TypeError, ["stride={1: 2}", "pair", "dict"]),
    ("stride huge", lambda: f.conv2d(X, W, stride=2**40), ValueError, [f"stride={2**40}", "2**31"]),
    ("pool stride 0", lambda: f.avg_pool2d(X, 2, stride=0), ValueError, ["stride=0", ">= 1"]),
    # padding.
    ("padding negative", lambda: f.conv2d(X, W, padding=-1), ValueError, ["padding=-1", ">= 0"]),
    ("padding pair negative", lambda: f.conv2d(X, W, padding=(0, -1)), ValueError, ["padding=(0, -1)", ">= 0"]),
    ("padding of 3", lambda: f.conv2d(X, W, padding=(1, 1, 1)), ValueError, ["padding=(1, 1, 1)", "pair", "3"]),
    (
        "padding of 4, negative",
        lambda: f.conv2d(X, W, padding=(0, 0, 0, -1)),
        ValueError,
        ["padding=(0, 0, 0, -1)", ">= 0"],
    ),
    ("padding float", lambda: f.conv2d(X, W, padding=0.5), TypeError, ["padding=0.5", "int", "float"]),
    ("padding bool", lambda: f.conv2d(X, W, padding=False), TypeError, ["padding=False", "int", "bool"]),
    ("padding None", lambda: f.max_pool2d(X, 2, padding=None), TypeError, ["padding=None", "int", "NoneType"]),
    ("padding SAME", lambda: f.conv2d(X, W, padding="SAME"), ValueError, ["padding='SAME'", "'same' or 'valid'"]),
    ("padding reflect", lambda: f.max_pool2d(X, 2, padding="reflect"), ValueError, ["padding='reflect'", "'same'"]),
    ("padding bytes", lambda: f.conv2d(X, W, padding=b"same"), TypeError, ["padding=b'same'", "bytes"]),
    ("padding huge", lambda: f.conv2d(X, W, padding=2**31), ValueError, [f"padding={2**31}", "2**31"]),
    (
        "padding too large for memory",
        lambda: f.conv2d(X, W, padding=2**31 - 1),
        ValueError,
        ["padding", str(2**31 - 1)],
    ),
    ("pool padding", lambda: f.max_pool2d(X, 2, padding=2), ValueError, ["padding=2", "half of kernel_size (2, 2)"]),
    ("pool padding, one side", lambda: f.avg_pool2d(X, (3, 2), padding=(1, 2)), ValueError, ["padding=(1, 2)", "half"]),
    (
        "pool padding of 1",
        lambda: f.avg_pool2d(X, 1, padding=1),
        ValueError,
        ["padding=1", "half of kernel_size (1, 1)"],
    ),
    # dilation, groups.
    ("dilation 0", lambda: f.conv2d(X, W, dilation=0), ValueError, ["dilation=0", ">= 1"]),
    ("dilation float", lambda: f.max_pool2d(X, 2, dilation=2.0), TypeError, ["dilation=2.0", "int", "float"]),
    ("dilation of 3", lambda: f.conv2d(X, W, dilation=[1, 2, 3]), ValueError, ["dilation=[1, 2, 3]", "pair", "3"]),
    ("dilation too large", lambda: f.conv2d(X, W, dilation=3), ValueError, ["input", "(2, 4, 6, 5)", "spans 7×4"]),
    ("dilation huge", lambda: f.conv2d(X, W, dilation=2**31 - 1), ValueError, ["input", "spans", "smaller"]),
    ("groups 0", lambda: f.conv2d(X, W, groups=0), ValueError, ["groups=0", ">= 1"]),
    ("groups negative", lambda: f.conv2d(X, W, groups=-1), ValueError, ["groups=-1", ">= 1"]),
    ("groups that do not divide", lambda: f.conv2d(X, W, groups=4), ValueError, ["groups=4", "divisor", "6 output"]),
    ("groups float", lambda: f.conv2d(X, W, groups=1.0), TypeError, ["groups=1.0", "int", "float"]),
    ("groups a pair", lambda: f.conv2d(X, W, groups=(1, 1)), TypeError, ["groups=(1, 1)", "int", "tuple"]),
    ("groups None", lambda: f.conv2d_grad_input(X.shape, W, GY, groups=None), TypeError, ["groups=None", "int"]),
    # kernel_size and what else pooling takes.
    ("kernel_size 0", lambda: f.max_pool2d(X, 0), ValueError, ["kernel_size=0", ">= 1"]),
    ("kernel_size negative", lambda: f.avg_pool2d(X, (2, -1)), ValueError, ["kernel_size=(2, -1)", ">= 1"]),
    ("kernel_size float", lambda: f.max_pool2d(X, 2.0), TypeError, ["kernel_size=2.0", "int", "float"]),
    ("kernel_size None", lambda: f.max_pool2d(X, None), TypeError, ["kernel_size=None", "int", "NoneType"]),
    ("kernel_size string", lambda: f.avg_pool2d(X, "same"), TypeError, ["kernel_size='same'", "int", "str"]),
    ("kernel_size of 1", lambda: f.avg_pool2d(X, [2]), ValueError, ["kernel_size=[2]", "pair", "1"]),
    ("kernel_size huge", lambda: f.max_pool2d(X, 10**12), ValueError, ["kernel_size=1000000000000", "2**31"]),
    ("ceil_mode a number", lambda: f.max_pool2d(X, 2, ceil_mode=1), TypeError, ["ceil_mode=1", "True or False"]),
    ("ceil_mode None", lambda: f.avg_pool2d(X, 2, ceil_mode=None), TypeError, ["ceil_mode=None", "True or False"]),
    (
        "count_include_pad a string",
        lambda: f.avg_pool2d(X, 2, count_include_pad="no"),
        TypeError,
        ["count_include_pad='no'"],
    ),
    ("divisor 0", lambda: f.avg_pool2d(X, 2, divisor_override=0), ValueError, ["divisor_override=0", ">= 1"]),
    ("divisor negative", lambda: f.avg_pool2d(X, 2, divisor_override=-4), ValueError, ["divisor_override=-4", ">= 1"]),
    (
        "divisor float",
        lambda: f.avg_pool2d_grad(X.shape, GP, 2, divisor_override=2.5),
        TypeError,
        ["divisor_override=2.5"],
    ),
    ("divisor bool", lambda: f.avg_pool2d(X, 2, divisor_override=True), TypeError, ["divisor_override=True", "bool"]),
    # algorithm.
    ("algorithm unknown", lambda: f.linear(M, V, algorithm="fast"), ValueError, ["algorithm='fast'", "'auto'", "gemm"]),
    ("algorithm of another", lambda: f.linear(M, V, algorithm="im2col"), ValueError, ["algorithm='im2col'", "gemm"]),
    ("algorithm None", lambda: f.max_pool2d(X, 2, algorithm=None), TypeError, ["algorithm=None", "'auto'"]),
    ("algorithm a number", lambda: f.conv2d(X, W, algorithm=1), TypeError, ["algorithm=1", "'auto'"]),
    (
        "algorithm without images",
        lambda: f.conv2d(X[:0], W, algorithm="fast"),
        ValueError,
        ["algorithm='fast'", "im2col"],
    ),
    # Problems, where a dtype is given by name.
    (
        "problem dtype",
        lambda: ConvProblem.make(X.shape, W.shape, dtype="float16"),
        ValueError,
        ["dtype", "float16", "float64"],
    ),
    (
        "pool problem dtype",
        lambda: PoolProblem.make(X.shape, 2, dtype="int8"),
        ValueError,
        ["dtype", "int8", "float64"],
    ),
    ("linear problem dtype", lambda: LinearProblem.make(M.shape, V.shape, dtype=None), TypeError, ["dtype", "None"]),
    ("problem input", lambda: LinearProblem.make("37", V.shape), TypeError, ["input", "'37'", "shape"]),
]


def test_there_are_many():
    assert len(BAD) >= 100
    assert len({name for name, *_ in BAD}) == len(BAD)


@pytest.mark.parametrize(("call", "error", "words"), [pytest.param(*rest, id=name) for name, *rest in BAD])
def test_bad_arguments(call, error, words):
    with pytest.raises((ValueError, TypeError)) as raised:
        call()
    message = str(raised.value)
    assert raised.type is error, message
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"


def test_integers_of_any_kind_are_right():
    """What the checks above let through: NumPy's integers, lists, and anything with __index__."""

    class Two:
        def __index__(self):
            return 2

    wanted = f.conv2d(X, W, stride=(2, 1), padding=(1, 2), groups=1)
    assert np.array_equal(
        f.conv2d(X, W, stride=[np.int32(2), np.uint8(1)], padding=[1, Two()], groups=np.int64(1)), wanted
    )
    assert np.array_equal(f.max_pool2d(X, Two(), Two()), f.max_pool2d(X, 2))
