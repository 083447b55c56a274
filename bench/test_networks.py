"""Whole networks, training and starts: fastconv as its users call it, and the peers. fastconv.peers.cases has them."""

PROBLEM = None


def test_network(kernel, case, measure):
    measure(kernel, case)
