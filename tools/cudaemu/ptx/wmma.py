"""Tensor cores: wmma.load, wmma.mma and wmma.store, by whole warps.

Which lane has what of a matrix is nobody's business in PTX, as long as loads, products and stores agree: here it is one
row after the other, and again from the start where a warp's registers hold more than the matrix has. Products are exact
and summed in float64; a device sums them in an order and with digits of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from fastconv.cudaemu.ptx.memory import Memory, fault_if
from fastconv.cudaemu.ptx.numbers import Array
from fastconv.cudaemu.ptx.text import Instruction, operands

if TYPE_CHECKING:
    from fastconv.cudaemu.ptx.lanes import Frame, Lanes, Step

_SHAPE = r"m(?P<m>\d+)n(?P<n>\d+)k(?P<k>\d+)"
_MOVE = re.compile(
    rf"wmma\.(?P<what>load\.[abc]|store\.d)\.sync\.aligned\.(?P<layout>row|col)\.{_SHAPE}"
    r"(?:\.(?P<space>shared|global))?\.(?P<type>f16|bf16|tf32|f32)"
)
_PRODUCT = re.compile(
    rf"wmma\.mma\.sync\.aligned\.(?:row|col)\.(?:row|col)\.{_SHAPE}\.f32(?:\.(?P<type>bf16|tf32)\.(?P=type))?\.f32"
)
# Bytes of a number.
_SIZES = {"f16": 2, "bf16": 2, "tf32": 4, "f32": 4}


def maker(name: str) -> Callable[[Frame, Instruction], Step] | None:
    """What makes a step of the instruction of this name; None if it is not known."""
    if _PRODUCT.fullmatch(name):
        return _product
    return _move if _MOVE.fullmatch(name) else None


def _numbers(bits: Array, kind: str) -> Array:
    """The float64 that these bits of a type mean. Of TF32 the last 13 bits are not looked at."""
    if kind == "f16":
        return bits.view(np.float16).astype(np.float64)
    wide = bits.astype(np.uint32) << np.uint32(16) if kind == "bf16" else bits
    return (wide & np.uint32(0xFFFFE000) if kind == "tf32" else wide).view(np.float32).astype(np.float64)


def _warps(frame: Frame, lanes: Lanes) -> Array:
    """These lanes as (warps, 32). Fault if a warp is not whole."""
    batch, here = frame.batch, frame.batch.lanes[lanes]
    whole = batch.warp_bits(batch.truth(lanes))[lanes] == np.uint32(0xFFFFFFFF)
    fault_if(~whole, "a warp that is not whole")
    return here.reshape(-1, 32)


class _Fragment:
    """A matrix of `shape` in registers of all lanes of a warp, as bits of numbers of `size` bytes."""

    def __init__(self, frame: Frame, names: str, shape: tuple[int, int], size: int) -> None:
        self.registers = [frame.register(one) for one in operands(names.strip("{}"))]
        self.shape, self.size = shape, size
        self.held = len(self.registers) * 4 // size

    def read(self, warps: Array) -> Array:
        """(warps, *shape)"""
        words = np.stack([register[warps] for register in self.registers], axis=-1)
        numbers = words.view(f"u{self.size}").reshape(len(warps), 32 * self.held)
        return numbers[:, : self.shape[0] * self.shape[1]].reshape(-1, *self.shape)

    def write(self, warps: Array, matrices: Array) -> None:
        """The other way round."""
        numbers = matrices.reshape(len(warps), -1)
        place = np.arange(32 * self.held) % numbers.shape[1]
        words = np.ascontiguousarray(numbers[:, place]).view(np.uint32).reshape(*warps.shape, -1)
        for k, register in enumerate(self.registers):
            register[warps] = words[..., k]


def _product(frame: Frame, instruction: Instruction) -> Step:
    found = _PRODUCT.fullmatch(instruction.name)
    assert found is not None
    m, n, k, kind = int(found["m"]), int(found["n"]), int(found["k"]), found["type"] or "f16"
    to, *given = instruction.operands
    a, b = (_Fragment(frame, one, shape, _SIZES[kind]) for one, shape in zip(given, ((m, k), (k, n)), strict=False))
    c, d = (_Fragment(frame, one, (m, n), 4) for one in (given[2], to))

    def step(lanes: Lanes) -> None:
        warps = _warps(frame, lanes)
        total = _numbers(a.read(warps), kind) @ _numbers(b.read(warps), kind) + _numbers(c.read(warps), "f32")
        d.write(warps, total.astype(np.float32).view(np.uint32))

    return step


def _move(frame: Frame, instruction: Instruction) -> Step:
    """A matrix between memory and registers. The last operand is how far apart rows, or columns, are in numbers."""
    found = _MOVE.fullmatch(instruction.name)
    assert found is not None
    m, n, k, size = int(found["m"]), int(found["n"]), int(found["k"]), _SIZES[found["type"]]
    storing, batch = found["what"] == "store.d", frame.batch
    shape = {"load.a": (m, k), "load.b": (k, n)}.get(found["what"], (m, n))
    address, names = instruction.operands[:2] if storing else instruction.operands[1::-1]
    fragment, addresses = _Fragment(frame, names, shape, size), frame.addresses(address)
    apart = frame.source(instruction.operands[2], "u32")
    row, column = np.divmod(np.arange(shape[0] * shape[1]), shape[1])
    along, across = (row, column) if found["layout"] == "row" else (column, row)

    def find(lanes: Lanes, warps: Array) -> tuple[Memory, Array]:
        at = addresses(lanes)
        distance = np.broadcast_to(apart[lanes], at.shape).astype(np.int64)
        first = at.reshape(-1, 32)[:, :1]
        fault_if(at != np.repeat(first, 32), "addresses that differ in a warp")
        fault_if(at % 32 != 0, "misaligned for a matrix")
        places = first + (along * distance.reshape(-1, 32)[:, :1] + across) * size
        where = batch.space_of(found["space"] or "", at)
        memory = batch.memories[where]
        copies = np.repeat(batch.copy_of[where][warps[:, 0]], places.shape[1])
        return memory, memory.find(places.reshape(-1), size, copies)

    def load(lanes: Lanes) -> None:
        warps = _warps(frame, lanes)
        memory, places = find(lanes, warps)
        fragment.write(warps, memory.load(places, size)[0])

    def store(lanes: Lanes) -> None:
        warps = _warps(frame, lanes)
        memory, places = find(lanes, warps)
        memory.store(places, fragment.read(warps).reshape(1, -1))

    return store if storing else load
