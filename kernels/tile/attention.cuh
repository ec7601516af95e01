// Which queries see which keys, in causal attention over packed sequences with grouped heads.
//
// The queries of a group of heads share one key head, so they are the rows of one matrix: row r is head r % group of
// token r / group. Tiles cut the rows of all sequences together: a tile may hold the end of one sequence and many short
// ones, its keys are those from the start of its first token's sequence to its last token, and each row sees of them
// those of its own sequence up to its own token. No list of tiles is needed, and short sequences fill tiles.
#pragma once
#include "kernel.cuh"
#include "ptx/thread.cuh"

constexpr int ATTENTION_WARPS = 4;
constexpr int ATTENTION_THREADS = ATTENTION_WARPS * 32;
constexpr float LOG2_E = 1.4426950408889634f;

// The first of this warp's rows in a tile.
template <int M_TILES> __device__ __forceinline__ uint32_t warp_row() { return fresh_thread() / 32 * (M_TILES * 16); }

// The rows of a key head.
struct QueryRows {
    const AttentionParams& p;
    uint32_t head;

    __device__ __forceinline__ uint32_t count() const { return p.tokens * p.group; }
    // r / group: exact while r * group < 2^32.
    __device__ __forceinline__ uint32_t token(uint32_t row) const {
        return p.group == 1 ? row : __umulhi(row, p.group_reciprocal);
    }
    // The row's place among [tokens, query_heads].
    __device__ __forceinline__ uint32_t at(uint32_t row) const {
        return row + (token(row) * (p.key_value_heads - 1) + head) * p.group;
    }
};

// The keys of a key head.
struct KeyRows {
    const AttentionParams& p;
    uint32_t head;

    __device__ __forceinline__ uint32_t count() const { return p.tokens; }
    // The key's place among [tokens, key_value_heads].
    __device__ __forceinline__ uint32_t at(uint32_t key) const { return key * p.key_value_heads + head; }
};

// The queries of one head.
struct TokenRows {
    const AttentionParams& p;
    uint32_t head;

    __device__ __forceinline__ uint32_t count() const { return p.tokens; }
    // The query's place among [tokens, query_heads].
    __device__ __forceinline__ uint32_t at(uint32_t token) const { return token * p.query_heads + head; }
};

// What lines of a matrix of scores touch on its other side.
struct Reach {
    uint32_t first, end;          // what any of them sees
    uint32_t all_first, all_end;  // what all of them see

    __device__ __forceinline__ bool all(uint32_t from, uint32_t count) const {
        return from >= all_first && from + count <= all_end;
    }
};

__device__ __forceinline__ uint32_t sequence_start(const AttentionParams& p, uint32_t token) {
    return token - reinterpret_cast<const uint32_t*>(p.positions)[token];
}
__device__ __forceinline__ uint32_t sequence_end(const AttentionParams& p, uint32_t token) {
    return reinterpret_cast<const uint32_t*>(p.ends)[token];
}

// The keys that rows row..row + count see. Rows beyond the last one stand for it.
__device__ __forceinline__ Reach keys_seen(const QueryRows& rows, uint32_t row, uint32_t count) {
    const AttentionParams& p = rows.p;
    const uint32_t first = rows.token(min(row, rows.count() - 1)), last = rows.token(min(row + count, rows.count()) - 1);
    return {sequence_start(p, first), last + 1, sequence_start(p, last), first + 1};
}

// The rows that see keys key..key + count.
__device__ __forceinline__ Reach rows_seeing(const QueryRows& rows, uint32_t key, uint32_t count) {
    const AttentionParams& p = rows.p;
    const uint32_t first = min(key, p.tokens - 1), last = min(key + count, p.tokens) - 1;
    return {first * p.group, sequence_end(p, last) * p.group, last * p.group, sequence_end(p, first) * p.group};
}

// For each of this lane's lines of a product, i * 8 + lane / 4 of the warp's: from where on, and how much, it sees of the
// other side. Asked for where a tile needs a mask alone, lest it take registers in the others.
template <int M_TILES> struct Visible {
    uint32_t from[M_TILES * 2], count[M_TILES * 2];

    static __device__ __forceinline__ Visible keys(const QueryRows& rows, uint32_t first) {
        Visible v;
#pragma unroll
        for (int i = 0; i < M_TILES * 2; i++) {
            const uint32_t token = rows.token(min(first + i * 8 + fresh_thread() % 32 / 4, rows.count() - 1));
            v.from[i] = sequence_start(rows.p, token);
            v.count[i] = token + 1 - v.from[i];
        }
        return v;
    }
    static __device__ __forceinline__ Visible rows(const QueryRows& rows, uint32_t first) {
        Visible v;
#pragma unroll
        for (int i = 0; i < M_TILES * 2; i++) {
            const uint32_t key = first + i * 8 + fresh_thread() % 32 / 4;
            v.from[i] = key * rows.p.group;
            v.count[i] = key < rows.p.tokens ? (sequence_end(rows.p, key) - key) * rows.p.group : 0;
        }
        return v;
    }

    // The queries of one head that keys first, first + 1, ... are seen by.
    static __device__ __forceinline__ Visible tokens(const AttentionParams& p, uint32_t first) {
        Visible v;
#pragma unroll
        for (int i = 0; i < M_TILES * 2; i++) {
            const uint32_t key = first + i * 8 + fresh_thread() % 32 / 4;
            v.from[i] = key;
            v.count[i] = key < p.tokens ? sequence_end(p, key) - key : 0;
        }
        return v;
    }

    // Puts `hidden` where line and column do not see each other; columns begin at `column`.
    template <int N> __device__ __forceinline__ void mask(float (&s)[M_TILES][N][4], uint32_t column, float hidden) const {
        column += fresh_thread() % 4 * 2;
#pragma unroll
        for (int i = 0; i < M_TILES * 2; i++) {
#pragma unroll
            for (int j = 0; j < N * 2; j++) {
                float& value = s[i / 2][j / 2][i % 2 * 2 + j % 2];
                if (column + j / 2 * 8 + j % 2 - from[i] >= count[i]) value = hidden;
            }
        }
    }
};
