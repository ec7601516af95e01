// What every kernel file includes first: the parameter structs, bf16, and the shape of a kernel.
//
// KERNEL(name, Params, threads) { ... p.field ... } defines `name` for blocks of at most `threads` threads, with
// its one by-value argument `p`. The emulator in tests/emulator/ gives the macro another body, so that the same
// source runs on the CPU.
#pragma once
#include <stdint.h>
#include "params.h"

#ifdef KIUNGO_EMULATOR
#include "emulator.h"
#else
#include <cuda_bf16.h>
#define KERNEL(name, Params, threads) \
    extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ Params p)
#endif

using bf16 = __nv_bfloat16;

// Activations are float or bf16; arithmetic is float. One rounding, where a value is stored.
__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
template <class T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) { return __float2bfloat16(x); }
