// The gradient of a 3×3 convolution's weights, stride 1, by Winograd's algorithm transposed:
//
//     gw = Gᵀ [ Σ_tiles (A gy Aᵀ) ⊙ (Bᵀ x B) ] G       for tiles of M × M of gy and (M + 2) × (M + 2) of x, M apart
//
// The sum over tiles is a matrix product for each of the (M + 2)² elements of a tile (gemm.cu); here are the transforms
// before and after. Tiles are cut into shares, so that there are blocks enough; their products are added up in order, so
// that results do not depend on the order of blocks. Source: Lavin and Gray 2016; kernels/cpu/conv_winograd_weight.py.

#include "winograd.cuh"

// The image of a tile, and its first row and column of outputs; far above the image, if there is no such tile.
struct Tile {
    int n, i, j;
};

static __device__ __forceinline__ Tile tile_of(int number, int tiles, int down, int across) {
    if (number >= tiles) return {0, -(1 << 30), 0};
    int n = number / (down * across), place = number - n * (down * across), i = place / across;
    return {n, i * M, (place - i * across) * M};
}

// d = SIZE × SIZE of a plane, zero outside of it.
template <int SIZE>
static __device__ __forceinline__ void read(float (&d)[SIZE][SIZE], const float* __restrict__ plane, int h, int width, int v,
                                            int u) {
#pragma unroll
    for (int r = 0; r < SIZE; r++)
#pragma unroll
        for (int s = 0; s < SIZE; s++) {
            bool inside = (unsigned)(v + r) < (unsigned)h && (unsigned)(u + s) < (unsigned)width;
            d[r][s] = inside ? plane[(v + r) * width + u + s] : 0.0f;
        }
}

// to[element][share][k][tile of the share] = out[element].
static __device__ __forceinline__ void write(const float (&out)[A][A], float* __restrict__ to, int number, int share,
                                             int shares, int k_count, int k) {
    int of = number / share;
    to += ((size_t)of * k_count + k) * share + (number - of * share);
    const size_t plane = (size_t)shares * k_count * share;
#pragma unroll
    for (int r = 0; r < A; r++)
#pragma unroll
        for (int s = 0; s < A; s++, to += plane) *to = out[r][s];
}

// v = Bᵀ x B of channels k. share: tiles of each; there are zeros beyond the last tile.
extern "C" __global__ void __launch_bounds__(THREADS, M == 2 ? 2 : 1)
tiles_of_input(const float* __restrict__ x, float* __restrict__ v, int tiles, int share, int shares, int down, int across,
               int k_count, int h, int width, int top, int left) {
    int number = blockIdx.x * blockDim.x + threadIdx.x;
    if (number >= share * shares) return;
    Tile tile = tile_of(number, tiles, down, across);
#pragma unroll 1
    for (int k = blockIdx.y; k < k_count; k += gridDim.y) {
        float d[A][A], out[A][A];
        read(d, x + ((size_t)tile.n * k_count + k) * h * width, h, width, tile.i - top, tile.j - left);
        both(INPUT, d, out);
        write(out, v, number, share, shares, k_count, k);
    }
}

// d = A gy Aᵀ of channels k.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
tiles_of_gradient(const float* __restrict__ gy, float* __restrict__ d, int tiles, int share, int shares, int down,
                  int across, int k_count, int oh, int ow) {
    int number = blockIdx.x * blockDim.x + threadIdx.x;
    if (number >= share * shares) return;
    Tile tile = tile_of(number, tiles, down, across);
#pragma unroll 1
    for (int k = blockIdx.y; k < k_count; k += gridDim.y) {
        float g[M][M], out[A][A];
        read(g, gy + ((size_t)tile.n * k_count + k) * oh * ow, oh, ow, tile.i, tile.j);
        both_transposed(OUTPUT, g, out);
        write(out, d, number, share, shares, k_count, k);
    }
}

// gw = Gᵀ Σ_share products[element][share][weight] G; count: weights' windows, of all pairs of channels.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
windows(const float* __restrict__ products, float* __restrict__ gw, int count, int shares) {
    int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= count) return;
    float sum[A][A], out[3][3];
#pragma unroll
    for (int r = 0; r < A; r++)
#pragma unroll
        for (int s = 0; s < A; s++) {
            const float* from = products + (size_t)(r * A + s) * shares * count + k;
            sum[r][s] = *from;
            for (int share = 1; share < shares; share++) sum[r][s] += from[(size_t)share * count];
        }
    both_transposed(WEIGHT, sum, out);
#pragma unroll
    for (int tap = 0; tap < 9; tap++) gw[(size_t)k * 9 + tap] = out[tap / 3][tap % 3];
}
