// Judges a step when its loss and its gradient are known, and tells the host. One block.
#include "kernel.cuh"
#include "tile/reduce.cuh"

SMALL_KERNEL(step_judge, StepJudgeParams, 1024) {
    constexpr int AT_ONCE = 16;  // loads under way: of full training a quarter of a million sums come here
    const float* squares = reinterpret_cast<const float*>(p.squares);
    double sum = 0.0;
    for (uint64_t first = threadIdx.x; first < p.count; first += AT_ONCE * blockDim.x) {
        float some[AT_ONCE];
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++) {
            const uint64_t i = first + j * blockDim.x;
            some[j] = i < p.count ? squares[i] : 0.0f;
        }
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++) sum += some[j];
    }
    sum = block_sum(sum);
    if (threadIdx.x != 0) return;
    const StepState* state = reinterpret_cast<const StepState*>(p.state);
    StepStatus* status = reinterpret_cast<StepStatus*>(p.status);
    const float loss = *reinterpret_cast<const float*>(p.loss), norm = (float)sqrt(sum);
    const uint32_t bad = !(isfinite(loss) && isfinite(norm));
    const uint32_t skipped = status->skipped + bad;
    status->skipped = skipped;
    status->stopped = skipped > status->allowed ? KIUNGO_STOPPED_FOR_GOOD : bad;
    status->gradient_norm = norm;
    // torch's clip_grad_norm_ divides by norm + 1e-6.
    status->factor = fminf(state->max_norm / (norm + 1e-6f), 1.0f);

    volatile StepRecord* record = reinterpret_cast<StepRecord*>(p.ring) + state->serial % p.slots;
    record->loss = loss;
    record->gradient_norm = norm;
    record->stopped = status->stopped;
    // The host reads the record once it sees the serial.
    __threadfence_system();
    record->serial = state->serial;
}

// Before updates that do not wait for the norm of the gradient: loss and status alone are given.
SMALL_KERNEL(step_begin, StepJudgeParams, 32) {
    if (threadIdx.x != 0) return;
    StepStatus* status = reinterpret_cast<StepStatus*>(p.status);
    const uint32_t bad = !isfinite(*reinterpret_cast<const float*>(p.loss));
    // The step is counted when it is judged.
    status->stopped = status->skipped + bad > status->allowed ? KIUNGO_STOPPED_FOR_GOOD : bad;
    status->factor = 1.0f;
}
