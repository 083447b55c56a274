"""Recurrent networks. Sizes are (t, b, input, hidden, layers): steps, sequences, features."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from . import recurrent
from .cases import Case

# The sizes of the cases that the FMA peak limits, and of a reader of spoken vowels, whose series differ in length.
WIDE = (30, 32, 300, 512, 2)
VOWELS = (30, 32, 12, 64, 1)


def work(
    op: str, t: int, b: int, inputs: int, hidden: int, layers: int, kind: str = "forward", bidirectional: bool = False
) -> dict[str, Any]:
    """A recurrent layer's work."""
    layer = {"op": op, "in": inputs, "hidden": hidden, "layers": layers, "bidirectional": bidirectional}
    return {"kind": kind, "shape": [t, b, inputs], "layers": [layer]}


def drawn_lengths(t: int, b: int, seed: int = 0) -> list[int]:
    """Random lengths from t/2 to t in random order, with one of t; their mean is exactly ¾·t."""
    if t % 2 or b % 2:
        raise ValueError(f"t={t}, b={b}: both must be even")
    generator = np.random.default_rng(seed)
    half = generator.integers(t // 2, t + 1, b // 2)
    half[0] = t
    # Each length has its mirror image.
    both = np.concatenate([half, t + t // 2 - half])
    return [int(length) for length in generator.permutation(both)]


def _text(layer: dict[str, Any]) -> str:
    both = " in both directions" if layer["bidirectional"] else ""
    plural = "s" * (layer["layers"] > 1)
    return f"{layer['layers']} {layer['op'].upper()} layer{plural} of {layer['hidden']}{both}"


def _forward(name: str, op: str, *sizes: int, **goal: float) -> Case:
    given = work(op, *sizes)
    text, flops = _text(given["layers"][0]), recurrent.flops(given)
    return Case(name, given, goal, text, flops=flops, quick=name == "lstm_1")


def _lengths(name: str, op: str, *sizes: int, bidirectional: bool = False) -> Case:
    dense = work(op, *sizes, bidirectional=bidirectional)
    given = {**dense, "lengths": drawn_lengths(*sizes[:2])}
    text = _text(given["layers"][0]) + ", lengths"
    # The ratio is of torch's packed sequence. The others that take lengths are shown.
    goal = {"ratio_to_torch": 0.40, "per_step": 1.10}
    return Case(name, given, goal, text, flops=recurrent.flops(given), dense=dense)


def _backward(name: str, op: str, ratio: float, *sizes: int, bidirectional: bool = False) -> Iterator[Case]:
    """All gradients, and those of the parameters alone, which are all that training a network's first layer needs."""
    for kind in ("gradients", "training"):
        given = work(op, *sizes, kind, bidirectional)
        text = _text(given["layers"][0]) + ", forward, then gradients of "
        text += "input and parameters" if kind == "gradients" else "the parameters"
        flops = 3.0 * recurrent.flops(given) if kind == "gradients" else None
        yield Case(name, given, {"ratio": ratio}, text, ("torch",), flops=flops)


def series() -> Iterator[Case]:
    """The recurrent cases."""
    cell = {"kind": "forward", "shape": [1, 128], "layers": [{"op": "lstm_cell", "in": 128, "hidden": 128}]}
    small = (29, 32, 12, 64, 1)
    yield _forward("lstm_1", "lstm", 30, 1, 300, 512, 2, ratio=0.80)
    yield _forward("lstm_small", "lstm", 100, 1, 64, 128, 1, ratio=0.60)
    yield _forward("gru_1", "gru", 30, 1, 300, 512, 2, ratio=0.75)
    yield _forward("gru_small", "gru", 100, 16, 64, 128, 1, ratio=0.72)
    yield _forward("lstm_32", "lstm", *WIDE, ratio=0.97, share=0.93)
    yield _forward("gru_32", "gru", *WIDE, ratio=0.90, share=0.93)
    yield _forward("rnn_32", "rnn", *WIDE)
    yield _lengths("lstm_lengths", "lstm", *WIDE)
    yield _lengths("gru_lengths", "gru", *WIDE)
    yield _lengths("bilstm_lengths", "lstm", *VOWELS, bidirectional=True)
    text = "LSTMCell(128, 128), one step from a given state"
    yield Case("lstm_cell", cell, {"seconds": 9e-6}, text, ("torch",), flops=recurrent.flops(cell))
    yield from _backward("lstm_32", "lstm", 0.75, *WIDE)
    yield from _backward("gru_32", "gru", 0.62, *WIDE)
    yield from _backward("bilstm", "lstm", 0.50, *small, bidirectional=True)
    yield from _backward("bigru", "gru", 0.25, *small, bidirectional=True)
