"""Linear layers: every kernel of every operation on the cases of fastconv.testing, and the peers."""

from fastconv.problem import LinearProblem

PROBLEM = LinearProblem


def test_linear(kernel, case, measure):
    measure(kernel, case)
