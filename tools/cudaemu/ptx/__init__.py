"""A second witness of CUDA kernels: an interpreter, in NumPy, of the PTX that nvcc makes of a .cu file.

    module = ptx.Module("saxpy.cu")
    module.get_function("saxpy")((4,), (256,), (x, cudaemu.Out(y), numpy.float32(2), numpy.int32(n)))

The executor compiles CUDA C++ with g++ and headers of our own: what these and a kernel misunderstand alike, it does not
see. Here NVIDIA's compiler has read the source, and nothing is shared but the names of the call. Source: NVIDIA,
"Parallel Thread Execution ISA".
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fastconv.cudaemu.executor import CompileError, Out, cache
from fastconv.cudaemu.ptx import steps
from fastconv.cudaemu.ptx.lanes import ALL, Batch, TrapError
from fastconv.cudaemu.ptx.memory import GLOBAL, Memory
from fastconv.cudaemu.ptx.numbers import TYPES, Array
from fastconv.cudaemu.ptx.text import Code, UnknownInstructionError, Variable, parse

__all__ = ["Function", "Module", "TrapError", "UnknownInstructionError", "compiled"]

# Threads that are interpreted together, at most; a block's are, however many it has.
TOGETHER = 4096


def compiled(path: Path, defines: Mapping[str, object], contract: bool = True) -> str:
    """The PTX that nvcc makes of a file. contract: whether it may make one fma of a product and a sum.

    CompileError if nvcc is absent, or with its words. The executor's cache keeps what was compiled.
    """
    compiler = shutil.which("nvcc")
    if compiler is None:
        raise CompileError("nvcc is not here: install the CUDA toolkit")
    given = [f"-D{name}" if value is None else f"-D{name}={value}" for name, value in defines.items()]
    options = ["-ptx", "-arch=compute_80", "-std=c++17", f"-fmad={'true' if contract else 'false'}", *given]
    sources = [(one.name, one.read_text(encoding="utf-8")) for one in (path, *sorted(path.parent.glob("*.cuh")))]
    words = repr((sources, options, compiler, Path(compiler).stat().st_mtime_ns))
    place = cache() / (hashlib.sha256(words.encode()).hexdigest()[:24] + ".ptx")
    if not place.exists():
        with tempfile.TemporaryDirectory(dir=cache()) as folder:
            built = Path(folder, "built.ptx")
            command = [compiler, *options, str(path), "-o", str(built)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise CompileError(done.stderr or done.stdout)
            built.replace(place)
    return place.read_text(encoding="utf-8")


@lru_cache(maxsize=128)
def _parsed(text: str) -> tuple[dict[str, Code], list[Variable]]:
    return parse(text)


class Module:
    """The kernels of a .cu file compiled with these defines, or of a .ptx file as it is.

    contract: whether nvcc may make one fma of a product and a sum, as it does if nothing is said. CompileError with the
    compiler's words; UnknownInstructionError for a declaration that is not understood.
    """

    def __init__(
        self, path: str | os.PathLike[str], defines: Mapping[str, object] | None = None, contract: bool = True
    ) -> None:
        self.path = Path(path)
        is_ptx = self.path.suffix == ".ptx"
        self.text = self.path.read_text(encoding="utf-8") if is_ptx else compiled(self.path, defines or {}, contract)
        self.codes, self.variables = _parsed(self.text)
        self.kernels = [code.name for code in self.codes.values() if code.entry]
        self._functions: dict[str, Function] = {}

    def get_function(self, name: str) -> Function:
        """A kernel by its name. ValueError if there is none; UnknownInstructionError, which names it and its line."""
        if name not in self.kernels:
            raise ValueError(f"{name!r}: {self.path.name} has {', '.join(self.kernels) or 'no kernel'}")
        if name not in self._functions:
            self._functions[name] = Function(self, self.codes[name])
        return self._functions[name]


def _three(name: str, value: Sequence[int]) -> tuple[int, int, int]:
    sizes = tuple(int(one) for one in value)
    if not 1 <= len(sizes) <= 3 or min(sizes) < 1:
        raise ValueError(f"{name}={value!r}: needs one to three sizes of at least 1")
    return (*sizes, 1, 1)[:3]  # type: ignore[return-value]


class Function:
    """A kernel: function(grid, block, args, shared_mem=0), as CuPy's and the executor's, on NumPy arrays."""

    def __init__(self, module: Module, code: Code) -> None:
        self.module, self.code, self.name = module, code, code.name
        self.variables = list(module.variables)
        # With the registers of earlier launches, which are used again.
        self._batches: OrderedDict[tuple[tuple[int, int, int], int, int], Batch] = OrderedDict()
        self._look_at(code, set())

    def _look_at(self, code: Code, seen: set[str]) -> None:
        """Gather the variables of a function and all that it calls; of instructions, those no launch comes to too."""
        seen.add(code.name)
        self.variables += code.variables
        for instruction in (one for block in code.blocks for one in block):
            if not steps.known(code, instruction):
                raise UnknownInstructionError(f"{code.name}, {instruction}: not known")
            if instruction.name.startswith("call"):
                name = steps.called(instruction)[1]
                if name not in self.module.codes:
                    raise UnknownInstructionError(f"{code.name}, {instruction}: {name} is not there")
                if name not in seen:
                    self._look_at(self.module.codes[name], seen)

    def __call__(self, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], shared_mem: int = 0) -> int:
        """Launch it; returns how many basic blocks were interpreted.

        args: C-contiguous arrays, Out(array) for those that are outputs, NumPy scalars of the parameters' types, None
        for a null pointer. TrapError if the launch did what it must not; arrays then are as they were.
        """
        grid, block = _three("grid", grid), _three("block", block)
        threads, blocks = block[0] * block[1] * block[2], grid[0] * grid[1] * grid[2]
        if threads > 1024:
            raise ValueError(f"block={block}: needs at most 1024 threads")
        arrays, values = self._arguments(args)
        constants = [one for one in self.variables if one.space in ("global", "const")]
        sizes = [(f"args[{number}]", array.nbytes) for number, (array, _) in arrays.items()]
        # What has the same address in every launch comes first.
        memory = Memory(GLOBAL, [*((one.name, one.size or 0) for one in constants), *sizes])
        for number, (array, is_output) in arrays.items():
            values[number] = memory.address(f"args[{number}]")
            if not is_output:
                memory.array(f"args[{number}]")[...] = array.reshape(-1).view(np.uint8)
        for one in constants:
            memory.array(one.name)[...] = np.frombuffer(one.values.ljust(one.size or 0, b"\0"), np.uint8)
        before = {number: memory.array(f"args[{number}]").copy() for number in arrays}

        together = max(1, min(blocks, TOGETHER // threads))
        batch = self._batch(block, together, shared_mem)
        batch.begin(grid, memory, values)
        with np.errstate(all="ignore"):
            for first in range(0, blocks, together):
                batch.launch(first, min(together, blocks - first))
        for number, (array, is_output) in arrays.items():
            now = memory.array(f"args[{number}]")
            changed = ALL if is_output else now != before[number]
            array.reshape(-1).view(np.uint8)[changed] = now[changed]
        return batch.interpreted

    def _batch(self, block: tuple[int, int, int], blocks: int, shared_mem: int) -> Batch:
        key = block, blocks, shared_mem
        if key not in self._batches:
            self._batches[key] = Batch(self, *key)
            while len(self._batches) > 1 and sum(one.size for one in self._batches.values()) > TOGETHER:
                self._batches.popitem(last=False)
        return self._batches[key]

    def _arguments(self, args: Sequence[Any]) -> tuple[dict[int, tuple[Array, bool]], list[int]]:
        """The arrays by number, each with whether it is an output; and the bits of the scalars, 0 for what is none."""
        if len(args) != len(self.code.parameters):
            raise ValueError(f"args: {self.name} takes {len(self.code.parameters)}, got {len(args)}")
        arrays: dict[int, tuple[Array, bool]] = {}
        values = [0] * len(args)
        for number, (value, (_, kind)) in enumerate(zip(args, self.code.parameters, strict=True)):
            array = value.array if isinstance(value, Out) else value
            wanted = TYPES[kind]
            if kind == "u64" and isinstance(array, np.ndarray) and array.flags.c_contiguous:
                arrays[number] = array, isinstance(value, Out)
            elif isinstance(array, np.generic) and array.dtype.kind in ("f" if wanted.kind == "f" else "iu"):
                if array.itemsize != wanted.itemsize:
                    raise TypeError(f"args[{number}] of {self.name}: needs {kind}, got {array.dtype}")
                values[number] = int(np.asarray(array).view(f"u{array.itemsize}"))
            elif array is not None or kind != "u64":
                needs = "a C-contiguous array" if kind == "u64" else f"a NumPy scalar of type {kind}"
                raise TypeError(f"args[{number}] of {self.name}: needs {needs}, got {type(array).__name__}")
        return arrays, values
