// Depthwise convolution and its gradients: each channel is convolved with windows of its own only.
//
//     y[n, o, i, j] = Σ_rs w[o, r, s] · x[n, o / og, i·sh + r·dh − top, j·sw + s·dw − left]
//
// All of it is bound by memory. A thread owns ROWS results, one below the other, and marches down the source: a row that
// it has read meets all results that it is a part of, which wait in registers. What neighbours read twice is in the first
// cache. A block is a rectangle of one plane or, where planes are small, of several: block (columns, rows / ROWS, planes).
//
// K is the size of a square window without dilation and S its stride on both axes, or K is 0: any. REAL is float or double.

#include "activation.cuh"
#include "reduce.cuh"

#ifndef K
#define K 3
#define S 1
#endif
#ifndef REAL
#define REAL float
#endif
#define THREADS 256
#define ROWS 8
// Of a multiprocessor.
#define BLOCKS (K > 3 ? 1 : K == 0 ? 4 : S == 1 ? 3 : 2)

#if K
// row[s] = (v, u + s·STEP) of the plane for s < count, zero outside of it and from `count` on.
template <int STEP, int SIZE>
static __device__ __forceinline__ void read(REAL (&row)[SIZE], int count, const REAL* __restrict__ plane, int h, int width,
                                            int v, int u) {
    const bool there = (unsigned)v < (unsigned)h;
    const REAL* from = plane + v * width + u;
#pragma unroll
    for (int s = 0; s < SIZE; s++)
        row[s] = there && s < count && (unsigned)(u + s * STEP) < (unsigned)width ? from[s * STEP] : (REAL)0;
}
#else
// (v, u) of the plane, zero outside of it.
static __device__ __forceinline__ REAL element(const REAL* __restrict__ plane, int h, int width, int v, int u) {
    return (unsigned)v < (unsigned)h && (unsigned)u < (unsigned)width ? plane[v * width + u] : (REAL)0;
}

// The first tap with place − tap·dilation = source·stride, and that source. Without one, tap is the kernel's size.
struct Met {
    int tap, source;
};

static __device__ __forceinline__ Met first_met(int place, int kernel, int stride, int dilation) {
    int tap = 0;
    while (tap < kernel && (place - tap * dilation) % stride) tap++;
    return {tap, (place - tap * dilation) / stride};
}
#endif

// y = activation(bias + Σ + z). planes: images · o_count.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
depthwise(const REAL* __restrict__ x, const REAL* __restrict__ w, const REAL* __restrict__ bias, const REAL* __restrict__ z,
          REAL* __restrict__ y, int planes, int o_count, int og, int h, int width, int oh, int ow, int kh, int kw, int sh,
          int sw, int top, int left, int dh, int dw, int activation) {
    const int j = blockIdx.x * blockDim.x + threadIdx.x, i0 = (blockIdx.y * blockDim.y + threadIdx.y) * ROWS;
    if (i0 >= oh || j >= ow) return;
    const int v0 = i0 * sh - top, u0 = j * sw - left;
    for (int plane = blockIdx.z * blockDim.z + threadIdx.z; plane < planes; plane += gridDim.z * blockDim.z) {
        const int o = plane % o_count;
        // Planes of y are og times as many as of x.
        const REAL* from = x + (size_t)(plane / og) * h * width;
        const REAL* weights = w + o * kh * kw;
        REAL sum[ROWS] = {};
#if K
        REAL window[K][K];
#pragma unroll
        for (int tap = 0; tap < K * K; tap++) window[tap / K][tap % K] = weights[tap];
#pragma unroll
        for (int v = 0; v < (ROWS - 1) * S + K; v++) {
            REAL row[K];
            read<1>(row, K, from, h, width, v0 + v, u0);
#pragma unroll
            for (int r = 0; r < K; r++) {
                if (v < r || (v - r) % S || (v - r) / S >= ROWS) continue;
#pragma unroll
                for (int s = 0; s < K; s++) sum[(v - r) / S] += window[r][s] * row[s];
            }
        }
#else
        for (int r = 0; r < kh; r++)
            for (int s = 0; s < kw; s++) {
                REAL weight = weights[r * kw + s];
#pragma unroll
                for (int t = 0; t < ROWS; t++)
                    sum[t] += weight * element(from, h, width, v0 + t * sh + r * dh, u0 + s * dw);
            }
#endif
        REAL more = bias ? bias[o] : (REAL)0;
#pragma unroll
        for (int t = 0; t < ROWS; t++) {
            if (i0 + t >= oh) break;
            size_t to = ((size_t)plane * oh + i0 + t) * ow + j;
            REAL value = sum[t] + more + (z ? z[to] : (REAL)0);
            y[to] = activation ? activated(value, activation) : value;
        }
    }
}

