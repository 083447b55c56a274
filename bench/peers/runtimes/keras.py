"""Keras on JAX: its layers as one jitted function, weights as constants; batch-first, as it wants them.

Transposing input and output is outside of the time. Called without jit, Keras takes fifty times as long.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

# Before Keras is imported, which else writes a configuration into the user's home and looks for TensorFlow.
_home = tempfile.TemporaryDirectory()
os.environ |= {"KERAS_BACKEND": "jax", "KERAS_HOME": _home.name}

import jax  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402

from ..recurrent import is_recurrent, no_cell, parameters, reordered, stack  # noqa: E402
from ..work import Arrays, Prepared, Unsupported, only_forward  # noqa: E402
from .jax import threads  # noqa: E402

__all__ = ["build", "threads", "version"]


def version() -> str:
    return f"keras {keras.__version__}, jax {jax.__version__}"


def _weights(op: str, arrays: Arrays, one: Any) -> list[np.ndarray]:
    """kernel, recurrent_kernel and bias as Keras has them: transposed, with gates in its order."""
    order = {"lstm": "ifgo", "gru": "zrn", "rnn": "h"}[op]
    w_ih, w_hh, b_ih, b_hh = (reordered(array, op, order) for array in parameters(arrays, one))
    return [w_ih.T, w_hh.T, np.stack([b_ih, b_hh]) if op == "gru" else b_ih + b_hh]


def build(work: dict[str, Any], arrays: Arrays, folder: str) -> Prepared:
    only_forward(work)
    if not is_recurrent(work):
        raise Unsupported("only recurrent")
    no_cell(work)
    layer = work["layers"][0]
    if "lengths" in work:
        # It has masks, with which it computes all steps and selects.
        raise Unsupported("no lengths")
    op = layer["op"]
    kind = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "rnn": keras.layers.SimpleRNN}[op]
    t, b, _ = work["shape"]
    layers = []
    for directions in stack(layer):
        built = kind(layer["hidden"], return_sequences=True, return_state=True)
        built = keras.layers.Bidirectional(built) if layer["bidirectional"] else built
        built.build((b, t, directions[0].inputs))
        built.set_weights([array for one in directions for array in _weights(op, arrays, one)])
        layers.append(built)

    @jax.jit
    def net(x: Any) -> Any:
        last = []
        for built in layers:
            x, *states = built(x)
            # Of two directions: the states of the first, then those of the second.
            count = 2 if op == "lstm" else 1
            last += [states[k : k + count] for k in range(0, len(states), count)]
        return x, last

    def read(found: Any) -> list[np.ndarray]:
        y, last = found
        return [np.asarray(y).transpose(1, 0, 2), *(np.stack(states) for states in zip(*last, strict=True))]

    x = jax.device_put(np.ascontiguousarray(arrays["x"].transpose(1, 0, 2)))
    return Prepared(lambda: jax.block_until_ready(net(x)), read)
