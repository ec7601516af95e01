// AdamW whose moments are bytes: 256 neighbours, a warp's eights, share an absmax, and a byte names a value of a map of
// 256 in -1..1 (first moment) or 0..1 (second). 10 bytes a weight cross memory; at 3 TB/s that leaves an SM about 100
// instructions for each. So reading the map and finding the nearest value in it are one look-up each:
//
// - a map stands 32 times in shared memory, once a bank, so that lanes with different bytes do not wait for each other;
// - the upper 16 bits of a float name an interval in which at most one midpoint of two neighbouring values lies. The
//   interval's entry holds the byte of its least number in bits 16 to 23, and below them what, added to the lower 16 bits
//   of a number from that midpoint on, carries into the byte.
//
// 89 KB of shared memory, two blocks a multiprocessor, at most 64 registers.
#include "kernel.cuh"
#include "ptx/math.cuh"
#include "tile/adamw.cuh"

struct Tables {
    float first[256][32], second[256][32];
    uint32_t encode_first[KIUNGO_ADAMW_KEYS], encode_second[KIUNGO_ADAMW_KEYS];
};

__device__ __forceinline__ void fill(Tables& tables, const AdamwParams& p) {
    const float* maps = reinterpret_cast<const float*>(p.tables);
    const uint32_t* entries = reinterpret_cast<const uint32_t*>(p.tables) + 2 * 256;
    for (uint32_t i = threadIdx.x; i < 256 * 32; i += blockDim.x) {
        tables.first[i / 32][i % 32] = maps[i / 32];
        tables.second[i / 32][i % 32] = maps[256 + i / 32];
    }
    for (uint32_t i = threadIdx.x; i < KIUNGO_ADAMW_KEYS; i += blockDim.x) {
        tables.encode_first[i] = entries[i];
        tables.encode_second[i] = entries[KIUNGO_ADAMW_KEYS + i];
    }
    __syncthreads();
}

// The code of a magnitude, which is at most 1 and a rounding, in bits 16 to 23; 2^-23 is below all midpoints that count.
__device__ __forceinline__ uint32_t encode(const uint32_t* entries, float magnitude) {
    const uint32_t bits = __float_as_uint(fmaxf(magnitude, 0x1p-23f));
    return entries[(bits >> 16) - KIUNGO_ADAMW_FIRST_KEY] + (bits & 0xffffu);
}

// A negative number has the code of its magnitude mirrored at 0, whose code is 127: 127 - r is the complement of 128 + r. The
// least is -0.993, as -1 is not in the map.
__device__ __forceinline__ uint32_t encode_signed(const uint32_t* entries, float x) {
    const float clamped = fmaxf(x, -0.99f);
    const uint32_t negative = (uint32_t)((int32_t)__float_as_uint(clamped) >> 31);
    return (encode(entries, fabsf(clamped)) + (negative & 0x10000u)) ^ negative;
}

