"""ReLU, sigmoid and tanh of whole float32 arrays, and their gradients: pointwise.cu.

There is one way to do these, so they are no operations of the registry.
"""

from fastconv.kernels.cuda.launch import launch, out, spread

BUILDS = {"pointwise.cu": [{"FUNCTION": number} for number in (1, 2, 3)]}

_FUNCTIONS = {"relu": 1, "sigmoid": 2, "tanh": 3}
_THREADS = 256


def activate(name, x, y):
    """y = f(x) for contiguous arrays of one size, `name` one of relu, sigmoid and tanh."""
    grid = (spread(-(-x.size // 4), _THREADS),)
    launch("pointwise.cu", "activate", grid, (_THREADS,), (x, out(y), x.size), FUNCTION=_FUNCTIONS[name])


def gradient(name, y, gy, gx):
    """gx = gy · f′ for contiguous arrays y = f(x) and gy of one size."""
    grid = (spread(-(-y.size // 4), _THREADS),)
    launch("pointwise.cu", "gradient", grid, (_THREADS,), (y, gy, out(gx), y.size), FUNCTION=_FUNCTIONS[name])
