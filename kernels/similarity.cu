// The k largest scores of each row, one block a row: k times the largest of those that come after the last one found.
#include "kernel.cuh"
#include "tile/reduce.cuh"

// Larger is better: by score, then by lower index. Never 0. A NaN ranks as minus infinity, -0 as 0.
__device__ __forceinline__ uint64_t key_of(float score, uint32_t index) {
    const uint32_t bits = __float_as_uint(isnan(score) ? -INFINITY : score + 0.0f);
    const uint32_t rank = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)rank << 32 | (0xffffffffu - index);
}

struct MaxKey {
    __device__ __forceinline__ uint64_t operator()(uint64_t a, uint64_t b) const { return a > b ? a : b; }
    static constexpr uint64_t IDENTITY = 0;
};

KERNEL(similarity_top_k, TopKParams, 256) {
    const float* row = reinterpret_cast<const float*>(p.similarity) + (size_t)blockIdx.x * p.candidates;
    float* scores = reinterpret_cast<float*>(p.scores) + (size_t)blockIdx.x * p.k;
    uint32_t* indices = reinterpret_cast<uint32_t*>(p.indices) + (size_t)blockIdx.x * p.k;
    uint64_t last = UINT64_MAX;
    for (uint32_t i = 0; i < p.k; i++) {
        uint64_t best = 0;
        for (uint32_t j = threadIdx.x; j < p.candidates; j += blockDim.x) {
            const uint64_t key = key_of(row[j], j);
            if (key < last && key > best) best = key;
        }
        last = block_reduce<MaxKey>(best);
        if (threadIdx.x != 0) continue;
        const uint32_t index = 0xffffffffu - (uint32_t)last;
        indices[i] = index;
        scores[i] = row[index];
    }
}
