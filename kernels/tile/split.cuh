// Floats as two bf16, for tensor cores.
#pragma once
#include "kernel.cuh"

// A float as two bf16.
struct Split {
    bf16 high, low;
    __device__ __forceinline__ explicit Split(float x) {
        high = __float2bfloat16(x);
        low = __float2bfloat16(x - __bfloat162float(high));
    }
};

// Writes element i of a matrix of `rank` columns to its row, for a product on tensor cores. Rows that are three ranks wide hold
// it as h + l, in h, l, h (left) or h, h, l: the product of two such rows is that of their values, but for that of what both
// left over. Narrower ones hold it rounded. Zeros follow.
__device__ __forceinline__ void side_row(uint64_t rows, uint32_t i, uint32_t rank, uint32_t width, float x, bool left) {
    const Split split(x);
    const uint32_t column = i % rank;
    bf16* row = reinterpret_cast<bf16*>(rows) + (size_t)(i / rank) * width;
    row[column] = split.high;
    uint32_t filled = rank;
    if (width >= 3 * rank) {
        row[column + rank] = left ? split.low : split.high;
        row[column + 2 * rank] = left ? split.high : split.low;
        filled = 3 * rank;
    }
    for (uint32_t j = filled + column; j < width; j += rank) row[j] = from_float<bf16>(0.0f);
}
