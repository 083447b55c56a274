"""Sequences of unequal lengths: padded to one length, or packed step by step without padding.

Arrays in, arrays out; of Tensors, Tensors, whose gradients flow back to the elements that they come from. What only
counts (batch sizes, lengths, permutations) is int64 and of the same kind. Any dtype.
Source: torch.nn.utils.rnn, from which unpad_sequence differs in leaving its input as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, cast

import numpy as np

from fastconv.autograd import Array, Variable, array, array_module, is_array, record
from fastconv.device import moved
from fastconv.nn.checks import one_of
from fastconv.problem import boolean, integer


class _Packed(NamedTuple):
    data: Any
    batch_sizes: Any
    sorted_indices: Any
    unsorted_indices: Any


class PackedSequence(_Packed):
    """Sequences one step after another: at each step, the elements of all sequences that are that long.

    data: (Σ lengths, …); the first batch_sizes[0] rows are step 0 of all sequences, from the longest to the shortest,
    the next batch_sizes[1] step 1, and so on. batch_sizes: (T,), not increasing.
    sorted_indices: (B,), which sequence of the batch stands at each place, or None if they came in that order;
    unsorted_indices: at which place each sequence of the batch stands, which follows from sorted_indices.
    Made by pack_padded_sequence and pack_sequence. Source: torch.nn.utils.rnn.PackedSequence.
    """

    __slots__ = ()

    def __new__(
        cls, data: Any, batch_sizes: Any, sorted_indices: Any = None, unsorted_indices: Any = None
    ) -> PackedSequence:
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        return super().__new__(cls, data, batch_sizes, sorted_indices, unsorted_indices)


def _integers(name: str, values: Any) -> Array:
    """`values`, a sequence, array or Tensor of integers, as int64 (B,)."""
    # Counts are for the CPU, which loops over them.
    given = moved(array(values), "cpu") if isinstance(values, Variable) or is_array(values) else np.array(values)
    if given.ndim != 1:
        raise ValueError(f"{name}={values!r:.60}: needs one int for each sequence, got {given.ndim} dimensions")
    if given.size and given.dtype.kind not in "iu":
        raise TypeError(f"{name}={values!r:.60}: needs ints, got dtype {given.dtype}")
    return given.astype(np.int64)


def _padded(name: str, x: Any, batch_first: bool) -> tuple[Array, int, int]:
    """The array of `x`, (T, B, …) or, if `batch_first`, (B, T, …), with T and B."""
    a = array(x, name)
    first = boolean("batch_first", batch_first)
    if a.ndim < 2:
        raise ValueError(f"{name}={a.shape}: needs shape {'(B, T, ...)' if first else '(T, B, ...)'}")
    return a, a.shape[int(first)], a.shape[int(not first)]


def _lengths(lengths: Any, steps: int, batch: int, least: int) -> Array:
    """The lengths of `batch` sequences, each from `least` to `steps`, as int64."""
    checked = _integers("lengths", lengths)
    if len(checked) != batch:
        raise ValueError(f"lengths={lengths!r:.60}: needs {batch} values, one for each sequence, got {len(checked)}")
    wrong = checked[(checked < least) | (checked > steps)]
    if wrong.size:
        raise ValueError(f"lengths={lengths!r:.60}: needs {least} to {steps}, the steps of the input, got {wrong[0]}")
    return checked


def _places(batch_sizes: Array) -> tuple[Array, Array]:
    """The step of every row of packed data, and its place among the sequences, the longest first."""
    steps = np.repeat(np.arange(len(batch_sizes)), batch_sizes)
    starts = np.repeat(np.cumsum(batch_sizes) - batch_sizes, batch_sizes)
    return steps, np.arange(len(steps)) - starts


def _batch_sizes(lengths: Array) -> Array:
    """How many sequences have each step, of lengths from the longest to the shortest."""
    steps = np.arange(lengths.max(initial=0))
    # The first of the ascending lengths that are larger than a step, and all after it.
    return len(lengths) - np.searchsorted(lengths[::-1], steps, side="right")


def invert_permutation(permutation: Any) -> Any:
    """The permutation that undoes this one, (B,); None for None."""
    if permutation is None:
        return None
    order = _integers("permutation", permutation)
    if not np.array_equal(np.sort(order), np.arange(len(order))):
        raise ValueError(f"permutation={permutation!r:.60}: needs every int from 0 to {len(order) - 1} once")
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    return record(permutation, inverse)


def _sequences(sequences: Any) -> tuple[list[Any], list[Array]]:
    """The sequences and their arrays, of one dtype and with the same dimensions after the first."""
    if not isinstance(sequences, Iterable) or isinstance(sequences, (str, dict)):
        raise TypeError(f"sequences={sequences!r:.60}: needs a list of arrays or Tensors")
    given = list(sequences)
    arrays = [array(sequence, "sequences") for sequence in given]
    if not arrays:
        raise ValueError("sequences=[]: needs at least one sequence")
    for a in arrays:
        if a.ndim < 1 or a.shape[1:] != arrays[0].shape[1:]:
            raise ValueError(
                f"sequences: needs shapes (L, ...) that differ in L only, got {[each.shape for each in arrays]!s:.100}"
            )
        if a.dtype != arrays[0].dtype:
            raise TypeError(f"sequences: needs one dtype, got {arrays[0].dtype} and {a.dtype}")
    return given, arrays


def _filled(shape: tuple[int, ...], like: Array, padding_value: float) -> Array:
    xp = array_module(like)
    return cast(Array, xp.full(shape, padding_value, like.dtype) if padding_value else xp.zeros(shape, like.dtype))


def _back(where: tuple[Any, ...], a: Array) -> Callable[[Array], Array]:
    """The gradient of a[where], which names no element twice."""
    shape, dtype = a.shape, a.dtype

    def gradient(g: Array) -> Array:
        gx = array_module(g).zeros(shape, dtype)
        gx[where] = g
        return cast(Array, gx)

    return gradient


def _part(where: tuple[Any, ...]) -> Callable[[Array], Array]:
    return lambda g: g[where]


def pack_padded_sequence(
    input: Any, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Padded sequences without their padding: input (T, B, …), or (B, T, …) if batch_first -> PackedSequence.

    lengths: B ints from 1 to T, as list, array or Tensor, from the longest to the shortest; with enforce_sorted=False
    in any order, and sequences of one length keep theirs. ValueError or TypeError names the argument at fault.
    Source: torch.nn.utils.rnn.pack_padded_sequence.
    """
    a, steps, batch = _padded("input", input, batch_first)
    counts = _lengths(lengths, steps, batch, 1)
    order: Array | None = None
    if not boolean("enforce_sorted", enforce_sorted):
        order = np.argsort(-counts, kind="stable")
        counts = counts[order]
    elif (np.diff(counts) > 0).any():
        raise ValueError(f"lengths={lengths!r:.60}: needs decreasing lengths, or enforce_sorted=False")
    sizes = _batch_sizes(counts)
    step, place = _places(sizes)
    sequence = place if order is None else order[place]
    where = (sequence, step) if batch_first else (step, sequence)
    data = record(input, a[where], (input, _back(where, a)))
    return PackedSequence(data, record(input, sizes), None if order is None else record(input, order))


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[Any, Any]:
    """Padded sequences of packed ones, in the batch's order: (T, B, …), or (B, T, …) if batch_first; lengths (B,).

    Elements beyond a sequence's length are padding_value. T is the longest length, or total_length, which must not be
    smaller. ValueError or TypeError names the argument at fault. Source: torch.nn.utils.rnn.pad_packed_sequence.
    """
    if not isinstance(sequence, PackedSequence):
        raise TypeError(f"sequence: needs a PackedSequence, got {type(sequence).__name__}")
    data, first = array(sequence.data, "sequence.data"), boolean("batch_first", batch_first)
    sizes = _integers("sequence.batch_sizes", sequence.batch_sizes)
    if sizes.sum() != len(data) or (np.diff(sizes) > 0).any() or (sizes < 1).any():
        raise ValueError(f"sequence.batch_sizes: needs decreasing sizes with the sum {len(data)}, data's length")
    longest, batch = len(sizes), int(sizes.max(initial=0))
    steps = longest if total_length is None else integer("total_length", total_length, 0)
    if steps < longest:
        raise ValueError(f"total_length={total_length!r}: needs at least {longest}, the longest sequence's length")
    step, place = _places(sizes)
    lengths = np.bincount(place, minlength=batch).astype(np.int64)
    if sequence.unsorted_indices is not None:
        back = _integers("sequence.unsorted_indices", sequence.unsorted_indices)
        if len(back) != batch:
            raise ValueError(f"sequence.unsorted_indices: needs {batch} indices, one a sequence, got {len(back)}")
        lengths, place = lengths[back], invert_permutation(back)[place]
    where = (place, step) if first else (step, place)
    padded = _filled(((batch, steps) if first else (steps, batch)) + data.shape[1:], data, padding_value)
    padded[where] = data
    return record(sequence.data, padded, (sequence.data, lambda g: g[where])), record(sequence.data, lengths)


