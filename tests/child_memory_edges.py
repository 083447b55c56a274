"""Run kernels on arrays that lie flush against unreadable pages: child_memory_edges.py MODE, see main().

The kernel and case are printed before each run, so that the last line before a crash says which it was.
"""

import ctypes
import dataclasses
import mmap
import sys
from contextlib import nullcontext

import numpy as np
from helpers import DTYPES, last_thread_first

from fastconv import testing, threads
from fastconv.functional import output_shapes
from fastconv.kernels.cpu.jit import allocating, njit
from fastconv.kernels.cpu.simd import lanes, load, splat, store
from fastconv.registry import OPS

PAGE = mmap.PAGESIZE
# Not in Python's mmap module; the same number on Linux, macOS and the BSDs.
PROT_NONE = 0
# What surrounds an array on its own pages, which kernels must leave as it is.
FILL = 0xA5

_mprotect = ctypes.CDLL(None, use_errno=True).mprotect
_mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def protect(address, size, access):
    if _mprotect(address, size, access):
        raise OSError(ctypes.get_errno(), f"mprotect({address:#x}, {size}, {access})")


class Fenced:
    """An array on pages of its own, the pages before and after unreadable; it ends or starts at one of them.

    `alignment` bytes is what its first element keeps; an array whose size is no multiple of it ends that much short.
    """

    def __init__(self, shape, dtype, at_end, alignment=1):
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.size = max(1, -(-nbytes // PAGE)) * PAGE
        self.pages = mmap.mmap(-1, self.size + 2 * PAGE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.pages))
        protect(self.address, PAGE, PROT_NONE)
        protect(self.address + PAGE + self.size, PAGE, PROT_NONE)
        self.start = (self.size - nbytes) // alignment * alignment if at_end else 0
        self.end = self.start + nbytes
        self.bytes = np.ndarray(self.size, np.uint8, self.pages, PAGE)
        self.bytes[:] = FILL
        self.array = np.ndarray(shape, dtype, self.pages, PAGE + self.start)

    def freeze(self):
        """Make writing to the array as deadly as leaving it."""
        protect(self.address + PAGE, self.size, mmap.PROT_READ)

    def clean(self):
        """Whether nothing was written on the array's own pages outside of it."""
        return bool((self.bytes[: self.start] == FILL).all() and (self.bytes[self.end :] == FILL).all())


def made_of(kernel, problem, inputs, at_end):
    """What the kernel prepares of the weights, fenced and read-only."""
    made = Fenced((kernel.prepared(problem),), problem.dtype, at_end, alignment=64)
    made.array[...] = np.nan
    names = OPS[kernel.op]
    kernel.prepare(problem, *(inputs[names.inputs.index(name)].array for name in names.weights), made.array)
    assert made.clean(), "wrote outside of what it prepares"
    made.freeze()
    return made


def run(kernel, problem, values, at_end, prepares=False):
    """The kernel's outputs for these inputs, with every array fenced and the inputs read-only.

    prepares: let it prepare the weights before, if it can.
    """
    inputs = [Fenced(value.shape, value.dtype, at_end) for value in values]
    for fenced, value in zip(inputs, values, strict=True):
        fenced.array[...] = value
        fenced.freeze()
    outputs = [Fenced(shape, dtype, at_end) for shape, dtype in output_shapes(kernel.op, problem)]
    for fenced in outputs:
        kind = fenced.array.dtype
        fenced.array[...] = np.nan if kind.kind == "f" else np.iinfo(kind).min
    # Kernels get scratch on a cache line.
    scratch = Fenced((kernel.scratch(problem),), problem.dtype, at_end, alignment=64)
    scratch.array[...] = np.nan
    made = {}
    if prepares and kernel.prepare is not None:
        kept = made_of(kernel, problem, inputs, at_end)
        made["u"] = kept.array
    kernel.run(problem, *(f.array for f in inputs), *(f.array for f in outputs), scratch.array, **made)
    for name, fenced in (("an output", outputs), ("scratch", [scratch])):
        assert all(f.clean() for f in fenced), f"wrote outside of {name}"
    return tuple(f.array for f in outputs)


def grid():
    """Every kernel on every small case, at both ends, by one thread and by the second of two, of weights that it has
    prepared before; then how many runs."""
    threads.set_num_threads(2)
    ways = {"one thread": nullcontext, "the second of two": last_thread_first}
    count = 0
    for dtype in DTYPES:
        for kernel, case in testing.grid(small=True):
            problem = dataclasses.replace(case.problem, dtype=dtype)
            if kernel.unsupported(problem) is not None:
                continue
            values = testing.inputs(kernel.op, problem)
            found = []
            for place in ("end", "start"):
                for way, handing in ways.items():
                    print(f"{kernel.name} {case.name} {dtype} at the {place} by {way}", flush=True)
                    with threads.eager() if way != "one thread" else nullcontext(), handing():
                        found.append(run(kernel, problem, values, place == "end", way != "one thread"))
                    count += 1
            assert testing.error(kernel.op, problem, values, found[0]) <= kernel.limit
            assert all([y.tobytes() for y in outputs] == [y.tobytes() for y in found[0]] for outputs in found)
    print(f"ran {count}")


@allocating
def read(x, i):
    """One vector at x.flat[i:], which leaves x if i is wrong by one."""
    v = load(x, i)
    y = np.zeros(lanes(x), x.dtype)
    store(y, 0, v)
    return y.sum()


@njit
def write(x, i):
    store(x, i, splat(x, 1.0))


def mistake(mode, wrong):
    """A read or write by one element outside, or to an input; without `wrong` the same just inside."""
    place, dtype = mode.split("-")[1], np.dtype(mode.split("-")[2])
    fenced = Fenced((PAGE // dtype.itemsize + 24,), dtype, place != "before")
    fenced.array[...] = 1
    x, width = fenced.array, int(lanes_of(fenced.array))
    action = write if mode.startswith("write") else read
    action(np.zeros(64, dtype), 0)
    print("compiled", flush=True)
    if place == "input":
        if wrong:
            fenced.freeze()
        action(x, 0)
    elif place == "before":
        action(x, -1 if wrong else 0)
    else:
        action(x, x.size - width + int(wrong))
    print("survived", flush=True)


@njit
def lanes_of(x):
    return lanes(x)


def main(mode, wrong):
    """MODE "grid" runs everything; `read-after-float32`, `write-input-float64` and so on make one mistake."""
    if mode == "grid":
        grid()
    else:
        mistake(mode, wrong)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:] == ["wrong"])
