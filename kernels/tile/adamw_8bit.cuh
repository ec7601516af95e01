// AdamW whose moments are bytes: 256 neighbours, a warp's eights, share an absmax, and a byte names a value of a map of
// 256 in -1..1 (first moment) or 0..1 (second). 10 bytes a weight cross memory; at 3 TB/s that leaves an SM about 100
// instructions for each. So reading the map and finding the nearest value in it are one look-up each:
//
// - a map stands 32 times in shared memory, once a bank, so that lanes with different bytes do not wait for each other;
// - the upper 16 bits of a float name an interval in which at most one midpoint of two neighbouring values lies. The
//   interval's entry holds the byte of its least number in bits 16 to 23, and below them what, added to the lower 16 bits
//   of a number from that midpoint on, carries into the byte.
//
// 89 KB of shared memory.
#pragma once
#include "kernel.cuh"
#include "ptx/math.cuh"
#include "tile/adamw.cuh"

struct Tables {
    float maps[256][2][32];  // first and second, in lines of 256 bytes: an address is a byte and a lane side by side
    uint32_t encode_first[KIUNGO_ADAMW_KEYS], encode_second[KIUNGO_ADAMW_KEYS];
};

__device__ __forceinline__ void fill(Tables& tables, const AdamwParams& p) {
    const float* maps = reinterpret_cast<const float*>(p.tables);
    const uint32_t* entries = reinterpret_cast<const uint32_t*>(p.tables) + 2 * 256;
    for (uint32_t i = threadIdx.x; i < 256 * 32; i += blockDim.x) {
        tables.maps[i / 32][0][i % 32] = maps[i / 32];
        tables.maps[i / 32][1][i % 32] = maps[256 + i / 32];
    }
    for (uint32_t i = threadIdx.x; i < KIUNGO_ADAMW_KEYS; i += blockDim.x) {
        const uint32_t key = (KIUNGO_ADAMW_FIRST_KEY + i) << 16;  // so that a number is added as it is
        tables.encode_first[i] = entries[i] - key;
        tables.encode_second[i] = entries[KIUNGO_ADAMW_KEYS + i] - key;
    }
    __syncthreads();
}

// The value in map 0 or 1 of the j-th of eight codes.
template <int MAP> __device__ __forceinline__ float decode(const Tables& tables, uint32_t lane_bytes, uint2 codes, int j) {
    const uint32_t offset = __byte_perm(lane_bytes, j < 4 ? codes.x : codes.y, 0x1140 + j % 4 * 0x10);
    return *reinterpret_cast<const float*>(reinterpret_cast<const char*>(tables.maps) + MAP * 128 + offset);
}

// The code of a magnitude, which is at most 1 and a rounding, in bits 16 to 23; 2^-23 is below all midpoints that count.
__device__ __forceinline__ uint32_t encode(const uint32_t* entries, float magnitude) {
    const uint32_t bits = __float_as_uint(fmaxf(magnitude, 0x1p-23f));
    return entries[(bits >> 16) - KIUNGO_ADAMW_FIRST_KEY] + bits;
}

// Bits 16 to 23 of four numbers.
__device__ __forceinline__ uint32_t third_bytes(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    return __byte_perm(__byte_perm(a, b, 0x62), __byte_perm(c, d, 0x62), 0x5410);
}

__device__ __forceinline__ uint2 encode_second(const uint32_t* entries, const Eight& x, float inverse) {
    uint32_t code[8];
#pragma unroll
    for (int j = 0; j < 8; j++) code[j] = encode(entries, __fmul_rn(x.v[j], inverse));
    return make_uint2(third_bytes(code[0], code[1], code[2], code[3]), third_bytes(code[4], code[5], code[6], code[7]));
}

// A negative number has the code of its magnitude mirrored at 0, whose code is 127: 127 - r is the complement of 127 + r,
// less 1. The least is -0.993, as -1 is not in the map.
__device__ __forceinline__ uint2 encode_first(const uint32_t* entries, const Eight& x, float inverse) {
    uint32_t words[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        uint32_t code[4];
        const float* four = x.v + half * 4;
#pragma unroll
        for (int j = 0; j < 4; j++) code[j] = encode(entries, fabsf(fmaxf(__fmul_rn(four[j], inverse), -0.99f)));
        const uint32_t negative = sign_bytes(four[0], four[1], four[2], four[3]);
        words[half] = (third_bytes(code[0], code[1], code[2], code[3]) ^ negative) - (negative & 0x01010101u);
    }
    return make_uint2(words[0], words[1]);
}

// Of an absmax; 0 where the inverse might be infinite.
__device__ __forceinline__ float inverse(float absmax) { return absmax >= 0x1p-126f ? __fdiv_rn(1.0f, absmax) : 0.0f; }

__device__ __forceinline__ uint32_t byte(uint2 bytes, int j) { return (j < 4 ? bytes.x : bytes.y) >> (j % 4 * 8) & 0xffu; }