// gx[n, c, v, u] = Σ gy[n, o, i, j] · w[o, r, s] over the og outputs of c and the (i, r) and (j, s) that meet (v, u):
// v + top = i·sh + r·dh. planes: images · channels. Of taps that meet an element, the next is (next_r, next_s) further,
// and the output that it meets (back_i, back_j) nearer.
//
// A thread's first row is a multiple of the stride further than output 0's first tap, so that which taps its rows meet is
// known to the compiler. There may be up to S − 1 rows above gx.
extern "C" __global__ void __launch_bounds__(THREADS, K == 3 ? 2 : BLOCKS)
depthwise_grad_input(const REAL* __restrict__ gy, const REAL* __restrict__ w, REAL* __restrict__ gx, int planes, int c_count,
                     int og, int h, int width, int oh, int ow, int kh, int kw, int sh, int sw, int top, int left, int dh,
                     int dw, int next_r, int next_s, int back_i, int back_j) {
    const int u = blockIdx.x * blockDim.x + threadIdx.x;
    const int v0 = (blockIdx.y * blockDim.y + threadIdx.y) * ROWS - top % sh;
    if (v0 >= h || u >= width) return;
    for (int plane = blockIdx.z * blockDim.z + threadIdx.z; plane < planes; plane += gridDim.z * blockDim.z) {
        REAL sum[ROWS] = {};
        for (int q = 0; q < og; q++) {
            const REAL* from = gy + ((size_t)plane * og + q) * oh * ow;
            const REAL* weights = w + (plane % c_count * og + q) * kh * kw;
#if K
            const int i0 = (v0 + top) / S, j0 = (u + left) / S, s0 = (u + left) % S;
            // This column's taps: s0, s0 + S, …; they meet outputs j0, j0 − 1, ….
            const int taps = (K + S - 1) / S, count = (K - s0 + S - 1) / S;
            REAL window[K][taps];
#pragma unroll
            for (int r = 0; r < K; r++)
#pragma unroll
                for (int k = 0; k < taps; k++) window[r][k] = k < count ? weights[r * K + s0 + k * S] : (REAL)0;
#pragma unroll
            for (int i = -((K - 1) / S); i * S < ROWS; i++) {
                REAL row[taps];
                read<-1>(row, count, from, oh, ow, i0 + i, j0);
#pragma unroll
                for (int r = 0; r < K; r++) {
                    if (i * S + r < 0 || i * S + r >= ROWS) continue;
#pragma unroll
                    for (int k = 0; k < taps; k++) sum[i * S + r] += window[r][k] * row[k];
                }
            }
#else
            const Met beside = first_met(u + left, kw, sw, dw);
#pragma unroll
            for (int t = 0; t < ROWS; t++) {
                const Met above = first_met(v0 + t + top, kh, sh, dh);
                for (int r = above.tap, i = above.source; r < kh; r += next_r, i -= back_i)
                    for (int s = beside.tap, j = beside.source; s < kw; s += next_s, j -= back_j)
                        sum[t] += weights[r * kw + s] * element(from, oh, ow, i, j);
            }
#endif
        }
#pragma unroll
        for (int t = 0; t < ROWS; t++)
            if (v0 + t >= 0 && v0 + t < h) gx[((size_t)plane * h + v0 + t) * width + u] = sum[t];
    }
}

