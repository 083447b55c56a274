// ReLU, sigmoid and tanh of whole arrays, and their gradients as functions of y: 128 bits a load, a grid-stride loop.
//
// FUNCTION is 1 (ReLU), 2 (sigmoid) or 3 (tanh). Arrays begin on 16 bytes, as CuPy's do; the tail goes one by one.

#include "activation.cuh"

#ifndef FUNCTION
#define FUNCTION 1
#endif

static __device__ __forceinline__ float value_of(float x) {
#if FUNCTION == 1
    return relu(x);
#elif FUNCTION == 2
    return sigmoid(x);
#else
    return tanhf(x);
#endif
}

static __device__ __forceinline__ float gradient_of(float y, float g) {
#if FUNCTION == 1
    return y <= 0.0f ? 0.0f : g;
#elif FUNCTION == 2
    return g * (y * (1.0f - y));
#else
    return g * ((1.0f - y) * (1.0f + y));
#endif
}

extern "C" __global__ void __launch_bounds__(256) activate(const float* __restrict__ x, float* __restrict__ y, int n) {
    int first = blockIdx.x * blockDim.x + threadIdx.x, step = gridDim.x * blockDim.x;
    for (int k = first; k < n / 4; k += step) {
        float4 v = reinterpret_cast<const float4*>(x)[k];
        reinterpret_cast<float4*>(y)[k] = make_float4(value_of(v.x), value_of(v.y), value_of(v.z), value_of(v.w));
    }
    for (int k = n / 4 * 4 + first; k < n; k += step) y[k] = value_of(x[k]);
}

extern "C" __global__ void __launch_bounds__(256)
gradient(const float* __restrict__ y, const float* __restrict__ gy, float* __restrict__ gx, int n) {
    int first = blockIdx.x * blockDim.x + threadIdx.x, step = gridDim.x * blockDim.x;
    for (int k = first; k < n / 4; k += step) {
        float4 v = reinterpret_cast<const float4*>(y)[k], g = reinterpret_cast<const float4*>(gy)[k];
        reinterpret_cast<float4*>(gx)[k] =
            make_float4(gradient_of(v.x, g.x), gradient_of(v.y, g.y), gradient_of(v.z, g.z), gradient_of(v.w, g.w));
    }
    for (int k = n / 4 * 4 + first; k < n; k += step) gx[k] = gradient_of(y[k], gy[k]);
}
