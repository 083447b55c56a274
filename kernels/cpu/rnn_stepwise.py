"""lstm/stepwise, gru/stepwise, rnn/stepwise: the plain algorithm, one step after the other.

One matrix product gives x·W of all steps, another h(t−1)·U of a step; a loop over sequences and units does the rest,
one number at a time. It does every problem, and is what the fused kernels are compared with.
"""

from __future__ import annotations

import math

import numpy as np

from fastconv.kernels.cpu import gemm
from fastconv.kernels.cpu.jit import inner, njit
from fastconv.kernels.cpu.rnn_forward import even, stride_of
from fastconv.kernels.cpu.simd import flush_denormals, restore_denormals
from fastconv.problem import GATES, SAVED
from fastconv.registry import kernel


@inner
def _sigmoid(v):
    return 1 / (1 + math.exp(-v))


@njit
def _lstm_end(now, reverse, stride, zx, zh, p, c, h, y, saved, first, lengths, linear):
    """Step `now` from zx (rows, 4h) and zh (b, 4h): c and h (b, h) become the next ones, y and saved are written."""
    flushed = flush_denormals()
    units = h.shape[1]
    for r in range(len(lengths)):
        if now >= lengths[r]:
            continue
        row = first[r] + (lengths[r] - 1 - now if reverse else now) * stride
        for k in range(units):
            i, f = zx[row, k] + zh[r, k], zx[row, units + k] + zh[r, units + k]
            g, o = zx[row, 2 * units + k] + zh[r, 2 * units + k], zx[row, 3 * units + k] + zh[r, 3 * units + k]
            old, before = c[r, k], h[r, k]
            if p.size:
                i, f = i + p[0, k] * old, f + p[1, k] * old
            i, f, g = _sigmoid(i), _sigmoid(f), math.tanh(g)
            new = f * old + i * g
            if p.size:
                o += p[2, k] * new
            o = _sigmoid(o)
            s = new if linear else math.tanh(new)
            c[r, k], h[r, k] = new, o * s
            y[row, k] = o * s
            if saved.size:
                saved[row, 0, k], saved[row, 1, k], saved[row, 2, k], saved[row, 3, k] = i, f, g, o
                saved[row, 4, k], saved[row, 5, k], saved[row, 6, k] = old, s, before
    restore_denormals(flushed)


@njit
def _gru_end(now, reverse, stride, zx, zh, p, c, h, y, saved, first, lengths, linear):
    """Step `now` from zx and zh (…, 3h), as _lstm_end; there is no c."""
    flushed = flush_denormals()
    units = h.shape[1]
    for r in range(len(lengths)):
        if now >= lengths[r]:
            continue
        row = first[r] + (lengths[r] - 1 - now if reverse else now) * stride
        for k in range(units):
            q, before = zh[r, 2 * units + k], h[r, k]
            reset = _sigmoid(zx[row, k] + zh[r, k])
            update = _sigmoid(zx[row, units + k] + zh[r, units + k])
            n = math.tanh(zx[row, 2 * units + k] + reset * q)
            h[r, k] = (1 - update) * n + update * before
            y[row, k] = h[r, k]
            if saved.size:
                saved[row, 0, k], saved[row, 1, k], saved[row, 2, k] = reset, update, n
                saved[row, 3, k], saved[row, 4, k] = q, before
    restore_denormals(flushed)


@njit
def _rnn_end(now, reverse, stride, zx, zh, p, c, h, y, saved, first, lengths, relu):
    """Step `now` from zx and zh (…, h), as _lstm_end; there is no c."""
    flushed = flush_denormals()
    units = h.shape[1]
    for r in range(len(lengths)):
        if now >= lengths[r]:
            continue
        row = first[r] + (lengths[r] - 1 - now if reverse else now) * stride
        for k in range(units):
            z, before = zx[row, k] + zh[r, k], h[r, k]
            # Not max(z, 0), which need not be NaN for NaN.
            h[r, k] = (0.0 if z < 0 else z) if relu else math.tanh(z)
            y[row, k] = h[r, k]
            if saved.size:
                saved[row, 0, k], saved[row, 1, k] = h[r, k], before
    restore_denormals(flushed)


_ENDS = {"lstm": _lstm_end, "gru": _gru_end, "rnn": _rnn_end}


def _parts(p):
    """Elements of scratch: x·W, h·U, h and c, y of one direction, what products need."""
    width = GATES[p.cell] * p.h
    states = 2 * p.b * p.h
    return p.t * p.b * width, p.b * width, states, p.t * p.b * p.h, gemm.scratch(4 if p.dtype == "float32" else 8)


def _train(p, x, w_ih, w_hh, b_ih, b_hh, peephole, h0, c0, lengths, y, hn, cn, saved, scratch):
    ends = np.cumsum(_parts(p))
    zx, zh, states, out, of_gemm = (scratch[end - size : end] for end, size in zip(ends, _parts(p), strict=True))
    width = GATES[p.cell] * p.h
    zx, zh, out = zx.reshape(-1, width), zh.reshape(p.b, width), out.reshape(-1, p.h)
    h, c = states.reshape(2, p.b, p.h)
    none = gemm.NO_BIAS[p.dtype]
    counts = lengths if p.ragged else even(p)
    first = np.arange(p.b) * (p.t if p.batch_first else 1)
    rows = y.reshape(p.t * p.b, p.directions, p.h)
    if saved.size:
        saved.fill(0)
    for d in range(p.directions):
        b_x, b_h = (b_ih[d], b_hh[d]) if p.bias else (none, none)
        gemm.product(x.reshape(-1), (p.i, 1), w_ih[d].reshape(-1), (p.i, 1), zx, p.i, b_x, of_gemm)
        h[...] = h0[d] if h0.size else 0
        c[...] = c0[d] if c0.size else 0
        out.fill(0)
        keep = saved[d] if saved.size else np.empty((0, SAVED[p.cell], p.h), p.dtype)
        own = peephole[d].reshape(3, p.h) if p.peephole else np.empty((0, 0), p.dtype)
        for now in range(p.t):
            gemm.product(h.reshape(-1), (p.h, 1), w_hh[d].reshape(-1), (p.h, 1), zh, p.h, b_h, of_gemm)
            _ENDS[p.cell](now, d == 1, stride_of(p), zx, zh, own, c, h, out, keep, first, counts, p.linear or p.relu)
        rows[:, d], hn[d] = out, h
        if cn.size:
            cn[d] = c


def _forward(p, x, w_ih, w_hh, b_ih, b_hh, peephole, h0, c0, lengths, y, hn, cn, scratch):
    _train(p, x, w_ih, w_hh, b_ih, b_hh, peephole, h0, c0, lengths, y, hn, cn, gemm.NO_BIAS[p.dtype], scratch)


def _cost(p):
    # Packing U at every step, exponentials one at a time, and some calls a step.
    packing = 8.0 * p.t * p.directions * p.gates * p.h * p.h
    return 1.3 * p.flops + packing + 3_000.0 * p.t * p.b * p.directions * p.gates * p.h + 1_000_000 * p.t


for _name in GATES:
    _options = {"limit": 1.0, "cost": _cost, "scratch": lambda p: sum(_parts(p))}
    kernel(f"{_name}/stepwise/cpu", **_options)(_forward)
    kernel(f"{_name}_train/stepwise/cpu", **_options)(_train)
