"""Tensor and tape: every gradient by finite differences in float64, and torch's rules for using the tape."""

from __future__ import annotations

import copy
import operator
import threading
from typing import Any

import numpy as np
import pytest

import fastconv
from fastconv import Tensor, cat, no_grad, stack, tensor


def numeric_gradients(function: Any, arrays: list[Any], weights: Any) -> list[Any]:
    """d Σ weights·function(*arrays) / d arrays by central differences."""
    step = 1e-6
    gradients = []
    for a in arrays:
        gradient = np.zeros_like(a)
        for i in np.ndindex(a.shape):
            before = a[i]
            ends = []
            for moved in (before + step, before - step):
                a[i] = moved
                ends.append((weights * function(*(Tensor(b) for b in arrays)).numpy()).sum())
            a[i] = before
            gradient[i] = (ends[0] - ends[1]) / (2 * step)
        gradients.append(gradient)
    return gradients


def check_gradients(function: Any, *arrays: Any, seed: int = 0) -> None:
    """Assert that backward through function(*tensors) gives what finite differences give."""
    values = [np.array(a, np.float64) for a in arrays]
    inputs = [tensor(a, requires_grad=True) for a in values]
    y = function(*inputs)
    weights = np.random.default_rng(seed).standard_normal(y.shape)
    y.backward(weights)
    for x, expected in zip(inputs, numeric_gradients(function, values, weights), strict=True):
        assert x.grad is not None
        assert x.grad.dtype == np.float64
        np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-6, atol=1e-7)


def draw(*shape: int, seed: int = 1) -> Any:
    """Values at least 0.2 from 0 and from each other, so that no step crosses a kink."""
    n = int(np.prod(shape))
    values = np.linspace(0.25, 2.25, n) * np.where(np.arange(n) % 3, 1, -1)
    return np.random.default_rng(seed).permutation(values).reshape(shape)


X = draw(3, 4)
POSITIVE = np.abs(X)
UNARY = {
    "neg": operator.neg,
    "abs": abs,
    "exp": Tensor.exp,
    "relu": Tensor.relu,
    "sigmoid": Tensor.sigmoid,
    "tanh": Tensor.tanh,
    "softmax 0": lambda x: x.softmax(0),
    "softmax -1": lambda x: x.softmax(-1),
    "log_softmax": lambda x: x.log_softmax(1),
    "pow 3": lambda x: x**3,
    "pow -2": lambda x: x**-2,
    "pow 0": lambda x: x**0,
    "scalar left": lambda x: 2 / (3 - x) + 2 * x - 1,
    "scalar right": lambda x: (x + 1) * 3 / 4 - 2,
    "array operand": lambda x: X * x + x / np.arange(1, 5),
    "sum": Tensor.sum,
    "sum dim": lambda x: x.sum(1),
    "sum axis": lambda x: x.sum(axis=0),
    "sum keepdim": lambda x: x.sum(-1, keepdim=True),
    "sum dims": lambda x: x.reshape(3, 2, 2).sum((0, 2)),
    "mean": Tensor.mean,
    "mean dim": lambda x: x.mean(0, keepdim=True),
    "max": Tensor.max,
    "min": Tensor.min,
    "max dim": lambda x: x.max(1).values,
    "max keepdim": lambda x: x.max(-2, keepdim=True).values,
    "min dim": lambda x: x.min(0)[0],
    "reshape": lambda x: x.reshape(2, -1),
    "view": lambda x: x.view((6, 2)) * x.view(6, 2),
    "flatten": lambda x: x.reshape(1, 3, 4).flatten(1),
    "squeeze": lambda x: x.reshape(3, 1, 4, 1).squeeze(),
    "squeeze dim": lambda x: x.reshape(3, 1, 4, 1).squeeze(1),
    "unsqueeze": lambda x: x.unsqueeze(-1) * x.unsqueeze(2),
    "permute": lambda x: x.reshape(3, 2, 2).permute(2, 0, 1),
    "transpose": lambda x: x.reshape(3, 2, 2).transpose(0, -1),
    "T": lambda x: x.T @ x,
    "clone": lambda x: x.clone() * x,
    "contiguous": lambda x: x.T.contiguous(),
    "float32 and back": lambda x: x.double(),
    "basic index": lambda x: x[1:, ::2],
    "newaxis": lambda x: x[:, None, 1],
    "one element": lambda x: x[1, 2],
    "negative step": lambda x: x[::-1],
    "integer array": lambda x: x[[0, 2, 0, 0]],
    "integer arrays": lambda x: x[np.array([0, 1, 1]), np.array([3, 2, 2])],
    "integer Tensor": lambda x: x[:, tensor([1, 1])],
    "repeated tuple": lambda x: x[(0, 2, 0, 0), :],
    "nothing": lambda x: x[[]].sum() + x[0],
    "bool array": lambda x: x[X > 0],
    "bool Tensor": lambda x: x[x > 0],
    "iteration": lambda x: stack([row * i for i, row in enumerate(x, 1)]),
    "used twice": lambda x: x * x + x,
    "in place": lambda x: operator.itruediv(operator.imul(operator.iadd(x * 1, x), x), 1 + x * x),
    "in place sub, pow": lambda x: operator.ipow(operator.isub(x * 3, x), 2),
    "relu_": lambda x: (x * 2).relu_() * x,
    "zeroed": lambda x: (x * 2).zero_() + x,
}


