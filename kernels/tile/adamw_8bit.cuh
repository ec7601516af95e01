// AdamW whose moments are bytes beside an exponent for each block of 128 neighbours. The first moment is E4M3 to nearest. The
// second is a float without a sign, five bits of exponent and three of mantissa, rounded at random: one step moves it by a
// thousandth, which rounding to nearest would lose. Its least number is not 0, by which a step would divide.
//
// The exponent is that of the block's largest magnitude, so that scaling is exact. 8 or 10 bytes a weight cross memory; at 3
// TB/s that leaves an SM about 80 instructions for each.
//
// Eight lanes have a block, as fragments of mma.sync lie: lane % 4 is theirs, and each has eight neighbours of either half of
// the block, so that lanes side by side read and write what lies side by side.
#pragma once
#include "kernel.cuh"
#include "ptx/fp8.cuh"
#include "ptx/math.cuh"
#include "tile/adamw.cuh"

constexpr int LANE = 16, HALF = KIUNGO_ADAMW_BLOCK / 2;  // elements
static_assert(KIUNGO_ADAMW_BLOCK == 8 * LANE, "a block is what eight lanes have");

// A power of two by the bits of its exponent.
__device__ __forceinline__ float power(uint32_t exponent) { return __uint_as_float(exponent << 23); }

// What a step multiplies with.
struct BlockFactors {
    float keep, gradient;      // of the first moment: beta1, and 1 - beta1 with the clip
    float beta2, root_square;  // of the second: the gradient times this, squared, is what is added
    float decay, per_root, floor;

    __device__ __forceinline__ explicit BlockFactors(const AdamwStep& step) {
        const AdamwFactors& f = step.factors;
        keep = __fsub_rn(1.0f, f.gradient);
        gradient = __fmul_rn(f.gradient, step.clip);
        beta2 = f.beta2;
        root_square = __fmul_rn(__fsqrt_rn(f.square), step.clip);
        decay = f.decay;
        // step_size m / (sqrt(v) / root_correction + eps) as m / (sqrt(v) per_root + floor); no step: m / infinity.
        per_root = f.step_size > 0.0f ? 1.0f / (f.root_correction * f.step_size) : 0.0f;
        floor = f.step_size > 0.0f ? fmaxf(f.eps, 0x1p-100f) / f.step_size : INFINITY;
    }
};

// Random bits of a lane: four words, of which an element takes the byte of its number and those below it, cyclically: 16 bits
// for its weight, and 24 of another word for its second moment.
struct RandomBits {
    uint32_t words[4];

    __device__ __forceinline__ RandomBits(const AdamwParams& p, uint32_t step, uint64_t i) {
        const uint64_t lane = i / KIUNGO_ADAMW_BLOCK * 8 + i % HALF / 8;
        const uint32_t high = (uint32_t)(lane >> 32) | (uint32_t)WEIGHT << 30;
        const uint4 four = philox<7>(make_uint4((uint32_t)lane, high, p.stream, step), make_uint2(p.seed_low, p.seed_high));
        words[0] = four.x, words[1] = four.y, words[2] = four.z, words[3] = four.w;
    }
    __device__ __forceinline__ uint32_t sixteen(int j) const {
        const uint32_t word = words[j / 4];
        return j % 4 == 3 ? word >> 16 : __byte_perm(word, 0, 0x4400 | j % 4 << 4 | (j + 3) % 4);
    }
    // Below the highest byte of `top`.
    __device__ __forceinline__ uint32_t twenty_four(int j, uint32_t top) const {
        return __byte_perm(words[j / 4 ^ 2], top, 0x7000 | j % 4 << 8 | (j + 3) % 4 << 4 | (j + 2) % 4);
    }
};

