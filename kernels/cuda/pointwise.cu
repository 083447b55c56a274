// ReLU, sigmoid and tanh of whole arrays, and their gradients as functions of y: 128 bits a load, a grid-stride loop.
//
// FUNCTION is 1 (ReLU), 2 (sigmoid) or 3 (tanh). Arrays begin on 16 bytes, as CuPy's do; the tail goes one by one.

#ifndef FUNCTION
#define FUNCTION 1
#endif

static __device__ __forceinline__ float value_of(float x) {
#if FUNCTION == 1
    // NaN stays NaN.
    return x < 0.0f ? 0.0f : x;
#elif FUNCTION == 2
    float e = expf(-fabsf(x));
    return (x >= 0.0f ? 1.0f : e) / (1.0f + e);
#else
    return tanhf(x);
#endif
}

static __device__ __forceinline__ float slope_of(float y) {
#if FUNCTION == 1
    return y <= 0.0f ? 0.0f : 1.0f;
#elif FUNCTION == 2
    return y * (1.0f - y);
#else
    return (1.0f - y) * (1.0f + y);
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
            make_float4(g.x * slope_of(v.x), g.y * slope_of(v.y), g.z * slope_of(v.z), g.w * slope_of(v.w));
    }
    for (int k = n / 4 * 4 + first; k < n; k += step) gx[k] = gy[k] * slope_of(y[k]);
}
