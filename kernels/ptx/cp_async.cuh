// Asynchronous copies from global to shared memory (sm_80): cp.async, its groups, and the waits for them.
#pragma once
#include "kernel.cuh"

// 16 bytes, of which the first `valid` are read and the others become zero. Both addresses aligned to 16.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, uint32_t valid) {
#ifdef KIUNGO_EMULATOR
    emulator::copy_async(shared, global, 16, valid);
#else
    const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(valid) : "memory");
#endif
}

// 4 bytes, all of which are read, or none and zeros written. Both addresses aligned to 4.
__device__ __forceinline__ void cp_async_4(void* shared, const void* global, uint32_t valid) {
#ifdef KIUNGO_EMULATOR
    emulator::copy_async(shared, global, 4, valid);
#else
    const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(global), "r"(valid) : "memory");
#endif
}

// Closes a group of the copies that this thread has issued since the last one.
__device__ __forceinline__ void cp_async_commit() {
#ifdef KIUNGO_EMULATOR
    emulator::copy_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most the last `LEFT` groups of this thread are under way. Other threads see them after a barrier.
template <int LEFT> __device__ __forceinline__ void cp_async_wait() {
#ifdef KIUNGO_EMULATOR
    emulator::copy_wait(LEFT);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
#endif
}
