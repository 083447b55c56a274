// A cell's way back, one unit at one step: from the gradients of h(t) and c(t) to those of the gates and of what was before.
//
// dz are the gradients of the gates before their functions, as x·W enters them; h·U enters a GRU's n times r, so that of
// the last gate there is another for it. What was saved is said in rnn_cell.cuh.

#pragma once
#include "rnn_cell.cuh"

struct Gradients {
    float dz[GATES], last;
};

// saved, peephole and dp begin at the unit, h apart; dp, null without peepholes, gets what these are added. dh becomes what
// the cell by itself hands on to h(t − 1), dc what it does to c(t − 1).
static __device__ __forceinline__ Gradients retreat(const float* __restrict__ saved, float& dh, float& dc,
                                                    const float* __restrict__ peephole, float* __restrict__ dp, int h,
                                                    int option) {
    Gradients of;
#if CELL == 0
    float i = saved[0], f = saved[h], g = saved[2 * h], o = saved[3 * h], old = saved[4 * h], s = saved[5 * h];
    of.dz[3] = dh * s * o * (1.0f - o);
    dc += dh * o * (option ? 1.0f : 1.0f - s * s);
    if (dp) dc += peephole[2 * h] * of.dz[3];
    of.dz[0] = dc * g * i * (1.0f - i);
    of.dz[1] = dc * old * f * (1.0f - f);
    of.dz[2] = dc * i * (1.0f - g * g);
    dc *= f;
    if (dp) {
        dc += peephole[0] * of.dz[0] + peephole[h] * of.dz[1];
        dp[0] = of.dz[0] * old, dp[h] = of.dz[1] * old, dp[2 * h] = of.dz[3] * (f * old + i * g);
    }
    of.last = of.dz[3];
    dh = 0.0f;
#elif CELL == 1
    float r = saved[0], z = saved[h], n = saved[2 * h], of_h = saved[3 * h], old = saved[4 * h];
    of.dz[2] = dh * (1.0f - z) * (1.0f - n * n);
    of.dz[1] = dh * (old - n) * z * (1.0f - z);
    of.dz[0] = of.dz[2] * of_h * r * (1.0f - r);
    of.last = of.dz[2] * r;
    dh *= z;
#else
    float y = saved[0];
    of.dz[0] = of.last = option ? (y > 0.0f ? dh : 0.0f) : dh * (1.0f - y * y);
    dh = 0.0f;
#endif
    return of;
}

// dz as h·U enters the gate.
static __device__ __forceinline__ float of_h(const Gradients& of, int gate) { return gate < GATES - 1 ? of.dz[gate] : of.last; }

// Into rows of dz, which begin at the unit, h apart: dz_x, and a GRU's dz_h.
static __device__ __forceinline__ void store(const Gradients& of, float* __restrict__ dz_x, float* __restrict__ dz_h, int h) {
#pragma unroll
    for (int gate = 0; gate < GATES; gate++) {
        dz_x[gate * h] = of.dz[gate];
        if (CELL == 1) dz_h[gate * h] = of_h(of, gate);
    }
}
