// Matrix products by tensor cores (WMMA): fragments of 16 × 16 × 16 for half and bfloat16, 16 × 16 × 8 for tf32, sums in
// float.
//
// Which lane holds which element of a fragment is not specified, so here it is scattered, and differently for each use:
// a kernel that guesses it is wrong. An element of a half operand is held twice, as on a GPU. Elements are NaN before.
//
// To the checker and to what counts banks, lanes load and store a fragment in pieces of 16 bytes along its lines, eight
// lines at a time, which is how such loads go over the banks.
#pragma once
#include "cuda_bf16.h"
#include "cuda_fp16.h"

namespace cudaemu {
extern "C" void cudaemu_whole_warp(const void* address, unsigned distance, const void* site);
extern "C" void cudaemu_matrix_address(const void* address, unsigned line_bytes, bool write, const void* site);
extern "C" void cudaemu_matrix_piece(const void* address, bool write, const void* site);
extern "C" float* cudaemu_matrix_room();
}  // namespace cudaemu

namespace nvcuda::wmma {

struct matrix_a { static constexpr unsigned SCATTER = 77; };
struct matrix_b { static constexpr unsigned SCATTER = 45; };
struct accumulator { static constexpr unsigned SCATTER = 109; };
struct row_major {};
struct col_major {};
enum layout_t { mem_row_major, mem_col_major };
namespace precision { struct tf32 {}; }

// cvt.rna: to 10 bits of mantissa, to nearest, ties away from zero.
CUDAEMU_QUIET float __float_to_tf32(float x) {
    return std::isfinite(x) ? __uint_as_float((__float_as_uint(x) + 0x1000u) & 0xffffe000u) : x;
}

template <class Use, int M, int N, int K, class T, class Layout = void>
struct fragment {
    static constexpr bool IS_TF32 = std::is_same_v<T, precision::tf32>, IS_SUM = std::is_same_v<Use, accumulator>;
    static_assert(M == 16 && N == 16 && (K == (IS_TF32 ? 8 : 16) || IS_SUM), "a shape that is not executed here");
    static_assert(IS_SUM ? std::is_same_v<T, float> : IS_TF32 || sizeof(T) == 2, "a type that is not executed here");
    static_assert(IS_SUM == std::is_void_v<Layout>, "operands have a layout, sums have none");

    using Element = std::conditional_t<IS_TF32, float, T>;
    static constexpr int ROWS = std::is_same_v<Use, matrix_b> ? K : M, COLUMNS = std::is_same_v<Use, matrix_a> ? K : N;
    enum { num_elements = ROWS * COLUMNS / 32 * (std::is_same_v<Element, half> ? 2 : 1) };
    Element x[num_elements];