// Bits 16 to 23 of each.
__device__ __forceinline__ uint2 third_bytes(const uint32_t (&x)[8]) {
    const auto four = [&](int j) {
        return __byte_perm(__byte_perm(x[j], x[j + 1], 0x62), __byte_perm(x[j + 2], x[j + 3], 0x62), 0x5410);
    };
    return make_uint2(four(0), four(4));
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

// The thread's sum of squares of the gradient is kept in shared memory, for registers are short.
template <class W, class G, class Kind>
__device__ __forceinline__ void update(const AdamwParams& p, const AdamwStep& step, const Tables& tables, float* squares, uint64_t block, Kind kind) {
    const AdamwFactors& f = step.factors;
    const uint32_t lane = threadIdx.x % 32;
    const uint64_t i = block * KIUNGO_ADAMW_BLOCK + lane * 8;
    W* w = reinterpret_cast<W*>(p.w);
    uint8_t *m = reinterpret_cast<uint8_t*>(p.m), *v = reinterpret_cast<uint8_t*>(p.v);
    float *m_absmax = reinterpret_cast<float*>(p.m_absmax) + block, *v_absmax = reinterpret_cast<float*>(p.v_absmax) + block;
    const uint2 m_codes = load_bytes(kind, m, i, p.count, 127), v_codes = load_bytes(kind, v, i, p.count, 0);
    const Eight g8 = load_eight(kind, reinterpret_cast<const G*>(p.g), i, p.count);
    Eight w8 = load_eight(kind, const_cast<const W*>(w), i, p.count), m8, v8;
    const float m_scale = *m_absmax, v_scale = *v_absmax;
    // (m / correction1 * lr) / (sqrt(v) / root_correction + eps), multiplied out.
    const float step_size = __fmul_rn(f.step_size, f.root_correction), eps = __fmul_rn(f.eps, f.root_correction);
    if (p.squares) {
        float sum = 0.0f;
#pragma unroll
        for (int j = 0; j < 8; j++) sum += g8.v[j] * g8.v[j];
        squares[threadIdx.x] += sum;
    }
    float m_most = 0.0f, v_most = 0.0f;
#pragma unroll
    for (int j = 0; j < 8; j++) {
        const float g = __fmul_rn(usable(g8.v[j]), step.clip);
        const float m0 = __fmul_rn(tables.first[byte(m_codes, j)][lane], m_scale);
        const float v0 = __fmul_rn(tables.second[byte(v_codes, j)][lane], v_scale);
        m8.v[j] = __fadd_rn(m0, __fmul_rn(f.gradient, __fsub_rn(g, m0)));
        v8.v[j] = __fadd_rn(__fmul_rn(v0, f.beta2), __fmul_rn(__fmul_rn(f.square, g), g));
        m_most = fmaxf(m_most, fabsf(m8.v[j]));
        v_most = fmaxf(v_most, v8.v[j]);
        const float change = divide_approx(step_size * m8.v[j], sqrt_approx(v8.v[j]) + eps);
        w8.v[j] = w8.v[j] * f.decay - change;
    }
    store_rounded(kind, w, p, step.number, WEIGHT, i, w8);
    store_copy(kind, p, i, w8);

    m_most = warp_max(m_most);
    v_most = warp_max(v_most);
    __syncwarp();  // all have read what lane 0 writes
    if (lane == 0) {
        *m_absmax = m_most;
        *v_absmax = v_most;
    }
    const float m_inverse = inverse(m_most), v_inverse = inverse(v_most);
    uint32_t codes[8];
#pragma unroll
    for (int j = 0; j < 8; j++) codes[j] = encode_signed(tables.encode_first, __fmul_rn(m8.v[j], m_inverse));
    store_bytes(kind, m, i, p.count, third_bytes(codes));
#pragma unroll
    for (int j = 0; j < 8; j++) codes[j] = encode(tables.encode_second, __fmul_rn(v8.v[j], v_inverse));
    store_bytes(kind, v, i, p.count, third_bytes(codes));
}

template <class W, class G> __device__ __forceinline__ void adamw_8bit(const AdamwParams& p) {
    DYNAMIC_SHARED(Tables, tables);
    const AdamwStep step = adamw_step(p);
    if (step.stopped) return;
    fill(*tables, p);
    const uint64_t warps = gridDim.x * blockDim.x / 32;
    __shared__ float squares[512];
    squares[threadIdx.x] = 0.0f;
    for (uint64_t block = (blockIdx.x * blockDim.x + threadIdx.x) / 32; block * KIUNGO_ADAMW_BLOCK < p.count; block += warps) {
        if ((block + 1) * KIUNGO_ADAMW_BLOCK <= p.count) update<W, G>(p, step, *tables, squares, block, Whole());
        else update<W, G>(p, step, *tables, squares, block, Ragged());
    }
    add_squares(p, squares[threadIdx.x]);
}

// adamw_8bit_<weights>_<gradient>
KERNEL(adamw_8bit_f32_f32, AdamwParams, 512, 2) { adamw_8bit<float, float>(p); }
KERNEL(adamw_8bit_f32_bf16, AdamwParams, 512, 2) { adamw_8bit<float, bf16>(p); }
KERNEL(adamw_8bit_bf16_f32, AdamwParams, 512, 2) { adamw_8bit<bf16, float>(p); }
KERNEL(adamw_8bit_bf16_bf16, AdamwParams, 512, 2) { adamw_8bit<bf16, bf16>(p); }
