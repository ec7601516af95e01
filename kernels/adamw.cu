// AdamW, eight elements a thread; the operations and their order are those of PyTorch and of src/ops/adamw.rs, and no
// two of them are fused into one rounding.
#include "kernel.cuh"
#include "tile/vector.cuh"

template <class Copy> __device__ __forceinline__ void adamw_step(const AdamwParams& p) {
    const StepStatus* status = reinterpret_cast<const StepStatus*>(p.status);
    if (status && status->stopped) return;
    const float clip = status ? status->factor : 1.0f;
    const AdamwFactors f = p.state ? reinterpret_cast<const StepState*>(p.state)->adamw : p.factors;
    my_eight(p.count, [&](auto kind, uint64_t i) {
        float *w = reinterpret_cast<float*>(p.w), *m = reinterpret_cast<float*>(p.m), *v = reinterpret_cast<float*>(p.v);
        const Eight g8 = load_eight(kind, reinterpret_cast<const float*>(p.g), i, p.count);
        Eight w8 = load_eight(kind, const_cast<const float*>(w), i, p.count);
        Eight m8 = load_eight(kind, const_cast<const float*>(m), i, p.count);
        Eight v8 = load_eight(kind, const_cast<const float*>(v), i, p.count);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const float g = __fmul_rn(g8.v[j], clip);
            const float m1 = __fadd_rn(m8.v[j], __fmul_rn(f.gradient, __fsub_rn(g, m8.v[j])));
            const float v1 = __fadd_rn(__fmul_rn(v8.v[j], f.beta2), __fmul_rn(__fmul_rn(f.square, g), g));
            const float denominator = __fadd_rn(__fdiv_rn(__fsqrt_rn(v1), f.root_correction), f.eps);
            const float change = __fdiv_rn(__fmul_rn(f.step_size, m1), denominator);
            w8.v[j] = __fsub_rn(__fmul_rn(w8.v[j], f.decay), change);
            m8.v[j] = m1;
            v8.v[j] = v1;
        }
        store_eight(kind, w, i, p.count, w8);
        store_eight(kind, m, i, p.count, m8);
        store_eight(kind, v, i, p.count, v8);
        if (p.copy) store_eight(kind, reinterpret_cast<Copy*>(p.copy), i, p.count, w8);
    });
}

KERNEL(adamw_f32, AdamwParams, 256) { adamw_step<float>(p); }
KERNEL(adamw_bf16, AdamwParams, 256) { adamw_step<bf16>(p); }
