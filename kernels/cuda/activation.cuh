// What a convolution may do to its outputs: 1 ReLU, 2 sigmoid, 3 tanh, 0 nothing.

#pragma once

// Not inlined: an unrolled loop may call it in dozens of places, and compiling took seconds.
static __device__ __noinline__ float activated(float x, int activation) {
    if (activation == 1) return x < 0.0f ? 0.0f : x;
    if (activation == 2) {
        float e = expf(-fabsf(x));
        return (x >= 0.0f ? 1.0f : e) / (1.0f + e);
    }
    return activation == 3 ? tanhf(x) : x;
}
