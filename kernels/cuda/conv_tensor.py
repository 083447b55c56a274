"""conv2d, its input gradient at stride 1 and its weight gradient on tensor cores: tensor.cu and tensor_weight.cu.

What is multiplied is first rounded to a format of fewer bits; sums are float32. Bits of a significand that are left:

    implicit_tf32       11, and float32's range; sm_80 and newer
    implicit_half       11; from 65520 on a number is infinite, and below 2^-14 it loses bits
    implicit_bfloat16   8, and float32's range; sm_80 and newer
"""

from functools import lru_cache

import numpy as np

from fastconv.kernels.cuda import sums
from fastconv.kernels.cuda.launch import MOST_YZ, assumed, blocks, device, launch, out
from fastconv.kernels.cuda.shapes import ACTIVATIONS
from fastconv.registry import kernel

# Bits of the significand, and bytes.
FORMATS = {"tf32": (11, 4), "half": (11, 2), "bfloat16": (8, 2)}

_FILES = ("tensor.cu", "tensor_weight.cu")
BUILDS: dict[str, list[dict[str, object]]] = {file: [{"FORMAT": name.upper()} for name in FORMATS] for file in _FILES}
_NEEDED = {"tf32": "sm_80", "bfloat16": "sm_80"}
NEEDS = {f"{file} FORMAT={name.upper()}": needed for file in _FILES for name, needed in _NEEDED.items()}
THREADS = {"tensor": 512, "tensor_weight": 512}

_TILE, _PACK_THREADS = 128, 256
# Fewest pixels of a share of a weight gradient, so that a block's loop is longer than its ends, and the most shares.
_FEWEST, _MOST_SHARES = 256, 256


def limit(bits):
    """The most an error may be, in the units of fastconv.testing.error: both factors are rounded by 2^-bits of
    themselves at most, so products of one term are the worst; and as much as a plain sum has."""
    return ((1 + 2.0**-bits) ** 2 - 1) / float(np.finfo(np.float32).eps) + 1


def _depth(p, backwards, size):
    """Terms of a sum, up to whole parts of 64 bytes."""
    part = 64 // size
    return blocks((p.o if backwards else p.c) * p.kh * p.kw, part) * part


