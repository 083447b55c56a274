"""conv2d and its gradients by the definition, for every problem: direct.cu."""

from fastconv.kernels.cuda.launch import blocks, launch, out
from fastconv.kernels.cuda.shapes import ACTIVATIONS, MOST_ROWS, REALS, rectangle
from fastconv.registry import kernel

BUILDS = {"direct.cu": [{"REAL": "float"}, {"REAL": "double"}]}

_THREADS = 256
# Blocks of the weight gradient, at most: each then does several weights.
_MOST_WEIGHTS = 2**20


def _sizes(p):
    window = (p.kh, p.kw, *p.stride, p.padding[0], p.padding[2], *p.dilation)
    return (p.n, p.o, p.c, p.groups, p.h, p.w, p.oh, p.ow, *window)


def _unsupported(p):
    most = 2**31 - 1
    reach = max((p.oh + 1) * p.stride[0] + p.kh * p.dilation[0], (p.ow + 1) * p.stride[1] + p.kw * p.dilation[1])
    largest = max(p.n * p.o, p.n * p.c, p.o * p.cg * p.kh * p.kw, p.oh * p.ow, p.h + reach, p.w + reach)
    if max(p.h, p.oh) > MOST_ROWS:
        return f"{max(p.h, p.oh)} rows, needs at most {MOST_ROWS}"
    return f"{largest} of something, needs numbers below 2³¹" if largest > most else None


def _register(op, slowness):
    return kernel(f"{op}/direct/cuda", limit=1.0, cost=lambda p: slowness * p.flops, unsupported=_unsupported)


@_register("conv2d", 6.0)
def forward(p, x, w, b, z, y, scratch):
    args = (x, w, b if b.size else None, z if z.size else None, out(y), *_sizes(p), ACTIVATIONS[p.activation])
    launch("direct.cu", "direct", *rectangle(p.ow, p.oh, p.n * p.o), args, REAL=REALS[p.dtype])


@_register("conv2d_grad_input", 8.0)
def grad_input(p, gy, w, gx, scratch):
    args = (gy, w, out(gx), *_sizes(p))
    launch("direct.cu", "direct_grad_input", *rectangle(p.w, p.h, p.n * p.c), args, REAL=REALS[p.dtype])


@_register("conv2d_grad_weight", 8.0)
def grad_weight(p, x, gy, gw, scratch):
    grid = (min(blocks(p.o * p.cg * p.kh * p.kw, 1), _MOST_WEIGHTS),)
    launch("direct.cu", "direct_grad_weight", grid, (_THREADS,), (x, gy, out(gw), *_sizes(p)), REAL=REALS[p.dtype])
