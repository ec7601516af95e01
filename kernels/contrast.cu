// The loss of few pairs from the states of their tokens, and back: what pooling, cosine, pairs, infonce or triplet and pooling again
// do in eight launches, of which each waits for the one before to begin and to end. Here a block has a strip of columns of all
// texts, leaves its part of every dot product, and in the second launch each block adds those up and knows all cosines, the
// loss and the gradient of both: 16 KB of sums, read by every block, are quicker than another launch.
//
// Sums are double throughout, so cosines come from the vectors as they are, of which only the products know the length.
#include "kernel.cuh"
#include "tile/in_batch.cuh"
#include "tile/pooled.cuh"

constexpr uint32_t PAIRS = KIUNGO_CONTRAST_PAIRS, TEXTS = 2 * PAIRS, COLUMNS = KIUNGO_CONTRAST_COLUMNS;
constexpr uint32_t SUMS = KIUNGO_CONTRAST_SUMS, SQUARES = PAIRS * PAIRS;  // where the squares begin
constexpr uint32_t THREADS = TEXTS * COLUMNS / 8;
static_assert(THREADS == PAIRS * 32 && COLUMNS == 128, "a warp a pair, four columns a lane");

// A thread has eight columns of a text.
struct Place {
    uint32_t text = threadIdx.x / (COLUMNS / 8), in_strip = threadIdx.x % (COLUMNS / 8) * 8;
    uint32_t column = blockIdx.x * COLUMNS + in_strip;

    __device__ __forceinline__ bool is_inside(const ContrastParams& p) const { return text < 2 * p.loss.n && column < p.hidden; }
    __device__ __forceinline__ size_t at(const ContrastParams& p) const { return (size_t)text * p.hidden + column; }
    __device__ __forceinline__ Kept kept(const ContrastParams& p) const {
        return Kept(reinterpret_cast<const uint32_t*>(p.offsets), text, p.pooling);
    }
};

// Means, and this strip's part of the products: a warp's source with all targets, and the squares of both of its pair.
template <class T> __device__ __forceinline__ void contrast_forward(const ContrastParams& p) {
    __shared__ __align__(16) float strip[TEXTS][COLUMNS];
    const Place place;
    Eight mean = {};
    if (place.is_inside(p)) {
        mean = mean_of(reinterpret_cast<const T*>(p.h), p.hidden, place.column, place.kept(p));
        store_eight(reinterpret_cast<float*>(p.pooled) + place.at(p), mean);
    }
    store_eight(&strip[place.text][place.in_strip], mean);
    __syncthreads();
    const uint32_t n = p.loss.n, pair = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (pair >= n) return;
    const auto four = [&](uint32_t text) { return load_16(&strip[text][lane * 4]); };
    const auto dot = [](const uint4& a, const uint4& b) {
        const auto product = [](uint32_t a, uint32_t b) { return (double)__uint_as_float(a) * (double)__uint_as_float(b); };
        return (product(a.x, b.x) + product(a.y, b.y)) + (product(a.z, b.z) + product(a.w, b.w));
    };
    const uint4 source = four(pair), target = four(n + pair);
    double* sums = reinterpret_cast<double*>(p.sums) + (size_t)blockIdx.x * SUMS;
    double mine = 0.0;  // lane i keeps the i-th
#pragma unroll
    for (uint32_t i = 0; i < PAIRS; i++) {
        const double sum = warp_sum(dot(source, four(n + i < TEXTS ? n + i : 0)));
        if (lane == i) mine = sum;
    }
    const double squares[2] = {warp_sum(dot(source, source)), warp_sum(dot(target, target))};
    if (lane < n) sums[pair * PAIRS + lane] = mine;
    if (lane < 2) sums[SQUARES + lane * n + pair] = lane ? squares[1] : squares[0];
}

SMALL_KERNEL(contrast_forward_f32, ContrastParams, THREADS) { contrast_forward<float>(p); }
SMALL_KERNEL(contrast_forward_bf16, ContrastParams, THREADS) { contrast_forward<bf16>(p); }

// The i-th of the sums over all strips, in their order.
__device__ __forceinline__ double sum_of_strips(const ContrastParams& p, uint32_t i) {
    constexpr uint32_t AT_ONCE = 16;  // loads under way
    const double* sums = reinterpret_cast<const double*>(p.sums) + i;
    double sum = 0.0;
    for (uint32_t first = 0; first < gridDim.x; first += AT_ONCE) {
        double some[AT_ONCE];
#pragma unroll
        for (uint32_t j = 0; j < AT_ONCE; j++) some[j] = first + j < gridDim.x ? sums[(size_t)(first + j) * SUMS] : 0.0;
#pragma unroll
        for (uint32_t j = 0; j < AT_ONCE; j++) sum += some[j];
    }
    return sum;
}

