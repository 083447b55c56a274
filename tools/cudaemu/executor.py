"""Compile a .cu file for the CPU, and launch its kernels on NumPy arrays."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

HERE = Path(__file__).parent
FLAVOURS = ("result", "check")
ORDERS = ("ascending", "descending", "random")

# As runtime.cpp numbers them.
KINDS = (
    "race",
    "out of bounds",
    "misaligned",
    "uninitialised read",
    "write to const",
    "divergent barrier",
    "missing barrier",
    "deadlock",
    "read before cp.async arrived",
    "output not written",
    "trap",
    "race between blocks",
    "endless",
)
_SHARED, _READ_ONLY, _READ_WRITE, _OUTPUT = range(4)

# Bytes around every array, so that what goes past its end meets nothing of the program's; and dynamic shared memory
# that a file is compiled with, at most (sm_90 has 227 KiB for a block).
_GUARD = 4096
_DYNAMIC = 227 * 1024

_KERNEL = re.compile(r"__global__[^;{(]*?\b(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(")
_EXTERN_SHARED = re.compile(r"extern\s+__shared__\s+(?:__align__\s*\(\s*\d+\s*\)\s+)?[\w:]+\s+(\w+)\s*\[\s*\]")


class CompileError(RuntimeError):
    """The compiler's words."""


@dataclass(frozen=True, slots=True)
class Place:
    """Who did something, and where in the source."""

    file: str
    line: int
    thread: tuple[int, int, int]
    block: tuple[int, int, int]
    write: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} by thread {self.thread} of block {self.block}"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that must not be: its kind (KINDS), the array and byte, who did it, and who before, if anybody."""

    kind: str
    array: str
    byte: int
    size: int
    now: Place | None
    before: Place | None
    text: str

    def __str__(self) -> str:
        words = [self.kind]
        if self.array:
            words.append(f"of {self.size} bytes at byte {self.byte} of {self.array}")
        if self.now is not None:
            words.append(f"{'write' if self.now.write else 'read'} at {self.now}")
        if self.before is not None:
            words.append(f"after a {'write' if self.before.write else 'read'} at {self.before}")
        return ", ".join(words) + (f": {self.text}" if self.text else "")


class Found(RuntimeError):  # noqa: N818 - what happened
    """A launch that did what it must not; `findings` says what."""

    def __init__(self, kernel: str, findings: Sequence[Finding]) -> None:
        super().__init__("\n".join([f"{kernel}: {len(findings)} findings", *map(str, findings)]))
        self.findings = tuple(findings)


class Out:
    """An array that the kernel is to fill: full of NaN before, and every byte must be written."""

    def __init__(self, array: Array) -> None:
        self.array = array


@dataclass(frozen=True, slots=True)
class Line:
    """What all warps of a launch did in one line: loads or stores of one size.

    warps: instructions; bytes: asked for. Of global memory: sectors of 32 bytes touched by an instruction, and the
    fewest that could hold what was asked for. Of shared memory: passes over the banks, and the fewest.
    """

    file: str
    line: int
    write: bool
    shared: bool
    warps: int
    bytes: int
    sectors: int
    least_sectors: int
    passes: int
    least_passes: int


@dataclass(frozen=True, slots=True)
class Counts:
    """What a launch did to memory, as counted, not measured.

    moved: bytes of the sectors that blocks touched, each once a block and direction, as a first cache of any size would
    have it. compulsory: each once in the launch.
    """

    lines: tuple[Line, ...]
    moved: int
    compulsory: int


class _Line(ctypes.Structure):
    _fields_ = (
        *(
            (name, ctypes.c_uint64)
            for name in ("pc", "warps", "bytes", "sectors", "least_sectors", "passes", "least_passes")
        ),
        ("write", ctypes.c_uint32),
        ("shared", ctypes.c_uint32),
    )


class _Access(ctypes.Structure):
    _fields_ = (
        ("pc", ctypes.c_uint64),
        ("thread", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("write", ctypes.c_int32),
    )


class _Finding(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_int32),
        ("region", ctypes.c_int32),
        ("byte", ctypes.c_int64),
        ("size", ctypes.c_uint32),
        ("now", _Access),
        ("before", _Access),
        ("text", ctypes.c_char * 80),
    )


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError(done.stderr or done.stdout)
    return done.stdout


def compiler() -> str:
    """The C++ compiler: the variable CXX, or g++. CompileError if there is none, or the machine is not x86-64 Linux."""
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        raise CompileError(f"a .cu file is executed on x86-64 Linux, not on {platform.machine()} {platform.system()}")
    found = shutil.which(os.environ.get("CXX", "g++"))
    if found is None:
        raise CompileError("a .cu file is executed by g++ on x86-64: install g++, or name one by the variable CXX")
    return found


