"""conv2d's weight gradient as an implicit matrix product: weight.cu."""

from fastconv.kernels.cuda.conv_implicit import table
from fastconv.kernels.cuda.launch import MOST_YZ, blocks, device, launch, out
from fastconv.registry import kernel

BUILDS: dict[str, list[dict[str, object]]] = {"weight.cu": [{}]}

_THREADS, _TILE, _TILE_K = 256, 64, 16
# Fewest pixels of a share, so that a block's loop is longer than its ends.
_FEWEST = 256


def _shares(p):
    """(shares, pixels of each): as many as give every multiprocessor two blocks."""
    pixels = p.n * p.oh * p.ow
    tiles = blocks(p.o, _TILE) * blocks(p.c * p.kh * p.kw, _TILE)
    wanted = min(blocks(2 * device().processors, tiles), blocks(pixels, _FEWEST), MOST_YZ)
    share = blocks(blocks(pixels, wanted), _TILE_K) * _TILE_K
    return blocks(pixels, share), share


def _scratch(p):
    return _shares(p)[0] * p.o * p.c * p.kh * p.kw


def _unsupported(p):
    if p.dtype != "float32":
        return f"{p.dtype}, needs float32"
    if p.groups != 1:
        return f"groups {p.groups}, needs 1"
    largest = max(p.n * p.oh * p.ow, p.c * p.h * p.w, p.o * p.oh * p.ow, p.o * p.c * p.kh * p.kw)
    return f"{largest} elements, needs fewer than 2³⁰" if largest >= 2**30 else None


@kernel(
    "conv2d_grad_weight/implicit/cuda",
    limit=1.0,
    cost=lambda p: 1.4 * p.flops,
    scratch=_scratch,
    unsupported=_unsupported,
)
def grad_weight(p, x, gy, gw, scratch):
    shares, share = _shares(p)
    columns, pixels = p.c * p.kh * p.kw, p.n * p.oh * p.ow
    parts = scratch[: shares * p.o * columns]
    place = (p.oh * p.ow, p.ow, *p.stride, p.padding[0], p.padding[2], p.h, p.w, p.c * p.h * p.w, p.o, columns)
    grid = blocks(columns, _TILE), blocks(p.o, _TILE), shares
    args = (x, gy, table(p, False), out(parts), pixels, share, *place)
    launch("weight.cu", "weight", grid, (_THREADS,), args)
    count = p.o * columns
    launch("weight.cu", "sum_shares", (blocks(count, _THREADS),), (_THREADS,), (parts, out(gw), count, shares))