// What all blocks find out, each for itself.
struct Cosines {
    double sums[SUMS];
    double terms[TEXTS], normalisers[TEXTS];  // of lines
    uint32_t hardest[TEXTS];
    float similarity[SQUARES], gradient[SQUARES];  // [n, n]
    float along[TEXTS];                            // of a text's gradient, along the text
};

template <class T> __device__ __forceinline__ void contrast_backward(const ContrastParams& p) {
    __shared__ Cosines c;
    __shared__ __align__(16) float strip[TEXTS][COLUMNS];  // of length 1
    const uint32_t n = p.loss.n, me = threadIdx.x;
    const Place place;
    Packed<float> mine = {};
    if (place.is_inside(p)) mine = load_packed(reinterpret_cast<const float*>(p.pooled) + place.at(p));
    if (me < SQUARES ? me / PAIRS < n && me % PAIRS < n : me < SQUARES + 2 * n) c.sums[me] = sum_of_strips(p, me);
    __syncthreads();
    const auto norm = [&](uint32_t text) { return (float)sqrt(c.sums[SQUARES + text]); };
    const auto length = [&](uint32_t text) { return fmaxf(norm(text), p.min_norm); };
    if (me < n * n) {
        const uint32_t i = me / n, j = me % n;
        c.similarity[me] = (float)(c.sums[i * PAIRS + j] / ((double)length(i) * (double)length(n + j)));
    }
    Eight unit = unpack(mine);
    const float my_length = place.text < 2 * n ? length(place.text) : 1.0f;
#pragma unroll
    for (int j = 0; j < 8; j++) unit.v[j] /= my_length;
    store_eight(&strip[place.text][place.in_strip], unit);
    __syncthreads();
    InBatchParams loss = p.loss;
    loss.similarity = reinterpret_cast<uint64_t>(c.similarity);
    for (uint32_t side = 0; side < loss.sides && me / 32 < n; side++) {
        const Line line(loss, me / 32, side);
        const uint32_t at = side * n + me / 32;
        if (p.triplet) {
            const Hinge hinge = Hinge::of(loss, line);
            if (me % 32 == 0) c.terms[at] = hinge.value, c.hardest[at] = hinge.negative;
        } else {
            const double normaliser = normaliser_of<ByWarp>(loss, line);
            if (me % 32 == 0) c.terms[at] = normaliser - logit(loss, line.value(line.pair)), c.normalisers[at] = normaliser;
        }
    }
    __syncthreads();
    if (me < n * n) {
        const uint32_t i = me / n, j = me % n;
        c.gradient[me] = p.triplet ? triplet_gradient_at(loss, i, j, c.hardest) : infonce_gradient_at(loss, i, j, c.normalisers);
    }
    if (blockIdx.x == 0) mean_of_terms(c.terms, loss.sides * n, reinterpret_cast<float*>(loss.loss));
    __syncthreads();
    // Element (text, k) of the gradient's matrix, from the text's point of view: sources have rows, targets columns.
    const auto entry = [&](uint32_t text, uint32_t k) { return text < n ? text * n + k : k * n + text - n; };
    if (me < 2 * n) {
        double sum = 0.0;
        for (uint32_t k = 0; k < n; k++) sum += (double)c.gradient[entry(me, k)] * (double)c.similarity[entry(me, k)];
        c.along[me] = norm(me) < p.min_norm ? 0.0f : (float)sum;
    }
    __syncthreads();
    T* dh = reinterpret_cast<T*>(p.dh);
    if (place.is_inside(p)) {
        const Eight unit = load_eight(&strip[place.text][place.in_strip]);
        Eight d = {};
        for (uint32_t k = 0; k < n; k++) {
            const Eight other = load_eight(&strip[place.text < n ? n + k : k][place.in_strip]);
            const float weight = c.gradient[entry(place.text, k)];
#pragma unroll
            for (int j = 0; j < 8; j++) d.v[j] += weight * other.v[j];
        }
#pragma unroll
        for (int j = 0; j < 8; j++) d.v[j] = (d.v[j] - unit.v[j] * c.along[place.text]) / my_length;
        store_eight(reinterpret_cast<float*>(p.dpooled) + place.at(p), d);
        share_among(dh, p.hidden, place.column, place.kept(p), d);
    }
    // Tokens of no text.
    const uint32_t texts_end = reinterpret_cast<const uint32_t*>(p.offsets)[2 * n];
    for (uint32_t t = texts_end + place.text; t < p.tokens && place.column < p.hidden; t += TEXTS) {
        store_packed(dh + (size_t)t * p.hidden + place.column, Packed<T>{});
    }
}

SMALL_KERNEL(contrast_backward_f32, ContrastParams, THREADS) { contrast_backward<float>(p); }
SMALL_KERNEL(contrast_backward_bf16, ContrastParams, THREADS) { contrast_backward<bf16>(p); }
