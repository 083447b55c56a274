// Steps of optimisers, in place: a parameter and its state are read and written once. As fastconv/optim.py computes them.

#define THREADS 256

// What a step takes for the gradient.
static __device__ __forceinline__ float slope(float g, float p, float weight_decay, int maximize) {
    g = maximize ? -g : g;
    return weight_decay != 0.0f ? g + weight_decay * p : g;
}

// v = momentum · v + share · g, the first one g itself; p −= rate · v, of Nesterov rate · (g + momentum · v). v is null
// without momentum.
extern "C" __global__ void __launch_bounds__(THREADS)
sgd(float* __restrict__ p, const float* __restrict__ grad, float* __restrict__ v, int n, float rate, float momentum,
    float share, float weight_decay, int nesterov, int maximize, int first) {
    for (int k = blockIdx.x * THREADS + threadIdx.x; k < n; k += gridDim.x * THREADS) {
        float g = slope(grad[k], p[k], weight_decay, maximize);
        if (v) {
            float moved = first ? g : v[k] * momentum + share * g;
            v[k] = moved;
            g = nesterov ? g + momentum * moved : moved;
        }
        p[k] -= rate * g;
    }
}

// m += share1 · (g − m); v = beta2 · v + share2 · g²; p −= size · m / (√v / scale + eps).
extern "C" __global__ void __launch_bounds__(THREADS)
adam(float* __restrict__ p, const float* __restrict__ grad, float* __restrict__ m, float* __restrict__ v, int n, float size,
     float share1, float beta2, float share2, float scale, float eps, float weight_decay, int maximize) {
    for (int k = blockIdx.x * THREADS + threadIdx.x; k < n; k += gridDim.x * THREADS) {
        float g = slope(grad[k], p[k], weight_decay, maximize);
        float mean = m[k] + share1 * (g - m[k]), square = v[k] * beta2 + share2 * (g * g);
        m[k] = mean;
        v[k] = square;
        p[k] -= size * mean / (sqrtf(square) / scale + eps);
    }
}
