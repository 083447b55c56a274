// Windows of pooling along an axis, and which rows and column of a plane a thread has.

#pragma once

// The windows of an axis: number i of `count` begins at i·stride − before and has `kernel` elements `step` apart. Stride
// 0 says that they are adaptive, from ⌊i·size/count⌋ to ⌈(i + 1)·size/count⌉.
struct Axis {
    int size, count, kernel, stride, before, step;
};

// A window's elements that lie inside an axis: first + k·step for k < count.
struct Span {
    int first, count;
};

static __device__ __forceinline__ Span span(const Axis& axis, int i) {
    if (axis.stride == 0) {
        int first = i * axis.size / axis.count;
        return {first, ((i + 1) * axis.size + axis.count - 1) / axis.count - first};
    }
    int start = i * axis.stride - axis.before;
    int begin = start < 0 ? (-start + axis.step - 1) / axis.step : 0;
    int end = min(axis.kernel, (axis.size - start + axis.step - 1) / axis.step);
    return {start + begin * axis.step, max(end - begin, 0)};
}

// Windows first … last, or none if last < first.
struct Windows {
    int first, last;
};

// The windows that hold element u. With a dilation some between do not.
static __device__ __forceinline__ Windows windows(const Axis& axis, int u) {
    if (axis.stride == 0)
        return {u * axis.count / axis.size, ((u + 1) * axis.count + axis.size - 1) / axis.size - 1};
    int low = u + axis.before - (axis.kernel - 1) * axis.step;
    return {low <= 0 ? 0 : (low + axis.stride - 1) / axis.stride,
            min((u + axis.before) / axis.stride, axis.count - 1)};
}

static __device__ __forceinline__ int own_column() { return blockIdx.x * blockDim.x + threadIdx.x; }

// A thread's rows: first, then every blockDim.y-th before end.
struct Rows {
    int first, end;
};

static __device__ __forceinline__ Rows own_rows(int rows, int each) {
    int first = blockIdx.y * blockDim.y * each;
    return {first + (int)threadIdx.y, min(rows, first + (int)blockDim.y * each)};
}
