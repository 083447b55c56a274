"""Convolutional networks, untrained, with torchvision's layers and state_dict keys where torchvision has them.

    from fastconv import models

    net = models.vgg16()
    net.load_state_dict(fastconv.load("vgg16.safetensors"))

Input is (N, channels, H, W) float32, an array or a Tensor; output (N, num_classes), scores before softmax.
"""

from fastconv.models.alexnet import AlexNet, alexnet
from fastconv.models.emnist import EMNIST_Net
from fastconv.models.googlenet import GoogLeNet, GoogLeNetOutputs, Inception, googlenet
from fastconv.models.lenet import lenet5
from fastconv.models.nin import nin
from fastconv.models.vgg import VGG, vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn

# What can be built by its name.
BUILDERS = {
    build.__name__: build
    for build in (
        alexnet,
        EMNIST_Net,
        googlenet,
        lenet5,
        nin,
        vgg11,
        vgg11_bn,
        vgg13,
        vgg13_bn,
        vgg16,
        vgg16_bn,
        vgg19,
        vgg19_bn,
    )
}

__all__ = [
    "BUILDERS",
    "VGG",
    "AlexNet",
    "EMNIST_Net",
    "GoogLeNet",
    "GoogLeNetOutputs",
    "Inception",
    "alexnet",
    "googlenet",
    "lenet5",
    "nin",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
]
