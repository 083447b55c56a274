// Floating point of 16 bits, and what the headers of half and bfloat16 have in common: conversions that round to nearest
// even, and arithmetic, which is float's, rounded once more.
#pragma once

namespace cudaemu {

template <int EXPONENT, int MANTISSA>
struct alignas(2) Short {
    uint16_t bits;

    static constexpr int BIAS = (1 << (EXPONENT - 1)) - 1, SMALLEST = 1 - BIAS - MANTISSA;
    static constexpr unsigned INFINITE = ((1u << EXPONENT) - 1) << MANTISSA;

    // NaN, and known when it is compiled: an array in shared memory needs no code that makes it.
    constexpr Short() : bits(0x7fff) {}
    CUDAEMU_QUIET Short(float x) {
        bits = 0x7fff;
        if (x == x) {
            // In units of the last place; those of numbers below the normal ones are all the same.
            int above;
            std::frexp(x, &above);
            int unit = x != 0 && above - MANTISSA - 1 > SMALLEST ? above - MANTISSA - 1 : SMALLEST;
            double size = std::isinf(x) ? 0.0 : std::nearbyint(std::ldexp(std::fabs(double(x)), -unit));
            unsigned found = (unsigned(unit - SMALLEST) << MANTISSA) + unsigned(size);
            if (std::isinf(x) || found > INFINITE) found = INFINITE;
            bits = uint16_t(found | (std::signbit(x) ? 0x8000u : 0u));
        }
    }
    CUDAEMU_QUIET operator float() const {
        unsigned exponent = (bits & INFINITE) >> MANTISSA, rest = bits & ((1u << MANTISSA) - 1);
        float size = (bits & INFINITE) == INFINITE ? (rest ? NAN : HUGE_VALF)
                     : exponent ? std::ldexp(float(rest + (1u << MANTISSA)), int(exponent) - 1 + SMALLEST)
                                : std::ldexp(float(rest), SMALLEST);
        return bits & 0x8000 ? -size : size;
    }
};

}  // namespace cudaemu

// Of products and sums of such numbers float keeps enough digits that rounding twice is rounding once.
#define CUDAEMU_SHORT(type, pair)                                                                              \
    CUDAEMU_QUIET type operator+(type a, type b) { return type(float(a) + float(b)); }                         \
    CUDAEMU_QUIET type operator-(type a, type b) { return type(float(a) - float(b)); }                         \
    CUDAEMU_QUIET type operator*(type a, type b) { return type(float(a) * float(b)); }                         \
    CUDAEMU_QUIET type operator/(type a, type b) { return type(float(a) / float(b)); }                         \
    CUDAEMU_QUIET type operator-(type a) { return type(-float(a)); }                                           \
    CUDAEMU_QUIET type __hadd(type a, type b) { return a + b; }                                                \
    CUDAEMU_QUIET type __hsub(type a, type b) { return a - b; }                                                \
    CUDAEMU_QUIET type __hmul(type a, type b) { return a * b; }                                                \
    CUDAEMU_QUIET type __hdiv(type a, type b) { return a / b; }                                                \
    struct alignas(4) pair { type x, y; };
