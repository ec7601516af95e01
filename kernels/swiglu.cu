// y = silu(gate) * up and its gradients, eight elements a thread.
#include "kernel.cuh"
#include "tile/vector.cuh"

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <class T> __device__ __forceinline__ void swiglu_forward(const SwigluParams& p) {
    const uint64_t i = my_eight();
    const Eight gate = load_eight(reinterpret_cast<const T*>(p.gate), i, p.count);
    const Eight up = load_eight(reinterpret_cast<const T*>(p.up), i, p.count);
    Eight y;
#pragma unroll
    for (int j = 0; j < 8; j++) y.v[j] = gate.v[j] * sigmoid(gate.v[j]) * up.v[j];
    store_eight(reinterpret_cast<T*>(p.y), i, p.count, y);
}

KERNEL(swiglu_forward_f32, SwigluParams, 256) { swiglu_forward<float>(p); }
KERNEL(swiglu_forward_bf16, SwigluParams, 256) { swiglu_forward<bf16>(p); }

template <class T> __device__ __forceinline__ void swiglu_backward(const SwigluParams& p) {
    const uint64_t i = my_eight();
    const Eight dy = load_eight(reinterpret_cast<const T*>(p.dy), i, p.count);
    const Eight gate = load_eight(reinterpret_cast<const T*>(p.gate), i, p.count);
    const Eight up = load_eight(reinterpret_cast<const T*>(p.up), i, p.count);
    Eight dgate, dup;
#pragma unroll
    for (int j = 0; j < 8; j++) {
        const float s = sigmoid(gate.v[j]);
        dgate.v[j] = dy.v[j] * up.v[j] * s * (1.0f + gate.v[j] * (1.0f - s));
        dup.v[j] = dy.v[j] * gate.v[j] * s;
    }
    store_eight(reinterpret_cast<T*>(p.dgate), i, p.count, dgate);
    store_eight(reinterpret_cast<T*>(p.dup), i, p.count, dup);
}

KERNEL(swiglu_backward_f32, SwigluParams, 256) { swiglu_backward<float>(p); }
KERNEL(swiglu_backward_bf16, SwigluParams, 256) { swiglu_backward<bf16>(p); }
