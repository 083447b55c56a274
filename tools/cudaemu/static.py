"""What compilers say of a kernel without running it: registers, shared memory, spills; and the occupancy of that."""

from __future__ import annotations

import ctypes
import importlib
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastconv.cudaemu.executor import CompileError


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one kernel on one architecture: registers of a thread, bytes of shared memory of a block, bytes spilled."""

    kernel: str
    registers: int
    shared: int
    spilled: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Of a multiprocessor. Source: CUDA C++ Programming Guide, "Compute Capabilities", technical specifications."""

    threads: int
    blocks: int
    shared: int
    registers: int = 65_536
    warp_registers: int = 256
    shared_reserved: int = 1024


LIMITS: Mapping[str, Limits] = {
    "sm_75": Limits(1024, 16, 64 * 1024, shared_reserved=0),
    "sm_80": Limits(2048, 32, 164 * 1024),
    "sm_86": Limits(1536, 16, 100 * 1024),
    "sm_89": Limits(1536, 24, 100 * 1024),
    "sm_90": Limits(2048, 32, 228 * 1024),
    "sm_100": Limits(2048, 32, 228 * 1024),
    "sm_120": Limits(1536, 24, 100 * 1024),
}

_ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_\w+'")
_USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")
_SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")


def parse(words: str) -> list[Usage]:
    """The usages in what ptxas -v prints."""
    found, name, spilled = [], "", 0
    for line in words.splitlines():
        if entry := _ENTRY.search(line):
            name, spilled = entry[1], 0
        elif spills := _SPILLS.search(line):
            spilled = int(spills[1]) + int(spills[2])
        elif (used := _USED.search(line)) and name:
            found.append(Usage(name, int(used[1]), int(used[2] or 0), spilled))
            name = ""
    return found