@pytest.mark.parametrize("name", UNARY)
def test_gradient_of_one_input(name: str) -> None:
    check_gradients(UNARY[name], X)


@pytest.mark.parametrize("function", [Tensor.log, Tensor.sqrt, lambda x: x**0.5, lambda x: 2**x, lambda x: x**X])
def test_gradient_of_positive_input(function: Any) -> None:
    check_gradients(function, POSITIVE)


BINARY = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "pow": lambda a, b: abs(a) ** b,
    "in place mul": lambda a, b: operator.imul(a + 0 * b, b),
    "stack": lambda a, b: stack([a + 0 * b, b + 0 * a], 1),
}


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize(
    "shapes", [((3, 4), (3, 4)), ((3, 4), (4,)), ((2, 3, 1), (3, 4)), ((), (2, 2)), ((1, 1), (2,))]
)
def test_gradient_of_broadcast_inputs(name: str, shapes: Any) -> None:
    if name == "in place mul" and np.broadcast_shapes(*shapes) != shapes[0]:
        # The left operand must have the result's shape.
        shapes = (np.broadcast_shapes(*shapes), shapes[1])
    check_gradients(BINARY[name], draw(*shapes[0]), draw(*shapes[1], seed=2))


@pytest.mark.parametrize(
    "shapes",
    [((2, 3), (3, 4)), ((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 2)), ((2, 1, 2, 3), (3, 3, 2)), ((2, 2, 3), (3,))],
)
def test_gradient_of_matmul(shapes: Any) -> None:
    a, b = draw(*shapes[0]), draw(*shapes[1], seed=2)
    check_gradients(operator.matmul, a, b)
    np.testing.assert_array_equal((tensor(a) @ b).numpy(), a @ b)
    np.testing.assert_array_equal((a @ tensor(b)).numpy(), a @ b)


def test_gradient_of_cat() -> None:
    check_gradients(lambda a, b: cat([a, b, a], 1), draw(2, 3), draw(2, 1))
    check_gradients(lambda a, b: cat([a, draw(1, 3), b], -2), draw(2, 3), draw(1, 3))
    assert isinstance(cat([X, X]), np.ndarray)
    assert isinstance(cat([X, tensor(X)]), Tensor)


def test_gradient_of_item_assignment() -> None:
    def assign(x: Any, v: Any) -> Any:
        y = x * 1
        y[1, 1:3] = v
        y[0] = v.sum() * 2
        y[[2, 2]] = 3 * x[0]
        y[X > 2] = v[0]
        return y * y

    check_gradients(assign, X, draw(2))


def test_assigned_values_may_have_leading_extents_of_one() -> None:
    def assign(x: Any, v: Any) -> Any:
        y = x * 1
        y[1] = v
        return y * y

    check_gradients(assign, X, draw(1, 4))
    check_gradients(assign, X, draw(1, 1, 1))


def corr2d(X: Any, K: Any) -> Any:
    """The lessons' own loop."""
    h, w = K.shape
    Y = fastconv.zeros((X.shape[0] - h + 1, X.shape[1] - w + 1), dtype=np.float64)
    for i in range(Y.shape[0]):
        for j in range(Y.shape[1]):
            Y[i, j] = (X[i : i + h, j : j + w] * K).sum()
    return Y


