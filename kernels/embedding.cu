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

SMALL_KERNEL(embedding_forward_f32_f32, EmbeddingParams, 512) { embedding_forward<float, float>(p); }
SMALL_KERNEL(embedding_forward_f32_bf16, EmbeddingParams, 512) { embedding_forward<float, bf16>(p); }
SMALL_KERNEL(embedding_forward_bf16_f32, EmbeddingParams, 512) { embedding_forward<bf16, float>(p); }
SMALL_KERNEL(embedding_forward_bf16_bf16, EmbeddingParams, 512) { embedding_forward<bf16, bf16>(p); }

// The tokens with a block's id, a window at a time. Each warp looks at its own part of a window.
struct Matches {
    static constexpr uint32_t WARPS = 16, THREADS = WARPS * 32, PART = 512, WINDOW = WARPS * PART, LOADS = PART / 32;
    uint32_t counts[WARPS];
    uint16_t places[WINDOW];  // in the window, in their order

    // This lane's tokens of a window: t = first(window) + i * 32.
    static __device__ __forceinline__ uint32_t first(uint32_t window) {
        return window + threadIdx.x / 32 * PART + threadIdx.x % 32;
    }
    // A bit i for each of them that matches.
    static __device__ __forceinline__ uint32_t look(const EmbeddingParams& p, uint32_t id, uint32_t window) {
        const uint32_t* ids = reinterpret_cast<const uint32_t*>(p.ids);
        uint32_t seen[LOADS], matches = 0;
#pragma unroll
        for (uint32_t i = 0; i < LOADS; i++) seen[i] = ids[min(first(window) + i * 32, p.tokens - 1)];
#pragma unroll
        for (uint32_t i = 0; i < LOADS; i++) matches |= (uint32_t)(seen[i] == id && first(window) + i * 32 < p.tokens) << i;
        return matches;
    }
    // How many there are, and above 32 bits, how many before `token`. By every thread of the block.
    static __device__ __forceinline__ uint64_t count(const EmbeddingParams& p, uint32_t id, uint32_t token) {
        uint32_t all = 0, before = 0;
        for (uint32_t window = 0; window < p.tokens; window += WINDOW) {
            const uint32_t matches = look(p, id, window), mine = first(window);
            const uint32_t earlier = token > mine ? min((token - mine + 31) / 32, LOADS) : 0;  // of this lane's tokens
            all += __popc(matches);
            before += __popc(matches & ((1u << earlier) - 1));
        }
        return block_sum((uint64_t)before << 32 | all);
    }
    // Fills `places` and returns how many there are. By every thread of the block.
    __device__ __forceinline__ uint32_t find(const EmbeddingParams& p, uint32_t id, uint32_t window) {
        const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        const uint32_t mine = look(p, id, window), of_warp = warp_sum((uint32_t)__popc(mine));
        __syncthreads();  // all have done with the window before
        if (lane == 0) counts[warp] = of_warp;
        __syncthreads();
        const uint32_t of_lane = lane < WARPS ? counts[lane] : 0, all = warp_sum(of_lane);
        uint32_t at = warp_sum(lane < warp ? of_lane : 0);
        for (uint32_t i = 0; i < LOADS && of_warp > 0; i++) {
            const bool match = mine >> i & 1;
            const uint32_t lanes = __ballot_sync(0xffffffffu, match);
            if (match) places[at + __popc(lanes & ((1u << lane) - 1))] = (uint16_t)(first(0) + i * 32);
            at += __popc(lanes);
        }
        __syncthreads();
        return all;
    }
};

// A row of the table gets all gradients of its id in the order of the tokens, so the sum is that of the CPU. Where an id has
// one token, that token's block adds it; else the blocks of its first tokens take a part of the columns each, for an id that
// every sequence begins with has thousands.
template <class T> __device__ __forceinline__ void embedding_backward(const EmbeddingParams& p) {
    constexpr uint32_t PARTS = 8, BATCH = 16;  // tokens whose loads are on their way together
    __shared__ Matches matches;
    const uint32_t id = reinterpret_cast<const uint32_t*>(p.ids)[blockIdx.x];
    if (id >= p.vocab) return;
    const uint64_t counts = Matches::count(p, id, blockIdx.x);
    const uint32_t count = (uint32_t)counts, part = (uint32_t)(counts >> 32), parts = min(count, PARTS);
    if (part >= parts) return;
    float* row = reinterpret_cast<float*>(p.table) + (size_t)id * p.hidden;
    const T* dy = reinterpret_cast<const T*>(p.y);
    if (count == 1 && p.hidden % 8 == 0) {
        dy += (size_t)blockIdx.x * p.hidden;
        for (uint32_t i = threadIdx.x * 8; i < p.hidden; i += Matches::THREADS * 8) {
            const Packed<T> add = load_packed(dy + i);
            Eight sum = load_eight(row + i);
#pragma unroll
            for (int j = 0; j < 8; j++) sum.v[j] += unpack(add).v[j];
            store_eight(row + i, sum);
        }
        return;
    }
    const uint32_t begin = (uint64_t)p.hidden * part / parts, end = (uint64_t)p.hidden * (part + 1) / parts;
    for (uint32_t window = 0; window < p.tokens; window += Matches::WINDOW, dy += (size_t)Matches::WINDOW * p.hidden) {
        const uint32_t found = matches.find(p, id, window);
        if (found == 0) continue;
        for (uint32_t i = begin + threadIdx.x; i < end; i += Matches::THREADS) {
            float sum = row[i];
            for (uint32_t k = 0; k < found; k += BATCH) {
                T add[BATCH];
#pragma unroll
                for (uint32_t j = 0; j < BATCH; j++) {
                    if (k + j < found) add[j] = dy[(size_t)matches.places[k + j] * p.hidden + i];
                }
#pragma unroll
                for (uint32_t j = 0; j < BATCH; j++) {
                    if (k + j < found) sum += to_float(add[j]);
                }
            }
            row[i] = sum;
        }
    }
}

KERNEL(embedding_backward_f32, EmbeddingParams, Matches::THREADS, 3) { embedding_backward<float>(p); }
KERNEL(embedding_backward_bf16, EmbeddingParams, Matches::THREADS, 3) { embedding_backward<bf16>(p); }

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
