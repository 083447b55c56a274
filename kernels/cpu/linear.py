"""linear/gemm and its gradients: the three products of a linear layer on the packed matrix product.

y (m, o) = x wᵀ + b     gx (m, i) = gy w     gw (o, i) = gyᵀ x
"""

from functools import lru_cache

import numpy as np

from fastconv.kernels.cpu import gemm
from fastconv.kernels.cpu.host import TILE_ROWS
from fastconv.problem import itemsize
from fastconv.registry import kernel

# Flops' worth of time, measured: packing an element of the operand whose columns fill the lanes, and reading it.
_PACK_COST, _READ_COST = 50.0, 4.0


def _pack_cost(p):
    return _PACK_COST * p.i * p.o


def _cost(p):
    # A tile has TILE_ROWS rows, however few there are.
    product = 2.1 * -(-p.m // TILE_ROWS) * TILE_ROWS * p.i * p.o
    return product + _READ_COST * (p.i * p.o + p.m * p.i + p.m * p.o) + _pack_cost(p) + 20_000


def _register(op, made, **options):
    """Register a product; made(p): it as the kernel's `run`, but for p."""
    ready = lru_cache(maxsize=1024)(made)
    options |= {"cost": _cost, "scratch": lambda p: gemm.scratch(itemsize(p.dtype)), "ready": ready}
    kernel(f"{op}/gemm/cpu", limit=1.0, **options)(lambda p, *arrays, **prepared: ready(p)(*arrays, **prepared))


def _forward(p):
    product = gemm.ready_product(p.m, p.o, p.i, (p.i, 1), (p.i, 1), np.dtype(p.dtype))
    return lambda x, w, b, y, scratch, u=None: product(x.reshape(-1), w.reshape(-1), y.reshape(-1), b, scratch, u)


def _prepare(p, w, u):
    gemm.pack(w.reshape(-1), (p.i, 1), p.o, p.i, u)


def _grad_input(p):
    product, none = gemm.ready_product(p.m, p.i, p.o, (p.o, 1), (1, p.i), np.dtype(p.dtype)), gemm.NO_BIAS[p.dtype]
    return lambda gy, w, gx, scratch: product(gy.reshape(-1), w.reshape(-1), gx.reshape(-1), none, scratch)


def _grad_weight(p):
    product, none = gemm.ready_product(p.o, p.i, p.m, (1, p.o), (1, p.i), np.dtype(p.dtype)), gemm.NO_BIAS[p.dtype]
    return lambda x, gy, gw, scratch: product(gy.reshape(-1), x.reshape(-1), gw.reshape(-1), none, scratch)


_packing = {
    "prepare": _prepare,
    "prepared": lambda p: gemm.packed(p.o, p.i, itemsize(p.dtype)),
    "prepare_cost": _pack_cost,
}
_register("linear", _forward, **_packing)
_register("linear_grad_input", _grad_input)
_register("linear_grad_weight", _grad_weight)
