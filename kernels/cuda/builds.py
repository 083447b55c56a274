"""How the .cu files are compiled: every set of defines that a launch may ask for, from the modules' BUILDS."""

import importlib
import pkgutil

from fastconv.kernels.cuda import __name__ as package
from fastconv.kernels.cuda import __path__ as folder

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")

BUILDS: dict[str, list[dict[str, object]]] = {}
# Threads of a block, for kernels that have other blocks than of 256.
THREADS: dict[str, int] = {}
# The oldest architecture of builds that not all can have.
NEEDS: dict[str, str] = {}
for _info in pkgutil.iter_modules(folder):
    if _info.name != "builds":
        _module = importlib.import_module(f"{package}.{_info.name}")
        BUILDS |= getattr(_module, "BUILDS", {})
        THREADS |= getattr(_module, "THREADS", {})
        NEEDS |= getattr(_module, "NEEDS", {})


def name(file: str, defines: dict[str, object]) -> str:
    """What a build is called: gemm.cu TILE=64 …"""
    return " ".join([file, *(f"{key}={value}" for key, value in defines.items())])


def architectures(file: str, defines: dict[str, object]) -> tuple[str, ...]:
    """Those that a build is for."""
    return ARCHITECTURES[ARCHITECTURES.index(NEEDS.get(name(file, defines), ARCHITECTURES[0])) :]


def threads(kernel: str) -> int:
    """Threads of a block of the kernel."""
    return THREADS.get(kernel, 256)
