"""What a recurrent layer of work is: its parameters, the orders of its gates, its lengths and flops.

NumPy and the standard library only: it is imported in every environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .work import Arrays, Unsupported

# The gates of each operation in torch's order, which is that of the arrays.
GATES: Mapping[str, str] = {"lstm": "ifgo", "gru": "rzn", "rnn": "h", "lstm_cell": "ifgo"}

# In torch's order too.
PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction of one layer of a stack: the end of its parameters' names, and how many features it reads."""

    suffix: str
    inputs: int
    reverse: bool


def is_recurrent(work: dict[str, Any]) -> bool:
    """Whether work is a recurrent layer, which always stands alone."""
    return work["layers"][0]["op"] in GATES


def no_cell(work: dict[str, Any]) -> None:
    """For runtimes that only have layers: raise Unsupported for a cell."""
    if work["layers"][0]["op"] == "lstm_cell":
        raise Unsupported("no cell")


def stack(layer: dict[str, Any]) -> list[list[Direction]]:
    """The directions of each layer of a stack, the first layer first; a cell is one direction."""
    if layer["op"] == "lstm_cell":
        return [[Direction("", layer["in"], False)]]
    endings = ("", "_reverse") if layer["bidirectional"] else ("",)
    widths = [layer["in"]] + [layer["hidden"] * len(endings)] * (layer["layers"] - 1)
    return [
        [Direction(f"_l{number}{ending}", width, bool(ending)) for ending in endings]
        for number, width in enumerate(widths)
    ]


def shapes(layer: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter, by its name in torch and in torch's order."""
    rows, found = len(GATES[layer["op"]]) * layer["hidden"], {}
    for one in (one for directions in stack(layer) for one in directions):
        sizes = ((rows, one.inputs), (rows, layer["hidden"]), (rows,), (rows,))
        found |= {name + one.suffix: size for name, size in zip(PARAMETERS, sizes, strict=True)}
    return found


def parameters(arrays: Arrays, one: Direction) -> list[np.ndarray]:
    """weight_ih, weight_hh, bias_ih and bias_hh of a direction."""
    return [arrays[f"0.{name}{one.suffix}"] for name in PARAMETERS]


def reordered(array: np.ndarray, op: str, order: str) -> np.ndarray:
    """A parameter with its gates in `order`, a permutation of GATES[op]."""
    blocks = np.split(array, len(order))
    return np.concatenate([blocks[GATES[op].index(gate)] for gate in order])


def lengths(work: dict[str, Any]) -> np.ndarray | None:
    """How many steps each sequence has, or None: all of them."""
    return np.array(work["lengths"], np.int64) if "lengths" in work else None


def steps(work: dict[str, Any]) -> int:
    """The steps of all sequences together, without padding."""
    if "lengths" in work:
        return sum(work["lengths"])
    *t, b, _ = work["shape"]
    return b * (t[0] if t else 1)


def flops(work: dict[str, Any]) -> float:
    """Of the forward pass: multiplications and additions of the matrix products, for the steps that are no padding."""
    layer = work["layers"][0]
    weights = sum(size[0] * size[1] for size in shapes(layer).values() if len(size) == 2)
    return 2.0 * steps(work) * weights


def flat(outcome: Any) -> list[Any]:
    """What a layer or cell returns, nested tuples, as a list: y (not of a cell), h and for an LSTM c."""
    if isinstance(outcome, tuple):
        return [one for part in outcome for one in flat(part)]
    return [outcome]
