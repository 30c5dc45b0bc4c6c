// Both forms of GELU and their derivatives, of f32.
//
// f(x) = x·C(x) with C(x) + C(-x) = 1: on the left, where all digits are in danger, C(-z) comes from a table of
// polynomials up to z = LAST, as on the CPU (kernels/gelu/exact_f32.rs); what lies beyond, next to nothing, from the formulas
// in f64 (kernels/gelu/exact.rs, tanh.rs). On the right x minus that. Both forms, and their derivatives, take the same steps.
#pragma once

#include "number.cuh"

#define CONSTANT __device__ const
#include "coefficients.cuh"

// Polynomials of 32 intervals in shared memory. A row is 128 bytes, an entry a bank: however the lanes of a warp choose
// theirs, none waits.
typedef float Table[ROWS][INTERVALS];

__device__ __forceinline__ Wide look_up(const Table &table, float z) {
    constexpr float SHIFT = 12582912.0f; // 1.5·2^23: what is added to it is rounded to an integer
    const float root = __fmaf_rn(z, SCALE, SCALE);
    const unsigned index = __float_as_uint(__fmaf_rn(root, root, SHIFT)) % INTERVALS;
    const float d = z - table[0][index];
    float slope = table[ROWS - 1][index];
#pragma unroll
    for (int row = ROWS - 2; row > 1; row--) {
        slope = __fmaf_rn(slope, d, table[row][index]);
    }
    const float first = table[1][index];
    const float sum = __fmaf_rn(d, slope, first);
    return {sum, __fmaf_rn(d, slope, first - sum)};
}

template <int N> __device__ __forceinline__ double polynomial(const double (&coefficients)[N], double x) {
    double sum = coefficients[N - 1];
#pragma unroll
    for (int n = N - 2; n >= 0; n--) {
        sum = __fma_rn(sum, x, coefficients[n]);
    }
    return sum;
}

// e^x for x ≤ 0, good to 2^-38. Below -400 it is e^-400, which is 0 in f32.
__device__ __forceinline__ double exponential(double x) {
    constexpr double SHIFT = 6755399441055744.0; // 1.5·2^52
    constexpr double LOG2_E = 1.4426950408889634, LN_2 = 0.6931471805599453;
    x = x < -400.0 ? -400.0 : x;
    const double shifted = __fma_rn(x, LOG2_E, SHIFT);
    const double r = __fma_rn(shifted - SHIFT, -LN_2, x);
    const double power = __fma_rn(polynomial(EXP_SINGLE, r), r, 1.0);
    const auto exponent = (unsigned long long)__double_as_longlong(shifted) << 52;
    return __longlong_as_double((unsigned long long)__double_as_longlong(power) + exponent);
}

__device__ __forceinline__ Wide split(double x) {
    const float hi = float(x);
    return {hi, float(x - double(hi))};
}

// What is finite stays so: infinity times 0 is NaN.
__device__ __forceinline__ double limited(float z) { return z > 128.0f ? 128.0 : double(z); }

// x·Φ(x): Φ(-z) = M(z)·e^(-z²/2), M Mills' ratio over √(2π).
struct Exact {
    static __device__ __forceinline__ const Table &value() { return EXACT; }
    static __device__ __forceinline__ const Table &slope() { return EXACT_SLOPE; }

    static __device__ __forceinline__ double mills(double z) {
        return polynomial(MILLS_ABOVE_SINGLE, z) / polynomial(MILLS_BELOW_SINGLE, z);
    }

    static __device__ __forceinline__ double far_value(double z) { return z * (exponential(-0.5 * z * z) * mills(z)); }

    static __device__ __forceinline__ double far_slope(double z) {
        constexpr double DENSITY_AT_0 = 0.3989422804014327; // 1/√(2π)
        return exponential(-0.5 * z * z) * __fma_rn(z, -DENSITY_AT_0, mills(z));
    }
};

// x/2·(1 + tanh u) = x·σ(2u), 2u = 2·√(2/π)·(x + 0.044715·x³).
struct Tanh {
    static constexpr double LINEAR = 1.5957691216057308, CUBIC = 0.07135481627260025;

    static __device__ __forceinline__ const Table &value() { return TANH; }
    static __device__ __forceinline__ const Table &slope() { return TANH_SLOPE; }

    static __device__ __forceinline__ double power(double z) { return exponential(-(z * (LINEAR + CUBIC * (z * z)))); }

    static __device__ __forceinline__ double far_value(double z) {
        const double e = power(z);
        return z * (e / (1.0 + e));
    }

    static __device__ __forceinline__ double far_slope(double z) {
        const double e = power(z);
        const double sum = __fma_rn(z, -(LINEAR + 3.0 * (CUBIC * (z * z))), 1.0) + e;
        return e * (1.0 / ((1.0 + e) * (1.0 + e))) * sum;
    }
};

// Whether f(x) comes from a formula, and f'(x).
struct LeftOfTable {
    __device__ __forceinline__ bool operator()(float x) const { return x < -LAST; }
};
struct OffTable {
    __device__ __forceinline__ bool operator()(float x) const { return fabsf(x) > LAST; }
};

// By the tables. What is outside of them becomes some number.
struct Inside {
    // f(x). hi is within an ULP of it, hi + lo within 2^-25.
    template <typename Gelu> static __device__ __forceinline__ Wide value(const Table &table, float x) {
        constexpr float TINY = 0x1p-25f, LEAST = 0x1p-149f;
        const float size = fabsf(x), z = size > LAST ? LAST : size; // NaN stays
        const Wide tail = look_up(table, z);
        const float left = __fmaf_rn(z, tail.hi, z * tail.lo);
        const float left_low = __fmaf_rn(z, tail.lo, __fmaf_rn(z, tail.hi, -left));
        // On the left 0 minus that, on the right x minus that. A sum that is 0 would lose its sign.
        const float right = x < 0.0f ? 0.0f : x;
        const float difference = right - left;
        // x/2 + x²/√(2π): the square is lost, but where x/2 lies between two numbers, it decides.
        const float low = z < TINY ? LEAST : ((right - difference) - left) - left_low;
        return {copysignf(difference, x), low};
    }

    // f'(x).
    template <typename Gelu> static __device__ __forceinline__ Wide derivative(const Table &table, float x) {
        return from_left(x, look_up(table, fabsf(x)));
    }

    // f'(x) from f'(-|x|): f'(x) + f'(-x) = 1.
    static __device__ __forceinline__ Wide from_left(float x, Wide left) {
        if (x < 0.0f) {
            return left;
        }
        const float hi = 1.0f - left.hi;
        return {hi, ((1.0f - hi) - left.hi) - left.lo};
    }
};

// Outside of them by the formulas. Rare, and kept out of the way.
struct Anywhere {
    template <typename Gelu> static __device__ __noinline__ Wide value(const Table &table, float x) {
        return LeftOfTable()(x) ? split(-Gelu::far_value(limited(-x))) : Inside::value<Gelu>(table, x);
    }

    template <typename Gelu> static __device__ __noinline__ Wide derivative(const Table &table, float x) {
        return OffTable()(x) ? Inside::from_left(x, split(Gelu::far_slope(limited(fabsf(x)))))
                             : Inside::derivative<Gelu>(table, x);
    }
};
