"""Optimisers: torch.optim's update rules, computed on arrays in place, never recorded.

Every step bumps the version of every parameter that it changes.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fastconv import ops
from fastconv.autograd import Array, array_module
from fastconv.device import check_together, is_cupy, prepared
from fastconv.nn.module import zero_grad
from fastconv.problem import boolean
from fastconv.tensors import Tensor


def _number(name: str, value: Any, below: float = math.inf) -> float:
    """`value`, a number >= 0 and less than `below`."""
    allowed = "a number >= 0" + (f" and < {below:g}" if below < math.inf else ", finite")
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}={value!r}: needs {allowed}, got {type(value).__name__}")
    number = float(value)
    if not 0 <= number < below:
        raise ValueError(f"{name}={value!r}: needs {allowed}")
    return number


class Optimizer:
    """What optimisers share: groups of parameters, each a dict with "params" and options, and per-parameter state.

    params: an iterable of leaf Tensors, or of such dicts. Options may be changed in `param_groups` between steps.
    """

    def __init__(self, params: Iterable[Any], defaults: Mapping[str, Any]) -> None:
        if isinstance(params, (Tensor, str)) or not isinstance(params, Iterable):
            raise TypeError(
                f"params={params!r:.60}: needs an iterable of Tensors or dicts, got {type(params).__name__}"
            )
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[Tensor, dict[str, Any]] = {}
        self.defaults = dict(defaults)
        entries = list(params)
        if not entries:
            raise ValueError("params=[]: needs at least one parameter")
        for group in entries if isinstance(entries[0], dict) else [{"params": entries}]:
            self.add_param_group(group)

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add parameters with options of their own."""
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError(f"params={group!r:.60}: needs a dict with the key 'params' in every group")
        tensors = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        known = {p for g in self.param_groups for p in g["params"]}
        for p in tensors:
            if not isinstance(p, Tensor):
                raise TypeError(f"params: needs Tensors, got {type(p).__name__}")
            if not p.is_leaf:
                raise ValueError(f"params: needs leaf Tensors, got the result of an operation, of shape {p.shape}")
            if p in known:
                raise ValueError(f"params: needs every Tensor once, got one of shape {p.shape} twice")
            known.add(p)
        options = {**self.defaults, **group, "params": tensors}
        self._check(options)
        self.param_groups.append(options)

    def _check(self, group: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def _update(self, p: Array, g: Array, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """Change the array `p` in place by its gradient `g`, which must stay as it is."""
        raise NotImplementedError

    def _launch(self, kernels: Any, p: Array, g: Array, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """`_update`, and what `step` does before it, by one kernel on a CUDA device."""
        raise NotImplementedError

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop every gradient, or set it to zero."""
        zero_grad((p for group in self.param_groups for p in group["params"]), set_to_none)

    def step(self) -> None:
        """Change every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                g, state = p.grad._array, self.state.setdefault(p, {})
                if is_cupy(p._array):
                    check_together({"parameter": p._array, "gradient": g})
                kernels = ops.on_device(p._array, g)
                if kernels is not None and p._array.dtype.char == "f" and p._array.flags.c_contiguous:
                    self._launch(kernels, p._array, prepared(g), state, group)
                else:
                    g = -g if group["maximize"] else g
                    g = g + float(group["weight_decay"]) * p._array if group["weight_decay"] else g
                    self._update(p._array, g, state, group)
                p._state.bump()

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {key}: {group[key]}" for key in sorted(group) if key != "params"]
        return "\n".join([*lines, ")"])


# What their kernels are told.
_SGD = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")
_ADAM = ("lr", "betas", "eps", "weight_decay", "maximize")


class SGD(Optimizer):
    """v ← momentum·v + (1 − dampening)·g; p ← p − lr·v (Nesterov: p − lr·(g + momentum·v)), where g has weight_decay·p.

    The first v is g itself. Source: torch.optim.SGD; Sutskever et al. 2013, in torch's form.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        options = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, options)

    def _check(self, group: Mapping[str, Any]) -> None:
        for name in ("lr", "momentum", "weight_decay"):
            _number(name, group[name])
        if isinstance(group["dampening"], bool) or not isinstance(group["dampening"], numbers.Real):
            raise TypeError(f"dampening={group['dampening']!r}: needs a number")
        boolean("maximize", group["maximize"])
        if boolean("nesterov", group["nesterov"]) and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError(
                f"nesterov=True: needs momentum > 0 and dampening 0, got {group['momentum']} and {group['dampening']}"
            )

    def _update(self, p: Array, g: Array, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        momentum = float(group["momentum"])
        if momentum:
            if "momentum_buffer" not in state:
                v = state["momentum_buffer"] = g.copy()
            else:
                v = state["momentum_buffer"]
                v *= momentum
                v += (1 - float(group["dampening"])) * g
            g = g + momentum * v if group["nesterov"] else v
        p -= float(group["lr"]) * g

    def _launch(self, kernels: Any, p: Array, g: Array, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        first = bool(group["momentum"]) and "momentum_buffer" not in state
        if first:
            state["momentum_buffer"] = array_module(p).empty_like(p)
        v = state["momentum_buffer"] if group["momentum"] else None
        if v is not None:
            check_together({"parameter": p, "momentum_buffer": v})
        kernels.sgd(p, g, v, first=first, **{name: group[name] for name in _SGD})


class Adam(Optimizer):
    """m ← β₁m + (1 − β₁)g; v ← β₂v + (1 − β₂)g²; p ← p − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + eps).

    g has weight_decay·p, t counts the steps. Source: torch.optim.Adam; Kingma & Ba 2015.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, options)

    def _check(self, group: Mapping[str, Any]) -> None:
        for name in ("lr", "eps", "weight_decay"):
            _number(name, group[name])
        if not isinstance(group["betas"], (tuple, list)) or len(group["betas"]) != 2:
            raise TypeError(f"betas={group['betas']!r}: needs a pair of numbers >= 0 and < 1")
        for i, beta in enumerate(group["betas"]):
            _number(f"betas[{i}]", beta, below=1.0)
        boolean("maximize", group["maximize"])

    def _update(self, p: Array, g: Array, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        m, v = self._moments(p, state)
        state["step"] += 1
        beta1, beta2 = map(float, group["betas"])
        m += (1 - beta1) * (g - m)
        v *= beta2
        v += (1 - beta2) * (g * g)
        size = float(group["lr"]) / (1 - beta1 ** state["step"])
        scale = math.sqrt(1 - beta2 ** state["step"])
        p -= size * m / (np.sqrt(v) / scale + float(group["eps"]))

    def _launch(self, kernels: Any, p: Array, g: Array, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        m, v = self._moments(p, state)
        check_together({"parameter": p, "exp_avg": m, "exp_avg_sq": v})
        state["step"] += 1
        kernels.adam(p, g, m, v, state["step"], **{name: group[name] for name in _ADAM})

    @staticmethod
    def _moments(p: Array, state: dict[str, Any]) -> tuple[Array, Array]:
        """The moving means of g and g², zeros before the first step."""
        if not state:
            xp = array_module(p)
            state.update(step=0, exp_avg=xp.zeros_like(p), exp_avg_sq=xp.zeros_like(p))
        return state["exp_avg"], state["exp_avg_sq"]