// parts[share, o, r, s] = Σ gy[n, o, i, j] · x[n, o / og, …] over a share of the pieces, which are the rectangles that a
// block does at a time, `down` × `across` of them in each blockDim.z images. blockIdx is (o, share, tap); with K a block
// does all taps.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
depthwise_grad_weight(const REAL* __restrict__ x, const REAL* __restrict__ gy, REAL* __restrict__ parts, int images,
                      int pieces, int down, int across, int og, int h, int width, int oh, int ow, int kh, int kw, int sh,
                      int sw, int top, int left, int dh, int dw) {
    const int side = K ? K : 1, warps = THREADS / 32;
    __shared__ REAL of_warps[side * side][warps];
    const int o = blockIdx.x, o_count = gridDim.x, c = o / og, c_count = o_count / og;
    const int first_tap = blockIdx.z, dv = first_tap / kw * dh - top, du = first_tap % kw * dw - left;
    REAL sum[side][side] = {};
    for (int piece = blockIdx.y; piece < pieces; piece += gridDim.y) {
        const int n_block = piece / (down * across), place = piece - n_block * (down * across), i_block = place / across;
        const int n = n_block * blockDim.z + threadIdx.z, i0 = (i_block * blockDim.y + threadIdx.y) * ROWS;
        const int j = (place - i_block * across) * blockDim.x + threadIdx.x;
        if (n >= images || i0 >= oh || j >= ow) continue;
        const REAL* from = x + ((size_t)n * c_count + c) * h * width;
        const REAL* of_gy = gy + (((size_t)n * o_count + o) * oh + i0) * ow + j;
        REAL g[ROWS];
#pragma unroll
        for (int t = 0; t < ROWS; t++) g[t] = i0 + t < oh ? of_gy[t * ow] : (REAL)0;
        // An output that is not there is left out: zero times what it would meet may be NaN.
#if K
#pragma unroll
        for (int v = 0; v < (ROWS - 1) * S + K; v++) {
            REAL row[K];
            read<1>(row, K, from, h, width, i0 * S + dv + v, j * S + du);
#pragma unroll
            for (int r = 0; r < K; r++) {
                const int t = (v - r) / S;
                if (v < r || (v - r) % S || t >= ROWS) continue;
                if (i0 + t < oh)
#pragma unroll
                    for (int s = 0; s < K; s++) sum[r][s] += g[t] * row[s];
            }
        }
#else
#pragma unroll
        for (int t = 0; t < ROWS; t++)
            if (i0 + t < oh) sum[0][0] += g[t] * element(from, h, width, (i0 + t) * sh + dv, j * sw + du);
#endif
    }
    const int t = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
#pragma unroll
    for (int tap = 0; tap < side * side; tap++) {
        REAL total = over_warp<Sum>(sum[tap / side][tap % side]);
        if (t % 32 == 0) of_warps[tap][t / 32] = total;
    }
    __syncthreads();
    if (t < side * side) {
        REAL total = of_warps[t][0];
        for (int k = 1; k < warps; k++) total += of_warps[t][k];
        parts[((size_t)blockIdx.y * o_count + o) * kh * kw + first_tap + t] = total;
    }
}

// gw[k] = Σ parts[share][k], in order.
extern "C" __global__ void __launch_bounds__(THREADS)
sum_shares(const REAL* __restrict__ parts, REAL* __restrict__ gw, int count, int shares) {
    int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= count) return;
    REAL total = parts[k];
    for (int share = 1; share < shares; share++) total += parts[(size_t)share * count + k];
    gw[k] = total;
}
