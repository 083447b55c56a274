"""CuPy arrays through functions, layers and training, on a stand-in for CuPy whose kernels the executor runs.

What this shows is the way to the kernels and back; what only a device can show is in tests/gpu.
"""

import json
import os
import re
import sys

import cupy_standin
import numpy as np
import pytest
from cupy.cuda import nvrtc
from helpers import HERE, child

import fastconv
from fastconv import Tensor, cli, device, functional, nn, optim, registry
from fastconv.kernels.cuda import builds, launch
from fastconv.models import lenet5
from fastconv.nn import functional as F
from fastconv.problem import ConvProblem, PoolProblem
from fastconv.registry import kernels


@pytest.fixture
def cp(monkeypatch):
    with cupy_standin.installed(monkeypatch) as module:
        yield module


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def close(found, wanted, cp):
    assert type(found) is cp.ndarray
    np.testing.assert_allclose(found.get(), wanted, rtol=1e-3, atol=1e-4)


IMAGES, LINE, ROWS = (2, 3, 9, 8), (2, 3, 9), (4, 5)
LAYERS = {
    "conv2d": (lambda: nn.Conv2d(3, 6, 3, padding=1), IMAGES),
    "conv2d of groups and strides": (lambda: nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3), IMAGES),
    "conv2d, reflected": (lambda: nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"), IMAGES),
    "conv1d": (lambda: nn.Conv1d(3, 6, 3, padding=1), LINE),
    "linear": (lambda: nn.Linear(5, 7), ROWS),
    "linear over more": (lambda: nn.Linear(5, 7, bias=False), (2, 4, 5)),
    "max pool": (lambda: nn.MaxPool2d(2), IMAGES),
    "avg pool": (lambda: nn.AvgPool2d(3, 2, 1), IMAGES),
    "adaptive avg pool": (lambda: nn.AdaptiveAvgPool2d((4, 3)), IMAGES),
    "adaptive max pool": (lambda: nn.AdaptiveMaxPool2d((4, 3)), IMAGES),
    "relu": (nn.ReLU, ROWS),
    "tanh": (nn.Tanh, ROWS),
    "sigmoid": (nn.Sigmoid, ROWS),
    "softmax": (lambda: nn.Softmax(1), ROWS),
    "batch norm": (lambda: nn.BatchNorm2d(3), IMAGES),
    "layer norm": (lambda: nn.LayerNorm(5), ROWS),
    "lstm": (lambda: nn.LSTM(5, 7), (3, 2, 5)),
    "gru, both ways": (lambda: nn.GRU(5, 7, bidirectional=True), (3, 2, 5)),
    "rnn": (lambda: nn.RNN(5, 7), (3, 2, 5)),
    "lstm with zoneout": (lambda: nn.LSTM(5, 7, zoneout=(0.1, 0.1)), (3, 2, 5)),
    "lstm cell": (lambda: nn.LSTMCell(5, 7), (2, 5)),
}


def flat(value):
    return [one for part in value for one in flat(part)] if isinstance(value, tuple) else [value]


@pytest.mark.parametrize("name", LAYERS)
def test_layers_in_evaluation(cp, name):
    make, shape = LAYERS[name]
    layer, x = make().eval(), random(*shape)
    wanted = flat(layer(x))
    layer.cuda()
    for _ in range(3):
        for found, y in zip(flat(layer(cp.asarray(x))), wanted, strict=True):
            close(found, y, cp)
    layer.cpu()
    for found, y in zip(flat(layer(x)), wanted, strict=True):
        np.testing.assert_array_equal(found, y)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients(cp, name):
    make, shape = LAYERS[name]
    layer, x = make(), random(*shape)
    if name == "lstm with zoneout":
        # Not drawn again: the same units would have to be kept.
        layer.eval()

    def gradients(data):
        layer.zero_grad()
        x = Tensor(data, requires_grad=True)
        y = flat(layer(x))[0]
        (y * y).sum().backward()
        return [y.detach()._array, x.grad._array, *(p.grad._array for p in layer.parameters())]

    wanted = gradients(x)
    layer.cuda()
    for found, y in zip(gradients(cp.asarray(x)), wanted, strict=True):
        close(found, y, cp)


