// What the kernels of recurrent layers share: where a sequence is at a step, and what a cell makes of a step's sums.
//
//     LSTM   c = f·c + i·g, h = o·tanh(c)        i, f, g, o of x·W + h·U + b
//     GRU    n = tanh(x·W + r·(h·U)), h = (1 − z)·n + z·h
//     RNN    h = tanh or max(0, ·) of x·W + h·U + b
//
// CELL is 0 (LSTM), 1 (GRU) or 2 (RNN). U lies packed [k][unit][gate], four floats for each unit, so that a thread's four
// columns of h·U are one unit's gates, which never leave its registers. A GRU's fourth is zero; a plain RNN has four units
// there. What is saved for the way back are arrays (rows of x, h) of each row after each other, and zero in padding:
//
//     LSTM   i f g o, c(t − 1), tanh(c), h(t − 1)
//     GRU    r z n, h·U + b of n, h(t − 1)
//     RNN    h, h(t − 1)
//
// Source: torch.nn.LSTM, GRU, RNN; peepholes: Gers, Schraudolph and Schmidhuber 2002.

#pragma once

#ifndef CELL
#define CELL 0
#endif
#define GATES (CELL == 0 ? 4 : CELL == 1 ? 3 : 1)
#define SAVED (CELL == 0 ? 7 : CELL == 1 ? 5 : 2)
// Units of four columns of U, and floats of packed U for each k.
#define UNITS (CELL == 2 ? 4 : 1)
#define LINE(h) (CELL == 2 ? ((h) + 3) / 4 * 4 : 4 * (h))

// A sequence at a step: whether it has that step, and its row of x and y; past its end, a row of its padding.
struct Place {
    bool runs;
    size_t row;
};

// Sequence m has lengths[m] steps, or all if lengths is null; in reverse it is read from its own end.
static __device__ __forceinline__ Place place_of(int m, int now, const long long* __restrict__ lengths, int steps, bool reverse,
                                                 int time_stride, int sequence_stride) {
    int length = lengths ? (int)lengths[m] : steps;
    bool runs = now < length;
    int time = runs && reverse ? length - 1 - now : now;
    return {runs, (size_t)time * time_stride + (size_t)m * sequence_stride};
}

// x·W + b_ih, which lies at zx for the row, plus b_hh: a GRU's are r, z, h's part of n, x's part of n.
static __device__ __forceinline__ void start(float (&sum)[4], const float* __restrict__ zx, const float* __restrict__ b_hh,
                                             int unit, int h) {
#pragma unroll
    for (int e = 0; e < 4; e++) {
        int place = CELL == 2 ? unit + e : e * h + unit;
        bool of_x = CELL == 2 ? unit + e < h : CELL == 0 || e < 2, of_h = CELL == 2 ? unit + e < h : e < GATES;
        sum[e] = (of_x ? zx[place] : 0.0f) + (of_h && b_hh ? b_hh[place] : 0.0f);
    }
    if (CELL == 1) sum[3] = zx[2 * h + unit];
}

// sum + h·U, of which a GRU's x's part of n has nothing: zero times an infinite h is none.
static __device__ __forceinline__ void add(float (&sum)[4], const float (&product)[4]) {
#pragma unroll
    for (int e = 0; e < (CELL == 1 ? 3 : 4); e++) sum[e] += product[e];
}

#if CELL != 2
static __device__ __forceinline__ float sigmoid(float x) {
    float e = expf(-fabsf(x));
    return (x >= 0.0f ? 1.0f : e) / (1.0f + e);
}
#endif

// h(t) of one unit from its sums and from h(t − 1) and c(t − 1), of which c becomes c(t). peephole and saved begin at the
// unit, h apart, or are null. option: a linear LSTM's h = o·c, an RNN's max(0, ·).
static __device__ __forceinline__ float advance(const float* sum, float before, float& c, const float* __restrict__ peephole,
                                                float* __restrict__ saved, int h, int option) {
#if CELL == 0
    float to_i = sum[0], to_f = sum[1], to_o = sum[3], old = c;
    if (peephole) to_i += peephole[0] * old, to_f += peephole[h] * old;
    float i = sigmoid(to_i), f = sigmoid(to_f), g = tanhf(sum[2]);
    c = f * old + i * g;
    if (peephole) to_o += peephole[2 * h] * c;
    float o = sigmoid(to_o), s = option ? c : tanhf(c);
    if (saved) {
        saved[0] = i, saved[h] = f, saved[2 * h] = g, saved[3 * h] = o;
        saved[4 * h] = old, saved[5 * h] = s, saved[6 * h] = before;
    }
    return o * s;
#elif CELL == 1
    float r = sigmoid(sum[0]), z = sigmoid(sum[1]), n = tanhf(sum[3] + r * sum[2]);
    if (saved) saved[0] = r, saved[h] = z, saved[2 * h] = n, saved[3 * h] = sum[2], saved[4 * h] = before;
    return n + z * (before - n);
#else
    float after = option ? (sum[0] < 0.0f ? 0.0f : sum[0]) : tanhf(sum[0]);
    if (saved) saved[0] = after, saved[h] = before;
    return after;
#endif
}

// What is saved of a unit in padding.
static __device__ __forceinline__ void save_nothing(float* __restrict__ saved, int h) {
#pragma unroll
    for (int e = 0; e < SAVED; e++) saved[e * h] = 0.0f;
}
