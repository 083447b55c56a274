"""Network in Network. Source: Lin, Chen & Yan 2013, with the sizes of Zhang et al., "Dive into Deep Learning", 8.3."""

from __future__ import annotations

from fastconv import nn


def nin_block(in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int) -> nn.Sequential:
    """A convolution and two of 1×1, each with ReLU: a small network at every pixel."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding),
        nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, 1),
        nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, 1),
        nn.ReLU(),
    )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d) and module.bias is not None:
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(module.bias)


def nin(num_classes: int = 1000, dropout: float = 0.5, *, in_channels: int = 3) -> nn.Sequential:
    """NiN: (N, in_channels, H, W), H and W at least 67 -> (N, num_classes), the last by global average pooling.

    It has no linear layer. Convolutions start with He et al.'s normal, because twelve of them follow each other.
    """
    return nn.Sequential(
        nin_block(in_channels, 96, 11, 4, 0),
        nn.MaxPool2d(3, stride=2),
        nin_block(96, 256, 5, 1, 2),
        nn.MaxPool2d(3, stride=2),
        nin_block(256, 384, 3, 1, 1),
        nn.MaxPool2d(3, stride=2),
        nn.Dropout(dropout),
        nin_block(384, num_classes, 3, 1, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ).apply(_initialise)
