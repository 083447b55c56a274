"""The oracle of recurrent layers: one layer and direction, step by step in float64, and its back-propagation in time.

Like fastconv.reference it imports NumPy only and shares no code with the rest of the library. Letters: t steps,
b sequences, i input features, h hidden units. x (t, b, i); weights (gates·h, i) and (gates·h, h) with the gates one
after the other as in torch: i, f, g, o for LSTM and r, z, n for GRU; states (b, h); y (t, b, h).

lengths (b): how many steps each sequence has, None for all. Beyond them y is zero and the state stays. reverse: each
sequence is read from its own last step to its first. An absent bias or state is zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
# What a step saves for the way back.
Saved: TypeAlias = tuple[Array, ...]

_ieee = np.errstate(invalid="ignore", over="ignore")


def _sigmoid(v: Array) -> Array:
    e = np.exp(-np.abs(v))
    result: Array = np.where(v >= 0, 1, e) / (1 + e)
    return result


def _float64(a: npt.ArrayLike) -> Array:
    return np.asarray(a, dtype=np.float64)


def _or_zero(a: npt.ArrayLike | None, *shape: int) -> Array:
    return np.zeros(shape) if a is None else _float64(a)


def steps(t: int, b: int, lengths: npt.ArrayLike | None, reverse: bool) -> list[tuple[Array, Array]]:
    """For each step the sequences that have it, and the time at which each of them is."""
    ends = np.full(b, t) if lengths is None else np.asarray(lengths)
    order = []
    for step in range(t):
        (rows,) = np.nonzero(step < ends)
        order.append((rows, ends[rows] - 1 - step if reverse else np.full(len(rows), step)))
    return order


class Lstm:
    """i, f, o = σ, g = tanh of x·W + h·U + b (i, f see p·c(t−1), o sees p·c(t)); c = f·c + i·g, h = o·σ_h(c)."""

    def __init__(self, peephole: npt.ArrayLike | None, linear: bool) -> None:
        self.p = None if peephole is None else _float64(peephole).reshape(3, -1)
        self.linear = linear

    def seen(self, which: int, by: Array) -> Array:
        """Peephole `which` times what is behind it; without peepholes nothing, whatever that is."""
        return np.zeros_like(by) if self.p is None else np.asarray(self.p[which] * by)

    def forward(self, zx: Array, zh: Array, h: Array, c: Array) -> tuple[Array, Array, Saved]:
        i, f, g, o = np.split(zx + zh, 4, axis=1)
        i, f, g = _sigmoid(i + self.seen(0, c)), _sigmoid(f + self.seen(1, c)), np.tanh(g)
        new = f * c + i * g
        o = _sigmoid(o + self.seen(2, new))
        s = new if self.linear else np.tanh(new)
        return o * s, new, (i, f, g, o, c, new, s)

    def backward(self, dh: Array, dc: Array, saved: Saved) -> tuple[Array, Array, Array, Array, Array]:
        """dh, dc of the step's results -> (dzx, dzh, direct dh, dc of the states before, dp)."""
        i, f, g, o, c, new, s = saved
        do = dh * s * o * (1 - o)
        dc = dc + dh * o * (1 if self.linear else 1 - s * s) + self.seen(2, do)
        di, df, dg = dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g * g)
        dz = np.concatenate([di, df, dg, do], axis=1)
        dp = np.concatenate([(di * c).sum(0), (df * c).sum(0), (do * new).sum(0)])
        return dz, dz, np.zeros_like(dh), dc * f + self.seen(0, di) + self.seen(1, df), dp


class Gru:
    """r, z = σ(x·W + h·U + b); n = tanh(x·W + b + r·(h·U + b)); h = (1 − z)·n + z·h."""

    def forward(self, zx: Array, zh: Array, h: Array, c: Array) -> tuple[Array, Array, Saved]:
        (rx, zx_, nx), (rh, zh_, nh) = np.split(zx, 3, axis=1), np.split(zh, 3, axis=1)
        r, z = _sigmoid(rx + rh), _sigmoid(zx_ + zh_)
        n = np.tanh(nx + r * nh)
        return (1 - z) * n + z * h, c, (r, z, n, nh, h)

    def backward(self, dh: Array, dc: Array, saved: Saved) -> tuple[Array, Array, Array, Array, Array]:
        r, z, n, nh, h = saved
        dn = dh * (1 - z) * (1 - n * n)
        dz = dh * (h - n) * z * (1 - z)
        dr = dn * nh * r * (1 - r)
        return np.concatenate([dr, dz, dn], axis=1), np.concatenate([dr, dz, dn * r], axis=1), dh * z, dc, np.zeros(0)