// What a lane reads of a block, as it lies in memory: elements i..i + 8, then those HALF further. The gradient comes from
// elsewhere.
template <class W> struct Lane {
    Packed<W> w[2];
    uint2 m[2], v[2];
    uint32_t m_exponent, v_exponent;

    template <class Kind> __device__ __forceinline__ void load(const AdamwParams& p, uint64_t i, Kind kind) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint64_t at = i + half * HALF;
            w[half] = load_weights(kind, reinterpret_cast<const W*>(p.w), at, p.count);
            m[half] = load_bytes(kind, reinterpret_cast<const uint8_t*>(p.m), at, p.count);
            v[half] = load_bytes(kind, reinterpret_cast<const uint8_t*>(p.v), at, p.count);
        }
        const uint64_t block = (p.count <= i ? p.count - 1 : i) / KIUNGO_ADAMW_BLOCK;
        m_exponent = reinterpret_cast<const uint8_t*>(p.m_exponents)[block];
        v_exponent = reinterpret_cast<const uint8_t*>(p.v_exponents)[block];
    }

  private:
    static __device__ __forceinline__ Packed<W> load_weights(Whole, const W* x, uint64_t i, uint64_t) {
        return load_packed(x + i);
    }
    static __device__ __forceinline__ Packed<W> load_weights(Ragged kind, const W* x, uint64_t i, uint64_t count) {
        return load_packed(kind, x, i, count);
    }
    static __device__ __forceinline__ uint2 load_bytes(Whole, const uint8_t* x, uint64_t i, uint64_t) {
        return *reinterpret_cast<const uint2*>(x + i);
    }
    static __device__ __forceinline__ uint2 load_bytes(Ragged, const uint8_t* x, uint64_t i, uint64_t count) {
        uint32_t words[2] = {};
#pragma unroll
        for (int j = 0; j < 8; j++) words[j / 4] |= (i + j < count ? x[i + j] : 0u) << j % 4 * 8;
        return make_uint2(words[0], words[1]);
    }
};

__device__ __forceinline__ void store_bytes(Whole, uint8_t* y, uint64_t i, uint64_t, uint32_t low, uint32_t high) {
    store_8_global(y + i, make_uint2(low, high));
}
__device__ __forceinline__ void store_bytes(Ragged, uint8_t* y, uint64_t i, uint64_t count, uint32_t low, uint32_t high) {
#pragma unroll
    for (int j = 0; j < 8; j++) {
        if (i + j < count) y[i + j] = (uint8_t)((j < 4 ? low : high) >> j % 4 * 8);
    }
}

// The highest bytes of four words.
__device__ __forceinline__ uint32_t top_bytes(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    return __byte_perm(__byte_perm(a, b, 0x73), __byte_perm(c, d, 0x73), 0x5410);
}

__device__ __forceinline__ float block_of_lanes_max(float x) {
#pragma unroll
    for (int offset = 4; offset < 32; offset *= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
    return x;
}

// Stores a lane's weights: as they are, or rounded at random; `old` are those before.
template <class Kind>
__device__ __forceinline__ void store_weights(Kind kind, const AdamwParams& p, uint64_t i, const Eight (&w)[2],
                                              const Packed<float>*, const RandomBits&) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        store_all(kind, reinterpret_cast<float*>(p.w), i + half * HALF, p.count, packed<float>(w[half]));
        store_copy(kind, p, i + half * HALF, w[half]);
    }
}
template <class Kind>
__device__ __forceinline__ void store_weights(Kind kind, const AdamwParams& p, uint64_t i, const Eight (&w)[2],
                                              const Packed<bf16>* old, const RandomBits& random) {
    uint32_t any = 0;  // times 0 and added up: NaN if one is not finite, as it then was before
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint4 words = old[half].words[0];
        any = multiply_add_pairs(words.x, 0, any), any = multiply_add_pairs(words.y, 0, any);
        any = multiply_add_pairs(words.z, 0, any), any = multiply_add_pairs(words.w, 0, any);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        // Away from zero with the probability of what is cut off: the upper halves of these.
        uint32_t sums[8], pairs[4];
#pragma unroll
        for (int j = 0; j < 8; j++) sums[j] = __float_as_uint(w[half].v[j]) + random.sixteen(half * 8 + j);
        if (any) {
#pragma unroll
            for (int j = 0; j < 8; j++) sums[j] = w[half].v[j] == w[half].v[j] ? sums[j] : 0x7fffffffu;
        }
#pragma unroll
        for (int j = 0; j < 4; j++) pairs[j] = __byte_perm(sums[2 * j], sums[2 * j + 1], 0x7632);
        const Packed<bf16> packed{{make_uint4(pairs[0], pairs[1], pairs[2], pairs[3])}};
        store_all(kind, reinterpret_cast<bf16*>(p.w), i + half * HALF, p.count, packed);
    }
}

