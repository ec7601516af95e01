// Walks as the blocks of adamw_linear_sm90.cu do, and as their sum does; counts what is met. Read by tests/kernels/shares.rs.
#include "kernel.cuh"
#include "tile/adamw_shares.cuh"

// parts: how often each stage is met, [strips, height]; dx: of each part of dx, 1 + its strip.
KERNEL(walk, AdamwLinearSumParams, 1) {
    const Shares shares{p.shares};
    uint32_t *met = reinterpret_cast<uint32_t*>(p.parts), *left = reinterpret_cast<uint32_t*>(p.dx);
    for (Walk walk(shares); walk.left > 0; walk.next()) {
        met[walk.strip * shares.s.height + walk.row]++;
        if (walk.ends_strip()) left[shares.part(blockIdx.x, walk.strip)] += 1 + walk.strip;
    }
}

// parts: of each part of dx that is added up, 1 + its strip. A block a strip.
KERNEL(add_up, AdamwLinearSumParams, 1) {
    const Shares shares{p.shares};
    uint32_t* added = reinterpret_cast<uint32_t*>(p.parts);
    shares.each_block(blockIdx.x, [&](uint32_t block) { added[shares.part(block, blockIdx.x)] += 1 + blockIdx.x; });
}
