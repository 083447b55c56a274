"""GoogLeNet. Source: Szegedy et al. 2014, "Going Deeper with Convolutions"; torchvision.models.googlenet."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastconv import nn, ops
from fastconv.problem import boolean


class GoogLeNetOutputs(NamedTuple):
    """What a GoogLeNet with auxiliary heads gives in training: three (N, num_classes)."""

    logits: Any
    aux_logits2: Any
    aux_logits1: Any


def _convolution(in_channels: int, out_channels: int, kernel_size: int, **options: Any) -> nn.Sequential:
    """A convolution without bias, batch normalisation and ReLU: torchvision's BasicConv2d."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, bias=False, **options)
    return nn.Sequential({"conv": convolution, "bn": nn.BatchNorm2d(out_channels, eps=0.001), "relu": nn.ReLU()})


class Inception(nn.Module):
    """Four branches side by side, joined along the channels: (N, in_channels, H, W) -> (N, Σ channels, H, W).

    1×1 (ch1x1); 1×1 and 3×3 (ch3x3red, ch3x3); 1×1 and another 3×3 (ch5x5red, ch5x5), where the paper has 5×5 and
    torchvision's weights do not; 3×3 max pooling of stride 1 and 1×1 (pool_proj).
    """

    def __init__(
        self, in_channels: int, ch1x1: int, ch3x3red: int, ch3x3: int, ch5x5red: int, ch5x5: int, pool_proj: int
    ) -> None:
        super().__init__()
        self.branch1 = _convolution(in_channels, ch1x1, 1)
        self.branch2 = nn.Sequential(
            _convolution(in_channels, ch3x3red, 1), _convolution(ch3x3red, ch3x3, 3, padding=1)
        )
        self.branch3 = nn.Sequential(
            _convolution(in_channels, ch5x5red, 1), _convolution(ch5x5red, ch5x5, 3, padding=1)
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True), _convolution(in_channels, pool_proj, 1)
        )

    def forward(self, x: Any) -> Any:
        return ops.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class _Auxiliary(nn.Module):
    """A head in the middle of the network, for training: (N, in_channels, H, W) -> (N, num_classes)."""

    def __init__(self, in_channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.conv = _convolution(in_channels, 128, 1)
        self.fc1 = nn.Linear(2048, 1024)
        self.fc2 = nn.Linear(1024, num_classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Any) -> Any:
        x = self.conv(nn.functional.adaptive_avg_pool2d(x, 4))
        x = nn.functional.relu(self.fc1(nn.functional.flatten(x, 1)))
        return self.fc2(self.dropout(x))


class GoogLeNet(nn.Module):
    """Nine Inception modules with batch normalisation: (N, in_channels, H, W), H, W at least 15 -> (N, num_classes).

    With aux_logits=True (torchvision's default, here False) two more heads, and in training GoogLeNetOutputs comes out.
    Weights start N(0, 0.01), as torchvision's. Submodules and state_dict keys are torchvision's; its transform_input
    is left to the caller.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        aux_logits: bool = False,
        dropout: float = 0.2,
        dropout_aux: float = 0.7,
        *,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.conv1 = _convolution(in_channels, 64, 7, stride=2, padding=3)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = _convolution(64, 64, 1)
        self.conv3 = _convolution(64, 192, 3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception3a = Inception(192, 64, 96, 128, 16, 32, 32)
        self.inception3b = Inception(256, 128, 128, 192, 32, 96, 64)
        self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception4a = Inception(480, 192, 96, 208, 16, 48, 64)
        self.inception4b = Inception(512, 160, 112, 224, 24, 64, 64)
        self.inception4c = Inception(512, 128, 128, 256, 24, 64, 64)
        self.inception4d = Inception(512, 112, 144, 288, 32, 64, 64)
        self.inception4e = Inception(528, 256, 160, 320, 32, 128, 128)
        self.maxpool4 = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.inception5a = Inception(832, 256, 160, 320, 32, 128, 128)
        self.inception5b = Inception(832, 384, 192, 384, 48, 128, 128)
        heads = boolean("aux_logits", aux_logits)
        self.aux1 = _Auxiliary(512, num_classes, dropout_aux) if heads else None
        self.aux2 = _Auxiliary(528, num_classes, dropout_aux) if heads else None
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(1024, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.normal_(module.weight, 0, 0.01)

    def forward(self, x: Any) -> Any:
        x = self.maxpool1(self.conv1(x))
        x = self.maxpool2(self.conv3(self.conv2(x)))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        x = self.inception4a(x)
        aux1 = self.aux1(x) if self.training and self.aux1 is not None else None
        x = self.inception4d(self.inception4c(self.inception4b(x)))
        aux2 = self.aux2(x) if self.training and self.aux2 is not None else None
        x = self.maxpool4(self.inception4e(x))
        x = self.avgpool(self.inception5b(self.inception5a(x)))
        logits = self.fc(self.dropout(nn.functional.flatten(x, 1)))
        return logits if aux1 is None else GoogLeNetOutputs(logits, aux2, aux1)


def googlenet(**options: Any) -> GoogLeNet:
    """GoogLeNet; options are its. Source: torchvision.models.googlenet."""
    return GoogLeNet(**options)
