"""The networks: torchvision's keys and parameter counts, forward, a training step, and the summary's table."""

import hashlib

import numpy as np
import pytest

import fastconv
from fastconv import cli, models, nn, optim

# By golden/make_models.py, from torchvision 0.29.1: parameters, state_dict keys, start of SHA-256 of "key shape" lines.
TORCHVISION = {
    "alexnet": (61_100_840, 16, "9c198ebdae1863e4"),
    "vgg11": (132_863_336, 22, "cb3dc23f2a13e182"),
    "vgg13": (133_047_848, 26, "67c1dc8b57fde74b"),
    "vgg16": (138_357_544, 32, "35c4623e0cd4a39d"),
    "vgg19": (143_667_240, 38, "4723255af8f6c485"),
    "vgg11_bn": (132_868_840, 62, "8b6717e727c0ecf9"),
    "vgg13_bn": (133_053_736, 76, "f6b0597d18a7e4d2"),
    "vgg16_bn": (138_365_992, 97, "347371586a8ea365"),
    "vgg19_bn": (143_678_248, 118, "fc3ff6fab2b5cc09"),
    "googlenet": (6_624_904, 344, "f66489fa14bd9d5a"),
    "googlenet aux_logits": (13_004_888, 364, "7f541ca29410efb1"),
}

# The lessons' table of VGG16 without its last linear layer.
VGG16 = """\
Conv2d-1 [-1, 64, 224, 224] 1,792
ReLU-2 [-1, 64, 224, 224] 0
Conv2d-3 [-1, 64, 224, 224] 36,928
ReLU-4 [-1, 64, 224, 224] 0
MaxPool2d-5 [-1, 64, 112, 112] 0
Conv2d-6 [-1, 128, 112, 112] 73,856
ReLU-7 [-1, 128, 112, 112] 0
Conv2d-8 [-1, 128, 112, 112] 147,584
ReLU-9 [-1, 128, 112, 112] 0
MaxPool2d-10 [-1, 128, 56, 56] 0
Conv2d-11 [-1, 256, 56, 56] 295,168
ReLU-12 [-1, 256, 56, 56] 0
Conv2d-13 [-1, 256, 56, 56] 590,080
ReLU-14 [-1, 256, 56, 56] 0
Conv2d-15 [-1, 256, 56, 56] 590,080
ReLU-16 [-1, 256, 56, 56] 0
MaxPool2d-17 [-1, 256, 28, 28] 0
Conv2d-18 [-1, 512, 28, 28] 1,180,160
ReLU-19 [-1, 512, 28, 28] 0
Conv2d-20 [-1, 512, 28, 28] 2,359,808
ReLU-21 [-1, 512, 28, 28] 0
Conv2d-22 [-1, 512, 28, 28] 2,359,808
ReLU-23 [-1, 512, 28, 28] 0
MaxPool2d-24 [-1, 512, 14, 14] 0
Conv2d-25 [-1, 512, 14, 14] 2,359,808
ReLU-26 [-1, 512, 14, 14] 0
Conv2d-27 [-1, 512, 14, 14] 2,359,808
ReLU-28 [-1, 512, 14, 14] 0
Conv2d-29 [-1, 512, 14, 14] 2,359,808
ReLU-30 [-1, 512, 14, 14] 0
MaxPool2d-31 [-1, 512, 7, 7] 0
Linear-32 [-1, 4096] 102,764,544
ReLU-33 [-1, 4096] 0
Dropout-34 [-1, 4096] 0
Linear-35 [-1, 4096] 16,781,312
ReLU-36 [-1, 4096] 0
Dropout-37 [-1, 4096] 0"""


def build(name, **options):
    """A network of this name, its weights not drawn."""
    with nn.init.skipped():
        return models.BUILDERS[name](**options)


