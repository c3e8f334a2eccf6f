// Attention over a cache of signed bytes.
// Queries become whole numbers with one scale a row, weights times the values' scales likewise, of 14 bits; so sums of
// products are exact, whatever the tile, and the cache is read in place.
#pragma once

namespace {

constexpr int kWeightRadix = 128;  // a weight is 128 * high + low, both in [0, 127]

template <int ROWS, int PLANES, int VECTORS>
void score_tile(const uint8_t* const* blocks, const uint8_t* const* ahead, int64_t dim, const int8_t* q, const int32_t* isums, const float* scales,
                float* scores) {
  Sums sums[ROWS][PLANES][VECTORS];
  UNROLL for (int r = 0; r < ROWS; r++)
    UNROLL for (int p = 0; p < PLANES; p++)
      UNROLL for (int v = 0; v < VECTORS; v++) clear(sums[r][p][v]);
  const uint8_t *at[VECTORS], *next[VECTORS];
  UNROLL for (int v = 0; v < VECTORS; v++) at[v] = blocks[v], next[v] = ahead ? ahead[v] : blocks[v];
  for (int64_t d = 0; d < dim; d += 4) {
    Bytes8 keys[VECTORS];
    UNROLL for (int v = 0; v < VECTORS; v++) {
      keys[v] = as_bytes(load_words(at[v] + d * kBlock));
      if (ahead) ask_for(next[v] + d * kBlock);
    }
    UNROLL for (int r = 0; r < ROWS; r++)
      UNROLL for (int p = 0; p < PLANES; p++) {
        const Four four = set_four(q + (r * PLANES + p) * dim + d);
        UNROLL for (int v = 0; v < VECTORS; v++) dot(sums[r][p][v], keys[v], four);
      }
  }
  UNROLL for (int v = 0; v < VECTORS; v++) {
    const F scale = load((const float*)(at[v] + dim * kBlock));
    if (ahead) ask_for(next[v] + dim * kBlock);
    UNROLL for (int r = 0; r < ROWS; r++) {
      F sum = finish_bytes(sums[r][0][v], isums[r * PLANES]);
      if constexpr (PLANES == 2)
        sum = fma(sum, set1((float)kRadix), finish_bytes(sums[r][1][v], isums[r * PLANES + 1]));
      store(scores + r * kSplit + v * kBlock, mul(sum, mul(scale, set1(scales[r]))));
    }
  }
}

template <int ROWS, int VECTORS>
void mix_tile(const uint8_t* const* blocks, const uint8_t* const* ahead, int64_t dim, int64_t first, const uint8_t* weights, int from, int to,
              const float* scales, float* out, int64_t stride) {
  Sums sums[ROWS][2][VECTORS];
  UNROLL for (int r = 0; r < ROWS; r++)
    UNROLL for (int p = 0; p < 2; p++)
      UNROLL for (int v = 0; v < VECTORS; v++) clear(sums[r][p][v]);
  for (int t = from; t < to; t += 4) {
    Words values[VECTORS];
    const int64_t place = t % kBlock * dim + first * 4;
    UNROLL for (int v = 0; v < VECTORS; v++) {
      values[v] = load_words(blocks[t / kBlock] + place + v * 64);
      if (ahead) ask_for(ahead[t / kBlock] + place + v * 64);
    }
    UNROLL for (int r = 0; r < ROWS; r++)
      UNROLL for (int p = 0; p < 2; p++) {
        const Four four = set_four((const int8_t*)weights + (r * 2 + p) * kSplit + t);
        UNROLL for (int v = 0; v < VECTORS; v++) dot_positive(sums[r][p][v], values[v], four);
      }
  }
  UNROLL for (int r = 0; r < ROWS; r++)
    UNROLL for (int v = 0; v < VECTORS; v++) {
      const F sum = fma(finish_bytes(sums[r][0][v], 0), set1((float)kWeightRadix), finish_bytes(sums[r][1][v], 0));
      store(out + r * stride + v * kLanes, mul(sum, set1(scales[r])));
    }
}

template <int... HEIGHTS>
struct Heights {};
#if SLIPWAY_INT_TILE_ROWS >= 6
using NarrowHeights = Heights<1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12>;
using WideHeights = Heights<1, 2, 3, 4, 5, 6>;
using FewHeights = Heights<1, 2, 3>;
#else
using NarrowHeights = Heights<1, 2, 3, 4>;
using WideHeights = Heights<1, 2>;
using FewHeights = Heights<1>;
#endif
using ScoreTile = void (*)(const uint8_t* const*, const uint8_t* const*, int64_t, const int8_t*, const int32_t*, const float*, float*);
using MixTile = void (*)(const uint8_t* const*, const uint8_t* const*, int64_t, int64_t, const uint8_t*, int, int,
                         const float*, float*, int64_t);

template <int PLANES, int VECTORS, int... HEIGHTS>
ScoreTile score_tile_of(int rows, Heights<HEIGHTS...>) {
  static const ScoreTile tiles[] = {score_tile<HEIGHTS, PLANES, VECTORS>...};
  return tiles[rows - 1];
}

template <int VECTORS, int... HEIGHTS>
MixTile mix_tile_of(int rows, Heights<HEIGHTS...>) {
  static const MixTile tiles[] = {mix_tile<HEIGHTS, VECTORS>...};
  return tiles[rows - 1];
}

template <int PLANES, class Tallest>
ScoreTile score_tile_for(int rows, int vectors, Tallest heights) {
  if (vectors == 1) return score_tile_of<PLANES, 1>(rows, heights);
  if (rows <= kFewRows && vectors == kFewVectors) return score_tile_of<PLANES, kFewVectors>(rows, FewHeights());
  return score_tile_of<PLANES, kAttendVectors>(rows, heights);
}

// Scores of the keys of a split; `ahead` says what to ask for meanwhile, block by block.
void score(const Attend& a, const Split& s, const uint8_t* const* ahead, const int8_t* q, const int32_t* isums,
           const float* scales, int rows, float* scores) {
  const int most = a.planes == 2 ? kAttendRows / 2 : kAttendRows, tiles = (rows + most - 1) / most;
  const int step = rows <= kFewRows ? kFewVectors : kAttendVectors;
  const int64_t dim = a.padded_dim;
  for (int block = s.first; block < s.end;) {
    const int vectors = s.end - block >= step ? step : 1;
    for (int t = 0, row = 0; t < tiles; t++) {
      const int height = rows * (t + 1) / tiles - row;
      const ScoreTile run = a.planes == 2 ? score_tile_for<2>(height, vectors, WideHeights())
                                          : score_tile_for<1>(height, vectors, NarrowHeights());
      run(s.keys + block, t ? nullptr : ahead + block, dim, q + row * a.planes * dim, isums + row * a.planes,
          scales + row, scores + row * kSplit + block * kBlock);
      row += height;
    }
    block += vectors;
  }
}

// A row's weights times the values' scales as whole numbers; the scale is returned. A slot that the row does not see
// may hold any scale.
float weigh(const Split& s, int64_t dim, float* weights, uint8_t* out) {
  const int from = s.first * kBlock, to = s.end * kBlock;
  F most = zero();
  for (int i = from; i < to; i += kLanes) {
    const F weight = load(weights + i), scale = load((const float*)(s.values[i / kBlock] + dim * kBlock));
    const F product = where_less(zero(), weight, mul(weight, scale), zero());
    store(weights + i, product);
    most = max(most, product);
  }
  const float largest = max_of(most), full = 127.0f * kWeightRadix + 127;
  float inverse = largest > 0 ? full / largest : 0.0f;
  if (!(inverse < 3.0e38f)) inverse = 0.0f;
  for (int i = from; i < to; i += kLanes) {
    const F number = round(mul(load(weights + i), set1(inverse)));
    const F high = round(fma(number, set1(1.0f / kWeightRadix), set1(-63.5f / kWeightRadix)));
    store_s8((int8_t*)out + i, high);
    store_s8((int8_t*)out + kSplit + i, fma(high, set1(-(float)kWeightRadix), number));
  }
  return inverse > 0 ? largest / full : 0.0f;
}

// What the rows take of a split's values.
void mix(const Split& s, const uint8_t* const* ahead, int64_t dim, const uint8_t* weights, const float* scales, int rows,
         float* out, int64_t stride) {
  const int most = kAttendRows / 2, tiles = (rows + most - 1) / most;
  const int step = rows <= kFewRows ? kFewVectors : kAttendVectors;
  for (int64_t first = 0; first < dim;) {
    const int64_t vectors = (dim - first) / kLanes >= step ? step : 1;
    for (int t = 0, row = 0; t < tiles; t++) {
      const int height = rows * (t + 1) / tiles - row;
      const MixTile run = vectors == 1       ? mix_tile_of<1>(height, WideHeights())
                          : rows <= kFewRows ? mix_tile_of<kFewVectors>(height, FewHeights())
                                             : mix_tile_of<kAttendVectors>(height, WideHeights());
      run(s.values, t ? nullptr : ahead, dim, first, weights + row * 2 * kSplit, s.first * kBlock, s.to, scales + row,
          out + row * stride + first, stride);
      row += height;
    }
    first += vectors * kLanes;
  }
}

}  // namespace
