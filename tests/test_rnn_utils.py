"""Padding and packing against recorded torch, each other, and the definition."""

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastconv
from fastconv import Tensor, nn, tensor
from fastconv.nn.utils.rnn import (
    PackedSequence,
    invert_permutation,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    pad_sequence,
    unpack_sequence,
    unpad_sequence,
)

CASES = json.loads(Path(__file__).with_name("golden").joinpath("sequences.json").read_text(encoding="utf-8"))


def golden(op):
    return pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["op"] == op])


def same(actual, expected):
    """Equal values, int64 if they are integers, or both None."""
    if expected is None:
        assert actual is None
        return
    values = actual.detach().numpy() if isinstance(actual, Tensor) else actual
    assert values.dtype.kind != "i" or values.dtype == np.int64
    np.testing.assert_array_equal(values, expected)


def sequences(*lengths, width=2, dtype="float64"):
    rng = np.random.default_rng(len(lengths))
    return [rng.standard_normal((n, width)).astype(dtype) for n in lengths]


@golden("pack")
def test_packing_as_torch(name):
    case = CASES[name]
    first, ordered, back = (case["args"][key] for key in ("batch_first", "enforce_sorted", "back"))
    for x in (np.array(case["x"]), tensor(np.array(case["x"]), requires_grad=True)):
        for lengths in (case["lengths"], np.array(case["lengths"], np.int32), tensor(case["lengths"])):
            packed = pack_padded_sequence(x, lengths, first, ordered)
            same(packed.data, case["y"])
            for key in ("batch_sizes", "sorted_indices", "unsorted_indices"):
                same(getattr(packed, key), case.get(key))
            assert all(isinstance(part, type(x)) for part in packed if part is not None)
            padded, counts = pad_packed_sequence(packed, first, **back)
            same(padded, case["padded"])
            same(counts, case["counts"])
    packed.data.backward(np.array(case["gy"]))
    same(x.grad, case["gx"])


@golden("pad")
def test_padding_as_torch(name):
    case = CASES[name]
    arrays = [np.array(sequence) for sequence in case["sequences"]]
    same(pad_sequence(arrays, **case["args"]), case["y"])
    leaves = [tensor(a, requires_grad=True) for a in arrays]
    y = pad_sequence(iter(leaves), **case["args"])
    same(y, case["y"])
    g = np.random.default_rng(0).standard_normal(y.shape)
    y.backward(g)
    g = g if case["args"].get("batch_first") else g.swapaxes(0, 1)
    for i, (leaf, a) in enumerate(zip(leaves, arrays, strict=True)):
        left = case["args"].get("padding_side") == "left"
        same(leaf.grad, g[i, g.shape[1] - len(a) :] if left else g[i, : len(a)])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.booleans(), st.integers(0, 2))
def test_there_and_back(lengths, first, extra):
    original = sequences(*lengths)
    packed = pack_sequence(original, enforce_sorted=False)
    for actual, expected in zip(unpack_sequence(packed), original, strict=True):
        same(actual, expected)
    total = max(lengths) + extra
    padded, counts = pad_packed_sequence(packed, first, -1.0, total)
    same(counts, lengths)
    assert padded.shape == ((len(lengths), total, 2) if first else (total, len(lengths), 2))
    for actual, expected in zip(unpad_sequence(padded, counts, first), original, strict=True):
        same(actual, expected)
    again = pack_padded_sequence(padded, counts, first, enforce_sorted=False)
    for actual, expected in zip(again, packed, strict=True):
        same(actual, expected)
    # What is beyond a sequence is padding_value.
    rows = padded if first else padded.swapaxes(0, 1)
    assert all((row[n:] == -1).all() for row, n in zip(rows, lengths, strict=True))


