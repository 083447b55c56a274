// Sums over all of an array but its channels: gradients of biases. Every sum has one order, which depends on sizes alone.
//
// REAL is float or double.

#include "reduce.cuh"

#ifndef REAL
#define REAL float
#endif
#define THREADS 256

// parts (shares, channels) of x (images, channels, plane): a block adds up a share of a channel, every gridDim.y-th run
// of images and of these every gridDim.z-th run of elements. Its threads are a rectangle, elements of a plane by images.
extern "C" __global__ void __launch_bounds__(THREADS)
sum_planes(const REAL* __restrict__ x, REAL* __restrict__ parts, int images, int channels, int plane) {
    REAL total = 0;
    for (int n = blockIdx.y * blockDim.y + threadIdx.y; n < images; n += gridDim.y * blockDim.y) {
        const REAL* from = x + ((size_t)n * channels + blockIdx.x) * plane;
        for (int s = blockIdx.z * blockDim.x + threadIdx.x; s < plane; s += gridDim.z * blockDim.x) total += from[s];
    }
    total = over_block<Sum>(total);
    int share = blockIdx.y * gridDim.z + blockIdx.z;
    if (threadIdx.x == 0 && threadIdx.y == 0) parts[(size_t)share * channels + blockIdx.x] = total;
}

// parts (shares, columns) of x (rows, columns): a block is 32 columns by 8 rows, and goes down a share of the rows.
extern "C" __global__ void __launch_bounds__(THREADS)
sum_rows(const REAL* __restrict__ x, REAL* __restrict__ parts, int rows, int columns) {
    __shared__ REAL sums[8][32];
    int column = blockIdx.x * 32 + threadIdx.x;
    REAL total = 0;
    if (column < columns)
        for (int row = blockIdx.y * 8 + threadIdx.y; row < rows; row += gridDim.y * 8)
            total += x[(size_t)row * columns + column];
    sums[threadIdx.y][threadIdx.x] = total;
    __syncthreads();
    if (threadIdx.y || column >= columns) return;
    for (int k = 1; k < 8; k++) total += sums[k][threadIdx.x];
    parts[(size_t)blockIdx.y * columns + column] = total;
}