def count(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("name", TORCHVISION)
def test_keys_and_shapes_as_torchvision(name):
    word, *heads = name.split()
    net = build(word, **dict.fromkeys(heads, True))
    lines = [f"{key} {tensor.shape}" for key, tensor in net._state()]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    assert (count(net), len(lines), digest) == TORCHVISION[name]


def test_parameters_of_the_lessons_networks():
    lenet = models.lenet5()
    assert [count(layer) for layer in lenet if count(layer)] == [156, 2416, 48120, 10164, 850]
    shapes = [row.output_shape[1:] for row in fastconv.summary(lenet, (1, 28, 28)).rows]
    assert [shape[-1] for shape in shapes] == [28, 28, 14, 10, 10, 5, 400, 120, 120, 84, 84, 10]
    assert [type(layer).__name__ for layer in lenet][1:3] == ["Sigmoid", "AvgPool2d"]
    assert count(models.EMNIST_Net()) == 1_198_850
    assert count(build("vgg16", num_classes=None)) == 134_260_544


# For each network an input that its layers allow, options that leave chance out, and a learning rate.
STEPS = {
    "lenet5": ((1, 28, 28), {}, 0.5),
    "EMNIST_Net": ((1, 28, 28), {}, 0.05),
    "nin": ((3, 67, 67), {"num_classes": 10, "dropout": 0}, 0.01),
    "googlenet": ((3, 32, 32), {"num_classes": 10, "dropout": 0}, 0.02),
    "alexnet": ((3, 63, 63), {"num_classes": 10, "dropout": 0}, 0.01),
    "vgg11": ((3, 32, 32), {"num_classes": 10, "dropout": 0}, 0.01),
    "vgg16": ((1, 32, 32), {"num_classes": 10, "dropout": 0, "in_channels": 1}, 0.005),
    "vgg11_bn": ((3, 32, 32), {"num_classes": 10, "dropout": 0}, 0.005),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_training_step_lowers_the_loss(name):
    size, options, rate = STEPS[name]
    fastconv.manual_seed(0)
    net = models.BUILDERS[name](**options)
    random = np.random.default_rng(0)
    x, target = fastconv.from_numpy(random.standard_normal((4, *size)).astype(np.float32)), np.array([0, 1, 1, 0])
    criterion, optimizer = nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=rate)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        y = net(x)
        loss = criterion(y, target)
        losses.append(loss.item())
        if len(losses) == 1:
            loss.backward()
            assert all(np.isfinite(p.grad.numpy()).all() for p in net.parameters())
            optimizer.step()
    assert y.shape == (4, fastconv.summary(net, size).rows[-1].output_shape[1])
    assert losses[1] < losses[0]
    assert net.training


def test_googlenets_heads_train_and_are_left_out_of_evaluation():
    fastconv.manual_seed(0)
    net = models.googlenet(num_classes=5, aux_logits=True)
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    outputs = net(fastconv.from_numpy(x))
    assert [y.shape for y in outputs] == [(2, 5)] * 3
    sum(nn.CrossEntropyLoss()(y, np.array([0, 1])) for y in outputs).backward()
    assert all(p.grad is not None for p in net.parameters())
    assert net.eval()(x).shape == (2, 5)


def test_every_network_has_a_summary():
    sizes = {"lenet5": (1, 28, 28), "EMNIST_Net": (1, 28, 28)}
    # Those of sequences have sizes without defaults, and tests of their own.
    sequences = ("lstm_classifier", "lstm_tagger", "qst_encoder", "seq2seq")
    for name in [name for name in models.BUILDERS if name not in sequences]:
        net = build(name)
        found = fastconv.summary(net, sizes.get(name, (3, 224, 224)))
        assert found.total_parameters == sum(row.parameters for row in found.rows) == count(net)
        assert found.rows[-1].output_shape == [-1, {"lenet5": 10, "EMNIST_Net": 2}.get(name, 1000)]


def test_vgg16s_table_row_for_row():
    found = fastconv.summary(build("vgg16", num_classes=None, avgpool=False), (3, 224, 224))
    assert [f"{row.name} {row.output_shape} {row.parameters:,}" for row in found.rows] == VGG16.split("\n")
    lines = str(found).split("\n")
    assert lines[:3] == ["-" * 64, "        Layer (type)               Output Shape         Param #", "=" * 64]
    assert lines[3] == "            Conv2d-1         [-1, 64, 224, 224]           1,792"
    assert lines[-9:] == [
        "Total params: 134,260,544",
        "Trainable params: 134,260,544",
        "Non-trainable params: 0",
        "-" * 64,
        "Input size (MB): 0.57",
        "Forward/backward pass size (MB): 218.58",
        "Params size (MB): 512.16",
        "Estimated Total Size (MB): 731.32",
        "-" * 64,
    ]


def test_summary_of_torchvisions_vgg16_has_the_adaptive_pooling():
    found = fastconv.summary(build("vgg16"), (3, 224, 224), batch_size=2)
    assert found.rows[31] == fastconv.summarize.Row("AdaptiveAvgPool2d-32", [2, 512, 7, 7], 0)
    assert found.total_parameters == 138_357_544
    assert f"{found.forward_backward_mb / 2:.2f}" == "218.78"


def test_summary_of_a_network_of_ones_own():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3, dtype="float64")
            self.scale = nn.Parameter(np.ones(1), requires_grad=False)
            self.drop = nn.Dropout().eval()

        def forward(self, x):
            x = self.conv(self.conv(x)[:, :1])
            return self.drop(x.view(x.size(0), -1)) * self.scale

    net = Net()
    found = fastconv.summary(net, (1, 6, 6))
    assert [(row.name, row.output_shape, row.parameters) for row in found.rows] == [
        ("Conv2d-1", [-1, 2, 4, 4], 20),
        ("Conv2d-2", [-1, 2, 2, 2], 20),
        ("Dropout-3", [-1, 8], 0),
        ("Net-4", [-1, 8], 1),
    ]
    assert (found.total_parameters, found.trainable_parameters) == (21, 20)
    assert found.input_mb == 36 * 8 / 2**20
    assert (net.training, net.conv.training, net.drop.training) == (True, True, False)
    assert not net.conv._forward_hooks


