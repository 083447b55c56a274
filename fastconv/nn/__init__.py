"""Layers with torch.nn's constructors, parameter names and state_dict keys, on NumPy arrays or Tensors."""

from fastconv.nn import functional, init, utils
from fastconv.nn.activation import Dropout, ReLU, Sigmoid, Softmax, Tanh
from fastconv.nn.container import ModuleList, Sequential
from fastconv.nn.conv import Conv1d, Conv2d
from fastconv.nn.ctc import CTCLoss
from fastconv.nn.embedding import Embedding
from fastconv.nn.fusion import fuse
from fastconv.nn.layernorm import LayerNorm
from fastconv.nn.linear import Flatten, Identity, Linear
from fastconv.nn.loss import CrossEntropyLoss, MSELoss
from fastconv.nn.module import Module, Parameter
from fastconv.nn.normalization import BatchNorm1d, BatchNorm2d
from fastconv.nn.pooling import AdaptiveAvgPool2d, AdaptiveMaxPool2d, AvgPool2d, MaxPool2d
from fastconv.nn.recurrent import GRU, LSTM, RNN, JordanRNN
from fastconv.nn.recurrent_cells import GRUCell, LSTMCell, RNNCell

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool2d",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "CTCLoss",
    "Conv1d",
    "Conv2d",
    "CrossEntropyLoss",
    "Dropout",
    "Embedding",
    "Flatten",
    "GRUCell",
    "Identity",
    "JordanRNN",
    "LSTMCell",
    "LayerNorm",
    "Linear",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "ModuleList",
    "Parameter",
    "RNNCell",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "functional",
    "fuse",
    "init",
    "utils",
]
