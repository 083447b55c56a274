"""The three products of a linear layer, float32: gemm.cu.

y (m, o) = x wᵀ + b     gx (m, i) = gy w     gw (o, i) = gyᵀ x
"""

from itertools import product as every

import numpy as np

from fastconv.kernels.cuda.launch import MOST_YZ, blocks, device, launch, out
from fastconv.registry import kernel

BUILDS = {
    "gemm.cu": [{"TILE": tile, "A_BY_K": a, "B_BY_K": b} for tile, (a, b) in every((64, 128), ((1, 1), (1, 0), (0, 0)))]
}

_THREADS = 256


def _tile(rows, columns):
    """The large tile, where it still gives every multiprocessor one."""
    return 128 if blocks(rows, 128) * blocks(columns, 128) >= device().processors else 64


def product(a, a_by_k, b, b_by_k, bias, c, rows, columns, depth, batch=1, lines=None):
    """c (rows, columns) = a (rows, depth) times b (columns, depth)ᵀ, or of their transposes where they do not lie by k.

    bias: (columns), or None. batch: so many of them, one after the other in a, b and c. lines: elements from one line
    to the next of a and of b, where that is more than a line has.
    """
    tile = _tile(rows, columns)
    lines = lines or (depth if a_by_k else rows, depth if b_by_k else columns)
    apart = np.int64(rows * depth), np.int64(columns * depth)
    args = (a, b, bias, out(c), rows, columns, depth, *lines, *apart)
    grid = blocks(columns, tile), blocks(rows, tile), batch
    launch("gemm.cu", "gemm", grid, (_THREADS,), args, TILE=tile, A_BY_K=int(a_by_k), B_BY_K=int(b_by_k))


def _unsupported(p):
    if p.dtype != "float32":
        return f"{p.dtype}, needs float32"
    most = max(p.m, p.o)
    return f"{most} rows, needs at most {64 * MOST_YZ}" if most > 64 * MOST_YZ else None


def _cost(p):
    # A tile is done whole, however few its rows are.
    return 1.3 * p.flops / max(p.m, 1) * blocks(p.m, 64) * 64


def _register(op):
    return kernel(f"{op}/gemm/cuda", limit=1.0, cost=_cost, unsupported=_unsupported)


@_register("linear")
def forward(p, x, w, b, y, scratch):
    product(x, True, w, True, b if b.size else None, y, p.m, p.o, p.i)


@_register("linear_grad_input")
def grad_input(p, gy, w, gx, scratch):
    product(gy, True, w, False, None, gx, p.m, p.i, p.o)


@_register("linear_grad_weight")
def grad_weight(p, x, gy, gw, scratch):
    product(gy, False, x, False, None, gw, p.o, p.i, p.m)
