// Which stages of a strip of columns are whose in AdamW's pass that makes x's gradient, too (adamw_linear_sm90.cu). Rows are
// counted in stages of all layers below each other. tests/emulator/shares.cu walks through all of them.
#pragma once
#include "kernel.cuh"

struct Shares {
    const AdamwLinearShares& s;

    __device__ __forceinline__ uint32_t mains() const { return s.members * s.strips; }
    __device__ __forceinline__ uint32_t lower() const { return s.height - s.upper; }
    // The first of the lower stages of extra block i, numbered strip by strip.
    __device__ __forceinline__ uint32_t first_of(uint32_t i) const {
        return (uint32_t)((uint64_t)s.strips * lower() * i / s.extras);
    }
    // The number of what a block leaves of a strip of dx.
    __device__ __forceinline__ uint32_t part(uint32_t block, uint32_t strip) const { return block < mains() ? block : block + strip; }
    // Calls visit(block) for each block that has stages of a strip, in their order.
    template <class Visit> __device__ __forceinline__ void each_block(uint32_t strip, Visit visit) const {
        for (uint32_t i = 0; i < s.members; i++) visit(i * s.strips + strip);
        if (lower() == 0) return;
        const uint32_t top = strip * lower();
        uint32_t i = (uint32_t)((uint64_t)top * s.extras / (s.strips * lower()));
        while (i && first_of(i) > top) i--;
        while (first_of(i + 1) <= top) i++;
        for (; i < s.extras && first_of(i) < top + lower(); i++) visit(mains() + i);
    }
};

// The stages of a block, in their order.
struct Walk {
    const Shares& shares;
    uint32_t strip, row, left;

    __device__ __forceinline__ explicit Walk(const Shares& shares) : shares(shares) {
        const AdamwLinearShares& s = shares.s;
        if (blockIdx.x < shares.mains()) {
            strip = blockIdx.x % s.strips, row = blockIdx.x / s.strips;
            left = (s.upper - row + s.members - 1) / s.members;
        } else {
            const uint32_t first = shares.first_of(blockIdx.x - shares.mains());
            left = shares.first_of(blockIdx.x - shares.mains() + 1) - first;
            strip = first / shares.lower(), row = s.upper + first % shares.lower();
        }
    }
    __device__ __forceinline__ void next() {
        left--;
        if ((row += by()) >= shares.s.height) row = shares.s.upper, strip++;
    }
    // So many further, or to the last.
    __device__ __forceinline__ void skip(uint32_t stages) {
        for (; stages && left > 1; stages--) next();
    }
    // Whether the stage behind this one belongs to another strip, or to nobody.
    __device__ __forceinline__ bool ends_strip() const { return left == 1 || row + by() >= shares.s.height; }

  private:
    __device__ __forceinline__ uint32_t by() const { return blockIdx.x < shares.mains() ? shares.s.members : 1; }
};
