// half: 5 bits of exponent, 10 of mantissa.
#pragma once
#include "short_floats.h"

using __half = cudaemu::Short<5, 10>;
using half = __half;
CUDAEMU_SHORT(half, half2)
using __half2 = half2;

CUDAEMU_QUIET half __float2half(float x) { return half(x); }
CUDAEMU_QUIET half __float2half_rn(float x) { return half(x); }
CUDAEMU_QUIET float __half2float(half x) { return float(x); }
CUDAEMU_QUIET half2 make_half2(half x, half y) { return {x, y}; }
CUDAEMU_QUIET half2 __halves2half2(half x, half y) { return {x, y}; }
CUDAEMU_QUIET half2 __floats2half2_rn(float x, float y) { return {half(x), half(y)}; }
CUDAEMU_QUIET float2 __half22float2(half2 a) { return {float(a.x), float(a.y)}; }
CUDAEMU_QUIET float __low2float(half2 a) { return float(a.x); }
CUDAEMU_QUIET float __high2float(half2 a) { return float(a.y); }
CUDAEMU_QUIET unsigned short __half_as_ushort(half x) { return x.bits; }
