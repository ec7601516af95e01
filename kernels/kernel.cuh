// What every kernel file includes first: the parameter structs, bf16, and the shape of a kernel.
//
// KERNEL(name, Params, threads[, blocks]) { ... p.field ... } defines `name` for blocks of at most `threads` threads
// (at least `blocks` of them on a multiprocessor), with its one by-value argument `p`. Its blocks may be started before the
// launch before has ended, and wait for that first of all: so no kernel need know what comes before or after it. SMALL_KERNEL
// and KERNEL_AHEAD do more of it.
// DYNAMIC_SHARED(T, name) is a pointer to the launch's dynamic shared memory, aligned to 1024 bytes.
// The emulator in tests/emulator/ gives both macros other bodies, so that the same source runs on the CPU.
#pragma once
#include <stdint.h>
#include "params.h"

#ifdef KIUNGO_EMULATOR
#include "emulator.h"
#else
#include <cuda_bf16.h>
// Waits until the launch before has ended and what it wrote is seen: what came before that one had ended then too, for no kernel
// ends without this wait. Only Hopper's machine code has the instruction: device/cuda asks for overlap there alone.
__device__ __forceinline__ void wait_for_launch() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Lets the next launch's blocks find places from now on, where this one has at most so many blocks a multiprocessor of an H100
// that all of its own surely have one. Where some still look for theirs, the next one's crowd where there is room: pooling
// backward of many passages took 133 us for 53.
__device__ __forceinline__ void let_next_in(uint32_t blocks) {
#if __CUDA_ARCH__ >= 900
    if (gridDim.x * gridDim.y * gridDim.z <= 132 * blocks) asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// SMALL_KERNEL lets the next one in, where it takes at most three quarters of an H100's threads: a step of few tokens is a row of
// such launches, each of which would else wait for the one before to end before it even begins.
#define SMALL_KERNEL(name, Params, ...)                                                                \
    static __device__ __forceinline__ void name##_body(const Params& p);                               \
    extern "C" __global__ void __launch_bounds__(__VA_ARGS__) name(const __grid_constant__ Params p) { \
        wait_for_launch();                                                                             \
        let_next_in(1536 / blockDim.x);                                                                \
        name##_body(p);                                                                                \
    }                                                                                                  \
    static __device__ __forceinline__ void name##_body(const Params& p)
// KERNEL_AHEAD waits by itself, behind what needs nothing of the launch before: it may read weights in 4 bits, which no kernel
// of a step writes.
#define KERNEL_AHEAD(name, Params, ...)                                                                \
    static __device__ __forceinline__ void name##_body(const Params& p);                               \
    extern "C" __global__ void __launch_bounds__(__VA_ARGS__) name(const __grid_constant__ Params p) { \
        name##_body(p);                                                                                \
    }                                                                                                  \
    static __device__ __forceinline__ void name##_body(const Params& p)
#define KERNEL(name, Params, ...)                                                                      \
    static __device__ __forceinline__ void name##_body(const Params& p);                               \
    extern "C" __global__ void __launch_bounds__(__VA_ARGS__) name(const __grid_constant__ Params p) { \
        wait_for_launch();                                                                             \
        name##_body(p);                                                                                \
    }                                                                                                  \
    static __device__ __forceinline__ void name##_body(const Params& p)
#define DYNAMIC_SHARED(T, name)                                          \
    extern __shared__ __align__(1024) unsigned char dynamic_shared_[];   \
    T* name = reinterpret_cast<T*>(dynamic_shared_)
#endif

using bf16 = __nv_bfloat16;

// Activations are float or bf16; arithmetic is float. One rounding, where a value is stored.
__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
template <class T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) { return __float2bfloat16(x); }
