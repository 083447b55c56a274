// All steps of a recurrent layer in one kernel, for small layers: a block has U in shared memory and takes some of the
// sequences from their first step to their last, or back. blockIdx.y is the direction.
//
// A thread has SEQUENCES sequences, and of U four columns or, on the way back, one; threadIdx.y counts groups of
// sequences. Threads of a block wait for each other once a step, blocks never. The products of all steps, with x and for
// the weights' gradients, are others' (gemm.cu). Arrays are those of `step` in rnn.cu and of `back` in rnn_grad.cu.

#include "rnn_back.cuh"

#define SEQUENCES 4

// h0, c0: (directions, b, h), or null for zeros; hn, cn: the states at the end. Shared memory: U, packed, then h(t − 1) and
// h(t), each (h, sequences of the block).
extern "C" __global__ void __launch_bounds__(256, 1)
persistent(const float* __restrict__ zx, const float* __restrict__ u, const float* __restrict__ b_hh,
           const float* __restrict__ peephole, const long long* __restrict__ lengths, const float* __restrict__ h0,
           const float* __restrict__ c0, float* __restrict__ y, float* __restrict__ hn, float* __restrict__ cn,
           float* __restrict__ saved, int steps, int b, int h, int time_stride, int sequence_stride, int option) {
    extern __shared__ __align__(16) float memory[];
    const int d = blockIdx.y, line = LINE(h), sequences = SEQUENCES * blockDim.y;
    const int first = threadIdx.x * UNITS, of_block = threadIdx.y * SEQUENCES, m0 = blockIdx.x * sequences + of_block;
    float *const weights = memory, *const states = memory + h * line;
    const float4* from = reinterpret_cast<const float4*>(u + (size_t)d * h * line);
    for (int k = threadIdx.y * blockDim.x + threadIdx.x; k < h * line / 4; k += blockDim.x * blockDim.y)
        reinterpret_cast<float4*>(weights)[k] = from[k];
    float cell[SEQUENCES];
#pragma unroll
    for (int s = 0; s < SEQUENCES; s++) {
        size_t state = ((size_t)d * b + m0 + s) * h + first;
        bool there = m0 + s < b && first < h;
        cell[s] = CELL == 0 && c0 && there ? c0[state] : 0.0f;
#pragma unroll
        for (int e = 0; e < UNITS; e++)
            if (first + e < h) states[(first + e) * sequences + of_block + s] = h0 && there ? h0[state + e] : 0.0f;
    }
    if (b_hh) b_hh += d * GATES * h;
    if (peephole) peephole += d * 3 * h;
    __syncthreads();

    const float* old = states;
    for (int now = 0; now < steps; now++) {
        float* next = states + (now % 2 ? 0 : h * sequences);
        if (first < h) {
            Place at[SEQUENCES] = {};
            float sum[SEQUENCES][4] = {}, product[SEQUENCES][4] = {};
            // Asked for before the product, to be there after it.
#pragma unroll
            for (int s = 0; s < SEQUENCES; s++) {
                if (m0 + s >= b) continue;
                at[s] = place_of(m0 + s, now, lengths, steps, d, time_stride, sequence_stride);
                if (at[s].runs) start(sum[s], zx + (at[s].row * gridDim.y + d) * GATES * h, b_hh, first, h);
            }
            for (int k = 0; k < h; k++) {
                float4 w = *reinterpret_cast<const float4*>(weights + k * line + threadIdx.x * 4);
                float4 v = *reinterpret_cast<const float4*>(old + k * sequences + of_block);
                const float p[SEQUENCES] = {v.x, v.y, v.z, v.w}, q[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
                for (int s = 0; s < SEQUENCES; s++)
#pragma unroll
                    for (int e = 0; e < 4; e++) product[s][e] = fmaf(p[s], q[e], product[s][e]);
            }
#pragma unroll
            for (int s = 0; s < SEQUENCES; s++) {
                add(sum[s], product[s]);
#pragma unroll
                for (int e = 0; e < UNITS; e++) {
                    int unit = first + e;
                    if (unit >= h) continue;
                    float before = old[unit * sequences + of_block + s], after = 0.0f;
                    float* kept = saved ? saved + ((size_t)d * steps * b + at[s].row) * SAVED * h + unit : nullptr;
                    if (at[s].runs)
                        after = advance(sum[s] + e, before, cell[s], peephole ? peephole + unit : nullptr, kept, h, option);
                    else if (kept && m0 + s < b)
                        save_nothing(kept, h);
                    next[unit * sequences + of_block + s] = at[s].runs ? after : before;
                    if (m0 + s < b) y[(at[s].row * gridDim.y + d) * h + unit] = after;
                }
            }
        }
        // All of h(t) is there, and nobody still reads h(t − 1).
        __syncthreads();
        old = next;
    }
#pragma unroll
    for (int s = 0; s < SEQUENCES; s++) {
        if (m0 + s >= b) continue;
        size_t state = ((size_t)d * b + m0 + s) * h + first;
#pragma unroll
        for (int e = 0; e < UNITS; e++)
            if (first + e < h) hn[state + e] = old[(first + e) * sequences + of_block + s];
        if (CELL == 0 && first < h) cn[state] = cell[s];
    }
}

// ghn, gcn: of the states at the end, or null for zeros; gh0, gc0: of the given ones, or null. Shared memory: U as it is
// given, in whole float4, then dz(t + 1) and dz(t) as h·U enters, each (gates·h, sequences of the block).
extern "C" __global__ void __launch_bounds__(256, 1)
persistent_back(const float* __restrict__ w_hh, const float* __restrict__ saved, const float* __restrict__ gy,
                const float* __restrict__ peephole, const long long* __restrict__ lengths, const float* __restrict__ ghn,
                const float* __restrict__ gcn, float* __restrict__ dz_x, float* __restrict__ dz_h, float* __restrict__ dp,
                float* __restrict__ gh0, float* __restrict__ gc0, int steps, int b, int h, int time_stride, int sequence_stride,
                int option) {
    extern __shared__ __align__(16) float memory[];
    const int d = blockIdx.y, width = GATES * h, sequences = SEQUENCES * blockDim.y;
    const int unit = threadIdx.x, of_block = threadIdx.y * SEQUENCES, m0 = blockIdx.x * sequences + of_block;
    float *const weights = memory, *const gradients = memory + (width * h + 3) / 4 * 4;
    for (int k = threadIdx.y * blockDim.x + threadIdx.x; k < width * h; k += blockDim.x * blockDim.y)
        weights[k] = w_hh[(size_t)d * width * h + k];
    float dh[SEQUENCES], dc[SEQUENCES];
#pragma unroll
    for (int s = 0; s < SEQUENCES; s++) {
        size_t state = ((size_t)d * b + m0 + s) * h + unit;
        bool there = m0 + s < b && unit < h;
        dh[s] = ghn && there ? ghn[state] : 0.0f;
        dc[s] = gcn && there ? gcn[state] : 0.0f;
    }
    if (peephole) peephole += d * 3 * h;

    float *old = gradients, *next = gradients + width * sequences;
    for (int now = steps - 1; now >= (gh0 ? -1 : 0); now--) {
        // All of dz(t + 1) is there, as U is, and nobody still reads dz(t + 2).
        __syncthreads();
        if (unit >= h) continue;
        float product[SEQUENCES] = {};
        for (int k = 0; k < (now + 1 < steps ? width : 0); k++) {
            float4 v = *reinterpret_cast<const float4*>(old + k * sequences + of_block);
            float w = weights[k * h + unit];
            const float p[SEQUENCES] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int s = 0; s < SEQUENCES; s++) product[s] = fmaf(p[s], w, product[s]);
        }
#pragma unroll
        for (int s = 0; s < SEQUENCES; s++) {
            int m = m0 + s;
            Gradients of = {};
            if (m < b) {
                if (place_of(m, now + 1, lengths, steps, d, time_stride, sequence_stride).runs) dh[s] += product[s];
                if (now < 0) continue;
                Place at = place_of(m, now, lengths, steps, d, time_stride, sequence_stride);
                size_t line_of_x = at.row * gridDim.y + d, place = line_of_x * width + unit;
                float* of_p = dp ? dp + line_of_x * 3 * h + unit : nullptr;
                if (at.runs) {
                    const float* kept = saved + ((size_t)d * steps * b + at.row) * SAVED * h + unit;
                    dh[s] += gy[line_of_x * h + unit];
                    of = retreat(kept, dh[s], dc[s], peephole ? peephole + unit : nullptr, of_p, h, option);
                } else if (of_p) {
                    of_p[0] = of_p[h] = of_p[2 * h] = 0.0f;
                }
                store(of, dz_x + place, CELL == 1 ? dz_h + place : nullptr, h);
            }
#pragma unroll
            for (int gate = 0; gate < GATES; gate++) next[(gate * h + unit) * sequences + of_block + s] = of_h(of, gate);
        }
        float* free = old;
        old = next, next = free;
    }
#pragma unroll
    for (int s = 0; s < SEQUENCES; s++) {
        size_t state = ((size_t)d * b + m0 + s) * h + unit;
        if (m0 + s >= b || unit >= h) continue;
        if (gh0) gh0[state] = dh[s];
        if (gc0) gc0[state] = dc[s];
    }
}
