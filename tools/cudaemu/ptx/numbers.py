"""What PTX instructions compute, on NumPy arrays with an element for each thread.

`OPERATIONS` has every instruction that only computes, under its whole name: a modifier that is not there is not known.
Source: NVIDIA, "Parallel Thread Execution ISA", chapter "Instructions".
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

TYPES: dict[str, Any] = {
    **{f"u{8 * size}": np.dtype(f"u{size}") for size in (1, 2, 4, 8)},
    **{f"b{8 * size}": np.dtype(f"u{size}") for size in (1, 2, 4, 8)},
    **{f"s{8 * size}": np.dtype(f"i{size}") for size in (1, 2, 4, 8)},
    **{f"f{8 * size}": np.dtype(f"f{size}") for size in (2, 4, 8)},
    "pred": np.dtype(bool),
}
_SIGNED, _UNSIGNED, _BITS = ("s16", "s32", "s64"), ("u16", "u32", "u64"), ("b16", "b32", "b64")
_INTEGERS, _FLOATS = (*_SIGNED, *_UNSIGNED), ("f32", "f64")


@dataclass(frozen=True, slots=True)
class Operation:
    """An instruction that only computes: a function of arrays of the types `sources`, which gives one of type `to`."""

    function: Callable[..., Array]
    to: str
    sources: tuple[str, ...]


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """(s, e): s the rounded sum of float64 arrays, s + e the exact one. Source: Knuth, TAOCP 2, 4.2.2."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _odd(total: Array, error: Array) -> Array:
    """total + error rounded to odd: inexact results end in a 1, so that one more rounding, to less, is the only one.

    Source: Boldo and Melquiond 2008, "Emulation of a FMA and Correctly Rounded Sums".
    """
    bits = total.view(np.int64)
    inexact_and_even = (error != 0) & np.isfinite(error) & (bits & 1 == 0)
    towards_error = np.where((error > 0) == (total > 0), 1, -1)
    return (bits + np.where(inexact_and_even, towards_error, 0)).view(np.float64)


def fma32(a: Array, b: Array, c: Array) -> Array:
    """a · b + c of float32 with one rounding."""
    # Exact.
    product = np.multiply(a, b, dtype=np.float64)
    total = product + c
    bits = total.view(np.uint64)
    # A second rounding of what was rounded once goes wrong only halfway between two floats, or where there are fewer
    # digits than usual, below 2⁻¹²⁶.
    halfway = (bits & np.uint64(2**29 - 1)) == np.uint64(2**28)
    small = (bits << np.uint64(1)) - np.uint64(1) < np.uint64((1023 - 126) << 53)
    if (halfway | small).any():
        total = _odd(*_two_sum(product, c.astype(np.float64)))
    return total.astype(np.float32)


def fma32_down(a: Array, b: Array, c: Array) -> Array:
    """a · b + c of float32, rounded towards minus infinity."""
    product, more = np.multiply(a, b, dtype=np.float64), c.astype(np.float64)
    exact = _odd(*_two_sum(product, more))
    nearest = exact.astype(np.float32)
    down = np.where(nearest > exact, np.nextafter(nearest, np.float32(-np.inf)), nearest)
    return np.where((exact == 0) & (np.signbit(product) | np.signbit(more)), np.float32(-0.0), down)


def fma64(a: Array, b: Array, c: Array) -> Array:
    """a · b + c of float64 with one rounding: the product as a sum of two, and Boldo and Melquiond's sum of three."""
    a, b, c = np.broadcast_arrays(a, b, c)
    high = a * b

    def halves(x: Array) -> tuple[Array, Array]:
        scaled = x * 134217729.0
        upper = scaled - (scaled - x)
        return upper, x - upper

    (a1, a2), (b1, b2) = halves(a), halves(b)
    low = a2 * b2 - (((high - a1 * b1) - a2 * b1) - a1 * b2)
    more, rest = _two_sum(c, low)
    total, left = _two_sum(high, more)
    result = total + _odd(*_two_sum(rest, left))
    nothing = (a == 0) | (b == 0) | ~np.isfinite(high + c)
    result = np.where(nothing, high + c, result)
    # Where parts of the product overflow or vanish.
    size = np.maximum(np.abs(a), np.abs(b))
    extreme = np.isfinite(a) & np.isfinite(b) & np.isfinite(c) & (a != 0) & (b != 0)
    extreme &= (size > 2.0**500) | (np.abs(c) > 2.0**1000) | (np.abs(high) < 2.0**-900)
    for k in np.flatnonzero(extreme):
        exact = Fraction(a[k].item()) * Fraction(b[k].item()) + Fraction(c[k].item())
        try:
            # Of a sum that vanishes exactly, the sign is right already.
            result[k] = float(exact) if exact else high[k] + c[k]
        except OverflowError:
            result[k] = np.inf if exact > 0 else -np.inf
    return result


