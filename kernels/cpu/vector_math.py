"""Sigmoid and hyperbolic tangent of vectors.

Both come from q = exp(r) − 1 and s = 2^n, where the argument is n·ln 2 + r, |r| <= ln 2 / 2, and from one division:

    sigmoid(v) = 1 / (1 + e),  e = exp(−v) = s·q + s        tanh(v) = p / (p + 2),  p = exp(2v) − 1 = s·q + (s − 1)

so that nothing cancels: where tanh is small, n = 0 and p = q. n is rounded by adding a number so large that its last
digit is one; that digit's bits, shifted, are the exponent of s. The polynomial ends where what is left out is less than
a fifth (float32) or a tenth (float64) of a unit in the last place. At most 3 ulp off, in either dtype. Results smaller
than the smallest normal number may be 0. NaN stays NaN.

Kernels are compiled with the licence to reassociate, which would undo the rounding and the reduction in two parts. It
is given only to instructions that say nothing about it: these say `nsz`.
"""

from __future__ import annotations

import math

import llvmlite.ir as ir
from numba.extending import intrinsic

from fastconv.kernels.cpu import emit
from fastconv.kernels.cpu.emit import I32, I64
from fastconv.kernels.cpu.simd import Vec

_FLAGS = ("nsz",)


class _Format:
    """What depends on the dtype.

    ln 2 = high + low, where n·high is exact; terms: of the polynomial beyond r; bias and fraction: of the format's
    exponent; limit: exp(±limit) are normal numbers; flat: beyond it tanh is 1; rounder: 1.5·2^fraction.
    """

    def __init__(self, high: float, low: float, terms: int, exponents: int, fraction: int) -> None:
        self.high, self.low, self.fraction = high, low, fraction
        self.bias = 2 ** (exponents - 1) - 1
        self.limit = (self.bias - 1) * math.log(2) * (1 - 2**-20)
        self.flat = math.log(2) * (fraction + 5) / 2
        self.rounder = 1.5 * 2.0**fraction
        self.coefficients = [1 / math.factorial(k) for k in range(2, terms + 2)]


# Splits of ln 2: W. J. Cody and W. Waite, Software Manual for the Elementary Functions (1980); fdlibm, e_exp.c.
_FORMATS = {
    32: _Format(355 / 512, -2.12194440054690583e-4, 6, 8, 23),
    64: _Format(6.93147180369123816490e-01, 1.90821492927058770002e-10, 12, 11, 52),
}


def _form_of(v):
    if not isinstance(v, Vec):
        raise TypeError(f"needs a vector, got {v}")
    return _FORMATS[v.dtype.bitwidth]


def _constant(vector, number):
    return ir.Constant(vector, [float(number)] * vector.count)


def _polynomial(b, r, square, coefficients):
    """Σ coefficients[k]·r^k, by pairs, pairs of pairs and so on, so that few steps wait for each other (Estrin)."""
    terms, power = [_constant(r.type, number) for number in coefficients], r
    while len(terms) > 1:
        pairs = [emit.fma(b, high, power, low) for low, high in zip(terms[::2], terms[1::2], strict=False)]
        terms = pairs + terms[2 * len(pairs) :]
        power = square if power is r else b.fmul(power, power, flags=_FLAGS)
    return terms[0]


def _parts(b, x, form, sign):
    """(q, s) of exp(sign·x) = s·q + s, for |x| <= form.limit; NaN for NaN, of the same sign."""
    vector = x.type
    rounded = emit.fma(b, x, _constant(vector, sign * math.log2(math.e)), _constant(vector, form.rounder))
    n = b.fsub(rounded, _constant(vector, form.rounder), flags=_FLAGS)
    # sign·r, so that x need not be negated.
    r = emit.fma(b, n, _constant(vector, -sign * form.high), x)
    r = emit.fma(b, n, _constant(vector, -sign * form.low), r)
    square = b.fmul(r, r, flags=_FLAGS)
    coefficients = [number * sign**k for k, number in enumerate(form.coefficients)]
    q = emit.fma(b, square, _polynomial(b, r, square, coefficients), r if sign > 0 else b.fneg(r))
    kind = I64 if form.fraction > 31 else I32
    whole = ir.VectorType(kind, vector.count)
    shift, one = ([number] * vector.count for number in (form.fraction, form.bias << form.fraction))
    bits = b.shl(b.bitcast(rounded, whole), ir.Constant(whole, shift))
    return q, b.bitcast(b.add(bits, ir.Constant(whole, one)), vector)


def _between(b, x, limit):
    """x, but no further from 0 than `limit`; NaN stays NaN."""
    low = emit.at_least(b, x, _constant(x.type, -limit))
    high = _constant(x.type, limit)
    return b.select(b.fcmp_ordered(">", low, high), high, low)


@intrinsic
def sigmoid(typingctx, v):
    """1 / (1 + e^−v) in every lane."""
    form = _form_of(v)

    def codegen(context, b, sig, args):
        (x,) = args
        one, zero = _constant(x.type, 1.0), _constant(x.type, 0.0)
        q, s = _parts(b, _between(b, x, form.limit), form, -1)
        result = b.fdiv(one, b.fadd(one, emit.fma(b, s, q, s), flags=_FLAGS), flags=_FLAGS)
        return b.select(b.fcmp_ordered("<", x, _constant(x.type, -form.limit)), zero, result)

    return v(v), codegen


@intrinsic
def tanh(typingctx, v):
    """tanh(v) in every lane."""
    form = _form_of(v)

    def codegen(context, b, sig, args):
        (x,) = args
        near = _between(b, x, form.flat)
        q, s = _parts(b, b.fadd(near, near, flags=_FLAGS), form, 1)
        p = emit.fma(b, s, q, b.fsub(s, _constant(x.type, 1.0), flags=_FLAGS))
        result = b.fdiv(p, b.fadd(p, _constant(x.type, 2.0), flags=_FLAGS), flags=_FLAGS)
        # For tanh(−0), which is −0.
        return emit.call(b, f"llvm.copysign.{emit.suffix(x.type)}", x.type, [result, x])

    return v(v), codegen
