// CUDA C++'s names for the CPU, so that g++ compiles kernels/*.cu as they are and no CUDA header is needed.
//
// A CUDA thread is a fiber; a block's fibers run in turn on one OS thread, blocks one after another. A launch fails,
// with the block and thread named, on: barriers that not all threads reach, warp instructions that not all lanes
// reach, accesses outside the buffers or off their alignment, and races (an access to what another thread wrote or
// read, with no barrier in between). Kernels are compiled with -fsanitize=thread, whose hooks emulator.cpp defines:
// that is how it sees every access. Shared memory starts each block as NaN bytes.
#pragma once
#include <initializer_list>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __device__
#define __forceinline__ inline
// Fibers of a block share their OS thread, so what is local to the thread is shared by the block, and blocks on
// other OS threads have their own.
#define __shared__ static __thread
#define __align__(n) __attribute__((aligned(n)))
#define EXPORT __attribute__((visibility("default")))

#define KERNEL(name, Params, ...)                                                                       \
    static void name##_body(const Params& p);                                                           \
    extern "C" EXPORT const char* name(const emulator::Launch* launch) {                                \
        const auto call = [](const void* params) { name##_body(*static_cast<const Params*>(params)); }; \
        return emulator::run(*launch, sizeof(Params), emulator::first(__VA_ARGS__), call);              \
    }                                                                                                   \
    static void name##_body(const Params& p)
#define SMALL_KERNEL KERNEL
inline void let_next_in(unsigned) {}
#define DYNAMIC_SHARED(T, name) T* name = static_cast<T*>(emulator::dynamic_shared())

namespace emulator {

struct Index {
    uint32_t x, y, z;
};

// Device memory that kernels may touch.
struct Buffer {
    uint64_t address, bytes;
};

// What tests/emulator/mod.rs fills in.
struct Launch {
    Index grid, block;
    uint64_t shared_bytes;
    const void* params;
    uint64_t params_bytes;
    const Buffer* buffers;  // by address
    uint64_t buffer_count;
};

// Runs all blocks. Null, or what went wrong, valid until the OS thread's next launch.
const char* run(const Launch& launch, uint64_t params_bytes, unsigned max_threads, void (*kernel)(const void*));
template <class... Rest> constexpr unsigned first(unsigned threads, Rest...) { return threads; }

// Constant for one fiber and one block, so calls may be merged.
__attribute__((const)) Index thread_index();
__attribute__((const)) Index block_index();
__attribute__((const)) Index block_size();
__attribute__((const)) Index grid_size();
__attribute__((const)) void* dynamic_shared();

void barrier();
void warp_barrier();

// All 32 lanes meet; the last to come runs `perform` on what each of them brought, then all go on.
void collective(const char* name, void* mine, void (*perform)(void* const* lanes));

// An access by an emulated instruction, checked like those that the compiler reports.
void access(const void* address, size_t bytes, bool write);

// In device memory, of any block.
void atomic_min(uint64_t* at, uint64_t value);

void copy_async(void* to, const void* from, unsigned bytes, unsigned valid);
void copy_commit();
void copy_wait(unsigned groups_left);

template <class T> struct Shuffle {
    T value;
    unsigned source;
    T result;
    static void perform(void* const* lanes) {
        for (int i = 0; i < 32; i++) {
            auto* mine = static_cast<Shuffle*>(lanes[i]);
            mine->result = static_cast<Shuffle*>(lanes[mine->source])->value;
        }
    }
};
template <class T> T shuffle(T value, unsigned source) {
    Shuffle<T> s{value, source, value};
    collective("shfl", &s, Shuffle<T>::perform);
    return s.result;
}
struct Ballot {
    bool vote;
    unsigned result;
    static void perform(void* const* lanes) {
        unsigned votes = 0;
        for (int i = 0; i < 32; i++) votes |= (unsigned)static_cast<Ballot*>(lanes[i])->vote << i;
        for (int i = 0; i < 32; i++) static_cast<Ballot*>(lanes[i])->result = votes;
    }
};
inline unsigned ballot(bool vote) {
    Ballot b{vote, 0};
    collective("ballot", &b, Ballot::perform);
    return b.result;
}
inline unsigned lane() {
    const Index t = thread_index(), n = block_size();
    return (t.x + n.x * (t.y + n.y * t.z)) % 32;
}

}  // namespace emulator

#define threadIdx (emulator::thread_index())
#define blockIdx (emulator::block_index())
#define blockDim (emulator::block_size())
#define gridDim (emulator::grid_size())

inline void __syncthreads() { emulator::barrier(); }
inline void __syncwarp() { emulator::warp_barrier(); }
inline void __threadfence() { asm volatile("" ::: "memory"); }
inline void __threadfence_system() { asm volatile("" ::: "memory"); }
template <class T> T __shfl_sync(unsigned, T v, unsigned source) { return emulator::shuffle(v, source % 32); }
template <class T> T __shfl_xor_sync(unsigned, T v, unsigned mask) { return emulator::shuffle(v, emulator::lane() ^ mask); }
template <class T> T __shfl_down_sync(unsigned, T v, unsigned delta) {
    const unsigned lane = emulator::lane();
    return emulator::shuffle(v, lane + delta < 32 ? lane + delta : lane);
}

inline unsigned __ballot_sync(unsigned, bool vote) { return emulator::ballot(vote); }
inline int __ffs(unsigned x) { return __builtin_ffs((int)x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }

struct alignas(8) uint2 { uint32_t x, y; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline uint32_t __float_as_uint(float x) { uint32_t b; memcpy(&b, &x, 4); return b; }
inline float __uint_as_float(uint32_t b) { float x; memcpy(&x, &b, 4); return x; }

struct __nv_bfloat16 { uint16_t bits; };
struct alignas(4) __nv_bfloat162 { __nv_bfloat16 x, y; };
inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float((uint32_t)x.bits << 16); }
inline __nv_bfloat16 __float2bfloat16(float x) {
    const uint32_t b = __float_as_uint(x);
    if (x != x) return {0x7fff};
    return {(uint16_t)((b + 0x7fff + (b >> 16 & 1)) >> 16)};
}
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__float2bfloat16(x), __float2bfloat16(y)}; }

// The compiler may fuse nothing (-ffp-contract=off), so plain operators round as these do.
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float x) { return expf(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline void sincospif(float x, float* sine, float* cosine) {
    *sine = (float)sin(M_PI * x);
    *cosine = (float)cos(M_PI * x);
}
inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t selector) {
    const uint64_t bytes = (uint64_t)y << 32 | x;
    uint32_t result = 0;
    for (int i = 0; i < 4; i++) result |= (uint32_t)(bytes >> (selector >> (4 * i) & 7) * 8 & 0xff) << (8 * i);
    return result;
}
inline uint32_t __umulhi(uint32_t a, uint32_t b) { return (uint32_t)((uint64_t)a * b >> 32); }
template <class T> T __ldg(const T* p) { return *p; }
template <class T> T min(T a, T b) { return b < a ? b : a; }
template <class T> T max(T a, T b) { return a < b ? b : a; }
