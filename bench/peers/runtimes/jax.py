"""JAX, jitted, weights as constants of the compiled function; arrays NHWC, as XLA's convolution on CPUs wants them."""

from __future__ import annotations

import os
from typing import Any

import jax
import numpy as np
from jax import lax

from bench.peers.work import Arrays, Prepared, Unsupported, only_forward


def threads(count: int) -> int:
    """XLA makes a thread for each processor that the process may use, which the worker has limited."""
    return len(os.sched_getaffinity(0))


def version() -> str:
    return f"jax {jax.__version__}"


def _pool(y: Any, layer: dict[str, Any]) -> Any:
    kernel, stride = (1, *layer["kernel"], 1), (1, *layer["stride"], 1)
    padding = ((0, 0), *((side, side) for side in layer["padding"]), (0, 0))
    if layer["op"] == "maxpool":
        return lax.reduce_window(y, -np.inf, lax.max, kernel, stride, padding)
    return lax.reduce_window(y, 0.0, lax.add, kernel, stride, padding) / np.prod(layer["kernel"]).astype(np.float32)


def build(work: dict[str, Any], arrays: Arrays, folder: str) -> Prepared:
    only_forward(work)

    @jax.jit
    def net(y: Any) -> Any:
        for number, layer in enumerate(work["layers"]):
            match layer["op"]:
                case "relu":
                    y = jax.nn.relu(y)
                case "maxpool" | "avgpool":
                    y = _pool(y, layer)
                case "conv":
                    y = lax.conv_general_dilated(
                        y,
                        arrays[f"{number}.weight"].transpose(2, 3, 1, 0),
                        layer["stride"],
                        [(side, side) for side in layer["padding"]],
                        dimension_numbers=("NHWC", "HWIO", "NHWC"),
                        feature_group_count=layer["groups"],
                    )
                    y = y + arrays[f"{number}.bias"] if layer["bias"] else y
                case op:
                    raise Unsupported(f"no {op}")
        return y

    x = jax.device_put(np.ascontiguousarray(arrays["x"].transpose(0, 2, 3, 1)))
    # A user of NHWC has the input so already, and keeps the output.
    return Prepared(lambda: net(x).block_until_ready(), lambda y: [np.asarray(y).transpose(0, 3, 1, 2)])
