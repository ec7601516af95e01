// An NF4 weight as the left side of W^T dy^T for many tokens: stages of 64 outputs, by 128 inputs, and what a warp of a warpgroup
// makes of them. Of 128 inputs a warp has 32, a lane four neighbours: two rows of each of two products.
#pragma once
#include "kernel.cuh"
#include "ptx/memory.cuh"
#include "ptx/mma.cuh"
#include "tile/nf4_columns.cuh"
#include "tile/nf4_pairs.cuh"

constexpr int COLUMN_DEPTH = 64;
using ColumnCodes = uint8_t[COLUMN_DEPTH][64];  // 16-byte chunks swizzled
// A block's scales, for a lane those of sixteen outputs that it has: two and two, as ScalePair has them.
using BlockScales = uint2[COLUMN_DEPTH / 16][4][2];

// An output's scale of one block as it is in memory, on its way; zero beyond the weight.
template <bool DOUBLE> struct OneScale {
    float absmax;

    __device__ __forceinline__ void load(const Nf4LinearParams& p, uint32_t output, uint32_t block) {
        const uint32_t width = p.k / KIUNGO_NF4_BLOCK;
        const float* all = reinterpret_cast<const float*>(p.absmax);
        absmax = output < p.n && block < width ? __ldg(all + (size_t)output * width + block) : 0.0f;
    }
    __device__ __forceinline__ float get(const Nf4LinearParams&) const { return absmax; }
};
template <> struct OneScale<true> {
    float absmax;  // negative beyond the weight
    uint32_t code;

    __device__ __forceinline__ void load(const Nf4LinearParams& p, uint32_t output, uint32_t block) {
        const uint32_t width = p.k / KIUNGO_NF4_BLOCK;
        const bool inside = output < p.n && block < width;
        const size_t at = inside ? (size_t)output * width + block : 0;
        code = __ldg(reinterpret_cast<const uint8_t*>(p.scale_codes) + at);
        absmax = inside ? __ldg(reinterpret_cast<const float*>(p.absmax) + at / KIUNGO_NF4_NESTED_BLOCK) : -1.0f;
    }
    __device__ __forceinline__ float get(const Nf4LinearParams& p) const {
        const float scale = __ldg(reinterpret_cast<const float*>(p.map) + code);
        const float offset = __ldg(reinterpret_cast<const float*>(p.offset));
        return absmax < 0.0f ? 0.0f : __fadd_rn(__fmul_rn(scale, absmax), offset);
    }
};

// Puts an output's scale where decode looks for it.
__device__ __forceinline__ void put_scale(BlockScales& scales, uint32_t output, float scale) {
    bf16* pair = reinterpret_cast<bf16*>(&scales[output / 16][output % 8 / 2][output / 8 % 2]);
    const bf16 high = __float2bfloat16(scale);
    pair[output % 2] = high;
    pair[output % 2 + 2] = __float2bfloat16(scale - __bfloat162float(high));
}

// The 32 outputs from half * 32 on, eight by eight: of two of them, the codes of four inputs.
__device__ __forceinline__ void read_columns(uint32_t (&four)[4], const ColumnCodes& codes, int half) {
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    ldmatrix_x4_trans(four, codes[half * 32 + lane] + (warp ^ lane / 2 % 4) * 16);
}

// Step 0 or 1 of those 32 outputs, for a lane that takes TILES of every two of its inputs: with 1 those of four neighbours that the
// selector names (0x6240 or 0x7351, of two words of codes the bytes).
template <int TILES> struct ColumnStep {
    uint32_t even, odd;  // a byte is two outputs of one input: by eight outputs, then by product

    __device__ __forceinline__ ColumnStep(const uint32_t (&four)[4], int step, uint32_t selector) {
        if constexpr (TILES == 1) {
            const uint32_t low = __byte_perm(four[0], four[1], selector), high = __byte_perm(four[2], four[3], selector);
            const ColumnPairs both(__byte_perm(low, high, 0x5410), __byte_perm(low, high, 0x7632));
            even = both.even >> step * 16, odd = both.odd >> step * 16;
        } else {
            const uint32_t first = four[step * 2], second = four[step * 2 + 1];
            const ColumnPairs pairs(__byte_perm(first, second, 0x5410), __byte_perm(first, second, 0x7632));
            even = pairs.even, odd = pairs.odd;
        }
    }
};

// A lane's scales of a step's 16 outputs, eight and eight.
struct StepScales {
    ScalePair eight[2];
    __device__ __forceinline__ explicit StepScales(const uint2 (&scales)[4][2]) : StepScales(load_16(scales[threadIdx.x % 4])) {}

  private:
    __device__ __forceinline__ explicit StepScales(uint4 both) : eight{{both.x, both.y}, {both.z, both.w}} {}
};

// The left side of a step for one of TILES products.
template <int TILES>
__device__ __forceinline__ void decode(uint32_t (&a)[4], const PairTable<uint32_t>::Look& look, const ColumnStep<TILES>& weights,
                                       int tile, const StepScales& scales) {
#pragma unroll
    for (int eight = 0; eight < 2; eight++) {
        const int byte = eight * TILES + tile;
        a[eight * 2] = scales.eight[eight].times(look.pair(weights.even, byte));
        a[eight * 2 + 1] = scales.eight[eight].times(look.pair(weights.odd, byte));
    }
}
