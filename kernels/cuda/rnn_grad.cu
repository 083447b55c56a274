// A step of a recurrent layer's way back in one kernel: the product of dz(t + 1) with U, and the cell's way back of step t
// (rnn_back.cuh). blockIdx.z is the direction, of which the second read sequences from their ends.
//
//     dh(t) = gy(t) + dz(t + 1)·U + what the cell hands on by itself,    dz(t) = back(dh(t), dc(t), saved(t))
//
// U lies as it is given, for it is needed by columns. The products of all steps follow (rnn_grad.py). ROWS, sequences of
// a block: 16 or 64.

#include "product.cuh"
#include "rnn_back.cuh"

#ifndef ROWS
#define ROWS 64
#endif
#define COLUMNS 64
#define EACH (ROWS / 16)

// w_hh: (directions, gates·h, h). saved: (directions, rows of x, arrays, h). gy: (rows of x, directions·h). dz_old, dz_new:
// (directions, b, gates·h), of steps now + 1 and now, as h·U enters. dh, dc: (directions, b, h), of the states after step
// now, become those before it, but for the product. dz_x, dz_h: (rows of x, directions, gates·h), zero in padding; only
// a GRU's differ, dz_h is null of others. dp: (rows of x, directions, 3·h), or null without peepholes. Step −1 adds the
// product to dh, and that is all.
extern "C" __global__ void __launch_bounds__(THREADS, ROWS == 64 ? 2 : 4)
back(const float* __restrict__ w_hh, const float* __restrict__ saved, const float* __restrict__ gy,
     const float* __restrict__ peephole, const long long* __restrict__ lengths, const float* __restrict__ dz_old,
     float* __restrict__ dz_new, float* __restrict__ dh, float* __restrict__ dc, float* __restrict__ dz_x,
     float* __restrict__ dz_h, float* __restrict__ dp, int now, int steps, int b, int h, int time_stride, int sequence_stride,
     int option) {
    __shared__ __align__(16) float part_z[2][TILE_K][ROWS + 4];
    __shared__ __align__(16) float part_u[2][TILE_K][COLUMNS + 4];
    const int d = blockIdx.z, width = GATES * h, depth = now + 1 < steps ? width : 0;
    const int t = threadIdx.x, row = blockIdx.y * ROWS, column = blockIdx.x * COLUMNS;
    const int to_m = t / 16 * (EACH < 4 ? 1 : 4), to_n = t % 16 * 4;
    w_hh += (size_t)d * width * h;
    dz_old += (size_t)d * b * width;
    float product[EACH][4] = {};
    Operand<1, ROWS> of_z(dz_old, row, b, depth, width);
    Operand<0, COLUMNS> of_u(w_hh, column, h, depth, h);
    of_z.bring(part_z[0]);
    of_u.bring(part_u[0]);
    __pipeline_commit();
    for (int k0 = 0, part = 0; k0 < depth; k0 += TILE_K, part ^= 1) {
        __pipeline_wait_prior(0);
        // All have what they brought, and nobody still reads the other half.
        __syncthreads();
        if (k0 + TILE_K < depth) {
            of_z.bring(part_z[part ^ 1]);
            of_u.bring(part_u[part ^ 1]);
            __pipeline_commit();
        }
        multiply(part_z[part], part_u[part], to_m, to_n, product);
    }

    if (peephole) peephole += d * 3 * h;
#pragma unroll
    for (int r = 0; r < EACH; r++) {
        int m = row + to_m + r;
        if (m >= b) continue;
        Place at = place_of(m, now, lengths, steps, d, time_stride, sequence_stride);
        bool after = place_of(m, now + 1, lengths, steps, d, time_stride, sequence_stride).runs;
        size_t line_of_x = at.row * gridDim.z + d;
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int unit = column + to_n + e;
            if (unit >= h) continue;
            size_t state = ((size_t)d * b + m) * h + unit;
            // A sequence that ends here has nothing of the product, whatever U is.
            float grad = dh[state] + (after ? product[r][e] : 0.0f);
            if (now < 0) {
                dh[state] = grad;
                continue;
            }
            Gradients of = {};
            float* of_p = dp ? dp + line_of_x * 3 * h + unit : nullptr;
            if (at.runs) {
                grad += gy[line_of_x * h + unit];
                float cell = CELL == 0 ? dc[state] : 0.0f;
                const float* kept = saved + ((size_t)d * steps * b + at.row) * SAVED * h + unit;
                of = retreat(kept, grad, cell, peephole ? peephole + unit : nullptr, of_p, h, option);
                if (CELL == 0) dc[state] = cell;
                dh[state] = grad;
            } else if (of_p) {
                of_p[0] = of_p[h] = of_p[2 * h] = 0.0f;
            }
            size_t place = line_of_x * width + unit;
            store(of, dz_x + place, CELL == 1 ? dz_h + place : nullptr, h);
#pragma unroll
            for (int gate = 0; gate < GATES; gate++) dz_new[((size_t)d * b + m) * width + gate * h + unit] = of_h(of, gate);
        }
    }
}

// y = x (rows, features), zero in padding, whatever x has there. The steps of a sequence lie a row apart if time_stride is
// 1, else sequences do.
extern "C" __global__ void __launch_bounds__(THREADS)
unpadded(const float* __restrict__ x, const long long* __restrict__ lengths, float* __restrict__ y, int steps, int b,
         int features, int time_stride) {
    size_t count = (size_t)steps * b * features;
    for (size_t k = (size_t)blockIdx.x * THREADS + threadIdx.x; k < count; k += (size_t)gridDim.x * THREADS) {
        int row = (int)(k / features), m = time_stride == 1 ? row / steps : row % b;
        int time = time_stride == 1 ? row % steps : row / b;
        y[k] = time < lengths[m] ? x[k] : 0.0f;
    }
}