class Rnn:
    """h = tanh or max(0, ·) of x·W + h·U + b."""

    def __init__(self, relu: bool) -> None:
        self.relu = relu

    def forward(self, zx: Array, zh: Array, h: Array, c: Array) -> tuple[Array, Array, Saved]:
        y = np.maximum(zx + zh, 0) if self.relu else np.tanh(zx + zh)
        return y, c, (y,)

    def backward(self, dh: Array, dc: Array, saved: Saved) -> tuple[Array, Array, Array, Array, Array]:
        (y,) = saved
        dz = np.where(y > 0, dh, 0) if self.relu else dh * (1 - y * y)
        return dz, dz, np.zeros_like(dh), dc, np.zeros(0)


Cell: TypeAlias = "Lstm | Gru | Rnn"


@_ieee
def forward(
    cell: Cell,
    x: npt.ArrayLike,
    w_ih: npt.ArrayLike,
    w_hh: npt.ArrayLike,
    b_ih: npt.ArrayLike | None,
    b_hh: npt.ArrayLike | None,
    h0: npt.ArrayLike | None,
    c0: npt.ArrayLike | None,
    lengths: npt.ArrayLike | None,
    reverse: bool,
    *,
    keep: Callable[[Array, Array, Array, Saved], None] = lambda *_: None,
) -> tuple[Array, Array, Array]:
    """(y, h, c); `keep` is called after each step with its rows and times, the h before, and what the cell saved."""
    x, w_ih, w_hh = _float64(x), _float64(w_ih), _float64(w_hh)
    t, b, _ = x.shape
    units = w_hh.shape[1]
    bx, bh = _or_zero(b_ih, len(w_ih)), _or_zero(b_hh, len(w_hh))
    h, c = _or_zero(h0, b, units).copy(), _or_zero(c0, b, units).copy()
    y = np.zeros((t, b, units))
    for rows, times in steps(t, b, lengths, reverse):
        before = h[rows]
        zx, zh = x[times, rows] @ w_ih.T + bx, before @ w_hh.T + bh
        h[rows], c[rows], saved = cell.forward(zx, zh, before, c[rows])
        y[times, rows] = h[rows]
        keep(rows, times, before, saved)
    return y, h, c


@_ieee
def backward_over(
    cell: Cell,
    tape: list[tuple[Array, Array, Array, Saved]],
    gy: npt.ArrayLike,
    gh: npt.ArrayLike | None,
    gc: npt.ArrayLike | None,
    x: npt.ArrayLike,
    w_ih: npt.ArrayLike,
    w_hh: npt.ArrayLike,
) -> dict[str, Array]:
    """Gradients of Σ gy·y + Σ gh·h + Σ gc·c with respect to every input, by its name, from the steps that were kept."""
    x, w_ih, w_hh, gy = _float64(x), _float64(w_ih), _float64(w_hh), _float64(gy)
    b, units = x.shape[1], w_hh.shape[1]
    dh, dc = _or_zero(gh, b, units).copy(), _or_zero(gc, b, units).copy()
    found = {name: np.zeros_like(a) for name, a in (("gx", x), ("gw_ih", w_ih), ("gw_hh", w_hh))}
    found |= {"gb_ih": np.zeros(len(w_ih)), "gb_hh": np.zeros(len(w_hh)), "gp": np.zeros(3 * units)}
    for rows, times, before, saved in reversed(tape):
        dzx, dzh, direct, dc[rows], dp = cell.backward(dh[rows] + gy[times, rows], dc[rows], saved)
        dh[rows] = direct + dzh @ w_hh
        found["gx"][times, rows] = dzx @ w_ih
        found["gw_ih"] += dzx.T @ x[times, rows]
        found["gw_hh"] += dzh.T @ before
        found["gb_ih"] += dzx.sum(0)
        found["gb_hh"] += dzh.sum(0)
        found["gp"][: dp.size] += dp
    return found | {"gh0": dh, "gc0": dc}


def _backward(
    cell: Cell, gy: npt.ArrayLike, gh: npt.ArrayLike | None, gc: npt.ArrayLike | None, *given: Any
) -> dict[str, Array]:
    """backward_over the steps of a forward pass."""
    tape: list[tuple[Array, Array, Array, Saved]] = []
    forward(cell, *given, keep=lambda *step: tape.append(step))
    return backward_over(cell, tape, gy, gh, gc, *given[:3])