def cache() -> Path:
    """Where compiled files are kept: the variable CUDAEMU_CACHE, or a folder of this user's in the temporary ones."""
    place = Path(os.environ.get("CUDAEMU_CACHE", Path(tempfile.gettempdir()) / f"cudaemu-{os.getuid()}"))
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    held = place.stat()
    # What lies there is loaded and run.
    if held.st_uid != os.getuid() or held.st_mode & 0o022:
        raise CompileError(f"{place}: belongs to another user or can be written by one; name a folder by CUDAEMU_CACHE")
    return place


_FLAGS = ("-std=c++17", "-g", "-fPIC", "-fno-strict-aliasing", "-ffp-contract=off", "-w")


@lru_cache(maxsize=1)
def _own() -> tuple[str, Path]:
    """The text of our own sources, and the compiled runtime, which is the same for all files."""
    text = "".join(
        path.read_text(encoding="utf-8") for path in (HERE / "runtime.cpp", *sorted((HERE / "shim").iterdir()))
    )
    text += Path(__file__).read_text(encoding="utf-8") + compiler()
    place = cache() / (hashlib.sha256(text.encode()).hexdigest()[:24] + ".o")
    if not place.exists():
        with tempfile.TemporaryDirectory(dir=cache()) as folder:
            built = Path(folder, "runtime.o")
            _run([compiler(), *_FLAGS, "-O2", f"-I{HERE}", "-c", str(HERE / "runtime.cpp"), "-o", str(built)])
            built.replace(place)
    return text, place


def _compiled(source: str, path: Path, defines: Mapping[str, object], flavour: str) -> Path:
    """The shared library of a file."""
    own, runtime = _own()
    # What it may include.
    beside = [(one.name, one.read_text(encoding="utf-8")) for one in sorted(path.parent.glob("*.cuh"))]
    words = repr((source, path.name, beside, sorted(defines.items()), flavour, own))
    place = cache() / (hashlib.sha256(words.encode()).hexdigest()[:24] + ".so")
    if place.exists():
        return place
    names = kernel_names(source)
    dynamic = list(dict.fromkeys(_EXTERN_SHARED.findall(source)))
    calls = [f'extern "C" void cudaemu_call_{n}(void** a) {{ cudaemu::invoke(&{n}, a); }}' for n in names]
    letters = [f'extern "C" const char* cudaemu_letters_{n}() {{ return cudaemu::signature(&{n}); }}' for n in names]
    touch = (
        "static thread_local char cudaemu_first;\n"
        'extern "C" __attribute__((no_sanitize("thread"))) '
        "void cudaemu_touch() { *(volatile char*)&cudaemu_first = 0; }"
    )
    arrays = [f"thread_local __attribute__((aligned(128))) char {n}[{_DYNAMIC}];" for n in dynamic]
    where = [f'extern "C" char* cudaemu_dynamic_{n}() {{ return {n}; }}' for n in dynamic]
    with tempfile.TemporaryDirectory(dir=cache()) as folder:
        main, more, built = Path(folder, "main.cpp"), Path(folder, "more.cpp"), Path(folder, "built.so")
        main.write_text("\n".join([f'#include "{path.resolve()}"', touch, *calls, *letters, ""]))
        more.write_text("\n".join([*arrays, *where, ""]))
        shim = [f"-I{HERE / 'shim'}", "-include", str(HERE / "shim" / "cudaemu.h")]
        given = [f"-D{name}" if value is None else f"-D{name}={value}" for name, value in defines.items()]
        # Vectors stay whole: an optimiser that takes them apart would make four accesses of one.
        whole = ["-fno-tree-sra", "-fno-ipa-sra", "-fno-tree-fre", "-fno-tree-forwprop"]
        check = ["-O1", *whole, "-DCUDAEMU_CHECK", "-fsanitize=thread", "-fsanitize=alignment"]
        own_flags = check if flavour == "check" else ["-O2"]
        objects = [str(runtime)]
        for file, extra in ((main, [*own_flags, *shim, *given]), (more, [])):
            objects.append(str(Path(folder, file.stem + ".o")))
            _run([compiler(), *_FLAGS, *extra, "-c", str(file), "-o", objects[-1]])
        # A kernel may have the name of a function of the C library.
        _run([compiler(), "-shared", "-Wl,-Bsymbolic", "-o", str(built), *objects])
        built.replace(place)
    return place


