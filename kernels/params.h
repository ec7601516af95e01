/* What a kernel is told, one struct a kernel, shared with Rust by bindgen.
   Plain C, fixed-width types, no padding (the Rust side derives Pod, which refuses it).
   Device pointers are uint64_t. Dimensions: m tokens, n output features, k input features, row-major. */
#ifndef KIUNGO_PARAMS_H
#define KIUNGO_PARAMS_H
#include <stdint.h>

/* NF4: values that share one absmax, and absmax values that share one second-level scale. */
#define KIUNGO_NF4_BLOCK 64
#define KIUNGO_NF4_NESTED_BLOCK 256

/* What AdamW multiplies with in one step (src/ops/adamw.rs) */
typedef struct AdamwFactors {
    float decay;            /* 1 - lr * weight_decay */
    float gradient;         /* 1 - beta1 */
    float beta2;
    float square;           /* 1 - beta2 */
    float root_correction;  /* sqrt(1 - beta2^t) */
    float eps;
    float step_size;        /* lr / (1 - beta1^t) */
    float unused;
} AdamwFactors;

/* All that varies from step to step of training, in device memory: the launches themselves are the same every time */
typedef struct StepState {
    AdamwFactors adamw;
    float max_norm;    /* of the gradient; infinite: no clip */
    uint32_t step;     /* what dropout reads */
    uint32_t serial;   /* of this launch, from 1: the number of its record */
    uint32_t unused;
} StepState;

/* What a step has found out, for the kernels behind it */
#define KIUNGO_STOPPED_FOR_GOOD 2
typedef struct StepStatus {
    float gradient_norm;
    float factor;      /* of the gradient: 1, or less where it is clipped */
    uint32_t stopped;  /* 0, or no update: 1 in this step, KIUNGO_STOPPED_FOR_GOOD in later ones too */
    uint32_t allowed;  /* steps that may be left out because their loss or gradient is not finite */
    uint32_t skipped;  /* those that were not finite so far */
} StepStatus;

/* What the host reads of a step; serial is written last */
typedef struct StepRecord {
    float loss;
    float gradient_norm;
    uint32_t stopped;
    uint32_t serial;
} StepRecord;

/* step.cu, one block */
typedef struct StepJudgeParams {
    uint64_t squares;  /* float [count], as clip_squares leaves them */
    uint64_t count;
    uint64_t loss;     /* float [1] */
    uint64_t state;    /* StepState */
    uint64_t status;   /* StepStatus */
    uint64_t ring;     /* StepRecord [slots], in host memory */
    uint64_t slots;
} StepJudgeParams;

/* rmsnorm.cu; a block takes every gridDim.x-th row */
typedef struct RmsnormForwardParams {
    uint64_t x;         /* T [tokens, hidden]; with a residual it is added to */
    uint64_t residual;  /* T [tokens, hidden], forward_residual alone */
    uint64_t weight;    /* float [hidden] */
    uint64_t y;         /* T [tokens, hidden] */
    uint64_t inv_rms;   /* float [tokens] */
    uint32_t tokens;
    uint32_t hidden;
    float eps;
    uint32_t unused;
} RmsnormForwardParams;

typedef struct RmsnormBackwardParams {
    uint64_t dy;        /* T [tokens, hidden] */
    uint64_t x;         /* T [tokens, hidden] */
    uint64_t weight;    /* float [hidden] */
    uint64_t inv_rms;   /* float [tokens] */
    uint64_t dx;        /* T [tokens, hidden], added to */
    uint64_t partials;  /* float [gridDim.x, hidden], each block's part of dweight, or 0: not wanted */
    uint32_t tokens;
    uint32_t hidden;
} RmsnormBackwardParams;

typedef struct RmsnormPartialsParams {
    uint64_t partials;  /* float [rows, hidden] */
    uint64_t dweight;   /* float [hidden], added to */
    uint32_t rows;
    uint32_t hidden;
} RmsnormPartialsParams;

