"""LeNet-5. Source: LeCun et al. 1998, "Gradient-Based Learning Applied to Document Recognition"."""

from __future__ import annotations

from collections.abc import Callable

from fastconv import nn


def lenet5(
    num_classes: int = 10,
    *,
    in_channels: int = 1,
    activation: Callable[[], nn.Module] = nn.Sigmoid,
    pool: Callable[..., nn.Module] = nn.AvgPool2d,
) -> nn.Sequential:
    """LeNet-5: (N, in_channels, 28, 28) -> (N, num_classes); 61,706 parameters for ten classes of grey images.

    activation: the layer after each hidden one; pool: the pooling, taken 2×2.
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, 6, kernel_size=5, padding=2),
        activation(),
        pool(kernel_size=2, stride=2),
        nn.Conv2d(6, 16, kernel_size=5),
        activation(),
        pool(kernel_size=2, stride=2),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 120),
        activation(),
        nn.Linear(120, 84),
        activation(),
        nn.Linear(84, num_classes),
    )