    CUDAEMU_QUIET fragment() {
        for (Element& one : x) one = Element(NAN);
    }
    // The place, row by row, of what a lane holds as x[i].
    static int place(unsigned lane, unsigned i) {
        return (lane * num_elements + i) * Use::SCATTER % (ROWS * COLUMNS);
    }
};

template <class Use, int M, int N, int K, class T, class Layout, class U>
CUDAEMU_QUIET void fill_fragment(fragment<Use, M, N, K, T, Layout>& f, U value) {
    for (auto& one : f.x) one = value;
}

// What loads and stores share: all lanes come with the same matrix, and say what they touch. Lines are those of memory.
template <class F>
CUDAEMU_QUIET void meet(const void* base, unsigned distance, bool rows, bool write, const void* site) {
    constexpr unsigned SIZE = sizeof(typename F::Element);
    const char* from = static_cast<const char*>(base);
    cudaemu::cudaemu_whole_warp(base, distance, site);
#ifdef CUDAEMU_CHECK
    cudaemu::cudaemu_matrix_address(base, distance * SIZE, write, site);
    unsigned lines = rows ? F::ROWS : F::COLUMNS, pieces = F::ROWS * F::COLUMNS * SIZE / 16;
    // Not the line that a kernel would give to this lane, or who reads what a lane has just written was no other.
    for (unsigned piece = cudaemu::cudaemu_current->lane ^ 13; piece < pieces; piece += 32)
        cudaemu::cudaemu_matrix_piece(from + piece % lines * distance * SIZE + piece / lines * 16, write, site);
#endif
}

template <class F>
CUDAEMU_QUIET size_t offset(int i, unsigned distance, bool rows) {
    unsigned place = F::place(cudaemu::cudaemu_current->lane, i), r = place / F::COLUMNS, c = place % F::COLUMNS;
    return rows ? size_t(r) * distance + c : size_t(c) * distance + r;
}

template <class Use, int M, int N, int K, class T, class Layout>
CUDAEMU_QUIET void load_matrix_sync(fragment<Use, M, N, K, T, Layout>& f,
                                    const typename fragment<Use, M, N, K, T, Layout>::Element* from, unsigned distance) {
    using F = fragment<Use, M, N, K, T, Layout>;
    constexpr bool rows = std::is_same_v<Layout, row_major>;
    meet<F>(from, distance, rows, false, CUDAEMU_SITE);
    for (int i = 0; i < F::num_elements; i++) f.x[i] = from[offset<F>(i, distance, rows)];
}

template <int M, int N, int K>
CUDAEMU_QUIET void load_matrix_sync(fragment<accumulator, M, N, K, float>& f, const float* from, unsigned distance,
                                    layout_t layout) {
    using F = fragment<accumulator, M, N, K, float>;
    meet<F>(from, distance, layout == mem_row_major, false, CUDAEMU_SITE);
    for (int i = 0; i < F::num_elements; i++) f.x[i] = from[offset<F>(i, distance, layout == mem_row_major)];
}

template <int M, int N, int K>
CUDAEMU_QUIET void store_matrix_sync(float* to, const fragment<accumulator, M, N, K, float>& f, unsigned distance,
                                     layout_t layout) {
    using F = fragment<accumulator, M, N, K, float>;
    meet<F>(to, distance, layout == mem_row_major, true, CUDAEMU_SITE);
    for (int i = 0; i < F::num_elements; i++) to[offset<F>(i, distance, layout == mem_row_major)] = f.x[i];
}

// What a tensor core sees of an operand: of tf32 the upper 19 bits.
template <class F>
CUDAEMU_QUIET float seen(const F& f, int i) {
    float x = float(f.x[i]);
    return F::IS_TF32 ? __uint_as_float(__float_as_uint(x) & 0xffffe000u) : x;
}

// d = a b + c. All lanes lay what they hold of a and b into a room of their warp, and take from it what they need.
template <int M, int N, int K, class T, class A, class B>
CUDAEMU_QUIET void mma_sync(fragment<accumulator, M, N, K, float>& d, const fragment<matrix_a, M, N, K, T, A>& a,
                            const fragment<matrix_b, M, N, K, T, B>& b, const fragment<accumulator, M, N, K, float>& c) {
    const unsigned lane = cudaemu::cudaemu_current->lane;
    float *room_a = cudaemu::cudaemu_matrix_room(), *room_b = room_a + M * K;
    for (int i = 0; i < a.num_elements; i++) room_a[a.place(lane, i)] = seen(a, i);
    for (int i = 0; i < b.num_elements; i++) room_b[b.place(lane, i)] = seen(b, i);
    cudaemu::cudaemu_whole_warp(nullptr, 0, CUDAEMU_SITE);
    for (int i = 0; i < d.num_elements; i++) {
        int place = d.place(lane, i), row = place / N, column = place % N;
        float sum = c.x[i];
        for (int k = 0; k < K; k++) sum += room_a[row * K + k] * room_b[k * N + column];
        d.x[i] = sum;
    }
    // Nobody lays the next until all have taken.
    cudaemu::cudaemu_whole_warp(nullptr, 0, CUDAEMU_SITE);
}

}  // namespace nvcuda::wmma