def test_gradients_flow_all_the_way():
    lengths = [2, 4, 1]
    leaves = [tensor(a, requires_grad=True) for a in sequences(*lengths)]
    factors = [np.random.default_rng(i).standard_normal((n, 2)) for i, n in enumerate(lengths)]
    packed = pack_sequence(leaves, enforce_sorted=False)
    doubled = PackedSequence(packed.data * 2, *packed[1:])
    loss = sum((part * factor).sum() for part, factor in zip(unpack_sequence(doubled), factors, strict=True))
    loss.backward()
    for leaf, factor in zip(leaves, factors, strict=True):
        np.testing.assert_array_equal(leaf.grad.numpy(), 2 * factor)
    x = tensor(np.ones((4, 3)), requires_grad=True)
    unpad_sequence(x, [2, 0, 4])[2].sum().backward()
    assert x.grad.numpy().sum(axis=0).tolist() == [0, 0, 4]
    with fastconv.no_grad():
        assert not pack_padded_sequence(x, [4, 2, 1]).data.requires_grad


def test_results_share_no_memory_with_their_input():
    x = np.ones((3, 2))
    packed = pack_padded_sequence(x, [3, 3])
    packed.data[:] = 5
    unpad_sequence(x, [2, 1])[0][:] = 6
    pad_sequence([x[:, 0], x[:2, 1]])[:] = 7
    assert (x == 1).all()
    assert unpad_sequence(x, [3, 2])[1].shape == (2,)
    assert x.shape == (3, 2)


def test_integers_and_other_dtypes():
    x = np.array([[1, 2, 0], [3, 0, 0], [4, 5, 6]], np.int16)
    packed = pack_padded_sequence(x, [2, 1, 3], batch_first=True, enforce_sorted=False)
    # torch's documentation.
    assert packed.data.tolist() == [4, 1, 3, 5, 2, 6]
    assert packed.data.dtype == np.int16
    assert packed.batch_sizes.tolist() == [3, 2, 1]
    assert packed.sorted_indices.tolist() == [2, 0, 1]
    assert packed.unsorted_indices.tolist() == [1, 2, 0]
    assert pad_packed_sequence(packed, batch_first=True)[0].tolist() == x.tolist()
    masks = pad_sequence([np.ones(2, bool), np.ones(1, bool)])
    assert masks.tolist() == [[True, True], [True, False]]
    assert pad_sequence([np.zeros((0, 2)), np.ones((1, 2))]).tolist() == [[[0, 0], [1, 1]]]


def test_one_tensor_among_arrays_makes_a_tensor():
    leaf = tensor([1.0, 2.0], requires_grad=True)
    y = pad_sequence([np.ones(3, np.float32), leaf])
    assert isinstance(y, Tensor)
    y.sum().backward()
    assert leaf.grad.tolist() == [1, 1]


def test_strides_do_not_matter():
    x = np.random.default_rng(0).standard_normal((4, 3, 2))
    expected = pack_padded_sequence(x, [4, 2, 1]).data
    same(pack_padded_sequence(np.asfortranarray(x), [4, 2, 1]).data, expected)
    same(pack_padded_sequence(x.swapaxes(0, 1), [4, 2, 1], batch_first=True).data, expected)


def test_no_sequences():
    packed = pack_padded_sequence(np.zeros((5, 0, 3)), [])
    assert packed.data.shape == (0, 3)
    assert packed.batch_sizes.shape == (0,)
    padded, lengths = pad_packed_sequence(packed, total_length=5)
    assert padded.shape == (5, 0, 3)
    assert lengths.shape == (0,)
    assert unpad_sequence(np.zeros((5, 0, 3)), []) == []


def test_packed_sequence_is_a_named_tuple():
    data = np.arange(6.0)
    packed = PackedSequence(data, np.array([3, 2, 1]), np.array([2, 0, 1]))
    assert packed._fields == ("data", "batch_sizes", "sorted_indices", "unsorted_indices")
    assert packed.unsorted_indices.tolist() == [1, 2, 0]
    assert PackedSequence(data, np.array([3, 2, 1])).unsorted_indices is None
    for twin in (copy.copy(packed), pickle.loads(pickle.dumps(packed)), packed._replace(data=data)):
        assert isinstance(twin, PackedSequence)
        for actual, expected in zip(twin, packed, strict=True):
            same(actual, expected)
    assert repr(packed).startswith("PackedSequence(data=array([0., 1.")
    assert nn.utils.rnn.PackedSequence is PackedSequence


