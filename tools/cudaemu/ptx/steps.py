"""What instructions do, one function for each kind: frame and instruction in, a step out that does it for lanes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv.cudaemu.ptx import wmma
from fastconv.cudaemu.ptx.memory import Fault, Memory, fault_if
from fastconv.cudaemu.ptx.numbers import OPERATIONS, TYPES, Array
from fastconv.cudaemu.ptx.text import BARRIERS, LEAVING, Code, Instruction, UnknownInstructionError, operands

if TYPE_CHECKING:
    from fastconv.cudaemu.ptx.lanes import Frame, Lanes, Step

_SPACES = ("global", "shared", "local", "const")
# What says in which order accesses are seen, and where they are kept: lanes take turns here, and nothing is kept.
_ORDER = {"nc", "volatile", "relaxed", "acquire", "release", "acq_rel", "weak", "cta", "gpu", "sys"}
_ORDER |= {"ca", "cg", "cs", "lu", "cv", "wb", "wt", "L1::no_allocate", "L1::evict_last"}
_ATOMICS: dict[str, Callable[..., Any]] = {
    "add": lambda old, value: old + value,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "exch": lambda old, value: value,
    "cas": lambda old, compare, value: value if old == compare else old,
}


def known(code: Code, instruction: Instruction) -> bool:
    """Whether an instruction is one of those that are interpreted."""
    name = instruction.name
    if name in BARRIERS:
        # Whoever waits in a function that was called could not let the others go on; and barrier 0 has all threads.
        return code.entry and (name == "bar.warp.sync" or instruction.operands == ("0",))
    if name == "exit":
        return code.entry
    return name in OPERATIONS or name in LEAVING or _maker(name) is not None


def make(frame: Frame, instruction: Instruction) -> Step:
    """The step that does a known instruction. It raises a TrapError that names the instruction and the thread."""
    name = instruction.name
    if name in OPERATIONS and not any("{" in one for one in instruction.operands):
        return _compute(frame, instruction)
    maker = _maker(name)
    assert maker is not None, instruction
    step = maker(frame, instruction)

    def checked(lanes: Lanes) -> None:
        try:
            step(lanes)
        except Fault as fault:
            raise frame.batch.trap(frame.code, instruction, lanes, fault) from None

    return checked


def called(instruction: Instruction) -> tuple[tuple[str, ...], str, tuple[str, ...]]:
    """(where results go, name, parameters) of a call."""
    words = list(instruction.operands)
    results = operands(words.pop(0)[1:-1]) if words[0].startswith("(") else ()
    return results, words[0], operands(words[1][1:-1]) if len(words) > 1 else ()


def _maker(name: str) -> Callable[[Frame, Instruction], Step] | None:
    first, _, rest = name.partition(".")
    if name in _BY_NAME:
        return _BY_NAME[name]
    if first in ("membar", "fence"):
        return _nothing
    if first in ("ld", "st") and rest.startswith("param."):
        return _parameter if rest[6:] in TYPES else None
    if first == "wmma":
        return wmma.maker(name)
    access = _access(name)
    if access is None:
        return None
    return {"ld": _load, "st": _store}.get(first, _atomic)


def _compute(frame: Frame, instruction: Instruction) -> Step:
    operation, (first, *others) = OPERATIONS[instruction.name], instruction.operands
    target, function = frame.target(first, operation.to), operation.function
    sources = [frame.source(one, kind) for one, kind in zip(others, operation.sources, strict=True)]

    def step(lanes: Lanes) -> None:
        target[lanes] = function(*[source[lanes] for source in sources])

    return step


def _nothing(frame: Frame, instruction: Instruction) -> Step:
    return lambda lanes: None


def _trap(frame: Frame, instruction: Instruction) -> Step:
    def step(lanes: Lanes) -> None:
        raise Fault(0, "trap")

    return step


def _pack(frame: Frame, instruction: Instruction) -> Step:
    """mov of a register to several smaller ones, or the other way round: the lowest comes first."""
    kind, (to, from_) = instruction.name.partition(".")[2], instruction.operands
    names = operands((from_ if "{" in from_ else to).strip("{}"))
    part = f"b{int(kind[1:]) // len(names)}"
    if "{" in to:
        whole, targets = frame.source(from_, kind), [frame.target(one, part) for one in names]

        def unpack(lanes: Lanes) -> None:
            values = np.ascontiguousarray(whole[lanes]).view(TYPES[part]).reshape(-1, len(names))
            for k, target in enumerate(targets):
                target[lanes] = values[:, k]

        return unpack
    target, sources = frame.target(to, kind), [frame.source(one, part) for one in names]

    def pack(lanes: Lanes) -> None:
        values = np.stack(np.broadcast_arrays(*[one[lanes] for one in sources]), axis=-1)
        target[lanes] = values.view(TYPES[kind])[:, 0]

    return pack


def _parameter(frame: Frame, instruction: Instruction) -> Step:
    """ld.param and st.param: a parameter is a register under another name."""
    kind = instruction.name.rpartition(".")[2]
    to, from_ = (one.strip("[]").removesuffix("+0") for one in instruction.operands)
    if "+" in to + from_:
        raise UnknownInstructionError(f"{frame.code.name}, {instruction}: a part of a parameter")
    target, source = frame.target(to, kind), frame.source(from_, kind)

    def step(lanes: Lanes) -> None:
        target[lanes] = source[lanes]

    return step


def _call(frame: Frame, instruction: Instruction) -> Step:
    results, name, parameters = called(instruction)
    batch, inner = frame.batch, frame.batch.frame(name)
    code = inner.code
    given = [
        (inner.register(to), frame.register(one)) for one, (to, _) in zip(parameters, code.parameters, strict=True)
    ]
    taken = [(frame.register(to), inner.register(one)) for to, (one, _) in zip(results, code.results, strict=True)]

    def step(lanes: Lanes) -> None:
        for target, source in given:
            target[lanes] = source[lanes]
        batch.run(code, lanes)
        for target, source in taken:
            target[lanes] = source[lanes]

    return step


def _access(name: str) -> tuple[str, str, int, str] | None:
    """(what, space, vector's length, type) of a load, store or atomic; None for one that is not known."""
    first, *words = name.split(".")
    kind = words.pop() if words else ""
    words = [word for word in words if word not in _ORDER]
    space = words.pop(0) if words and words[0] in _SPACES else ""
    if kind not in TYPES:
        return None
    if first in ("ld", "st"):
        count = {(): 1, ("v2",): 2, ("v4",): 4}.get(tuple(words))
        return None if count is None else (first, space, count, kind)
    return (words[0], space, 1, kind) if first in ("atom", "red") and len(words) == 1 and words[0] in _ATOMICS else None


def finder(frame: Frame, address: str, space: str, size: int) -> Callable[[Lanes], tuple[Memory, Array]]:
    """A function from lanes to the memory, and the places there, of `size` bytes at an address."""
    batch, addresses = frame.batch, frame.addresses(address)

    def find(lanes: Lanes) -> tuple[Memory, Array]:
        at = addresses(lanes)
        where = batch.space_of(space, at)
        memory = batch.memories[where]
        return memory, memory.find(at, size, batch.copy_of[where][lanes])

    return find


def _load(frame: Frame, instruction: Instruction) -> Step:
    _, space, count, kind = _access(instruction.name) or ("", "", 0, "")
    to, address = instruction.operands
    size = TYPES[kind].itemsize
    find = finder(frame, address, space, count * size)
    targets = [frame.target(one, kind) for one in operands(to.strip("{}"))]

    def step(lanes: Lanes) -> None:
        memory, places = find(lanes)
        values = memory.load(places, size, count).view(TYPES[kind])
        for target, value in zip(targets, values, strict=True):
            target[lanes] = value

    return step


def _store(frame: Frame, instruction: Instruction) -> Step:
    _, space, count, kind = _access(instruction.name) or ("", "", 0, "")
    address, given = instruction.operands
    size = TYPES[kind].itemsize
    find = finder(frame, address, space, count * size)
    sources = [frame.source(one, f"u{8 * size}") for one in operands(given.strip("{}"))]

    def step(lanes: Lanes) -> None:
        memory, places = find(lanes)
        memory.store(places, np.stack([np.broadcast_to(source[lanes], places.shape) for source in sources]))

    return step


def _atomic(frame: Frame, instruction: Instruction) -> Step:
    """One lane after the other."""
    what, space, _, kind = _access(instruction.name) or ("", "", 0, "")
    given = list(instruction.operands)
    target = frame.target(given.pop(0) if instruction.name.startswith("atom") else "_", kind)
    find = finder(frame, given.pop(0), space, TYPES[kind].itemsize)
    sources, function, batch = [frame.source(one, kind) for one in given], _ATOMICS[what], frame.batch

    def step(lanes: Lanes) -> None:
        memory, places = find(lanes)
        words = memory.words[TYPES[kind].itemsize].view(TYPES[kind])
        values = [np.broadcast_to(one[lanes], places.shape) for one in sources]
        for lane, place, *of_lane in zip(batch.lanes[lanes], places // TYPES[kind].itemsize, *values, strict=True):
            target[lane] = words[place]
            words[place] = function(words[place], *of_lane)

    return step


def _copy(frame: Frame, instruction: Instruction) -> Step:
    """cp.async: what is there now arrives when it is waited for; zeros beyond the bytes that are asked for."""
    to, from_, size, *asked = instruction.operands
    count = int(size) // 4
    if count not in (1, 2, 4):
        raise UnknownInstructionError(f"{frame.code.name}, {instruction}: needs 4, 8 or 16 bytes")
    batch, addresses = frame.batch, frame.addresses(from_)
    find, bytes_ = finder(frame, to, "shared", 4 * count), frame.source(asked[0] if asked else size, "u32")

    def step(lanes: Lanes) -> None:
        here, (_, places) = batch.lanes[lanes], find(lanes)
        at, wanted = addresses(lanes), np.broadcast_to(bytes_[lanes], here.shape)
        values = np.zeros((count, here.size), np.uint32)
        memory = batch.memories["global"]
        for k in range(count):
            there = np.flatnonzero(wanted > 4 * k)
            values[k, there] = memory.load(memory.find(at[there] + 4 * k, 4, 0), 4)[0]
        batch.copies.append((here, places, values, np.full(here.size, -1)))

    return step


def _commit(frame: Frame, instruction: Instruction) -> Step:
    batch = frame.batch

    def step(lanes: Lanes) -> None:
        now = batch.truth(lanes)
        for here, _, _, group in batch.copies:
            mine = now[here] & (group < 0)
            group[mine] = batch.committed[here[mine]]
        batch.committed[lanes] += 1

    return step


def _wait(frame: Frame, instruction: Instruction) -> Step:
    """What lanes have committed arrives, but for their last groups; with wait_all, whatever they asked for."""
    batch, everything = frame.batch, instruction.name.endswith("all")
    left = 0 if everything else int(instruction.operands[0])

    def step(lanes: Lanes) -> None:
        now, kept = batch.truth(lanes), []
        for here, places, values, group in batch.copies:
            arrived = now[here] & (everything | (group >= 0) & (group < batch.committed[here] - left))
            batch.memories["shared"].store(places[arrived], values[:, arrived])
            if not arrived.all():
                kept.append((here[~arrived], places[~arrived], values[:, ~arrived], group[~arrived]))
        batch.copies = kept

    return step


def _members(frame: Frame, lanes: Lanes, mask: Array) -> Array:
    """Of all lanes, which are these. Fault if one of a warp that the mask names is not among them."""
    here = frame.batch.truth(lanes)
    fault_if((mask & ~frame.batch.warp_bits(here, absent=True)[lanes]) != 0, "lanes of the mask are elsewhere")
    return here


def _shuffle(frame: Frame, instruction: Instruction) -> Step:
    batch, mode = frame.batch, instruction.name.split(".")[2]
    both, from_, by, bounds, mask = instruction.operands
    to, _, inside_to = both.partition("|")
    target, found = frame.target(to, "b32"), frame.target(inside_to or "_", "pred")
    values, (by_, bounds_, mask_) = frame.source(from_, "b32"), (frame.source(one, "u32") for one in (by, bounds, mask))

    def step(lanes: Lanes) -> None:
        here, lane = _members(frame, lanes, mask_[lanes]), batch.in_warp[lanes]
        distance, limits = by_[lanes].astype(np.int64) & 31, bounds_[lanes].astype(np.int64)
        segment = limits >> 8 & 31
        most = lane & segment | limits & 31 & ~segment
        if mode == "up":
            wanted = lane - distance
            inside = wanted >= most
        else:
            wanted = {"down": lane + distance, "bfly": lane ^ distance, "idx": lane & segment | distance & ~segment}[
                mode
            ]
            inside = wanted <= most
        source = np.where(inside, wanted, lane) + batch.warp_start[lanes]
        elsewhere = source >= (batch.block_of[lanes] + 1) * batch.threads
        fault_if(elsewhere | ~here[source - elsewhere * source], "shuffles from a lane that is elsewhere")
        target[lanes], found[lanes] = np.broadcast_to(values[slice(None)], batch.size)[source], inside

    return step


def _vote(frame: Frame, instruction: Instruction) -> Step:
    batch, (to, asked, mask) = frame.batch, instruction.operands
    _, _, mode, kind = instruction.name.split(".")
    target, truth, mask_ = frame.target(to, kind), frame.source(asked.lstrip("!"), "pred"), frame.source(mask, "u32")

    def step(lanes: Lanes) -> None:
        here = _members(frame, lanes, mask_[lanes])
        yes = np.zeros(batch.size, bool)
        yes[lanes] = truth[lanes] != asked.startswith("!")
        voters = batch.warp_bits(here)[lanes] & mask_[lanes]
        bits = batch.warp_bits(yes)[lanes] & voters
        target[lanes] = {"ballot": bits, "any": bits != 0, "all": bits == voters}[mode]

    return step


def _active(frame: Frame, instruction: Instruction) -> Step:
    batch, target = frame.batch, frame.target(instruction.operands[0], "b32")

    def step(lanes: Lanes) -> None:
        target[lanes] = batch.warp_bits(batch.truth(lanes))[lanes]

    return step


_BY_NAME: dict[str, Callable[[Frame, Instruction], Step]] = {
    **{f"shfl.sync.{mode}.b32": _shuffle for mode in ("up", "down", "bfly", "idx")},
    **dict.fromkeys(("vote.sync.all.pred", "vote.sync.any.pred", "vote.sync.ballot.b32"), _vote),
    **dict.fromkeys(("cp.async.ca.shared.global", "cp.async.cg.shared.global"), _copy),
    **dict.fromkeys(("cp.async.wait_group", "cp.async.wait_all"), _wait),
    **dict.fromkeys(("call", "call.uni"), _call),
    **dict.fromkeys(("mov.b32", "mov.b64"), _pack),
    "cp.async.commit_group": _commit,
    "activemask.b32": _active,
    "trap": _trap,
}