def test_corr2d_by_loop_is_differentiable_in_both() -> None:
    check_gradients(corr2d, X, draw(2, 3))
    np.testing.assert_array_equal(
        corr2d(fastconv.arange(9).view(3, 3), fastconv.arange(4).view(2, 2)).numpy(), [[19, 25], [37, 43]]
    )


def test_lesson_learns_a_kernel_through_its_own_layer() -> None:
    image = fastconv.ones((6, 8))
    image[:, 2:6] = 0
    target = corr2d(image, tensor([[1.0, -1.0]])).numpy()
    fastconv.manual_seed(3)
    weight, bias = fastconv.rand(1, 2, requires_grad=True), fastconv.zeros(1, requires_grad=True)
    for _ in range(30):
        loss = ((corr2d(image, weight) + bias - target) ** 2).sum()
        loss.backward()
        for p in (weight, bias):
            p.data -= 0.01 * p.grad
            p.grad.fill_(0)
    assert loss.item() < 0.05
    np.testing.assert_allclose(weight.detach().numpy(), [[1, -1]], atol=0.1)


def test_gradient_of_every_max_is_shared_and_of_nan_goes_to_nan() -> None:
    x = tensor([1.0, 1.0, 0.0], requires_grad=True)
    x.max().backward()
    assert x.grad.tolist() == [0.5, 0.5, 0.0]
    x = tensor([1.0, np.nan, 0.0], requires_grad=True)
    x.max().backward()
    assert x.grad.tolist() == [0, 1, 0]


def test_power_of_zero_has_finite_gradients() -> None:
    base, exponent = tensor([0.0, 0.0, 2.0], requires_grad=True), tensor([0.0, 2.0, 3.0], requires_grad=True)
    (base**exponent).sum().backward()
    assert base.grad.tolist() == [0, 0, 12]
    np.testing.assert_allclose(exponent.grad.numpy(), [0, 0, 8 * np.log(2)], rtol=1e-6)


def test_gradient_of_division_by_small_numbers_does_not_overflow() -> None:
    a, b = tensor(1e-25, requires_grad=True), tensor(1e-25, requires_grad=True)
    (a / b).backward()
    np.testing.assert_allclose(b.grad.numpy(), -1e25, rtol=1e-6)


def test_gradient_of_max_does_not_depend_on_what_becomes_of_its_indices() -> None:
    for keepdim in (False, True):
        x = tensor([[1.0, 3.0], [4.0, 2.0]], requires_grad=True)
        values, indices = x.max(1, keepdim)
        indices.zero_()
        values.sum().backward()
        assert x.grad.tolist() == [[0, 1], [1, 0]]


def test_extreme_inputs_do_not_overflow() -> None:
    x = tensor([-1000.0, 0.0, 1000.0])
    assert x.sigmoid().tolist() == [0, 0.5, 1]
    assert x.softmax(0).tolist() == [0, 0, 1]
    assert x.log_softmax(0).tolist() == [-2000, -1000, 0]
    assert np.isnan(tensor([np.nan]).relu().numpy()).all()


def test_graph_of_5000_operations() -> None:
    x = tensor([1.0], requires_grad=True)
    y = x
    for _ in range(5000):
        y = y * 1.0 + 0.0
    y.sum().backward()
    assert x.grad.tolist() == [1]
    # Nor does dropping a graph, used or not, recurse through it.
    for _ in range(100_000):
        y = y + x
    del y


def test_gradients_accumulate_and_are_not_shared() -> None:
    a, b = tensor([1.0, 2.0], requires_grad=True), tensor([3.0, 4.0], requires_grad=True)
    (a + b).sum().backward()
    assert a.grad is not None
    a.grad *= 5
    assert b.grad.tolist() == [1, 1]
    (a * 2).sum().backward()
    assert a.grad.tolist() == [7, 7]


def test_gradient_takes_the_dtype_of_its_tensor() -> None:
    a, b = tensor([1.0, 2.0], requires_grad=True), tensor(np.array([3.0, 4.0]), requires_grad=True)
    y = a * b
    assert y.dtype == np.float64
    y.sum().backward()
    assert a.grad.dtype == np.float32
    assert b.grad.dtype == np.float64


