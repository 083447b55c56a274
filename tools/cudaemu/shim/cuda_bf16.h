// bfloat16: float's 8 bits of exponent, 7 of mantissa.
#pragma once
#include "short_floats.h"

using __nv_bfloat16 = cudaemu::Short<8, 7>;
using nv_bfloat16 = __nv_bfloat16;
CUDAEMU_SHORT(nv_bfloat16, nv_bfloat162)
using __nv_bfloat162 = nv_bfloat162;

CUDAEMU_QUIET nv_bfloat16 __float2bfloat16(float x) { return nv_bfloat16(x); }
CUDAEMU_QUIET nv_bfloat16 __float2bfloat16_rn(float x) { return nv_bfloat16(x); }
CUDAEMU_QUIET float __bfloat162float(nv_bfloat16 x) { return float(x); }
CUDAEMU_QUIET nv_bfloat162 __halves2bfloat162(nv_bfloat16 x, nv_bfloat16 y) { return {x, y}; }
CUDAEMU_QUIET nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {nv_bfloat16(x), nv_bfloat16(y)}; }
CUDAEMU_QUIET unsigned short __bfloat16_as_ushort(nv_bfloat16 x) { return x.bits; }