/* convert.cu */
typedef struct ConvertParams {
    uint64_t x;       /* float, half or bf16 [count], as a file holds them, aligned to 16 bytes */
    uint64_t y;       /* T [count] */
    uint64_t count;
    uint64_t first;   /* number of x[0] in its tensor */
    uint64_t report;  /* uint64 [1]: becomes the least number of a value that is not finite, if that is less */
} ConvertParams;

/* The last word of Philox's counter where normal values are drawn: no dropout comes to that step. */
#define KIUNGO_NORMAL_COUNTER 0xFFFFFFFFu

/* normal.cu */
typedef struct NormalParams {
    uint64_t y;        /* T [count] */
    uint64_t count;
    uint32_t seed_low;
    uint32_t seed_high;
    uint32_t stream;
    float scale;
} NormalParams;

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

/* linear.cu, a block 128 outputs; linear_few.cu, a block as many tiles of 16 outputs as there are for it */
typedef struct Nf4LinearParams {
    uint64_t x;            /* bf16 [m, k] */
    uint64_t codes;        /* uint8 [n, k / 2] */
    uint64_t absmax;       /* float [n, k / 64]; double: [ceil(n k / 64 / 256)] */
    uint64_t scale_codes;  /* double: uint8 [n, k / 64] */
    uint64_t map;          /* double: float [256] */
    uint64_t offset;       /* double: float [1] */
    uint64_t y;            /* bf16 [m, n] */
    uint32_t m;
    uint32_t n;
    uint32_t k;            /* a multiple of 64; double: of 256 */
    uint32_t unused;
} Nf4LinearParams;

/* linear_backward.cu: dx from dy [m, n] for x, and dx [m, k] for y; a block 256 inputs and a part of the outputs */
typedef struct Nf4BackwardParams {
    Nf4LinearParams linear;
    uint64_t parts;       /* float [count, m, k], where there are several */
    uint32_t count;
    uint32_t accumulate;  /* 1: add to dx */
} Nf4BackwardParams;

/* A matrix as the copy engine sees it: CUtensorMap, which the launch encodes */
typedef struct TensorMap {
    uint64_t opaque[16];
} __attribute__((aligned(64))) TensorMap;

/* Layers of one x in a launch */
#define KIUNGO_NF4_LAYERS 3

/* linear_sm90.cu, a cluster 128 outputs of a layer, whose blocks take a part of k each */
typedef struct Nf4LinearSm90Params {
    TensorMap codes[KIUNGO_NF4_LAYERS];  /* as bf16 [n, k / 4] */
    TensorMap x;
    Nf4LinearParams layers[KIUNGO_NF4_LAYERS];
    uint32_t tiles[KIUNGO_NF4_LAYERS];   /* of each, 0 where there is none */
    uint32_t splits;
    uint32_t unused[6];
} Nf4LinearSm90Params;

/* linear_backward_sm90.cu: the sum over the outputs of all layers */
typedef struct Nf4BackwardSm90Params {
    TensorMap codes[KIUNGO_NF4_LAYERS];  /* as bf16 [n, k / 4] */
    TensorMap dy[KIUNGO_NF4_LAYERS];
    Nf4BackwardParams backward;          /* of the first layer, for what is left */
    Nf4LinearParams layers[KIUNGO_NF4_LAYERS];
    uint32_t steps[KIUNGO_NF4_LAYERS];   /* stages of each, 0 where there is none */
    uint32_t unused[1];
} Nf4BackwardSm90Params;

/* linear_gemm_sm90.cu, a block tiles of 128 outputs and 128, 192 or 256 tokens */
typedef struct Nf4GemmSm90Params {
    TensorMap codes[KIUNGO_NF4_LAYERS];  /* as bf16 [n, k / 4] */
    TensorMap x;
    TensorMap y[KIUNGO_NF4_LAYERS];
    Nf4LinearParams layers[KIUNGO_NF4_LAYERS];  /* of one x; n is 0 where there is none */
    uint32_t unused[10];
} Nf4GemmSm90Params;

