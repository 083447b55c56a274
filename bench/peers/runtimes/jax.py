"""JAX, jitted, weights as constants of the compiled function; arrays NHWC, as XLA's convolution on CPUs wants them.

A recurrent layer is a lax.scan over its steps, with the products of all steps' inputs before it in one.
"""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..recurrent import flat, is_recurrent, no_cell, parameters, stack
from ..work import Arrays, Prepared, Unsupported, only_forward


def threads(count: int) -> int:
    """XLA makes a thread for each processor that the process may use, which the worker has limited."""
    return len(os.sched_getaffinity(0))


def version() -> str:
    return f"jax {jax.__version__}"


def _pool(y: Any, layer: dict[str, Any]) -> Any:
    kernel, stride = (1, *layer["kernel"], 1), (1, *layer["stride"], 1)
    dilation = (1, *layer["dilation"], 1)
    padding = ((0, 0), *((side, side) for side in layer["padding"]), (0, 0))
    if layer["op"] == "maxpool":
        return lax.reduce_window(y, -np.inf, lax.max, kernel, stride, padding, window_dilation=dilation)
    return lax.reduce_window(y, 0.0, lax.add, kernel, stride, padding) / np.prod(layer["kernel"]).astype(np.float32)


def _lstm(state: Any, zx: Any, zh: Any) -> Any:
    i, f, g, o = jnp.split(zx + zh, 4, axis=1)
    c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _gru(state: Any, zx: Any, zh: Any) -> Any:
    (rx, ux, nx), (rh, uh, nh) = jnp.split(zx, 3, axis=1), jnp.split(zh, 3, axis=1)
    r, u = jax.nn.sigmoid(rx + rh), jax.nn.sigmoid(ux + uh)
    return ((1 - u) * jnp.tanh(nx + r * nh) + u * state[0],)


def _rnn(state: Any, zx: Any, zh: Any) -> Any:
    return (jnp.tanh(zx + zh),)


def _recurrent(work: dict[str, Any], arrays: Arrays) -> Prepared:
    """The layer, with states of zeros; each cell above is (state, input part, recurrent part) -> new state."""
    no_cell(work)
    if "lengths" in work:
        raise Unsupported("no lengths")
    layer = work["layers"][0]
    cell, states = {"lstm": (_lstm, 2), "gru": (_gru, 1), "rnn": (_rnn, 1)}[layer["op"]]
    b, h = work["shape"][1], layer["hidden"]
    zeros = (np.zeros((b, h), np.float32),) * states

    def direction(x: Any, one: Any) -> Any:
        w_ih, w_hh, b_ih, b_hh = parameters(arrays, one)
        # Only GRU needs its recurrent bias apart.
        zx = x @ w_ih.T + (b_ih if layer["op"] == "gru" else b_ih + b_hh)

        def step(state: Any, z: Any) -> Any:
            zh = state[0] @ w_hh.T
            state = cell(state, z, zh + b_hh if layer["op"] == "gru" else zh)
            return state, state[0]

        return lax.scan(step, zeros, zx, reverse=one.reverse)

    @jax.jit
    def net(x: Any) -> Any:
        last = []
        for directions in stack(layer):
            results = [direction(x, one) for one in directions]
            x = jnp.concatenate([y for _, y in results], axis=2)
            last += [state for state, _ in results]
        return x, tuple(jnp.stack(state) for state in zip(*last, strict=True))

    x = jax.device_put(arrays["x"])
    return Prepared(lambda: jax.block_until_ready(net(x)), lambda found: [np.asarray(part) for part in flat(found)])


def build(work: dict[str, Any], arrays: Arrays, folder: str) -> Prepared:
    only_forward(work)
    if is_recurrent(work):
        return _recurrent(work, arrays)

    @jax.jit
    def net(y: Any) -> Any:
        for number, layer in enumerate(work["layers"]):
            match layer["op"]:
                case "relu":
                    y = jax.nn.relu(y)
                case "tanh" | "sigmoid" as op:
                    y = {"tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid}[op](y)
                case "linear":
                    y = y @ arrays[f"{number}.weight"].T
                    y = y + arrays[f"{number}.bias"] if layer["bias"] else y
                case "maxpool" | "avgpool":
                    y = _pool(y, layer)
                case "conv":
                    y = lax.conv_general_dilated(
                        y,
                        arrays[f"{number}.weight"].transpose(2, 3, 1, 0),
                        layer["stride"],
                        [(side, side) for side in layer["padding"]],
                        rhs_dilation=layer["dilation"],
                        dimension_numbers=("NHWC", "HWIO", "NHWC"),
                        feature_group_count=layer["groups"],
                    )
                    y = y + arrays[f"{number}.bias"] if layer["bias"] else y
                case op:
                    raise Unsupported(f"no {op}")
        return y

    images = arrays["x"].ndim == 4
    # A user of NHWC has the input so already, and keeps the output.
    x = jax.device_put(np.ascontiguousarray(arrays["x"].transpose(0, 2, 3, 1)) if images else arrays["x"])

    def read(y: Any) -> list[np.ndarray]:
        return [np.asarray(y).transpose(0, 3, 1, 2) if images else np.asarray(y)]

    return Prepared(lambda: net(x).block_until_ready(), read)