def kernel_names(source: str) -> list[str]:
    """The kernels of a source text, in order."""
    return list(dict.fromkeys(_KERNEL.findall(source)))


class Module:
    """The kernels of a .cu file. defines: what -D would define. flavour: "result" or "check".

    ValueError for another flavour, FileNotFoundError without the file, CompileError with the compiler's words.
    """

    def __init__(
        self, path: str | os.PathLike[str], defines: Mapping[str, object] | None = None, flavour: str = "result"
    ):
        if flavour not in FLAVOURS:
            raise ValueError(f"flavour={flavour!r}: needs one of {', '.join(FLAVOURS)}")
        self.path, self.flavour = Path(path), flavour
        source = self.path.read_text(encoding="utf-8")
        self.kernels = kernel_names(source)
        self.library = _compiled(source, self.path, defines or {}, flavour)
        self._code = ctypes.CDLL(str(self.library))
        self._dynamic = list(dict.fromkeys(_EXTERN_SHARED.findall(source)))

    def get_function(self, name: str) -> Function:
        """The kernel of this name. ValueError if there is none."""
        if name not in self.kernels:
            raise ValueError(f"name={name!r}: {self.path.name} has the kernels {', '.join(self.kernels) or 'none'}")
        return Function(self, name)


def _three(name: str, value: Sequence[int]) -> tuple[int, int, int]:
    sizes = tuple(int(one) for one in value)
    if not 1 <= len(sizes) <= 3 or min(sizes) < 1:
        raise ValueError(f"{name}={value!r}: needs one to three sizes of at least 1")
    return (*sizes, 1, 1)[:3]  # type: ignore[return-value]


