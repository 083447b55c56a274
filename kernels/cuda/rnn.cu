// A step of a recurrent layer in one kernel: the product of h(t − 1) with the weights, and what the cell makes of it.
//
//     LSTM   c = f·c + i·g, h = o·tanh(c)        i, f, g, o of x·W + h·U + b
//     GRU    n = tanh(x·W + r·(h·U)), h = (1 − z)·n + z·h
//     RNN    h = tanh or max(0, ·) of x·W + h·U + b
//
// x·W + b_ih of all steps is one product before (gemm.cu). U lies packed [k][unit][gate], four floats for each unit, so
// that a thread's 4 columns of the product are one unit's gates, which never leave its registers. A GRU's fourth is
// zero; a plain RNN has four units there. CELL is 0 (LSTM), 1 (GRU) or 2 (RNN); ROWS, sequences of a block: 16 or 64.
//
// Sequence r has lengths[r] steps, or all if lengths is null, and REVERSE layers read it from its end. Beyond its end
// y is zero and the state stays. Source: torch.nn.LSTM, GRU, RNN; peepholes: Gers, Schraudolph and Schmidhuber 2002.

#include "product.cuh"

#ifndef CELL
#define CELL 0
#endif
#ifndef ROWS
#define ROWS 64
#endif
#define COLUMNS 64
#define EACH (ROWS / 16)

#if CELL != 2
static __device__ __forceinline__ float sigmoid(float x) {
    float e = expf(-fabsf(x));
    return (x >= 0.0f ? 1.0f : e) / (1.0f + e);
}
#endif

// zx: rows of x times gates·h. time_stride, sequence_stride: rows of zx and y from step to step, from sequence to
// sequence. y has lines of y_line floats, of which these units are those from y_first on. h_old, h_new, c: (b, h).
extern "C" __global__ void __launch_bounds__(THREADS, ROWS == 64 ? 2 : 4)
step(const float* __restrict__ zx, const float* __restrict__ u, const float* __restrict__ b_hh,
     const float* __restrict__ peephole, const long long* __restrict__ lengths, const float* __restrict__ h_old,
     float* __restrict__ h_new, float* __restrict__ c, float* __restrict__ y, int now, int steps, int reverse, int b, int h,
     int time_stride, int sequence_stride, int y_line, int y_first, int option) {
    __shared__ __align__(16) float part_h[2][TILE_K][ROWS + 4];
    __shared__ __align__(16) float part_u[2][TILE_K][COLUMNS + 4];
    const int columns = CELL == 2 ? h : 4 * h, line = CELL == 2 ? (h + 3) / 4 * 4 : 4 * h;
    const int t = threadIdx.x, row = blockIdx.y * ROWS, column = blockIdx.x * COLUMNS;
    const int to_m = t / 16 * (EACH < 4 ? 1 : 4), to_n = t % 16 * 4;
    float sum[EACH][4] = {};
    bring<1, ROWS>(part_h[0], h_old, row, b, 0, h, h);
    bring<0, COLUMNS>(part_u[0], u, column, columns, 0, h, line);
    __pipeline_commit();
    for (int k0 = 0, part = 0; k0 < h; k0 += TILE_K, part ^= 1) {
        __pipeline_wait_prior(0);
        // All have what they brought, and nobody still reads the other half.
        __syncthreads();
        if (k0 + TILE_K < h) {
            bring<1, ROWS>(part_h[part ^ 1], h_old, row, b, k0 + TILE_K, h, h);
            bring<0, COLUMNS>(part_u[part ^ 1], u, column, columns, k0 + TILE_K, h, line);
            __pipeline_commit();
        }
        multiply(part_h[part], part_u[part], to_m, to_n, sum);
    }

    const int first = CELL == 2 ? column + to_n : (column + to_n) / 4;
#pragma unroll
    for (int r = 0; r < EACH; r++) {
        int m = row + to_m + r;
        if (m >= b) continue;
        int length = lengths ? (int)lengths[m] : steps;
        bool active = now < length;
        int time = active && reverse ? length - 1 - now : now;
        size_t of = (size_t)time * time_stride + (size_t)m * sequence_stride;
#pragma unroll
        for (int e = 0; e < (CELL == 2 ? 4 : 1); e++) {
            int unit = first + e;
            if (unit >= h) continue;
            size_t state = (size_t)m * h + unit;
            float before = h_old[state];
            if (!active) {
                h_new[state] = before;
                y[of * y_line + y_first + unit] = 0.0f;
                continue;
            }
            float after;
#if CELL == 0
            const float* z = zx + of * 4 * h + unit;
            float gate[4];
#pragma unroll
            for (int g = 0; g < 4; g++) gate[g] = z[g * h] + sum[r][g] + (b_hh ? b_hh[g * h + unit] : 0.0f);
            float old = c[state];
            if (peephole) gate[0] += peephole[unit] * old, gate[1] += peephole[h + unit] * old;
            float next = sigmoid(gate[1]) * old + sigmoid(gate[0]) * tanhf(gate[2]);
            if (peephole) gate[3] += peephole[2 * h + unit] * next;
            c[state] = next;
            after = sigmoid(gate[3]) * (option ? next : tanhf(next));
#elif CELL == 1
            const float* z = zx + of * 3 * h + unit;
            float hidden[3];
#pragma unroll
            for (int g = 0; g < 3; g++) hidden[g] = sum[r][g] + (b_hh ? b_hh[g * h + unit] : 0.0f);
            float reset = sigmoid(z[0] + hidden[0]), update = sigmoid(z[h] + hidden[1]);
            float n = tanhf(z[2 * h] + reset * hidden[2]);
            after = n + update * (before - n);
#else
            float value = zx[of * h + unit] + sum[r][e] + (b_hh ? b_hh[unit] : 0.0f);
            after = option ? (value < 0.0f ? 0.0f : value) : tanhf(value);
#endif
            h_new[state] = after;
            y[of * y_line + y_first + unit] = after;
        }
    }
}

// u[k][unit][gate] = w_hh[gate·h + unit][k], zero where a cell has no such gate or unit: what `step` reads.
extern "C" __global__ void __launch_bounds__(THREADS) pack(const float* __restrict__ w_hh, float* __restrict__ u, int h) {
    const int gates = CELL == 0 ? 4 : CELL == 1 ? 3 : 1, line = CELL == 2 ? (h + 3) / 4 * 4 : 4 * h;
    int place = blockIdx.x * blockDim.x + threadIdx.x, k = blockIdx.y;
    if (place >= line) return;
    int unit = CELL == 2 ? place : place / 4, gate = CELL == 2 ? 0 : place % 4;
    u[(size_t)k * line + place] = gate < gates && unit < h ? w_hh[(size_t)(gate * h + unit) * h + k] : 0.0f;
}
