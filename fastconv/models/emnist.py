"""A small network for handwritten letters. Source: the lessons' EMNIST_Net."""

from __future__ import annotations

from typing import Any

from fastconv import nn


class EMNIST_Net(nn.Module):  # noqa: N801 — the lessons' name
    """Two convolutions, a max pooling, two linear layers: (N, in_channels, 28, 28) -> (N, num_classes).

    1,198,850 parameters for two classes of grey images.
    """

    def __init__(self, num_classes: int = 2, *, in_channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(9216, 128)
        self.fc2 = nn.Linear(128, num_classes)

    def forward(self, x: Any) -> Any:
        x = nn.functional.relu(self.conv1(x))
        x = self.pool(nn.functional.relu(self.conv2(x)))
        x = nn.functional.relu(self.fc1(nn.functional.flatten(x, 1)))
        return self.fc2(x)