class Function:
    """A kernel: function(grid, block, args, shared_mem=0), as CuPy's, on NumPy arrays."""

    def __init__(self, module: Module, name: str) -> None:
        self.module, self.name = module, name
        letters = getattr(module._code, f"cudaemu_letters_{name}")
        letters.restype = ctypes.c_char_p
        self.letters = letters().decode()

    def __call__(
        self,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[Any],
        shared_mem: int = 0,
        *,
        order: str = "ascending",
        seed: int = 0,
        seconds: float = 300.0,
    ) -> int:
        """Launch it; returns how many loads and stores were looked at, 0 in the flavour "result".

        args: C-contiguous arrays, Out(array) for those that are outputs, NumPy scalars of the parameters' types, None
        for a null pointer. seconds: in the flavour "check", how long it may take until its loops count as endless.
        Found if the launch did what it must not; arrays then are as they were.
        """
        grid, block = _three("grid", grid), _three("block", block)
        if order not in ORDERS:
            raise ValueError(f"order={order!r}: needs one of {', '.join(ORDERS)}")
        if block[0] * block[1] * block[2] > 1024:
            raise ValueError(f"block={block}: needs at most 1024 threads")
        if not 0 <= shared_mem <= _DYNAMIC:
            raise ValueError(f"shared_mem={shared_mem}: needs 0 to {_DYNAMIC} bytes")
        if len(args) != len(self.letters):
            raise ValueError(f"args: {self.name} takes {len(self.letters)}, got {len(args)}")
        code = self.module._code
        code.cudaemu_begin(int(self.module.flavour == "check"))
        code.cudaemu_limit(ctypes.c_double(seconds))
        for name in self.module._dynamic:
            base = getattr(code, f"cudaemu_dynamic_{name}")
            base.restype = ctypes.c_void_p
            code.cudaemu_dynamic(ctypes.c_void_p(base()), ctypes.c_uint64(shared_mem), ctypes.c_uint64(_DYNAMIC))
        held: list[Any] = []
        names, copies = ["shared memory"], []
        for number, (letter, value) in enumerate(zip(self.letters, args, strict=True)):
            out = isinstance(value, Out)
            array = value.array if isinstance(value, Out) else value
            if letter not in "cp":
                held.append(_scalar(self.name, number, letter, value))
                continue
            if array is None:
                held.append(ctypes.c_void_p(0))
                continue
            if not isinstance(array, np.ndarray) or not array.flags.c_contiguous:
                raise TypeError(
                    f"args[{number}] of {self.name}: needs a C-contiguous array, got {type(array).__name__}"
                )
            whole = np.zeros(array.nbytes + 2 * _GUARD + 256, np.uint8)
            start = _GUARD + -(whole.ctypes.data + _GUARD) % 256
            inside = whole[start : start + array.nbytes]
            inside[...] = array.reshape(-1).view(np.uint8)
            role = _OUTPUT if out else _READ_ONLY if letter == "c" else _READ_WRITE
            code.cudaemu_region(ctypes.c_void_p(inside.ctypes.data), ctypes.c_uint64(array.nbytes), role)
            names.append(f"args[{number}]")
            held.append(ctypes.c_void_p(inside.ctypes.data))
            copies.append((array, whole, inside, letter == "p"))
        pointers = (ctypes.c_void_p * max(len(held), 1))(*[ctypes.addressof(one) for one in held])
        call = ctypes.cast(getattr(code, f"cudaemu_call_{self.name}"), ctypes.c_void_p)
        sizes = (ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block)
        count = code.cudaemu_launch(call, pointers, *sizes, ORDERS.index(order), ctypes.c_uint(seed))
        if count < 0:
            raise MemoryError(f"no stacks for {block} threads")
        if count:
            raise Found(self.name, self._findings(count, names))
        for array, _, inside, written in copies:
            if written:
                array.reshape(-1).view(np.uint8)[...] = inside
        code.cudaemu_accesses.restype = ctypes.c_uint64
        return int(code.cudaemu_accesses())

    def count(self, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], shared_mem: int = 0) -> Counts:
        """Launch it, and count how its warps touch memory. ValueError unless the flavour is "check"."""
        if self.module.flavour != "check":
            raise ValueError(f'flavour={self.module.flavour!r}: counting needs "check"')
        code = self.module._code
        code.cudaemu_counting(1)
        try:
            self(grid, block, args, shared_mem)
            return self._counts()
        finally:
            code.cudaemu_counting(0)

    def _counts(self) -> Counts:
        code = self.module._code
        code.cudaemu_lines.restype = ctypes.c_void_p
        code.cudaemu_moved.restype = code.cudaemu_compulsory.restype = ctypes.c_uint64
        assert code.cudaemu_line_size() == ctypes.sizeof(_Line)
        total: dict[tuple[Any, ...], list[int]] = {}
        count = code.cudaemu_line_count()
        for one in (_Line * count).from_address(code.cudaemu_lines()) if count else ():
            place = (*_line_of(self.module.library, one.pc), bool(one.write), bool(one.shared))
            numbers = (one.warps, one.bytes, one.sectors, one.least_sectors, one.passes, one.least_passes)
            total[place] = [a + b for a, b in zip(total.get(place, [0] * 6), numbers, strict=True)]
        lines = tuple(Line(*place, *numbers) for place, numbers in sorted(total.items()))
        return Counts(lines, 32 * int(code.cudaemu_moved()), 32 * int(code.cudaemu_compulsory()))

    def _findings(self, count: int, names: Sequence[str]) -> list[Finding]:
        code = self.module._code
        code.cudaemu_findings.restype = ctypes.c_void_p
        assert code.cudaemu_finding_size() == ctypes.sizeof(_Finding)
        raw = (_Finding * count).from_address(code.cudaemu_findings())
        found = []
        for one in raw:
            kind = KINDS[one.kind]
            own = kind != "output not written"
            now = self._place(one.now) if own else None
            before = self._place(one.before) if own and one.before.pc else None
            array = names[one.region] if one.region >= 0 else ""
            found.append(Finding(kind, array, one.byte, one.size, now, before, one.text.decode(errors="replace")))
        return found

    def _place(self, access: _Access) -> Place:
        file, line = _line_of(self.module.library, access.pc)
        return Place(file, line, tuple(access.thread), tuple(access.block), bool(access.write))


def _scalar(kernel: str, number: int, letter: str, value: Any) -> Any:
    kinds = {"f": (np.float32, ctypes.c_float), "d": (np.float64, ctypes.c_double)}
    kinds |= {"i": (np.int32, ctypes.c_int32), "l": (np.int64, ctypes.c_int64)}
    if letter not in kinds:
        raise TypeError(f"args[{number}] of {kernel}: its type is none that can be given")
    wanted, made = kinds[letter]
    # By type, as CuPy takes them: a Python number would be of another size.
    if not isinstance(value, np.generic) or value.dtype != wanted:
        raise TypeError(f"args[{number}] of {kernel}: needs numpy.{wanted.__name__}, got {type(value).__name__}")
    return made(value.item())


@lru_cache(maxsize=4096)
def _line_of(library: Path, pc: int) -> tuple[str, int]:
    """Where in the source an instruction comes from: the innermost place that is no header of ours."""
    done = subprocess.run(
        ["addr2line", "-i", "-e", str(library), hex(pc - 1)], capture_output=True, text=True, check=False
    )
    for line in done.stdout.splitlines():
        file, _, number = line.partition(" ")[0].rpartition(":")
        if "/shim/" not in file and number.isdigit():
            return Path(file).name, int(number)
    return "?", 0
