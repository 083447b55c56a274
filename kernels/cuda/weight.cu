// The gradient of a convolution's weights as an implicit matrix product: its sum runs over the pixels of all images.
//
//     gw[o, q] = Σ_pixel gy[o, pixel] · x[place(pixel) + offset(q)],   q = (channel, tap)
//
// A block computes TILE_O output channels × TILE_Q q of a share of the pixels, EACH × EACH to a thread, TILE_K pixels at a
// time, while cp.async brings the next. A thread always brings the same of these pixels, so that its place moves on by
// steps and nothing is divided in the loop; where a q lies, relative to a pixel, is looked up in shared memory. Shares are
// added up by a second kernel, in order: the result is the same whatever the order of the blocks.

#include "product.cuh"

#ifndef TILE_O
#define TILE_O 128
#define TILE_Q 128
#endif
#define EACH (TILE_O * TILE_Q == 64 * 64 ? 4 : 8)
#define ACROSS (TILE_Q / EACH)
// Rows of a part that a thread does not bring until its next.
#define ROWS (THREADS / TILE_K)

// parts: (shares, o_count, q_count). share: pixels of each, a multiple of TILE_K. table: for each q its offset in x, row and
// column relative to a pixel's.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
weight(const float* __restrict__ x, const float* __restrict__ gy, const int4* __restrict__ table, float* __restrict__ parts,
       int pixels, int share, int oh, int ow, int sh, int sw, int h, int width, int image, int o_count, int q_count) {
    __shared__ __align__(16) float part_g[2][TILE_K][TILE_O + 4];
    __shared__ __align__(16) float part_x[2][TILE_K][TILE_Q + 4];
    __shared__ int4 places[TILE_Q];
    const int t = threadIdx.x, first_o = blockIdx.y * TILE_O, first_q = blockIdx.x * TILE_Q;
    const int k = t % TILE_K, row = t / TILE_K;
    const int end = min(pixels, (int)(blockIdx.z + 1) * share), plane = oh * ow;

    if (t < TILE_Q) places[t] = first_q + t < q_count ? __ldg(table + first_q + t) : make_int4(0, -(1 << 30), 0, 0);
    __syncthreads();
    int pixel = blockIdx.z * share + k;
    int n = pixel / plane, place = pixel - n * plane, i = place / ow, j = place - i * ow;
    // Of its image: x, and gy from this thread's first channel on.
    const float* of_x = x + (size_t)n * image;
    const float* of_g = gy + ((size_t)n * o_count + first_o + row) * plane;

    auto bring_both = [&](int part) {
        const bool there = pixel < end;
        // Far above the image where there is no pixel.
        const int v0 = there ? i * sh : -(1 << 30), u0 = j * sw, channels = there ? o_count - first_o - row : 0;
        const int from_x = i * sh * width + u0;
        const float* from_g = of_g + i * ow + j;
        // Where nothing is there, nothing is read, wherever the pointer is.
#pragma unroll
        for (int e = 0; e < TILE_O / ROWS; e++, from_g += (size_t)ROWS * plane)
            __pipeline_memcpy_async(&part_g[part][k][row + e * ROWS], from_g, 4, e * ROWS < channels ? 0 : 4);
#pragma unroll
        for (int e = 0; e < TILE_Q / ROWS; e++) {
            const int4 at = places[row + e * ROWS];
            // Not &&: registers are short, and a branch for each element takes more.
            bool has = (unsigned)(v0 + at.y) < (unsigned)h & (unsigned)(u0 + at.z) < (unsigned)width;
            __pipeline_memcpy_async(&part_x[part][k][row + e * ROWS], of_x + (from_x + at.x), 4, has ? 0 : 4);
        }
        __pipeline_commit();
        pixel += TILE_K;
        for (j += TILE_K; j >= ow; j -= ow)
            if (++i == oh) i = 0, of_x += image, of_g += (size_t)o_count * plane;
    };

    const int to_o = t / ACROSS * 4, to_q = t % ACROSS * 4;
    float sum[EACH][EACH] = {};
    bring_both(0);
    for (int p0 = blockIdx.z * share, part = 0; p0 < end; p0 += TILE_K, part ^= 1) {
        __pipeline_wait_prior(0);
        // All have what they brought, and nobody still reads the other half.
        __syncthreads();
        if (p0 + TILE_K < end) bring_both(part ^ 1);
        multiply(part_g[part], part_x[part], to_o, to_q, sum);
    }
    float* to = parts + (size_t)blockIdx.z * o_count * q_count;
#pragma unroll
    for (int r = 0; r < EACH; r++)
#pragma unroll
        for (int s = 0; s < EACH; s++) {
            int o = first_o + to_o + r % 4 + r / 4 * (TILE_O / 2), q = first_q + to_q + s % 4 + s / 4 * (TILE_Q / 2);
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
