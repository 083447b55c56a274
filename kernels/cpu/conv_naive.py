"""conv2d/naive and its gradients: the definition as seven loops, one thread. What every other kernel is measured by.

Letters as in fastconv.problem; q is a channel within a group, f an output channel within a group.
"""

import math

from fastconv.kernels.cpu.epilogue import CODES, RELU, SIGMOID, TANH
from fastconv.kernels.cpu.jit import njit
from fastconv.registry import kernel

# Ten flops' worth of time for one: never chosen where another kernel can.
_COST = 100.0


@njit
def _forward(x, w, b, z, code, y, stride, padding, dilation, groups):
    """y[n,o,i,j] = activation(b[o] + Σ_{q,r,s} w[o,q,r,s] · x[n, c, i·sh + r·dh − top, j·sw + s·dw − left] + z)."""
    images, _, height, width = x.shape
    outputs, channels, kh, kw = w.shape
    for n in range(images):
        for o in range(outputs):
            first = o // (outputs // groups) * channels
            for i in range(y.shape[2]):
                for j in range(y.shape[3]):
                    total = b[o] if b.size else x.dtype.type(0)
                    for q in range(channels):
                        for r in range(kh):
                            iy = i * stride[0] + r * dilation[0] - padding[0]
                            if iy < 0 or iy >= height:
                                continue
                            for s in range(kw):
                                ix = j * stride[1] + s * dilation[1] - padding[2]
                                if 0 <= ix < width:
                                    total += w[o, q, r, s] * x[n, first + q, iy, ix]
                    if z.size:
                        total += z[((n * outputs + o) * y.shape[2] + i) * y.shape[3] + j]
                    if code == RELU and total < 0:
                        total = x.dtype.type(0)
                    elif code == SIGMOID:
                        total = x.dtype.type(1 / (1 + math.exp(-total)))
                    elif code == TANH:
                        total = x.dtype.type(math.tanh(total))
                    y[n, o, i, j] = total


@njit
def _grad_input(gy, w, gx, stride, padding, dilation, groups):
    """gx[n,c,iy,ix] = Σ w[o,q,r,s] · gy[n,o,i,j] over the (o, r, s) whose window (i, j) reads x[n,c,iy,ix]."""
    images, outputs, oh, ow = gy.shape
    channels, kh, kw = w.shape[1:]
    per_group = outputs // groups
    for n in range(images):
        for c in range(gx.shape[1]):
            first = c // channels * per_group
            for iy in range(gx.shape[2]):
                for ix in range(gx.shape[3]):
                    total = gy.dtype.type(0)
                    for r in range(kh):
                        for s in range(kw):
                            ty = iy + padding[0] - r * dilation[0]
                            tx = ix + padding[2] - s * dilation[1]
                            if ty < 0 or tx < 0 or ty % stride[0] or tx % stride[1]:
                                continue
                            i, j = ty // stride[0], tx // stride[1]
                            if i < oh and j < ow:
                                for f in range(per_group):
                                    total += w[first + f, c % channels, r, s] * gy[n, first + f, i, j]
                    gx[n, c, iy, ix] = total


@njit
def _grad_weight(x, gy, gw, stride, padding, dilation, groups):
    """gw[o,q,r,s] = Σ_{n,i,j} gy[n,o,i,j] · x[n, c, i·sh + r·dh − top, j·sw + s·dw − left]."""
    height, width = x.shape[2:]
    images, outputs, oh, ow = gy.shape
    channels, kh, kw = gw.shape[1:]
    for o in range(outputs):
        first = o // (outputs // groups) * channels
        for q in range(channels):
            for r in range(kh):
                for s in range(kw):
                    total = x.dtype.type(0)
                    for n in range(images):
                        for i in range(oh):
                            for j in range(ow):
                                iy = i * stride[0] + r * dilation[0] - padding[0]
                                ix = j * stride[1] + s * dilation[1] - padding[2]
                                if 0 <= iy < height and 0 <= ix < width:
                                    total += gy[n, o, i, j] * x[n, first + q, iy, ix]
                    gw[o, q, r, s] = total


def _cost(p):
    return _COST * p.flops


@kernel("conv2d/naive/cpu", limit=1.0, cost=_cost)
def forward(p, x, w, b, z, y, scratch):
    _forward(x, w, b, z.reshape(-1) if p.add else z, CODES[p.activation], y, p.stride, p.padding, p.dilation, p.groups)


@kernel("conv2d_grad_input/naive/cpu", limit=1.0, cost=_cost)
def grad_input(p, gy, w, gx, scratch):
    _grad_input(gy, w, gx, p.stride, p.padding, p.dilation, p.groups)


@kernel("conv2d_grad_weight/naive/cpu", limit=1.0, cost=_cost)
def grad_weight(p, x, gy, gw, scratch):
    _grad_weight(x, gy, gw, p.stride, p.padding, p.dilation, p.groups)