// A lane's step. `g` is its gradient, `squares` where the sum of its squares goes. The warp has met since it read `now`, whose
// exponents four lanes write.
template <class W, class Kind>
__device__ __forceinline__ void update(const AdamwParams& p, const AdamwStep& step, const BlockFactors& f, float& squares,
                                       uint64_t i, const Lane<W>& now, float (&g)[LANE], Kind kind) {
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < LANE; j++) sum += g[j] * g[j];
    squares += sum;
    if (!(sum < INFINITY)) {  // one whose square is not finite reaches no weight
#pragma unroll
        for (int j = 0; j < LANE; j++) g[j] = fabsf(g[j]) < 0x1p64f ? g[j] : 0.0f;
    }
    const uint32_t m_words[4] = {now.m[0].x, now.m[0].y, now.m[1].x, now.m[1].y};
    const uint32_t v_words[4] = {now.v[0].x, now.v[0].y, now.v[1].x, now.v[1].y};
    const float m_scale = __fmul_rn(power(now.m_exponent + 1), f.keep);
    const uint32_t v_first = (now.v_exponent + 1) << 23;  // the bits of code 0
    Eight w[2] = {unpack(now.w[0]), unpack(now.w[1])};
    float m[LANE], v[LANE], m_most = 0.0f, v_most = 0.0f;
#pragma unroll
    for (int j = 0; j < LANE; j++) {
        if (j % 4 == 0) {
            float four[4];
            e4m3_decode(four, m_words[j / 4]);
#pragma unroll
            for (int k = 0; k < 4; k++) m[j + k] = four[k];
        }
        m[j] = __fmaf_rn(m[j], m_scale, __fmul_rn(g[j], f.gradient));
        const float v_old = __uint_as_float((__byte_perm(v_words[j / 4], 0, 0x4440 | j % 4) << 20) + v_first);
        const float root_square = __fmul_rn(g[j], f.root_square);
        v[j] = __fmaf_rn(root_square, root_square, __fmul_rn(v_old, f.beta2));
        m_most = fmaxf(m_most, fabsf(m[j]));
        v_most = fmaxf(v_most, v[j]);
        float& weight = w[j / 8].v[j % 8];
        weight = weight * f.decay - m[j] * reciprocal_approx(sqrt_approx(v[j]) * f.per_root + f.floor);
    }
    const RandomBits random(p, step.number, i);
    store_weights(kind, p, i, w, now.w, random);

    // The largest first moment goes to 224 to 448; the largest second moment is below the end even if rounded up.
    m_most = block_of_lanes_max(m_most), v_most = block_of_lanes_max(v_most);
    const uint32_t m_exponent = max((__float_as_uint(m_most) + (1u << 21)) >> 23, 9u) - 9;
    const uint32_t v_exponent = max((__float_as_uint(v_most) + 0xfffffu) >> 23, 32u) - 32;
    const float m_unscale = power(253 - m_exponent), v_least = power(v_exponent + 1);
    const uint32_t v_offset = (0u - (v_exponent + 1)) << 27;  // takes the first code's bits away, times 16
    uint32_t m_codes[4], v_codes[4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const float* four = m + k * 4;
        m_codes[k] = e4m3_encode(four[0] * m_unscale, four[1] * m_unscale, four[2] * m_unscale, four[3] * m_unscale);
        uint32_t codes[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            codes[j] = __float_as_uint(fmaxf(v[k * 4 + j], v_least)) * 16 + random.twenty_four(k * 4 + j, v_offset);
        }
        v_codes[k] = top_bytes(codes[0], codes[1], codes[2], codes[3]);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint64_t at = i + half * HALF;
        store_bytes(kind, reinterpret_cast<uint8_t*>(p.m), at, p.count, m_codes[half * 2], m_codes[half * 2 + 1]);
        store_bytes(kind, reinterpret_cast<uint8_t*>(p.v), at, p.count, v_codes[half * 2], v_codes[half * 2 + 1]);
    }
    if (threadIdx.x % 32 < 4 && i < p.count) {
        reinterpret_cast<uint8_t*>(p.m_exponents)[i / KIUNGO_ADAMW_BLOCK] = (uint8_t)m_exponent;
        reinterpret_cast<uint8_t*>(p.v_exponents)[i / KIUNGO_ADAMW_BLOCK] = (uint8_t)v_exponent;
    }
}