def test_a_hook_may_replace_the_output_and_be_removed():
    layer = nn.ReLU()
    handle = layer.register_forward_hook(lambda module, inputs, output: output + inputs[0].size)
    assert layer(np.array([-1.0, 2.0])).tolist() == [2, 4]
    handle.remove()
    handle.remove()
    assert layer(np.array([-1.0, 2.0])).tolist() == [0, 2]


def test_module_list():
    layers = nn.ModuleList([nn.Linear(2, 2), nn.ReLU()]).append(nn.Linear(2, 1))
    assert [type(layer).__name__ for layer in layers] == ["Linear", "ReLU", "Linear"]
    assert list(layers.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert isinstance(layers[1:], nn.ModuleList)
    assert list(layers[1:].state_dict()) == ["1.weight", "1.bias"]
    with pytest.raises(TypeError, match=r"modules\[0\]=3"):
        nn.ModuleList([3])


def test_the_command_shows_the_table(capsys):
    words = ["summary", "vgg16", "--input", "3,224,224", "--options", "num_classes=None", "avgpool=False"]
    assert cli.main(words) == 0
    assert "Estimated Total Size (MB): 731.32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["vgg", "--input", "3,32,32"], "model='vgg'"),
        (["vgg11", "--input", "3x32"], "input='3x32'"),
        (["lenet5", "--input", "3,32,32"], "needs 1 channels"),
        (["vgg11", "--input", "3,32,32", "--options", "num_classes"], "options='num_classes'"),
        (["lenet5", "--input", "1,28,28", "--batch-size", "0"], "batch_size=0"),
    ],
)
def test_a_wrong_command_says_what_is_wrong(words, named, capsys):
    with pytest.raises(SystemExit):
        cli.main(["summary", *words])
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: models.VGG(12), ValueError, "depth=12"),
        (lambda: models.vgg11(num_classes=0), ValueError, "num_classes=0"),
        (lambda: fastconv.summary(3, (1,)), TypeError, "model=3"),
        (lambda: fastconv.summary(nn.ReLU(), 3), TypeError, "input_size=3"),
        (lambda: fastconv.summary(nn.ReLU(), (0,)), ValueError, "input_size=0"),
    ],
)
def test_wrong_calls_say_what_is_wrong(call, error, words):
    with pytest.raises(error, match=words):
        call()
