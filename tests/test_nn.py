"""Modules and layers: registration, state, repr, initialisation, both kinds of input, gradients, stale weights."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastconv import Tensor, manual_seed, nn, no_grad, ones, optim, tensor
from fastconv.nn import functional as F
from fastconv.problem import ConvProblem, LinearProblem, PoolProblem


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(8, 3, bias=False))
        self.scale = nn.Parameter(np.ones(1, np.float32))
        self.register_buffer("mean", np.zeros(2, np.float32))
        self.register_buffer("scratch", np.zeros(2, np.float32), persistent=False)

    def forward(self, x: Any) -> Any:
        return self.head(self.conv(x)) * self.scale


# From torch 2.13.
REPRS = [
    (lambda: nn.Conv2d(3, 6, 5), "Conv2d(3, 6, kernel_size=(5, 5), stride=(1, 1))"),
    (
        lambda: nn.Conv2d(4, 8, (3, 5), (2, 1), (4, 2), (3, 1), 2, False, "reflect"),
        "Conv2d(4, 8, kernel_size=(3, 5), stride=(2, 1), padding=(4, 2), dilation=(3, 1), groups=2, bias=False, "
        "padding_mode=reflect)",
    ),
    (lambda: nn.Conv2d(1, 1, 3, padding="same"), "Conv2d(1, 1, kernel_size=(3, 3), stride=(1, 1), padding=same)"),
    (lambda: nn.MaxPool2d(2), "MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)"),
    (
        lambda: nn.MaxPool2d((3, 2), (2, 1), 1, 2, True, True),
        "MaxPool2d(kernel_size=(3, 2), stride=(2, 1), padding=1, dilation=2, ceil_mode=True)",
    ),
    (lambda: nn.AvgPool2d(2), "AvgPool2d(kernel_size=2, stride=2, padding=0)"),
    (
        lambda: nn.AvgPool2d((3, 2), 2, (1, 0), True, False, 3),
        "AvgPool2d(kernel_size=(3, 2), stride=2, padding=(1, 0))",
    ),
    (lambda: nn.Linear(3, 4), "Linear(in_features=3, out_features=4, bias=True)"),
    (lambda: nn.Linear(3, 4, bias=False), "Linear(in_features=3, out_features=4, bias=False)"),
    (lambda: nn.Flatten(0, 2), "Flatten(start_dim=0, end_dim=2)"),
    (lambda: nn.Dropout(0.2, True), "Dropout(p=0.2, inplace=True)"),
    (lambda: nn.ReLU(), "ReLU()"),
    (lambda: nn.ReLU(inplace=True), "ReLU(inplace=True)"),
    (lambda: nn.Sigmoid(), "Sigmoid()"),
    (lambda: nn.Tanh(), "Tanh()"),
    (lambda: nn.Softmax(dim=1), "Softmax(dim=1)"),
    (lambda: nn.CrossEntropyLoss(), "CrossEntropyLoss()"),
    (lambda: nn.MSELoss(), "MSELoss()"),
    (lambda: nn.Identity(3, a=4), "Identity()"),
    (lambda: nn.Sequential(), "Sequential()"),
    (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(2, 3)))),
        "Sequential(\n  (0): Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1))\n  (1): Sequential(\n    (0): ReLU()\n"
        "    (1): Sequential(\n      (0): Linear(in_features=2, out_features=3, bias=True)\n    )\n  )\n)",
    ),
    (lambda: nn.Parameter([1.0, 2.0]), "Parameter containing:\ntensor([1., 2.], requires_grad=True)"),
]


@pytest.mark.parametrize(("make", "text"), REPRS)
def test_repr_as_torch(make: Callable[[], Any], text: str) -> None:
    assert repr(make()) == text


def test_registration_and_names() -> None:
    net = Net()
    names = ["scale", "conv.weight", "conv.bias", "head.1.weight"]
    assert [name for name, _ in net.named_parameters()] == names
    assert list(net.state_dict()) == ["scale", "mean", "conv.weight", "conv.bias", "head.1.weight"]
    assert [name for name, _ in net.named_modules()] == ["", "conv", "head", "head.0", "head.1"]
    assert [name for name, _ in net.named_children()] == ["conv", "head"]
    assert [name for name, _ in net.named_buffers()] == ["mean", "scratch"]
    assert len(list(net.modules())) == 5
    assert len(list(net.children())) == 2
    assert len(list(net.parameters())) == 4
    assert len(list(net.buffers())) == 2
    net.twin = net.conv
    assert len(list(net.parameters())) == 4
    assert "twin.weight" in net.state_dict()
    del net.twin
    assert not hasattr(net, "twin")
    net.conv.bias = None
    assert "conv.bias" not in net.state_dict()
    net.scale = nn.Identity()
    assert "scale" not in net.state_dict()
    net.register_parameter("gain", nn.Parameter([1.0]))
    net.mean = ones(2)
    assert net.state_dict()["mean"].tolist() == [1, 1]
    seen: list[str] = []
    net.apply(lambda module: seen.append(type(module).__name__))
    assert seen == ["Conv2d", "Flatten", "Linear", "Sequential", "Identity", "Net"]


def test_registration_errors() -> None:
    net = Net()
    with pytest.raises(TypeError, match=r"scale: cannot assign Tensor, needs nn\.Parameter"):
        net.scale = ones(1)
    with pytest.raises(TypeError, match="conv: cannot assign int"):
        net.conv = 3
    with pytest.raises(TypeError, match="mean: cannot assign ndarray"):
        net.mean = np.ones(2)
    with pytest.raises(TypeError, match="param=Tensor"):
        net.register_parameter("p", ones(1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"name='a\.b'"):
        net.add_module("a.b", nn.ReLU())
    with pytest.raises(AttributeError, match="'Net' object has no attribute 'nothing'"):
        _ = net.nothing
    with pytest.raises(NotImplementedError, match="Module has no forward"):
        nn.Module()(1)

    class Early(nn.Module):
        def __init__(self) -> None:
            self.weight = nn.Parameter([1.0])

    with pytest.raises(AttributeError, match="super"):
        Early()
    with pytest.raises(TypeError, match="int64"):
        nn.Parameter([1, 2])
    assert not nn.Parameter(np.array([1, 2]), requires_grad=False).requires_grad


def test_train_eval_requires_grad_and_zero_grad() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout()))
    assert net.eval() is net
    assert [module.training for module in net.modules()] == [False] * 4
    assert all(module.training for module in net.train().modules())
    with pytest.raises(TypeError, match="mode=1"):
        net.train(1)  # type: ignore[arg-type]
    net(ones(1, 2)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.zero_grad(set_to_none=False)
    assert all(p.grad.sum().item() == 0 for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())
    net.requires_grad_(False)
    assert not net(ones(1, 2)).requires_grad


def test_state_dict_is_a_copy_and_loads_in_place() -> None:
    net, other = Net(), Net()
    state = net.state_dict()
    state["conv.weight"] += 1
    assert not np.array_equal(net.conv.weight.detach().numpy(), state["conv.weight"])
    weight, memory, version = other.conv.weight, other.conv.weight.detach().numpy(), other.conv.weight._version
    assert repr(other.load_state_dict(state)) == "<All keys matched successfully>"
    assert other.conv.weight is weight
    assert other.conv.weight.detach().numpy() is memory
    assert other.conv.weight._version != version
    assert weight.requires_grad
    for name, array in other.state_dict().items():
        np.testing.assert_array_equal(array, state[name])
    other.load_state_dict({**state, "scale": tensor(np.array([3.0]))})
    assert other.scale.dtype == np.float32
    assert other.scale.item() == 3


def test_load_state_dict_raises_everything_at_once_and_changes_nothing() -> None:
    net = Net()
    before = net.state_dict()
    wrong = {"scale": np.full(1, 9, np.float32), "mean": np.ones(3), "conv.weight": np.ones((2, 1, 3, 3)), "extra": 1}
    with pytest.raises(ValueError, match="Error") as caught:
        net.load_state_dict(wrong)
    for text in ("Net", "conv.bias", "head.1.weight", "extra", "mean: (3,) in state_dict, needs (2,)"):
        assert text in str(caught.value)
    with pytest.raises(ValueError, match="mean"):
        net.load_state_dict(wrong, strict=False)
    with pytest.raises(TypeError, match=r"state_dict\['scale'\]: needs an array or a Tensor, got list"):
        net.load_state_dict({"mean": np.ones(2), "scale": [1.0]}, strict=False)
    with pytest.raises(TypeError, match=r"state_dict\['mean'\]: dtype complex128"):
        net.load_state_dict({"scale": np.ones(1), "mean": np.ones(2, complex)}, strict=False)
    with pytest.raises(TypeError, match="state_dict=3"):
        net.load_state_dict(3)  # type: ignore[arg-type]
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    result = net.load_state_dict({"scale": np.full(1, 9), "extra": 1}, strict=False)
    assert result.unexpected_keys == ["extra"]
    assert "mean" in result.missing_keys
    assert net.scale.item() == 9


def test_sequential() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    assert (len(net), type(net[0]), type(net[-1])) == (2, nn.Linear, nn.ReLU)
    assert [type(layer) for layer in net] == [nn.Linear, nn.ReLU]
    assert list(net[1:].state_dict()) == []
    assert list(net[:1].state_dict()) == ["0.weight", "0.bias"]
    net.append(nn.Linear(3, 1))
    assert list(net.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    net[1] = nn.Tanh()
    assert type(net[1]) is nn.Tanh
    named = nn.Sequential(OrderedDict(first=nn.Linear(2, 3), second=nn.Tanh()))
    assert list(named.state_dict()) == ["first.weight", "first.bias"]
    assert named.first is named[0]
    with pytest.raises(IndexError, match="index=3"):
        net[3]
    with pytest.raises(TypeError, match="got int"):
        nn.Sequential(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="module=3"):
        net.append(3)  # type: ignore[arg-type]


def test_a_copied_module_is_independent() -> None:
    net = Net()
    twin = copy.deepcopy(net)
    twin.conv.weight.data += 1
    assert not np.array_equal(net.conv.weight.detach().numpy(), twin.conv.weight.detach().numpy())
    assert isinstance(twin.conv.weight, nn.Parameter)


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [
        (lambda: nn.Conv2d(8, 64, (5, 3), groups=2), 4 * 15),
        (lambda: nn.Linear(50, 200), 50),
        (lambda: nn.Linear(50, 200, dtype="float64"), 50),
    ],
)
def test_default_initialisation(layer: Callable[[], Any], fan_in: int) -> None:
    manual_seed(0)
    made = layer()
    bound = 1 / np.sqrt(fan_in)
    for parameter in (made.weight, made.bias):
        values = parameter.detach().numpy()
        assert np.abs(values).max() <= bound * (1 + 1e-6)
        assert np.abs(values).max() > 0.9 * bound
        assert abs(values.mean()) < 0.2 * bound
        assert not np.allclose(values.std(), 0)
    manual_seed(0)
    np.testing.assert_array_equal(layer().weight.detach().numpy(), made.weight.detach().numpy())


def test_init_functions() -> None:
    w = nn.Parameter(np.empty((64, 16, 3, 5), np.float32))
    fan_in, fan_out = 16 * 15, 64 * 15
    cases = [
        (lambda: nn.init.normal_(w, 1.0, 2.0), 1.0, 2.0),
        (lambda: nn.init.uniform_(w, -1.0, 3.0), 1.0, 4 / np.sqrt(12)),
        (lambda: nn.init.kaiming_normal_(w, nonlinearity="relu"), 0, np.sqrt(2 / fan_in)),
        (lambda: nn.init.kaiming_uniform_(w, mode="fan_out", nonlinearity="relu"), 0, np.sqrt(2 / fan_out)),
        (lambda: nn.init.xavier_normal_(w), 0, np.sqrt(2 / (fan_in + fan_out))),
        (lambda: nn.init.xavier_uniform_(w, 2.0), 0, 2 * np.sqrt(2 / (fan_in + fan_out))),
    ]
    for call, mean, deviation in cases:
        version = w._version
        assert call() is w
        assert w._version != version
        assert w.is_leaf
        assert abs(w.detach().numpy().mean() - mean) < 0.05 * deviation
        assert abs(w.detach().numpy().std() / deviation - 1) < 0.02
    assert nn.init.constant_(w, 3).max().item() == 3
    assert nn.init.zeros_(w).max().item() == 0
    assert nn.init.ones_(w).min().item() == 1
    with pytest.raises(ValueError, match=r"tensor=\(3,\)"):
        nn.init.xavier_uniform_(ones(3))
    with pytest.raises(ValueError, match="mode='x'"):
        nn.init.kaiming_uniform_(w, mode="x")
    with pytest.raises(ValueError, match="nonlinearity='x'"):
        nn.init.calculate_gain("x")


def image(*shape: int, dtype: str = "float32", seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


LAYERS = {
    "Conv2d": (lambda: nn.Conv2d(2, 3, (3, 2)), (2, 5, 6)),
    "Conv2d reflect": (lambda: nn.Conv2d(2, 4, 3, 2, (2, 1), groups=2, padding_mode="reflect"), (2, 5, 6)),
    "Conv2d same": (lambda: nn.Conv2d(2, 3, 3, stride=2, padding="same", padding_mode="circular"), (2, 5, 6)),
    "MaxPool2d": (lambda: nn.MaxPool2d(2, ceil_mode=True), (2, 5, 6)),
    "AvgPool2d": (lambda: nn.AvgPool2d(3, 2, "same"), (2, 5, 6)),
    "Linear": (lambda: nn.Linear(6, 4), (3, 6)),
    "Flatten": (lambda: nn.Flatten(-2), (3, 6)),
    "ReLU": (nn.ReLU, (3, 6)),
    "Sigmoid": (nn.Sigmoid, (3, 6)),
    "Tanh": (nn.Tanh, (3, 6)),
    "Softmax": (lambda: nn.Softmax(-1), (3, 6)),
    "Dropout": (lambda: nn.Dropout(0.5).eval(), (3, 6)),
    "Identity": (nn.Identity, (3, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_array_in_array_out_tensor_in_tensor_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, shape = LAYERS[name]
    layer = make()
    x = image(2, *shape)
    y_tensor = layer(tensor(x, requires_grad=True))
    assert isinstance(y_tensor, Tensor)
    assert y_tensor.requires_grad
    with no_grad():
        assert name in ("Identity", "Dropout") or not layer(tensor(x, requires_grad=True)).requires_grad
    assert layer(tensor(x)).requires_grad == bool(list(layer.parameters()))
    one = layer(tensor(x[0]))
    expected = y_tensor.detach().numpy()
    np.testing.assert_allclose(one.detach().numpy(), expected[0], rtol=1e-5, atol=1e-6)

    def no_tensor(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a Tensor was made for an array")

    monkeypatch.setattr(Tensor, "__init__", no_tensor)
    y = layer(x)
    assert isinstance(y, np.ndarray)
    np.testing.assert_array_equal(y, expected)
    x.flags.writeable = False
    np.testing.assert_array_equal(layer(x), y)
    np.testing.assert_array_equal(layer(np.asfortranarray(x)), y)


def check_layer_gradients(layer: Any, x: Any, *rest: Any) -> None:
    """Directional derivatives of Σ weights·layer(x) by central differences, in x and in every parameter."""
    x = tensor(x, requires_grad=True)
    rng = np.random.default_rng(7)
    y = layer(x, *rest)
    weights = rng.standard_normal(y.shape)
    y.backward(weights)
    for p in (x, *(q for q in layer.parameters())):
        direction = rng.standard_normal(p.shape)
        values = p.detach().numpy().copy()
        ends = []
        for step in (1e-5, -1e-5):
            with no_grad():
                p.copy_(values + step * direction)
            ends.append((weights * layer(x.detach().numpy(), *rest)).sum())
        with no_grad():
            p.copy_(values)
        assert p.grad is not None
        np.testing.assert_allclose((p.grad.numpy() * direction).sum(), (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Conv2d(2, 4, (3, 2), (2, 1), (1, 0), (1, 2), 2, dtype="float64"), (3, 2, 7, 6)),
        (lambda: nn.Conv2d(2, 3, 3, padding="same", dtype="float64"), (2, 5, 4)),
        (lambda: nn.Conv2d(2, 3, (3, 2), 2, "same", bias=False, dtype="float64"), (2, 2, 5, 7)),
        *(
            (lambda mode=mode: nn.Conv2d(1, 2, 3, 2, (2, 3), padding_mode=mode, dtype="float64"), (2, 1, 5, 7))
            for mode in ("reflect", "replicate", "circular")
        ),
        (lambda: nn.MaxPool2d((3, 2), 2, (1, 0), ceil_mode=True), (2, 3, 7, 8)),
        (lambda: nn.MaxPool2d(2, dilation=2, padding="same"), (3, 7, 8)),
        (lambda: nn.AvgPool2d((3, 2), 2, (1, 0), True, False), (2, 3, 7, 8)),
        (lambda: nn.AvgPool2d(2, divisor_override=3, padding="same"), (3, 7, 9)),
        (lambda: nn.Linear(4, 3, dtype="float64"), (2, 5, 4)),
        (lambda: nn.Linear(4, 3, bias=False, dtype="float64"), (4,)),
        (lambda: nn.Sequential(nn.Softmax(1), nn.Sigmoid(), nn.Tanh(), nn.ReLU(), nn.Flatten(0)), (2, 3)),
    ],
)
def test_gradients_by_finite_differences(make: Callable[[], Any], shape: Any) -> None:
    check_layer_gradients(make(), image(*shape, dtype="float64"))


@pytest.mark.parametrize(
    ("loss", "shape", "target"),
    [
        (nn.CrossEntropyLoss(), (3, 4), np.array([0, 3, 1])),
        (nn.CrossEntropyLoss(np.array([1.0, 2, 3, 4]), label_smoothing=0.2), (3, 4), np.array([0, 3, 1])),
        (nn.CrossEntropyLoss(ignore_index=3, reduction="none"), (2, 4, 2), np.array([[0, 3], [1, 2]], np.uint8)),
        (nn.CrossEntropyLoss(reduction="sum"), (4,), np.array(2)),
        (nn.CrossEntropyLoss(label_smoothing=0.1), (2, 3), np.array([[0.2, 0.8, 0], [1, 0, 0]])),
        (nn.MSELoss(), (2, 3), np.arange(6.0).reshape(2, 3)),
        (nn.MSELoss("sum"), (2, 3), np.arange(6.0).reshape(2, 3)),
        (nn.MSELoss("none"), (2, 3), np.arange(6.0).reshape(2, 3)),
    ],
)
def test_loss_gradients_by_finite_differences(loss: Any, shape: Any, target: Any) -> None:
    check_layer_gradients(loss, image(*shape, dtype="float64"), target)


def test_losses_as_torch() -> None:
    # From torch 2.13.
    x = tensor([[1.0, 2.0, 3.0], [1.0, 0.0, -1.0]], requires_grad=True)
    y = nn.CrossEntropyLoss()(x, tensor([2, 0]))
    y.backward()
    assert y.item() == pytest.approx(0.40760594606399536, rel=1e-6)
    np.testing.assert_allclose(x.grad.numpy(), [[0.0450, 0.1224, -0.1674], [-0.1674, 0.1224, 0.0450]], atol=5e-5)
    weighted = nn.CrossEntropyLoss(tensor([1.0, 2.0, 4.0]), label_smoothing=0.1, reduction="none")
    np.testing.assert_allclose(weighted(x, tensor([2, 0])).detach().numpy(), [1.6958, 0.7953], atol=5e-5)
    halves = tensor([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]], requires_grad=True)
    assert nn.CrossEntropyLoss()(x, halves).item() == pytest.approx(0.6576, abs=5e-5)
    nn.CrossEntropyLoss()(x, halves).backward()
    assert halves.grad is not None
    masked = np.array([[0.0, -np.inf, 0.0]], np.float32)
    assert F.cross_entropy(masked, np.array([0])) == pytest.approx(np.log(2), rel=1e-6)
    ignored = tensor([[1.0, 2.0]], requires_grad=True)
    y = F.cross_entropy(ignored, tensor([-100]))
    y.backward()
    assert np.isnan(y.item())
    assert ignored.grad.tolist() == [[0, 0]]
    assert F.mse_loss(np.ones((2, 2), np.float32), np.zeros((2, 2), np.float32), "sum") == 4


def test_gradients_only_where_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    ops: list[str] = []
    real = F.functional.run
    monkeypatch.setattr(F.functional, "run", lambda op, *a, **k: (ops.append(op), real(op, *a, **k))[1])

    def called() -> list[str]:
        return sorted(op for op in ops if "grad" in op)

    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    net(tensor(image(1, 1, 4, 4))).sum().backward()
    assert called() == ["conv2d_grad_weight", "linear_grad_input", "linear_grad_weight"]
    ops.clear()
    net.requires_grad_(False)
    net(tensor(image(1, 1, 4, 4), requires_grad=True)).sum().backward()
    assert called() == ["conv2d_grad_input", "linear_grad_input"]


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("make", [lambda: nn.Conv2d(1, 1, 2), lambda: nn.Linear(3, 2)])
def test_no_stale_weights(make: Callable[[], Any], mode: str) -> None:
    layer = make()
    layer.train(mode == "train")
    x = image(1, 1, 3, 3)

    def forward_uses(weight: Any, bias: Any) -> None:
        fresh = make()
        fresh.load_state_dict({"weight": weight, "bias": bias})
        np.testing.assert_array_equal(layer(x), fresh(x))
        np.testing.assert_array_equal(layer(tensor(x)).detach().numpy(), fresh(x))

    layer(x)
    bias = layer.bias.detach().numpy().copy()
    new = np.arange(layer.weight.numel(), dtype=np.float32).reshape(layer.weight.shape)
    layer.weight = nn.Parameter(new.copy())
    forward_uses(new, bias)
    with no_grad():
        layer.weight *= 2
    forward_uses(new * 2, bias)
    layer.weight.data[:] -= 1
    forward_uses(new * 2 - 1, bias)
    layer.weight.data = new + 5
    forward_uses(new + 5, bias)
    layer.weight.detach()[0] = 3
    expected = new + 5
    expected[0] = 3
    forward_uses(expected, bias)
    layer.load_state_dict({"weight": new, "bias": bias})
    forward_uses(new, bias)
    nn.init.ones_(layer.weight)
    forward_uses(np.ones_like(new), bias)
    for optimiser in (optim.SGD(layer.parameters(), lr=0.5), optim.Adam(layer.parameters(), lr=0.5)):
        layer.zero_grad()
        layer(tensor(x)).sum().backward()
        before = layer.weight.detach().numpy().copy()
        optimiser.step()
        assert not np.array_equal(layer.weight.detach().numpy(), before)
        forward_uses(layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy())


# torch 2.13: Conv2d(1, 1, (3, 4), padding=…, padding_mode=…, bias=False), weight arange(12), input arange(20)² as 4×5:
# the sum, the first and the last output.
PADDED = [
    ("reflect", "same", (1, 1, 4, 5), 190116, 1694, 14424),
    ("reflect", (2, 1), (1, 1, 6, 4), 186420, 1664, 8280),
    ("circular", "same", (1, 1, 4, 5), 163020, 3474, 7229),
    ("circular", (2, 1), (1, 1, 6, 4), 177216, 7084, 3931),
    ("replicate", "same", (1, 1, 4, 5), 223548, 1372, 22392),
    ("replicate", (2, 1), (1, 1, 6, 4), 250920, 102, 22407),
]


@pytest.mark.parametrize(("mode", "padding", "shape", "total", "first", "last"), PADDED)
def test_padding_modes_as_torch(mode: str, padding: Any, shape: Any, total: int, first: int, last: int) -> None:
    layer = nn.Conv2d(1, 1, (3, 4), padding=padding, padding_mode=mode, bias=False, dtype="float64")
    layer.weight.data = np.arange(12.0).reshape(1, 1, 3, 4)
    y = layer(np.arange(20.0).reshape(1, 1, 4, 5) ** 2)
    assert (y.shape, y.sum(), y[0, 0, 0, 0], y[0, 0, -1, -1]) == (shape, total, first, last)


@pytest.mark.parametrize("pad", [(1, 2, 3, 0), (0, 0, 0, 0), (3, 4, 2, 3)])
@pytest.mark.parametrize(("mode", "numpy_mode"), [("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap")])
def test_pad_as_numpy_and_its_gradient(pad: Any, mode: str, numpy_mode: str) -> None:
    x = image(2, 3, 4, 5, dtype="float64")
    widths = [(0, 0), (0, 0), pad[2:], pad[:2]]
    np.testing.assert_array_equal(F.pad(x, pad, mode), np.pad(x, widths, numpy_mode))

    class Pad(nn.Module):
        def forward(self, x: Any) -> Any:
            return F.pad(x, pad, mode)

    check_layer_gradients(Pad(), x)


def test_pad_constant() -> None:
    x = tensor([[1.0, 2.0]], requires_grad=True)
    y = F.pad(x, (1, 0, 0, 1), value=5.0)
    assert y.tolist() == [[5, 1, 2], [5, 5, 5]]
    (y * y).sum().backward()
    assert x.grad.tolist() == [[2, 4]]
    assert F.pad(np.array([1, 2]), (1, 1)).tolist() == [0, 1, 2, 0]


def test_max_pool_indices() -> None:
    x = image(2, 3, 4, 6)
    y, indices = nn.MaxPool2d(2, return_indices=True)(x)
    assert indices.dtype == np.int64
    np.testing.assert_array_equal(
        np.take_along_axis(x.reshape(2, 3, -1), indices.reshape(2, 3, -1), 2), y.reshape(2, 3, -1)
    )
    y_tensor, i_tensor = F.max_pool2d(tensor(x[0], requires_grad=True), 2, return_indices=True)
    np.testing.assert_array_equal(i_tensor.numpy(), indices[0])
    assert y_tensor.requires_grad
    assert not i_tensor.requires_grad


def test_dropout() -> None:
    x = np.ones((100, 100), np.float32)
    layer = nn.Dropout(0.25)
    manual_seed(5)
    y = layer(x)
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs((y == 0).mean() - 0.25) < 0.02
    assert y.dtype == np.float32
    manual_seed(5)
    t = tensor(x, requires_grad=True)
    z = layer(t)
    np.testing.assert_array_equal(z.detach().numpy(), y)
    z.sum().backward()
    np.testing.assert_array_equal(t.grad.numpy(), y)
    assert layer.eval()(x) is x
    assert nn.Dropout(0)(x) is x
    assert not nn.Dropout(1)(x).any()
    nn.Dropout(1, inplace=True)(x)
    assert not x.any()


def test_in_place_activation() -> None:
    x = np.array([-1.0, 2.0])
    assert nn.ReLU(inplace=True)(x) is x
    assert x.tolist() == [0, 2]
    t = tensor([-1.0, 2.0], requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf"):
        F.relu(t, inplace=True)
    y = t * 3
    assert F.relu(y, inplace=True) is y
    y.sum().backward()
    assert t.grad.tolist() == [0, 3]


def test_one_hot_and_flatten() -> None:
    assert F.one_hot(tensor([0, 2])).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert F.one_hot(np.array([[1]], np.uint8), 2).tolist() == [[[0, 1]]]
    assert F.flatten(np.zeros((2, 3, 4)), 1).shape == (2, 12)
    assert nn.Flatten()(np.zeros((2, 3, 4), np.int64)).shape == (2, 12)
    assert F.flatten(tensor(1.0)).shape == (1,)


def test_problems() -> None:
    conv = nn.Conv2d(2, 4, 3, stride=2, padding="same", groups=2)
    expected = ConvProblem(1, 2, 5, 6, 4, 3, 3, (2, 2), (1, 1, 0, 1), (1, 1), 2, True)
    for x in (image(2, 5, 6), tensor(image(1, 2, 5, 6)), (1, 2, 5, 6)):
        assert conv.problem(x) == expected
    padded = nn.Conv2d(2, 4, 3, padding=(1, 2), padding_mode="circular", dtype="float64").problem((3, 2, 5, 6))
    assert (padded.h, padded.w, padded.padding, padded.dtype) == (7, 10, (0, 0, 0, 0), "float64")
    pool = nn.MaxPool2d(2).problem(image(1, 3, 4, 6, dtype="float64"))
    assert isinstance(pool, PoolProblem)
    assert (pool.oh, pool.ow, pool.dtype) == (2, 3, "float64")
    assert nn.AvgPool2d(2, divisor_override=3).problem((3, 4, 6)).divisor_override == 3
    assert nn.Linear(4, 3).problem(image(2, 5, 4)) == LinearProblem(10, 4, 3, True)


def test_empty_batches() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.AvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
    x = tensor(np.zeros((0, 1, 4, 4), np.float32), requires_grad=True)
    y = net(x)
    assert y.shape == (0, 3)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert net[0].weight.grad.numpy().sum() == 0


def test_named_algorithm_is_used_and_named_in_errors() -> None:
    x = image(1, 1, 4, 4)
    plain, named = nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3, algorithm="naive")
    named.load_state_dict(plain.state_dict())
    np.testing.assert_allclose(named(x), plain(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="algorithm='nothing'"):
        nn.Conv2d(1, 1, 3, algorithm="nothing")(x)


@pytest.mark.parametrize("layer", [nn.MaxPool2d, nn.AvgPool2d])
def test_a_pool_that_is_ready_sees_its_attributes_change(layer):
    x = np.random.default_rng(3).standard_normal((2, 3, 8, 8)).astype(np.float32)
    given = [2, 2]
    pool = layer(given, given)
    before = [pool(x) for _ in range(2)][-1]
    given[0] = 4
    np.testing.assert_array_equal(pool(x), before)
    pool.kernel_size, pool.stride = [4, 4], [4, 4]
    np.testing.assert_array_equal(pool(x), layer(4)(x))
    with pytest.raises(TypeError):
        pool.kernel_size[0] = 2
