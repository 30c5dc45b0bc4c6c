// A stand-in for NVIDIA's libcuda, libcublas and libcurand, on the CPU: what it takes for a program of the feature cuda to
// run without a GPU, every launch checked and our own kernels computed by their very source. scripts/stand_in.sh makes a
// library of it. It shows that launches, sizes, places and memory are right; not that a GPU computes the same, nor how fast.
//
// Memory begins as NaN, and whoever writes behind an end, copies from elsewhere, uses another stream, names a kernel that
// its PTX has not, or starts no threads, is told so. candle's kernels are its operations with one rounding each.
//
// STAND_IN_REPORT=1 says at the end how much memory was held at most, and which kernels ran how often.
// STAND_IN_DRY=1 computes nothing, for the memory of a big model.

#define main host_main
#include "host.cpp"
#undef main

#include <algorithm>
#include <map>
#include <mutex>
#include <random>
#include <string>

#define API extern "C" __attribute__((visibility("default")))

using Address = unsigned long long;
using Handle = void *;
enum Status { SUCCESS = 0, INVALID_VALUE = 1, INVALID_DEVICE = 101, NOT_FOUND = 500, ASSERT = 710 };

static const bool DRY = std::getenv("STAND_IN_DRY"), REPORT = std::getenv("STAND_IN_REPORT");
static std::mutex one_at_a_time;
using Guard = std::lock_guard<std::mutex>;

[[noreturn]] static void fail(const char *what, const std::string &name = "") {
    std::fprintf(stderr, "stand-in: %s %s\n", what, name.c_str());
    std::abort();
}

// Devices, contexts, streams.

static thread_local Handle context;
static const Handle PER_THREAD_STREAM = Handle(2);

API int cuInit(unsigned) { return SUCCESS; }
API int cuDeviceGet(int *device, int i) { return i == 0 ? *device = 0, SUCCESS : INVALID_DEVICE; }
API int cuDeviceGetAttribute(int *value, int attribute, int) {
    constexpr int MULTIPROCESSORS = 16, MAJOR = 75, MEMORY_POOLS = 115;
    *value = attribute == MULTIPROCESSORS ? 2 : attribute == MAJOR ? 9 : attribute == MEMORY_POOLS;
    return SUCCESS;
}
API int cuDeviceGetName(char *name, int size, int) { return std::snprintf(name, size, "a stand-in"), SUCCESS; }
API int cuDevicePrimaryCtxRetain(Handle *handle, int) { return *handle = Handle(1), SUCCESS; }
API int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
API int cuCtxGetCurrent(Handle *handle) { return *handle = context, SUCCESS; }
API int cuCtxSetCurrent(Handle handle) { return context = handle, SUCCESS; }
API int cuStreamSynchronize(Handle) { return SUCCESS; }
API int cuStreamWaitEvent(Handle, Handle, unsigned) { return SUCCESS; }
API int cuEventCreate(Handle *event, unsigned) { return *event = Handle(1), SUCCESS; }
API int cuEventRecord(Handle, Handle) { return SUCCESS; }
API int cuEventDestroy_v2(Handle) { return SUCCESS; }
API int cuGetErrorName(int status, const char **name) {
    *name = status == INVALID_VALUE ? "CUDA_ERROR_INVALID_VALUE" : "an error";
    return SUCCESS;
}
API int cuGetErrorString(int status, const char **text) { return cuGetErrorName(status, text); }

// Memory.

static std::map<Address, size_t> sizes;
static size_t held, most;

static void inside(Address address, size_t size) {
    const Guard guard(one_at_a_time);
    auto next = sizes.upper_bound(address);
    if (size > 0 && (next == sizes.begin() || address + size > std::prev(next)->first + std::prev(next)->second)) {
        fail("what is used is not all inside one tensor");
    }
}

