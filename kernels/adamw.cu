// AdamW, eight elements a thread; the operations and their order are those of PyTorch and of src/ops/adamw, and no two
// of them are fused into one rounding. Weights W, gradient G, moments S.
#include "kernel.cuh"
#include "tile/adamw.cuh"

template <class W, class G, class S> __device__ __forceinline__ void adamw_elements(const AdamwParams& p) {
    const AdamwStep step = adamw_step(p);
    if (step.stopped) return;
    const AdamwFactors& f = step.factors;
    float squares = 0.0f;
    my_eight(p.count, [&](auto kind, uint64_t i) {
        W* w = reinterpret_cast<W*>(p.w);
        S *m = reinterpret_cast<S*>(p.m), *v = reinterpret_cast<S*>(p.v);
        const Eight g8 = load_eight(kind, reinterpret_cast<const G*>(p.g), i, p.count);
        Eight w8 = load_eight(kind, const_cast<const W*>(w), i, p.count);
        Eight m8 = load_eight(kind, const_cast<const S*>(m), i, p.count);
        Eight v8 = load_eight(kind, const_cast<const S*>(v), i, p.count);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            squares += g8.v[j] * g8.v[j];
            const float g = __fmul_rn(usable(g8.v[j]), step.clip);
            const float m1 = __fadd_rn(m8.v[j], __fmul_rn(f.gradient, __fsub_rn(g, m8.v[j])));
            const float v1 = __fadd_rn(__fmul_rn(v8.v[j], f.beta2), __fmul_rn(__fmul_rn(f.square, g), g));
            const float denominator = __fadd_rn(__fdiv_rn(__fsqrt_rn(v1), f.root_correction), f.eps);
            const float change = __fdiv_rn(__fmul_rn(f.step_size, m1), denominator);
            w8.v[j] = __fsub_rn(__fmul_rn(w8.v[j], f.decay), change);
            m8.v[j] = m1;
            v8.v[j] = v1;
        }
        store_rounded(kind, w, p, step.number, WEIGHT, i, w8);
        store_rounded(kind, m, p, step.number, FIRST, i, m8);
        store_rounded(kind, v, p, step.number, SECOND, i, v8);
        store_copy(kind, p, i, w8);
    });
    add_squares(p, squares);
}

// adamw_<weights>_<gradient>_<moments>
SMALL_KERNEL(adamw_f32_f32_f32, AdamwParams, 256) { adamw_elements<float, float, float>(p); }
KERNEL(adamw_f32_bf16_f32, AdamwParams, 256) { adamw_elements<float, bf16, float>(p); }
KERNEL(adamw_bf16_f32_f32, AdamwParams, 256) { adamw_elements<bf16, float, float>(p); }
KERNEL(adamw_bf16_bf16_f32, AdamwParams, 256) { adamw_elements<bf16, bf16, float>(p); }
KERNEL(adamw_f32_f32_bf16, AdamwParams, 256) { adamw_elements<float, float, bf16>(p); }
KERNEL(adamw_f32_bf16_bf16, AdamwParams, 256) { adamw_elements<float, bf16, bf16>(p); }
KERNEL(adamw_bf16_f32_bf16, AdamwParams, 256) { adamw_elements<bf16, float, bf16>(p); }
KERNEL(adamw_bf16_bf16_bf16, AdamwParams, 256) { adamw_elements<bf16, bf16, bf16>(p); }