def test_invert_permutation():
    assert invert_permutation(None) is None
    order = np.random.default_rng(0).permutation(7)
    np.testing.assert_array_equal(order[invert_permutation(order)], np.arange(7))
    assert isinstance(invert_permutation(tensor(order)), Tensor)


X = np.zeros((4, 3, 2))
PACKED = pack_padded_sequence(X, [4, 2, 1])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: pack_padded_sequence([[1.0]], [1]), TypeError, "input"),
        (lambda: pack_padded_sequence(X[0, 0], [2]), ValueError, r"input=\(2,\): needs shape \(T, B, \.\.\.\)"),
        (lambda: pack_padded_sequence(X, [4, 2]), ValueError, r"lengths=\[4, 2\]: needs 3 values"),
        (lambda: pack_padded_sequence(X, [4, 2, 0]), ValueError, r"lengths=\[4, 2, 0\]: needs 1 to 4"),
        (lambda: pack_padded_sequence(X, [5, 2, 1]), ValueError, "needs 1 to 4, the steps of the input, got 5"),
        (lambda: pack_padded_sequence(X, [2, 4, 1]), ValueError, "needs decreasing lengths, or enforce_sorted=False"),
        (lambda: pack_padded_sequence(X, [4.0, 2, 1]), TypeError, "lengths=.*needs ints"),
        (lambda: pack_padded_sequence(X, [[4, 2, 1]]), ValueError, "lengths=.*got 2 dimensions"),
        (lambda: pack_padded_sequence(X, [4, 2, 1], 1), TypeError, "batch_first=1"),
        (lambda: pack_padded_sequence(X, [4, 2, 1], enforce_sorted=0), TypeError, "enforce_sorted=0"),
        (lambda: pad_packed_sequence(X), TypeError, "sequence: needs a PackedSequence, got ndarray"),
        (lambda: pad_packed_sequence(PACKED, total_length=3), ValueError, "total_length=3: needs at least 4"),
        (lambda: pad_packed_sequence(PACKED, total_length=4.5), TypeError, "total_length=4.5"),
        (lambda: pad_packed_sequence(PACKED._replace(data=X[0])), ValueError, "batch_sizes: needs .* sum 3"),
        (lambda: pad_packed_sequence(PACKED._replace(unsorted_indices=np.array([0]))), ValueError, "unsorted_indices"),
        (lambda: pad_sequence([]), ValueError, r"sequences=\[\]: needs at least one"),
        (lambda: pad_sequence(3), TypeError, "sequences=3"),
        (lambda: pad_sequence([[1.0]]), TypeError, "sequences"),
        (lambda: pad_sequence([np.array(1.0)]), ValueError, r"needs shapes \(L, \.\.\.\)"),
        (lambda: pad_sequence([np.ones((1, 2)), np.ones((1, 3))]), ValueError, "that differ in L only"),
        (lambda: pad_sequence([np.ones(2), np.ones(2, int)]), TypeError, "one dtype, got float64 and int64"),
        (lambda: pad_sequence([np.ones(2)], padding_side="top"), ValueError, "padding_side='top'"),
        (lambda: unpad_sequence(X, [5, 1, 1]), ValueError, "needs 0 to 4"),
        (lambda: unpad_sequence(X, [1, 1]), ValueError, "needs 3 values"),
        (lambda: pack_sequence([np.ones(1), np.ones(2)]), ValueError, "enforce_sorted=False"),
        (lambda: pack_sequence([np.ones(1), np.ones(0)]), ValueError, "needs 1 to 1"),
        (lambda: invert_permutation([0, 0]), ValueError, r"permutation=\[0, 0\]"),
    ],
)
def test_wrong_calls_say_what_is_wrong(call, error, words):
    with pytest.raises(error, match=words):
        call()
