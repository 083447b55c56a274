// The matrix product: c[m, n] = Σ_k a[m, k] · b[k, n] + bias[n].
//
// A block computes TILE × TILE of c, TILE / 16 squared to a thread, TILE_K of the sum at a time, while cp.async brings the
// next. A_BY_K (B_BY_K) says that neighbours in memory are neighbours in k.

#include "product.cuh"

#ifndef TILE
#define TILE 64
#endif
#ifndef A_BY_K
#define A_BY_K 1
#define B_BY_K 1
#endif
#define EACH (TILE / 16)

extern "C" __global__ void __launch_bounds__(THREADS, TILE == 64 ? 3 : 2)
gemm(const float* __restrict__ a, const float* __restrict__ b, const float* __restrict__ bias, float* __restrict__ c, int rows,
     int columns, int depth, int a_line, int b_line, long long a_batch, long long b_batch) {
    __shared__ __align__(16) float part_a[2][TILE_K][TILE + 4];
    __shared__ __align__(16) float part_b[2][TILE_K][TILE + 4];
    const int t = threadIdx.x, row = blockIdx.y * TILE, column = blockIdx.x * TILE;
    const int to_m = t / 16 * 4, to_n = t % 16 * 4;
    // Of several products of one kind each block has one.
    a += blockIdx.z * a_batch;
    b += blockIdx.z * b_batch;
    c += (size_t)blockIdx.z * rows * columns;
    float sum[EACH][EACH] = {};
    Operand<A_BY_K, TILE> of_a(a, row, rows, depth, a_line);
    Operand<B_BY_K, TILE> of_b(b, column, columns, depth, b_line);
    of_a.bring(part_a[0]);
    of_b.bring(part_b[0]);
    __pipeline_commit();
    for (int k0 = 0, part = 0; k0 < depth; k0 += TILE_K, part ^= 1) {
        __pipeline_wait_prior(0);
        // All have what they brought, and nobody still reads the other half.
        __syncthreads();
        if (k0 + TILE_K < depth) {
            of_a.bring(part_a[part ^ 1]);
            of_b.bring(part_b[part ^ 1]);
            __pipeline_commit();
        }
        multiply(part_a[part], part_b[part], to_m, to_n, sum);
    }
#pragma unroll
    for (int r = 0; r < EACH; r++) {
        int m = row + to_m + r % 4 + r / 4 * 64;
        if (m >= rows) continue;
#pragma unroll
        for (int s = 0; s < EACH; s++) {
            int n = column + to_n + s % 4 + s / 4 * 64;
            if (n < columns) c[(size_t)m * columns + n] = sum[r][s] + (bias ? __ldg(bias + n) : 0.0f);
        }
    }
}