def pad_sequence(
    sequences: Any, batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right"
) -> Any:
    """Sequences (L, …) of unequal lengths, one beside the other: (T, B, …), or (B, T, …) if batch_first.

    T is the longest length; padding_value stands after the elements of shorter ones ("right") or before them ("left").
    A Tensor if one of the sequences is. ValueError or TypeError if they differ in more than L.
    Source: torch.nn.utils.rnn.pad_sequence.
    """
    first = boolean("batch_first", batch_first)
    one_of("padding_side", padding_side, ("right", "left"))
    given, arrays = _sequences(sequences)
    steps, batch = max(len(a) for a in arrays), len(arrays)
    shape = ((batch, steps) if first else (steps, batch)) + arrays[0].shape[1:]
    padded = _filled(shape, arrays[0], padding_value)
    edges = []
    for i, (sequence, a) in enumerate(zip(given, arrays, strict=True)):
        start = steps - len(a) if padding_side == "left" else 0
        elements = slice(start, start + len(a))
        where = (i, elements) if first else (elements, i)
        padded[where] = a
        edges.append((sequence, _part(where)))
    among = next((sequence for sequence in given if isinstance(sequence, Variable)), given[0])
    return record(among, padded, *edges)


def unpad_sequence(padded_sequences: Any, lengths: Any, batch_first: bool = False) -> list[Any]:
    """The sequences (L, …) of a padded batch (T, B, …), or (B, T, …) if batch_first, each a copy.

    lengths: B ints from 0 to T, as list, array or Tensor. Source: torch.nn.utils.rnn.unpad_sequence.
    """
    a, steps, batch = _padded("padded_sequences", padded_sequences, batch_first)
    counts = _lengths(lengths, steps, batch, 0)
    # Copies, so that changing a sequence does not change the batch.
    places: list[tuple[Any, ...]] = [(i, slice(n)) if batch_first else (slice(n), i) for i, n in enumerate(counts)]
    return [record(padded_sequences, a[part].copy(), (padded_sequences, _back(part, a))) for part in places]


def pack_sequence(sequences: Any, enforce_sorted: bool = True) -> PackedSequence:
    """Sequences (L, …), L >= 1, packed without padding: pack_padded_sequence of pad_sequence.

    From the longest to the shortest, or in any order with enforce_sorted=False.
    Source: torch.nn.utils.rnn.pack_sequence.
    """
    given, arrays = _sequences(sequences)
    return pack_padded_sequence(pad_sequence(given), [len(a) for a in arrays], enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Any]:
    """The sequences (L, …) that were packed, in the batch's order. Source: torch.nn.utils.rnn.unpack_sequence."""
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(padded, lengths, batch_first=True)
