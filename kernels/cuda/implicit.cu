// A convolution as a matrix product whose second matrix is never made: implicit GEMM.
//
//     y[o, pixel] = Σ_q w[q, o] · x[place(pixel) + offset(q)],   q = (channel, tap)
//
// A block computes TILE_O output channels × TILE_P pixels of all images, 8 × 8 to a thread, TILE_Q of the sum at a time.
// While one part of the sum is multiplied, the next comes into the other half of shared memory by cp.async; padding is
// what cp.async fills with zeros. Where a q lies, relative to a pixel, is looked up in a table: nothing is divided inside
// of the loop. Both operands are read from shared memory as float4, neighbours from neighbouring banks.
//
// The same kernel does the input gradient of a convolution of stride 1, with another table and the weights as [q][c].
//
// w: [q][o], rows of `row` floats, a multiple of 4, zeros from O on. table: for each q its offset in x, row and column
// relative to a pixel's; `depth` entries, and up to a multiple of TILE_Q some that are far above every image. Source of the scheme: CUTLASS's "efficient GEMM"; Chetlur et al. 2014.

#include <cuda_pipeline_primitives.h>

#include "activation.cuh"

#ifndef TILE_O
#define TILE_O 128
#define TILE_P 128
#define TILE_Q 16
#endif
#define THREADS 256
// A thread's 8 × 8 results are four 4 × 4, half a tile apart, so that a warp reads whole lines of banks.
#define ACROSS (TILE_P / 8)

extern "C" __global__ void __launch_bounds__(THREADS, TILE_O == 64 ? 1 : 2)
implicit(const float* __restrict__ x, const float* __restrict__ w, const int4* __restrict__ table,
         const float* __restrict__ bias, const float* __restrict__ z, float* __restrict__ y, int pixels, int plane, int ow,
         int sh, int sw, int top, int left, int h, int width, int image, int o_count, int row, int depth, int activation) {
    __shared__ __align__(16) float part_w[2][TILE_Q][TILE_O];
    __shared__ __align__(16) float part_x[2][TILE_Q][TILE_P];

    const int t = threadIdx.x;
    const int first_o = blockIdx.y * TILE_O, first_p = blockIdx.x * TILE_P;

    // Of x this thread brings one pixel's column, every (THREADS / TILE_P)th row of it.
    const int column = t % TILE_P, first_row = t / TILE_P;
    const int pixel = first_p + column;
    // Far above the image where there is no pixel.
    int v0 = -(1 << 30), u0 = 0;
    const float* from = x;
    if (pixel < pixels) {
        int n = pixel / plane, place = pixel - n * plane, i = place / ow, j = place - i * ow;
        v0 = i * sh - top;
        u0 = j * sw - left;
        from = x + (size_t)n * image + v0 * width + u0;
    }

    auto bring = [&](int part, int q0) {
#pragma unroll
        for (int k = 0; k < TILE_Q * TILE_O / 4 / THREADS; k++) {
            int piece = t + k * THREADS, q = piece / (TILE_O / 4), o = piece % (TILE_O / 4) * 4;
            bool there = q0 + q < depth && first_o + o < row;
            __pipeline_memcpy_async(&part_w[part][q][o], there ? w + (size_t)(q0 + q) * row + first_o + o : w, 16,
                                    there ? 0 : 16);
        }
#pragma unroll
        for (int k = 0; k < TILE_Q * TILE_P / THREADS; k++) {
            int q = first_row + k * (THREADS / TILE_P);
            int4 at = __ldg(table + q0 + q);
            bool there = (unsigned)(v0 + at.y) < (unsigned)h && (unsigned)(u0 + at.z) < (unsigned)width;
            __pipeline_memcpy_async(&part_x[part][q][column], there ? from + at.x : x, 4, there ? 0 : 4);
        }
        __pipeline_commit();
    };

    const int to_o = t / ACROSS * 4, to_p = t % ACROSS * 4;
    float sum[8][8] = {};
    bring(0, 0);
    const int steps = (depth + TILE_Q - 1) / TILE_Q;
    for (int step = 0; step < steps; step++) {
        __pipeline_wait_prior(0);
        // All have what they brought, and nobody still reads the other half.
        __syncthreads();
        if (step + 1 < steps) bring((step + 1) % 2, (step + 1) * TILE_Q);
        const int part = step % 2;
#pragma unroll
        for (int q = 0; q < TILE_Q; q++) {
            float a[8], b[8];
            *reinterpret_cast<float4*>(a) = *reinterpret_cast<const float4*>(&part_w[part][q][to_o]);
            *reinterpret_cast<float4*>(a + 4) = *reinterpret_cast<const float4*>(&part_w[part][q][to_o + TILE_O / 2]);
            *reinterpret_cast<float4*>(b) = *reinterpret_cast<const float4*>(&part_x[part][q][to_p]);
            *reinterpret_cast<float4*>(b + 4) = *reinterpret_cast<const float4*>(&part_x[part][q][to_p + TILE_P / 2]);
#pragma unroll
            for (int r = 0; r < 8; r++)
#pragma unroll
                for (int s = 0; s < 8; s++) sum[r][s] = fmaf(a[r], b[s], sum[r][s]);
        }
    }

#pragma unroll
    for (int half = 0; half < 2; half++) {
        int p = first_p + to_p + half * (TILE_P / 2);
        int n = p / plane, place = p - n * plane;
        // Four neighbours are one store where none of them is in another image.
        bool whole = plane % 4 == 0 && p + 3 < pixels;
#pragma unroll
        for (int r = 0; r < 8; r++) {
            int o = first_o + to_o + r % 4 + r / 4 * (TILE_O / 2);
            if (o >= o_count) continue;
            float more = bias ? __ldg(bias + o) : 0.0f;
            const float* s = sum[r] + half * 4;
            if (whole) {
                size_t to = ((size_t)n * o_count + o) * plane + place;
                float4 out = make_float4(s[0] + more, s[1] + more, s[2] + more, s[3] + more);
                if (z) {
                    float4 add = *reinterpret_cast<const float4*>(z + to);
                    out.x += add.x, out.y += add.y, out.z += add.z, out.w += add.w;
                }
                if (activation)
                    out = make_float4(activated(out.x, activation), activated(out.y, activation),
                                      activated(out.z, activation), activated(out.w, activation));
                *reinterpret_cast<float4*>(y + to) = out;
            } else {
                for (int k = 0; k < 4 && p + k < pixels; k++) {
                    int image_of = (p + k) / plane;
                    size_t to = ((size_t)image_of * o_count + o) * plane + (p + k - image_of * plane);
                    float value = s[k] + more + (z ? z[to] : 0.0f);
                    y[to] = activation ? activated(value, activation) : value;
                }
            }
        }
    }
}

// u[q][o] = w[o][q], rows of `row` floats with zeros from O on: what `implicit` reads. flip: w is (O, C, taps), and
// u[o·taps + tap][c] of it, for the input gradient.
extern "C" __global__ void __launch_bounds__(256)
pack(const float* __restrict__ w, float* __restrict__ u, int o_count, int c_count, int taps, int row, int flip) {
    int o = blockIdx.x * blockDim.x + threadIdx.x, q = blockIdx.y;
    if (o >= row) return;
    int tap = q % taps, of = q / taps;
    float value = 0.0f;
    if (o < (flip ? c_count : o_count))
        value = flip ? w[((size_t)of * c_count + o) * taps + tap] : w[((size_t)o * c_count + of) * taps + tap];
    u[(size_t)q * row + o] = value;
}
