// A convolution as a matrix product whose second matrix is never made: implicit GEMM.
//
//     y[o, pixel] = Σ_q w[q, o] · x[place(pixel) + offset(q)],   q = (channel, tap)
//
// A block computes TILE_O output channels × TILE_P pixels of all images, 8 × 8 to a thread, TILE_Q of the sum at a time.
// While one part of the sum is multiplied, the next comes into the other half of shared memory by cp.async; padding is
// what cp.async fills with zeros. Where a q lies, relative to a pixel, is looked up in a table: nothing is divided inside
// of the loop. Both operands are read from shared memory as float4, neighbours from neighbouring banks.
//
// The same kernel does the input gradient, with other tables and the weights as [q][c]. With a stride that falls into one
// dense grid of outputs for each remainder of (row, column), because an element of gx meets only the taps of its own
// remainder: no zero is multiplied. A block works on grid blockIdx.z.
//
// Where outputs are too few to fill the device, sums are cut into parts, each a grid of its own that writes to an array of
// its own, and sum_parts adds them up.
//
// w: [q][o], rows of `row` floats, a multiple of 4, zeros from O on. Source of the scheme: CUTLASS's "efficient GEMM";
// Chetlur et al. 2014.

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

// A grid of outputs: its q, the first of them a multiple of TILE_Q; its size; its first output; which part of the sum.
struct Grid {
    int first, depth, rows, columns, first_row, first_column, part;
};

// table: for each q its offset in x, row and column, all relative to a pixel's, and where its weights begin, which `pack`
// reads. Up to whole parts of the sum there are q far above every image, with weights of 0.
//
// Output (i, j) of a grid stands (oi, oj) times as far from its first, and is read (ri, rj) times as far from x's.
extern "C" __global__ void __launch_bounds__(THREADS, TILE_O == 64 ? 1 : 2)
implicit(const float* __restrict__ x, const float* __restrict__ w, const int4* __restrict__ table, const Grid* grids,
         const float* __restrict__ bias, const float* __restrict__ z, float* __restrict__ y, int images, int ri, int rj,
         int h, int width, int image, int oi, int oj, int oh, int ow, int o_count, int row, int activation) {
    __shared__ __align__(16) float part_w[2][TILE_Q][TILE_O];
    __shared__ __align__(16) float part_x[2][TILE_Q][TILE_P];

    const int t = threadIdx.x;
    const int first_o = blockIdx.y * TILE_O, first_p = blockIdx.x * TILE_P;
    // Read again after the main loop, where registers are short: the pointer is not __restrict__.
    const Grid& grid = grids[blockIdx.z];
    if (first_p >= images * grid.rows * grid.columns) return;

    // Of x this thread brings one pixel's column, every (THREADS / TILE_P)th row of it.
    const int column = t % TILE_P, first_row = t / TILE_P;
    const int pixel = first_p + column;
    // Far above the image where there is no pixel.
    int v0 = -(1 << 30), u0 = 0;
    const float* from = x;
    if (pixel < images * grid.rows * grid.columns) {
        int plane = grid.rows * grid.columns, n = pixel / plane, place = pixel - n * plane;
        int i = place / grid.columns, j = place - i * grid.columns;
        v0 = i * ri;
        u0 = j * rj;
        from = x + (size_t)n * image + v0 * width + u0;
    }

    auto bring = [&](int part, int q0) {
#pragma unroll
        for (int k = 0; k < TILE_Q * TILE_O / 4 / THREADS; k++) {
            int piece = t + k * THREADS, q = piece / (TILE_O / 4), o = piece % (TILE_O / 4) * 4;
            bool there = first_o + o < row;
            __pipeline_memcpy_async(&part_w[part][q][o], w + ((q0 + q) * row + first_o + o), 16,
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
    const int first_q = grid.first, steps = grid.depth / TILE_Q;
    if (steps) bring(0, first_q);
    for (int step = 0; step < steps; step++) {
        __pipeline_wait_prior(0);
        // All have what they brought, and nobody still reads the other half.
        __syncthreads();
        if (step + 1 < steps) bring((step + 1) % 2, first_q + (step + 1) * TILE_Q);
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

    const int columns = grid.columns, plane = grid.rows * columns, pixels = images * plane;
    y += grid.part * ((size_t)images * o_count * oh * ow);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int p = first_p + to_p + half * (TILE_P / 2);
        // Where four neighbours stand in the first channel. They are one store where none is in another image, or apart.
        int at[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            int n = (p + k) / plane, place = p + k - n * plane, i = place / columns, j = place - i * columns;
            at[k] = (n * o_count * oh + grid.first_row + i * oi) * ow + grid.first_column + j * oj;
        }
        const bool whole = oi * oj == 1 && plane % 4 == 0 && p + 3 < pixels;
#pragma unroll
        for (int r = 0; r < 8; r++) {
            int o = first_o + to_o + r % 4 + r / 4 * (TILE_O / 2);
            if (o >= o_count) continue;
            float more = bias ? __ldg(bias + o) : 0.0f;
            const float* s = sum[r] + half * 4;
            size_t channel = (size_t)o * oh * ow;
            if (whole) {
                size_t to = channel + at[0];
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
                    size_t to = channel + at[k];
                    float value = s[k] + more + (z ? z[to] : 0.0f);
                    y[to] = activation ? activated(value, activation) : value;
                }
            }
        }
    }
}

// y = activation(Σ parts + bias + z): `count` elements of (n, o_count, plane), and as many of each part.
extern "C" __global__ void __launch_bounds__(THREADS)
sum_parts(const float* __restrict__ parts, const float* __restrict__ bias, const float* __restrict__ z,
          float* __restrict__ y, int count, int parts_count, int plane, int o_count, int activation) {
    int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= count) return;
    float sum = 0;
    for (int part = 0; part < parts_count; part++) sum += parts[(size_t)part * count + k];
    if (bias) sum += __ldg(bias + k / plane % o_count);
    if (z) sum += z[k];
    y[k] = activation ? activated(sum, activation) : sum;
}

// u[q][k] = the k-th of q's weights, which lie `apart` floats from each other; zeros up to the row's end, and of no q.
extern "C" __global__ void __launch_bounds__(THREADS)
pack(const float* __restrict__ w, const int4* __restrict__ table, float* __restrict__ u, int count, int apart, int row) {
    int k = blockIdx.x * blockDim.x + threadIdx.x, q = blockIdx.y;
    if (k >= row) return;
    int first = __ldg(&table[q].w);
    u[(size_t)q * row + k] = first >= 0 && k < count ? w[first + (size_t)k * apart] : 0.0f;
}
