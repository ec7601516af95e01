// Judges a step when its loss and its gradient are known, and tells the host. One block.
#include "kernel.cuh"
#include "tile/reduce.cuh"

KERNEL(step_judge, StepJudgeParams, 1024) {
    double sum = 0.0;
    for (uint64_t i = threadIdx.x; i < p.count; i += blockDim.x) sum += reinterpret_cast<const float*>(p.squares)[i];
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
KERNEL(step_begin, StepJudgeParams, 32) {
    if (threadIdx.x != 0) return;
    StepStatus* status = reinterpret_cast<StepStatus*>(p.status);
    const uint32_t bad = !isfinite(*reinterpret_cast<const float*>(p.loss));
    // The step is counted when it is judged.
    status->stopped = status->skipped + bad > status->allowed ? KIUNGO_STOPPED_FOR_GOOD : bad;
    status->factor = 1.0f;
}
