"""What PyTorch 2.13 computed (golden/torch.json, made by golden/make_golden.py) against the oracle and the library.

The oracle must agree in float64; fastconv.nn and fastconv.optim in float32 and float64. The limit of a sum of products
is eps · √terms · its value with |x| and |w|; max pooling is exact.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import fastconv
import fastconv.nn.functional as F
from fastconv import nn, optim
from fastconv import reference as ref

CASES = json.loads(Path(__file__).with_name("golden").joinpath("torch.json").read_text(encoding="utf-8"))
MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def golden(*ops):
    """Parametrise over the names of the cases of these ops."""
    return pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["op"] in ops])


def load(name, dtype="float64"):
    """(args with tuples for lists, {name: array}) of a case; inputs in `dtype`, what torch computed in float64."""
    case = CASES[name]
    args = {key: tuple(value) if isinstance(value, list) else value for key, value in case["args"].items()}
    arrays = {key: np.array(value) for key, value in case.items() if key not in ("op", "args")}
    return args, {key: value.astype(dtype) if key in ("x", "w", "b", "gy") else value for key, value in arrays.items()}


def pair(value):
    return value if isinstance(value, tuple) else (value, value)


def assert_within(actual, expected, terms, scale, dtype="float64"):
    """|actual − expected| <= eps(dtype) · √terms · scale, and the same shape."""
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=np.finfo(dtype).eps * math.sqrt(terms) * scale)


# The oracle


def conv_geometry(args, w_shape):
    """The oracle's arguments for torch's: stride, padding (top, bottom, left, right), dilation, groups."""
    stride, dilation = pair(args.get("stride", 1)), pair(args.get("dilation", 1))
    padding = args.get("padding", 0)
    if padding == "same":
        totals = [dilation[a] * (w_shape[2 + a] - 1) for a in range(2)]
        pads = tuple(part for total in totals for part in (total // 2, total - total // 2))
    else:
        ph, pw = pair(0 if padding == "valid" else padding)
        pads = (ph, ph, pw, pw)
    return {"stride": stride, "padding": pads, "dilation": dilation, "groups": args.get("groups", 1)}


def conv_by_reference(args, x, w, b, gy):
    """y and the gradients by the oracle; padding modes by NumPy's pad and, backward, by adding up what it copied."""
    geometry = conv_geometry(args, w.shape)
    top, bottom, left, right = geometry.pop("padding")
    pads, mode = ((top, bottom), (left, right)), MODES[args.get("padding_mode", "zeros")]
    where = np.arange(1, x[0, 0].size + 1).reshape(x.shape[2:])
    where = np.pad(where, pads, mode=mode)
    xpadded = np.pad(x, ((0, 0), (0, 0), *pads), mode=mode)
    gpadded = ref.conv2d_grad_input(xpadded.shape, w, gy, **geometry)
    # Element 0 collects what falls on zeros outside the input.
    gx = np.zeros((*x.shape[:2], x[0, 0].size + 1))
    np.add.at(gx, np.s_[:, :, where], gpadded)
    return {
        "y": ref.conv2d(xpadded, w, b, **geometry),
        "gx": gx[:, :, 1:].reshape(x.shape),
        "gw": ref.conv2d_grad_weight(xpadded, w.shape, gy, **geometry),
        "gb": ref.conv2d_grad_bias(gy),
    }


def conv_limits(args, a):
    """For y, gx, gw and gb how many products are summed, and the largest value with absolute inputs."""
    absolute = conv_by_reference(args, *(np.abs(a[key]) if key in a else None for key in ("x", "w", "b", "gy")))
    products = a["w"][0].size + 1, a["w"][:, 0].size, a["gy"][:, 0].size, a["gy"][:, 0].size
    return {key: (terms, absolute[key].max()) for key, terms in zip(("y", "gx", "gw", "gb"), products, strict=True)}


def batched(a):
    """The arrays with x, y, gx and gy as batches, if they are not."""
    if a["x"].ndim == 4:
        return a
    return {key: value[None] if key in ("x", "y", "gx", "gy", "indices") else value for key, value in a.items()}


