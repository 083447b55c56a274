// The gradient of a convolution's weights as an implicit matrix product: its sum runs over the pixels of all images.
//
//     gw[o, q] = Σ_pixel gy[o, pixel] · x[place(pixel) + offset(q)],   q = (channel, tap)
//
// A block computes 64 output channels × 64 q of a share of the pixels, 4 × 4 to a thread, 16 pixels at a time, while
// cp.async brings the next 16. A thread always brings the same of the 16 pixels, so that its place moves on by steps and
// nothing is divided in the loop; where its q lie is in registers. Shares are added up by a second kernel, in order: the
// result is the same whatever the order of the blocks.

#include "product.cuh"

#define TILE 64
#define EACH 4

// parts: (shares, o_count, q_count). share: pixels of each, a multiple of TILE_K. table: for each q its offset in x, row and
// column relative to a pixel's.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
weight(const float* __restrict__ x, const float* __restrict__ gy, const int4* __restrict__ table, float* __restrict__ parts,
       int pixels, int share, int plane, int ow, int sh, int sw, int top, int left, int h, int width, int image, int o_count,
       int q_count) {
    __shared__ __align__(16) float part_g[2][TILE_K][TILE + 4];
    __shared__ __align__(16) float part_x[2][TILE_K][TILE + 4];
    const int t = threadIdx.x, first_o = blockIdx.y * TILE, first_q = blockIdx.x * TILE;
    const int k = t % TILE_K, row = t / TILE_K;
    const int end = min(pixels, (int)(blockIdx.z + 1) * share);

    int4 at[EACH];
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        int q = first_q + row + e * 16;
        at[e] = q < q_count ? __ldg(table + q) : make_int4(0, -(1 << 30), 0, 0);
    }
    int pixel = blockIdx.z * share + k;
    int n = pixel / plane, place = pixel - n * plane, i = place / ow, j = place - i * ow;

    auto bring_both = [&](int part) {
        bool there = pixel < end;
        int v0 = i * sh - top, u0 = j * sw - left;
        const float* from_g = gy + (size_t)n * o_count * plane + i * ow + j;
        const float* from_x = x + (size_t)n * image + v0 * width + u0;
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            int o = first_o + row + e * 16;
            bool has = there && o < o_count;
            __pipeline_memcpy_async(&part_g[part][k][row + e * 16], has ? from_g + (size_t)o * plane : gy, 4, has ? 0 : 4);
            has = there && (unsigned)(v0 + at[e].y) < (unsigned)h && (unsigned)(u0 + at[e].z) < (unsigned)width;
            __pipeline_memcpy_async(&part_x[part][k][row + e * 16], has ? from_x + at[e].x : x, 4, has ? 0 : 4);
        }
        __pipeline_commit();
        pixel += TILE_K;
        for (j += TILE_K; j >= ow; j -= ow)
            if (++i == plane / ow) i = 0, n++;
    };

    const int to_m = t / 16 * 4, to_n = t % 16 * 4;
    float sum[EACH][EACH] = {};
    bring_both(0);
    for (int p0 = blockIdx.z * share, part = 0; p0 < end; p0 += TILE_K, part ^= 1) {
        __pipeline_wait_prior(0);
        // All have what they brought, and nobody still reads the other half.
        __syncthreads();
        if (p0 + TILE_K < end) bring_both(part ^ 1);
        multiply(part_g[part], part_x[part], to_m, to_n, sum);
    }
    float* to = parts + (size_t)blockIdx.z * o_count * q_count;
#pragma unroll
    for (int r = 0; r < EACH; r++)
#pragma unroll
        for (int s = 0; s < EACH; s++) {
            int o = first_o + to_m + r, q = first_q + to_n + s;
            if (o < o_count && q < q_count) to[(size_t)o * q_count + q] = sum[r][s];
        }
}

// gw[k] = Σ parts[share][k], in order.
extern "C" __global__ void __launch_bounds__(THREADS)
sum_shares(const float* __restrict__ parts, float* __restrict__ gw, int count, int shares) {
    int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= count) return;
    float total = parts[k];
    for (int share = 1; share < shares; share++) total += parts[(size_t)share * count + k];
    gw[k] = total;
}
