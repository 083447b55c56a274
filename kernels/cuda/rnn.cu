// A step of a recurrent layer in one kernel: the product of h(t − 1) with U, and what the cell makes of it
// (rnn_cell.cuh). blockIdx.z is the direction, of which the second reads sequences from their ends.
//
// x·W + b_ih of all steps is one product before (gemm.cu). ROWS, sequences of a block: 16 or 64.

#include "product.cuh"
#include "rnn_cell.cuh"

#ifndef ROWS
#define ROWS 64
#endif
#define COLUMNS 64
#define EACH (ROWS / 16)

// zx: (rows of x, directions, gates·h). u: packed. h_old, h_new, c: (directions, b, h). y: (rows of x, directions·h).
// saved: (directions, rows of x, arrays, h), or null. time_stride, sequence_stride: rows from step to step, from sequence
// to sequence. Beyond the end of a sequence y is zero and the state stays.
extern "C" __global__ void __launch_bounds__(THREADS, ROWS == 64 ? 2 : 4)
step(const float* __restrict__ zx, const float* __restrict__ u, const float* __restrict__ b_hh,
     const float* __restrict__ peephole, const long long* __restrict__ lengths, const float* __restrict__ h_old,
     float* __restrict__ h_new, float* __restrict__ c, float* __restrict__ y, float* __restrict__ saved, int now, int steps,
     int b, int h, int time_stride, int sequence_stride, int option) {
    __shared__ __align__(16) float part_h[2][TILE_K][ROWS + 4];
    __shared__ __align__(16) float part_u[2][TILE_K][COLUMNS + 4];
    const int d = blockIdx.z, columns = CELL == 2 ? h : 4 * h, line = LINE(h);
    const int t = threadIdx.x, row = blockIdx.y * ROWS, column = blockIdx.x * COLUMNS;
    const int to_m = t / 16 * (EACH < 4 ? 1 : 4), to_n = t % 16 * 4;
    u += (size_t)d * h * line;
    h_old += (size_t)d * b * h;
    float product[EACH][4] = {};
    Operand<1, ROWS> of_h(h_old, row, b, h, h);
    Operand<0, COLUMNS> of_u(u, column, columns, h, line);
    of_h.bring(part_h[0]);
    of_u.bring(part_u[0]);
    __pipeline_commit();
    for (int k0 = 0, part = 0; k0 < h; k0 += TILE_K, part ^= 1) {
        __pipeline_wait_prior(0);
        // All have what they brought, and nobody still reads the other half.
        __syncthreads();
        if (k0 + TILE_K < h) {
            of_h.bring(part_h[part ^ 1]);
            of_u.bring(part_u[part ^ 1]);
            __pipeline_commit();
        }
        multiply(part_h[part], part_u[part], to_m, to_n, product);
    }

    const int first = (column + to_n) / (4 / UNITS);
    if (first >= h) return;
    if (b_hh) b_hh += d * GATES * h;
    if (peephole) peephole += d * 3 * h;
#pragma unroll
    for (int r = 0; r < EACH; r++) {
        int m = row + to_m + r;
        if (m >= b) continue;
        Place at = place_of(m, now, lengths, steps, d, time_stride, sequence_stride);
        size_t line_of_x = at.row * gridDim.z + d;
        float sum[4];
        if (at.runs) {
            start(sum, zx + line_of_x * GATES * h, b_hh, first, h);
            add(sum, product[r]);
        }
#pragma unroll
        for (int e = 0; e < UNITS; e++) {
            int unit = first + e;
            if (unit >= h) continue;
            size_t state = ((size_t)d * b + m) * h + unit;
            float before = h_old[(size_t)m * h + unit], after = 0.0f;
            float* kept = saved ? saved + ((size_t)d * steps * b + at.row) * SAVED * h + unit : nullptr;
            if (at.runs) {
                float cell = CELL == 0 ? c[state] : 0.0f;
                after = advance(sum + e, before, cell, peephole ? peephole + unit : nullptr, kept, h, option);
                if (CELL == 0) c[state] = cell;
            } else if (kept) {
                save_nothing(kept, h);
            }
            h_new[state] = at.runs ? after : before;
            y[line_of_x * h + unit] = after;
        }
    }
}

// u[direction][k][unit][gate] = w_hh[direction][gate·h + unit][k], zero where a cell has no such gate or unit.
extern "C" __global__ void __launch_bounds__(THREADS) pack(const float* __restrict__ w_hh, float* __restrict__ u, int h) {
    const int line = LINE(h), d = blockIdx.z;
    int place = blockIdx.x * blockDim.x + threadIdx.x, k = blockIdx.y;
    if (place >= line) return;
    int unit = place / (4 / UNITS), gate = CELL == 2 ? 0 : place % 4;
    u[((size_t)d * h + k) * line + place] =
        gate < GATES && unit < h ? w_hh[((size_t)(d * GATES + gate) * h + unit) * h + k] : 0.0f;
}
