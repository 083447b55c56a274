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

# The positive ones of the pairs ±p; 0 and infinity are always there. Their powers are exact in binary, so that only
# the weights' matrix is rounded.
POINTS = {
    2: (Fraction(1),),
    4: (Fraction(5, 8), Fraction(3, 2)),
    6: (Fraction(1, 2), Fraction(1), Fraction(7, 4)),
}

# The same where outputs or inputs are two apart, so that filters have two taps. There 0 is no point.
STRIDED_POINTS = {2: (Fraction(1),), 4: (Fraction(1, 2), Fraction(5, 4))}


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


def _apart(m, points):
    """(Aᵀ, G, Bᵀ) of F(m, 2), and the rows of the unit matrix: what outputs or inputs two apart are made of.

    Of three taps, 0 and 2 meet elements of one parity and tap 1 those of the other: m + 1 products and m.
    """
    output, weights, data = matrices(m, points, 2)
    weights = [*([first, 0, last] for first, last in weights), *([0, 1, 0] for _ in range(m))]
    return output, weights, data, [[int(i == j) for j in range(m)] for i in range(m)]


def strided(m, points):
    """(Aᵀ, G, Bᵀ) of m outputs two apart, y[i] = Σ_j g[j] · d[2i + j]."""
    output, weights, data, unit = _apart(m, points)
    even = [[row[k // 2] if k % 2 == 0 else 0 for k in range(2 * m + 1)] for row in data]
    odd = [[row[k // 2] if k % 2 else 0 for k in range(2 * m)] + [0] for row in unit]
    return [[*row, *rest] for row, rest in zip(output, unit, strict=True)], weights, [*even, *odd]


def spread(m, points):
    """(Aᵀ, G, Bᵀ) of 2m outputs of inputs two apart: y[2i] = g[1] · d[i], y[2i + 1] = g[0] · d[i] + g[2] · d[i + 1]."""
    output, weights, data, unit = _apart(m, points)
    rows = [([0] * (m + 1) + rest, row + [0] * m) for row, rest in zip(output, unit, strict=True)]
    return [row for pair in rows for row in pair], weights, [*data, *([*row, 0] for row in unit)]
