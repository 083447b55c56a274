"""conv2d's weight gradient as an implicit matrix product: weight.cu."""

from fastconv.kernels.cuda.conv_implicit import tables
from fastconv.kernels.cuda.launch import MOST_YZ, blocks, device, launch, out
from fastconv.registry import kernel

# Output channels and q of a block.
_TILES = ((128, 128), (64, 256), (64, 64))
BUILDS = {"weight.cu": [{"TILE_O": o, "TILE_Q": q} for o, q in _TILES]}

_THREADS, _TILE_K = 256, 16
# Fewest pixels of a share, so that a block's loop is longer than its ends.
_FEWEST = 256


def tiles(p):
    """(output channels, q) of a block, and how many there are: what wastes least."""
    options = [(tile, blocks(p.o, tile[0]) * blocks(p.c * p.kh * p.kw, tile[1])) for tile in _TILES]
    # The small tile reads twice as much for a product.
    return min(options, key=lambda one: one[1] * one[0][0] * one[0][1] * (1.4 if one[0] == (64, 64) else 1))


def _shares(p):
    """(shares, pixels of each): as many as give every multiprocessor two blocks."""
    pixels = p.n * p.oh * p.ow
    wanted = min(blocks(2 * device().processors, tiles(p)[1]), blocks(pixels, _FEWEST), MOST_YZ)
    share = blocks(blocks(pixels, wanted), _TILE_K) * _TILE_K
    return blocks(pixels, share), share


def _scratch(p):
    return _shares(p)[0] * p.o * p.c * p.kh * p.kw


def _unsupported(p):
    if p.dtype != "float32":
        return f"{p.dtype}, needs float32"
    if p.groups != 1:
        return f"groups {p.groups}, needs 1"
    height, width = p.h + sum(p.padding[:2]), p.w + sum(p.padding[2:])
    largest = max(p.n * p.oh * p.ow, p.c * height * width, p.o * p.oh * p.ow, p.o * p.c * p.kh * p.kw)
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
    place = (p.oh, p.ow, *p.stride, p.h, p.w, p.c * p.h * p.w, p.o, columns)
    high, wide = tiles(p)[0]
    build = {"TILE_O": high, "TILE_Q": wide}
    grid = blocks(columns, wide), blocks(p.o, high), shares
    args = (x, gy, tables(p, False, 1)[0], out(parts), pixels, share, *place)
    launch("weight.cu", "weight", grid, (_THREADS,), args, **build)
    count = p.o * columns
    args = (parts, out(gw), count, shares)
    launch("weight.cu", "sum_shares", (blocks(count, _THREADS),), (_THREADS,), args, **build)