API int cuMemAllocAsync(Address *address, size_t size, Handle stream) {
    if (stream != PER_THREAD_STREAM) {
        fail("another stream than candle's");
    }
    if (size == 0) {
        return *address = 0, SUCCESS;
    }
    const Guard guard(one_at_a_time);
    void *memory;
    if (posix_memalign(&memory, 256, size + Tensor::MARK)) {
        fail("no memory");
    }
    if (!DRY) {
        std::memset(memory, 0xff, size + Tensor::MARK);
    }
    sizes[*address = Address(memory)] = size;
    most = std::max(most, held += size);
    return SUCCESS;
}
API int cuMemFreeAsync(Address address, Handle) {
    const Guard guard(one_at_a_time);
    if (address == 0) {
        return SUCCESS;
    }
    const auto found = sizes.find(address);
    if (found == sizes.end()) {
        fail("what is freed was not allocated");
    }
    const auto *end = reinterpret_cast<unsigned char *>(address) + found->second;
    if (!DRY && std::any_of(end, end + Tensor::MARK, [](unsigned char byte) { return byte != 0xff; })) {
        fail("somebody has written behind an end");
    }
    held -= found->second;
    sizes.erase(found);
    std::free(Handle(address));
    return SUCCESS;
}
static int copy(void *to, const void *from, size_t size) {
    if (size > 0 && !DRY) {
        std::memcpy(to, from, size);
    }
    return SUCCESS;
}
API int cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t size, Handle) {
    return inside(to, size), copy(Handle(to), from, size);
}
API int cuMemcpyDtoHAsync_v2(void *to, Address from, size_t size, Handle) {
    inside(from, size);
    return DRY ? std::memset(to, 0, size), SUCCESS : copy(to, Handle(from), size);
}
API int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t size, Handle) {
    return inside(to, size), inside(from, size), copy(Handle(to), Handle(from), size);
}
API int cuMemsetD8Async(Address to, unsigned char byte, size_t size, Handle) {
    inside(to, size);
    return size > 0 && !DRY ? std::memset(Handle(to), byte, size), SUCCESS : SUCCESS;
}

// Modules: PTX as text. A function is its name.

struct Module {
    std::string ptx;
};
API int cuModuleLoadData(Handle *module, const char *ptx) { return *module = new Module{ptx}, SUCCESS; }
API int cuModuleUnload(Handle module) { return delete static_cast<Module *>(module), SUCCESS; }
API int cuModuleGetFunction(Handle *function, Handle module, const char *name) {
    if (static_cast<Module *>(module)->ptx.find(std::string(".entry ") + name + "(") == std::string::npos) {
        return NOT_FOUND;
    }
    static std::map<std::string, std::string> names;
    const Guard guard(one_at_a_time);
    return *function = &(names[name] = name), SUCCESS;
}

// Numbers of any type as f64.

struct Type {
    const char *name;
    double (*read)(const void *, size_t);
    void (*write)(void *, size_t, double);
    size_t size;
};
template <typename T> static double read_as(const void *from, size_t i) { return double(static_cast<const T *>(from)[i]); }
template <typename T> static void write_as(void *to, size_t i, double x) { static_cast<T *>(to)[i] = T(x); }
template <typename T> static double read_half(const void *from, size_t i) { return widen(static_cast<const T *>(from)[i]); }
template <typename T> static void write_half(void *to, size_t i, double x) {
    const float hi = float(x);
    narrow(Wide{hi, std::isfinite(hi) ? float(x - hi) : 0.0f}, static_cast<T *>(to)[i]);
}
static const Type TYPES[] = {
    {"f32", read_as<float>, write_as<float>, 4},        {"f64", read_as<double>, write_as<double>, 8},
    {"bf16", read_half<Bf16>, write_half<Bf16>, 2},     {"f16", read_half<F16>, write_half<F16>, 2},
    {"u8", read_as<uint8_t>, write_as<uint8_t>, 1},     {"u32", read_as<uint32_t>, write_as<uint32_t>, 4},
    {"i64", read_as<int64_t>, write_as<int64_t>, 8},
};
static const Type &type(const std::string &name) {
    for (const Type &type : TYPES) {
        if (name == type.name) {
            return type;
        }
    }
    fail("no type", name);
}

// candle's kernels, by name.

