// Linears with float inputs: tiles over unpacked slabs, and few rows directly.
#pragma once

namespace {

// c[rows][vectors] = a[rows][k] * b[k][vectors], continuing from c where `more`.
template <int ROWS, int VECTORS>
void tile(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t k, float* c, int64_t ldc, bool more) {
  F sums[ROWS][VECTORS];
  UNROLL for (int r = 0; r < ROWS; r++)
    UNROLL for (int v = 0; v < VECTORS; v++) sums[r][v] = more ? load(c + r * ldc + v * kLanes) : zero();
  for (int64_t i = 0; i < k; i++) {
    F w[VECTORS];
    UNROLL for (int v = 0; v < VECTORS; v++) w[v] = load(b + i * ldb + v * kLanes);
    UNROLL for (int r = 0; r < ROWS; r++) {
      F x = set1(a[r * lda + i]);
      UNROLL for (int v = 0; v < VECTORS; v++) sums[r][v] = fma(x, w[v], sums[r][v]);
    }
  }
  UNROLL for (int r = 0; r < ROWS; r++)
    UNROLL for (int v = 0; v < VECTORS; v++) store(c + r * ldc + v * kLanes, sums[r][v]);
}

using Tile = void (*)(const float*, int64_t, const float*, int64_t, int64_t, float*, int64_t, bool);

template <int VECTORS>
Tile tile_of(int rows) {
  static const Tile tiles[] = {tile<1, VECTORS>, tile<2, VECTORS>, tile<3, VECTORS>, tile<4, VECTORS>,
#if SLIPWAY_TILE_ROWS >= 6
                               tile<5, VECTORS>, tile<6, VECTORS>,
#endif
#if SLIPWAY_TILE_ROWS >= 12
                               tile<7, VECTORS>, tile<8, VECTORS>, tile<9, VECTORS>, tile<10, VECTORS>,
                               tile<11, VECTORS>, tile<12, VECTORS>,
#endif
  };
  return tiles[rows - 1];
}

// Any number of rows, in tiles of about equal height.
void multiply(const float* a, int64_t lda, int rows, const float* b, int64_t ldb, int64_t k, float* c, int64_t ldc,
              int64_t vectors, bool more) {
  int tiles = (rows + kTileRows - 1) / kTileRows;
  for (int64_t v = 0; v < vectors; v += kTileVectors) {
    bool narrow = vectors - v < kTileVectors;
    for (int t = 0, row = 0; t < tiles; t++) {
      int height = rows * (t + 1) / tiles - row;
      Tile run = narrow ? tile_of<1>(height) : tile_of<kTileVectors>(height);
      run(a + row * lda, lda, b + v * kLanes, ldb, k, c + row * ldc + v * kLanes, ldc, more);
      row += height;
    }
  }
}

// Take a panel's sums [rows, 32] to where they belong.
void finish(const Epilogue& e, const float* sums, int rows, int64_t panel) {
  F scale = set1(e.scale);
  F bias[2] = {zero(), zero()};
  if (e.bias)
    for (int v = 0; v < 2; v++) bias[v] = load(e.bias + panel * kPanel + v * kLanes);
  for (int r = 0; r < rows; r++, sums += kPanel) {
    F first = add(load(sums), bias[0]), second = add(load(sums + kLanes), bias[1]);
    if (e.finish == Finish::kSwiGLU || e.finish == Finish::kGeGLU) {
      store(e.y + r * e.ldy + panel * kLanes, mul(gate(first, e.finish), second));
      continue;
    }
    float* y = e.y + r * e.ldy + panel * kPanel;
    if (e.columns && e.columns < (panel + 1) * kPanel) {
      float last[kPanel];
      store(last, mul(first, scale));
      store(last + kLanes, mul(second, scale));
      for (int64_t i = 0; i < e.columns - panel * kPanel; i++) y[i] = last[i];
      continue;
    }
    bool adds = e.finish == Finish::kAdd;
    store(y, fma(first, scale, adds ? load(y) : zero()));
    store(y + kLanes, fma(second, scale, adds ? load(y + kLanes) : zero()));
  }
}

// Few rows: the weights are unpacked in registers and used at once, the same values in the same order as by slabs.
template <Format FORMAT, int ROWS, int PANELS>
void direct(const Matrix& w, int64_t panel, const float* x, int64_t ldx, float* out) {
  constexpr int kVectors = PANELS * 2;
  F sums[ROWS][kVectors];
  UNROLL for (int r = 0; r < ROWS; r++)
    UNROLL for (int v = 0; v < kVectors; v++) sums[r][v] = zero();
  const uint8_t* data[PANELS];
  UNROLL for (int p = 0; p < PANELS; p++) data[p] = w.data + (panel + p) * w.panel_bytes;
  auto use = [&](F weight, int v, int64_t k) __attribute__((always_inline)) {
    UNROLL for (int r = 0; r < ROWS; r++) sums[r][v] = fma(set1(x[r * ldx + k]), weight, sums[r][v]);
  };
  if constexpr (!(FORMAT >= kQ8_0)) {
    for (int64_t k = 0; k < w.k; k++)
      UNROLL for (int v = 0; v < kVectors; v++) {
        const int64_t at = k * kPanel + v % 2 * kLanes;
        if constexpr (FORMAT == kF32) use(load((const float*)data[v / 2] + at), v, k);
        else if constexpr (FORMAT == kF16) use(load_f16(halves(data[v / 2]) + at), v, k);
        else use(load_bf16(halves(data[v / 2]) + at), v, k);
      }
  } else {
    constexpr int kBytes = FORMAT == kQ8_0 ? 64 + 1024 : FORMAT == kQ4_0 ? 64 + 512 : 128 + 512;
    constexpr int kHeader = FORMAT == kQ4_1 ? 128 : 64;
    for (int64_t k = 0; k < w.k; k += kGroup) {
      F scale[kVectors], low[kVectors];
      UNROLL for (int v = 0; v < kVectors; v++) {
        if constexpr (FORMAT == kQ8_0) scale[v] = load_f16(halves(data[v / 2]) + v % 2 * kLanes);
        else nibble_scales(FORMAT, data[v / 2], v % 2, &scale[v], &low[v]);
      }
      if constexpr (FORMAT == kQ8_0) {
        for (int j = 0; j < 8; j++)
          UNROLL for (int v = 0; v < kVectors; v++) {
            Words words = load_words(data[v / 2] + kHeader + j * 128 + v % 2 * 64);
            UNROLL for (int i = 0; i < 4; i++) use(mul(signed_byte(words, i), scale[v]), v, k + 4 * j + i);
          }
      } else {
        for (int high = 0; high < 2; high++)
          for (int j = 0; j < 4; j++)
            UNROLL for (int v = 0; v < kVectors; v++) {
              Words words = load_words(data[v / 2] + kHeader + j * 128 + v % 2 * 64);
              if (high) words = shift_nibble(words);
              UNROLL for (int i = 0; i < 4; i++)
                use(fma(nibble(words, 2 * i), scale[v], low[v]), v, k + 16 * high + 4 * j + i);
            }
      }
      UNROLL for (int p = 0; p < PANELS; p++) data[p] += kBytes;
    }
  }
  UNROLL for (int r = 0; r < ROWS; r++)
    UNROLL for (int v = 0; v < kVectors; v++)
      store(out + (v / 2 * kDirectRows + r) * kPanel + v % 2 * kLanes, sums[r][v]);
}

template <Format...>
struct Formats {};
using AllFormats = Formats<kF32, kF16, kBF16, kQ8_0, kQ4_0, kQ4_1>;
using Direct = void (*)(const Matrix&, int64_t, const float*, int64_t, float*);

template <int PANELS, Format... FORMATS>
Direct direct_of(Format format, int rows, Formats<FORMATS...>) {
  static const Direct kernels[][kDirectRows] = {
#if SLIPWAY_TILE_ROWS >= 12
      {direct<FORMATS, 1, PANELS>, direct<FORMATS, 2, PANELS>, direct<FORMATS, 3, PANELS>, direct<FORMATS, 4, PANELS>}...
#else
      {direct<FORMATS, 1, PANELS>, direct<FORMATS, 2, PANELS>}...
#endif
  };
  return kernels[format][rows - 1];
}

void linear_f32(const Matrix& w, const float* x, int64_t ldx, int rows, int64_t panel, int64_t panel_end,
                const Epilogue& e, float* scratch) {
  float *slab = scratch, *sums = scratch + kSlab * kPanel;
  if (rows <= kDirectRows) {
    while (panel < panel_end) {
      const bool wide = panel_end - panel >= kDirectPanels;
      const Direct run = wide ? direct_of<kDirectPanels>(w.format, rows, AllFormats()) : direct_of<1>(w.format, rows, AllFormats());
      run(w, panel, x, ldx, sums);
      for (int p = 0; p < (wide ? kDirectPanels : 1); p++) finish(e, sums + p * kDirectRows * kPanel, rows, panel++);
    }
    return;
  }
  for (; panel < panel_end; panel++) {
    const uint8_t* data = w.data + panel * w.panel_bytes;
    for (int64_t k0 = 0; k0 < w.k; k0 += kSlab) {
      int64_t k = w.k - k0 < kSlab ? w.k - k0 : kSlab;
      const float* b = unpack(w, data, k0, k, slab);
      multiply(x + k0, ldx, rows, b, kPanel, k, sums, kPanel, kPanel / kLanes, k0 > 0);
    }
    finish(e, sums, rows, panel);
  }
}

}  // namespace
