"""Weights on disk: safetensors files, written whole or not at all, never pickle.

Source: https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from fastconv.autograd import Array
from fastconv.device import moved
from fastconv.nn.module import Module
from fastconv.tensors import Tensor

_WIDTHS = {"uint": (8, 16, 32, 64), "int": (8, 16, 32, 64), "float": (16, 32, 64)}
DTYPES = ("bool", *(f"{kind}{bits}" for kind, widths in _WIDTHS.items() for bits in widths))


def _path(path: Any) -> str:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path={path!r}: needs a str or a path, got {type(path).__name__}")
    name = os.fspath(path)
    if not isinstance(name, str):
        raise TypeError(f"path={path!r}: needs a str or a path of str, got {type(name).__name__}")
    return name


def _savable(name: Any, value: Any) -> Array:
    if not isinstance(name, str):
        raise TypeError(f"obj: key {name!r} needs to be a str, got {type(name).__name__}")
    array = moved(value._array if isinstance(value, Tensor) else value, "cpu")
    if not isinstance(array, (np.ndarray, np.generic)):
        raise TypeError(f"obj[{name!r}]: needs an array or a Tensor, got {type(value).__name__}")
    if array.dtype.name not in DTYPES:
        raise TypeError(f"obj[{name!r}]: dtype {array.dtype} is not supported, needs one of {', '.join(DTYPES)}")
    # safetensors copies memory as it lies: C order and this machine's bytes.
    return np.asarray(array, array.dtype.newbyteorder("="), order="C")


def save(obj: Module | Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a Module's state_dict, or a dict of NumPy arrays or Tensors, to a safetensors file.

    The file appears whole or, if anything fails, the one that stood there stays. TypeError for anything else than real
    arrays under str keys.
    """
    target = os.path.realpath(_path(path))
    if isinstance(obj, Module):
        obj = obj.state_dict()
    if not isinstance(obj, Mapping):
        raise TypeError(f"obj={obj!r:.60}: needs an nn.Module or a dict of arrays, got {type(obj).__name__}")
    data = safetensors.save({name: _savable(name, value) for name, value in obj.items()})
    # In the same folder, so that the replacement is one step of one file system.
    unfinished = f"{target}.{secrets.token_hex(8)}.unfinished"
    try:
        with open(unfinished, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, target)
    finally:
        if os.path.exists(unfinished):
            os.unlink(unfinished)


def load(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The arrays of a safetensors file, by name; ValueError for a file of another kind, FileNotFoundError for none."""
    name = _path(path)
    with open(name, "rb") as file:
        data = file.read()
    try:
        arrays = safetensors.load(data)
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"path={name!r}: needs a safetensors file of NumPy's dtypes, got {error}") from error
    # Arrays of their own memory, writable.
    return {key: value.copy() for key, value in arrays.items()}
