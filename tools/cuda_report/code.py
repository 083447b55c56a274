"""Kernels as nvcc compiles them: registers, shared memory, occupancy and what limits it, instructions of main loops."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from fastconv.cudaemu import static
from fastconv.kernels.cuda import builds, launch

# Products, and what else SASS has, by name; the rest are branches, barriers, other floats. U…: once for a whole warp.
PRODUCTS = ("HMMA", "HGMMA", "FFMA", "DFMA")
_MEMORY = re.compile(r"U?LD[CGLS]?|LDGSTS|LDSM|ST[GLS]?|STSM|ATOM[GS]?|RED|UTMA(LD|ST)G")
_INTEGER = re.compile(
    r"U?(IMAD|IADD3?|IABS|V?IMNMX|ISETP|LEA|P?LOP3|SHF|SHL|SHR|SEL|PRMT|BMSK|BREV|FLO|POPC|SGXT|MOV)"
    r"|VIADD(MNMX)?|CS2R|S2U?R|R2UR|P2R|R2P"
)


@dataclass(frozen=True, slots=True)
class Code:
    """One kernel of one build on one architecture.

    loop: how often each instruction stands in the main loop. precision: what tensor cores multiply, "" without.
    threads: of a block; dynamic: bytes of shared memory that a block is given beside those that it is compiled with.
    """

    build: str
    architecture: str
    usage: static.Usage
    loop: Mapping[str, int]
    precision: str
    threads: int
    dynamic: int = 0

    @property
    def shared(self) -> int:
        """Bytes of shared memory of a block."""
        return self.usage.shared + self.dynamic

    @property
    def registers(self) -> str:
        """Of a thread, and how many bytes of them go to memory and back."""
        spilled = f", {self.usage.spilled} bytes spilled" if self.usage.spilled else ""
        return f"{self.usage.registers}{spilled}"

    @property
    def occupancy(self) -> tuple[float, str]:
        """(share of a multiprocessor's threads, what limits it)."""
        return static.occupancy(replace(self.usage, shared=self.shared), self.threads, self.architecture)

    @property
    def product(self) -> str:
        """The name of the product that stands in the main loop, "" of none."""
        return next((name for name in PRODUCTS if self.loop.get(name)), "")

    @property
    def mix(self) -> dict[str, float]:
        """Shares of the main loop's issue slots, of which every instruction takes one: products, loads and stores,
        integers and moves, the rest. Empty without a loop."""
        total = sum(self.loop.values())
        if not total:
            return {}
        counts = Counter(dict.fromkeys(("product", "memory", "integer", "rest"), 0))
        for name, count in self.loop.items():
            counts[_kind(name)] += count
        return {name: count / total for name, count in counts.items()}


def _kind(name: str) -> str:
    if name in PRODUCTS:
        return "product"
    if _MEMORY.fullmatch(name):
        return "memory"
    return "integer" if _INTEGER.fullmatch(name) else "rest"


# Every build, its file and defines, by its name.
BUILDS = {builds.name(file, defines): (file, defines) for file, every in builds.BUILDS.items() for defines in every}


def build(file: str, defines: Mapping[str, object]) -> str:
    """The name of the build with these defines in any order. ValueError if kernels.cuda.builds has none."""
    found = next((name for name, known in BUILDS.items() if known == (file, defines)), None)
    if found is None:
        raise ValueError(f"{builds.name(file, dict(defines))}: launched, but not in kernels.cuda.builds")
    return found


def is_for(build: str, architecture: str) -> bool:
    """Whether the build can be had for the architecture."""
    every = list(static.LIMITS)
    return every.index(architecture) >= every.index(builds.NEEDS.get(build, every[0]))


@lru_cache(maxsize=4096)
def compiled(build: str, architecture: str) -> tuple[Code, ...]:
    """Every kernel of a build. CompileError without nvcc and nvdisasm."""
    file, defines = BUILDS[build]
    return tuple(
        Code(build, architecture, usage, static.main_loop(sass), static.precision(sass), builds.threads(usage.kernel))
        for usage, sass in static.sass(launch.HERE / file, defines, architecture).items()
    )
