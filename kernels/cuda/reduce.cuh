// Sums and maxima over the threads of a warp or of a block of 256, in a fixed order, the result in all of them.

#pragma once

struct Sum {
    template <class T>
    static __device__ __forceinline__ T of(T a, T b) {
        return a + b;
    }
};

struct Max {
    template <class T>
    static __device__ __forceinline__ T of(T a, T b) {
        return a > b ? a : b;
    }
};

template <class Way, class T>
static __device__ __forceinline__ T over_warp(T value) {
    for (int step = 16; step; step /= 2) value = Way::of(value, __shfl_xor_sync(0xffffffffu, value, step));
    return value;
}

template <class Way, class T>
static __device__ __forceinline__ T over_block(T value) {
    __shared__ T parts[8];
    int thread = threadIdx.y * blockDim.x + threadIdx.x;
    value = over_warp<Way>(value);
    if (thread % 32 == 0) parts[thread / 32] = value;
    __syncthreads();
    value = parts[0];
    for (int warp = 1; warp < 8; warp++) value = Way::of(value, parts[warp]);
    // Nobody writes parts for the next sum while they are read.
    __syncthreads();
    return value;
}