@pytest.mark.parametrize("optimiser", [lambda p: optim.SGD(p, lr=0.1, momentum=0.9), lambda p: optim.Adam(p, lr=0.01)])
@pytest.mark.parametrize(("activation", "pool"), [(nn.Sigmoid, nn.AvgPool2d), (nn.ReLU, nn.MaxPool2d)])
def test_lenet_trains_wholly_on_the_device(cp, optimiser, activation, pool):
    """Every step's loss is the CPU's, and between first input and last loss nothing is copied to main memory."""
    images, classes = random(4, 1, 28, 28), np.array([3, 1, 4, 1])
    fastconv.manual_seed(1)
    here = lenet5(activation=activation, pool=pool)
    there = lenet5(activation=activation, pool=pool)
    there.load_state_dict(here.state_dict())
    there.cuda()

    def losses(model, images, classes):
        steps, found = optimiser(model.parameters()), []
        for _ in range(3):
            steps.zero_grad()
            loss = F.cross_entropy(model(Tensor(images)), classes)
            loss.backward()
            steps.step()
            found.append(loss)
        return found

    wanted = losses(here, images, classes)
    given = cp.asarray(images), cp.asarray(classes)
    cupy_standin.copies.clear()
    found = losses(there, *given)
    assert not cupy_standin.copies
    np.testing.assert_allclose([loss.item() for loss in found], [loss.item() for loss in wanted], rtol=2e-4)
    for a, b in zip(there.parameters(), here.parameters(), strict=True):
        close(a._array, b._array, cp)
    launched = cupy_standin.RawModule.launched
    kernels = {"activate", "gradient", "cross_entropy", "reduce_losses", "scale_rows", "gemm"}
    kernels |= {"sgd", "adam"} & set(launched) or {"sgd or adam"}
    assert kernels <= set(launched)


def test_array_functions(cp):
    x, w, b = random(2, 3, 9, 8), random(5, 3, 3, 3), random(5)
    on = cp.asarray
    y = functional.conv2d(on(x), on(w), on(b), padding=1, activation="relu")
    close(y, functional.conv2d(x, w, b, padding=1, activation="relu"), cp)
    gy = random(*y.shape, seed=1)
    close(
        functional.conv2d_grad_input(x.shape, on(w), on(gy), padding=1),
        functional.conv2d_grad_input(x.shape, w, gy, padding=1),
        cp,
    )
    close(
        functional.conv2d_grad_weight(on(x), w.shape, on(gy), padding=1),
        functional.conv2d_grad_weight(x, w.shape, gy, padding=1),
        cp,
    )
    for found, wanted in zip(
        functional.max_pool2d_with_indices(on(x), 2), functional.max_pool2d_with_indices(x, 2), strict=True
    ):
        close(found, wanted, cp)
    weights = random(1, 28, 3), random(1, 28, 7)
    sequence = random(5, 2, 3)
    lengths = np.array([5, 2])
    wanted = functional.lstm(sequence, *weights, lengths=lengths)
    for found, one in zip(functional.lstm(on(sequence), *map(on, weights), lengths=on(lengths)), wanted, strict=True):
        close(found, one, cp)


@pytest.mark.parametrize("options", [{}, {"padding_idx": 2}, {"scale_grad_by_freq": True}, {"max_norm": 1.0}])
def test_embedding(cp, options):
    numbers = np.array([[3, 1, 2], [3, 3, 0]])

    def both(numbers, weight):
        table = nn.Embedding.from_pretrained(weight, freeze=False, **options)
        y = table(Tensor(numbers))
        (y * y).sum().backward()
        return y.detach()._array, table.weight.grad._array

    weight = random(5, 4)
    on = cp.asarray(numbers), cp.asarray(weight)
    for found, wanted in zip(both(*on), both(numbers, weight), strict=True):
        close(found, wanted, cp)
    with pytest.raises(TypeError, match="on the CPU"):
        F.embedding(numbers, cp.asarray(weight))