@_ieee
def lstm(
    x: npt.ArrayLike,
    w_ih: npt.ArrayLike,
    w_hh: npt.ArrayLike,
    b_ih: npt.ArrayLike | None = None,
    b_hh: npt.ArrayLike | None = None,
    h0: npt.ArrayLike | None = None,
    c0: npt.ArrayLike | None = None,
    lengths: npt.ArrayLike | None = None,
    reverse: bool = False,
    peephole: npt.ArrayLike | None = None,
    linear: bool = False,
) -> tuple[Array, Array, Array]:
    """(y, h, c) of an LSTM. peephole (3·h): of c(t−1) into i and f, of c(t) into o; linear: h = o·c."""
    return forward(Lstm(peephole, linear), x, w_ih, w_hh, b_ih, b_hh, h0, c0, lengths, reverse)


@_ieee
def lstm_grad(
    x: npt.ArrayLike,
    w_ih: npt.ArrayLike,
    w_hh: npt.ArrayLike,
    b_ih: npt.ArrayLike | None,
    b_hh: npt.ArrayLike | None,
    h0: npt.ArrayLike | None,
    c0: npt.ArrayLike | None,
    gy: npt.ArrayLike,
    gh: npt.ArrayLike | None = None,
    gc: npt.ArrayLike | None = None,
    lengths: npt.ArrayLike | None = None,
    reverse: bool = False,
    peephole: npt.ArrayLike | None = None,
    linear: bool = False,
) -> dict[str, Array]:
    """Gradients of Σ gy·y + Σ gh·h + Σ gc·c: gx, gw_ih, gw_hh, gb_ih, gb_hh, gh0, gc0, gp."""
    given = (x, w_ih, w_hh, b_ih, b_hh, h0, c0, lengths, reverse)
    return _backward(Lstm(peephole, linear), gy, gh, gc, *given)


@_ieee
def gru(
    x: npt.ArrayLike,
    w_ih: npt.ArrayLike,
    w_hh: npt.ArrayLike,
    b_ih: npt.ArrayLike | None = None,
    b_hh: npt.ArrayLike | None = None,
    h0: npt.ArrayLike | None = None,
    lengths: npt.ArrayLike | None = None,
    reverse: bool = False,
) -> tuple[Array, Array]:
    """(y, h) of a GRU as torch's: the reset gate multiplies h·U + b."""
    return forward(Gru(), x, w_ih, w_hh, b_ih, b_hh, h0, None, lengths, reverse)[:2]


@_ieee
def gru_grad(
    x: npt.ArrayLike,
    w_ih: npt.ArrayLike,
    w_hh: npt.ArrayLike,
    b_ih: npt.ArrayLike | None,
    b_hh: npt.ArrayLike | None,
    h0: npt.ArrayLike | None,
    gy: npt.ArrayLike,
    gh: npt.ArrayLike | None = None,
    lengths: npt.ArrayLike | None = None,
    reverse: bool = False,
) -> dict[str, Array]:
    """Gradients of Σ gy·y + Σ gh·h: gx, gw_ih, gw_hh, gb_ih, gb_hh, gh0."""
    return _backward(Gru(), gy, gh, None, x, w_ih, w_hh, b_ih, b_hh, h0, None, lengths, reverse)


@_ieee
def rnn(
    x: npt.ArrayLike,
    w_ih: npt.ArrayLike,
    w_hh: npt.ArrayLike,
    b_ih: npt.ArrayLike | None = None,
    b_hh: npt.ArrayLike | None = None,
    h0: npt.ArrayLike | None = None,
    lengths: npt.ArrayLike | None = None,
    reverse: bool = False,
    activation: str = "tanh",
) -> tuple[Array, Array]:
    """(y, h) of Elman's network with activation "tanh" or "relu"."""
    return forward(Rnn(activation == "relu"), x, w_ih, w_hh, b_ih, b_hh, h0, None, lengths, reverse)[:2]


@_ieee
def rnn_grad(
    x: npt.ArrayLike,
    w_ih: npt.ArrayLike,
    w_hh: npt.ArrayLike,
    b_ih: npt.ArrayLike | None,
    b_hh: npt.ArrayLike | None,
    h0: npt.ArrayLike | None,
    gy: npt.ArrayLike,
    gh: npt.ArrayLike | None = None,
    lengths: npt.ArrayLike | None = None,
    reverse: bool = False,
    activation: str = "tanh",
) -> dict[str, Array]:
    """Gradients of Σ gy·y + Σ gh·h: gx, gw_ih, gw_hh, gb_ih, gb_hh, gh0."""
    cell = Rnn(activation == "relu")
    return _backward(cell, gy, gh, None, x, w_ih, w_hh, b_ih, b_hh, h0, None, lengths, reverse)
