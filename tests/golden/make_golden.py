"""Record what PyTorch computes, in torch.json beside this file, for test_golden.py. Needs torch==2.13.0 (CPU).

Run by hand: python tests/golden/make_golden.py

Inputs are multiples of 1/8, exact in float32 and short to write; torch computes in float64. So one record serves
float32 and float64 alike. Keys: "op" says what ran, "args" are its keyword arguments, every other key is an array as
nested lists: x w b target weight gy go in; y indices loss gx gw gb come out.
"""

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

VERSION = "2.13.0"
NAN, INF = math.nan, math.inf
generator = torch.Generator()
cases = {}


def eighths(*shape, top=16):
    """Random multiples of 1/8 between −top/8 and top/8."""
    return torch.randint(-top, top + 1, shape, generator=generator).double() / 8


def distinct(*shape):
    """Multiples of 1/8, all different: no ties."""
    count = math.prod(shape)
    return (torch.randperm(count, generator=generator).double() - count // 2).reshape(shape) / 8


def record(name, op, args, **arrays):
    assert name not in cases, name
    cases[name] = {"op": op, "args": args} | {key: value.tolist() for key, value in arrays.items() if value is not None}


def differentiate(function, **inputs):
    """Call function(**inputs) and pull a random gy back; the inputs, y, gy and the gradients, by name."""
    leaves = {key: value.clone().requires_grad_() for key, value in inputs.items()}
    y = function(**leaves)
    gy = eighths(*y.shape)
    y.backward(gy)
    gradients = {f"g{key}": leaf.grad for key, leaf in leaves.items()}
    return inputs | {"y": y.detach(), "gy": gy} | gradients


def conv(name, x_shape, w_shape, bias=True, **args):
    inputs = {"x": eighths(*x_shape), "w": eighths(*w_shape)} | ({"b": eighths(w_shape[0])} if bias else {})
    arrays = differentiate(lambda x, w, b=None: F.conv2d(x, w, b, **args), **inputs)
    record(name, "conv2d", args, **arrays)


def conv_layer(name, x_shape, **args):
    layer = nn.Conv2d(**args).double()
    w, b = eighths(*layer.weight.shape), eighths(*layer.bias.shape)

    def call(x, w, b):
        return torch.func.functional_call(layer, {"weight": w, "bias": b}, x)

    record(name, "Conv2d", args, **differentiate(call, x=eighths(*x_shape), w=w, b=b))


def max_pool(name, x, **args):
    arrays = differentiate(lambda x: F.max_pool2d(x, **args), x=x)
    record(name, "max_pool2d", args, **arrays, indices=F.max_pool2d(x, **args, return_indices=True)[1])


def avg_pool(name, x, **args):
    record(name, "avg_pool2d", args, **differentiate(lambda x: F.avg_pool2d(x, **args), x=x))


def convolutions():
    conv("conv_plain", (2, 3, 6, 5), (4, 3, 3, 2))
    conv("conv_no_bias", (1, 2, 5, 6), (3, 2, 2, 3), bias=False)
    conv("conv_one_by_one", (2, 5, 3, 4), (3, 5, 1, 1))
    conv("conv_stride", (1, 3, 9, 8), (2, 3, 2, 3), stride=[3, 2])
    conv("conv_padding", (1, 2, 4, 5), (3, 2, 3, 5), padding=[2, 1])
    conv("conv_padding_over_kernel", (1, 1, 3, 2), (2, 1, 2, 1), padding=[3, 2], stride=[2, 1])
    conv("conv_dilation", (1, 2, 9, 8), (3, 2, 3, 2), dilation=[2, 3])
    conv("conv_groups", (2, 6, 4, 5), (4, 3, 2, 3), groups=2)
    conv("conv_depthwise", (1, 5, 6, 5), (10, 1, 3, 2), groups=5, padding=1, stride=[2, 1])
    conv("conv_all", (2, 6, 11, 9), (3, 2, 3, 2), stride=[2, 3], padding=[3, 1], dilation=[3, 2], groups=3)
    conv("conv_same_even_kernel", (1, 2, 5, 6), (2, 2, 4, 2), padding="same")
    conv("conv_same_dilation", (1, 2, 7, 6), (2, 2, 2, 4), padding="same", dilation=[3, 1])
    conv("conv_valid", (1, 2, 7, 6), (2, 2, 3, 3), padding="valid", stride=2)
    conv("conv_unbatched", (3, 5, 4), (2, 3, 2, 3), padding=1)
    base = {"in_channels": 2, "out_channels": 3, "kernel_size": [3, 2], "padding": [2, 1]}
    conv_layer("layer_zeros", (2, 2, 6, 5), **base)
    conv_layer("layer_reflect", (2, 2, 6, 5), **base, padding_mode="reflect", stride=[1, 2])
    conv_layer("layer_replicate", (2, 2, 6, 5), **base, padding_mode="replicate", stride=[2, 1])
    conv_layer("layer_circular", (2, 2, 6, 5), **base, padding_mode="circular", dilation=[2, 1])
    same = {"in_channels": 2, "out_channels": 2, "kernel_size": [4, 3], "padding": "same"}
    conv_layer("layer_same_reflect", (1, 2, 6, 7), **same, padding_mode="reflect")
    conv_layer("layer_same_circular", (1, 2, 6, 7), **same, padding_mode="circular", dilation=[1, 2], groups=2)


def pools():
    max_pool("max_plain", distinct(2, 2, 4, 6), kernel_size=2)
    max_pool("max_overlap", distinct(1, 3, 7, 6), kernel_size=[3, 2], stride=[2, 1])
    max_pool("max_padding", distinct(1, 2, 5, 7), kernel_size=[3, 4], stride=2, padding=[1, 2])
    max_pool("max_negative", distinct(1, 1, 5, 5) - 4, kernel_size=3, stride=2, padding=1)
    max_pool("max_ceil", distinct(1, 2, 6, 8), kernel_size=[3, 2], stride=[2, 3], ceil_mode=True)
    max_pool("max_ceil_padding", distinct(1, 2, 5, 7), kernel_size=2, stride=2, padding=1, ceil_mode=True)
    max_pool("max_ceil_small", distinct(1, 1, 2, 3), kernel_size=[3, 4], stride=2, ceil_mode=True)
    max_pool("max_dilation", distinct(1, 2, 9, 8), kernel_size=[3, 2], stride=[2, 1], padding=[1, 0], dilation=[2, 3])
    max_pool("max_ties", eighths(2, 2, 6, 6, top=1), kernel_size=3, stride=2, padding=1)
    wild = eighths(2, 2, 6, 7, top=2)
    for value in (NAN, NAN, INF, -INF):
        wild[torch.rand(wild.shape, generator=generator) < 0.12] = value
    max_pool("max_nan_inf", wild, kernel_size=[2, 3], stride=[1, 2], padding=1)
    max_pool("max_all_minus_inf", torch.full((1, 1, 4, 5), -INF).double(), kernel_size=3, stride=2, padding=1)
    max_pool("max_unbatched", distinct(2, 5, 4), kernel_size=[2, 3])
    avg_pool("avg_plain", eighths(2, 2, 4, 6), kernel_size=2)
    avg_pool("avg_overlap", eighths(1, 3, 7, 6), kernel_size=[3, 2], stride=[2, 1])
    avg_pool("avg_padding", eighths(1, 2, 5, 7), kernel_size=[3, 4], stride=2, padding=[1, 2])
    avg_pool("avg_not_pad", eighths(1, 2, 5, 7), kernel_size=[3, 4], stride=2, padding=[1, 2], count_include_pad=False)
    ceil = {"kernel_size": 3, "stride": [2, 3], "padding": [1, 0], "ceil_mode": True}
    avg_pool("avg_ceil", eighths(1, 2, 6, 7), **ceil)
    avg_pool("avg_ceil_not_pad", eighths(1, 2, 6, 7), **ceil, count_include_pad=False)
    avg_pool("avg_ceil_small", eighths(1, 1, 2, 3), kernel_size=[3, 4], stride=2, ceil_mode=True)
    avg_pool("avg_divisor", eighths(1, 2, 6, 7), **ceil, divisor_override=7)
    avg_pool("avg_unbatched", eighths(2, 5, 4), kernel_size=[2, 3])


def dense():
    def call(name, op, args=None, **inputs):
        args = args or {}
        record(name, op, args, **differentiate(lambda **leaves: getattr(F, op)(*leaves.values(), **args), **inputs))

    call("linear", "linear", x=eighths(5, 7), w=eighths(3, 7), b=eighths(3))
    call("linear_no_bias", "linear", x=eighths(2, 3), w=eighths(11, 3))
    call("linear_leading", "linear", x=eighths(2, 3, 5), w=eighths(4, 5), b=eighths(4))
    call("linear_vector", "linear", x=eighths(5), w=eighths(4, 5), b=eighths(4))
    for op in ("relu", "sigmoid", "tanh"):
        call(op, op, x=torch.cat([eighths(2, 9, top=80), torch.zeros(2, 1)], 1))
    for op in ("softmax", "log_softmax"):
        call(f"{op}_channels", op, {"dim": 1}, x=eighths(2, 3, 5, top=40))
        call(f"{op}_last", op, {"dim": -1}, x=eighths(2, 3, 5, top=40))


def losses():
    def loss(name, op, x, target, weight=None, **args):
        leaf = x.clone().requires_grad_()
        extra = {} if weight is None else {"weight": weight}
        y = getattr(F, op)(leaf, target, **extra, **args)
        gy = eighths(*y.shape) if y.ndim else torch.tensor(1.0)
        y.backward(gy)
        record(name, op, args, x=x, target=target, weight=weight, y=y.detach(), gy=gy, gx=leaf.grad)

    def classes(high, *shape):
        return torch.randint(0, high, shape, generator=generator)

    for reduction in ("mean", "sum", "none"):
        loss(f"cross_entropy_{reduction}", "cross_entropy", eighths(5, 7), classes(7, 5), reduction=reduction)
        loss(f"mse_{reduction}", "mse_loss", eighths(3, 4), eighths(3, 4), reduction=reduction)
    loss("cross_entropy_wide", "cross_entropy", eighths(3, 4, top=6000), classes(4, 3))
    loss("cross_entropy_pixels", "cross_entropy", eighths(2, 3, 4, 5), classes(3, 2, 4, 5))
    loss("cross_entropy_weight", "cross_entropy", eighths(5, 4), classes(4, 5), eighths(4).abs() + 0.125)
    target = classes(4, 6)
    target[2] = target[4] = 3
    loss("cross_entropy_ignore", "cross_entropy", eighths(6, 4), target, ignore_index=3)
    loss("cross_entropy_smoothing", "cross_entropy", eighths(5, 4), classes(4, 5), label_smoothing=0.25)
    shares = (eighths(3, 4).abs() + 0.125).softmax(1)
    loss("cross_entropy_probabilities", "cross_entropy", eighths(3, 4), shares)


def network():
    layers = [
        nn.Conv2d(1, 3, (5, 3), padding=2),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 3, stride=(1, 2)),
        nn.Sigmoid(),
        nn.AvgPool2d(2, stride=(2, 1)),
        nn.Flatten(),
        nn.Linear(8, 7),
        nn.ReLU(),
        nn.Linear(7, 5),
    ]
    net = nn.Sequential(*layers).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(eighths(*parameter.shape, top=5))
    state = {key: value.tolist() for key, value in net.state_dict().items()}
    x, target = eighths(3, 1, 12, 11), torch.tensor([4, 0, 2])
    logits = net(x)
    loss = nn.CrossEntropyLoss()(logits, target)
    loss.backward()
    record("network", "network", {}, x=x, target=target, y=logits.detach(), loss=loss.detach())
    cases["network"]["state"] = state
    cases["network"]["gradients"] = {key: value.grad.tolist() for key, value in net.named_parameters()}


