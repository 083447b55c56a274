// What matrix products on tensor cores share: the format of their operands, and a warp's 32 × 32 results by WMMA.
//
// FORMAT: TF32, HALF or BFLOAT16. Operands lie in shared memory in lines of 64 bytes of the sum, [m][k] and [n][k], 80
// bytes from one to the next: eight neighbours lie in different banks. Sums are float.

#pragma once
#include <mma.h>

#define TF32 1
#define HALF 2
#define BFLOAT16 3

#ifndef FORMAT
#define FORMAT HALF
#endif

using namespace nvcuda;

// A number as it lies in memory, what it is to a tensor core, and how many terms one instruction sums.
#if FORMAT == TF32
typedef float Number;
typedef wmma::precision::tf32 Format;
#define STEP 8
static __device__ __forceinline__ Number rounded(float x) { return wmma::__float_to_tf32(x); }
#elif FORMAT == HALF
typedef half Number;
typedef half Format;
#define STEP 16
static __device__ __forceinline__ Number rounded(float x) { return __float2half_rn(x); }
#else
typedef __nv_bfloat16 Number;
typedef __nv_bfloat16 Format;
#define STEP 16
static __device__ __forceinline__ Number rounded(float x) { return __float2bfloat16_rn(x); }
#endif

// Of a block, and of a warp.
#define TILE 128
#define THREADS 512
#define WARP_TILE 32
// Numbers in 16 bytes, in a line of shared memory, and from one line to the next.
#define PIECE (16 / (int)sizeof(Number))
#define TILE_Q (4 * PIECE)
#define LINE (5 * PIECE)
// From one to the next of 16 rows of a warp's sums.
#define SUM_LINE (WARP_TILE + 4)

typedef wmma::fragment<wmma::accumulator, 16, 16, STEP, float> Sum;

static __device__ __forceinline__ void clear(Sum (&sum)[2][2]) {
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
        for (int s = 0; s < 2; s++) wmma::fill_fragment(sum[r][s], 0.0f);
}

// sum[m][n] += Σ a[m][q] · b[n][q] over STEP q: a warp's 32 lines of both.
static __device__ __forceinline__ void multiply(const Number (*a)[LINE], const Number (*b)[LINE], int q,
                                                Sum (&sum)[2][2]) {
    wmma::fragment<wmma::matrix_a, 16, 16, STEP, Format, wmma::row_major> of_a[2];
    wmma::fragment<wmma::matrix_b, 16, 16, STEP, Format, wmma::col_major> of_b[2];
#pragma unroll
    for (int k = 0; k < 2; k++) {
        wmma::load_matrix_sync(of_a[k], &a[k * 16][q], LINE);
        wmma::load_matrix_sync(of_b[k], &b[k * 16][q], LINE);
    }
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
        for (int s = 0; s < 2; s++) wmma::mma_sync(sum[r][s], of_a[r], of_b[s], sum[r][s]);
}

// 16 rows of a warp's sums into shared memory, where all its lanes may read them.
static __device__ __forceinline__ void lay_down(float (*to)[SUM_LINE], const Sum (&sum)[2]) {
#pragma unroll
    for (int s = 0; s < 2; s++) wmma::store_matrix_sync(&to[0][s * 16], sum[s], SUM_LINE, wmma::mem_row_major);
    __syncwarp();
}
