// activation(gate) ⊙ up and its gradients, in one pass: every input is read once, every output written once.
//
// Tensors are contiguous, of n elements, anywhere in memory. Numbers move 16 bytes at a time where all tensors are
// aligned to that, and one by one at the end and elsewhere. Every element depends on its own inputs only.

#include "gelu.cuh"

// Threads of a thread block; kernels/geglu/cuda.rs starts as many.
constexpr int THREADS = 256;

// What a thread reads of a tensor at once.
template <typename T, int LANES> struct alignas(LANES * sizeof(T)) Pack {
    T lane[LANES];
};

// Copies a table to shared memory, all threads together.
__device__ __forceinline__ void load(Table &table, const Table &from) {
    for (int i = threadIdx.x; i < ROWS * INTERVALS; i += blockDim.x) {
        table[i / INTERVALS][i % INTERVALS] = from[i / INTERVALS][i % INTERVALS];
    }
}

template <typename T, int N> __device__ __forceinline__ bool aligned(T *const (&tensors)[N]) {
    unsigned long long low = 0;
#pragma unroll
    for (int i = 0; i < N; i++) {
        low |= (unsigned long long)tensors[i];
    }
    return low % 16 == 0;
}

// Calls f for the elements of the at-th packs. All go through the tables, without a branch; what is outside of them is then
// computed again.
template <int LANES, typename T, int IN, int OUT, typename Outside, typename F>
__device__ __forceinline__ void pack(size_t at, const T *const (&in)[IN], T *const (&out)[OUT], Outside outside, F f) {
    Pack<T, LANES> x[IN], y[OUT];
#pragma unroll
    for (int i = 0; i < IN; i++) {
        x[i] = reinterpret_cast<const Pack<T, LANES> *>(in[i])[at];
    }
    const auto compute = [&](auto how, int lane) {
        float of_x[IN];
        Wide of_y[OUT];
#pragma unroll
        for (int i = 0; i < IN; i++) {
            of_x[i] = widen(x[i].lane[lane]);
        }
        f(how, of_x, of_y);
#pragma unroll
        for (int i = 0; i < OUT; i++) {
            narrow(of_y[i], y[i].lane[lane]);
        }
    };
    bool any = false;
#pragma unroll
    for (int lane = 0; lane < LANES; lane++) {
        compute(Inside(), lane);
        any |= outside(widen(x[0].lane[lane]));
    }
    if (any) {
#pragma unroll
        for (int lane = 0; lane < LANES; lane++) {
            if (outside(widen(x[0].lane[lane]))) {
                compute(Anywhere(), lane);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < OUT; i++) {
        reinterpret_cast<Pack<T, LANES> *>(out[i])[at] = y[i];
    }
}

// Calls f(how, inputs of one element, its outputs) for n elements, those of this thread.
template <typename T, int IN, int OUT, typename Outside, typename F>
__device__ __forceinline__ void for_each(size_t n, const T *const (&in)[IN], T *const (&out)[OUT], Outside outside, F f) {
    constexpr int LANES = 16 / sizeof(T);
    const size_t thread = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    const size_t threads = size_t(gridDim.x) * blockDim.x;
    const size_t packs = aligned(in) && aligned(out) ? n / LANES : 0;
    for (size_t at = thread; at < packs; at += threads) {
        pack<LANES>(at, in, out, outside, f);
    }
    for (size_t at = packs * LANES + thread; at < n; at += threads) {
        pack<1>(at, in, out, outside, f);
    }
}

template <typename Gelu, typename T> __device__ __forceinline__ void activate(size_t n, const T *x, T *y) {
    __shared__ Table table;
    load(table, Gelu::value());
    __syncthreads();
    for_each<T, 1, 1>(n, {x}, {y}, LeftOfTable(), [](auto how, const float (&x)[1], Wide (&y)[1]) {
        y[0] = how.template value<Gelu>(table, x[0]);
    });
}

template <typename Gelu, typename T>
__device__ __forceinline__ void activate_backward(size_t n, const T *x, const T *grad, T *dx) {
    __shared__ Table table;
    load(table, Gelu::slope());
    __syncthreads();
    for_each<T, 2, 1>(n, {x, grad}, {dx}, OffTable(), [](auto how, const float (&x)[2], Wide (&dx)[1]) {
        dx[0] = times(how.template derivative<Gelu>(table, x[0]), x[1]);
    });
}

template <typename Gelu, typename T>
__device__ __forceinline__ void geglu(size_t n, const T *gate, const T *up, T *product) {
    __shared__ Table table;
    load(table, Gelu::value());
    __syncthreads();
    for_each<T, 2, 1>(n, {gate, up}, {product}, LeftOfTable(), [](auto how, const float (&x)[2], Wide (&y)[1]) {
        y[0] = times(how.template value<Gelu>(table, x[0]), x[1]);
    });
}

// Under both forms: the exact one first, n elements, then tanh.
template <typename T> __device__ __forceinline__ void geglu_pair(size_t n, const T *gate, const T *up, T *products) {
    __shared__ Table exact, tanh;
    load(exact, Exact::value());
    load(tanh, Tanh::value());
    __syncthreads();
    for_each<T, 2, 2>(n, {gate, up}, {products, products + n}, LeftOfTable(), [](auto how, const float (&x)[2], Wide (&y)[2]) {
        y[0] = times(how.template value<Exact>(exact, x[0]), x[1]);
        y[1] = times(how.template value<Tanh>(tanh, x[0]), x[1]);
    });
}

// The gradient of gate, n elements, then that of up. Gradient times derivative first: the derivative is at most 1.13, so
// that only a product whose true value overflows does, where grad·up might on the way to 0.
template <typename Gelu, typename T>
__device__ __forceinline__ void geglu_backward(size_t n, const T *gate, const T *up, const T *grad, T *gradients) {
    __shared__ Table of_value, of_slope;
    load(of_value, Gelu::value());
    load(of_slope, Gelu::slope());
    __syncthreads();
    for_each<T, 3, 2>(n, {gate, up, grad}, {gradients, gradients + n}, OffTable(), [](auto how, const float (&x)[3], Wide (&dx)[2]) {
        dx[0] = times(times(how.template derivative<Gelu>(of_slope, x[0]), x[2]), x[1]);
        dx[1] = times(how.template value<Gelu>(of_value, x[0]), x[2]);
    });
}

#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS)

#define OF_GELU(NAME, GELU, TYPE, T)                                                                                   \
    KERNEL activate_##NAME##_##TYPE(size_t n, const T *x, T *y) { activate<GELU>(n, x, y); }                           \
    KERNEL activate_backward_##NAME##_##TYPE(size_t n, const T *x, const T *grad, T *dx) {                             \
        activate_backward<GELU>(n, x, grad, dx);                                                                       \
    }                                                                                                                  \
    KERNEL geglu_##NAME##_##TYPE(size_t n, const T *gate, const T *up, T *y) { geglu<GELU>(n, gate, up, y); }          \
    KERNEL geglu_backward_##NAME##_##TYPE(size_t n, const T *gate, const T *up, const T *grad, T *dx) {                \
        geglu_backward<GELU>(n, gate, up, grad, dx);                                                                   \
    }

#define OF_TYPE(TYPE, T)                                                                                               \
    OF_GELU(exact, Exact, TYPE, T)                                                                                     \
    OF_GELU(tanh, Tanh, TYPE, T)                                                                                       \
    KERNEL geglu_pair_##TYPE(size_t n, const T *gate, const T *up, T *y) { geglu_pair(n, gate, up, y); }

OF_TYPE(f32, float)
OF_TYPE(bf16, Bf16)
OF_TYPE(f16, F16)
