// Dropout's factors of the elements 0, 1, ..., so that a test can hold them against the CPU's.
#include "kernel.cuh"
#include "tile/philox.cuh"

KERNEL(philox_factors, PhiloxParams, 256) {
    const uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < p.count) reinterpret_cast<float*>(p.factors)[i] = dropout_factor(of_this_step(p.dropout), p.first + i);
}