static const std::map<std::string, double (*)(double)> UNARY = {
    {"copy", [](double x) { return x; }},
    {"neg", [](double x) { return -x; }},
    {"abs", [](double x) { return std::fabs(x); }},
    {"recip", [](double x) { return 1 / x; }},
    {"relu", [](double x) { return std::max(x, 0.0); }},
    {"sqr", [](double x) { return x * x; }},
    {"sqrt", [](double x) { return std::sqrt(x); }},
    {"exp", [](double x) { return std::exp(x); }},
    {"log", [](double x) { return std::log(x); }},
    {"sin", [](double x) { return std::sin(x); }},
    {"cos", [](double x) { return std::cos(x); }},
    {"tanh", [](double x) { return std::tanh(x); }},
    {"erf", [](double x) { return std::erf(x); }},
    {"sigmoid", [](double x) { return 1 / (1 + std::exp(-x)); }},
    {"gelu", [](double x) { return x / 2 * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))); }},
    {"gelu_erf", [](double x) { return x / 2 * std::erfc(-x * 0.7071067811865476); }},
};
// GELU in a half type, of which candle's kernels round every operation.
static double half_gelu(const Type &t, double x, bool exact) {
    const auto round = [&](double y) {
        uint16_t bits;
        t.write(&bits, 0, y);
        return t.read(&bits, 0);
    };
    if (exact) {
        return x * round(std::erfc(-x * 0.7071067811865476) / 2);
    }
    const double alpha = round(x + round(round(0.044715) * round(round(x * x) * x)));
    return round(0.5 * x) * round(1 + round(std::tanh(round(round(0.7978845608028654) * alpha))));
}
static const std::map<std::string, double (*)(double, double)> BINARY = {
    {"badd", [](double x, double y) { return x + y; }},
    {"bsub", [](double x, double y) { return x - y; }},
    {"bmul", [](double x, double y) { return x * y; }},
    {"bdiv", [](double x, double y) { return x / y; }},
    {"bmaximum", [](double x, double y) { return std::max(x, y); }},
    {"bminimum", [](double x, double y) { return std::min(x, y); }},
};
static const std::map<std::string, bool (*)(double, double)> COMPARISON = {
    {"eq", [](double x, double y) { return x == y; }}, {"ne", [](double x, double y) { return x != y; }},
    {"lt", [](double x, double y) { return x < y; }},  {"le", [](double x, double y) { return x <= y; }},
    {"gt", [](double x, double y) { return x > y; }},  {"ge", [](double x, double y) { return x >= y; }},
};

// A kernel's arguments.
struct Arguments {
    void **all;
    template <typename T> T at(int i) const { return *static_cast<T *>(all[i]); }
    size_t size(int i) const { return at<size_t>(i); }
    uint32_t word(int i) const { return at<uint32_t>(i); }
    void *tensor(int i) const { return at<void *>(i); }
};

// Where element i of a tensor lies: `info` has the rank's dimensions, and then strides for one tensor after the other.
static size_t place(size_t i, size_t rank, const size_t *info, int tensor = 1) {
    if (!info) {
        return i;
    }
    size_t at = 0;
    for (size_t d = rank; d-- > 0; i /= info[d]) {
        at += i % info[d] * info[rank * tensor + d];
    }
    return at;
}

