// What every kernel file includes first: the parameter structs, bf16, and the shape of a kernel.
//
// KERNEL(name, Params, threads[, blocks]) { ... p.field ... } defines `name` for blocks of at most `threads` threads
// (at least `blocks` of them on a multiprocessor), with its one by-value argument `p`. Its blocks may be started before the
// launch before has ended, and wait for that first of all: so no kernel need know what comes before or after it.
// DYNAMIC_SHARED(T, name) is a pointer to the launch's dynamic shared memory, aligned to 1024 bytes.
// The emulator in tests/emulator/ gives both macros other bodies, so that the same source runs on the CPU.
#pragma once
#include <stdint.h>
#include "params.h"

#ifdef KIUNGO_EMULATOR
#include "emulator.h"
#else
#include <cuda_bf16.h>
// Waits until the launch before has ended and what it wrote is seen. No kernel lets the next one in before its own end
// (griddepcontrol.launch_dependents): then the next one's blocks find their places while this one's still have some, and crowd
// where there is room. Of ops that are all blocks at once that made up to 2.5 times the time (pooling backward 53 to 133 us).
// Only Hopper's machine code has the instruction: device/cuda asks for overlap there alone.
__device__ __forceinline__ void wait_for_launch() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
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