@golden("conv2d", "Conv2d")
def test_reference_convolution(name):
    args, a = load(name)
    a = batched(a)
    computed = conv_by_reference(args, a["x"], a["w"], a.get("b"), a["gy"])
    for key, (terms, scale) in conv_limits(args, a).items():
        if key in a:
            assert_within(computed[key], a[key], terms, scale)


@golden("conv2d")
def test_reference_grad_input_with_its_own_padding(name):
    args, a = load(name)
    a = batched(a)
    geometry = conv_geometry(args, a["w"].shape)
    gx = ref.conv2d_grad_input(a["x"].shape, a["w"], a["gy"], **geometry)
    assert_within(gx, a["gx"], *conv_limits(args, a)["gx"])
    y = ref.conv2d(a["x"], a["w"], a.get("b"), **geometry)
    assert_within(y, a["y"], *conv_limits(args, a)["y"])


def pool_geometry(args, x_shape):
    """(kernel, stride, padding), dilation, out_size: the oracle's arguments for torch's."""
    kernel, dilation = pair(args["kernel_size"]), pair(args.get("dilation", 1))
    stride, (ph, pw) = pair(args.get("stride", kernel)), pair(args.get("padding", 0))
    out_size = tuple(
        ref.pool_output_size(size, kernel[i], stride[i], p, p, dilation[i], args.get("ceil_mode", False))
        for i, (size, p) in enumerate(zip(x_shape[2:], (ph, pw), strict=True))
    )
    return (kernel, stride, (ph, ph, pw, pw)), dilation, out_size


@golden("max_pool2d")
def test_reference_max_pooling(name):
    args, a = load(name)
    a = batched(a)
    window, dilation, out_size = pool_geometry(args, a["x"].shape)
    y, indices = ref.max_pool2d(a["x"], *window, dilation, out_size)
    np.testing.assert_array_equal(y, a["y"])
    np.testing.assert_array_equal(indices, a["indices"])
    # gy holds multiples of 1/8: their sums are exact.
    np.testing.assert_array_equal(ref.max_pool2d_grad(a["x"], a["gy"], *window, dilation), a["gx"])


def avg_limits(args, a):
    """As conv_limits: a window's sum over its divisor, and the gradients that meet in one element."""
    window, _, out_size = pool_geometry(args, a["x"].shape)
    options = args.get("count_include_pad", True), args.get("divisor_override")
    y = ref.avg_pool2d(np.abs(a["x"]), *window, *options, out_size)
    gx = ref.avg_pool2d_grad(a["x"].shape, np.abs(a["gy"]), *window, *options)
    return {"y": (math.prod(window[0]), y.max()), "gx": (math.prod(window[0]), gx.max())}


@golden("avg_pool2d")
def test_reference_average_pooling(name):
    args, a = load(name)
    a = batched(a)
    window, _, out_size = pool_geometry(args, a["x"].shape)
    options = args.get("count_include_pad", True), args.get("divisor_override")
    limits = avg_limits(args, a)
    assert_within(ref.avg_pool2d(a["x"], *window, *options, out_size), a["y"], *limits["y"])
    assert_within(ref.avg_pool2d_grad(a["x"].shape, a["gy"], *window, *options), a["gx"], *limits["gx"])


def linear_by_reference(x, w, b, gy):
    """y and the gradients by the oracle; leading dimensions are rows."""
    rows, gys = x.reshape(-1, w.shape[1]), gy.reshape(-1, w.shape[0])
    return {
        "y": ref.linear(rows, w, b).reshape(gy.shape),
        "gx": ref.linear_grad_input(w, gys).reshape(x.shape),
        "gw": ref.linear_grad_weight(rows, gys),
        "gb": gys.sum(axis=0),
    }


