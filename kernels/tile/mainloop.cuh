// The ring of stages between the copy engine and wgmma, from both of its ends.
#pragma once
#include "kernel.cuh"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"
#include "tile/operand.cuh"

constexpr int DEPTH = 64;  // of k a stage

struct Nothing {
    __device__ __forceinline__ void operator()(int) const {}
};

// BM x BN of c a block, BM / 64 warpgroups that compute. SHARES blocks of a cluster that lie below each other in c need
// the same tile of b, of which each loads its part.
template <int BM, int BN, int STAGES, int SHARES, bool A_K_MAJOR, bool B_K_MAJOR> struct Mainloop {
    using A = OperandTile<BM, A_K_MAJOR>;
    using B = OperandTile<B_K_MAJOR ? BN : (BN + 63) / 64 * 64, B_K_MAJOR>;  // whole slabs
    static constexpr int CONSUMERS = BM / 64;
    static constexpr int STAGE = A::ELEMENTS + B::ELEMENTS;

    bf16* stages;  // [STAGES][a tile, b tile], aligned to 1024 bytes
    Barrier* full;
    Barrier* empty;

    // Called by all threads, once; the caller synchronises the cluster after it.
    __device__ __forceinline__ void init(const GemmSm90Params& p) {
        if (threadIdx.x == 0) {
            tma_prefetch(&p.a);
            tma_prefetch(&p.b);
            for (int i = 0; i < STAGES; i++) {
                barrier_init(&full[i], 1);
                barrier_init(&empty[i], SHARES * CONSUMERS * 4);
            }
            barrier_init_fence();
        }
    }

    // One thread: loads the tiles of `steps` stages of two operands from k0.
    __device__ __forceinline__ void load(Ring<STAGES>& at, const GemmSm90Params& p, const TensorMap* a, const TensorMap* b,
                                         int m0, int n0, int k0, int steps, uint32_t rank) {
        for (int step = 0; step < steps; step++, at.advance()) {
            bf16* stage = stages + at.stage * STAGE;
            barrier_wait(&empty[at.stage], at.parity ^ 1);
            barrier_arrive_expecting(&full[at.stage], p.a_bytes + B::BYTES);
            A::template load<1>(stage, a, m0, k0 + step * DEPTH, &full[at.stage], 0);
            B::template load<SHARES>(stage + A::ELEMENTS, b, n0, k0 + step * DEPTH, &full[at.stage], rank);
        }
    }

    // A computing warpgroup: the products of `steps` stages (at least one), 64 rows of the tile. While the first of
    // them are computed, does meanwhile(0), ..., meanwhile(EARLY - 1).
    template <int EARLY = 0, class Meanwhile = Nothing>
    __device__ __forceinline__ void compute(Ring<STAGES>& at, float (&sum)[BN / 2], int consumer, int steps,
                                            Meanwhile meanwhile = {}) {
        uint32_t before = at.stage;
        const auto begin = [&](int step) {
            const bf16* a = stages + at.stage * STAGE;
            const bf16* b = a + A::ELEMENTS;
            barrier_wait(&full[at.stage], at.parity);
            wgmma_begin();
#pragma unroll
            for (int k = 0; k < DEPTH; k += 16) {
                wgmma<BN, A_K_MAJOR, B_K_MAJOR>(sum, A::descriptor(a, consumer * 64, k), B::descriptor(b, 0, k),
                                                step > 0 || k > 0);
            }
            wgmma_commit();
        };
        // The stage before is free once at most this one is under way.
        const auto end = [&](int step) {
            wgmma_wait<1>();
            if (step > 0) release(before);
            before = at.stage;
            at.advance();
        };
        int step = 0;
#pragma unroll
        for (int early = 0; early < EARLY; early++) {
            if (early < steps) begin(early);
            meanwhile(early);
            if (early < steps) end(step++);
        }
        for (; step < steps; step++) {
            begin(step);
            end(step);
        }
        wgmma_wait<0>();
        keep(sum);
        release(before);
    }

    // A warp has done with a stage.
    __device__ __forceinline__ void release(uint32_t stage) {
        const uint32_t lane = threadIdx.x % 32;
        if constexpr (SHARES == 1) {
            if (lane == 0) barrier_arrive(&empty[stage]);
        } else {
            if (lane < SHARES) barrier_arrive_at(&empty[stage], lane);
        }
    }
};
