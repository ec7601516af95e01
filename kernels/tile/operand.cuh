// An operand's tile in shared memory as the copy engine writes it and wgmma reads it: ROWS of m or n by DEPTH of k, bf16,
// in lines of 128 bytes, or of 64 where they run along 32 of k, whose 16-byte chunks are swizzled (chunk ^ line % 8; of lines of
// 64 bytes chunk ^ line / 2 % 4), every 1024 bytes anew.
//
// K_MAJOR: a line is one row's values of k. Otherwise a line is one k of 64 rows, and the tile is ROWS / 64 slabs of
// DEPTH lines. PTX ISA, "Matrix descriptor" and "Canonical layouts".
#pragma once
#include "kernel.cuh"
#include "ptx/tma.cuh"

template <int ROWS, bool K_MAJOR, int K = 64> struct OperandTile {
    static constexpr int DEPTH = K;
    static_assert(DEPTH == 64 || DEPTH == 32);
    static constexpr int ELEMENTS = ROWS * DEPTH;
    static constexpr uint32_t BYTES = ELEMENTS * sizeof(bf16);

    // Loads the tile at (row, k) of a matrix. Of SHARES blocks of a cluster that all need it, this one loads the part
    // `share` and sends it to all. The tensor map's boxes: DEPTH of k by ROWS / SHARES rows (K_MAJOR), or 64 rows by
    // DEPTH / SHARES of k.
    template <int SHARES>
    static __device__ __forceinline__ void load(bf16* tile, const TensorMap* map, int row, int k, Barrier* barrier,
                                                uint32_t share) {
        if constexpr (K_MAJOR) {
            const int first = share * (ROWS / SHARES);
            box<SHARES>(tile + first * DEPTH, map, k, row + first, barrier);
        } else {
            const int first = share * (DEPTH / SHARES);
#pragma unroll
            for (int slab = 0; slab < ROWS; slab += 64) {
                box<SHARES>(tile + slab * DEPTH + first * 64, map, row + slab, k + first, barrier);
            }
        }
    }

    // wgmma's descriptor of the 16 of k from k0, and the rows from row0 (a multiple of 64; behind the last, those of
    // a tile that follows).
    static __device__ __forceinline__ uint64_t descriptor(const bf16* tile, int row0, int k0) {
        constexpr uint32_t CHUNK = 16 / sizeof(bf16), SLAB = K_MAJOR ? 1 : DEPTH * 128 / 16;
        constexpr uint32_t LINE = (K_MAJOR ? DEPTH : 64) / CHUNK;
        constexpr uint64_t SWIZZLE = (LINE == 8 ? 1ull : 2ull) << 62, EIGHT_LINES = 8 * LINE;
        // In a cluster, an address also says in whose shared memory it is, above these 18 bits.
        const uint32_t start = (shared_address(tile) & 0x3ffff) / 16;
        // What varies within a product is added last: its descriptors differ by one addition.
        const uint32_t offset = row0 * (DEPTH / CHUNK) + (K_MAJOR ? k0 / CHUNK : k0 * LINE);
        // The strides between groups of eight lines and, of slabs, from one to the next.
        return SWIZZLE | EIGHT_LINES << 32 | ((SLAB << 16) + start + offset);
    }

    // The descriptor of what lies so many bytes further in shared memory, a multiple of 16.
    static __device__ __forceinline__ uint64_t further(uint64_t descriptor, uint32_t bytes) {
        return descriptor + bytes / 16;
    }

  private:
    template <int SHARES>
    static __device__ __forceinline__ void box(bf16* to, const TensorMap* map, int column, int row, Barrier* barrier) {
        if constexpr (SHARES == 1) {
            tma_load(to, map, column, row, barrier);
        } else {
            tma_load_multicast(to, map, column, row, barrier, (1 << SHARES) - 1);
        }
    }
};
