// What a convolution may do to its outputs: 1 ReLU, 2 sigmoid, 3 tanh, 0 nothing.

#pragma once

template <class T>
static __device__ __forceinline__ T relu(T x) {
    // NaN stays NaN.
    return x < 0 ? (T)0 : x;
}

template <class T>
static __device__ __forceinline__ T sigmoid(T x) {
    T e = exp(-fabs(x));
    return (x >= 0 ? (T)1 : e) / (1 + e);
}

// Not inlined: an unrolled loop may call it in dozens of places, and compiling took seconds.
template <class T>
static __device__ __noinline__ T activated(T x, int activation) {
    if (activation == 1) return relu(x);
    if (activation == 2) return sigmoid(x);
    return activation == 3 ? tanh(x) : x;
}
