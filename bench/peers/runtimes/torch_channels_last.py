"""PyTorch with weights, inputs and gradients in channels_last."""

from functools import partial

import torch

from .torch import build as build_in
from .torch import threads, version

__all__ = ["build", "threads", "version"]

build = partial(build_in, layout=torch.channels_last)
