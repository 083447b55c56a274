"""Every wrong call raises ValueError or TypeError that names the argument, its value and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastconv import Tensor, nn, tensor
from fastconv.nn import functional as F


def zeros(*shape: int, dtype: Any = np.float32) -> Any:
    return np.zeros(shape, dtype)


X = zeros(2, 3, 8, 9)

# call, error, what its message must contain
CALLS: list[tuple[Callable[[], Any], type[Exception], list[str]]] = [
    # Conv2d's constructor.
    (lambda: nn.Conv2d(0, 4, 3), ValueError, ["in_channels=0", ">= 1"]),
    (lambda: nn.Conv2d(3, -4, 3), ValueError, ["out_channels=-4", ">= 1"]),
    (lambda: nn.Conv2d(3.0, 4, 3), TypeError, ["in_channels=3.0", "int"]),
    (lambda: nn.Conv2d(True, 4, 3), TypeError, ["in_channels=True", "int"]),
    (lambda: nn.Conv2d(3, 4, 0), ValueError, ["kernel_size=0", ">= 1"]),
    (lambda: nn.Conv2d(3, 4, (3, 3, 3)), ValueError, ["kernel_size=(3, 3, 3)", "pair"]),
    (lambda: nn.Conv2d(3, 4, "3"), TypeError, ["kernel_size='3'", "int"]),
    (lambda: nn.Conv2d(3, 4, None), TypeError, ["kernel_size=None", "int"]),
    (lambda: nn.Conv2d(3, 4, 2.5), TypeError, ["kernel_size=2.5", "int"]),
    (lambda: nn.Conv2d(3, 4, 3, stride=0), ValueError, ["stride=0", ">= 1"]),
    (lambda: nn.Conv2d(3, 4, 3, stride=(1, -1)), ValueError, ["stride=(1, -1)", ">= 1"]),
    (lambda: nn.Conv2d(3, 4, 3, padding=-1), ValueError, ["padding=-1", ">= 0"]),
    (lambda: nn.Conv2d(3, 4, 3, padding="full"), ValueError, ["padding='full'", "'same'", "'valid'"]),
    (lambda: nn.Conv2d(3, 4, 3, padding=(1, 2, 3)), ValueError, ["padding=(1, 2, 3)", "pair"]),
    (lambda: nn.Conv2d(3, 4, 3, padding=0.5), TypeError, ["padding=0.5", "int"]),
    (lambda: nn.Conv2d(3, 4, 3, dilation=0), ValueError, ["dilation=0", ">= 1"]),
    (lambda: nn.Conv2d(3, 4, 3, groups=0), ValueError, ["groups=0", ">= 1"]),
    (lambda: nn.Conv2d(3, 4, 3, groups=2), ValueError, ["groups=2", "in_channels=3"]),
    (lambda: nn.Conv2d(4, 3, 3, groups=2), ValueError, ["groups=2", "out_channels=3"]),
    (lambda: nn.Conv2d(3, 4, 3, bias=1), TypeError, ["bias=1", "True or False"]),
    (lambda: nn.Conv2d(3, 4, 3, padding_mode="mirror"), ValueError, ["padding_mode='mirror'", "'reflect'"]),
    (lambda: nn.Conv2d(3, 4, 3, dtype="float16"), TypeError, ["dtype='float16'", "float32"]),
    (lambda: nn.Conv2d(3, 4, 3, dtype=np.int64), TypeError, ["dtype=", "int64", "float32"]),
    (lambda: nn.Conv2d(3, 4, 3, algorithm="magic")(X), ValueError, ["algorithm='magic'", "'auto'"]),
    # Conv2d's input.
    (lambda: nn.Conv2d(3, 4, 3)(zeros(8, 9)), ValueError, ["input=(8, 9)", "(N, C, H, W)", "(C, H, W)"]),
    (lambda: nn.Conv2d(3, 4, 3)(tensor(zeros(8, 9))), ValueError, ["input=(8, 9)", "(N, C, H, W)", "(C, H, W)"]),
    (lambda: nn.Conv2d(3, 4, 3)(zeros(1, 2, 3, 8, 9)), ValueError, ["input=(1, 2, 3, 8, 9)", "(N, C, H, W)"]),
    (lambda: nn.Conv2d(3, 4, 3)(zeros(2, 5, 8, 9)), ValueError, ["input=(2, 5, 8, 9)", "3 channels"]),
    (lambda: nn.Conv2d(3, 4, 3)(zeros(3, 2, 9)), ValueError, ["input=(1, 3, 2, 9)", "smaller than the kernel"]),
    (lambda: nn.Conv2d(3, 4, 3, dilation=5)(X), ValueError, ["input=(2, 3, 8, 9)", "11×11"]),
    (lambda: nn.Conv2d(3, 4, 3)(X.astype(np.int64)), TypeError, ["input", "int64", "float32"]),
    (lambda: nn.Conv2d(3, 4, 3)(tensor(X.astype(bool))), TypeError, ["input", "bool", "float32"]),
    (lambda: nn.Conv2d(3, 4, 3)(X.astype(np.float16)), TypeError, ["input", "float16", "float32"]),
    (lambda: nn.Conv2d(3, 4, 3)(X.astype(complex)), TypeError, ["input", "complex128", "float32"]),
    (lambda: nn.Conv2d(3, 4, 3)(X.astype(np.float64)), TypeError, ["input", "float64", "weight", "float32"]),
    (lambda: nn.Conv2d(3, 4, 3, dtype="float64")(X), TypeError, ["input", "float64", "weight", "float32"]),
    (lambda: nn.Conv2d(3, 4, 3)([[1.0]]), TypeError, ["input=[[1.0]]", "NumPy array", "list"]),
    (lambda: nn.Conv2d(3, 4, 3)(None), TypeError, ["input=None", "NumPy array"]),
    (lambda: nn.Conv2d(3, 4, 3, padding=8, padding_mode="reflect")(X), ValueError, ["pad=(8, 8, 8, 8)", "at most"]),
    (lambda: nn.Conv2d(3, 4, 3, padding=9, padding_mode="circular")(X), ValueError, ["pad=(9, 9, 9, 9)", "at most"]),
    (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")(zeros(8, 9)), ValueError, ["input=(8, 9)"]),
    # Pooling.
    (lambda: nn.MaxPool2d(0), ValueError, ["kernel_size=0", ">= 1"]),
    (lambda: nn.MaxPool2d("2"), TypeError, ["kernel_size='2'", "int"]),
    (lambda: nn.MaxPool2d(2, stride=0), ValueError, ["stride=0", ">= 1"]),
    (lambda: nn.MaxPool2d(2, padding=2), ValueError, ["padding=2", "half of kernel_size"]),
    (lambda: nn.MaxPool2d(2, padding="full"), ValueError, ["padding='full'", "'same'"]),
    (lambda: nn.MaxPool2d(2, dilation=(1, 0)), ValueError, ["dilation=(1, 0)", ">= 1"]),
    (lambda: nn.MaxPool2d(2, return_indices=1), TypeError, ["return_indices=1", "True or False"]),
    (lambda: nn.MaxPool2d(2, ceil_mode="yes"), TypeError, ["ceil_mode='yes'", "True or False"]),
    (lambda: nn.AvgPool2d((2, -1)), ValueError, ["kernel_size=(2, -1)", ">= 1"]),
    (lambda: nn.AvgPool2d(2, padding=(0, 2)), ValueError, ["padding=(0, 2)", "half of kernel_size"]),
    (lambda: nn.AvgPool2d(2, divisor_override=0), ValueError, ["divisor_override=0", ">= 1"]),
    (lambda: nn.AvgPool2d(2, count_include_pad=None), TypeError, ["count_include_pad=None", "True or False"]),
    (lambda: nn.MaxPool2d(2)(zeros(8, 9)), ValueError, ["input=(8, 9)", "(N, C, H, W)", "(C, H, W)"]),
    (lambda: nn.AvgPool2d(2)(zeros(8)), ValueError, ["input=(8,)", "(N, C, H, W)"]),
    (lambda: nn.MaxPool2d(9)(X), ValueError, ["input=(2, 3, 8, 9)", "9×9"]),
    (lambda: nn.MaxPool2d(2)(X.astype(np.int32)), TypeError, ["input", "int32", "float32"]),
    (lambda: nn.AvgPool2d(2)(tensor(X.astype(np.uint8))), TypeError, ["input", "uint8", "float32"]),
    # Linear, Flatten.
    (lambda: nn.Linear(0, 3), ValueError, ["in_features=0", ">= 1"]),
    (lambda: nn.Linear(3, 2.0), TypeError, ["out_features=2.0", "int"]),
    (lambda: nn.Linear(3, 2, bias="no"), TypeError, ["bias='no'", "True or False"]),
    (lambda: nn.Linear(3, 2)(zeros(4, 5)), ValueError, ["input=(4, 5)", "(..., 3)"]),
    (lambda: nn.Linear(3, 2)(zeros()), ValueError, ["input=()", "(..., 3)"]),
    (lambda: nn.Linear(3, 2)(zeros(4, 3, dtype=int)), TypeError, ["input", "int64", "float32"]),
    (lambda: nn.Linear(3, 2)(zeros(4, 3, dtype=float)), TypeError, ["input", "float64", "weight", "float32"]),
    (lambda: nn.Flatten(2, 1), ValueError, ["start_dim=2", "end_dim=1"]),
    (lambda: nn.Flatten("1"), TypeError, ["start_dim='1'", "int"]),
    (lambda: nn.Flatten(1, 4)(X), ValueError, ["end_dim=4", "(2, 3, 8, 9)"]),
    # Activations, dropout, losses.
    (lambda: nn.ReLU(inplace=0), TypeError, ["inplace=0", "True or False"]),
    (lambda: nn.ReLU()(X.astype(int)), TypeError, ["input", "int64", "float32"]),
    (lambda: nn.Sigmoid()(3.0), TypeError, ["input=3.0", "NumPy array", "float"]),
    (lambda: nn.Softmax(dim=1.0), TypeError, ["dim=1.0", "int"]),
    (lambda: nn.Softmax(dim=4)(X), ValueError, ["dim=4", "-4 to 3"]),
    (lambda: nn.Dropout(1.5), ValueError, ["p=1.5", "0 to 1"]),
    (lambda: nn.Dropout(-0.1), ValueError, ["p=-0.1", "0 to 1"]),
    (lambda: nn.Dropout(float("nan")), ValueError, ["p=nan", "0 to 1"]),
    (lambda: nn.Dropout("half"), TypeError, ["p='half'", "0 to 1"]),
    (lambda: nn.CrossEntropyLoss(reduction="max"), ValueError, ["reduction='max'", "'mean'"]),
    (lambda: nn.CrossEntropyLoss(label_smoothing=2), ValueError, ["label_smoothing=2", "0 to 1"]),
    (lambda: nn.CrossEntropyLoss(ignore_index=0.5), TypeError, ["ignore_index=0.5", "int"]),
    (lambda: nn.CrossEntropyLoss(zeros(2))(zeros(4, 3), zeros(4, dtype=int)), ValueError, ["weight=(2,)", "(3,)"]),
    (lambda: nn.CrossEntropyLoss()(zeros(4, 3), np.array([0, 1, 2, 3])), ValueError, ["target: class 3", "0 to 2"]),
    (lambda: nn.CrossEntropyLoss()(zeros(4, 3), np.array([0, 1, 2, -1])), ValueError, ["target: class -1", "0 to 2"]),
    (lambda: nn.CrossEntropyLoss()(zeros(4, 3), zeros(3, dtype=int)), ValueError, ["target=(3,)", "(4, 3)"]),
    (lambda: nn.CrossEntropyLoss()(zeros(4, 3), zeros(4)), ValueError, ["target=(4,)", "(4, 3)"]),
    (lambda: nn.CrossEntropyLoss()(zeros(4, 3), zeros(4, 3, dtype=float)), TypeError, ["target", "float64", "float32"]),
    (lambda: nn.CrossEntropyLoss()(zeros(4, 3), zeros(4, dtype=bool)), TypeError, ["target", "bool", "integers"]),
    (
        lambda: nn.CrossEntropyLoss()(zeros(4, 3), [0, 1, 2, 0]),
        TypeError,
        ["target=[0, 1, 2, 0]", "NumPy array", "list"],
    ),
    (lambda: nn.CrossEntropyLoss()(zeros(), zeros(dtype=int)), ValueError, ["input=()", "(N, C, ...)"]),
    (lambda: nn.MSELoss("avg"), ValueError, ["reduction='avg'", "'mean'"]),
    (lambda: nn.MSELoss()(zeros(4), zeros(4, 1)), ValueError, ["target=(4, 1)", "(4,)"]),
    (lambda: nn.MSELoss()(zeros(4), zeros(4, dtype=int)), TypeError, ["target", "int64", "float32"]),
    # Functions.
    (lambda: F.conv2d(X, zeros(4, 3, 3)), ValueError, ["weight=(4, 3, 3)", "KH, KW"]),
    (lambda: F.conv2d(X, [1]), TypeError, ["weight=[1]", "NumPy array"]),
    (lambda: F.conv2d(X, zeros(4, 3, 3, 3), zeros(3)), ValueError, ["bias=(3,)", "(4,)"]),
    (lambda: F.conv2d(X, zeros(4, 3, 3, 3), zeros(4, dtype=float)), TypeError, ["bias", "float64", "float32"]),
    (lambda: F.linear(zeros(2, 3), zeros(3)), ValueError, ["weight=(3,)", "in_features"]),
    (lambda: F.linear(zeros(2, 3), zeros(2, 3), zeros(3)), ValueError, ["bias=(3,)", "(2,)"]),
    (lambda: F.pad(X, (1, 2, 3)), ValueError, ["pad=(1, 2, 3)", "pairs"]),
    (lambda: F.pad(X, (1, -1)), ValueError, ["pad=-1", ">= 0"]),
    (lambda: F.pad(X, (1, 1), "mirror"), ValueError, ["mode='mirror'", "'reflect'"]),
    (lambda: F.pad(X, (1, 1), "reflect"), ValueError, ["pad=(1, 1)", "2 or 3 pairs"]),
    (lambda: F.pad(X, (1, 1, 1, 1), "reflect", 3.0), ValueError, ["value=3.0", "'reflect'"]),
    (lambda: F.one_hot(zeros(3)), TypeError, ["tensor", "float32", "integer"]),
    (lambda: F.one_hot(np.array([3]), 3), ValueError, ["tensor: class 3", "0 to 2"]),
    (lambda: F.one_hot(np.array([3]), 0), ValueError, ["num_classes=0", ">= 1"]),
    (lambda: F.dropout(X, 1.01), ValueError, ["p=1.01", "0 to 1"]),
    (lambda: Tensor(zeros(2)).flatten(3), ValueError, ["start_dim=3", "(2,)"]),
]


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_wrong_call(number: int) -> None:
    call, error, texts = CALLS[number]
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    assert type(caught.value) is error
    for text in texts:
        assert text in str(caught.value)
