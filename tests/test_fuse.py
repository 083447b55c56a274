"""nn.fuse: the same outputs from fewer layers, and nothing folded that must not be."""

import copy

import numpy as np
import pytest

from fastconv import nn, no_grad
from fastconv.tensors import Tensor

GENERATOR = np.random.default_rng(11)


def images(*shape, dtype="float32"):
    return GENERATOR.standard_normal(shape).astype(dtype)


def settled(model):
    """The model in evaluation mode, its running statistics and affine parameters no longer 0 and 1."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.copy_(GENERATOR.normal(0, 0.5, module.num_features))
            module.running_var.copy_(GENERATOR.uniform(0.2, 3, module.num_features))
            if module.weight is not None:
                module.weight.data.copy_(GENERATOR.normal(1, 0.5, module.num_features))
                module.bias.data.copy_(GENERATOR.normal(0, 0.5, module.num_features))
    return model.eval()


def kinds(model):
    return [type(module).__name__ for module in model.modules() if not list(module.children())]


def assert_same(model, fused, x, ulps=40):
    """Outputs agree to `ulps` of the largest one: as many as sums of some dozens of terms may differ by."""
    wanted, found = model(x), fused(x)
    assert found.dtype == wanted.dtype
    np.testing.assert_allclose(found, wanted, rtol=0, atol=ulps * np.finfo(x.dtype).eps * np.abs(wanted).max())


ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ["", *ACTIVATIONS])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_conv_norm_activation(dtype, activation, bias, affine):
    layers = [nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=bias, dtype=dtype)]
    layers += [nn.BatchNorm2d(6, affine=affine, dtype=dtype), *([ACTIVATIONS[activation]()] if activation else [])]
    model = settled(nn.Sequential(*layers))
    fused = nn.fuse(model)
    assert kinds(fused) == ["Conv2d"] + ["Identity"] * (len(layers) - 1)
    assert fused[0].activation == activation
    assert fused[0].weight.dtype == fused[0].bias.dtype == dtype
    assert_same(model, fused, images(2, 4, 9, 11, dtype=dtype))


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_the_fold_is_rounded_once(mode):
    model = settled(nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, padding_mode=mode), nn.BatchNorm2d(5)))
    conv, norm = model
    fused = nn.fuse(model)
    gain = np.float64(norm.weight._array) / np.sqrt(np.float64(norm.running_var._array) + norm.eps)
    weight = np.float64(conv.weight._array) * gain[:, None, None, None]
    bias = (np.float64(conv.bias._array) - norm.running_mean._array) * gain + norm.bias._array
    np.testing.assert_array_equal(fused[0].weight._array, weight.astype(np.float32))
    np.testing.assert_array_equal(fused[0].bias._array, bias.astype(np.float32))
    assert_same(model, fused, images(2, 3, 8, 7))


class Branches(nn.Module):
    """Sequentials in Sequentials, in a list and beside each other."""

    def __init__(self):
        super().__init__()
        inner = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.stem = nn.Sequential(inner, nn.ReLU(), nn.Conv2d(4, 4, 1, bias=False), nn.Sequential(nn.BatchNorm2d(4)))
        self.parts = nn.ModuleList([nn.Sequential(nn.Conv2d(4, 2, k, padding=k // 2), nn.Tanh()) for k in (1, 3)])
        self.alone = nn.Conv2d(4, 3, 1)
        self.head = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 5), nn.ReLU())

    def forward(self, x):
        x = self.stem(x)
        x = self.alone(np.concatenate([part(x) for part in self.parts], axis=1))
        return self.head(np.concatenate([x, x[:, :1]], axis=1))


def test_nested_modules_keep_their_names():
    model = settled(Branches())
    fused = nn.fuse(model)
    assert [name for name, _ in fused.named_modules()] == [name for name, _ in model.named_modules()]
    assert kinds(fused.stem) == ["Conv2d", "Identity", "Identity", "Conv2d", "Identity"]
    assert [kinds(part) for part in fused.parts] == [["Conv2d", "Identity"]] * 2
    assert kinds(fused.head) == kinds(model.head)
    assert fused.stem[0][0].activation == "relu"
    assert_same(model, fused, images(2, 3, 4, 4))


def test_the_model_is_left_as_it_is():
    model = settled(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU()))
    before, text = model.state_dict(), repr(model)
    fused = nn.fuse(model)
    assert repr(model) == text
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    fused[0].weight.data.fill_(0)
    assert model[0].weight._array.any()
    assert not any(module.training for module in fused.modules())


def test_the_copy_is_in_evaluation_mode_and_shows_its_activation():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU())
    fused = nn.fuse(model)
    assert model.training
    assert not fused.training
    assert "activation=relu" in repr(fused[0])
    assert "activation" not in repr(model[0])
    assert_same(model.eval(), nn.fuse(fused), images(1, 2, 5, 6))


def test_state_of_a_fused_model_loads():
    def make():
        return settled(nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1)))

    one, other = nn.fuse(make()), nn.fuse(make())
    assert list(one.state_dict()) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    x = images(2, 2, 6, 5)
    assert not np.allclose(one(x), other(x))
    other.load_state_dict(one.state_dict())
    np.testing.assert_array_equal(one(x), other(x))


def test_a_fused_model_still_has_gradients():
    """Of the parts: what is recorded is a convolution and then an activation."""
    model = settled(nn.Sequential(nn.Conv2d(2, 3, 3, dtype="float64"), nn.BatchNorm2d(3, dtype="float64"), nn.Tanh()))
    fused = nn.fuse(model)
    a, b = (Tensor(images(2, 2, 6, 5, dtype="float64"), requires_grad=True) for _ in range(2))
    b.data.copy_(a.data)
    model(a).sum().backward()
    fused(b).sum().backward()
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), atol=1e-12)
    assert fused[0].weight.grad is not None
    with no_grad():
        np.testing.assert_allclose(fused(a).numpy(), fused(a.detach().numpy()), atol=1e-12)


def block():
    return settled(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()))


def hooked(which):
    model = block()
    model[which].register_forward_hook(lambda module, inputs, output: output * 2)
    return model


def shared_conv():
    conv = nn.Conv2d(3, 3, 3, padding=1)
    return settled(nn.Sequential(conv, nn.BatchNorm2d(3), conv, nn.ReLU()))


def shared_norm():
    norm = nn.BatchNorm2d(3)
    return settled(nn.Sequential(nn.Conv2d(3, 3, 1), norm, nn.Conv2d(3, 3, 1), norm))


def shared_weight():
    model = block()
    model.append(nn.Conv2d(3, 3, 3, padding=1))
    model[3].weight = model[0].weight
    return model


def shared_chain():
    inner = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    return settled(nn.Sequential(inner, nn.BatchNorm2d(3), inner, nn.ReLU()))


class Twice(nn.ReLU):
    def forward(self, x):
        return 2 * super().forward(x)


class Backwards(nn.Sequential):
    def forward(self, x):
        for module in reversed(self._modules.values()):
            x = module(x)
        return x


LEFT = {
    "hook on the convolution": (lambda: hooked(0), ["Conv2d", "BatchNorm2d", "ReLU"]),
    "hook on the normalisation": (lambda: hooked(1), ["Conv2d", "BatchNorm2d", "ReLU"]),
    "hook on the activation": (lambda: hooked(2), ["Conv2d", "Identity", "ReLU"]),
    "convolution used twice": (shared_conv, ["Conv2d", "BatchNorm2d", "ReLU"]),
    "normalisation used twice": (shared_norm, ["Conv2d", "BatchNorm2d", "Conv2d"]),
    "weight used twice": (shared_weight, ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d"]),
    "chain used twice": (shared_chain, ["Conv2d", "Conv2d", "BatchNorm2d", "ReLU"]),
    "activation of one's own": (lambda: nn.Sequential(nn.Conv2d(3, 3, 1), Twice()), ["Conv2d", "Twice"]),
    "chain of one's own": (lambda: Backwards(nn.Conv2d(3, 3, 1), nn.ReLU()), ["Conv2d", "ReLU"]),
    "statistics of the batch": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()).eval(),
        ["Conv2d", "BatchNorm2d", "ReLU"],
    ),
    "activation before the normalisation": (
        lambda: settled(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3))),
        ["Conv2d", "Identity", "BatchNorm2d"],
    ),
    "second activation": (
        lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.Tanh(), nn.Sigmoid()),
        ["Conv2d", "Identity", "Sigmoid"],
    ),
    "linear": (lambda: nn.Sequential(nn.Linear(5, 5), nn.ReLU()), ["Linear", "ReLU"]),
}


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name):
    make, wanted = LEFT[name]
    model = make().eval()
    fused = nn.fuse(model)
    assert kinds(fused) == wanted
    assert_same(model, fused, images(2, 3, 6, 5))


def test_a_hook_on_a_sequential_sees_what_it_saw():
    inner = block()
    seen = []
    inner.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model = nn.Sequential(inner, nn.Sigmoid()).eval()
    fused = nn.fuse(model)
    assert kinds(fused) == ["Conv2d", "Identity", "Identity", "Sigmoid"]
    assert_same(model, fused, images(2, 3, 6, 5))
    assert len(seen) == 2
    np.testing.assert_allclose(seen[0], seen[1], atol=1e-5)


def test_a_mismatch_raises_as_before():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(3)).eval()
    with pytest.raises(ValueError, match="C = 3"):
        nn.fuse(model)(images(1, 3, 2, 2))


def test_errors():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)))
    with pytest.raises(ValueError, match=r"model: 0\.1 is in training mode; call model\.eval\(\)"):
        nn.fuse(model)
    with pytest.raises(TypeError, match=r"needs an nn\.Module, got list"):
        nn.fuse([nn.ReLU()])


def test_a_lone_layer_is_copied():
    layer = nn.Conv2d(2, 3, 3)
    fused = nn.fuse(layer)
    assert fused is not layer
    np.testing.assert_array_equal(fused.weight._array, layer.weight._array)
    assert isinstance(copy.deepcopy(fused), nn.Conv2d)
