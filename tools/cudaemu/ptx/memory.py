"""The memory that PTX sees: arrays at addresses, in spaces that lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastconv.cudaemu.ptx.numbers import Array

# Where the spaces begin: an address cut to 32 bits, or one of another space, is out of bounds.
SHARED, LOCAL, GLOBAL = 1 << 24, 1 << 25, 7 << 44
# Bytes between arrays, and what each begins at a multiple of.
_GAP, _ALIGN = 4096, 256


class Fault(Exception):  # noqa: N818 - becomes a TrapError where the instruction is known
    """Something that a lane must not do: the lane's number in the group that did it, and what in words."""

    def __init__(self, number: int, words: str) -> None:
        super().__init__(words)
        self.number = number


def fault_if(wrong: Array, words: str) -> None:
    """Fault for the first of a group of lanes for which this is true, if there is one."""
    if wrong.any():
        raise Fault(int(np.argmax(wrong)), words)


class Memory:
    """Arrays (name, bytes) of one space, each at an address of its own with gaps between.

    copies: of blocks, or threads, which have them each at the same addresses. All bytes are 255 at first: NaN, and no
    index.
    """

    def __init__(self, base: int, arrays: Sequence[tuple[str, int]], copies: int = 1) -> None:
        self.base, self.places = base, {}
        end = _GAP
        for name, size in arrays:
            self.places[name] = (end, size)
            end += -(-(size + _GAP) // _ALIGN) * _ALIGN
        self.stride = end
        self.valid = np.zeros(end, bool)
        for start, size in self.places.values():
            self.valid[start : start + size] = True
        self.bytes = np.full((copies if arrays else 1) * end, 0xFF, np.uint8)
        self.words = {size: self.bytes.view(f"u{size}") for size in (1, 2, 4, 8)}

    def address(self, name: str) -> int:
        """Where an array begins."""
        return self.base + self.places[name][0]

    def array(self, name: str) -> Array:
        """The bytes of an array, of its first copy."""
        start, size = self.places[name]
        return self.bytes[start : start + size]

    def find(self, addresses: Array, size: int, copies: Any) -> Array:
        """Where in `bytes` these addresses (int64) of copies are. Fault if `size` bytes are outside or misaligned."""
        offsets = addresses - self.base
        outside = offsets.view(np.uint64) >= self.stride - _ALIGN
        if not outside.any():
            outside = ~self.valid[offsets + (size - 1)]
        if outside.any():
            near = self._near(int(offsets[np.argmax(outside)]))
            fault_if(outside, f"{size} bytes out of bounds, {near}")
        fault_if((offsets & (size - 1)) != 0, f"misaligned for {size} bytes")
        return offsets + copies * self.stride

    def _near(self, offset: int) -> str:
        """In words, where something is that is in no array."""
        if not self.places:
            return "where there is no array"
        name = min(self.places, key=lambda one: abs(2 * (offset - self.places[one][0]) - self.places[one][1]))
        start, size = self.places[name]
        return f"at byte {offset - start} of {name}, which has {size}"

    def load(self, places: Array, size: int, count: int = 1) -> Array:
        """(count, places): so many neighbours of `size` bytes each, as unsigned numbers."""
        return self.words[size][places // size + np.arange(count)[:, None]]

    def store(self, places: Array, values: Array) -> None:
        """The other way round: values (count, places), unsigned."""
        self.words[values.itemsize][places // values.itemsize + np.arange(len(values))[:, None]] = values
