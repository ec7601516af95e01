// x += y, eight elements a thread.
#include "kernel.cuh"
#include "tile/vector.cuh"

template <class T> __device__ __forceinline__ void residual_add(const ResidualParams& p) {
    my_eight(p.count, [&](auto kind, uint64_t i) {
        T* at = reinterpret_cast<T*>(p.x);
        Eight x = load_eight(kind, const_cast<const T*>(at), i, p.count);
        const Eight y = load_eight(kind, reinterpret_cast<const T*>(p.y), i, p.count);
#pragma unroll
        for (int j = 0; j < 8; j++) x.v[j] += y.v[j];
        store_eight(kind, at, i, p.count, x);
    });
}

SMALL_KERNEL(residual_add_f32, ResidualParams, 256) { residual_add<float>(p); }
SMALL_KERNEL(residual_add_bf16, ResidualParams, 256) { residual_add<bf16>(p); }
