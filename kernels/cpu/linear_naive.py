"""linear/naive and its gradients: three loops, one thread."""

from fastconv.kernels.cpu.jit import njit
from fastconv.registry import kernel

_COST = 100.0


@njit
def _product(a, b, c):
    """c[i,j] = Σ_k a[i,k] · b[k,j]; a and b may be transposed views."""
    for i in range(c.shape[0]):
        for j in range(c.shape[1]):
            total = c.dtype.type(0)
            for k in range(a.shape[1]):
                total += a[i, k] * b[k, j]
            c[i, j] = total


def _cost(p):
    return _COST * p.flops


@kernel("linear/naive/cpu", limit=1.0, cost=_cost)
def forward(p, x, w, b, y, scratch):
    _product(x, w.T, y)
    if p.bias:
        y += b


@kernel("linear_grad_input/naive/cpu", limit=1.0, cost=_cost)
def grad_input(p, gy, w, gx, scratch):
    _product(gy, w, gx)


@kernel("linear_grad_weight/naive/cpu", limit=1.0, cost=_cost)
def grad_weight(p, x, gy, gw, scratch):
    _product(gy.T, x, gw)
