"""PyTorch on a CUDA device: cuDNN and cuBLAS in float32, cuDNN's algorithms measured before.

Its default for convolutions is TF32, which rounds inputs to 11 bits; float32 is what is compared.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ..work import Arrays, Prepared, Unsupported
from .torch import build as build_in
from .torch import threads

__all__ = ["build", "threads", "version"]


def version() -> str:
    return f"torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}"


def build(work: dict[str, Any], arrays: Arrays, folder: str) -> Prepared:
    if not torch.cuda.is_available():
        raise Unsupported("this PyTorch has no CUDA device: it needs a build for CUDA")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    prepared = build_in(work, arrays, folder, device="cuda")
    busy = torch.empty(2**24, device="cuda")

    def timed(count: int) -> tuple[float, Any]:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # As ours: something longer before, so that the device does not wait for the calls to be made.
        for value in range(8):
            busy.fill_(value)
        start.record()
        for _ in range(count):
            outputs = prepared.call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3, outputs

    return replace(prepared, timed=timed)
