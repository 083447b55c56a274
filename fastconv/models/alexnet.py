"""AlexNet. Source: Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks";
torchvision.models.alexnet."""

from __future__ import annotations

from typing import Any

from fastconv import nn


class AlexNet(nn.Module):
    """Five convolutions and three linear layers: (N, in_channels, H, W), H and W at least 63 -> (N, num_classes).

    Submodules features, avgpool, classifier; state_dict keys are torchvision's. No local response normalisation, as
    in the second paper and torchvision.
    """

    def __init__(self, num_classes: int = 1000, dropout: float = 0.5, *, in_channels: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 64, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, num_classes),
        )

    def forward(self, x: Any) -> Any:
        return self.classifier(nn.functional.flatten(self.avgpool(self.features(x)), 1))


def alexnet(**options: Any) -> AlexNet:
    """AlexNet; options are its. Source: torchvision.models.alexnet."""
    return AlexNet(**options)
