// The gradient of a convolution's weights on tensor cores: an implicit matrix product whose sum runs over the pixels of
// all images.
//
//     gw[o, q] = Σ_pixel gy[o, pixel] · x[place(pixel) + offset(q)],   q = (channel, tap)
//
// FORMAT is what gy and x are rounded to, as in tensor.cu. A block computes 128 output channels × 128 q of a share of
// the pixels, each of its 16 warps 32 × 32, 64 bytes of the sum at a time. While they are multiplied, the next come
// through registers, gy in the first half of the time and x in the second. A thread always brings the same of a part's
// pixels, so that its place moves on by steps and nothing is divided in the loop.

#include "tensor.cuh"

// Rows of gy, and of x, that are brought at a time; and by one thread.
#define ROWS (THREADS / TILE_Q)
#define EACH (TILE / ROWS)

// parts: (shares, o_count, q_count). share: pixels of each, a multiple of TILE_Q. table: for each q its offset in x, row
// and column relative to a pixel's.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
tensor_weight(const float* __restrict__ x, const float* __restrict__ gy, const int4* __restrict__ table,
              float* __restrict__ parts, int pixels, int share, int oh, int ow, int sh, int sw, int top, int left, int h,
              int width, int image, int o_count, int q_count) {
    // Of either half the lines of gy, then those of x; in the end the sums of each warp.
    __shared__ __align__(32) Number held[2][2 * TILE][LINE];

    const int t = threadIdx.x, lane = t % 32, warp = t / 32;
    const int first_o = blockIdx.y * TILE, first_q = blockIdx.x * TILE;
    const int end = min(pixels, (int)(blockIdx.z + 1) * share);
    // Where a warp brings two rows they are four apart, which share no bank.
    const int k = lane % TILE_Q, row = warp / 4 * (128 / TILE_Q) + warp % 4 + lane / TILE_Q * 4;

    int pixel = blockIdx.z * share + k;
    const int plane = oh * ow;
    int n = pixel / plane, place = pixel - n * plane, i = place / ow, j = place - i * ow;
    float came[EACH];
    auto bring_g = [&] {
        const float* from = gy + (size_t)n * o_count * plane + i * ow + j;
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            int o = first_o + row + e * ROWS;
            came[e] = pixel < end && o < o_count ? __ldg(from + (size_t)o * plane) : 0.0f;
        }
    };
    // And on to the next part's pixel.
    auto bring_x = [&] {
        const int v0 = i * sh - top, u0 = j * sw - left;
        const float* from = x + (size_t)n * image + v0 * width + u0;
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            int q = first_q + row + e * ROWS;
            int4 at = q < q_count ? __ldg(table + q) : make_int4(0, -(1 << 30), 0, 0);
            bool there = pixel < end && (unsigned)(v0 + at.y) < (unsigned)h && (unsigned)(u0 + at.z) < (unsigned)width;
            came[e] = there ? __ldg(from + at.x) : 0.0f;
        }
        pixel += TILE_Q;
        for (j += TILE_Q; j >= ow; j -= ow)
            if (++i == oh) i = 0, n++;
    };
    auto put = [&](Number (*lines)[LINE]) {
#pragma unroll
        for (int e = 0; e < EACH; e++) lines[row + e * ROWS][k] = rounded(came[e]);
    };

    const int to_o = warp / 4 * WARP_TILE, to_q = warp % 4 * WARP_TILE;
    // A warp without outputs only brings.
    const bool multiplies = first_o + to_o < o_count && first_q + to_q < q_count;
    Sum sum[2][2];
    clear(sum);

    bring_g();
    put(held[0]);
    bring_x();
    put(held[0] + TILE);
    for (int p0 = blockIdx.z * share, part = 0; p0 < end; p0 += TILE_Q, part ^= 1) {
        // All have what they put, and nobody still reads the other half.
        __syncthreads();
        const bool more = p0 + TILE_Q < end;
        const Number(*of_g)[LINE] = held[part] + to_o, (*of_x)[LINE] = held[part] + TILE + to_q;
        if (more) bring_g();
        if (multiplies) multiply(of_g, of_x, 0, sum);
        if (more) {
            put(held[part ^ 1]);
            bring_x();
        }
        if (multiplies) multiply(of_g, of_x, STEP, sum);
        if (more) put(held[part ^ 1] + TILE);
    }
    // Nobody still reads what was held.
    __syncthreads();
    if (!multiplies) return;
    float(*sums)[SUM_LINE] = reinterpret_cast<float(*)[SUM_LINE]>(&held[0][0][0]) + warp * 16;

    // A lane has one of its warp's q, of all channels.
    const int q = first_q + to_q + lane;
    float* to = parts + (size_t)blockIdx.z * o_count * q_count + q;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        lay_down(sums, sum[r]);
        for (int c = 0; c < 16; c++) {
            int o = first_o + to_o + r * 16 + c;
            if (q < q_count && o < o_count) to[(size_t)o * q_count] = sums[c][lane];
        }
        __syncwarp();
    }
}
