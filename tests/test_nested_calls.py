"""A call that interrupts another in the same thread, as a signal handler does, has scratch memory of its own."""

import signal

import numpy as np

from fastconv import functional as F


def test_call_from_a_signal_handler_leaves_the_interrupted_call_right():
    generator = np.random.default_rng(0)
    x, w = generator.standard_normal((8, 16, 30, 31)), generator.standard_normal((17, 16, 3, 3))
    bad = np.full_like(x, np.nan)
    inside, depth = [], []

    def handler(*_):
        # The signal comes again while it is handled, too.
        if not depth:
            depth.append(1)
            inside.append(np.isnan(F.conv2d(bad, w, algorithm="im2col")).all())
            depth.pop()

    want = F.conv2d_grad_input(x.shape, w, F.conv2d(x, w), algorithm="direct")
    F.conv2d(bad, w, algorithm="im2col")
    gy = F.conv2d(x, w)
    former = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.003, 0.003)
    try:
        got = [F.conv2d_grad_input(x.shape, w, gy, algorithm="direct") for _ in range(200)]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    assert len(inside) > 3
    assert all(inside)
    for y in got:
        np.testing.assert_array_equal(y, want)
