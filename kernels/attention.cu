// Causal attention over packed sequences, one warp a query (or key) of one head: its lanes share the features of the
// head, LANES of them each, and walk over the keys (or queries) in their order. Nothing but the result is stored, every
// sum has a fixed order. For f32, and for heads that attention_sm80.cu has no tiles for.
#include "kernel.cuh"
#include "tile/reduce.cuh"

// This lane's features of one head of one token: lane, lane + 32, ...
template <int LANES> struct Features {
    float v[LANES];

    template <class T> static __device__ __forceinline__ Features load(const T* head, uint32_t dim) {
        Features f;
#pragma unroll
        for (int i = 0; i < LANES; i++) {
            const uint32_t at = threadIdx.x % 32 + i * 32;
            const float value = to_float(head[min(at, dim - 1)]);  // no branch, lest the shuffles that follow diverge
            f.v[i] = at < dim ? value : 0.0f;
        }
        return f;
    }
    template <class T> __device__ __forceinline__ void store(T* head, uint32_t dim, float factor) const {
#pragma unroll
        for (int i = 0; i < LANES; i++) {
            const uint32_t at = threadIdx.x % 32 + i * 32;
            if (at < dim) head[at] = from_float<T>(v[i] * factor);
        }
    }
    __device__ __forceinline__ float dot(const Features& other) const {
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < LANES; i++) sum = fmaf(v[i], other.v[i], sum);
        return warp_sum(sum);
    }
    __device__ __forceinline__ void add(float factor, const Features& other) {
#pragma unroll
        for (int i = 0; i < LANES; i++) v[i] = fmaf(factor, other.v[i], v[i]);
    }
    __device__ __forceinline__ void scale(float factor) {
#pragma unroll
        for (int i = 0; i < LANES; i++) v[i] *= factor;
    }
};

// The token and the head of this warp, of `heads` a token; whole warps lie beyond the last token.
struct Place {
    uint32_t token, head, heads;
    bool inside;

    __device__ __forceinline__ Place(const AttentionParams& p, uint32_t heads) : heads(heads) {
        const uint64_t warp = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) / 32;
        token = (uint32_t)(warp / heads);
        head = (uint32_t)(warp % heads);
        inside = token < p.tokens;
    }
};

// Features of a head of a token in a tensor of `heads` heads.
template <class T>
__device__ __forceinline__ T* at(uint64_t tensor, uint32_t token, uint32_t heads, uint32_t head, uint32_t dim) {
    return reinterpret_cast<T*>(tensor) + ((size_t)token * heads + head) * dim;
}

__device__ __forceinline__ uint32_t position(const AttentionParams& p, uint32_t token) {
    return reinterpret_cast<const uint32_t*>(p.positions)[token];
}

// o = softmax(scale * q k^T) v with a running maximum (Milakov and Gimelshein 2018, arXiv 1805.02867).
template <class T, int LANES> __device__ __forceinline__ void attention_forward(const AttentionParams& p) {
    using F = Features<LANES>;
    const Place place(p, p.query_heads);
    if (!place.inside) return;
    const uint32_t kv = place.head / (p.query_heads / p.key_value_heads);
    const F q = F::load(at<const T>(p.q, place.token, p.query_heads, place.head, p.dim), p.dim);
    F o = {};
    float largest = -INFINITY, sum = 0.0f;
    for (uint32_t j = place.token - position(p, place.token); j <= place.token; j++) {
        const F k = F::load(at<const T>(p.k, j, p.key_value_heads, kv, p.dim), p.dim);
        const F v = F::load(at<const T>(p.v, j, p.key_value_heads, kv, p.dim), p.dim);
        const float score = p.scale * q.dot(k);
        const float before = largest;
        largest = fmaxf(largest, score);
        const float shrink = expf(before - largest), weight = expf(score - largest);
        sum = sum * shrink + weight;
        o.scale(shrink);
        o.add(weight, v);
    }
    o.store(at<T>(p.o, place.token, p.query_heads, place.head, p.dim), p.dim, 1.0f / sum);
    float* lse = reinterpret_cast<float*>(p.lse) + (size_t)place.token * p.query_heads + place.head;
    if (threadIdx.x % 32 == 0) *lse = largest + logf(sum);
}

