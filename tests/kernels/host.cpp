// The CUDA kernels as a program for the CPU: the very source, its threads run one after the other. tests/kernels.rs
// compiles and feeds it. What differs from a GPU stands in this file: conversions of half types, which there are
// instructions, and how threads share memory.
//
//     host KERNEL BYTES INPUTS OUTPUTS N TAIL SHIFT BLOCKS FIRST
//
// reads INPUTS tensors' last TAIL elements of BYTES each from standard input, runs the kernel on tensors of N elements
// that begin SHIFT elements after an aligned address, and writes the last TAIL elements of the OUTPUTS; and so on until
// the input ends. Of a grid of BLOCKS it runs block 0 and those from FIRST on.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <sys/mman.h>
#include <vector>

struct Index {
    unsigned x;
};
static Index threadIdx, blockIdx, blockDim, gridDim;

#define __device__
#define __global__
#define __shared__ static
#define __launch_bounds__(threads)
#define __forceinline__ inline
#define __noinline__

// Threads do not wait: what a block shares is filled by a run of its threads on nothing.
static void __syncthreads() {}

static float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
static double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }

template <typename To, typename From> static To bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "as they lie in memory");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

static uint32_t __float_as_uint(float x) { return bits<uint32_t>(x); }
static float __uint_as_float(uint32_t x) { return bits<float>(x); }
static int64_t __double_as_longlong(double x) { return bits<int64_t>(x); }
static double __longlong_as_double(int64_t x) { return bits<double>(x); }

#include "number.cuh"

// cvt.f32.f16, exact.
static float widen(F16 x) {
    const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, exponent = x.bits >> 10 & 31, digits = x.bits & 1023;
    if (exponent == 31) {
        return __uint_as_float(sign | 0x7f800000 | digits << 13);
    }
    const float size = exponent == 0 ? float(digits) * 0x1p-24f : __uint_as_float((exponent + 112) << 23 | digits << 13);
    return __uint_as_float(sign | __float_as_uint(size));
}

// To the nearest multiple of a power of two, ties to even, by the addition of a number that leaves no smaller digits.
static float to_step(float size, float step) {
    const float shift = 0x1.8p23f * step;
    volatile float sum = size + shift;
    return sum - shift;
}

// cvt.rn.f16.f32: to nearest, ties to even.
static void nearest(float x, F16 &y) {
    const uint16_t sign = __float_as_uint(x) >> 16 & 0x8000;
    const float size = std::fabs(x);
    if (size != size) {
        y.bits = 0x7fff;
    } else if (size >= 65520.0f) {
        y.bits = sign | 0x7c00;
    } else {
        int exponent;
        std::frexp(size, &exponent); // size in [2^(exponent - 1), 2^exponent)
        const int step = exponent - 11 < -24 ? -24 : exponent - 11;
        const float rounded = to_step(size, std::ldexp(1.0f, step));
        const uint32_t wide = __float_as_uint(rounded);
        const uint32_t normal = (wide >> 13) - (112 << 10), subnormal = uint32_t(rounded * 0x1p24f);
        y.bits = sign | uint16_t(rounded < 0x1p-14f ? subnormal : normal);
    }
}

// cvt.rn.bf16.f32: to nearest, ties to even.
static void nearest(float x, Bf16 &y) {
    const uint32_t wide = __float_as_uint(x);
    y.bits = x != x ? 0x7fff : (wide + 0x7fff + (wide >> 16 & 1)) >> 16;
}

#include "geglu.cu"

// Memory that takes no space where it is not written, with a mark behind its end.
struct Tensor {
    static constexpr size_t MARK = 64;
    char *start, *end;

    Tensor(size_t elements, size_t bytes, size_t shift) {
        const size_t size = (elements + shift) * bytes + MARK;
        void *memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) {
            std::perror("mmap");
            std::exit(1);
        }
        start = static_cast<char *>(memory) + shift * bytes;
        end = start + elements * bytes;
        std::memset(end, 0x5a, MARK);
    }

    bool intact() const {
        for (size_t i = 0; i < MARK; i++) {
            if (end[i] != 0x5a) {
                return false;
            }
        }
        return true;
    }
};

static void call(void *kernel, size_t n, const std::vector<Tensor> &in, const Tensor &out) {
    const auto at = [&](size_t i) { return static_cast<const void *>(in[i].start); };
    void *y = out.start;
    switch (in.size()) {
    case 1: return reinterpret_cast<void (*)(size_t, const void *, void *)>(kernel)(n, at(0), y);
    case 2: return reinterpret_cast<void (*)(size_t, const void *, const void *, void *)>(kernel)(n, at(0), at(1), y);
    case 3:
        return reinterpret_cast<void (*)(size_t, const void *, const void *, const void *, void *)>(kernel)(
            n, at(0), at(1), at(2), y);
    }
}

static void run(void *kernel, unsigned block, size_t n, const std::vector<Tensor> &in, const Tensor &out) {
    blockIdx.x = block;
    for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++) {
        call(kernel, n, in, out);
    }
}

int main(int count, char **arguments) {
    if (count != 10) {
        std::fprintf(stderr, "host KERNEL BYTES INPUTS OUTPUTS N TAIL SHIFT BLOCKS FIRST\n");
        return 2;
    }
    const auto number = [&](int i) { return std::strtoull(arguments[i], nullptr, 10); };
    void *kernel = dlsym(dlopen(nullptr, RTLD_NOW), arguments[1]);
    if (!kernel) {
        std::fprintf(stderr, "no kernel is called %s\n", arguments[1]);
        return 2;
    }
    const size_t bytes = number(2), outputs = number(4), n = number(5), tail = number(6), shift = number(7);
    const unsigned blocks = number(8), first = number(9);
    std::vector<Tensor> in;
    for (size_t i = 0; i < number(3); i++) {
        in.emplace_back(n, bytes, shift);
    }
    const Tensor out(outputs * n, bytes, shift);
    blockDim.x = THREADS;
    gridDim.x = blocks;
    run(kernel, 0, 0, in, out);
    for (;;) {
        for (const Tensor &x : in) {
            if (std::fread(x.end - tail * bytes, bytes, tail, stdin) != tail || tail == 0) {
                return 0;
            }
        }
        run(kernel, 0, n, in, out);
        for (unsigned block = first > 0 ? first : 1; block < blocks; block++) {
            run(kernel, block, n, in, out);
        }
        if (!out.intact()) {
            std::fprintf(stderr, "%s writes beyond its end\n", arguments[1]);
            return 3;
        }
        for (size_t i = 1; i <= outputs; i++) {
            std::fwrite(out.start + (i * n - tail) * bytes, bytes, tail, stdout);
        }
        std::fflush(stdout);
    }
}
