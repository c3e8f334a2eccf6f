// Attention of few queries over a cache of floats, read in place: the same sums in the same order as by tiles.
#pragma once

namespace {

template <Kv KV>
F load_kv(const uint8_t* p, int64_t element) {
  if constexpr (KV == kKvF16) return load_f16(halves(p) + element);
  else return load((const float*)p + element);
}

template <Kv KV, int ROWS, int VECTORS>
void score_few(const uint8_t* const* blocks, const uint8_t* const* ahead, int64_t dim, const float* query, float* scores) {
  constexpr int kBytes = KV == kKvF16 ? 2 : 4;
  F sums[ROWS][VECTORS];
  UNROLL for (int r = 0; r < ROWS; r++)
    UNROLL for (int v = 0; v < VECTORS; v++) sums[r][v] = zero();
  const uint8_t *at[VECTORS], *next[VECTORS];
  UNROLL for (int v = 0; v < VECTORS; v++) at[v] = blocks[v], next[v] = ahead[v];
  for (int64_t d = 0; d < dim; d++) {
    F keys[VECTORS];
    UNROLL for (int v = 0; v < VECTORS; v++) {
      keys[v] = load_kv<KV>(at[v], d * kBlock);
      if (KV == kKvF32 || d % 2 == 0) ask_for(next[v] + d * kBlock * kBytes);
    }
    UNROLL for (int r = 0; r < ROWS; r++) {
      const F x = set1(query[r * dim + d]);
      UNROLL for (int v = 0; v < VECTORS; v++) sums[r][v] = fma(x, keys[v], sums[r][v]);
    }
  }
  UNROLL for (int r = 0; r < ROWS; r++)
    UNROLL for (int v = 0; v < VECTORS; v++) store(scores + r * kSplit + v * kBlock, sums[r][v]);
}

template <Kv KV, int ROWS, int VECTORS>
void mix_few(const uint8_t* const* blocks, const uint8_t* const* ahead, int64_t dim, int64_t first, const float* weights,
             int from, int to, float* out, int64_t stride) {
  constexpr int kBytes = KV == kKvF16 ? 2 : 4;
  F sums[ROWS][VECTORS];
  UNROLL for (int r = 0; r < ROWS; r++)
    UNROLL for (int v = 0; v < VECTORS; v++) sums[r][v] = zero();
  for (int t = from; t < to; t++) {
    const int64_t place = t % kBlock * dim + first;
    F values[VECTORS];
    UNROLL for (int v = 0; v < VECTORS; v++) {
      values[v] = load_kv<KV>(blocks[t / kBlock], place + v * kLanes);
      if (KV == kKvF32 || v % 2 == 0) ask_for(ahead[t / kBlock] + (place + v * kLanes) * kBytes);
    }
    UNROLL for (int r = 0; r < ROWS; r++) {
      const F x = set1(weights[r * kSplit + t]);
      UNROLL for (int v = 0; v < VECTORS; v++) sums[r][v] = fma(x, values[v], sums[r][v]);
    }
  }
  UNROLL for (int r = 0; r < ROWS; r++)
    UNROLL for (int v = 0; v < VECTORS; v++) store(out + r * stride + v * kLanes, sums[r][v]);
}

using ScoreFew = void (*)(const uint8_t* const*, const uint8_t* const*, int64_t, const float*, float*);
using MixFew = void (*)(const uint8_t* const*, const uint8_t* const*, int64_t, int64_t, const float*, int, int, float*, int64_t);

template <int... ROWS>
struct Numbers {};
#if SLIPWAY_TILE_ROWS >= 12
using FewRows = Numbers<1, 2, 3, 4, 5, 6, 7, 8>;
#else
using FewRows = Numbers<1, 2, 3, 4>;
#endif

template <Kv KV, int VECTORS, int... ROWS>
ScoreFew score_few_of(int rows, Numbers<ROWS...>) {
  static const ScoreFew kernels[] = {score_few<KV, ROWS, VECTORS>...};
  return kernels[rows - 1];
}

template <Kv KV, int VECTORS, int... ROWS>
MixFew mix_few_of(int rows, Numbers<ROWS...>) {
  static const MixFew kernels[] = {mix_few<KV, ROWS, VECTORS>...};
  return kernels[rows - 1];
}

template <Kv KV>
void score_few(const Split& s, const uint8_t* const* ahead, int64_t dim, const float* query, int rows, float* scores) {
  const int step = rows <= kFewRows ? kFewVectors : kAttendVectors;
  for (int block = s.first; block < s.end;) {
    const int left = s.end - block, vectors = left >= step ? step : 1;
    const ScoreFew run = vectors == 1             ? score_few_of<KV, 1>(rows, FewRows())
                         : vectors == kFewVectors ? score_few_of<KV, kFewVectors>(rows <= kFewRows ? rows : 1, FewRows())
                                                  : score_few_of<KV, kAttendVectors>(rows, FewRows());
    run(s.keys + block, ahead + block, dim, query, scores + block * kBlock);
    block += vectors;
  }
}

template <Kv KV>
void mix_few(const Split& s, const uint8_t* const* ahead, int64_t dim, const float* weights, int rows, float* out,
             int64_t stride) {
  const int step = rows <= kFewRows ? kFewVectors : kAttendVectors;
  for (int64_t first = 0; first < dim;) {
    const int64_t left = (dim - first) / kLanes, vectors = left >= step ? step : 1;
    const MixFew run = vectors == 1             ? mix_few_of<KV, 1>(rows, FewRows())
                       : vectors == kFewVectors ? mix_few_of<KV, kFewVectors>(rows <= kFewRows ? rows : 1, FewRows())
                                                : mix_few_of<KV, kAttendVectors>(rows, FewRows());
    run(s.values, ahead, dim, first, weights, s.from, s.to, out + first, stride);
    first += vectors * kLanes;
  }
}

}  // namespace
