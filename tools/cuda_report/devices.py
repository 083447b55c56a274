"""What data sheets say of devices. They are peaks: no program reaches them, and none can be faster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MiB = 2**20


@dataclass(frozen=True, slots=True)
class Device:
    """Peaks in flop/s by what is multiplied (all but float32 by tensor cores, dense, sums in float32), bytes/s of its
    memory, bytes of its L2 cache."""

    name: str
    architecture: str
    processors: int
    peaks: Mapping[str, float]
    bandwidth: float
    cache: int
    source: str


def _peaks(float32: float, tf32: float, halves: float) -> Mapping[str, float]:
    """From Tflop/s; float16 and bfloat16 are alike on all of them."""
    return {"float32": float32 * 1e12, "tf32": tf32 * 1e12, "float16": halves * 1e12, "bfloat16": halves * 1e12}


DEVICES = (
    Device(
        "A100",
        "sm_80",
        108,
        _peaks(19.5, 156, 312),
        2039e9,
        40 * MiB,
        "NVIDIA A100 Tensor Core GPU datasheet, 80 GB SXM; processors and L2: NVIDIA A100 Tensor Core GPU Architecture",
    ),
    Device(
        "H100",
        "sm_90",
        132,
        # The sheet has them with sparsity, and says that they are half without.
        _peaks(67, 989 / 2, 1979 / 2),
        3350e9,
        50 * MiB,
        "NVIDIA H100 Tensor Core GPU datasheet, SXM; processors and L2: NVIDIA H100 Tensor Core GPU Architecture",
    ),
    Device(
        "RTX 4090",
        "sm_89",
        128,
        _peaks(82.6, 82.6, 165.2),
        1008e9,
        72 * MiB,
        "NVIDIA Ada GPU Architecture, appendix A: GeForce RTX 4090",
    ),
)