/* gemm_sm90.cu */
typedef struct GemmSm90Params {
    TensorMap a;
    TensorMap b;
    TensorMap c_map;   /* of bf16 c, if staged */
    TensorMap more_a;  /* bf16, and what is multiplied with it: added to the product, Persistent alone */
    TensorMap more_b;
    uint64_t c;        /* C [m, n] */
    uint32_t m;
    uint32_t n;
    uint32_t k;
    uint32_t accumulate; /* 1: add to c */
    uint32_t staged;     /* 1: bf16 results go through shared memory and the copy engine; they cannot be added */
    uint32_t splits;     /* parts of k, at most its steps of 64: blocks a cluster; SplitK alone */
    uint32_t a_bytes;    /* that arrive of a tile of a: fewer rows than its height are not filled up */
    uint32_t more;       /* steps of 64 of more_a and more_b */
    uint32_t unused[6];
} GemmSm90Params;

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
    uint64_t state;      /* StepState whose step counts, or 0: the one below */
    uint64_t first;      /* index of the tensor's first element: it is a part of another one */
    uint32_t threshold;  /* an element is dropped where its 32 random bits are below */
    float scale;         /* of what is kept */
    uint32_t seed_low;
    uint32_t seed_high;
    uint32_t stream;
    uint32_t step;
} DropoutParams;

/* philox.cu: what dropout multiplies elements first, first + 1, ... with */
typedef struct PhiloxParams {
    uint64_t factors;  /* float [count] */
    uint64_t first;
    uint64_t count;
    DropoutParams dropout;
} PhiloxParams;

/* lora.cu: the products of an adapter, out[m, n] from a sum over k */
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

/* lora_sm80.cu: what one launch does, the blocks of each first to last */
#define KIUNGO_LORA_JOBS 6

/* out[m, n] from left . right: as partial sums, 64 of m a block, or all at once where `parts` is 1 */
#define KIUNGO_LORA_DOWN 0   /* left [m, k], right [n, k] */
#define KIUNGO_LORA_DS 1     /* left [m, k], right [k, n] */
#define KIUNGO_LORA_TOKENS 2 /* left [k, m], right [k, n] */
typedef struct LoraThinJob {
    uint64_t left;        /* bf16 */
    uint64_t right;       /* float */
    uint64_t partials;    /* float [parts][m, n] */
    uint64_t out;         /* float [m, n], or [n, m]: added to; of one part that is not for lora_sum */
    uint32_t m;
    uint32_t n;
    uint32_t k;
    uint32_t parts;       /* of k */
    uint32_t kind;
    uint32_t transposed;  /* 1: out is [n, m] */
    uint32_t blocks;
    float scale;          /* of what is added to out */
    DropoutParams dropout;
} LoraThinJob;
typedef struct LoraThinParams {
    LoraThinJob jobs[KIUNGO_LORA_JOBS];
} LoraThinParams;

/* A factor's f32 values in bf16: as two h + l, in rows of h, h, l, zeros; or, where width < 3 rank, rounded */
typedef struct LoraSideParams {
    uint64_t x;      /* float [rows, rank] */
    uint64_t side;   /* bf16 [rows, width] */
    uint32_t rows;
    uint32_t rank;
    uint32_t width;
    uint32_t unused;
} LoraSideParams;

/* out[m, n], or its transpose, = or += scale times the sum of partial sums */
typedef struct LoraSumJob {
    uint64_t partials;    /* float [parts][m, n] */
    uint64_t out;         /* float [m, n], or [n, m] */
    uint32_t m;
    uint32_t n;
    uint32_t parts;
    uint32_t transposed;  /* 1: out is [n, m] */
    uint32_t accumulate;  /* 1: add to out */
    float scale;
    uint64_t side;        /* bf16 [m, width], or 0: side_scale * out as two bf16 h + l, in rows of h, l, h, zeros; or rounded */
    uint32_t width;
    float side_scale;
    uint32_t blocks;      /* with those behind the sums for the factor */
    uint32_t unused;
    LoraSideParams factor;  /* no rows: none */
} LoraSumJob;
typedef struct LoraSumParams {
    LoraSumJob jobs[KIUNGO_LORA_JOBS];
} LoraSumParams;

