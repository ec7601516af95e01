// An NF4 weight as the left side of wgmma, in registers.
#pragma once
#include "kernel.cuh"
#include "ptx/memory.cuh"
#include "tile/nf4_pairs.cuh"

// A thread's part of the left side for one block: four steps of 16 inputs.
using Fragment = uint32_t[4][4];
// What is read until the products are done must not be overwritten before.
__device__ __forceinline__ void keep(Fragment& a) {
#pragma unroll
    for (int i = 0; i < 16; i++) asm volatile("" : "+r"(a[i / 4][i % 4]));
}

// The absmax of MINE blocks of 64 inputs, for the two rows of a thread, as they lie in memory: on their way while what is
// before them is computed. The next ones are STRIDE blocks further.
template <int MINE, int STRIDE, bool DOUBLE> struct Scales {
    float absmax[2][MINE];

    // Where a row's are.
    struct From {
        const float* next;
        __device__ __forceinline__ From(const Nf4LinearParams& p, uint32_t row, int block)
            : next(reinterpret_cast<const float*>(p.absmax) + (size_t)row * (p.k / KIUNGO_NF4_BLOCK) + block) {}
    };
    // `left`: blocks of the row from the next one on; what lies beyond them is zero.
    __device__ __forceinline__ void load(From (&from)[2], int left) {
#pragma unroll
        for (int row = 0; row < 2; row++) {
#pragma unroll
            for (int i = 0; i < MINE; i++) absmax[row][i] = i < left ? __ldg(from[row].next + i) : 0.0f;
            from[row].next += STRIDE;
            asm volatile("" : "+l"(from[row].next));  // a pointer, not an index to be made into one each time
        }
    }
    __device__ __forceinline__ float get(int row, int block, const float*, float) const { return absmax[row][block]; }
};
template <int BYTES> struct Bytes;
template <> struct Bytes<1> { using Type = uint8_t; };
template <> struct Bytes<2> { using Type = uint16_t; };
template <> struct Bytes<4> { using Type = uint32_t; };
template <int MINE, int STRIDE> struct Scales<MINE, STRIDE, true> {
    using Codes = typename Bytes<MINE>::Type;
    Codes codes[2];
    float absmax[2];  // p.k is a multiple of 256, so that up to four blocks share one

    struct From {
        const uint8_t* codes;
        const float* absmax;
        uint32_t next;  // of the blocks of all rows
        __device__ __forceinline__ From(const Nf4LinearParams& p, uint32_t row, int block)
            : codes(reinterpret_cast<const uint8_t*>(p.scale_codes)), absmax(reinterpret_cast<const float*>(p.absmax)),
              next(row * (p.k / KIUNGO_NF4_BLOCK) + block) {}
    };
    __device__ __forceinline__ void load(From (&from)[2], int left) {
        if (left <= 0) return;
#pragma unroll
        for (int row = 0; row < 2; row++) {
            codes[row] = *reinterpret_cast<const Codes*>(from[row].codes + from[row].next);
            absmax[row] = from[row].absmax[from[row].next / KIUNGO_NF4_NESTED_BLOCK];
            from[row].next += STRIDE;
        }
    }
    __device__ __forceinline__ float get(int row, int block, const float* map, float offset) const {
        return __fadd_rn(__fmul_rn(map[codes[row] >> block * 8 & 255], absmax[row]), offset);
    }
};
