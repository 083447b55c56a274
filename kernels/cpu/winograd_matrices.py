"""The matrices of Winograd's minimal filtering F(m, r): m outputs of a filter of r taps with m + r − 1 products.

    y = Aᵀ [(G g) ⊙ (Bᵀ d)],   y[i] = Σ_j g[j] · d[i + j]

Toom and Cook's construction: polynomials are multiplied by their values at m + r − 2 points and at infinity. Two
dimensions are the same matrices from both sides. Sources: S. Winograd, Arithmetic Complexity of Computations (1980);
A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural Networks (2015).

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


def _times(a, b):
    """The product of two polynomials, lowest power first."""
    product = [0] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            product[i + j] += x * y
    return product


def matrices(m, points, r=TAPS):
    """(Aᵀ, G, Bᵀ) as lists of rows, for points 0, p, −p, … and infinity, in this order.

    points: the positive p, (m + r − 3) / 2 of them, of any number type with exact or rounded + − · /.
    """
    finite = [0 * points[0], *(sign * p for p in points for sign in (1, -1))]
    if len(finite) != m + r - 2:
        raise ValueError(f"points={points!r}: F({m}, {r}) needs {(m + r - 3) / 2:g}")
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