/* out[m, n] += scale * dropout(left[m, k] . right), 64 of m by 128 of n a block */
typedef struct LoraWideJob {
    LoraParams product;
    uint32_t blocks;
    uint32_t unused;
} LoraWideJob;
typedef struct LoraWideParams {
    LoraWideJob jobs[KIUNGO_LORA_JOBS];
} LoraWideParams;

/* lora_sm90.cu: lora_sides makes the factors sides of products, and clears the counters */
typedef struct LoraSidesParams {
    uint64_t a;        /* float [rank, k] */
    uint64_t a_side;   /* bf16 [ranks, k], or split [2 ranks, k]: h, zeros up to ranks; l, zeros */
    LoraSideParams b;
    uint64_t ready;    /* uint32 [tiles] */
    uint32_t tiles;
    uint32_t k;
    uint32_t ranks;
    uint32_t split;    /* 1: a is split */
} LoraSidesParams;

/* The layer with its adapter; more_a and more_b are left and LoraSidesParams' b */
typedef struct LoraSm90Params {
    GemmSm90Params gemm;
    TensorMap factor;  /* LoraSidesParams' a_side, boxes of 32 rows */
    uint64_t s;        /* float [m, rank], out */
    uint64_t left;     /* bf16 [m, width], out: scale s, as LoraSumParams' side */
    uint64_t ready;    /* uint32 [tiles of 128 rows, an even number]: warpgroups whose rows of left are there, of 2 */
    uint32_t rank;
    uint32_t width;
    uint32_t takers;   /* clusters that make s */
    float scale;
    uint32_t unused[6];
} LoraSm90Params;

/* swiglu.cu, 8 elements a thread */
typedef struct SwigluParams {
    uint64_t gate;
    uint64_t up;
    uint64_t y;      /* forward */
    uint64_t dy;     /* backward, as the two below */
    uint64_t dgate;
    uint64_t dup;
    uint64_t count;
} SwigluParams;

/* residual.cu, 8 elements a thread */
typedef struct ResidualParams {
    uint64_t x;
    uint64_t y;
    uint64_t count;
} ResidualParams;

/* clip.cu, one block for KIUNGO_SQUARES_CHUNK values */
#define KIUNGO_SQUARES_CHUNK 16384
typedef struct SquaresParams {
    uint64_t gradient;    /* T [count] */
    uint64_t squares;     /* float [ceil(count / KIUNGO_SQUARES_CHUNK)] */
    uint64_t count;
    uint64_t accumulate;  /* 1: add to squares */
} SquaresParams;

/* rope.cu, one block a token */
typedef struct RopeParams {
    uint64_t x[2];       /* T [tokens, columns], each; or 0: none */
    uint64_t positions;  /* uint32 [tokens] */
    uint64_t cos;        /* float [position_count, head_dim / 2] */
    uint64_t sin;
    uint32_t columns[2];
    uint32_t head_dim;
    uint32_t position_count;
    float sign;          /* -1: turn back */
    uint32_t unused;
} RopeParams;

/* embedding.cu, one block a token */
typedef struct EmbeddingParams {
    uint64_t table;  /* W [vocab, hidden]; backward: its gradient, float */
    uint64_t ids;    /* uint32 [tokens] */
    uint64_t y;      /* T [tokens, hidden]; backward: its gradient */
    uint32_t tokens;
    uint32_t vocab;
    uint32_t hidden;
    uint32_t unused;
} EmbeddingParams;

/* pooling.cu, a block for 512 columns of a sequence */
#define KIUNGO_POOLING_COLUMNS 512
#define KIUNGO_POOLING_MEAN 0
#define KIUNGO_POOLING_MEAN_NO_SINK 1
#define KIUNGO_POOLING_LAST 2
typedef struct PoolingParams {
    uint64_t h;        /* T [tokens, hidden]; backward: its gradient */
    uint64_t offsets;  /* uint32 [sequences + 1] */
    uint64_t y;        /* float [sequences, hidden]; backward: its gradient */
    uint32_t hidden;
    uint32_t pooling;
} PoolingParams;

