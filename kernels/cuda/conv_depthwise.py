"""conv2d and its gradients where a group has one input channel, by marching down planes: depthwise.cu."""

from math import gcd

from fastconv.kernels.cuda.launch import MOST_YZ, blocks, device, launch, out
from fastconv.kernels.cuda.shapes import ACTIVATIONS, REALS
from fastconv.registry import kernel

# Windows and strides that have code of their own; K = 0 is any.
_SQUARES = ((3, 1), (3, 2), (5, 1))
BUILDS = {
    "depthwise.cu": [
        *({"K": k, "S": s, "REAL": "float"} for k, s in (*_SQUARES, (0, 1))),
        {"K": 0, "S": 1, "REAL": "double"},
    ]
}

_THREADS, _ROWS = 256, 8


def _build(p):
    square = p.kh == p.kw and p.stride[0] == p.stride[1] and p.dilation == (1, 1) and p.dtype == "float32"
    k, s = (p.kh, p.stride[0]) if square and (p.kh, p.stride[0]) in _SQUARES else (0, 1)
    return {"K": k, "S": s, "REAL": REALS[p.dtype]}


def _block(columns, rows):
    """As wide as a plane, up to 128, then as high, then of several planes."""
    across, down = 8, 1
    while across < min(columns, 128):
        across *= 2
    while across * down < _THREADS and down * _ROWS < rows:
        down *= 2
    return across, down, _THREADS // (across * down)


def _sizes(p):
    return (p.og, p.h, p.w, p.oh, p.ow, p.kh, p.kw, *p.stride, p.padding[0], p.padding[2], *p.dilation)


def _unsupported(p):
    if p.cg != 1:
        return f"groups {p.groups} of {p.c} channels, needs a group for each"
    # Rows and columns that threads without work count to, too.
    height, width = p.h + sum(p.padding[:2]) + 256 * p.stride[0], p.w + sum(p.padding[2:]) + 256 * p.stride[1]
    largest = max(height * width, p.n * p.o, p.o * p.kh * p.kw)
    if max(p.h, p.oh) > MOST_YZ:
        return f"{max(p.h, p.oh)} rows, needs at most {MOST_YZ}"
    return f"{largest} elements, needs fewer than 2³⁰" if largest >= 2**30 else None


def _pieces(p):
    """(pieces, of an image down, across, shares): as many shares as give every multiprocessor four blocks."""
    across, down, deep = _block(p.ow, p.oh)
    rows, columns = blocks(p.oh, down * _ROWS), blocks(p.ow, across)
    pieces = blocks(p.n, deep) * rows * columns
    return pieces, rows, columns, min(blocks(4 * device().processors, p.o), pieces, MOST_YZ)


def _scratch(p):
    shares = _pieces(p)[-1]
    return shares * p.o * p.kh * p.kw if shares > 1 else 0


def _register(op, unsupported=_unsupported, **options):
    # Bound by memory, which counts more than the products, in flops' worth of time.
    return kernel(
        f"{op}/depthwise/cuda",
        limit=1.0,
        cost=lambda p: p.flops + 5.0 * p.bytes,
        unsupported=unsupported,
        **options,
    )


@_register("conv2d")
def forward(p, x, w, b, z, y, scratch):
    block = _block(p.ow, p.oh)
    grid = blocks(p.ow, block[0]), blocks(p.oh, block[1] * _ROWS), min(blocks(p.n * p.o, block[2]), MOST_YZ)
    ends = (b if b.size else None, z if z.size else None, out(y))
    args = (x, w, *ends, p.n * p.o, p.o, *_sizes(p), ACTIVATIONS[p.activation])
    launch("depthwise.cu", "depthwise", grid, block, args, **_build(p))


@_register("conv2d_grad_input")
def grad_input(p, gy, w, gx, scratch):
    # Threads' first rows may be above gx, by less than a stride.
    rows = p.h + p.padding[0] % p.stride[0]
    block = _block(p.w, rows)
    grid = blocks(p.w, block[0]), blocks(rows, block[1] * _ROWS), min(blocks(p.n * p.c, block[2]), MOST_YZ)
    common = [gcd(stride, dilation) for stride, dilation in zip(p.stride, p.dilation, strict=True)]
    apart = [stride // each for stride, each in zip(p.stride, common, strict=True)]
    back = [dilation // each for dilation, each in zip(p.dilation, common, strict=True)]
    args = (gy, w, out(gx), p.n * p.c, p.c, *_sizes(p), *apart, *back)
    launch("depthwise.cu", "depthwise_grad_input", grid, block, args, **_build(p))


def _weights_unsupported(p):
    taps = p.kh * p.kw
    return _unsupported(p) or (f"{taps} taps, needs at most {MOST_YZ}" if taps > MOST_YZ else None)


@_register("conv2d_grad_weight", scratch=_scratch, unsupported=_weights_unsupported)
def grad_weight(p, x, gy, gw, scratch):
    build, (pieces, rows, columns, shares) = _build(p), _pieces(p)
    count = p.o * p.kh * p.kw
    parts = scratch[: shares * count] if shares > 1 else gw
    grid = p.o, shares, 1 if build["K"] else p.kh * p.kw
    args = (x, gy, out(parts), p.n, pieces, rows, columns, *_sizes(p))
    launch("depthwise.cu", "depthwise_grad_weight", grid, _block(p.ow, p.oh), args, **build)
    if shares > 1:
        launch(
            "depthwise.cu",
            "sum_shares",
            (blocks(count, _THREADS),),
            (_THREADS,),
            (parts, out(gw), count, shares),
            **build,
        )