def test_backward_rules() -> None:
    x = tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(RuntimeError, match="scalar outputs"):
        (x * 2).backward()
    with pytest.raises(RuntimeError, match="does not require grad"):
        tensor([1.0]).sum().backward()
    with pytest.raises(RuntimeError, match=r"gradient=\(3,\)"):
        (x * 2).backward(np.ones(3))
    y = (x * x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()
    assert x.grad.tolist() == [2, 4]
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.tolist() == [6, 12]
    # A graph that holds no arrays may be used again, as in torch.
    y = (x + 1).sum()
    y.backward()
    y.backward()
    assert x.grad.tolist() == [8, 14]
    leaf = tensor(3.0, requires_grad=True)
    leaf.backward()
    assert leaf.grad.item() == 1


def test_a_backward_that_raises_leaves_gradients_as_they_were() -> None:
    x = tensor([1.0, 2.0], requires_grad=True)
    y = x * x
    shared = (y * 3).sum() + (x * 5).sum()
    y.sum().backward()
    before = x.grad.tolist()
    with pytest.raises(RuntimeError, match="second time"):
        shared.backward()
    assert x.grad.tolist() == before


def test_a_saved_tensor_changed_in_place_makes_backward_raise() -> None:
    x = tensor([1.0, 2.0], requires_grad=True)
    changes = [
        lambda y: y.__iadd__(1),
        lambda y: y.zero_(),
        lambda y: y.__setitem__(0, 5.0),
        lambda y: y.detach().__imul__(2),
        lambda y: y.data.__setitem__(slice(None), 0.0),
        lambda y: y.detach().reshape(2, 1).fill_(3),
    ]
    for change in changes:
        y = x * 2
        z = (y * y).sum()
        change(y)
        with pytest.raises(RuntimeError, match="modified by an in-place operation"):
            z.backward()
    # The result that exp saves, and the operand that only the other operand's gradient needs.
    y = x.exp()
    z = y.sum()
    y += 1
    with pytest.raises(RuntimeError, match="in-place"):
        z.backward()
    constant = tensor([3.0, 4.0])
    z = (x * constant).sum()
    constant += 1
    with pytest.raises(RuntimeError, match="in-place"):
        z.backward()
    with no_grad():
        z = x * constant
    y = x * constant
    with no_grad():
        x *= 2
    y.sum().backward()
    assert x.grad.tolist() == [4, 5]


def test_in_place_on_a_leaf_or_a_view_is_refused_while_recording() -> None:
    x = tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf Tensor that requires grad"):
        x += 1
    with pytest.raises(RuntimeError, match="leaf Tensor that requires grad"):
        x[0] = 1
    assert x.tolist() == [1, 2]
    y = fastconv.zeros(2, 2)
    row = y[0]
    with pytest.raises(RuntimeError, match="view"):
        row[0] = x.sum()
    assert y.tolist() == [[0, 0], [0, 0]]
    y[0, 0] = x.sum()
    with pytest.raises(RuntimeError, match="take the view again"):
        row.sum()
    with no_grad():
        part = row[:1]
    with pytest.raises(RuntimeError, match="take the view again"):
        part.sum()
    assert y[0].sum().item() == 3
    with no_grad():
        x -= 1
    assert x.tolist() == [0, 1]
    view = x[0]
    with no_grad():
        view += 5
    (view * 2).backward()
    assert x.grad.tolist() == [2, 0]


def test_in_place_shape_and_dtype_errors() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        fastconv.zeros(2).__iadd__(fastconv.ones(3, 2))
    with pytest.raises(TypeError, match=r"float32.*int64"):
        tensor([1, 2]).__iadd__(1.5)
    integers = tensor([1, 2])
    with pytest.raises(TypeError, match="int64"):
        integers[0] = tensor(1.0, requires_grad=True)


def test_version_and_memory_are_shared_by_views() -> None:
    x = fastconv.zeros(2, 3)
    for view in (x.data, x.detach(), x.T, x[1], x.reshape(-1), x[0, 0], x.squeeze(), x.unsqueeze(0)):
        before = x._version
        view += 1
        assert x._version != before
        assert view._version == x._version
    assert x[0, 0].item() == 7
    assert x.clone()._version != x._version
    before, memory = x._version, x.numpy()
    x.data = fastconv.ones(4)
    assert x._version != before
    assert x.shape == (4,)
    assert memory.shape == (2, 3)
    x.data[:] -= 1
    assert x.tolist() == [0] * 4


def test_data_assignment_takes_over_the_memory_and_its_version() -> None:
    x, new = fastconv.zeros(2), fastconv.ones(2)
    x.data = new
    before = x._version
    new += 1
    assert x.tolist() == [2, 2]
    assert x._version != before


def test_no_grad_is_a_context_and_a_decorator_and_belongs_to_its_thread() -> None:
    x = tensor([1.0], requires_grad=True)

    @no_grad()
    def double(x: Any) -> Any:
        return x * 2

    assert not double(x).requires_grad
    assert fastconv.is_grad_enabled()
    seen = []
    with no_grad():
        assert not (x * 2).requires_grad
        thread = threading.Thread(target=lambda: seen.append((x * 2).requires_grad))
        thread.start()
        thread.join()
        with fastconv.enable_grad():
            assert (x * 2).requires_grad
        with no_grad():
            pass
        assert not fastconv.is_grad_enabled()
    assert seen == [True]
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert (x * 2).requires_grad


def test_scalars_do_not_change_float32() -> None:
    x = tensor([1.0, 2.0])
    for y in (x + 1, 1.5 * x, x / 3, 2 - x, 2.0**x, x**2, x + np.float64(1), np.float64(2) * x, x * True, x.mean(), -x):
        assert y.dtype == np.float32
    assert (x * tensor(np.array(2.0))).dtype == np.float32
    assert (x * tensor([1, 2])).dtype == np.float32
    assert (tensor([1, 2]) * 1.5).dtype == np.float32
    assert (tensor([1, 2]) / tensor([2, 2])).dtype == np.float32
    assert (tensor([1, 2]) * 2).dtype == np.int64
    assert cat([x, tensor([1, 2])]).dtype == stack([tensor([True, False]), x]).dtype == np.float32
    assert cat([tensor([1, 2]), tensor([True])]).dtype == np.int64
    assert (x + np.ones(2)).dtype == np.float64
    assert isinstance(np.ones(2, np.float32) * x, Tensor)
    assert tensor([True, True]).sum().item() == 2


def test_creation() -> None:
    assert tensor([1.0]).dtype == np.float32
    assert tensor([1]).dtype == np.int64
    assert tensor(np.ones(1)).dtype == np.float64
    assert tensor([1], dtype=np.float32).dtype == np.float32
    assert tensor([[True]]).dtype == np.bool_
    array = np.ones(2)
    assert Tensor(array).numpy() is array
    assert not np.shares_memory(tensor(array).numpy(), array)
    assert fastconv.from_numpy(array).numpy() is array
    assert fastconv.zeros(2, 3).shape == fastconv.ones((2, 3)).shape == fastconv.rand(size=(2, 3)).shape == (2, 3)
    assert fastconv.arange(3).tolist() == [0, 1, 2]
    assert fastconv.arange(1, 2, 0.5).dtype == np.float32
    assert fastconv.zeros_like(tensor([1, 2])).dtype == np.int64
    assert fastconv.ones_like(array).tolist() == [1, 1]
    fastconv.manual_seed(1)
    drawn = [fastconv.rand(2), fastconv.randn(2), fastconv.normal(5, 0.1, (2, 2))]
    fastconv.manual_seed(1)
    again = [fastconv.rand(2), fastconv.randn(2), fastconv.normal(5, 0.1, (2, 2))]
    assert all((a == b).numpy().all() and a.dtype == np.float32 for a, b in zip(drawn, again, strict=True))
    np.testing.assert_array_equal(drawn[0].numpy(), np.random.default_rng(1).random(2, dtype=np.float32))
    assert fastconv.rand(2, dtype=np.float64).dtype == np.float64
    with pytest.raises(TypeError, match="float16"):
        fastconv.rand(2, dtype=np.float16)
    with pytest.raises(TypeError, match="data=3"):
        fastconv.from_numpy(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="seed='x'"):
        fastconv.manual_seed("x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seed=-1"):
        fastconv.manual_seed(-1)


def test_functions_give_what_they_are_given() -> None:
    x = np.abs(X).astype(np.float32)
    functions: dict[str, Any] = {
        name: getattr(fastconv, name) for name in ("exp", "log", "sqrt", "relu", "sigmoid", "tanh")
    }
    functions |= {
        "softmax": lambda x: fastconv.softmax(x, 1),
        "log_softmax": lambda x: fastconv.log_softmax(x, dim=0),
        "flatten": fastconv.flatten,
        "matmul": lambda x: fastconv.matmul(x, x.T),
    }
    for name, function in functions.items():
        y, y_tensor = function(x), function(tensor(x))
        assert isinstance(y, np.ndarray), name
        assert isinstance(y_tensor, Tensor), name
        np.testing.assert_array_equal(y, y_tensor.numpy())


def test_integers_exist_but_cannot_require_a_gradient() -> None:
    with pytest.raises(TypeError, match="int64"):
        tensor([1, 2], requires_grad=True)
    with pytest.raises(TypeError, match="bool"):
        tensor([True]).requires_grad_()
    with pytest.raises(TypeError, match=r"<U1|object"):
        tensor(["a"])
    x = tensor([1.0], requires_grad=True)
    with pytest.raises(TypeError, match="int64"):
        x.data = tensor([1])
    with pytest.raises(TypeError, match=r"mean.*int64"):
        tensor([1]).mean()
    assert not x.to(np.int64).requires_grad


def test_conversions() -> None:
    x = tensor([[1.5, 2.0]], requires_grad=True)
    assert x.shape == x.size() == (1, 2)
    assert (x.size(1), x.ndim, x.dim(), x.numel(), len(x)) == (2, 2, 2, 2, 1)
    assert x.is_leaf
    assert (x * 1).grad_fn is not None
    with pytest.raises(RuntimeError, match="detach"):
        x.numpy()
    with pytest.raises(RuntimeError, match="detach"):
        np.asarray(x)
    assert np.asarray(x.detach()).tolist() == [[1.5, 2.0]]
    assert np.asarray(x.detach(), dtype=int).tolist() == [[1, 2]]
    with pytest.raises(RuntimeError, match="2 elements"):
        x.item()
    with pytest.raises(RuntimeError, match="ambiguous"):
        bool(x)
    scalar = tensor(2.5)
    assert (float(scalar), int(scalar), bool(scalar), f"{scalar:.2f}") == (2.5, 2, True, "2.50")
    assert [10, 20, 30][tensor(1)] == 20
    with pytest.raises(TypeError, match="0-d"):
        len(scalar)
    with pytest.raises(TypeError, match="0-d"):
        iter(scalar)
    with pytest.raises(TypeError, match="both"):
        x.sum(0, axis=1)
    with pytest.raises(RuntimeError, match="leaf"):
        (x * 1).requires_grad_(False)
    with pytest.raises(TypeError, match="operand='a'"):
        x + "a"


def test_comparisons_are_not_recorded() -> None:
    x = tensor([1.0, 2.0, 3.0], requires_grad=True)
    assert (x > 1).tolist() == [False, True, True]
    assert (x <= tensor([1.0, 1.0, 3.0])).tolist() == [True, False, True]
    assert ((x == 2) | (x != 2)).tolist() == [True] * 3
    assert (~(x >= 2) & (x < 2)).tolist() == [True, False, False]
    assert not (x > 1).requires_grad
    assert (x == None) is False  # noqa: E711
    assert {x: 1}[x] == 1
    assert (x.argmax().item(), x.argmin(0).item(), x.max(0).indices.item()) == (2, 0, 2)
    assert tensor([[1.0, 3.0], [3.0, 2.0]]).argmax(1, keepdim=True).tolist() == [[1], [0]]


def test_deepcopy_copies_leaves_only() -> None:
    x = tensor([1.0], requires_grad=True)
    x.sum().backward()
    twin = copy.deepcopy(x)
    assert twin.requires_grad
    assert twin.grad.tolist() == [1]
    twin.data += 1
    assert x.tolist() == [1]
    with pytest.raises(RuntimeError, match="leaf"):
        copy.deepcopy(x * 1)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        # From torch 2.13.
        (lambda: tensor(2.5), "tensor(2.5000)"),
        (lambda: tensor([1.0, 2.0], requires_grad=True), "tensor([1., 2.], requires_grad=True)"),
        (
            lambda: tensor([[1.0, 2.0], [0.5, 1e-6]]),
            "tensor([[1.0000e+00, 2.0000e+00],\n        [5.0000e-01, 1.0000e-06]])",
        ),
        (lambda: tensor([1, 2]), "tensor([1, 2])"),
        (lambda: fastconv.ones(2, dtype=np.float64), "tensor([1., 1.], dtype=float64)"),
        (lambda: fastconv.zeros(0, 3), "tensor([], size=(0, 3))"),
    ],
)
def test_repr(made: Any, text: str) -> None:
    assert repr(made()) == text
