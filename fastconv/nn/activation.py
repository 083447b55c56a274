"""Elementwise layers and softmax. Source: torch.nn.ReLU, Sigmoid, Tanh, Softmax, Dropout.

Input of any shape, float32 or float64, an array or a Tensor; the same kind comes back.
"""

from __future__ import annotations

from typing import TypeVar

from fastconv.nn import functional as F
from fastconv.nn.checks import fraction, whole
from fastconv.nn.module import Module
from fastconv.problem import boolean

T = TypeVar("T")


class ReLU(Module):
    """max(x, 0); into the input's own memory if `inplace`."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = boolean("inplace", inplace)

    def forward(self, x: T) -> T:
        return F.relu(x, self.inplace)

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""


class Sigmoid(Module):
    """1 / (1 + e^−x)."""

    def forward(self, x: T) -> T:
        return F.sigmoid(x)


class Tanh(Module):
    """The hyperbolic tangent."""

    def forward(self, x: T) -> T:
        return F.tanh(x)


class Softmax(Module):
    """e^x / Σ e^x along dimension `dim`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = whole("dim", dim)

    def forward(self, x: T) -> T:
        return F.softmax(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Dropout(Module):
    """In training each element 0 with probability `p`, else x / (1 − p); in evaluation x itself.

    Draws from the library's generator, which manual_seed seeds.
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        fraction("p", p)
        self.p = p
        self.inplace = boolean("inplace", inplace)

    def forward(self, x: T) -> T:
        return F.dropout(x, self.p, self.training, self.inplace)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"
