"""Stochastic pooling of float32 and float64 images (N, C, H, W), with gradients: stochastic.cu.

The windows are those of a PoolProblem p. What is not above 0 does not count: a window of nothing else gives 0 and has
no gradient. There is one way to do these, so they are no operations of the registry. Source: Zeiler and Fergus 2013,
"Stochastic Pooling for Regularization of Deep Convolutional Neural Networks".
"""

from fastconv.kernels.cuda.launch import out
from fastconv.kernels.cuda.pool import over_elements, over_windows

BUILDS = {"stochastic.cu": [{"REAL": "float"}, {"REAL": "double"}]}


def stochastic_pool(p, x, draws, y, places):
    """In training: y = an element of each window, drawn with probability x / Σ x; places (int32): where, or −1.

    draws, like y and of its dtype: uniform numbers, at least 0 and below 1.
    """
    over_windows("stochastic.cu", "stochastic_pool", p, (x, draws, out(y), out(places)))


def stochastic_pool_grad(p, places, gy, gx):
    """gx = the sum of gy over the windows whose element stands there."""
    over_elements("pool.cu", "max_pool_grad", p, (places, gy, out(gx)), p.dilation)


def stochastic_mean(p, x, y, totals):
    """In evaluation: y = Σ x² / Σ x of each window; totals, like y: its Σ x."""
    over_windows("stochastic.cu", "stochastic_mean", p, (x, out(y), out(totals)))


def stochastic_mean_grad(p, x, y, totals, gy, gx):
    """gx = the sum of gy · (2x − y) / Σ x over the windows that hold an element above 0."""
    over_elements("stochastic.cu", "stochastic_mean_grad", p, (x, y, totals, gy, out(gx)))