static int candles(const std::string &name, unsigned blocks, Arguments of) {
    const size_t cut = name.rfind('_');
    const std::string operation = name.substr(0, cut);
    const Type &t = type(name.substr(cut + 1));
    const auto is = [&](const char *start) { return name.rfind(start, 0) == 0; };
    if (is("fill_")) {
        for (size_t i = 0; i < of.size(2); i++) {
            t.write(of.tensor(0), i, t.read(of.all[1], 0));
        }
    } else if (is("copy2d_")) {
        for (uint32_t row = 0; row < of.word(2); row++) {
            for (uint32_t i = 0; i < of.word(3); i++) {
                const auto *from = static_cast<char *>(of.tensor(0)) + (row * size_t(of.word(4)) + i) * t.size;
                std::memcpy(static_cast<char *>(of.tensor(1)) + (row * size_t(of.word(5)) + i) * t.size, from, t.size);
            }
        }
    } else if (is("rope_")) {
        const size_t heads = of.word(4), seq_width = of.word(5), width = of.word(6), half = width / 2;
        for (size_t i = 0; i < heads * seq_width / 2; i++) {
            const size_t in_head = i % (seq_width / 2), row = in_head / half, column = in_head % half;
            const size_t a = i / (seq_width / 2) * seq_width + row * width + column, b = a + half;
            const double cos = t.read(of.tensor(1), in_head), sin = t.read(of.tensor(2), in_head);
            const double x = t.read(of.tensor(0), a), y = t.read(of.tensor(0), b);
            t.write(of.tensor(3), a, x * cos - y * sin);
            t.write(of.tensor(3), b, x * sin + y * cos);
        }
    } else if (is("fast_")) {
        const bool small = is("fast_sum_small_"), sum = is("fast_sum"), max = is("fast_max");
        if (!sum && !max) {
            fail("unknown kernel", name);
        }
        for (size_t row = 0; row < (small ? of.size(0) : blocks); row++) {
            double result = sum ? 0 : -INFINITY;
            for (size_t i = 0; i < of.size(1); i++) {
                const size_t at = place(row * of.size(1) + i, of.size(2), static_cast<size_t *>(of.tensor(3)));
                const double x = t.read(of.tensor(4), at);
                result = sum ? result + x : std::max(result, x);
            }
            t.write(of.tensor(5), row, result);
        }
    } else if (is("is_u32_") || is("is_i64_")) {
        const bool wide = is("is_i64_");
        const size_t rows = of.size(7), ids = of.size(8), width = of.size(9);
        for (size_t i = 0; i < of.size(0); i++) {
            const size_t at = i / width % ids;
            const uint64_t id = wide ? static_cast<uint64_t *>(of.tensor(3))[at] : static_cast<uint32_t *>(of.tensor(3))[at];
            if (id >= rows) {
                return ASSERT;
            }
            t.write(of.tensor(5), i, t.read(of.tensor(4), (i / (ids * width) * rows + id) * width + i % width));
        }
    } else if (is("ia_u32_") || is("sa_u32_")) {
        // index_add has an id for each row, and one argument more, how many; scatter_add has one for each number.
        const bool by_row = is("ia_u32_");
        const int first = by_row ? 2 : 1;
        void *const from = of.tensor(first), *const to = of.tensor(first + 1);
        const size_t left = of.size(first + 2), ids = of.size(first + 3), rows = of.size(first + 4);
        const size_t width = of.size(first + 5);
        for (size_t i = 0; i < left * ids * width; i++) {
            const uint32_t id = static_cast<uint32_t *>(of.tensor(0))[by_row ? i / width % ids : i];
            if (id >= rows) {
                return ASSERT;
            }
            const size_t at = (i / (ids * width) * rows + id) * width + i % width;
            t.write(to, at, t.read(to, at) + t.read(from, i));
        }
    } else if (is("gather_u32_")) {
        const size_t rows = of.size(5), ids = of.size(6), width = of.size(7);
        for (size_t i = 0; i < of.size(0); i++) {
            const uint32_t id = static_cast<uint32_t *>(of.tensor(1))[i];
            if (id >= rows) {
                return ASSERT;
            }
            t.write(of.tensor(3), i, t.read(of.tensor(2), (i / (ids * width) * rows + id) * width + i % width));
        }
    } else {
        // Element by element.
        const size_t rank = of.size(1), *info = static_cast<size_t *>(of.tensor(2));
        for (size_t i = 0; i < of.size(0); i++) {
            const auto from = [&](int tensor, int strides = 1) {
                return t.read(of.tensor(tensor), place(i, rank, info, strides));
            };
            if (is("cast_")) {
                const Type &other = type(name.substr(5, cut - 5));
                t.write(of.tensor(4), i, other.read(of.tensor(3), place(i, rank, info)));
            } else if (is("affine_")) {
                t.write(of.tensor(4), i, from(3) * t.read(of.all[5], 0) + t.read(of.all[6], 0));
            } else if (is("const_set_")) {
                t.write(of.tensor(4), place(i, rank, info), t.read(of.all[3], 0));
            } else if (is("upowf_")) {
                t.write(of.tensor(5), i, std::pow(from(4), t.read(of.all[3], 0)));
            } else if (is("where_u8_")) {
                const bool condition = static_cast<uint8_t *>(of.tensor(3))[place(i, rank, info)];
                t.write(of.tensor(6), i, condition ? from(4, 2) : from(5, 3));
            } else if (t.size == 2 && is("ugelu_")) {
                t.write(of.tensor(4), i, half_gelu(t, from(3), is("ugelu_erf_")));
            } else if (UNARY.count(operation.substr(1)) && operation[0] == 'u') {
                t.write(of.tensor(4), i, UNARY.at(operation.substr(1))(from(3)));
            } else if (BINARY.count(operation)) {
                t.write(of.tensor(5), i, BINARY.at(operation)(from(3), from(4, 2)));
            } else if (COMPARISON.count(operation)) {
                static_cast<uint8_t *>(of.tensor(5))[i] = COMPARISON.at(operation)(from(3), from(4, 2));
            } else {
                fail("unknown kernel", name);
            }
        }
    }
    return SUCCESS;
}

