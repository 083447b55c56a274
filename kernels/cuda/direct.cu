// Convolution and its gradients by the definition: one thread for each output or element of gx, one block for each
// weight. It takes every problem; where a group has one channel (depthwise) there is little to gain on it, because x and
// y are read and written once and a window's neighbours are in the first cache.
//
// A block is a rectangle of one plane: nothing is divided in the loops. REAL is float or double.

#include "activation.cuh"
#include "reduce.cuh"

#ifndef REAL
#define REAL float
#endif
#define THREADS 256

// y[n,o,i,j] = activation(bias[o] + Σ w[o,c,r,s] · x[n, c, i·sh + r·dh − top, j·sw + s·dw − left] + z), in channels of
// o's group; planes of y are blockIdx.z, n·o_count + o.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
direct(const REAL* __restrict__ x, const REAL* __restrict__ w, const REAL* __restrict__ bias, const REAL* __restrict__ z,
       REAL* __restrict__ y, int n_count, int o_count, int c_count, int groups, int h, int width, int oh, int ow, int kh,
       int kw, int sh, int sw, int top, int left, int dh, int dw, int activation) {
    int j = blockIdx.x * blockDim.x + threadIdx.x;
    int i = blockIdx.y * blockDim.y + threadIdx.y;
    if (i >= oh || j >= ow) return;
    int cg = c_count / groups, og = o_count / groups;
    int v0 = i * sh - top, u0 = j * sw - left;
    for (int plane = blockIdx.z; plane < n_count * o_count; plane += gridDim.z) {
        int n = plane / o_count, o = plane - n * o_count;
        const REAL* from = x + ((size_t)n * c_count + (size_t)(o / og) * cg) * h * width;
        const REAL* weights = w + (size_t)o * cg * kh * kw;
        REAL total = bias ? bias[o] : (REAL)0;
        for (int c = 0; c < cg; c++, from += (size_t)h * width)
            for (int r = 0; r < kh; r++) {
                int v = v0 + r * dh;
                for (int s = 0; s < kw; s++) {
                    int u = u0 + s * dw;
                    REAL weight = *weights++;
                    if ((unsigned)v < (unsigned)h && (unsigned)u < (unsigned)width)
                        total += weight * from[(size_t)v * width + u];
                }
            }
        size_t to = ((size_t)plane * oh + i) * ow + j;
        if (z) total += z[to];
        y[to] = activation ? activated(total, activation) : total;
    }
}

// gx[n,c,v,u] = Σ gy[n, o, i, j] · w[o,c,r,s] over the outputs that read it; planes of gx are blockIdx.z.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
direct_grad_input(const REAL* __restrict__ gy, const REAL* __restrict__ w, REAL* __restrict__ gx, int n_count, int o_count,
                  int c_count, int groups, int h, int width, int oh, int ow, int kh, int kw, int sh, int sw, int top,
                  int left, int dh, int dw) {
    int u = blockIdx.x * blockDim.x + threadIdx.x;
    int v = blockIdx.y * blockDim.y + threadIdx.y;
    if (v >= h || u >= width) return;
    int cg = c_count / groups, og = o_count / groups;
    for (int plane = blockIdx.z; plane < n_count * c_count; plane += gridDim.z) {
        int n = plane / c_count, c = plane - n * c_count, group = c / cg;
        const REAL* from = gy + ((size_t)n * o_count + (size_t)group * og) * oh * ow;
        const REAL* weights = w + ((size_t)group * og * cg + (c - group * cg)) * kh * kw;
        REAL total = 0;
        for (int o = 0; o < og; o++, from += (size_t)oh * ow, weights += (size_t)cg * kh * kw)
            for (int r = 0; r < kh; r++) {
                int i = v + top - r * dh;
                if (i < 0 || i % sh || i / sh >= oh) continue;
                for (int s = 0; s < kw; s++) {
                    int j = u + left - s * dw;
                    if (j < 0 || j % sw || j / sw >= ow) continue;
                    total += weights[r * kw + s] * from[(size_t)(i / sh) * ow + j / sw];
                }
            }
        gx[((size_t)plane * h + v) * width + u] = total;
    }
}

// gw[o,c,r,s] = Σ gy[n,o,i,j] · x[n, c, …]: a block for each, whose threads take turns at the outputs.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
direct_grad_weight(const REAL* __restrict__ x, const REAL* __restrict__ gy, REAL* __restrict__ gw, int n_count, int o_count,
                   int c_count, int groups, int h, int width, int oh, int ow, int kh, int kw, int sh, int sw, int top,
                   int left, int dh, int dw) {
    int cg = c_count / groups, og = o_count / groups, taps = kh * kw;
    for (int number = blockIdx.x; number < o_count * cg * taps; number += gridDim.x) {
        int tap = number % taps, c = number / taps % cg, o = number / taps / cg;
        int dv = tap / kw * dh - top, du = tap % kw * dw - left;
        c += o / og * cg;
        REAL total = 0;
        for (int n = 0; n < n_count; n++) {
            const REAL* from = x + ((size_t)n * c_count + c) * h * width;
            const REAL* g = gy + ((size_t)n * o_count + o) * oh * ow;
            for (int k = threadIdx.x; k < oh * ow; k += THREADS) {
                int i = k / ow, j = k - i * ow, v = i * sh + dv, u = j * sw + du;
                if ((unsigned)v < (unsigned)h && (unsigned)u < (unsigned)width) total += g[k] * from[(size_t)v * width + u];
            }
        }
        total = over_block<Sum>(total);
        if (threadIdx.x == 0) gw[number] = total;
    }
}