def _flushed(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A function of float32 to which subnormal numbers are zeros, before and after: .ftz."""

    def flush(x: Array) -> Array:
        return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), x), x)

    return lambda x: flush(function(flush(x)))


def _in_double(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A function of float32 computed in float64: .approx is this near to it, at the least."""
    return lambda x: function(x.astype(np.float64)).astype(np.float32)


def _reciprocal64(x: Array) -> Array:
    """1 / x, of which the lower half is zeros."""
    return ((1 / x).view(np.uint64) & np.uint64(0xFFFFFFFF00000000)).view(np.float64)


def _smaller(a: Array, b: Array) -> Array:
    """The smaller, −0 before +0; a NaN only where both are. `_larger`: likewise."""
    return np.where((a == b) & np.signbit(a), a, np.fmin(a, b))


def _larger(a: Array, b: Array) -> Array:
    return np.where((a == b) & np.signbit(b), a, np.fmax(a, b))


def _quotient(a: Array, b: Array) -> Array:
    return (a - np.fmod(a, b)) // b


def _wide(kind: str) -> str:
    return kind[0] + str(2 * int(kind[1:]))


def _high(kind: str) -> Callable[[Array, Array], Array]:
    """The upper half of a product."""
    bits = int(kind[1:])
    if bits == 64:
        return lambda a, b: ((a.astype(object) * b.astype(object)) >> 64).astype(TYPES[kind])
    return lambda a, b: ((a.astype(TYPES[_wide(kind)]) * b) >> bits).astype(TYPES[kind])


def _shift_left(a: Array, count: Array) -> Array:
    bits = 8 * a.itemsize
    return np.where(count < bits, a << np.minimum(count, bits - 1).astype(a.dtype), a.dtype.type(0))


def _shift_right(a: Array, count: Array) -> Array:
    bits = 8 * a.itemsize
    least = a.dtype.type(0) if a.dtype.kind == "u" else a >> a.dtype.type(bits - 1)
    return np.where(count < bits, a >> np.minimum(count, bits - 1).astype(a.dtype), least)


def _funnel(left: bool, wrap: bool) -> Callable[[Array, Array, Array], Array]:
    """The upper half of b:a shifted left, or the lower half of it shifted right."""

    def shift(a: Array, b: Array, count: Array) -> Array:
        both = b.astype(np.uint64) << np.uint64(32) | a
        by = (count & np.uint32(31) if wrap else np.minimum(count, 32)).astype(np.uint64)
        return ((both << by) >> np.uint64(32) if left else both >> by).astype(np.uint32)

    return shift


def _extract(a: Array, start: Array, length: Array) -> Array:
    """`length` bits of a from bit `start` on, with the sign that the type asks for."""
    bits = 8 * a.itemsize
    start, length = start & 0xFF, length & 0xFF
    unsigned = a.view(f"u{a.itemsize}")
    field = _shift_right(unsigned, start) & (_shift_left(np.ones_like(unsigned), length) - unsigned.dtype.type(1))
    if a.dtype.kind == "u":
        return field
    last = np.minimum(start + length - 1, bits - 1)
    sign = (length > 0) & (_shift_right(unsigned, last) & unsigned.dtype.type(1) == 1)
    ones = _shift_left(np.full_like(unsigned, -1 % 2**bits), np.minimum(length, np.maximum(bits - start, 0)))
    return np.where(sign, field | ones, field).view(a.dtype)


def _insert(a: Array, b: Array, start: Array, length: Array) -> Array:
    """b with `length` bits of a at bit `start`."""
    one = a.dtype.type(1)
    field = _shift_left(_shift_left(np.ones_like(a), length & 0xFF) - one, start & 0xFF)
    return (b & ~field) | (_shift_left(a, start & 0xFF) & field)


def _permute(a: Array, b: Array, selector: Array) -> Array:
    """Four of the bytes of b:a, or of their signs."""
    both = b.astype(np.uint64) << np.uint64(32) | a
    result = np.zeros(np.broadcast(both, selector).shape, np.uint32)
    for k in range(4):
        choice = selector >> np.uint32(4 * k)
        byte = both >> (np.uint64(8) * (choice & np.uint32(7))) & np.uint64(0xFF)
        sign = np.where(byte & np.uint64(0x80), np.uint64(0xFF), np.uint64(0))
        result |= np.where(choice & np.uint32(8), sign, byte).astype(np.uint32) << np.uint32(8 * k)
    return result


def _logic(a: Array, b: Array, c: Array, table: Array) -> Array:
    """Bit by bit, the bit of `table` whose number is a·4 + b·2 + c."""
    result = np.zeros_like(a)
    for k in range(8):
        there = (a if k & 4 else ~a) & (b if k & 2 else ~b) & (c if k & 1 else ~c)
        result |= np.where(table >> np.uint32(k) & np.uint32(1), there, np.uint32(0))
    return result


def _leading_zeros(a: Array) -> Array:
    bits = 8 * a.itemsize
    return sum((a >> a.dtype.type(k) == 0).astype(np.uint32) for k in range(bits))


def _to_integer(kind: str, rounded: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A float as an integer: the nearest there is, 0 for a NaN."""
    limits = np.iinfo(TYPES[kind])

    def convert(x: Array) -> Array:
        whole = rounded(x.astype(np.float64))
        outside = np.isnan(whole) | (whole >= float(limits.max)) | (whole <= float(limits.min))
        result = np.where(outside, 0.0, whole).astype(TYPES[kind])
        result = np.where(whole >= float(limits.max), limits.max, result)
        return np.where(whole <= float(limits.min), limits.min, result).astype(TYPES[kind])

    return convert


def _as(kind: str) -> Callable[[Array], Array]:
    return lambda x: x.astype(TYPES[kind])


def _to_tf32(x: Array) -> Array:
    """The nearest of 11 digits, in halves the larger, as bits of a float32."""
    bits = x.view(np.uint32)
    return np.where(np.isfinite(x), (bits + np.uint32(1 << 12)) & np.uint32(0xFFFFE000), bits)


def _to_bfloat16(x: Array) -> Array:
    """The nearest of 8 digits, in halves the even one: the upper half of a float32's bits."""
    bits = x.view(np.uint32)
    nearest = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(x), np.uint32(0x7FFF), nearest).astype(np.uint16)


def _saturated(x: Array) -> Array:
    return np.where(np.isnan(x), x.dtype.type(0), np.clip(x, 0, 1))


_COMPARE = {"eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt}
_COMPARE |= {"ge": operator.ge}
_OPPOSITE = {"eq": "ne", "lt": "ge", "le": "gt", "gt": "le", "ge": "lt"}


def _differ(a: Array, b: Array) -> Array:
    return (a < b) | (a > b)


def _unordered(a: Array, b: Array) -> Array:
    return np.isnan(a) | np.isnan(b)


def _unless(function: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    return lambda a, b: ~function(a, b)


def _comparisons(kind: str) -> dict[str, Callable[[Array, Array], Array]]:
    """By name; of floats those with u are true if there is a NaN, and the others are not."""
    if kind not in _FLOATS:
        more = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"} if kind[0] == "u" else {}
        return {**_COMPARE, **{name: _COMPARE[same] for name, same in more.items()}}
    unordered = {name + "u": _unless(_COMPARE[other]) for name, other in _OPPOSITE.items() if name != "eq"}
    unordered |= {"equ": _unless(_differ), "neu": operator.ne, "nan": _unordered, "num": _unless(_unordered)}
    return {**_COMPARE, "ne": _differ, **unordered}


_JOINED = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}
_ROUNDED = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def _operations() -> dict[str, Operation]:
    table: dict[str, Operation] = {}

    def add(name: str, function: Callable[..., Array], to: str, *sources: str) -> None:
        table[name] = Operation(function, to, sources)

    for t in _INTEGERS:
        for name, function in {"add": operator.add, "sub": operator.sub, "mul.lo": operator.mul}.items():
            add(f"{name}.{t}", function, t, t, t)
        for name, function in {"div": _quotient, "rem": np.fmod, "min": np.minimum, "max": np.maximum}.items():
            add(f"{name}.{t}", function, t, t, t)
        add(f"mad.lo.{t}", lambda a, b, c: a * b + c, t, t, t, t)
        add(f"mul.hi.{t}", _high(t), t, t, t)
        add(f"shr.{t}", _shift_right, t, t, "u32")
        if t[1:] != "64":
            wide = _wide(t)
            add(f"mul.wide.{t}", lambda a, b, w=wide: a.astype(TYPES[w]) * b, wide, t, t)
            add(f"mad.wide.{t}", lambda a, b, c, w=wide: a.astype(TYPES[w]) * b + c, wide, t, t, wide)
        if t[1:] != "16":
            add(f"bfe.{t}", _extract, t, t, "u32", "u32")
    for t in (*_SIGNED, *_FLOATS):
        add(f"neg.{t}", operator.neg, t, t)
        add(f"abs.{t}", np.abs, t, t)
    for t in (*_BITS, "pred"):
        for name, function in _JOINED.items():
            add(f"{name}.{t}", function, t, t, t)
        add(f"not.{t}", operator.invert, t, t)
        if t != "pred":
            add(f"shl.{t}", _shift_left, t, t, "u32")
            add(f"shr.{t}", _shift_right, t, t, "u32")
    for t in ("b32", "b64"):
        add(f"popc.{t}", lambda a: np.bitwise_count(a).astype(np.uint32), "u32", t)
        add(f"clz.{t}", _leading_zeros, "u32", t)
        add(f"bfi.{t}", _insert, t, t, t, "u32", "u32")
    for direction, form in (("l", "wrap"), ("r", "wrap"), ("l", "clamp"), ("r", "clamp")):
        add(f"shf.{direction}.{form}.b32", _funnel(direction == "l", form == "wrap"), "b32", "b32", "b32", "u32")
    add("prmt.b32", _permute, "b32", "b32", "b32", "b32")
    add("lop3.b32", _logic, "b32", "b32", "b32", "b32", "u32")

    for t in _FLOATS:
        for rounding in ("", ".rn"):
            for name, function in {"add": operator.add, "sub": operator.sub, "mul": operator.mul}.items():
                add(f"{name}{rounding}.{t}", function, t, t, t)
        add(f"fma.rn.{t}", fma32 if t == "f32" else fma64, t, t, t, t)
        add(f"div.rn.{t}", operator.truediv, t, t, t)
        add(f"rcp.rn.{t}", lambda x: 1 / x, t, t)
        add(f"sqrt.rn.{t}", np.sqrt, t, t)
        add(f"min.{t}", _smaller, t, t, t)
        add(f"max.{t}", _larger, t, t, t)
        # The sign is that of the first.
        add(f"copysign.{t}", lambda a, b: np.copysign(b, a), t, t, t)
    add("fma.rm.f32", fma32_down, "f32", "f32", "f32", "f32")
    add("div.full.f32", operator.truediv, "f32", "f32", "f32")
    add("div.approx.f32", operator.truediv, "f32", "f32", "f32")
    add("rcp.approx.ftz.f64", _reciprocal64, "f64", "f64")
    near: dict[str, Callable[[Array], Array]] = {"ex2": np.exp2, "lg2": np.log2, "sqrt": np.sqrt, "tanh": np.tanh}
    near |= {"rcp": lambda x: 1 / x, "rsqrt": lambda x: 1 / np.sqrt(x), "sin": np.sin, "cos": np.cos}
    for name, function in near.items():
        add(f"{name}.approx.f32", _in_double(function), "f32", "f32")
        add(f"{name}.approx.ftz.f32", _flushed(_in_double(function)), "f32", "f32")

    for t in (*_INTEGERS, *_FLOATS, *_BITS):
        compare = _comparisons(t) if t not in _BITS else {name: _COMPARE[name] for name in ("eq", "ne")}
        for name, function in compare.items():
            add(f"setp.{name}.{t}", function, "pred", t, t)
            for join, joined in _JOINED.items():
                both = lambda a, b, p, f=function, j=joined: j(f(a, b), p)  # noqa: E731
                add(f"setp.{name}.{join}.{t}", both, "pred", t, t, "pred")
        add(f"selp.{t}", lambda a, b, p: np.where(p, a, b), t, t, t, "pred")
        add(f"mov.{t}", lambda a: a, t, t)
    add("mov.pred", lambda a: a, "pred", "pred")

    integers = ("s8", "u8", *_INTEGERS)
    for t in integers:
        for other in integers:
            add(f"cvt.{t}.{other}", _as(t), t, other)
        for f in ("f16", *_FLOATS):
            add(f"cvt.rn.{f}.{t}", _as(f), f, t)
            for name, rounded in _ROUNDED.items():
                add(f"cvt.{name}.{t}.{f}", _to_integer(t, rounded), t, f)
    for t in _FLOATS:
        for name, rounded in _ROUNDED.items():
            add(f"cvt.{name}.{t}.{t}", rounded, t, t)
        add(f"cvt.sat.{t}.{t}", _saturated, t, t)
        add(f"cvt.rn.f16.{t}", _as("f16"), "f16", t)
        add(f"cvt.{t}.f16", _as(t), t, "f16")
    add("cvt.f64.f32", _as("f64"), "f64", "f32")
    add("cvt.rn.f32.f64", _as("f32"), "f32", "f64")
    add("cvt.rna.tf32.f32", _to_tf32, "b32", "f32")
    add("cvt.rn.bf16.f32", _to_bfloat16, "b16", "f32")
    # Addresses of all spaces are numbers of one kind here.
    for space in ("global", "shared", "local", "const"):
        for name in (f"cvta.{space}.u64", f"cvta.to.{space}.u64"):
            add(name, lambda a: a, "u64", "u64")
    return table


OPERATIONS = _operations()