def nvcc(
    path: Path, defines: Mapping[str, object], architecture: str, cubin: Path | None = None, strict: bool = True
) -> list[Usage]:
    """Compile a file with nvcc, to a file if `cubin` names one. CompileError if it is absent, or if it warns or spills
    and that is not allowed, which `strict` says."""
    compiler = shutil.which("nvcc")
    if compiler is None:
        raise CompileError("nvcc is not here: install the CUDA toolkit")
    given = [f"-D{name}={value}" for name, value in defines.items()]
    with tempfile.TemporaryDirectory() as folder:
        words = ["-Xptxas", "-v"]
        if strict:
            words = ["-Werror", "all-warnings", "-Xptxas", "-v,-warn-spills,-warn-lmem-usage,-Werror"]
        command = [compiler, "-cubin", f"-arch={architecture}", "-std=c++17", *words, *given]
        command += [str(path), "-o", str(cubin or Path(folder, "out.cubin"))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError(f"{path.name} for {architecture} with {dict(defines)}: {done.stderr or done.stdout}")
    return parse(done.stderr + done.stdout)


_LABEL, _INSTRUCTION = re.compile(r"\s*(\.L_x_\d+):"), re.compile(r"\s*/\*[0-9a-f]+\*/\s+(.*?);")
_SECTION = re.compile(r"\s*\.section\s+\.text\.(\w+),")
# What a main loop is there for, the first that any loop has: products, or loads.
_MAIN = ("HMMA", "HGMMA", "FFMA", "DFMA", "LDG")
_TENSOR = re.compile(r"\bHG?MMA\.\S+")
_BACK, _GUARD = re.compile(r"\bBRA\b.*(\.L_x_\d+)"), re.compile(r"^@!?U?P\w+\s+")


def main_loop(sass: str) -> Counter[str]:
    """How often each instruction stands in a kernel's main loop: the one in its SASS that has most products of tensor
    cores, else most FFMA, else most loads; empty without a loop."""
    labels: dict[str, int] = {}
    instructions: list[str] = []
    loops: list[Counter[str]] = [Counter()]
    for line in sass.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif found := _INSTRUCTION.match(line):
            instructions.append(found[1])
            back = _BACK.search(found[1])
            if back and back[1] in labels:
                body = instructions[labels[back[1]] :]
                loops.append(Counter(_GUARD.sub("", one).split()[0].split(".")[0] for one in body))
    return max(loops, key=lambda loop: [loop[name] for name in _MAIN])


def precision(sass: str) -> str:
    """What a kernel multiplies by tensor cores, "tf32", "bfloat16" or "float16"; "" if its SASS has no such product."""
    products = _TENSOR.findall(sass)
    if not products:
        return ""
    kinds = (("TF32", "tf32"), ("BF16", "bfloat16"))
    return next((name for word, name in kinds if any(word in one for one in products)), "float16")


def sass(path: Path, defines: Mapping[str, object], architecture: str) -> dict[Usage, str]:
    """Every kernel of a file as nvcc compiles it, spilling or not, by what it uses. CompileError without nvcc or
    nvdisasm."""
    tools = [tool for place in _wheels() for tool in place.glob("cu*/bin/nvdisasm")]
    tool = shutil.which("nvdisasm") or (str(tools[-1]) if tools else None)
    if tool is None:
        raise CompileError("nvdisasm is not here: pip install nvidia-cuda-nvdisasm")
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "out.cubin")
        usages = nvcc(path, defines, architecture, cubin, strict=False)
        done = subprocess.run([tool, "-c", str(cubin)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError(f"nvdisasm: {done.stderr}")
    texts: dict[str, list[str]] = {}
    current: list[str] = []
    for line in done.stdout.splitlines():
        if line.split("\t")[:2] == ["", ".section"]:
            section = _SECTION.match(line)
            current = texts.setdefault(section[1], []) if section else []
        current.append(line)
    return {usage: "\n".join(texts[usage.kernel]) for usage in usages}


def main_loops(path: Path, defines: Mapping[str, object], architecture: str) -> dict[str, Counter[str]]:
    """`main_loop` of every kernel of a file as nvcc compiles it. CompileError without nvcc or nvdisasm."""
    return {usage.kernel: main_loop(text) for usage, text in sass(path, defines, architecture).items()}


def _wheels() -> list[Path]:
    """Where the wheels of NVIDIA are."""
    try:
        return [Path(place) for place in importlib.import_module("nvidia").__path__]
    except ModuleNotFoundError:
        return []


def _nvrtc() -> tuple[ctypes.CDLL, str]:
    """NVRTC and the folder of CUDA's headers, of the wheels of NVIDIA. CompileError without them."""
    places = _wheels()
    libraries = sorted(found for place in places for found in place.glob("cu*/lib/libnvrtc.so.*"))
    headers = sorted(found.parent for place in places for found in place.glob("cu*/include/cuda_pipeline_primitives.h"))
    if not libraries or not headers:
        raise CompileError("NVRTC is not here: pip install nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cuda-crt")
    return ctypes.CDLL(str(libraries[-1])), str(headers[-1])


def nvrtc(path: Path, defines: Mapping[str, object], architecture: str) -> list[Usage]:
    """Compile a file with NVRTC, as CuPy does. CompileError if it is absent, or warns."""
    library, headers = _nvrtc()
    program = ctypes.c_void_p()
    source = path.read_bytes()
    given = [f"-D{name}={value}" for name, value in defines.items()]
    options = [f"--gpu-architecture={architecture}", "--std=c++17", f"-I{headers}", f"-I{path.parent}", *given]
    # Denormals are zero: CuPy has that, always.
    words = [option.encode() for option in [*options, "-ftz=true", "--ptxas-options=-v", "-Werror=all-warnings"]]
    library.nvrtcCreateProgram(ctypes.byref(program), source, path.name.encode(), 0, None, None)
    try:
        failed = library.nvrtcCompileProgram(program, len(words), (ctypes.c_char_p * len(words))(*words))
        size = ctypes.c_size_t()
        library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        library.nvrtcGetProgramLog(program, log)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))
    said = log.value.decode(errors="replace")
    if failed:
        raise CompileError(f"{path.name} for {architecture} with {dict(defines)}, by NVRTC: {said}")
    return parse(said)


def occupancy(usage: Usage, threads: int, architecture: str) -> tuple[float, str]:
    """(share of a multiprocessor's threads that blocks of `threads` fill, what limits it).

    Source: NVIDIA's occupancy calculator: registers are given to warps in units of 256, shared memory to blocks in
    units of 128 bytes with what the system keeps of it.
    """
    limits = LIMITS[architecture]
    warps = -(-threads // 32)
    of_warp = -(-usage.registers * 32 // limits.warp_registers) * limits.warp_registers
    shared = -(-(usage.shared + limits.shared_reserved) // 128) * 128
    most = {
        "threads": limits.threads // (warps * 32),
        "blocks": limits.blocks,
        # Four schedulers have a quarter of the registers each.
        "registers": limits.registers // 4 // of_warp * 4 // warps,
        "shared memory": limits.shared // shared if usage.shared else limits.blocks,
    }
    limiter = min(most, key=lambda name: most[name])
    return most[limiter] * warps * 32 / limits.threads, limiter
