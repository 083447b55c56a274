"""What a float32 is in the formats of tensor cores, again as float32: written from their definitions, in NumPy."""

import numpy as np


def half(x):
    """The nearest half, ties to even; infinite from 65520 on."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32)


def bfloat16(x):
    """The nearest number whose lower 16 bits are zero, ties to even."""
    bits = x.view(np.uint32).astype(np.uint64)
    return _finite(x, (bits + 0x7FFF + (bits >> 16 & 1)) & ~np.uint64(0xFFFF))


def tf32(x):
    """The nearest number whose lower 13 bits are zero, ties away from zero."""
    return _finite(x, (x.view(np.uint32).astype(np.uint64) + 0x1000) & ~np.uint64(0x1FFF))


def _finite(x, bits):
    return np.where(np.isfinite(x), bits.astype(np.uint32).view(np.float32), x)


ROUNDED = {"half": half, "bfloat16": bfloat16, "tf32": tf32}
