// Softmax, its logarithm and cross-entropy, with gradients.
//
// An array is rows of `columns` elements that lie `inner` apart: row n·inner + i begins at n·columns·inner + i. A row
// has a team, blockDim.x threads: a block for long ones, a warp for others, and one thread where rows lie side by side
// (inner > 1), so that neighbouring threads read neighbours. A row's sums have one order, and nothing overflows,
// because its maximum is taken from it first. REAL is float or double.

#include "reduce.cuh"

#ifndef REAL
#define REAL float
#endif
#define THREADS 256

// All of a row's threads come here, or none.
template <class Way>
static __device__ __forceinline__ REAL over_team(REAL value) {
    if (blockDim.x == 1) return value;
    return blockDim.x == 32 ? over_warp<Way>(value) : over_block<Way>(value);
}

static __device__ __forceinline__ int own_row() { return blockIdx.x * blockDim.y + threadIdx.y; }

static __device__ __forceinline__ size_t start_of(int row, int columns, int inner) {
    return (size_t)(row / inner) * columns * inner + row % inner;
}

// log softmax(x) at c is x[c · inner] − most − log_total.
struct Logs {
    REAL most, log_total, total;
};

static __device__ __forceinline__ Logs logs_of(const REAL* x, int columns, int inner) {
    // NVRTC has no INFINITY.
    REAL most = (REAL)__int_as_float(0xff800000), total = 0;
    for (int c = threadIdx.x; c < columns; c += blockDim.x) most = Max::of(most, x[(size_t)c * inner]);
    most = over_team<Max>(most);
    for (int c = threadIdx.x; c < columns; c += blockDim.x) total += exp(x[(size_t)c * inner] - most);
    total = over_team<Sum>(total);
    return {most, log(total), total};
}

// y = softmax(x), or its logarithm.
extern "C" __global__ void __launch_bounds__(THREADS)
softmax(const REAL* __restrict__ x, REAL* __restrict__ y, int rows, int columns, int inner, int logarithm) {
    int row = own_row();
    if (row >= rows) return;
    x += start_of(row, columns, inner);
    y += start_of(row, columns, inner);
    Logs logs = logs_of(x, columns, inner);
    for (int c = threadIdx.x; c < columns; c += blockDim.x) {
        REAL shifted = x[(size_t)c * inner] - logs.most;
        y[(size_t)c * inner] = logarithm ? shifted - logs.log_total : exp(shifted) / logs.total;
    }
}

// gx = y · (gy − Σ gy·y), or gy − e^y · Σ gy for the logarithm.
extern "C" __global__ void __launch_bounds__(THREADS)
softmax_grad(const REAL* __restrict__ y, const REAL* __restrict__ gy, REAL* __restrict__ gx, int rows, int columns, int inner,
             int logarithm) {
    int row = own_row();
    if (row >= rows) return;
    size_t start = start_of(row, columns, inner);
    REAL total = 0;
    for (int c = threadIdx.x; c < columns; c += blockDim.x) {
        size_t at = start + (size_t)c * inner;
        total += logarithm ? gy[at] : gy[at] * y[at];
    }
    total = over_team<Sum>(total);
    for (int c = threadIdx.x; c < columns; c += blockDim.x) {
        size_t at = start + (size_t)c * inner;
        gx[at] = logarithm ? gy[at] - exp(y[at]) * total : y[at] * (gy[at] - total);
    }
}

// losses[row] = −Σ_c q_c · log softmax(x)_c, and, unless null, gradient = its derivative by x, softmax(x) · Σ q − q.
// q_c = (hit_rest[0] · [c is the label] + hit_rest[1]) · weight[c], and 0 if the label is `ignored`. A label that is no
// class makes the loss NaN.
extern "C" __global__ void __launch_bounds__(THREADS)
cross_entropy(const REAL* __restrict__ x, const long long* __restrict__ labels, const REAL* __restrict__ weight,
              const REAL* __restrict__ hit_rest, REAL* __restrict__ losses, REAL* __restrict__ gradient, int rows, int classes,
              int inner, int ignored) {
    int row = own_row();
    if (row >= rows) return;
    size_t start = start_of(row, classes, inner);
    x += start;
    long long label = labels[row];
    bool counted = label != ignored;
    REAL hit = counted ? hit_rest[0] : (REAL)0, rest = counted ? hit_rest[1] : (REAL)0;
    Logs logs = logs_of(x, classes, inner);
    REAL loss = counted && (label < 0 || label >= classes) ? (REAL)__int_as_float(0x7fc00000) : (REAL)0, mass = 0;
    for (int c = threadIdx.x; c < classes; c += blockDim.x) {
        REAL q = ((c == label ? hit : (REAL)0) + rest) * (weight ? weight[c] : (REAL)1);
        // A class of probability 0 adds nothing, even where its logarithm is −inf.
        if (q != 0) loss -= q * (x[(size_t)c * inner] - logs.most - logs.log_total);
        mass += q;
    }
    loss = over_team<Sum>(loss);
    mass = over_team<Sum>(mass);
    if (threadIdx.x == 0) losses[row] = loss;
    if (!gradient) return;
    for (int c = threadIdx.x; c < classes; c += blockDim.x) {
        REAL q = ((c == label ? hit : (REAL)0) + rest) * (weight ? weight[c] : (REAL)1);
        gradient[start + (size_t)c * inner] = exp(x[(size_t)c * inner] - logs.most - logs.log_total) * mass - q;
    }
}

// One block: y = Σ losses / divisor, which is the sum of the labels' weights for a mean, else 1. Where all labels are
// ignored y is 0/0, and divisor 1, so that gradients are 0.
extern "C" __global__ void __launch_bounds__(THREADS)
reduce_losses(const REAL* __restrict__ losses, const long long* __restrict__ labels, const REAL* __restrict__ weight,
              REAL* __restrict__ y, REAL* __restrict__ divisor, int rows, int classes, int ignored, int mean) {
    REAL loss = 0, share = 0;
    for (int row = threadIdx.x; row < rows; row += THREADS) {
        loss += losses[row];
        long long label = labels[row];
        if (label == ignored) continue;
        share += weight && label >= 0 && label < classes ? weight[label] : (REAL)1;
    }
    loss = over_block<Sum>(loss);
    share = over_block<Sum>(share);
    if (threadIdx.x) return;
    y[0] = mean ? loss / share : loss;
    divisor[0] = mean && share != 0 ? share : (REAL)1;
}

// gx = gradient · gy / divisor; gy has a value for each row or one for all, and a divisor that is null is 1.
extern "C" __global__ void __launch_bounds__(THREADS)
scale_rows(const REAL* __restrict__ gradient, const REAL* __restrict__ gy, const REAL* __restrict__ divisor,
           REAL* __restrict__ gx, int rows, int columns, int inner, int each) {
    int row = own_row();
    if (row >= rows) return;
    size_t start = start_of(row, columns, inner);
    REAL scale = gy[each ? row : 0] / (divisor ? divisor[0] : (REAL)1);
    for (int c = threadIdx.x; c < columns; c += blockDim.x) {
        size_t at = start + (size_t)c * inner;
        gx[at] = gradient[at] * scale;
    }
}
