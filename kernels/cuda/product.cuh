// What matrix products share: parts of the operands come into shared memory by cp.async, [k][m or n], and a thread
// multiplies float4 by float4 of them.
//
// A row in shared memory is 4 floats longer than the tile, so that what arrives across rows spreads over the banks.

#pragma once
#include <cuda_pipeline_primitives.h>

#define TILE_K 16
#define THREADS 256

// to[k][r] = the operand's (row + r, k0 + k), zero outside of rows × depth. BY_K: neighbours in memory are neighbours in
// k, `line` apart are rows; else the other way round.
template <int BY_K, int SIZE>
static __device__ __forceinline__ void bring(float (*to)[SIZE + 4], const float* __restrict__ from, int row, int rows, int k0,
                                             int depth, int line) {
#pragma unroll
    for (int e = 0; e < SIZE * TILE_K / THREADS; e++) {
        int number = threadIdx.x + e * THREADS;
        int k = BY_K ? number % TILE_K : number / SIZE, r = BY_K ? number / TILE_K : number % SIZE;
        bool there = row + r < rows && k0 + k < depth;
        size_t place = BY_K ? (size_t)(row + r) * line + k0 + k : (size_t)(k0 + k) * line + row + r;
        __pipeline_memcpy_async(&to[k][r], there ? from + place : from, 4, there ? 0 : 4);
    }
}

// The same for parts that come one after the other from k = 0 on. A thread brings elements that are `apart` floats from each
// other, of which the first few are there; its pointer may be beyond the operand, for nothing is read then.
template <int BY_K, int SIZE>
struct Operand {
    static const int STEP = THREADS / (BY_K ? TILE_K : SIZE);
    const float* next;
    long long apart, onwards;
    // From this thread's first element on.
    int rows_left, depth_left;

    __device__ __forceinline__ Operand(const float* from, int row, int rows, int depth, int line) {
        const int k = BY_K ? threadIdx.x % TILE_K : threadIdx.x / SIZE;
        const int r = row + (BY_K ? threadIdx.x / TILE_K : threadIdx.x % SIZE);
        next = from + (BY_K ? (size_t)r * line + k : (size_t)k * line + r);
        apart = (long long)STEP * line;
        onwards = BY_K ? TILE_K : (long long)TILE_K * line;
        rows_left = rows - r;
        depth_left = depth - k;
    }

    __device__ __forceinline__ void bring(float (*to)[SIZE + 4]) {
        const int left = BY_K ? (depth_left > 0 ? rows_left : 0) : (rows_left > 0 ? depth_left : 0);
        const int k = BY_K ? threadIdx.x % TILE_K : threadIdx.x / SIZE;
        const int r = BY_K ? threadIdx.x / TILE_K : threadIdx.x % SIZE;
#pragma unroll
        for (int e = 0; e < SIZE * TILE_K / THREADS; e++) {
            float* place = BY_K ? &to[k][r + e * STEP] : &to[k + e * STEP][r];
            __pipeline_memcpy_async(place, next + e * apart, 4, e * STEP < left ? 0 : 4);
        }
        next += onwards;
        depth_left -= TILE_K;
    }
};

// COUNT floats of a row: one, four from `first` on, or four more half a tile further.
template <int COUNT, int LINE>
static __device__ __forceinline__ void pick(float* __restrict__ to, const float (&row)[LINE], int first) {
    if (COUNT < 4) {
        to[0] = row[first];
    } else {
#pragma unroll
        for (int e = 0; e < COUNT; e += 4)
            *reinterpret_cast<float4*>(to + e) = *reinterpret_cast<const float4*>(&row[first + e / 4 * ((LINE - 4) / 2)]);
    }
}

// sum[r][s] += Σ_k a[k][to_m …] · b[k][to_n …]: a part of the sum, of which a thread has HIGH × WIDE results.
template <int HIGH, int WIDE, int A_LINE, int B_LINE>
static __device__ __forceinline__ void multiply(const float (&a)[TILE_K][A_LINE], const float (&b)[TILE_K][B_LINE], int to_m,
                                                int to_n, float (&sum)[HIGH][WIDE]) {
#pragma unroll
    for (int k = 0; k < TILE_K; k++) {
        float p[HIGH], q[WIDE];
        pick<HIGH>(p, a[k], to_m);
        pick<WIDE>(q, b[k], to_n);
#pragma unroll
        for (int r = 0; r < HIGH; r++)
#pragma unroll
            for (int s = 0; s < WIDE; s++) sum[r][s] = fmaf(p[r], q[s], sum[r][s]);
    }
}