// dq = scale * ds k, with ds = p * (d_o v^T - delta); leaves delta = d_o . o for the keys' kernel.
template <class T, int LANES> __device__ __forceinline__ void attention_dq(const AttentionParams& p) {
    using F = Features<LANES>;
    const Place place(p, p.query_heads);
    if (!place.inside) return;
    const uint32_t kv = place.head / (p.query_heads / p.key_value_heads);
    const size_t row = (size_t)place.token * p.query_heads + place.head;
    const F q = F::load(at<const T>(p.q, place.token, p.query_heads, place.head, p.dim), p.dim);
    const F d_o = F::load(at<const T>(p.d_o, place.token, p.query_heads, place.head, p.dim), p.dim);
    const F o = F::load(at<const T>(p.o, place.token, p.query_heads, place.head, p.dim), p.dim);
    const float lse = reinterpret_cast<const float*>(p.lse)[row], delta = d_o.dot(o);
    if (threadIdx.x % 32 == 0) reinterpret_cast<float*>(p.delta)[row] = delta;
    F dq = {};
    for (uint32_t j = place.token - position(p, place.token); j <= place.token; j++) {
        const F k = F::load(at<const T>(p.k, j, p.key_value_heads, kv, p.dim), p.dim);
        const F v = F::load(at<const T>(p.v, j, p.key_value_heads, kv, p.dim), p.dim);
        const float weight = expf(p.scale * q.dot(k) - lse);
        dq.add(weight * (d_o.dot(v) - delta), k);
    }
    dq.store(at<T>(p.dq, place.token, p.query_heads, place.head, p.dim), p.dim, p.scale);
}

// dk = scale * ds^T q and dv = p^T d_o, over the query heads that read this key head and the queries that see the key.
template <class T, int LANES> __device__ __forceinline__ void attention_dkv(const AttentionParams& p) {
    using F = Features<LANES>;
    const Place place(p, p.key_value_heads);
    if (!place.inside) return;
    const uint32_t group = p.query_heads / p.key_value_heads;
    const F k = F::load(at<const T>(p.k, place.token, p.key_value_heads, place.head, p.dim), p.dim);
    const F v = F::load(at<const T>(p.v, place.token, p.key_value_heads, place.head, p.dim), p.dim);
    F dk = {}, dv = {};
    // The next sequence begins at the next position 0.
    for (uint32_t i = place.token; i < p.tokens && (i == place.token || position(p, i) > 0); i++) {
        for (uint32_t h = place.head * group; h < (place.head + 1) * group; h++) {
            const size_t row = (size_t)i * p.query_heads + h;
            const F q = F::load(at<const T>(p.q, i, p.query_heads, h, p.dim), p.dim);
            const F d_o = F::load(at<const T>(p.d_o, i, p.query_heads, h, p.dim), p.dim);
            const float lse = reinterpret_cast<const float*>(p.lse)[row];
            const float delta = reinterpret_cast<const float*>(p.delta)[row];
            const float weight = expf(p.scale * q.dot(k) - lse);
            dv.add(weight, d_o);
            dk.add(weight * (d_o.dot(v) - delta), q);
        }
    }
    dk.store(at<T>(p.dk, place.token, p.key_value_heads, place.head, p.dim), p.dim, p.scale);
    dv.store(at<T>(p.dv, place.token, p.key_value_heads, place.head, p.dim), p.dim, 1.0f);
}

// Heads of up to 32, 64, 128 and 256 features.
#define ATTENTION_KERNELS(lanes, dim)                                                                               \
    KERNEL(attention_forward_f32_##dim, AttentionParams, 128) { attention_forward<float, lanes>(p); }               \
    KERNEL(attention_forward_bf16_##dim, AttentionParams, 128) { attention_forward<bf16, lanes>(p); }               \
    KERNEL(attention_dq_f32_##dim, AttentionParams, 128) { attention_dq<float, lanes>(p); }                         \
    KERNEL(attention_dq_bf16_##dim, AttentionParams, 128) { attention_dq<bf16, lanes>(p); }                         \
    KERNEL(attention_dkv_f32_##dim, AttentionParams, 128) { attention_dkv<float, lanes>(p); }                       \
    KERNEL(attention_dkv_bf16_##dim, AttentionParams, 128) { attention_dkv<bf16, lanes>(p); }
ATTENTION_KERNELS(1, 32)
ATTENTION_KERNELS(2, 64)
ATTENTION_KERNELS(4, 128)
ATTENTION_KERNELS(8, 256)
