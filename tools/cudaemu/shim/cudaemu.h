// CUDA C++ as a C++ compiler for the CPU can read it: included before an unchanged .cu file.
//
// Each CUDA thread is a fiber (runtime.cpp). What every thread of a block shares is thread_local, because a block's
// fibers all run on one thread of the system. Functions here must not be instrumented themselves: they tell the runtime
// what they do.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define __global__ __attribute__((noinline))
#define __device__
#define __host__
#define __constant__ static
#define __shared__ thread_local
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__

// Not instrumented, in the flavour that checks; small and inlined in the other.
#ifdef CUDAEMU_CHECK
#define CUDAEMU_QUIET __attribute__((no_sanitize("thread", "undefined"), noinline)) inline
#else
#define CUDAEMU_QUIET inline
#endif

struct uint3 { unsigned x, y, z; };
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

#define CUDAEMU_VECTOR(type, name, alignment1, alignment2, alignment4)                               \
    struct alignas(alignment1) name##1 { type x; };                                                  \
    struct alignas(alignment2) name##2 { type x, y; };                                               \
    struct name##3 { type x, y, z; };                                                                \
    struct alignas(alignment4) name##4 { type x, y, z, w; };                                         \
    static inline name##2 make_##name##2(type x, type y) { return {x, y}; }                          \
    static inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }               \
    static inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }

CUDAEMU_VECTOR(float, float, 4, 8, 16)
CUDAEMU_VECTOR(double, double, 8, 16, 16)
CUDAEMU_VECTOR(int, int, 4, 8, 16)
#undef CUDAEMU_VECTOR
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };

namespace cudaemu {

// What a thread is told of itself. The runtime's fibers begin with it.
struct Thread {
    uint3 thread;
    uint3 block;
    unsigned lane, warp;
    uint64_t slot;
};

extern "C" Thread* cudaemu_current;
extern "C" dim3 cudaemu_block_dim, cudaemu_grid_dim;

extern "C" void cudaemu_barrier(const void* site);
extern "C" int cudaemu_barrier_count(const void* site, int predicate);
extern "C" void cudaemu_warp_arrive(unsigned mask, const void* site, int memory);
extern "C" uint64_t cudaemu_slot_of(unsigned lane);
extern "C" unsigned cudaemu_live_lanes();
extern "C" void cudaemu_atomic(const void* address, unsigned size, const void* site);
extern "C" void cudaemu_async_copy(void* to, const void* from, unsigned size, unsigned zeros, const void* site);
extern "C" void cudaemu_async_commit();
extern "C" void cudaemu_async_wait(unsigned left);
extern "C" void cudaemu_trap(const char* what, const void* site);
extern "C" void cudaemu_fence();

#define CUDAEMU_SITE __builtin_return_address(0)

CUDAEMU_QUIET uint3 thread_index() { return cudaemu_current->thread; }
CUDAEMU_QUIET uint3 block_index() { return cudaemu_current->block; }
CUDAEMU_QUIET dim3 block_size() { return cudaemu_block_dim; }
CUDAEMU_QUIET dim3 grid_size() { return cudaemu_grid_dim; }

template <class... A, size_t... I>
CUDAEMU_QUIET void call(void (*f)(A...), void** a, std::index_sequence<I...>) {
    f(*static_cast<std::remove_reference_t<A>*>(a[I])...);
}

// Call a kernel with arguments that lie where `a` points: what cuLaunchKernel takes.
template <class... A>
CUDAEMU_QUIET void invoke(void (*f)(A...), void** a) {
    call(f, a, std::index_sequence_for<A...>{});
}

template <class T>
constexpr char kind() {
    if (std::is_pointer_v<T>) return std::is_const_v<std::remove_pointer_t<T>> ? 'c' : 'p';
    if (std::is_floating_point_v<T>) return sizeof(T) == 8 ? 'd' : 'f';
    if (std::is_integral_v<T>) return sizeof(T) == 8 ? 'l' : sizeof(T) == 4 ? 'i' : '?';
    return '?';
}

// One letter for each parameter: c pointer to const, p pointer, f d i l numbers.
template <class... A>
inline const char* signature(void (*)(A...)) {
    static const char letters[] = {kind<A>()..., 0};
    return letters;
}

template <class T>
CUDAEMU_QUIET void put_slot(T value) {
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    cudaemu_current->slot = bits;
}

template <class T>
CUDAEMU_QUIET T slot_of(unsigned lane) {
    uint64_t bits = cudaemu_slot_of(lane);
    T value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// All lanes of the mask give a value and get that of `source`, if that is in range; else their own.
template <class T>
CUDAEMU_QUIET T exchange(unsigned mask, T value, int source, bool in_range, const void* site) {
    static_assert(sizeof(T) <= 8);
    put_slot(value);
    cudaemu_warp_arrive(mask, site, 0);
    if (in_range && !(mask >> source & 1)) cudaemu_trap("shuffle from a lane that is not in the mask", site);
    T found = in_range ? slot_of<T>(source) : value;
    cudaemu_warp_arrive(mask, site, 0);
    return found;
}

}  // namespace cudaemu

#define threadIdx (cudaemu::thread_index())
#define blockIdx (cudaemu::block_index())
#define blockDim (cudaemu::block_size())
#define gridDim (cudaemu::grid_size())
static constexpr int warpSize = 32;

// ---- barriers and warps

CUDAEMU_QUIET void __syncthreads() { cudaemu::cudaemu_barrier(CUDAEMU_SITE); }
CUDAEMU_QUIET int __syncthreads_count(int p) { return cudaemu::cudaemu_barrier_count(CUDAEMU_SITE, p); }
CUDAEMU_QUIET int __syncthreads_or(int p) { return cudaemu::cudaemu_barrier_count(CUDAEMU_SITE, p) != 0; }
CUDAEMU_QUIET int __syncthreads_and(int p) { return cudaemu::cudaemu_barrier_count(CUDAEMU_SITE, !p) == 0; }
CUDAEMU_QUIET void __syncwarp(unsigned mask = 0xffffffffu) { cudaemu::cudaemu_warp_arrive(mask, CUDAEMU_SITE, 1); }
CUDAEMU_QUIET void __threadfence() { cudaemu::cudaemu_fence(); }
CUDAEMU_QUIET void __threadfence_block() {}
CUDAEMU_QUIET unsigned __activemask() { return cudaemu::cudaemu_live_lanes(); }

template <class T>
CUDAEMU_QUIET T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    int lane = cudaemu::cudaemu_current->lane;
    return cudaemu::exchange(mask, value, (lane & ~(width - 1)) + (source & (width - 1)), true, CUDAEMU_SITE);
}
template <class T>
CUDAEMU_QUIET T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    int lane = cudaemu::cudaemu_current->lane, source = lane ^ bits;
    return cudaemu::exchange(mask, value, source, source / width <= lane / width, CUDAEMU_SITE);
}
template <class T>
CUDAEMU_QUIET T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    int lane = cudaemu::cudaemu_current->lane, source = lane + delta;
    return cudaemu::exchange(mask, value, source, source / width == lane / width, CUDAEMU_SITE);
}
template <class T>
CUDAEMU_QUIET T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    int lane = cudaemu::cudaemu_current->lane, source = lane - int(delta);
    return cudaemu::exchange(mask, value, source, source >= 0 && source / width == lane / width, CUDAEMU_SITE);
}
CUDAEMU_QUIET unsigned __ballot_sync(unsigned mask, int predicate) {
    cudaemu::put_slot(uint64_t(predicate != 0));
    cudaemu::cudaemu_warp_arrive(mask, CUDAEMU_SITE, 0);
    unsigned found = 0;
    for (unsigned lane = 0; lane < 32; lane++)
        if (mask >> lane & 1) found |= unsigned(cudaemu::cudaemu_slot_of(lane)) << lane;
    cudaemu::cudaemu_warp_arrive(mask, CUDAEMU_SITE, 0);
    return found;
}
CUDAEMU_QUIET int __any_sync(unsigned mask, int predicate) {
    cudaemu::put_slot(uint64_t(predicate != 0));
    cudaemu::cudaemu_warp_arrive(mask, CUDAEMU_SITE, 0);
    int found = 0;
    for (unsigned lane = 0; lane < 32; lane++) found |= (mask >> lane & 1) && cudaemu::cudaemu_slot_of(lane);
    cudaemu::cudaemu_warp_arrive(mask, CUDAEMU_SITE, 0);
    return found;
}
CUDAEMU_QUIET int __all_sync(unsigned mask, int predicate) {
    cudaemu::put_slot(uint64_t(predicate == 0));
    cudaemu::cudaemu_warp_arrive(mask, CUDAEMU_SITE, 0);
    int missing = 0;
    for (unsigned lane = 0; lane < 32; lane++) missing |= (mask >> lane & 1) && cudaemu::cudaemu_slot_of(lane);
    cudaemu::cudaemu_warp_arrive(mask, CUDAEMU_SITE, 0);
    return !missing;
}

