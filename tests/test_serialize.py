"""save and load: what goes in comes out, nothing is half-written, and every other file is refused."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fastconv import nn, serialize, tensor
from fastconv.serialize import load, save


def test_module_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = nn.Sequential(nn.Conv2d(1, 2, (3, 2)), nn.Flatten(), nn.Linear(4, 3))
    save(model, path)
    assert list(tmp_path.iterdir()) == [path]
    assert sorted(load_file(path)) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    other = nn.Sequential(nn.Conv2d(1, 2, (3, 2)), nn.Flatten(), nn.Linear(4, 3))
    other.load_state_dict(load(path))
    x = np.ones((1, 1, 4, 2), np.float32)
    np.testing.assert_array_equal(other(x), model(x))


def test_arrays_of_all_kinds_round_trip(tmp_path: Path) -> None:
    arrays = {
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "strided": np.arange(10, dtype=np.float32)[::-3],
        "0-d": np.array(3.0),
        "empty": np.zeros((0, 3), np.int8),
        "bool": np.array([True, False]),
        "big-endian": np.arange(3).astype(">i4"),
        "half": np.ones(2, np.float16),
        "Tensor": tensor([1.0, np.nan], requires_grad=True),
    }
    save(arrays, str(tmp_path / "a"))
    loaded = load(str(tmp_path / "a"))
    assert set(loaded) == set(arrays)
    for name, value in arrays.items():
        expected = value.detach().numpy() if name == "Tensor" else value
        assert loaded[name].dtype == expected.dtype.newbyteorder("=")
        assert loaded[name].flags.writeable
        np.testing.assert_array_equal(loaded[name], expected, strict=name != "big-endian")


def test_a_failing_save_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    save({"a": np.ones(2)}, path)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save({"a": np.zeros(2)}, path)
    monkeypatch.undo()
    with pytest.raises(TypeError):
        save({"a": np.zeros(2), "b": object()}, path)
    assert list(tmp_path.iterdir()) == [path]
    assert load(path)["a"].tolist() == [1, 1]


def test_save_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    save({"a": np.ones(2)}, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert load(tmp_path / "real")["a"].tolist() == [1, 1]


def _file(header: Any, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        b"\xff" * 100,
        b"\x80\x04K\x01.",
        _file({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)),
        _file({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(4)),
        _file({"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)),
        _file([1], b""),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="safetensors") as caught:
        load(path)
    assert f"path={str(path)!r}" in str(caught.value)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    save({"a": np.ones(100)}, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="safetensors"):
        load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors"):
        load(tmp_path / "nothing.safetensors")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        save({}, tmp_path / "nowhere" / "a")


@pytest.mark.parametrize(
    ("obj", "text"),
    [
        ([1, 2], "obj=[1, 2]"),
        (np.ones(2), "obj="),
        ({"a": [1.0]}, "obj['a']: needs an array or a Tensor, got list"),
        ({1: np.ones(2)}, "key 1"),
        ({"a": np.array(["x"], object)}, "obj['a']: dtype object"),
        ({"a": np.ones(2, complex)}, "obj['a']: dtype complex128"),
    ],
)
def test_wrong_objects_are_refused(tmp_path: Path, obj: Any, text: str) -> None:
    with pytest.raises(TypeError) as caught:
        save(obj, tmp_path / "a")
    assert text in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", [3, None, b"a"])
def test_wrong_paths_are_refused(path: Any) -> None:
    for call in (lambda: save({}, path), lambda: serialize.load(path)):
        with pytest.raises(TypeError, match="path="):
            call()