def test_named_recurrent_kernels_from_call_to_call(cp):
    x = random(3, 2, 5)
    for layer in (nn.LSTM(5, 7, algorithm="persistent"), nn.GRU(5, 7, algorithm="persistent")):
        with fastconv.use():
            wanted = type(layer)(5, 7)
        wanted.load_state_dict(layer.state_dict())
        y = wanted.eval()(x)[0]
        layer.cuda().eval()
        for _ in range(3):
            close(layer(cp.asarray(x))[0], y, cp)


def test_packed_sequences(cp):
    x, lengths = random(4, 3, 5), [2, 4, 1]

    def both(x):
        x = Tensor(x, requires_grad=True)
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        y, counts = nn.utils.rnn.pad_packed_sequence(packed)
        (y * y).sum().backward()
        return y.detach()._array, x.grad._array, counts

    for found, wanted in zip(both(cp.asarray(x))[:2], both(x)[:2], strict=True):
        close(found, wanted, cp)
    lstm = nn.LSTM(5, 7).eval()
    packed = nn.utils.rnn.pack_padded_sequence
    wanted = lstm(packed(x, lengths, enforce_sorted=False))[0].data
    close(lstm.cuda()(packed(cp.asarray(x), lengths, enforce_sorted=False))[0].data, wanted, cp)
    close(
        nn.utils.rnn.pad_sequence([cp.asarray(x[:2, 0]), cp.asarray(x[:, 1])]),
        np.stack([np.concatenate([x[:2, 0], np.zeros((2, 5), np.float32)]), x[:, 1]], 1),
        cp,
    )


def test_fused_networks(cp):
    net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()).eval()
    net[1].running_mean.copy_(random(6))
    x = random(*IMAGES)
    wanted = net(x)
    fused = nn.fuse(net.cuda())
    assert {p.device for p in fused.parameters()} == {"cuda:0"}
    close(fused(cp.asarray(x)), wanted, cp)


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 0.0, float("inf"), float("-inf")])
def test_clipping(cp, norm_type):
    a, b = (nn.Linear(3, 4) for _ in range(2))
    b.load_state_dict(a.state_dict())
    b.cuda()
    x = random(5, 3)
    a(Tensor(x)).sum().backward()
    b(Tensor(cp.asarray(x))).sum().backward()
    totals = [nn.utils.clip_grad_norm_(layer.parameters(), 0.5, norm_type).item() for layer in (a, b)]
    assert totals[1] == pytest.approx(totals[0], rel=1e-5)
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        close(q.grad._array, p.grad.numpy(), cp)
    nn.utils.clip_grad_value_(b.parameters(), 0.01)


def test_one_hot(cp):
    labels = np.array([[0, 2], [1, 1]])
    np.testing.assert_array_equal(F.one_hot(cp.asarray(labels)).get(), F.one_hot(labels))
    np.testing.assert_array_equal(F.one_hot(cp.asarray(labels), 5).get(), F.one_hot(labels, 5))


def test_memory_of_others_is_never_taken_for_our_own(cp):
    """Else a change of it would go unseen by what is kept of weights."""
    w = random(5, 3, 3, 3)
    layer = nn.Conv2d(3, 5, 3, bias=False).eval()
    layer.weight = nn.Parameter(Foreign(w, "interface"))
    x = cp.asarray(random(*IMAGES))
    first = layer(x).get()
    layer(x)
    w *= 2
    np.testing.assert_allclose(layer(x).get(), 2 * first, rtol=1e-5)


def test_labels_and_gradients_must_be_there_too(cp):
    logits = cp.asarray(random(4, 5))
    with pytest.raises(TypeError, match="target: is a ndarray on the CPU"):
        F.cross_entropy(logits, np.array([1, 2, 3, 4]))
    with pytest.raises(TypeError, match="input: is a ndarray on the CPU"):
        F.cross_entropy(random(4, 5), cp.asarray(np.array([1, 2, 3, 4])))
    with pytest.raises(TypeError, match="weight: is a ndarray on the CPU"):
        F.cross_entropy(logits, cp.asarray(np.array([1, 2, 3, 4])), np.ones(5, np.float32))
    layer = nn.Linear(3, 2).cuda()
    layer.weight.grad = Tensor(random(2, 3))
    with pytest.raises(TypeError, match="gradient: is a ndarray on the CPU"):
        optim.SGD(layer.parameters(), lr=0.1).step()