def linear_limits(a):
    """As conv_limits."""
    absolute = linear_by_reference(*(np.abs(a[key]) if key in a else None for key in ("x", "w", "b", "gy")))
    o, i = a["w"].shape
    terms = {"y": i + 1, "gx": o, "gw": a["gy"].size // o, "gb": a["gy"].size // o}
    return {key: (terms[key], absolute[key].max()) for key in terms}


@golden("linear")
def test_reference_linear(name):
    _, a = load(name)
    computed = linear_by_reference(a["x"], a["w"], a.get("b"), a["gy"])
    for key, limit in linear_limits(a).items():
        if key in a:
            assert_within(computed[key], a[key], *limit)


@golden("softmax", "log_softmax")
def test_reference_softmax(name):
    args, a = load(name)
    y = getattr(ref, CASES[name]["op"])(a["x"], args["dim"])
    assert_within(y, a["y"], a["x"].shape[args["dim"]], np.abs(a["x"]).max())


@pytest.mark.parametrize("name", ["cross_entropy_mean", "cross_entropy_wide"])
def test_reference_cross_entropy(name):
    _, a = load(name)
    assert_within(np.array(ref.cross_entropy(a["x"], a["target"])), a["y"], a["x"].size, np.abs(a["x"]).max())


# The library


def differentiate(function, a):
    """y and the gradients, as arrays, of function(**leaves), with gy pulled back through the tape."""
    leaves = {key: fastconv.Tensor(a[key], requires_grad=True) for key in ("x", "w", "b") if key in a}
    y = function(**leaves)
    y.backward(a["gy"])
    return {"y": y.detach().numpy()} | {f"g{key}": leaf.grad.numpy() for key, leaf in leaves.items()}


def assert_all_within(computed, a, limits, dtype):
    for key, value in computed.items():
        assert value.dtype == dtype, key
        assert_within(value, a[key], *limits[key], dtype)


@DTYPES
@golden("conv2d")
def test_conv2d(name, dtype):
    args, a = load(name, dtype)
    limits = conv_limits(args, batched(a))
    assert_all_within(differentiate(lambda x, w, b=None: F.conv2d(x, w, b, **args), a), a, limits, dtype)
    y = F.conv2d(a["x"], a["w"], a.get("b"), **args)
    assert type(y) is np.ndarray
    assert_all_within({"y": y}, a, limits, dtype)


@DTYPES
@golden("Conv2d")
def test_conv2d_layer_with_padding_mode(name, dtype):
    args, a = load(name, dtype)
    layer = nn.Conv2d(**args)
    layer.weight, layer.bias = nn.Parameter(a["w"]), nn.Parameter(a["b"])
    x = fastconv.Tensor(a["x"], requires_grad=True)
    y = layer(x)
    y.backward(a["gy"])
    computed = {"y": y.detach(), "gx": x.grad, "gw": layer.weight.grad, "gb": layer.bias.grad}
    limits = conv_limits(args, a)
    assert_all_within({key: value.numpy() for key, value in computed.items()}, a, limits, dtype)
    assert_all_within({"y": layer(a["x"])}, a, limits, dtype)


@DTYPES
@golden("max_pool2d")
def test_max_pool2d(name, dtype):
    args, a = load(name, dtype)
    for key, value in differentiate(lambda x: F.max_pool2d(x, **args), a).items():
        assert value.dtype == dtype
        np.testing.assert_array_equal(value, a[key])
    y, indices = nn.MaxPool2d(**args, return_indices=True)(a["x"])
    np.testing.assert_array_equal(y, a["y"])
    np.testing.assert_array_equal(indices, a["indices"])
    assert indices.dtype == np.int64
    np.testing.assert_array_equal(nn.MaxPool2d(**args)(a["x"]), a["y"])


@DTYPES
@golden("avg_pool2d")
def test_avg_pool2d(name, dtype):
    args, a = load(name, dtype)
    limits = avg_limits(args, batched(a))
    assert_all_within(differentiate(lambda x: F.avg_pool2d(x, **args), a), a, limits, dtype)
    assert_all_within({"y": nn.AvgPool2d(**args)(a["x"])}, a, limits, dtype)


@DTYPES
@golden("linear")
def test_linear(name, dtype):
    _, a = load(name, dtype)
    limits = linear_limits(a)
    assert_all_within(differentiate(lambda x, w, b=None: F.linear(x, w, b), a), a, limits, dtype)
    assert_all_within({"y": F.linear(a["x"], a["w"], a.get("b"))}, a, limits, dtype)


@DTYPES
@golden("relu", "sigmoid", "tanh", "softmax", "log_softmax")
def test_activation(name, dtype):
    args, a = load(name, dtype)
    function = getattr(F, CASES[name]["op"])
    computed = differentiate(lambda x: function(x, **args), a)
    # One rounding of a result, at most |x| or 1, and a few of exp's; the gradient is gy times at most 1.
    terms = a["x"].shape[args["dim"]] if args else 4
    scale = max(np.abs(a["y"]).max(), 1)
    limits = {"y": (terms, scale), "gx": (4 * terms, scale * np.abs(a["gy"]).max())}
    assert_all_within(computed, a, limits, dtype)


@DTYPES
@golden("cross_entropy", "mse_loss")
def test_loss(name, dtype):
    args, a = load(name, dtype)
    target = a["target"].astype(dtype) if a["target"].dtype.kind == "f" else a["target"]
    if "weight" in a:
        args["weight"] = a["weight"].astype(dtype)
    op = CASES[name]["op"]
    function, layer = getattr(F, op), {"mse_loss": nn.MSELoss, "cross_entropy": nn.CrossEntropyLoss}[op](**args)
    # A sum over all of x; the gradient is of the size of gy, here at most 2, times a difference of shares or of x.
    limits = {"y": (a["x"].size, np.abs(a["y"]).max()), "gx": (a["x"].size, max(np.abs(a["gx"]).max(), 1))}
    assert_all_within(differentiate(lambda x: function(x, target, **args), a), a, limits, dtype)
    assert_all_within(differentiate(lambda x: layer(x, target), a), a, limits, dtype)
    assert_all_within({"y": np.asarray(function(a["x"], target, **args))}, a, {"y": limits["y"]}, dtype)


def lenet_like(dtype):
    return nn.Sequential(
        nn.Conv2d(1, 3, (5, 3), padding=2, dtype=dtype),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 3, stride=(1, 2), dtype=dtype),
        nn.Sigmoid(),
        nn.AvgPool2d(2, stride=(2, 1)),
        nn.Flatten(),
        nn.Linear(8, 7, dtype=dtype),
        nn.ReLU(),
        nn.Linear(7, 5, dtype=dtype),
    )


