// The squared norm of a gradient: a sum for each chunk, in f64 and in a fixed order. step.cu sums over the chunks.
#include "kernel.cuh"
#include "tile/reduce.cuh"
#include "tile/vector.cuh"

constexpr uint32_t THREADS = 256;

template <class T> __device__ __forceinline__ void clip_squares(const SquaresParams& p) {
    const T* gradient = reinterpret_cast<const T*>(p.gradient);
    const uint64_t begin = (uint64_t)blockIdx.x * KIUNGO_SQUARES_CHUNK;
    const uint64_t end = begin + KIUNGO_SQUARES_CHUNK < p.count ? begin + KIUNGO_SQUARES_CHUNK : p.count;
    double sum = 0.0;
    const auto add = [&](const Eight& g) {
#pragma unroll
        for (int j = 0; j < 8; j++) sum += (double)g.v[j] * g.v[j];
    };
    if (end - begin == KIUNGO_SQUARES_CHUNK) {
        constexpr int EACH = KIUNGO_SQUARES_CHUNK / (THREADS * 8);  // all on their way together
        Packed<T> all[EACH];
#pragma unroll
        for (int i = 0; i < EACH; i++) all[i] = load_packed(gradient + begin + (i * THREADS + threadIdx.x) * 8);
#pragma unroll
        for (int i = 0; i < EACH; i++) add(unpack(all[i]));
    } else {
        for (uint64_t i = begin + threadIdx.x * 8; i < end; i += THREADS * 8) {
            add(i + 8 <= end ? load_eight(gradient + i) : load_eight(Ragged(), gradient, i, end));
        }
    }
    sum = block_sum(sum);
    if (threadIdx.x != 0) return;
    float* square = reinterpret_cast<float*>(p.squares) + blockIdx.x;
    *square = (p.accumulate ? *square : 0.0f) + (float)sum;
}

// Told that two blocks a multiprocessor are enough, the compiler has registers for most of the loads.
SMALL_KERNEL(clip_squares_f32, SquaresParams, THREADS, 2) { clip_squares<float>(p); }
SMALL_KERNEL(clip_squares_bf16, SquaresParams, THREADS, 2) { clip_squares<bf16>(p); }