/* cosine.cu, one block a row */
typedef struct CosineParams {
    uint64_t x;     /* float [n, hidden]; backward: dy */
    uint64_t y;
    uint64_t norm;  /* float [n] */
    uint64_t dx;    /* backward */
    uint32_t hidden;
    float min_norm;
} CosineParams;

/* adamw_8bit.cu: elements whose moments share an exponent (src/ops/adamw/codes.rs) */
#define KIUNGO_ADAMW_BLOCK 128

/* adamw.cu, 8 elements a thread, and adamw_8bit.cu; the factors are those of adamw::Coefficients */
typedef struct AdamwParams {
    uint64_t w;         /* W [count], as copy: T; or 0: none */
    uint64_t g;         /* G [count] */
    uint64_t m;         /* S or uint8 [count] */
    uint64_t v;
    uint64_t copy;
    uint64_t count;
    uint64_t state;     /* StepState whose factors and step count, or 0: those below */
    uint64_t status;    /* StepStatus, or 0: the gradient as it is */
    uint64_t m_exponents;  /* 8-bit: uint8 [ceil(count / KIUNGO_ADAMW_BLOCK)] */
    uint64_t v_exponents;
    uint64_t squares;   /* float [gridDim.x], or 0: each block adds the sum of squares of its part of the gradient */
    AdamwFactors factors;
    uint32_t seed_low;  /* of what is rounded at random, as the two below */
    uint32_t seed_high;
    uint32_t stream;
    uint32_t step;
    uint32_t copy_is_bf16;
    uint32_t unused;
} AdamwParams;

/* adamw_linear.cu: AdamW with 8-bit moments, its gradient dy^T x; shared memory: KIUNGO_ADAMW_LINEAR_TOKEN for each token,
   which come by 32 */
#define KIUNGO_ADAMW_LINEAR_ROWS 8    /* of a tile */
#define KIUNGO_ADAMW_LINEAR_WARPS 12  /* of a block, a tile each */
#define KIUNGO_ADAMW_LINEAR_TOKEN 928
typedef struct AdamwLinearParams {
    AdamwParams adamw;  /* without g; count = outputs * inputs */
    uint64_t dy;        /* bf16 [tokens, outputs]; outputs are a multiple of KIUNGO_ADAMW_LINEAR_ROWS */
    uint64_t x;         /* bf16 [tokens, inputs]; inputs are one of KIUNGO_ADAMW_BLOCK */
    uint32_t tokens;
    uint32_t outputs;
    uint32_t inputs;
    uint32_t unused;
} AdamwLinearParams;

