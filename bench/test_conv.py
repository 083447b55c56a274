"""Convolution: every kernel of every operation on the cases of fastconv.testing, and the peers."""

from fastconv.problem import ConvProblem

PROBLEM = ConvProblem


def test_conv(kernel, case, measure):
    measure(kernel, case)
