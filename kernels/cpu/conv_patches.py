"""conv2d_grad_input/patches: the input gradient of windows that do not overlap, as one matrix product an image.

    cols[(c, r, s), (i, j)] = Σ_f w[f, c, r, s] · gy[f, i, j],   each element of which is one element of gx

Patch embeddings and other convolutions whose stride is at least their kernel's span. The general kernels would go
through one grid for each (r, s).
"""

from __future__ import annotations

import numpy as np

from fastconv.kernels.cpu import gemm
from fastconv.problem import itemsize
from fastconv.registry import kernel


def _spans(p):
    return p.dilation[0] * (p.kh - 1) + 1, p.dilation[1] * (p.kw - 1) + 1


def _strides(p):
    """Strides in which gx is written; one output on an axis needs none but the window itself."""
    return tuple(
        stride if outputs > 1 else span for stride, outputs, span in zip(p.stride, (p.oh, p.ow), _spans(p), strict=True)
    )


def _unsupported(p):
    spans = _spans(p)
    if p.stride[0] < spans[0] or p.stride[1] < spans[1]:
        return f"stride {p.stride}, needs at least the kernel's span {spans}"
    return None


def _sizes(p):
    """Elements of cols, and of gx as whole strides."""
    sh, sw = _strides(p)
    return p.cg * p.kh * p.kw * p.oh * p.ow, p.cg * p.oh * sh * p.ow * sw


def _scratch(p):
    return sum(_sizes(p)) + gemm.scratch(itemsize(p.dtype))


def _cost(p):
    # Everything but the product is NumPy's moving of elements.
    return 1.2 * p.flops + p.n * p.groups * (100.0 * sum(_sizes(p)) + 2_000_000)


@kernel("conv2d_grad_input/patches/cpu", limit=1.0, cost=_cost, scratch=_scratch, unsupported=_unsupported)
def grad_input(p, gy, w, gx, scratch):
    (sh, sw), (dh, dw), (top, _, left, _) = _strides(p), p.dilation, p.padding
    ends = np.cumsum(_sizes(p))
    cols, whole, work = np.split(scratch, ends)
    cols = cols.reshape(p.cg * p.kh * p.kw, p.oh * p.ow)
    windows = whole.reshape(p.cg, p.oh, sh, p.ow, sw)
    taps = windows[:, :, : dh * p.kh : dh, :, : dw * p.kw : dw]
    # What of the whole strides lies inside the input; what of the input lies in no window is zero.
    height, width = min(p.h, p.oh * sh - top), min(p.w, p.ow * sw - left)
    gx[:] = 0
    windows[:] = 0
    for n in range(p.n):
        for group in range(p.groups):
            weights = w[group * p.og : (group + 1) * p.og].reshape(-1)
            of_y = gy[n, group * p.og : (group + 1) * p.og].reshape(-1)
            strides = (1, len(cols)), (1, cols.shape[1])
            gemm.product(weights, strides[0], of_y, strides[1], cols, p.og, gemm.NO_BIAS[p.dtype], work)
            taps[:] = cols.reshape(p.cg, p.kh, p.kw, p.oh, p.ow).transpose(0, 3, 1, 4, 2)
            plane = whole.reshape(p.cg, p.oh * sh, p.ow * sw)
            inside = plane[:, top : top + height, left : left + width]
            gx[n, group * p.cg : (group + 1) * p.cg, : inside.shape[1], : inside.shape[2]] = inside