@lru_cache(maxsize=256)
def _table(p, backwards, depth):
    """For each q: its offset in the array that is read, row and column, all relative to a pixel's."""
    channels, height, width = (p.o, p.oh, p.ow) if backwards else (p.c, p.h, p.w)
    sign = -1 if backwards else 1
    r, s = (axis.reshape(-1) for axis in np.mgrid[: p.kh, : p.kw])
    r, s = sign * r * p.dilation[0], sign * s * p.dilation[1]
    found = np.zeros((channels, p.kh * p.kw, 4), np.int32)
    found[..., 0] = np.arange(channels)[:, None] * height * width + r * width + s
    found[..., 1], found[..., 2] = r, s
    # What is beyond the sum lies in no image.
    beyond = np.zeros((depth - found.size // 4, 4), np.int32)
    beyond[:, 1] = -(2**30)
    return np.concatenate([found.reshape(-1, 4), beyond])


def _packed(p, backwards, size):
    return (p.c if backwards else p.o) * _depth(p, backwards, size) * size // 4


def _unsupported(p, backwards, name):
    needed = int(_NEEDED.get(name, "sm_75")[3:])
    if assumed().capability < needed:
        return f"compute capability {assumed().capability / 10}, needs {needed / 10}"
    if p.dtype != "float32":
        return f"{p.dtype}, needs float32"
    if p.groups != 1:
        return f"groups {p.groups}, needs 1"
    if backwards and p.stride != (1, 1):
        return f"stride {p.stride}, needs 1"
    # A row of the grid for each row of the packed weights.
    columns = p.c if backwards else p.o
    if columns > MOST_YZ:
        return f"{columns} channels, needs at most {MOST_YZ}"
    height, width = p.h + sum(p.padding[:2]), p.w + sum(p.padding[2:])
    images = p.n * max(p.h * p.w, p.oh * p.ow)
    largest = max(images, p.c * height * width, p.o * p.oh * p.ow, p.o * p.c * p.kh * p.kw)
    return f"{largest} elements, needs fewer than 2³⁰" if largest >= 2**30 else None


def _shares(p, size):
    """(shares, pixels of each) of a weight gradient: as many as give every multiprocessor a block."""
    pixels, part = p.n * p.oh * p.ow, 64 // size
    tiles = blocks(p.o, _TILE) * blocks(p.c * p.kh * p.kw, _TILE)
    wanted = min(blocks(device().processors, tiles), blocks(pixels, _FEWEST), _MOST_SHARES)
    share = blocks(blocks(pixels, wanted), part) * part
    return blocks(pixels, share), share


def _parts(p, size):
    shares = _shares(p, size)[0]
    return shares * p.o * p.c * p.kh * p.kw if shares > 1 else 0


def _register(name, bits, size):
    """The three kernels of a format."""

    def prepare(p, backwards, w, u):
        columns, depth = p.c if backwards else p.o, _depth(p, backwards, size)
        args = (w, out(u[: _packed(p, backwards, size)]), p.o, p.c, p.kh * p.kw, depth, int(backwards))
        grid = blocks(depth, _PACK_THREADS), columns
        launch("tensor.cu", "round_weights", grid, (_PACK_THREADS,), args, FORMAT=name.upper())

    def run(p, backwards, x, w, bias, z, y, scratch, u):
        if u is None:
            u = scratch
            prepare(p, backwards, w, u)
        if backwards:
            # gx[v] = Σ gy[v + top − r·dilation] · w[r]
            columns, height, width, out_h, out_w = p.c, p.oh, p.ow, p.h, p.w
            top, left, stride, activation = -p.padding[0], -p.padding[2], (1, 1), ""
        else:
            columns, height, width, out_h, out_w = p.o, p.h, p.w, p.oh, p.ow
            top, left, stride, activation = p.padding[0], p.padding[2], p.stride, p.activation
        depth, pixels = _depth(p, backwards, size), p.n * out_h * out_w
        ends = (bias if bias.size else None, z if z.size else None, out(y))
        image = (p.o if backwards else p.c) * height * width
        sizes = (pixels, out_h * out_w, out_w, *stride, top, left, height, width, image)
        rest = (columns, depth, ACTIVATIONS[activation])
        grid = blocks(pixels, _TILE), blocks(columns, _TILE)
        args = (x, u[: _packed(p, backwards, size)], _table(p, backwards, depth), *ends, *sizes, *rest)
        launch("tensor.cu", "tensor", grid, (THREADS["tensor"],), args, FORMAT=name.upper())

    def registered(op, backwards):
        return kernel(
            f"{op}/implicit_{name}/cuda",
            limit=limit(bits),
            cost=lambda p: 0.3 * p.flops,
            scratch=lambda p: _packed(p, backwards, size),
            unsupported=lambda p: _unsupported(p, backwards, name),
            prepare=lambda p, w, u: prepare(p, backwards, w, u),
            prepared=lambda p: _packed(p, backwards, size),
            prepare_cost=lambda p: 10.0 * _packed(p, backwards, size),
        )

    @registered("conv2d", False)
    def forward(p, x, w, b, z, y, scratch, u=None):
        run(p, False, x, w, b, z, y, scratch, u)

    @registered("conv2d_grad_input", True)
    def grad_input(p, gy, w, gx, scratch, u=None):
        none = np.empty(0, p.dtype)
        run(p, True, gy, w, none, none, gx, scratch, u)

    @kernel(
        f"conv2d_grad_weight/implicit_{name}/cuda",
        limit=limit(bits),
        cost=lambda p: 0.35 * p.flops,
        scratch=lambda p: _parts(p, size),
        unsupported=lambda p: _unsupported(p, False, name),
    )
    def grad_weight(p, x, gy, gw, scratch):
        (shares, share), columns = _shares(p, size), p.c * p.kh * p.kw
        parts = scratch[: _parts(p, size)] if shares > 1 else gw.reshape(-1)
        sizes = (p.n * p.oh * p.ow, share, p.oh, p.ow, *p.stride, p.padding[0], p.padding[2], p.h, p.w, p.c * p.h * p.w)
        args = (x, gy, _table(p, False, columns), out(parts), *sizes, p.o, columns)
        grid = blocks(columns, _TILE), blocks(p.o, _TILE), shares
        launch("tensor_weight.cu", "tensor_weight", grid, (THREADS["tensor_weight"],), args, FORMAT=name.upper())
        if shares > 1:
            sums.of_channels(parts.reshape(shares, -1), gw.reshape(-1))


for _name, (_bits, _size) in FORMATS.items():
    _register(_name, _bits, _size)
