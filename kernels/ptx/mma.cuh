// Tensor cores one warp at a time (sm_80): ldmatrix brings fragments from shared memory, mma.sync multiplies them.
//
// Fragments of m16n8k16, by lane, with group = lane / 4 and pair = 2 * (lane % 4) (PTX ISA, "Matrix Fragments for
// mma.m16n8k16 with floating point type"):
//   a[0..4]  rows group, group + 8, group, group + 8; columns pair, pair + 1 (+ 8 for the last two), two a register
//   b[0..2]  column group; rows pair, pair + 1 (+ 8 for the second), two a register
//   c[0..4]  rows group (first two) and group + 8; columns pair, pair + 1
#pragma once
#include "kernel.cuh"

#ifdef KIUNGO_EMULATOR
namespace emulator {
struct Mma {
    float* c;
    const uint32_t *a, *b;
    static float half(uint32_t two, int which) { return __uint_as_float(which ? two & 0xffff0000u : two << 16); }
    static void perform(void* const* lanes) {
        const auto lane = [&](int group, int column) { return static_cast<Mma*>(lanes[group * 4 + column]); };
        float a[16][16], b[16][8];
        for (int i = 0; i < 16; i++)
            for (int k = 0; k < 16; k++) a[i][k] = half(lane(i % 8, k % 8 / 2)->a[k / 8 * 2 + i / 8], k % 2);
        for (int k = 0; k < 16; k++)
            for (int j = 0; j < 8; j++) b[k][j] = half(lane(j, k % 8 / 2)->b[k / 8], k % 2);
        for (int i = 0; i < 16; i++)
            for (int j = 0; j < 8; j++) {
                float* c = &lane(i % 8, j / 2)->c[i / 8 * 2 + j % 2];
                double sum = *c;
                for (int k = 0; k < 16; k++) sum += (double)a[i][k] * b[k][j];
                *c = (float)sum;
            }
    }
};
struct Ldmatrix {
    const void* row;
    uint32_t* fragment;
    bool transposed;
    static void perform(void* const* lanes) {
        for (int matrix = 0; matrix < 4; matrix++)
            for (int lane = 0; lane < 32; lane++) {
                const auto element = [&](int row, int column) {
                    const void* base = static_cast<Ldmatrix*>(lanes[matrix * 8 + row])->row;
                    return (uint32_t) static_cast<const uint16_t*>(base)[column];
                };
                auto* mine = static_cast<Ldmatrix*>(lanes[lane]);
                const int group = lane / 4, pair = 2 * (lane % 4);
                const uint32_t low = mine->transposed ? element(pair, group) : element(group, pair);
                const uint32_t high = mine->transposed ? element(pair + 1, group) : element(group, pair + 1);
                mine->fragment[matrix] = low | high << 16;
            }
    }
};
}  // namespace emulator
#endif

// Four 8x8 matrices of 16-bit elements; lane i gives the shared address of row i % 8 of matrix i / 8, aligned to 16.
// Register j gets from matrix j row group, columns pair and pair + 1.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&fragment)[4], const void* row) {
#ifdef KIUNGO_EMULATOR
    emulator::access(row, 16, false);
    emulator::Ldmatrix mine{row, fragment, false};
    emulator::collective("ldmatrix", &mine, emulator::Ldmatrix::perform);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
                 : "memory");
#endif
}

// The same, of the matrices' transposes: rows pair and pair + 1 of column group.
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&fragment)[4], const void* row) {
#ifdef KIUNGO_EMULATOR
    emulator::access(row, 16, false);
    emulator::Ldmatrix mine{row, fragment, true};
    emulator::collective("ldmatrix", &mine, emulator::Ldmatrix::perform);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
                 : "memory");
#endif
}

// c += a b: a is 16x16 by rows, b 16x8 by columns, both bf16; c 16x8 float.
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef KIUNGO_EMULATOR
    emulator::Mma mine{c, a, b};
    emulator::collective("mma", &mine, emulator::Mma::perform);
#else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
