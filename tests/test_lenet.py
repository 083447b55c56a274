"""The demo's network on its real digits, at a size that a test may take."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import fastconv
from fastconv import nn, optim
from fastconv.models import lenet5

spec = importlib.util.spec_from_file_location("lenet", Path(__file__).parents[1] / "examples" / "lenet.py")
lenet = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lenet)


@pytest.fixture(scope="module")
def digits():
    return lenet.digits(0)


def test_digits_are_real_and_split_without_overlap(digits):
    train, train_labels, test, test_labels = digits
    assert (train.shape, test.shape) == ((4000, 1, 28, 28), (1000, 1, 28, 28))
    assert train.dtype == np.float32
    assert 0 <= train.min() < 0.01 < 0.99 < train.max() <= 1
    assert set(train_labels.tolist()) == set(test_labels.tolist()) == set(range(10))
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in test}


@pytest.mark.parametrize(("activation", "pool"), [(nn.Tanh, nn.MaxPool2d), (nn.ReLU, nn.AvgPool2d)])
def test_two_epochs_learn_most_digits(digits, activation, pool):
    fastconv.manual_seed(0)
    net = lenet5(activation=activation, pool=pool)
    assert sum(p.numpy().size for p in (q.data for q in net.parameters())) == 61_706
    images, labels, test, test_labels = digits
    optimizer, criterion = optim.Adam(net.parameters(), lr=2e-3), nn.CrossEntropyLoss()
    before = lenet.accuracy(net, test, test_labels)
    for _ in range(2):
        for i in range(0, len(labels), 40):
            optimizer.zero_grad()
            criterion(net(fastconv.from_numpy(images[i : i + 40])), labels[i : i + 40]).backward()
            optimizer.step()
    after = lenet.accuracy(net, test, test_labels)
    assert before < 0.3
    assert after > 0.85


def test_every_layer_with_kernels_is_compared():
    net = lenet5(activation=nn.Tanh, pool=nn.MaxPool2d)
    found = lenet.layer_problems(net, 3)
    assert [type(problem).__name__ for _, problem, _ in found] == (
        ["ConvProblem", "PoolProblem"] * 2 + ["LinearProblem"] * 3
    )
    assert [problem.n for _, problem, _ in found[:4]] == [3] * 4