@DTYPES
def test_network_loss_and_every_parameter_gradient(dtype):
    case = CASES["network"]
    net = lenet_like(dtype)
    net.load_state_dict({key: np.array(value, dtype=dtype) for key, value in case["state"].items()})
    x, target = np.array(case["x"], dtype=dtype), np.array(case["target"])
    logits = net(fastconv.Tensor(x))
    loss = nn.CrossEntropyLoss()(logits, fastconv.Tensor(target))
    loss.backward()
    # The longest chain of sums: two convolutions and two linear layers.
    terms = 15 + 27 + 8 + 7
    expected = np.array(case["y"])
    assert_within(logits.detach().numpy(), expected, terms, np.abs(expected).max(), dtype)
    assert_within(np.array(loss.item()), np.array(case["loss"]), terms, case["loss"], dtype)
    gradients = {key: parameter.grad.numpy() for key, parameter in net.named_parameters()}
    assert list(gradients) == list(case["gradients"]) == list(case["state"])
    for key, gradient in gradients.items():
        assert gradient.dtype == dtype
        expected = np.array(case["gradients"][key])
        # The first kernel's gradient is a sum over 3 images of 12×13 outputs, after all the others.
        assert_within(gradient, expected, terms + 3 * 12 * 13, np.abs(expected).max(), dtype)
    np.testing.assert_array_equal(net(x), logits.detach().numpy())


@DTYPES
@golden("SGD", "Adam")
def test_optimiser_trajectory(name, dtype):
    args = CASES[name]["args"]
    start, goals, scales = (
        [np.array(value, dtype=dtype) for value in CASES["quadratic"][key]] for key in ("start", "goal", "scale")
    )
    parameters = [nn.Parameter(value) for value in start]
    optimiser = getattr(optim, CASES[name]["op"])(parameters, **args)
    for expected in CASES[name]["steps"]:
        optimiser.zero_grad()
        losses = [
            (fastconv.Tensor(scale) * (parameter - fastconv.Tensor(goal)) ** 2).sum() / 2
            for scale, parameter, goal in zip(scales, parameters, goals, strict=True)
        ]
        (losses[0] + losses[1]).backward()
        optimiser.step()
        for parameter, value in zip(parameters, expected, strict=True):
            # About ten roundings a step, five steps, of values near 2.
            assert_within(parameter.detach().numpy(), np.array(value), 50, 2, dtype)