class Elsewhere:
    """The stand-in's current device, while it lasts, is another than the one that has the arrays."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch

    def __enter__(self):
        self.monkeypatch.setattr(cupy_standin.Device, "current", 1)

    def __exit__(self, *_):
        self.monkeypatch.setattr(cupy_standin.Device, "current", 0)


def test_arrays_must_be_on_the_current_device(cp, monkeypatch):
    x, w = cp.asarray(random(1, 3, 8, 8)), cp.asarray(random(5, 3, 3, 3))
    with (
        Elsewhere(monkeypatch),
        pytest.raises(ValueError, match=r"x: is on cuda:0, needs CuPy's current device, cuda:1"),
    ):
        functional.conv2d(x, w)
    with Elsewhere(monkeypatch), pytest.raises(ValueError, match="needs CuPy's current device"):
        F.relu(x)


def test_no_device_has_such_a_grid(cp):
    with pytest.raises(ValueError, match=r"grid=\(1, 70000\) of pack: needs at most"):
        launch.launch("rnn.cu", "pack", (1, 70_000), (256,), (), CELL=0, ROWS=16)
    tall = ConvProblem.make((1, 4, 600_000, 4), (4, 2, 1, 1), groups=2)
    with pytest.raises(fastconv.Unsupported, match="no kernel can do"):
        registry.choose("conv2d", tall, backend="cuda")


def test_ctc_is_for_the_cpu(cp):
    x = F.log_softmax(cp.asarray(random(5, 2, 4)), 2)
    with pytest.raises(TypeError, match="log_probs: is on cuda:0, needs an array on the CPU"):
        F.ctc_loss(x, np.array([[1, 2], [1, 3]]), [5, 5], [2, 2])


@pytest.mark.parametrize("size", [(4, 3), (3, 5)])
def test_adaptive_maxima_have_their_places(cp, size):
    x = np.round(random(2, 3, 9, 8))
    for found, wanted in zip(
        F.adaptive_max_pool2d(cp.asarray(x), size, True), F.adaptive_max_pool2d(x, size, True), strict=True
    ):
        np.testing.assert_array_equal(found.get(), wanted)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"ignore_index": 2}, {"reduction": "none"}])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(6, 5), (5,), (2, 5, 3)])
def test_cross_entropy(cp, shape, weighted, options):
    x, generator = random(*shape), np.random.default_rng(3)
    labels = generator.integers(0, 5, shape[:1] + shape[2:] if len(shape) > 1 else ())
    weight = np.abs(random(5)) if weighted else None

    def both(x, labels, weight):
        x = Tensor(x, requires_grad=True)
        loss = F.cross_entropy(x, labels, weight, **options)
        loss.sum().backward()
        return loss.detach()._array, x.grad._array

    on = (cp.asarray(x), cp.asarray(labels), None if weight is None else cp.asarray(weight))
    for found, wanted in zip(both(*on), both(x, labels, weight), strict=True):
        close(found, wanted, cp)
    with pytest.raises(ValueError, match="target="):
        F.cross_entropy(on[0], cp.asarray(np.zeros((7, 7), np.int64)))


def test_no_images(cp):
    y = functional.conv2d(cp.asarray(random(0, 3, 9, 8)), cp.asarray(random(5, 3, 3, 3)))
    assert type(y) is cp.ndarray
    assert y.shape == (0, 5, 7, 6)
    gw = functional.conv2d_grad_weight(cp.asarray(random(0, 3, 9, 8)), (5, 3, 3, 3), y)
    assert not gw.get().any()


@pytest.mark.parametrize("cut", [(slice(None), slice(None), slice(1, None), slice(None, None, 2)), (slice(1, None),)])
def test_views_are_copied_where_kernels_need_it(cp, cut):
    """Strided ones, and those that do not begin where four floats may be read at once."""
    x, w = random(2, 3, 9, 9), random(5, 3, 3, 3)
    close(functional.conv2d(cp.asarray(x)[cut], cp.asarray(w)), functional.conv2d(x[cut], w), cp)
    row = cp.asarray(random(1, 4097))[:, 1:]
    assert row.data.ptr % 16
    assert not device.prepared(row).data.ptr % 16


class Foreign:
    """An array of another library on a device, by either protocol."""

    def __init__(self, a, protocol):
        self.a = a
        if protocol == "interface":
            self.__cuda_array_interface__ = {**a.__array_interface__, "version": 3}
        else:
            self.__dlpack_device__ = lambda: (2, 0)

    def on_host(self):
        return self.a


@pytest.mark.parametrize("protocol", ["interface", "dlpack"])
def test_arrays_of_other_libraries(cp, protocol):
    x, w = random(2, 3, 9, 8), random(5, 3, 3, 3)
    wanted = functional.conv2d(x, w)
    close(functional.conv2d(Foreign(x, protocol), Foreign(w, protocol)), wanted, cp)
    layer = nn.Conv2d(3, 5, 3, bias=False)
    layer.load_state_dict({"weight": w})
    close(layer.cuda().eval()(Foreign(x, protocol)), wanted, cp)
    assert Tensor(Foreign(x, protocol)).device == "cuda:0"
    shared = device.foreign(Foreign(x, protocol))
    x[0, 0, 0, 0] = 7
    assert shared[0, 0, 0, 0].item() == 7, "the memory is the same"


def test_tensors_move(cp):
    x = Tensor(random(2, 3), requires_grad=True)
    y = x.to("cuda")
    assert (x.device, y.device, y.cpu().device) == ("cpu", "cuda:0", "cpu")
    assert y.to("cuda:0") is y
    assert y.to("cuda", "float64").dtype == "float64"
    (y * y).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * x.detach().numpy(), rtol=1e-6)
    with pytest.raises(TypeError, match=r"tensor\.cpu\(\)"):
        y.detach().numpy()
    assert "device='cuda:0'" in repr(y.detach())
    for wrong, error in (("gpu", ValueError), ("cuda:x", ValueError), ("cuda:7", ValueError), ("cpu:1", ValueError)):
        with pytest.raises(error, match="device="):
            device.moved(random(1), wrong)
    with pytest.raises(TypeError, match="device=3"):
        device.moved(random(1), 3)


def test_a_layer_keeps_its_optimiser_and_its_file(cp, tmp_path):
    layer = nn.Linear(3, 2)
    steps = optim.SGD(layer.parameters(), lr=1.0)
    layer.cuda()
    before = layer.weight._array.get()
    layer(Tensor(cp.asarray(random(4, 3)))).sum().backward()
    steps.step()
    assert not np.array_equal(layer.weight._array.get(), before)
    fastconv.save(layer, tmp_path / "layer.safetensors")
    other = nn.Linear(3, 2)
    other.load_state_dict(fastconv.load(tmp_path / "layer.safetensors"))
    np.testing.assert_array_equal(other.weight.detach().numpy(), layer.weight._array.get())
    layer.load_state_dict(other.state_dict())
    assert layer.weight.device == "cuda:0"


def test_arrays_must_be_together(cp):
    x, w = random(2, 3, 9, 8), random(5, 3, 3, 3)
    with pytest.raises(TypeError, match="w: is a ndarray on the CPU, needs a CuPy array"):
        functional.conv2d(cp.asarray(x), w)
    with pytest.raises(TypeError, match="x: is a ndarray on the CPU, needs a CuPy array"):
        functional.conv2d(x, cp.asarray(w))
    with pytest.raises(TypeError, match="on the CPU"):
        nn.Conv2d(3, 5, 3)(cp.asarray(x))
    weights = cp.asarray(random(1, 28, 3)), cp.asarray(random(1, 28, 7))
    with pytest.raises(TypeError, match="lengths: is a ndarray on the CPU"):
        functional.lstm(cp.asarray(random(5, 2, 3)), *weights, lengths=np.array([5, 2]))
    with pytest.raises(TypeError, match="dtype"):
        functional.conv2d(cp.asarray(x), cp.asarray(w.astype(np.float64)))
    with pytest.raises(ValueError, match="4 channels"):
        functional.conv2d(cp.asarray(x), cp.asarray(random(5, 4, 3, 3)))


def test_names_and_backends(cp):
    x, w = random(1, 3, 8, 8), random(5, 3, 3, 3)
    on = cp.asarray(x), cp.asarray(w)
    with fastconv.use("conv2d/direct/cuda"):
        functional.conv2d(*on)
        functional.conv2d(x, w)
    assert "direct" in cupy_standin.RawModule.launched, cupy_standin.RawModule.launched
    with fastconv.use("conv2d/im2col"), pytest.raises(ValueError, match="conv2d on cuda needs 'auto' or one of"):
        functional.conv2d(*on)
    with fastconv.use("conv2d/im2col/cpu"):
        functional.conv2d(*on)
    with pytest.raises(ValueError, match="needs op/algorithm"):
        fastconv.use("conv2d/im2col/cuda")
    with pytest.raises(fastconv.Unsupported, match="conv2d/winograd_f2/cuda"):
        functional.conv2d(cp.asarray(x), cp.asarray(random(5, 3, 2, 2)), algorithm="winograd_f2")


def test_tensor_cores_are_always_named(cp):
    with fastconv.precision("fast"):
        for problem in (
            ConvProblem.make((8, 64, 56, 56), (64, 64, 3, 3)),
            ConvProblem.make((1, 3, 9, 9), (4, 3, 3, 3)),
        ):
            assert registry.choose("conv2d", problem, backend="cuda").limit <= 25


def test_what_a_device_is_too_old_for():
    problem = ConvProblem.make((1, 3, 9, 9), (4, 3, 3, 3))
    turing = launch.Device("Turing", 68, 1024, 64 * 1024, capability=75)
    for name in ("tf32", "half", "bfloat16"):
        assert registry.choose("conv2d", problem, f"implicit_{name}", "cuda").algorithm == f"implicit_{name}"
    with launch.running(launch.Emulated(device=turing)):
        assert registry.choose("conv2d", problem, "implicit_half", "cuda").algorithm == "implicit_half"
        for name in ("tf32", "bfloat16"):
            with pytest.raises(fastconv.Unsupported, match=r"compute capability 7\.5, needs 8\.0"):
                registry.choose("conv2d", problem, f"implicit_{name}", "cuda")


def test_explain(cp):
    layer = nn.Conv2d(3, 6, 3, padding=1).cuda().eval()
    x = cp.asarray(random(1, 3, 8, 8))
    shown = str(fastconv.explain(layer, x, measure=True, ops=["conv2d"]))
    for kernel in kernels("conv2d", "cuda"):
        assert kernel.name in shown
    assert "FAIL" not in shown
    assert "stand-in" in shown
    problem = PoolProblem.make((1, 3, 8, 8), 2)
    assert "max_pool2d/direct/cuda" in str(fastconv.explain(problem, backend="cuda"))
    assert "cuda" not in str(fastconv.explain(problem)).replace("cuda:", "")
    with pytest.raises(ValueError, match="backend='tpu'"):
        fastconv.explain(problem, backend="tpu")


def test_the_command(cp, capsys, monkeypatch):
    assert cli.main(["explain", "conv2d", "1", "3", "9", "8", "4", "3", "--backend", "cuda", "--measure"]) == 0
    said = capsys.readouterr().out
    assert "conv2d/implicit/cuda" in said
    assert "stand-in for an A100" in said
    assert cli.main(["info", "--no-measure"]) == 0
    assert "device: stand-in for an A100 (cuda:0)" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "cupy", None)
    device.cupy.cache_clear()
    with pytest.raises(SystemExit):
        cli.main(["explain", "tiny", "--backend", "cuda"])
    assert "--backend cuda: CUDA needs CuPy, which is not installed" in capsys.readouterr().err
    assert cli.main(["info", "--no-measure"]) == 0
    assert "device: none. CUDA needs CuPy" in capsys.readouterr().out


def test_tables_are_uploaded_once(cp):
    x, w = cp.asarray(random(1, 3, 8, 8)), cp.asarray(random(5, 3, 3, 3))
    with fastconv.use("conv2d/implicit/cuda"):
        functional.conv2d(x, w)
        tables = len(launch._cupy()._tables)
        functional.conv2d(x, w)
    assert tables == len(launch._cupy()._tables) > 0


@pytest.mark.parametrize("file", sorted(builds.BUILDS))
def test_a_source_stands_alone(file):
    """CuPy knows what it compiled by its text, so that no header of ours may be outside of it; its NVRTC takes it."""
    source = launch.source(file)
    assert '.cuh"' not in source
    assert "#pragma once" not in source
    defines = [f"-D{name}={value}" for name, value in builds.BUILDS[file][0].items()]
    folders = [f"-I{folder}" for folder in launch.include_folders()]
    program = nvrtc.createProgram(source, file, (), ())
    try:
        nvrtc.compileProgram(program, ("-arch=sm_80", "-std=c++17", "-ftz=true", *folders, *defines))
        assert nvrtc.getCUBIN(program)
    finally:
        nvrtc.destroyProgram(program)


# What waits for a device, on the stand-in: none of it is broken in itself.


def on_the_standin(*arguments, **environment):
    path = os.pathsep.join([str(HERE / "standin"), str(HERE)])
    return child("-m", "pytest", "-q", "-o", "addopts=", *arguments, PYTHONPATH=path, **environment)


def test_the_tests_for_a_device_run():
    """One small case of every operation, and streams; what trains stands above."""
    chosen = "conv-one-pixel or pool-1x1 or linear-one or lstm-one-step or stream"
    done = on_the_standin("tests/test_gpu.py", "-k", chosen)
    assert re.search(r"^\d+ passed", done.stdout.splitlines()[-1]), done.stdout[-3000:] + done.stderr
    assert "no device" not in done.stdout


def test_the_benchmarks_for_a_device_run(tmp_path):
    arguments = ("--benchmark", "-k", "lenet-pool1-cuda and max_pool2d_grad", f"--journal={tmp_path / 'journal'}")
    file = tmp_path / "run.json"
    done = on_the_standin(*arguments, f"--benchmark-json={file}", FASTCONV_PEERS=tmp_path / "none")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    rows = json.loads(file.read_text(encoding="utf-8"))["benchmarks"]
    kernel = next(row for row in rows if row["extra_info"]["role"] == "kernel")
    assert kernel["extra_info"]["machine"].startswith("stand-in for an A100")
    assert kernel["extra_info"]["error"] == 0
    assert kernel["stats"]["median"] > 0


# Without a device. CuPy itself is here, and finds no driver.


@pytest.mark.parametrize(
    "asking",
    [
        "nn.Linear(2, 3).cuda()",
        "Tensor([1.0]).to('cuda')",
        "fastconv.explain(ConvProblem.make((1, 3, 8, 8), (5, 3, 3, 3)), backend='cuda')",
    ],
)
def test_without_a_device_there_is_one_clear_error(asking):
    names = "import fastconv; from fastconv import Tensor, nn; from fastconv.problem import ConvProblem"
    done = child(f"{names}\n{asking}", CUDA_VISIBLE_DEVICES="")
    said = done.stderr.splitlines()[-1]
    assert re.match(r"RuntimeError: CUDA needs NVIDIA's driver and a device; CuPy \d+.* finds none", said), done.stderr


def test_without_cupy_there_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    device.cupy.cache_clear()
    layer = nn.Linear(2, 3)
    with pytest.raises(RuntimeError, match=r"pip install 'fastconv\[cuda13\]'"):
        layer.cuda()
    assert layer.weight.device == "cpu"


def test_import_does_not_bring_cupy():
    program = """
import sys
import fastconv, fastconv.nn, fastconv.functional
import numpy as np
fastconv.nn.Conv2d(1, 2, 3)(np.zeros((1, 1, 8, 8), np.float32))
fastconv.registry.kernels(backend="cuda")
print("cupy" in sys.modules)
"""
    done = child(program)
    assert done.stdout.strip() == "False", done.stderr
