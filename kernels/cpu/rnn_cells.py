"""The recurrent cells: what the kernels of rnn_rows, rnn_units and rnn_grad need to know of each.

A unit tile is 16 hidden units (a vector's lanes, L) with all their gates, so that what a cell does with its gates
happens in registers. Products are summed in four vectors, the columns of a register tile:

    LSTM   i  f  g  o           x and h meet all four
    GRU    r  z  nx nh          x meets the first three, h all but the third: r multiplies the h part of n alone
    RNN    four vectors of units; a unit tile is 4·L units

`VECTORS` of them are packed for each element of x or h. The arrays that a step saves for the way back, each (rows, h):

    LSTM   i f g o, c(t−1), σ_h(c), h(t−1)
    GRU    r z n, the h part of n, h(t−1)
    RNN    h, h(t−1)

and the gradients of the gates, dz (rows, 4·h) or (rows, h), from which the products on the way back are made:

    LSTM   i f g o
    GRU    nx r z nh            the first three are x's, the last three h's
    RNN    h

Source: torch.nn.LSTM, GRU, RNN; peepholes: Gers, Schraudolph and Schmidhuber 2002.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastconv.kernels.cpu.jit import inner
from fastconv.kernels.cpu.simd import (
    add,
    at_least,
    fma,
    lanes,
    load,
    load_first,
    mul,
    splat,
    store,
    store_first,
    sub,
    where_positive,
)
from fastconv.kernels.cpu.vector_math import sigmoid, tanh


@inner
def put(y, at, value, left):
    """y.flat[at:] = the first `left` lanes of value."""
    if left >= lanes(y):
        store(y, at, value)
    else:
        store_first(y, at, value, left)


@inner
def get(x, at, left):
    """The first `left` lanes at x.flat[at:], zeros after them."""
    return load(x, at) if left >= lanes(x) else load_first(x, at, left)


# On the way, for one row: work.flat[at:] holds the tile's four vectors, h_from and h_to are where h(t−1) and h(t) of
# the tile's units stand in work, c where c does; left units are left. y and saved are stored at yi and si. `gates` does
# in place what waits for nothing else, for all rows before `step` does the rest: so the processor finds enough to do.


@inner
def _lstm_gates(work, at, u, peep, c):
    width = lanes(work)
    i, f = load(work, at), load(work, at + width)
    if peep >= 0:
        old = load(work, c)
        i, f = fma(load(u, peep), old, i), fma(load(u, peep + width), old, f)
    store(work, at, sigmoid(i))
    store(work, at + width, sigmoid(f))
    store(work, at + 2 * width, tanh(load(work, at + 2 * width)))
    if peep < 0:
        store(work, at + 3 * width, sigmoid(load(work, at + 3 * width)))


@inner
def _lstm_step(work, at, u, peep, h_from, h_to, c, y, yi, left, saved, si, h, option):
    width = lanes(work)
    old = load(work, c)
    i, f = load(work, at), load(work, at + width)
    g, o = load(work, at + 2 * width), load(work, at + 3 * width)
    new = fma(f, old, mul(i, g))
    if peep >= 0:
        o = sigmoid(fma(load(u, peep + 2 * width), new, o))
    s = new if option else tanh(new)
    out = mul(o, s)
    if saved.size:
        put(saved, si, i, left)
        put(saved, si + h, f, left)
        put(saved, si + 2 * h, g, left)
        put(saved, si + 3 * h, o, left)
        put(saved, si + 4 * h, old, left)
        put(saved, si + 5 * h, s, left)
        put(saved, si + 6 * h, load(work, h_from), left)
    store(work, c, new)
    store(work, h_to, out)
    put(y, yi, out, left)


@inner
def _gru_gates(work, at, u, peep, c):
    width = lanes(work)
    store(work, at, sigmoid(load(work, at)))
    store(work, at + width, sigmoid(load(work, at + width)))


@inner
def _gru_step(work, at, u, peep, h_from, h_to, c, y, yi, left, saved, si, h, option):
    width = lanes(work)
    old, q = load(work, h_from), load(work, at + 3 * width)
    r, z = load(work, at), load(work, at + width)
    n = tanh(fma(r, q, load(work, at + 2 * width)))
    out = fma(z, sub(old, n), n)
    if saved.size:
        put(saved, si, r, left)
        put(saved, si + h, z, left)
        put(saved, si + 2 * h, n, left)
        put(saved, si + 3 * h, q, left)
        put(saved, si + 4 * h, old, left)
    store(work, h_to, out)
    put(y, yi, out, left)


@inner
def _rnn_gates(work, at, u, peep, c):
    pass


@inner
def _rnn_step(work, at, u, peep, h_from, h_to, c, y, yi, left, saved, si, h, option):
    width = lanes(work)
    for v in range(4):
        shift, rest = v * width, left - v * width
        value = load(work, at + shift)
        out = at_least(value, splat(work, 0.0)) if option else tanh(value)
        store(work, h_to + shift, out)
        if rest > 0:
            put(y, yi + shift, out, rest)
            if saved.size:
                put(saved, si + shift, out, rest)
                put(saved, si + h + shift, load(work, h_from + shift), rest)


# On the way back, for one row and one vector of units: work.flat[dh] is the gradient of h(t) that comes from step
# t + 1 by products; work.flat[direct] what comes otherwise, on the way out what goes to step t − 1 so; work.flat[dc]
# the same of c. gy at yi, saved at si; dz is stored at zi.


@inner
def _lstm_back(work, dh, direct, dc, u, peep, gy, yi, left, saved, si, dz, zi, h, option):
    width = lanes(work)
    one = splat(work, 1.0)
    i, f = get(saved, si, left), get(saved, si + h, left)
    g, o = get(saved, si + 2 * h, left), get(saved, si + 3 * h, left)
    old, s = get(saved, si + 4 * h, left), get(saved, si + 5 * h, left)
    grad = add(add(load(work, dh), load(work, direct)), get(gy, yi, left))
    do = mul(mul(grad, s), mul(o, sub(one, o)))
    through = mul(grad, o)
    if not option:
        through = mul(through, sub(one, mul(s, s)))
    cell = add(load(work, dc), through)
    if peep >= 0:
        cell = fma(load(u, peep + 2 * width), do, cell)
    di = mul(mul(cell, g), mul(i, sub(one, i)))
    df = mul(mul(cell, old), mul(f, sub(one, f)))
    di_g = mul(cell, i)
    dg = mul(di_g, sub(one, mul(g, g)))
    cell = mul(cell, f)
    if peep >= 0:
        cell = fma(load(u, peep), di, fma(load(u, peep + width), df, cell))
    put(dz, zi, di, left)
    put(dz, zi + h, df, left)
    put(dz, zi + 2 * h, dg, left)
    put(dz, zi + 3 * h, do, left)
    store(work, dc, cell)
    store(work, direct, splat(work, 0.0))


@inner
def _gru_back(work, dh, direct, dc, u, peep, gy, yi, left, saved, si, dz, zi, h, option):
    one = splat(work, 1.0)
    r, z = get(saved, si, left), get(saved, si + h, left)
    n, q, old = get(saved, si + 2 * h, left), get(saved, si + 3 * h, left), get(saved, si + 4 * h, left)
    grad = add(add(load(work, dh), load(work, direct)), get(gy, yi, left))
    of_n = mul(grad, sub(one, z))
    dn = mul(of_n, sub(one, mul(n, n)))
    update = mul(mul(grad, sub(old, n)), mul(z, sub(one, z)))
    dr = mul(mul(dn, q), mul(r, sub(one, r)))
    put(dz, zi, dn, left)
    put(dz, zi + h, dr, left)
    put(dz, zi + 2 * h, update, left)
    put(dz, zi + 3 * h, mul(dn, r), left)
    store(work, direct, mul(grad, z))


@inner
def _rnn_back(work, dh, direct, dc, u, peep, gy, yi, left, saved, si, dz, zi, h, option):
    grad = add(add(load(work, dh), load(work, direct)), get(gy, yi, left))
    y = get(saved, si, left)
    put(dz, zi, where_positive(y, grad) if option else mul(grad, sub(splat(work, 1.0), mul(y, y))), left)
    store(work, direct, splat(work, 0.0))


@dataclass(frozen=True)
class Cell:
    """A cell: gates, step and back as above; vectors packed for each element, columns of the tile that x and h meet, as
    bits; tile_units: vectors of units in a unit tile; gradients: arrays (rows, h) of dz, and the first that is h's.
    """

    name: str
    gates_of: Any
    step: Any
    back: Any
    vectors: int
    of_x: int
    of_h: int
    tile_units: int
    gates: int
    gradients: int
    first_of_h: int


CELLS = {
    "lstm": Cell("lstm", _lstm_gates, _lstm_step, _lstm_back, 4, 0b1111, 0b1111, 1, 4, 4, 0),
    "gru": Cell("gru", _gru_gates, _gru_step, _gru_back, 3, 0b0111, 0b1011, 1, 3, 4, 1),
    "rnn": Cell("rnn", _rnn_gates, _rnn_step, _rnn_back, 4, 0b1111, 0b1111, 4, 1, 1, 0),
}


def option_of(p):
    """What `step` and `back` take as option: the other activation."""
    return int(p.linear or p.relu)
