// The matrices of Winograd's F(M×M, 3×3), M 2 or 4, and products with one from both sides.

#pragma once

#ifndef M
#define M 2
#endif
#define A (M + 2)
#define THREADS 256

// Points 0, ±1 and infinity; and 0, ±5/8, ±3/2 and infinity, whose rounding error is smaller than that of the paper's
// whole numbers: kernels/cpu/winograd_matrices.py makes both.
#if M == 2
static __device__ const float INPUT[A][A] = {{-1, 0, 1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, -1, 0, 1}};
static __device__ const float WEIGHT[A][3] = {{-1, 0, 0}, {0.5f, 0.5f, 0.5f}, {0.5f, -0.5f, 0.5f}, {0, 0, 1}};
static __device__ const float OUTPUT[M][A] = {{1, 1, 1, 0}, {0, 1, -1, 1}};
#else
static __device__ const float INPUT[A][A] = {
    {0.87890625f, 0, -2.640625f, 0, 1, 0},         {0, -1.40625f, -2.25f, 0.625f, 1, 0},
    {0, 1.40625f, -2.25f, -0.625f, 1, 0},          {0, -0.5859375f, -0.390625f, 1.5f, 1, 0},
    {0, 0.5859375f, -0.390625f, -1.5f, 1, 0},      {0, 0.87890625f, 0, -2.640625f, 0, 1}};
static __device__ const float WEIGHT[A][3] = {
    {256 / 225.0f, 0, 0},
    {-2048 / 2975.0f, -256 / 595.0f, -32 / 119.0f},
    {-2048 / 2975.0f, 256 / 595.0f, -32 / 119.0f},
    {128 / 1071.0f, 64 / 357.0f, 32 / 119.0f},
    {128 / 1071.0f, -64 / 357.0f, 32 / 119.0f},
    {0, 0, 1}};
static __device__ const float OUTPUT[M][A] = {{1, 1, 1, 1, 1, 0},
                                              {0, 0.625f, -0.625f, 1.5f, -1.5f, 0},
                                              {0, 0.390625f, 0.390625f, 2.25f, 2.25f, 0},
                                              {0, 0.244140625f, -0.244140625f, 3.375f, -3.375f, 1}};
#endif

// to = matrix · from · matrixᵀ.
template <int ROWS, int COLUMNS>
static __device__ __forceinline__ void both(const float (&matrix)[ROWS][COLUMNS], const float (&from)[COLUMNS][COLUMNS],
                                            float (&to)[ROWS][ROWS]) {
    float half[ROWS][COLUMNS];
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) {
            float total = 0;
#pragma unroll
            for (int k = 0; k < COLUMNS; k++)
                if (matrix[r][k] != 0) total = fmaf(matrix[r][k], from[k][j], total);
            half[r][j] = total;
        }
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int s = 0; s < ROWS; s++) {
            float total = 0;
#pragma unroll
            for (int k = 0; k < COLUMNS; k++)
                if (matrix[s][k] != 0) total = fmaf(matrix[s][k], half[r][k], total);
            to[r][s] = total;
        }
}

// to = matrixᵀ · from · matrix.
template <int ROWS, int COLUMNS>
static __device__ __forceinline__ void both_transposed(const float (&matrix)[ROWS][COLUMNS],
                                                       const float (&from)[ROWS][ROWS], float (&to)[COLUMNS][COLUMNS]) {
    float half[COLUMNS][ROWS];
#pragma unroll
    for (int r = 0; r < COLUMNS; r++)
#pragma unroll
        for (int j = 0; j < ROWS; j++) {
            float total = 0;
#pragma unroll
            for (int k = 0; k < ROWS; k++)
                if (matrix[k][r] != 0) total = fmaf(matrix[k][r], from[k][j], total);
            half[r][j] = total;
        }
#pragma unroll
    for (int r = 0; r < COLUMNS; r++)
#pragma unroll
        for (int s = 0; s < COLUMNS; s++) {
            float total = 0;
#pragma unroll
            for (int k = 0; k < ROWS; k++)
                if (matrix[k][s] != 0) total = fmaf(matrix[k][s], half[r][k], total);
            to[r][s] = total;
        }
}
