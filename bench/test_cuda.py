"""On a CUDA device: every CUDA kernel on the cases of fastconv.testing, and PyTorch, which calls cuDNN and cuBLAS.

Times are the device's own, between two of its events. Without a device each row says so.
"""

from fastconv.problem import ConvProblem, LinearProblem, PoolProblem, RecurrentProblem

PROBLEM, BACKEND = (ConvProblem, PoolProblem, LinearProblem, RecurrentProblem), "cuda"


def test_cuda(kernel, case, measure):
    measure(kernel, case)
