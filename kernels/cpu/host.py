"""What the host's vector unit is, as Numba's code generator sees it.

`NUMBA_CPU_NAME` and `NUMBA_CPU_FEATURES` override the host, here as in Numba, so that one machine can run the code of
smaller ones.
"""

import platform

from llvmlite.binding import get_host_cpu_features, get_host_cpu_name
from numba.core import config


def _features() -> frozenset[str]:
    listed = config.CPU_FEATURES
    if listed is None:
        return frozenset(name for name, has in get_host_cpu_features().items() if has)
    return frozenset(entry[1:] for entry in listed.split(",") if entry.startswith("+"))


CPU_NAME: str = config.CPU_NAME or get_host_cpu_name()
FEATURES = _features()
X86 = platform.machine().lower() in ("x86_64", "amd64")
ARM64 = platform.machine().lower() in ("aarch64", "arm64")

AVX512 = "avx512f" in FEATURES
AVX2 = "avx2" in FEATURES and "fma" in FEATURES
# Without a fused instruction llvm.fma is a library call for each element; llvm.fmuladd rounds twice instead.
FMA = AVX512 or AVX2 or ARM64

# Whether masked loads and stores cost what plain ones do.
MASKS = AVX512

VECTOR_BYTES = 64 if AVX512 else 32 if AVX2 else 16
VECTOR_REGISTERS = 32 if AVX512 or ARM64 else 16

# The register tile of every matrix-product kernel, rows × vectors: as many accumulators as leave registers for the
# TILE_VECS vectors of one operand and the broadcast of the other.
TILE_ROWS, TILE_VECS = (8, 3) if VECTOR_REGISTERS == 32 else (4, 3) if FMA else (4, 2)

# The same for products whose reduction runs along the lanes: both operands are vectors, so rows + vecs are loaded.
LANE_ROWS, LANE_VECS = (4, 6) if VECTOR_REGISTERS == 32 else (3, 3)


def isa() -> str:
    """The instruction set the kernels are compiled for, in a word."""
    return "AVX-512" if AVX512 else "AVX2+FMA" if AVX2 else "NEON" if ARM64 else "SSE" if X86 else "generic"


# Elements of float32 in a cache line: what one prefetch is expected to bring.
LINE = 16
