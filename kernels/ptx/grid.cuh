// Launches that overlap (sm_90): one that was allowed to may begin before the one before it has ended.
#pragma once
#include "kernel.cuh"

// The next launch may begin as soon as all blocks have said so or ended.
__device__ __forceinline__ void launch_dependents() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

// Waits until the launch before has ended and what it wrote is seen.
__device__ __forceinline__ void wait_for_launch() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
