// A linear layer of few rows, y (rows, columns) = x wᵀ + b: a warp for each column, which reads that row of w once.
//
// It is the reading of w that takes the time: four floats a lane, from neighbouring lanes neighbouring vectors, each used
// for all rows of x, which stay in the caches. Lanes' sums are added in a fixed order.

#include "reduce.cuh"

#ifndef ROWS
#define ROWS 8
#endif
#define WARPS 8

extern "C" __global__ void __launch_bounds__(32 * WARPS, 2)
dot(const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ bias, float* __restrict__ y,
    int rows, int columns, int depth) {
    const int lane = threadIdx.x, column = blockIdx.x * WARPS + threadIdx.y;
    // A warp leaves whole.
    if (column >= columns) return;
    w += (size_t)column * depth;
    float sum[ROWS] = {};
    if (depth % 4 == 0) {
#pragma unroll 4
        for (int k = lane * 4; k < depth; k += 128) {
            float4 a = __ldg(reinterpret_cast<const float4*>(w + k));
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                if (r >= rows) break;
                float4 b = __ldg(reinterpret_cast<const float4*>(x + (size_t)r * depth + k));
                sum[r] = fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, sum[r]))));
            }
        }
    } else {
        for (int k = lane; k < depth; k += 32) {
            float a = __ldg(w + k);
#pragma unroll
            for (int r = 0; r < ROWS; r++)
                if (r < rows) sum[r] = fmaf(a, __ldg(x + (size_t)r * depth + k), sum[r]);
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        float whole = over_warp<Sum>(sum[r]);
        if (lane == r && r < rows) y[(size_t)r * columns + column] = whole + (bias ? __ldg(bias + column) : 0.0f);
    }
}