def optimisers():
    """5 steps on Σ scale·(p − goal)² / 2 over two parameters."""
    shapes = [(2, 3), (4,)]
    start, goal, scale = ([eighths(*shape) for shape in shapes] for _ in range(3))
    scale = [value.abs() + 0.25 for value in scale]
    lists = {"start": start, "goal": goal, "scale": scale}
    cases["quadratic"] = {"op": "quadratic", "args": {}} | {k: [p.tolist() for p in v] for k, v in lists.items()}

    def trajectory(name, op, **args):
        parameters = [nn.Parameter(value.clone()) for value in start]
        optimiser = getattr(torch.optim, op)(parameters, **args)
        steps = []
        for _ in range(5):
            optimiser.zero_grad()
            sum((s * (p - g) ** 2).sum() / 2 for s, p, g in zip(scale, parameters, goal, strict=True)).backward()
            optimiser.step()
            steps.append([p.tolist() for p in parameters])
        cases[name] = {"op": op, "args": args, "steps": steps}

    trajectory("sgd", "SGD", lr=0.25)
    trajectory("sgd_momentum", "SGD", lr=0.125, momentum=0.9)
    trajectory("sgd_dampening", "SGD", lr=0.125, momentum=0.9, dampening=0.5)
    trajectory("sgd_nesterov", "SGD", lr=0.125, momentum=0.75, nesterov=True)
    trajectory("sgd_decay", "SGD", lr=0.25, weight_decay=0.125)
    trajectory("sgd_all", "SGD", lr=0.0625, momentum=0.5, weight_decay=0.25, nesterov=True)
    trajectory("adam", "Adam", lr=0.125)
    trajectory("adam_betas", "Adam", lr=0.25, betas=[0.5, 0.75], eps=1e-3)
    trajectory("adam_decay", "Adam", lr=0.125, weight_decay=0.25)


