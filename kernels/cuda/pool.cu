// Pooling and its gradients: one thread for each output, or for each element of a gradient.
//
// A block is a rectangle of one plane, so that nothing is divided, and the windows of its threads overlap in the first
// cache. Gradients are gathered: every element of gx asks the windows that hold it, and is written once, in one order.
//
// REAL is float or double.

#ifndef REAL
#define REAL float
#endif

// A window's elements that lie inside an axis: first + k·step for k < count.
struct Span {
    int first, begin, count;
};

static __device__ __forceinline__ Span span(int start, int size, int kernel, int step) {
    int begin = start < 0 ? (-start + step - 1) / step : 0;
    int end = min(kernel, (size - start + step - 1) / step);
    return {start + begin * step, begin, max(end - begin, 0)};
}

// The first of equal maxima in reading order, the last NaN; −1 if the window holds no element.
static __device__ __forceinline__ int argmax(const REAL* __restrict__ plane, int w, Span rows, Span columns, int dh, int dw,
                                      REAL* value) {
    int at = rows.count > 0 && columns.count > 0 ? rows.first * w + columns.first : -1;
    // NVRTC has no INFINITY.
    REAL most = (REAL)__int_as_float(0xff800000);
    for (int r = 0; r < rows.count; r++) {
        int row = (rows.first + r * dh) * w;
        for (int s = 0; s < columns.count; s++) {
            int place = row + columns.first + s * dw;
            REAL v = plane[place];
            if (v > most || v != v) {
                most = v;
                at = place;
            }
        }
    }
    *value = most;
    return at;
}

// y (planes, oh, ow) = the maxima; indices, unless null: where in the plane each stands.
extern "C" __global__ void __launch_bounds__(256, 4)
max_pool(const REAL* __restrict__ x, REAL* __restrict__ y, long long* __restrict__ indices, int planes, int h, int w,
         int oh, int ow, int kh, int kw, int sh, int sw, int top, int left, int dh, int dw) {
    int j = blockIdx.x * blockDim.x + threadIdx.x;
    int i = blockIdx.y * blockDim.y + threadIdx.y;
    if (i >= oh || j >= ow) return;
    Span rows = span(i * sh - top, h, kh, dh), columns = span(j * sw - left, w, kw, dw);
    for (int plane = blockIdx.z; plane < planes; plane += gridDim.z) {
        REAL value;
        int at = argmax(x + (size_t)plane * h * w, w, rows, columns, dh, dw, &value);
        size_t to = ((size_t)plane * oh + i) * ow + j;
        y[to] = value;
        if (indices) indices[to] = at;
    }
}

// The same, as int: what the gradient needs.
extern "C" __global__ void __launch_bounds__(256, 4)
max_pool_places(const REAL* __restrict__ x, int* __restrict__ places, int planes, int h, int w, int oh, int ow, int kh,
                int kw, int sh, int sw, int top, int left, int dh, int dw) {
    int j = blockIdx.x * blockDim.x + threadIdx.x;
    int i = blockIdx.y * blockDim.y + threadIdx.y;
    if (i >= oh || j >= ow) return;
    Span rows = span(i * sh - top, h, kh, dh), columns = span(j * sw - left, w, kw, dw);
    for (int plane = blockIdx.z; plane < planes; plane += gridDim.z) {
        REAL value;
        places[((size_t)plane * oh + i) * ow + j] = argmax(x + (size_t)plane * h * w, w, rows, columns, dh, dw, &value);
    }
}

// Windows on an axis that hold element u: first … last, or none if last < first. With a dilation some between do not.
static __device__ __forceinline__ void windows(int u, int before, int kernel, int stride, int step, int count, int* first,
                                        int* last) {
    int reach = (kernel - 1) * step;
    int low = u + before - reach;
    *first = low <= 0 ? 0 : (low + stride - 1) / stride;
    *last = min((u + before) / stride, count - 1);
}

// gx (planes, h, w) = the sum of gy over the windows whose maximum stands there.
extern "C" __global__ void __launch_bounds__(256)
max_pool_grad(const int* __restrict__ places, const REAL* __restrict__ gy, REAL* __restrict__ gx, int planes, int h, int w,
              int oh, int ow, int kh, int kw, int sh, int sw, int top, int left, int dh, int dw) {
    int u = blockIdx.x * blockDim.x + threadIdx.x;
    int v = blockIdx.y * blockDim.y + threadIdx.y;
    if (v >= h || u >= w) return;
    int i0, i1, j0, j1;
    windows(v, top, kh, sh, dh, oh, &i0, &i1);
    windows(u, left, kw, sw, dw, ow, &j0, &j1);
    for (int plane = blockIdx.z; plane < planes; plane += gridDim.z) {
        REAL total = 0;
        for (int i = i0; i <= i1; i++)
            for (int j = j0; j <= j1; j++) {
                size_t window = ((size_t)plane * oh + i) * ow + j;
                if (places[window] == v * w + u) total += gy[window];
            }
        gx[((size_t)plane * h + v) * w + u] = total;
    }
}

// y = the sum of each window times row_scale[i] · column_scale[j].
extern "C" __global__ void __launch_bounds__(256)
avg_pool(const REAL* __restrict__ x, const REAL* __restrict__ row_scale, const REAL* __restrict__ column_scale,
         REAL* __restrict__ y, int planes, int h, int w, int oh, int ow, int kh, int kw, int sh, int sw, int top, int left) {
    int j = blockIdx.x * blockDim.x + threadIdx.x;
    int i = blockIdx.y * blockDim.y + threadIdx.y;
    if (i >= oh || j >= ow) return;
    Span rows = span(i * sh - top, h, kh, 1), columns = span(j * sw - left, w, kw, 1);
    REAL scale = row_scale[i] * column_scale[j];
    for (int plane = blockIdx.z; plane < planes; plane += gridDim.z) {
        const REAL* from = x + (size_t)plane * h * w;
        REAL total = 0;
        // Unrolled by the compiler's own choice, it takes three times as many registers.
#pragma unroll 1
        for (int r = 0; r < rows.count; r++)
#pragma unroll 2
            for (int s = 0; s < columns.count; s++) total += from[(rows.first + r) * w + columns.first + s];
        y[((size_t)plane * oh + i) * ow + j] = total * scale;
    }
}

// gx = the sum of gy · row_scale · column_scale over the windows that hold the element.
extern "C" __global__ void __launch_bounds__(256)
avg_pool_grad(const REAL* __restrict__ gy, const REAL* __restrict__ row_scale, const REAL* __restrict__ column_scale,
              REAL* __restrict__ gx, int planes, int h, int w, int oh, int ow, int kh, int kw, int sh, int sw, int top,
              int left) {
    int u = blockIdx.x * blockDim.x + threadIdx.x;
    int v = blockIdx.y * blockDim.y + threadIdx.y;
    if (v >= h || u >= w) return;
    int i0, i1, j0, j1;
    windows(v, top, kh, sh, 1, oh, &i0, &i1);
    windows(u, left, kw, sw, 1, ow, &j0, &j1);
    for (int plane = blockIdx.z; plane < planes; plane += gridDim.z) {
        REAL total = 0;
        for (int i = i0; i <= i1; i++)
            for (int j = j0; j <= j1; j++)
                total += gy[((size_t)plane * oh + i) * ow + j] * (row_scale[i] * column_scale[j]);
        gx[((size_t)plane * h + v) * w + u] = total;
    }
}
