"""The lessons' convolution and pooling, with the numbers they print, through the public API.

The snippets stand as in the lessons, PyTorch's names replaced by this library's.
"""

import numpy as np
import pytest

import fastconv
import fastconv.nn.functional as F
from fastconv import Tensor, nn, optim
from fastconv.reference import convolve2d
from fastconv.reference import corr2d as corr2d_by_definition


def corr2d(X, K):
    """The lessons' own loop, on Tensors: its item assignments are recorded."""
    h, w = K.shape
    Y = Tensor(np.zeros((X.shape[0] - h + 1, X.shape[1] - w + 1), dtype=np.float32))
    for i in range(Y.shape[0]):
        for j in range(Y.shape[1]):
            Y[i, j] = (X[i : i + h, j : j + w] * K).sum()
    return Y


def plane(rows):
    """A (1, 1, H, W) float32 array of nested lists or of an (H, W) array."""
    return np.array(rows, dtype=np.float32)[None, None]


def kernel(rows):
    """A Parameter of one (1, 1, H, W) kernel."""
    return nn.Parameter(plane(rows))


def images(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def lesson_planes():
    """torch.arange(32).view(1, 2, 4, 4), in float."""
    return np.arange(32, dtype=np.float32).reshape(1, 2, 4, 4)


def edge_image():
    X = np.ones((6, 8), dtype=np.float32)
    X[:, 2:6] = 0
    return X


# Convolution


@pytest.mark.parametrize("dtype", ["int64", "float32"])
def test_corr2d(dtype):
    X, K = np.arange(9).reshape(3, 3).astype(dtype), np.arange(4).reshape(2, 2).astype(dtype)
    assert corr2d_by_definition(X, K).tolist() == [[19, 25], [37, 43]]
    assert convolve2d(X, K).tolist() == [[5, 11], [23, 29]]
    assert corr2d(Tensor(X), Tensor(K)).tolist() == [[19, 25], [37, 43]]


def test_patch_sum_with_strides_1_and_2():
    image = plane([[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 0], [0, 1, 1, 0, 0]])
    patch = [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    for stride, expected in (1, [[4, 3, 4], [2, 4, 3], [2, 3, 4]]), (2, [[4, 4], [2, 4]]):
        conv = nn.Conv2d(1, 1, 3, stride=stride, bias=False)
        conv.weight = kernel(patch)
        assert conv(image).tolist() == [[expected]]


@pytest.mark.parametrize(
    ("kernel_size", "arguments", "shape", "parameters"),
    [
        (3, {"stride": 2}, (20, 33, 24, 49), 4785),
        ((3, 5), {"stride": (2, 1), "padding": (4, 2)}, (20, 33, 28, 100), 7953),
        ((3, 5), {"stride": (2, 1), "padding": (4, 2), "dilation": (3, 1)}, (20, 33, 26, 100), 7953),
    ],
)
def test_conv2d_shapes_and_parameters(kernel_size, arguments, shape, parameters):
    m = nn.Conv2d(16, 33, kernel_size, **arguments)
    assert m(images(20, 16, 50, 100)).shape == shape
    assert count(m) == parameters


def test_conv2d_signature():
    m = nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 2), 2, False, "reflect")
    assert m.weight.shape == (6, 2, 3, 2)
    assert m.bias is None
    assert m(images(2, 4, 7, 9)).shape == (2, 6, 4, 7)


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("s", [1, 3])
@pytest.mark.parametrize("p", [0, 2])
@pytest.mark.parametrize("d", [1, 2])
def test_conv2d_output_size_and_parameter_formula(k, s, p, d):
    h, w = 12, 17
    m = nn.Conv2d(3, 7, k, stride=s, padding=p, dilation=d)
    expected = tuple((size + 2 * p - d * (k - 1) - 1) // s + 1 for size in (h, w))
    assert m(images(1, 3, h, w)).shape == (1, 7, *expected)
    assert count(m) == (3 * k * k + 1) * 7


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_same_and_valid_halve_28(padding):
    x = images(1, 1, 28, 28)
    assert nn.Conv2d(1, 1, 2, stride=2, padding=padding)(x).shape == (1, 1, 14, 14)
    assert nn.MaxPool2d(2, 2, padding=padding)(x).shape == (1, 1, 14, 14)
    assert nn.AvgPool2d(2, 2, padding=padding)(x).shape == (1, 1, 14, 14)


@pytest.mark.parametrize(
    ("padding", "conv", "largest", "mean", "mean_without_padding"),
    [
        # The odd column of zeros goes to the right.
        ("same", [8, 7], [4, 5], [2, 1.75], [2, 3.5]),
        ("valid", [8], [4], [2], [2]),
    ],
)
def test_same_and_valid_on_2_by_3(padding, conv, largest, mean, mean_without_padding):
    x = plane([[0, 1, 2], [3, 4, 5]])
    m = nn.Conv2d(1, 1, 2, stride=2, padding=padding, bias=False)
    m.weight = kernel([[1, 1], [1, 1]])
    assert m(x).tolist() == [[[conv]]]
    assert nn.MaxPool2d(2, 2, padding=padding)(x).tolist() == [[[largest]]]
    assert nn.AvgPool2d(2, 2, padding=padding)(x).tolist() == [[[mean]]]
    without = nn.AvgPool2d(2, 2, padding=padding, count_include_pad=False)
    assert without(x).tolist() == [[[mean_without_padding]]]


@pytest.mark.parametrize("stride", [1, 2, 3, (2, 5)])
@pytest.mark.parametrize("k", [1, 2, 3, (4, 5)])
def test_same_gives_size_over_stride_rounded_up(stride, k):
    x = images(1, 2, 11, 8)
    sh, sw = stride if isinstance(stride, tuple) else (stride, stride)
    expected = (1, 2, -(-11 // sh), -(-8 // sw))
    assert nn.Conv2d(2, 2, k, stride=stride, padding="same", dilation=2)(x).shape == expected
    assert nn.MaxPool2d(k, stride=stride, padding="same")(x).shape == expected
    assert nn.AvgPool2d(k, stride=stride, padding="same")(x).shape == expected


def test_same_padding_trains():
    x = Tensor(images(1, 1, 5, 4), requires_grad=True)
    y = nn.MaxPool2d(2, 2, padding="same")(nn.Conv2d(1, 3, (2, 3), stride=(2, 1), padding="same")(x))
    assert y.shape == (1, 3, 2, 2)
    y.sum().backward()
    assert x.grad.shape == x.shape


def test_edge_detector():
    X, K = edge_image(), [[1, -1]]
    rows = [[0, 1, 0, 0, 0, -1, 0]] * 6
    assert corr2d(Tensor(X), Tensor(np.array(K, dtype=np.float32))).tolist() == rows
    conv = nn.Conv2d(1, 1, (1, 2), bias=False)
    conv.weight = kernel(K)
    assert conv(plane(X)).tolist() == [[rows]]
    assert not conv(plane(X.T)).any()


class Conv2D(nn.Module):
    """The lesson's own layer, over the hand-written loop."""

    def __init__(self, kernel_size):
        super().__init__()
        self.weight = nn.Parameter(np.zeros(kernel_size, dtype=np.float32))
        self.bias = nn.Parameter(np.zeros(1, dtype=np.float32))

    def forward(self, x):
        return corr2d(x, self.weight) + self.bias


@pytest.mark.parametrize(("weight", "bias"), [((0, 0), 0), ((1.5, 0.5), -0.8), ((-0.7, -1.2), 1.1)])
def test_learning_the_kernel_with_an_own_layer(weight, bias):
    X = Tensor(edge_image())
    Y = corr2d(X, Tensor(np.array([[1, -1]], dtype=np.float32)))
    conv2d = Conv2D(kernel_size=(1, 2))
    conv2d.weight.data[:] = np.array([weight], dtype=np.float32)
    conv2d.bias.data[:] = bias
    lr = 0.01
    for _ in range(30):
        Y_hat = conv2d(X)
        l = ((Y_hat - Y) ** 2).sum()  # noqa: E741
        l.backward()
        conv2d.weight.data -= lr * conv2d.weight.grad
        conv2d.bias.data -= lr * conv2d.bias.grad
        conv2d.weight.grad.fill_(0)
        conv2d.bias.grad.fill_(0)
    assert l.item() < 0.05
    np.testing.assert_allclose(conv2d.weight.detach().numpy(), [[1, -1]], rtol=0, atol=0.06)
    np.testing.assert_allclose(conv2d.bias.detach().numpy(), [0], rtol=0, atol=0.003)


def test_learning_the_kernel_with_conv2d():
    X, Y = Tensor(plane(edge_image())), Tensor(plane([[0, 1, 0, 0, 0, -1, 0]] * 6))
    conv2d = nn.Conv2d(1, 1, kernel_size=(1, 2), bias=False)
    conv2d.weight.data[:] = np.array([0.2, -0.4], dtype=np.float32)
    lr = 3e-2
    for _ in range(10):
        Y_hat = conv2d(X)
        l = (Y_hat - Y) ** 2  # noqa: E741
        conv2d.zero_grad()
        l.sum().backward()
        conv2d.weight.data[:] -= lr * conv2d.weight.grad
    assert l.sum().item() < 0.1
    np.testing.assert_allclose(conv2d.weight.data.reshape((1, 2)).numpy(), [[1.0, -0.98]], rtol=0, atol=0.03)


def test_weights_assigned_after_construction():
    X, expected = plane(np.arange(9).reshape(3, 3)), [[[[19, 25], [37, 43]]]]
    conv = nn.Conv2d(1, 1, 2, bias=False)
    conv(X)
    conv.weight = kernel([[0, 1], [2, 3]])
    assert conv(X).tolist() == expected
    conv.weight = kernel([[3, 2], [1, 0]])
    assert conv(X).tolist() == [[[[5, 11], [23, 29]]]]
    conv.weight.data[:] = plane([[0, 1], [2, 3]])
    assert conv(X).tolist() == expected
    conv.weight.data = Tensor(plane([[0, 0], [0, 1]]))
    assert conv(X).tolist() == [[[[4, 5], [7, 8]]]]
    conv.load_state_dict({"weight": plane([[0, 1], [2, 3]])})
    assert conv(X).tolist() == expected


X_AND_O_KERNELS = {
    "diagonal": np.eye(5) * 2 - 1,
    "antidiagonal": np.eye(5)[::-1] * 2 - 1,
    "checkerboard": (-1.0) ** np.add.outer(np.arange(5), np.arange(5)),
}


def test_x_and_o_network():
    conv, relu, pool = nn.Conv2d(1, 3, 5), nn.ReLU(), nn.MaxPool2d(2, 2)
    conv.weight = nn.Parameter(np.stack(list(X_AND_O_KERNELS.values()))[:, None].astype(np.float32))
    conv.bias = nn.Parameter(np.array([-4, -4, -12], dtype=np.float32))
    # Each pattern once, as strokes of ones on zeros, apart from the others: it alone reaches 5 − 4 or 13 − 12.
    places = {"diagonal": (2, 3), "antidiagonal": (15, 4), "checkerboard": (9, 17)}
    image = np.zeros((28, 28))
    for name, (i, j) in places.items():
        image[i : i + 5, j : j + 5] = X_AND_O_KERNELS[name] > 0
    y = relu(conv(plane(image)))
    assert y.shape == (1, 3, 24, 24)
    assert np.argwhere(y).tolist() == [[0, channel, *place] for channel, place in enumerate(places.values())]
    assert y.max() == 1
    pooled = pool(y)
    assert pooled.shape == (1, 3, 12, 12)
    assert np.argwhere(pooled == 1).tolist() == [[0, 0, 1, 1], [0, 1, 7, 2], [0, 2, 4, 8]]
    assert pooled.sum() == 3


def test_one_by_one_convolution_is_linear_over_channels():
    x = images(2, 3, 4, 5)
    conv = nn.Conv2d(3, 7, 1)
    y = conv(x)
    weight, bias = conv.weight.detach().numpy()[:, :, 0, 0], conv.bias.detach().numpy()
    expected = F.linear(x.transpose(0, 2, 3, 1), weight, bias).transpose(0, 3, 1, 2)
    assert y.shape == (2, 7, 4, 5)
    np.testing.assert_allclose(y, expected, rtol=0, atol=np.finfo(np.float32).eps * 2 * 4 * np.abs(x).max())


def test_depthwise_convolution_treats_each_channel_alone():
    x = np.stack([np.arange(9).reshape(3, 3), np.eye(3)]).astype(np.float32)[None]
    conv = nn.Conv2d(2, 4, 2, groups=2, bias=False)
    assert conv.weight.shape == (4, 1, 2, 2)
    k = [[0, 1], [2, 3]]
    conv.weight = nn.Parameter(np.array([[k], [np.zeros((2, 2))], [k], [np.ones((2, 2))]], dtype=np.float32))
    assert conv(x).tolist() == [[[[19, 25], [37, 43]], [[0, 0], [0, 0]], [[3, 2], [1, 3]], [[2, 1], [1, 2]]]]


def test_dilated_convolution_skips():
    conv = nn.Conv2d(1, 1, 2, dilation=(2, 3), bias=False)
    conv.weight = kernel([[1, 10], [100, 1000]])
    x = plane(np.arange(20).reshape(4, 5))
    assert conv(x).tolist() == [[[[0 + 30 + 1000 + 13000, 14030 + 1111], [14030 + 5555, 14030 + 6666]]]]


def test_unbatched_input():
    x = images(3, 9, 8)
    for layer in nn.Conv2d(3, 4, (3, 2), stride=2), nn.MaxPool2d(2), nn.AvgPool2d((3, 2), padding=(1, 0)):
        y = layer(x)
        assert y.ndim == 3
        np.testing.assert_array_equal(y, layer(x[None])[0])
        leaf = Tensor(x, requires_grad=True)
        layer(leaf).sum().backward()
        assert leaf.grad.shape == x.shape


@pytest.mark.parametrize("layer", [nn.Conv2d(1, 1, 2), nn.MaxPool2d(2), nn.AvgPool2d(2)], ids=repr)
def test_a_plain_h_w_image_gets_a_clear_error(layer):
    for x in images(5, 7), Tensor(images(5, 7)):
        with pytest.raises(ValueError, match=r"\(5, 7\).*\(N, C, H, W\) or \(C, H, W\)"):
            layer(x)


# Pooling


def test_max_pool2d():
    y = nn.MaxPool2d(3, padding=1, stride=(2, 1))(lesson_planes())
    assert y.tolist() == [[[[5, 6, 7, 7], [13, 14, 15, 15]], [[21, 22, 23, 23], [29, 30, 31, 31]]]]
    y = nn.MaxPool2d(3, padding=1, stride=2)(lesson_planes())
    assert y.tolist() == [[[[5, 7], [13, 15]], [[21, 23], [29, 31]]]]


def test_max_pool2d_padding_is_minus_infinity():
    y = nn.MaxPool2d(3, padding=1, stride=2)(-1 - lesson_planes())
    assert y.tolist() == [[[[-1, -2], [-5, -6]], [[-17, -18], [-21, -22]]]]


def test_avg_pool2d():
    y = nn.AvgPool2d(3, padding=1, stride=(2, 1))(lesson_planes())
    expected = [
        [[1.1111, 2, 2.6667, 2], [5.6667, 9, 10, 7]],
        [[8.2222, 12.6667, 13.3333, 9.1111], [16.3333, 25, 26, 17.6667]],
    ]
    assert np.round(y, 4).astype(np.float64).round(4).tolist() == [expected]
    y = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)(lesson_planes())
    assert y.tolist() == [[[[2.5, 4], [8.5, 10]], [[18.5, 20], [24.5, 26]]]]


@pytest.mark.parametrize("pool", [nn.MaxPool2d, nn.AvgPool2d])
def test_pooling_rounds_down_unless_asked(pool):
    x = images(1, 2, 5, 6)
    assert pool(2)(x).shape == (1, 2, 2, 3)
    assert pool(2, ceil_mode=True)(x).shape == (1, 2, 3, 3)
    assert pool(3, stride=2)(x).shape == (1, 2, 2, 2)
    assert pool(3, stride=2, ceil_mode=True)(x).shape == (1, 2, 2, 3)
    # Rounded up, 5 + 2·1 has four windows of 2; the fourth would start in the right padding and does not count.
    assert pool(2, stride=2, padding=1, ceil_mode=True)(x).shape == (1, 2, 3, 4)
    assert pool(2, stride=2, padding=1, ceil_mode=True)(x[:, :, :, :5]).shape == (1, 2, 3, 3)


def test_rounded_up_windows_hold_what_is_left():
    x = plane(np.arange(1, 10).reshape(3, 3))
    assert nn.MaxPool2d(2, ceil_mode=True)(x).tolist() == [[[[5, 6], [8, 9]]]]
    assert nn.AvgPool2d(2, ceil_mode=True)(x).tolist() == [[[[3, 4.5], [7.5, 9]]]]


def test_return_indices_and_divisor_override():
    y, indices = nn.MaxPool2d(3, padding=1, stride=2, return_indices=True)(lesson_planes())
    assert indices.tolist() == [[[[5, 7], [13, 15]]] * 2]
    assert y.tolist() == [[[[5, 7], [13, 15]], [[21, 23], [29, 31]]]]
    assert nn.AvgPool2d(2, divisor_override=2)(lesson_planes())[0, 0].tolist() == [[5, 9], [21, 25]]


def test_global_average_pooling():
    x = images(2, 5, 6, 7)
    y = nn.AvgPool2d((6, 7))(x)
    assert y.shape == (2, 5, 1, 1)
    expected = x.astype(np.float64).mean(axis=(2, 3), keepdims=True)
    np.testing.assert_allclose(y, expected, rtol=0, atol=np.finfo(np.float32).eps * np.sqrt(42) * np.abs(x).mean())


@pytest.mark.parametrize("layer", [nn.MaxPool2d(2), nn.AvgPool2d(2)], ids=repr)
def test_pooling_has_no_parameters_and_takes_part_in_back_propagation(layer):
    assert count(layer) == 0
    x = Tensor(lesson_planes(), requires_grad=True)
    y = layer(x)
    assert y.shape == (1, 2, 2, 2)
    y.backward(np.full((1, 2, 2, 2), 4, dtype=np.float32))
    expected = [[0, 0, 0, 0], [0, 4, 0, 4]] * 2 if isinstance(layer, nn.MaxPool2d) else [[1, 1, 1, 1]] * 4
    assert x.grad.tolist() == [[expected] * 2]


# The two networks of the lessons that these layers make


def test_lenet_5():
    net = nn.Sequential(
        nn.Conv2d(1, 6, kernel_size=5, padding=2),
        nn.Sigmoid(),
        nn.AvgPool2d(kernel_size=2, stride=2),
        nn.Conv2d(6, 16, kernel_size=5),
        nn.Sigmoid(),
        nn.AvgPool2d(kernel_size=2, stride=2),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 120),
        nn.Sigmoid(),
        nn.Linear(120, 84),
        nn.Sigmoid(),
        nn.Linear(84, 10),
    )
    X, connections, shapes = images(1, 1, 28, 28), [], []
    for layer in net:
        X = layer(X)
        shapes.append(X.shape[1:])
        if isinstance(layer, nn.Conv2d):
            connections.append(count(layer) * X.shape[2] * X.shape[3])
    maps = [(6, 28, 28), (6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 10, 10), (16, 5, 5)]
    assert shapes == [*maps, (400,), (120,), (120,), (84,), (84,), (10,)]
    assert connections == [122304, 241600]
    assert [count(layer) for layer in net if count(layer)] == [156, 2416, 48120, 10164, 850]
    assert count(net) == 61706


class EMNIST_Net(nn.Module):  # noqa: N801
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, 1)
        self.conv2 = nn.Conv2d(32, 64, 3, 1)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(9216, 128)
        self.fc2 = nn.Linear(128, 2)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = self.pool(F.relu(self.conv2(x)))
        x = x.reshape(x.shape[0], -1)
        return self.fc2(F.relu(self.fc1(x)))


def test_emnist_net_counts_and_trains():
    fastconv.manual_seed(0)
    net = EMNIST_Net()
    assert [count(layer) for layer in net.children()] == [320, 18496, 0, 1179776, 258]
    assert count(net) == 1198850
    # X and O again: two strokes that cross, or a ring.
    cross = np.clip(np.eye(28) + np.eye(28)[::-1], 0, 1)
    ring = np.zeros((28, 28))
    ring[4:24, 4:24], ring[7:21, 7:21] = 1, 0
    x = Tensor(np.stack([cross, ring, cross.T, ring.T])[:, None].astype(np.float32))
    target = Tensor(np.array([0, 1, 0, 1]))
    optimiser, criterion = optim.SGD(net.parameters(), lr=0.1), nn.CrossEntropyLoss()
    losses = []
    for _ in range(6):
        optimiser.zero_grad()
        loss = criterion(net(x), target)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * losses[0]
    assert net(x).argmax(1).tolist() == [0, 1, 0, 1]
