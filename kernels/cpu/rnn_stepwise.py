"""lstm/stepwise, gru/stepwise, rnn/stepwise and their gradients: the plain algorithm, one step after the other.

One matrix product gives x·W of all steps, another h(t−1)·U of a step; a loop over sequences and units does the rest,
one number at a time. On the way back likewise: dz(t + 1)·U, the derivative of a step, and products of all steps at the
end. It does every problem, and is what the fused kernels are compared with.
"""

from __future__ import annotations

import math

import numpy as np

from fastconv.kernels.cpu import gemm
from fastconv.kernels.cpu.jit import inner, njit
from fastconv.kernels.cpu.rnn_forward import clear, even, stride_of
from fastconv.kernels.cpu.simd import flush_denormals, restore_denormals
from fastconv.problem import GATES, SAVED
from fastconv.registry import kernel


@inner
def _sigmoid(v):
    return 1 / (1 + math.exp(-v))


@inner
def _row(first, length, now, reverse, stride):
    """The row of x at step `now` of a sequence that begins at row `first`."""
    return first + (length - 1 - now if reverse else now) * stride


@njit
def _lstm_end(now, reverse, stride, zx, zh, p, c, h, y, saved, first, lengths, linear):
    """Step `now` from zx (rows, 4h) and zh (b, 4h): c and h (b, h) become the next ones, y and saved are written."""
    flushed = flush_denormals()
    units = h.shape[1]
    for r in range(len(lengths)):
        if now >= lengths[r]:
            continue
        row = _row(first[r], lengths[r], now, reverse, stride)
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
        row = _row(first[r], lengths[r], now, reverse, stride)
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
        row = _row(first[r], lengths[r], now, reverse, stride)
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


# The way back of step `now`: dh is the gradient of h(t) that comes otherwise than by products, and becomes that of
# h(t−1); `through` is what came by products, to be added where step now + 1 exists. dc likewise. zx and zh (rows,
# gates·h) are the gradients of the gates before their functions, as x·W and as h·U enter them.


@njit
def _lstm_back(now, reverse, stride, gy, through, p, dc, dh, zx, zh, dz, saved, first, lengths, linear):
    flushed = flush_denormals()
    units = dh.shape[1]
    for r in range(len(lengths)):
        if now >= lengths[r]:
            continue
        row = _row(first[r], lengths[r], now, reverse, stride)
        for k in range(units):
            i, f, g, o = saved[row, 0, k], saved[row, 1, k], saved[row, 2, k], saved[row, 3, k]
            old, s = saved[row, 4, k], saved[row, 5, k]
            grad = gy[row, k] + dh[r, k] + (through[r, k] if now + 1 < lengths[r] else 0)
            do = grad * s * o * (1 - o)
            cell = dc[r, k] + grad * o * (1 if linear else 1 - s * s)
            if p.size:
                cell += p[2, k] * do
            di, df, dg = cell * g * i * (1 - i), cell * old * f * (1 - f), cell * i * (1 - g * g)
            cell *= f
            if p.size:
                cell += p[0, k] * di + p[1, k] * df
            dc[r, k], dh[r, k] = cell, 0
            zx[row, k], zx[row, units + k], zx[row, 2 * units + k], zx[row, 3 * units + k] = di, df, dg, do
        for k in range(4 * units):
            dz[r, k] = zh[row, k] = zx[row, k]
    restore_denormals(flushed)


@njit
def _gru_back(now, reverse, stride, gy, through, p, dc, dh, zx, zh, dz, saved, first, lengths, linear):
    flushed = flush_denormals()
    units = dh.shape[1]
    for r in range(len(lengths)):
        if now >= lengths[r]:
            continue
        row = _row(first[r], lengths[r], now, reverse, stride)
        for k in range(units):
            reset, update, n = saved[row, 0, k], saved[row, 1, k], saved[row, 2, k]
            q, before = saved[row, 3, k], saved[row, 4, k]
            grad = gy[row, k] + dh[r, k] + (through[r, k] if now + 1 < lengths[r] else 0)
            dn = grad * (1 - update) * (1 - n * n)
            zx[row, k] = dn * q * reset * (1 - reset)
            zx[row, units + k] = grad * (before - n) * update * (1 - update)
            zx[row, 2 * units + k] = dn
            dh[r, k] = grad * update
        for k in range(3 * units):
            dz[r, k] = zh[row, k] = zx[row, k] * (saved[row, 0, k - 2 * units] if k >= 2 * units else 1)
    restore_denormals(flushed)


@njit
def _rnn_back(now, reverse, stride, gy, through, p, dc, dh, zx, zh, dz, saved, first, lengths, relu):
    flushed = flush_denormals()
    units = dh.shape[1]
    for r in range(len(lengths)):
        if now >= lengths[r]:
            continue
        row = _row(first[r], lengths[r], now, reverse, stride)
        for k in range(units):
            y = saved[row, 0, k]
            grad = gy[row, k] + dh[r, k] + (through[r, k] if now + 1 < lengths[r] else 0)
            zx[row, k] = (grad if y > 0 else 0.0) if relu else grad * (1 - y * y)
            dz[r, k] = zh[row, k] = zx[row, k]
            dh[r, k] = 0
    restore_denormals(flushed)