// Our own, by the very source: first a block's threads on nothing, which fills what the block shares.
static void ours(const std::string &name, unsigned blocks, Arguments of) {
    Dl_info library;
    dladdr(reinterpret_cast<void *>(cuInit), &library);
    static void *const self = dlopen(library.dli_fname, RTLD_NOW);
    void *kernel = dlsym(self, name.c_str());
    if (!kernel) {
        fail("no kernel in the source is called", name);
    }
    const auto is = [&](const char *start) { return name.rfind(start, 0) == 0; };
    const int inputs = is("geglu_backward") ? 3 : is("geglu") || is("activate_backward") ? 2 : 1;
    blockDim.x = THREADS;
    gridDim.x = blocks;
    const auto thread = [&](size_t n) {
        void *a = of.tensor(1), *b = of.tensor(2);
        switch (inputs) {
        case 1: return reinterpret_cast<void (*)(size_t, void *, void *)>(kernel)(n, a, b);
        case 2: return reinterpret_cast<void (*)(size_t, void *, void *, void *)>(kernel)(n, a, b, of.tensor(3));
        case 3:
            return reinterpret_cast<void (*)(size_t, void *, void *, void *, void *)>(kernel)(
                n, a, b, of.tensor(3), of.tensor(4));
        }
    };
    const auto block = [&](size_t n) {
        for (threadIdx.x = 0; threadIdx.x < THREADS; threadIdx.x++) {
            thread(n);
        }
    };
    blockIdx.x = 0;
    block(0);
    for (; blockIdx.x < blocks; blockIdx.x++) {
        block(of.size(0));
    }
}

static std::map<std::string, size_t> launches;

API int cuLaunchKernel(Handle function, unsigned blocks, unsigned, unsigned, unsigned threads, unsigned, unsigned,
                       unsigned shared, Handle stream, void **arguments, void **) {
    const std::string &name = *static_cast<std::string *>(function);
    if (blocks == 0 || blocks > 0x7fffffff || threads == 0 || threads > 1024) {
        return INVALID_VALUE;
    }
    if (stream != PER_THREAD_STREAM) {
        fail("another stream than candle's", name);
    }
    const Guard guard(one_at_a_time);
    launches[name]++;
    const bool own = name.rfind("geglu", 0) == 0 || name.rfind("activate", 0) == 0;
    if (own && (threads != THREADS || shared > 0)) {
        fail("a block of another size:", name);
    }
    if (DRY) {
        return SUCCESS;
    }
    return own ? ours(name, blocks, {arguments}), SUCCESS : candles(name, blocks, {arguments});
}

// cuBLAS: matrices by columns.

API int cublasCreate_v2(Handle *handle) { return *handle = Handle(1), SUCCESS; }
API int cublasDestroy_v2(Handle) { return SUCCESS; }
API int cublasSetStream_v2(Handle, Handle) { return SUCCESS; }