__device__ __forceinline__ uint2 load_bytes(Whole, const uint8_t* x, uint64_t i, uint64_t, uint32_t) {
    return *reinterpret_cast<const uint2*>(x + i);
}
__device__ __forceinline__ uint2 load_bytes(Ragged, const uint8_t* x, uint64_t i, uint64_t count, uint32_t beyond) {
    uint32_t words[2] = {0, 0};
#pragma unroll
    for (int j = 0; j < 8; j++) words[j / 4] |= (i + j < count ? x[i + j] : beyond) << (j % 4 * 8);
    return make_uint2(words[0], words[1]);
}

__device__ __forceinline__ void store_bytes(Whole, uint8_t* y, uint64_t i, uint64_t, uint2 bytes) {
    *reinterpret_cast<uint2*>(y + i) = bytes;
}
__device__ __forceinline__ void store_bytes(Ragged, uint8_t* y, uint64_t i, uint64_t count, uint2 bytes) {
#pragma unroll
    for (int j = 0; j < 8; j++) {
        if (i + j < count) y[i + j] = (uint8_t)byte(bytes, j);
    }
}

// What a lane reads of a block, as it lies in memory; the gradient comes from elsewhere.
template <class W> struct Block {
    Packed<W> w;
    uint2 m, v;
    float m_scale, v_scale;

    template <class Kind> __device__ __forceinline__ void load(const AdamwParams& p, uint64_t block, Kind kind) {
        const uint64_t i = block * KIUNGO_ADAMW_BLOCK + threadIdx.x % 32 * 8;
        w = load_packed(kind, reinterpret_cast<const W*>(p.w), i, p.count);
        m = load_bytes(kind, reinterpret_cast<const uint8_t*>(p.m), i, p.count, 127);
        v = load_bytes(kind, reinterpret_cast<const uint8_t*>(p.v), i, p.count, 0);
        m_scale = reinterpret_cast<const float*>(p.m_absmax)[block];
        v_scale = reinterpret_cast<const float*>(p.v_absmax)[block];
    }
};

// The thread's sum of squares of the gradient is kept in shared memory, for registers are short.
template <class W, class Kind>
__device__ __forceinline__ void update(const AdamwParams& p, const AdamwStep& step, const Tables& tables, float* squares, uint64_t block,
                                       const Block<W>& now, Eight g8, Kind kind) {
    const AdamwFactors& f = step.factors;
    const uint32_t lane = threadIdx.x % 32;
    const uint64_t i = block * KIUNGO_ADAMW_BLOCK + lane * 8;
    Eight w8 = unpack(now.w), m8, v8;
    // (m / correction1 * lr) / (sqrt(v) / root_correction + eps), multiplied out.
    const float step_size = __fmul_rn(f.step_size, f.root_correction), eps = __fmul_rn(f.eps, f.root_correction);
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < 8; j++) sum += g8.v[j] * g8.v[j];
    if (p.squares) squares[threadIdx.x] += sum;
    if (!(sum < INFINITY)) {
#pragma unroll
        for (int j = 0; j < 8; j++) g8.v[j] = usable(g8.v[j]);
    }
    float m_most = 0.0f, v_most = 0.0f;
#pragma unroll
    for (int j = 0; j < 8; j++) {
        const float g = __fmul_rn(g8.v[j], step.clip);
        const float m0 = __fmul_rn(decode<0>(tables, lane * 4, now.m, j), now.m_scale);
        const float v0 = __fmul_rn(decode<1>(tables, lane * 4, now.v, j), now.v_scale);
        m8.v[j] = __fadd_rn(m0, __fmul_rn(f.gradient, __fsub_rn(g, m0)));
        v8.v[j] = __fadd_rn(__fmul_rn(v0, f.beta2), __fmul_rn(__fmul_rn(f.square, g), g));
        m_most = fmaxf(m_most, fabsf(m8.v[j]));
        v_most = fmaxf(v_most, v8.v[j]);
        const float change = divide_approx(step_size * m8.v[j], sqrt_approx(v8.v[j]) + eps);
        w8.v[j] = w8.v[j] * f.decay - change;
    }
    store_rounded(kind, reinterpret_cast<W*>(p.w), p, step.number, WEIGHT, i, w8);
    store_copy(kind, p, i, w8);

    m_most = warp_max_positive(m_most);
    v_most = warp_max_positive(v_most);
    __syncwarp();  // all have read what lane 0 writes
    if (lane == 0) {
        reinterpret_cast<float*>(p.m_absmax)[block] = m_most;
        reinterpret_cast<float*>(p.v_absmax)[block] = v_most;
    }
    store_bytes(kind, reinterpret_cast<uint8_t*>(p.m), i, p.count, encode_first(tables.encode_first, m8, inverse(m_most)));
    store_bytes(kind, reinterpret_cast<uint8_t*>(p.v), i, p.count, encode_second(tables.encode_second, v8, inverse(v_most)));
}
