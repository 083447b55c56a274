"""Sums over all of a float32 or float64 array but its channels, the gradients of biases: sums.cu.

There is one way to do these, so they are no operations of the registry.
"""

from fastconv.kernels.cuda.launch import blocks, launch, out
from fastconv.kernels.cuda.shapes import REALS

BUILDS = {"sums.cu": [{"REAL": "float"}, {"REAL": "double"}]}

_THREADS = 256
# Elements of a channel that a thread adds up, and the most shares that a channel is cut into. Shares depend on sizes
# alone, so results do not depend on the device.
_EACH, _MOST_SHARES = 32, 64


def _rectangle(plane):
    """A block's threads: elements of a plane by images; of single elements, channels by images."""
    across = 32 if plane == 1 else next((n for n in (4, 8, 16, 32, 64, 128) if n >= plane), _THREADS)
    return across, _THREADS // across


def _shares(images, plane):
    """How many shares of the images, and of these how many of their elements, are added up apart."""
    across, down = _rectangle(plane)
    shares = min(blocks(blocks(images, down) * blocks(plane, across), _EACH), _MOST_SHARES)
    of_images = min(shares, blocks(images, down))
    return of_images, shares // of_images


def scratch(images, channels, plane=1):
    """How many elements of scratch, of x's dtype, of_channels needs."""
    shares = _shares(images, plane)
    return shares[0] * shares[1] * channels if shares != (1, 1) else 0


def of_channels(x, y, scratch=None):
    """y (C) = Σ over images and pixels of a contiguous x (N, C, …); scratch: at least scratch(…) elements."""
    images, channels = x.shape[:2]
    plane = x.size // max(images * channels, 1)
    shares = _shares(images, plane)
    count = shares[0] * shares[1]
    parts = y if count == 1 else scratch[: count * channels]
    if plane == 1:
        _sum_rows(x, parts, images, channels, count)
    else:
        args = (x, out(parts), images, channels, plane)
        grid = (max(channels, 1), *shares)
        launch("sums.cu", "sum_planes", grid, _rectangle(plane), args, REAL=REALS[str(x.dtype)])
    if count > 1:
        _sum_rows(parts, y, count, channels, 1)


def _sum_rows(x, parts, rows, columns, shares):
    args = (x, out(parts), rows, columns)
    launch("sums.cu", "sum_rows", (blocks(columns, 32), shares), _rectangle(1), args, REAL=REALS[str(x.dtype)])
