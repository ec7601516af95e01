// Rows of a table by token id, and the sum of gradients into them; one block a token.
#include "kernel.cuh"
#include "tile/reduce.cuh"
#include "tile/vector.cuh"

// An id beyond the table gives NaN.
template <class W, class T> __device__ __forceinline__ void embedding_forward(const EmbeddingParams& p) {
    const uint32_t id = reinterpret_cast<const uint32_t*>(p.ids)[blockIdx.x];
    const W* row = reinterpret_cast<const W*>(p.table) + (size_t)id * p.hidden;
    T* y = reinterpret_cast<T*>(p.y) + (size_t)blockIdx.x * p.hidden;
    if (id < p.vocab && p.hidden % 8 == 0) {
        for (uint32_t i = threadIdx.x * 8; i < p.hidden; i += blockDim.x * 8) store_eight(y + i, load_eight(row + i));
    } else {
        for (uint32_t i = threadIdx.x; i < p.hidden; i += blockDim.x) {
            y[i] = from_float<T>(id < p.vocab ? to_float(row[i]) : NAN);
        }
    }
}

KERNEL(embedding_forward_f32_f32, EmbeddingParams, 512) { embedding_forward<float, float>(p); }
KERNEL(embedding_forward_f32_bf16, EmbeddingParams, 512) { embedding_forward<float, bf16>(p); }
KERNEL(embedding_forward_bf16_f32, EmbeddingParams, 512) { embedding_forward<bf16, float>(p); }
KERNEL(embedding_forward_bf16_bf16, EmbeddingParams, 512) { embedding_forward<bf16, bf16>(p); }

// The block of an id's first token adds all of its tokens, in their order, so the sum is that of the CPU. Threads look for
// them together, a window of tokens at a time; a thread then adds its columns of each.
template <class T> __device__ __forceinline__ void embedding_backward(const EmbeddingParams& p) {
    __shared__ uint32_t found[512 / 32];  // a bit for each token of the window
    const uint32_t* ids = reinterpret_cast<const uint32_t*>(p.ids);
    const uint32_t first = blockIdx.x, id = ids[first];
    float earlier = 0.0f;
    for (uint32_t t = threadIdx.x; t < first; t += blockDim.x) {
        if (ids[t] == id) earlier = 1.0f;
    }
    if (block_max(earlier) > 0.0f || id >= p.vocab) return;
    float* row = reinterpret_cast<float*>(p.table) + (size_t)id * p.hidden;
    for (uint32_t window = first; window < p.tokens; window += blockDim.x) {
        const uint32_t mine = window + threadIdx.x;
        const uint32_t bits = __ballot_sync(0xffffffffu, mine < p.tokens && ids[mine] == id);
        if (threadIdx.x % 32 == 0) found[threadIdx.x / 32] = bits;
        __syncthreads();
        for (uint32_t warp = 0; warp < blockDim.x / 32; warp++) {
            for (uint32_t left = found[warp]; left; left &= left - 1) {
                const uint32_t t = window + warp * 32 + __ffs(left) - 1;
                const T* dy = reinterpret_cast<const T*>(p.y) + (size_t)t * p.hidden;
                for (uint32_t i = threadIdx.x; i < p.hidden; i += blockDim.x) row[i] += to_float(dy[i]);
            }
        }
        __syncthreads();
    }
}

KERNEL(embedding_backward_f32, EmbeddingParams, 512) { embedding_backward<float>(p); }
KERNEL(embedding_backward_bf16, EmbeddingParams, 512) { embedding_backward<bf16>(p); }

// A row for each token, whose only 1 is at its id: with it the table's gradient is that of a linear layer. `vocab` is a
// multiple of eight.
KERNEL(embedding_one_hot, EmbeddingParams, 512) {
    const uint32_t id = reinterpret_cast<const uint32_t*>(p.ids)[blockIdx.x];
    bf16* row = reinterpret_cast<bf16*>(p.y) + (size_t)blockIdx.x * p.vocab;
    for (uint32_t i = threadIdx.x * 8; i < p.vocab; i += blockDim.x * 8) {
        Eight e;
#pragma unroll
        for (int j = 0; j < 8; j++) e.v[j] = i + j == id ? 1.0f : 0.0f;
        store_eight(row + i, e);
    }
}
