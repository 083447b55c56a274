// Pooling and its gradients: one thread for each output, or for each element of a gradient, of some rows of a column.
//
// A block is a rectangle of one plane that goes down `each` times, so that nothing is divided, and what windows share is
// in the first cache. Gradients are gathered: every element of gx asks the windows that hold it, and is written once, in
// one order. Stride 0 says that windows are adaptive. Loops over windows are unrolled twice: left to the compiler, they
// take up to three times as many registers. REAL is float or double.

#include "windows.cuh"

#ifndef REAL
#define REAL float
#endif

// The maxima of windows: y, and where in the plane each stands, as indices or as the places that gradients need. An
// output that is null is left out. Of equal maxima it is the first in reading order, of NaN the last; −1 if a window is
// empty.
extern "C" __global__ void __launch_bounds__(256, 4)
max_pool(const REAL* __restrict__ x, REAL* __restrict__ y, long long* __restrict__ indices, int* __restrict__ places,
         int planes, int h, int w, int oh, int ow, int kh, int kw, int sh, int sw, int top, int left, int dh, int dw,
         int each) {
    const Axis vertical = {h, oh, kh, sh, top, dh}, horizontal = {w, ow, kw, sw, left, dw};
    int j = own_column();
    if (j >= ow) return;
    Rows own = own_rows(oh, each);
    Span columns = span(horizontal, j);
    for (int plane = blockIdx.z; plane < planes; plane += gridDim.z) {
        const REAL* from = x + (size_t)plane * h * w;
        for (int i = own.first; i < own.end; i += blockDim.y) {
            Span rows = span(vertical, i);
            int at = rows.count > 0 && columns.count > 0 ? rows.first * w + columns.first : -1;
            // NVRTC has no INFINITY.
            REAL most = (REAL)__int_as_float(0xff800000);
#pragma unroll 1
            for (int r = 0; r < rows.count; r++) {
                int row = (rows.first + r * dh) * w;
#pragma unroll 2
                for (int s = 0; s < columns.count; s++) {
                    int place = row + columns.first + s * dw;
                    REAL v = from[place];
                    if (v > most || v != v) {
                        most = v;
                        at = place;
                    }
                }
            }
            size_t to = ((size_t)plane * oh + i) * ow + j;
            if (y) y[to] = most;
            if (indices) indices[to] = at;
            if (places) places[to] = at;
        }
    }
}

// gx (planes, h, w) = the sum of gy over the windows whose output came from there.
extern "C" __global__ void __launch_bounds__(256, 4)
max_pool_grad(const int* __restrict__ places, const REAL* __restrict__ gy, REAL* __restrict__ gx, int planes, int h, int w,
              int oh, int ow, int kh, int kw, int sh, int sw, int top, int left, int dh, int dw, int each) {
    const Axis vertical = {h, oh, kh, sh, top, dh}, horizontal = {w, ow, kw, sw, left, dw};
    int u = own_column();
    if (u >= w) return;
    Rows own = own_rows(h, each);
    Windows columns = windows(horizontal, u);
    for (int plane = blockIdx.z; plane < planes; plane += gridDim.z)
        for (int v = own.first; v < own.end; v += blockDim.y) {
            Windows rows = windows(vertical, v);
            REAL total = 0;
#pragma unroll 1
            for (int i = rows.first; i <= rows.last; i++)
#pragma unroll 2
                for (int j = columns.first; j <= columns.last; j++) {
                    size_t window = ((size_t)plane * oh + i) * ow + j;
                    if (places[window] == v * w + u) total += gy[window];
                }
            gx[((size_t)plane * h + v) * w + u] = total;
        }
}

// y = the sum of each window times row_scale[i] · column_scale[j].
extern "C" __global__ void __launch_bounds__(256, 4)
avg_pool(const REAL* __restrict__ x, const REAL* __restrict__ row_scale, const REAL* __restrict__ column_scale,
         REAL* __restrict__ y, int planes, int h, int w, int oh, int ow, int kh, int kw, int sh, int sw, int top, int left,
         int each) {
    const Axis vertical = {h, oh, kh, sh, top, 1}, horizontal = {w, ow, kw, sw, left, 1};
    int j = own_column();
    if (j >= ow) return;
    Rows own = own_rows(oh, each);
    Span columns = span(horizontal, j);
    for (int plane = blockIdx.z; plane < planes; plane += gridDim.z)
        for (int i = own.first; i < own.end; i += blockDim.y) {
            Span rows = span(vertical, i);
            const REAL* from = x + ((size_t)plane * h + rows.first) * w + columns.first;
            REAL total = 0;
#pragma unroll 1
            for (int r = 0; r < rows.count; r++)
#pragma unroll 2
                for (int s = 0; s < columns.count; s++) total += from[r * w + s];
            y[((size_t)plane * oh + i) * ow + j] = total * (row_scale[i] * column_scale[j]);
        }
}

// gx = the sum of gy · row_scale · column_scale over the windows that hold the element.
extern "C" __global__ void __launch_bounds__(256, 4)
avg_pool_grad(const REAL* __restrict__ gy, const REAL* __restrict__ row_scale, const REAL* __restrict__ column_scale,
              REAL* __restrict__ gx, int planes, int h, int w, int oh, int ow, int kh, int kw, int sh, int sw, int top,
              int left, int each) {
    const Axis vertical = {h, oh, kh, sh, top, 1}, horizontal = {w, ow, kw, sw, left, 1};
    int u = own_column();
    if (u >= w) return;
    Rows own = own_rows(h, each);
    Windows columns = windows(horizontal, u);
    for (int plane = blockIdx.z; plane < planes; plane += gridDim.z)
        for (int v = own.first; v < own.end; v += blockDim.y) {
            Windows rows = windows(vertical, v);
            REAL total = 0;
#pragma unroll 1
            for (int i = rows.first; i <= rows.last; i++)
#pragma unroll 2
                for (int j = columns.first; j <= columns.last; j++)
                    total += gy[((size_t)plane * oh + i) * ow + j] * (row_scale[i] * column_scale[j]);
            gx[((size_t)plane * h + v) * w + u] = total;
        }
}
