// An NF4 weight as the left side of W^T dy^T: tensor cores want two outputs of one input in a register, and a byte of codes
// is two inputs of one output.
#pragma once
#include "kernel.cuh"
#include "ptx/math.cuh"
#include "tile/vector.cuh"

// The codes of eight inputs of two outputs, exchanged so that a byte is two outputs of one input, the first in its high half.
struct ColumnPairs {
    uint32_t even, odd;  // byte i: inputs 2 i, and 2 i + 1
    __device__ __forceinline__ ColumnPairs(uint32_t first, uint32_t second)
        : even(first ^ ((first ^ second >> 4) & 0x0f0f0f0fu)), odd(second ^ ((second ^ first << 4) & 0xf0f0f0f0u)) {}
};

// Scales of two outputs as bf16, and as bf16 again what is left of them: a product with both is rounded but once.
struct ScalePair {
    uint32_t high, low;
    __device__ __forceinline__ ScalePair(float x, float y) {
        high = pack(x, y);
        low = pack(x - __uint_as_float(high << 16), y - __uint_as_float(high & 0xffff0000u));
    }
    // Of two outputs, each with its high half below its low one.
    __device__ __forceinline__ explicit ScalePair(uint2 two)
        : high(__byte_perm(two.x, two.y, 0x5410)), low(__byte_perm(two.x, two.y, 0x7632)) {}

    __device__ __forceinline__ ScalePair(uint32_t high, uint32_t low) : high(high), low(low) {}

    __device__ __forceinline__ uint32_t times(uint32_t pair) const {
        constexpr uint32_t ZEROS = 0x80008000u;  // negative: x + -0 is x
        return multiply_add_pairs(pair, high, multiply_add_pairs(pair, low, ZEROS));
    }
};