def batch_norms():
    def batch_norm(name, x_shape, affine=True, running=True, **args):
        c = x_shape[1]
        inputs = {"x": eighths(*x_shape)} | ({"w": eighths(c), "b": eighths(c)} if affine else {})
        before = {"mean": eighths(c), "var": eighths(c).abs() + 0.125} if running else {}
        after = {key: value.clone() for key, value in before.items()}

        def call(x, w=None, b=None):
            return F.batch_norm(x, after.get("mean"), after.get("var"), w, b, **args)

        arrays = differentiate(call, **inputs)
        record(name, "batch_norm", args, **arrays, **before, **{f"new_{key}": value for key, value in after.items()})

    batch_norm("batch_norm_train", (3, 4, 5, 2), training=True)
    batch_norm("batch_norm_eval", (3, 4, 5, 2), training=False, eps=0.125)
    batch_norm("batch_norm_momentum", (2, 3, 4), training=True, momentum=0.75, eps=1e-3)
    batch_norm("batch_norm_plain", (6, 5), affine=False, running=False, training=True)
    batch_norm("batch_norm_plain_eval", (2, 3, 1, 1), affine=False, training=False)


def adaptive_pools():
    def pool(name, x, size):
        leaf = {"x": x}
        args = {"output_size": size}
        record(
            f"adaptive_avg_{name}",
            "adaptive_avg_pool2d",
            args,
            **differentiate(lambda x: F.adaptive_avg_pool2d(x, size), **leaf),
        )
        arrays = differentiate(lambda x: F.adaptive_max_pool2d(x, size), **leaf)
        indices = F.adaptive_max_pool2d(x, size, return_indices=True)[1]
        record(f"adaptive_max_{name}", "adaptive_max_pool2d", args, **arrays, indices=indices)

    pool("global", distinct(2, 3, 4, 5), 1)
    pool("regular", distinct(1, 2, 6, 7), [3, 3])
    pool("irregular", distinct(2, 2, 7, 5), [5, 4])
    pool("larger", distinct(1, 2, 2, 3), [7, 5])
    pool("one_axis", distinct(1, 2, 5, 8), [None, 3])
    pool("unbatched", distinct(2, 5, 4), 3)
    wild = eighths(1, 2, 5, 7, top=1)
    wild[torch.rand(wild.shape, generator=generator) < 0.15] = NAN
    pool("ties_nan", wild, [3, 4])


def main():
    if torch.__version__.split("+")[0] != VERSION:
        raise SystemExit(f"needs torch {VERSION}, got {torch.__version__}")
    generator.manual_seed(20240229)
    torch.set_num_threads(1)
    for make in (convolutions, pools, dense, losses, network, optimisers, batch_norms, adaptive_pools):
        make()
    path = Path(__file__).with_name("torch.json")
    lines = ",\n".join(f"{json.dumps(name)}:{json.dumps(case, separators=(',', ':'))}" for name, case in cases.items())
    path.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    print(f"{len(cases)} cases, {path.stat().st_size} bytes in {path.name}")


if __name__ == "__main__":
    main()