// One operand: `rows` of the product's along the summed dimension, `depth`.
struct Operand {
    const Type &type;
    Address address;
    bool along; // whether the summed dimension's elements are neighbours
    size_t rows, depth, leading;
    long long stride;

    void check(int batch) const {
        const size_t width = along ? depth : rows, columns = along ? rows : depth;
        if (leading < width) {
            fail("a leading dimension is too small");
        }
        inside(address, ((batch - 1) * stride + leading * (columns - 1) + width) * type.size);
    }

    template <typename W> std::vector<W> values(int batch) const {
        std::vector<W> values;
        for (size_t row = 0; row < rows; row++) {
            for (size_t i = 0; i < depth; i++) {
                const size_t at = along ? row * leading + i : i * leading + row;
                values.push_back(W(type.read(Handle(address), batch * stride + at)));
            }
        }
        return values;
    }
};

template <typename W> static int product(const Operand &a, const Operand &b, const Operand &c, int batch) {
    for (const Operand *operand : {&a, &b, &c}) {
        if (operand->rows == 0 || operand->depth == 0 || batch == 0) {
            fail("an empty product");
        }
        operand->check(batch);
    }
    for (int i = 0; i < batch && !DRY; i++) {
        const std::vector<W> x = a.values<W>(i), y = b.values<W>(i);
        for (size_t column = 0; column < b.rows; column++) {
            for (size_t row = 0; row < a.rows; row++) {
                W sum = 0;
                for (size_t k = 0; k < a.depth; k++) {
                    sum += x[row * a.depth + k] * y[column * a.depth + k];
                }
                c.type.write(Handle(c.address), i * c.stride + column * c.leading + row, sum);
            }
        }
    }
    return SUCCESS;
}

API int cublasGemmStridedBatchedEx(Handle, int a_turned, int b_turned, int m, int n, int k, const void *, Address a, int of,
                                   int lda, long long a_stride, Address b, int, int ldb, long long b_stride, const void *,
                                   Address c, int, int ldc, long long c_stride, int batch, int, int) {
    const Type &t = type(of == 0 ? "f32" : of == 2 ? "f16" : "bf16");
    return product<float>({t, a, a_turned == 1, size_t(m), size_t(k), size_t(lda), a_stride},
                          {t, b, b_turned == 0, size_t(n), size_t(k), size_t(ldb), b_stride},
                          {t, c, true, size_t(n), size_t(m), size_t(ldc), c_stride}, batch);
}
API int cublasDgemmStridedBatched(Handle, int a_turned, int b_turned, int m, int n, int k, const double *, Address a,
                                  int lda, long long a_stride, Address b, int ldb, long long b_stride, const double *,
                                  Address c, int ldc, long long c_stride, int batch) {
    const Type &t = type("f64");
    return product<double>({t, a, a_turned == 1, size_t(m), size_t(k), size_t(lda), a_stride},
                           {t, b, b_turned == 0, size_t(n), size_t(k), size_t(ldb), b_stride},
                           {t, c, true, size_t(n), size_t(m), size_t(ldc), c_stride}, batch);
}

// cuRAND, which nothing takes numbers from but benchmarks.

API int curandCreateGenerator(Handle *handle, int) { return *handle = Handle(1), SUCCESS; }
API int curandDestroyGenerator(Handle) { return SUCCESS; }
API int curandSetPseudoRandomGeneratorSeed(Handle, unsigned long long) { return SUCCESS; }
API int curandSetStream(Handle, Handle) { return SUCCESS; }
API int curandGenerateNormal(Handle, float *to, size_t n, float mean, float deviation) {
    static std::mt19937 random;
    std::normal_distribution<float> normal(mean, deviation);
    std::generate(to, to + (DRY ? 0 : n), [&] { return normal(random); });
    return SUCCESS;
}

static const struct Report {
    ~Report() {
        if (REPORT) {
            std::fprintf(stderr, "stand-in: %zu bytes at most, %zu at the end\n", most, held);
            for (const auto &[name, times] : launches) {
                std::fprintf(stderr, "%10zu %s\n", times, name.c_str());
            }
        }
    }
} at_the_end;
