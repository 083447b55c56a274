"""Grids and blocks that kernels share, the C++ names of dtypes, the numbers of activations."""

from fastconv.kernels.cuda.launch import MOST_YZ, blocks

REALS = {"float32": "float", "float64": "double"}
# As activation.cuh and direct.cu number them.
ACTIVATIONS = {"": 0, "relu": 1, "sigmoid": 2, "tanh": 3}
_THREADS = 256
# Most rows that `rectangle` has blocks for, however wide they are.
MOST_ROWS = MOST_YZ * (_THREADS // 32)


def rectangle(columns, rows, planes):
    """(grid, block) for a thread of each element of planes: a block is a rectangle of one, as wide as a warp or as a
    narrow plane needs; planes beyond what a grid may have are done by the same blocks in turn."""
    across = 32
    while across > 4 and across // 2 >= columns:
        across //= 2
    down = _THREADS // across
    return (blocks(columns, across), blocks(rows, down), max(1, min(planes, MOST_YZ))), (across, down)
