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

/* One block a token */
typedef struct RmsnormBackwardParams {
    uint64_t dy;       /* T [tokens, hidden] */
    uint64_t x;        /* T [tokens, hidden] */
    uint64_t weight;   /* float [hidden] */
    uint64_t inv_rms;  /* float [tokens] */
    uint64_t dx;       /* T [tokens, hidden], added to */
    uint64_t dweight;  /* float [hidden], added to; rmsnorm_dweight alone reads it, one warp column a block */
    uint32_t tokens;
    uint32_t hidden;
} RmsnormBackwardParams;

/* nf4.cu; counts of values, multiples of KIUNGO_NF4_BLOCK. 16 values a thread */
typedef struct Nf4QuantizeParams {
    uint64_t x;        /* T [count] */
    uint64_t codes;    /* uint8 [count / 2] */
    uint64_t absmax;   /* float [count / 64] */
    uint64_t count;
} Nf4QuantizeParams;

/* The two passes of double quantisation: 256 blocks, then one block for 256 absmax values */
typedef struct Nf4DoubleParams {
    uint64_t absmax;         /* float [blocks] */
    uint64_t partials;       /* double [256], scratch */
    uint64_t map;            /* float [256] */
    uint64_t codes;          /* uint8 [blocks] */
    uint64_t nested_absmax;  /* float [ceil(blocks / 256)] */
    uint64_t offset;         /* float [1] */
    uint64_t blocks;
} Nf4DoubleParams;

/* 32 values a thread */
typedef struct Nf4DequantizeParams {
    uint64_t codes;        /* uint8 [count / 2] */
    uint64_t absmax;       /* float [count / 64]; double: [ceil(count / 64 / 256)] */
    uint64_t scale_codes;  /* double: uint8 [count / 64] */
    uint64_t map;          /* double: float [256] */
    uint64_t offset;       /* double: float [1] */
    uint64_t y;            /* Y [count] */
    uint64_t count;
} Nf4DequantizeParams;

/* gemm_sm80.cu: c = a b, layouts as in src/ops/gemm.rs, one block a tile */
typedef struct GemmParams {
    uint64_t a;        /* bf16 [m, k] or [k, m] */
    uint64_t b;        /* bf16 [n, k] or [k, n] */
    uint64_t c;        /* C [m, n] */
    uint32_t m;
    uint32_t n;
    uint32_t k;
    uint32_t accumulate; /* 1: add to c */
} GemmParams;

/* gemm_simt.cu, one block 64x64 of c; strides in elements */
typedef struct GemmSimtParams {
    uint64_t a;
    uint64_t b;
    uint64_t c;        /* C [m, n] */
    uint32_t m;
    uint32_t n;
    uint32_t k;
    uint32_t accumulate;
    uint32_t a_stride_row;
    uint32_t a_stride_k;
    uint32_t b_stride_row;
    uint32_t b_stride_k;
} GemmSimtParams;

/* Which elements dropout keeps (tile/philox.cuh); threshold 0 keeps all */
typedef struct DropoutParams {
    uint32_t threshold;  /* an element is dropped where its 32 random bits are below */
    float scale;         /* of what is kept */
    uint32_t seed_low;
    uint32_t seed_high;
    uint32_t stream;
    uint32_t step;
} DropoutParams;

/* lora.cu: the products of an adapter, out[m, n] = scale * left right (+ out) over k */
typedef struct LoraParams {
    uint64_t left;
    uint64_t right;
    uint64_t out;
    uint32_t m;
    uint32_t n;
    uint32_t k;
    float scale;
    DropoutParams dropout;
} LoraParams;

#endif