/* adamw_linear_sm90.cu: layers that read one x, and the gradient of x */
#define KIUNGO_ADAMW_SM90_LAYERS 3
#define KIUNGO_ADAMW_SM90_ROWS 32      /* of a stage, by a strip of KIUNGO_ADAMW_BLOCK columns */
#define KIUNGO_ADAMW_SM90_TOKENS 64
#define KIUNGO_ADAMW_SM90_STAGES 8
#define KIUNGO_ADAMW_SM90_STAGE 20480  /* bytes */
#define KIUNGO_ADAMW_SM90_THREADS 512
typedef struct AdamwLinearMaps {
    TensorMap w;   /* bf16 [outputs, inputs] */
    TensorMap m;   /* bytes, as bf16 [outputs, inputs / 2] */
    TensorMap v;
    TensorMap dy;  /* bf16 [tokens, outputs] */
} AdamwLinearMaps;
typedef struct AdamwLinearLayer {
    AdamwParams adamw;  /* as AdamwLinearParams has it; state, status, squares and factors are the first layer's */
    uint32_t outputs;   /* a multiple of 8 */
    uint32_t stages;    /* ceil(outputs / KIUNGO_ADAMW_SM90_ROWS) */
} AdamwLinearLayer;
/* Whose stages are whose: the first members * strips blocks have the first `upper` of a strip in turn, the others the rest */
typedef struct AdamwLinearShares {
    uint32_t strips;    /* of KIUNGO_ADAMW_BLOCK columns */
    uint32_t height;    /* stages of a strip: those of all layers, below each other */
    uint32_t upper;
    uint32_t members;
    uint32_t extras;
    uint32_t unused;
} AdamwLinearShares;
typedef struct AdamwLinearSm90Params {
    AdamwLinearMaps maps[KIUNGO_ADAMW_SM90_LAYERS];
    AdamwLinearLayer layers[KIUNGO_ADAMW_SM90_LAYERS];
    uint64_t x;         /* bf16 [tokens, inputs]; inputs are a multiple of KIUNGO_ADAMW_BLOCK */
    uint64_t parts;     /* float [blocks + strips, 64 * 128], as wgmma's sums lie, or 0 */
    uint32_t tokens;
    uint32_t inputs;
    AdamwLinearShares shares;
    uint32_t unused[18];
} AdamwLinearSm90Params;
typedef struct AdamwLinearSumParams {
    uint64_t parts;
    uint64_t dx;        /* bf16 [tokens, inputs] */
    AdamwLinearShares shares;
    uint32_t tokens;
    uint32_t inputs;
} AdamwLinearSumParams;

#define KIUNGO_PAIRS_ROWS 4 /* of a block */

/* pairs.cu: cosines of sources with targets, rows 0..n and n..2n of unit */
typedef struct PairsParams {
    uint64_t unit;        /* float [2 n, hidden] */
    uint64_t similarity;  /* float [n, n]; backward: its gradient */
    uint64_t dunit;       /* float [2 n, hidden], backward alone */
    uint32_t n;
    uint32_t hidden;
} PairsParams;

/* infonce.cu and triplet.cu: losses over a similarity matrix */
typedef struct InBatchParams {
    uint64_t similarity;   /* float [n, n] */
    uint64_t excluded;     /* uint8 [n, n], or 0: nothing is */
    uint64_t loss;         /* float [1] */
    uint64_t dsimilarity;  /* float [n, n] */
    uint64_t workspace;    /* 2 * sides * n doubles */
    uint32_t n;
    uint32_t sides;        /* 1: rows, 2: rows and columns */
    float temperature;     /* infonce */
    float margin;          /* triplet */
} InBatchParams;

/* contrast.cu: pairs, and columns of a block, at most */
#define KIUNGO_CONTRAST_PAIRS 8
#define KIUNGO_CONTRAST_COLUMNS 128
/* Sums that a block leaves: dot products of sources with targets, then squares of both */
#define KIUNGO_CONTRAST_SUMS (KIUNGO_CONTRAST_PAIRS * KIUNGO_CONTRAST_PAIRS + 2 * KIUNGO_CONTRAST_PAIRS)
typedef struct ContrastParams {
    uint64_t h;        /* T [tokens, hidden] */
    uint64_t dh;       /* T [tokens, hidden] */
    uint64_t offsets;  /* uint32 [2 n + 1]: the sources, then the targets */
    uint64_t pooled;   /* float [2 n, hidden] */
    uint64_t dpooled;  /* float [2 n, hidden] */
    uint64_t sums;     /* double [gridDim.x, KIUNGO_CONTRAST_SUMS] */
    uint32_t tokens;
    uint32_t hidden;
    uint32_t pooling;
    uint32_t triplet;  /* 1: the hardest negative's, 0: InfoNCE */
    float min_norm;
    uint32_t unused;
    InBatchParams loss;  /* similarity, dsimilarity and workspace are not read */
} ContrastParams;

/* triplet.cu, one block a triplet */
typedef struct TripletGivenParams {
    uint64_t anchor;       /* float [n, hidden], as all rows */
    uint64_t positive;
    uint64_t negative;
    uint64_t loss;         /* float [1] */
    uint64_t danchor;
    uint64_t dpositive;
    uint64_t dnegative;
    uint64_t workspace;    /* n doubles */
    uint32_t n;
    uint32_t hidden;
    float margin;
    uint32_t unused;
} TripletGivenParams;

