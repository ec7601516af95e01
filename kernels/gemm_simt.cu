// c = a b (+ c) for f32 operands, and for bf16 ones whose rows are no multiples of 16 bytes. c[i, j] sums
// a[i, k] b[j, k] over k; strides, in elements, make it any layout.
#include "kernel.cuh"
#include "tile/simt.cuh"

template <class A, class B, class C> __device__ __forceinline__ void gemm_simt(const GemmSimtParams& p) {
    const A* a = reinterpret_cast<const A*>(p.a);
    const B* b = reinterpret_cast<const B*>(p.b);
    C* c = reinterpret_cast<C*>(p.c);
    Simt<64, 64, 16, 1>::run(
        blockIdx.y * 64, blockIdx.x * 64, p.k, p.a_stride_k == 1, p.b_stride_k == 1,
        [=](uint32_t i, uint32_t k) {
            return i < p.m && k < p.k ? to_float(a[(size_t)i * p.a_stride_row + (size_t)k * p.a_stride_k]) : 0.0f;
        },
        [=](uint32_t j, uint32_t k) {
            return j < p.n && k < p.k ? to_float(b[(size_t)j * p.b_stride_row + (size_t)k * p.b_stride_k]) : 0.0f;
        },
        [=](uint32_t i, uint32_t j, float sum) {
            if (i >= p.m || j >= p.n) return;
            C* at = c + (size_t)i * p.n + j;
            *at = from_float<C>(p.accumulate ? to_float(*at) + sum : sum);
        });
}

KERNEL(gemm_simt_f32_f32_f32, GemmSimtParams, 256) { gemm_simt<float, float, float>(p); }
KERNEL(gemm_simt_f32_f32_bf16, GemmSimtParams, 256) { gemm_simt<float, float, bf16>(p); }
KERNEL(gemm_simt_f32_bf16_f32, GemmSimtParams, 256) { gemm_simt<float, bf16, float>(p); }
KERNEL(gemm_simt_f32_bf16_bf16, GemmSimtParams, 256) { gemm_simt<float, bf16, bf16>(p); }
KERNEL(gemm_simt_bf16_f32_f32, GemmSimtParams, 256) { gemm_simt<bf16, float, float>(p); }
KERNEL(gemm_simt_bf16_f32_bf16, GemmSimtParams, 256) { gemm_simt<bf16, float, bf16>(p); }
KERNEL(gemm_simt_bf16_bf16_f32, GemmSimtParams, 256) { gemm_simt<bf16, bf16, float>(p); }
KERNEL(gemm_simt_bf16_bf16_bf16, GemmSimtParams, 256) { gemm_simt<bf16, bf16, bf16>(p); }
