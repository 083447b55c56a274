"""What compilers say of a kernel without running it: registers, shared memory, spills; and the occupancy of that."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
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


def nvcc(path: Path, defines: Mapping[str, object], architecture: str) -> list[Usage]:
    """Compile a file with nvcc. CompileError if it is absent, or warns, or spills."""
    compiler = shutil.which("nvcc")
    if compiler is None:
        raise CompileError("nvcc is not here: install the CUDA toolkit")
    given = [f"-D{name}={value}" for name, value in defines.items()]
    with tempfile.TemporaryDirectory() as folder:
        strict = ["-Werror", "all-warnings", "-Xptxas", "-v,-warn-spills,-warn-lmem-usage,-Werror"]
        command = [compiler, "-cubin", f"-arch={architecture}", "-std=c++17", *strict, *given]
        command += [str(path), "-o", str(Path(folder, "out.cubin"))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError(f"{path.name} for {architecture} with {dict(defines)}: {done.stderr or done.stdout}")
    return parse(done.stderr + done.stdout)


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
