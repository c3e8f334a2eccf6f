// Linears with inputs as whole numbers.
#pragma once

namespace {

template <bool FIRST, class A, class B> struct Choose { using Type = A; };
template <class A, class B> struct Choose<false, A, B> { using Type = B; };

// Integer tile: sums over a block of 32 are exact, then enter the float sum with the scales of both sides.
template <Format FORMAT, int ROWS, int VECTORS, int PLANES>
void int_tile(const uint8_t* panel, const uint8_t* ahead, int lines, int first, const QuantisedRows& x, int row, float* out) {
  constexpr bool kBytes = FORMAT == kQ8_0;
  constexpr int kHeader = FORMAT == kQ4_1 ? 128 : 64, kQuads = kBytes ? 8 : 4;
  using Weights = typename Choose<kBytes, Bytes8, Bytes4>::Type;
  using Whole = typename Choose<kBytes, Sums, NibbleSums>::Type;
  const int64_t plane = x.groups * kGroup, ldq = plane * PLANES;
  const int8_t* q = x.q + row * ldq;
  const int32_t* isums = x.isum + row * x.groups * PLANES;
  const float *scales = x.scale + row * x.groups, *lows = x.sum + row * x.groups;
  F sums[ROWS][VECTORS];
  UNROLL for (int r = 0; r < ROWS; r++)
    UNROLL for (int v = 0; v < VECTORS; v++) sums[r][v] = zero();
  for (int64_t g = 0; g < x.groups; g++, panel += group_bytes(FORMAT), q += kGroup) {
    for (int i = 0; i < lines; i++, ahead += 64) __builtin_prefetch(ahead, 0, 3);
    Whole whole[ROWS][PLANES][VECTORS];
    UNROLL for (int r = 0; r < ROWS; r++)
      UNROLL for (int p = 0; p < PLANES; p++)
        UNROLL for (int v = 0; v < VECTORS; v++) clear(whole[r][p][v]);
    auto add_quad = [&](const Weights(&weights)[VECTORS], int k) __attribute__((always_inline)) {
      UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int p = 0; p < PLANES; p++) {
          const Four four = set_four(q + r * ldq + p * plane + k);
          UNROLL for (int v = 0; v < VECTORS; v++) dot(whole[r][p][v], weights[v], four);
        }
    };
    UNROLL for (int j = 0; j < kQuads; j++) {
      Words words[VECTORS];
      Weights weights[VECTORS];
      UNROLL for (int v = 0; v < VECTORS; v++) words[v] = load_words(panel + kHeader + j * 128 + (first + v) * 64);
      if constexpr (kBytes) {
        UNROLL for (int v = 0; v < VECTORS; v++) weights[v] = as_bytes(words[v]);
        add_quad(weights, 4 * j);
      } else {
        UNROLL for (int v = 0; v < VECTORS; v++) weights[v] = low_nibbles(words[v]);
        add_quad(weights, 4 * j);
        UNROLL for (int v = 0; v < VECTORS; v++) weights[v] = high_nibbles(words[v]);
        add_quad(weights, 16 + 4 * j);
      }
    }
    auto finished = [&](const Whole& sum, int r, int p) __attribute__((always_inline)) {
      const int32_t isum = isums[(r * PLANES + p) * x.groups + g];
      if constexpr (kBytes) return finish_bytes(sum, isum);
      else return finish_nibbles(sum, FORMAT == kQ4_0 ? 8 * isum : 0);
    };
    UNROLL for (int v = 0; v < VECTORS; v++) {
      const F scale = load_f16(halves(panel) + (first + v) * kLanes);
      UNROLL for (int r = 0; r < ROWS; r++) {
        F product = finished(whole[r][0][v], r, 0);
        if constexpr (PLANES == 2) product = fma(product, set1((float)kRadix), finished(whole[r][1][v], r, 1));
        sums[r][v] = fma(product, mul(scale, set1(scales[r * x.groups + g])), sums[r][v]);
      }
      if constexpr (FORMAT == kQ4_1) {
        const F low = load_f16(halves(panel) + kPanel + (first + v) * kLanes);
        UNROLL for (int r = 0; r < ROWS; r++) sums[r][v] = fma(low, set1(lows[r * x.groups + g]), sums[r][v]);
      }
    }
  }
  UNROLL for (int r = 0; r < ROWS; r++)
    UNROLL for (int v = 0; v < VECTORS; v++) store(out + r * kPanel + v * kLanes, sums[r][v]);
}

