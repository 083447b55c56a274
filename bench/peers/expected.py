"""Outputs of work in float64, by fastconv.reference, and how far a runtime's are from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv import reference, reference_rnn

from . import recurrent
from .work import LEARNING_RATE, Arrays

Array = np.ndarray


def _window(layer: dict[str, Any]) -> tuple[Any, ...]:
    """(kernel, stride, padding on four sides, dilation) as the reference takes them."""
    (top, left) = layer["padding"]
    return tuple(layer["kernel"]), tuple(layer["stride"]), (top, top, left, left), tuple(layer["dilation"])


def _forward(layer: dict[str, Any], x: Array, w: Array | None, b: Array | None) -> Array:
    match layer["op"]:
        case "conv":
            return reference.conv2d(x, w, b, *_window(layer)[1:], layer["groups"])
        case "maxpool":
            return reference.max_pool2d(x, *_window(layer))[0]
        case "avgpool":
            return reference.avg_pool2d(x, *_window(layer)[:3])
        case "linear":
            return reference.linear(x, w, b)
        case "relu":
            return np.maximum(x, 0)
        case "tanh":
            return np.tanh(x)
        case "sigmoid":
            return 1 / (1 + np.exp(-np.asarray(x, np.float64)))
        case "flatten":
            return x.reshape(len(x), -1)
    raise ValueError(f"op={layer['op']!r} is not known here")


def _backward(layer: dict[str, Any], x: Array, w: Array | None, gy: Array) -> tuple[Array, list[Array]]:
    """(gradient of x, gradients of weight and bias)."""
    match layer["op"]:
        case "conv":
            rest = (*_window(layer)[1:], layer["groups"])
            gw = reference.conv2d_grad_weight(x, w.shape, gy, *rest)
            gb = [reference.conv2d_grad_bias(gy)] if layer["bias"] else []
            return reference.conv2d_grad_input(x.shape, w, gy, *rest), [gw, *gb]
        case "maxpool":
            return reference.max_pool2d_grad(x, gy, *_window(layer)), []
        case "linear":
            gw = [reference.linear_grad_weight(x, gy), *([gy.sum(axis=0)] if layer["bias"] else [])]
            return reference.linear_grad_input(w, gy), gw
        case "tanh":
            return gy * (1 - np.tanh(x) ** 2), []
        case "flatten":
            return gy.reshape(x.shape), []
    raise ValueError(f"op={layer['op']!r} has no gradient here")


def _recurrent(work: dict[str, Any], arrays: Arrays) -> list[Array]:
    """forward: [y, h, and c of an LSTM]. gradients: [y, gx, and those of the parameters]; training: without gx."""
    layer, lengths, x = work["layers"][0], recurrent.lengths(work), arrays["x"]
    lstm = layer["op"].startswith("lstm")
    if layer["op"] == "lstm_cell":
        (one,) = recurrent.stack(layer)[0]
        return list(reference_rnn.lstm(x[None], *recurrent.parameters(arrays, one), arrays["h"], arrays["c"])[1:])
    forward = {"lstm": reference_rnn.lstm, "gru": reference_rnn.gru, "rnn": reference_rnn.rnn}[layer["op"]]
    # No gradient of an RNN is among the cases.
    backward = {"lstm": reference_rnn.lstm_grad, "gru": reference_rnn.gru_grad}.get(layer["op"])
    stack, inputs, states = recurrent.stack(layer), [], []
    for directions in stack:
        inputs.append(x)
        results = [
            forward(x, *recurrent.parameters(arrays, one), lengths=lengths, reverse=one.reverse) for one in directions
        ]
        x = np.concatenate([y for y, *_ in results], axis=2)
        states += [rest for _, *rest in results]
    if work["kind"] == "forward":
        return [x, *(np.stack(state) for state in zip(*states, strict=True))]
    g, found = np.asarray(arrays["gy"], np.float64), []
    for directions, given in reversed(list(zip(stack, inputs, strict=True))):
        parts = [
            backward(
                given,
                *recurrent.parameters(arrays, one),
                *([None] * (1 + lstm)),
                part,
                lengths=lengths,
                reverse=one.reverse,
            )
            for one, part in zip(directions, np.split(g, len(directions), axis=2), strict=True)
        ]
        g = sum(part["gx"] for part in parts)
        found = [part[f"g{name}"] for part in parts for name in ("w_ih", "w_hh", "b_ih", "b_hh")] + found
    return [x, *([g] if work["kind"] == "gradients" else []), *found]


def outputs(work: dict[str, Any], arrays: Arrays) -> list[Array]:
    """forward: [y]. gradients: [y, gx, and those of the parameters]. step: gradients of the parameters, then them.

    Of a recurrent layer, forward: [y and the last states].
    """
    if recurrent.is_recurrent(work):
        return _recurrent(work, arrays)
    keep = work["kind"] != "forward"
    weights = [(arrays.get(f"{k}.weight"), arrays.get(f"{k}.bias")) for k in range(len(work["layers"]))]
    x, inputs = arrays["x"], []
    for layer, (w, b) in zip(work["layers"], weights, strict=True):
        # Batch 8 of a network in float64 is large: only a backward pass needs what lies between layers.
        inputs += [x] if keep else []
        x = _forward(layer, x, w, b)
    if not keep:
        return [x]
    if work["kind"] == "gradients":
        g = arrays["gy"]
    else:
        g = reference.softmax(x, 1)
        g[np.arange(len(g)), arrays["target"]] -= 1
        g /= len(g)
    found: list[Array] = []
    for layer, given, (w, _) in reversed(list(zip(work["layers"], inputs, weights, strict=True))):
        g, own = _backward(layer, given, w, g)
        found = own + found
    if work["kind"] == "gradients":
        return [x, g, *found]
    parameters = [array for pair in weights for array in pair if array is not None]
    return [*found, *(p - LEARNING_RATE * gp for p, gp in zip(parameters, found, strict=True))]


def error(got: list[Array], wanted: list[Array]) -> float:
    """The largest max|y − ref| / max|ref| of all outputs; infinite for a wrong shape or NaN."""
    if [a.shape for a in got] != [a.shape for a in wanted]:
        return float("inf")
    errors = [np.abs(y - ref).max() / np.abs(ref).max() for y, ref in zip(got, wanted, strict=True)]
    return float(np.max(errors)) if np.isfinite(errors).all() else float("inf")
