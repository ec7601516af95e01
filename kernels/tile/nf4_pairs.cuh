// NF4 codes to values, two at a time: a table of all 256 pairs of codes.
#pragma once
#include "kernel.cuh"
#include "tile/nf4.cuh"
#include "tile/vector.cuh"
#ifndef KIUNGO_EMULATOR
#include "ptx/mbarrier.cuh"
#endif

// Both values of a byte of codes, as two bf16 (Pair is uint32_t, the first in the low half) or two floats (float2); a copy
// for each lane, so that no two lanes read the same bank. Lines of 256 bytes, of which bf16 leave half unused, from a
// shared address that is a multiple of 64 KB on: one instruction puts an address together, a byte of it the lane's, a byte
// the codes, and the rest the table's.
template <class Pair> struct PairTable {
    static constexpr uint32_t BYTES = 1 << 16;

    // Where dynamic shared memory begins: on Hopper the system keeps the first KB. What a kernel puts before the table depends
    // on it.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
    static constexpr uint32_t BEGIN = 0;
#else
    static constexpr uint32_t BEGIN = 1024;
#endif
    static constexpr uint32_t BELOW = BYTES - BEGIN;

#ifdef KIUNGO_EMULATOR
    using Address = uintptr_t;
    static Address begin(const void* dynamic) { return (Address)dynamic + BELOW; }
    static Address line(Address table, uint32_t word, uint32_t selector) {
        return table + (word >> (selector >> 4 & 3) * 8 & 255) * 256;
    }
#else
    using Address = uint32_t;  // in shared memory
    static __device__ __forceinline__ Address begin(const void* dynamic) {
        return (shared_address(dynamic) & ~(BYTES - 1)) + BYTES;
    }
    // A lane's place in the line of the byte of a word that the selector names.
    static __device__ __forceinline__ Address line(Address table, uint32_t word, uint32_t selector) {
        return __byte_perm(word, table, selector);
    }
#endif
    Address address;

    // At the first multiple of 64 KB behind the start of dynamic shared memory.
    __device__ __forceinline__ explicit PairTable(const void* dynamic) : address(begin(dynamic)) {}

    // Called by `threads` threads, whole warps, the first of which is `thread` 0; a barrier must follow.
    __device__ __forceinline__ void fill(uint32_t thread, uint32_t threads) const {
        const uint32_t lane = thread % 32;
        const float mine = nf4_level(lane % 16);
        for (uint32_t byte = thread / 32; byte < 256; byte += threads / 32) {
            const float first = __shfl_sync(0xffffffff, mine, byte / 16), second = __shfl_sync(0xffffffff, mine, byte % 16);
            store(address + (byte << 8) + lane * (uint32_t)sizeof(Pair), first, second, Pair());
        }
    }

    // The pair of byte `which` of a word, for a lane that always looks up the same byte.
    struct Look {
        Address table;
        uint32_t selector;
        __device__ __forceinline__ Look(const PairTable& table, uint32_t which)
            : table(table.address + threadIdx.x % 32 * (uint32_t)sizeof(Pair)), selector(0x7604 | which << 4) {}

        __device__ __forceinline__ Pair pair(uint32_t word) const { return load(line(table, word, selector), Pair()); }
        // Of another byte.
        __device__ __forceinline__ Pair pair(uint32_t word, uint32_t which) const {
            return load(line(table, word, 0x7604 | which << 4), Pair());
        }
    };

    static __device__ __forceinline__ void check(const void* dynamic) {
#ifndef KIUNGO_EMULATOR
        // In a cluster, an address also says in whose shared memory it is, above these bits.
        if ((shared_address(dynamic) & (BYTES - 1)) != BEGIN) __trap();
#endif
    }

  private:
#ifdef KIUNGO_EMULATOR
    static void store(Address at, float x, float y, uint32_t) { *reinterpret_cast<uint32_t*>(at) = pack(x, y); }
    static void store(Address at, float x, float y, float2) { *reinterpret_cast<float2*>(at) = make_float2(x, y); }
    template <class T> static T load(Address at, T) { return *reinterpret_cast<const T*>(at); }
#else
    static __device__ __forceinline__ void store(Address at, float x, float y, uint32_t) {
        asm volatile("st.shared.u32 [%0], %1;" ::"r"(at), "r"(pack(x, y)) : "memory");
    }
    static __device__ __forceinline__ void store(Address at, float x, float y, float2) {
        asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(at), "f"(x), "f"(y) : "memory");
    }
    // Not volatile: what it depends on comes after the barrier.
    static __device__ __forceinline__ uint32_t load(Address at, uint32_t) {
        uint32_t pair;
        asm("ld.shared.u32 %0, [%1];" : "=r"(pair) : "r"(at));
        return pair;
    }
    static __device__ __forceinline__ float2 load(Address at, float2) {
        float2 pair;
        asm("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(pair.x), "=f"(pair.y) : "r"(at));
        return pair;
    }
#endif
};