using IntTile = void (*)(const uint8_t*, const uint8_t*, int, int, const QuantisedRows&, int, float*);

template <Format FORMAT>
IntTile int_tile_of(int rows, int planes) {
  static const IntTile narrow[] = {int_tile<FORMAT, 1, kIntTileVectors, 1>, int_tile<FORMAT, 2, kIntTileVectors, 1>,
#if SLIPWAY_INT_TILE_ROWS >= 3
                                   int_tile<FORMAT, 3, kIntTileVectors, 1>,
#endif
#if SLIPWAY_INT_TILE_ROWS >= 6
                                   int_tile<FORMAT, 4, kIntTileVectors, 1>, int_tile<FORMAT, 5, kIntTileVectors, 1>,
                                   int_tile<FORMAT, 6, kIntTileVectors, 1>,
#endif
  };
  static const IntTile wide[] = {int_tile<FORMAT, 1, kIntTileVectors, 2>,
#if SLIPWAY_INT_TILE_ROWS >= 6
                                 int_tile<FORMAT, 2, kIntTileVectors, 2>, int_tile<FORMAT, 3, kIntTileVectors, 2>,
                                 int_tile<FORMAT, 4, kIntTileVectors, 2>,
#endif
  };
  return planes == 2 ? wide[rows - 1] : narrow[rows - 1];
}

// Several panels together are taken to where they belong row by row: rows a power of two apart would drive each other
// out of the caches, panel by panel.
void linear_int(const Matrix& w, const QuantisedRows& x, int rows, int64_t panel, int64_t panel_end, const Epilogue& e,
                float* scratch) {
  float* sums = scratch + kSlab * kPanel;
  const int most = x.planes == 2 ? kWideTileRows : kIntTileRows, tiles = (rows + most - 1) / most;
  const int turns = tiles * (kPanel / kLanes / kIntTileVectors), all = (int)(group_bytes(w.format) / 64);
  const int64_t together = kRowBlock / rows;
  for (; panel < panel_end; panel += together) {
    const int64_t panels = panel_end - panel < together ? panel_end - panel : together;
    for (int64_t p = 0; p < panels; p++) {
      const uint8_t* data = w.data + (panel + p) * w.panel_bytes;
      const uint8_t* ahead = data + w.panel_bytes;  // the next panel is asked for bit by bit, as all tiles go along
      const int lines = panel + p + 1 < w.panels ? (all + turns - 1) / turns : 0;
      for (int first = 0; first < kPanel / kLanes; first += kIntTileVectors)
        for (int t = 0, row = 0; t < tiles; t++) {
          const int height = rows * (t + 1) / tiles - row;
          const IntTile run = w.format == kQ8_0   ? int_tile_of<kQ8_0>(height, x.planes)
                              : w.format == kQ4_0 ? int_tile_of<kQ4_0>(height, x.planes)
                                                  : int_tile_of<kQ4_1>(height, x.planes);
          run(data, ahead, lines, first, x, row, sums + (p * rows + row) * kPanel + first * kLanes);
          ahead += lines * 64 * x.groups;
          row += height;
        }
    }
    Epilogue here = e;
    if (panels == 1) finish(e, sums, rows, panel);
    else
      for (int r = 0; r < rows; r++, here.y += e.ldy)
        for (int64_t p = 0; p < panels; p++) finish(here, sums + (p * rows + r) * kPanel, 1, panel + p);
  }
}

}  // namespace
