"""SGD and Adam against torch 2.13's numbers, and what an optimiser refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import Tensor, nn, ones, optim, tensor

# After four steps from (1, −2, 3), in float64, with the gradient ½p² + t·(0.1, −0.2, 0.3) at step t.
TORCH = [
    ("SGD", {"lr": 0.1}, [0.73486682129, -2.85834504621, 1.53680817875]),
    ("SGD", {"lr": 0.1, "weight_decay": 0.01}, [0.73171050078, -2.8455716628, 1.53018112707]),
    ("SGD", {"lr": 0.1, "momentum": 0.9}, [0.43733542812, -4.06180806947, -0.270542499095]),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}, [0.609752237441, -3.26800654862, 0.484579138308]),
    (
        "SGD",
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        [0.216774961133, -5.25678314818, -0.737005080863],
    ),
    (
        "SGD",
        {"lr": 0.01, "momentum": 0.5, "maximize": True, "weight_decay": 0.1},
        [1.03886577871, -1.8967882663, 3.31258306285],
    ),
    ("Adam", {}, [0.995989522041, -2.00395405708, 2.99599062421]),
    ("Adam", {"lr": 0.1}, [0.599594293082, -2.40014921072, 2.59994252917]),
    ("Adam", {"lr": 0.1, "betas": (0.5, 0.75), "eps": 1e-3}, [0.599077102154, -2.40032613181, 2.5998744532]),
    ("Adam", {"lr": 0.1, "weight_decay": 0.1}, [0.599928053096, -2.4000330997, 2.59998927166]),
    ("Adam", {"lr": 0.1, "maximize": True}, [1.39898484747, -1.61515349446, 3.40116569725]),
]


@pytest.mark.parametrize(("name", "options", "expected"), TORCH)
def test_four_steps_as_torch(name: str, options: dict[str, Any], expected: list[float]) -> None:
    p = tensor(np.array([1.0, -2.0, 3.0]), requires_grad=True)
    optimiser = getattr(optim, name)([p], **options)
    for t in range(1, 5):
        gradient = 0.5 * p.detach().numpy() ** 2 + t * np.array([0.1, -0.2, 0.3])
        p.grad = Tensor(gradient.copy())
        optimiser.step()
        np.testing.assert_array_equal(p.grad.numpy(), gradient)
    np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-11)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_step_keeps_memory_and_dtype_and_bumps_the_version(name: str) -> None:
    p, unused = ones(2, requires_grad=True), ones(2, requires_grad=True)
    optimiser = getattr(optim, name)([p, unused], lr=np.float64(0.1), weight_decay=np.float64(0.1))
    memory, before, untouched = p.detach().numpy(), p._version, unused._version
    (p * 2).sum().backward()
    optimiser.step()
    assert p.detach().numpy() is memory
    assert p.dtype == np.float32
    assert p._version != before
    assert unused._version == untouched
    assert unused.tolist() == [1, 1]
    optimiser.zero_grad()
    assert p.grad is None


def test_step_between_forward_and_backward_is_caught() -> None:
    p = ones(2, requires_grad=True)
    y = (p * p).sum()
    p.grad = ones(2)
    optim.SGD([p], lr=0.1).step()
    with pytest.raises(RuntimeError, match="in-place"):
        y.backward()


def test_groups_have_options_of_their_own() -> None:
    a, b = ones(1, requires_grad=True), ones(1, requires_grad=True)
    optimiser = optim.SGD([{"params": [a]}, {"params": b, "lr": 0.5}], lr=0.25)
    for p in (a, b):
        p.grad = ones(1)
    optimiser.step()
    assert (a.item(), b.item()) == (0.75, 0.5)
    optimiser.param_groups[0]["lr"] = 1.0
    optimiser.step()
    assert a.item() == -0.25
    optimiser.zero_grad(set_to_none=False)
    assert a.grad is not None
    assert a.grad.item() == 0


def test_trains_a_line() -> None:
    x = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
    for make in (lambda p: optim.SGD(p, lr=0.2, momentum=0.5), lambda p: optim.Adam(p, lr=0.1)):
        layer = nn.Linear(1, 1)
        optimiser = make(layer.parameters())
        for _ in range(200):
            optimiser.zero_grad()
            nn.functional.mse_loss(layer(tensor(x)), 3 * x - 1).backward()
            optimiser.step()
        np.testing.assert_allclose([layer.weight.item(), layer.bias.item()], [3, -1], atol=1e-3)


P = ones(2, requires_grad=True)
WRONG = [
    (optim.SGD, ([],), {}, ValueError, "params=[]"),
    (optim.SGD, (P,), {}, TypeError, "params="),
    (optim.SGD, ([1],), {}, TypeError, "params: needs Tensors, got int"),
    (optim.SGD, ([P * 2],), {}, ValueError, "params: needs leaf"),
    (optim.SGD, ([P, P],), {}, ValueError, "params: needs every Tensor once"),
    (optim.SGD, ([{"lr": 1}],), {}, TypeError, "params="),
    (optim.SGD, ([P],), {"lr": -0.1}, ValueError, "lr=-0.1"),
    (optim.SGD, ([P],), {"lr": "0.1"}, TypeError, "lr='0.1'"),
    (optim.SGD, ([P],), {"lr": float("nan")}, ValueError, "lr=nan"),
    (optim.SGD, ([P],), {"momentum": -1}, ValueError, "momentum=-1"),
    (optim.SGD, ([P],), {"weight_decay": -2}, ValueError, "weight_decay=-2"),
    (optim.SGD, ([P],), {"dampening": "x"}, TypeError, "dampening='x'"),
    (optim.SGD, ([P],), {"nesterov": True}, ValueError, "nesterov=True"),
    (optim.SGD, ([P],), {"nesterov": 1}, TypeError, "nesterov=1"),
    (optim.SGD, ([P],), {"momentum": 0.9, "dampening": 0.1, "nesterov": True}, ValueError, "nesterov=True"),
    (optim.Adam, ([P],), {"betas": (1.0, 0.9)}, ValueError, "betas[0]=1.0"),
    (optim.Adam, ([P],), {"betas": (0.9, -0.1)}, ValueError, "betas[1]=-0.1"),
    (optim.Adam, ([P],), {"betas": 0.9}, TypeError, "betas=0.9"),
    (optim.Adam, ([P],), {"eps": -1e-8}, ValueError, "eps=-1e-08"),
]


@pytest.mark.parametrize(("kind", "args", "options", "error", "text"), WRONG)
def test_wrong_arguments(kind: Any, args: Any, options: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        kind(*args, **options)
    assert text in str(caught.value)
