"""The library's one random generator."""

from __future__ import annotations

import numbers

import numpy as np

_generator = np.random.default_rng()


def manual_seed(seed: int) -> None:
    """Seed the one generator behind initialisation, dropout, rand, randn and normal. `seed` is an int >= 0."""
    global _generator
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
        raise TypeError(f"seed={seed!r}: needs an int >= 0, got {type(seed).__name__}")
    if seed < 0:
        raise ValueError(f"seed={seed!r}: needs an int >= 0")
    _generator = np.random.default_rng(int(seed))


def generator() -> np.random.Generator:
    """The library's generator, which manual_seed replaces."""
    return _generator
