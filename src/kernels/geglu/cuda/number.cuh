// The element types, how they become f32 and how results become them: exactly, and rounded once.
//
// All arithmetic is written out in IEEE operations, fused where written so (nvcc -fmad=false), and no function is the
// platform's: a C++ compiler makes of this source a program with the same bits (tests/kernels/host.cpp).
#pragma once

struct Bf16 {
    unsigned short bits;
};

struct F16 {
    unsigned short bits;
};

// A number as an unevaluated sum: hi is the nearest f32, lo what that lacks.
struct Wide {
    float hi, lo;
};

#ifdef __CUDACC__
__device__ __forceinline__ float widen(F16 x) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
    return wide;
}

__device__ __forceinline__ void nearest(float x, F16 &y) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x)); }

__device__ __forceinline__ void nearest(float x, Bf16 &y) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x)); }
#endif

__device__ __forceinline__ float widen(Bf16 x) { return __uint_as_float(unsigned(x.bits) << 16); }

__device__ __forceinline__ float widen(float x) { return x; }

// a·b. Where it overflows, lo means nothing.
__device__ __forceinline__ Wide times(Wide a, float b) {
    const float hi = a.hi * b;
    return {hi, __fmaf_rn(a.lo, b, __fmaf_rn(a.hi, b, -hi))};
}

// To f32, and where that is inexact to the neighbour whose last bit is set: rounding to a half type afterwards gives
// what rounding at once would (Boldo and Melquiond 2005).
__device__ __forceinline__ float to_odd(Wide x) {
    // Not where lo is NaN: what is infinite stays.
    const bool inexact = fabsf(x.lo) > 0.0f && x.hi != 0.0f;
    const unsigned hi = __float_as_uint(x.hi), toward_zero = (hi ^ __float_as_uint(x.lo)) >> 31;
    return inexact ? __uint_as_float((hi - toward_zero) | 1) : x.hi;
}

__device__ __forceinline__ void narrow(Wide x, float &y) { y = x.hi; }

template <typename Half> __device__ __forceinline__ void narrow(Wide x, Half &y) { nearest(to_odd(x), y); }
