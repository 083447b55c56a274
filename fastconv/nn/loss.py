"""Losses. Source: torch.nn.CrossEntropyLoss, torch.nn.MSELoss."""

from __future__ import annotations

from typing import Any, TypeVar

from fastconv.nn import functional as F
from fastconv.nn.checks import fraction, one_of, whole
from fastconv.nn.module import Module

T = TypeVar("T")


class CrossEntropyLoss(Module):
    """−Σ_c q_c log softmax(input)_c of logits (N, C, …) or (C); the target is class indices or probabilities.

    weight: one factor a class. reduction: "mean", "sum" or "none". See nn.functional.cross_entropy.
    """

    def __init__(
        self,
        weight: Any = None,
        *,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.ignore_index = whole("ignore_index", ignore_index)
        self.reduction = one_of("reduction", reduction, F.REDUCTIONS)
        self.label_smoothing = fraction("label_smoothing", label_smoothing)

    def forward(self, x: T, target: Any) -> T:
        return F.cross_entropy(
            x,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


class MSELoss(Module):
    """(input − target)², its mean, its sum or, with reduction="none", itself."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = one_of("reduction", reduction, F.REDUCTIONS)

    def forward(self, x: T, target: Any) -> T:
        return F.mse_loss(x, target, self.reduction)