// ---- atomics: no fiber runs beside another, so plain steps are atomic; the checker is told that they are

template <class T>
CUDAEMU_QUIET T cudaemu_exchange_at(T* address, T value, const void* site) {
    cudaemu::cudaemu_atomic(address, sizeof(T), site);
    T old = *address;
    *address = value;
    return old;
}
template <class T>
CUDAEMU_QUIET T atomicAdd(T* a, T v) {
    cudaemu::cudaemu_atomic(a, sizeof(T), CUDAEMU_SITE);
    T old = *a;
    *a = old + v;
    return old;
}
template <class T>
CUDAEMU_QUIET T atomicMax(T* a, T v) {
    cudaemu::cudaemu_atomic(a, sizeof(T), CUDAEMU_SITE);
    T old = *a;
    *a = old < v ? v : old;
    return old;
}
template <class T>
CUDAEMU_QUIET T atomicMin(T* a, T v) {
    cudaemu::cudaemu_atomic(a, sizeof(T), CUDAEMU_SITE);
    T old = *a;
    *a = v < old ? v : old;
    return old;
}
template <class T>
CUDAEMU_QUIET T atomicExch(T* a, T v) { return cudaemu_exchange_at(a, v, CUDAEMU_SITE); }
template <class T>
CUDAEMU_QUIET T atomicCAS(T* a, T expected, T v) {
    cudaemu::cudaemu_atomic(a, sizeof(T), CUDAEMU_SITE);
    T old = *a;
    if (old == expected) *a = v;
    return old;
}

// ---- arithmetic

static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __fdividef(float a, float b) { return a / b; }
// The C library has functions of these names.
#define __expf(x) expf(x)
#define __logf(x) logf(x)
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline int __float_as_int(float x) { int i; std::memcpy(&i, &x, 4); return i; }
static inline float __int_as_float(int i) { float x; std::memcpy(&x, &i, 4); return x; }
static inline unsigned __float_as_uint(float x) { unsigned i; std::memcpy(&i, &x, 4); return i; }
static inline float __uint_as_float(unsigned i) { float x; std::memcpy(&x, &i, 4); return x; }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a < b ? b : a; }
static inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
static inline unsigned max(unsigned a, unsigned b) { return a < b ? b : a; }
static inline long long min(long long a, long long b) { return a < b ? a : b; }
static inline long long max(long long a, long long b) { return a < b ? b : a; }
// As CUDA's, the operand that is not NaN.
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
#define __ldg(pointer) (*(pointer))