/* attention.cu, one warp a token and head; attention_sm80.cu and attention_backward_sm80.cu, one block a tile */
typedef struct AttentionParams {
    uint64_t q;          /* T [tokens, query_heads, dim], as o, d_o and dq */
    uint64_t k;          /* T [tokens, key_value_heads, dim], as v, dk and dv */
    uint64_t v;
    uint64_t o;
    uint64_t lse;        /* float [tokens, query_heads] */
    uint64_t positions;  /* uint32 [tokens] */
    uint64_t ends;       /* uint32 [tokens]: the end of each token's sequence */
    uint64_t d_o;        /* backward, as all below */
    uint64_t dq;
    uint64_t dk;
    uint64_t dv;
    uint64_t delta;      /* float [tokens, query_heads], written with dq, read with dk and dv */
    uint32_t tokens;
    uint32_t query_heads;
    uint32_t key_value_heads;
    uint32_t group;            /* query heads a key head */
    uint32_t group_reciprocal; /* ceil(2^32 / group), 0 for a group of one */
    uint32_t dim;
    float scale;               /* of scores */
    float scale_log2;          /* scale times log2 e */
} AttentionParams;

/* attention_sm90.cu */
typedef struct AttentionSm90Params {
    TensorMap k;  /* boxes of KIUNGO_ATTENTION_KEYS keys and 64 features */
    TensorMap v;  /* boxes of 64 keys and 64 features */
    AttentionParams attention;
    uint64_t taken;  /* uint32 [1]: tiles that blocks have taken, 0 before the launch */
    uint32_t unused[14];
} AttentionSm90Params;
#define KIUNGO_ATTENTION_KEYS 128

/* attention_statistics_sm90.cu and attention_backward_sm90.cu. Queries pass in tiles of KIUNGO_ATTENTION_PASSING elements of one head */
#define KIUNGO_ATTENTION_PASSING 8192
typedef struct AttentionBackwardSm90Params {
    TensorMap q;  /* boxes of a tile's queries and 64 features */
    TensorMap d_o;
    TensorMap k;  /* boxes of KIUNGO_ATTENTION_KEYS keys and 64 features */
    TensorMap v;
    AttentionParams attention;
    uint64_t statistics;  /* float [query_heads, tiles, 2, queries of a tile]: lse times log2 e, delta */
    uint64_t sums;        /* float [query_heads, tiles, KIUNGO_ATTENTION_PASSING]: dq, as tile/ordered_sum.cuh lays it out */
    uint64_t turns;       /* uint32 [query_heads, tiles]: blocks that have added to a tile; and [1]: blocks that have begun */
    uint32_t tiles;       /* of queries */
    uint32_t unused[9];
} AttentionBackwardSm90Params;

/* cross_entropy.cu: rows of logits, one block a row; the label of a token that is not counted */
#define KIUNGO_IGNORE_LABEL 0xFFFFFFFFu
typedef struct CrossEntropyParams {
    uint64_t logits;   /* float [rows, vocab] of tokens first, first + 1, ... */
    uint64_t dlogits;  /* T [rows, vocab], their gradient; float takes the place of the logits */
    uint64_t labels;   /* uint32 [tokens] */
    uint64_t counted;  /* double [1]: tokens that are counted, at least 1 */
    uint64_t terms;    /* double [tokens] */
    uint64_t loss;     /* float [1] */
    uint32_t tokens;
    uint32_t vocab;
    uint32_t first;
    uint32_t unused;
} CrossEntropyParams;

/* similarity.cu, one block a row */
typedef struct TopKParams {
    uint64_t similarity;  /* float [rows, candidates] */
    uint64_t scores;      /* float [rows, k] */
    uint64_t indices;     /* uint32 [rows, k] */
    uint32_t candidates;
    uint32_t k;
} TopKParams;

#endif
