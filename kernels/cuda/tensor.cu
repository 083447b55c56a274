// A convolution as a matrix product on tensor cores whose second matrix is never made: implicit GEMM by WMMA.
//
//     y[o, pixel] = Σ_q w[o, q] · x[place(pixel) + offset(q)],   q = (channel, tap)
//
// FORMAT is what w and x are rounded to, to nearest, before they are multiplied: TF32, HALF or BFLOAT16. Sums are float.
// A block computes 128 output channels × 128 pixels of all images, each of its 16 warps 32 × 32, 64 bytes of the sum at
// a time. While one part of the sum is multiplied, the next comes: weights, which are packed in the format, by cp.async,
// and x through registers, where it is rounded: a thread brings 16 bytes of a pixel's q. Where a q lies, relative to a
// pixel, is looked up in a table: nothing is divided inside of the loop.
//
// The same kernel does the input gradient of a convolution of stride 1, with another table and the weights as [c][q].
//
// w: [o][q], `depth` of them, a multiple of TILE_Q, zeros beyond the sum. table: for each q its offset in x, row and
// column relative to a pixel's; those beyond the sum are far above every image. Source of the scheme: CUTLASS's
// "efficient GEMM".

#include <cuda_pipeline_primitives.h>

#include "activation.cuh"
#include "tensor.cuh"

struct __align__(16) Piece {
    Number of[PIECE];
};

extern "C" __global__ void __launch_bounds__(THREADS, 1)
tensor(const float* __restrict__ x, const Number* __restrict__ w, const int4* __restrict__ table,
       const float* __restrict__ bias, const float* __restrict__ z, float* __restrict__ y, int pixels, int plane, int ow,
       int sh, int sw, int top, int left, int h, int width, int image, int o_count, int depth, int activation) {
    // Of either half the lines of w, then those of x; in the end the sums of each warp.
    __shared__ __align__(32) Number parts[2][2 * TILE][LINE];

    const int t = threadIdx.x, lane = t % 32, warp = t / 32;
    const int first_o = blockIdx.y * TILE, first_p = blockIdx.x * TILE;

    // Of x this thread brings one of a pixel's four pieces, of w one of a channel's: eight neighbours of eight channels.
    const int column = t % TILE, piece = t / TILE * PIECE, row = warp * 8 + t % 8, piece_w = lane / 8 * PIECE;
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

    const bool has_row = first_o + row < o_count;
    const Number* from_w = has_row ? w + (size_t)(first_o + row) * depth + piece_w : w;

    auto bring_w = [&](int part, int q0) {
        __pipeline_memcpy_async(&parts[part][row][piece_w], has_row ? from_w + q0 : w, 16, has_row ? 0 : 16);
        __pipeline_commit();
    };
    float held[PIECE];
    auto bring_x = [&](int q0) {
#pragma unroll
        for (int e = 0; e < PIECE; e++) {
            int4 at = __ldg(table + q0 + piece + e);
            bool there = (unsigned)(v0 + at.y) < (unsigned)h && (unsigned)(u0 + at.z) < (unsigned)width;
            held[e] = there ? __ldg(from + at.x) : 0.0f;
        }
    };
    auto put_x = [&](int part) {
        Piece made;
#pragma unroll
        for (int e = 0; e < PIECE; e++) made.of[e] = rounded(held[e]);
        *reinterpret_cast<Piece*>(&parts[part][TILE + column][piece]) = made;
    };

    const int to_o = warp / 4 * WARP_TILE, to_p = warp % 4 * WARP_TILE;
    // A warp without outputs only brings.
    const bool multiplies = first_o + to_o < o_count && first_p + to_p < pixels;
    Sum sum[2][2];
    clear(sum);

    bring_w(0, 0);
    bring_x(0);
    put_x(0);
    for (int q0 = 0, part = 0; q0 < depth; q0 += TILE_Q, part ^= 1) {
        __pipeline_wait_prior(0);
        // All have what they brought, and nobody still reads the other half.
        __syncthreads();
        const bool more = q0 + TILE_Q < depth;
        if (more) {
            bring_w(part ^ 1, q0 + TILE_Q);
            bring_x(q0 + TILE_Q);
        }
        if (multiplies)
#pragma unroll
            for (int q = 0; q < TILE_Q; q += STEP) multiply(&parts[part][to_o], &parts[part][TILE + to_p], q, sum);
        if (more) put_x(part ^ 1);
    }
    // Nobody still reads the parts.
    __syncthreads();
    if (!multiplies) return;
    float(*sums)[SUM_LINE] = reinterpret_cast<float(*)[SUM_LINE]>(&parts[0][0][0]) + warp * 16;

    // A lane has one of its warp's pixels, of all channels.
    const int p = first_p + to_p + lane, n = p / plane;
    const size_t to = (size_t)n * o_count * plane + (p - n * plane);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        lay_down(sums, sum[r]);
#pragma unroll 1
        for (int k = 0; k < 16; k++) {
            int o = first_o + to_o + r * 16 + k;
            if (p >= pixels || o >= o_count) break;
            size_t place = to + (size_t)o * plane;
            float value = sums[k][lane] + (bias ? __ldg(bias + o) : 0.0f) + (z ? __ldg(z + place) : 0.0f);
            y[place] = activated(value, activation);
        }
        __syncwarp();
    }
}

// u[o][q] = w[o][q] in the format, `depth` of them, zeros beyond the sum. flip: w is (O, C, taps), and
// u[c][o·taps + tap] of it, for the input gradient.
extern "C" __global__ void __launch_bounds__(256)
round_weights(const float* __restrict__ w, Number* __restrict__ u, int o_count, int c_count, int taps, int depth,
              int flip) {
    int q = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
    if (q >= depth) return;
    int of = q / taps, tap = q - of * taps;
    float value = 0.0f;
    if (of < (flip ? o_count : c_count))
        value = w[flip ? ((size_t)of * c_count + row) * taps + tap : ((size_t)row * c_count + of) * taps + tap];
    u[(size_t)row * depth + q] = rounded(value);
}
