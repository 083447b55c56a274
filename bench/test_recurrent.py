"""Recurrent layers: every kernel of every operation on the cases of fastconv.testing, and the peers."""

from fastconv.problem import RecurrentProblem

PROBLEM = RecurrentProblem


def test_recurrent(kernel, case, measure):
    measure(kernel, case)
