"""VGG. Source: Simonyan & Zisserman 2014, table 1, columns A, B, D and E; torchvision.models.vgg."""

from __future__ import annotations

from typing import Any

from fastconv import nn
from fastconv.problem import boolean, integer

# For each depth how many convolutions each of the five blocks has, and the blocks' channels.
BLOCKS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
CHANNELS = (64, 128, 256, 512, 512)


def vgg_block(convolutions: int, in_channels: int, out_channels: int, batch_norm: bool = False) -> list[nn.Module]:
    """3×3 convolutions that keep the size, each with ReLU, and a max pooling that halves it."""
    layers: list[nn.Module] = []
    for _ in range(convolutions):
        layers.append(nn.Conv2d(in_channels, out_channels, 3, padding=1))
        layers += [nn.BatchNorm2d(out_channels)] if batch_norm else []
        layers.append(nn.ReLU())
        in_channels = out_channels
    return [*layers, nn.MaxPool2d(2)]


class VGG(nn.Module):
    """Five blocks of 3×3 convolutions and three linear layers: (N, in_channels, H, W) -> (N, num_classes).

    depth: 11, 13, 16 or 19 layers with weights. H and W at least 32.
    num_classes=None leaves out the last linear layer: 4,096 features come out.
    avgpool=False leaves out the adaptive pooling to 7×7, as the paper does, which needs H = W = 224.
    init_weights: He et al.'s normal for convolutions and N(0, 0.01) for linear layers, as torchvision; else as nn's.
    Submodules features, avgpool, classifier; state_dict keys are torchvision's.
    """

    def __init__(
        self,
        depth: int,
        batch_norm: bool = False,
        num_classes: int | None = 1000,
        dropout: float = 0.5,
        *,
        in_channels: int = 3,
        avgpool: bool = True,
        init_weights: bool = True,
    ) -> None:
        super().__init__()
        if integer("depth", depth) not in BLOCKS:
            raise ValueError(f"depth={depth!r}: needs one of {', '.join(map(str, BLOCKS))}")
        boolean("batch_norm", batch_norm)
        layers: list[nn.Module] = []
        channels = integer("in_channels", in_channels)
        for count, width in zip(BLOCKS[depth], CHANNELS, strict=True):
            layers += vgg_block(count, channels, width, batch_norm)
            channels = width
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7)) if boolean("avgpool", avgpool) else None
        classifier = [nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Dropout(dropout)]
        classifier += [nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(dropout)]
        if num_classes is not None:
            classifier.append(nn.Linear(4096, integer("num_classes", num_classes)))
        self.classifier = nn.Sequential(*classifier)
        if boolean("init_weights", init_weights):
            self.apply(_initialise)

    def forward(self, x: Any) -> Any:
        x = self.features(x)
        if self.avgpool is not None:
            x = self.avgpool(x)
        return self.classifier(nn.functional.flatten(x, 1))


def _initialise(module: nn.Module) -> None:
    """torchvision's beginning of one layer."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def vgg11(**options: Any) -> VGG:
    """VGG of 11 layers (column A); options are VGG's. Source: torchvision.models.vgg11."""
    return VGG(11, **options)


def vgg13(**options: Any) -> VGG:
    """VGG of 13 layers (column B); options are VGG's. Source: torchvision.models.vgg13."""
    return VGG(13, **options)


def vgg16(**options: Any) -> VGG:
    """VGG of 16 layers (column D); options are VGG's. Source: torchvision.models.vgg16."""
    return VGG(16, **options)


def vgg19(**options: Any) -> VGG:
    """VGG of 19 layers (column E); options are VGG's. Source: torchvision.models.vgg19."""
    return VGG(19, **options)


def vgg11_bn(**options: Any) -> VGG:
    """vgg11 with batch normalisation. Source: torchvision.models.vgg11_bn."""
    return VGG(11, True, **options)


def vgg13_bn(**options: Any) -> VGG:
    """vgg13 with batch normalisation. Source: torchvision.models.vgg13_bn."""
    return VGG(13, True, **options)


def vgg16_bn(**options: Any) -> VGG:
    """vgg16 with batch normalisation. Source: torchvision.models.vgg16_bn."""
    return VGG(16, True, **options)


def vgg19_bn(**options: Any) -> VGG:
    """vgg19 with batch normalisation. Source: torchvision.models.vgg19_bn."""
    return VGG(19, True, **options)
