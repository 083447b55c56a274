"""Pooling: every kernel of every operation on the cases of fastconv.testing, and the peers."""

from fastconv.problem import PoolProblem

PROBLEM = PoolProblem


def test_pool(kernel, case, measure):
    measure(kernel, case)
