"""linear with few rows of x, `dot`: a warp for each output, bound by reading w once: dot.cu."""

from fastconv.kernels.cuda.launch import blocks, launch, out
from fastconv.registry import kernel

# What a warp keeps of sums.
_ROWS = (1, 2, 4, 8)
_WARPS = 8

BUILDS = {"dot.cu": [{"ROWS": rows} for rows in _ROWS]}


def _unsupported(p):
    if p.dtype != "float32":
        return f"{p.dtype}, needs float32"
    if p.m > _ROWS[-1]:
        return f"{p.m} rows, needs at most {_ROWS[-1]}"
    largest = max(p.i, p.o)
    return f"{largest} features, needs fewer than 2³⁰" if largest >= 2**30 else None


# A float of w takes as long to read as some multiply-adds do, of which each row has one.
@kernel("linear/dot/cuda", limit=1.0, cost=lambda p: 2.0 * p.i * p.o * max(p.m, 16), unsupported=_unsupported)
def forward(p, x, w, b, y, scratch):
    rows = next(rows for rows in _ROWS if rows >= p.m)
    args = (x, w, b if b.size else None, out(y), p.m, p.o, p.i)
    launch("dot.cu", "dot", (blocks(p.o, _WARPS),), (32, _WARPS), args, ROWS=rows)
