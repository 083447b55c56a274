"""Layers with torch.nn's constructors, parameter names and state_dict keys, on NumPy arrays or Tensors."""

from fastconv.nn import functional, init
from fastconv.nn.activation import Dropout, ReLU, Sigmoid, Softmax, Tanh
from fastconv.nn.container import ModuleList, Sequential
from fastconv.nn.conv import Conv2d
from fastconv.nn.fusion import fuse
from fastconv.nn.linear import Flatten, Identity, Linear
from fastconv.nn.loss import CrossEntropyLoss, MSELoss
from fastconv.nn.module import Module, Parameter
from fastconv.nn.normalization import BatchNorm1d, BatchNorm2d
from fastconv.nn.pooling import AdaptiveAvgPool2d, AdaptiveMaxPool2d, AvgPool2d, MaxPool2d

__all__ = [
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool2d",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv2d",
    "CrossEntropyLoss",
    "Dropout",
    "Flatten",
    "Identity",
    "Linear",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "ModuleList",
    "Parameter",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "functional",
    "fuse",
    "init",
]
