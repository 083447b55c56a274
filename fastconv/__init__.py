"""fastconv: hand-written convolution, pooling and linear kernels behind torch.nn's constructors.

    from fastconv import nn

    y = nn.Conv2d(3, 16, 3, padding=1)(x)      # x: a NumPy array (N, 3, H, W)

Importing it compiles nothing and does not import Numba; a kernel compiles on its first call and is cached on disk.
"""

from importlib.metadata import PackageNotFoundError, version

from fastconv import functional, models, nn, optim, reference
from fastconv.autograd import enable_grad, is_grad_enabled, no_grad
from fastconv.creation import arange, from_numpy, normal, ones, ones_like, rand, randn, tensor, zeros, zeros_like
from fastconv.nn.functional import flatten, log_softmax, relu, sigmoid, softmax, tanh
from fastconv.ops import cat, exp, log, matmul, sqrt, stack
from fastconv.random import manual_seed
from fastconv.registry import Unsupported, explain, precision, use
from fastconv.serialize import load, save
from fastconv.summarize import summary
from fastconv.tensors import Tensor
from fastconv.threads import get_num_threads, set_num_threads

try:
    __version__ = version("fastconv")
except PackageNotFoundError as error:
    raise ImportError("fastconv is not installed here: run `pip install -e .` in its folder") from error

__all__ = [
    "Tensor",
    "Unsupported",
    "__version__",
    "arange",
    "cat",
    "enable_grad",
    "exp",
    "explain",
    "flatten",
    "from_numpy",
    "functional",
    "get_num_threads",
    "is_grad_enabled",
    "load",
    "log",
    "log_softmax",
    "manual_seed",
    "matmul",
    "models",
    "nn",
    "no_grad",
    "normal",
    "ones",
    "ones_like",
    "optim",
    "precision",
    "rand",
    "randn",
    "reference",
    "relu",
    "save",
    "set_num_threads",
    "sigmoid",
    "softmax",
    "sqrt",
    "stack",
    "summary",
    "tanh",
    "tensor",
    "use",
    "zeros",
    "zeros_like",
]
