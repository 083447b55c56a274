"""CTC against recorded torch, the sum over all paths, and finite differences."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

import fastconv
import fastconv.nn.functional as F
from fastconv import nn, tensor

CASES = json.loads(Path(__file__).with_name("golden").joinpath("sequences.json").read_text(encoding="utf-8"))
NAMES = [name for name, case in CASES.items() if case["op"].startswith("ctc")]
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
GLYPHS = {"∅": 0, "好": 1, "棒": 2}


def logs(*shape, seed=0, dtype="float64"):
    x = np.random.default_rng(seed).standard_normal(shape)
    return (x - np.log(np.exp(x).sum(axis=-1, keepdims=True))).astype(dtype)


def collapse(path, blank=0):
    """B of a path, by its definition: repetitions dropped, then blanks."""
    return [label for label, _ in itertools.groupby(path) if label != blank]


def by_all_paths(logp, target, blank=0):
    """(−log of the probability of all paths of `target`, the probability of being at each class then)."""
    steps, classes = logp.shape
    total, at = 0.0, np.zeros(logp.shape)
    for path in itertools.product(range(classes), repeat=steps):
        if collapse(path, blank) == list(target):
            p = math.exp(sum(logp[t, c] for t, c in enumerate(path)))
            total += p
            at[np.arange(steps), path] += p
    return -math.log(total) if total else math.inf, at / total if total else at


@DTYPES
@pytest.mark.parametrize("name", NAMES)
def test_as_torch(name, dtype):
    case = CASES[name]
    x = tensor(np.array(case["x"], dtype), requires_grad=True)
    target = np.array(case["target"], np.int64).reshape(np.shape(case["target"]))
    rest = (target, case["steps"], case["lengths"])
    logp = x.log_softmax(-1) if case["op"] == "ctc_of_logits" else x
    loss = F.ctc_loss(logp, *rest, **case["args"])
    loss.backward(np.array(case["gy"], dtype))
    assert loss.dtype == x.grad.dtype == dtype
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(loss.detach().numpy(), case["y"], rtol=4 * eps, atol=eps)
    # What is returned is rounded; before, all is float64, and a rounding of a log is one of its size.
    largest = np.abs(case["y"], where=np.isfinite(case["y"]), out=np.ones(np.shape(case["y"]))).max()
    np.testing.assert_allclose(x.grad.numpy(), case["gx"], rtol=0, atol=32 * eps + 2 * np.finfo(float).eps * largest)
    arrays = tuple(np.array(part, np.int32) for part in rest)
    layer = nn.CTCLoss(**case["args"])
    for given in (rest, arrays, tuple(tensor(part) for part in arrays)):
        y = layer(logp.detach().numpy(), *given)
        assert not isinstance(y, fastconv.Tensor)
        np.testing.assert_array_equal(y, loss.detach().numpy())


@pytest.mark.parametrize("target", [(), (1,), (2, 2), (1, 2), (1, 2, 1), (1, 1, 1)])
def test_loss_and_gradient_are_the_sums_over_all_paths(target):
    logp = logs(5, 1, 3, seed=len(target))
    expected, at = by_all_paths(logp[:, 0], target)
    x = tensor(logp, requires_grad=True)
    y = F.ctc_loss(x, np.array([target], np.int64), [5], [len(target)], reduction="none")
    y.backward(np.ones(1))
    np.testing.assert_allclose(y.detach().numpy(), [expected], rtol=1e-14)
    np.testing.assert_allclose(x.grad.numpy()[:, 0], np.exp(logp[:, 0]) - at, rtol=0, atol=1e-14)


def test_blank_may_be_any_class():
    logp = logs(4, 2, 3, seed=5)
    expected = [by_all_paths(logp[:, n], target, blank=1)[0] for n, target in enumerate([(0, 2), (2,)])]
    np.testing.assert_allclose(F.ctc_loss(logp, np.array([0, 2, 2]), [4, 4], [2, 1], 1, "none"), expected, rtol=1e-14)


def test_a_batch_is_its_sequences():
    rng = np.random.default_rng(3)
    x, targets = logs(12, 5, 6), rng.integers(1, 6, (5, 4))
    steps, lengths = [12, 9, 7, 1, 0], [4, 3, 0, 1, 0]
    together = tensor(x, requires_grad=True)
    losses = F.ctc_loss(together, targets, steps, lengths, reduction="none")
    losses.backward(np.arange(1.0, 6))
    for n in range(5):
        alone = tensor(x[: steps[n], n], requires_grad=True)
        loss = F.ctc_loss(alone, targets[n, : lengths[n]], steps[n], lengths[n], reduction="sum")
        loss.backward(float(n + 1))
        assert loss.item() == losses.detach().numpy()[n]
        np.testing.assert_array_equal(together.grad.numpy()[: steps[n], n], alone.grad.numpy())
        assert not together.grad.numpy()[steps[n] :, n].any()


def test_gradient_through_log_softmax_by_finite_differences():
    rng = np.random.default_rng(1)
    start, targets = rng.standard_normal((6, 2, 4)), np.array([[1, 2, 2], [3, 1, 0]])

    def loss(x):
        return F.ctc_loss(F.log_softmax(x, -1), targets, [6, 5], [3, 2])

    x = tensor(start, requires_grad=True)
    loss(x).backward()
    for _ in range(3):
        direction = rng.standard_normal(start.shape)
        slope = (loss(start + 1e-5 * direction) - loss(start - 1e-5 * direction)) / 2e-5
        np.testing.assert_allclose((x.grad.numpy() * direction).sum(), slope, rtol=1e-7)


def test_gradient_lacks_nothing_but_the_first_term_of_the_derivative():
    rng = np.random.default_rng(2)
    start, targets = logs(5, 1, 3), np.array([[1, 2]])
    x = tensor(start, requires_grad=True)
    F.ctc_loss(x, targets, [5], [2], reduction="sum").backward()
    direction = rng.standard_normal(start.shape)
    ends = [F.ctc_loss(start + step * direction, targets, [5], [2], reduction="sum") for step in (1e-5, -1e-5)]
    derivative = x.grad.numpy() - np.exp(start)
    np.testing.assert_allclose((derivative * direction).sum(), (ends[0] - ends[1]) / 2e-5, rtol=1e-7)


def test_float32_is_as_exact_as_its_input():
    logp = logs(400, 2, 20, dtype="float32")
    targets = np.random.default_rng(4).integers(1, 20, (2, 80))
    x, exact = tensor(logp, requires_grad=True), tensor(logp.astype(np.float64), requires_grad=True)
    for leaf in (x, exact):
        F.ctc_loss(leaf, targets, [400, 390], [80, 77], reduction="sum").backward()
    np.testing.assert_allclose(x.grad.numpy(), exact.grad.numpy(), rtol=0, atol=2e-7)


def test_what_is_impossible():
    # One class certain at each step: every path but one has probability 0.
    path = [1, 1, 0, 2]
    logp = np.full((4, 1, 3), -np.inf)
    logp[np.arange(4), 0, path] = 0
    x = tensor(logp, requires_grad=True)
    loss = F.ctc_loss(x, np.array([[1, 2]]), [4], [2], reduction="none")
    loss.backward(np.ones(1))
    assert loss.tolist() == [0]
    assert not x.grad.numpy().any()
    assert F.ctc_loss(logp, np.array([[2, 1]]), [4], [2]) == np.inf
    assert F.ctc_loss(logp, np.array([[2, 1]]), [4], [2], zero_infinity=True) == 0


@pytest.mark.filterwarnings("error")
def test_nothing():
    x = tensor(np.zeros((3, 0, 4), np.float32), requires_grad=True)
    targets = np.zeros((0, 2), np.int64)
    assert F.ctc_loss(x, targets, [], [], reduction="none").shape == (0,)
    assert F.ctc_loss(x, targets, [], [], reduction="sum").item() == 0
    mean = F.ctc_loss(x, targets, [], [])
    assert np.isnan(mean.item())
    mean.backward()
    assert x.grad.shape == (3, 0, 4)
    no_steps = tensor(np.zeros((0, 2, 4)), requires_grad=True)
    loss = F.ctc_loss(no_steps, np.array([1]), [0, 0], [0, 1], reduction="none")
    assert loss.tolist() == [0, np.inf]
    loss.backward(np.ones(2))
    assert no_steps.grad.shape == (0, 2, 4)


def test_strides_and_padding_do_not_matter():
    x, targets = logs(7, 3, 5), np.array([[1, 2, 3], [2, 2, 99], [3, -7, 99]])
    rest = (targets, [7, 6, 5], [3, 2, 1])
    expected = F.ctc_loss(x, *rest)
    assert F.ctc_loss(np.asfortranarray(x), *rest) == expected
    assert F.ctc_loss(x[::-1, :, ::-1][::-1, :, ::-1], np.asfortranarray(targets), *rest[1:]) == expected
    x.flags.writeable = False
    assert F.ctc_loss(x, *rest) == expected


def test_a_change_after_the_forward_pass_is_seen():
    x = tensor(logs(4, 1, 3), requires_grad=True)
    doubled = x * 2
    loss = F.ctc_loss(doubled, np.array([[1]]), [4], [1])
    doubled *= 2
    with pytest.raises(RuntimeError, match="modified by an in-place operation"):
        loss.backward()


def one_hot(text):
    """Log probabilities of a path written as glyphs, (T, C)."""
    path = [GLYPHS[glyph] for glyph in text.split()]
    return np.log(np.eye(3)[path] * 0.97 + 0.01)


@pytest.mark.parametrize(
    ("path", "meaning"), [("好 ∅ ∅ 棒 ∅ ∅", "好棒"), ("好 ∅ 棒 ∅ 棒", "好棒棒"), ("∅ 好 好 棒 棒", "好棒")]
)
def test_what_paths_mean(path, meaning):
    (labels,) = F.ctc_greedy_decode(one_hot(path))
    assert labels == [GLYPHS[glyph] for glyph in meaning]
    # The path is nearly certain, so its meaning costs nearly nothing.
    steps = len(path.split())
    assert F.ctc_loss(one_hot(path), np.array(labels), steps, len(labels), reduction="sum") < 0.04 * steps


def test_greedy_decoding():
    path = np.random.default_rng(0).integers(0, 4, (9, 6))
    x = np.eye(4, dtype=np.float32)[path]
    assert F.ctc_greedy_decode(x) == [collapse(path[:, n]) for n in range(6)]
    lengths = [9, 8, 3, 1, 0, 5]
    expected = [collapse(path[:m, n], 2) for n, m in enumerate(lengths)]
    assert F.ctc_greedy_decode(tensor(x), lengths, blank=2) == expected
    assert F.ctc_greedy_decode(x, np.array(lengths), blank=2) == expected
    assert F.ctc_greedy_decode(x[:, 2]) == [collapse(path[:, 2])]
    assert F.ctc_greedy_decode(x[:0]) == [[]] * 6
    assert F.ctc_greedy_decode(x[:, :0]) == []
    assert all(type(label) is int for labels in F.ctc_greedy_decode(x) for label in labels)


def test_the_layer():
    layer = nn.CTCLoss()
    assert repr(layer) == "CTCLoss()"
    assert layer.state_dict() == {}
    assert (layer.blank, layer.reduction, layer.zero_infinity) == (0, "mean", False)


X, TARGETS = logs(5, 2, 4), np.array([[1, 2], [3, 1]])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: F.ctc_loss([1.0], TARGETS, [5, 5], [2, 2]), TypeError, "log_probs"),
        (
            lambda: F.ctc_loss(X[0, 0], TARGETS, [5, 5], [2, 2]),
            ValueError,
            r"log_probs=\(4,\): needs shape \(T, N, C\)",
        ),
        (lambda: F.ctc_loss(X.astype(int), TARGETS, [5, 5], [2, 2]), TypeError, "log_probs: dtype int64"),
        (lambda: F.ctc_loss(X, TARGETS * 1.0, [5, 5], [2, 2]), TypeError, "targets: dtype float64"),
        (lambda: F.ctc_loss(X, [[1, 2]], [5, 5], [2, 2]), TypeError, "targets"),
        (lambda: F.ctc_loss(X, TARGETS[:1], [5, 5], [2, 2]), ValueError, r"targets=\(1, 2\): needs shape \(2, S\)"),
        (lambda: F.ctc_loss(X, TARGETS[0], [5, 5], [2, 2]), ValueError, r"target_lengths|needs 4 labels"),
        (lambda: F.ctc_loss(X, np.array([1, 2, 3]), [5, 5], [2, 2]), ValueError, "needs 4 labels"),
        (
            lambda: F.ctc_loss(X, TARGETS + 2, [5, 5], [2, 2]),
            ValueError,
            "targets: class 4 is not allowed, needs 0 to 3",
        ),
        (lambda: F.ctc_loss(X, TARGETS - 1, [5, 5], [2, 2]), ValueError, "label 0 is not allowed, it is the blank"),
        (lambda: F.ctc_loss(X, TARGETS, [5, 6], [2, 2]), ValueError, r"input_lengths=\[5, 6\]: needs 0 to 5, got 6"),
        (lambda: F.ctc_loss(X, TARGETS, [5], [2, 2]), ValueError, r"input_lengths=\[5\]: needs 2 ints"),
        (lambda: F.ctc_loss(X, TARGETS, [5.0, 5], [2, 2]), TypeError, "input_lengths"),
        (lambda: F.ctc_loss(X, TARGETS, [5, 5], [2, 3]), ValueError, r"target_lengths=\[2, 3\]: needs 0 to 2, got 3"),
        (lambda: F.ctc_loss(X, TARGETS, [5, 5], [-1, 2]), ValueError, r"target_lengths=\[-1, 2\]"),
        (lambda: F.ctc_loss(X, TARGETS, [5, 5], [2, 2], blank=4), ValueError, "blank=4: needs a class from 0 to 3"),
        (lambda: F.ctc_loss(X, TARGETS, [5, 5], [2, 2], blank=0.5), TypeError, "blank=0.5"),
        (lambda: F.ctc_loss(X, TARGETS, [5, 5], [2, 2], reduction="max"), ValueError, "reduction='max'"),
        (lambda: F.ctc_loss(X, TARGETS, [5, 5], [2, 2], zero_infinity=1), TypeError, "zero_infinity=1"),
        (lambda: nn.CTCLoss(reduction="max"), ValueError, "reduction='max'"),
        (lambda: nn.CTCLoss("a"), TypeError, "blank='a'"),
        (lambda: nn.CTCLoss(zero_infinity=0), TypeError, "zero_infinity=0"),
        (lambda: F.ctc_greedy_decode(X, [5]), ValueError, "input_lengths"),
        (lambda: F.ctc_greedy_decode(X, blank=-1), ValueError, "blank=-1"),
    ],
)
def test_wrong_calls_say_what_is_wrong(call, error, words):
    with pytest.raises(error, match=words):
        call()
