// Stochastic pooling: what of a window is above 0 counts, and in proportion to its size. One thread for each output, or for
// each element of a gradient, of some rows of a column; blocks as in pool.cu. The gradient of what is drawn is that of a
// maximum. REAL is float or double. Source: Zeiler and Fergus 2013, "Stochastic Pooling for Regularization of Deep
// Convolutional Neural Networks".

#include "windows.cuh"

#ifndef REAL
#define REAL float
#endif

// y is an element drawn from its window with probability x / Σ x: where the sum up to it first exceeds draws · Σ x. places
// says which. A window without elements above 0 gives 0 and the place −1.
extern "C" __global__ void __launch_bounds__(256, 4)
stochastic_pool(const REAL* __restrict__ x, const REAL* __restrict__ draws, REAL* __restrict__ y, int* __restrict__ places,
                int planes, int h, int w, int oh, int ow, int kh, int kw, int sh, int sw, int top, int left, int each) {
    const Axis vertical = {h, oh, kh, sh, top, 1}, horizontal = {w, ow, kw, sw, left, 1};
    int j = own_column();
    if (j >= ow) return;
    Rows own = own_rows(oh, each);
    Span columns = span(horizontal, j);
    for (int plane = blockIdx.z; plane < planes; plane += gridDim.z) {
        const REAL* from = x + (size_t)plane * h * w;
        for (int i = own.first; i < own.end; i += blockDim.y) {
            Span rows = span(vertical, i);
            size_t to = ((size_t)plane * oh + i) * ow + j;
            // NaN is not below 0, and makes the sum NaN.
            REAL total = 0;
#pragma unroll 1
            for (int r = 0; r < rows.count; r++)
#pragma unroll 2
                for (int s = 0; s < columns.count; s++) {
                    REAL v = from[(rows.first + r) * w + columns.first + s];
                    total += v <= 0 ? (REAL)0 : v;
                }
            REAL goal = draws[to] * total, sum = 0, drawn = total != total ? total : (REAL)0;
            int at = -1;
#pragma unroll 1
            for (int r = 0; r < rows.count; r++)
#pragma unroll 2
                for (int s = 0; s < columns.count; s++) {
                    int place = (rows.first + r) * w + columns.first + s;
                    REAL v = from[place];
                    // Where rounding leaves the goal at the sum of all, the last is drawn.
                    if (v > 0 && sum <= goal) {
                        sum += v;
                        drawn = v;
                        at = place;
                    }
                }
            y[to] = drawn;
            places[to] = at;
        }
    }
}

// In evaluation: y = Σ x² / Σ x, or 0 if nothing is above 0; totals = Σ x.
extern "C" __global__ void __launch_bounds__(256, 4)
stochastic_mean(const REAL* __restrict__ x, REAL* __restrict__ y, REAL* __restrict__ totals, int planes, int h, int w,
                int oh, int ow, int kh, int kw, int sh, int sw, int top, int left, int each) {
    const Axis vertical = {h, oh, kh, sh, top, 1}, horizontal = {w, ow, kw, sw, left, 1};
    int j = own_column();
    if (j >= ow) return;
    Rows own = own_rows(oh, each);
    Span columns = span(horizontal, j);
    for (int plane = blockIdx.z; plane < planes; plane += gridDim.z)
        for (int i = own.first; i < own.end; i += blockDim.y) {
            Span rows = span(vertical, i);
            const REAL* from = x + ((size_t)plane * h + rows.first) * w + columns.first;
            REAL total = 0, squares = 0;
#pragma unroll 1
            for (int r = 0; r < rows.count; r++)
#pragma unroll 2
                for (int s = 0; s < columns.count; s++) {
                    REAL v = from[r * w + s];
                    v = v <= 0 ? (REAL)0 : v;
                    total += v;
                    squares += v * v;
                }
            size_t to = ((size_t)plane * oh + i) * ow + j;
            y[to] = total == 0 ? (REAL)0 : squares / total;
            totals[to] = total;
        }
}

// gx = the sum of gy · (2x − y) / Σ x over the windows that hold the element, if it is above 0.
extern "C" __global__ void __launch_bounds__(256, 4)
stochastic_mean_grad(const REAL* __restrict__ x, const REAL* __restrict__ y, const REAL* __restrict__ totals,
                     const REAL* __restrict__ gy, REAL* __restrict__ gx, int planes, int h, int w, int oh, int ow, int kh,
                     int kw, int sh, int sw, int top, int left, int each) {
    const Axis vertical = {h, oh, kh, sh, top, 1}, horizontal = {w, ow, kw, sw, left, 1};
    int u = own_column();
    if (u >= w) return;
    Rows own = own_rows(h, each);
    Windows columns = windows(horizontal, u);
    for (int plane = blockIdx.z; plane < planes; plane += gridDim.z)
        for (int v = own.first; v < own.end; v += blockDim.y) {
            Windows rows = windows(vertical, v);
            size_t to = ((size_t)plane * h + v) * w + u;
            REAL value = x[to], total = 0;
#pragma unroll 1
            for (int i = rows.first; i <= rows.last && !(value <= 0); i++)
#pragma unroll 2
                for (int j = columns.first; j <= columns.last; j++) {
                    size_t window = ((size_t)plane * oh + i) * ow + j;
                    total += gy[window] * (2 * value - y[window]) / totals[window];
                }
            gx[to] = total;
        }
}
