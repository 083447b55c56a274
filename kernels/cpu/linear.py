"""linear/gemm and its gradients: the three products of a linear layer on the packed matrix product.

y (m, o) = x wᵀ + b     gx (m, i) = gy w     gw (o, i) = gyᵀ x
"""

from fastconv.kernels.cpu import gemm
from fastconv.problem import itemsize
from fastconv.registry import kernel


def _cost(p):
    # Every operand is moved once more; it counts when a dimension is small.
    return 1.1 * p.flops + 8.0 * (p.i * p.o + p.m * p.i + p.m * p.o) + 20_000


def _scratch(p):
    return gemm.scratch(itemsize(p.dtype))


@kernel("linear/gemm/cpu", limit=1.0, cost=_cost, scratch=_scratch)
def forward(p, x, w, b, y, scratch):
    gemm.product(x.reshape(-1), (p.i, 1), w.reshape(-1), (p.i, 1), y, p.i, b, scratch)


@kernel("linear_grad_input/gemm/cpu", limit=1.0, cost=_cost, scratch=_scratch)
def grad_input(p, gy, w, gx, scratch):
    gemm.product(gy.reshape(-1), (p.o, 1), w.reshape(-1), (1, p.i), gx, p.o, gemm.NO_BIAS[p.dtype], scratch)


@kernel("linear_grad_weight/gemm/cpu", limit=1.0, cost=_cost, scratch=_scratch)
def grad_weight(p, x, gy, gw, scratch):
    gemm.product(gy.reshape(-1), (1, p.o), x.reshape(-1), (1, p.i), gw, p.m, gemm.NO_BIAS[p.dtype], scratch)
