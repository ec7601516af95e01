/* What a kernel is told, one struct a kernel, shared with Rust by bindgen.
   Plain C, fixed-width types, no padding (the Rust side derives Pod, which refuses it).
   Device pointers are uint64_t. Dimensions: m tokens, n output features, k input features, row-major. */
#ifndef KIUNGO_PARAMS_H
#define KIUNGO_PARAMS_H
#include <stdint.h>

/* NF4: values that share one absmax, and absmax values that share one second-level scale. */
#define KIUNGO_NF4_BLOCK 64
#define KIUNGO_NF4_NESTED_BLOCK 256

/* rmsnorm.cu, one block a token */
typedef struct RmsnormForwardParams {
    uint64_t x;        /* T [tokens, hidden] */
    uint64_t weight;   /* float [hidden] */
    uint64_t y;        /* T [tokens, hidden] */
    uint64_t inv_rms;  /* float [tokens] */
    uint32_t hidden;
    float eps;
} RmsnormForwardParams;

#endif
