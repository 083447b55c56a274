"""Sigmoid and hyperbolic tangent of vectors.

Both come from e = exp(−k·|v|), k = 1 or 2, and one division, so that nothing overflows and nothing cancels:

    sigmoid(v) = (1 or e) / (1 + e) for v >= 0 or < 0,   tanh(|v|) = (1 − e) / (1 + e)

With −k·|v| = n·ln 2 + r, |r| <= ln 2 / 2, and p = exp(r) − 1 by its Taylor polynomial, e = s·p + s for s = 2^n, and
1 − e = (1 − s) − s·p is exact where tanh is small. The polynomial ends where what is left out is less than a fifth
(float32) or a tenth (float64) of a unit in the last place. At most 3 ulp off, in either dtype: 2.4 is the most that
was found. Results smaller than the smallest normal number may be 0. NaN stays NaN.

Kernels are compiled with the licence to reassociate, which would undo the reduction in two parts. It is given only to
instructions that say nothing about it: these say `nsz`.
"""

from __future__ import annotations

import math

import llvmlite.ir as ir
from numba.core import types
from numba.extending import intrinsic

from fastconv.kernels.cpu import emit
from fastconv.kernels.cpu.emit import I32, I64
from fastconv.kernels.cpu.simd import Vec

_FLAGS = ("nsz",)


class _Format:
    """What depends on the dtype.

    ln 2 = high + low, where n·high is exact; terms: of the polynomial beyond r; bias and fraction: of the format's
    exponent; limit: −limit·log2(e) is the exponent of the smallest normal number.
    """

    def __init__(self, high: float, low: float, terms: int, exponents: int, fraction: int) -> None:
        self.high, self.low, self.fraction = high, low, fraction
        self.bias = 2 ** (exponents - 1) - 1
        self.limit = (self.bias - 1) * math.log(2) * (1 - 2**-20)
        self.coefficients = [1 / math.factorial(k) for k in range(2, terms + 2)]


# Splits of ln 2: W. J. Cody and W. Waite, Software Manual for the Elementary Functions (1980); fdlibm, e_exp.c.
_FORMATS = {
    32: _Format(355 / 512, -2.12194440054690583e-4, 6, 8, 23),
    64: _Format(6.93147180369123816490e-01, 1.90821492927058770002e-10, 12, 11, 52),
}


@intrinsic
def sigmoid_or_tanh(typingctx, v, hyperbolic):
    """tanh(v) in every lane if `hyperbolic`, else 1 / (1 + e^−v)."""
    if not isinstance(v, Vec):
        raise TypeError(f"needs a vector, got {v}")
    form = _FORMATS[v.dtype.bitwidth]

    def codegen(context, b, sig, args):
        x, choice = args
        vector, lanes = x.type, x.type.count

        def constant(number):
            return ir.Constant(vector, [float(number)] * lanes)

        def integers(kind, number):
            return ir.Constant(ir.VectorType(kind, lanes), [number] * lanes)

        def fadd(one, other):
            return b.fadd(one, other, flags=_FLAGS)

        def fmul(one, other):
            return b.fmul(one, other, flags=_FLAGS)

        magnitude = emit.call(b, f"llvm.fabs.{emit.suffix(vector)}", vector, [x])
        factor = b.select(choice, ir.Constant(vector.element, 2.0), ir.Constant(vector.element, 1.0))
        scaled = fmul(magnitude, emit.splat(b, factor, lanes))
        # NaN, too, is not below the limit: what follows is defined for all lanes.
        below = b.fcmp_ordered("<", scaled, constant(form.limit), flags=_FLAGS)
        a = b.select(below, scaled, constant(form.limit))
        # n = −count: rounded to nearest, halves away from zero.
        nearest = fadd(fmul(a, constant(math.log2(math.e))), constant(0.5))
        count = b.fptosi(nearest, ir.VectorType(I32, lanes))
        n = b.sitofp(count, vector)
        r = emit.fma(b, n, constant(form.low), emit.fma(b, n, constant(form.high), fmul(a, constant(-1.0))))
        polynomial = constant(form.coefficients[-1])
        for coefficient in reversed(form.coefficients[:-1]):
            polynomial = emit.fma(b, polynomial, r, constant(coefficient))
        p = emit.fma(b, fmul(r, r), polynomial, r)
        exponent = b.sub(integers(I32, form.bias), count)
        if form.fraction > 31:
            exponent = b.sext(exponent, ir.VectorType(I64, lanes))
        bits = b.shl(exponent, integers(exponent.type.element, form.fraction))
        s = b.select(below, b.bitcast(bits, vector), constant(0.0))
        e = emit.fma(b, s, p, s)
        small = emit.fma(b, fmul(s, constant(-1.0)), p, fadd(constant(1.0), fmul(s, constant(-1.0))))
        negative = b.fcmp_ordered("<", x, constant(0.0), flags=_FLAGS)
        numerator = b.select(choice, small, b.select(negative, e, constant(1.0)))
        quotient = b.fdiv(numerator, fadd(constant(1.0), e), flags=_FLAGS)
        signed = emit.call(b, f"llvm.copysign.{emit.suffix(vector)}", vector, [quotient, x])
        result = b.select(choice, signed, quotient)
        return b.select(b.fcmp_unordered("uno", x, x, flags=_FLAGS), x, result)

    return v(v, types.boolean), codegen
