"""The matrices of Winograd's minimal filtering F(m, r): m outputs of a filter of r taps with m + r − 1 products.

    y = Aᵀ [(G g) ⊙ (Bᵀ d)],   y[i] = Σ_j g[j] · d[i + j]

Toom and Cook's construction: polynomials are multiplied by their values at m + r − 2 points and at infinity. Two
dimensions are the same matrices from both sides. Sources: S. Winograd, Arithmetic Complexity of Computations (1980);
A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural Networks (2015).

Outputs or inputs two apart need fewer products too: `strided`, `spread`.

The points decide the rounding error. Pairs ±p near 1 keep the powers of p small, and reciprocal ones balance them.
"""

from __future__ import annotations

import math
from fractions import Fraction

TAPS = 3

# For F(m, r) with so many products, the positive ones of the pairs ±p; infinity is always a point, and 0 if m + r is
# odd. Their powers are exact in binary, so that only the weights' matrix is rounded.
POINTS = {
    3: (Fraction(1),),
    4: (Fraction(1),),
    5: (Fraction(1, 2), Fraction(5, 4)),
    6: (Fraction(5, 8), Fraction(3, 2)),
    7: (Fraction(1, 4), Fraction(1), Fraction(3, 2)),
    8: (Fraction(1, 2), Fraction(1), Fraction(7, 4)),
}


def _times(a, b):
    """The product of two polynomials, lowest power first."""
    product = [0] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            product[i + j] += x * y
    return product


def matrices(m, points, r=TAPS):
    """(Aᵀ, G, Bᵀ) as lists of rows, for points 0, p, −p, … and infinity, in this order.

    points: the positive p, (m + r − 2) // 2 of them, of any number type with exact or rounded + − · /. 0 is a point
    if m + r is odd.
    """
    zero = [0 * points[0]] * ((m + r) % 2)
    finite = [*zero, *(sign * p for p in points for sign in (1, -1))]
    if len(finite) != m + r - 2:
        raise ValueError(f"points={points!r}: F({m}, {r}) needs {(m + r - 2) // 2}")
    output = [[p**i if i else 1 for p in finite] + [int(i == m - 1)] for i in range(m)]
    weights, data = [], []
    for p in finite:
        others = [q for q in finite if q != p]
        scale = math.prod(p - q for q in others)
        weights.append([(p**j if j else 1) / scale for j in range(r)])
        row = [1]
        for q in others:
            row = _times(row, [-q, 1])
        data.append([*row, 0])
    whole = [1]
    for q in finite:
        whole = _times(whole, [-q, 1])
    weights.append([0] * (r - 1) + [1])
    data.append(whole)
    return output, weights, data


def minimal(m, r=TAPS):
    """(Aᵀ, G, Bᵀ) of F(m, r) at the points that round least."""
    if r == 1:
        return unit(m), [[1]] * m, unit(m)
    return matrices(m, POINTS[m + r - 1], r)


def unit(size):
    """The rows of the unit matrix."""
    return [[int(i == j) for j in range(size)] for i in range(size)]


def _apart(m, r):
    """(Aᵀ, G, Bᵀ) for taps 0, 2, … of r, which meet elements of one parity, and for taps 1, 3, …; G for all taps."""
    parts = []
    for parity in (0, 1):
        output, weights, data = minimal(m, (r + 1 - parity) // 2)
        parts.append((output, [[row[t // 2] if t % 2 == parity else 0 for t in range(r)] for row in weights], data))
    return parts


def strided(m, r=TAPS):
    """(Aᵀ, G, Bᵀ) of m outputs two apart, y[i] = Σ_j g[j] · d[2i + j]."""
    size = 2 * m + r - 2
    outputs, weights, data = [[] for _ in range(m)], [], []
    for parity, (output, filters, inputs) in enumerate(_apart(m, r)):
        outputs = [[*former, *row] for former, row in zip(outputs, output, strict=True)]
        weights += filters
        data += [[row[k // 2] if k % 2 == parity else 0 for k in range(size)] for row in inputs]
    return outputs, weights, data


def spread(m):
    """(Aᵀ, G, Bᵀ) of 2m outputs of inputs two apart: y[2i] = g[1] · d[i], y[2i + 1] = g[0] · d[i] + g[2] · d[i + 1]."""
    (even, two, data), (odd, one, plain) = _apart(m, TAPS)
    rows = [([0] * (m + 1) + rest, row + [0] * m) for row, rest in zip(even, odd, strict=True)]
    return [row for pair in rows for row in pair], [*two, *one], [*data, *([*row, 0] for row in plain)]
