// Winograd's convolution of 3×3 windows with stride 1: F(M×M, 3×3), M 2 or 4.
//
//     Y = Aᵀ [ (G w Gᵀ) ⊙ (Bᵀ d B) ] A       for tiles d of (M + 2) × (M + 2) elements, M apart
//
// The sum over channels is a matrix product for each of the (M + 2)² elements of a tile (gemm.cu); here are the
// transforms before and after. Tiles of all images are neighbours in memory, so that a warp reads and writes in lines.
// Source: Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks".

#include "activation.cuh"
#include "winograd.cuh"

// u[element][k][m] = G w Gᵀ, k the channels that are summed over, m those that come out. w (o_count, c_count, 3, 3). flip:
// for the input gradient, where o is summed over and windows are turned round.
extern "C" __global__ void __launch_bounds__(THREADS)
transform_weights(const float* __restrict__ w, float* __restrict__ u, int o_count, int c_count, int flip) {
    int m_count = flip ? c_count : o_count, k_count = flip ? o_count : c_count;
    int m = blockIdx.x * blockDim.x + threadIdx.x, k = blockIdx.y;
    if (m >= m_count) return;
    const float* from = w + (flip ? (size_t)k * c_count + m : (size_t)m * c_count + k) * 9;
    float window[3][3], out[A][A];
#pragma unroll
    for (int r = 0; r < 3; r++)
#pragma unroll
        for (int s = 0; s < 3; s++) window[r][s] = from[flip ? 8 - r * 3 - s : r * 3 + s];
    both(WEIGHT, window, out);
#pragma unroll
    for (int r = 0; r < A; r++)
#pragma unroll
        for (int s = 0; s < A; s++) u[((size_t)(r * A + s) * k_count + k) * m_count + m] = out[r][s];
}

// v[element][k][tile] = Bᵀ d B. x (n, k_count, h, width); a tile is number n·down·across + i·across + j.
extern "C" __global__ void __launch_bounds__(THREADS, M == 2 ? 2 : 1)
transform_input(const float* __restrict__ x, float* __restrict__ v, int tiles, int down, int across, int k_count, int h,
                int width, int top, int left) {
    int tile = blockIdx.x * blockDim.x + threadIdx.x;
    if (tile >= tiles) return;
    int n = tile / (down * across), place = tile - n * (down * across), i = place / across, j = place - i * across;
    int v0 = i * M - top, u0 = j * M - left;
    for (int k = blockIdx.y; k < k_count; k += gridDim.y) {
        const float* from = x + ((size_t)n * k_count + k) * h * width;
        float d[A][A], out[A][A];
#pragma unroll
        for (int r = 0; r < A; r++)
#pragma unroll
            for (int s = 0; s < A; s++) {
                bool inside = (unsigned)(v0 + r) < (unsigned)h && (unsigned)(u0 + s) < (unsigned)width;
                d[r][s] = inside ? from[(v0 + r) * width + u0 + s] : 0.0f;
            }
        both(INPUT, d, out);
#pragma unroll
        for (int r = 0; r < A; r++)
#pragma unroll
            for (int s = 0; s < A; s++) v[((size_t)(r * A + s) * k_count + k) * tiles + tile] = out[r][s];
    }
}

// y = activation(Aᵀ m A + bias + z), of the products m[element][o][tile]. y (n, m_count, oh, ow).
extern "C" __global__ void __launch_bounds__(THREADS, 2)
transform_output(const float* __restrict__ products, const float* __restrict__ bias, const float* __restrict__ z,
                 float* __restrict__ y, int tiles, int down, int across, int m_count, int oh, int ow, int activation) {
    int tile = blockIdx.x * blockDim.x + threadIdx.x;
    if (tile >= tiles) return;
    int n = tile / (down * across), place = tile - n * (down * across), i = place / across, j = place - i * across;
    for (int m = blockIdx.y; m < m_count; m += gridDim.y) {
        float from[A][A], out[M][M];
#pragma unroll
        for (int r = 0; r < A; r++)
#pragma unroll
            for (int s = 0; s < A; s++) from[r][s] = products[((size_t)(r * A + s) * m_count + m) * tiles + tile];
        both(OUTPUT, from, out);
        float more = bias ? bias[m] : 0.0f;
#pragma unroll
        for (int r = 0; r < M; r++)
#pragma unroll
            for (int s = 0; s < M; s++) {
                if (i * M + r >= oh || j * M + s >= ow) continue;
                size_t to = (((size_t)n * m_count + m) * oh + i * M + r) * ow + j * M + s;
                float value = out[r][s] + more + (z ? z[to] : 0.0f);
                y[to] = activation ? activated(value, activation) : value;
            }
    }
}
