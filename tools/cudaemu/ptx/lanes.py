"""Threads as lanes of arrays: who stands where in the code, and the registers that they have."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv.cudaemu.ptx import steps
from fastconv.cudaemu.ptx.memory import GLOBAL, LOCAL, SHARED, Fault, Memory, fault_if
from fastconv.cudaemu.ptx.numbers import TYPES, Array
from fastconv.cudaemu.ptx.text import BARRIERS, LEAVING, Code, Instruction, UnknownInstructionError

if TYPE_CHECKING:
    from fastconv.cudaemu.ptx import Function

# A launch is given up after so many basic blocks.
MOST_BLOCKS = 1_000_000

# Lanes are indices, or all there are.
Lanes = Any
Step = Callable[[Lanes], None]
ALL = slice(None)
_NOBODY = np.empty(0, np.int64)

_ADDRESS = re.compile(r"\[([%\w$#]+)(?:\+(-?\d+))?\]")
_NUMBER = re.compile(r"-?(?:0[xX][0-9a-fA-F]+|\d+)U?")
_FLOAT = re.compile(r"0[fFdD]([0-9a-fA-F]+)")


class TrapError(RuntimeError):
    """What a device would stop at, or might: an access out of bounds, a barrier that threads do not come to."""


class Constant:
    """A number for all lanes, read as a register is: an array of one element."""

    def __init__(self, value: Array) -> None:
        self.value = value

    def __getitem__(self, lanes: Lanes) -> Array:
        return self.value


class Batch:
    """The lanes of some blocks that are interpreted together, and what they share."""

    def __init__(self, function: Function, block: tuple[int, int, int], blocks: int, shared_mem: int) -> None:
        self.function, self.block, self.blocks, self.shared_mem = function, block, blocks, shared_mem
        self.threads = block[0] * block[1] * block[2]
        self.size = blocks * self.threads
        self.lanes = np.arange(self.size)
        self.block_of, thread = np.divmod(self.lanes, self.threads)
        self.in_warp, self.warp_start = thread % 32, self.lanes - thread % 32
        self.thread = (thread % block[0], thread // block[0] % block[1], thread // (block[0] * block[1]))
        self.special = {"%laneid": self.in_warp.astype(np.uint32), "%warpid": (thread // 32).astype(np.uint32)}
        for axis, place in zip("xyz", self.thread, strict=True):
            self.special[f"%tid.{axis}"] = place.astype(np.uint32)
            for name in ("ctaid", "ntid", "nctaid"):
                self.special[f"%{name}.{axis}"] = np.zeros(self.size, np.uint32)
        self.variables: dict[str, list[tuple[str, int]]] = {"shared": [], "local": []}
        for one in function.variables:
            if one.space in self.variables:
                self.variables[one.space].append((one.name, shared_mem if one.size is None else one.size))
        self.memories: dict[str, Memory] = {}
        # Which of a memory's copies a lane has.
        self.copy_of = {"global": np.zeros(self.size, np.int64), "shared": self.block_of, "local": self.lanes}
        self.frames: dict[str, Frame] = {}
        self.interpreted = 0

    def begin(self, grid: tuple[int, int, int], memory: Memory, values: Sequence[Any]) -> None:
        """Get ready for a launch: global memory, and the kernel's parameters as unsigned numbers."""
        self.grid, self.interpreted, self.memories["global"] = grid, 0, memory
        frame = self.frame(self.function.name)
        for (name, _), value in zip(self.function.code.parameters, values, strict=True):
            frame.register(name)[...] = value
        for axis, of_grid, of_block in zip("xyz", grid, self.block, strict=True):
            self.special[f"%nctaid.{axis}"][...] = of_grid
            self.special[f"%ntid.{axis}"][...] = of_block

    def launch(self, first: int, blocks: int) -> None:
        """Interpret so many blocks from number `first` on."""
        self.memories["shared"] = Memory(SHARED, self.variables["shared"], self.blocks)
        self.memories["local"] = Memory(LOCAL, self.variables["local"], self.size)
        number, (x, y, _) = self.block_of + first, self.grid
        for axis, place in zip("xyz", (number % x, number // x % y, number // (x * y)), strict=True):
            self.special[f"%ctaid.{axis}"][...] = place
        # What cp.async brings: lanes, places, values, and which of the lane's groups it is in, −1 before it is in one.
        self.copies: list[tuple[Array, Array, Array, Array]] = []
        self.committed = np.zeros(self.size, np.int64)
        self.run(self.function.code, ALL if blocks == self.blocks else self.lanes[: blocks * self.threads])

    def frame(self, name: str) -> Frame:
        """The registers of a function. A function that called itself would need more than one."""
        if name not in self.frames:
            self.frames[name] = Frame(self, self.function.module.codes[name])
        return self.frames[name]

    def run(self, code: Code, lanes: Lanes) -> None:
        """Interpret a function until all of these lanes have returned from it.

        Of the groups that stand at different places the one at the lowest goes on, so that lanes meet again where
        branches and loops end. Barriers open when nobody can go on otherwise.
        """
        frame = self.frame(code.name)
        pending: dict[int, Lanes] = {0: lanes}
        waiting: dict[int, Lanes] = {}

        def go(number: int, group: Lanes) -> None:
            if number < len(code.blocks) and (group is ALL or group.size):
                pending[number] = self._together(pending[number], group) if number in pending else group

        while pending or waiting:
            if not pending:
                for number in self._open(code, waiting):
                    go(number + 1, waiting.pop(number))
                continue
            number = min(pending)
            group = pending.pop(number)
            self.interpreted += 1
            if self.interpreted > MOST_BLOCKS:
                raise TrapError(f"{code.name}: given up after {MOST_BLOCKS} basic blocks")
            inside, end = frame.block(number)
            for step in inside:
                step(group)
            if end is None:
                go(number + 1, group)
                continue
            leaving, staying = frame.split(end, group)
            if end.name.startswith("bra"):
                go(code.labels[end.operands[0]], leaving)
            elif end.name in BARRIERS and (leaving is ALL or leaving.size):
                waiting[number] = leaving
            go(number + 1, staying)

    def _together(self, one: Lanes, other: Lanes) -> Lanes:
        both = np.sort(np.concatenate([one, other]), kind="stable")
        return ALL if both.size == self.size else both

    def _open(self, code: Code, waiting: dict[int, Lanes]) -> list[int]:
        """Which barriers open, of those that lanes wait at: those of warps first. TrapError if a block's differ."""
        of_warps = [number for number in waiting if code.blocks[number][-1].name == "bar.warp.sync"]
        if of_warps:
            return of_warps
        lowest, highest = np.full(self.blocks, len(code.blocks)), np.full(self.blocks, -1)
        for number, lanes in waiting.items():
            np.minimum.at(lowest, self.block_of[lanes], number)
            np.maximum.at(highest, self.block_of[lanes], number)
        if (lowest < highest).any():
            places = sorted(str(code.blocks[number][-1]) for number in waiting)
            raise TrapError(f"{code.name}: threads of a block wait at different barriers: {'; '.join(places)}")
        return list(waiting)

    def space_of(self, space: str, addresses: Array) -> str:
        """The memory that an instruction means; if it does not say, as these addresses do."""
        if space:
            return "global" if space == "const" else space
        where = (addresses.astype(np.uint64)[:, None] >= np.array([LOCAL, GLOBAL], np.uint64)).sum(axis=1)
        fault_if(where != where[0], "generic addresses of several spaces at once")
        return ("shared", "local", "global")[where[0]]

    def truth(self, lanes: Lanes) -> Array:
        """Of all lanes, which are these."""
        here = np.zeros(self.size, bool)
        here[lanes] = True
        return here

    def warp_bits(self, truth: Array, *, absent: bool = False) -> Array:
        """For each lane its warp's bits of an array of truths. absent: the bit of threads that a block has not."""
        warps = -(-self.threads // 32)
        padded = np.full((self.blocks, warps * 32), absent)
        padded[:, : self.threads] = truth.reshape(self.blocks, self.threads)
        bits = np.packbits(padded, bitorder="little").view(np.uint32)
        return bits[self.block_of * warps + (self.lanes - self.block_of * self.threads) // 32]

    def trap(self, code: Code, instruction: Instruction, lanes: Lanes, fault: Fault) -> TrapError:
        """The error for what one of these lanes did."""
        lane = self.lanes[lanes][fault.number]
        block = tuple(int(self.special[f"%ctaid.{axis}"][lane]) for axis in "xyz")
        thread = tuple(int(one[lane]) for one in self.thread)
        return TrapError(f"{code.name}, {instruction}: {fault}, by thread {thread} of block {block}")


class Frame:
    """A function's registers, of all lanes, and its basic blocks as steps: made when somebody comes to them."""

    def __init__(self, batch: Batch, code: Code) -> None:
        self.batch, self.code = batch, code
        self.registers: dict[str, Array] = {}
        self.blocks: dict[int, tuple[list[Step], Instruction | None]] = {}

    def register(self, name: str) -> Array:
        """A register: unsigned numbers, or truths."""
        if name not in self.registers:
            kind = TYPES[self.code.register_type(name)]
            self.registers[name] = np.zeros(self.batch.size, kind if kind.kind == "b" else f"u{kind.itemsize}")
        return self.registers[name]

    def source(self, operand: str, kind: str) -> Array | Constant:
        """An operand as numbers of a type, to be read: a register, or the lower end of it; a number; an address."""
        wanted = TYPES[kind]
        if operand.startswith("%") or operand in self.code.registers:
            held = self.batch.special.get(operand)
            held = self.register(operand) if held is None else held
            return held.view(wanted)[:: max(1, held.itemsize // wanted.itemsize)]
        if number := _FLOAT.fullmatch(operand):
            return Constant(np.array([int(number[1], 16)], f"u{len(number[1]) // 2}").view(wanted))
        if _NUMBER.fullmatch(operand):
            bits = int(operand.rstrip("U"), 0) % 2 ** (8 * wanted.itemsize)
            return Constant(np.array([bits], f"u{wanted.itemsize}").view(wanted))
        for memory in self.batch.memories.values():
            if operand in memory.places:
                return Constant(np.array([memory.address(operand)], wanted))
        raise UnknownInstructionError(f"{self.code.name}: {operand} is not there")

    def target(self, operand: str, kind: str) -> Array:
        """A register as numbers of a type, to be written; a wider one takes the sign along. `_` is nobody's."""
        wanted = TYPES[kind]
        if operand == "_":
            return np.empty(self.batch.size, wanted)
        held = self.register(operand)
        return held if wanted.kind == "b" else held.view(f"{wanted.kind}{held.itemsize}")

    def addresses(self, operand: str) -> Callable[[Lanes], Array]:
        """A function from lanes to the addresses that [register + number] gives them."""
        found = _ADDRESS.fullmatch(operand)
        if found is None:
            raise UnknownInstructionError(f"{self.code.name}: {operand} is no address")
        base, more = found[1], int(found[2] or 0)
        narrow = base.startswith("%") and self.register(base).itemsize == 4
        held, every = self.source(base, "u32" if narrow else "s64"), self.batch.lanes
        if isinstance(held, Constant):
            return lambda lanes: np.full(every[lanes].shape, int(held.value[0]) + more)
        return lambda lanes: held[lanes].astype(np.int64) + more

    def split(self, instruction: Instruction, lanes: Lanes) -> tuple[Lanes, Lanes]:
        """Those of the lanes that an instruction's guard lets through, and the others."""
        if not instruction.guard:
            return lanes, _NOBODY
        truth = self.register(instruction.guard)[lanes] != instruction.negated
        if truth.all():
            return lanes, _NOBODY
        if not truth.any():
            return _NOBODY, lanes
        here = self.batch.lanes[lanes]
        return here[truth], here[~truth]

    def block(self, number: int) -> tuple[list[Step], Instruction | None]:
        """A basic block: its steps, and the branch, return or barrier that it ends with, if it does."""
        if number not in self.blocks:
            inside = self.code.blocks[number]
            end = inside[-1] if inside and inside[-1].name in LEAVING + BARRIERS else None
            made = [self._step(one) for one in inside if one is not end]
            self.blocks[number] = made, end
        return self.blocks[number]

    def _step(self, instruction: Instruction) -> Step:
        whole = steps.make(self, instruction)
        if not instruction.guard:
            return whole

        def guarded(lanes: Lanes) -> None:
            chosen, _ = self.split(instruction, lanes)
            if chosen is ALL or chosen.size:
                whole(chosen)

        return guarded
