"""conv2d's weight gradient by Winograd's F(2×2, 3×3) and F(4×4, 3×3) transposed: winograd_weight.cu, gemm.cu."""

from functools import partial

from fastconv.kernels.cuda import linear
from fastconv.kernels.cuda.conv_winograd import flops
from fastconv.kernels.cuda.launch import MOST_YZ, blocks, device, launch, out
from fastconv.registry import kernel

BUILDS = {"winograd_weight.cu": [{"M": 2}, {"M": 4}]}
FLOPS = {f"conv2d_grad_weight/winograd_f{m}/cuda": partial(flops, backwards=False, m=m) for m in (2, 4)}

_THREADS = 256
# Fewest tiles of a share, so that a product's loop is longer than its ends; shares are whole parts of its sum.
_FEWEST, _WHOLE = 128, 16


def _shares(p, m):
    """(tiles of all images, tiles of a share, shares): as many shares as give every multiprocessor two blocks."""
    tiles = p.n * blocks(p.oh, m) * blocks(p.ow, m)
    products = (m + 2) ** 2 * blocks(p.o, 64) * blocks(p.c, 64)
    wanted = min(blocks(2 * device().processors, products), blocks(tiles, _FEWEST), MOST_YZ // (m + 2) ** 2)
    share = blocks(blocks(tiles, wanted), _WHOLE) * _WHOLE
    return tiles, share, blocks(tiles, share)


def _parts(p, m):
    """Elements of transformed inputs, of transformed gradients and of their products."""
    _, share, shares = _shares(p, m)
    return tuple((m + 2) ** 2 * shares * each for each in (share * p.c, share * p.o, p.o * p.c))


def _unsupported(p, m):
    if p.dtype != "float32":
        return f"{p.dtype}, needs float32"
    if (p.kh, p.kw, *p.stride, *p.dilation, p.groups) != (3, 3, 1, 1, 1, 1, 1):
        return "needs 3×3 windows, stride 1, no dilation, one group"
    if p.oh < m or p.ow < m:
        # A sum over less than a tile is little but rounding errors of the transforms.
        return f"output {p.oh}×{p.ow}, needs {m}×{m}"
    if max(p.c, p.o) > 64 * MOST_YZ:
        return f"{p.c} channels to {p.o}, needs at most {64 * MOST_YZ}"
    largest = max(p.n * p.oh * p.ow, p.o * p.c, (p.h + 8) * (p.w + 8), (p.oh + 8) * (p.ow + 8))
    return f"{largest} elements, needs fewer than 2³⁰" if largest >= 2**30 else None


def _register(m):
    return kernel(
        f"conv2d_grad_weight/winograd_f{m}/cuda",
        limit=1.0 if m == 2 else 3.0,
        spread=2,
        cost=lambda p: p.flops * ((m + 2) / (3 * m)) ** 2 + 30.0 * sum(_parts(p, m)),
        scratch=lambda p: sum(_parts(p, m)),
        unsupported=lambda p: _unsupported(p, m),
    )


for _m in (2, 4):

    @_register(_m)
    def grad_weight(p, x, gy, gw, scratch, m=_m):
        tiles, share, shares = _shares(p, m)
        of_v, of_d, of_products = _parts(p, m)
        v, d = scratch[:of_v], scratch[of_v:][:of_d]
        products = scratch[of_v + of_d :][:of_products]
        sizes = (tiles, share, shares, blocks(p.oh, m), blocks(p.ow, m))
        across = blocks(share * shares, _THREADS)
        args = (x, out(v), *sizes, p.c, p.h, p.w, p.padding[0], p.padding[2])
        launch("winograd_weight.cu", "tiles_of_input", (across, min(p.c, MOST_YZ)), (_THREADS,), args, M=m)
        args = (gy, out(d), *sizes, p.o, p.oh, p.ow)
        launch("winograd_weight.cu", "tiles_of_gradient", (across, min(p.o, MOST_YZ)), (_THREADS,), args, M=m)
        linear.product(d, True, v, True, None, products, p.o, p.c, share, batch=(m + 2) ** 2 * shares)
        count = p.o * p.c
        args = (products, out(gw), count, shares)
        launch("winograd_weight.cu", "windows", (blocks(count, _THREADS),), (_THREADS,), args, M=m)