_BACKS = {"lstm": _lstm_back, "gru": _gru_back, "rnn": _rnn_back}


def _back_parts(p):
    """Elements of scratch: gradients of the gates as x and as h enter them, of a step; what products give of a step; dh
    and dc; gy of one direction; x without padding, gx of one direction; what products need."""
    rows, width, units = p.t * p.b, GATES[p.cell] * p.h, p.b * p.h
    of_gemm = gemm.scratch(4 if p.dtype == "float32" else 8)
    return rows * width, rows * width, p.b * width, units, 2 * units, rows * p.h, 2 * rows * p.i, of_gemm


@np.errstate(invalid="ignore", over="ignore")
def _grad(p, x, w_ih, w_hh, peephole, saved, gy, ghn, gcn, lengths, *rest):
    gx, gw_ih, gw_hh, gb_ih, gb_hh, gp, gh0, gc0, scratch = rest
    sizes = _back_parts(p)
    ends = np.cumsum(sizes)
    zx, zh, dz, through, states, of_y, of_x, work = (scratch[e - n : e] for e, n in zip(ends, sizes, strict=True))
    rows, width, saves, none = p.t * p.b, GATES[p.cell] * p.h, SAVED[p.cell], gemm.NO_BIAS[p.dtype]
    zx, zh, of_y = zx.reshape(rows, width), zh.reshape(rows, width), of_y.reshape(rows, p.h)
    dz, through, (dh, dc) = dz.reshape(p.b, width), through.reshape(p.b, p.h), states.reshape(2, p.b, p.h)
    inputs, to = of_x.reshape(2, rows, p.i)
    inputs[...] = x.reshape(rows, p.i)
    counts = lengths if p.ragged else even(p)
    if p.ragged:
        clear(p, counts, inputs.reshape(-1), p.i, 1)
    first = np.arange(p.b) * (p.t if p.batch_first else 1)
    for d in range(p.directions):
        zx.fill(0)
        zh.fill(0)
        dz.fill(0)
        of_y[...] = gy.reshape(rows, p.directions, p.h)[:, d]
        dh[...] = ghn[d] if ghn.size else 0
        dc[...] = gcn[d] if gcn.size else 0
        own = peephole[d].reshape(3, p.h) if p.peephole else np.empty((0, 0), p.dtype)
        for now in reversed(range(p.t)):
            if now + 1 < p.t:
                gemm.product(dz.reshape(-1), (width, 1), w_hh[d].reshape(-1), (1, p.h), through, width, none, work)
            of_step = (own, dc, dh, zx, zh, dz, saved[d], first, counts, p.linear or p.relu)
            _BACKS[p.cell](now, d == 1, stride_of(p), of_y, through, *of_step)
        if gh0.size:
            gemm.product(dz.reshape(-1), (width, 1), w_hh[d].reshape(-1), (1, p.h), through, width, none, work)
            gh0[d] = dh + np.where((counts > 0)[:, None], through, 0)
        if gc0.size:
            gc0[d] = dc
        gemm.product(zx.reshape(-1), (1, width), inputs.reshape(-1), (1, p.i), gw_ih[d], rows, none, work)
        before = saved[d].reshape(-1)[(saves - 1) * p.h :]
        gemm.product(zh.reshape(-1), (1, width), before, (1, saves * p.h), gw_hh[d], rows, none, work)
        if p.bias:
            zx.sum(0, out=gb_ih[d])
            zh.sum(0, out=gb_hh[d])
        if p.peephole:
            i, f, g, _, old = (saved[d][:, k] for k in range(5))
            di, df, _, do = np.split(zx, 4, axis=1)
            gp[d] = np.concatenate([(di * old).sum(0), (df * old).sum(0), (do * (f * old + i * g)).sum(0)])
        if gx.size:
            gemm.product(zx.reshape(-1), (width, 1), w_ih[d].reshape(-1), (1, p.i), to, width, none, work)
            of_all = gx.reshape(rows, p.i)
            of_all[...] = of_all + to if d else to
    if gx.size and p.ragged:
        clear(p, counts, gx.reshape(-1), p.i, 1)


def _cost(p):
    # Packing U at every step, exponentials one at a time, and some calls a step.
    packing = 8.0 * p.t * p.directions * p.gates * p.h * p.h
    return 1.3 * p.flops + packing + 3_000.0 * p.t * p.b * p.directions * p.gates * p.h + 1_000_000 * p.t


def _back_cost(p):
    return 3.0 * _cost(p)


for _name in GATES:
    kernel(f"{_name}_grad/stepwise/cpu", limit=1.0, cost=_back_cost, scratch=lambda p: sum(_back_parts(p)))(_grad)
    _options = {"limit": 1.0, "cost": _cost, "scratch": lambda p: sum(_parts(p))}
    kernel(f"{_name}/stepwise/cpu", **_options)(_forward)
    kernel(f"{_name}_train/stepwise/cpu", **_options)(_train)
