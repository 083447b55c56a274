"""Fewer layers for evaluation: batch normalisation and activations become part of the convolution before them."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any, TypeVar

import numpy as np

from fastconv.autograd import Array
from fastconv.device import moved
from fastconv.nn.activation import ReLU, Sigmoid, Tanh
from fastconv.nn.container import Sequential
from fastconv.nn.conv import Conv2d
from fastconv.nn.linear import Identity
from fastconv.nn.module import Module, Parameter
from fastconv.nn.normalization import BatchNorm2d
from fastconv.tensors import Tensor

M = TypeVar("M", bound=Module)

_ACTIVATIONS: dict[type[Module], str] = {ReLU: "relu", Sigmoid: "sigmoid", Tanh: "tanh"}

# A module where it stands: its parent and its name there.
_Place = tuple[Module, str, Module]


def fuse(model: M) -> M:
    """A copy of `model`, in evaluation mode, that computes the same with fewer passes over memory.

    In every Sequential, a Conv2d followed by a BatchNorm2d, an activation (ReLU, Sigmoid, Tanh) or both does their
    work: the normalisation goes into its weight and bias, in float64 and rounded once, and the activation becomes its
    attribute `activation`. An Identity stands where a module was, so that the others keep their names; a Sequential in
    a Sequential counts as if its modules stood in the outer one. The model is left as it is. The copy's state_dict has
    no keys of what was folded, and a bias for every convolution that took a normalisation.

    Left alone are: modules that are used in several places, share a parameter or have forward hooks, subclasses of
    these layers and of Sequential with a `forward` of their own, normalisations without running statistics or of
    another size or dtype, and what a module's own forward calls one by one. A Sequential is taken to be called as a
    whole.

    ValueError if a BatchNorm2d is in training mode, where it cannot be folded: call model.eval() first. TypeError if
    `model` is no Module. Source: torch.nn.utils.fuse_conv_bn_eval, torch.ao.quantization.fuse_modules.
    """
    if not isinstance(model, Module):
        raise TypeError(f"model={model!r:.60}: needs an nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        if isinstance(module, BatchNorm2d) and module.training:
            raise ValueError(f"model: {name or 'BatchNorm2d'} is in training mode; call model.eval() before nn.fuse")
    fused = copy.deepcopy(model).eval()
    uses = _Uses(fused)
    inlined: set[Module] = set()
    # Parents come first, so that what an outer chain takes in is known when its turn would come.
    for module in list(fused.modules()):
        if _is_chain(module) and module not in inlined:
            _fuse_chain(list(_flat(module, uses, inlined)), uses)
    return fused


class _Uses:
    """How often modules and parameters occur."""

    def __init__(self, model: Module) -> None:
        modules = list(model.modules())
        self.modules = Counter(child for m in modules for child in m._modules.values() if child is not None)
        self.tensors = Counter(id(tensor) for m in modules for tensor in _tensors(m))

    def free(self, module: Module, folds: bool) -> bool:
        """Whether the module may be changed; if it `folds`, its parameters, too."""
        own = self.modules[module] == 1 and not module._forward_hooks and "forward" not in module.__dict__
        return own and not (folds and any(self.tensors[id(tensor)] > 1 for tensor in _tensors(module)))


def _tensors(module: Module) -> list[Tensor]:
    return [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]


def _is_chain(module: Module) -> bool:
    """Whether calling the module is calling its children, one on the output of the other."""
    plain = isinstance(module, Sequential) and type(module).forward is Sequential.forward
    return plain and "forward" not in module.__dict__


def _flat(chain: Module, uses: _Uses, inlined: set[Module]) -> list[_Place]:
    """The modules of a Sequential in the order of their calls, those of Sequentials in it among them."""
    places: list[_Place] = []
    for name, module in chain._modules.items():
        if _is_chain(module) and uses.free(module, False):
            inlined.add(module)
            places += _flat(module, uses, inlined)
        else:
            places.append((chain, name, module))
    return places


def _fuse_chain(places: list[_Place], uses: _Uses) -> None:
    conv: Conv2d | None = None
    for parent, name, module in places:
        kind = type(module)
        if kind is Identity and not module._forward_hooks:
            continue
        if conv is not None and not conv.activation and uses.free(module, kind is BatchNorm2d):
            if kind in _ACTIVATIONS:
                conv.activation = _ACTIVATIONS[kind]
                parent._modules[name] = Identity().eval()
                continue
            if isinstance(module, BatchNorm2d) and kind is BatchNorm2d and _foldable(conv, module, uses):
                _fold(conv, module)
                parent._modules[name] = Identity().eval()
                continue
        conv = module if isinstance(module, Conv2d) and kind is Conv2d and uses.free(module, False) else None


def _foldable(conv: Conv2d, norm: BatchNorm2d, uses: _Uses) -> bool:
    mean = norm.running_mean
    fits = mean is not None and norm.num_features == conv.out_channels and mean.dtype == conv.weight.dtype
    return fits and uses.free(conv, True)


def _float64(tensor: Any, otherwise: float) -> Array:
    value: Array = np.asarray(otherwise if tensor is None else moved(tensor._array, "cpu"), np.float64)
    return value


def _fold(conv: Conv2d, norm: BatchNorm2d) -> None:
    """weight·g and (bias − mean)·g + shift, where g = gain / √(var + eps)."""
    dtype, needs = conv.weight.dtype, conv.weight.requires_grad
    # A variance of 0, say, gives inf here as it does in the normalisation.
    with np.errstate(all="ignore"):
        gain = _float64(norm.weight, 1) / np.sqrt(_float64(norm.running_var, 1) + norm.eps)
        bias = (_float64(conv.bias, 0) - _float64(norm.running_mean, 0)) * gain + _float64(norm.bias, 0)
        weight = _float64(conv.weight, 0) * gain[:, None, None, None]
        arrays = [moved(a.astype(dtype), conv.weight.device) for a in (weight, bias)]
    conv.weight = Parameter(arrays[0], needs)
    conv.bias = Parameter(arrays[1], needs if conv.bias is None else conv.bias.requires_grad)
