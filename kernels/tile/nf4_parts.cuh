// dx = dy W in parts of the outputs, whose sums are added up by a kernel of their own.
#pragma once
#include "kernel.cuh"
#include "tile/store.cuh"

__device__ __forceinline__ void store_four(bf16* dx, float4 sum, bool accumulate) {
    store_two(dx, sum.x, sum.y, accumulate);
    store_two(dx + 2, sum.z, sum.w, accumulate);
}

// A part's sums of four inputs from `input` on: to the workspace, or where it is the only part to dx.
__device__ __forceinline__ void store_part(const Nf4BackwardParams& p, uint32_t part, uint32_t token, uint32_t input,
                                           float4 sum) {
    const size_t at = (size_t)token * p.linear.k + input;
    if (p.count > 1) {
        const size_t size = (size_t)p.linear.m * p.linear.k;
        *reinterpret_cast<float4*>(reinterpret_cast<float*>(p.parts) + part * size + at) = sum;
    } else {
        store_four(reinterpret_cast<bf16*>(p.linear.y) + at, sum, p.accumulate != 0);
    }
}

// Where a stage is among the outputs of all layers of a sum; beyond the last layer's it stays there.
struct LayerStage {
    uint32_t layer = 0;
    int step;
    __device__ __forceinline__ LayerStage(const Nf4BackwardSm90Params& p, int step) : step(step) { settle(p); }
    __device__ __forceinline__ void advance(const Nf4BackwardSm90Params& p) {
        step++;
        settle(p);
    }

  private:
    __device__ __forceinline__ void settle(const Nf4BackwardSm90Params& p) {
        while (step >= (int)p.steps[layer] && layer + 1 < KIUNGO_NF4_LAYERS && p.steps[layer + 1] > 0) {
            step -= p.steps[layer++];
        }
    }
};
